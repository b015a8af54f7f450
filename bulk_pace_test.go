package oakra_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestBulkRateLimited checks that a 429 holds the whole run, not only its own
// request.
func TestBulkRateLimited(t *testing.T) {
	type limit struct {
		at    int // number of the request
		after string
	}
	const n = 60
	for _, row := range []struct {
		name     string
		limits   []limit
		attempts int
	}{
		{"one", []limit{{9, "5"}}, 4},
		{"the first", []limit{{0, "5"}}, 4},
		{"all that are in flight", []limit{{8, "2"}, {9, "2"}, {10, "2"}, {11, "2"}}, 4},
		{"longer and longer", []limit{{8, "1"}, {9, "2"}, {10, "4"}, {11, "8"}}, 4},
		{"shorter and shorter", []limit{{8, "8"}, {9, "4"}, {10, "2"}, {11, "1"}}, 4},
		{"again by the first that goes on", []limit{{8, "1"}, {9, "1"}, {10, "1"}, {11, "1"}, {12, "5"}}, 4},
		{"never sent again", []limit{{9, "5"}, {20, "7"}}, 1},
		{"the last attempt", []limit{{0, "1"}, {1, "1"}, {2, "1"}, {3, "1"}, {4, "1"}, {5, "1"}, {6, "1"}, {7, "9"}}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					type pause struct{ from, to time.Time }
					var pauses []pause
					s := &bulkShop{t: t, latency: func(int) time.Duration { return 5 * time.Millisecond }}
					s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
						for _, l := range row.limits {
							if l.at == n {
								wait, _ := time.ParseDuration(l.after + "s")
								s.mu.Lock()
								pauses = append(pauses, pause{time.Now(), time.Now().Add(wait)})
								s.mu.Unlock()
								return stubResponse(429, "", "Retry-After", l.after)
							}
						}
						return nil
					}
					client := bulkClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: row.attempts, MinBackoff: 1, MaxBackoff: 1}))
					start := time.Now()
					err := op.all(t.Context(), client, bulkItems(n), oakra.BulkOptions{BatchSize: 1})
					outcomes := bulkOutcomes(t, op, n, err)
					for i, outcome := range outcomes {
						require.Equal(t, outcome == applied, s.times[int64(i+1)] == 1, "item %d", i)
					}
					if row.attempts == 4 {
						require.NoError(t, err)
					}
					require.Len(t, pauses, len(row.limits))
					for i, a := range s.arrivals {
						for _, p := range pauses {
							// Another request may still be sent at the very instant of
							// the 429.
							assert.False(t, a.at.After(p.from) && a.at.Before(p.to), "request %d went out %v after a 429 that asked to wait %v",
								i, a.at.Sub(p.from), p.to.Sub(p.from))
						}
					}
					require.Less(t, time.Since(start), time.Minute, "it gets back to speed")
				})
			})
		})
	}
}

// TestBulkRateLimitedSlows checks that after a 429 without Retry-After the requests are
// sent one by one, and after some successes as before.
func TestBulkRateLimitedSlows(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
			s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
				if 8 <= n && n < 12 {
					return stubResponse(429, "")
				}
				return nil
			}
			start := time.Now()
			err := op.all(t.Context(), bulkClient(t, s, bulkPolicy), bulkItems(400), oakra.BulkOptions{BatchSize: 1})
			require.NoError(t, err)
			at := func(n int) time.Time { return s.arrivals[n].at }
			require.Equal(t, at(8), at(11), "before: four at once")
			for n := 12; n < 15; n++ {
				require.GreaterOrEqual(t, at(n+1).Sub(at(n)), 10*time.Millisecond, "after: one by one, request %d", n)
			}
			last := len(s.arrivals) - 1
			require.LessOrEqual(t, at(last).Sub(at(last-3)), time.Millisecond, "at the end: four at once")
			require.Less(t, time.Since(start), 5*time.Second)
		})
	})
}

// TestBulkRateLimitedForTooLong checks that a run that a 429 stops ends at
// once, even if other requests are about to be sent again.
func TestBulkRateLimitedForTooLong(t *testing.T) {
	for _, row := range []struct {
		name  string
		other func() *http.Response // response to the other request
	}{
		{"429", func() *http.Response { return stubResponse(429, "", "Retry-After", "1") }},
		{"503", func() *http.Response { return stubResponse(503, "") }},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkShop{t: t, latency: func(n int) time.Duration { return time.Duration(10-n) * time.Millisecond }}
					s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
						switch n {
						case 0:
							return stubResponse(429, "", "Retry-After", "86400")
						case 1:
							return row.other()
						}
						return nil
					}
					start := time.Now()
					err := op.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 2})
					require.ErrorIs(t, err, oakra.ErrRateLimited)
					for i, outcome := range bulkOutcomes(t, op, 20, err) {
						if outcome != unknown {
							require.Equal(t, outcome == applied, s.times[int64(i+1)] == 1, "item %d", i)
						}
					}
					require.Less(t, time.Since(start), 100*time.Millisecond, "the run ends at once")
				})
			})
		})
	}
}

// TestBulkRateLimitedSteadily checks that no item is given up, however many
// 429s it got, while the server admits one request a second and says so.
func TestBulkRateLimitedSteadily(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for _, attempts := range []int{1, 2, 4} {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var admitted time.Time
				s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
				s.respond = func(int, *http.Request, []bulkItem) *http.Response {
					mu.Lock()
					defer mu.Unlock()
					if time.Since(admitted) < time.Second {
						return stubResponse(429, "", "Retry-After", "1")
					}
					admitted = time.Now()
					return nil
				}
				const n = 100
				start := time.Now()
				err := op.all(t.Context(), bulkClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: attempts})), bulkItems(n), oakra.BulkOptions{BatchSize: 1})
				if attempts == 1 {
					require.ErrorIs(t, err, oakra.ErrRateLimited, "1 never sends again")
					require.Len(t, s.arrivals, n)
					return
				}
				require.NoError(t, err)
				require.Len(t, s.times, n)
				require.Less(t, time.Since(start), 2*n*time.Second)
			})
		}
	})
}

// TestBulkRateLimitedAlone checks that one batch that is never admitted does not hold
// up the run for as long as the others succeed.
func TestBulkRateLimitedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, alone, attempts = 3000, 7, 3
		s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
		tries := 0
		s.respond = func(_ int, _ *http.Request, items []bulkItem) *http.Response {
			if items[0].id == alone {
				tries++
				return stubResponse(429, "", "Retry-After", "1")
			}
			return nil
		}
		err := bulkChange.all(t.Context(), bulkClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: attempts})), bulkItems(n), oakra.BulkOptions{BatchSize: 1})
		var bulk *oakra.BulkError
		require.ErrorAs(t, err, &bulk)
		require.Equal(t, []int{alone - 1}, bulk.NotApplied())
		require.Equal(t, n-1, bulk.Applied)
		require.LessOrEqual(t, tries, 10*attempts+attempts)
	})
}

// TestBulkRateLimitedForEver checks that the attempts count once nothing
// succeeds any more.
func TestBulkRateLimitedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
		s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < 5 {
				return nil
			}
			return stubResponse(429, "", "Retry-After", "1")
		}
		start := time.Now()
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1})
		require.ErrorIs(t, err, oakra.ErrRateLimited)
		require.Len(t, s.times, 5)
		require.Less(t, time.Since(start), 3*time.Minute)
	})
}

// TestBulkRateLimitedDeadline checks that a wait that would outlast the context
// does not start.
func TestBulkRateLimitedDeadline(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
			s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
				if n >= 10 {
					return stubResponse(429, "", "Retry-After", "20")
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			start := time.Now()
			err := op.all(ctx, bulkClient(t, s), bulkItems(100), oakra.BulkOptions{BatchSize: 1})
			outcomes := bulkOutcomes(t, op, 100, err)
			require.NotContains(t, outcomes, unknown)
			for i, outcome := range outcomes {
				require.Equal(t, outcome == applied, s.times[int64(i+1)] == 1, "item %d", i)
			}
			require.Less(t, time.Since(start), time.Second)
			require.LessOrEqual(t, len(s.arrivals), 10+4)
			var bulk *oakra.BulkError
			require.ErrorAs(t, err, &bulk)
			require.Equal(t, 10, bulk.Applied)
			for _, f := range bulk.Failures {
				require.True(t, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
			}
		})
	})
}

// TestBulkLeavesTheClientAlone checks that a run slowed by a 429 slows neither
// other calls of the client nor the next run.
func TestBulkLeavesTheClientAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
		s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < 4 {
				return stubResponse(429, "", "Retry-After", "20")
			}
			return nil
		}
		client := bulkClient(t, s)
		var run sync.WaitGroup
		defer run.Wait()
		run.Go(func() {
			assert.NoError(t, bulkChange.all(t.Context(), client, bulkItems(50), oakra.BulkOptions{BatchSize: 1}))
		})
		time.Sleep(time.Second)
		start := time.Now()
		_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 99, QuantityChange: 1}})
		require.NoError(t, err)
		require.NoError(t, bulkChange.all(t.Context(), client, []bulkItem{{100, 1}, {101, 1}}, oakra.BulkOptions{}))
		require.Equal(t, 2*time.Millisecond, time.Since(start))
	})
}
