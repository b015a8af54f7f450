package oakratest

import (
	"fmt"
	"strings"
	"time"
)

// Dialect is a reading of the API reference, which contradicts itself and has changed
// since. The zero value has the routes of its endpoint lines and the responses of its
// examples: a bare array for a list, an object for a write.
type Dialect struct {
	// Newest speaks the newest state of the reference: an Update has the route
	// UpdateNewer, and sales can be canceled and shipped, see [Server.SetSales].
	Newest bool

	Update Route // one of the Update constants; "" is UpdateEndpoint, or UpdateNewer if Newest
	Change Route // one of the Change constants; "" is ChangeEndpoint
	// WrongRouteNotAllowed responds with 405 {"detail":"..."} to the reference's other
	// routes, as if something else of the API were there. Otherwise their paths are
	// unknown.
	WrongRouteNotAllowed bool
	// UnknownPath is how the server responds to unknown paths.
	UnknownPath UnknownPath
	// ItemByItem saves each stock record of a write on its own: the good ones are applied
	// even if others are rejected. The response names the rejected ones, with 400 and an
	// empty object for each good one. Otherwise a write is applied whole or not at all.
	ItemByItem bool
	// RejectNegative rejects a record whose quantity would be below zero.
	RejectNegative bool
	// BatchLimit is how many stock records a write may have; 0 means any number. A write with
	// more is rejected with 400 {"detail":"..."}, and nothing of it is applied.
	BatchLimit int
	// MaxQuantity is the largest quantity of a record; 0 means any. A write that goes over it
	// is applied, and makes it this one, as the response shows.
	MaxQuantity int64
	// StaleReads is how long a list still shows the quantities from before a write, as a
	// replica or a cache does. The response to the write shows the new ones.
	StaleReads time.Duration

	// UnknownIDNotFound responds with 404 {"detail":"Not found."} to a write that
	// names an unknown id or sale, instead of 400, unless other records of it are
	// rejected as well. With ItemByItem it responds so in any case.
	UnknownIDNotFound bool

	ListObject bool     // {"stock_records":[...]} in response to a list
	WriteArray bool     // [...] in response to a write
	Chunked    bool     // responses without Content-Length
	Quantities Quantity // the form of quantities in responses
}

// Route is a method and a path below the base URL.
type Route string

// The routes of the reference and of its newer version.
const (
	UpdateEndpoint Route = "POST stock/stock-record/update/"  // the endpoint line
	UpdateNewer    Route = "POST stock/stock-records/update/" // the newer reference
	UpdateExample  Route = "PATCH stock/stock-record/"        // the example

	ChangeEndpoint Route = "POST stock/stock-records/change/" // the endpoint line
	ChangeExample  Route = "POST stock/stock-record/change/"  // the example
)

const (
	routeList   Route = "GET stock/stock-records/"
	routeCancel Route = "POST sales/cancel/"
	routeInit   Route = "POST fulfillment/shipping/init/"
)

// Quantity is the form of a quantity such as 135 in a response.
type Quantity int

// The values of Quantity, each with what it writes.
const (
	QuantityNumber  Quantity = iota // 135
	QuantityDecimal                 // 135.0
	QuantityString                  // "135"
)

// split returns the method and the path of a route.
func (r Route) split() (method, path string) {
	method, path, _ = strings.Cut(string(r), " ")
	return method, path
}

func (d *Dialect) check() {
	if d.Update == "" {
		d.Update = UpdateEndpoint
		if d.Newest {
			d.Update = UpdateNewer
		}
	}
	if d.Change == "" {
		d.Change = ChangeEndpoint
	}
	if reference[d.Update] != opUpdate || reference[d.Change] != opChange {
		panic(fmt.Sprintf("oakratest: a dialect's routes are %q and %q", d.Update, d.Change))
	}
	if d.BatchLimit < 0 {
		panic(fmt.Sprintf("oakratest: a dialect's BatchLimit is %d", d.BatchLimit))
	}
	if d.MaxQuantity < 0 || d.StaleReads < 0 {
		panic(fmt.Sprintf("oakratest: a dialect's MaxQuantity is %d, and its StaleReads %v", d.MaxQuantity, d.StaleReads))
	}
	if d.UnknownPath < UnknownNotFound || d.UnknownPath > UnknownLogin {
		panic(fmt.Sprintf("oakratest: a dialect's UnknownPath is %d", d.UnknownPath))
	}
}

// lookUp reports whether a path below the base URL is known, and returns its method,
// or "" if no method is allowed there.
func (d *Dialect) lookUp(path string) (method string, known bool) {
	for _, r := range []Route{routeList, d.Update, d.Change, routeCancel, routeInit} {
		if !d.Newest && (r == routeCancel || r == routeInit) {
			continue
		}
		if m, p := r.split(); p == path {
			return m, true
		}
	}
	if d.WrongRouteNotAllowed {
		for r := range reference {
			if _, p := r.split(); p == path {
				return "", true
			}
		}
	}
	return "", false
}
