package stocksync

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/oakra/oakra-go"
)

const (
	readChunk = 2000 // keys that are read at once, so that a failure repeats no more
	readTries = 4    // tries of a chunk, each with the attempts that the client makes
)

// found is what Oakra has of the keys that were read.
type found struct {
	records map[oakra.StockKey][]oakra.StockRecord // one for each key, as a rule
	similar map[oakra.StockKey]oakra.StockKey      // keys of records that differ from the key only in case
}

// read reads the records of keys, through passing failures, until the run is stopped.
func read(ctx context.Context, stock Stock, o Options, phase Phase, keys []oakra.StockKey) (found, error) {
	ctx, cancel := o.untilStop(ctx)
	defer cancel()
	all := found{make(map[oakra.StockKey][]oakra.StockRecord, len(keys)), make(map[oakra.StockKey]oakra.StockKey)}
	for from := 0; from < len(keys); from += readChunk {
		to := min(from+readChunk, len(keys))
		records, err := list(ctx, stock, keys[from:to])
		for try := 1; err != nil && try < readTries && ctx.Err() == nil && retryNow(err); try++ {
			records, err = list(ctx, stock, keys[from:to])
		}
		if o.stopped() {
			err = &oakra.Error{Op: "stock.list", Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrStopped}
		}
		if err != nil {
			return found{}, err
		}
		all.add(keys[from:to], records)
		o.progress(phase, to, len(keys))
	}
	return all, nil
}

// retryNow reports whether reading again at once may help: not if the server asks
// to wait, as the client has waited as long as it may.
func retryNow(err error) bool {
	var e *oakra.Error
	return oakra.Retryable(err) && !(errors.As(err, &e) && e.RetryAfter > 0)
}

// lister is a Stock that yields all records of a key, where Lookup fails if there
// are several.
type lister interface {
	ListSeq(ctx context.Context, params oakra.StockListParams) iter.Seq2[oakra.StockRecord, error]
}

// list returns at least the records of keys.
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

// add sorts records by the keys that were asked for.
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

// fold returns what keys that differ only in case have in common.
func fold(key oakra.StockKey) oakra.StockKey {
	return oakra.StockKey{SKU: strings.ToLower(key.SKU), LocationID: strings.ToLower(key.LocationID)}
}
