package oakra_test

import (
	"context"
	"errors"
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

// is2021 reports whether a route belongs to the first API, where a 400 in JSON says
// nothing.
func is2021(route string) bool {
	return route == routesOf["update"][2] || route == routesOf["change"][1]
}

var routedOps = []deliveryOp{deliverUpdate, deliverChange}

var (
	routeNoPage  = rawRespond(404, "Content-Type: text/html\r\n", "<html>no page</html>")
	routeNoVerb  = rawRespond(405, "", `{"detail":"Method \"POST\" not allowed."}`)
	routeNoStock = rawRespond(404, "", `{"detail":"No stock record."}`)
	routeLogin   = rawRespond(302, "Location: /login/?next=x\r\n", "")
	routeCSRF    = rawRespond(403, "Content-Type: text/html\r\n", "<html><title>403 Forbidden</title>CSRF</html>")
	routeAnyPage = rawRespond(200, "Content-Type: text/html\r\n", "<html>Welcome</html>")
)

// requestOf writes the method and path of an error as the ledger does.
func requestOf(e *oakra.Error) string {
	return e.Method + " " + strings.TrimPrefix(e.Path, "/api/v1/")
}

// large makes a call of over 4 KB, whose response lacks most of its records.
func large(ctx context.Context, op deliveryOp, client *oakra.Client) error {
	const n = 400
	updates, changes := make([]oakra.StockUpdate, n), make([]oakra.StockChange, n)
	for i := range n {
		updates[i].ID, changes[i].ID = int64(i+1), int64(i+1)
	}
	if op.name == "update" {
		return second(client.Stock.Update(ctx, updates))
	}
	return second(client.Stock.Change(ctx, changes))
}

// kept returns the route that the client keeps, "" if none: before a large write, a
// client without one asks for it with an empty list.
func kept(t *testing.T, op deliveryOp, client *oakra.Client, s *rawServer) string {
	t.Helper()
	s.play(deliverOK)
	require.ErrorIs(t, large(t.Context(), op, client), oakra.ErrBadResponse)
	paths := s.ledger().paths()
	if len(paths) > 1 {
		require.Equal(t, []string{emptyTo(routesOf[op.name][0]), routesOf[op.name][0]}, paths)
		return ""
	}
	return paths[0]
}

// TestRouteSearch has each candidate as the right one, and all the ways in which a
// server says that the others are wrong.
func TestRouteSearch(t *testing.T) {
	for _, missing := range []struct {
		name   string
		turn   rawTurn
		probed string // operations that ask with an empty list
		ends   bool   // whether a Change ends the search
	}{
		{name: "405", turn: routeNoVerb},
		{name: "405 in HTML", turn: rawRespond(405, "", "<html>")},
		{name: "405 without a body", turn: rawRespond(405, "", "")},
		{name: "404", turn: routeNoPage, probed: "change"},
		{name: "404 without a body", turn: rawRespond(404, "", ""), probed: "change"},
		{name: "404 in JSON", turn: routeNoStock, probed: "change update"},
		{name: "404 in JSON after white space", turn: rawRespond(404, "", " \n[]"), probed: "change update"},
		{name: "login wall", turn: routeLogin, ends: true},
		{name: "301 with a page", turn: rawRespond(301, "Location: /x/\r\n", "<html>moved</html>"), ends: true},
		{name: "303", turn: rawRespond(303, "Location: /x/\r\n", ""), ends: true},
		{name: "400 with a page", turn: rawRespond(400, "", "<html>Bad Request</html>"), ends: true},
		{name: "400 without a body", turn: rawRespond(400, "", ""), ends: true},
		{name: "403 with a page", turn: routeCSRF, ends: true},
		{name: "403 in plain text", turn: rawRespond(403, "", "Forbidden"), ends: true},
		{name: "200 with a page", turn: routeAnyPage, ends: true},
		{name: "200 without a body", turn: rawRespond(200, "", ""), ends: true},
		{name: "204", turn: rawRespond(204, "", ""), ends: true},
		{name: "207 with a page", turn: rawRespond(207, "", "<html>"), ends: true},
	} {
		for _, op := range routedOps {
			for right, route := range routesOf[op.name] {
				t.Run(missing.name+"/"+route, func(t *testing.T) {
					if missing.ends && op.name == "change" && right > 0 {
						t.Skip("a Change does not go on, see TestRouteKept")
					}
					// An empty list to a missing route gets the same response as the write.
					s := newRawServer(t, rawRoutes(map[string]rawTurn{route: deliverOK}, missing.turn))
					client := rawClient(t, s)
					records, err := op.call(t.Context(), client)
					require.NoError(t, err)
					assert.Equal(t, deliveredRecords, records)

					var want []string
					for _, wrong := range routesOf[op.name][:right] {
						want = append(want, wrong)
						if strings.Contains(missing.probed, op.name) {
							want = append(want, emptyTo(wrong))
						}
					}
					want = append(want, route)
					ledger := s.ledger()
					assert.Equal(t, want, ledger.paths())
					last := ledger.applied[len(ledger.applied)-1]
					assert.Equal(t, route, last.String())
					for _, r := range ledger.requests {
						assert.Empty(t, r.query)
						assert.Equal(t, rawKey, r.key)
					}
					assert.Equal(t, route, kept(t, op, client, s))
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

// TestRouteProbe checks what the response to the empty list proves after a 404.
func TestRouteProbe(t *testing.T) {
	const detail = `{"detail":"no"}`
	for _, row := range []struct {
		name   string
		probe  rawTurn
		proves string // "right", "missing" or nothing
		tries  int    // how often it is sent; 0 for once
	}{
		{name: "404", probe: routeNoPage, proves: "missing"},
		{name: "404 in JSON", probe: routeNoStock, proves: "missing"},
		{name: "404 without a body", probe: rawRespond(404, "", ""), proves: "missing"},
		{name: "405", probe: routeNoVerb, proves: "missing"},
		{name: "405 in HTML", probe: rawRespond(405, "", "<html>"), proves: "missing"},

		{name: "200 with an empty array", probe: rawRespond(200, "", "[]"), proves: "right"},
		{name: "200 with an object", probe: rawRespond(200, "", ` {"stock_records":[]}`), proves: "right"},
		{name: "200 with a detail", probe: rawRespond(200, "", detail), proves: "right"},
		{name: "202 in JSON", probe: rawRespond(202, "", "{}"), proves: "right"},
		{name: "400 in JSON", probe: rawRespond(400, "", `{"stock_records":["This list may not be empty."]}`), proves: "right"},
		{name: "401 in JSON", probe: rawRespond(401, "", detail), proves: "right"},
		{name: "402 in JSON", probe: rawRespond(402, "", detail), proves: "right"},
		{name: "403 in JSON", probe: rawRespond(403, "", detail), proves: "right"},
		{name: "409 in JSON", probe: rawRespond(409, "", detail), proves: "right"},
		{name: "410 in JSON", probe: rawRespond(410, "", detail), proves: "right"},
		{name: "422 in JSON", probe: rawRespond(422, "", `["no"]`), proves: "right"},

		{name: "200 with a page", probe: routeAnyPage},
		{name: "200 with a text", probe: rawRespond(200, "", `"ok"`)},
		{name: "200 empty", probe: rawRespond(200, "", "")},
		{name: "204", probe: rawRespond(204, "", "")},
		{name: "302", probe: routeLogin},
		{name: "302 in JSON", probe: rawRespond(302, "Location: /x\r\n", detail)},
		{name: "400 with a page", probe: rawRespond(400, "", "<html>")},
		{name: "403 with a page", probe: routeCSRF},
		{name: "408 in JSON", probe: rawRespond(408, "", detail), tries: rawTries},
		{name: "429 in JSON", probe: rawRespond(429, "", detail), tries: rawTries},
		{name: "500 in JSON", probe: rawRespond(500, "", detail), tries: rawTries},
		{name: "501 in JSON", probe: rawRespond(501, "", detail)},
		{name: "504", probe: rawRespond(504, "", ""), tries: rawTries},
		{name: "reset", probe: rawWrite("", rawReset), tries: rawTries},
		{name: "not HTTP", probe: rawWrite("SSH-2.0\r\n", rawClose)},

		// The probe is sent again like a read, and then finds the route.
		{name: "503, then 200", probe: nth(rawRespond(503, "", ""), rawRespond(200, "", "[]")), proves: "right", tries: 2},
		{name: "429, then 404", probe: nth(rawRespond(429, "", ""), routeNoPage), proves: "missing", tries: 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, op := range routedOps {
				for at, route := range routesOf[op.name] {
					proves := row.proves
					if is2021(route) && row.name == "400 in JSON" {
						proves = ""
					}
					turns := map[string]rawTurn{route: routeNoStock, emptyTo(route): row.probe}
					s := newRawServer(t, rawRoutes(turns, routeNoVerb))
					client := rawClient(t, s)
					records, err := op.call(t.Context(), client)

					// The error has neither the probe's response nor the 405 of an earlier candidate.
					want := verdict{outcome: notApplied, status: 404, is: oakra.ErrNotFound}
					wrote := at + 1
					if proves == "missing" {
						want.is = oakra.ErrNoRoute
						wrote = len(routesOf[op.name])
						if at > 0 { // the first with JSON
							want.status = 405
						}
					}
					e := want.check(t, op, records, err, wrote)
					if want.status == 404 {
						assert.Equal(t, "No stock record.", e.Message)
						assert.Equal(t, route, requestOf(e))
					}
					assert.Equal(t, proves == "right", oakra.Rejected(err), "Rejected of %v", err)

					var paths []string
					for i, candidate := range routesOf[op.name][:wrote] {
						if paths = append(paths, candidate); i == at {
							paths = append(paths, slices.Repeat([]string{emptyTo(route)}, max(1, row.tries))...)
						}
					}
					ledger := s.ledger()
					assert.Equal(t, paths, ledger.paths())
					assert.Empty(t, ledger.applied)
					if proves == "right" {
						assert.Equal(t, route, kept(t, op, client, s))
					} else {
						assert.Empty(t, kept(t, op, client, s))
					}
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
			assert.Equal(t, oakra.StepAlert, oakra.NextStep(err))
		}
	})

	t.Run("context done", func(t *testing.T) {
		for _, op := range routedOps {
			ctx, cancel := context.WithCancel(t.Context())
			first := routesOf[op.name][0]
			s := newRawServer(t, rawRoutes(map[string]rawTurn{emptyTo(first): rawAfter(cancel, rawWrite("", rawStall)), first: routeNoStock}, deliverOK))
			records, err := op.call(ctx, rawClient(t, s))
			require.Error(t, err)
			assert.Nil(t, records)
			assert.Equal(t, notApplied, oakra.OutcomeOf(err))
			assert.ErrorIs(t, err, oakra.ErrNotFound)
			s.close()
			assert.Equal(t, []string{first, emptyTo(first)}, s.ledger().paths())
		}
	})
}

// nth plays one turn after the other, again for each test of a route, which ends
// with the last one.
func nth(turns ...rawTurn) rawTurn {
	var mu sync.Mutex
	n := 0
	return func(c *rawConn) bool {
		mu.Lock()
		turn := turns[n%len(turns)]
		n++
		mu.Unlock()
		return turn(c)
	}
}

// TestRouteKept checks which responses prove a route, and which could come from
// something on the way.
func TestRouteKept(t *testing.T) {
	const detail = `{"detail":"no"}`
	for _, row := range []struct {
		name    string
		turn    rawTurn
		kept    bool
		in2021  bool // whether a route of 2021 is proved by it, too
		goesOn  bool // whether an Update tries the next candidate
		changes bool // whether a Change does, too
	}{
		{name: "200", turn: deliverOK, kept: true, in2021: true},
		{name: "200, an object", turn: rawRespond(200, "", `{"stock_records":`+deliveryRecords+`}`), kept: true, in2021: true},
		{name: "200, ids missing", turn: rawRespond(200, "", `[`+firstRecord+`]`), kept: true, in2021: true},
		{name: "207 with records", turn: rawRespond(207, "", deliveryRecords), kept: true, in2021: true},
		{name: "200 cut after a record", turn: rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n["+firstRecord, rawClose), kept: true, in2021: true},
		{name: "400 JSON", turn: rawRespond(400, "", detail), kept: true},
		{name: "400 JSON that names an item", turn: rawRespond(400, "", `{"stock_records":[{},{"quantity":["A valid integer is required."]}]}`), kept: true, in2021: true},
		{name: "400 JSON of another body", turn: rawRespond(400, "", `{"sku":["This field is required."]}`), kept: true},
		{name: "400 long JSON", turn: rawRespond(400, "", `{"detail":"`+strings.Repeat("no ", 100<<10)+`"}`), kept: true},
		{name: "409 JSON", turn: rawRespond(409, "", detail), kept: true, in2021: true},
		{name: "422 JSON", turn: rawRespond(422, "", `{"stock_records":[{"id":["no"]}]}`), kept: true, in2021: true},

		{name: "400 HTML", turn: rawRespond(400, "", "<html>"), goesOn: true},
		{name: "400 empty", turn: rawRespond(400, "", ""), goesOn: true},
		{name: "403 HTML", turn: routeCSRF, goesOn: true},
		{name: "302", turn: routeLogin, goesOn: true},
		{name: "200 HTML", turn: routeAnyPage, goesOn: true},
		{name: "200 empty", turn: rawRespond(200, "", ""), goesOn: true},
		{name: "204", turn: rawRespond(204, "", ""), goesOn: true},
		{name: "405", turn: routeNoVerb, goesOn: true, changes: true},

		{name: "409 HTML", turn: rawRespond(409, "", "<html>")},
		{name: "422 HTML", turn: rawRespond(422, "", "<html>")},
		{name: "401", turn: rawRespond(401, "", detail)},
		{name: "401 HTML", turn: rawRespond(401, "", "<html>")},
		{name: "402", turn: rawRespond(402, "", detail)},
		{name: "403 JSON", turn: rawRespond(403, "", detail)},
		{name: "408", turn: rawRespond(408, "", detail)},
		{name: "410", turn: rawRespond(410, "", detail)},
		{name: "410 HTML", turn: rawRespond(410, "", "<html>")},
		{name: "413 HTML", turn: rawRespond(413, "", "<html>")},
		{name: "429", turn: rawRespond(429, "", detail)},
		{name: "500", turn: rawRespond(500, "", detail)},
		{name: "501", turn: rawRespond(501, "", detail)},
		{name: "503", turn: rawRespond(503, "", "<html>")},
		{name: "301 JSON", turn: rawRespond(301, "Location: /x\r\n", detail)},
		{name: "303 JSON", turn: rawRespond(303, "Location: /x\r\n", detail)},
		{name: "200 detail", turn: rawRespond(200, "", detail)},
		{name: "200 texts", turn: rawRespond(200, "", `["You may not do this."]`)},
		{name: "200 cut before a record", turn: rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n[", rawClose)},
		// A body that was cut short is not a page.
		{name: "200 cut before its first byte", turn: rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", rawClose)},
		{name: "403 cut page", turn: rawWrite("HTTP/1.1 403 Forbidden\r\nContent-Length: 999\r\n\r\n<html>", rawClose)},
		{name: "302 cut", turn: rawWrite("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 999\r\n\r\n", rawClose)},
		{name: "202", turn: rawRespond(202, "", deliveryRecords)},
		{name: "reset", turn: rawWrite("", rawReset)},
		{name: "reset, unread", turn: rawUnread(rawReset)},
		{name: "not HTTP", turn: rawWrite("SSH-2.0\r\n", rawClose)},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, op := range routedOps {
				for at, route := range routesOf[op.name] {
					turns := map[string]rawTurn{}
					for _, wrong := range routesOf[op.name][:at] {
						turns[wrong] = routeNoVerb
					}
					otherwise := row.turn
					if row.name == "reset, unread" { // whose server does not know the path
						if at > 0 {
							continue
						}
					} else {
						otherwise = rawRoutes(turns, row.turn)
					}
					s := newRawServer(t, otherwise)
					client := rawClient(t, s)
					_, err := op.call(t.Context(), client)

					goesOn := row.goesOn && (op.name == "update" || row.changes)
					assert.Equal(t, goesOn, errors.Is(err, oakra.ErrNoRoute), "%v", err)
					if goesOn && at == 0 && row.name == "200 HTML" {
						assert.ErrorContains(t, err, "want an array or an object", "what was wrong with the first")
					}
					seen := routesOf[op.name][:at+1]
					if goesOn {
						seen = routesOf[op.name]
					}
					if row.name != "reset, unread" {
						assert.Equal(t, seen, slices.Compact(s.ledger().paths()))
					}
					if row.kept && (row.in2021 || !is2021(route)) {
						assert.Equal(t, route, kept(t, op, client, s))
					} else {
						assert.Empty(t, kept(t, op, client, s))
					}
				}
			}
		})
	}
}

// TestRouteLetGo has servers that are upgraded while the client runs: the route that
// it keeps is no longer there.
func TestRouteLetGo(t *testing.T) {
	for _, row := range []struct {
		name   string
		turn   rawTurn
		probe  rawTurn // response to the empty list; nil as turn
		after  string  // "other" route is found, "same" is still kept, "" for none
		probed string  // operations that ask
	}{
		{name: "405", turn: routeNoVerb, after: "other"},
		{name: "404 page", turn: routeNoPage, after: "other", probed: "change"},
		{name: "404 in JSON", turn: routeNoStock, after: "other", probed: "change update"},
		{name: "404 in JSON of a record", turn: routeNoStock, probe: rawRespond(200, "", "[]"), after: "same", probed: "change update"},
		{name: "404 in JSON, and then an outage", turn: routeNoStock, probe: rawRespond(501, "", ""), probed: "change update"},
	} {
		for _, op := range routedOps {
			for _, first := range routesOf[op.name] {
				for _, other := range routesOf[op.name] {
					if first == other {
						continue
					}
					t.Run(row.name+"/"+first+" to "+other, func(t *testing.T) {
						s := newRawServer(t, rawRoutes(map[string]rawTurn{first: deliverOK}, routeNoVerb))
						client := rawClient(t, s)
						_, err := op.call(t.Context(), client)
						require.NoError(t, err)

						turns := map[string]rawTurn{first: row.turn, other: deliverOK}
						if row.probe != nil {
							turns[emptyTo(first)] = row.probe
						}
						s.play(rawRoutes(turns, routeNoVerb))
						records, err := op.call(t.Context(), client)
						want := []string{first}
						if strings.Contains(row.probed, op.name) {
							want = append(want, emptyTo(first))
						}
						if row.after == "other" {
							require.NoError(t, err)
							assert.Equal(t, deliveredRecords, records)
							for _, candidate := range routesOf[op.name] {
								if candidate != first {
									want = append(want, candidate)
								}
								if candidate == other {
									break
								}
							}
							assert.Len(t, s.ledger().applied, 1)
						} else {
							verdict{outcome: notApplied, status: 404, is: oakra.ErrNotFound}.check(t, op, records, err, 1)
							assert.Equal(t, row.after == "same", oakra.Rejected(err))
						}
						assert.Equal(t, want, s.ledger().paths())
						assert.Equal(t, map[string]string{"other": other, "same": first, "": ""}[row.after], kept(t, op, client, s))
					})
				}
			}
		}
	}

	t.Run("a page to an Update starts no search", func(t *testing.T) { // from a kept route, only a 404 or 405 does
		for _, turn := range []rawTurn{routeLogin, routeCSRF, routeAnyPage, rawRespond(400, "", "<html>")} {
			s := newRawServer(t, deliverOK)
			client := rawClient(t, s)
			warmUp(t, deliverUpdate, client, s, turn)
			_, err := deliverUpdate.call(t.Context(), client)
			require.Error(t, err)
			assert.NotErrorIs(t, err, oakra.ErrNoRoute)
			assert.Equal(t, routesOf["update"][:1], s.ledger().paths())
			assert.Equal(t, routesOf["update"][0], kept(t, deliverUpdate, client, s))
		}
	})

	t.Run("nothing is there", func(t *testing.T) {
		for _, op := range deliveryOps {
			s := newRawServer(t, deliverOK)
			client := rawClient(t, s)
			warmUp(t, op, client, s, routeNoPage)
			records, err := op.call(t.Context(), client)
			verdict{outcome: notApplied, status: 404, is: oakra.ErrNoRoute}.check(t, op, records, err, max(1, len(routesOf[op.name])))
			assert.Equal(t, oakra.StepAlert, oakra.NextStep(err))
		}
	})
}

// TestRouteNone: no candidate exists. The caller gets the error with a JSON message, or
// else the first one.
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
				for range 2 { // no route is kept
					s.play(rawRoutes(row.turns, row.rest))
					records, err := op.call(t.Context(), client)
					e := verdict{outcome: notApplied, status: row.status, is: oakra.ErrNoRoute}.check(t, op, records, err, len(routes))
					assert.Equal(t, row.route, requestOf(e))
					assert.Contains(t, e.Message, row.told)
					if row.told == "" {
						assert.Empty(t, e.Message)
					}
					assert.Contains(t, err.Error(), "is the base URL right?")
					for _, route := range routes {
						assert.Contains(t, err.Error(), route)
					}
					assert.False(t, oakra.Rejected(err) || oakra.Splittable(err))
					assert.Equal(t, oakra.StepAlert, oakra.NextStep(err))
					var writes []string
					for _, path := range s.ledger().paths() {
						if !strings.HasSuffix(path, emptyTo("")) {
							writes = append(writes, path)
						}
					}
					assert.Equal(t, routes, writes)
				}
			})
		}
	}
}

// TestRouteOfList: a List has one route and no search.
func TestRouteOfList(t *testing.T) {
	for _, row := range []struct {
		name   string
		turn   rawTurn
		status int
		is     error
	}{
		{"404 page", routeNoPage, 404, oakra.ErrNoRoute},
		{"404 without a body", rawRespond(404, "", ""), 404, oakra.ErrNoRoute},
		{"405", routeNoVerb, 405, oakra.ErrNoRoute},
		{"405 page", rawRespond(405, "", "<html>"), 405, oakra.ErrNoRoute},
		{"404 in JSON", routeNoStock, 404, oakra.ErrNotFound},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newRawServer(t, row.turn)
			client := rawClient(t, s)
			records, err := deliverList.call(t.Context(), client)
			verdict{status: row.status, is: row.is}.check(t, deliverList, records, err, 1)
			assert.Equal(t, []string{"GET stock/stock-records/"}, s.ledger().paths())
			assert.Equal(t, oakra.StepAlert, oakra.NextStep(err), "nothing has proven the route")
			assert.Equal(t, row.is == oakra.ErrNoRoute, strings.Contains(err.Error(), "is the base URL right?"), "%v", err)

			warmUp(t, deliverList, client, s, row.turn)
			for range 2 {
				_, err = deliverList.call(t.Context(), client)
				assert.ErrorIs(t, err, row.is)
				assert.Equal(t, row.is == oakra.ErrNotFound, oakra.Rejected(err))
			}
		})
	}
}

// TestRouteLargeBody: over 4 KB the route is looked for before the write, since a
// server may reject a missing route before it has read the body.
func TestRouteLargeBody(t *testing.T) {
	for _, row := range []struct {
		name    string
		missing rawTurn // response of the first candidate to an empty list
		found   bool
	}{
		{"404", routeNoPage, false},
		{"404 in JSON", routeNoStock, false},
		{"405", routeNoVerb, false},
		{"400 in JSON", rawRespond(400, "", `{"stock_records":["This list may not be empty."]}`), true},
		{"200", rawRespond(200, "", "[]"), true},
	} {
		for _, op := range routedOps {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				first, next := routesOf[op.name][0], routesOf[op.name][1]
				// The write itself fails at a proxy wherever it does not belong.
				turns := map[string]rawTurn{emptyTo(first): row.missing, first: rawRespond(502, "", "<html>")}
				turns[emptyTo(next)], turns[next] = rawRespond(200, "", "[]"), rawRespond(409, "", `{"detail":"Locked."}`)
				if row.found {
					turns[first] = turns[next]
				}
				s := newRawServer(t, rawRoutes(turns, routeNoVerb))
				client := rawClient(t, s)
				err := large(t.Context(), op, client)
				require.ErrorIs(t, err, oakra.ErrConflict)
				e := requireError(t, err)
				assert.Equal(t, notApplied, e.Outcome)
				assert.Equal(t, 1, e.Attempts, "the empty list does not count")
				assert.True(t, oakra.Rejected(err))
				want, right := []string{emptyTo(first), emptyTo(next), next}, next
				if row.found {
					want, right = []string{emptyTo(first), first}, first
				}
				assert.Equal(t, want, s.ledger().paths())
				assert.Equal(t, right, kept(t, op, client, s))
			})
		}
	}

	t.Run("nothing is proven", func(t *testing.T) { // then the write itself is sent
		for _, turn := range []rawTurn{rawRespond(501, "", ""), routeAnyPage, routeLogin, routeCSRF} {
			for _, op := range routedOps {
				first := routesOf[op.name][0]
				s := newRawServer(t, rawRoutes(map[string]rawTurn{emptyTo(first): turn, first: rawRespond(409, "", `{"detail":"Locked."}`)}, routeNoVerb))
				err := large(t.Context(), op, rawClient(t, s))
				require.ErrorIs(t, err, oakra.ErrConflict)
				assert.Equal(t, []string{emptyTo(first), first}, s.ledger().paths())
			}
		}
	})

	t.Run("no candidate", func(t *testing.T) {
		for _, op := range routedOps {
			s := newRawServer(t, routeNoPage)
			err := large(t.Context(), op, rawClient(t, s))
			require.ErrorIs(t, err, oakra.ErrNoRoute)
			assert.Equal(t, oakra.StepAlert, oakra.NextStep(err))
			assert.Zero(t, requireError(t, err).Attempts)
			var want []string
			for _, route := range routesOf[op.name] {
				want = append(want, emptyTo(route))
			}
			assert.Equal(t, want, s.ledger().paths())
		}
	})

	t.Run("up to 4 KB it is not", func(t *testing.T) {
		for n := 1; ; n++ {
			changes := make([]oakra.StockChange, n)
			for i := range changes {
				changes[i].ID = int64(i + 1)
			}
			s := newRawServer(t, deliverOK)
			rawClient(t, s).Stock.Change(t.Context(), changes)
			ledger := s.ledger()
			length := len(ledger.requests[len(ledger.requests)-1].body)
			assert.Equal(t, length > 4<<10, len(ledger.requests) == 2, "%d bytes", length)
			if length > 4<<10 {
				break
			}
			n += 10 * map[bool]int{true: 1}[length < 3900]
		}
	})
}

// TestRouteAttempts: each candidate has attempts of its own, and the error counts all
// of them, without the probes.
func TestRouteAttempts(t *testing.T) {
	limited := rawRespond(429, "", "")
	slow := func(last rawTurn) []rawTurn { return []rawTurn{limited, limited, last} }
	s := newRawServer(t, slices.Concat(slow(routeNoStock), slow(routeNoPage), slow(routeNoPage), []rawTurn{limited, rawRespond(409, "", "")})...)
	records, err := deliverUpdate.call(t.Context(), rawClient(t, s))
	verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}.check(t, deliverUpdate, records, err, 3+3+2)
	first := routesOf["update"][0]
	assert.Equal(t, slices.Concat(
		[]string{first, first, first, emptyTo(first), emptyTo(first), emptyTo(first)},
		slices.Repeat(routesOf["update"][1:2], 3), slices.Repeat(routesOf["update"][2:], 2)), s.ledger().paths())

	s = newRawServer(t, append(append(slow(routeNoPage), slow(routeNoPage)...), limited, limited, deliverOK)...)
	_, err = deliverChange.call(t.Context(), rawClient(t, s))
	require.NoError(t, err)
	assert.Len(t, s.ledger().applied, 1)

	// There is a search even with one attempt for each candidate.
	s = newRawServer(t, routeNoPage, routeNoPage, deliverOK)
	_, err = deliverChange.call(t.Context(), rawClient(t, s, oakra.WithRetryPolicy(rawPolicy(1))))
	require.NoError(t, err)
}

// TestRouteUnknownEndsSearch checks that no other candidate is tried after an
// unknown outcome of a Change.
func TestRouteUnknownEndsSearch(t *testing.T) {
	for _, row := range []struct {
		name string
		turn rawTurn
	}{
		{"reset", rawApply(rawWrite("", rawReset))},
		{"end", rawApply(rawWrite("", rawClose))},
		{"408", rawApply(rawRespond(408, "", ""))},
		{"460", rawApply(rawRespond(460, "", ""))},
		{"499", rawApply(rawRespond(499, "", ""))},
		{"500", rawApply(rawRespond(500, "", `{"detail":"oops"}`))},
		{"501", rawApply(rawRespond(501, "", ""))},
		{"504", rawApply(rawRespond(504, "", ""))},
		{"303", rawApply(rawRespond(303, "Location: /x\r\n", ""))},
		{"200 cut", rawApply(rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", rawClose))},
		{"200 empty", rawRespond(200, "", "")},
		{"200 page", routeAnyPage},
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
		verdict{outcome: unknown, status: 405, is: oakra.ErrNoRoute}.check(t, deliverUpdate, records, err, 4)
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
	}{{"404", routeNoPage}, {"404 in JSON", routeNoStock}, {"405", routeNoVerb}} {
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

// TestRoutePagesBesideTheAPI has the ways in which a host with web pages responds to
// a path that its API does not have, with the path of the base URL forgotten. Nobody's
// order is to blame for that.
func TestRoutePagesBesideTheAPI(t *testing.T) {
	byMethod := func(get, other rawTurn) rawTurn {
		return func(c *rawConn) bool {
			if c.read() == nil {
				return false
			}
			if c.request.method == http.MethodGet {
				return get(c)
			}
			return other(c)
		}
	}
	html := "Content-Type: text/html\r\n"
	page405 := rawRespond(405, html+"Allow: GET\r\n", "<html><title>Method Not Allowed</title></html>")
	for _, row := range []struct {
		name string
		turn rawTurn
	}{
		{"404", routeNoPage},
		{"404 without a body", rawRespond(404, "", "")},
		{"catch-all page, 405", byMethod(routeAnyPage, page405)},
		{"catch-all page, CSRF", byMethod(routeAnyPage, routeCSRF)},
		{"404 to POST, 302 to GET", byMethod(routeLogin, routeNoPage)},
		{"404 to POST, 200 to GET", byMethod(routeAnyPage, routeNoPage)},
		{"login wall", routeLogin},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newRawServer(t, row.turn)
			base := strings.TrimSuffix(s.baseURL, "api/v1/")
			for _, op := range deliveryOps {
				_, err := op.call(t.Context(), rawClientOn(t, base, rawTransport(t, s)))
				require.Error(t, err)
				assert.Equal(t, oakra.StepAlert, oakra.NextStep(err), "%v", err)
				assert.False(t, oakra.Rejected(err))
				assert.False(t, oakra.Splittable(err))
				if op.name != "list" {
					err = large(t.Context(), op, rawClientOn(t, base, rawTransport(t, s)))
					assert.Equal(t, oakra.StepAlert, oakra.NextStep(err), "%v", err)
				}
			}
			assert.Empty(t, s.ledger().applied)
		})

		t.Run(row.name+", and the API is newer", func(t *testing.T) { // the page comes at the first candidate of an Update
			newest := routesOf["update"][1]
			s := newRawServer(t, rawRoutes(map[string]rawTurn{newest: deliverOK}, row.turn))
			client := rawClient(t, s)
			_, err := deliverUpdate.call(t.Context(), client)
			require.NoError(t, err)
			assert.Len(t, s.ledger().applied, 1)
			assert.Equal(t, newest, kept(t, deliverUpdate, client, s))
		})
	}
}
