package oakra_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// bulkOutage is a transport in front of a bulkShop, and fails every request that
// arrives in a span of time.
type bulkOutage struct {
	*bulkShop
	fail func(*http.Request) (*http.Response, error)
	from time.Time
	to   time.Time

	mu     sync.Mutex
	writes int // number of writes that it failed
	reads  int
}

func (o *bulkOutage) RoundTrip(r *http.Request) (*http.Response, error) {
	if now := time.Now(); now.Before(o.from) || !now.Before(o.to) {
		return o.bulkShop.RoundTrip(r)
	}
	o.mu.Lock()
	if r.Method == http.MethodGet {
		o.reads++
	} else {
		o.writes++
	}
	o.mu.Unlock()
	return o.fail(r)
}

// outageKinds are what a proxy or a host does when the service is gone.
var outageKinds = []struct {
	name string
	fail func(*http.Request) (*http.Response, error)
	is   error
	dark bool // whether the outcome of a write is unknown
}{
	{"503", status(503), oakra.ErrServer, true},
	{"502", status(502), oakra.ErrServer, true},
	{"504", status(504), oakra.ErrServer, true},
	{"page", func(*http.Request) (*http.Response, error) { return stubResponse(200, "<html>Back soon.</html>"), nil }, oakra.ErrBadResponse, true},
	{"reset", reset, errReset, true},
	{"refused", refuse, oakra.ErrUnreachable, false},
	{"handshake", handshakeReset, oakra.ErrUnreachable, false},
	{"silence", func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		_, err := reset(r)
		return nil, fmt.Errorf("%w: %w", r.Context().Err(), err)
	}, context.DeadlineExceeded, true},
}

// farOff is later than any run.
var farOff = time.Now().Add(100 * 365 * 24 * time.Hour)

// TestBulkOutage checks that a run waits for the end of an outage, whatever the
// failures are, and that few items have an unknown outcome.
func TestBulkOutage(t *testing.T) {
	const n, size, concurrency, latency = 1000, 5, 4, 10 * time.Millisecond
	for _, kind := range outageKinds {
		for _, length := range []time.Duration{time.Second, 3 * time.Second, 30 * time.Second} {
			t.Run(fmt.Sprintf("%s for %v", kind.name, length), func(t *testing.T) {
				eachBulkOp(t, func(t *testing.T, op bulkOp) {
					synctest.Test(t, func(t *testing.T) {
						start := time.Now()
						s := &bulkShop{t: t, latency: func(int) time.Duration { return latency }}
						o := &bulkOutage{bulkShop: s, fail: kind.fail, from: start.Add(200 * time.Millisecond)}
						o.to = o.from.Add(length)
						var waits []oakra.BulkProgress
						items := bulkItems(n)
						client := bulkClient(t, o, bulkOnce, oakra.WithAttemptTimeout(time.Second))
						err := op.all(t.Context(), client, items, oakra.BulkOptions{
							BatchSize: size, Concurrency: concurrency,
							OnProgress: func(p oakra.BulkProgress) {
								if p.Waiting && (len(waits) == 0 || waits[len(waits)-1] != p) {
									waits = append(waits, p)
								}
							},
						})
						took := time.Since(start)
						count := requireShopTruth(t, op, s, items, err)
						require.Zero(t, count[notApplied])
						require.Equal(t, n-count[unknown], count[applied])
						require.LessOrEqual(t, count[unknown], (concurrency+4)*size)
						require.Equal(t, kind.dark, count[unknown] > 0)
						require.LessOrEqual(t, o.writes, concurrency+4, "writes in the outage")
						require.Less(t, took, length+15*time.Second)

						require.NotEmpty(t, waits)
						for _, p := range waits {
							require.ErrorIs(t, p.WaitingFor, kind.is)
							require.False(t, p.WaitingSince.Before(o.from))
							require.Less(t, p.WaitingSince.Sub(o.from), 2*time.Second)
						}
					})
				})
			})
		}
	}
}

// TestBulkOutageForGood checks that a run ends when its OutageTimeout is over, and
// that what was not sent is not applied and may be sent again.
func TestBulkOutageForGood(t *testing.T) {
	const n, size, concurrency = 1000, 5, 4
	for _, kind := range outageKinds {
		for _, timeout := range []time.Duration{0, 2 * time.Second, -1} {
			t.Run(fmt.Sprintf("%s %v", kind.name, timeout), func(t *testing.T) {
				eachBulkOp(t, func(t *testing.T, op bulkOp) {
					synctest.Test(t, func(t *testing.T) {
						start := time.Now()
						s := &bulkShop{t: t, latency: func(int) time.Duration { return 10 * time.Millisecond }}
						o := &bulkOutage{bulkShop: s, fail: kind.fail, from: start.Add(200 * time.Millisecond), to: farOff}
						items := bulkItems(n)
						var last oakra.BulkProgress
						client := bulkClient(t, o, bulkOnce, oakra.WithAttemptTimeout(time.Second))
						err := op.all(t.Context(), client, items, oakra.BulkOptions{
							BatchSize: size, Concurrency: concurrency, OutageTimeout: timeout,
							OnProgress: func(p oakra.BulkProgress) { last = p },
						})
						count := requireShopTruth(t, op, s, items, err)
						require.LessOrEqual(t, count[unknown], (concurrency+4)*size)
						require.Equal(t, kind.dark, count[unknown] > 0)
						require.Positive(t, count[applied])
						require.Equal(t, oakra.BulkProgress{Total: n, Applied: count[applied], NotApplied: count[notApplied], Unknown: count[unknown]}, last)

						lasted := time.Since(o.from)
						switch {
						case timeout < 0:
							require.Zero(t, o.reads, "there is no wait")
							require.Less(t, lasted, 3*time.Second)
						case timeout == 0:
							require.GreaterOrEqual(t, lasted, time.Minute)
							require.Less(t, lasted, time.Minute+3*time.Second)
						default:
							require.GreaterOrEqual(t, lasted, timeout)
							require.Less(t, lasted, timeout+3*time.Second)
						}
						requireFailures(t, err, func(f oakra.BulkFailure) {
							require.ErrorIs(t, f.Err, kind.is)
							require.False(t, oakra.Rejected(f.Err), "%v", f.Err)
							if f.Outcome == unknown {
								return
							}
							require.ErrorContains(t, f.Err, "not sent: the service stopped responding")
							require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err), "%v", f.Err)
							require.NotErrorIs(t, f.Err, oakra.ErrStopped)
							var cause *oakra.Error
							require.ErrorAs(t, requireError(t, f.Err).Err, &cause, "it wraps the failure")
							require.Equal(t, cause.StatusCode, requireError(t, f.Err).StatusCode)
						})
					})
				})
			})
		}
	}
}

// bulkScript is a transport that plays one step for each write, and the last one for
// all others. A step that is nil, or that returns nothing, applies the write.
type bulkScript struct {
	*bulkShop
	steps []func(*http.Request) (*http.Response, error)

	mu   sync.Mutex
	sent int
}

func (s *bulkScript) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		return s.bulkShop.RoundTrip(r)
	}
	s.mu.Lock()
	step := s.steps[min(s.sent, len(s.steps)-1)]
	s.sent++
	s.mu.Unlock()
	if step != nil {
		if response, err := step(r); response != nil || err != nil {
			return response, err
		}
	}
	return s.bulkShop.RoundTrip(r)
}

// pass is a step that applies the write.
func pass(*http.Request) (*http.Response, error) { return nil, nil }

type steps = []func(*http.Request) (*http.Response, error)

// late plays a step after d.
func late(d time.Duration, step func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		time.Sleep(d)
		return step(r)
	}
}

// TestBulkProbe checks what a probe is, when it is sent, and which responses end the
// hold.
func TestBulkProbe(t *testing.T) {
	body := func(status int, body string, header ...string) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) { return stubResponse(status, body, header...), nil }
	}
	silence := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	const probes = 9
	for _, row := range []struct {
		name    string
		respond func(*http.Request) (*http.Response, error)
		ends    bool
	}{
		{"no records", body(200, "[]"), true},
		{"an object", body(200, `{"stock_records":[]}`), true},
		{"other records", body(200, "["+recordA+"]"), true},
		{"400", body(400, `{"detail":"No."}`), true},
		{"401", body(401, `{"detail":"No."}`), true},
		{"403", body(403, `{"detail":"No."}`), true},
		{"404", body(404, `{"detail":"No."}`), true},
		{"405", body(405, `{"detail":"No."}`), true},
		{"408", body(408, `{"detail":"No."}`), false},
		{"429", body(429, `{"detail":"No."}`), false},
		{"500", body(500, `{"detail":"No."}`), false},
		{"503", body(503, `{"detail":"No."}`), false},
		{"204", body(204, ""), false},
		{"302", body(302, `{"detail":"No."}`, "Location", "/login/"), false},
		{"a page", body(200, "<html>Back soon.</html>"), false},
		{"400, a page", body(400, "<html>Back soon.</html>"), false},
		{"404, a page", body(404, "<html>Back soon.</html>"), false},
		{"404, empty", body(404, ""), false},
		{"from a cache", body(200, "[]", "Age", "7"), false},
		{"refused", refuse, false},
		{"reset", reset, false},
		{"silence", silence, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &bulkScript{steps: steps{status(503), status(503), nil}}
				s.bulkShop = &bulkShop{t: t, probe: func(n int, r *http.Request) (*http.Response, error) {
					require.Equal(t, "/api/v1/stock/stock-records/", r.URL.Path)
					require.NotEmpty(t, r.Header.Get("Authorization"))
					if n >= probes {
						return stubResponse(200, "[]"), nil
					}
					return row.respond(r)
				}}
				start := time.Now()
				err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 1, OutageTimeout: time.Hour})
				require.Equal(t, "uu"+"aaaaaaaaaaaaaaaaaa", bulkOutcomeText(bulkOutcomes(t, bulkChange, 20, err)))
				require.Equal(t, start, s.probes[0], "at once")
				if row.ends {
					require.Len(t, s.probes, 1)
					require.Equal(t, start, s.arrivals[0].at)
					return
				}
				require.Len(t, s.probes, probes+1)
				require.Equal(t, s.probes[probes], s.arrivals[0].at)
				longest := 100 * time.Millisecond
				for i := range probes {
					gap := s.probes[i+1].Sub(s.probes[i])
					if row.name == "silence" {
						gap -= 5 * time.Second
					}
					require.GreaterOrEqual(t, gap, time.Duration(0))
					require.Less(t, gap, longest, "after probe %d", i)
					longest = min(2*longest, 5*time.Second)
				}
			})
		})
	}
}

// TestBulkProbeJitter checks that runs that hold at once do not probe at once.
func TestBulkProbeJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var second []time.Duration
		for range 20 {
			s := &bulkScript{steps: steps{status(503), status(503), nil}}
			s.bulkShop = &bulkShop{t: t, probe: func(n int, r *http.Request) (*http.Response, error) {
				if n == 0 {
					return reset(r)
				}
				return stubResponse(200, "[]"), nil
			}}
			err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(3), oakra.BulkOptions{BatchSize: 1, Concurrency: 1})
			require.Error(t, err)
			second = append(second, s.probes[1].Sub(s.probes[0]))
		}
		least, most := second[0], second[0]
		for _, d := range second {
			least, most = min(least, d), max(most, d)
		}
		require.Less(t, least, 40*time.Millisecond, "%v", second)
		require.Greater(t, most, 60*time.Millisecond, "%v", second)
	})
}

// TestBulkTrial checks that a single request is sent after a hold, and what its result
// means.
func TestBulkTrial(t *testing.T) {
	const n, concurrency, slow = 100, 4, time.Second
	rejected := func(*http.Request) (*http.Response, error) { return stubResponse(400, `{"detail":"No."}`), nil }
	for _, row := range []struct {
		name    string
		trials  steps // responses to the requests that are sent alone
		ends    bool  // whether they end the run
		unknown int
	}{
		{"success", steps{pass}, false, 2},
		{"400", steps{rejected}, false, 2},
		{"one failure", steps{status(503), pass}, false, 3},
		{"one that is refused", steps{refuse, pass}, false, 2},
		{"two failures", steps{reset, status(502), pass}, false, 4},
		{"two failures and a rejection", steps{reset, status(502), rejected}, false, 4},
		{"three failures", steps{reset, status(502), status(503)}, true, 5},
		{"three that are refused", steps{refuse, refuse, refuse}, true, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const before = concurrency + 1 // requests sent by the second failure
				s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{status(503), late(1, status(503)), late(2, pass), late(2, pass), late(2, pass)}}
				for _, trial := range row.trials {
					s.steps = append(s.steps, late(slow, trial))
				}
				s.steps = append(s.steps, late(slow, pass))
				var mu sync.Mutex
				var begun []time.Time
				transport := stubTransport(func(r *http.Request) (*http.Response, error) {
					if r.Method != http.MethodGet {
						mu.Lock()
						begun = append(begun, time.Now())
						mu.Unlock()
					}
					return s.RoundTrip(r)
				})
				err := bulkChange.all(t.Context(), bulkClient(t, transport, bulkOnce), bulkItems(n), oakra.BulkOptions{BatchSize: 1, Concurrency: concurrency})
				var bulk *oakra.BulkError
				require.ErrorAs(t, err, &bulk)
				require.Len(t, bulk.Unknown(), row.unknown)
				for i := range row.trials {
					trial := begun[before+i]
					for _, other := range append(begun[:before+i:before+i], begun[before+i+1:]...) {
						require.False(t, other.After(trial) && other.Before(trial.Add(slow)) || other.Equal(trial), "trial %d goes alone", i)
					}
				}
				if !row.ends {
					require.LessOrEqual(t, len(bulk.NotApplied()), 1)
					first := before + len(row.trials)
					require.Equal(t, begun[first-1].Add(slow), begun[first])
					require.Equal(t, begun[first], begun[first+concurrency-1], "afterwards as before")
					return
				}
				require.Len(t, begun, before+len(row.trials))
				require.Len(t, bulk.NotApplied(), n-bulk.Applied-row.unknown)
				requireFailures(t, err, func(f oakra.BulkFailure) {
					if f.Outcome == notApplied {
						require.ErrorContains(t, f.Err, "503 Service Unavailable: not sent: the service stopped responding")
						require.True(t, oakra.Retryable(f.Err))
					}
				})
			})
		})
	}
}

// TestBulkTrialsAddUp checks that a rejection does not reset the count: three requests
// that were sent alone and failed, without a success in between, end the run.
func TestBulkTrialsAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rejected := func(*http.Request) (*http.Response, error) { return stubResponse(400, `{"detail":"No."}`), nil }
		down := status(503)
		s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{
			pass,
			down, down, down, rejected, // the last two are sent alone
			down, down, down, rejected,
			down, down, down,
			pass,
		}}
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 1, Concurrency: 1})
		require.Equal(t, "auuunuuunuuu"+strings.Repeat("n", 28), bulkOutcomeText(bulkOutcomes(t, bulkChange, 40, err)))
		require.Equal(t, 12, s.sent)
	})
}

// TestBulkFailuresInARow checks that two failures are in a row unless a request that
// began after the first of them succeeded.
func TestBulkFailuresInARow(t *testing.T) {
	const ms = time.Millisecond
	fail := func(d time.Duration) func(*http.Request) (*http.Response, error) { return late(d, status(503)) }
	for _, row := range []struct {
		name        string
		concurrency int
		steps       steps
		holds       int
	}{
		{"two", 1, steps{fail(1 * ms), fail(1 * ms), late(1*ms, pass)}, 1},
		{"a success between", 1, steps{fail(1 * ms), late(1*ms, pass), fail(1 * ms), late(1*ms, pass), fail(1 * ms), late(1*ms, pass)}, 0},
		{"a success that began before", 2, steps{fail(1 * ms), late(2*ms, pass), fail(3 * ms), late(9*ms, pass), late(1*ms, pass)}, 1},
		{"a success that began after", 2, steps{fail(1 * ms), late(9*ms, pass), late(1*ms, pass), fail(1 * ms), late(1*ms, pass)}, 0},
		{"one that ends between", 3, steps{late(4*ms, pass), fail(2 * ms), fail(5 * ms), late(9*ms, pass), late(9*ms, pass), late(1*ms, pass)}, 1},
		{"at once", 2, steps{fail(1 * ms), fail(1 * ms), late(1*ms, pass)}, 1},
		{"twice", 1, steps{fail(1 * ms), fail(1 * ms), late(1*ms, pass), late(1*ms, pass), fail(1 * ms), fail(1 * ms), late(1*ms, pass)}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: row.steps}
				_ = bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: row.concurrency})
				require.Len(t, s.probes, row.holds)
			})
		})
	}
}

// TestBulkOutageAtTheEnd checks that a run whose last requests fail ends, even if
// some of them go back into the queue while it holds.
func TestBulkOutageAtTheEnd(t *testing.T) {
	const ms = time.Millisecond
	for _, row := range []struct {
		name  string
		steps steps
		want  string
		holds bool
	}{
		{"all unknown", steps{late(ms, status(503)), late(2*ms, status(503)), late(3*ms, reset)}, "uuu", false},
		{"refused last", steps{late(ms, status(503)), late(2*ms, status(503)), late(3*ms, refuse), late(9*ms, pass)}, "uua", true},
		{"refused first", steps{late(ms, refuse), late(2*ms, refuse), late(3*ms, reset), late(9*ms, pass)}, "aau", true},
		{"all refused", steps{late(ms, refuse), late(2*ms, refuse), late(3*ms, refuse), late(9*ms, pass)}, "aaa", true},
		{"all refused at once", steps{late(ms, refuse), late(ms, refuse), late(ms, refuse), late(9*ms, pass)}, "aaa", true},
		{"refused again", steps{late(ms, refuse), late(ms, refuse), late(ms, refuse), late(ms, refuse), late(ms, refuse), late(9*ms, pass)}, "aaa", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: row.steps}
				start := time.Now()
				err := bulkChange.all(t.Context(), bulkClient(t, s, bulkOnce), bulkItems(3), oakra.BulkOptions{BatchSize: 1})
				outcomes := bulkOutcomes(t, bulkChange, 3, err)
				counts := make(map[rune]int)
				for _, o := range bulkOutcomeText(outcomes) {
					counts[o]++
				}
				want := make(map[rune]int)
				for _, o := range row.want {
					want[o]++
				}
				require.Equal(t, want, counts)
				require.Equal(t, row.holds, len(s.probes) > 0)
				require.Less(t, time.Since(start), 10*time.Second)
			})
		})
	}
}

// TestBulkMultiStatus checks that the records of a 207 prove nothing, and that a server
// that always responds with it does not leave the outcome of all items unknown.
func TestBulkMultiStatus(t *testing.T) {
	const n, size = 1000, 5
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			s := &bulkShop{t: t}
			s.respond = func(_ int, r *http.Request, items []bulkItem) *http.Response {
				response := s.apply(r, items)
				response.StatusCode = 207
				return response
			}
			items := bulkItems(n)
			err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: size})
			count := requireShopTruth(t, op, s, items, err)
			require.Zero(t, count[applied])
			require.Positive(t, count[unknown])
			require.LessOrEqual(t, count[unknown], (4+4)*size)
		})
	})
}

// TestBulkIncompleteResponses checks that a server that leaves records out of its
// responses is not taken for one that does not respond.
func TestBulkIncompleteResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, size = 500, 5
		s := &bulkShop{t: t}
		s.respond = func(_ int, r *http.Request, items []bulkItem) *http.Response { return s.apply(r, items[1:]) }
		items := bulkItems(n)
		err := bulkChange.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: size})
		count := requireShopTruth(t, bulkChange, s, items, err)
		require.Equal(t, map[oakra.Outcome]int{applied: n - n/size, unknown: n / size}, count)
		require.Empty(t, s.probes)
	})
}

// TestBulkProbeIsACall checks that observers see a probe as a call, and that it waits
// for the limiter.
func TestBulkProbeIsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{status(503), status(503), nil}}
		var ops []string
		admitted := 0
		client := bulkClient(t, s,
			oakra.WithObserver(oakra.Observer{CallEnd: func(_ context.Context, c oakra.CallEnd) { ops = append(ops, c.Op) }}),
			oakra.WithLimiter(stubLimiter(func(context.Context) error { admitted++; return nil })))
		_ = bulkChange.all(t.Context(), client, bulkItems(4), oakra.BulkOptions{BatchSize: 1, Concurrency: 1})
		require.Equal(t, []string{"stock.change", "stock.change", "stock.list", "stock.change", "stock.change"}, ops)
		require.Equal(t, 5, admitted)
	})
}

// TestBulkRandomResets checks that single failures at random hardly slow a run.
func TestBulkRandomResets(t *testing.T) {
	const n = 2000
	run := func(t *testing.T, seed uint64, probability float64) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 6))
			delay := jitter(seed)
			s := &bulkShop{t: t, latency: delay}
			var mu sync.Mutex
			sent := 0
			transport := stubTransport(func(r *http.Request) (*http.Response, error) {
				mu.Lock()
				hit := random.Float64() < probability
				sent++
				wait := delay(sent)
				mu.Unlock()
				if hit {
					time.Sleep(wait)
					return reset(r)
				}
				return s.RoundTrip(r)
			})
			start := time.Now()
			err := bulkChange.all(t.Context(), bulkClient(t, transport), bulkItems(n), oakra.BulkOptions{BatchSize: 1})
			took = time.Since(start)
			count := requireShopTruth(t, bulkChange, s, bulkItems(n), err)
			require.Zero(t, count[notApplied])
			require.InDelta(t, probability*n, count[unknown], 0.03*n)
		})
		return took
	}
	for seed := range uint64(3) {
		calm, stormy := run(t, seed, 0), run(t, seed, 0.05)
		t.Logf("seed %d: %v without failures, %v with 5 %% of resets: %.3f", seed, calm, stormy, stormy.Seconds()/calm.Seconds())
		require.Less(t, stormy.Seconds(), 1.15*calm.Seconds(), "seed %d", seed)
	}
}
