package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// released returns the modules that a release tags: all but those that only this
// repository uses.
func (t *tree) released() []*mod {
	var all []*mod
	for _, m := range t.modules {
		if m.dir != "internal" && !strings.HasPrefix(m.dir, "internal/") {
			all = append(all, m)
		}
	}
	return all
}

// tagOf returns the tag of a module's version: v0.1.0 for the module in the root, and
// outbox/v0.1.0 for the one in the directory outbox.
func (t *tree) tagOf(m *mod) string { return path.Join(m.dir, t.version) }

// tag tags the current commit with the version of each module, and prints the tags. A
// tag that is at this commit already stays, so that a release that was interrupted can
// be repeated.
func tag(ctx context.Context, t *tree) error {
	if _, err := t.notes(); err != nil {
		return err
	}
	changed, err := t.git(ctx, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return err
	}
	if changed != "" {
		return fmt.Errorf("commit the changes first:\n%s", changed)
	}
	head, err := t.git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	var missing []string
	for _, m := range t.released() {
		tag := t.tagOf(m)
		at, err := t.git(ctx, "for-each-ref", "--format=%(if)%(*objectname)%(then)%(*objectname)%(else)%(objectname)%(end)", "refs/tags/"+tag)
		switch {
		case err != nil:
			return err
		case at == "":
			missing = append(missing, tag)
		case at != head:
			return fmt.Errorf("the tag %s is at another commit: a published version must not change, so raise oakra.Version", tag)
		}
	}
	for _, tag := range missing {
		if _, err := t.git(ctx, "tag", tag, head); err != nil {
			return err
		}
	}
	for _, m := range t.released() {
		fmt.Println(t.tagOf(m))
	}
	return nil
}

// git runs git in the tree, and returns what it prints.
func (t *tree) git(ctx context.Context, args ...string) (string, error) {
	stdout, err := command(ctx, t.dir, nil, "git", args...)
	return strings.TrimSpace(stdout), err
}

// notes returns the section of CHANGELOG.md for the version of the tree. Its heading
// must have a date, which says that the section is complete.
func (t *tree) notes() (string, error) {
	content, err := os.ReadFile(filepath.Join(t.dir, "CHANGELOG.md"))
	if err != nil {
		return "", err
	}
	version := strings.TrimPrefix(t.version, "v")
	for section := range strings.SplitSeq("\n"+string(content), "\n## ") {
		heading, text, _ := strings.Cut(section, "\n")
		name, date, _ := strings.Cut(heading, " ")
		if name != version {
			continue
		}
		if _, err := time.Parse("- "+time.DateOnly, date); err != nil {
			return "", fmt.Errorf("CHANGELOG.md: the heading %q must be %q", "## "+heading, "## "+version+" - YYYY-MM-DD")
		}
		text = strings.TrimSpace(text)
		if text == "" {
			return "", errors.New("CHANGELOG.md says nothing of " + version)
		}
		return text, nil
	}
	return "", fmt.Errorf("CHANGELOG.md has no section %q", "## "+version+" - YYYY-MM-DD")
}
