package main

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/oakra/oakra-go"
)

// stock changes quantities by SKU and location. Writes need ids, which it looks up once
// and then remembers. The ids may be kept between two runs of a program.
type stock struct {
	service *oakra.StockService
	ids     map[oakra.StockKey]int64
}

// changeAll applies all changes, and returns those that are not known to be applied, each
// with an error for oakra.NextStep. If it returns an error, nothing was sent.
//
// An id that is remembered may be stale: the record was deleted, or made anew under
// another id. Oakra rejects such an id, and so nothing of that change was applied.
// changeAll looks up the rejected keys once more, and sends again only those that have
// another id now. It need not understand why Oakra rejected the others.
func (s *stock) changeAll(ctx context.Context, changes map[oakra.StockKey]int64, o oakra.BulkOptions) (map[oakra.StockKey]error, error) {
	var missing []oakra.StockKey
	for key := range changes {
		if _, ok := s.ids[key]; !ok {
			missing = append(missing, key)
		}
	}
	if err := s.lookUp(ctx, missing); err != nil {
		return nil, err
	}
	failed := s.send(ctx, changes, o)

	stale := make(map[oakra.StockKey]int64) // rejected ids
	for key, err := range failed {
		if id, ok := s.ids[key]; ok && oakra.NextStep(err) == oakra.StepReject {
			stale[key] = id
		}
	}
	if err := s.lookUp(ctx, slices.Collect(maps.Keys(stale))); err != nil {
		return failed, nil //nolint:nilerr // the rejections stand
	}
	again := make(map[oakra.StockKey]int64)
	for key, id := range stale {
		if s.ids[key] != id {
			again[key] = changes[key]
			delete(failed, key)
		}
	}
	maps.Copy(failed, s.send(ctx, again, o))
	return failed, nil
}

// lookUp remembers the ids of keys, and forgets those that Oakra does not have any more.
func (s *stock) lookUp(ctx context.Context, keys []oakra.StockKey) error {
	records, err := s.service.Lookup(ctx, keys)
	if err != nil {
		return err
	}
	for _, key := range keys {
		delete(s.ids, key)
	}
	for key, record := range records {
		s.ids[key] = record.ID
	}
	return nil
}

// send sends the changes under the ids that are remembered.
func (s *stock) send(ctx context.Context, changes map[oakra.StockKey]int64, o oakra.BulkOptions) map[oakra.StockKey]error {
	failed := make(map[oakra.StockKey]error)
	var keys []oakra.StockKey // keys of the items, by index
	var items []oakra.StockChange
	for key, change := range changes {
		id, ok := s.ids[key]
		if !ok {
			failed[key] = &oakra.Error{
				Op:      "stock.change",
				Message: "Oakra has no record of " + key.SKU + " at " + key.LocationID,
				Outcome: oakra.OutcomeNotApplied,
				Err:     oakra.ErrInvalidRequest,
			}
			continue
		}
		keys = append(keys, key)
		items = append(items, oakra.StockChange{ID: id, QuantityChange: change})
	}
	// A signal that ends ctx must not cut off a write: that is what o.Stop is for.
	err := s.service.ChangeAll(context.WithoutCancel(ctx), items, o)
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		for _, f := range bulk.Failures {
			failed[keys[f.Index]] = f.Err
		}
	}
	return failed
}
