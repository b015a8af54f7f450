package oakra_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestBulkStorm sends many items with repeated ids and some bad ones through
// faults of every kind and two short outages, and compares each outcome with the
// ledger of the server.
func TestBulkStorm(t *testing.T) {
	const ids, n = 1500, 5000
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		holds := 0
		defer func() { require.Positive(t, holds, "the storm was too mild: no run waited") }()
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3))
				server := bulkServer(t, ids)
				server.SetDialect(oakratest.Dialect{UnknownIDNotFound: seed%2 == 1, Chunked: seed%2 == 0})
				before := runtime.NumGoroutine()
				for i, f := range []oakratest.Fault{
					{Kind: oakratest.Refuse, Probability: 0.05},
					{Kind: oakratest.ResetBefore, Probability: 0.02},
					{Kind: oakratest.ResetAfter, Probability: 0.02},
					{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>", Probability: 0.02},
					{Kind: oakratest.Respond, Status: 503, Probability: 0.02},
					{Kind: oakratest.Respond, Status: 429, Probability: 0.02, Header: http.Header{"Retry-After": {"0"}}},
					{Kind: oakratest.Respond, Status: 409, Body: `{"detail":"Locked."}`, Probability: 0.02},
					{Kind: oakratest.CutBody, Probability: 0.05},
					{Kind: oakratest.OmitRecord, Probability: 0.05},
				} {
					f.Op, f.Seed = op.name, seed*100+uint64(i)
					server.Inject(f)
				}
				items := make([]bulkItem, n)
				for i := range items {
					items[i] = bulkItem{1 + random.Int64N(ids), random.Int64N(21) - 10}
					if random.IntN(100) == 0 {
						items[i].id += ids // unknown to the server
					}
				}
				client := serverClient(server, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: 1, MaxBackoff: 1}))
				outages := []oakratest.Fault{
					{Kind: oakratest.Respond, Status: 503, Times: 6},
					{Kind: oakratest.Refuse, Times: 8},
				}
				waited := false // whether the run waited for the end of an outage
				err := op.all(t.Context(), client, items, oakra.BulkOptions{
					BatchSize: 10, NoSplit: seed == 0,
					OnProgress: func(p oakra.BulkProgress) {
						waited = waited || p.Waiting
						if len(outages) > 0 && p.Done() > n*(3-len(outages))/3 {
							server.Inject(outages[0])
							outages = outages[1:]
						}
					},
				})
				if waited {
					holds++
				}
				count := requireBulkTruth(t, op, server, items, err)
				t.Logf("%v", count)
				for _, o := range []oakra.Outcome{applied, notApplied, unknown} {
					require.Positive(t, count[o], "the storm was too mild: no %v", o)
				}
				requireBulkReasons(t, op, server, items, err)

				client.CloseIdleConnections()
				server.Close()
				requireNoMoreGoroutines(t, before)
			})
		}
	})
}

// requireBulkReasons checks that no outcome is vaguer than necessary. An
// unknown outcome needs a request whose response was lost. An item that is not
// applied was rejected, or never arrived.
func requireBulkReasons(t *testing.T, op bulkOp, server *oakratest.Server, items []bulkItem, err error) {
	t.Helper()
	lost, rejected, last := make(map[int64]bool), make(map[int64]bool), make(map[int64]oakratest.Request)
	for _, w := range bulkWrites(server, op) {
		sent := bulkBody(t, w.Body)
		for i, item := range sent {
			last[item.id] = w
			switch w.Fault {
			case oakratest.ResetBefore, oakratest.ResetAfter, oakratest.RespondAfter:
				lost[item.id] = true
			case oakratest.CutBody: // no whole record may be left
				lost[item.id] = lost[item.id] || len(sent) <= 2
			case oakratest.OmitRecord:
				lost[item.id] = lost[item.id] || w.Applied != nil && i == len(sent)-1
			case oakratest.Respond:
				lost[item.id] = lost[item.id] || w.Status == 503
			}
			rejected[item.id] = rejected[item.id] || w.Status/100 == 4
		}
	}
	require.NotEmpty(t, slices.Collect(maps.Keys(last)))
	for i, outcome := range bulkOutcomes(t, op, len(items), err) {
		id := items[i].id
		switch outcome {
		case unknown:
			require.True(t, lost[id], "item %d, id %d is said to be unknown, but no response to it was lost", i, id)
		case notApplied:
			_, arrived := last[id]
			require.True(t, !arrived || rejected[id], "item %d, id %d is said not to be applied, but nothing rejected it", i, id)
		case applied:
			status := last[id].Status
			require.True(t, status == 200, "item %d, id %d is said to be applied, after a response of %d", i, id, status)
		}
	}
}
