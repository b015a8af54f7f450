package oakratest

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"github.com/oakra/oakra-go"
)

// Client returns a new client of the server, with the server's URL and key and the
// settings of [oakra.DefaultTransport]. It is connected in memory, without a network,
// and can therefore be used in a bubble of testing/synctest, if the server was made
// in the same bubble. For a client with TCP connections, call [oakra.NewClient] with
// the server's Key and URL.
//
// opts come after these settings and may replace them; with
// [oakra.WithAppKeySource] the key is left out. Client panics if an option is bad.
// Where faults last and time is real, an [oakra.WithRetryPolicy] with short waits
// keeps a test short.
func (s *Server) Client(opts ...oakra.Option) *oakra.Client {
	t := s.newTransport()
	opts = append([]oakra.Option{
		oakra.WithBaseURL(s.URL),
		oakra.WithInsecureHTTP(), // the address may be any
		oakra.WithHTTPClient(&http.Client{Transport: t}),
	}, opts...)
	client, err := oakra.NewClient(s.Key, opts...)
	if err != nil {
		// A key source excludes a key. Any other reason fails again.
		var noKey error
		if client, noKey = oakra.NewClient("", opts...); noKey != nil {
			panic(fmt.Sprintf("oakratest: %v", err))
		}
	}
	return client
}

// askedHeader marks a request that the transport has already compared with the
// faults that refuse. It does not appear in the ledger.
const askedHeader = "Oakratest-Asked"

// transport is the transport of [Server.Client]. It refuses connections on behalf of
// the server, which cannot refuse a single request, let alone one on an idle
// connection.
type transport struct {
	*http.Transport
	server *Server
}

var _ http.RoundTripper = (*transport)(nil)

// newTransport returns a transport that connects to the server in memory, and to
// any other address over TCP. Close closes its idle connections.
func (s *Server) newTransport() *transport {
	t := &transport{Transport: oakra.DefaultTransport(), server: s}
	overTCP := t.DialContext
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != s.host {
			return overTCP(ctx, network, addr)
		}
		if err := s.checkBubble(); err != nil {
			return nil, err
		}
		return s.memory.dial(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transports = append(s.transports, t)
	return t
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	op := opOf(r.Method, r.URL.Path)
	if isShort(op, r.ContentLength) {
		op = ""
	}
	if f := t.server.refuse(op); f.Kind == Refuse {
		// A separate transport fails as it would at a real refusal, and calls the
		// same hooks of an httptrace.ClientTrace.
		refusing := &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				t.server.sleep(f.Delay) // net/http waits only as long as the request's context allows
				return nil, refused(t.server.memory.addr)
			},
		}
		return refusing.RoundTrip(r)
	}
	marked := r.WithContext(r.Context())
	marked.Header = r.Header.Clone()
	marked.Header.Set(askedHeader, "yes")
	return t.Transport.RoundTrip(marked)
}

// refuse returns the fault that refuses the next request of op, and counts it.
func (s *Server) refuse(op string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.strike(op, func(k FaultKind) bool { return k == Refuse })
	if f.Kind == Refuse {
		s.refused++
	}
	return f
}

// Refused returns how many requests were not sent because of a [Refuse].
func (s *Server) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}
