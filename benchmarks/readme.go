package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// block is a part of a README that is generated from a data file, between comments such
// as <!-- speed --> and <!-- /speed -->.
type block struct {
	file string // path relative to the directory of this module
	name string
	text string
}

func (b block) begin() string { return "<!-- " + b.name + " -->\n" }
func (b block) end() string   { return "<!-- /" + b.name + " -->" }

// cut returns the file in three parts, of which the second is the block. If the file has
// no such block, found is false.
func (b block) cut(dir string) (before, text, after string, found bool, err error) {
	content, err := os.ReadFile(filepath.Join(dir, b.file))
	if err != nil {
		return "", "", "", false, err
	}
	before, rest, begun := strings.Cut(string(content), b.begin())
	text, after, ended := strings.Cut(rest, b.end())
	return before, text, after, begun && ended, nil
}

// same reports whether text equals that of the block, except for line breaks.
func (b block) same(text string) bool {
	return slices.Equal(strings.Fields(text), strings.Fields(b.text))
}

// refresh writes the block into its file, and prints what it changed. The argument dir
// is the directory of this module.
func (b block) refresh(w io.Writer, dir string) error {
	before, text, after, found, err := b.cut(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist): // this module is outside of its repository
		return nil
	case err != nil:
		return err
	case !found:
		_, err = fmt.Fprintf(w, "\n%s has no block %s. It should be:\n\n%s%s%s\n", b.file, b.name, b.begin(), b.text, b.end())
		return err
	case b.same(text):
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, b.file), []byte(before+b.begin()+b.text+b.end()+after), 0o644); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nThe block %s of %s was\n\n%s\nand is now\n\n%s", b.name, b.file, text, b.text)
	return err
}

// blocks returns the blocks that are generated from the results.
func (r results) blocks() []block {
	var all strings.Builder
	for _, p := range pictures(r) {
		all.WriteString(p.html(picturesDir + "/"))
	}
	return []block{{"../README.md", "speed", r.readme()}, {"README.md", "pictures", all.String()}}
}

// blocks returns the blocks that are generated from the comparison.
func (c comparison) blocks() []block { return []block{{"../README.md", "compare", c.readme()}} }

// readme returns the block about speed.
func (r results) readme() string {
	ratio := func(n int) float64 {
		c, _ := r.of(setup{opList, overLoopback, true, n}, nameOakra)
		return c.Ratio.P50
	}
	seconds := func(concurrency int) string {
		for _, run := range r.Bulk.Runs {
			if run.BatchSize == 500 && run.Concurrency == concurrency {
				return secondsText(run.Seconds)
			}
		}
		return "?"
	}
	many := drawnSizes[len(drawnSizes)-1]
	text := fmt.Sprintf("Listing one record over loopback takes %.2f times as long as with `net/http` and `encoding/json`, "+
		"and listing %s records takes %.2f times as long, since records are decoded as they arrive, by a decoder for just these. "+
		"%s updates against a server that takes %g ms a request and %g µs a record take %s one at a time, "+
		"%s in batches of 500 with 4 in flight, which is the default, and %s with 16 in flight. "+
		"The picture shows [the data](benchmarks/%s) of one run; [`benchmarks`](benchmarks) has the other pictures, and says how all this was measured.",
		ratio(1), thousands(many), ratio(many),
		thousands(r.Bulk.Updates), r.Bulk.LatencyMS, r.Bulk.RecordUS, secondsText(r.Bulk.OneByOne.Seconds),
		seconds(4), seconds(16), resultsFile)
	return wrap(text) + "\n" + pictures(r)[0].html("benchmarks/"+picturesDir+"/")
}

// html returns the element that shows a picture whose files are in dir.
func (p picture) html(dir string) string {
	light, dark := themes[0], themes[1]
	return fmt.Sprintf("<picture>\n  <source media=\"(prefers-color-scheme: dark)\" srcset=\"%s\">\n  <img src=\"%s\" width=\"%d\" alt=\"%s\">\n</picture>\n",
		dir+p.file(dark), dir+p.file(light), width, html.EscapeString(p.alt()))
}

// readme returns the block about the storm.
func (c comparison) readme() string {
	var b strings.Builder
	b.WriteString(wrap(fmt.Sprintf("%s changes, each made once, through a gateway that lets half of all requests pass. "+
		"The others meet one of %d faults, each equally often: the connection is refused or reset, the response is lost, cut or late, "+
		"or its status is 400, 429, 502 or 503. Every client meets the same faults. What each said about its changes, beside what the server had applied:",
		thousands(c.Changes), len(c.Faults))))
	b.WriteString("\n| client | applied twice or more | reported wrong | reported unknown | reported right |\n|---|--:|--:|--:|--:|\n")
	failed := make(map[string]int)
	for _, t := range c.Clients {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", settings[t.Client], thousands(t.Doubled),
			thousands(t.FailedApplied+t.DoneNotApplied), thousands(t.Unknown), thousands(t.Right))
		failed[t.Client] = t.Errors
	}
	own := c.Clients[slices.IndexFunc(c.Clients, func(t tally) bool { return t.Client == nameOakra })]
	b.WriteString("\n" + wrap(fmt.Sprintf("An error of the others is taken to say that the change failed, and is wrong if it was applied. Taking every error of `net/http` "+
		"for an unknown outcome leaves %s changes to look at, instead of %s. "+
		"Reading the record settles an unknown outcome if nobody else sells; the [outbox](outbox) settles those of the changes that go through it. The table is [the data](benchmarks/%s) of one run, `go run ./benchmarks compare`.",
		thousands(failed[nameNetHTTP]), thousands(own.Unknown), comparisonFile)))
	return b.String()
}

// settings describes how each client of the storm is configured.
var settings = map[string]string{
	nameNetHTTP:       "`net/http`, no retries",
	nameBackoff:       "`net/http` in a loop of `cenkalti/backoff`, 5 tries",
	nameResty:         "`resty`, 3 retries of errors, 429 and 5xx",
	nameRetryable:     "`go-retryablehttp`, its defaults",
	nameRetryableOnce: "`go-retryablehttp`, `POST` never retried",
	nameOakra:         "this client, its defaults",
}

// wrap breaks a paragraph into lines.
func wrap(text string) string {
	var b strings.Builder
	length := 0
	for _, word := range strings.Fields(text) {
		switch {
		case length == 0:
		case length+1+len(word) > 88:
			b.WriteByte('\n')
			length = 0
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += len(word)
	}
	b.WriteByte('\n')
	return b.String()
}
