package oakra

import "net/http"

// operation is an endpoint of the API.
type operation int

const (
	opList operation = iota
	opUpdate
	opChange
	opCancel
	opInit
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

// operations holds, for each operation, its name, as in [Error].Op, its effect, its
// routes below the base URL, and what to do about an unknown outcome.
//
// The API reference names several routes for the writes of stock: its endpoint
// line, the vendor's newer reference and its example differ. They are tried in this
// order.
var operations = [...]struct {
	name   string
	effect effect
	routes []route
	look   string
}{
	opList: {"stock.list", reads, []route{
		{method: http.MethodGet, path: "stock/stock-records/"},
	}, ""},
	opUpdate: {"stock.update", sets, []route{
		{method: http.MethodPost, path: "stock/stock-record/update/"},
		{method: http.MethodPost, path: "stock/stock-records/update/"},
		{method: http.MethodPatch, path: "stock/stock-record/", from2021: true},
	}, "send it again if its quantity is still the newest"},
	opChange: {"stock.change", adds, []route{
		{method: http.MethodPost, path: "stock/stock-records/change/"},
		{method: http.MethodPost, path: "stock/stock-record/change/", from2021: true},
	}, "read the record before sending it again"},
	opCancel: {"sales.cancel", adds, []route{{method: http.MethodPost, path: "sales/cancel/"}},
		lookAtSale},
	opInit: {"shipping.init", adds, []route{{method: http.MethodPost, path: "fulfillment/shipping/init/"}},
		lookAtSale},
}

const lookAtSale = "look at the sale in Oakra or the marketplace before calling again"

// String returns the name.
func (op operation) String() string { return operations[op].name }

func (op operation) effect() effect { return operations[op].effect }

func (op operation) routes() []route { return operations[op].routes }

// operationNamed returns the operation with a name, if there is one.
func operationNamed(name string) (operation, bool) {
	for op := range operations {
		if operations[op].name == name {
			return operation(op), true
		}
	}
	return 0, false
}
