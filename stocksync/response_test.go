package stocksync_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// TestDiffers checks a server that does not go below zero: it accepts an update to -3
// and responds with 0. A change is still Synced.
func TestDiffers(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(3)...)
		shop.shows = func(r oakra.StockRecord) oakra.StockRecord {
			r.Quantity = max(0, r.Quantity)
			return r
		}
		targets := plus(1, recordsTo(3)...)
		targets[1].Quantity = -3
		report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{Mode: mode})
		require.Equal(t, int64(2), *report.Results[0].Seen)
		require.Equal(t, int64(0), *report.Results[1].Seen)
		if mode == stocksync.ByChange {
			require.NoError(t, err)
			require.Equal(t, 3, report.Count(stocksync.Synced))
			return
		}
		checkStatuses(t, report, map[string]stocksync.Status{
			"sku-1@w1=2": stocksync.Synced, "sku-2@w1=-3": stocksync.Differs, "sku-3@w1=4": stocksync.Synced,
		})
		require.ErrorIs(t, err, stocksync.ErrIncomplete)
		require.ErrorContains(t, err, "of 3 targets, 2 synced, 1 differs; those that differ were accepted, but the server shows another quantity; "+
			`first differs, SKU "sku-2" at "w1": it was set to -3, and the response shows 0`)
		require.Equal(t, 1, shop.sent)
	})
}

// TestShownByPart checks that a response that lacks a record still shows the others.
func TestShownByPart(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(3)...)
		shop.next = inTurn(omitted)
		shop.shows = func(r oakra.StockRecord) oakra.StockRecord {
			if r.ID == 1 {
				r.Quantity = 7
			}
			return r
		}
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode})
		require.Equal(t, int64(7), *report.Results[0].Seen)
		require.Equal(t, int64(4), *report.Results[2].Seen, "read again")
		if mode == stocksync.ByChange {
			require.NoError(t, err)
			return
		}
		checkStatuses(t, report, statuses(stocksync.Differs, stocksync.Synced, stocksync.Synced))
	})
}

// TestResponseNamesAnotherSKU checks that a record is Unknown if the response names
// another SKU: it is not known which record was written.
func TestResponseNamesAnotherSKU(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(3)...)
		shop.shows = func(r oakra.StockRecord) oakra.StockRecord {
			if r.ID == 2 {
				r.SKU = "sku-7"
			}
			return r
		}
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode})
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Unknown, stocksync.Synced))
		require.ErrorContains(t, err, `SKU "sku-2" at "w1": the response names SKU "sku-7" for the ID 2`)
		require.Equal(t, 1, shop.sent)
		require.Zero(t, time.Since(start))
	})
}

// TestApplyReadsAgain checks that Apply reads again: while a person reviews the plan,
// records may change.
func TestApplyReadsAgain(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(5)...)
		plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(5)...), stocksync.Options{Mode: mode})
		require.NoError(t, err)
		delete(shop.records, 1)
		moved := shop.records[2]
		moved.ID = 12
		delete(shop.records, 2)
		shop.records[12] = moved
		renamed := shop.records[3]
		renamed.SKU = "sku-33"
		shop.records[3] = renamed
		shop.sell(4, 2)

		report, err := plan.Apply(t.Context())
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried, stocksync.NotTried, stocksync.Synced, stocksync.Synced))
		require.ErrorIs(t, err, stocksync.ErrIncomplete)
		require.ErrorContains(t, report.Results[0].Err, "record 1 is gone, and there is no record for the SKU and location")
		require.ErrorContains(t, report.Results[1].Err, "record 2 is gone, and there is record 12 for the SKU and location")
		require.ErrorContains(t, report.Results[2].Err, "record 3 is gone, and there is no record for the SKU and location")
		require.Nil(t, report.Results[0].Seen)
		require.Equal(t, int64(3), shop.quantity(3))
		require.Equal(t, int64(6), shop.quantity(5))
		want := map[stocksync.Mode]int64{stocksync.ByChange: 3, stocksync.ByUpdate: 5}[mode] // the sale is kept
		require.Equal(t, want, shop.quantity(4))
		require.Equal(t, 2, shop.lookups)
		require.Equal(t, 1, shop.sent)
	})
}

// TestApplyCannotReadAgain checks that nothing is written if reading again fails.
func TestApplyCannotReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := newShop(recordsTo(2)...)
		plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
		require.NoError(t, err)
		shop.reading = func() error {
			return &oakra.Error{Op: "stock.list", StatusCode: 503, Outcome: oakra.OutcomeNotApplied}
		}
		report, err := plan.Apply(t.Context())
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
		require.ErrorIs(t, err, stocksync.ErrIncomplete)
		require.ErrorIs(t, err, oakra.ErrServer)
		require.ErrorContains(t, err, "nothing of those not tried was applied: run again")
		require.Zero(t, shop.sent)
	})
}

// TestSettledFromWhatApplyRead checks that a sale before Apply is not mistaken for a
// sale during it.
func TestSettledFromWhatApplyRead(t *testing.T) {
	for name, event := range map[string]event{"lost": lost, "applied": responseLost, "limited": limited} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := newShop(record(10))
				plan, err := stocksync.Compare(t.Context(), shop, plus(5, record(10)), stocksync.Options{})
				require.NoError(t, err)
				shop.sell(10, 2)
				shop.next = inTurn(event)
				_, err = plan.Apply(t.Context())
				require.NoError(t, err)
				require.Equal(t, int64(13), shop.quantity(10))
				require.Equal(t, 1, shop.timesWritten(10))
			})
		})
	}
}

// TestSyncReadsOnce checks that Sync does not read again before it writes.
func TestSyncReadsOnce(t *testing.T) {
	shop := newShop(recordsTo(2)...)
	_, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
	require.NoError(t, err)
	require.Equal(t, 1, shop.lookups)
}

// TestReadBeforeSentAgain checks that a change that was not applied for a temporary
// reason is sent again only to the record that was compared.
func TestReadBeforeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := newShop(recordsTo(2)...)
		shop.next = inTurn(limited)
		time.AfterFunc(time.Second, func() {
			shop.mu.Lock()
			defer shop.mu.Unlock()
			delete(shop.records, 1)
		})
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
		require.ErrorContains(t, err, "record 1 is gone")
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.Synced))
		require.Equal(t, 2, shop.lookups)
		require.Zero(t, shop.timesWritten(1))
	})
}

// TestMultiStatus checks that the records of a 207 prove nothing.
func TestMultiStatus(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2)...)
		server.Inject(oakratest.Fault{Op: opOf(mode), Times: 1, Kind: oakratest.Respond, Status: 207, Body: `[
			{"id":1,"location_id":"w1","sku":"sku-1","quantity":2}, {"id":2,"location_id":"w1","sku":"sku-2","quantity":3}]`})
		targets := plus(1, recordsTo(2)...)
		report, err := stocksync.Sync(t.Context(), server.Client().Stock, targets, stocksync.Options{Mode: mode})
		checkAllSynced(t, report, err, 2)
		checkServer(t, server, targets, nil)
		require.Equal(t, 2, writes(server))
	})
}
