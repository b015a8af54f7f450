package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// tidy tidies all modules of a tree.
func tidy(ctx context.Context, t *tree) (err error) {
	// A missing requirement is added at its newest version, which the caller's
	// module cache may not have: it is not among the sources here.
	s, err := newStage(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	changes, err := s.tidy(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := os.WriteFile(c.name, c.content, 0o644); err != nil {
			return err
		}
		fmt.Println("wrote", c.name)
	}
	return nil
}

// A change is the content that a file of the tree should have, and does not have.
type change struct {
	name    string
	content []byte
}

// tidy tidies a copy of each module, publishes it, and returns what should change in
// the tree.
func (s *stage) tidy(ctx context.Context) ([]change, error) {
	var changes []change
	compare := func(name string, want []byte) error {
		have, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !bytes.Equal(have, want) {
			changes = append(changes, change{name, want})
		}
		return nil
	}
	for _, m := range s.tree.modules {
		fmt.Println(m.path + ": go mod tidy")
		goMod, goSum, err := s.tidyModule(ctx, m)
		if err != nil {
			return nil, err
		}
		if err := compare(s.tree.file(m, "go.mod"), goMod); err != nil {
			return nil, err
		}
		if err := compare(s.tree.file(m, "go.sum"), goSum); err != nil {
			return nil, err
		}
	}
	for _, dir := range s.tree.works {
		content, err := s.tree.work(dir)
		if err != nil {
			return nil, err
		}
		if err := compare(s.tree.workFile(dir), content); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// tidyModule tidies a copy of a module, publishes it, and returns its go.mod and
// go.sum.
func (s *stage) tidyModule(ctx context.Context, m *mod) (goMod, goSum []byte, err error) {
	if err := s.copy(m); err != nil {
		return nil, nil, err
	}
	dir := s.copyDir(m)
	for _, r := range m.file.Require {
		if s.tree.module(r.Mod.Path) != nil {
			if err := m.file.AddRequire(r.Mod.Path, s.tree.version); err != nil {
				return nil, nil, err
			}
		}
	}
	content, err := m.file.Format()
	if err != nil {
		return nil, nil, err
	}
	modName, sumName := filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")
	if err := os.WriteFile(modName, content, 0o644); err != nil {
		return nil, nil, err
	}
	if _, err := s.tree.dropSums(sumName); err != nil {
		return nil, nil, err
	}
	if _, err := s.run(ctx, dir, "mod", "tidy"); err != nil {
		return nil, nil, err
	}
	if goMod, err = os.ReadFile(modName); err != nil {
		return nil, nil, err
	}
	if m.file, err = modfile.Parse(modName, goMod, nil); err != nil {
		return nil, nil, err
	}
	if goSum, err = s.tree.dropSums(sumName); err != nil {
		return nil, nil, err
	}
	return goMod, goSum, s.publish(m)
}

// dropSums removes the sums of the tree's modules from a go.sum file, and returns
// what is left. Such a sum changes with each commit until the release, and nothing
// needs it: with go.work a sibling is a directory, and go get and go install ignore
// the go.sum of what they fetch.
func (t *tree) dropSums(name string) ([]byte, error) {
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var kept []byte
	for line := range bytes.Lines(content) {
		if path, _, _ := strings.Cut(string(line), " "); t.module(path) == nil {
			kept = append(kept, line...)
		}
	}
	return kept, os.WriteFile(name, kept, 0o644)
}

// work returns the content that the go.work file in a directory should have. Even in a
// workspace the go command reads the go.mod file of each version that is required, and
// only a replace directive tells it that the directory of a sibling has that version.
func (t *tree) work(dir string) ([]byte, error) {
	name := t.workFile(dir)
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file, err := modfile.ParseWork(name, content, nil)
	if err != nil {
		return nil, err
	}
	uses := map[string]bool{} // directories of the workspace
	for _, use := range file.Use {
		uses[path.Join(dir, use.Path)] = true
	}
	required := map[*mod]bool{}
	for _, m := range t.modules {
		if !uses[m.dir] {
			continue
		}
		for _, r := range m.file.Require {
			if sibling := t.module(r.Mod.Path); sibling != nil {
				required[sibling] = true
			}
		}
	}
	for _, m := range t.modules {
		if required[m] {
			to, err := filepath.Rel(filepath.FromSlash(dir), filepath.FromSlash(m.dir))
			if err != nil {
				return nil, err
			}
			if to = filepath.ToSlash(to); !strings.HasPrefix(to, "..") {
				to = "./" + strings.TrimPrefix(to, ".")
			}
			if err := file.AddReplace(m.path, t.version, to, ""); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range file.Replace {
		if m := t.module(r.Old.Path); m == nil || !required[m] || r.Old.Version != t.version {
			if err := file.DropReplace(r.Old.Path, r.Old.Version); err != nil {
				return nil, err
			}
		}
	}
	file.Cleanup()
	return modfile.Format(file.Syntax), nil
}

func (t *tree) workFile(dir string) string {
	return filepath.Join(t.dir, filepath.FromSlash(dir), "go.work")
}
