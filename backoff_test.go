package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// These tests run in synctest bubbles: a wait is exact and takes no time.

// TestBackoffFullJitter draws many waits and checks that they are distributed evenly
// from zero to a bound that doubles up to the maximum.
func TestBackoffFullJitter(t *testing.T) {
	const runs = 600
	for _, tt := range []struct {
		name   string
		policy oakra.RetryPolicy
		bounds []time.Duration
	}{
		{"defaults", oakra.RetryPolicy{MaxAttempts: 8}, []time.Duration{
			250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"capped between two doublings", oakra.RetryPolicy{MaxAttempts: 5, MinBackoff: 100 * time.Millisecond, MaxBackoff: 300 * time.Millisecond}, []time.Duration{
			100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond}},
		{"constant", oakra.RetryPolicy{MaxAttempts: 4, MinBackoff: time.Second, MaxBackoff: time.Second}, []time.Duration{
			time.Second, time.Second, time.Second}},
	} {
		for _, failing := range []struct {
			name    string
			respond func(*http.Request) (*http.Response, error)
			call    stockCall
		}{
			{"503 to a list", status(503), stockCalls[0]},
			{"429 to a change", status(429), stockCalls[2]},
			{"refused to a change", refuse, stockCalls[2]},
		} {
			t.Run(tt.name+"/"+failing.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					transport := sequence(failing.respond)
					client := stubClient(t, transport, oakra.WithRetryPolicy(tt.policy))
					sums := make([]time.Duration, len(tt.bounds))
					least := make([]time.Duration, len(tt.bounds))
					most := make([]time.Duration, len(tt.bounds))
					for run := range runs {
						transport.times = nil
						_, err := failing.call.call(t.Context(), client)
						require.Error(t, err)
						gaps := transport.gaps()
						require.Len(t, gaps, len(tt.bounds))
						for i, gap := range gaps {
							require.GreaterOrEqual(t, gap, time.Duration(0))
							require.LessOrEqual(t, gap, tt.bounds[i], "wait %d", i+1)
							sums[i] += gap
							most[i] = max(most[i], gap)
							if run == 0 || gap < least[i] {
								least[i] = gap
							}
						}
					}
					// The mean of 600 evenly distributed waits is within 1.2 % of the
					// bound two times in three; to be 10 % off is eight times that,
					// which does not happen.
					for i, bound := range tt.bounds {
						require.InDelta(t, bound/2, sums[i]/runs, float64(bound)/10, "mean of wait %d", i+1)
						require.Less(t, least[i], bound/10, "wait %d has no floor", i+1)
						require.Greater(t, most[i], bound*9/10, "wait %d reaches its bound", i+1)
					}
				})
			})
		}
	}
}

func TestBackoffMaxAttempts(t *testing.T) {
	for _, attempts := range []int{1, 2, 3, 7} {
		for _, tt := range []struct {
			name    string
			respond func(*http.Request) (*http.Response, error)
			calls   []stockCall // calls that are sent again
		}{
			{"429", status(429), stockCalls},
			{"refused", refuse, stockCalls},
			{"handshake reset", handshakeReset, stockCalls},
			{"503", status(503), stockCalls[:2]},
			{"reset", reset, stockCalls[:2]},
		} {
			for _, call := range stockCalls {
				synctest.Test(t, func(t *testing.T) {
					policy := noWait
					policy.MaxAttempts = attempts
					transport := sequence(tt.respond)
					_, err := call.call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(policy)))
					want := 1
					for _, again := range tt.calls {
						if again.name == call.name {
							want = attempts
						}
					}
					require.Len(t, transport.times, want, "%s to %s", tt.name, call.name)
					require.Equal(t, want, requireError(t, err).Attempts)
				})
			}
		}
	}
}

// TestBackoffRecovers checks that the last allowed attempt may succeed.
func TestBackoffRecovers(t *testing.T) {
	for _, call := range stockCalls {
		synctest.Test(t, func(t *testing.T) {
			transport := sequence(status(429), refuse, status(429), success)
			records, err := call.call(t.Context(), stubClient(t, transport))
			require.NoError(t, err)
			require.Equal(t, recordsAB, records)
			require.Len(t, transport.times, 4)
		})
	}
}

// TestBackoffRetryAfter checks seconds, of which a fraction is rounded up, the three
// date formats of RFC 9110, and Unix times. Any other value is ignored, and named in
// the error.
func TestBackoffRetryAfter(t *testing.T) {
	const asked = 7 * time.Second
	at := func(layout string, after time.Duration) func(time.Time) string {
		return func(now time.Time) string { return now.Add(after).UTC().Format(layout) }
	}
	is := func(value string) func(time.Time) string { return func(time.Time) string { return value } }
	for _, tt := range []struct {
		name   string
		header func(now time.Time) string
		want   time.Duration
	}{
		{"seconds", is("7"), asked},
		{"padded seconds", is(" 7 "), asked},
		{"leading zeros", is("007"), asked},
		{"RFC 1123", at(http.TimeFormat, asked), asked},
		{"RFC 850", at("Monday, 02-Jan-06 15:04:05 GMT", asked), asked},
		{"asctime", at(time.ANSIC, asked), asked},
		{"the longest that may", is("30"), 30 * time.Second},
		{"zero", is("0"), 0},
		{"now", at(http.TimeFormat, 0), 0},
		{"past, RFC 1123", at(http.TimeFormat, -time.Hour), 0},
		{"past, RFC 850", at("Monday, 02-Jan-06 15:04:05 GMT", -time.Hour), 0},
		{"past, asctime", at(time.ANSIC, -time.Hour), 0},
		{"long past", is("Sun, 06 Nov 1994 08:49:37 GMT"), 0},
		{"empty", is(""), 0},
		{"negative", is("-7"), 0},
		{"signed", is("+7"), 0},
		{"a fraction", is("6.001"), asked},
		{"a fraction of zero", is("7.000"), asked},
		{"less than a second", is("0.493"), time.Second},
		{"Unix time", func(now time.Time) string { return fmt.Sprint(now.Add(asked).Unix()) }, asked},
		{"Unix time with a fraction", func(now time.Time) string { return fmt.Sprintf("%d.25", now.Add(6*time.Second).Unix()) }, asked},
		{"Unix time of the past", func(now time.Time) string { return fmt.Sprint(now.Add(-time.Hour).Unix()) }, 0},
		{"a point without digits", is("7."), 0},
		{"a point before the digits", is(".5"), 0},
		{"two points", is("7.5.1"), 0},
		{"a comma", is("7,5"), 0},
		{"milliseconds of Unix time", func(now time.Time) string { return fmt.Sprint(now.UnixMilli()) + "x" }, 0},
		{"an exponent", is("1e3"), 0},
		{"a unit", is("7s"), 0},
		{"two", is("7, 8"), 0},
		{"words", is("soon"), 0},
		{"other digits", is("٧"), 0},
		{"another date", is("2000-01-01T00:00:07Z"), 0},
		{"hexadecimal", is("0x7"), 0},
	} {
		for _, code := range []int{429, 503} {
			for _, call := range stockCalls {
				if code == 503 && call.name == "stock.change" {
					continue // it is not sent again at all
				}
				if code == 503 && call.name == "stock.update" && tt.want >= 5*time.Second {
					continue // nor is an Update that long after an unknown outcome
				}
				t.Run(fmt.Sprintf("%s/%d/%s", tt.name, code, call.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						transport := sequence(status(code, "Retry-After", tt.header(time.Now())), success)
						_, err := call.call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(noWait)))
						require.NoError(t, err)
						require.Len(t, transport.times, 2)
						gap := transport.gaps()[0]
						require.GreaterOrEqual(t, gap, tt.want)
						require.LessOrEqual(t, gap, tt.want+noWait.MaxBackoff)
					})
				})
			}
		}
	}
}

// TestBackoffRetryAfterTooLong checks that a call returns at once when the
// server asks for a longer wait than allowed. The error has the wait.
func TestBackoffRetryAfterTooLong(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header string
		policy time.Duration
		want   time.Duration // 0 for any wait above the policy's
	}{
		{"a second over", "31", 0, 31 * time.Second},
		{"a fraction over", "30.001", 0, 31 * time.Second},
		{"minutes with a fraction", "299.997", 0, 5 * time.Minute},
		{"Unix time", "946688400", 0, time.Hour}, // a bubble begins on 2000-01-01
		{"Unix time in a year", "978220800", 0, 365 * 24 * time.Hour},
		{"seconds like a distant time", "2000000000", 0, 2_000_000_000 * time.Second},
		{"over its own cap", "3", 2 * time.Second, 3 * time.Second},
		{"an hour", "3600", 0, time.Hour},
		{"huge", "9223372036", 0, 0},
		{"huger", "9223372037", 0, 0},
		{"as int64", "9223372036854775807", 0, 0},
		{"beyond int64", "18446744073709551616", 0, 0},
		{"beyond all bounds", strings.Repeat("9", 400), 0, 0},
		{"a far date", "Fri, 31 Dec 9999 23:59:59 GMT", 0, 0},
		{"a date", "Sat, 01 Jan 2000 01:00:00 GMT", 0, time.Hour},
	} {
		for _, code := range []int{429, 503} {
			for _, call := range stockCalls {
				t.Run(fmt.Sprintf("%s/%d/%s", tt.name, code, call.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						policy := noWait
						policy.MaxRetryAfter = tt.policy
						limit := tt.policy
						if limit == 0 {
							limit = 30 * time.Second
						}
						transport := sequence(status(code, "Retry-After", tt.header))
						start := time.Now()
						_, err := call.call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(policy)))
						require.Zero(t, time.Since(start))
						require.Len(t, transport.times, 1)
						e := requireError(t, err)
						require.Equal(t, code, e.StatusCode)
						require.Greater(t, e.RetryAfter, limit)
						if tt.want != 0 {
							require.Equal(t, tt.want, e.RetryAfter)
						}
						if code == 429 {
							require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
							require.True(t, oakra.Retryable(err), "later it may succeed")
						}
					})
				})
			}
		}
	}
}

// TestBackoffRetryAfterDate checks that a date, and a Unix time, count from the
// response's own Date: the clocks of two machines differ.
func TestBackoffRetryAfterDate(t *testing.T) {
	for _, skew := range []time.Duration{-3 * time.Hour, -10 * time.Second, 0, 10 * time.Second, 48 * time.Hour} {
		for _, row := range []struct {
			name, date string
			form       func(server time.Time) string
			want       time.Duration
		}{
			{"date", http.TimeFormat, func(server time.Time) string { return server.Add(9 * time.Second).Format(http.TimeFormat) }, 9 * time.Second},
			{"date past", http.TimeFormat, func(server time.Time) string { return server.Add(-9 * time.Second).Format(http.TimeFormat) }, 0},
			{"Unix time", http.TimeFormat, func(server time.Time) string { return fmt.Sprint(server.Add(9 * time.Second).Unix()) }, 9 * time.Second},
			{"seconds", http.TimeFormat, func(time.Time) string { return "9" }, 9 * time.Second},
			// Without a readable Date there is only the client's clock.
			{"unreadable Date", "yesterday", func(server time.Time) string {
				return server.Add(9*time.Second - skew).Format(http.TimeFormat)
			}, 9 * time.Second},
		} {
			t.Run(fmt.Sprintf("%s, %v off", row.name, skew), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := time.Now().UTC().Add(skew)
					transport := sequence(status(429, "Retry-After", row.form(server), "Date", server.Format(row.date)), success)
					_, err := stockCalls[2].call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(noWait)))
					require.NoError(t, err)
					require.InDelta(t, row.want, transport.gaps()[0], 1)
				})
			})
		}
	}
}

// TestBackoffRetryAfterUnreadable checks that the error shows what it could not read.
func TestBackoffRetryAfterUnreadable(t *testing.T) {
	for _, value := range []string{"soon", "7s", "-1", "2000-01-01T00:00:07Z", "7,5", strings.Repeat("x", 300)} {
		transport := sequence(status(429, "Retry-After", value))
		_, err := stockCalls[2].call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})))
		require.ErrorContains(t, err, value[:min(len(value), 30)])
		require.Less(t, len(err.Error()), 400)
		require.Zero(t, requireError(t, err).RetryAfter)
	}
}

// TestBackoffRetryAfterOnError checks that the error has the wait of the last
// response, for callers that want to wait themselves.
func TestBackoffRetryAfterOnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := noWait
		policy.MaxAttempts = 2
		transport := sequence(status(429, "Retry-After", "5"), status(429, "Retry-After", "9"))
		_, err := stockCalls[2].call(t.Context(), stubClient(t, transport, oakra.WithRetryPolicy(policy)))
		require.Equal(t, 9*time.Second, requireError(t, err).RetryAfter, "the last response's")
	})
}

// TestBackoffDeadline checks that a wait that would outlast the deadline does
// not start. The call returns the server's error at once.
func TestBackoffDeadline(t *testing.T) {
	long := oakra.RetryPolicy{MinBackoff: 1000 * time.Hour, MaxBackoff: 1000 * time.Hour}
	for _, tt := range []struct {
		name    string
		respond func(*http.Request) (*http.Response, error)
		policy  oakra.RetryPolicy
		want    error
		calls   []stockCall
	}{
		{"429", status(429, "Retry-After", "10"), noWait, oakra.ErrRateLimited, stockCalls},
		{"503", status(503, "Retry-After", "10"), noWait, oakra.ErrServer, stockCalls[:1]},
		{"429 without Retry-After", status(429), long, oakra.ErrRateLimited, stockCalls},
		{"503 without Retry-After", status(503), long, oakra.ErrServer, stockCalls[:2]},
		{"refused", refuse, long, oakra.ErrUnreachable, stockCalls},
		{"reset", reset, long, errReset, stockCalls[:2]},
	} {
		for _, call := range tt.calls {
			t.Run(tt.name+"/"+call.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
					defer cancel()
					transport := sequence(tt.respond)
					start := time.Now()
					_, err := call.call(ctx, stubClient(t, transport, oakra.WithRetryPolicy(tt.policy)))
					require.Zero(t, time.Since(start))
					require.Len(t, transport.times, 1)
					require.ErrorIs(t, err, tt.want)
					require.NoError(t, ctx.Err())
					e := requireError(t, err)
					require.Equal(t, 1, e.Attempts)
					if errors.Is(tt.want, oakra.ErrRateLimited) || errors.Is(tt.want, oakra.ErrUnreachable) {
						require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
						require.True(t, oakra.Retryable(err))
					}
				})
			})
		}
	}
	// A wait that would end before the deadline takes place.
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		transport := sequence(status(429, "Retry-After", "3"), success)
		_, err := stockCalls[2].call(ctx, stubClient(t, transport, oakra.WithRetryPolicy(noWait)))
		require.NoError(t, err)
		require.Len(t, transport.times, 2)
	})
}

// TestBackoffCanceled checks that the end of the context ends a wait, and that
// the error has both the context's error and the failure before the wait.
func TestBackoffCanceled(t *testing.T) {
	cause := errors.New("the shop closes")
	long := oakra.RetryPolicy{MinBackoff: 1000 * time.Hour, MaxBackoff: 1000 * time.Hour}
	for _, tt := range []struct {
		name    string
		respond func(*http.Request) (*http.Response, error)
		policy  oakra.RetryPolicy
		status  int
		want    []error
		outcome oakra.Outcome
		calls   []stockCall
	}{
		{"429", status(429, "Retry-After", "10"), noWait, 429, []error{oakra.ErrRateLimited}, oakra.OutcomeNotApplied, stockCalls},
		{"429 without Retry-After", status(429), long, 429, []error{oakra.ErrRateLimited}, oakra.OutcomeNotApplied, stockCalls},
		{"503 to a list", status(503, "Retry-After", "10"), noWait, 503, []error{oakra.ErrServer}, oakra.OutcomeNotApplied, stockCalls[:1]},
		{"503 to an update", status(503, "Retry-After", "4"), noWait, 503, []error{oakra.ErrServer}, oakra.OutcomeUnknown, stockCalls[1:2]},
		{"refused", refuse, long, 0, []error{oakra.ErrUnreachable, errRefused}, oakra.OutcomeNotApplied, stockCalls},
		{"reset of a list", reset, long, 0, []error{errReset}, oakra.OutcomeNotApplied, stockCalls[:1]},
	} {
		for _, call := range tt.calls {
			for _, withCause := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/cause %t", tt.name, call.name, withCause), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancelCause(t.Context())
						var given error
						if withCause {
							given = cause
						}
						stop := time.AfterFunc(2*time.Second, func() { cancel(given) })
						defer stop.Stop()
						defer cancel(nil)
						transport := sequence(tt.respond)
						start := time.Now()
						records, err := call.call(ctx, stubClient(t, transport, oakra.WithRetryPolicy(tt.policy)))
						require.Equal(t, 2*time.Second, time.Since(start), "the wait ends with the context")
						require.Nil(t, records)
						require.Len(t, transport.times, 1)

						require.ErrorIs(t, err, context.Canceled)
						require.Equal(t, withCause, errors.Is(err, cause))
						for _, want := range tt.want {
							require.ErrorIs(t, err, want)
						}
						e := requireError(t, err)
						require.Equal(t, tt.status, e.StatusCode)
						require.Equal(t, tt.outcome, e.Outcome)
						require.Equal(t, tt.outcome == oakra.OutcomeNotApplied, oakra.Retryable(err))
						require.Equal(t, 1, e.Attempts)
						require.Contains(t, err.Error(), "context canceled")
						if withCause {
							require.Contains(t, err.Error(), cause.Error())
						}
					})
				})
			}
		}
	}
}

// TestBackoffContextOver checks that nothing is sent if the context has ended.
func TestBackoffContextOver(t *testing.T) {
	cause := errors.New("the shop is closed")
	for _, call := range stockCalls {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(cause)
			transport := sequence(success)
			_, err := call.call(ctx, stubClient(t, transport))
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, cause)
			require.Empty(t, transport.times)
			e := requireError(t, err)
			require.Zero(t, e.Attempts)
			require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
			require.True(t, oakra.Retryable(err))
		})
	}
}

// TestBackoffAsksBeforeEachAttempt checks that the limiter and the key source
// are asked before every attempt, with the context of the call.
func TestBackoffAsksBeforeEachAttempt(t *testing.T) {
	type mark struct{}
	for _, call := range stockCalls {
		synctest.Test(t, func(t *testing.T) {
			var order []string
			note := func(ctx context.Context, what string) {
				require.Equal(t, "marked", ctx.Value(mark{}))
				order = append(order, what)
			}
			transport := stubTransport(func(r *http.Request) (*http.Response, error) {
				note(r.Context(), "send with "+r.Header.Get("Authorization"))
				return stubResponse(429, "", "Retry-After", "3"), nil
			})
			keys := 0
			client, err := oakra.NewClient("",
				oakra.WithHTTPClient(&http.Client{Transport: transport}),
				oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 3, MinBackoff: 1, MaxBackoff: 1}),
				oakra.WithLimiter(stubLimiter(func(ctx context.Context) error {
					note(ctx, "limiter")
					time.Sleep(time.Second) // holds the attempt back
					return nil
				})),
				oakra.WithAppKeySource(func(ctx context.Context, rejected string) (string, error) {
					require.Empty(t, rejected)
					note(ctx, "key")
					keys++
					return fmt.Sprintf("key-number-%d", keys), nil
				}))
			require.NoError(t, err)
			start := time.Now()
			_, err = call.call(context.WithValue(t.Context(), mark{}, "marked"), client)
			require.ErrorIs(t, err, oakra.ErrRateLimited)
			require.InDelta(t, 3*time.Second+2*3*time.Second, time.Since(start), 10)
			require.Len(t, order, 9)
			for i := range 3 {
				require.ElementsMatch(t, []string{"limiter", "key"}, order[3*i:3*i+2])
				require.Equal(t, fmt.Sprintf("send with Bearer key-number-%d", i+1), order[3*i+2])
			}
		})
	}
}

// TestBackoffAskedInVain checks that a limiter or a key source that fails ends the
// call. Before the first attempt nothing was applied; later the call returns the last
// failure.
func TestBackoffAskedInVain(t *testing.T) {
	failure := errors.New("no more today")
	for _, row := range []struct {
		name   string
		option func(fails func() bool) []oakra.Option
	}{
		{"limiter", func(fails func() bool) []oakra.Option {
			return []oakra.Option{oakra.WithLimiter(stubLimiter(func(context.Context) error {
				if fails() {
					return failure
				}
				return nil
			}))}
		}},
		{"key source", func(fails func() bool) []oakra.Option {
			return []oakra.Option{oakra.WithAppKeySource(func(context.Context, string) (string, error) {
				if fails() {
					return "", failure
				}
				return stubKey, nil
			})}
		}},
	} {
		for _, call := range stockCalls {
			for failing := 1; failing <= 3; failing++ {
				t.Run(fmt.Sprintf("%s/%s/%d", row.name, call.name, failing), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						asked := 0
						opts := row.option(func() bool { asked++; return asked == failing })
						transport := sequence(status(429))
						opts = append(opts, oakra.WithHTTPClient(&http.Client{Transport: transport}), oakra.WithRetryPolicy(noWait))
						key := stubKey
						if row.name == "key source" {
							key = ""
						}
						client, err := oakra.NewClient(key, opts...)
						require.NoError(t, err)
						_, err = call.call(t.Context(), client)
						require.ErrorIs(t, err, failure)
						require.Len(t, transport.times, failing-1)
						e := requireError(t, err)
						require.Equal(t, failing-1, e.Attempts)
						require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
						require.Equal(t, failing > 1, errors.Is(err, oakra.ErrRateLimited))
					})
				})
			}
		}
	}
}
