package oakra_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

var errPanic = errors.New("out of paper")

// outOfPaper panics. Its name is in the stack.
func outOfPaper() { panic(errPanic) }

type panickingHandler struct{ slog.Handler }

func (panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (panickingHandler) Handle(context.Context, slog.Record) error {
	outOfPaper()
	return nil
}

// TestBulkPanics checks that a panic of the caller's code in a goroutine of the run
// becomes a panic of the caller's goroutine, with the stack of the first. By then all
// requests have ended.
func TestBulkPanics(t *testing.T) {
	for _, row := range []struct {
		name   string
		option func(calls *int) oakra.Option
		steps  steps
		probe  bool
	}{
		{name: "transport", steps: steps{pass, pass, func(*http.Request) (*http.Response, error) { outOfPaper(); return nil, nil }}},
		{name: "transport, in a probe", steps: steps{pass, reset, reset}, probe: true},
		{name: "limiter", option: func(calls *int) oakra.Option {
			return oakra.WithLimiter(stubLimiter(func(context.Context) error {
				if *calls++; *calls == 3 {
					outOfPaper()
				}
				return nil
			}))
		}},
		{name: "key source", option: func(calls *int) oakra.Option {
			return oakra.WithAppKeySource(func(context.Context, string) (string, error) {
				if *calls++; *calls == 3 {
					outOfPaper()
				}
				return stubKey, nil
			})
		}},
		{name: "observer of a call", option: func(*int) oakra.Option {
			return oakra.WithObserver(oakra.Observer{CallStart: func(context.Context, oakra.CallStart) context.Context { outOfPaper(); return nil }})
		}},
		{name: "observer of an attempt", option: func(*int) oakra.Option {
			return oakra.WithObserver(oakra.Observer{AttemptEnd: func(context.Context, oakra.AttemptEnd) { outOfPaper() }})
		}},
		{name: "log handler", option: func(*int) oakra.Option { return oakra.WithLogger(slog.New(panickingHandler{})) }},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				before := runtime.NumGoroutine()
				s := &bulkScript{bulkShop: &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}, steps: row.steps}
				if s.steps == nil {
					s.steps = steps{pass}
				}
				if row.probe {
					s.probe = func(int, *http.Request) (*http.Response, error) { outOfPaper(); return nil, nil }
				}
				opts := []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: s}), bulkOnce}
				key, calls := stubKey, 0
				if row.option != nil {
					opts = append(opts, row.option(&calls))
				}
				if row.name == "key source" {
					key = ""
				}
				client, err := oakra.NewClient(key, opts...)
				require.NoError(t, err)
				concurrency := 4
				if row.option != nil {
					concurrency = 1 // which fixes the number of calls
				}
				defer func() {
					value, ok := recover().(error)
					require.True(t, ok, "it panics with an error")
					require.ErrorIs(t, value, errPanic)
					require.ErrorContains(t, value, "out of paper")
					require.ErrorContains(t, value, "outOfPaper", "the stack")
					require.Zero(t, s.inFlight)
					requireNoMoreGoroutines(t, before)
				}()
				_ = op.all(t.Context(), oakra.KeepRoutes(client), bulkItems(200), oakra.BulkOptions{BatchSize: 1, Concurrency: concurrency, Stop: make(chan struct{})})
				require.Fail(t, "no panic")
			})
		})
	}
}

// TestBulkRecordsPanic checks that the caller gets a panic of OnRecords, too.
func TestBulkRecordsPanic(t *testing.T) {
	before := runtime.NumGoroutine()
	s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
	require.PanicsWithError(t, "out of paper", func() {
		_ = bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(100), oakra.BulkOptions{BatchSize: 1, OnRecords: func([]oakra.StockRecord) { outOfPaper() }})
	})
	require.Zero(t, s.inFlight)
	require.LessOrEqual(t, len(s.arrivals), 4)
	requireNoMoreGoroutines(t, before)
}

// TestBulkGoexit checks that each item has an outcome and an error even if the
// transport ends its goroutine, as a failing test does.
func TestBulkGoexit(t *testing.T) {
	for _, inProbe := range []bool{false, true} {
		s := &bulkScript{bulkShop: &bulkShop{t: t}}
		exit := func(*http.Request) (*http.Response, error) {
			runtime.Goexit()
			return nil, nil
		}
		s.steps = steps{pass, pass, pass, exit}
		if inProbe {
			s.steps[3] = reset
			s.probe = func(_ int, r *http.Request) (*http.Response, error) { return exit(r) }
		}
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 2})
		count := requireShopTruth(t, bulkChange, s.bulkShop, bulkItems(20), err)
		require.Equal(t, 3, count[applied])
		require.GreaterOrEqual(t, count[unknown], 1)
		require.LessOrEqual(t, count[unknown], 3)
		require.Equal(t, s.sent, count[applied]+count[unknown], "what was not sent is not applied")
		require.NotErrorIs(t, err, oakra.ErrServer)
		requireFailures(t, err, func(f oakra.BulkFailure) {
			if f.Outcome == notApplied || !inProbe {
				require.ErrorContains(t, f.Err, "Goexit")
			}
			if f.Outcome == notApplied {
				require.Equal(t, oakra.StepAlert, oakra.NextStep(f.Err), "%v", f.Err)
			}
		})
	}
}
