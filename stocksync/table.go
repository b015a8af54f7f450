package stocksync

import (
	"errors"
	"io"
	"slices"
	"strings"
)

// table reads the records of a file one after the other. It does not use
// encoding/csv, which has no mode for plain text between tabs: with LazyQuotes, one
// quote can swallow the rest of the file.
type table struct {
	lines []string
	comma string // separator of the cells
	next  int    // index of the line to read next
}

// record is one record of a table.
type record struct {
	first, last int // lines, counted from 1
	cells       []string
	open        int    // index of the first cell that continues on the next line, or -1
	tail        string // rest of the first line, starting with that cell
}

// splitLines returns the lines of text. It splits at a bare CR too if the first line
// ends with one.
func splitLines(text string) []string {
	if i := strings.IndexAny(text, "\r\n"); i >= 0 && text[i] == '\r' && !strings.HasPrefix(text[i:], "\r\n") {
		text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines
}

// read returns the next record that is not blank, or io.EOF. Any other error is about
// the first line of the record. The next call then continues with the line after it,
// because a quote that is not closed may have hidden that line.
func (t *table) read() (record, error) {
	for t.next < len(t.lines) {
		rec, err := t.parse(t.next)
		if err != nil {
			t.next = rec.first
			return rec, err
		}
		t.next = rec.last
		if !blank(rec.cells) {
			return rec, nil
		}
	}
	return record{}, io.EOF
}

// parse reads the record that begins with line i.
func (t *table) parse(i int) (record, error) {
	rec := record{first: i + 1, last: i + 1, open: -1}
	text := t.lines[i]
	for {
		if t.comma != "\t" {
			text = strings.TrimLeft(text, " ")
		}
		cell, rest, end, err := t.cell(text, i)
		if err != nil {
			return rec, err
		}
		if end > i && rec.open < 0 {
			rec.open, rec.tail = len(rec.cells), text
		}
		rec.cells = append(rec.cells, cell)
		if rest == "" {
			rec.last = end + 1
			return rec, nil
		}
		text, i = rest[len(t.comma):], end
	}
}

var (
	errBareQuote = errors.New("it has a quote within a text: put the text in quotes, and double the quote")
	errNotClosed = errors.New("it has a quote that is not closed")
)

// cell reads the cell at the beginning of text, which is a part of line i. It also
// returns the rest of the line in which the cell ends, which is empty or begins with
// a separator, and the index of that line.
func (t *table) cell(text string, i int) (cell, rest string, end int, err error) {
	if inside, ok := strings.CutPrefix(text, `"`); ok {
		cell, rest, end, err = t.quoted(inside, i)
		if err == nil || t.comma != "\t" {
			return cell, rest, end, err
		}
	}
	at := strings.Index(text, t.comma)
	if at < 0 {
		at = len(text)
	}
	if t.comma != "\t" && strings.Contains(text[:at], `"`) {
		return "", "", i, errBareQuote
	}
	return text[:at], text[at:], i, nil
}

// quoted is like cell, for text that follows an opening quote.
func (t *table) quoted(text string, i int) (cell, rest string, end int, err error) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, `"`)
		b.WriteString(before)
		switch {
		case !found && i+1 == len(t.lines):
			return "", "", i, errNotClosed
		case !found:
			b.WriteByte('\n')
			i++
			text = t.lines[i]
		case strings.HasPrefix(after, `"`):
			b.WriteByte('"')
			text = after[1:]
		default:
			if t.comma != "\t" {
				after = strings.TrimLeft(after, " ")
			}
			if after != "" && !strings.HasPrefix(after, t.comma) {
				return "", "", i, errBareQuote
			}
			return b.String(), after, i, nil
		}
	}
}

func blank(cells []string) bool {
	return !slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) != "" })
}
