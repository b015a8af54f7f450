package storm_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// The changes of a key for which Oakra has two records are parked, and do not hold up
// others.
func TestTwoRecordsOfAKey(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 9, options())
		s.server.SetRecords(oakra.StockRecord{ID: 90, SKU: itemKey(4).SKU, LocationID: itemKey(4).LocationID, Quantity: 5})
		for i := range 9 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), i, 1)))
		}
		s.drain(t)
		for i := range 9 {
			e := s.find(t, fmt.Sprint(i))
			if i == 4 {
				require.Equal(t, outbox.StateParked, e.State)
				require.Contains(t, e.Reason, "two records, 90 and 1004")
				continue
			}
			require.Equal(t, outbox.StateApplied, e.State)
			require.Equal(t, int64(999), s.quantity(i))
		}
	})
}

// The changes of a key that the server refuses to look up are parked with the server's
// message. While the server looks up nothing, not even the witnesses, nothing is parked.
func TestLookupIsRejected(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 9, options())
		rejected := &oakra.Error{Op: "stock.list", Method: "GET", StatusCode: 400, Outcome: oakra.OutcomeNotApplied, Message: "sku: too odd"}
		w.lookup = func(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if slices.Contains(keys, itemKey(4)) {
				return nil, rejected
			}
			return w.Stock.Lookup(ctx, keys)
		}
		for i := range 9 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), i, 1)))
		}
		s.drain(t)
		require.Equal(t, outbox.StateParked, s.find(t, "4").State)
		require.Equal(t, "sku: too odd", s.find(t, "4").Reason)
		for i := range 9 {
			if i != 4 {
				require.Equal(t, int64(999), s.quantity(i))
			}
		}

		notHTTP := &oakra.Error{Op: "stock.list", Method: "GET", Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrBadResponse}
		for i, failure := range []*oakra.Error{rejected, notHTTP} {
			calls := 0
			w.set(func() {
				w.lookup = func(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
					w.mu.Lock()
					defer w.mu.Unlock()
					if slices.Contains(keys, head) && (failure == notHTTP || calls == 0) { // otherwise the test would not reach the other lookups
						return w.Stock.Lookup(ctx, keys)
					}
					calls++
					return nil, failure
				}
			})
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint("x", i), 4, 1), sell(fmt.Sprint("y", i), 10+i, 1)))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded)
			require.Positive(t, calls)
			require.Less(t, calls, 10)
			require.Equal(t, int64(1), s.status(t).Parked)
		}
	})
}

// The record of a SKU that was renamed has two keys for a while, and their changes are
// summed. If the record is rejected, the old name is no longer known.
func TestRenamedSKU(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 1, options())
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		s.server.SetRecords(oakra.StockRecord{ID: firstItem, SKU: "renamed", LocationID: "warehouse-1", Quantity: 999})
		renamed := func(id string, units int64) outbox.Change {
			return outbox.Change{ID: id, SKU: "renamed", LocationID: "warehouse-1", QuantityChange: -units}
		}
		require.NoError(t, s.Add(t.Context(), sell("b", 0, 10), renamed("c", 100)))
		writes := s.writes()
		s.drain(t)
		require.Equal(t, int64(889), s.quantity(0))
		require.Equal(t, writes+1, s.writes())

		w.set(func() { w.change = rejecting(w.Stock, firstItem, "sold out") })
		require.NoError(t, s.Add(t.Context(), sell("d", 0, 1), renamed("e", 1)))
		s.drain(t)
		require.Contains(t, s.find(t, "d").Reason, "not known")
		require.Equal(t, "quantity_change: sold out", s.find(t, "e").Reason)
		require.Equal(t, int64(889), s.quantity(0))
	})
}

// If a record moves to another ID before a second landing is taken back, the undo
// follows it.
func TestUndoFollowsAMovedRecord(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(func() {
			w.change = rejecting(w.Stock, firstItem, "does not exist")
			s.server.SetRecords(
				oakra.StockRecord{ID: firstItem, SKU: "gone", LocationID: "warehouse-1", Quantity: 0},
				oakra.StockRecord{ID: 80, SKU: itemKey(0).SKU, LocationID: "warehouse-1", Quantity: 994})
		})
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(997), s.server.Quantity(80))
		require.Equal(t, int64(996), s.quantity(1))
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
		require.Positive(t, s.status(t).Compensated)
	})
}

// An undo that lands twice is taken back itself.
func TestUndoOfAnUndo(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(func() { w.late(nil) })
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(997), s.quantity(0))
		require.Equal(t, int64(996), s.quantity(1))
		status := s.status(t)
		require.GreaterOrEqual(t, status.Compensated, int64(2))
		require.Zero(t, status.Parked)
	})
}

// Row 4: an undo that landed twice must be taken back, but that is rejected. The change
// may not count, and is parked.
func TestUndoOfAnUndoIsRejected(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(func() {
			w.late(func() { w.change = rejecting(w.Stock, firstItem, "no sales") })
		})
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(1000), s.quantity(0))
		require.Equal(t, int64(996), s.quantity(1))
		a := s.find(t, "a")
		require.Equal(t, outbox.StateParked, a.State)
		require.Contains(t, a.Reason, "it may not count")
		require.Contains(t, a.Reason, "no sales")
		require.Equal(t, outbox.StateApplied, s.find(t, "b").State)
	})
}

// An undo is rejected without naming an item, it is split, and one half is rejected
// again. The change that counts twice is still parked.
func TestHalfOfAnUndoIsRejected(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 2, o)
		w.late(func() {
			named := rejecting(w.Stock, firstItem, "no returns")
			w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
				if len(changes) > 3 {
					return nil, rejection("no")
				}
				return named(ctx, changes)
			}
		})
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 3), sell("b", 1, 4)))
		s.settle(t)
		require.Equal(t, int64(994), s.quantity(0))
		require.Equal(t, int64(996), s.quantity(1))
		a := s.find(t, "a")
		require.Equal(t, outbox.StateParked, a.State)
		require.Contains(t, a.Reason, "counts once more")
		require.Equal(t, outbox.StateApplied, s.find(t, "b").State)
	})
}
