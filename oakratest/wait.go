package oakratest

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// watch is a call of Wait that waits.
type watch struct {
	op      string
	arrived chan struct{} // closed when a request of op arrives
}

// Wait waits until a request of op, or with "" any request, is in flight: all of it has
// arrived, and the server has neither begun to respond nor reset the connection; with
// an [ApplyLate], it has not been applied yet. Wait returns nil at once if there is
// such a request, else when the next one arrives. To do something while a write is in
// flight, delay the write by a [Slow] fault, start it in another goroutine, and call
// Wait; requests that have ended before do not count.
//
// Wait returns the error of ctx if that ends first, and another one if the server is
// closed. It panics if op is not an operation.
func (s *Server) Wait(ctx context.Context, op string) error {
	if !isOp(op) {
		panic(fmt.Sprintf("oakratest: Wait for the operation %q", op))
	}
	if err := s.checkBubble(); err != nil {
		return err
	}
	s.mu.Lock()
	inFlight := slices.ContainsFunc(s.inFlight, func(r *Request) bool { return matches(op, r.Op) })
	w := watch{op, make(chan struct{})}
	if !inFlight {
		s.watches = append(s.watches, w)
	}
	s.mu.Unlock()
	if inFlight {
		return nil
	}
	select {
	case <-w.arrived:
		return nil
	case <-s.closing:
		return errors.New("oakratest: the server is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// announce adds a request to those in flight and wakes the calls of Wait that wait for
// it. s.mu must be held.
func (s *Server) announce(r *Request) {
	s.inFlight = append(s.inFlight, r)
	s.watches = slices.DeleteFunc(s.watches, func(w watch) bool {
		if !matches(w.op, r.Op) {
			return false
		}
		close(w.arrived)
		return true
	})
}

// land removes a request from those in flight, and enters the status of its response,
// if there is one, in the ledger.
func (s *Server) land(r *Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Status = status
	s.inFlight = slices.DeleteFunc(s.inFlight, func(other *Request) bool { return other == r })
}
