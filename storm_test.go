package oakra_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

var (
	stormChanges = flag.Int("storm", 2000, "how many changes the storm makes")
	stormSeed    = flag.Uint64("storm-seed", 1, "of the storm's faults")
)

// TestStorm makes each change once, of a record of its own, through faults of
// every kind, and then compares what the client says with what the server's
// ledger shows.
func TestStorm(t *testing.T) {
	before := runtime.NumGoroutine()
	n := *stormChanges
	records := make([]oakra.StockRecord, n)
	for i := range records {
		records[i] = oakra.StockRecord{ID: int64(i + 1), SKU: "sku", LocationID: "l", Quantity: 100}
	}
	server := oakratest.NewServer(records...)
	defer server.Close()
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.Refuse, Probability: 0.10},
		{Kind: oakratest.ResetBefore, Probability: 0.04},
		{Kind: oakratest.ResetAfter, Probability: 0.04},
		{Kind: oakratest.ApplyLate, Probability: 0.02, Delay: 5 * time.Millisecond},
		{Kind: oakratest.Respond, Status: 429, Probability: 0.06, Header: http.Header{"Retry-After": {"0"}}},
		{Kind: oakratest.Respond, Status: 400, Body: `{"detail":"No."}`, Probability: 0.02},
		{Kind: oakratest.Respond, Status: 503, Probability: 0.02},
		{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>", Probability: 0.04},
		{Kind: oakratest.RespondAfter, Status: 200, Body: `{"detail":"queued"}`, Probability: 0.02},
		{Kind: oakratest.CutBody, Probability: 0.04},
		{Kind: oakratest.OmitRecord, Probability: 0.02},
		{Kind: oakratest.Slow, Delay: 3 * time.Second, Probability: 0.003}, // outlasts the attempt
	} {
		f.Op, f.Seed = "stock.change", *stormSeed*100+uint64(i)
		server.Inject(f)
	}
	const attempts = 5
	client := oakra.KeepRoutes(server.Client(
		oakra.WithAttemptTimeout(2*time.Second),
		oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: attempts, MinBackoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond})))

	results := make([]error, n)
	var workers sync.WaitGroup
	next := make(chan int)
	for range 32 {
		workers.Go(func() {
			for i := range next {
				_, results[i] = client.Stock.Change(context.Background(), []oakra.StockChange{{ID: int64(i + 1), QuantityChange: 1}})
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	time.Sleep(1100 * time.Millisecond) // for what lands late

	// What the server saw of each change, which is in the order of its attempts.
	type seen struct {
		applied int
		last    oakratest.Request
		arrived int
	}
	ledger := make(map[int64]*seen)
	for _, request := range server.Requests() {
		if request.Op != "stock.change" {
			continue
		}
		id := idOf(t, request.Body)
		if ledger[id] == nil {
			ledger[id] = new(seen)
		}
		ledger[id].applied += len(request.Applied)
		ledger[id].last = request
		ledger[id].arrived++
	}
	quantities := make(map[int64]int64)
	for _, record := range server.Records() {
		quantities[record.ID] = record.Quantity
	}

	count := make(map[oakra.Outcome]int)
	for i, err := range results {
		id := int64(i + 1)
		s := ledger[id]
		if s == nil {
			s = new(seen)
		}
		require.LessOrEqual(t, s.applied, 1, "applied twice: id %d: %v", id, err)
		require.Equal(t, int64(100+s.applied), quantities[id], "id %d", id)

		outcome := oakra.OutcomeOf(err)
		count[outcome]++
		require.Equal(t, wantOutcome(s.last, s.arrived), outcome, "id %d, last struck by %q, response %d: %v", id, s.last.Fault, s.last.Status, err)
		switch outcome {
		case oakra.OutcomeApplied:
			require.Equal(t, 1, s.applied, "id %d: %v", id, err)
		case oakra.OutcomeNotApplied:
			require.Zero(t, s.applied, "id %d: %v", id, err)
			// What was not sent, or got a 429, was sent again until no attempts were
			// left.
			if oakra.Retryable(err) {
				require.Equal(t, attempts, requireError(t, err).Attempts, "id %d: %v", id, err)
			}
		}
	}
	t.Logf("%d applied, %d not applied, %d unknown; %d connections refused", count[oakra.OutcomeApplied],
		count[oakra.OutcomeNotApplied], count[oakra.OutcomeUnknown], server.Refused())
	for _, o := range []oakra.Outcome{oakra.OutcomeApplied, oakra.OutcomeNotApplied, oakra.OutcomeUnknown} {
		require.Positive(t, count[o], "the storm was too mild: no %v", o)
	}

	client.CloseIdleConnections()
	server.Close()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 5*time.Second, 10*time.Millisecond,
		"goroutines are left behind")
}

// wantOutcome returns all that the client can know, given the response to its last
// request that arrived. The attempts after that request were refused a connection, and
// change nothing.
func wantOutcome(last oakratest.Request, arrived int) oakra.Outcome {
	if arrived == 0 {
		return oakra.OutcomeNotApplied
	}
	switch last.Fault {
	case "":
		return oakra.OutcomeApplied
	case oakratest.Respond:
		if last.Status == 503 {
			return oakra.OutcomeUnknown
		}
		return oakra.OutcomeNotApplied
	}
	return oakra.OutcomeUnknown // no response, or one that proves nothing, as a cut within the only record
}

// idOf reads the id of a request with one change.
func idOf(t *testing.T, body []byte) int64 {
	t.Helper()
	var id, change int64
	_, err := fmt.Sscanf(string(body), `{"stock_records":[{"id":%d,"quantity_change":%d}]}`, &id, &change)
	require.NoError(t, err)
	return id
}
