package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/mod/semver"
)

// gorelease compares the API of a module with that of an earlier version.
const gorelease = "golang.org/x/exp/cmd/gorelease@v0.0.0-20261113113407-e3970619a1a4"

// api compares the API of each library with that of its last release, and fails if
// semantic versioning does not allow the difference: below 1.0 it allows all.
func api(ctx context.Context, out io.Writer, t *tree, sources ...string) (err error) {
	bases := map[*mod]string{}
	for _, m := range t.modules {
		base, err := t.lastRelease(ctx, m)
		if err != nil {
			return err
		}
		if base != "" {
			bases[m] = base
		}
	}
	if len(bases) == 0 {
		fmt.Fprintln(out, "SKIPPED: no version has been released, so there is no API to compare with")
		return nil
	}
	root := bases[t.module(t.path)]
	proposed := semver.Compare(t.version, root) > 0
	if !proposed {
		t.version = root + "-next" // the released version itself comes from the module proxy
	}
	s, err := newStage(ctx, t, sources...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	if _, err := s.tidy(ctx); err != nil {
		return err
	}
	for _, m := range t.modules {
		if err := s.hide(m); err != nil { // gorelease compares with the newest version in the list
			return err
		}
		// It also requires the sums that tidy leaves out.
		if _, err := s.run(ctx, s.copyDir(m), "mod", "tidy"); err != nil {
			return err
		}
		packages, err := s.publicPackages(ctx, s.copyDir(m), m)
		switch {
		case err != nil:
			return err
		case len(packages) == 0: // a command
			continue
		case bases[m] == "":
			fmt.Fprintln(out, "SKIPPED:", m.path, "has not been released")
			continue
		}
		args := []string{"run", gorelease, "-base=" + bases[m]}
		if proposed {
			args = append(args, "-version="+t.version)
		}
		fmt.Fprintf(out, "%s: compare with %s\n", m.path, bases[m])
		report, err := s.run(ctx, s.copyDir(m), args...)
		if err != nil {
			return err
		}
		fmt.Fprint(out, report)
	}
	return nil
}

// lastRelease returns the newest version of a module that the current commit contains,
// or "" if there is none.
func (t *tree) lastRelease(ctx context.Context, m *mod) (string, error) {
	prefix := strings.TrimPrefix(m.dir+"/", "./")
	tags, err := t.git(ctx, "tag", "--list", "--merged", "HEAD", path.Join(m.dir, "v*"))
	if err != nil {
		return "", err
	}
	last := ""
	for tag := range strings.FieldsSeq(tags) {
		// Tags that are not versions compare as the empty string.
		if version := strings.TrimPrefix(tag, prefix); semver.Compare(version, last) > 0 {
			last = version
		}
	}
	return last, nil
}
