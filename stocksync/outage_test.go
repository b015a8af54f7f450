package stocksync_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/internal/hold"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// outages lists what a proxy or a host does when the service is down.
var outages = map[string]struct {
	oakratest.Fault
	is error
}{
	"503":        {oakratest.Fault{Kind: oakratest.Respond, Status: 503, Body: "<html>"}, oakra.ErrServer},
	"maintained": {oakratest.Fault{Kind: oakratest.Respond, Status: 503, Header: http.Header{"Retry-After": {"3600"}}}, oakra.ErrServer},
	"limited":    {oakratest.Fault{Kind: oakratest.Respond, Status: 429}, oakra.ErrRateLimited},
	"page":       {oakratest.Fault{Kind: oakratest.Respond, Status: 200, Body: "<html>Back soon.</html>"}, oakra.ErrBadResponse},
	"refused":    {oakratest.Fault{Kind: oakratest.Refuse}, oakra.ErrUnreachable},
	"reset":      {oakratest.Fault{Kind: oakratest.ResetBefore}, nil},
	"silent":     {oakratest.Fault{Kind: oakratest.Slow, Delay: time.Hour}, context.DeadlineExceeded},
}

const outageLasts = 30 * time.Second

// TestOutage checks that an outage during any read of a run only costs time. The run
// reports what it waits for, and writes nothing meanwhile.
func TestOutage(t *testing.T) {
	for kind, outage := range outages {
		for _, during := range []string{"first read", "second chunk", "Apply's read", "settling"} {
			if kind == "page" && during == "first read" {
				continue // it would mean a wrong base URL
			}
			for client, policy := range map[string]oakra.RetryPolicy{"default": {}, "one attempt": {MaxAttempts: 1}} {
				t.Run(kind+"/"+during+"/"+client, func(t *testing.T) {
					inModes(t, func(t *testing.T, mode stocksync.Mode) {
						n := int64(20)
						if during == "second chunk" {
							n = 2100
						}
						server := oakratest.Start(t, recordsTo(n)...)
						stock := server.Client(oakra.WithRetryPolicy(policy), oakra.WithAttemptTimeout(2*time.Second)).Stock
						var begin time.Time
						down := func(in time.Duration) {
							begin = time.Now().Add(in)
							time.AfterFunc(in, func() { server.Inject(outage.Fault) })
							time.AfterFunc(in+outageLasts, server.ClearFaults)
							synctest.Wait()
						}
						var waits []stocksync.Progress
						var last stocksync.Progress
						o := stocksync.Options{Mode: mode, OnProgress: func(p stocksync.Progress) {
							switch {
							case during == "second chunk" && p.Phase == stocksync.Reading && p.Done == 2000 && begin.IsZero():
								down(0)
							case during == "settling" && p.Phase == stocksync.Settling && begin.IsZero():
								down(time.Minute - time.Second)
							}
							if p.Waiting && (len(waits) == 0 || p != waits[len(waits)-1]) {
								waits = append(waits, p)
							}
							last = p
						}}
						if during == "first read" {
							down(0)
						}
						if during == "settling" {
							server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.ResetAfter, Times: 1})
						}
						targets := plus(1, recordsTo(n)...)
						plan, err := stocksync.Compare(t.Context(), stock, targets, o)
						require.NoError(t, err)
						if during == "Apply's read" {
							down(0)
						}
						report, err := plan.Apply(t.Context())
						checkAllSynced(t, report, err, n)
						checkServer(t, server, targets, nil)
						if mode == stocksync.ByChange {
							checkChangedOnce(t, server)
						}
						if during == "settling" && mode == stocksync.ByUpdate && policy.MaxAttempts == 0 {
							return // the client has sent the update again itself, and nothing had to be settled
						}
						lasted := time.Since(begin)
						require.GreaterOrEqual(t, lasted, outageLasts)
						require.Less(t, lasted, outageLasts+15*time.Second)

						require.Len(t, waits, 1)
						require.Equal(t, map[string]stocksync.Progress{
							"first read":   {Phase: stocksync.Reading, Done: 0, Total: 20},
							"second chunk": {Phase: stocksync.Reading, Done: 2000, Total: 2100},
							"Apply's read": {Phase: stocksync.Reading, Done: 0, Total: 20},
							"settling":     {Phase: stocksync.Settling, Done: 0, Total: 20},
						}[during], stocksync.Progress{Phase: waits[0].Phase, Done: waits[0].Done, Total: waits[0].Total})
						require.Less(t, waits[0].WaitingSince.Sub(begin), 15*time.Second)
						require.False(t, waits[0].WaitingSince.Before(begin))
						if outage.is != nil {
							require.ErrorIs(t, waits[0].WaitingFor, outage.is)
						}
						var e *oakra.Error
						require.ErrorAs(t, waits[0].WaitingFor, &e)
						require.False(t, last.Waiting)
						probes := 0
						for _, r := range server.Requests() {
							if r.Op == "stock.list" && r.Query.Get("sku") == hold.ProbeSKU {
								require.Equal(t, "w1", r.Query.Get("location_id"))
								require.Len(t, r.Query["sku"], 1)
								probes++
							}
						}
						require.LessOrEqual(t, probes, 100)
					})
				})
			}
		}
	}
}

// TestOutageForGood checks that the run ends after OutageTimeout without a write.
func TestOutageForGood(t *testing.T) {
	for name, outage := range outages {
		if name == "page" {
			continue
		}
		for timeout, lasts := range map[time.Duration]time.Duration{0: time.Minute, 10 * time.Second: 10 * time.Second, -1: 0} {
			t.Run(name+"/"+timeout.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := oakratest.Start(t, recordsTo(2)...)
					stock := server.Client(oakra.WithAttemptTimeout(2 * time.Second)).Stock
					o := stocksync.Options{OutageTimeout: timeout}
					check := func(start time.Time, err error) {
						t.Helper()
						require.ErrorContains(t, err, "the service stopped responding: ")
						require.NotErrorIs(t, err, stocksync.ErrTooManySteps)
						require.GreaterOrEqual(t, time.Since(start), lasts)
						require.Less(t, time.Since(start), lasts+15*time.Second) // the first read is tried four times
						if outage.is != nil {
							require.ErrorIs(t, err, outage.is)
						}
					}
					plan, err := stocksync.Compare(t.Context(), stock, plus(1, recordsTo(2)...), o)
					require.NoError(t, err)
					server.Inject(outage.Fault)

					start := time.Now()
					_, err = stocksync.Compare(t.Context(), stock, plus(1, recordsTo(2)...), o)
					check(start, err)
					require.True(t, oakra.Retryable(err), "%v", err)

					start = time.Now()
					report, err := plan.Apply(t.Context())
					check(start, err)
					checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
					require.Zero(t, writes(server))
				})
			})
		}
	}
}

// TestOutageTimeoutOfWrites checks that the bulk runs get the option too.
func TestOutageTimeoutOfWrites(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(100)...)
		server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.Respond, Status: 503})
		var ended time.Time
		start := time.Now()
		_, err := stocksync.Sync(t.Context(), server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})).Stock, plus(1, recordsTo(100)...), stocksync.Options{
			Mode: mode, BatchSize: 1, OutageTimeout: -1,
			OnProgress: func(p stocksync.Progress) {
				require.False(t, p.Waiting)
				if p.Phase == stocksync.Settling && ended.IsZero() {
					ended = time.Now()
				}
			},
		})
		require.ErrorIs(t, err, oakra.ErrServer)
		require.Equal(t, start, ended)
	})
}

// TestOutageEnds checks that Stop and the context each end the wait.
func TestOutageEnds(t *testing.T) {
	for name, cause := range map[string]error{"Stop": oakra.ErrStopped, "context": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := oakratest.Start(t, recordsTo(2)...)
				server.Inject(oakratest.Fault{Kind: oakratest.Refuse})
				ctx, o := t.Context(), stocksync.Options{}
				if name == "Stop" {
					o.Stop = stopAfter(20 * time.Second)
				} else {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 20*time.Second)
					defer cancel()
				}
				start := time.Now()
				report, err := stocksync.Sync(ctx, server.Client().Stock, plus(1, recordsTo(2)...), o)
				require.ErrorIs(t, err, cause)
				require.True(t, oakra.Retryable(err), "%v", err)
				require.Equal(t, 20*time.Second, time.Since(start))
				checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
			})
		})
	}
}

// slow is a limiter that gives up because the context would end before its turn.
type slow struct{}

var errSlow = errors.New("it would exceed the deadline")

func (slow) Wait(context.Context) error { return errSlow }

// TestNoOutage checks that failures that are not an outage are reported at once.
func TestNoOutage(t *testing.T) {
	for name, fault := range map[string]oakratest.Fault{
		"a page, perhaps of another host": {Kind: oakratest.Respond, Status: 200, Body: "<html>Welcome.</html>"},
		"no route":                        {Kind: oakratest.Respond, Status: 404, Body: "<html>"},
		"key":                             {Kind: oakratest.Respond, Status: 401, Body: `{"detail":"No."}`},
		"a long Retry-After":              {Kind: oakratest.Respond, Status: 429, Header: http.Header{"Retry-After": {"3600"}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := oakratest.Start(t, recordsTo(2)...)
				server.Inject(fault)
				start := time.Now()
				_, err := stocksync.Compare(t.Context(), server.Client().Stock, plus(1, recordsTo(2)...), stocksync.Options{OnProgress: func(p stocksync.Progress) {
					require.False(t, p.Waiting)
				}})
				require.Error(t, err)
				require.Zero(t, time.Since(start))
				require.Len(t, server.Requests(), 1)
			})
		})
	}
	t.Run("a limiter", func(t *testing.T) { // nothing is sent
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			server := oakratest.Start(t, recordsTo(2)...)
			start := time.Now()
			_, err := stocksync.Compare(ctx, server.Client(oakra.WithLimiter(slow{})).Stock, plus(1, recordsTo(2)...), stocksync.Options{})
			require.ErrorIs(t, err, errSlow)
			require.Zero(t, time.Since(start))
		})
	})
}

// TestOutageEndsWithRejection checks an outage after which the key is rejected.
func TestOutageEndsWithRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, recordsTo(2)...)
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503, Times: 30})
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 404, Times: 2, Body: "<html>default backend</html>"}) // the proxy is still up
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 401, Body: `{"detail":"No."}`})
		_, err := stocksync.Compare(t.Context(), server.Client().Stock, plus(1, recordsTo(2)...), stocksync.Options{})
		require.ErrorIs(t, err, oakra.ErrUnauthorized)
	})
}
