package oakra_test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// These tests check how the route of a write is found: which requests a server
// sees, what the caller is told, and what the next call does.

var routesOf = map[string][]string{
	"update": {
		"POST stock/stock-record/update/",
		"POST stock/stock-records/update/",
		"PATCH stock/stock-record/",
	},
	"change": {
		"POST stock/stock-records/change/",
		"POST stock/stock-record/change/",
	},
}

var routedOps = []deliveryOp{deliverUpdate, deliverChange}

var (
	routeNoPage  = rawRespond(404, "Content-Type: text/html\r\n", "<html>no page</html>")
	routeNoVerb  = rawRespond(405, "", `{"detail":"Method \"POST\" not allowed."}`)
	routeNoStock = rawRespond(404, "", `{"detail":"No stock record."}`)
)

// probeOf is the GET that follows a 404 to a write.
func probeOf(route string) string {
	_, path, _ := strings.Cut(route, " ")
	return "GET " + path
}

// afterwards makes another call on the client, to a server where everything
// works, and returns what it sent: the first route alone, unless one is kept.
func afterwards(t *testing.T, op deliveryOp, client *oakra.Client, s *rawServer) []string {
	t.Helper()
	s.play(deliverOK)
	_, err := op.call(t.Context(), client)
	require.NoError(t, err)
	return s.ledger().paths()
}

// keeps reports whether the client keeps the route: its next call then tries no
// other one, even if that one says 405.
func keeps(t *testing.T, op deliveryOp, client *oakra.Client, s *rawServer, route string) bool {
	t.Helper()
	s.play(routeNoVerb)
	_, err := op.call(t.Context(), client)
	require.ErrorIs(t, err, oakra.ErrNotFound)
	return slices.Equal([]string{route}, s.ledger().paths())
}

// TestRouteSearch has each candidate as the right one, and both ways in which a
// server says of the others that they are not.
func TestRouteSearch(t *testing.T) {
	for _, missing := range []struct {
		name  string
		turn  rawTurn
		probe bool
	}{
		{"405", routeNoVerb, false},
		{"405 in HTML", rawRespond(405, "", "<html>"), false},
		{"404", routeNoPage, true},
		{"404 in JSON", routeNoStock, true},
	} {
		for _, op := range routedOps {
			for right, route := range routesOf[op.name] {
				t.Run(missing.name+"/"+route, func(t *testing.T) {
					// The probe of a route that is missing gets the same response as the write.
					s := newRawServer(t, rawRoutes(map[string]rawTurn{route: deliverOK}, missing.turn))
					client := rawClient(t, s)
					records, err := op.call(t.Context(), client)
					require.NoError(t, err)
					assert.Equal(t, deliveredRecords, records)

					var want []string
					for _, wrong := range routesOf[op.name][:right] {
						want = append(want, wrong)
						if missing.probe {
							want = append(want, probeOf(wrong))
						}
					}
					want = append(want, route)
					ledger := s.ledger()
					assert.Equal(t, want, ledger.paths())
					assert.Len(t, ledger.applied, 1)
					for _, r := range ledger.requests {
						assert.Equal(t, r.method == http.MethodGet, r.body == "", "a body is for writes")
						assert.Empty(t, r.query)
						assert.Equal(t, rawKey, r.key)
					}

					assert.Equal(t, []string{route}, afterwards(t, op, client, s))
					assert.True(t, keeps(t, op, client, s, route))
				})
			}
		}
	}
}

// TestRouteOtherOperation checks that a route of one operation says nothing
// about another operation.
func TestRouteOtherOperation(t *testing.T) {
	second := map[string]rawTurn{}
	for _, routes := range routesOf {
		second[routes[1]] = deliverOK
	}
	s := newRawServer(t, rawRoutes(second, routeNoVerb))
	client := rawClient(t, s)
	for range 2 {
		for _, op := range routedOps {
			_, err := op.call(t.Context(), client)
			require.NoError(t, err)
		}
	}
	assert.Equal(t, []string{
		routesOf["update"][0], routesOf["update"][1], routesOf["change"][0], routesOf["change"][1],
		routesOf["update"][1], routesOf["change"][1],
	}, s.ledger().paths())
}

// TestRouteProbe checks what the GET after a 404 proves, and that nothing else
// is sent after the 404.
func TestRouteProbe(t *testing.T) {
	for _, row := range []struct {
		name  string
		probe rawTurn
		found bool
	}{
		{"405", rawRespond(405, "", ""), true},
		{"405 in HTML", rawRespond(405, "", "<html>"), true},
		{"400", rawRespond(400, "", ""), true},
		{"401", rawRespond(401, "", `{"detail":"no"}`), true},
		{"403", rawRespond(403, "", "<html>"), true},
		{"200 with records", rawRespond(200, "", deliveryRecords), true},
		{"200 with JSON", rawRespond(200, "", `{}`), true},
		{"200 with HTML", rawRespond(200, "", "<html>"), false},
		{"200 empty", rawRespond(200, "", ""), false},
		{"204", rawRespond(204, "", ""), false},
		{"302", rawRespond(302, "Location: /login\r\n", ""), false},
		{"402", rawRespond(402, "", `{"detail":"pay"}`), false},
		{"409", rawRespond(409, "", `{"detail":"no"}`), false},
		{"410", rawRespond(410, "", `{"detail":"gone"}`), false},
		{"422", rawRespond(422, "", `{"detail":"no"}`), false},
		{"429", rawRespond(429, "", ""), false},
		{"500", rawRespond(500, "", `{"detail":"oops"}`), false},
		{"501", rawRespond(501, "", ""), false},
		{"reset", rawWrite("", rawReset), false},
		{"not HTTP", rawWrite("SSH-2.0\r\n", rawClose), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, op := range routedOps {
				for at, route := range routesOf[op.name] {
					turns := map[string]rawTurn{route: routeNoStock, probeOf(route): row.probe}
					s := newRawServer(t, rawRoutes(turns, routeNoVerb))
					client := rawClient(t, s)
					records, err := op.call(t.Context(), client)
					// The error has neither the probe's response nor the 405 of an earlier candidate.
					e := verdict{outcome: notApplied, status: 404, is: oakra.ErrNotFound}.check(t, op, records, err, at+1)
					assert.Equal(t, "No stock record.", e.Message)
					assert.Equal(t, route, e.Method+" "+strings.TrimPrefix(e.Path, "/api/v1/"))
					ledger := s.ledger()
					assert.Empty(t, ledger.applied)
					probes := 0
					for _, path := range ledger.paths() {
						if path == probeOf(route) {
							probes++
						}
					}
					writes := len(ledger.requests) - probes
					assert.GreaterOrEqual(t, probes, 1)
					assert.Equal(t, at+1, writes, "no further candidate is tried")
					assert.Equal(t, row.found, keeps(t, op, client, s, route), "whether %s is kept", route)
				}
			}
		})
	}

	t.Run("refused", func(t *testing.T) { // no further connection can be obtained
		for _, op := range routedOps {
			s := newRawServer(t, rawRoutes(nil, func(c *rawConn) bool {
				c.server.listener.Close()
				return rawWrite(rawText(404, "Connection: close\r\n", `{"detail":"No stock record."}`), rawClose)(c)
			}))
			client := rawClient(t, s)
			records, err := op.call(t.Context(), client)
			verdict{outcome: notApplied, status: 404, is: oakra.ErrNotFound}.check(t, op, records, err, 1)
			assert.Equal(t, routesOf[op.name][:1], s.ledger().paths())
		}
	})

	t.Run("context done", func(t *testing.T) {
		for _, op := range routedOps {
			ctx, cancel := context.WithCancel(t.Context())
			first := routesOf[op.name][0]
			s := newRawServer(t, rawRoutes(map[string]rawTurn{first: routeNoStock, probeOf(first): rawAfter(cancel, rawWrite("", rawStall))}, deliverOK))
			records, err := op.call(ctx, rawClient(t, s))
			require.Error(t, err)
			assert.Nil(t, records)
			assert.Equal(t, notApplied, oakra.OutcomeOf(err))
			assert.ErrorIs(t, err, oakra.ErrNotFound)
			s.close()
			assert.Equal(t, []string{first, probeOf(first)}, s.ledger().paths())
		}
	})
}

// TestRouteProbeOfKept: a route that is kept is not doubted for a 404.
func TestRouteProbeOfKept(t *testing.T) {
	for _, op := range routedOps {
		s := newRawServer(t, routeNoStock)
		client := rawClient(t, s)
		warmUp(t, op, client, s, routeNoStock)
		records, err := op.call(t.Context(), client)
		verdict{outcome: notApplied, status: 404, is: oakra.ErrNotFound}.check(t, op, records, err, 1)
		assert.Equal(t, routesOf[op.name][:1], s.ledger().paths())
	}
}

// TestRouteKept checks which responses prove a route, and which could come from
// a proxy on the way.
func TestRouteKept(t *testing.T) {
	const detail = `{"detail":"no"}`
	for _, row := range []struct {
		name string
		turn rawTurn
		kept bool
	}{
		{"200", deliverOK, true},
		{"200, ids missing", rawRespond(200, "", `[`+firstRecord+`]`), true},
		{"400 JSON", rawRespond(400, "", detail), true},
		{"409 JSON", rawRespond(409, "", detail), true},
		{"422 JSON", rawRespond(422, "", `{"stock_records":[{"id":["no"]}]}`), true},
		{"400 long JSON", rawRespond(400, "", `{"detail":"`+strings.Repeat("no ", 100<<10)+`"}`), true},
		{"400 HTML", rawRespond(400, "", "<html>"), false},
		{"400 empty", rawRespond(400, "", ""), false},
		{"409 HTML", rawRespond(409, "", "<html>"), false},
		{"422 HTML", rawRespond(422, "", "<html>"), false},
		{"401", rawRespond(401, "", detail), false},
		{"402", rawRespond(402, "", detail), false},
		{"403", rawRespond(403, "", detail), false},
		{"408", rawRespond(408, "", detail), false},
		{"410", rawRespond(410, "", detail), false},
		{"429", rawRespond(429, "", detail), false},
		{"500", rawRespond(500, "", detail), false},
		{"501", rawRespond(501, "", detail), false},
		{"503", rawRespond(503, "", "<html>"), false},
		{"301", rawRespond(301, "Location: /x\r\n", detail), false},
		{"303", rawRespond(303, "Location: /x\r\n", detail), false},
		{"200 HTML", rawRespond(200, "", "<html>"), false},
		{"200 empty", rawRespond(200, "", ""), false},
		{"200 detail", rawRespond(200, "", detail), false},
		{"200 cut", rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n[", rawClose), false},
		{"202", rawRespond(202, "", deliveryRecords), false},
		{"204", rawRespond(204, "", ""), false},
		{"reset", rawWrite("", rawReset), false},
		{"reset, unread", rawUnread(rawReset), false},
		{"not HTTP", rawWrite("SSH-2.0\r\n", rawClose), false},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, op := range routedOps {
				for at, route := range routesOf[op.name] {
					before := routesOf[op.name][:at]
					turns := map[string]rawTurn{}
					for _, wrong := range before {
						turns[wrong] = routeNoVerb
					}
					otherwise := row.turn
					if row.name == "reset, unread" { // which cannot ask for the path
						if at > 0 {
							continue
						}
					} else {
						otherwise = rawRoutes(turns, row.turn)
					}
					s := newRawServer(t, otherwise)
					client := rawClient(t, s)
					op.call(t.Context(), client)

					// Whatever it was, no candidate after it was tried, ...
					for _, path := range s.ledger().paths() {
						assert.Contains(t, routesOf[op.name][:at+1], path)
					}
					// ... and the next call starts where it should.
					assert.Equal(t, row.kept, keeps(t, op, client, s, route), "whether %s is kept", route)
				}
			}
		})
	}
}

// TestRouteNone: no candidate is there.
func TestRouteNone(t *testing.T) {
	plain := rawRespond(405, "", "<html>")
	for _, op := range routedOps {
		routes := routesOf[op.name]
		last := routes[len(routes)-1]
		for _, row := range []struct {
			name   string
			turns  map[string]rawTurn
			rest   rawTurn
			status int
			route  string
			told   string
		}{
			{"all 405 in HTML", nil, plain, 405, routes[0], ""},
			{"all 404", nil, routeNoPage, 404, routes[0], ""},
			{"all 404 in JSON", nil, routeNoStock, 404, routes[0], "No stock record."},
			{"405 and 404", map[string]rawTurn{routes[0]: plain}, routeNoPage, 405, routes[0], ""},
			{"JSON at the last", map[string]rawTurn{last: routeNoVerb}, plain, 405, last, "not allowed"},
			{"JSON at the last, 404", map[string]rawTurn{last: routeNoStock}, routeNoPage, 404, last, "No stock record."},
			{"JSON at the first", map[string]rawTurn{routes[0]: routeNoVerb}, routeNoPage, 405, routes[0], "not allowed"},
		} {
			t.Run(op.name+"/"+row.name, func(t *testing.T) {
				s := newRawServer(t, rawRoutes(row.turns, row.rest))
				client := rawClient(t, s)
				for range 2 { // nothing is kept
					s.play(rawRoutes(row.turns, row.rest))
					records, err := op.call(t.Context(), client)
					e := verdict{outcome: notApplied, status: row.status, is: oakra.ErrNotFound}.check(t, op, records, err, len(routes))
					assert.Equal(t, row.route, e.Method+" "+strings.TrimPrefix(e.Path, "/api/v1/"))
					assert.Contains(t, e.Message, row.told)
					if row.told == "" {
						assert.Empty(t, e.Message)
					}
					var writes []string
					for _, path := range s.ledger().paths() {
						if !strings.HasPrefix(path, http.MethodGet) {
							writes = append(writes, path)
						}
					}
					assert.Equal(t, routes, writes)
				}
			})
		}
	}
	t.Run("list has but one", func(t *testing.T) {
		for _, tt := range []struct {
			status int
			turn   rawTurn
		}{{404, routeNoPage}, {405, routeNoVerb}} {
			s := newRawServer(t, tt.turn)
			records, err := deliverList.call(t.Context(), rawClient(t, s))
			verdict{status: tt.status, is: oakra.ErrNotFound}.check(t, deliverList, records, err, 1)
			assert.Equal(t, []string{"GET stock/stock-records/"}, s.ledger().paths())
		}
	})
}

// TestRouteAttempts: each candidate has attempts of its own, the error counts
// them all, and a probe is none of them.
func TestRouteAttempts(t *testing.T) {
	limited := rawRespond(429, "", "")
	// The first two candidates need all their attempts, to say 404 at last.
	slow := func(probe bool) []rawTurn {
		turns := []rawTurn{limited, limited, routeNoPage}
		if probe {
			turns = append(turns, limited, limited, routeNoPage)
		}
		return turns
	}
	s := newRawServer(t, slices.Concat(slow(true), slow(true), []rawTurn{limited, rawRespond(409, "", "")})...)
	records, err := deliverUpdate.call(t.Context(), rawClient(t, s))
	verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}.check(t, deliverUpdate, records, err, 3+3+2)
	assert.Equal(t, 6+6+2, s.ledger().turns)

	s = newRawServer(t, append(slow(true), limited, limited, deliverOK)...)
	_, err = deliverChange.call(t.Context(), rawClient(t, s))
	require.NoError(t, err)
	assert.Len(t, s.ledger().applied, 1)

	// With one attempt each there is still a search.
	s = newRawServer(t, routeNoPage, routeNoPage, deliverOK)
	_, err = deliverChange.call(t.Context(), rawClient(t, s, oakra.WithRetryPolicy(rawPolicy(1))))
	require.NoError(t, err)
}

// TestRouteUnknownEndsSearch checks that no other candidate is tried after an
// unknown outcome.
func TestRouteUnknownEndsSearch(t *testing.T) {
	for _, row := range []struct {
		name string
		turn rawTurn
	}{
		{"reset", rawApply(rawWrite("", rawReset))},
		{"end", rawApply(rawWrite("", rawClose))},
		{"408", rawApply(rawRespond(408, "", ""))},
		{"418", rawApply(rawRespond(418, "", ""))},
		{"500", rawApply(rawRespond(500, "", `{"detail":"oops"}`))},
		{"501", rawApply(rawRespond(501, "", ""))},
		{"303", rawApply(rawRespond(303, "Location: /x\r\n", ""))},
		{"200 cut", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", rawClose))},
		{"200 empty", rawRespond(200, "", "")},
		{"not HTTP", rawApply(rawWrite("SSH-2.0\r\n", rawClose))},
		{"404 garbled", rawApply(rawWrite("HTTP/1.1 404 Not Found\r\nno colon\r\n\r\n", rawClose))},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for at, route := range routesOf["change"] {
				s := newRawServer(t, rawRoutes(map[string]rawTurn{route: row.turn}, routeNoVerb))
				_, err := deliverChange.call(t.Context(), rawClient(t, s))
				assert.Equal(t, unknown, oakra.OutcomeOf(err))
				s.close()
				assert.Equal(t, routesOf["change"][:at+1], s.ledger().paths())
				assert.Len(t, s.ledger().applied, 1)
			}
		})
	}

	t.Run("update, then 405", func(t *testing.T) { // an Update may go on, but an unknown outcome remains
		lost := rawApply(rawRespond(503, "", ""))
		s := newRawServer(t, lost, routeNoVerb, rawRespond(409, "", ""))
		records, err := deliverUpdate.call(t.Context(), rawClient(t, s))
		verdict{outcome: unknown, status: 409, is: oakra.ErrConflict}.check(t, deliverUpdate, records, err, 3)

		s = newRawServer(t, lost, routeNoVerb)
		records, err = deliverUpdate.call(t.Context(), rawClient(t, s))
		verdict{outcome: unknown, status: 405, is: oakra.ErrNotFound}.check(t, deliverUpdate, records, err, 4)
	})

	t.Run("update, then 405 too late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t,
				rawApply(rawRespond(503, "", "")),
				rawAfter(func() { time.Sleep(6 * time.Second) }, routeNoVerb),
				deliverOK)
			_, err := deliverUpdate.call(t.Context(), rawClient(t, s))
			require.Error(t, err)
			assert.Equal(t, unknown, oakra.OutcomeOf(err))
			assert.Equal(t, 2, s.ledger().turns, "a late resend on another route is a late resend")
		})
	})
}

// TestRouteConcurrency: goroutines that start together on a new client may each
// look for the route, but each change is applied once.
func TestRouteConcurrency(t *testing.T) {
	const callers, each = 64, 5
	for _, row := range []struct {
		name    string
		missing rawTurn
	}{{"404", routeNoPage}, {"405", routeNoVerb}} {
		t.Run(row.name, func(t *testing.T) {
			item := regexp.MustCompile(`"id":(\d+),"(?:quantity_change|quantity)":(-?\d+)`)
			// respond returns the record of the request.
			respond := func(c *rawConn) bool {
				id := item.FindStringSubmatch(c.read().body)[1]
				return rawRespond(200, "", fmt.Sprintf(`[{"id":%s,"location_id":"w","sku":"a","quantity":1}]`, id))(c)
			}
			right := map[string]rawTurn{"GET stock/stock-records/": rawRespond(200, "", "[]")}
			for _, routes := range routesOf {
				right[routes[len(routes)-1]] = respond
			}
			s := newRawServer(t, rawRoutes(right, row.missing))
			client := rawClient(t, s)
			var calls sync.WaitGroup
			for caller := range callers {
				calls.Go(func() {
					for n := range each {
						id := int64(caller*each + n + 1)
						records, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: id, QuantityChange: 1}})
						if assert.NoError(t, err) {
							assert.Equal(t, id, records[0].ID, "the response is another call's")
						}
						_, err = client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: id, Quantity: 1}})
						assert.NoError(t, err)
						_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
						assert.NoError(t, err)
					}
				})
			}
			calls.Wait()
			times := map[string]int{}
			for _, r := range s.ledger().applied {
				times[r.method+" "+r.path+" "+item.FindStringSubmatch(r.body)[1]]++
			}
			assert.Len(t, times, 2*callers*each)
			for write, n := range times {
				assert.Equal(t, 1, n, "how often %s was applied", write)
			}
		})
	}
}
