package oakra

import "net/http"

// TransportOf returns the transport of c.
func TransportOf(c *Client) http.RoundTripper { return c.http.Transport }

// KeepRoutes makes c take the first candidate of each operation for the right route,
// as after a success, so that a test of one write sees no search for the route.
func KeepRoutes(c *Client) *Client {
	for op := range operations {
		c.routes.kept[op].Store(&c.routes.candidates[op][0])
	}
	return c
}
