package storm_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

var (
	stormSeed    = flag.Uint64("storm.seed", 1, "the plan of the storm")
	stormChanges = flag.Int("storm.changes", 300, "how many changes the storm adds to each database")
)

// TestStorm adds changes from several goroutines while two processes dispatch them
// through faults, and others sell the same items. Dispatchers are stopped in the
// middle of requests. In the end the server has what was recorded, and nothing else.
func TestStorm(t *testing.T) {
	oneOfEach(t, func(t *testing.T, d database) {
		const items = 20
		t.Logf("seed %d", *stormSeed)
		server := newServer(t, items)
		for i, kind := range []oakratest.FaultKind{oakratest.ResetBefore, oakratest.ResetAfter, oakratest.Refuse, oakratest.CutBody} {
			server.Inject(oakratest.Fault{Kind: kind, Probability: 0.03, Seed: *stormSeed + uint64(i)})
		}
		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.OmitRecord, Probability: 0.03, Seed: *stormSeed + 9})
		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ApplyLate, Delay: 900 * time.Millisecond, Probability: 0.03, Seed: *stormSeed + 10})
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503, Body: "<html>", Probability: 0.02, Seed: *stormSeed + 11})
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 429, Probability: 0.02, Seed: *stormSeed + 12})
		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.RespondAfter, Status: 502, Probability: 0.02, Seed: *stormSeed + 13})

		o := options()
		o.RequestTimeout, o.Grace, o.BatchSize = 100*time.Millisecond, 500*time.Millisecond, 8
		open := func() *shop {
			s := &shop{db: d.open(t), server: server}
			var err error
			s.Outbox, err = outbox.New(t.Context(), s.db, quickClient(server).Stock, o)
			require.NoError(t, err)
			return s
		}
		first := open()
		running, stop := context.WithCancel(t.Context())
		var others, adders sync.WaitGroup
		for p := range uint64(2) { // dispatchers, which run for a random while
			s := open()
			random := rand.New(rand.NewPCG(*stormSeed, p))
			others.Go(func() {
				for running.Err() == nil {
					ctx, cancel := context.WithTimeout(running, time.Duration(20+random.IntN(400))*time.Millisecond)
					_ = s.Run(ctx)
					cancel()
				}
			})
		}
		var mu sync.Mutex
		want := make([]int64, items)
		for i := range want {
			want[i] = 1000
		}
		others.Go(func() { // another seller
			random := rand.New(rand.NewPCG(*stormSeed, 100))
			client := server.Client()
			for running.Err() == nil {
				_, _ = client.Stock.Change(running, []oakra.StockChange{{ID: firstItem + int64(random.IntN(items)), QuantityChange: -1}})
			}
		})
		for a := range 4 {
			random := rand.New(rand.NewPCG(*stormSeed, 200+uint64(a)))
			adders.Go(func() {
				for n := range *stormChanges / 4 {
					item, units := random.IntN(items), int64(random.IntN(9)-4)
					if units == 0 {
						units = 5
					}
					if err := first.Add(t.Context(), sell(fmt.Sprintf("%d/%d", a, n), item, units)); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[item] -= units
					mu.Unlock()
					for n%3 == 2 && !t.Failed() { // many requests, of few changes each
						status, err := first.Status(t.Context())
						if err == nil && status.Pending < 20 {
							break
						}
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
		}
		adders.Wait()
		stop()
		others.Wait()
		server.ClearFaults()
		first.settle(t)
		for _, r := range server.Requests() { // what the other seller sold
			if len(r.Applied) == 1 {
				want[r.Applied[0].ID-firstItem]--
			}
		}
		for i := range want {
			require.Equal(t, want[i], first.quantity(i), "item %d", i)
		}
		status := first.status(t)
		require.Zero(t, status.Parked)
		require.Empty(t, status.Halted)
		t.Logf("%d requests, %d unknown, %d taken back", status.Requests, status.Unknown, status.Compensated)
	})
}
