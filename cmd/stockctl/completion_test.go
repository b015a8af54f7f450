package main

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	s := newSession(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		stdout, _ := s.run(exitOK, "completion", shell)
		contains(t, stdout, "--dry-run", "check", "--reason", "--version")
	}
	s.run(exitError, "completion", "tcsh")

	bash, err := exec.LookPath("bash")
	if err != nil || runtime.GOOS == "windows" { // where it may start another system
		t.Skip("no bash here")
	}
	script, _ := s.run(exitOK, "completion", "bash")
	for line, want := range map[string]string{
		"ch":            "change check",
		"sync --dr":     "--dry-run",
		"sale canc":     "cancel",
		"list --loc":    "--location",
		"update --base": "--base-url",
	} {
		words := strings.Fields("stockctl " + line)
		command := exec.CommandContext(t.Context(), bash, append([]string{"-c", script + `COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stockctl; echo "${COMPREPLY[*]}"`, "bash"}, words...)...)
		got, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, got)
		}
		equal(t, line, string(got), want+"\n")
	}
}
