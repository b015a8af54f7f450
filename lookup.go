package oakra

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// StockKey is what a shop knows a stock record by; writes need its ID, which
// [StockService.Lookup] finds.
type StockKey struct{ SKU, LocationID string }

// Key returns the SKU and the location of r.
func (r StockRecord) Key() StockKey { return StockKey{SKU: r.SKU, LocationID: r.LocationID} }

// listsInFlight is how many requests ListSeq has under way.
const listsInFlight = 4

// ListSeq is [StockService.List] for any number of SKUs: it yields the records as
// they come, in the same order, with up to four requests in flight and no more
// than their responses in memory. After the first error, which is yielded with a
// zero record, it ends. After a break, nothing is left running.
func (s *StockService) ListSeq(ctx context.Context, params StockListParams) iter.Seq2[StockRecord, error] {
	return func(yield func(StockRecord, error) bool) {
		skus, fixed, err := s.checkList(params)
		if err != nil {
			yield(StockRecord{}, err)
			return
		}
		type result struct {
			records []StockRecord
			err     error
			panic   *workerPanic
		}
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		var pending []chan result // in the order of the SKUs
		start := func() {
			n, done := fitting(skus, fixed), make(chan result, 1)
			batch := skus[:n]
			skus, pending = skus[n:], append(pending, done)
			running.Go(func() {
				r := result{err: &Error{Op: opList.String(), Outcome: OutcomeNotApplied, Err: errGoexit, made: true}}
				defer func() { done <- r }()
				r.panic = catch(func() { r.records, r.err = s.list(ctx, batch, params.LocationID) })
			})
		}
		for len(skus) > 0 && len(pending) < listsInFlight {
			start()
		}
		for len(pending) > 0 {
			next := <-pending[0]
			pending = pending[1:]
			if next.panic != nil {
				panic(next.panic)
			}
			if next.err != nil {
				yield(StockRecord{}, next.err)
				return
			}
			if len(skus) > 0 {
				start()
			}
			for _, record := range next.records {
				if !yield(record, nil) {
					return
				}
			}
		}
	}
}

// Lookup finds the records of keys, with the requests of [StockService.ListSeq].
// A key that Oakra does not know is absent from the map. No keys give an empty
// map. Keys at several locations read the SKUs at all locations.
//
// Errors: [ErrInvalidRequest] if a key has a blank SKU or no location,
// [ErrBadResponse] if Oakra has two records for one key, otherwise as for List.
func (s *StockService) Lookup(ctx context.Context, keys []StockKey) (map[StockKey]StockRecord, error) {
	found := make(map[StockKey]StockRecord, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	op := opList.String()
	wanted := make(map[StockKey]struct{}, len(keys))
	params := StockListParams{SKUs: make([]string, len(keys)), LocationID: keys[0].LocationID}
	for i, key := range keys {
		if key.LocationID == "" {
			return nil, invalid(op, "keys[%d], SKU %.40q, has no location", i, key.SKU)
		}
		if key.LocationID != params.LocationID {
			params.LocationID = "" // several: ask for all
		}
		params.SKUs[i] = key.SKU
		wanted[key] = struct{}{}
	}
	for record, err := range s.ListSeq(ctx, params) {
		if err != nil {
			return nil, err
		}
		key := record.Key()
		if _, ok := wanted[key]; !ok {
			continue
		}
		if other, ok := found[key]; ok && other.ID != record.ID {
			return nil, &Error{
				Op:      op,
				Message: fmt.Sprintf("SKU %q at %q has two records, %d and %d", key.SKU, key.LocationID, other.ID, record.ID),
				Outcome: OutcomeNotApplied,
				Err:     ErrBadResponse,
				made:    true,
			}
		}
		found[key] = record
	}
	return found, nil
}
