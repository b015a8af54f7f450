package stocksync_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// TestStorm syncs through faults of every kind and outages of some seconds, on
// servers that reject negative quantities, and compares each result with the server's
// ledger. Nobody else sells, and therefore every status must be right.
func TestStorm(t *testing.T) {
	waits := 0
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) { waits += storm(t, mode, seed) })
		})
	}
	require.Positive(t, waits, "no outage was met: the test does not test that")
}

// storm runs one storm and returns how many outages began.
func storm(t *testing.T, mode stocksync.Mode, seed uint64) (outages int) {
	const n = 600
	random := rand.New(rand.NewPCG(seed, uint64(mode)))
	byItem, stopped := seed%3 == 1, seed%4 == 3
	// If nothing is read after a rejection, a server that saves item by item may have
	// written a record of the request although its response was a rejection.
	looked := !byItem || !stopped && mode == stocksync.ByChange
	server := oakratest.Start(t, stock(n)...)
	server.SetDialect(oakratest.Dialect{RejectNegative: true, ItemByItem: byItem, BatchLimit: []int{0, 25}[seed/6%2]})
	server.SetLatency(20*time.Millisecond, 0)
	trouble(server, 100*seed)
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.Refuse},
		{Kind: oakratest.ResetBefore},
		{Kind: oakratest.OmitRecord},
		{Kind: oakratest.ApplyLate, Delay: 10 * time.Second},
		{Kind: oakratest.Respond, Status: 409, Body: `{"detail":"Locked."}`},
	} {
		f.Op, f.Probability, f.Seed = opOf(mode), 0.03, 100*seed+uint64(10+i)
		server.Inject(f)
	}
	down := []oakratest.Fault{
		{Kind: oakratest.Respond, Status: http.StatusBadGateway, Body: "<html>Bad Gateway</html>"},
		{Kind: oakratest.Refuse},
		{Kind: oakratest.ResetBefore},
	}
	targets := feed(n)
	negative := 0
	for i := range targets {
		if targets[i].Quantity < 0 {
			negative++
			continue
		}
		if targets[i].Quantity = random.Int64N(500); random.IntN(100) == 0 {
			targets[i].Quantity = -1 - random.Int64N(5)
			negative++
		}
	}
	before := make(map[int64]int64)
	for _, r := range server.Records() {
		before[r.ID] = r.Quantity
	}

	o := stocksync.Options{Mode: mode, BatchSize: 10 + random.IntN(60)}
	if stopped {
		o.Stop = stopAfter(time.Duration(random.IntN(200)) * time.Second)
	}
	written := 0
	o.OnProgress = func(p stocksync.Progress) {
		if p.Phase == stocksync.Writing && p.Done >= written+n/4 && outages < len(down) {
			written = p.Done
			f := down[outages]
			f.Times = 3 + random.IntN(12)
			server.Inject(f)
			outages++
		}
	}
	report, err := stocksync.Sync(t.Context(), clientOf(server).Stock, targets, o)
	time.Sleep(time.Minute) // every late write has arrived
	synctest.Wait()

	changed := make(map[int64]bool)
	if mode == stocksync.ByChange {
		changed, _ = checkChangedOnce(t, server)
	}
	require.Len(t, report.Results, n)
	complete := true
	for _, r := range report.Results {
		complete = complete && r.Status == stocksync.Synced
		if r.ID == 0 { // it was at the target before
			require.Equal(t, stocksync.Synced, r.Status)
			continue
		}
		has := server.Quantity(r.ID)
		switch r.Status {
		case stocksync.Synced:
			require.Equal(t, r.Quantity, has, "%v", r)
		case stocksync.Rejected:
			require.True(t, r.Quantity < 0 || errors.Is(r.Err, oakra.ErrConflict), "%v", r)
			require.True(t, has == before[r.ID] || !looked, "%v", r)
		case stocksync.NotTried:
			require.True(t, has == before[r.ID] && !changed[r.ID] || !looked, "%v", r)
		case stocksync.Unknown:
			require.Contains(t, []int64{before[r.ID], r.Quantity}, has, "%v", r)
		default:
			t.Errorf("%v", r)
		}
	}
	require.Equal(t, complete, err == nil, "%v", err)
	t.Logf("seed %d: %d negative; %d synced, %d rejected, %d unknown, %d not tried; %v", seed, negative,
		report.Count(stocksync.Synced), report.Count(stocksync.Rejected), report.Count(stocksync.Unknown), report.Count(stocksync.NotTried), err)

	// Another run without faults leaves only the rejected targets.
	server.ClearFaults()
	o.Stop, o.OnProgress = nil, nil
	report, err = stocksync.Sync(t.Context(), clientOf(server).Stock, targets, o)
	for _, r := range report.Results {
		if r.Status == stocksync.Rejected {
			require.Negative(t, r.Quantity, "%v", r)
			continue
		}
		require.Equal(t, stocksync.Synced, r.Status, "%v", r)
		require.Equal(t, r.Quantity, server.Quantity(idOf(r.SKU)), "%v", r)
	}
	require.Equal(t, report.Count(stocksync.Rejected) > 0, err != nil, "%v", err)
	if err != nil {
		require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
	}
	return outages
}

// idOf returns the ID in a SKU that record made.
func idOf(sku string) (id int64) {
	_, _ = fmt.Sscanf(sku, "sku-%d", &id)
	return id
}
