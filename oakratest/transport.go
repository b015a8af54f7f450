package oakratest

import (
	"context"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// askedHeader marks a request for which the faults that refuse were asked
// already. It does not reach the ledger.
const askedHeader = "Oakratest-Asked"

// transport is that of the server's own clients. It refuses connections for the
// server, which cannot do so for one request, let alone on an idle connection.
type transport struct {
	*http.Transport
	server *Server
}

var _ http.RoundTripper = (*transport)(nil)

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if f := t.server.refuse(opOf(r.Method, r.URL.Path)); f.Kind == Refuse {
		// A transport of its own reports the failure as for a real refusal, to an
		// httptrace.ClientTrace too.
		refusing := &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return nil, t.server.refusal(network, addr, f.Delay)
			},
		}
		return refusing.RoundTrip(r)
	}
	marked := r.WithContext(r.Context())
	marked.Header = r.Header.Clone()
	marked.Header.Set(askedHeader, "yes")
	return t.Transport.RoundTrip(marked)
}

// refuse counts a request as refused, if a fault says so.
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

// refusal is the error of dialing where nobody listens. net/http does not wait
// for it longer than the request's context allows.
func (s *Server) refusal(network, addr string, after time.Duration) error {
	s.sleep(after)
	to, _ := net.ResolveTCPAddr(network, addr)
	return &net.OpError{Op: "dial", Net: network, Addr: to, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}
