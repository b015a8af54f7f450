package storm_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// This file tests servers that do not do what they say, and people who edit the
// witnesses.

// If a request is applied in part, the outbox halts before it sends anything else,
// whichever part it is and whatever the response says.
func TestPartOfARequestHalts(t *testing.T) {
	for name, part := range map[string]func(changes []oakra.StockChange) []oakra.StockChange{
		"head":         func(c []oakra.StockChange) []oakra.StockChange { return c[:1] },
		"all but tail": func(c []oakra.StockChange) []oakra.StockChange { return c[:len(c)-1] },
		"tail":         func(c []oakra.StockChange) []oakra.StockChange { return c[len(c)-1:] },
		"all but head": func(c []oakra.StockChange) []oakra.StockChange { return c[1:] },
		"half of tail": func(c []oakra.StockChange) []oakra.StockChange { c[len(c)-1].QuantityChange /= 2; return c },
	} {
		for _, says := range []error{
			errLost,
			nil,
			rejection("no"),
		} {
			t.Run(fmt.Sprintf("%s, %v", name, says), func(t *testing.T) {
				onSQLite(t, func(t *testing.T, d database) {
					s, w := newWrapped(t, d, 3, options())
					require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
					s.drain(t) // moves head and tail away from their start
					sent := 0
					w.set(func() {
						w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
							sent++
							records, err := w.Stock.Change(ctx, part(changes))
							if says != nil {
								return nil, says
							}
							return records, err
						}
					})
					require.NoError(t, s.Add(t.Context(), sell("b", 1, 1), sell("c", 2, 1)))
					require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
					require.Equal(t, 1, sent)
				})
			})
		}
	}
}

// The outbox halts whatever happens to a witness.
func TestTroubledWitnessHalts(t *testing.T) {
	for name, trouble := range map[string]func(r *oakra.StockRecord){
		"deleted":     func(r *oakra.StockRecord) { r.SKU = "deleted" },
		"moved":       func(r *oakra.StockRecord) { r.LocationID = "warehouse-2" },
		"sold":        func(r *oakra.StockRecord) { r.Quantity-- },
		"edited":      func(r *oakra.StockRecord) { r.Quantity = 200_000 },
		"capped":      func(r *oakra.StockRecord) { r.Quantity = min(r.Quantity, 199_999) },
		"set to zero": func(r *oakra.StockRecord) { r.Quantity = 0 },
	} {
		for _, witness := range []int64{1, 2} {
			t.Run(fmt.Sprintf("%s %d", name, witness), func(t *testing.T) {
				onSQLite(t, func(t *testing.T, d database) {
					s := newShop(t, d, 2, options())
					for i := range 2 { // moves head to 200,001
						require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), 0, 1)))
						s.drain(t)
					}
					s.troubleWitness(witness, trouble)
					writes := s.writes()
					require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
					require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
					require.Equal(t, writes, s.writes())
					require.Equal(t, outbox.StatePending, s.find(t, "b").State)
				})
			})
		}
	}
}

// The outbox also halts if a witness is deleted while a request is in flight. Resume
// parks the request, because nothing shows whether it landed.
func TestWitnessDeletedUnderWay(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 1, options())
		w.change = func(context.Context, []oakra.StockChange) ([]oakra.StockRecord, error) {
			s.troubleWitness(2, func(r *oakra.StockRecord) { r.SKU = "deleted" })
			return nil, errLost
		}
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		err := s.Drain(t.Context())
		require.ErrorIs(t, err, outbox.ErrHalted)
		require.ErrorContains(t, err, `"outbox-tail" at "warehouse-1" is gone`)
		by := outbox.ResumeOptions{By: "ann", Note: "made it again"}
		require.ErrorContains(t, s.Resume(t.Context(), by), "outbox-tail")
		s.server.SetRecords(oakra.StockRecord{ID: 5, SKU: tail.SKU, LocationID: tail.LocationID, Quantity: 200_000})
		require.NoError(t, s.Resume(t.Context(), by))
		require.Equal(t, outbox.StateParked, s.find(t, "a").State)
		w.set(func() { w.change = nil })
		require.NoError(t, s.Resolve(t.Context(), outbox.Decision{Action: outbox.Resend, By: "ann", Note: "it did not"}, "a"))
		s.drain(t)
		require.Equal(t, int64(999), s.quantity(0))
	})
}

// The outbox halts if the server rejects a witness.
func TestRejectedWitnessHalts(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		for _, id := range []int64{1, 2} {
			t.Run(fmt.Sprint(id), func(t *testing.T) {
				s, w := newWrapped(t, d, 1, options())
				w.change = rejecting(w.Stock, id, "is archived")
				require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
				err := s.Drain(t.Context())
				require.ErrorIs(t, err, outbox.ErrHalted)
				require.ErrorContains(t, err, "rejects the witness")
				require.ErrorContains(t, err, map[int64]string{1: head.SKU, 2: tail.SKU}[id])
				require.ErrorContains(t, err, "is archived")
				require.NotEqual(t, outbox.StateParked, s.find(t, "a").State)
			})
		}
	})
}

// Lists that are one read behind cost time, and sometimes a change counts twice until it
// is taken back. In the end no units are lost.
func TestStaleLists(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		o := options()
		o.RequestTimeout = time.Second
		s, w := newWrapped(t, d, 5, o)
		var last map[oakra.StockKey]oakra.StockRecord
		w.lookup = func(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
			found, err := w.Stock.Lookup(ctx, keys)
			w.mu.Lock()
			defer w.mu.Unlock()
			if _, ok := found[head]; !ok || err != nil {
				return found, err
			}
			stale := last
			if last = maps.Clone(found); stale == nil {
				return found, nil
			}
			return stale, nil
		}
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Probability: 0.4, Seed: 3})
		s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.OmitRecord, Probability: 0.4, Seed: 4})
		for i := range 10 {
			require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(i), i%5, 1)))
			s.drain(t)
		}
		s.server.ClearFaults()
		s.settle(t)
		for i := range 5 {
			require.Equal(t, int64(998), s.quantity(i))
		}
		require.Zero(t, s.status(t).Parked)
	})
}

// Row 9: three reads in a row that are older than the recorded quantities halt the
// outbox. The reason mentions that possibility, and the outbox continues after Resume.
func TestOldReadsHalt(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s, w := newWrapped(t, d, 2, options())
		old, err := w.Stock.Lookup(t.Context(), []oakra.StockKey{head, tail})
		require.NoError(t, err)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		s.drain(t)
		reads := 0
		w.lookup = func(context.Context, []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
			reads++
			return old, nil
		}
		require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
		err = s.Drain(t.Context())
		require.ErrorIs(t, err, outbox.ErrHalted)
		require.ErrorContains(t, err, "out of date")
		require.ErrorContains(t, err, "OPERATING.md")
		require.GreaterOrEqual(t, reads, 3)
		w.set(func() { w.lookup = nil })
		require.NoError(t, s.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "a stale cache"}))
		s.drain(t)
		require.Equal(t, []int64{999, 999}, []int64{s.quantity(0), s.quantity(1)})
	})
}

// A server that accepts at most 20 records, and does not say so, gets smaller requests,
// and nothing is parked.
func TestBatchLimit(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 100, options())
		s.server.SetDialect(oakratest.Dialect{BatchLimit: 20})
		for round := range 2 {
			var changes []outbox.Change
			for i := range 100 {
				changes = append(changes, sell(fmt.Sprintf("%d/%d", round, i), i, 1))
			}
			require.NoError(t, s.Add(t.Context(), changes...))
			s.drain(t)
			for i := range 100 {
				require.Equal(t, int64(999-round), s.quantity(i))
			}
		}
		status := s.status(t)
		require.Zero(t, status.Parked)
		require.LessOrEqual(t, status.BatchSize, 20)
		require.Less(t, status.Rejected, int64(20), "the limit is learnt")
	})
}

// A server that does not let a quantity fall below zero names the item in its rejection.
// The item's change is parked with the server's message, and the others are applied.
func TestSoldOut(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 3, options())
		s.server.SetDialect(oakratest.Dialect{RejectNegative: true})
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1), sell("b", 1, 1001), sell("c", 2, 1)))
		s.drain(t)
		require.Equal(t, outbox.StateParked, s.find(t, "b").State)
		require.Contains(t, s.find(t, "b").Reason, "quantity")
		require.Equal(t, []int64{999, 1000, 999}, []int64{s.quantity(0), s.quantity(1), s.quantity(2)})
	})
}
