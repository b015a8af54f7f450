package stocksync

import (
	"encoding/csv"
	"io"
	"slices"
	"strings"
	"testing"
)

// FuzzTable compares comma-separated records with those of encoding/csv, if it can
// read them.
func FuzzTable(f *testing.F) {
	for _, text := range []string{"a,b\nc,d\n", "\"a,\"\"b\"\"\n\",c", "a, \"b\" ,\n\n,,\n\"c", "a\"b,c\nd"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r > '~' }) {
			return
		}
		r := csv.NewReader(strings.NewReader(text))
		r.FieldsPerRecord = -1
		r.TrimLeadingSpace = true
		table := table{lines: splitLines(text), comma: ","}
		for {
			want, err := r.Read()
			if err != nil && err != io.EOF {
				return
			}
			if err == nil && blank(want) {
				continue
			}
			got, e := table.read()
			if e != err || !slices.Equal(got.cells, want) {
				t.Fatalf("%q, %v; want %q, %v", got.cells, e, want, err)
			}
			if err == io.EOF {
				return
			}
			if line, _ := r.FieldPos(0); line != got.first {
				t.Fatalf("%q: line %d, want %d", want, got.first, line)
			}
		}
	})
}
