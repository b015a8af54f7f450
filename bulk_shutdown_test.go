package oakra_test

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// requireStopped checks the failures of a run that Stop has ended: everything that was
// not applied was not sent.
func requireStopped(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, oakra.ErrStopped)
	requireFailures(t, err, func(f oakra.BulkFailure) {
		require.Equal(t, notApplied, f.Outcome, "a stop makes nothing unknown: item %d: %v", f.Index, f.Err)
		require.ErrorIs(t, f.Err, oakra.ErrStopped, "item %d", f.Index)
		require.NotErrorIs(t, f.Err, context.Canceled, "item %d", f.Index)
		require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err), "item %d: %v", f.Index, f.Err)
		require.False(t, oakra.Rejected(f.Err))
		require.False(t, oakra.Splittable(f.Err))
	})
}

// TestBulkStop stops a run after a third of its items. The requests in flight finish
// and are counted, and no other begins.
func TestBulkStop(t *testing.T) {
	const n = 20_000
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			stop := make(chan struct{})
			s := &bulkShop{t: t, latency: jitter(8)}
			var stopped time.Time
			items := bulkItems(n)
			err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{
				Stop: stop,
				OnProgress: func(p oakra.BulkProgress) {
					if p.Done() >= n/3 && stopped.IsZero() {
						stopped = time.Now()
						close(stop)
					}
				},
			})
			require.LessOrEqual(t, time.Since(stopped), 100*time.Millisecond, "the longest request")
			count := requireShopTruth(t, op, s, items, err)
			t.Logf("%v, %v after the stop", count, time.Since(stopped))
			require.Zero(t, count[unknown])
			require.GreaterOrEqual(t, count[applied], n/3)
			require.Len(t, s.times, count[applied])
			requireStopped(t, err)
			require.ErrorContains(t, err, "not sent: the run was stopped")
			for _, a := range s.arrivals {
				require.False(t, a.at.After(stopped))
			}
		})
	})
}

// TestBulkStoppedBefore checks that nothing is sent if Stop is closed already.
func TestBulkStoppedBefore(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		stop := make(chan struct{})
		close(stop)
		s := &bulkShop{t: t}
		err := op.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 2, Stop: stop})
		require.Equal(t, strings.Repeat("n", 20), bulkOutcomeText(bulkOutcomes(t, op, 20, err)))
		requireStopped(t, err)
		require.Empty(t, s.arrivals)
	})
}

// TestBulkStopUnused checks that a run with a Stop that is never closed leaves no
// goroutine behind; a synctest bubble would not end.
func TestBulkStopUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.NoError(t, bulkChange.all(t.Context(), bulkClient(t, &bulkShop{t: t}), bulkItems(9), oakra.BulkOptions{Stop: make(chan struct{})}))
	})
}

// TestBulkStopWaits checks that a stop ends each kind of wait at once, and leaves each
// item with the outcome that it has by then.
func TestBulkStopWaits(t *testing.T) {
	again := errors.New("asked again")
	hang := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	limited := status(429, "Retry-After", "25")
	var asked atomic.Int32
	for _, row := range []struct {
		name   string
		ops    []bulkOp
		steps  steps // responses to the writes
		option oakra.Option
		probe  func(*http.Request) (*http.Response, error)
		after  time.Duration // time of the stop; 0 is 10 s
		want   string        // outcomes of four items, one a request and one after the other
		is     error         // matches the error of the last item that was sent
		text   string        // in the error of the last item that was sent
	}{
		{
			name: "Retry-After", steps: steps{pass, limited}, want: "annn",
			is: oakra.ErrRateLimited, text: "not sent again: the run was stopped",
		},
		{
			name: "pace", steps: steps{limited, pass}, want: "nnnn",
			option: oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
		},
		{
			name: "backoff after a 503", ops: []bulkOp{bulkUpdate}, steps: steps{pass, status(503)}, want: "aunn",
			option: oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 9, MinBackoff: 4 * time.Second}), after: 1,
		},
		{
			name: "backoff without a connection", steps: steps{pass, refuse}, want: "annn",
			option: oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 9, MinBackoff: 24 * time.Hour, MaxBackoff: 24 * time.Hour}),
		},
		{name: "hold", steps: steps{reset, reset}, probe: reset, want: "uunn"},
		{name: "probe", steps: steps{reset, reset}, probe: hang, want: "uunn"},
		{
			name: "limiter", steps: steps{pass}, want: "nnnn",
			option: oakra.WithLimiter(stubLimiter(func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})),
		},
		{
			name: "key source", steps: steps{pass}, want: "nnnn",
			option: oakra.WithAppKeySource(func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}),
		},
		{
			name: "key source, asked for another key", steps: steps{pass, status(401)}, want: "annn",
			option: oakra.WithAppKeySource(func(ctx context.Context, rejected string) (string, error) {
				if rejected == "" {
					return stubKey, nil
				}
				<-ctx.Done()
				return "", again
			}),
			is: oakra.ErrUnauthorized,
		},
		{
			name: "key source with another key", steps: steps{pass, status(401)}, want: "annn",
			option: oakra.WithAppKeySource(func(ctx context.Context, rejected string) (string, error) {
				if rejected == "" {
					return stubKey, nil
				}
				asked.Add(1)
				<-ctx.Done()
				return stubKey + "-new", nil
			}),
			is: oakra.ErrUnauthorized, text: "not sent again: the run was stopped",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.ops == nil {
				row.ops = []bulkOp{bulkUpdate, bulkChange}
			}
			for _, op := range row.ops {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: row.steps}
					if row.probe != nil {
						s.probe = func(_ int, r *http.Request) (*http.Response, error) { return row.probe(r) }
					}
					stop := make(chan struct{})
					stopAfter := cmp.Or(row.after, 10*time.Second)
					time.AfterFunc(stopAfter, func() { close(stop) })
					opts := []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: s}), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2})}
					key := stubKey
					if strings.HasPrefix(row.name, "key source") {
						key = ""
					}
					if row.name == "hold" || row.name == "probe" {
						opts = append(opts, bulkOnce)
					}
					if row.option != nil {
						opts = append(opts, row.option)
					}
					client, err := oakra.NewClient(key, opts...)
					require.NoError(t, err)
					start := time.Now()
					err = op.all(t.Context(), oakra.KeepRoutes(client), bulkItems(4), oakra.BulkOptions{BatchSize: 1, Concurrency: 1, Stop: stop})
					require.Equal(t, stopAfter, time.Since(start))
					outcomes := bulkOutcomeText(bulkOutcomes(t, op, 4, err))
					require.Equal(t, row.want, outcomes)
					last := max(0, s.sent-1)
					requireFailures(t, err, func(f oakra.BulkFailure) {
						if f.Outcome == unknown && row.probe == nil || f.Outcome == notApplied && !(row.name == "pace" && f.Index == 0) {
							require.ErrorIs(t, f.Err, oakra.ErrStopped, "item %d", f.Index)
							require.Equal(t, f.Outcome == notApplied, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
						}
						require.NotErrorIs(t, f.Err, context.Canceled)
						if f.Index == last && row.is != nil {
							require.ErrorIs(t, f.Err, row.is)
							require.ErrorContains(t, f.Err, row.text)
						}
						if f.Index > last {
							require.ErrorContains(t, f.Err, "not sent: the run was stopped")
						}
					})
				})
			}
		})
	}
}

// TestBulkStopInFlight checks that writes in flight finish, however long they take,
// with the outcome that they have.
func TestBulkStopInFlight(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(*http.Request) (*http.Response, error)
		want byte
	}{
		{"applied", pass, 'a'},
		{"503", status(503), 'u'},
		{"reset", reset, 'u'},
		{"refused", refuse, 'n'},
		{"429", status(429), 'n'},
		{"400", func(*http.Request) (*http.Response, error) { return stubResponse(400, `{"detail":"No."}`), nil }, 'n'},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{late(20*time.Second, row.end)}}
					stop := make(chan struct{})
					time.AfterFunc(time.Second, func() { close(stop) })
					start := time.Now()
					err := op.all(t.Context(), bulkClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 2, Stop: stop})
					require.Equal(t, 20*time.Second, time.Since(start))
					require.Equal(t, 4, s.sent, "none is sent again")
					sent := strings.Repeat(string(row.want), 8)
					require.Equal(t, sent+strings.Repeat("n", 32), bulkOutcomeText(bulkOutcomes(t, op, 40, err)))
					requireShopTruth(t, op, s.bulkShop, bulkItems(40), err)
					requireFailures(t, err, func(f oakra.BulkFailure) {
						if f.Outcome == notApplied {
							require.ErrorIs(t, f.Err, oakra.ErrStopped)
							require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err), "%v", f.Err)
						}
					})
				})
			})
		})
	}
}

// TestBulkStopDuringProgress checks that a stop ends waits even while OnProgress keeps
// the run busy.
func TestBulkStopDuringProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{late(time.Millisecond, status(429, "Retry-After", "20")), late(time.Second, pass)}}
		stop := make(chan struct{})
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(9), oakra.BulkOptions{
			BatchSize: 1, Concurrency: 2, Stop: stop,
			OnProgress: func(p oakra.BulkProgress) {
				if p.Done() == 1 {
					close(stop)
					time.Sleep(time.Minute)
				}
			},
		})
		require.Equal(t, 2, s.sent)
		require.Len(t, s.times, 1)
		requireStopped(t, err)
	})
}

// TestBulkProgressHoldsUp checks that no request begins while OnProgress runs.
func TestBulkProgressHoldsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkShop{t: t}
		stop := make(chan struct{})
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(9), oakra.BulkOptions{
			BatchSize: 1, Concurrency: 1, Stop: stop,
			OnProgress: func(p oakra.BulkProgress) {
				if p.Done() == 3 {
					time.Sleep(time.Minute)
					close(stop)
				}
			},
		})
		require.Equal(t, "aaannnnnn", bulkOutcomeText(bulkOutcomes(t, bulkChange, 9, err)))
		requireStopped(t, err)
		require.Len(t, s.arrivals, 3)
	})
}

// TestBulkStopRouteSearch checks that a stop cuts short the empty list that asks
// whether a route is there.
func TestBulkStopRouteSearch(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			transport := stubTransport(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
			stop := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(stop) })
			start := time.Now()
			err := op.all(t.Context(), stubClient(t, transport), bulkItems(900), oakra.BulkOptions{Stop: stop})
			require.Equal(t, time.Second, time.Since(start))
			require.Equal(t, strings.Repeat("n", 900), bulkOutcomeText(bulkOutcomes(t, op, 900, err)))
			requireStopped(t, err)
		})
	})
}

// TestBulkStopAndContext checks that both may come, in either order: what is in flight
// when the context ends is unknown.
func TestBulkStopAndContext(t *testing.T) {
	for _, first := range []string{"stop", "context"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				stop := make(chan struct{})
				if first == "stop" {
					time.AfterFunc(1500*time.Millisecond, func() { close(stop) })
					time.AfterFunc(1600*time.Millisecond, cancel)
				} else {
					time.AfterFunc(1500*time.Millisecond, cancel)
					time.AfterFunc(1600*time.Millisecond, func() { close(stop) })
				}
				s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Second }}
				err := bulkChange.all(ctx, bulkClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 2, Stop: stop})
				require.Equal(t, strings.Repeat("a", 8)+strings.Repeat("u", 8)+strings.Repeat("n", 24), bulkOutcomeText(bulkOutcomes(t, bulkChange, 40, err)))
				requireFailures(t, err, func(f oakra.BulkFailure) {
					if f.Outcome == notApplied {
						require.Equal(t, first == "stop", errors.Is(f.Err, oakra.ErrStopped))
						require.Equal(t, first == "context", errors.Is(f.Err, context.Canceled))
					}
				})
			})
		})
	}
}

// TestBulkStopLeavesOthersAlone checks that other calls of the client go on.
func TestBulkStopLeavesOthersAlone(t *testing.T) {
	s := &bulkShop{t: t}
	client := bulkClient(t, s)
	stop := make(chan struct{})
	close(stop)
	require.Error(t, bulkChange.all(t.Context(), client, bulkItems(9), oakra.BulkOptions{Stop: stop}))
	require.NoError(t, bulkChange.all(t.Context(), client, bulkItems(9), oakra.BulkOptions{}))
	_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 99, QuantityChange: 1}})
	require.NoError(t, err)
}
