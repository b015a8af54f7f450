package oakra_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestReadmeProgramsCompile compiles the program that README shows as it stands there,
// and its functions with what they import.
func TestReadmeProgramsCompile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	programs := 0
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		program := block[1]
		switch {
		case strings.HasPrefix(program, "func "):
			header := "package shop\n\nimport \"github.com/oakra/oakra-go\"\n"
			for _, name := range []string{"context", "errors", "fmt", "maps", "slices"} {
				if strings.Contains(program, name+".") {
					header += fmt.Sprintf("import %q\n", name)
				}
			}
			program = header + program
		case !strings.HasPrefix(program, "package main"):
			continue
		}
		programs++
		file := filepath.Join(t.TempDir(), "main.go")
		require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
		// The test may run in a module cache, where no workspace is and nothing can be
		// written: the flags make both the same in the repository.
		build := exec.CommandContext(t.Context(), "go", "build", "-mod=readonly", "-o", os.DevNull, file)
		build.Env = append(os.Environ(), "GOWORK=off")
		out, err := build.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	require.Equal(t, 3, programs)
}
