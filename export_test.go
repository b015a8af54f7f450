package oakra

// KeepRoutes makes c take the first candidate of each operation for the right route,
// as after a success, so that a test of one write sees no search for the route.
func KeepRoutes(c *Client) *Client {
	for op := range operations {
		c.routes.kept[op].Store(&c.routes.candidates[op][0])
	}
	return c
}
