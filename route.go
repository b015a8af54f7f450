package oakra

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// route is one way to make an operation's request.
type route struct {
	method string
	path   string  // below the base URL
	url    url.URL // set for a client
}

// routes are those of one client: the candidates of each operation, and which of
// them it is, once found out.
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

var errNoRoute = errors.New("none of the known routes is there")

// do makes a call on the route of its operation; d reads its 2xx. The first call
// with a conclusive response finds out which route that is, for the client's life.
// Calls that start together may each find it out, which is better than a lock that
// an outage would hold.
//
// A write goes to the next candidate only after a response that proves that no
// code of the API ran: a 405, or a 404 whose path a GET does not find either.
func (c *Client) do(ctx context.Context, op operation, query string, b *body, d decoder) error {
	call := call{
		client: c, ctx: ctx, op: op, effect: op.effect(), query: query, body: b, decoder: d,
		keys: callKeys{seen: c.credential.known()},
	}
	if kept := c.routes.kept[op].Load(); kept != nil {
		return call.finish(call.send(kept))
	}
	var first, conclusive *Error
	for i := range c.routes.candidates[op] {
		candidate := &c.routes.candidates[op][i]
		failure := call.send(candidate)
		switch {
		case provesRoute(failure):
			c.routes.kept[op].CompareAndSwap(nil, candidate)
			return call.finish(failure)
		case failure.StatusCode == http.StatusMethodNotAllowed:
		case failure.StatusCode == http.StatusNotFound && op != opList:
			switch call.probe(candidate) {
			case routeFound:
				c.routes.kept[op].CompareAndSwap(nil, candidate)
				return call.finish(failure)
			case routeUncertain:
				return call.finish(failure)
			}
		default:
			return call.finish(failure)
		}
		if first == nil {
			first = failure
		}
		if conclusive == nil && (failure.Message != "" || failure.Fields != nil) {
			conclusive = failure
		}
	}
	if conclusive == nil {
		conclusive = first
	}
	conclusive.Err = fmt.Errorf("%w (%s): is the base URL right?", errNoRoute, routeNames(op))
	return call.finish(conclusive)
}

// provesRoute reports whether only the code of the API can have responded so: a
// readable success, or a rejection in JSON. An HTML page, a 401 or 403, a redirect
// or an outage could come from anything on the way.
func provesRoute(failure *Error) bool {
	if failure == nil || len(failure.MissingIDs) > 0 {
		return true
	}
	switch failure.StatusCode {
	case 400, 409, 422:
		return failure.json
	}
	return false
}

type finding int

const (
	routeUncertain finding = iota
	routeFound
	routeMissing
)

// probe asks, after a 404 to a write, whether the route or a record is missing:
// with a GET of the same path, which changes nothing.
func (c *call) probe(r *route) finding {
	probe := call{client: c.client, ctx: c.ctx, op: c.op, effect: reads}
	failure := probe.send(&route{method: http.MethodGet, path: r.path, url: r.url})
	switch failure.StatusCode {
	case 404:
		return routeMissing
	case 405, 400, 401, 403:
		return routeFound
	}
	if failure.StatusCode/100 == 2 && failure.json {
		return routeFound
	}
	return routeUncertain
}

func routeNames(op operation) string {
	routes := op.routes()
	names := make([]string, 0, len(routes))
	for _, r := range routes {
		names = append(names, r.method+" "+r.path)
	}
	return strings.Join(names, ", ")
}
