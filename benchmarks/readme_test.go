package main

import (
	"cmp"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadme checks that both READMEs agree with the data files.
func TestReadme(t *testing.T) {
	var r results
	if err := readJSON(resultsFile, &r); err != nil {
		t.Fatal(err)
	}
	var c comparison
	if err := readJSON(comparisonFile, &c); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(r.blocks(), c.blocks()...) {
		t.Run(b.name, func(t *testing.T) {
			_, text, _, found, err := b.cut(".")
			switch {
			case errors.Is(err, fs.ErrNotExist):
				t.Skip(b.file + " is not there: this module is outside of its repository")
			case err != nil:
				t.Fatal(err)
			case !found:
				t.Skipf("NOT CHECKED: %s has no block %s. It should be:\n%s%s%s", b.file, b.name, b.begin(), b.text, b.end())
			case !b.same(text):
				t.Errorf("%s says in its block %s:\n%s\nbut the data file says:\n%s", b.file, b.name, text, b.text)
			}
		})
	}
}

func TestBlock(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "README.md")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := block{"README.md", "speed", "as fast as\nlight\n"}
	for _, test := range []struct{ before, after, said string }{
		{"# A\n<!-- speed -->\nas fast\nas light\n<!-- /speed -->\nB\n", "", ""},
		{"# A\n<!-- speed -->\nslow\n<!-- /speed -->\nB\n", "# A\n<!-- speed -->\nas fast as\nlight\n<!-- /speed -->\nB\n", "slow"},
		{"# A\n<!-- speed -->\nB\n", "", "has no block speed"},
		{"# A\n", "", "as fast as\nlight"},
	} {
		write(test.before)
		var said strings.Builder
		if err := b.refresh(&said, dir); err != nil {
			t.Fatal(err)
		}
		want := cmp.Or(test.after, test.before)
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%q became %q, want %q; %v", test.before, got, want, err)
		}
		if !strings.Contains(said.String(), test.said) || (test.said == "") != (said.String() == "") {
			t.Errorf("%q: it said %q", test.before, said.String())
		}
	}
}

// TestReadmeText checks that the blocks hold the right numbers.
func TestReadmeText(t *testing.T) {
	c := comparison{Changes: 2000, Faults: faults, Clients: []tally{
		{Client: nameNetHTTP, FailedApplied: 484, DoneNotApplied: 1, Right: 1515, Errors: 1006},
		{Client: nameOakra, Unknown: 792, Right: 1208, Errors: 898},
	}}
	for _, test := range []struct {
		text  string
		parts []string
	}{
		{sample().readme(), []string{"one record over loopback takes 0.12 times", "10,000 records", "100,000 updates", "35 min one at a time", "1.6 s in batches of 500", "0.43 s with 16", "speed-dark.svg", "speed-light.svg", "alt=\"List: time"}},
		{c.readme(), []string{"2,000 changes", "10 faults", "no retries | 0 | 485 | 0 | 1,515 |", "this client, its defaults | 0 | 0 | 792 | 1,208 |", "1,006 changes to look at, instead of 792"}},
	} {
		text := strings.Join(strings.Fields(test.text), " ")
		for _, part := range test.parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not in %s", part, text)
			}
		}
	}
}

// TestOwnReadme checks the commands and the files that README.md of this module names.
func TestOwnReadme(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, line := range regexp.MustCompile("(?m)go run ./benchmarks([^#`\n]*)").FindAllStringSubmatch(string(b), -1) {
		o, err := parse(strings.Fields(line[1]))
		if err != nil && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", line[0], err)
		}
		seen[o.command] = true
	}
	for _, command := range []string{"speed", "compare", "bulk"} {
		if !seen[command] {
			t.Errorf("README.md does not show the command %s", command)
		}
	}
	for _, link := range regexp.MustCompile(`(?:\]\(|src="|srcset=")([\w./-]+)[")]`).FindAllStringSubmatch(string(b), -1) {
		if _, err := os.Stat("../go.work"); err != nil && strings.HasPrefix(link[1], "../") {
			continue // the module is outside of its repository
		}
		if _, err := os.Stat(link[1]); err != nil {
			t.Error(err)
		}
	}
}
