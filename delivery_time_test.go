package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestDeliveryStalled has the rows in which the server stops responding until
// the attempt times out or the caller's context ends.
func TestDeliveryStalled(t *testing.T) {
	const limit = 2 * time.Second // limit of one attempt, or of the call

	begun := func(text string) rawTurn { return rawApply(rawWrite(text, rawStall)) }
	const ok, chunked = "HTTP/1.1 200 OK\r\n", "Transfer-Encoding: chunked\r\n\r\n"
	noStatus := verdict{outcome: unknown, resent: onlyList, retryable: onlyList}
	noRecords := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}
	inRecords := verdict{outcome: applied, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}
	noConnection := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}

	for _, row := range []struct {
		name    string
		turn    rawTurn // nil if there is no connection
		scheme  string
		verdict verdict // if the attempt took too long; nothing is sent again after the context
	}{
		{"dialing", nil, "http", noConnection},
		{"in the TLS handshake", rawUnread(rawStall), "https", noConnection},
		{"before the request is read", rawUnread(rawStall), "http", noStatus},
		{"before the status", begun(""), "http", noStatus},
		{"within the status line", begun("HTTP/1.1 2"), "http", noStatus},
		{"within the headers", begun(ok + "Content-Length: 9\r\n"), "http", noStatus},
		{"after an informational response", begun("HTTP/1.1 103 Early Hints\r\n\r\n"), "http", noStatus},
		{"before the body", begun(ok + "Content-Length: 999\r\n\r\n"), "http", noRecords},
		{"before the chunked body", begun(ok + chunked), "http", noRecords},
		{"before the records", begun(ok + "Content-Length: 999\r\n\r\n{\"count\": 2, "), "http", noRecords},
		{"in the array", begun(ok + "Content-Length: 999\r\n\r\n[" + firstRecord), "http", inRecords},
		{"in stock_records", begun(ok + "Content-Length: 999\r\n\r\n{\"stock_records\": [" + firstRecord + ","), "http", inRecords},
		{"in the first record", begun(ok + "Content-Length: 999\r\n\r\n[{\"id\": 1"), "http", noRecords},
		{"in the first chunk of the array", begun(ok + chunked + "5\r\n[{\"id\r\n"), "http", noRecords},
		{"in the chunked array", begun(ok + chunked + chunkText("["+firstRecord, 20)), "http", inRecords},
	} {
		for _, ending := range []string{"attempt timeout", "deadline", "canceled"} {
			for _, op := range deliveryOps {
				t.Run(row.name+"/"+ending+"/"+op.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newPipeServer(t, row.turn)
						transport := rawTransport(t, s)
						transport.TLSHandshakeTimeout = 0
						if row.turn == nil {
							transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
								<-ctx.Done()
								return nil, ctx.Err()
							}
						}
						opts := []oakra.Option{}
						ctx, scheme, row := t.Context(), row.scheme, row.verdict
						var cause error
						switch ending {
						case "attempt timeout":
							opts, cause = append(opts, oakra.WithAttemptTimeout(limit)), context.DeadlineExceeded
						case "deadline":
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, limit)
							defer cancel()
							row.resent, cause = nobody, context.DeadlineExceeded
						case "canceled":
							var cancel context.CancelFunc
							ctx, cancel = context.WithCancel(ctx)
							time.AfterFunc(limit, cancel)
							row.resent, cause = nobody, context.Canceled
						}
						client := oakra.KeepRoutes(rawClientOn(t, strings.Replace(s.baseURL, "http", scheme, 1), transport, opts...))
						start := time.Now()
						records, err := op.call(ctx, client)
						attempts := row.attempts(op)
						row.check(t, op, records, err, attempts)
						assert.ErrorIs(t, err, cause)
						assert.LessOrEqual(t, time.Since(start), time.Duration(attempts)*limit+10*time.Millisecond)
						transport.CloseIdleConnections()
						synctest.Wait()
						ledger := s.ledger()
						if row.is == oakra.ErrUnreachable {
							assert.Empty(t, ledger.requests)
						} else {
							checkLedger(t, op, err, attempts, ledger)
						}
					})
				})
			}
		}
	}
}

// TestDeliveryResponseHeaderTimeout checks that a timeout of the caller's transport
// counts as that of an attempt: the server may still be at work.
func TestDeliveryResponseHeaderTimeout(t *testing.T) {
	eachOp(t, func(t *testing.T, op deliveryOp) {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t, rawApply(rawWrite("", rawStall)))
			transport := rawTransport(t, s)
			transport.ResponseHeaderTimeout = time.Second
			records, err := op.call(t.Context(), rawClientOn(t, s.baseURL, transport))
			want := verdict{outcome: unknown, resent: onlyList, retryable: onlyList}
			want.check(t, op, records, err, want.attempts(op))
			synctest.Wait()
			checkLedger(t, op, err, want.attempts(op), s.ledger())
		})
	})
}

// TestDeliveryStalledErrorBody checks that a status decides although its body
// stalls. The call waits for the body for one second.
func TestDeliveryStalledErrorBody(t *testing.T) {
	for _, row := range []verdict{
		{status: 301, outcome: notApplied, is: oakra.ErrRedirect},
		{status: 302, outcome: notApplied, is: oakra.ErrRedirect},
		{status: 400, outcome: notApplied, is: oakra.ErrInvalidRequest},
		{status: 409, outcome: notApplied, is: oakra.ErrConflict},
		{status: 429, outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrRateLimited},
		{status: 503, outcome: unknown, resent: listAndUpdate, retryable: onlyList, is: oakra.ErrServer},
		{status: 202, outcome: unknown, is: oakra.ErrBadResponse},
	} {
		for _, op := range deliveryOps {
			t.Run(fmt.Sprintf("%d/%s", row.status, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"detail\":", row.status), rawStall))
					client := keptClient(t, s)
					begun := time.Now()
					records, err := op.call(t.Context(), client)
					attempts := row.attempts(op)
					row.check(t, op, records, err, attempts)
					assert.GreaterOrEqual(t, time.Since(begun), time.Duration(attempts)*time.Second)
					assert.LessOrEqual(t, time.Since(begun), time.Duration(attempts)*1100*time.Millisecond)
					checkLedger(t, op, err, attempts, s.ledger())
				})
			})
		}
	}
}

// TestDeliveryContextInErrorBody checks that a status decides although the
// context ends in its body.
func TestDeliveryContextInErrorBody(t *testing.T) {
	for _, row := range []verdict{
		{status: 409, outcome: notApplied, is: oakra.ErrConflict},
		{status: 429, outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited},
		{status: 503, outcome: unknown, retryable: onlyList, is: oakra.ErrServer},
	} {
		for _, op := range deliveryOps {
			t.Run(fmt.Sprintf("%d/%s", row.status, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"detail\":", row.status), rawStall))
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					begun := time.Now()
					records, err := op.call(ctx, keptClient(t, s))
					row.check(t, op, records, err, 1)
					assert.Equal(t, 500*time.Millisecond, time.Since(begun))
					if row.status == 429 {
						assert.ErrorIs(t, err, context.DeadlineExceeded, "the context is why it was not sent again")
					}
					checkLedger(t, op, err, 1, s.ledger())
				})
			})
		}
	}
}

// stuckBody is a body that is never read, whatever its context, until the test ends.
// Its Close, as some do, waits for the Read.
type stuckBody struct {
	begin *strings.Reader
	end   <-chan struct{}
	mu    sync.Mutex
}

func (b *stuckBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n, _ := b.begin.Read(p); n > 0 {
		return n, nil
	}
	<-b.end
	copy(p, "too late for this memory")
	return len(p), nil
}

func (b *stuckBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return nil
}

// TestDeliveryBodyWithoutContext checks that a body that ignores its context holds up a
// call no longer than its attempt or its context, and the body of an error no longer
// than a second.
func TestDeliveryBodyWithoutContext(t *testing.T) {
	for _, row := range []struct {
		name    string
		status  int
		begin   string
		attempt time.Duration
		cancel  time.Duration // 0 for never
		took    time.Duration
		verdict verdict
	}{
		{name: "error", status: 409, begin: `{"detail":"lo`, attempt: 30 * time.Second, took: time.Second,
			verdict: verdict{outcome: notApplied, is: oakra.ErrConflict}},
		{name: "error, short attempt", status: 409, attempt: 300 * time.Millisecond, took: 300 * time.Millisecond,
			verdict: verdict{outcome: notApplied, is: oakra.ErrConflict}},
		{name: "error, canceled", status: 409, attempt: time.Minute, cancel: 200 * time.Millisecond, took: 200 * time.Millisecond,
			verdict: verdict{outcome: notApplied, is: oakra.ErrConflict}},
		{name: "accepted", status: 202, attempt: 30 * time.Second, took: time.Second,
			verdict: verdict{outcome: unknown, is: oakra.ErrBadResponse}},
		{name: "success", status: 200, attempt: 4 * time.Second, took: 4 * time.Second,
			verdict: verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrBadResponse}},
		{name: "success after a record", status: 200, begin: "[" + firstRecord, attempt: 4 * time.Second, took: 4 * time.Second,
			verdict: verdict{outcome: applied, retryable: onlyList, is: oakra.ErrBadResponse}},
		{name: "success, canceled", status: 200, attempt: time.Minute, cancel: 3 * time.Second, took: 3 * time.Second,
			verdict: verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrBadResponse}},
	} {
		for _, op := range deliveryOps {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					end := make(chan struct{})
					client := oakra.KeepRoutes(stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
						body := &stuckBody{begin: strings.NewReader(row.begin), end: end}
						return &http.Response{StatusCode: row.status, Header: http.Header{}, Body: body, ContentLength: -1}, nil
					}), oakra.WithAttemptTimeout(row.attempt), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if row.cancel != 0 {
						time.AfterFunc(row.cancel, cancel)
					}
					begun := time.Now()
					records, err := op.call(ctx, client)
					took := time.Since(begun)
					row.verdict.status = row.status
					e := row.verdict.check(t, op, records, err, 1)
					assert.InDelta(t, row.took.Seconds(), took.Seconds(), 0.06) // a read that is under way gets a moment more
					assert.Equal(t, row.begin, string(e.Body))
					close(end)
				})
			})
		}
	}
}

// closeFunc is a body whose Close is a function.
type closeFunc struct {
	io.Reader
	close func() error
}

func (c closeFunc) Close() error { return c.close() }

// TestDeliveryBodyCloseBlocks checks that a Close that waits for ever, such as one that
// waits for the rest of the body, holds up a call no longer than its attempt, and
// changes nothing else.
func TestDeliveryBodyCloseBlocks(t *testing.T) {
	for _, status := range []int{200, 409} {
		for _, op := range deliveryOps {
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				defer close(end)
				client := oakra.KeepRoutes(stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
					response := stubResponse(status, deliveryRecords)
					response.Body = closeFunc{response.Body, func() error { <-end; return nil }}
					return response, nil
				}), oakra.WithAttemptTimeout(2*time.Second)))
				begun := time.Now()
				records, err := op.call(t.Context(), client)
				require.Equal(t, 2*time.Second, time.Since(begun))
				if status == 200 {
					require.NoError(t, err)
					require.Equal(t, deliveredRecords, records)
				} else {
					require.ErrorIs(t, err, oakra.ErrConflict)
					require.Equal(t, notApplied, oakra.OutcomeOf(err))
				}
			})
		}
	}
}

// TestDeliveryEndedWhileWaiting checks that what ends the call between two
// attempts is a further cause of the failure before, and does not replace it.
func TestDeliveryEndedWhileWaiting(t *testing.T) {
	broken := errors.New("broken")
	for _, row := range []struct {
		name    string
		status  int
		limiter bool // whether the limiter fails before the second attempt; otherwise the context is canceled
		verdict verdict
	}{
		{"429, context", 429, false, verdict{outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited}},
		{"503, context", 503, false, verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrServer}},
		{"429, limiter", 429, true, verdict{outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited}},
		{"503, limiter", 503, true, verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrServer}},
	} {
		for _, op := range deliveryOps {
			if row.status == 503 && op.name == "change" {
				continue // a Change is not sent again
			}
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawRespond(row.status, "Retry-After: 3\r\n", ""))
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					cause, took := context.Canceled, time.Second
					waits := 0
					limiter := stubLimiter(func(context.Context) error {
						if waits++; waits == 2 {
							return broken
						}
						return nil
					})
					opts := []oakra.Option{}
					if row.limiter {
						cause, took = broken, 3*time.Second
						opts = append(opts, oakra.WithLimiter(limiter))
					} else {
						time.AfterFunc(took, cancel)
					}
					begun := time.Now()
					records, err := op.call(ctx, keptClient(t, s, opts...))
					row.verdict.status = row.status
					row.verdict.check(t, op, records, err, 1)
					assert.ErrorIs(t, err, cause)
					assert.Equal(t, took, time.Since(begun).Truncate(time.Second))
					checkLedger(t, op, err, 1, s.ledger())
				})
			})
		}
	}
}

// TestDeliveryHeldBack checks that a call may be repeated if a limiter refuses
// it because the wait would outlast the context.
func TestDeliveryHeldBack(t *testing.T) {
	for _, op := range deliveryOps {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s := newRawServer(t, deliverOK)
		_, err := op.call(ctx, keptClient(t, s, oakra.WithLimiter(stubLimiter(func(context.Context) error {
			return errors.New("rate: Wait(n=1) would exceed context deadline")
		}))))
		require.ErrorContains(t, err, "rate: Wait(n=1) would exceed")
		require.Equal(t, notApplied, oakra.OutcomeOf(err))
		require.True(t, oakra.Retryable(err))
		require.Zero(t, s.ledger().turns)
	}
}

// TestDeliveryLateUpdate checks that an Update is sent again only within 5 s of
// the start of its first attempt with an unknown outcome.
func TestDeliveryLateUpdate(t *testing.T) {
	// after responds with the status after a time.
	after := func(d time.Duration, status int, header string) rawTurn {
		return rawAfter(func() { time.Sleep(d) }, rawRespond(status, header, deliveryRecords))
	}
	for _, row := range []struct {
		name    string
		op      deliveryOp
		script  []rawTurn
		turns   int // requests that the server sees, of 4 possible ones
		status  int // 0 for no error
		latest  time.Duration
		limiter time.Duration // wait of the limiter before each attempt except the first
	}{
		{name: "soon", op: deliverUpdate, script: []rawTurn{after(4900*time.Millisecond, 503, ""), deliverOK}, turns: 2},
		{name: "late", op: deliverUpdate, script: []rawTurn{after(5*time.Second, 503, ""), deliverOK}, turns: 1, status: 503},
		{name: "late after some", op: deliverUpdate, script: []rawTurn{after(2*time.Second, 503, "")}, turns: 3, status: 503},
		{name: "Retry-After soon", op: deliverUpdate, script: []rawTurn{after(time.Second, 503, "Retry-After: 3\r\n"), deliverOK}, turns: 2},
		{name: "Retry-After late, at once", op: deliverUpdate, script: []rawTurn{after(time.Second, 503, "Retry-After: 5\r\n"), deliverOK}, turns: 1, status: 503, latest: time.Second},
		{name: "late for a 429 between", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), after(0, 429, "Retry-After: 3\r\n")}, turns: 3, status: 429, latest: 3 * time.Second},
		{name: "a 429 before does not count", op: deliverUpdate, script: []rawTurn{after(0, 429, "Retry-After: 9\r\n"), after(0, 503, ""), deliverOK}, turns: 3},
		{name: "held back", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), deliverOK}, limiter: 6 * time.Second, turns: 1, status: 503},
		{name: "held back a little", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), deliverOK}, limiter: 4 * time.Second, turns: 2},
		{name: "a list has time", op: deliverList, script: []rawTurn{after(5*time.Second, 503, ""), deliverOK}, turns: 2},
		{name: "a change has time after 429", op: deliverChange, script: []rawTurn{after(5*time.Second, 429, ""), deliverOK}, turns: 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t, row.script...)
				waits := 0
				client := keptClient(t, s,
					oakra.WithRetryPolicy(rawPolicy(4)),
					oakra.WithLimiter(stubLimiter(func(context.Context) error {
						if waits++; waits > 1 {
							time.Sleep(row.limiter)
						}
						return nil
					})))
				begun := time.Now()
				_, err := row.op.call(t.Context(), client)
				assert.Equal(t, row.turns, s.ledger().turns)
				if row.latest != 0 {
					assert.LessOrEqual(t, time.Since(begun), row.latest+10*time.Millisecond, "it knew at once")
				}
				if row.status == 0 {
					require.NoError(t, err)
					return
				}
				var e *oakra.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, row.status, e.StatusCode)
				assert.Equal(t, row.turns, e.Attempts)
				assert.Equal(t, unknown, e.Outcome)
				assert.False(t, oakra.Retryable(err))
			})
		})
	}
}

// TestDeliveryLateUpdateConnecting checks the same 5 s while the call waits for
// a connection.
func TestDeliveryLateUpdateConnecting(t *testing.T) {
	for _, row := range []struct {
		name  string
		dial  time.Duration // time that the second dial takes
		turns int
	}{
		{"soon", 4 * time.Second, 2},
		{"late", 6 * time.Second, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t, rawWrite(rawText(503, "Connection: close\r\n", ""), rawClose), deliverOK)
				transport := rawTransport(t, s)
				dials := 0
				transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					if dials++; dials > 1 {
						time.Sleep(row.dial)
					}
					return s.dial(ctx, network, addr)
				}
				client := oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport))
				begun := time.Now()
				_, err := deliverUpdate.call(t.Context(), client)
				assert.Equal(t, row.turns, s.ledger().turns)
				if row.turns == 2 {
					require.NoError(t, err)
					return
				}
				assert.Equal(t, unknown, oakra.OutcomeOf(err))
				assert.ErrorIs(t, err, oakra.ErrUnreachable)
				assert.ErrorContains(t, err, "might undo a newer one")
				assert.Equal(t, 5*time.Second, time.Since(begun))
				time.Sleep(10 * time.Second) // by now the connection is there
				assert.Equal(t, 1, s.ledger().turns)
			})
		})
	}
}

// TestDeliveryLateUpdateHeldBack checks the same 5 s where the transport itself
// waits before it reads the body: for a free stream of HTTP/2, or in a caller's own
// transport, which may report no trace and ignore the context.
func TestDeliveryLateUpdateHeldBack(t *testing.T) {
	for _, row := range []struct{ traced, heeds bool }{{true, true}, {false, true}, {true, false}, {false, false}} {
		synctest.Test(t, func(t *testing.T) {
			arrived := 0
			client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
				if arrived == 0 {
					arrived++
					return stubResponse(503, ""), nil
				}
				if trace := httptrace.ContextClientTrace(r.Context()); row.traced {
					trace.GetConn("")
					trace.GotConn(httptrace.GotConnInfo{})
				}
				done := r.Context().Done()
				if !row.heeds {
					done = nil
				}
				select {
				case <-time.After(8 * time.Second):
				case <-done:
					return nil, r.Context().Err()
				}
				if _, err := io.ReadAll(r.Body); err != nil {
					return nil, err
				}
				arrived++
				return stubResponse(200, deliveryRecords), nil
			}))
			oakra.KeepRoutes(client)
			_, err := deliverUpdate.call(t.Context(), client)
			require.Equal(t, unknown, oakra.OutcomeOf(err))
			require.ErrorContains(t, err, "might undo a newer one")
			require.NotErrorIs(t, err, context.Canceled)
			require.Equal(t, 1, arrived)
		})
	}
}
