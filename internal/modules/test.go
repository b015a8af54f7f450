package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// test tests the modules of a tree as if they were published.
func test(ctx context.Context, t *tree) (err error) {
	cache, err := command(ctx, t.dir, nil, "go", "env", "GOMODCACHE")
	if err != nil {
		return err
	}
	s, err := newStage(ctx, t, fileURL(filepath.Join(strings.TrimSpace(cache), "cache", "download")))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()

	changes, err := s.tidy(ctx)
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		var names []string
		for _, c := range changes {
			names = append(names, c.name)
		}
		return fmt.Errorf("not tidy: %s\nrun: go run ./internal/modules tidy", strings.Join(names, ", "))
	}
	for _, m := range t.modules {
		if err := s.testModule(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// testModule builds a copy of a module by itself, and then builds and tests the
// module as a dependency: its files are then in a module cache, and read-only. A
// command is installed as well.
func (s *stage) testModule(ctx context.Context, m *mod) error {
	fmt.Println(m.path + ": build")
	// -mod=mod lets the go command add the sums that tidy leaves out.
	if _, err := s.run(ctx, s.copyDir(m), "build", "-mod=mod", "./..."); err != nil {
		return err
	}

	fmt.Println(m.path + ": get and test")
	dir := filepath.Join(s.dir, "users", filepath.FromSlash(m.path+"@"+s.tree.version))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	all := m.path + "/..."
	for _, args := range [][]string{
		{"mod", "init", "user.example"},
		{"get", m.path + "@" + s.tree.version},
		{"get", "-t", all}, // what its tests need
		{"build", all},
	} {
		if _, err := s.run(ctx, dir, args...); err != nil {
			return err
		}
	}
	if err := s.useModule(ctx, m, dir); err != nil {
		return err
	}
	results, err := s.run(ctx, dir, "test", all)
	if err != nil {
		return err
	}
	fmt.Print(results)
	// A privileged user can write to a read-only directory: did a test?
	if _, err := s.run(ctx, dir, "mod", "verify"); err != nil {
		return err
	}

	if strings.HasPrefix(m.dir, "cmd/") {
		fmt.Println(m.path + ": install")
		if _, err := s.run(ctx, s.dir, "install", m.path+"@"+s.tree.version); err != nil {
			return err
		}
	}
	return nil
}

// useModule runs a program that imports every public package of a module.
func (s *stage) useModule(ctx context.Context, m *mod, dir string) error {
	packages, err := s.publicPackages(ctx, dir, m)
	if err != nil {
		return err
	}
	program := "package main\n\n"
	for _, name := range packages {
		program += fmt.Sprintf("import _ %q\n", name)
	}
	program += "\nfunc main() {}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o644); err != nil {
		return err
	}
	_, err = s.run(ctx, dir, "run", ".")
	return err
}

// publicPackages returns the packages of a module that others can import. One that has
// tests only cannot be imported.
func (s *stage) publicPackages(ctx context.Context, dir string, m *mod) ([]string, error) {
	packages, err := s.run(ctx, dir, "list", "-f", `{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}`, m.path+"/...")
	isInternal := func(name string) bool { return slices.Contains(strings.Split(name, "/"), "internal") }
	return slices.DeleteFunc(strings.Fields(packages), isInternal), err
}
