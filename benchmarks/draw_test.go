package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample returns results with every kind of value that is printed or drawn.
func sample() results {
	r := results{Machine: machine{"linux", "amd64", 2, "go1.26"}, Versions: map[string]string{nameResty: "v2"}, Pairs: 25}
	for _, transport := range []string{overMemory, overLoopback} {
		for _, op := range []string{opList, opUpdate} {
			for _, n := range drawnSizes {
				s := timedSetup{setup: setup{op, transport, true, n}, Pairs: 25}
				for _, name := range append(slices.Clone(drawnClients), nameNetHTTP) {
					s.Clients = append(s.Clients, timed{Client: name, Nanos: 1e4, Ratio: spread{0.9, 1, 1.1}, Allocs: 400, Bytes: 4096})
				}
				s.Clients[0].Ratio = spread{0.11, 0.12, 0.14}
				r.Setups = append(r.Setups, s)
			}
		}
	}
	r.Bulk = &bulkResult{Updates: 100_000, LatencyMS: 20, RecordUS: 20, OneByOne: oneByOne{200, 2100}, Runs: []bulkRun{
		{100, 1, 22}, {100, 4, 5.6}, {500, 4, 1.6}, {500, 16, 0.43},
	}}
	return r
}

func TestPictures(t *testing.T) {
	want := map[string][]string{
		"speed":  {"List: time", "oakra-go", "oapi-codegen", "10,000 records", "0.12×", "100,000 updates", "35 min", "0.43 s"},
		"update": {"Update: time", "over loopback"},
		"memory": {"List: time", "Update: time", "from memory"},
		"bulk":   {"batches of 100<", "5.6 s"},
	}
	all := pictures(sample())
	if len(all) != len(want) {
		t.Fatalf("%d pictures, want %d", len(all), len(want))
	}
	for _, p := range all {
		for _, theme := range themes {
			drawn := p.draw(theme)
			if err := wellFormed(drawn); err != nil {
				t.Errorf("%s: %v", p.file(theme), err)
			}
			for _, part := range append(want[p.name], theme.paper, theme.own) {
				if !bytes.Contains(drawn, []byte(part)) {
					t.Errorf("%q is not in %s", part, p.file(theme))
				}
			}
			if bytes.Contains(drawn, []byte("NaN")) || bytes.Contains(drawn, []byte("Inf")) {
				t.Errorf("a number is missing from %s", p.file(theme))
			}
		}
		for _, panel := range p.panels {
			for _, row := range panel.rows {
				if !strings.Contains(p.alt(), row.label) || !strings.Contains(p.alt(), row.text) {
					t.Errorf("the text of %s lacks %s %s: %s", p.name, row.label, row.text, p.alt())
				}
			}
		}
	}
}

func wellFormed(svg []byte) error {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestSpan checks that every dot lies on the axis, with its whole whisker.
func TestSpan(t *testing.T) {
	for _, p := range pictures(sample()) {
		for _, panel := range p.panels {
			low, high := panel.span()
			for _, row := range panel.rows {
				if row.text != "" && (row.dot.P25 <= low || row.dot.P75 >= high) {
					t.Errorf("%s, %s: %v is outside of %v to %v", p.name, row.label, row.dot, low, high)
				}
			}
		}
	}
}

// TestCommittedPictures checks that the pictures are drawn from the data file.
func TestCommittedPictures(t *testing.T) {
	var r results
	if err := readJSON(resultsFile, &r); err != nil {
		t.Fatal(err)
	}
	for _, p := range pictures(r) {
		for _, theme := range themes {
			got, err := os.ReadFile(filepath.Join(picturesDir, p.file(theme)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, p.draw(theme)) {
				t.Errorf("%s is not drawn from %s: go run ./benchmarks -draw", p.file(theme), resultsFile)
			}
		}
	}
}
