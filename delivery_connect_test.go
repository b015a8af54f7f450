package oakra_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// The delivery tests follow the delivery table row by row. They check the sentinel of
// each failure, which calls are sent again, and that the servers' ledgers agree.

// TestDeliveryBeforeTheFirstAttempt has the rows in which nothing is sent.
func TestDeliveryBeforeTheFirstAttempt(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	broken := errors.New("broken")

	source := func(key string, err error) oakra.Option {
		return oakra.WithAppKeySource(func(context.Context, string) (string, error) { return key, err })
	}
	limiter := func(err error) oakra.Option {
		return oakra.WithLimiter(stubLimiter(func(context.Context) error { return err }))
	}

	for _, row := range []struct {
		name      string
		ctx       context.Context
		key       string
		option    oakra.Option
		retryable who
		cause     error
	}{
		{name: "context canceled", ctx: canceled, key: rawKey, retryable: everyone, cause: context.Canceled},
		{name: "context's deadline past", ctx: late, key: rawKey, retryable: everyone, cause: context.DeadlineExceeded},
		{name: "key source fails", option: source("", broken), cause: broken},
		{name: "key source gives no key", option: source("", nil)},
		{name: "key source gives a bad key", option: source("a b", nil)},
		{name: "limiter fails", key: rawKey, option: limiter(broken), cause: broken},
		{name: "limiter ends with the context", key: rawKey, option: limiter(context.Canceled), cause: context.Canceled, retryable: everyone},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, deliverOK)
				opts := rawOptions(s.baseURL, rawTransport(t, s))
				if row.option != nil {
					opts = append(opts, row.option)
				}
				client, err := oakra.NewClient(row.key, opts...)
				require.NoError(t, err)
				ctx := row.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				records, err := op.call(ctx, client)
				verdict{outcome: notApplied, retryable: row.retryable}.check(t, op, records, err, 0)
				if row.cause != nil {
					assert.ErrorIs(t, err, row.cause)
				}
				s.close()
				assert.Zero(t, s.ledger().accepted)
			})
		})
	}

	t.Run("validation", func(t *testing.T) {
		s := newRawServer(t, deliverOK)
		client := keptClient(t, s)
		for _, tt := range []struct {
			name string
			call func() ([]oakra.StockRecord, error)
		}{
			{"list", func() ([]oakra.StockRecord, error) {
				return client.Stock.List(t.Context(), oakra.StockListParams{})
			}},
			{"update", func() ([]oakra.StockRecord, error) {
				return client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1}, {ID: 1}})
			}},
			{"change", func() ([]oakra.StockRecord, error) {
				return client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 0, QuantityChange: 1}})
			}},
		} {
			records, err := tt.call()
			verdict{outcome: notApplied, is: oakra.ErrInvalidRequest}.check(t, deliveryOp{name: tt.name}, records, err, 0)
		}
		s.close()
		assert.Zero(t, s.ledger().accepted)
	})

	t.Run("bad key or base URL", func(t *testing.T) {
		for _, err := range []error{
			second(oakra.NewClient("")),
			second(oakra.NewClient("a b")),
			second(oakra.NewClient(rawKey, oakra.WithBaseURL("ftp://h/"))),
		} {
			assert.ErrorIs(t, err, oakra.ErrInvalidRequest)
			assert.Equal(t, notApplied, oakra.OutcomeOf(err))
			assert.False(t, oakra.Retryable(err))
		}
	})
}

// TestDeliveryNoConnection has the rows in which dialing fails, always or twice.
func TestDeliveryNoConnection(t *testing.T) {
	closedPort := rawClosedPort(t)
	unreachable := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}
	final := verdict{outcome: notApplied, is: oakra.ErrUnreachable}

	for _, row := range []struct {
		name    string
		dial    func(ctx context.Context) error
		verdict verdict
	}{
		{"refused", func(ctx context.Context) error {
			return second(new(net.Dialer).DialContext(ctx, "tcp", closedPort))
		}, unreachable},
		{"dial timeout", func(ctx context.Context) error {
			return second((&net.Dialer{Timeout: time.Nanosecond}).DialContext(ctx, "tcp", closedPort))
		}, unreachable},
		{"network unreachable", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ENETUNREACH}
		}, unreachable},
		{"temporary DNS failure", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "server misbehaving", Name: "h", IsTemporary: true}}
		}, unreachable},
		{"DNS timeout", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "i/o timeout", Name: "h", IsTimeout: true, IsTemporary: true}}
		}, unreachable},
		{"no such host", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}}
		}, final},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, deliverOK)
				transport := rawTransport(t, s)
				var dials, failing atomic.Int64
				var cause atomic.Pointer[error]
				transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials.Add(1) > failing.Load() {
						return s.dial(ctx, network, address)
					}
					err := row.dial(ctx)
					cause.Store(&err)
					return nil, err
				}
				client := oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport))

				failing.Store(1 << 30)
				records, err := op.call(t.Context(), client)
				attempts := row.verdict.attempts(op)
				row.verdict.check(t, op, records, err, attempts)
				assert.ErrorIs(t, err, *cause.Load())
				assert.NotContains(t, err.Error(), "attempt timeout", "it was not the attempt that timed out")
				assert.EqualValues(t, attempts, dials.Load())
				checkLedger(t, op, err, 0, s.ledger())

				dials.Store(0)
				failing.Store(2)
				records, err = op.call(t.Context(), client)
				if row.verdict.resent == nobody {
					row.verdict.check(t, op, records, err, 1)
					return
				}
				require.NoError(t, err, "the third dial succeeds")
				assert.Equal(t, deliveredRecords, records)
				s.close()
				assert.Len(t, s.ledger().requests, 1)
			})
		})
	}
}

// TestDeliveryProxy has the row of a proxy that refuses CONNECT.
func TestDeliveryProxy(t *testing.T) {
	passing := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}
	final := verdict{outcome: notApplied, is: oakra.ErrUnreachable}
	type row struct {
		name    string
		turn    rawTurn
		verdict verdict
	}
	rows := []row{{"EOF", rawWrite("", rawClose), passing}, {"not HTTP", rawWrite("SSH-2.0\r\n", rawClose), passing}}
	for _, status := range []int{400, 401, 403, 404, 407, 429, 451, 500, 502, 503, 504} {
		text := fmt.Sprintf("HTTP/1.1 %d %s\r\nProxy-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nsorry", status, http.StatusText(status))
		rows = append(rows, row{fmt.Sprint(status), rawWrite(text, rawClose), map[bool]verdict{true: passing, false: final}[status >= 500]})
	}
	// The caller's own transport has no hook that reports the status of a proxy.
	plain := func(t *testing.T, s *rawServer) *http.Transport {
		transport := &http.Transport{DialContext: s.dial}
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	}
	for _, row := range rows {
		for kind, newTransport := range map[string]func(t *testing.T, s *rawServer) *http.Transport{
			"the client's own": func(t *testing.T, s *rawServer) *http.Transport { return rawTransport(t, s) },
			"plain":            plain,
		} {
			t.Run(row.name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				eachOp(t, func(t *testing.T, op deliveryOp) {
					proxy := newRawServer(t, row.turn)
					transport := newTransport(t, proxy)
					transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.invalid:8080") }
					client := oakra.KeepRoutes(rawClientOn(t, "https://oakra.invalid/api/v1/", transport))
					records, err := op.call(t.Context(), client)
					attempts := row.verdict.attempts(op)
					row.verdict.check(t, op, records, err, attempts)
					proxy.close()
					ledger := proxy.ledger()
					require.Len(t, ledger.requests, attempts)
					for _, r := range ledger.requests {
						assert.Equal(t, http.MethodConnect, r.method)
						assert.Empty(t, r.key, "the proxy must not see the app key")
					}
				})
			})
		}
	}
}

// TestDeliveryTLS has the rows of a TLS handshake that fails, always or twice.
func TestDeliveryTLS(t *testing.T) {
	passing := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}
	final := verdict{outcome: notApplied, is: oakra.ErrUnreachable}

	for _, row := range []struct {
		name    string
		turn    rawTurn // what the server does instead of a handshake
		verdict verdict
	}{
		{"reset", rawUnread(rawReset), passing},
		{"EOF", rawUnread(rawClose), passing},
		{"half-closed", rawUnread(rawHalfClose), passing},
		{"timeout", rawUnread(rawStall), passing},
		{"plain HTTP", func(c *rawConn) bool {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return rawStall(c)
		}, final},
		{"alert: protocol version", func(c *rawConn) bool {
			c.Write([]byte{21, 3, 3, 0, 2, 2, 70})
			return rawStall(c)
		}, final},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				bad := newRawServer(t, row.turn)
				var handled atomic.Int64
				good, pool := newTLSServer(t, func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					handled.Add(1)
					io.WriteString(w, deliveryRecords)
				})
				transport := rawTransport(t, bad)
				transport.TLSClientConfig = &tls.Config{RootCAs: pool}
				if row.name == "timeout" {
					transport.TLSHandshakeTimeout = 20 * time.Millisecond
				}
				var begun atomic.Int64
				transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					begun.Add(1)
					return bad.dial(ctx, network, address)
				}
				client := oakra.KeepRoutes(rawClientOn(t, good.URL+"/api/v1/", transport))
				records, err := op.call(t.Context(), client)
				attempts := row.verdict.attempts(op)
				row.verdict.check(t, op, records, err, attempts)
				// On a busy machine a handshake may time out before its first byte is sent.
				assert.EqualValues(t, attempts, begun.Load())
				if row.verdict.resent == nobody || row.name == "timeout" { // the good server might time out too
					return
				}

				var dials atomic.Int64
				transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials.Add(1) <= 2 {
						return bad.dial(ctx, network, address)
					}
					return new(net.Dialer).DialContext(ctx, network, address)
				}
				records, err = op.call(t.Context(), client)
				require.NoError(t, err, "the third handshake succeeds")
				assert.Equal(t, deliveredRecords, records)
				assert.EqualValues(t, 1, handled.Load())
			})
		})
	}

	// The client's own TLS stack rejects what it reads, and sends an alert.
	t.Run("local alert", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			s := newRawServer(t, func(c *rawConn) bool {
				c.Write([]byte{21, 3, 3, 0, 1, 0}) // an alert of one byte
				return rawStall(c)
			})
			client := rawClientOn(t, strings.Replace(s.baseURL, "http", "https", 1), rawTransport(t, s))
			records, err := op.call(t.Context(), client)
			final.check(t, op, records, err, 1)
			var failure *net.OpError
			require.ErrorAs(t, err, &failure)
			assert.Equal(t, "local error", failure.Op)
			assert.Equal(t, 1, s.ledger().turns)
		})
	})

	t.Run("certificate refused", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			var handled atomic.Int64
			server, _ := newTLSServer(t, func(http.ResponseWriter, *http.Request) { handled.Add(1) })
			transport := oakra.DefaultTransport()
			defer transport.CloseIdleConnections()
			client := oakra.KeepRoutes(rawClientOn(t, server.URL, transport))
			records, err := op.call(t.Context(), client)
			final.check(t, op, records, err, 1)
			var authority x509.UnknownAuthorityError
			assert.ErrorAs(t, err, &authority)
			assert.Zero(t, handled.Load())
		})
	})

	t.Run("version mismatch", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			var handled atomic.Int64
			server, pool := newTLSServer(t, func(http.ResponseWriter, *http.Request) { handled.Add(1) })
			server.TLS.MinVersion = tls.VersionTLS13
			transport := oakra.DefaultTransport()
			transport.TLSClientConfig = &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12}
			defer transport.CloseIdleConnections()
			client := oakra.KeepRoutes(rawClientOn(t, server.URL, transport))
			records, err := op.call(t.Context(), client)
			final.check(t, op, records, err, 1)
			assert.Zero(t, handled.Load())
		})
	})
}

// TestDeliveryBrokenConnection has the rows of a connection that breaks before
// the status of a response, both on a new connection and on a reused one.
func TestDeliveryBrokenConnection(t *testing.T) {
	broken := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
	garbled := verdict{outcome: unknown, is: oakra.ErrBadResponse}

	for _, row := range []struct {
		name    string
		turn    rawTurn
		verdict verdict
	}{
		{"reset before the request is read", rawUnread(rawReset), broken},
		{"end before the request is read", rawUnread(rawClose), broken},
		{"reset after the request is read", rawWrite("", rawReset), broken},
		{"end after the request is read", rawWrite("", rawClose), broken},
		{"half-closed after the request is read", rawWrite("", rawHalfClose), broken},
		{"reset after it was applied", rawApply(rawWrite("", rawReset)), broken},
		{"end after it was applied", rawApply(rawWrite("", rawClose)), broken},
		{"reset within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", rawResetAfter)), broken},
		{"end within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", rawClose)), broken},
		{"half-closed within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nDate: ", rawHalfClose)), broken},
		{"reset after an informational response", rawApply(rawWrite("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", rawResetAfter)), broken},
		{"end after an informational response", rawApply(rawWrite("HTTP/1.1 100 Continue\r\n\r\n", rawClose)), broken},

		// For net/http a line that was cut in two is a malformed line.
		{"end within the status line", rawApply(rawWrite("HTTP/1.1 20", rawClose)), garbled},
		{"end within a header's name", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Le", rawClose)), garbled},
		{"reset within a header's name", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Le", rawResetAfter)), garbled},

		{"not HTTP", rawApply(rawWrite("SSH-2.0-OpenSSH_9.6\r\n", rawClose)), garbled},
		{"malformed status line", rawApply(rawWrite("HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n", rawKeep)), garbled},
		{"malformed version", rawApply(rawWrite("HTTP/x.y 200 OK\r\nContent-Length: 0\r\n\r\n", rawClose)), garbled},
		{"malformed header", rawApply(rawWrite("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", rawKeep)), garbled},
		{"malformed length", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", rawKeep)), garbled},
		{"oversized headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nX-Big: "+strings.Repeat("x", 300<<10)+"\r\n\r\n", rawClose)), garbled},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, reused := range []bool{false, true} {
				t.Run(map[bool]string{false: "new", true: "reused"}[reused], func(t *testing.T) {
					eachOp(t, func(t *testing.T, op deliveryOp) {
						s := newRawServer(t, row.turn)
						client := keptClient(t, s)
						if reused {
							warmUp(t, op, client, s, row.turn)
						}
						records, err := op.call(t.Context(), client)
						attempts := row.verdict.attempts(op)
						row.verdict.check(t, op, records, err, attempts)
						s.close()
						ledger := s.ledger()
						checkLedger(t, op, err, attempts, ledger)
						// A reused connection counts as one of them.
						if op.name != "list" {
							assert.Equal(t, attempts, ledger.accepted, "connections")
						}
					})
				})
			}
		})
	}
}

// TestDeliveryIdleConnectionClosed checks that callers do not notice when the
// server closes an idle connection.
func TestDeliveryIdleConnectionClosed(t *testing.T) {
	for _, op := range deliveryOps {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const serverIdle = 2 * time.Second // as in gunicorn
				var respond rawTurn
				respond = func(c *rawConn) bool {
					deliverOK(c)
					c.SetReadDeadline(time.Now().Add(serverIdle))
					return true
				}
				s := newPipeServer(t, respond)
				transport := oakra.DefaultTransport()
				transport.Proxy = nil
				transport.DialContext = s.dial
				t.Cleanup(transport.CloseIdleConnections)
				client := oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport))
				for pause := 1900 * time.Millisecond; pause <= 2100*time.Millisecond; pause += 10 * time.Millisecond {
					_, err := op.call(t.Context(), client)
					require.NoError(t, err)
					time.Sleep(pause)
				}
			})
		})
	}
}

// TestDeliveryTransportWithoutTrace checks that an error proves nothing if the
// transport calls no httptrace hook, as a mock does.
func TestDeliveryTransportWithoutTrace(t *testing.T) {
	for _, tt := range []struct {
		name    string
		failure error
	}{
		{"any error", errors.New("mocked")},
		{"looks like a dial", &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}},
		{"looks like DNS", &net.DNSError{Err: "no such host", IsNotFound: true}},
		{"timeout", context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				calls := 0
				client := rawClientOn(t, "https://oakra.invalid/", stubTransport(func(*http.Request) (*http.Response, error) {
					calls++
					return nil, tt.failure
				}))
				records, err := op.call(t.Context(), client)
				row := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
				row.check(t, op, records, err, row.attempts(op))
				assert.ErrorIs(t, err, tt.failure)
				assert.Equal(t, row.attempts(op), calls)
			})
		})
	}
	t.Run("neither response nor error", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			client := oakra.KeepRoutes(rawClientOn(t, "https://oakra.invalid/", stubTransport(func(*http.Request) (*http.Response, error) { return nil, nil })))
			records, err := op.call(t.Context(), client)
			row := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
			row.check(t, op, records, err, row.attempts(op))
		})
	})
}

// TestDeliveryNotRequested has the row of a transport that fails without asking for a
// connection, here because of a header that cannot be sent. If the client made the
// transport itself, nothing was sent. The error of any other transport proves nothing.
func TestDeliveryNotRequested(t *testing.T) {
	s := newRawServer(t, deliverOK)
	bad := oakra.WithObserver(oakra.Observer{AttemptStart: func(ctx context.Context, a oakra.AttemptStart) context.Context {
		a.Header.Set("X-Bad", "a\nb")
		return ctx
	}})
	for name, opts := range map[string][]oakra.Option{
		"no client":                   {},
		"a client without transport":  {oakra.WithHTTPClient(&http.Client{})},
		"a transport of the caller's": {oakra.WithHTTPClient(&http.Client{Transport: oakra.DefaultTransport()})},
	} {
		t.Run(name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				client, err := oakra.NewClient(rawKey, append(opts, bad, oakra.WithBaseURL(s.baseURL), oakra.WithRetryPolicy(rawPolicy(rawTries)))...)
				require.NoError(t, err)
				records, err := op.call(t.Context(), client)
				want := verdict{outcome: notApplied}
				if name == "a transport of the caller's" {
					want = verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
				}
				want.check(t, op, records, err, want.attempts(op))
				assert.ErrorContains(t, err, "X-Bad")
			})
		})
	}
	s.close()
	assert.Zero(t, s.ledger().accepted)
}

// TestDeliveryStalePool checks that net/http may go on by itself to the next
// idle connection when many of them are dead.
func TestDeliveryStalePool(t *testing.T) {
	const idle = 12
	var first sync.WaitGroup
	first.Add(idle)
	script := make([]rawTurn, 0, 2*idle+1)
	for range idle {
		script = append(script, rawAfter(func() { first.Done(); first.Wait() }, deliverOK))
	}
	for range idle {
		script = append(script, rawReset)
	}
	s := newRawServer(t, append(script, deliverOK)...)
	client := keptClient(t, s, oakra.WithRetryPolicy(rawPolicy(1)))
	var callers sync.WaitGroup
	for range idle {
		callers.Go(func() {
			_, err := deliverList.call(t.Context(), client)
			assert.NoError(t, err)
		})
	}
	callers.Wait()
	_, err := deliverList.call(t.Context(), client)
	require.NoError(t, err)
	require.Equal(t, 2*idle+1, s.ledger().turns)
}

// TestDeliveryPool checks that a failed call leaves the other connections open.
func TestDeliveryPool(t *testing.T) {
	for _, callers := range []int{8, 64} {
		t.Run(fmt.Sprint(callers), func(t *testing.T) {
			s := newRawServer(t)
			client := keptClient(t, s, oakra.WithRetryPolicy(rawPolicy(1)))
			// together makes calls that are all under way at the same time:
			// each needs a connection.
			together := func(op deliveryOp) {
				t.Helper()
				var arrived sync.WaitGroup
				arrived.Add(callers)
				s.play(rawAfter(func() { arrived.Done(); arrived.Wait() }, deliverOK))
				var calls sync.WaitGroup
				for range callers {
					calls.Go(func() {
						_, err := op.call(t.Context(), client)
						assert.NoError(t, err)
					})
				}
				calls.Wait()
			}
			together(deliverList)
			require.Equal(t, callers, s.ledger().accepted)
			together(deliverChange)
			require.Equal(t, callers, s.ledger().accepted, "all connections are kept")

			failures := 0
			for _, turn := range []rawTurn{rawWrite("", rawReset), rawUnread(rawClose), rawWrite("SSH-2.0\r\n", rawClose)} {
				s.play(turn)
				_, err := deliverChange.call(t.Context(), client)
				require.Error(t, err)
				failures++
			}
			for _, turn := range []rawTurn{rawRespond(500, "", ""), rawRespond(301, "Location: http://[::1\r\n", ""), rawRespond(200, "", "null")} {
				s.play(turn)
				_, err := deliverChange.call(t.Context(), client)
				require.Error(t, err) // the connection is kept
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := deliverChange.call(canceled, client)
			require.Error(t, err)

			together(deliverUpdate)
			assert.LessOrEqual(t, s.ledger().accepted, callers+failures, "only what broke is replaced")
		})
	}
}

// TestDeliveryNoGoroutineLeak checks that no goroutine is left when all calls
// have returned and the idle connections are closed.
func TestDeliveryNoGoroutineLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		s := newRawServer(t)
		transport := rawTransport(t, s)
		client := oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport, oakra.WithAttemptTimeout(5*time.Second)))
		for _, turn := range []rawTurn{
			deliverOK,
			rawUnread(rawReset),
			rawWrite("", rawClose),
			rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[", rawClose),
			rawWrite("HTTP/1.1 409 Conflict\r\nContent-Length: 999999\r\n\r\n"+strings.Repeat("x", 200<<10), rawStall),
			rawRespond(200, "", deliveryRecords+"garbage"),
			rawRespond(301, "Location: http://[::1\r\n", ""),
			rawRespond(503, "", ""),
			rawWrite("garbage\r\n", rawStall),
		} {
			for _, op := range deliveryOps {
				s.play(turn)
				op.call(t.Context(), client)
				ctx, cancel := context.WithCancel(t.Context())
				s.play(rawAfter(cancel, rawStall))
				op.call(ctx, client)
				cancel()
			}
		}
		client.CloseIdleConnections()
		s.close()
	}()
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
