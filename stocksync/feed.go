package stocksync

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// FeedOptions says how [ReadFeed] reads a file. The zero value reads the same files
// as [ReadCSV]. The following options read the exports of shop systems, with the
// column names from their documentation or source:
//
//	// Shopify, inventory (help.shopify.com, "Inventory CSV file format")
//	FeedOptions{Quantity: "On hand (current)", Skip: []string{"not stocked"}, SkipUnnamed: true}
//
//	// WooCommerce, products (woocommerce.com, "Product CSV Importer and Exporter");
//	// Stock is blank if stock is not managed, and "parent" if the parent's stock counts
//	FeedOptions{Quantity: "Stock", LocationID: "warehouse-1", Skip: []string{"", "parent"}, SkipUnnamed: true}
//
//	// Magento 2, stock sources, and products (the export modules of magento/inventory
//	// and magento/magento2)
//	FeedOptions{Location: "source_code"}
//	FeedOptions{LocationID: "warehouse-1"}
//
//	// ERPNext, the report Stock Balance, which ends with a line of totals, and the
//	// list of Bin (frappe/erpnext, stock_balance.py and bin.json)
//	FeedOptions{SKU: "Item", Location: "Warehouse", Quantity: "Balance Qty", SkipUnnamed: true}
//	FeedOptions{SKU: "Item Code", Location: "Warehouse", Quantity: "Actual Quantity"}
//
// The targets have the locations of the file. If Oakra has other names for them,
// replace the LocationID of the targets. Read a Shopify file that has one column for
// each location once per location, with Quantity and LocationID set.
//
// Choose the column with the units in stock. Oakra counts units reserved for orders
// separately from its quantity, and a column with the units available for sale may
// therefore count reservations twice.
type FeedOptions struct {
	// SKU, Location and Quantity name the columns, in any case. If one is empty, its
	// column has the names that ReadCSV accepts.
	SKU, Location, Quantity string

	// LocationID is the location of all targets, for a file without a location
	// column.
	LocationID string

	// Skip lists the texts, in any case, that replace the quantity of an item whose
	// stock the shop does not track. Lines with such a text are skipped.
	Skip []string

	// SkipUnnamed skips the lines without a SKU or a location, which no record in
	// Oakra can match.
	SkipUnnamed bool
}

// Feed is the content of a file.
type Feed struct {
	Targets []Target
	Skipped []SkippedLine // in the order of the file
}

// SkippedLine is a line that was skipped because of the FeedOptions.
type SkippedLine struct {
	Line   int    // number of the line, as in [BadLine]
	Reason string // reason, such as: the quantity is "not stocked"
}

// ReadFeed is like [ReadCSV], for files with other columns and with lines that have
// no quantity on purpose. Without an error, every line is in the Feed; it has no
// targets if all lines were skipped.
//
// ReadFeed returns the errors of ReadCSV. It also fails if the options name a column
// twice or set both Location and LocationID.
func ReadFeed(r io.Reader, o FeedOptions) (Feed, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return Feed{}, fmt.Errorf("stocksync: reading the file: %w", err)
	}
	text, encoding, err := decode(data)
	if err != nil {
		return Feed{}, err
	}
	t, c, err := readHeader(splitLines(text), o)
	if err != nil && encoding != "" {
		err = fmt.Errorf("%w (read as %s)", err, encoding)
	}
	if err != nil {
		return Feed{}, err
	}

	rows, skipped, bad := readRows(&t, &c)
	targets, ambiguous := readQuantities(rows, t.comma)
	bad = append(bad, ambiguous...)
	switch {
	case len(bad) > 0:
		slices.SortFunc(bad, func(a, b BadLine) int { return a.Line - b.Line })
		return Feed{}, &CSVError{bad}
	case len(targets)+len(skipped) == 0:
		return Feed{}, errors.New("stocksync: the file has a header and no lines: is it cut short?")
	}
	return Feed{targets, skipped}, nil
}

// readRows reads the lines below the header.
func readRows(t *table, c *columns) (rows []row, skipped []SkippedLine, bad []BadLine) {
	for {
		rec, err := t.read()
		if errors.Is(err, io.EOF) {
			return rows, skipped, bad
		}
		if err == nil && c.hidesRows(rec, t) {
			err := fmt.Errorf("a quote in line %d closes in line %d, and hides rows if it is part of a text", rec.first, rec.last)
			for line := rec.first; line <= rec.last; line++ {
				bad = append(bad, BadLine{line, err})
			}
			continue
		}
		var next row
		var skip string
		if err == nil {
			next, skip, err = c.read(rec)
		}
		switch {
		case err != nil:
			bad = append(bad, BadLine{rec.first, err})
			t.next = rec.first // a quote may have hidden the lines after it
		case skip != "":
			skipped = append(skipped, SkippedLine{rec.first, skip})
		default:
			rows = append(rows, next)
		}
	}
}

// readQuantities returns the targets of the rows. It reads the quantity of each by
// the conventions that the quantities of all rows show.
func readQuantities(rows []row, comma string) (targets []Target, bad []BadLine) {
	quantities := make([]string, len(rows))
	for i, row := range rows {
		quantities[i] = row.quantity
	}
	shown := conventions(quantities)
	for _, row := range rows {
		n, err := readQuantity(row.quantity, shown, comma)
		if err != nil {
			bad = append(bad, BadLine{row.line, err})
		}
		row.target.Quantity = n
		targets = append(targets, row.target)
	}
	return targets, bad
}

// row is a line whose quantity is not yet read, because other lines may show how to
// read it.
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

// columns holds the positions of the columns in a record.
type columns struct {
	FeedOptions
	header []string
	named  int       // number of columns up to the last one with a name
	names  [3]string // names of the columns, for errors
	at     [3]int    // indexes of the columns; -1 if there is no location column
}

// separator matches the line that tells Excel what separates the columns.
var separator = regexp.MustCompile(`(?i)^"?sep=.?"?\s*$`)

// readHeader finds the separator, and the columns in the header.
func readHeader(lines []string, o FeedOptions) (t table, c columns, err error) {
	begin := 0
	if separator.MatchString(lines[0]) {
		begin = 1
	}
	likeliest := 0 // most columns that a separator splits the header into
	for _, comma := range []string{",", ";", "\t"} {
		candidate := table{lines: lines, comma: comma, next: begin}
		rec, e := candidate.read()
		switch {
		case e == nil:
			c, e = findColumns(rec.cells, o)
		case errors.Is(e, io.EOF):
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

// findColumns finds the columns in a header.
func findColumns(header []string, o FeedOptions) (columns, error) {
	c := columns{FeedOptions: o, header: header, at: [3]int{-1, -1, -1}}
	accepted := [3][]string{{"sku"}, {"location_id", "location"}, {"quantity", "qty"}}
	for i, name := range [3]string{o.SKU, o.Location, o.Quantity} {
		if name != "" {
			accepted[i] = []string{name}
		}
		c.names[i] = accepted[i][0]
	}
	if o.LocationID != "" {
		if o.Location != "" {
			return c, fmt.Errorf("stocksync: FeedOptions: both Location %q and LocationID %q are set", o.Location, o.LocationID)
		}
		accepted[locationColumn] = nil
	}
	for i, cell := range header {
		if strings.TrimSpace(cell) != "" {
			c.named = i + 1
		}
		for column, names := range accepted {
			if !slices.ContainsFunc(names, func(name string) bool { return columnKey(name) == columnKey(cell) }) {
				continue
			}
			if c.at[column] >= 0 {
				return c, fmt.Errorf("stocksync: the header has the column %s twice: %.200q", c.names[column], header)
			}
			c.at[column] = i
		}
	}
	for column, names := range accepted {
		if c.at[column] < 0 && names != nil {
			return c, fmt.Errorf("stocksync: the header has no column %s: %.200q", c.names[column], header)
		}
	}
	for column := range c.at {
		if c.at[column] >= 0 && slices.Index(c.at[:], c.at[column]) < column {
			return c, fmt.Errorf("stocksync: FeedOptions: the column %s is named twice", c.names[column])
		}
	}
	return c, nil
}

// columnKey returns the form of a column's name that names are compared by.
func columnKey(name string) string {
	return strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(strings.TrimSpace(name)))
}

// cell returns the cell of a column without the spaces around it. It does not trim
// other Unicode spaces, which checkText reports.
func (c *columns) cell(cells []string, column int) string {
	return strings.Trim(cells[c.at[column]], " \t\r\n")
}

// check returns an error if the cells do not match the columns.
func (c *columns) check(cells []string) error {
	for i, name := range c.header {
		if i < len(cells) && strings.TrimSpace(name) == "" && strings.TrimSpace(cells[i]) != "" {
			return fmt.Errorf("it has %.40q in column %d, which has no name", cells[i], i+1)
		}
	}
	more := len(cells) > len(c.header)
	shifted := more && slices.Max(c.at[:]) < c.named-1 // a comma in the quantity may have shifted the cells
	if len(cells) < c.named || shifted || more && !blank(cells[len(c.header):]) {
		return fmt.Errorf("it has %d columns, the header %d", len(cells), c.named)
	}
	return nil
}

// read reads a record, or returns why it is skipped.
func (c *columns) read(rec record) (r row, skip string, err error) {
	if err := c.check(rec.cells); err != nil {
		return row{}, "", err
	}
	r = row{line: rec.first, quantity: c.cell(rec.cells, quantityColumn)}
	r.target = Target{SKU: c.cell(rec.cells, skuColumn), LocationID: c.LocationID}
	if c.LocationID == "" {
		r.target.LocationID = c.cell(rec.cells, locationColumn)
	}
	switch {
	case c.skips(r.quantity):
		return r, fmt.Sprintf("the %s is %q", c.names[quantityColumn], r.quantity), nil
	case c.SkipUnnamed && r.target.SKU == "":
		return r, fmt.Sprintf("no %s", c.names[skuColumn]), nil
	case c.SkipUnnamed && r.target.LocationID == "":
		return r, fmt.Sprintf("no %s", c.names[locationColumn]), nil
	}
	for _, err := range []error{
		checkName(c.names[skuColumn], r.target.SKU),
		checkName(c.names[locationColumn], r.target.LocationID),
		checkText(c.names[quantityColumn], r.quantity),
	} {
		if err != nil {
			return r, "", err
		}
	}
	return r, "", nil
}

// skips reports whether Skip lists the text of a quantity.
func (c *columns) skips(quantity string) bool {
	return slices.ContainsFunc(c.Skip, func(text string) bool { return strings.EqualFold(text, quantity) })
}

// hidesRows reports whether a record of several lines is more likely several
// records. The quote that joins its lines is taken as part of the text if the first
// line and a later one are rows without it.
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
	return strings.Trim(quantity, "+-0123456789., ") == "" || c.skips(quantity)
}
