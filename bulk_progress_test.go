package oakra_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestBulkProgress checks that OnProgress counts the caller's items, only
// upwards and one call at a time, up to the outcomes of the run.
func TestBulkProgress(t *testing.T) {
	const n = 300
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for _, row := range []struct {
			name   string
			faults []oakratest.Fault
		}{
			{"none", nil},
			{"some", []oakratest.Fault{
				{Op: op.name, Kind: oakratest.Refuse, Probability: 0.1, Seed: 1},
				{Op: op.name, Kind: oakratest.ResetAfter, Probability: 0.05, Seed: 2},
				{Kind: oakratest.OmitRecord, Probability: 0.2, Seed: 3},
			}},
			{"stopped", []oakratest.Fault{{Kind: oakratest.Slow, Times: 20}, {Kind: oakratest.Respond, Status: 401}}},
		} {
			t.Run(row.name, func(t *testing.T) {
				server := bulkServer(t, n)
				for _, f := range row.faults {
					server.Inject(f)
				}
				items := bulkItems(n)
				for i := range n {
					items = append(items, bulkItem{int64(i*i%n + 1), 1})
				}
				items[7].id = 5000             // its batch is split
				var calls []oakra.BulkProgress // no lock: the calls are one at a time
				var inside atomic.Int32
				err := op.all(t.Context(), serverClient(server, bulkOnce), items, oakra.BulkOptions{
					BatchSize: 5, Concurrency: 8,
					OnProgress: func(p oakra.BulkProgress) {
						assert.EqualValues(t, 1, inside.Add(1), "two calls at once")
						runtime.Gosched()
						calls = append(calls, p)
						inside.Add(-1)
					},
				})
				count := requireBulkTruth(t, op, server, items, err)
				var last oakra.BulkProgress
				for i, p := range calls {
					require.Equal(t, len(items), p.Total)
					require.Equal(t, p.Applied+p.NotApplied+p.Unknown, p.Done())
					if p.Waiting == last.Waiting {
						require.Greater(t, p.Done(), last.Done(), "call %d", i)
					}
					require.Equal(t, p.Waiting, p.WaitingFor != nil)
					require.Equal(t, p.Waiting, !p.WaitingSince.IsZero())
					require.True(t, p.Applied >= last.Applied && p.NotApplied >= last.NotApplied && p.Unknown >= last.Unknown, "call %d: %v after %v", i, p, last)
					last = p
				}
				require.Equal(t, oakra.BulkProgress{Total: len(items), Applied: count[applied], NotApplied: count[notApplied], Unknown: count[unknown]}, last)
				require.Equal(t, len(items), last.Done())
			})
		}
	})
}

// TestBulkProgressIsWaitedFor checks that the last call has returned when the
// run does.
func TestBulkProgressIsWaitedFor(t *testing.T) {
	calls := 0
	err := bulkChange.all(t.Context(), bulkClient(t, &bulkShop{t: t}), bulkItems(9), oakra.BulkOptions{BatchSize: 1, OnProgress: func(oakra.BulkProgress) {
		time.Sleep(time.Millisecond)
		calls++
	}})
	require.NoError(t, err)
	require.Equal(t, 9, calls)
}

// TestBulkProgressPanics checks that the caller can recover a panic of
// OnProgress. By then the requests in flight have ended, and no others were
// sent.
func TestBulkProgressPanics(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		before := runtime.NumGoroutine()
		s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
		calls := 0
		require.PanicsWithValue(t, "out of paper", func() {
			_ = op.all(t.Context(), bulkClient(t, s), bulkItems(100), oakra.BulkOptions{BatchSize: 1, OnProgress: func(oakra.BulkProgress) {
				if calls++; calls == 10 {
					panic("out of paper")
				}
			}})
		})
		require.Zero(t, s.inFlight)
		require.Equal(t, 10, calls)
		require.LessOrEqual(t, len(s.arrivals), 10+4)
		requireNoMoreGoroutines(t, before)
	})
}
