package stocksync_test

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// TestSeveralRecordsOfOneKey checks that a key with several records, a fault in the
// account's data, does not keep the other targets from being synced.
func TestSeveralRecordsOfOneKey(t *testing.T) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			records := recordsTo(4)
			records[3].SKU = "sku-2"
			server := oakratest.NewServer(records...)
			defer server.Close()
			targets := plus(1, recordsTo(3)...)

			plan, err := stocksync.Compare(t.Context(), server.Client().Stock, targets, stocksync.Options{Mode: mode})
			require.NoError(t, err)
			require.Equal(t, []stocksync.Ambiguity{{Target: targets[1], Records: []oakra.StockRecord{records[1], records[3]}}}, plan.Ambiguous)
			report, err := plan.Apply(t.Context())
			require.ErrorIs(t, err, stocksync.ErrIncomplete)
			require.ErrorContains(t, err, `SKU "sku-2" at "w1": there are 2 records for it in Oakra, with the IDs [2 4]`)
			checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Rejected, stocksync.Synced))
			for i, want := range []int64{2, 2, 4, 4} {
				require.Equal(t, want, server.Records()[i].Quantity)
			}
		})
	}
}

// listing is a shop that lists its records as Oakra does. Like Oakra, it may ignore
// the case of SKUs.
type listing struct {
	*shop
	twice bool // whether each record is listed twice
}

func (l listing) ListSeq(ctx context.Context, params oakra.StockListParams) iter.Seq2[oakra.StockRecord, error] {
	return func(yield func(oakra.StockRecord, error) bool) {
		if _, err := l.Lookup(ctx, nil); err != nil {
			yield(oakra.StockRecord{}, err)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, id := range slices.Sorted(maps.Keys(l.records)) {
			r := l.records[id]
			asked := slices.ContainsFunc(params.SKUs, func(sku string) bool { return strings.EqualFold(sku, r.SKU) })
			if !asked || params.LocationID != "" && params.LocationID != r.LocationID {
				continue
			}
			if !yield(r, nil) || l.twice && !yield(r, nil) {
				return
			}
		}
	}
}

func TestCaseDiffers(t *testing.T) {
	key := func(sku, location string) oakra.StockKey {
		return oakra.StockKey{SKU: sku, LocationID: location}
	}
	stock := listing{shop: newShop(recordsTo(4)...)}
	other := record(9)
	other.LocationID = "w2"
	stock.records[9] = other
	plan, err := stocksync.Compare(t.Context(), stock, []stocksync.Target{
		{"SKU-1", "w1", 5}, {"Sku-1", "w1", 6}, {"sku-2", "W1", 5}, {"sku-3", "w1", 5}, {"SKU-3", "w1", 6}, {"sku-9", "w1", 5}, {"sku-8", "w2", 5},
	}, stocksync.Options{})
	require.NoError(t, err)
	require.Equal(t, map[oakra.StockKey]oakra.StockKey{
		key("SKU-1", "w1"): key("sku-1", "w1"), key("Sku-1", "w1"): key("sku-1", "w1"),
		key("sku-2", "W1"): key("sku-2", "w1"), key("SKU-3", "w1"): key("sku-3", "w1"),
	}, plan.Similar)
	report, err := plan.Apply(t.Context())
	require.NoError(t, err)
	require.Equal(t, 6, report.Count(stocksync.NotFound))
	for _, r := range report.Results {
		similar, ok := plan.Similar[r.Key()]
		require.Equal(t, ok, r.Err != nil, "%v", r)
		if ok {
			require.ErrorContains(t, r.Err, `there is SKU "`+similar.SKU+`" at "w1", which differs only in case`)
		}
	}

	_, err = stocksync.Sync(t.Context(), stock, []stocksync.Target{{"x", "w1", 5}, {"SKU-1", "w1", 5}}, stocksync.Options{})
	require.ErrorIs(t, err, stocksync.ErrNoneKnown)
	require.ErrorContains(t, err, `first SKU "SKU-1" at "w1": there is SKU "sku-1"`)
}

// TestListedTwice checks that a record that is listed twice counts as one.
func TestListedTwice(t *testing.T) {
	stock := listing{newShop(recordsTo(3)...), true}
	report, err := stocksync.Sync(t.Context(), stock, plus(1, recordsTo(3)...), stocksync.Options{})
	require.NoError(t, err)
	require.Equal(t, 3, report.Count(stocksync.Synced))
}

// TestRereadAmongSeveral checks that a record is identified by its ID if its key has
// got a second record meanwhile.
func TestRereadAmongSeveral(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		stock := listing{shop: newShop(record(5))}
		stock.next = inTurn(lost, responseLost)
		time.AfterFunc(time.Second, func() {
			stock.mu.Lock()
			defer stock.mu.Unlock()
			twin := record(5)
			twin.ID, twin.Quantity = 2, 9
			stock.records[2] = twin
		})
		report, err := stocksync.Sync(t.Context(), stock, plus(1, record(5)), stocksync.Options{Mode: mode})
		require.NoError(t, err)
		require.Equal(t, stocksync.Synced, report.Results[0].Status)
		require.Equal(t, int64(6), stock.quantity(5))
		require.Equal(t, int64(9), stock.quantity(2))
	})
}

// TestReadingBySeq checks that reading with ListSeq is tried again, as with Lookup.
func TestReadingBySeq(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stock, failures := listing{shop: newShop(recordsTo(2)...)}, 3
		stock.reading = func() error {
			if failures--; failures >= 0 {
				return &oakra.Error{Op: "stock.list", StatusCode: 503, Outcome: oakra.OutcomeNotApplied}
			}
			return nil
		}
		report, err := stocksync.Sync(t.Context(), stock, plus(1, recordsTo(2)...), stocksync.Options{})
		require.NoError(t, err)
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced))
		require.Equal(t, 5, stock.lookups, "two reads and one probe fail, one probe and one read do not")
	})
}

// TestSeen checks that Seen is the quantity that the last response or read showed,
// unless the record was sent since.
func TestSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := newShop(recordsTo(4)...)
		shop.next = inTurn(applied, responseLost, forbidden)
		targets := append(plus(1, recordsTo(3)...), plus(0, record(4))...)
		targets = append(targets, stocksync.Target{"x", "w1", 1})
		report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{BatchSize: 1, MaxSteps: 3})
		require.ErrorIs(t, err, stocksync.ErrIncomplete)
		seen := func(n int64) *int64 { return &n }
		want := []*int64{seen(2), seen(3), nil, seen(4), nil}
		for i, r := range report.Results {
			require.Equal(t, want[i], r.Seen, "%v", r)
		}

		report, err = stocksync.Sync(t.Context(), shop, plus(2, recordsTo(3)...), stocksync.Options{MaxSteps: 1})
		require.ErrorIs(t, err, stocksync.ErrTooManySteps)
		require.Equal(t, seen(2), report.Results[0].Seen, "what Compare read")
	})
}
