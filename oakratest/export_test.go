package oakratest

import (
	"context"
	"net"
	"net/http"
)

// The errors of TCP connections on this system.
const (
	ErrReset   = errReset
	ErrRefused = errRefused
	ErrBroken  = errBroken
)

// DialContext connects to the server: in memory if it was made in a bubble, else over
// TCP.
func (s *Server) DialContext(ctx context.Context, network, _ string) (net.Conn, error) {
	if s.bubble {
		return s.memory.dial(ctx)
	}
	return new(net.Dialer).DialContext(ctx, network, s.host)
}

// Transport returns the transport of a Client.
func (s *Server) Transport() http.RoundTripper { return s.newTransport() }
