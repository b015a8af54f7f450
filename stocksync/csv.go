package stocksync

import (
	"fmt"
	"io"
	"strings"
)

// ReadCSV reads targets from a CSV file as spreadsheets write it. The first line
// that is not blank is the header; a "sep=;" line of Excel may come before it. The
// header names the columns sku, location_id (or location) and quantity (or qty), in
// any order and case. Other columns are ignored. For other column names, including
// the exports of shop systems, see [ReadFeed].
//
// # Lines and cells
//
// The text is UTF-8, with or without a byte order mark, or UTF-16 with one. Lines
// end with LF, CRLF or CR. The separator is whichever of comma, semicolon and tab
// splits the header into the three columns. A cell in quotes may hold the separator,
// line breaks, and doubled quotes. In a file separated by tabs, any other quote is
// part of the text, as marketplaces write it: Pipe 14". Blank lines and spaces
// around a value are ignored.
//
// A quote that is part of the text can look like the start of a cell that continues
// over the next lines, and hide them. If the first line of such a record and a later
// one would each be a valid row without the quotes, all lines of the record are bad.
//
// A line is bad if it has more columns than the header, fewer columns than the
// header names, or a value in a column without a name. An unquoted 1,234 between
// commas is therefore a bad line. Blank cells at the end of a line are allowed if
// the header ends with one of the three columns.
//
// # SKUs and locations
//
// A value is bad if it cannot be what somebody typed: if it is blank or not UTF-8;
// if it begins with "=", which marks a formula, or with an apostrophe, which
// spreadsheets and exports put before a text; if it is a number that a spreadsheet
// rewrote, such as 4.00638E+12; or if it holds an invisible character or one that
// only looks like a space, which the error names by its code point.
//
// # Quantities
//
// A quantity is a whole number: 1234, -5, 12.0, 12.0000. Either the comma or the
// point may separate thousands, and the other one decimals: 1,234,567, 1,234.00 and
// 1.234,00 can be read in one way only. A number with one group of three digits
// after a comma or a point can be read in two ways: 12,000 is twelve or twelve
// thousand. It is bad unless the quantities of other lines show how the file uses
// the comma or the point. In a file separated by commas, "1,000" in quotes is a
// thousand.
//
// Anything else is bad: a blank cell, 12.5, 1 234, 5 pcs, 5%, (5), 1E+05, a
// formula, and +10, which means "add 10" in some feeds.
//
// # Errors
//
// With an error there are no targets. A [*CSVError] names all bad lines. Other
// errors report a file that is empty, has only a header, is not text, or has a
// column twice or not at all, or the error of r. A file that was cut off in the
// middle of its last number looks like a complete one: see [Options].MaxSteps.
func ReadCSV(r io.Reader) ([]Target, error) {
	feed, err := ReadFeed(r, FeedOptions{})
	return feed.Targets, err
}

// CSVError names the lines of a file that [ReadCSV] or [ReadFeed] could not read.
type CSVError struct {
	Lines []BadLine // all of them, in the order of the file
}

// BadLine is a line that could not be read.
type BadLine struct {
	Line int   // number of the line, from 1, counting the header and blank lines
	Err  error // what is wrong with the line
}

// Error says what is wrong with the first 20 lines, and lists the numbers of up to
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
