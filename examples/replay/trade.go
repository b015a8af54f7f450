package main

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go"
)

// day is the first day of the data; README.md has the credit.
//
//go:embed day.csv
var day []byte

// trade is the sales and returns of a shop.
type trade struct {
	keys  []oakra.StockKey // keys of the records, in order of their first sale
	lines []line
	low   []int64 // lowest sum of changes at any time, by key
	total []int64 // sum of all changes, by key
}

type line struct {
	record int   // index in trade.keys
	sold   int64 // negative for a return
}

// readTrade reads lines of time,invoice,sku,country,quantity. The country is the
// location.
func readTrade(path string) (*trade, error) {
	if path == "" {
		return parseTrade(bytes.NewReader(day))
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if !strings.HasSuffix(path, ".gz") {
		return parseTrade(file)
	}
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return parseTrade(unzipped)
}

func parseTrade(r io.Reader) (*trade, error) {
	reader := csv.NewReader(r)
	reader.ReuseRecord = true
	header, err := reader.Read()
	if err != nil {
		return nil, fmt.Errorf("the header of the trade: %w", err)
	}
	if !slices.Equal(header, []string{"time", "invoice", "sku", "country", "quantity"}) {
		return nil, fmt.Errorf("the header of the trade is %q", header)
	}
	t := &trade{}
	index := make(map[oakra.StockKey]int)
	for {
		fields, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		sold, err := strconv.ParseInt(fields[4], 10, 64)
		if err != nil {
			n, _ := reader.FieldPos(4)
			return nil, fmt.Errorf("line %d of the trade: %w", n, err)
		}
		record, ok := index[oakra.StockKey{SKU: fields[2], LocationID: fields[3]}]
		if !ok {
			record = len(t.keys)
			key := oakra.StockKey{SKU: strings.Clone(fields[2]), LocationID: strings.Clone(fields[3])}
			index[key] = record
			t.keys, t.low, t.total = append(t.keys, key), append(t.low, 0), append(t.total, 0)
		}
		t.lines = append(t.lines, line{record, sold})
		t.total[record] -= sold
		t.low[record] = min(t.low[record], t.total[record])
	}
}

// start returns the opening stock of a record, which is enough for all sales.
func (t *trade) start(record int) int64 { return 10 - t.low[record] }

// closing returns the stock of a record after all sales and returns.
func (t *trade) closing(record int) int64 { return t.start(record) + t.total[record] }

// opening returns the stock before the first sale.
func (t *trade) opening() []oakra.StockRecord {
	records := make([]oakra.StockRecord, len(t.keys))
	for i, key := range t.keys {
		records[i] = oakra.StockRecord{ID: int64(1000 + i), SKU: key.SKU, LocationID: key.LocationID, Quantity: t.start(i)}
	}
	return records
}
