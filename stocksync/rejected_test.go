package stocksync_test

import (
	"context"
	"iter"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// opOf returns the operation that a mode writes with.
func opOf(mode stocksync.Mode) string {
	if mode == stocksync.ByUpdate {
		return "stock.update"
	}
	return "stock.change"
}

// writes returns how many requests the server received that write stock.
func writes(server *oakratest.Server) (n int) {
	for _, request := range server.Requests() {
		if request.Op == opOf(stocksync.ByChange) || request.Op == opOf(stocksync.ByUpdate) {
			n++
		}
	}
	return n
}

// TestRejectedByServer sends a thousand targets, two of them negative, to servers that
// reject negative quantities. Some of the servers save the good records of the request.
func TestRejectedByServer(t *testing.T) {
	for name, tt := range map[string]struct {
		dialect oakratest.Dialect
		writes  int // number of write requests by change: two, and those sent again
	}{
		"whole":          {oakratest.Dialect{RejectNegative: true}, 4},
		"item by item":   {oakratest.Dialect{RejectNegative: true, ItemByItem: true}, 2},
		"whole, limited": {oakratest.Dialect{RejectNegative: true, BatchLimit: 500}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) {
				server := oakratest.Start(t, recordsTo(1000)...)
				server.SetDialect(tt.dialect)
				targets := plus(1, recordsTo(1000)...)
				targets[100].Quantity, targets[900].Quantity = -5, -7
				report, err := stocksync.Sync(t.Context(), server.Client().Stock, targets, stocksync.Options{Mode: mode})
				require.ErrorIs(t, err, stocksync.ErrIncomplete)
				require.Equal(t, 2, report.Count(stocksync.Rejected))
				require.Equal(t, 998, report.Count(stocksync.Synced))
				for i, r := range report.Results {
					if r.Status == stocksync.Synced {
						require.Equal(t, r.Quantity, server.Quantity(r.ID), "%v", r)
						require.Equal(t, &targets[i].Quantity, r.Seen)
						continue
					}
					require.Contains(t, []int{100, 900}, i)
					require.True(t, oakra.Rejected(r.Err), "%v", r.Err)
					require.Equal(t, int64(i+1), server.Quantity(r.ID))
				}
				if mode == stocksync.ByChange {
					checkChangedOnce(t, server)
					require.Equal(t, tt.writes, writes(server))
				}
			})
		})
	}
}

// stale is a StockService whose first list has another ID for sku-41.
type stale struct {
	*oakra.StockService
	lists int
}

func (s *stale) ListSeq(ctx context.Context, params oakra.StockListParams) iter.Seq2[oakra.StockRecord, error] {
	s.lists++
	first := s.lists == 1
	return func(yield func(oakra.StockRecord, error) bool) {
		for r, err := range s.StockService.ListSeq(ctx, params) {
			if first && r.SKU == "sku-41" {
				r.ID = 4711
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

// TestUnknownIDs checks ids that the server does not know. The response does not name
// them, but reading the records again does.
func TestUnknownIDs(t *testing.T) {
	for _, byItem := range []bool{false, true} {
		inModes(t, func(t *testing.T, mode stocksync.Mode) {
			server := oakratest.Start(t, recordsTo(100)...)
			server.SetDialect(oakratest.Dialect{UnknownIDNotFound: true, ItemByItem: byItem})
			stock := &stale{StockService: server.Client().Stock}
			report, err := stocksync.Sync(t.Context(), stock, plus(1, recordsTo(100)...), stocksync.Options{Mode: mode})
			require.ErrorIs(t, err, stocksync.ErrIncomplete)
			require.Equal(t, 99, report.Count(stocksync.Synced))
			if mode == stocksync.ByChange {
				require.Equal(t, stocksync.NotTried, report.Results[40].Status)
				require.ErrorContains(t, err, "record 4711 is gone, and there is record 41 for the SKU and location")
				require.LessOrEqual(t, writes(server), 2)
			} else {
				require.Equal(t, stocksync.Rejected, report.Results[40].Status)
			}
			for _, r := range server.Records() {
				want := r.ID
				if r.ID != 41 {
					want++
				}
				require.Equal(t, want, r.Quantity)
			}
		})
	}
}

// TestLimit checks a server that accepts fewer records than a request has, and whose
// response does not say so in a form that a program can read.
func TestLimit(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2000)...)
		server.SetDialect(oakratest.Dialect{BatchLimit: 20})
		targets := plus(1, recordsTo(2000)...)
		report, err := stocksync.Sync(t.Context(), server.Client().Stock, targets, stocksync.Options{Mode: mode})
		checkAllSynced(t, report, err, 2000)
		checkServer(t, server, targets, nil)
		require.Less(t, writes(server), 160)
		if mode == stocksync.ByChange {
			checkChangedOnce(t, server)
		}
	})
}

// TestSetupAtFault checks that records are neither sent one by one nor Rejected if the
// response would be the same for every record.
func TestSetupAtFault(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2000)...)
		server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.Respond, Status: 400, Body: `{"detail":"Unsupported API version."}`})
		report, err := stocksync.Sync(t.Context(), server.Client().Stock, plus(1, recordsTo(2000)...), stocksync.Options{Mode: mode})
		require.Equal(t, 2000, report.Count(stocksync.NotTried))
		require.ErrorIs(t, err, oakra.ErrInvalidRequest)
		require.ErrorContains(t, err, "correct what stopped the run")
		require.Less(t, writes(server), 100)
		for _, r := range report.Results {
			require.Error(t, r.Err)
		}
	})
}

// TestRejectionLookup checks that the records that are read after a rejection of
// several records decide their statuses. Records 1 to 8 are to get one more unit.
// Somebody sells or returns units at the time of the rejected request.
func TestRejectionLookup(t *testing.T) {
	for name, tt := range map[string]struct {
		bad     []int64
		set     func(*shop)
		brought map[int64]int64
		want    []stocksync.Status
		sent    int
		lookups int // number of lookups after those of Compare
	}{
		"one bad, named": {
			[]int64{3}, func(s *shop) { s.named = true }, nil,
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced}, 2, 1,
		},
		"all bad, named": {
			[]int64{1, 2, 3, 4, 5, 6, 7, 8}, func(s *shop) { s.named = true }, nil,
			[]stocksync.Status{stocksync.Rejected, stocksync.Rejected, stocksync.Rejected, stocksync.Rejected, stocksync.Rejected, stocksync.Rejected, stocksync.Rejected, stocksync.Rejected}, 1, 0,
		},
		"one bad, not named": { // requests of 8, 4, 2, 1, 1, 2, 4 records; the first three and one of the single ones are rejected
			[]int64{3}, func(*shop) {}, nil,
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced}, 7, 3,
		},
		"item by item, named": {
			[]int64{3, 6}, func(s *shop) { s.named, s.byItem = true, true }, nil,
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced}, 1, 1,
		},
		"item by item, not named": {
			[]int64{3, 6}, func(s *shop) { s.byItem = true }, nil,
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced}, 3, 1,
		},
		"item by item, up to the first bad one": {
			[]int64{3, 6}, func(s *shop) { s.named, s.prefix = true, true }, nil,
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced}, 6, 1,
		},
		"item by item, one sold": { // at From, though it was applied
			[]int64{8}, func(s *shop) { s.named, s.byItem = true, true }, map[int64]int64{4: -1},
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Unknown, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Rejected}, 1, 1,
		},
		"item by item, last sold": {
			[]int64{3}, func(s *shop) { s.named, s.byItem = true, true }, map[int64]int64{8: -1},
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Unknown}, 1, 1,
		},
		"item by item, most sold": {
			[]int64{8}, func(s *shop) { s.named, s.byItem = true, true }, map[int64]int64{2: -9, 3: -9, 4: -9, 5: -9, 6: -9, 7: -1},
			[]stocksync.Status{stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Rejected}, 1, 1,
		},
		"item by item, not named, most sold": {
			[]int64{8}, func(s *shop) { s.byItem = true }, map[int64]int64{2: -9, 3: -9, 4: -9, 5: -9, 6: -9, 7: -1},
			[]stocksync.Status{stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown}, 1, 1,
		},
		"item by item, all sold": {
			[]int64{8}, func(s *shop) { s.named, s.byItem = true, true }, map[int64]int64{1: -9, 2: -9, 3: -9, 4: -9, 5: -9, 6: -9, 7: -1},
			[]stocksync.Status{stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Unknown, stocksync.Rejected}, 1, 1,
		},
		"whole, one brought": { // at To, though nothing was applied
			[]int64{8}, func(s *shop) { s.named = true }, map[int64]int64{4: 1},
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Unknown, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Rejected}, 2, 1,
		},
		"whole, one sold": { // a change keeps the sale
			[]int64{8}, func(s *shop) { s.named = true }, map[int64]int64{4: -9},
			[]stocksync.Status{stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Synced, stocksync.Rejected}, 2, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := newShop(recordsTo(8)...)
				for _, id := range tt.bad {
					shop.bad[id] = true
				}
				tt.set(shop)
				shop.next = func([]int64) event {
					if shop.sent == 1 { // next is called with the lock held
						for id, n := range tt.brought {
							r := shop.records[id]
							r.Quantity += n
							shop.records[id] = r
						}
					}
					return applied
				}
				start := time.Now()
				report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(8)...), stocksync.Options{})
				require.ErrorIs(t, err, stocksync.ErrIncomplete)
				checkStatuses(t, report, statuses(tt.want...))
				require.Equal(t, tt.sent, shop.sent, "requests")
				require.Equal(t, tt.lookups, shop.lookups-1, "lookups")
				require.Zero(t, time.Since(start), "a rejected request does not land later")
				for id := int64(1); id <= 8; id++ {
					require.LessOrEqual(t, shop.timesWritten(id), 1, "record %d", id)
					if tt.want[id-1] == stocksync.Synced {
						require.Equal(t, 1, shop.timesWritten(id), "record %d", id)
					}
				}
			})
		})
	}
}

// TestRejectionNotRead checks that the other records of a rejected request are Unknown
// if they cannot be read: the server may have saved them.
func TestRejectionNotRead(t *testing.T) {
	for _, byItem := range []bool{false, true} {
		shop := newShop(recordsTo(3)...)
		shop.bad[2], shop.named, shop.byItem = true, true, byItem
		shop.reading = func() error {
			if shop.lookups > 1 {
				return &oakra.Error{Op: "stock.list", StatusCode: 401, Outcome: oakra.OutcomeNotApplied}
			}
			return nil
		}
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{})
		require.ErrorIs(t, err, oakra.ErrUnauthorized)
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.Rejected, stocksync.Unknown))
		require.Equal(t, 1, shop.sent)
	}
}

// TestNotRejected checks that a record is not Rejected if the response comes from
// another server or is about something else.
func TestNotRejected(t *testing.T) {
	for name, respond := range map[string]oakratest.Fault{
		"a page":       {Status: 400, Body: "<html>Bad Request</html>"},
		"no name":      {Status: 400, Body: `{"detail":"Unsupported API version."}`},
		"empty":        {Status: 404, Header: http.Header{"Content-Type": {"application/json"}}},
		"payment":      {Status: 402, Body: `{"errors":"the shop is closed"}`},
		"forbidden":    {Status: 403, Body: `{"detail":"No."}`},
		"gone":         {Status: 410, Body: `{"detail":"No."}`},
		"too large":    {Status: 413, Body: "<html>Too large</html>"},
		"unauthorized": {Status: 401, Body: `{"detail":"No."}`},
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) {
				server := oakratest.Start(t, record(1))
				respond.Kind = oakratest.Respond
				respond.Op = opOf(mode)
				server.Inject(respond)
				report, err := stocksync.Sync(t.Context(), server.Client().Stock, plus(1, record(1)), stocksync.Options{Mode: mode})
				checkStatuses(t, report, statuses(stocksync.NotTried))
				require.False(t, oakra.Rejected(report.Results[0].Err))
				require.ErrorContains(t, err, "correct what stopped the run")
				require.LessOrEqual(t, writes(server), map[stocksync.Mode]int{stocksync.ByChange: 1, stocksync.ByUpdate: 3}[mode], "an update looks for its route")
			})
		})
	}
}

// TestRejectedAmongPassing checks that a request that failed for a temporary reason
// waits, even if another request of the same call was rejected.
func TestRejectedAmongPassing(t *testing.T) {
	for name, event := range map[string]event{"limited": limited, "unreachable": unreachable} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := newShop(recordsTo(4)...)
				shop.bad[1], shop.named = true, true
				shop.next = inTurn(applied, event)
				start := time.Now()
				report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(4)...), stocksync.Options{BatchSize: 2})
				require.ErrorIs(t, err, stocksync.ErrIncomplete)
				checkStatuses(t, report, statuses(stocksync.Rejected, stocksync.Synced, stocksync.Synced, stocksync.Synced))
				require.Equal(t, time.Minute, time.Since(start))
				require.Equal(t, 4, shop.sent)
			})
		})
	}
}

// TestRunEnds checks that nothing is sent after a failure that every request would
// meet, but that unknown outcomes are still settled.
func TestRunEnds(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		for _, first := range []event{limited, lost, responseLost} {
			shop := newShop(recordsTo(3)...)
			shop.next = inTurn(first, forbidden)
			report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode, BatchSize: 1})
			if first == limited {
				require.ErrorIs(t, err, oakra.ErrForbidden)
				require.ErrorContains(t, err, "correct what stopped the run")
			}
			want := map[event]stocksync.Status{limited: stocksync.NotTried, lost: stocksync.Unknown, responseLost: stocksync.Synced}[first]
			checkStatuses(t, report, statuses(want, stocksync.NotTried, stocksync.NotTried))
			require.Equal(t, 2, shop.sent)
		}
	})
}
