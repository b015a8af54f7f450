package oakratest

import (
	"net/http"
	"net/url"
)

// UnknownPath is how a server responds to a path that it does not know. Hosts that have
// web pages beside the API differ in this. All responses are HTML.
type UnknownPath int

// The values of UnknownPath, each with the response.
const (
	UnknownNotFound      UnknownPath = iota // 404
	UnknownPage                             // a page with 200 to a GET, else 405
	UnknownPageCSRF                         // a page with 200 to a GET, else 403, since a CSRF token is missing
	UnknownNotFoundLogin                    // 302 to the login page to a GET, else 404
	UnknownNotFoundPage                     // a page with 200 to a GET, else 404
	UnknownLogin                            // 302 to the login page
)

const loginPath = "/login/"

// respond returns the response to a request of an unknown path.
func (u UnknownPath) respond(x *exchange) *response {
	reads := x.Method == http.MethodGet || x.Method == http.MethodHead
	switch {
	case reads && (u == UnknownPage || u == UnknownPageCSRF || u == UnknownNotFoundPage):
		return page(http.StatusOK, "Welcome.")
	case reads && (u == UnknownNotFoundLogin || u == UnknownLogin) && x.Path == loginPath:
		return page(http.StatusOK, "Please log in.")
	case u == UnknownPage:
		resp := page(http.StatusMethodNotAllowed, "")
		resp.header.Set("Allow", "GET, HEAD")
		return resp
	case u == UnknownPageCSRF:
		return page(http.StatusForbidden, "CSRF verification failed. Request aborted.")
	case u == UnknownLogin || u == UnknownNotFoundLogin && reads:
		resp := page(http.StatusFound, "")
		resp.header.Set("Location", loginPath+"?next="+url.QueryEscape(x.uri))
		return resp
	}
	return page(http.StatusNotFound, "The requested resource was not found on this server.")
}
