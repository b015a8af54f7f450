package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
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

// TestDeliveryStatus has the rows that the status alone decides. The server
// applies the write where the outcome is unknown, and only there.
func TestDeliveryStatus(t *testing.T) {
	refused := func(status int, is error) verdict {
		return verdict{outcome: notApplied, status: status, is: is}
	}
	rows := []verdict{
		{status: 408, outcome: unknown, resent: onlyList, retryable: onlyList},
		{status: 429, outcome: notApplied, resent: everyone, retryable: everyone, is: oakra.ErrRateLimited},
		{status: 460, outcome: unknown},
		{status: 499, outcome: unknown},
		{status: 501, outcome: unknown, is: oakra.ErrServer},
		{status: 504, outcome: unknown, resent: onlyList, retryable: onlyList, is: oakra.ErrServer},
		{status: 600, outcome: unknown},
		{status: 999, outcome: unknown},
	}
	special := map[int]error{
		400: oakra.ErrInvalidRequest, 413: oakra.ErrInvalidRequest, 415: oakra.ErrInvalidRequest, 422: oakra.ErrInvalidRequest,
		401: oakra.ErrUnauthorized,
		403: oakra.ErrForbidden,
		409: oakra.ErrConflict,
		410: oakra.ErrNotFound,
	}
	for status := 400; status < 500; status++ {
		switch status {
		case 408, 429, 460, 499: // above
		case 404, 405: // TestDeliveryNoSuchRoute
		default:
			rows = append(rows, refused(status, special[status]))
		}
	}
	for _, status := range []int{301, 302, 307, 308} {
		rows = append(rows, verdict{status: status, outcome: notApplied, is: oakra.ErrRedirect})
	}
	for _, status := range []int{300, 303, 304, 305, 306, 399} {
		rows = append(rows, verdict{status: status, outcome: unknown, is: oakra.ErrRedirect})
	}
	for _, status := range []int{500, 502, 503, 505, 507, 511, 520, 599} {
		rows = append(rows, verdict{status: status, outcome: unknown, resent: listAndUpdate, retryable: onlyList, is: oakra.ErrServer})
	}
	bodies := []struct{ kind, body string }{
		{"JSON", `{"detail":"because"}`},
		{"HTML", "<html>because</html>"},
		// With a 2xx status this body would mean applied.
		{"records", deliveryRecords},
	}
	for _, row := range rows {
		t.Run(fmt.Sprint(row.status), func(t *testing.T) {
			t.Parallel()
			for _, response := range bodies {
				t.Run(response.kind, func(t *testing.T) {
					eachOp(t, func(t *testing.T, op deliveryOp) {
						turn := rawRespond(row.status, "", response.body)
						if row.outcome == unknown {
							turn = rawApply(turn)
						}
						s := newRawServer(t, turn)
						client := keptClient(t, s)
						warmUp(t, op, client, s, turn)
						records, err := op.call(t.Context(), client)
						attempts := row.attempts(op)
						e := row.check(t, op, records, err, attempts)
						s.close()
						ledger := s.ledger()
						checkLedger(t, op, err, attempts, ledger)
						assert.Equal(t, 1, ledger.accepted, "a response that is read to its end leaves the connection")
						assert.Equal(t, op.path, e.Path)
						if row.status != http.StatusNotModified {
							assert.Equal(t, response.body, string(e.Body))
						}
						if response.kind == "JSON" && row.status != http.StatusNotModified {
							assert.Equal(t, "because", e.Message)
						}
					})
				})
			}
		})
	}

	t.Run("cut short", func(t *testing.T) { // the status has decided already
		for _, row := range rows {
			if !slices.Contains([]int{301, 409, 422, 503}, row.status) {
				continue
			}
			t.Run(fmt.Sprint(row.status), func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					turn := rawWrite(fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n{\"det", row.status), rawClose)
					s := newRawServer(t, turn)
					records, err := op.call(t.Context(), keptClient(t, s))
					e := row.check(t, op, records, err, row.attempts(op))
					assert.Equal(t, `{"det`, string(e.Body))
				})
			})
		}
	})

	t.Run("after an informational response", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			const early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
			s := newRawServer(t,
				rawWrite(early+rawText(429, "", ""), rawKeep),
				rawApply(rawWrite(early+rawText(200, "", deliveryRecords), rawKeep)))
			records, err := op.call(t.Context(), keptClient(t, s))
			require.NoError(t, err)
			assert.Equal(t, deliveredRecords, records)
			assert.Equal(t, 2, s.ledger().turns)
		})
	})

	// After a 101 net/http hands the connection over and no longer closes it. A caller
	// that reads from it has to limit that itself.
	t.Run("101 and then nothing", func(t *testing.T) {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			t.Parallel()
			s := newRawServer(t, rawApply(rawWrite("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", rawStall)))
			client := keptClient(t, s)
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

// TestDeliveryNoSuchRoute has the rows of 404 and 405. They start a search for the
// route, also where one is kept, and whatever it finds, nothing was applied.
func TestDeliveryNoSuchRoute(t *testing.T) {
	for _, status := range []int{404, 405} {
		for _, response := range []struct{ kind, body string }{
			{"JSON", `{"detail":"because"}`},
			{"HTML", "<html>because</html>"},
			{"nothing", ""},
			{"records", deliveryRecords},
		} {
			t.Run(fmt.Sprintf("%d/%s", status, response.kind), func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					s := newRawServer(t, rawRespond(status, "", response.body))
					for _, client := range []*oakra.Client{rawClient(t, s), keptClient(t, s)} {
						s.play(rawRespond(status, "", response.body))
						records, err := op.call(t.Context(), client)
						want := verdict{outcome: notApplied, status: status, is: oakra.ErrNoRoute}
						attempts := max(1, len(routesOf[op.name]))
						isJSON := response.kind == "JSON" || response.kind == "records"
						if op.name == "list" && status == 404 && isJSON {
							want.is = oakra.ErrNotFound // perhaps a record
						}
						want.check(t, op, records, err, attempts)
						var writes []string
						for _, r := range s.ledger().requests {
							if r.body != emptyList && op.name != "list" {
								writes = append(writes, r.String())
							}
						}
						assert.Equal(t, routesOf[op.name], writes, "each candidate once")
						assert.Empty(t, s.ledger().applied)
					}
				})
			})
		}
	}
}

// TestDeliveryRateLimited has the rows of 429, and how long a call may wait.
func TestDeliveryRateLimited(t *testing.T) {
	limited := func(retryAfter string) rawTurn {
		header := ""
		if retryAfter != "" {
			header = "Retry-After: " + retryAfter + "\r\n"
		}
		return rawRespond(429, header, `{"detail":"slow down"}`)
	}
	for _, row := range []struct {
		name       string
		retryAfter string
		deadline   time.Duration // deadline of the context; 0 for none
		waits      time.Duration // wait before each resend; -1 for no resend
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
					client := keptClient(t, s, oakra.WithRetryPolicy(policy))
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
			_, err := deliverChange.call(t.Context(), keptClient(t, s))
			require.NoError(t, err)
			assert.InDelta(t, 3*time.Second, time.Since(begun), float64(time.Second), "dates have no fractions")
		})
	})
}

// TestDeliveryEndlessInforms checks that the number of 1xx responses is limited.
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
			records, err := op.call(t.Context(), keptClient(t, s))
			verdict{outcome: unknown, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
			require.Equal(t, 1, s.ledger().turns)
		})
	}
}

// TestDeliveryRedirect checks that no redirect is followed, wherever it points.
func TestDeliveryRedirect(t *testing.T) {
	target := newRawServer(t, deliverOK)
	for _, status := range []int{300, 301, 302, 303, 304, 305, 306, 307, 308} {
		for _, tt := range []struct{ name, location string }{
			{"another host", target.baseURL + "stock/?key=1"},
			{"another scheme", "https://" + strings.TrimPrefix(target.baseURL, "http://")},
			{"the same host", "/api/v1/stock/elsewhere/"},
			{"itself", ""},
			{"what is no URL", "http://[::1"},
			{"what is no escape", "/%zz"},
			{"nowhere", "none"},
		} {
			t.Run(fmt.Sprintf("%d to %s", status, tt.name), func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					header := "Location: " + tt.location + "\r\n"
					if tt.location == "none" {
						header = ""
					}
					turn := rawRespond(status, header, "")
					s := newRawServer(t, turn)
					records, err := op.call(t.Context(), keptClient(t, s))
					row := verdict{outcome: notApplied, status: status, is: oakra.ErrRedirect}
					switch status {
					case 300, 303, 304, 305, 306:
						row.outcome = unknown
					}
					e := row.check(t, op, records, err, 1)
					if tt.name == "another host" {
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

// TestDeliveryKeyStaysHome checks that the key goes only to the host of the
// base URL, whatever a server says.
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
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s.play(rawRespond(status, refresh+"Location: "+other.baseURL+"\r\n", deliveryRecords))
				op.call(t.Context(), client)
				for _, r := range s.ledger().requests {
					assert.Equal(t, rawKey, r.key)
				}
			})
		})
	}
	require.NotEmpty(t, seen)
	for _, r := range seen {
		assert.Equal(t, home.Host, r.URL.Host)
		assert.Equal(t, home.Scheme, r.URL.Scheme)
		assert.Contains(t, []string{"", home.Host}, r.Host)
		assert.Nil(t, r.URL.User)
		assert.Equal(t, "Bearer "+rawKey, r.Header.Get("Authorization"))
		assert.NotContains(t, r.URL.String(), rawKey)
	}
	other.close()
	assert.Zero(t, other.ledger().accepted)
}

// TestDeliveryNewKey has the row of a 401 with a key source.
func TestDeliveryNewKey(t *testing.T) {
	broken := errors.New("broken")
	refused := verdict{outcome: notApplied, status: 401, is: oakra.ErrUnauthorized}
	denied := rawRespond(401, "", `{"detail":"Invalid token."}`)

	for _, row := range []struct {
		name    string
		tries   int
		second  func(rejected string) (string, error) // response of the source to a rejected key
		script  []rawTurn
		keys    []string // keys that the server saw
		verdict verdict  // zero for no error
		cause   error
	}{
		{"another key", rawTries, otherKey, []rawTurn{denied, deliverOK}, []string{"old-key", "new-key"}, verdict{}, nil},
		{"another key, one attempt", 1, otherKey, []rawTurn{denied, deliverOK}, []string{"old-key", "new-key"}, verdict{}, nil},
		// The resend for the new key is not one of the two attempts.
		{"another key, then 429", 2, otherKey, []rawTurn{denied, rawRespond(429, "", ""), deliverOK}, []string{"old-key", "new-key", "old-key"}, verdict{}, nil},
		{"rejected as well", rawTries, otherKey, []rawTurn{denied}, []string{"old-key", "new-key"}, refused, nil},
		{"the same key", rawTries, func(k string) (string, error) { return k, nil }, []rawTurn{denied}, []string{"old-key"}, refused, nil},
		{"the source fails", rawTries, func(string) (string, error) { return "", broken }, []rawTurn{denied}, []string{"old-key"}, refused, broken},
		{"a bad key", rawTries, func(string) (string, error) { return "a b", nil }, []rawTurn{denied}, []string{"old-key"}, refused, nil},
		{"then 429", rawTries, otherKey, []rawTurn{denied, rawRespond(429, "", ""), deliverOK}, []string{"old-key", "new-key", "old-key"}, verdict{}, nil},
		{"after a 429", rawTries, otherKey, []rawTurn{rawRespond(429, "Retry-After: 3\r\n", ""), denied, deliverOK}, []string{"old-key", "old-key", "new-key"}, verdict{}, nil},
		{"then 409", rawTries, otherKey, []rawTurn{denied, rawRespond(409, "", "")}, []string{"old-key", "new-key"},
			verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}, nil},
		{"then 501", rawTries, otherKey, []rawTurn{denied, rawApply(rawRespond(501, "", ""))}, []string{"old-key", "new-key"},
			verdict{outcome: unknown, status: 501, is: oakra.ErrServer}, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				synctest.Test(t, func(t *testing.T) {
					s := newPipeServer(t, row.script...)
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
					begun := time.Now()
					records, err := op.call(t.Context(), client)
					switch {
					case row.name == "after a 429":
						assert.Equal(t, 3*time.Second, time.Since(begun), "it waits once")
					case !strings.HasSuffix(row.name, "429"):
						assert.Zero(t, time.Since(begun), "the new key is sent at once")
					}
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
		})
	}
}

func otherKey(string) (string, error) { return "new-key", nil }

// TestDeliverySeveralAttempts checks that the outcome of a call is that of its
// last attempt, except that "not applied" does not follow an unknown outcome.
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
		dials    int // number of dials that succeed before all others are refused; 0 for all
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
		{"update: unknown, 429 for too long", deliverUpdate, 0, []rawTurn{lost, rawRespond(429, "Retry-After: 3600\r\n", "")}, 2,
			verdict{outcome: unknown, status: 429, is: oakra.ErrRateLimited}},
		{"update: unknown, applied and cut", deliverUpdate, 0, []rawTurn{lost, cutInRecords}, 2,
			verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}},
		{"update: unknown, 2xx without records", deliverUpdate, 0, []rawTurn{lost, rawRespond(200, "", "{}")}, 2,
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
			records, err := row.op.call(t.Context(), oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport)))
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

// TestDeliveryCookies checks that each attempt carries the cookies of the jar
// once.
func TestDeliveryCookies(t *testing.T) {
	var cookies []string
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := stubClient(t, nil, oakra.WithRetryPolicy(rawPolicy(3)), oakra.WithHTTPClient(&http.Client{
		Jar: jar,
		Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
			cookies = append(cookies, strings.Join(r.Header["Cookie"], " and "))
			return stubResponse(503, "", "Set-Cookie", "node=7; Path=/"), nil
		}),
	}))
	_, err = deliverList.call(t.Context(), client)
	require.ErrorIs(t, err, oakra.ErrServer)
	require.Equal(t, []string{"", "node=7", "node=7"}, cookies)
}

// TestDeliveryCookiesOfTwo checks that the cookies of one client are never sent by
// another, also when they call at once.
func TestDeliveryCookiesOfTwo(t *testing.T) {
	newClient := func(name string) *oakra.Client {
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		base, err := url.Parse(oakra.DefaultBaseURL)
		require.NoError(t, err)
		want := ""
		if name != "" {
			want = "shop=" + name
			jar.SetCookies(base, []*http.Cookie{{Name: "shop", Value: name, Path: "/"}})
		}
		transport := stubTransport(func(r *http.Request) (*http.Response, error) {
			assert.Equal(t, want, strings.Join(r.Header["Cookie"], " and "))
			return stubResponse(200, deliveryRecords), nil
		})
		return oakra.KeepRoutes(stubClient(t, nil, oakra.WithHTTPClient(&http.Client{Jar: jar, Transport: transport})))
	}
	clients := []*oakra.Client{newClient("north"), newClient(""), newClient("south")}
	var callers sync.WaitGroup
	for i := range 60 {
		callers.Go(func() {
			_, err := deliveryOps[i/3%3].call(t.Context(), clients[i%3])
			assert.NoError(t, err)
		})
	}
	callers.Wait()
	for _, client := range clients {
		for _, op := range deliveryOps {
			_, err := op.call(t.Context(), client)
			require.NoError(t, err)
		}
	}
}
