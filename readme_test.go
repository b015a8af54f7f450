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

// TestReadmePrograms compiles every block of Go in README.md: programs as they stand, and
// the functions together, as one package whose test has to pass.
func TestReadmePrograms(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	programs, functions := 0, ""
	for _, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		if !strings.HasPrefix(block[1], "package main") {
			functions += block[1]
			continue
		}
		programs++
		goTool(t, "build", "-o", os.DevNull, source(t, "main.go", block[1]))
	}
	require.Equal(t, 1, programs)

	out := goTool(t, "test", "-v", source(t, "readme_test.go", header(functions)+functions))
	require.Contains(t, out, "--- PASS: TestBookLostResponse")
}

func source(t *testing.T, name, text string) string {
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// header returns the package clause and the imports of functions.
func header(functions string) string {
	text := "package shop\n\n"
	for _, path := range []string{
		"context", "errors", "fmt", "log/slog", "maps", "slices", "testing", "time",
		"github.com/oakra/oakra-go", "github.com/oakra/oakra-go/oakratest",
	} {
		if strings.Contains(functions, strings.TrimSuffix(filepath.Base(path), "-go")+".") {
			text += fmt.Sprintf("import %q\n", path)
		}
	}
	return text
}

// goTool runs the go command with the module of this package as its main module. The test
// may run in a module cache, where no workspace is and nothing can be written: the flags
// make both the same in the repository.
func goTool(t *testing.T, command string, args ...string) string {
	tool := exec.CommandContext(t.Context(), "go", append([]string{command, "-mod=readonly"}, args...)...)
	tool.Env = append(os.Environ(), "GOWORK=off")
	out, err := tool.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}
