package oakratest

import (
	"regexp"
	"strings"
)

// The operations, named as in oakra.Error.
const (
	opList   = "stock.list"
	opUpdate = "stock.update"
	opChange = "stock.change"
	opCancel = "sales.cancel"
	opInit   = "shipping.init"
)

// reference holds all routes, whatever the dialect.
var reference = map[Route]string{
	routeList:      opList,
	UpdateEndpoint: opUpdate,
	UpdateNewer:    opUpdate,
	UpdateExample:  opUpdate,
	ChangeEndpoint: opChange,
	ChangeExample:  opChange,
	routeCancel:    opCancel,
	routeInit:      opInit,
}

// isOp reports whether op is an operation, or "", which stands for any request.
func isOp(op string) bool {
	switch op {
	case "", opList, opUpdate, opChange, opCancel, opInit:
		return true
	}
	return false
}

// matches reports whether op is wanted, where "" stands for any operation.
func matches(wanted, op string) bool { return wanted == "" || wanted == op }

// opOf returns the operation of a route, or "" if the reference has no such route.
func opOf(method, path string) string {
	path, below := strings.CutPrefix(path, basePath)
	if !below {
		return ""
	}
	return reference[Route(method+" "+path)]
}

// writesStock reports whether op takes stock records.
func writesStock(op string) bool { return op == opUpdate || op == opChange }

var emptyList = regexp.MustCompile(`^\s*\{\s*"stock_records"\s*:\s*\[\s*\]\s*\}\s*$`)

// isProbe reports whether a request only asks whether its route is there, which is
// what a client does with an empty list.
func isProbe(op string, body []byte) bool { return writesStock(op) && emptyList.Match(body) }

// isShort reports whether a body of this length is too short for a stock record. This
// is how the client's transport recognizes a probe, since it cannot read the body
// before there is a connection. A negative length means that it is not known.
func isShort(op string, length int64) bool {
	const shortest = `{"stock_records":[{"id":1,"quantity":1}]}`
	return writesStock(op) && 0 <= length && length < int64(len(shortest))
}
