package main

import (
	archivezip "archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// A stage is a temporary directory in which the modules of a tree are as if they
// were published.
type stage struct {
	tree  *tree
	dir   string
	proxy string   // file proxy of the modules published so far
	env   []string // environment of the go command
}

// newStage makes a stage. Modules of others come from the caller's proxies, after
// those in sources.
func newStage(ctx context.Context, t *tree, sources ...string) (*stage, error) {
	dir, err := os.MkdirTemp("", "oakra-modules-")
	if err != nil {
		return nil, err
	}
	s := &stage{tree: t, dir: dir, proxy: filepath.Join(dir, "proxy")}
	caller, err := command(ctx, dir, nil, "go", "env", "GOPROXY", "GONOSUMDB")
	if err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	values := strings.Split(caller, "\n")
	sources = append([]string{fileURL(s.proxy)}, sources...)
	s.env = append(os.Environ(),
		"GOWORK=off",
		"GOBIN="+filepath.Join(dir, "bin"),
		"GOMODCACHE="+filepath.Join(dir, "cache"),
		"GOPROXY="+strings.Join(append(sources, values[0]), ","),
		"GOPRIVATE=", "GONOPROXY=", // what these match bypasses the proxy
		"GONOSUMDB="+t.path+","+values[1]) // what is not published has no public sum
	return s, nil
}

// close deletes the stage. A module cache is read-only: only the go command deletes
// it easily.
func (s *stage) close(ctx context.Context) error {
	var err error
	if s.env != nil {
		_, err = s.run(context.WithoutCancel(ctx), s.dir, "clean", "-modcache")
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func fileURL(dir string) string {
	dir = filepath.ToSlash(dir)
	if !strings.HasPrefix(dir, "/") {
		dir = "/" + dir // a drive letter
	}
	return "file://" + dir
}

// run runs the go command in a directory, and returns what it prints.
func (s *stage) run(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, dir, s.env, "go", args...)
}

// command runs a program in a directory, and returns what it prints.
func command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String(), nil
}

// copyDir returns the directory of the copy of a module.
func (s *stage) copyDir(m *mod) string {
	return filepath.Join(s.dir, "copies", filepath.FromSlash(m.path+"@"+s.tree.version))
}

// copy copies the files that the published version of a module has.
func (s *stage) copy(m *mod) error {
	version := module.Version{Path: m.path, Version: s.tree.version}
	var content bytes.Buffer
	if err := zip.CreateFromDir(&content, version, s.tree.file(m, "")); err != nil {
		return err
	}
	archive, err := archivezip.NewReader(bytes.NewReader(content.Bytes()), int64(content.Len()))
	if err != nil {
		return err
	}
	files, err := fs.Sub(archive, version.String())
	if err != nil {
		return err
	}
	if err := os.CopyFS(s.copyDir(m), files); err != nil {
		return err
	}
	// In a worktree .git is a file, which the zip does not leave out.
	return os.RemoveAll(filepath.Join(s.copyDir(m), ".git"))
}

// publish adds the copy of a module to the proxy, in the layout of the GOPROXY
// protocol.
func (s *stage) publish(m *mod) error {
	dir := s.copyDir(m)
	version := module.Version{Path: m.path, Version: s.tree.version}
	to, err := s.proxyDir(m)
	if err != nil {
		return err
	}
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	var content bytes.Buffer
	if err := zip.CreateFromDir(&content, version, dir); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"list":                   []byte(s.tree.version + "\n"),
		s.tree.version + ".info": fmt.Appendf(nil, "{%q: %q}", "Version", s.tree.version),
		s.tree.version + ".mod":  goMod,
		s.tree.version + ".zip":  content.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(to, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// proxyDir returns the directory of the versions of a module in the proxy.
func (s *stage) proxyDir(m *mod) (string, error) {
	escaped, err := module.EscapePath(m.path)
	return filepath.Join(s.proxy, filepath.FromSlash(escaped), "@v"), err
}

// hide leaves the staged version of a module out of the list of its versions.
func (s *stage) hide(m *mod) error {
	dir, err := s.proxyDir(m)
	if err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, "list"))
}
