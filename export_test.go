package oakra

import "net/http"

// TransportOf returns the transport of c.
func TransportOf(c *Client) http.RoundTripper { return c.http.Transport }

// KeepRoutes makes c keep the first candidate of each operation as its route, as it
// does after a success. A test of one write then sees no search for the route.
func KeepRoutes(c *Client) *Client {
	for op := range operations {
		c.routes.kept[op].Store(&c.routes.candidates[op][0])
	}
	return c
}
