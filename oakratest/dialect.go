package oakratest

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go"
)

// Dialect is a reading of the API reference, which contradicts itself. The zero
// value has the routes of its endpoint lines and the answers of its examples: a
// bare array from a list, an object from a write.
type Dialect struct {
	Update Route // one of the Update constants; "" is UpdateEndpoint
	Change Route // one of the Change constants; "" is ChangeEndpoint
	// WrongRouteNotAllowed answers 405 on the reference's other routes, as if
	// something else were there, instead of 404.
	WrongRouteNotAllowed bool
	// UnknownIDNotFound answers 404 {"detail":"Not found."} to a write of an
	// unknown id, instead of 400.
	UnknownIDNotFound bool

	ListObject bool     // a list answers {"stock_records":[...]}
	WriteArray bool     // a write answers [...]
	Chunked    bool     // answers have no Content-Length
	Quantities Quantity // how answers write quantities
}

// Route is a method and a path below the base URL.
type Route string

// The routes that the reference and the vendor's newer one name.
const (
	UpdateEndpoint Route = "POST stock/stock-record/update/"  // the endpoint line
	UpdateNewer    Route = "POST stock/stock-records/update/" // the newer reference
	UpdateExample  Route = "PATCH stock/stock-record/"        // the example

	ChangeEndpoint Route = "POST stock/stock-records/change/" // the endpoint line
	ChangeExample  Route = "POST stock/stock-record/change/"  // the example
)

const routeList Route = "GET stock/stock-records/"

// Quantity is a way to write 135 in an answer.
type Quantity int

// The values of Quantity, each with what it writes.
const (
	QuantityNumber  Quantity = iota // 135
	QuantityDecimal                 // 135.0
	QuantityString                  // "135"
)

// Operations, named as in oakra.Error.
const (
	opList   = "stock.list"
	opUpdate = "stock.update"
	opChange = "stock.change"
)

// reference has all routes, whatever the dialect.
var reference = map[Route]string{
	routeList:      opList,
	UpdateEndpoint: opUpdate,
	UpdateNewer:    opUpdate,
	UpdateExample:  opUpdate,
	ChangeEndpoint: opChange,
	ChangeExample:  opChange,
}

// opOf names the operation of a request, "" if it is none of the reference's.
func opOf(method, path string) string {
	path, below := strings.CutPrefix(path, basePath)
	if !below {
		return ""
	}
	return reference[Route(method+" "+path)]
}

// split returns the method and the path of a route.
func (r Route) split() (method, path string) {
	method, path, _ = strings.Cut(string(r), " ")
	return method, path
}

func (d *Dialect) check() {
	if d.Update == "" {
		d.Update = UpdateEndpoint
	}
	if d.Change == "" {
		d.Change = ChangeEndpoint
	}
	if reference[d.Update] != opUpdate || reference[d.Change] != opChange {
		panic(fmt.Sprintf("oakratest: a dialect's routes are %q and %q", d.Update, d.Change))
	}
}

// lookUp returns the method of a path below the base URL, "" if none is allowed
// there, and whether there is such a path.
func (d *Dialect) lookUp(path string) (method string, known bool) {
	for _, r := range []Route{routeList, d.Update, d.Change} {
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

// encode is the body of an answer with records.
func (d *Dialect) encode(op string, records []oakra.StockRecord) []byte {
	array := d.WriteArray
	if op == opList {
		array = !d.ListObject
	}
	begin, end := `{"stock_records":[`, `]}`
	if array {
		begin, end = `[`, `]`
	}
	before, after := "", "}"
	switch d.Quantities {
	case QuantityDecimal:
		after = ".0}"
	case QuantityString:
		before, after = `"`, `"}`
	}

	const perRecord = len(`{"id":123456,"location_id":"warehouse-1","sku":"shirt-green-m","quantity":12345},`)
	b := make([]byte, 0, (len(records)+1)*perRecord)
	b = append(b, begin...)
	for i, r := range records {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = strconv.AppendInt(b, r.ID, 10)
		b = append(b, `,"location_id":`...)
		b = appendString(b, r.LocationID)
		b = append(b, `,"sku":`...)
		b = appendString(b, r.SKU)
		b = append(b, `,"quantity":`...)
		b = append(b, before...)
		b = strconv.AppendInt(b, r.Quantity, 10)
		b = append(b, after...)
	}
	return append(b, end...)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // no string fails
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
