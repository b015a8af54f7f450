package oakratest

import (
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
)

// serveHTTP handles a request.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil { // the client went away
		s.reset(w)
		return
	}
	x, fault := s.arrive(r, body)
	if fault.Kind == ApplyLate {
		s.active.Go(func() {
			if s.sleep(fault.Delay) {
				s.handle(x)
			}
			s.land(x.Request, 0)
		})
		s.reset(w)
		return
	}
	resp := s.respond(x, fault)
	if resp == nil {
		s.land(x.Request, 0)
		s.reset(w)
		return
	}
	s.land(x.Request, resp.status)
	send(w, x, resp, fault.Kind == CutBody)
}

// respond does what a request asks for, and what the fault that strikes it does. It
// returns nil if the connection must be reset.
func (s *Server) respond(x *exchange, fault Fault) *response {
	if !s.sleep(fault.Delay) {
		return nil
	}
	switch fault.Kind {
	case Refuse, ResetBefore:
		return nil
	case Respond:
		return fault.response()
	}
	resp := s.handle(x)
	if !s.sleep(s.latency(resp.n)) {
		return nil
	}
	switch fault.Kind {
	case ResetAfter:
		return nil
	case RespondAfter:
		return fault.response()
	case OmitRecord:
		resp.n = max(0, resp.n-1)
	}
	if resp.encode != nil {
		resp.body = resp.encode(resp.n)
	}
	return resp
}

// reset ends the connection with a reset.
func (s *Server) reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer s.active.Done() // net/http no longer tracks the connection
	switch conn := conn.(type) {
	case *memoryConn:
		conn.reset()
	case *net.TCPConn:
		_ = conn.SetLinger(0)
	}
	_ = conn.Close()
}

// send sends the response: all of it, or if cut the header and half of the body.
func send(w http.ResponseWriter, x *exchange, resp *response, cut bool) {
	header := w.Header()
	maps.Copy(header, resp.header)
	flush := http.NewResponseController(w).Flush
	if header.Get("Content-Length") == "" && !x.dialect.Chunked {
		header.Set("Content-Length", strconv.Itoa(len(resp.body)))
	}
	w.WriteHeader(resp.status)
	if x.dialect.Chunked {
		_ = flush() // or net/http adds the length of a short body
	}
	if cut {
		_, _ = w.Write(resp.body[:len(resp.body)/2])
		_ = flush()
		panic(http.ErrAbortHandler) // ends the connection without a reset, which could overtake the header
	}
	_, _ = w.Write(resp.body)
}
