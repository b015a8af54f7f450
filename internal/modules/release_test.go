package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const changelog = "# Changelog\n\n## 0.2.0 - 2026-12-01\n\n### Added\n\n- `Greeting`.\n\n## 0.1.0 - 2026-11-01\n\n- The start.\n"

func TestNotes(t *testing.T) {
	tests := []struct{ name, changelog, want, problem string }{
		{"newest", changelog, "### Added\n\n- `Greeting`.", ""},
		{"last", strings.Replace(changelog, "## 0.2.0", "## 0.3.0", 1) + "\n## 0.2.0 - 2026-10-01\n- Oldest.\n", "- Oldest.", ""},
		{"missing", strings.Replace(changelog, "0.2.0", "0.2.0-rc.1", 1), "", "no section"},
		{"no date", strings.Replace(changelog, "- 2026-12-01", "(not yet released)", 1), "", `"## 0.2.0 (not yet released)" must be "## 0.2.0 - YYYY-MM-DD"`},
		{"no such date", strings.Replace(changelog, "12-01", "13-01", 1), "", "must be"},
		{"empty", "## 0.2.0 - 2026-12-01\n\n## 0.1.0 - 2026-11-01\n\n- The start.\n", "", "says nothing of 0.2.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr, err := load(write(t, map[string]string{"CHANGELOG.md": tt.changelog}), "v0.2.0")
			if err != nil {
				t.Fatal(err)
			}
			got, err := tr.notes()
			if got != tt.want || (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("%q, %v; want %q, %q", got, err, tt.want, tt.problem)
			}
		})
	}
}

// writeRepository writes a small repository and commits it.
func writeRepository(t *testing.T, version string) *tree {
	t.Helper()
	dir := write(t, map[string]string{
		"CHANGELOG.md":        changelog,
		"internal/own/go.mod": "module example.com/lib/internal/own\n\ngo 1.25.0\n",
		"internal/own/own.go": "package main\n\nfunc main() {}\n",
	})
	t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
	for _, kind := range []string{"AUTHOR", "COMMITTER"} {
		t.Setenv("GIT_"+kind+"_NAME", "test")
		t.Setenv("GIT_"+kind+"_EMAIL", "test@example.com")
	}
	tr, err := load(dir, version)
	if err != nil {
		t.Fatal(err)
	}
	git(t, tr, "init", "--quiet")
	commit(t, tr)
	return tr
}

func git(t *testing.T, tr *tree, args ...string) string {
	t.Helper()
	out, err := tr.git(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func commit(t *testing.T, tr *tree) {
	t.Helper()
	git(t, tr, "add", "--all")
	git(t, tr, "commit", "--quiet", "--allow-empty", "--message", "change")
}

func TestTag(t *testing.T) {
	tr := writeRepository(t, "v0.2.0")
	const want = "cmd/say/v0.2.0\nv0.2.0"
	git(t, tr, "tag", "--annotate", "--message", "by hand", "v0.2.0")
	for range 2 { // the second time nothing is left to do
		if err := tag(t.Context(), tr); err != nil {
			t.Fatal(err)
		}
		if got := git(t, tr, "tag", "--points-at", "HEAD"); got != want {
			t.Fatalf("tags %q, want %q", got, want)
		}
	}

	git(t, tr, "tag", "--delete", "cmd/say/v0.2.0")
	commit(t, tr)
	if err := tag(t.Context(), tr); err == nil || !strings.Contains(err.Error(), "v0.2.0 is at another commit") {
		t.Error(err)
	}
	if got := git(t, tr, "tag", "--points-at", "HEAD"); got != "" {
		t.Errorf("a refused release made the tags %q", got)
	}

	tr.version = "v0.1.0"
	if err := os.WriteFile(filepath.Join(tr.dir, "lib.go"), []byte("package lib\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tag(t.Context(), tr); err == nil || !strings.Contains(err.Error(), "commit the changes first:\nM lib.go") {
		t.Error(err)
	}
	tr.version = "v0.3.0"
	if err := tag(t.Context(), tr); err == nil || !strings.Contains(err.Error(), "CHANGELOG.md has no section") {
		t.Error(err)
	}
}

func TestLastRelease(t *testing.T) {
	tr := writeRepository(t, "v0.2.0")
	lib, say := tr.module("example.com/lib"), tr.module("example.com/lib/cmd/say")
	check := func(m *mod, want string) {
		t.Helper()
		if got, err := tr.lastRelease(t.Context(), m); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", m.path, got, err, want)
		}
	}
	check(lib, "")
	for _, name := range []string{"v0.9.0", "v0.10.0", "v0.2.0-rc.1", "vnext", "very/v9.0.0", "cmd/say/v0.3.0", "cmd/v0.20.0"} {
		git(t, tr, "tag", name)
	}
	check(lib, "v0.10.0")
	check(say, "v0.3.0")

	git(t, tr, "checkout", "--quiet", "-b", "other")
	commit(t, tr)
	git(t, tr, "tag", "v1.0.0")
	git(t, tr, "checkout", "--quiet", "-")
	check(lib, "v0.10.0")
}

// fakeGorelease returns a module proxy whose gorelease prints its arguments, and fails
// if one of them is -version=v0.4.0.
func fakeGorelease(t *testing.T) string {
	t.Helper()
	name, version, _ := strings.Cut(gorelease, "@")
	const module = "golang.org/x/exp"
	t.Setenv("GONOSUMDB", module)
	tr, err := load(writeFiles(t, map[string]string{
		"go.mod": "module " + module + "\n\ngo 1.25.0\n",
		strings.TrimPrefix(name, module+"/") + "/main.go": `package main

import (
	"fmt"
	"os"
	"slices"
)

func main() {
	fmt.Println("gorelease", os.Args[1:])
	if slices.Contains(os.Args, "-version=v0.4.0") {
		os.Exit(1)
	}
}
`,
	}), version)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStage(t.Context(), tr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close(context.Background()) })
	if _, _, err := s.tidyModule(t.Context(), tr.modules[0]); err != nil {
		t.Fatal(err)
	}
	return fileURL(s.proxy)
}

func TestAPI(t *testing.T) {
	const skipped = "SKIPPED: no version has been released"
	tests := []struct {
		name, tag, version, want, problem string
	}{
		{"no release", "", "v0.2.0", skipped, ""},
		{"no release of the root", "cmd/say/v0.1.0", "v0.2.0", "SKIPPED: example.com/lib has not been released", ""},
		{"next version", "v0.1.0", "v0.2.0", "example.com/lib: compare with v0.1.0\ngorelease [-base=v0.1.0 -version=v0.2.0]\n", ""},
		{"since the release", "v0.2.0", "v0.2.0", "example.com/lib: compare with v0.2.0\ngorelease [-base=v0.2.0]\n", ""},
		{"version that does not fit", "v0.3.0", "v0.4.0", "", "gorelease [-base=v0.3.0 -version=v0.4.0]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr := writeRepository(t, tt.version)
			if tt.tag != "" {
				git(t, tr, "tag", tt.tag)
			}
			var out strings.Builder
			err := api(t.Context(), &out, tr, fakeGorelease(t))
			if (err == nil) != (tt.problem == "") || err != nil && !strings.Contains(err.Error(), tt.problem) {
				t.Fatalf("%v; want %q in it", err, tt.problem)
			}
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("%q; want %q in it", out.String(), tt.want)
			}
			if strings.Contains(out.String(), "cmd/say: compare") {
				t.Error("a command has no API:", out.String())
			}
		})
	}
}

// Dependabot does not find modules by itself.
func TestDependabotKnowsAllModules(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", ".github", "dependabot.yml"))
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("its configuration is in the repository only")
	}
	if err != nil {
		t.Fatal(err)
	}
	tr, err := load(filepath.Join("..", ".."), "v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range tr.modules {
		line := "\n      - " + path.Join("/", m.dir) + "\n"
		if !strings.Contains(string(content), line) {
			t.Errorf("add to dependabot.yml:%s", line)
		}
	}
}
