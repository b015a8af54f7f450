package oakra_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"slices"
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

// These tests are the delivery table, row by row: what each failure is called,
// who is sent again, and that the servers' ledgers agree.

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
		client := rawClient(t, s)
		for name, call := range map[string]func() ([]oakra.StockRecord, error){
			"list": func() ([]oakra.StockRecord, error) {
				return client.Stock.List(t.Context(), oakra.StockListParams{})
			},
			"update": func() ([]oakra.StockRecord, error) {
				return client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1}, {ID: 1}})
			},
			"change": func() ([]oakra.StockRecord, error) {
				return client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 0, QuantityChange: 1}})
			},
		} {
			records, err := call()
			verdict{outcome: notApplied, is: oakra.ErrInvalidRequest}.check(t, deliveryOp{name: name}, records, err, 0)
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

// TestDeliveryNoConnection has the rows in which dialing fails, for ever or twice.
func TestDeliveryNoConnection(t *testing.T) {
	closedPort := rawClosedPort(t)
	unreachable := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}
	final := verdict{outcome: notApplied, is: oakra.ErrUnreachable}

	for _, row := range []struct {
		name    string
		dial    func(ctx context.Context) error
		verdict verdict
		is      error
	}{
		{"refused", func(ctx context.Context) error {
			return second(new(net.Dialer).DialContext(ctx, "tcp", closedPort))
		}, unreachable, syscall.ECONNREFUSED},
		{"dial timeout", func(ctx context.Context) error {
			return second((&net.Dialer{Timeout: time.Nanosecond}).DialContext(ctx, "tcp", closedPort))
		}, unreachable, nil},
		{"network unreachable", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ENETUNREACH}
		}, unreachable, syscall.ENETUNREACH},
		{"temporary DNS failure", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "server misbehaving", Name: "h", IsTemporary: true}}
		}, unreachable, nil},
		{"DNS timeout", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "i/o timeout", Name: "h", IsTimeout: true, IsTemporary: true}}
		}, unreachable, nil},
		{"no such host", func(context.Context) error {
			return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}}
		}, final, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, deliverOK)
				transport := rawTransport(t, s)
				var dials, failing atomic.Int64
				transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					if dials.Add(1) > failing.Load() {
						return s.dial(ctx, network, address)
					}
					return nil, row.dial(ctx)
				}
				client := rawClientOn(t, s.baseURL, transport)

				failing.Store(1 << 30)
				records, err := op.call(t.Context(), client)
				attempts := row.verdict.attempts(op)
				row.verdict.check(t, op, records, err, attempts)
				if row.is != nil {
					assert.ErrorIs(t, err, row.is)
				}
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
	for name, turn := range map[string]rawTurn{
		"407": rawWrite("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", rawClose),
		"502": rawWrite("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nsorry", rawClose),
		"EOF": rawWrite("", rawClose),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				proxy := newRawServer(t, turn)
				transport := rawTransport(t, proxy)
				transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy.invalid:8080") }
				client := rawClientOn(t, "https://oakra.invalid/api/v1/", transport)
				records, err := op.call(t.Context(), client)
				verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}.
					check(t, op, records, err, rawTries)
				proxy.close()
				ledger := proxy.ledger()
				require.Len(t, ledger.requests, rawTries)
				for _, r := range ledger.requests {
					assert.Equal(t, http.MethodConnect, r.method)
					assert.Empty(t, r.key, "the app key is none of the proxy's business")
				}
			})
		})
	}
}

// TestDeliveryTLS has the rows of a handshake that fails, and of one that fails
// once.
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
				client := rawClientOn(t, good.URL+"/api/v1/", transport)
				records, err := op.call(t.Context(), client)
				attempts := row.verdict.attempts(op)
				row.verdict.check(t, op, records, err, attempts)
				assert.Equal(t, attempts, bad.ledger().turns)
				if row.verdict.resent == nobody || row.name == "timeout" { // which the good server might meet too
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

	t.Run("certificate refused", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			var handled atomic.Int64
			server, _ := newTLSServer(t, func(http.ResponseWriter, *http.Request) { handled.Add(1) })
			transport := oakra.DefaultTransport()
			defer transport.CloseIdleConnections()
			client := rawClientOn(t, server.URL, transport)
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
			client := rawClientOn(t, server.URL, transport)
			records, err := op.call(t.Context(), client)
			final.check(t, op, records, err, 1)
			assert.Zero(t, handled.Load())
		})
	})
}

// TestDeliveryBrokenConnection has the rows of a connection that breaks before an
// answer's status, when it is new and when it has served a call before.
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
		{"reset within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", rawReset)), broken},
		{"end within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", rawClose)), broken},
		{"half-closed within the headers", rawApply(rawWrite("HTTP/1.1 200 OK\r\nDate: ", rawHalfClose)), broken},
		{"reset after an informational answer", rawApply(rawWrite("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", rawReset)), broken},
		{"end after an informational answer", rawApply(rawWrite("HTTP/1.1 100 Continue\r\n\r\n", rawClose)), broken},

		// To net/http a line that was cut in two is a malformed line.
		{"end within the status line", rawApply(rawWrite("HTTP/1.1 20", rawClose)), garbled},
		{"end within a header's name", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Le", rawClose)), garbled},
		{"reset within a header's name", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Le", rawReset)), garbled},

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
						client := rawClient(t, s)
						if reused {
							warmUp(t, op, client, s, row.turn)
						}
						records, err := op.call(t.Context(), client)
						attempts := row.verdict.attempts(op)
						row.verdict.check(t, op, records, err, attempts)
						s.close()
						ledger := s.ledger()
						checkLedger(t, op, err, attempts, ledger)
						// One connection less if the call used the one that was there.
						if op.name != "list" {
							assert.Equal(t, attempts, ledger.accepted, "connections")
						}
					})
				})
			}
		})
	}
}

// TestDeliveryIdleConnectionClosed: the server closes a kept connection while
// nothing is asked. Nobody may notice.
func TestDeliveryIdleConnectionClosed(t *testing.T) {
	for _, op := range deliveryOps {
		t.Run(op.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const serverIdle = 2 * time.Second // as gunicorn has it
				var answer rawTurn
				answer = func(c *rawConn) bool {
					deliverOK(c)
					c.SetReadDeadline(time.Now().Add(serverIdle))
					return true
				}
				s := newPipeServer(t, answer)
				transport := oakra.DefaultTransport()
				transport.Proxy = nil
				transport.DialContext = s.dial
				t.Cleanup(transport.CloseIdleConnections)
				client := rawClientOn(t, s.baseURL, transport)
				for pause := 1900 * time.Millisecond; pause <= 2100*time.Millisecond; pause += 10 * time.Millisecond {
					_, err := op.call(t.Context(), client)
					require.NoError(t, err)
					time.Sleep(pause)
				}
			})
		})
	}
}

// TestDeliveryTransportWithoutTrace: a mock's errors prove nothing.
func TestDeliveryTransportWithoutTrace(t *testing.T) {
	for name, failure := range map[string]error{
		"any error":         errors.New("mocked"),
		"looks like a dial": &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED},
		"looks like DNS":    &net.DNSError{Err: "no such host", IsNotFound: true},
		"timeout":           context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				calls := 0
				client := rawClientOn(t, "https://oakra.invalid/", stubTransport(func(*http.Request) (*http.Response, error) {
					calls++
					return nil, failure
				}))
				records, err := op.call(t.Context(), client)
				row := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
				row.check(t, op, records, err, row.attempts(op))
				assert.ErrorIs(t, err, failure)
				assert.Equal(t, row.attempts(op), calls)
			})
		})
	}
	t.Run("neither answer nor error", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			client := rawClientOn(t, "https://oakra.invalid/", stubTransport(func(*http.Request) (*http.Response, error) { return nil, nil }))
			records, err := op.call(t.Context(), client)
			row := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
			row.check(t, op, records, err, row.attempts(op))
		})
	})
}

// TestDeliveryStatus has the rows that a status decides. Where the outcome is
// unknown the server has applied the write, and else it has not.
func TestDeliveryStatus(t *testing.T) {
	refused := func(is error) verdict { return verdict{outcome: notApplied, is: is} }
	rows := map[int]verdict{
		400: refused(oakra.ErrInvalidRequest),
		401: refused(oakra.ErrUnauthorized),
		403: refused(oakra.ErrForbidden),
		404: refused(oakra.ErrNotFound),
		405: refused(oakra.ErrNotFound),
		409: refused(oakra.ErrConflict),
		410: refused(oakra.ErrNotFound),
		413: refused(oakra.ErrInvalidRequest),
		415: refused(oakra.ErrInvalidRequest),
		422: refused(oakra.ErrInvalidRequest),
		425: refused(nil),

		408: {outcome: unknown, resent: listAndUpdate, retryable: onlyList},
		429: {outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrRateLimited},
		501: {outcome: unknown, is: oakra.ErrServer},
		600: {outcome: unknown},
		999: {outcome: unknown},
	}
	for _, status := range []int{301, 302, 307, 308} {
		rows[status] = verdict{outcome: notApplied, is: oakra.ErrRedirect}
	}
	for _, status := range []int{300, 303, 304, 305, 306, 399} {
		rows[status] = verdict{outcome: unknown, is: oakra.ErrRedirect}
	}
	for _, status := range []int{402, 406, 407, 411, 412, 414, 416, 417, 418, 421, 423, 424, 426, 428, 431, 451, 499} {
		rows[status] = verdict{outcome: unknown}
	}
	for _, status := range []int{500, 502, 503, 504, 505, 507, 511, 520, 599} {
		rows[status] = verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList, is: oakra.ErrServer}
	}
	bodies := map[string]string{
		"JSON": `{"detail":"because"}`,
		"HTML": "<html>because</html>",
		// What a 2xx would be applied for.
		"records": deliveryRecords,
	}
	for status, row := range rows {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			row.status = status
			for kind, body := range bodies {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					turn := rawAnswer(status, "", body)
					if row.outcome == unknown {
						turn = rawApply(turn)
					}
					s := newRawServer(t, turn)
					client := rawClient(t, s)
					// A route that is kept is not searched for after a 404 or 405.
					warmUp(t, op, client, s, turn)
					records, err := op.call(t.Context(), client)
					attempts := row.attempts(op)
					e := row.check(t, op, records, err, attempts)
					s.close()
					ledger := s.ledger()
					checkLedger(t, op, err, attempts, ledger)
					assert.Equal(t, 1, ledger.accepted, "an answer that is read to its end leaves the connection")
					assert.Equal(t, op.path, e.Path)
					if status != http.StatusNotModified {
						assert.Equal(t, body, string(e.Body))
					}
					if kind == "JSON" && status != http.StatusNotModified {
						assert.Equal(t, "because", e.Message)
					}
				})
			}
		})
	}

	t.Run("cut short", func(t *testing.T) { // the status has decided already
		for _, status := range []int{301, 409, 422, 503} {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				turn := rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"det", status), rawClose)
				s := newRawServer(t, turn)
				records, err := op.call(t.Context(), rawClient(t, s))
				row := rows[status]
				row.status = status
				e := row.check(t, op, records, err, row.attempts(op))
				assert.Equal(t, `{"det`, string(e.Body))
			})
		}
	})

	t.Run("after an informational answer", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			const early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
			s := newRawServer(t,
				rawWrite(early+rawText(429, "", ""), rawKeep),
				rawApply(rawWrite(early+rawText(200, "", deliveryRecords), rawKeep)))
			records, err := op.call(t.Context(), rawClient(t, s))
			require.NoError(t, err)
			assert.Equal(t, deliveredRecords, records)
			assert.Equal(t, 2, s.ledger().turns)
		})
	})

	// The connection is the caller's after a 101, and no longer net/http's to
	// close: whoever reads from it needs a bound of their own.
	t.Run("101 and then nothing", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			t.Parallel()
			s := newRawServer(t, rawApply(rawWrite("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", rawStall)))
			client := rawClient(t, s)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			hung := time.AfterFunc(15*time.Second, func() {
				t.Error("the call outlives its context")
				s.close()
			})
			defer hung.Stop()
			records, err := op.call(ctx, client)
			row := verdict{outcome: unknown, status: 101}
			if errors.Is(err, context.DeadlineExceeded) {
				row.retryable = onlyList
			}
			row.check(t, op, records, err, 1)
			assert.Eventually(t, func() bool { return s.ledger().open == 0 }, 10*time.Second, time.Millisecond,
				"the connection is left open")
		})
	})
}

// TestDeliveryStalledErrorBody: the status decides, and its body is waited for no
// longer than a second.
func TestDeliveryStalledErrorBody(t *testing.T) {
	for status, row := range map[int]verdict{
		302: {outcome: notApplied, is: oakra.ErrRedirect},
		409: {outcome: notApplied, is: oakra.ErrConflict},
		503: {outcome: unknown, resent: listAndUpdate, retryable: onlyList, is: oakra.ErrServer},
		202: {outcome: unknown, is: oakra.ErrBadResponse},
	} {
		row.status = status
		for _, op := range deliveryOps {
			t.Run(fmt.Sprintf("%d/%s", status, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"detail\":", status), rawStall))
					client := rawClient(t, s)
					begun := time.Now()
					records, err := op.call(t.Context(), client)
					attempts := row.attempts(op)
					row.check(t, op, records, err, attempts)
					assert.LessOrEqual(t, time.Since(begun), time.Duration(attempts)*1100*time.Millisecond)
					checkLedger(t, op, err, attempts, s.ledger())
				})
			})
		}
	}
}

// TestDeliveryContextInErrorBody: the status has decided when the context ends.
func TestDeliveryContextInErrorBody(t *testing.T) {
	for status, row := range map[int]verdict{
		409: {outcome: notApplied, is: oakra.ErrConflict},
		429: {outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited},
		503: {outcome: unknown, retryable: onlyList, is: oakra.ErrServer},
	} {
		row.status = status
		for _, op := range deliveryOps {
			t.Run(fmt.Sprintf("%d/%s", status, op.name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"detail\":", status), rawStall))
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					defer cancel()
					begun := time.Now()
					records, err := op.call(ctx, rawClient(t, s))
					row.check(t, op, records, err, 1)
					assert.Equal(t, 500*time.Millisecond, time.Since(begun))
					if status == 429 {
						assert.ErrorIs(t, err, context.DeadlineExceeded, "it is why nothing was sent again")
					}
					checkLedger(t, op, err, 1, s.ledger())
				})
			})
		}
	}
}

// TestDeliveryRateLimited has the rows of 429, and what a wait may cost.
func TestDeliveryRateLimited(t *testing.T) {
	limited := func(retryAfter string) rawTurn {
		header := ""
		if retryAfter != "" {
			header = "Retry-After: " + retryAfter + "\r\n"
		}
		return rawAnswer(429, header, `{"detail":"slow down"}`)
	}
	for _, row := range []struct {
		name       string
		retryAfter string
		deadline   time.Duration // of the context; 0 is none
		waits      time.Duration // before each resend; -1 is no resend
		says       time.Duration // Error.RetryAfter
	}{
		{name: "none"},
		{name: "0", retryAfter: "0"},
		{name: "1", retryAfter: "1", waits: time.Second, says: time.Second},
		{name: "as long as the cap", retryAfter: "10", waits: 10 * time.Second, says: 10 * time.Second},
		{name: "longer than the cap", retryAfter: "11", waits: -1, says: 11 * time.Second},
		{name: "absurd", retryAfter: "99999999999999999999", waits: -1, says: 1<<63 - 1},
		{name: "within the deadline", retryAfter: "2", deadline: 5 * time.Second, waits: 2 * time.Second, says: 2 * time.Second},
		{name: "longer than the deadline leaves", retryAfter: "5", deadline: 4 * time.Second, waits: -1, says: 5 * time.Second},
		{name: "unreadable", retryAfter: "soon"},
	} {
		for _, op := range deliveryOps {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, limited(row.retryAfter))
					policy := rawPolicy(rawTries)
					policy.MaxRetryAfter = 10 * time.Second
					client := rawClient(t, s, oakra.WithRetryPolicy(policy))
					call := func() ([]oakra.StockRecord, error) {
						ctx := t.Context()
						if row.deadline != 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, row.deadline)
							defer cancel()
						}
						return op.call(ctx, client)
					}
					attempts, waited := rawTries, row.waits*(rawTries-1)
					if row.waits < 0 {
						attempts, waited = 1, 0
					}

					begun := time.Now()
					records, err := call()
					took := time.Since(begun)
					e := verdict{outcome: notApplied, retryable: everyone, status: 429, is: oakra.ErrRateLimited}.
						check(t, op, records, err, attempts)
					assert.Equal(t, row.says, e.RetryAfter)
					assert.NotErrorIs(t, err, context.DeadlineExceeded, "the context has not ended")
					assert.GreaterOrEqual(t, took, waited)
					assert.LessOrEqual(t, took, waited+10*time.Millisecond)
					checkLedger(t, op, err, attempts, s.ledger())

					s.play(limited(row.retryAfter), deliverOK)
					records, err = call()
					if row.waits < 0 {
						require.Error(t, err)
						assert.Empty(t, s.ledger().applied)
						return
					}
					require.NoError(t, err)
					assert.Equal(t, deliveredRecords, records)
					assert.Equal(t, 2, s.ledger().turns)
				})
			})
		}
	}
	t.Run("date", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t, limited(time.Now().Add(3*time.Second).UTC().Format(http.TimeFormat)), deliverOK)
			begun := time.Now()
			_, err := deliverChange.call(t.Context(), rawClient(t, s))
			require.NoError(t, err)
			assert.InDelta(t, 3*time.Second, time.Since(begun), float64(time.Second), "dates have no fractions")
		})
	})
}

// TestDeliveryStalled has the rows in which the server stops answering, and the
// caller's context or the time for one attempt ends.
func TestDeliveryStalled(t *testing.T) {
	const limit = 2 * time.Second // for one attempt, or for the call

	begun := func(text string) rawTurn { return rawApply(rawWrite(text, rawStall)) }
	const ok, chunked = "HTTP/1.1 200 OK\r\n", "Transfer-Encoding: chunked\r\n\r\n"
	noStatus := verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}
	noRecords := verdict{outcome: unknown, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}
	inRecords := verdict{outcome: applied, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}
	noConnection := verdict{outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrUnreachable}

	for _, row := range []struct {
		name    string
		turn    rawTurn // nil: the connection itself is not had
		scheme  string
		verdict verdict // of an attempt that took too long; after the context nobody is sent again
	}{
		{"dialing", nil, "http", noConnection},
		{"in the TLS handshake", rawUnread(rawStall), "https", noConnection},
		{"before the request is read", rawUnread(rawStall), "http", noStatus},
		{"before the status", begun(""), "http", noStatus},
		{"within the status line", begun("HTTP/1.1 2"), "http", noStatus},
		{"within the headers", begun(ok + "Content-Length: 9\r\n"), "http", noStatus},
		{"after an informational answer", begun("HTTP/1.1 103 Early Hints\r\n\r\n"), "http", noStatus},
		{"before the body", begun(ok + "Content-Length: 999\r\n\r\n"), "http", noRecords},
		{"before the chunked body", begun(ok + chunked), "http", noRecords},
		{"before the records", begun(ok + "Content-Length: 999\r\n\r\n{\"count\": 2, "), "http", noRecords},
		{"in the array", begun(ok + "Content-Length: 999\r\n\r\n[" + firstRecord), "http", inRecords},
		{"in stock_records", begun(ok + "Content-Length: 999\r\n\r\n{\"stock_records\": [" + firstRecord + ","), "http", inRecords},
		{"in the chunked array", begun(ok + chunked + "5\r\n[{\"id\r\n"), "http", inRecords},
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
						client := rawClientOn(t, strings.Replace(s.baseURL, "http", scheme, 1), transport, opts...)
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

// TestDeliveryEndedWhileWaiting: what ends the call between two attempts is a
// further cause of the failure before, and takes nothing from it.
func TestDeliveryEndedWhileWaiting(t *testing.T) {
	broken := errors.New("broken")
	for _, row := range []struct {
		name    string
		status  int
		limiter bool // it fails before the second attempt; else the context is canceled
		verdict verdict
	}{
		{"429, context", 429, false, verdict{outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited}},
		{"503, context", 503, false, verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrServer}},
		{"429, limiter", 429, true, verdict{outcome: notApplied, retryable: everyone, is: oakra.ErrRateLimited}},
		{"503, limiter", 503, true, verdict{outcome: unknown, retryable: onlyList, is: oakra.ErrServer}},
	} {
		for _, op := range deliveryOps {
			if row.status == 503 && op.name == "change" {
				continue // is not sent again
			}
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, rawAnswer(row.status, "Retry-After: 3\r\n", ""))
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
					records, err := op.call(ctx, rawClient(t, s, opts...))
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

// TestDeliveryNewKey has the row of a 401 with a source of keys.
func TestDeliveryNewKey(t *testing.T) {
	broken := errors.New("broken")
	refused := verdict{outcome: notApplied, status: 401, is: oakra.ErrUnauthorized}
	denied := rawAnswer(401, "", `{"detail":"Invalid token."}`)

	for _, row := range []struct {
		name    string
		tries   int
		second  func(rejected string) (string, error) // what the source gives for a rejected key
		script  []rawTurn
		keys    []string // that the server saw
		verdict verdict  // zero: no error
		cause   error
	}{
		{"another key", rawTries, otherKey, []rawTurn{denied, deliverOK}, []string{"old-key", "new-key"}, verdict{}, nil},
		{"another key, one attempt", 1, otherKey, []rawTurn{denied, deliverOK}, []string{"old-key", "new-key"}, verdict{}, nil},
		// The resend for the new key is not one of the two attempts.
		{"another key, then 429", 2, otherKey, []rawTurn{denied, rawAnswer(429, "", ""), deliverOK}, []string{"old-key", "new-key", "old-key"}, verdict{}, nil},
		{"rejected as well", rawTries, otherKey, []rawTurn{denied}, []string{"old-key", "new-key"}, refused, nil},
		{"the same key", rawTries, func(k string) (string, error) { return k, nil }, []rawTurn{denied}, []string{"old-key"}, refused, nil},
		{"the source fails", rawTries, func(string) (string, error) { return "", broken }, []rawTurn{denied}, []string{"old-key"}, refused, broken},
		{"a bad key", rawTries, func(string) (string, error) { return "a b", nil }, []rawTurn{denied}, []string{"old-key"}, refused, nil},
		{"then 429", rawTries, otherKey, []rawTurn{denied, rawAnswer(429, "", ""), deliverOK}, []string{"old-key", "new-key", "old-key"}, verdict{}, nil},
		{"then 409", rawTries, otherKey, []rawTurn{denied, rawAnswer(409, "", "")}, []string{"old-key", "new-key"},
			verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}, nil},
		{"then 501", rawTries, otherKey, []rawTurn{denied, rawApply(rawAnswer(501, "", ""))}, []string{"old-key", "new-key"},
			verdict{outcome: unknown, status: 501, is: oakra.ErrServer}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.script...)
				var rejections []string
				opts := rawOptions(s.baseURL, rawTransport(t, s),
					oakra.WithRetryPolicy(rawPolicy(row.tries)),
					oakra.WithAppKeySource(func(_ context.Context, rejected string) (string, error) {
						if rejected == "" {
							return "old-key", nil
						}
						rejections = append(rejections, rejected)
						return row.second(rejected)
					}))
				client, err := oakra.NewClient("", opts...)
				require.NoError(t, err)
				records, err := op.call(t.Context(), client)
				ledger := s.ledger()
				assert.Equal(t, row.keys, ledger.keys())
				assert.Equal(t, "old-key", rejections[0])
				assert.Len(t, rejections, 1, "how often another key was asked for")
				checkLedger(t, op, err, len(row.keys), ledger)
				if row.verdict == (verdict{}) {
					require.NoError(t, err)
					assert.Equal(t, deliveredRecords, records)
					return
				}
				row.verdict.check(t, op, records, err, len(row.keys))
				if row.cause != nil {
					assert.ErrorIs(t, err, row.cause)
				}
			})
		})
	}
}

func otherKey(string) (string, error) { return "new-key", nil }

// TestDeliveryReadableAnswer has the row without an error.
func TestDeliveryReadableAnswer(t *testing.T) {
	for name, turn := range map[string]rawTurn{
		"array":         rawAnswer(200, "", deliveryRecords),
		"object":        rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`}`),
		"201":           rawAnswer(201, "", deliveryRecords),
		"other fields":  rawAnswer(200, "", `{"count":2,"stock_records":`+deliveryRecords+`,"next":null}`),
		"white space":   rawAnswer(200, "", " \r\n"+deliveryRecords+"\n"),
		"chunked":       rawApply(rawWrite("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkText(deliveryRecords, 7)+"0\r\n\r\n", rawKeep)),
		"until the end": rawApply(rawWrite("HTTP/1.1 200 OK\r\n\r\n"+deliveryRecords, rawClose)),
		"gzip":          rawAnswer(200, "Content-Encoding: gzip\r\n", gzipText(deliveryRecords)),
		"text/html":     rawAnswer(200, "Content-Type: text/html\r\n", deliveryRecords),
		"reset after":   rawApply(rawWrite(rawText(200, "", deliveryRecords), rawReset)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, turn)
				records, err := op.call(t.Context(), rawClient(t, s))
				require.NoError(t, err)
				assert.Equal(t, deliveredRecords, records)
				assert.Equal(t, applied, oakra.OutcomeOf(err))
				checkLedger(t, op, err, 1, s.ledger())
			})
		})
	}
}

func chunkText(text string, size int) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(text), size) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
	}
	return b.String()
}

func gzipText(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}

// TestDeliveryUnreadableAnswer has the rows of a 2xx that is not as it should be.
// The server has applied the write in all of them.
func TestDeliveryUnreadableAnswer(t *testing.T) {
	cut := func(header, body string, end rawEnd) rawTurn {
		return rawApply(rawWrite("HTTP/1.1 200 OK\r\n"+header+"\r\n"+body, end))
	}
	const length, chunked = "Content-Length: 999\r\n", "Transfer-Encoding: chunked\r\n"
	gzipped := gzipText(deliveryRecords)

	for _, row := range []struct {
		name  string
		turn  rawTurn
		began bool
		cut   bool // a List is sent again
		check func(t *testing.T, op deliveryOp, e *oakra.Error)
	}{
		{name: "end before the body", turn: cut(length, "", rawClose), cut: true},
		{name: "end before the chunked body", turn: cut(chunked, "", rawClose), cut: true},
		{name: "end before the records", turn: cut(length, `{"count":1,`, rawClose), cut: true},
		{name: "reset before the records", turn: cut(length, `{"count":1,`, rawReset), cut: true},
		{name: "end in the key before the records", turn: cut(length, `{"stock_rec`, rawClose), cut: true},
		{name: "end after the bracket", turn: cut(length, `[`, rawClose), began: true, cut: true},
		{name: "end in the array", turn: cut(length, `[`+firstRecord, rawClose), began: true, cut: true},
		{name: "reset in the array", turn: cut(length, `[`+firstRecord, rawReset), began: true, cut: true},
		{name: "half-closed in the array", turn: cut(length, `[`+firstRecord+`,{"id":`, rawHalfClose), began: true, cut: true},
		{name: "end in stock_records", turn: cut(length, `{"stock_records":[`+firstRecord+`,`, rawClose), began: true, cut: true},
		{name: "end in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawClose), began: true, cut: true},
		{name: "reset in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawReset), began: true, cut: true},
		{name: "end in a chunk", turn: cut(chunked, "ff\r\n["+firstRecord, rawClose), began: true, cut: true},
		{name: "last chunk missing", turn: cut(chunked, chunkText(deliveryRecords, 50), rawClose), began: true, cut: true},
		{name: "end after the records, before the length", turn: cut(length, deliveryRecords, rawClose), began: true, cut: true},
		{name: "cut gzip", turn: cut(length+"Content-Encoding: gzip\r\n", gzipped[:len(gzipped)-9], rawClose), began: true, cut: true},

		{name: "malformed in the array", turn: rawAnswer(200, "", `[{"id":1,,}]`), began: true},
		{name: "malformed in stock_records", turn: rawAnswer(200, "", `{"stock_records":[}`), began: true},
		{name: "JSON ends early", turn: rawAnswer(200, "", `[`+firstRecord+`,`), began: true, cut: true},
		{name: "null for a record", turn: rawAnswer(200, "", `[null]`), began: true},
		{name: "number for a record", turn: rawAnswer(200, "", `[1]`), began: true},
		{name: "fraction for a quantity", turn: rawAnswer(200, "", `[{"id":1,"location_id":"w","sku":"a","quantity":5.5}]`), began: true},
		{name: "record without fields", turn: rawAnswer(200, "", `[{}]`), began: true},
		{name: "trailing garbage", turn: rawAnswer(200, "", deliveryRecords+`x`), began: true},
		{name: "two values", turn: rawAnswer(200, "", deliveryRecords+deliveryRecords), began: true},
		{name: "JSON ends after stock_records", turn: rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`,`), began: true, cut: true},
		{name: "malformed after stock_records", turn: rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`,]`), began: true},

		{name: "HTML", turn: rawAnswer(200, "Content-Type: text/html\r\n", "<html>Welcome</html>")},
		{name: "empty", turn: rawAnswer(200, "", "")},
		{name: "white space", turn: rawAnswer(200, "", "  \n")},
		{name: "204", turn: rawAnswer(204, "", "")},
		{name: "null", turn: rawAnswer(200, "", "null")},
		{name: "text", turn: rawAnswer(200, "", `"ok"`)},
		{name: "number", turn: rawAnswer(200, "", `1`)},
		{name: "malformed before the records", turn: rawAnswer(200, "", `{"a":}`)},
		{name: "object", turn: rawAnswer(200, "", `{}`)},
		{name: "object of others", turn: rawAnswer(200, "", `{"status":"ok","Stock_Records":[]}`)},
		{name: "stock_records null", turn: rawAnswer(200, "", `{"stock_records":null}`)},
		{name: "detail", turn: rawAnswer(200, "", `{"detail":"No such shop."}`),
			check: func(t *testing.T, _ deliveryOp, e *oakra.Error) {
				assert.Equal(t, "No such shop.", e.Message)
				assert.Contains(t, e.Error(), "No such shop.")
			}},
		{name: "202", turn: rawAnswer(202, "", deliveryRecords)},
		{name: "202 empty", turn: rawAnswer(202, "", "")},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), rawClient(t, s))
				want := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}
				if row.began {
					want.outcome = applied
				}
				if row.cut {
					want.resent, want.retryable = onlyList, onlyList
				}
				if name, _, _ := strings.Cut(row.name, " "); name == "202" || name == "204" {
					fmt.Sscan(name, &want.status)
				}
				attempts := want.attempts(op)
				e := want.check(t, op, records, err, attempts)
				s.close()
				checkLedger(t, op, err, attempts, s.ledger())
				assert.Empty(t, e.MissingIDs)
				if row.check != nil {
					row.check(t, op, e)
				}
			})
		})
	}
}

// TestDeliveryMissingIDs has the row of a 2xx whose records lack an id.
func TestDeliveryMissingIDs(t *testing.T) {
	const third = `{"id":3,"location_id":"w","sku":"c","quantity":7}`
	for _, row := range []struct {
		name    string
		body    string
		missing []int64
		records []oakra.StockRecord
	}{
		{"none at all", `[]`, []int64{1, 2}, []oakra.StockRecord{}},
		{"none in the object", `{"stock_records":[]}`, []int64{1, 2}, []oakra.StockRecord{}},
		{"the first", `[` + secondRecord + `]`, []int64{1}, deliveredRecords[1:]},
		{"the last", `[` + firstRecord + `]`, []int64{2}, deliveredRecords[:1]},
		{"another instead", `[` + firstRecord + `,` + third + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], {ID: 3, LocationID: "w", SKU: "c", Quantity: 7}}},
		{"one twice", `[` + firstRecord + `,` + firstRecord + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], deliveredRecords[0]}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				s := newRawServer(t, rawAnswer(200, "", row.body))
				records, err := op.call(t.Context(), rawClient(t, s))
				e := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
				assert.Equal(t, row.missing, e.MissingIDs)
				assert.Equal(t, row.records, e.Records)
				checkLedger(t, op, err, 1, s.ledger())
			}
			// A List names no ids, and takes what there is.
			s := newRawServer(t, rawAnswer(200, "", row.body))
			records, err := deliverList.call(t.Context(), rawClient(t, s))
			require.NoError(t, err)
			assert.Equal(t, row.records, records)
		})
	}
	for name, body := range map[string]string{
		"other order":   `[` + secondRecord + `,` + firstRecord + `]`,
		"one more":      `[` + firstRecord + `,` + third + `,` + secondRecord + `]`,
		"id as a text":  `[{"id":"2","location_id":"w","sku":"b","quantity":6},{"id":1.0,"location_id":"w","sku":"a","quantity":"5"}]`,
		"in the object": `{"stock_records":[` + secondRecord + `,` + firstRecord + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				s := newRawServer(t, rawAnswer(200, "", body))
				_, err := op.call(t.Context(), rawClient(t, s))
				require.NoError(t, err)
			}
		})
	}
}

// TestDeliveryTooLarge has the row of an answer over 64 MiB, and keeps the memory
// in view that it costs.
func TestDeliveryTooLarge(t *testing.T) {
	const limit = 64 << 20
	tooLarge := verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}
	padding := bytes.Repeat([]byte(" "), 64<<10)
	// pad writes a body that begins with text and is longer than the limit.
	pad := func(w io.Writer, text string) {
		io.WriteString(w, text)
		for range limit/len(padding) + 2 {
			if _, err := w.Write(padding); err != nil {
				return // the client has read enough
			}
		}
		io.WriteString(w, "]")
	}
	var bomb bytes.Buffer
	gz, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	pad(gz, "["+firstRecord)
	gz.Close()
	huge := func(status string) rawTurn {
		return func(c *rawConn) bool {
			c.read()
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nConnection: close\r\n\r\n", status)
			pad(c, "["+firstRecord)
			return false
		}
	}
	for _, row := range []struct {
		name    string
		turn    rawTurn
		verdict verdict
	}{
		{"records", rawApply(huge("200 OK")), tooLarge},
		{"gzip bomb", rawApply(rawWrite(rawText(200, "Content-Encoding: gzip\r\n", bomb.String()), rawClose)), tooLarge},
		{"no records", rawApply(func(c *rawConn) bool {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			pad(c, `{"detail":"`)
			return false
		}), verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}},
		{"refusal", huge("409 Conflict"), verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}},
		{"202", rawApply(huge("202 Accepted")), verdict{outcome: unknown, status: 202, is: oakra.ErrBadResponse}},
	} {
		for _, op := range []deliveryOp{deliverList, deliverChange} {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				s := newRawServer(t, row.turn)
				client := rawClient(t, s)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				records, err := op.call(t.Context(), client)
				runtime.ReadMemStats(&after)
				e := row.verdict.check(t, op, records, err, 1)
				assert.LessOrEqual(t, len(e.Body), 64<<10)
				// Of both sides together, and of the race detector.
				assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "bytes allocated on the way")
				s.close()
				checkLedger(t, op, err, 1, s.ledger())
			})
		}
	}
}

// TestDeliverySeveralAttempts: the outcome is the last attempt's, but that a not
// applied takes nothing back from an unknown.
func TestDeliverySeveralAttempts(t *testing.T) {
	closing := func(status int) rawTurn { // the next attempt needs a new connection
		return rawWrite(rawText(status, "Connection: close\r\n", ""), rawClose)
	}
	lost := rawApply(closing(503))
	limited := closing(429)
	cutInRecords := rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n["+firstRecord, rawClose))
	none := verdict{outcome: applied} // no error
	server := verdict{outcome: unknown, status: 503, is: oakra.ErrServer}

	for _, row := range []struct {
		name     string
		op       deliveryOp
		dials    int // that succeed before all others are refused; 0 is all
		script   []rawTurn
		attempts int
		verdict  verdict
	}{
		{"update: unknown, applied", deliverUpdate, 0, []rawTurn{lost, deliverOK}, 2, none},
		{"update: unknown, unknown, applied", deliverUpdate, 0, []rawTurn{lost, rawApply(rawWrite("", rawReset)), deliverOK}, 3, none},
		{"update: not applied, applied", deliverUpdate, 0, []rawTurn{limited, deliverOK}, 2, none},
		{"update: unknown, 409", deliverUpdate, 0, []rawTurn{lost, closing(409)}, 2,
			verdict{outcome: unknown, status: 409, is: oakra.ErrConflict}},
		{"update: reset, 403", deliverUpdate, 0, []rawTurn{rawUnread(rawReset), closing(403)}, 2,
			verdict{outcome: unknown, status: 403, is: oakra.ErrForbidden}},
		{"update: unknown, 301", deliverUpdate, 0, []rawTurn{lost, closing(301)}, 2,
			verdict{outcome: unknown, status: 301, is: oakra.ErrRedirect}},
		{"update: unknown, refused", deliverUpdate, 1, []rawTurn{lost}, 3,
			verdict{outcome: unknown, is: oakra.ErrUnreachable}},
		{"update: unknown, 429, refused", deliverUpdate, 2, []rawTurn{lost, limited}, 3,
			verdict{outcome: unknown, is: oakra.ErrUnreachable}},
		{"update: 429, unknown, 429", deliverUpdate, 0, []rawTurn{limited, lost, limited}, 3,
			verdict{outcome: unknown, status: 429, is: oakra.ErrRateLimited}},
		{"update: unknown, 429 for too long", deliverUpdate, 0, []rawTurn{lost, rawAnswer(429, "Retry-After: 3600\r\n", "")}, 2,
			verdict{outcome: unknown, status: 429, is: oakra.ErrRateLimited}},
		{"update: unknown, applied and cut", deliverUpdate, 0, []rawTurn{lost, cutInRecords}, 2,
			verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}},
		{"update: unknown, 2xx without records", deliverUpdate, 0, []rawTurn{lost, rawAnswer(200, "", "{}")}, 2,
			verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}},

		{"change: 429, applied", deliverChange, 0, []rawTurn{limited, limited, deliverOK}, 3, none},
		{"change: 429, unknown", deliverChange, 0, []rawTurn{limited, lost, deliverOK}, 2, server},
		{"change: 429, reset", deliverChange, 0, []rawTurn{limited, rawApply(rawWrite("", rawReset)), deliverOK}, 2, verdict{outcome: unknown}},
		{"change: 429, refused", deliverChange, 1, []rawTurn{limited}, 3,
			verdict{outcome: notApplied, is: oakra.ErrUnreachable, retryable: everyone}},
		{"change: 429, 409", deliverChange, 0, []rawTurn{limited, closing(409)}, 2,
			verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}},
		{"change: 429, applied and cut", deliverChange, 0, []rawTurn{limited, cutInRecords, deliverOK}, 2,
			verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}},

		{"list: unknown, reset, read", deliverList, 0, []rawTurn{lost, rawUnread(rawReset), deliverOK}, 3, none},
		{"list: cut, 429, read", deliverList, 0, []rawTurn{cutInRecords, limited, deliverOK}, 3, none},
		{"list: cut, refused", deliverList, 1, []rawTurn{cutInRecords}, 3,
			verdict{retryable: everyone, is: oakra.ErrUnreachable}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newRawServer(t, row.script...)
			transport := rawTransport(t, s)
			closedPort := rawClosedPort(t)
			var dials atomic.Int64
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if dials.Add(1) > int64(row.dials) && row.dials != 0 {
					return new(net.Dialer).DialContext(ctx, "tcp", closedPort)
				}
				return s.dial(ctx, network, address)
			}
			records, err := row.op.call(t.Context(), rawClientOn(t, s.baseURL, transport))
			s.close()
			sent := row.attempts
			if row.dials != 0 {
				sent = row.dials
			}
			checkLedger(t, row.op, err, sent, s.ledger())
			if row.verdict == none {
				require.NoError(t, err)
				assert.Equal(t, deliveredRecords, records)
				return
			}
			row.verdict.check(t, row.op, records, err, row.attempts)
		})
	}
}

// TestDeliveryLateUpdate: an Update is sent again only within 5 s of the start of
// its first attempt of unknown outcome.
func TestDeliveryLateUpdate(t *testing.T) {
	// after answers with the status after a time.
	after := func(d time.Duration, status int, header string) rawTurn {
		return rawAfter(func() { time.Sleep(d) }, rawAnswer(status, header, deliveryRecords))
	}
	for _, row := range []struct {
		name    string
		op      deliveryOp
		script  []rawTurn
		turns   int // that the server sees of 4 possible ones
		status  int // 0 is no error
		latest  time.Duration
		limiter time.Duration // that it holds each but the first attempt back
	}{
		{name: "soon", op: deliverUpdate, script: []rawTurn{after(4900*time.Millisecond, 503, ""), deliverOK}, turns: 2},
		{name: "late", op: deliverUpdate, script: []rawTurn{after(5*time.Second, 503, ""), deliverOK}, turns: 1, status: 503},
		{name: "late after some", op: deliverUpdate, script: []rawTurn{after(2*time.Second, 503, "")}, turns: 3, status: 503},
		{name: "Retry-After soon", op: deliverUpdate, script: []rawTurn{after(time.Second, 503, "Retry-After: 3\r\n"), deliverOK}, turns: 2},
		{name: "Retry-After late, at once", op: deliverUpdate, script: []rawTurn{after(time.Second, 503, "Retry-After: 5\r\n"), deliverOK}, turns: 1, status: 503, latest: time.Second},
		{name: "late for a 429 between", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), after(0, 429, "Retry-After: 3\r\n")}, turns: 3, status: 429, latest: 3 * time.Second},
		{name: "429 before counts for nothing", op: deliverUpdate, script: []rawTurn{after(0, 429, "Retry-After: 9\r\n"), after(0, 503, ""), deliverOK}, turns: 3},
		{name: "held back", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), deliverOK}, limiter: 6 * time.Second, turns: 1, status: 503},
		{name: "held back a little", op: deliverUpdate, script: []rawTurn{after(0, 503, ""), deliverOK}, limiter: 4 * time.Second, turns: 2},
		{name: "a list has time", op: deliverList, script: []rawTurn{after(5*time.Second, 503, ""), deliverOK}, turns: 2},
		{name: "a change has time after 429", op: deliverChange, script: []rawTurn{after(5*time.Second, 429, ""), deliverOK}, turns: 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t, row.script...)
				waits := 0
				client := rawClient(t, s,
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

// TestDeliveryLateUpdateConnecting: the 5 s hold also while a connection is waited
// for.
func TestDeliveryLateUpdateConnecting(t *testing.T) {
	for _, row := range []struct {
		name  string
		dial  time.Duration // of the second connection
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
				client := rawClientOn(t, s.baseURL, transport)
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
				time.Sleep(10 * time.Second) // the connection is there
				assert.Equal(t, 1, s.ledger().turns)
			})
		})
	}
}

// TestDeliveryLateUpdateHeldBack: they hold also where a connection is there and the
// request is not sent, as HTTP/2 does when all streams are taken; and a transport
// without a trace, of which nothing is known, is let alone.
func TestDeliveryLateUpdateHeldBack(t *testing.T) {
	for _, traced := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			arrived := 0
			client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
				if arrived == 0 {
					arrived++
					return stubAnswer(503, ""), nil
				}
				if trace := httptrace.ContextClientTrace(r.Context()); traced {
					trace.GetConn("")
					trace.GotConn(httptrace.GotConnInfo{})
				}
				select {
				case <-time.After(8 * time.Second):
				case <-r.Context().Done():
					return nil, r.Context().Err()
				}
				arrived++
				return stubAnswer(200, deliveryRecords), nil
			}))
			_, err := deliverUpdate.call(t.Context(), client)
			if !traced {
				require.NoError(t, err)
				return
			}
			require.Equal(t, unknown, oakra.OutcomeOf(err))
			require.NotErrorIs(t, err, context.Canceled)
			require.Equal(t, 1, arrived)
		})
	}
}

// TestDeliveryStalePool: net/http goes on by itself to the next of many idle
// connections that turn out to be dead, and is let.
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
	client := rawClient(t, s, oakra.WithRetryPolicy(rawPolicy(1)))
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

// TestDeliveryEndlessInforms: no server may answer 1xx for ever.
func TestDeliveryEndlessInforms(t *testing.T) {
	for _, op := range deliveryOps {
		t.Run(op.name, func(t *testing.T) {
			s := newRawServer(t, func(c *rawConn) bool {
				c.read()
				for range 10_000 {
					if _, err := c.Write([]byte("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")); err != nil {
						return false
					}
				}
				return deliverOK(c)
			})
			records, err := op.call(t.Context(), rawClient(t, s))
			verdict{outcome: unknown, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
			require.Equal(t, 1, s.ledger().turns)
		})
	}
}

// TestDeliveryBodyWithoutContext: the body of an answer that is not 2xx is waited
// for no longer than a second, also where a transport's body knows no context.
func TestDeliveryBodyWithoutContext(t *testing.T) {
	for _, op := range deliveryOps {
		synctest.Test(t, func(t *testing.T) {
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
				endless, _ := io.Pipe()
				return &http.Response{StatusCode: 409, Header: http.Header{}, Body: endless, ContentLength: -1}, nil
			}))
			begun := time.Now()
			_, err := op.call(t.Context(), client)
			require.ErrorIs(t, err, oakra.ErrConflict)
			require.Equal(t, time.Second, time.Since(begun))
		})
	}
}

// TestDeliveryHeldBack: what a limiter says that would have to wait for longer than
// the context lasts is passing, whatever it is called.
func TestDeliveryHeldBack(t *testing.T) {
	for _, op := range deliveryOps {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		s := newRawServer(t, deliverOK)
		_, err := op.call(ctx, rawClient(t, s, oakra.WithLimiter(stubLimiter(func(context.Context) error {
			return errors.New("rate: Wait(n=1) would exceed context deadline")
		}))))
		require.ErrorContains(t, err, "rate: Wait(n=1) would exceed")
		require.Equal(t, notApplied, oakra.OutcomeOf(err))
		require.True(t, oakra.Retryable(err))
		require.Zero(t, s.ledger().turns)
	}
}

// TestDeliveryCookies: each attempt has the jar's cookies once.
func TestDeliveryCookies(t *testing.T) {
	var cookies []string
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := stubClient(t, nil, oakra.WithRetryPolicy(rawPolicy(3)), oakra.WithHTTPClient(&http.Client{
		Jar: jar,
		Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
			cookies = append(cookies, strings.Join(r.Header["Cookie"], " and "))
			return stubAnswer(503, "", "Set-Cookie", "node=7; Path=/"), nil
		}),
	}))
	_, err = deliverList.call(t.Context(), client)
	require.ErrorIs(t, err, oakra.ErrServer)
	require.Equal(t, []string{"", "node=7", "node=7"}, cookies)
}

// TestDeliveryRedirect: no redirect is followed, wherever it points.
func TestDeliveryRedirect(t *testing.T) {
	target := newRawServer(t, deliverOK)
	for _, status := range []int{300, 301, 302, 303, 304, 305, 306, 307, 308} {
		for name, location := range map[string]string{
			"another host":      target.baseURL + "stock/?key=1",
			"another scheme":    "https://" + strings.TrimPrefix(target.baseURL, "http://"),
			"the same host":     "/api/v1/stock/elsewhere/",
			"itself":            "",
			"what is no URL":    "http://[::1",
			"what is no escape": "/%zz",
			"nowhere":           "none",
		} {
			t.Run(fmt.Sprintf("%d to %s", status, name), func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					header := "Location: " + location + "\r\n"
					if location == "none" {
						header = ""
					}
					turn := rawAnswer(status, header, "")
					s := newRawServer(t, turn)
					records, err := op.call(t.Context(), rawClient(t, s))
					row := verdict{outcome: notApplied, status: status, is: oakra.ErrRedirect}
					switch status {
					case 300, 303, 304, 305, 306:
						row.outcome = unknown
					}
					e := row.check(t, op, records, err, 1)
					if name == "another host" {
						assert.Contains(t, e.Message, target.baseURL+"stock/")
						assert.NotContains(t, e.Error(), "key=1")
					}
					assert.Equal(t, 1, s.ledger().turns)
				})
			})
		}
	}
	target.close()
	assert.Zero(t, target.ledger().accepted)
}

// TestDeliveryKeyStaysHome: whatever a server says, the key goes to the base
// URL's host alone.
func TestDeliveryKeyStaysHome(t *testing.T) {
	other := newRawServer(t, deliverOK)
	s := newRawServer(t, deliverOK)
	transport := rawTransport(t, s)
	transport.DialContext = nil
	var seen []*http.Request
	client := rawClientOn(t, s.baseURL, stubTransport(func(r *http.Request) (*http.Response, error) {
		seen = append(seen, r.Clone(context.Background()))
		return transport.RoundTrip(r)
	}))
	home, err := url.Parse(s.baseURL)
	require.NoError(t, err)
	refresh := "Refresh: 0;url=" + other.baseURL + "\r\nContent-Location: " + other.baseURL + "\r\nLink: <" + other.baseURL + ">\r\nAlt-Svc: h2=\"" + other.listener.Addr().String() + "\"\r\n"
	for _, status := range []int{200, 201, 301, 302, 303, 307, 308, 401, 404, 421, 429, 503} {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			s.play(rawAnswer(status, refresh+"Location: "+other.baseURL+"\r\n", deliveryRecords))
			op.call(t.Context(), client)
			for _, r := range s.ledger().requests {
				assert.Equal(t, rawKey, r.key)
			}
		})
	}
	require.NotEmpty(t, seen)
	for _, r := range seen {
		assert.Equal(t, home.Host, r.URL.Host)
		assert.Equal(t, home.Scheme, r.URL.Scheme)
		assert.NotContains(t, r.URL.String(), rawKey)
	}
	other.close()
	assert.Zero(t, other.ledger().accepted)
}

// TestDeliveryPool: a failed call leaves the other connections alone.
func TestDeliveryPool(t *testing.T) {
	for _, callers := range []int{8, 64} {
		t.Run(fmt.Sprint(callers), func(t *testing.T) {
			s := newRawServer(t)
			client := rawClient(t, s, oakra.WithRetryPolicy(rawPolicy(1)))
			// together makes calls that are all under way at the same time, so
			// that each needs a connection.
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
			for _, turn := range []rawTurn{rawAnswer(500, "", ""), rawAnswer(301, "Location: http://[::1\r\n", ""), rawAnswer(200, "", "null")} {
				s.play(turn)
				_, err := deliverChange.call(t.Context(), client)
				require.Error(t, err) // and the connection is as good as before
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

// TestDeliveryNoGoroutineLeak: when all calls have returned, and the idle
// connections are closed, nothing is left.
func TestDeliveryNoGoroutineLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		s := newRawServer(t)
		transport := rawTransport(t, s)
		client := rawClientOn(t, s.baseURL, transport, oakra.WithAttemptTimeout(5*time.Second))
		for _, turn := range []rawTurn{
			deliverOK,
			rawUnread(rawReset),
			rawWrite("", rawClose),
			rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[", rawClose),
			rawWrite("HTTP/1.1 409 Conflict\r\nContent-Length: 999999\r\n\r\n"+strings.Repeat("x", 200<<10), rawStall),
			rawAnswer(200, "", deliveryRecords+"garbage"),
			rawAnswer(301, "Location: http://[::1\r\n", ""),
			rawAnswer(503, "", ""),
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

// TestDeliveryHTTP2: net/http sends an HTTP/2 request again by itself if it can.
// It must not be able to.
func TestDeliveryHTTP2(t *testing.T) {
	const (
		frameReset  = 3
		frameGoAway = 7

		protocolError = 1
		internalError = 2
		refusedStream = 7
		cancelStream  = 8
	)
	reset := func(code byte) func(stream uint32) []byte {
		return func(stream uint32) []byte { return h2Frame(frameReset, 0, stream, []byte{0, 0, 0, code}) }
	}
	for _, row := range []struct {
		name  string
		after func(stream uint32) []byte // a whole request
	}{
		{"RST_STREAM REFUSED_STREAM", reset(refusedStream)},
		{"RST_STREAM PROTOCOL_ERROR", reset(protocolError)},
		{"RST_STREAM INTERNAL_ERROR", reset(internalError)},
		{"RST_STREAM CANCEL", reset(cancelStream)},
		{"GOAWAY, this one not done", func(uint32) []byte { return h2Frame(frameGoAway, 0, 0, make([]byte, 8)) }},
		{"GOAWAY with an error", func(uint32) []byte { return h2Frame(frameGoAway, 0, 0, []byte{0, 0, 0, 0, 0, 0, 0, protocolError}) }},
		{"end", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				t.Run(op.name, func(t *testing.T) {
					var arrived atomic.Int64
					base, pool := newH2Server(t, func(stream uint32) []byte {
						arrived.Add(1)
						if row.after == nil {
							return nil
						}
						return row.after(stream)
					})
					transport := oakra.DefaultTransport()
					transport.Proxy = nil
					transport.TLSClientConfig = &tls.Config{RootCAs: pool}
					defer transport.CloseIdleConnections()
					client := rawClientOn(t, base, transport)
					records, err := op.call(t.Context(), client)
					broken := verdict{outcome: unknown, resent: listAndUpdate}
					broken.check(t, op, records, err, broken.attempts(op))
					assert.EqualValues(t, broken.attempts(op), arrived.Load(), "how often the request arrived")
				})
			}
		})
	}

	// net/http needs no GetBody to send a List again, and would do so for ever.
	t.Run("list", func(t *testing.T) {
		for _, code := range []byte{protocolError, refusedStream} {
			var arrived atomic.Int64
			base, pool := newH2Server(t, func(stream uint32) []byte {
				arrived.Add(1)
				return reset(code)(stream)
			})
			transport := oakra.DefaultTransport()
			transport.Proxy = nil
			transport.TLSClientConfig = &tls.Config{RootCAs: pool}
			defer transport.CloseIdleConnections()
			_, err := deliverList.call(t.Context(), rawClientOn(t, base, transport, oakra.WithRetryPolicy(rawPolicy(1))))
			require.Error(t, err)
			require.LessOrEqual(t, arrived.Load(), int64(5), "one attempt")
			require.True(t, oakra.Retryable(err))
			require.NotErrorIs(t, err, context.Canceled, "the caller has not")
		}
	})

	t.Run("aborted handler", func(t *testing.T) {
		for _, row := range []struct {
			name    string
			answer  func(w http.ResponseWriter)
			verdict verdict
		}{
			{"before the answer", func(http.ResponseWriter) {}, verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}},
			{"after a 103", func(w http.ResponseWriter) { w.WriteHeader(103) },
				verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}},
			{"in the records", func(w http.ResponseWriter) {
				io.WriteString(w, "["+firstRecord)
				w.(http.Flusher).Flush()
			}, verdict{outcome: applied, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}},
			{"before the records", func(w http.ResponseWriter) {
				w.(http.Flusher).Flush()
			}, verdict{outcome: unknown, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}},
			{"in a refusal", func(w http.ResponseWriter) {
				w.WriteHeader(409)
				w.(http.Flusher).Flush()
			}, verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}},
		} {
			t.Run(row.name, func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					var arrived atomic.Int64
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						assert.Equal(t, 2, r.ProtoMajor)
						io.Copy(io.Discard, r.Body)
						arrived.Add(1)
						row.answer(w)
						panic(http.ErrAbortHandler)
					}))
					server.EnableHTTP2 = true
					server, pool := startTLS(t, server)
					transport := oakra.DefaultTransport()
					transport.TLSClientConfig = &tls.Config{RootCAs: pool}
					defer transport.CloseIdleConnections()
					client := rawClientOn(t, server.URL+"/api/v1/", transport)
					records, err := op.call(t.Context(), client)
					attempts := row.verdict.attempts(op)
					row.verdict.check(t, op, records, err, attempts)
					assert.EqualValues(t, attempts, arrived.Load())
				})
			})
		}
	})
}

// h2Frame is an HTTP/2 frame (RFC 9113, section 4.1).
func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags,
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}, payload...)
}

// newH2Server speaks as much HTTP/2 as it takes to answer whole requests with a
// frame that net/http's server would not send. No frame ends the connection.
func newH2Server(t *testing.T, answer func(stream uint32) []byte) (baseURL string, pool *x509.CertPool) {
	// Its certificate is all that is needed of this one.
	other, pool := newTLSServer(t, func(http.ResponseWriter, *http.Request) {})
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: other.TLS.Certificates,
		NextProtos:   []string{"h2"},
	})
	require.NoError(t, err)
	serve := func(conn net.Conn) {
		defer conn.Close()
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(conn, preface); err != nil {
			return
		}
		const data, headers, settings, endOfStream, ack = 0, 1, 4, 1, 1
		conn.Write(h2Frame(settings, 0, 0, nil))
		for {
			head := make([]byte, 9)
			if _, err := io.ReadFull(conn, head); err != nil {
				return
			}
			payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			if _, err := io.ReadFull(conn, payload); err != nil {
				return
			}
			kind, flags := head[3], head[4]
			stream := uint32(head[5])<<24 | uint32(head[6])<<16 | uint32(head[7])<<8 | uint32(head[8])
			switch {
			case kind == settings && flags&ack == 0:
				conn.Write(h2Frame(settings, ack, 0, nil))
			case (kind == data || kind == headers) && flags&endOfStream != 0:
				frame := answer(stream)
				if frame == nil {
					return
				}
				conn.Write(frame)
			}
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return "https://" + listener.Addr().String() + "/api/v1/", pool
}
