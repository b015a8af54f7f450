package stocksync

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// readFeed does what [ReadCSV] documents.
func readFeed(r io.Reader) ([]Target, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("stocksync: reading the file: %w", err)
	}
	text, encoding, err := decode(data)
	if err != nil {
		return nil, err
	}
	t, c, err := readHeader(splitLines(text))
	if err != nil && encoding != "" {
		err = fmt.Errorf("%w (read as %s)", err, encoding)
	}
	if err != nil {
		return nil, err
	}

	var rows []row
	bad := new(CSVError)
	for {
		rec, err := t.read()
		if err == io.EOF {
			break
		}
		if err == nil && c.hidesRows(rec, &t) {
			err := fmt.Errorf("a quote in line %d closes in line %d, and hides rows if it is part of a text", rec.first, rec.last)
			for line := rec.first; line <= rec.last; line++ {
				bad.Lines = append(bad.Lines, BadLine{line, err})
			}
			continue
		}
		var next row
		if err == nil {
			next, err = c.read(rec)
		}
		if err != nil {
			bad.Lines = append(bad.Lines, BadLine{rec.first, err})
			t.next = rec.first // a quote may have hidden the lines after it
			continue
		}
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
		targets[i].Quantity, err = readQuantity(row.quantity, shown, t.comma)
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

// The columns of a feed.
const (
	skuColumn = iota
	locationColumn
	quantityColumn
)

// columns says where in a record the columns are.
type columns struct {
	header []string
	named  int    // how many, up to the last with a name
	at     [3]int // their indexes
}

// separator is a line that tells Excel what is between the columns.
var separator = regexp.MustCompile(`(?i)^"?sep=.?"?\s*$`)

// readHeader finds what separates the columns, and where they are.
func readHeader(lines []string) (t table, c columns, err error) {
	begin := 0
	if separator.MatchString(lines[0]) {
		begin = 1
	}
	likeliest := 0 // columns of the separator that splits the header into most
	for _, comma := range []string{",", ";", "\t"} {
		candidate := table{lines: lines, comma: comma, next: begin}
		rec, e := candidate.read()
		switch e {
		case nil:
			c, e = findColumns(rec.cells)
		case io.EOF:
			e = errors.New("stocksync: the file has no header")
		default:
			e = fmt.Errorf("stocksync: the header: %w", e)
		}
		if e == nil {
			return candidate, c, nil
		}
		if err == nil || len(rec.cells) > likeliest {
			likeliest, err = len(rec.cells), e
		}
	}
	return t, c, err
}

// columnNames are the names of the columns; the first is that for errors.
var columnNames = [3][]string{{"sku"}, {"location_id", "location"}, {"quantity", "qty"}}

// findColumns finds the columns in a header.
func findColumns(header []string) (columns, error) {
	c := columns{header: header, at: [3]int{-1, -1, -1}}
	for i, cell := range header {
		if strings.TrimSpace(cell) != "" {
			c.named = i + 1
		}
		for column, names := range columnNames {
			if !slices.Contains(names, columnKey(cell)) {
				continue
			}
			if c.at[column] >= 0 {
				return c, fmt.Errorf("stocksync: the header has the column %s twice: %.200q", names[0], header)
			}
			c.at[column] = i
		}
	}
	if missing := slices.Index(c.at[:], -1); missing >= 0 {
		return c, fmt.Errorf("stocksync: the header has no column %s: %.200q", columnNames[missing][0], header)
	}
	return c, nil
}

// columnKey is what a column's name is compared by.
func columnKey(name string) string {
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(strings.TrimSpace(name)))
}

// cell returns the cell of a column. A space of another kind is not trimmed.
func (c *columns) cell(cells []string, column int) string {
	return strings.Trim(cells[c.at[column]], " \t\r\n")
}

// check reports whether the cells are those of the columns.
func (c *columns) check(cells []string) error {
	for i, name := range c.header {
		if i < len(cells) && strings.TrimSpace(name) == "" && strings.TrimSpace(cells[i]) != "" {
			return fmt.Errorf("it has %.40q in column %d, which has no name", cells[i], i+1)
		}
	}
	more := len(cells) > len(c.header)
	shifted := more && slices.Max(c.at[:]) < c.named-1 // by a comma in the quantity
	if len(cells) < c.named || shifted || more && !blank(cells[len(c.header):]) {
		return fmt.Errorf("it has %d columns, the header %d", len(cells), c.named)
	}
	return nil
}

// read reads a record.
func (c *columns) read(rec record) (row, error) {
	if err := c.check(rec.cells); err != nil {
		return row{}, err
	}
	var values [3]string
	for column, check := range []func(column, text string) error{checkName, checkName, checkText} {
		values[column] = c.cell(rec.cells, column)
		if err := check(columnNames[column][0], values[column]); err != nil {
			return row{}, err
		}
	}
	return row{rec.first, Target{SKU: values[skuColumn], LocationID: values[locationColumn]}, values[quantityColumn]}, nil
}

// hidesRows reports whether a record of several lines is likelier several records:
// the quote that holds its lines together is part of a text if the first line and
// a later one are rows without it.
func (c *columns) hidesRows(rec record, t *table) bool {
	if rec.open < 0 {
		return false
	}
	first := append(slices.Clone(rec.cells[:rec.open]), strings.Split(rec.tail, t.comma)...)
	if more := len(first) - len(c.header); more > 0 { // the text holds separators
		end := min(rec.open+more+1, len(first))
		first = slices.Replace(first, rec.open, end, strings.Join(first[rec.open:end], t.comma))
	}
	return c.isRow(first) && slices.ContainsFunc(t.lines[rec.first:rec.last], func(line string) bool {
		return c.isRow(strings.Split(line, t.comma))
	})
}

// isRow reports whether the cells of a line look like a row, good or bad.
func (c *columns) isRow(cells []string) bool {
	if c.check(cells) != nil || c.cell(cells, skuColumn) == "" {
		return false
	}
	quantity := strings.Trim(c.cell(cells, quantityColumn), `"`)
	return strings.Trim(quantity, "+-0123456789., ") == ""
}
