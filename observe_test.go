package oakra_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// observed records all that an Observer is told, in its order.
type observed struct {
	name   string
	events *[]string
	values []any // what the hooks got
}

type observedKey string

// observer returns an Observer whose contexts carry a mark for each hook, and which
// writes down the marks that it finds.
func (o *observed) observer() oakra.Observer {
	note := func(ctx context.Context, format string, args ...any) {
		var marks []string
		for _, mark := range []observedKey{"caller", "call A", "call B", "attempt A", "attempt B"} {
			if ctx.Value(mark) != nil {
				marks = append(marks, string(mark))
			}
		}
		*o.events = append(*o.events, o.name+": "+fmt.Sprintf(format, args...)+" in "+strings.Join(marks, ", "))
	}
	return oakra.Observer{
		CallStart: func(ctx context.Context, c oakra.CallStart) context.Context {
			o.values = append(o.values, c)
			note(ctx, "call %s of %d", c.Op, c.Items)
			return context.WithValue(ctx, observedKey("call "+o.name), true)
		},
		AttemptStart: func(ctx context.Context, a oakra.AttemptStart) context.Context {
			o.values = append(o.values, a)
			note(ctx, "attempt %d, %s %s%s", a.Number, a.Method, a.Host, a.Path)
			return context.WithValue(ctx, observedKey("attempt "+o.name), true)
		},
		AttemptEnd: func(ctx context.Context, a oakra.AttemptEnd) {
			o.values = append(o.values, a)
			note(ctx, "attempt %d, %d, %v, resend %t", a.Number, a.StatusCode, a.Outcome, a.Resend)
		},
		CallEnd: func(ctx context.Context, c oakra.CallEnd) {
			o.values = append(o.values, c)
			note(ctx, "call %s of %d, %d attempts, %v", c.Op, c.Items, c.Attempts, c.Outcome)
		},
	}
}

// TestObserver follows a Change over two routes, with an empty list and a 429 between.
func TestObserver(t *testing.T) {
	var events []string
	a, b := observed{name: "A", events: &events}, observed{name: "B", events: &events}
	first, next := deliverChange.path, "/api/v1/stock/stock-record/change/"
	transport := sequence(status(404), status(404), status(429), func(r *http.Request) (*http.Response, error) {
		assert.NotNil(t, r.Context().Value(observedKey("attempt B")), "the context of the hooks is the request's")
		return stubResponse(200, deliveryRecords), nil
	})
	client := stubClient(t, transport, oakra.WithRetryPolicy(noWait), oakra.WithObserver(a.observer()),
		oakra.WithObserver(oakra.Observer{}), // each function may be nil
		oakra.WithObserver(b.observer()))
	_, err := deliverChange.call(context.WithValue(t.Context(), observedKey("caller"), true), client)
	require.NoError(t, err)

	var want []string
	attempt := func(number int, path string, status int, outcome oakra.Outcome, resend bool) {
		want = append(want,
			fmt.Sprintf("A: attempt %d, POST app.oakra.com%s in caller, call A, call B", number, path),
			fmt.Sprintf("B: attempt %d, POST app.oakra.com%s in caller, call A, call B, attempt A", number, path),
			fmt.Sprintf("A: attempt %d, %d, %v, resend %t in caller, call A, call B, attempt A, attempt B", number, status, outcome, resend),
			fmt.Sprintf("B: attempt %d, %d, %v, resend %t in caller, call A, call B, attempt A, attempt B", number, status, outcome, resend))
	}
	want = append(want, "A: call stock.change of 2 in caller", "B: call stock.change of 2 in caller, call A")
	attempt(1, first, 404, notApplied, false)
	attempt(0, first, 404, notApplied, false)
	attempt(2, next, 429, notApplied, true)
	attempt(3, next, 200, applied, false)
	want = append(want, "A: call stock.change of 2, 3 attempts, applied in caller, call A, call B",
		"B: call stock.change of 2, 3 attempts, applied in caller, call A, call B")
	require.Equal(t, want, events)
}

// TestObserverValues has the times, outcomes and errors of an Update.
func TestObserverValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends []oakra.AttemptEnd
		var call oakra.CallEnd
		transport := sequence(
			func(*http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return stubResponse(503, "", "X-Request-Id", "id-1", "Retry-After", "2"), nil
			},
			func(*http.Request) (*http.Response, error) {
				return stubResponse(409, `{"detail":"Locked."}`, "X-Request-Id", "id-2"), nil
			})
		client := oakra.KeepRoutes(stubClient(t, transport, oakra.WithRetryPolicy(noWait), oakra.WithObserver(oakra.Observer{
			CallStart:    func(context.Context, oakra.CallStart) context.Context { return nil }, // the context before is used
			AttemptStart: func(context.Context, oakra.AttemptStart) context.Context { return nil },
			AttemptEnd:   func(_ context.Context, a oakra.AttemptEnd) { ends = append(ends, a) },
			CallEnd:      func(_ context.Context, c oakra.CallEnd) { call = c },
		})))
		_, err := deliverUpdate.call(t.Context(), client)
		require.ErrorIs(t, err, oakra.ErrConflict)
		require.Len(t, ends, 2)

		require.ErrorIs(t, ends[0].Err, oakra.ErrServer)
		require.ErrorContains(t, ends[1].Err, "Locked.")
		for i := range ends {
			require.Nil(t, requireError(t, ends[i].Err).Body)
			ends[i].Err = nil
		}
		common := oakra.AttemptEnd{Op: "stock.update", Method: "POST", Path: deliverUpdate.path}
		one, two := common, common
		one.Number, one.StatusCode, one.Duration, one.Outcome, one.RequestID = 1, 503, time.Second, unknown, "id-1"
		one.Resend, one.ResendAfter = true, 2*time.Second
		two.Number, two.StatusCode, two.Outcome, two.RequestID = 2, 409, notApplied, "id-2" // by itself
		require.Equal(t, []oakra.AttemptEnd{one, two}, ends)

		require.ErrorIs(t, call.Err, oakra.ErrConflict)
		require.Nil(t, requireError(t, call.Err).Body)
		require.NotNil(t, requireError(t, err).Body, "the caller's keeps it")
		call.Err = nil
		require.Equal(t, oakra.CallEnd{Op: "stock.update", Items: 2, Attempts: 2, Duration: 3 * time.Second, Outcome: unknown}, call)
	})
}

// TestObserverCalls counts calls: each request of a long List is one, and a call that
// the client's own checks reject does not count.
func TestObserverCalls(t *testing.T) {
	for _, row := range []struct {
		name     string
		call     func(c *oakra.Client) error
		items    []int
		attempts int
	}{
		{"rejected", func(c *oakra.Client) error {
			return second(c.Stock.Change(t.Context(), []oakra.StockChange{{ID: 0}}))
		}, nil, 0},
		{"list", func(c *oakra.Client) error {
			return second(c.Stock.List(t.Context(), oakra.StockListParams{SKUs: longSKUs(25)}))
		}, []int{10, 10, 5}, 3},
		{"lookup", func(c *oakra.Client) error {
			keys := []oakra.StockKey{}
			for _, sku := range longSKUs(12) {
				keys = append(keys, oakra.StockKey{SKU: sku, LocationID: "w"})
			}
			return second(c.Stock.Lookup(t.Context(), keys))
		}, []int{10, 2}, 2},
		{"held back", func(c *oakra.Client) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return second(c.Stock.Change(ctx, []oakra.StockChange{{ID: 1}}))
		}, []int{1}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			type mark struct{}
			started, ended, attempts := []int{}, []int{}, 0
			lock := make(chan struct{}, 1) // hooks of a Lookup run on several goroutines
			locked := func(f func()) {
				lock <- struct{}{}
				defer func() { <-lock }()
				f()
			}
			client := stubClient(t, &shelf{}, oakra.WithObserver(oakra.Observer{
				CallStart: func(ctx context.Context, c oakra.CallStart) context.Context {
					locked(func() { started = append(started, c.Items) })
					return context.WithValue(ctx, mark{}, c.Items)
				},
				AttemptEnd: func(context.Context, oakra.AttemptEnd) { locked(func() { attempts++ }) },
				CallEnd: func(ctx context.Context, c oakra.CallEnd) {
					assert.Equal(t, c.Items, ctx.Value(mark{}), "the context of its own CallStart")
					assert.Equal(t, c.Err == nil, c.Outcome == applied)
					locked(func() { ended = append(ended, c.Items) })
				},
			}))
			err := row.call(client)
			require.Equal(t, len(row.items) > 0 && row.attempts > 0, err == nil)
			require.ElementsMatch(t, row.items, started)
			require.ElementsMatch(t, row.items, ended)
			require.Equal(t, row.attempts, attempts)
		})
	}
}

// TestObserverHeader checks which headers a hook may add.
func TestObserverHeader(t *testing.T) {
	forbidden := []string{
		"Authorization", "X-OAKRA-API-VERSION", "Idempotency-Key", "X-Idempotency-Key", "Content-Type", "Content-Length",
		"Host", "User-Agent", "Accept", "Accept-Encoding", "Transfer-Encoding", "Connection", "Expect", "Cookie", "Trailer", "Upgrade",
	}
	for _, op := range deliveryOps {
		for _, spelled := range []func(string) string{http.CanonicalHeaderKey, strings.ToLower, strings.ToUpper} {
			var sent []http.Header
			var logged bytes.Buffer
			add := func(name, value string) oakra.Option {
				return oakra.WithObserver(oakra.Observer{AttemptStart: func(ctx context.Context, a oakra.AttemptStart) context.Context {
					a.Header[spelled(name)] = []string{value}
					return ctx
				}})
			}
			opts := []oakra.Option{add("traceparent", "00-a-b-01"), add("tracestate", "x=1"), oakra.WithRetryPolicy(noWait),
				oakra.WithLogger(slog.New(slog.NewJSONHandler(&logged, nil)))}
			for _, name := range forbidden {
				opts = append(opts, add(name, "forged"))
			}
			client := oakra.KeepRoutes(stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
				sent = append(sent, r.Header.Clone())
				if len(sent) == 1 {
					return stubResponse(429, ""), nil
				}
				return stubResponse(200, deliveryRecords), nil
			}), opts...))
			_, err := op.call(t.Context(), client)
			require.NoError(t, err)
			require.Len(t, sent, 2)
			for _, header := range sent {
				require.Equal(t, []string{"00-a-b-01"}, header["Traceparent"])
				require.Equal(t, []string{"x=1"}, header["Tracestate"])
				require.Equal(t, []string{"Bearer " + stubKey}, header["Authorization"])
				require.NotContains(t, fmt.Sprint(header), "forged")
			}
			named := map[string]int{}
			for line := range strings.Lines(logged.String()) {
				var record struct{ Level, Msg, Op, Header string }
				require.NoError(t, json.Unmarshal([]byte(line), &record))
				if record.Msg == "oakra: header of an observer ignored" {
					require.Equal(t, "WARN", record.Level)
					require.Equal(t, "stock."+op.name, record.Op)
					named[record.Header]++
				}
			}
			want := map[string]int{}
			for _, name := range forbidden {
				want[http.CanonicalHeaderKey(name)] = 2 // attempts
			}
			require.Equal(t, want, named)
			require.NotContains(t, logged.String(), "forged")
		}
	}
}

// TestObserverHidesSecrets renders all that hooks get, with a server that repeats the
// key, the query and the body.
func TestObserverHidesSecrets(t *testing.T) {
	for _, call := range stockCalls {
		for _, status := range []int{200, 302, 400, 404, 503} {
			var events []string
			o := observed{name: "A", events: &events}
			var logged bytes.Buffer
			client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
				return stubResponse(status, `{"detail":"Bad key `+stubKey+`.","said":123454321}`,
					"X-Request-Id", "for "+stubKey, "Link", "<?"+r.URL.RawQuery+">; rel=self", "Location", "https://elsewhere.test/"+stubKey+"?"+r.URL.RawQuery), nil
			}), oakra.WithRetryPolicy(noWait), oakra.WithObserver(o.observer()),
				oakra.WithLogger(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
			_, err := call.call(t.Context(), client)
			require.Error(t, err)
			require.NotEmpty(t, o.values)
			for _, value := range o.values {
				requireHidden(t, value, stubKey)
				text := fmt.Sprintf("%+v", value)
				switch v := value.(type) {
				case oakra.AttemptEnd:
					text += fmt.Sprintf("%#v", v.Err)
				case oakra.CallEnd:
					text += fmt.Sprintf("%#v", v.Err)
				}
				for _, hidden := range []string{stubKey, "sku=", "123454321", `"quantity":`} {
					require.NotContains(t, text, hidden)
				}
			}
			for _, hidden := range []string{stubKey, "sku=", "123454321", `"quantity":`} {
				require.NotContains(t, logged.String(), hidden)
			}
		}
	}
}

// TestObserverKeepsError: a hook may hand its error to another goroutine, which reads
// it while the call goes on.
func TestObserverKeepsError(t *testing.T) {
	var readers sync.WaitGroup
	client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		return stubResponse(200, "["+recordA+"]", "X-A", "b"), nil
	}), oakra.WithObserver(oakra.Observer{AttemptEnd: func(_ context.Context, a oakra.AttemptEnd) {
		readers.Go(func() { _ = fmt.Sprintf("%+v", *requireError(t, a.Err)) })
	}}))
	_, err := stockCalls[2].call(t.Context(), client)
	readers.Wait()
	require.Equal(t, recordsAB[:1], requireError(t, err).Records)
}

// TestObserverEndsContext: if the context has ended once the hooks have run, nothing
// was applied, since no transport was given the request.
func TestObserverEndsContext(t *testing.T) {
	for _, tt := range []struct {
		name string
		hook func(ctx context.Context, cancelCall context.CancelFunc) context.Context
		want string
	}{
		{"the call's", func(ctx context.Context, cancelCall context.CancelFunc) context.Context {
			cancelCall()
			return ctx
		}, "change/: context canceled; nothing was applied"},
		{"its own", func(ctx context.Context, _ context.CancelFunc) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}, "change/: an observer's context ended: context canceled; nothing was applied"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ends := 0
		client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
			t.Error("the transport was given a request")
			return nil, context.Canceled
		}), oakra.WithObserver(oakra.Observer{
			AttemptStart: func(ctx context.Context, _ oakra.AttemptStart) context.Context { return tt.hook(ctx, cancel) },
			AttemptEnd:   func(context.Context, oakra.AttemptEnd) { ends++ },
		}))
		_, err := stockCalls[2].call(ctx, client)
		require.ErrorContains(t, err, tt.want, tt.name)
		require.Equal(t, oakra.StepRetry, oakra.NextStep(err), tt.name)
		require.Equal(t, 1, ends, tt.name)
	}
}

// logLines parses what a JSON handler wrote, without the time.
func logLines(t *testing.T, logged string) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range strings.Lines(logged) {
		var attrs map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &attrs))
		delete(attrs, "time")
		lines = append(lines, attrs)
	}
	return lines
}

// TestLog checks what WithLogger documents as stable: messages, levels and keys.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		run := func(level slog.Level, op deliveryOp, transport http.RoundTripper) (error, []map[string]any) { //nolint:staticcheck // error first, as the call is
			var logged bytes.Buffer
			client := oakra.KeepRoutes(stubClient(t, transport, oakra.WithRetryPolicy(noWait),
				oakra.WithLogger(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: level})))))
			_, err := op.call(t.Context(), client)
			return err, logLines(t, logged.String())
		}
		attempt := func(op deliveryOp, level string, number, status int, outcome string, more map[string]any) map[string]any {
			line := map[string]any{
				"level": level, "msg": "oakra: attempt", "op": "stock." + op.name, "method": "POST", "path": op.path,
				"attempt": float64(number), "status": float64(status), "outcome": outcome, "took": 0.0,
			}
			if op.name == "list" {
				line["method"] = "GET"
			}
			maps.Copy(line, more)
			return line
		}

		err, lines := run(slog.LevelDebug, deliverList, sequence(status(503, "Retry-After", "3"), status(429, "X-Request-Id", "r-1", "Retry-After", "1"),
			func(*http.Request) (*http.Response, error) {
				return stubResponse(200, deliveryRecords, "CF-Ray", "r-2"), nil
			}))
		require.NoError(t, err)
		require.Len(t, lines, 3)
		for i := range 2 { // the wait has a random part below a nanosecond or so
			require.InDelta(t, []time.Duration{3 * time.Second, time.Second}[i], lines[i]["resend_after"], 2)
			delete(lines[i], "resend_after")
		}
		require.Equal(t, []map[string]any{
			attempt(deliverList, "WARN", 1, 503, "not applied", map[string]any{"error": "oakra: stock.list: GET " + deliverList.path + ": 503 Service Unavailable"}),
			attempt(deliverList, "WARN", 2, 429, "not applied", map[string]any{"error": "oakra: stock.list: GET " + deliverList.path + ": 429 Too Many Requests", "request_id": "r-1"}),
			attempt(deliverList, "DEBUG", 3, 200, "applied", map[string]any{"request_id": "r-2"}),
		}, lines)

		err, lines = run(slog.LevelDebug, deliverChange, sequence(status(502)))
		require.Len(t, lines, 2)
		require.Equal(t, []map[string]any{
			attempt(deliverChange, "WARN", 1, 502, "unknown", map[string]any{"error": err.Error()}),
			{
				"level": "WARN", "msg": "oakra: outcome unknown", "op": "stock.change", "items": 2.0, "attempt": 1.0,
				"status": 502.0, "outcome": "unknown", "took": 0.0, "error": err.Error(),
			},
		}, lines)

		// A rejection is the caller's to log.
		_, lines = run(slog.LevelDebug, deliverChange, sequence(status(409)))
		require.Len(t, lines, 1)
		require.Equal(t, "DEBUG", lines[0]["level"])
		_, lines = run(slog.LevelInfo, deliverChange, sequence(status(409)))
		require.Empty(t, lines)
		// Without a response the status is 0.
		err, lines = run(slog.LevelInfo, deliverChange, sequence(reset))
		require.Equal(t, []any{0.0, 0.0}, []any{lines[0]["status"], lines[1]["status"]}, "%v", err)
	})
}

// panicking is a value that names its origin.
type panicking struct{ where string }

func (p panicking) Error() string { return "panic in " + p.where }

// TestPanicReachesCaller: a panic of the caller's own code, wherever the client calls
// it, arrives in the caller's goroutine, and the client can still be used.
func TestPanicReachesCaller(t *testing.T) {
	type source struct {
		name   string
		option func(fail func()) []oakra.Option
	}
	observer := func(o oakra.Observer) []oakra.Option { return []oakra.Option{oakra.WithObserver(o)} }
	good := func() oakra.Option { return oakra.WithHTTPClient(&http.Client{Transport: &shelf{}}) }
	body := func(fail func(), status int) oakra.Option {
		return oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
			response := stubResponse(status, "")
			response.Body = io.NopCloser(readFunc(func([]byte) (int, error) { fail(); return 0, io.EOF }))
			return response, nil
		})})
	}
	for _, s := range []source{
		{"transport", func(fail func()) []oakra.Option {
			return []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
				fail()
				return stubResponse(409, ""), nil
			})})}
		}},
		{"body", func(fail func()) []oakra.Option { return []oakra.Option{body(fail, 200)} }},
		{"body of an error", func(fail func()) []oakra.Option { return []oakra.Option{body(fail, 409)} }},
		{"body that closes", func(fail func()) []oakra.Option {
			return []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
				response := stubResponse(409, "")
				response.Body = closeFunc{response.Body, func() error { fail(); return nil }}
				return response, nil
			})})}
		}},
		{"limiter", func(fail func()) []oakra.Option {
			return []oakra.Option{good(), oakra.WithLimiter(stubLimiter(func(context.Context) error { fail(); return nil }))}
		}},
		{"key source", func(fail func()) []oakra.Option {
			return []oakra.Option{good(), oakra.WithAppKeySource(func(context.Context, string) (string, error) { fail(); return stubKey, nil })}
		}},
		{"call start", func(fail func()) []oakra.Option {
			return append(observer(oakra.Observer{CallStart: func(ctx context.Context, _ oakra.CallStart) context.Context { fail(); return ctx }}), good())
		}},
		{"attempt start", func(fail func()) []oakra.Option {
			return append(observer(oakra.Observer{AttemptStart: func(ctx context.Context, _ oakra.AttemptStart) context.Context { fail(); return ctx }}), good())
		}},
		{"attempt end", func(fail func()) []oakra.Option {
			return append(observer(oakra.Observer{AttemptEnd: func(context.Context, oakra.AttemptEnd) { fail() }}), good())
		}},
		{"call end", func(fail func()) []oakra.Option {
			return append(observer(oakra.Observer{CallEnd: func(context.Context, oakra.CallEnd) { fail() }}), good())
		}},
		{"log handler", func(fail func()) []oakra.Option {
			return []oakra.Option{good(), oakra.WithLogger(slog.New(failingHandler{fail}))}
		}},
	} {
		skus := longSKUs(25)
		for name, call := range map[string]func(c *oakra.Client) error{
			"list": func(c *oakra.Client) error {
				return second(c.Stock.List(t.Context(), oakra.StockListParams{SKUs: skus}))
			},
			"sequence": func(c *oakra.Client) (err error) {
				for _, err = range c.Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: skus}) {
					_ = err // the last one is returned
				}
				return err
			},
			"lookup": func(c *oakra.Client) error {
				return second(c.Stock.Lookup(t.Context(), []oakra.StockKey{{SKU: skus[0], LocationID: "w"}}))
			},
			"update": func(c *oakra.Client) error {
				return second(c.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1}}))
			},
			"change": func(c *oakra.Client) error {
				return second(c.Stock.Change(t.Context(), []oakra.StockChange{{ID: 1}}))
			},
		} {
			t.Run(s.name+"/"+name, func(t *testing.T) {
				var healed atomic.Bool
				cause := panicking{s.name}
				fail := func() {
					if !healed.Load() {
						theCodeOfTheCaller(cause)
					}
				}
				key := stubKey
				if s.name == "key source" {
					key = ""
				}
				client, err := oakra.NewClient(key, append(s.option(fail), oakra.WithRetryPolicy(noWait))...)
				require.NoError(t, err)
				oakra.KeepRoutes(client)
				value := func() (value any) {
					defer func() { value = recover() }()
					call(client)
					return nil
				}()
				failure, ok := value.(error)
				require.True(t, ok, "%v", value)
				require.ErrorIs(t, failure, cause)
				if value != any(cause) { // from a goroutine of the client
					require.Contains(t, failure.Error(), cause.Error())
					require.Contains(t, failure.Error(), "theCodeOfTheCaller", "the stack of the panic")
				}
				healed.Store(true)
				if err = call(client); s.name != "transport" && !strings.HasPrefix(s.name, "body") && name != "update" && name != "change" {
					require.NoError(t, err)
				}
			})
		}
	}
}

//go:noinline
func theCodeOfTheCaller(cause error) { panic(cause) }

type failingHandler struct{ fail func() }

func (h failingHandler) Enabled(context.Context, slog.Level) bool  { return true }
func (h failingHandler) Handle(context.Context, slog.Record) error { h.fail(); return nil }
func (h failingHandler) WithAttrs([]slog.Attr) slog.Handler        { return h }
func (h failingHandler) WithGroup(string) slog.Handler             { return h }

// TestGoexit: a transport that ends its goroutine, as a test's FailNow does, does not
// hang a list that runs on goroutines of the client.
func TestGoexit(t *testing.T) {
	client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		runtime.Goexit()
		return nil, errors.New("not reached")
	}))
	var failures []error
	for _, err := range client.Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: longSKUs(25)}) {
		failures = append(failures, err)
	}
	require.Len(t, failures, 1)
	require.ErrorContains(t, failures[0], "Goexit")
	require.Equal(t, notApplied, oakra.OutcomeOf(failures[0]))
}

// unlikeConn is a connection of a type that cannot be compared.
type unlikeConn struct {
	countingConn
	_ []byte
}

// TestTraceHooks calls the hooks as net/http may: on several goroutines at once, with
// connections of any type, and after the attempt.
func TestTraceHooks(t *testing.T) {
	for _, op := range deliveryOps {
		late := make(chan *httptrace.ClientTrace, 1)
		client := oakra.KeepRoutes(stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
			trace := httptrace.ContextClientTrace(r.Context())
			hooks := func() {
				trace.GetConn("")
				trace.GotConn(httptrace.GotConnInfo{Conn: unlikeConn{}})
				trace.Got1xxResponse(103, nil)
				trace.GotFirstResponseByte()
			}
			done := make(chan struct{})
			for range 3 {
				go func() { hooks(); done <- struct{}{} }()
			}
			for range 3 {
				<-done
			}
			late <- trace
			return stubResponse(200, deliveryRecords), nil
		})))
		_, err := op.call(t.Context(), client)
		require.NoError(t, err)
		trace := <-late
		for range 30 {
			trace.GotConn(httptrace.GotConnInfo{Conn: unlikeConn{}, Reused: true})
			trace.Got1xxResponse(103, nil)
		}
	}
}

// TestTraceOfCaller: a httptrace of the caller's, in its context or in an observer's,
// sees what happens, and turns off no limit.
func TestTraceOfCaller(t *testing.T) {
	for _, where := range []string{"caller", "observer"} {
		for _, op := range deliveryOps {
			s := newRawServer(t, func(c *rawConn) bool {
				c.read()
				for range 10_000 {
					if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"); err != nil {
						return false
					}
				}
				return deliverOK(c)
			})
			var informed, connected atomic.Int64
			own := &httptrace.ClientTrace{
				GotConn:        func(httptrace.GotConnInfo) { connected.Add(1) },
				Got1xxResponse: func(int, textproto.MIMEHeader) error { informed.Add(1); return nil },
			}
			ctx, opts := t.Context(), []oakra.Option{}
			if where == "caller" {
				ctx = httptrace.WithClientTrace(ctx, own)
			} else {
				opts = append(opts, oakra.WithObserver(oakra.Observer{AttemptStart: func(ctx context.Context, _ oakra.AttemptStart) context.Context {
					return httptrace.WithClientTrace(ctx, own)
				}}))
			}
			records, err := op.call(ctx, keptClient(t, s, opts...))
			verdict{outcome: unknown, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
			require.EqualValues(t, 1, connected.Load())
			require.Positive(t, informed.Load())
			require.Less(t, informed.Load(), int64(10_000))
		}
	}
}

// TestErrorTextsAreWhole: percent signs and verbs in foreign texts are kept.
func TestErrorTextsAreWhole(t *testing.T) {
	const odd = `100% %d %s %!v(MISSING) sku`
	for _, call := range stockCalls {
		for _, transport := range []stubTransport{
			func(*http.Request) (*http.Response, error) { return stubResponse(409, `{"detail":"`+odd+`"}`), nil },
			func(*http.Request) (*http.Response, error) { return stubResponse(429, "", "Retry-After", odd), nil },
			func(*http.Request) (*http.Response, error) { return nil, errors.New(odd) },
			func(*http.Request) (*http.Response, error) { return stubResponse(400, `{"`+odd+`":["x"]}`), nil },
		} {
			_, err := call.call(t.Context(), oakra.KeepRoutes(stubClient(t, transport, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))))
			require.ErrorContains(t, err, odd[:20])
			require.NotContains(t, strings.ReplaceAll(err.Error(), "%!v(MISSING)", ""), "%!")
		}
	}
	_, err := stubClient(t, stubTransport(refuse)).Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{odd, " "}})
	require.NotContains(t, err.Error(), "%!")
}
