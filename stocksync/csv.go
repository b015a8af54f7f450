package stocksync

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// CSVError names the lines of a file that [ReadCSV] could not read.
type CSVError struct {
	Lines []BadLine // all of them, in the order of the file
}

// BadLine is a line, counted from 1 with the header and blank ones, and what is
// wrong with it.
type BadLine struct {
	Line int
	Err  error
}

// Error names the first 20 lines with what is wrong, and the numbers of up to
// 100 more.
func (e *CSVError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "stocksync: no targets were read; bad lines: %d", len(e.Lines))
	for n, l := range e.Lines {
		switch {
		case n < 20:
			fmt.Fprintf(&b, "; line %d: %v", l.Line, l.Err)
		case n == 20:
			fmt.Fprintf(&b, "; also lines %d", l.Line)
		case n < 120:
			fmt.Fprintf(&b, ", %d", l.Line)
		default:
			fmt.Fprintf(&b, " and %d more", len(e.Lines)-n)
			return b.String()
		}
	}
	return b.String()
}

// columns of a file, by each name that a header may give them.
var columns = map[string]int{"sku": 0, "location_id": 1, "location": 1, "quantity": 2, "qty": 2}

var columnNames = [...]string{"sku", "location_id", "quantity"}

// ReadCSV reads targets from a table as spreadsheets write it, in UTF-8, with or
// without a byte order mark. The first line that is not blank is the header, but
// for a "sep=;" as Excel has it. The header names the columns sku, location_id (or
// location) and quantity (or qty), in any order and case; other columns are
// ignored. Between the columns is whichever of comma, semicolon and tab makes the
// header hold these three. Blank lines, and spaces around a value, are ignored.
//
// A quantity is a whole number: 1234, -5, 12.0, 12.0000. The comma or the point
// may separate thousands, and the other one decimals: 1,234,567, 1,234.00 and
// 1.234,00 have one reading. One group of three digits behind a comma or a point
// has two: 12,000 is twelve or twelve thousand. Such a number is bad, unless the
// quantities of other lines show what the file's comma or point is for. Between
// commas, "1,000" in quotes is a thousand.
//
// Everything else is bad: a blank cell, 12.5, 1 234, 5 pcs, 5%, (5), 1E+05, a
// formula, and +10, which means "add 10" in some feeds.
//
// An unquoted 1,234 where commas
// separate the columns gives the line a column too many, and so it is bad, as is
// every line that has more columns than the header, or fewer than it names, or
// something in a column without a name (blank ones at the end of a line do no
// harm, if the header ends with one of the three).
//
// A value is bad if it cannot be the text that somebody typed: it is blank or not
// UTF-8; it begins with "=", which is a formula, or with an apostrophe, which
// spreadsheets and exports put before a text; it is a number that a spreadsheet
// rewrote, such as 4.00638E+12; or it holds a character that cannot be seen, or
// looks like a space without being one, which the error names by its code point.
//
// Errors, without any targets: a [*CSVError] that names all bad lines; a file
// that is empty, has no line but the header, is UTF-16, lacks a column or has it
// twice; the error of r. A file that was cut in the middle of its last number
// cannot be told from a whole one: see [Options].MaxSteps.
func ReadCSV(r io.Reader) ([]Target, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("stocksync: reading the file: %w", err)
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	switch {
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}), bytes.HasPrefix(data, []byte{0xfe, 0xff}), bytes.IndexByte(data, 0) >= 0:
		return nil, errors.New("stocksync: the file is UTF-16, or no text: save it as CSV in UTF-8")
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errors.New("stocksync: the file is empty")
	}
	above := 0
	if line, rest, found := bytes.Cut(data, []byte("\n")); found && separator.Match(line) {
		data, above = rest, 1
	}
	t, header, at, err := readHeader(data, above)
	if err != nil {
		return nil, err
	}
	var rows []row
	bad := new(CSVError)
	for {
		line, fields, err := t.read()
		if err == io.EOF {
			break
		}
		var next row
		if err == nil {
			next, err = readRow(fields, header, at)
		}
		if err != nil {
			bad.Lines = append(bad.Lines, BadLine{line, err})
			t = t.after(line)
			continue
		}
		next.line = line
		rows = append(rows, next)
	}

	quantities := make([]string, len(rows))
	for i, row := range rows {
		quantities[i] = row.quantity
	}
	shown := conventions(quantities)
	targets := make([]Target, len(rows))
	for i, row := range rows {
		targets[i] = row.target
		targets[i].Quantity, err = readQuantity(row.quantity, shown, string(t.file.Comma))
		if err != nil {
			bad.Lines = append(bad.Lines, BadLine{row.line, err})
		}
	}
	switch {
	case len(bad.Lines) > 0:
		slices.SortFunc(bad.Lines, func(a, b BadLine) int { return a.Line - b.Line })
		return nil, bad
	case len(targets) == 0:
		return nil, errors.New("stocksync: the file has a header and no lines: is it cut short?")
	}
	return targets, nil
}

// row is a line whose quantity is not yet read, since other lines may show how.
type row struct {
	line     int
	target   Target
	quantity string
}

// table reads what follows the first lines of a file.
type table struct {
	file  *csv.Reader
	data  []byte // what it reads from
	above int    // lines before that
}

func newTable(data []byte, above int, comma rune) table {
	file := csv.NewReader(bytes.NewReader(data))
	file.Comma = comma
	file.FieldsPerRecord = -1
	file.TrimLeadingSpace = comma != '\t' // else blank columns would vanish
	return table{file, data, above}
}

// read returns the next line that is not blank, and its number.
func (t table) read() (line int, fields []string, err error) {
	for {
		fields, err = t.file.Read()
		var syntax *csv.ParseError
		switch {
		case errors.As(err, &syntax):
			return t.above + syntax.StartLine, nil, syntax.Err
		case err != nil:
			return 0, nil, err
		case !blank(fields):
			line, _ = t.file.FieldPos(0)
			return t.above + line, fields, nil
		}
	}
}

// after reads on from the line after a bad one, although a quote that is not
// closed may have hidden that.
func (t table) after(line int) table {
	data := t.data
	for range line - t.above {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	return newTable(data, line, t.file.Comma)
}

// separator is a line that tells Excel what is between the columns.
var separator = regexp.MustCompile(`(?i)^"?sep=.?"?\s*$`)

// readHeader finds the separator, and at which index each column is.
func readHeader(data []byte, above int) (t table, header []string, at [3]int, err error) {
	for _, comma := range ",;\t" {
		candidate := newTable(data, above, comma)
		_, fields, e := candidate.read()
		if e == nil {
			at, e = findColumns(fields)
		} else {
			e = fmt.Errorf("stocksync: the header: %w", e)
		}
		if e == nil {
			return candidate, fields, at, nil
		}
		if err == nil || len(fields) > len(header) { // the likeliest separator has the most to say
			header, err = fields, e
		}
	}
	return t, nil, at, err
}

func findColumns(header []string) (at [3]int, _ error) {
	at = [3]int{-1, -1, -1}
	for i, name := range header {
		name = strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(strings.TrimSpace(name)))
		column, ok := columns[name]
		if !ok {
			continue
		}
		if at[column] >= 0 {
			return at, fmt.Errorf("stocksync: the header has the column %s twice: %.200q", columnNames[column], header)
		}
		at[column] = i
	}
	if missing := slices.Index(at[:], -1); missing >= 0 {
		return at, fmt.Errorf("stocksync: the header has no column %s: %.200q", columnNames[missing], header)
	}
	return at, nil
}

func blank(fields []string) bool {
	return !slices.ContainsFunc(fields, func(f string) bool { return strings.TrimSpace(f) != "" })
}

func readRow(fields, header []string, at [3]int) (row, error) {
	named := 0 // columns, up to the last with a name
	for i, name := range header {
		switch {
		case strings.TrimSpace(name) != "":
			named = i + 1
		case i < len(fields) && strings.TrimSpace(fields[i]) != "":
			return row{}, fmt.Errorf("it has %.40q in column %d, which has no name", fields[i], i+1)
		}
	}
	shifted := len(fields) > len(header) && slices.Max(at[:]) < named-1 // by a comma in the quantity
	if len(fields) < named || shifted || len(fields) > len(header) && !blank(fields[len(header):]) {
		return row{}, fmt.Errorf("it has %d columns, the header %d", len(fields), named)
	}
	var values [3]string
	for column, check := range []func(column, text string) error{checkName, checkName, checkText} {
		values[column] = strings.Trim(fields[at[column]], " \t\r\n") // no space of another kind
		if err := check(columnNames[column], values[column]); err != nil {
			return row{}, err
		}
	}
	return row{target: Target{SKU: values[0], LocationID: values[1]}, quantity: values[2]}, nil
}
