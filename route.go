package oakra

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// route is one way to make an operation's request.
type route struct {
	method   string
	path     string  // below the base URL
	from2021 bool    // route of the first API, which took one record a request and rejects every body of ours
	url      url.URL // set for a client
}

// routes holds the candidates of each operation for one client and, once a response has
// shown it, which of them is right.
type routes struct {
	candidates [len(operations)][]route
	kept       [len(operations)]atomic.Pointer[route]
	listPath   int // length of the path of List, as it is sent
}

func newRoutes(base *url.URL) *routes {
	rs := new(routes)
	for op, o := range operations {
		for _, r := range o.routes {
			r.url = *base
			r.url.Path += r.path
			if r.url.RawPath != "" {
				r.url.RawPath += r.path
			}
			rs.candidates[op] = append(rs.candidates[op], r)
		}
	}
	rs.listPath = len(rs.candidates[opList][0].url.EscapedPath())
	return rs
}

// do makes a call on the route of its operation; d reads its 2xx, and items is how many
// things it is about. Responses show which route is right, and all goroutines then use
// it. Calls that start together may each look for it, which is better than a lock that
// an outage would hold.
func (c *Client) do(ctx context.Context, op operation, items int, query string, b *body, d decoder) error {
	call := call{
		client: c, ctx: ctx, op: op, effect: op.effect(), items: items, query: query, body: b, decoder: d,
		keys: callKeys{seen: c.credential.known()},
	}
	call.begin()
	var done func()
	call.waits, done = c.pace.bound(call.ctx)
	defer done()
	return call.finish(call.search())
}

// search makes the call on the kept route or, if there is none or it is gone, on one
// candidate after the other.
func (c *call) search() *Error {
	candidates, kept := c.client.routes.candidates[c.op], &c.client.routes.kept[c.op]
	last := kept.Load()
	var missing []*Error
	if last != nil {
		failure := c.send(last)
		if failure == nil || failure.StatusCode != http.StatusNotFound && failure.StatusCode != http.StatusMethodNotAllowed {
			return failure.onProvenRoute()
		}
		if len(candidates) == 1 && failure.StatusCode == http.StatusNotFound && failure.json {
			return failure.onProvenRoute() // a record is missing, not the route
		}
		// Servers are upgraded while clients run.
		switch found := c.judge(last, failure); {
		case found == routeFound, found == routeUncertain && len(candidates) == 1: // with one route, a 404 in JSON is a record's
			return failure.onProvenRoute()
		case found == routeUncertain:
			kept.CompareAndSwap(last, nil)
			return failure
		}
		kept.CompareAndSwap(last, nil)
		missing = append(missing, failure)
	}
	for i := range candidates {
		candidate := &candidates[i]
		if candidate == last {
			continue
		}
		failure, found := c.try(candidate)
		switch found {
		case routeFound:
			kept.CompareAndSwap(nil, candidate)
			return failure.onProvenRoute()
		case routeUncertain:
			return failure
		}
		missing = append(missing, failure)
	}
	return c.noRoute(missing)
}

// onProvenRoute notes that the route of e is known to be right.
func (e *Error) onProvenRoute() *Error {
	if e != nil {
		e.proven = true
	}
	return e
}

// noRoute returns the error of a call whose candidates are all missing: the one with
// the API's own words, or else the first.
func (c *call) noRoute(missing []*Error) *Error {
	e := missing[0]
	for _, other := range missing {
		if other.json && (other.Message != "" || other.Fields != nil) {
			e = other
			break
		}
	}
	none := fmt.Errorf("%w (%s): is the base URL right?", ErrNoRoute, routeNames(c.op))
	if e.Err != nil {
		none = fmt.Errorf("%w: %w", none, e.Err)
	}
	e.Err, e.note = none, ""
	return e
}

// largeBody is the length of a body from which the route is looked for before the
// write: some servers reject a missing route before they have read a large body,
// and their proxy then responds 502, which would leave the outcome unknown.
const largeBody = 4 << 10

// try makes the call on a candidate, and says whether the route is there.
func (c *call) try(r *route) (*Error, finding) {
	if c.body != nil && len(c.body.json) > largeBody && len(c.op.routes()) > 1 {
		switch failure, found := c.probe(r); found {
		case routeMissing:
			return failure, routeMissing
		case routeFound:
			return c.send(r), routeFound
		}
	}
	failure := c.send(r)
	return failure, c.judge(r, failure)
}

// finding is what a response says about the route of its request.
type finding int

const (
	routeUncertain finding = iota // it may be there, and the search ends
	routeFound
	routeMissing
)

// judge returns what the failure of a write says about its route. A missing one means
// that no code of the API ran, and so the next candidate is safe.
//
// An Update, which does no harm twice, goes on after any response that the API's
// own code is not seen to have given: on a host with web pages, an unknown path may
// redirect to a login, or respond with a page of any status. After a 404 that may be
// a record's, an empty list finds out.
func (c *call) judge(r *route, failure *Error) finding {
	if provesRoute(r, failure) {
		return routeFound
	}
	status, page := failure.StatusCode, !failure.json && !failure.cut
	switch {
	case status == http.StatusMethodNotAllowed:
		return routeMissing
	case len(c.op.routes()) == 1:
		if status == http.StatusNotFound && page {
			return routeMissing
		}
	case c.effect == sets && page && (status/100 == 2 || status/100 == 3 || status == 400 || status == 403 || status == 404):
		return routeMissing
	case status == http.StatusNotFound:
		_, found := c.probe(r)
		return found
	}
	return routeUncertain
}

// provesRoute reports whether only the code of the API can have responded so: a
// readable success, or a rejection in JSON. An HTML page, a 401 or 403, a redirect
// or an outage could come from anything on the way.
func provesRoute(r *route, failure *Error) bool {
	if failure == nil || failure.StatusCode/100 == 2 && (failure.Outcome == OutcomeApplied || len(failure.MissingIDs)+len(failure.Records) > 0) {
		return true
	}
	switch failure.StatusCode {
	case 400:
		return failure.json && (!r.from2021 || len(failure.Items()) > 0)
	case 409, 422:
		return failure.json
	}
	return false
}

// probe asks whether a route is there, with an empty list, which changes nothing,
// whatever responds to it. (A GET would not do: many routers respond 404 to a GET of a
// path that takes only POST.) It does not count as an attempt of the call.
func (c *call) probe(r *route) (*Error, finding) {
	probe := call{
		client: c.client, ctx: c.waits, waits: c.waits, op: c.op, effect: reads, body: emptyList(), probing: true,
		keys: callKeys{seen: c.keys.seen},
	}
	e := probe.send(r)
	switch status := e.StatusCode; {
	case status == 404 || status == 405:
		return e, routeMissing
	case status == 400 && r.from2021, status == 408, status == 429:
	case e.json && (status/100 == 2 || status/100 == 4):
		return e, routeFound
	}
	return e, routeUncertain
}

func routeNames(op operation) string {
	routes := op.routes()
	names := make([]string, 0, len(routes))
	for _, r := range routes {
		names = append(names, r.method+" "+r.path)
	}
	return strings.Join(names, ", ")
}
