package stocksync

import (
	"context"
	"iter"
	"strings"

	"github.com/oakra/oakra-go"
)

// readChunk is the number of keys read at once. No more than that is read again
// after a failure.
const readChunk = 2000

// found holds the records that Oakra has for the keys that were read.
type found struct {
	records map[oakra.StockKey][]oakra.StockRecord // usually one record for each key
	similar map[oakra.StockKey]oakra.StockKey      // keys of records that differ from the key only in case
}

// reader reads records in one phase of a run.
type reader struct {
	stock   Stock
	options Options
	phase   Phase
	proven  bool // whether the service has responded to a read before
}

// read reads the records of keys, through an outage, until the run is stopped.
func (r *reader) read(ctx context.Context, keys []oakra.StockKey) (found, error) {
	ctx, cancel := r.options.untilStop(ctx)
	defer cancel()
	all := found{make(map[oakra.StockKey][]oakra.StockRecord, len(keys)), make(map[oakra.StockKey]oakra.StockKey)}
	for from := 0; from < len(keys); from += readChunk {
		to := min(from+readChunk, len(keys))
		records, err := r.listThroughOutage(ctx, keys[from:to], Progress{Phase: r.phase, Done: from, Total: len(keys)})
		if r.options.stopped() {
			err = readNotSent(oakra.ErrStopped)
		}
		if err != nil {
			return found{}, err
		}
		r.proven = true
		all.add(keys[from:to], records)
		r.options.report(Progress{Phase: r.phase, Done: to, Total: len(keys)})
	}
	return all, nil
}

// readNotSent returns the error of a read that was not sent.
func readNotSent(cause error) error {
	return &oakra.Error{Op: "stock.list", Outcome: oakra.OutcomeNotApplied, Err: cause}
}

// lister is a Stock that can list several records of one key, for which Lookup
// fails.
type lister interface {
	ListSeq(ctx context.Context, params oakra.StockListParams) iter.Seq2[oakra.StockRecord, error]
}

// list returns the records of keys, and possibly others.
func list(ctx context.Context, stock Stock, keys []oakra.StockKey) (records []oakra.StockRecord, err error) {
	all, ok := stock.(lister)
	if !ok {
		byKey, err := stock.Lookup(ctx, keys)
		for _, record := range byKey {
			records = append(records, record)
		}
		return records, err
	}
	params := oakra.StockListParams{SKUs: make([]string, len(keys)), LocationID: keys[0].LocationID}
	for i, key := range keys {
		params.SKUs[i] = key.SKU
		if key.LocationID != params.LocationID {
			params.LocationID = "" // several: all are read
		}
	}
	for record, err := range all.ListSeq(ctx, params) {
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

// add adds the records that match the requested keys, or differ only in case.
func (f *found) add(keys []oakra.StockKey, records []oakra.StockRecord) {
	wanted := make(map[oakra.StockKey]bool, len(keys))
	folded := make(map[oakra.StockKey][]oakra.StockKey, len(keys))
	for _, key := range keys {
		wanted[key] = true
		folded[fold(key)] = append(folded[fold(key)], key)
	}
	ids := make(map[int64]bool, len(records))
	for _, record := range records {
		key := record.Key()
		if wanted[key] && !ids[record.ID] { // it may be listed twice
			f.records[key] = append(f.records[key], record)
		}
		ids[record.ID] = true
		for _, other := range folded[fold(key)] {
			if other != key {
				f.similar[other] = key
			}
		}
	}
}

// fold returns the key in lower case.
func fold(key oakra.StockKey) oakra.StockKey {
	return oakra.StockKey{SKU: strings.ToLower(key.SKU), LocationID: strings.ToLower(key.LocationID)}
}
