package stocksync

import (
	"fmt"
	"io"
	"strings"
)

// ReadCSV reads targets from a table as spreadsheets write it. The first line that
// is not blank is the header, except for a "sep=;" as Excel writes it. The header
// names the columns sku, location_id (or location) and quantity (or qty), in any
// order and case; other columns are ignored. For other names, and for the exports
// of shop systems, see [ReadFeed].
//
// # Lines and cells
//
// The text is UTF-8, with or without a byte order mark, or UTF-16 with one. Lines
// end with LF, CRLF or CR. Between the cells is whichever of comma, semicolon and
// tab makes the header hold the three columns. A cell in quotes may hold the
// separator, line breaks, and quotes that are doubled. Between tabs other quotes
// are part of the text, as marketplaces write them: Pipe 14". Blank lines, and
// spaces around a value, are ignored.
//
// A quote that is text can seem to open a cell that runs over the next lines, and
// so hide them. Where the first line of such a record, and a later one, are each a
// row of their own if quotes are ignored, all its lines are bad.
//
// A line is bad if it has more columns than the header, or fewer than the header
// names, or something in a column without a name. Blank cells at the end of a line
// do no harm if the header ends with one of the three columns. An unquoted 1,234
// between commas is therefore a bad line.
//
// # SKUs and locations
//
// A value is bad if it cannot be the text that somebody typed: it is blank or not
// UTF-8; it begins with "=", which is a formula, or with an apostrophe, which
// spreadsheets and exports put before a text; it is a number that a spreadsheet
// rewrote, such as 4.00638E+12; or it holds a character that cannot be seen, or
// looks like a space without being one, which the error names by its code point.
//
// # Quantities
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
// # Errors
//
// There are no targets with an error: a [*CSVError] that names all bad lines; a
// file that is empty, has no line except the header, is no text, lacks a column or
// has it twice; the error of r. A file that was cut off in the middle of its last
// number cannot be told from a whole one: see [Options].MaxSteps.
func ReadCSV(r io.Reader) ([]Target, error) {
	feed, err := ReadFeed(r, FeedOptions{})
	return feed.Targets, err
}

// CSVError names the lines of a file that [ReadCSV] or [ReadFeed] could not read.
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
