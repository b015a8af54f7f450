package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/oakra/oakra-go"
)

// table is text in columns, for a person. Columns whose cells are all numbers
// are aligned right.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	lines := slices.Concat([][]string{t.header}, t.rows)
	width := make([]int, len(t.header))
	for _, line := range lines {
		for i := range line {
			line[i] = printable(line[i])
			width[i] = max(width[i], utf8.RuneCountInString(line[i]))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var text strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if t.numeric(i) {
				text.WriteString(pad + cell + "  ")
			} else {
				text.WriteString(cell + pad + "  ")
			}
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *table) numeric(column int) bool {
	for _, row := range t.rows {
		if _, err := strconv.ParseInt(row[column], 10, 64); err != nil && row[column] != "" {
			return false
		}
	}
	return true
}

// printable makes control characters visible, which could otherwise move the
// cursor of a terminal: the texts come from a server or a file.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '…' {
			return r
		}
		return '·'
	}, s)
}

// printRecords prints the result of list, update and change.
func (a *app) printRecords(records []oakra.StockRecord) error {
	if a.flags.JSON {
		if records == nil {
			records = []oakra.StockRecord{}
		}
		return a.printJSON(records)
	}
	if len(records) == 0 {
		return nil
	}
	t := table{header: []string{"ID", "LOCATION", "SKU", "QUANTITY"}}
	for _, r := range records {
		t.add(number(r.ID), r.LocationID, r.SKU, number(r.Quantity))
	}
	return t.write(a.stdout)
}

// printJSON keeps v as the result, which report prints.
func (a *app) printJSON(v any) error {
	a.result = v
	return nil
}

// writeJSON prints v at once.
func (a *app) writeJSON(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// document is what every command except serve and completion prints with --json.
type document struct {
	ExitCode int        `json:"exit_code"`
	Result   any        `json:"result"` // value of the command's own type; null if there is none
	Error    *errorJSON `json:"error"`  // null if the exit code is 0 and no response was lost
}

type errorJSON struct {
	Message string `json:"message"`
	Stock   string `json:"stock,omitempty"` // whether the stock changed
	Sales   string `json:"sales,omitempty"`
	Next    string `json:"next,omitempty"`
	Items   []item `json:"items,omitempty"`
}

// reportJSON prints the result and f, if there is one, and returns the exit code.
func (a *app) reportJSON(f *failure) int {
	d := document{Result: a.result}
	if f != nil {
		d.ExitCode = f.code
		d.Error = &errorJSON{Message: f.message, Next: f.next, Items: f.items}
		switch f.subject {
		case ofStock:
			d.Error.Stock = f.changed()
		case ofSales:
			d.Error.Sales = f.changed()
		}
	}
	if err := a.writeJSON(d); err != nil {
		fmt.Fprintf(a.stderr, "stockctl: the result was not printed: %v\n", err)
		return max(d.ExitCode, exitError)
	}
	return d.ExitCode
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func signed(n int64) string {
	if n > 0 {
		return "+" + number(n)
	}
	return number(n)
}
