package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program that the README of the outbox shows is built and run as it stands there,
// twice, and its test is run. They are tested here, since this module has the driver.
func TestOutboxReadmeProgram(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "outbox", "README.md"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the README of the outbox is in the repository only")
	}
	require.NoError(t, err)
	programs := regexp.MustCompile("(?s)```go\n(package main\n.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, programs, 1)
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program.exe")
	require.NoError(t, os.WriteFile(source, []byte(programs[0][1]), 0o600))
	tests := regexp.MustCompile("(?s)```go\n(// main_test.go\n.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.Len(t, tests, 1)
	testSource := filepath.Join(dir, "main_test.go")
	require.NoError(t, os.WriteFile(testSource, []byte(tests[0][1]), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for range 2 {
		run := exec.CommandContext(t.Context(), program)
		run.Dir = dir
		run.Env = []string{"TMP=" + dir, "SystemRoot=" + os.Getenv("SystemRoot")} // no app key
		out, err := run.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, "order-1001/1 applied\n", string(out))
	}
	out, err = exec.CommandContext(t.Context(), "go", "test", source, testSource).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
