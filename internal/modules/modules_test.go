package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// files is a small repository: a library, and a command that is a module of its own.
var files = map[string]string{
	"go.mod":          "module example.com/lib\n\ngo 1.25.0\n",
	"lib.go":          "package lib\n\nconst Greeting = \"hello\"\n",
	"lib_test.go":     "package lib\n\nimport \"testing\"\n\nfunc TestLib(t *testing.T) {}\n",
	"internal/in.go":  "package internal\n",
	"cmd/say/go.mod":  "module example.com/lib/cmd/say\n\ngo 1.25.0\n\nrequire example.com/lib v0.2.0\n",
	"cmd/say/main.go": "package main\n\nimport \"example.com/lib\"\n\nfunc main() { println(lib.Greeting) }\n",
	"go.work":         "go 1.25.0\n\nuse (\n\t.\n\t./cmd/say\n)\n\nreplace example.com/lib v0.2.0 => ./\n",
}

// write writes a small repository, some of whose files differ, and returns its
// directory.
func write(t *testing.T, others map[string]string) string {
	all := maps.Clone(files)
	maps.Copy(all, others)
	return writeFiles(t, all)
}

func writeFiles(t *testing.T, all map[string]string) string {
	t.Setenv("GOPROXY", "off") // no other modules are needed
	dir := t.TempDir()
	for name, content := range all {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTidy(t *testing.T) {
	alone := "go 1.25.0\n\nuse (\n\t.\n\t../..\n)\n\nreplace example.com/lib v0.2.0 => ../..\n" // a workspace below
	older := strings.NewReplacer("v0.2.0", "v0.1.0")
	dir := write(t, map[string]string{
		"cmd/say/go.mod": older.Replace(files["cmd/say/go.mod"]),
		"cmd/say/go.sum": "example.com/lib v0.1.0 h1:2ahOZ2ivV8LCZaRNaGCm7XhGTTHlIDJWJwKDWAXKdYE=\n" +
			"example.com/lib v0.2.0 h1:2ahOZ2ivV8LCZaRNaGCm7XhGTTHlIDJWJwKDWAXKdYE=\n",
		"go.work":         older.Replace(files["go.work"]),
		"cmd/say/go.work": older.Replace(alone),
	})
	tr, err := load(dir, "v0.2.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := tidy(t.Context(), tr); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"go.mod":          files["go.mod"],
		"cmd/say/go.mod":  files["cmd/say/go.mod"],
		"cmd/say/go.sum":  "",
		"go.work":         files["go.work"],
		"cmd/say/go.work": alone,
	} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(have) != want {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, have, want)
		}
	}
}

func TestTest(t *testing.T) {
	tests := []struct {
		name    string
		others  map[string]string
		problem string
	}{
		{"all is well", nil, ""},
		{"newer Go", map[string]string{
			"new/go.mod":  "module example.com/lib/new\n\ngo 1.999\n\nrequire example.com/lib v0.2.0\n",
			"new/go.work": "go 1.999\n\nuse (\n\t.\n\t..\n)\n",
		}, ""},
		{"replace", map[string]string{"cmd/say/go.mod": files["cmd/say/go.mod"] + "\nreplace example.com/lib => ../..\n"},
			"go install refuses"},
		{"module path", map[string]string{"cmd/say/go.mod": strings.Replace(files["cmd/say/go.mod"], "lib/cmd/say", "lib/say", 1)},
			"must be example.com/lib/cmd/say"},
		{"other version", map[string]string{"cmd/say/go.mod": strings.Replace(files["cmd/say/go.mod"], "v0.2.0", "v0.1.0", 1)},
			"not tidy"},
		{"sum of a sibling", map[string]string{"cmd/say/go.sum": "example.com/lib v0.2.0 h1:2ahOZ2ivV8LCZaRNaGCm7XhGTTHlIDJWJwKDWAXKdYE=\n"},
			"not tidy"},
		{"workspace", map[string]string{"go.work": "go 1.25.0\n\nuse (\n\t.\n\t./cmd/say\n)\n"},
			"not tidy"},
		{"package that no module has", map[string]string{"cmd/say/main.go": "package main\n\nimport _ \"example.com/lib/nowhere\"\n\nfunc main() {}\n"},
			"example.com/lib/nowhere"},
		{"package that panics when imported", map[string]string{"more/more.go": "package more\n\nfunc init() { panic(\"early\") }\n"},
			"panic: early"},
		{"command that is no program", map[string]string{"cmd/say/main.go": "package say\n\nimport _ \"example.com/lib\"\n"},
			"not a main package"},
		{"test fails outside of the repository", map[string]string{"cmd/say/main_test.go": "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\n" +
			"func TestSay(t *testing.T) {\n\tif _, err := os.Stat(\"../../lib.go\"); err != nil {\n\t\tt.Fatal(err)\n\t}\n}\n"},
			"FAIL: TestSay"},
		{"test writes to its directory", map[string]string{"lib_test.go": "package lib\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\n" +
			"func TestLib(t *testing.T) {\n\tif err := os.WriteFile(\"new.txt\", nil, 0o644); err != nil {\n\t\tt.Fatal(err)\n\t}\n}\n"},
			"example.com/lib"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tr, err := load(write(t, tt.others), "v0.2.0")
			if err == nil {
				err = test(t.Context(), tr)
			}
			switch {
			case tt.problem == "" && err != nil:
				t.Fatal(err)
			case tt.problem != "" && (err == nil || !strings.Contains(err.Error(), tt.problem)):
				t.Fatalf("%v; want %q in it", err, tt.problem)
			}
		})
	}
}
