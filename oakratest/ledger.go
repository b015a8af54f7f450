package oakratest

import (
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"
)

// Request is a request that arrived at the server, and its result.
type Request struct {
	// Op is the operation, named as in [oakra.Error]: "stock.list", "stock.update",
	// "stock.change", "sales.cancel" or "shipping.init". It is set on each of the
	// reference's routes for it, whether or not the [Dialect] has that route. It is ""
	// for anything else, such as a GET of the path of a write, or an empty list of
	// stock records, with which a client asks whether a route exists.
	Op     string
	Method string
	Path   string // all of it: "/api/v1/stock/stock-records/"
	Query  url.Values
	Header http.Header // with "[app key]" in place of the key, if that was right
	Body   []byte
	// Status is the status of the response, set just before that is sent; 0 if there
	// was no response, or none yet.
	Status int
	// Applied is what a write of stock changed, in the order of its body; nil if it was
	// not applied, or not yet.
	Applied []Applied
	// AppliedSales is what a sales.cancel or shipping.init changed, in the order of its
	// body; nil if it was not applied, or not yet.
	AppliedSales []AppliedSale
	// Fault is the kind of the fault that struck the request, "" if none did.
	Fault FaultKind
}

// Applied is a change of one record's quantity.
type Applied struct{ ID, From, To int64 }

// Requests returns the requests that arrived, in order of arrival. A request has
// arrived when all of it was received, before any delay. Refused requests did not
// arrive, see [Server.Refused]. The slice is the caller's, but what its elements hold
// must not be changed.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := make([]Request, len(s.requests))
	for i, r := range s.requests {
		requests[i] = *r
	}
	return requests
}

// exchange is a request that the server is working on.
type exchange struct {
	*Request        // entry in the ledger
	op       string // operation of the route
	uri      string // as in the request line
	line     int    // length of the request line
	denied   string // what is wrong with the app key; "" if it is right
	dialect  Dialect
}

// arrive enters a request in the ledger, and decides which fault strikes it.
func (s *Server) arrive(r *http.Request, body []byte) (*exchange, Fault) {
	x := &exchange{
		Request: &Request{
			Method: r.Method,
			Path:   r.URL.Path,
			Query:  r.URL.Query(),
			Header: r.Header,
			Body:   body,
		},
		op:     opOf(r.Method, r.URL.Path),
		uri:    r.RequestURI,
		line:   len(r.Method) + len(" ") + len(r.RequestURI) + len(" ") + len(r.Proto),
		denied: s.checkKey(r.Header.Get("Authorization")),
	}
	if !isProbe(x.op, body) {
		x.Op = x.op
	}
	if x.denied == "" {
		r.Header.Set("Authorization", "Bearer [app key]")
	}
	asked := r.Header.Get(askedHeader) != ""
	r.Header.Del(askedHeader)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, x.Request)
	s.announce(x.Request)
	x.dialect = s.dialect
	fault := s.strike(x.Op, func(k FaultKind) bool { return k != Refuse || !asked })
	x.Fault = fault.Kind
	return x, fault
}

// checkKey returns the detail of a 401, or "" for the right key.
func (s *Server) checkKey(authorization string) string {
	scheme, key, _ := strings.Cut(authorization, " ")
	switch {
	case !strings.EqualFold(scheme, "Bearer"):
		return "Authentication credentials were not provided."
	case subtle.ConstantTimeCompare([]byte(key), []byte(s.Key)) == 0:
		return "Invalid token."
	}
	return ""
}
