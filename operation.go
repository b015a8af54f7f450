package oakra

import "net/http"

// operation is an endpoint of the API.
type operation int

const (
	opList operation = iota
	opUpdate
	opChange
)

// effect is what a request does at the server, in the order of what sending it
// twice costs.
type effect int

const (
	none  effect = iota // not known, which is never sent again
	reads               // nothing changes
	sets                // the same values again; an older one may undo a newer one
	adds                // it counts twice
)

// operations holds each operation's name, as in [Error].Op, its effect and its
// routes below the base URL, the likeliest first. The API reference names several
// routes for the writes: its endpoint line, the vendor's newer reference and its
// example differ.
var operations = [...]struct {
	name   string
	effect effect
	routes []route
}{
	opList: {"stock.list", reads, []route{
		{method: http.MethodGet, path: "stock/stock-records/"},
	}},
	opUpdate: {"stock.update", sets, []route{
		{method: http.MethodPost, path: "stock/stock-record/update/"},
		{method: http.MethodPost, path: "stock/stock-records/update/"},
		{method: http.MethodPatch, path: "stock/stock-record/"},
	}},
	opChange: {"stock.change", adds, []route{
		{method: http.MethodPost, path: "stock/stock-records/change/"},
		{method: http.MethodPost, path: "stock/stock-record/change/"},
	}},
}

// String returns the name.
func (op operation) String() string { return operations[op].name }

func (op operation) effect() effect { return operations[op].effect }

func (op operation) routes() []route { return operations[op].routes }
