package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, `shirt-pink-m was rejected: oakra: stock.change: invalid request: Oakra has no record of shirt-pink-m at warehouse-1; nothing was applied: correct what was sent
shirt-green-m   141  (record 123)
shirt-white-m     6  (record 124)
shirt-blue-m    133  (record 222)
`, out.String())
}

// A change that the server rejects for another reason than its id is sent once.
func TestOtherRejectionStands(t *testing.T) {
	blue := oakra.StockRecord{ID: 122, LocationID: warehouse, SKU: "shirt-blue-m", Quantity: 135}
	server := oakratest.Start(t, blue)
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400,
		Body: `{"stock_records":[{"quantity_change":["The quantity would be less than zero."]}]}`})
	s := &stock{service: server.Client().Stock, ids: map[oakra.StockKey]int64{}}
	failed, err := s.changeAll(t.Context(), map[oakra.StockKey]int64{blue.Key(): -136}, oakra.BulkOptions{})
	require.NoError(t, err)
	require.Len(t, failed, 1)
	require.Equal(t, oakra.StepReject, oakra.NextStep(failed[blue.Key()]))
	require.ErrorContains(t, failed[blue.Key()], "less than zero")
	changes := 0
	for _, r := range server.Requests() {
		if r.Op == "stock.change" {
			changes++
		}
	}
	require.Equal(t, 1, changes)
}

// A lookup that fails at the start is an error, since nothing was sent; one that fails
// later leaves the rejections.
func TestLookupFails(t *testing.T) {
	blue := oakra.StockRecord{ID: 222, LocationID: warehouse, SKU: "shirt-blue-m", Quantity: 135}
	server := oakratest.Start(t, blue)
	server.Inject(oakratest.Fault{Op: "stock.list", Kind: oakratest.Respond, Status: 403, Times: 2})
	s := &stock{service: server.Client().Stock, ids: map[oakra.StockKey]int64{}}
	changes := map[oakra.StockKey]int64{blue.Key(): -1}
	_, err := s.changeAll(t.Context(), changes, oakra.BulkOptions{})
	require.ErrorIs(t, err, oakra.ErrForbidden)

	s.ids[blue.Key()] = 122
	failed, err := s.changeAll(t.Context(), changes, oakra.BulkOptions{})
	require.NoError(t, err)
	require.Equal(t, oakra.StepReject, oakra.NextStep(failed[blue.Key()]))

	failed, err = s.changeAll(t.Context(), changes, oakra.BulkOptions{})
	require.NoError(t, err)
	require.Empty(t, failed)
	require.Equal(t, int64(134), server.Quantity(222))
}

// The response is lost, and then the record is made anew: the change may have been
// applied, and is not sent again under the new id.
func TestUnknownOutcomeStands(t *testing.T) {
	blue := oakra.StockRecord{ID: 122, LocationID: warehouse, SKU: "shirt-blue-m", Quantity: 135}
	server := oakratest.Start(t, blue)
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter})
	s := &stock{service: server.Client().Stock, ids: map[oakra.StockKey]int64{}}
	failed, err := s.changeAll(t.Context(), map[oakra.StockKey]int64{blue.Key(): -1}, oakra.BulkOptions{
		OnProgress: func(oakra.BulkProgress) {
			server.ClearFaults()
			server.SetRecords(
				oakra.StockRecord{ID: 122, LocationID: warehouse, SKU: "gone", Quantity: 134},
				oakra.StockRecord{ID: 222, LocationID: warehouse, SKU: "shirt-blue-m", Quantity: 134})
		},
	})
	require.NoError(t, err)
	require.Equal(t, oakra.StepAsk, oakra.NextStep(failed[blue.Key()]))
	require.Equal(t, int64(134), server.Quantity(222))
}

// A third of the ids are stale and a tenth of the records are gone, while the server
// fails in all ways. What changeAll says of each key is compared with the ledger.
func TestStaleIDsInAStorm(t *testing.T) {
	var all tally
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { all.storm(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
	require.Positive(t, all.applied)
	require.Positive(t, all.mended)
	require.Positive(t, all.rejected)
}

// tally counts the keys of all storms.
type tally struct {
	applied  int // applied under the first id
	mended   int // applied under a new id
	rejected int // without a record
}

func (all *tally) storm(t *testing.T, random *rand.Rand) {
	const n, gone = 300, 10_000
	server := oakratest.Start(t)
	s := &stock{
		service: server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2})).Stock,
		ids:     make(map[oakra.StockKey]int64),
	}
	changes := make(map[oakra.StockKey]int64)
	idOf := make(map[oakra.StockKey]int64) // 0 if the server has no record
	stale := make(map[oakra.StockKey]bool)
	for i := range int64(n) {
		record := oakra.StockRecord{ID: i + 1, LocationID: warehouse, SKU: fmt.Sprint("sku-", i), Quantity: 1000}
		key := record.Key()
		changes[key] = random.Int64N(9) + 1
		switch random.IntN(10) {
		case 0: // deleted
			s.ids[key] = record.ID
			continue
		case 1, 2, 3: // made anew
			s.ids[key], stale[key] = gone+record.ID, true
		case 4, 5, 6:
			s.ids[key] = record.ID
		}
		idOf[key] = record.ID
		server.SetRecords(record)
	}
	for _, fault := range []oakratest.Fault{
		{Kind: oakratest.ResetBefore}, {Kind: oakratest.ResetAfter}, {Kind: oakratest.Refuse},
		{Kind: oakratest.CutBody}, {Kind: oakratest.RespondAfter, Status: 502},
		{Kind: oakratest.Respond, Status: 429, Header: http.Header{"Retry-After": {"1"}}},
	} {
		fault.Op, fault.Probability, fault.Seed = "stock.change", 0.08, random.Uint64()
		server.Inject(fault)
	}

	failed, err := s.changeAll(t.Context(), changes, oakra.BulkOptions{BatchSize: 10, OutageTimeout: time.Hour})
	require.NoError(t, err)

	times := make(map[int64]int) // how often each record was changed
	for _, r := range server.Requests() {
		for _, a := range r.Applied {
			times[a.ID]++
		}
	}
	for key, change := range changes {
		id, outcome := idOf[key], oakra.OutcomeOf(failed[key])
		require.LessOrEqual(t, times[id], 1, "%v was applied twice", key)
		switch {
		case id == 0:
			require.NotEqual(t, oakra.OutcomeApplied, outcome, "%v is gone", key)
			if oakra.NextStep(failed[key]) == oakra.StepReject {
				all.rejected++
				require.NotContains(t, s.ids, key)
			}
			continue
		case outcome == oakra.OutcomeApplied:
			require.Equal(t, 1, times[id], "%v is said to be applied", key)
			if stale[key] {
				all.mended++
			} else {
				all.applied++
			}
		case outcome == oakra.OutcomeNotApplied:
			require.Zero(t, times[id], "%v is said to be not applied: %v", key, failed[key])
			require.NotEqual(t, oakra.StepReject, oakra.NextStep(failed[key]), "%v has a record: %v", key, failed[key])
		}
		require.Equal(t, 1000+int64(times[id])*change, server.Quantity(id))
	}
}
