package main

import (
	"fmt"
	"go/version"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// A tree is the modules at and below a directory.
type tree struct {
	dir     string
	path    string   // path of the module at dir
	version string   // version of all modules
	modules []*mod   // each after the modules that it requires
	works   []string // slash-separated directories of the go.work files
}

// A mod is one module of a tree.
type mod struct {
	path string // module path
	dir  string // slash-separated directory below the tree's
	file *modfile.File
}

// load reads the go.mod files of a tree, and refuses what go install refuses.
func load(dir, version string) (*tree, error) {
	t := &tree{dir: dir, version: version}
	found := map[string]*mod{} // by module path
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		switch base := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && name != dir && (base == "testdata" || base == "vendor" || base[0] == '.' || base[0] == '_'):
			return fs.SkipDir
		case base == "go.work":
			return t.addWork(name)
		case base != "go.mod":
			return nil
		}
		m, err := t.read(name)
		if err != nil {
			return err
		}
		if needsNewer(m.file.Go) {
			fmt.Printf("LEFT OUT: %s, which needs Go %s\n", m.path, m.file.Go.Version)
			return nil
		}
		found[m.path] = m
		if m.dir == "." {
			t.path = m.path
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if t.path == "" {
		return nil, fmt.Errorf("no go.mod in %s: run this command in the root of the repository", dir)
	}

	seen := map[*mod]bool{}
	var visit func(m *mod)
	visit = func(m *mod) {
		if m == nil || seen[m] {
			return
		}
		seen[m] = true
		for _, r := range m.file.Require {
			visit(found[r.Mod.Path])
		}
		t.modules = append(t.modules, m)
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		// A version of a module is a tag that begins with the module's directory.
		m := found[name]
		if want := path.Join(t.path, m.dir); m.path != want {
			return nil, fmt.Errorf("%s/go.mod: the module's path is %s, and must be %s", m.dir, m.path, want)
		}
		visit(m)
	}
	return t, nil
}

func (t *tree) read(name string) (*mod, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file, err := modfile.Parse(name, content, nil)
	if err != nil {
		return nil, err
	}
	if len(file.Replace)+len(file.Exclude) > 0 {
		return nil, fmt.Errorf("%s: go install refuses a module with a replace or exclude directive", name)
	}
	dir, err := filepath.Rel(t.dir, filepath.Dir(name))
	return &mod{file.Module.Mod.Path, filepath.ToSlash(dir), file}, err
}

// addWork adds the directory of a go.work file.
func (t *tree) addWork(name string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	file, err := modfile.ParseWork(name, content, nil)
	if err != nil || needsNewer(file.Go) {
		return err
	}
	dir, err := filepath.Rel(t.dir, filepath.Dir(name))
	t.works = append(t.works, filepath.ToSlash(dir))
	return err
}

// needsNewer reports whether a go directive asks for a newer Go than the one that runs
// this program, which perhaps may not fetch another.
func needsNewer(directive *modfile.Go) bool {
	running, _, _ := strings.Cut(runtime.Version(), " ")
	return directive != nil && version.Compare("go"+directive.Version, running) > 0
}

// module returns the module of a path, or nil if it is not of the tree.
func (t *tree) module(path string) *mod {
	for _, m := range t.modules {
		if m.path == path {
			return m
		}
	}
	return nil
}

// file returns the name of a file of a module.
func (t *tree) file(m *mod, name string) string {
	return filepath.Join(t.dir, filepath.FromSlash(m.dir), name)
}
