package oakra_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

var errBroken = errors.New("it is broken")

// TestBulkStops checks that an error that every later request would meet stops
// the run. What was not sent is not applied, and its error says why.
func TestBulkStops(t *testing.T) {
	const n, size = 200, 2 // a hundred batches
	failsAfter := func(calls int64) func() error {
		var asked atomic.Int64
		return func() error {
			if asked.Add(1) > calls {
				return errBroken
			}
			return nil
		}
	}
	respondFrom := func(from, status int, header ...string) func(int, *http.Request, []bulkItem) *http.Response {
		return func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < from {
				return nil
			}
			return stubResponse(status, `{"detail":"No."}`, header...)
		}
	}
	everywhere := func(status int) func(http.RoundTripper) http.RoundTripper {
		return func(http.RoundTripper) http.RoundTripper {
			return stubTransport(func(*http.Request) (*http.Response, error) { return stubResponse(status, `{"detail":"No."}`), nil })
		}
	}
	for _, row := range []struct {
		name      string
		respond   func(int, *http.Request, []bulkItem) *http.Response
		transport func(http.RoundTripper) http.RoundTripper
		option    func() oakra.Option
		is        error
		retryable bool
		most      int // largest number of requests, with four workers
		applied   bool
	}{
		{name: "402", respond: respondFrom(7, 402), most: 7 + 4, applied: true},
		{name: "410", respond: respondFrom(7, 410), is: oakra.ErrNotFound, most: 7 + 4, applied: true},
		{name: "415 at once", respond: respondFrom(0, 415), is: oakra.ErrInvalidRequest, most: 4},
		{name: "401", respond: respondFrom(7, 401), is: oakra.ErrUnauthorized, most: 7 + 4, applied: true},
		{name: "401 at once", respond: respondFrom(0, 401), is: oakra.ErrUnauthorized, most: 4},
		{name: "403", respond: respondFrom(7, 403), is: oakra.ErrForbidden, most: 7 + 4, applied: true},
		{name: "307", respond: respondFrom(7, 307, "Location", "https://example.com/"), is: oakra.ErrRedirect, most: 7 + 4, applied: true},
		{name: "429 for too long", respond: respondFrom(7, 429, "Retry-After", "31"), is: oakra.ErrRateLimited, retryable: true, most: 7 + 4, applied: true},
		{name: "no route, 404", transport: everywhere(404), is: oakra.ErrNoRoute, most: 4 * 3 * 2},
		{name: "no route, 405", transport: everywhere(405), is: oakra.ErrNoRoute, most: 4 * 3},
		{name: "key source", option: func() oakra.Option {
			fails := failsAfter(7)
			return oakra.WithAppKeySource(func(context.Context, string) (string, error) { return stubKey, fails() })
		}, is: errBroken, most: 7, applied: true},
		{name: "limiter", option: func() oakra.Option {
			fails := failsAfter(7)
			return oakra.WithLimiter(stubLimiter(func(context.Context) error { return fails() }))
		}, is: errBroken, most: 7, applied: true},
		{name: "no such host", transport: func(http.RoundTripper) http.RoundTripper {
			return stubTransport(func(r *http.Request) (*http.Response, error) {
				httptrace.ContextClientTrace(r.Context()).GetConn(r.URL.Host)
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: r.URL.Host, Err: "no such host", IsNotFound: true}}
			})
		}, is: oakra.ErrUnreachable},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkShop{t: t, latency: jitter(6)}
					s.respond = row.respond
					var transport http.RoundTripper = s
					if row.transport != nil {
						transport = row.transport(s)
					}
					var attempts atomic.Int64
					counting := stubTransport(func(r *http.Request) (*http.Response, error) {
						attempts.Add(1)
						return transport.RoundTrip(r)
					})
					opts := []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: counting})}
					key := stubKey
					if row.option != nil {
						opts = append(opts, row.option())
						if row.name == "key source" {
							key = ""
						}
					}
					client, err := oakra.NewClient(key, opts...)
					require.NoError(t, err)
					start := time.Now()
					err = op.all(t.Context(), client, bulkItems(n), oakra.BulkOptions{BatchSize: size})
					outcomes := bulkOutcomes(t, op, n, err)
					require.Less(t, time.Since(start), 10*time.Second)
					require.LessOrEqual(t, attempts.Load(), int64(cmp.Or(row.most, 4)))
					require.Equal(t, row.applied, slices.Contains(outcomes, applied))
					for i, outcome := range outcomes {
						require.NotEqual(t, unknown, outcome, "item %d", i)
						require.Equal(t, outcome == applied, s.times[int64(i+1)] == 1, "item %d", i)
					}
					if row.applied {
						require.Equal(t, unknown, oakra.OutcomeOf(err))
					} else {
						require.Equal(t, notApplied, oakra.OutcomeOf(err))
						require.Equal(t, row.retryable, oakra.Retryable(err))
					}
					var bulk *oakra.BulkError
					require.ErrorAs(t, err, &bulk)
					for _, f := range bulk.Failures {
						if row.is != nil {
							require.ErrorIs(t, f.Err, row.is, "item %d", f.Index)
						}
						require.False(t, oakra.Rejected(f.Err), "item %d: %v", f.Index, f.Err)
						require.NotErrorIs(t, f.Err, oakra.ErrStopped)
						require.Equal(t, row.retryable, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
					}
				})
			})
		})
	}
}

// TestBulkStopsOnCertificate is a row of TestBulkStops on a real connection.
func TestBulkStopsOnCertificate(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		var connections atomic.Int64
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		server.StartTLS()
		defer server.Close()
		client := stubClient(t, oakra.DefaultTransport(), oakra.WithBaseURL(server.URL+"/api/v1/"))
		defer client.CloseIdleConnections()
		err := op.all(t.Context(), client, bulkItems(100), oakra.BulkOptions{BatchSize: 1})
		require.Equal(t, strings.Repeat("n", 100), bulkOutcomeText(bulkOutcomes(t, op, 100, err)))
		require.ErrorIs(t, err, oakra.ErrUnreachable)
		require.False(t, oakra.Retryable(err))
		require.LessOrEqual(t, connections.Load(), int64(4))
	})
}

// TestBulkContext checks that nothing is sent once the context has ended, and
// that the errors of the remaining items say so, whatever the result of the
// request under way.
func TestBulkContext(t *testing.T) {
	t.Run("over before", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			server := bulkServer(t, 20)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := op.all(ctx, serverClient(server), bulkItems(20), oakra.BulkOptions{BatchSize: 2})
			require.Equal(t, strings.Repeat("n", 20), bulkOutcomeText(bulkOutcomes(t, op, 20, err)))
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, oakra.Retryable(err))
			require.Empty(t, server.Requests())
		})
	})

	t.Run("between two batches", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			server := bulkServer(t, 20)
			ctx, cancel := context.WithCancel(t.Context())
			items := bulkItems(20)
			err := op.all(ctx, serverClient(server), items, oakra.BulkOptions{BatchSize: 2, Concurrency: 1, OnProgress: func(p oakra.BulkProgress) {
				if p.Done() == 6 {
					cancel()
				}
			}})
			require.Equal(t, "aaaaaa"+strings.Repeat("n", 14), bulkOutcomeText(bulkOutcomes(t, op, 20, err)))
			requireBulkTruth(t, op, server, items, err)
			require.Len(t, server.Requests(), 3)
			requireCanceledRest(t, err, 6)
		})
	})

	t.Run("under way", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(2500*time.Millisecond, cancel)
				s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Second }}
				err := op.all(ctx, bulkClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 2})
				outcomes := bulkOutcomes(t, op, 40, err)
				require.Equal(t, 16, strings.Count(bulkOutcomeText(outcomes), "a"), "two rounds of four batches")
				require.Equal(t, 8, strings.Count(bulkOutcomeText(outcomes), "u"), "the third is under way")
				require.Len(t, s.arrivals, 12)
				for _, arrival := range s.arrivals {
					for _, item := range arrival.items {
						require.Equal(t, s.times[item.id] == 1, outcomes[item.id-1] == applied, "id %d", item.id)
						require.NotEqual(t, notApplied, outcomes[item.id-1], "id %d was sent", item.id)
					}
				}
				requireCanceledRest(t, err, 0)
			})
		})
	})

	// In these rows the context ends with the response to the second request.
	for _, row := range []struct {
		name    string
		respond func(s *bulkShop, r *http.Request, items []bulkItem) *http.Response
		want    string
	}{
		{"applied", func(s *bulkShop, r *http.Request, items []bulkItem) *http.Response { return s.apply(r, items) }, "aaaannnn"},
		{"rejected with 400", func(*bulkShop, *http.Request, []bulkItem) *http.Response {
			return stubResponse(400, `{"detail":"No."}`)
		}, "aannnnnn"},
		{"410", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubResponse(410, "") }, "aannnnnn"},
		{"429", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubResponse(429, "") }, "aannnnnn"},
		{"503", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubResponse(503, "") }, "aauunnnn"},
		{"501", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubResponse(501, "") }, "aauunnnn"},
		{"no record", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubResponse(200, "[]") }, "aauunnnn"},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := &bulkShop{t: t}
				s.respond = func(n int, r *http.Request, items []bulkItem) *http.Response {
					if n == 0 {
						return nil
					}
					cancel()
					return row.respond(s, r, items)
				}
				err := op.all(ctx, bulkClient(t, s), bulkItems(8), oakra.BulkOptions{BatchSize: 2, Concurrency: 1})
				require.Equal(t, row.want, bulkOutcomeText(bulkOutcomes(t, op, 8, err)))
				require.Len(t, s.arrivals, 2)
				requireCanceledRest(t, err, 4)
			})
		})
	}
}

// TestBulkGoesOn checks that a run goes on at once after single failures that say
// nothing about later requests.
func TestBulkGoesOn(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			const ms = time.Millisecond
			s := &bulkShop{t: t, latency: func(int) time.Duration { return ms }}
			s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
				switch n {
				case 2:
					return stubResponse(503, "")
				case 8:
					return stubResponse(429, "")
				}
				return nil
			}
			sent := 0
			transport := stubTransport(func(r *http.Request) (*http.Response, error) {
				switch sent++; sent {
				case 5:
					time.Sleep(ms)
					return reset(r)
				case 7:
					time.Sleep(ms)
					return refuse(r)
				}
				return s.RoundTrip(r)
			})
			start := time.Now()
			err := op.all(t.Context(), bulkClient(t, transport, bulkOnce), bulkItems(60), oakra.BulkOptions{BatchSize: 3, Concurrency: 1})
			require.Equal(t, "aaaaaauuuaaauuu"+strings.Repeat("a", 15)+"nnn"+strings.Repeat("a", 27), bulkOutcomeText(bulkOutcomes(t, op, 60, err)))
			require.Equal(t, 21, sent, "one was put back")
			require.Empty(t, s.probes)
			require.Less(t, time.Since(start), 100*ms)
			requireShopTruth(t, op, s, bulkItems(60), err)
		})
	})
}

// requireCanceledRest checks the errors of the items with index from and later,
// which were not sent or were under way when the context ended.
func requireCanceledRest(t *testing.T, err error, from int) {
	t.Helper()
	require.ErrorIs(t, err, context.Canceled)
	var bulk *oakra.BulkError
	require.ErrorAs(t, err, &bulk)
	for _, f := range bulk.Failures {
		if f.Index >= from {
			require.ErrorIs(t, f.Err, context.Canceled, "item %d", f.Index)
			require.Equal(t, f.Outcome == notApplied, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
		}
	}
}
