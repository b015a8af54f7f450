package oakratest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// FaultKind is what a [Fault] does to a request. For a Change, the client reports:
//
//   - Refuse once: applied, since it sends the request again; Refuse every time: not
//     applied;
//   - ResetBefore, ResetAfter and ApplyLate: an unknown outcome, at once, since it
//     must not send the request again;
//   - CutBody: applied, if a whole record is in the half that arrives;
//   - OmitRecord: an unknown outcome, except for the records that are in the response;
//   - Respond and RespondAfter: whatever the status and body mean.
type FaultKind string

const (
	// Slow handles the request as usual, after the Delay. A client that gives up
	// in the meantime does not stop it: a write is still applied. To apply a write at
	// once and delay its response, see [Server.SetLatency]. Slow is the Kind of a
	// Fault that has none.
	Slow FaultKind = "slow"

	// Refuse refuses the connection, so that the request is never sent. It is
	// counted by [Server.Refused] and does not appear in [Server.Requests]. It comes
	// before all other faults, and does not need a new connection to strike. Only the
	// transport of [Server.Client] can do this; with any other, Refuse is a
	// ResetBefore.
	Refuse FaultKind = "refuse"

	// ResetBefore resets the connection; nothing is applied.
	ResetBefore FaultKind = "reset before"

	// ResetAfter applies the request, and resets the connection instead of
	// responding.
	ResetAfter FaultKind = "reset after"

	// ApplyLate resets the connection at once, and applies the request after the
	// Delay.
	ApplyLate FaultKind = "apply late"

	// Respond responds with the fault's Status, Header and Body; nothing is
	// applied or checked.
	Respond FaultKind = "respond"

	// RespondAfter applies the request, and responds with the fault's Status,
	// Header and Body, such as a 200 with an HTML page of some proxy.
	RespondAfter FaultKind = "respond after"

	// CutBody applies the request and sends the right header, with the length of
	// the whole body, but only half of the body; then it closes the connection.
	CutBody FaultKind = "cut body"

	// OmitRecord applies the request, and leaves the last record, or fulfillment of a
	// shipping.init, out of the response.
	OmitRecord FaultKind = "omit record"
)

// Fault is something that goes wrong, for [Server.Inject].
type Fault struct {
	// Op is the operation whose requests the fault may strike, as in [Request]; "" stands
	// for all requests, also those without an Op.
	Op string
	// Times is how many requests the fault strikes; 0 means every one.
	Times int
	// Probability is the probability that a request is struck, above 0 and up to 1; 0
	// means 1. Each request of the Op takes one random number, whatever other faults
	// there are, from a generator that starts at Seed. With the same Seed, the requests
	// at the same places in the order of arrival are struck.
	Probability float64
	Seed        uint64
	// Delay is the wait before the Kind takes effect.
	Delay time.Duration
	Kind  FaultKind
	// Status, Header and Body are for Respond and RespondAfter. If Header has no
	// Content-Type, it is application/json for a Body that is JSON, else text/html.
	Status int
	Header http.Header
	Body   string
}

type fault struct {
	Fault
	rand *rand.Rand
	left int // remaining Times
}

// Inject adds a fault. If several faults would strike a request, the one that was
// injected first does. Inject panics if the Op, Kind, Probability or Status is not a
// possible one.
func (s *Server) Inject(f Fault) {
	if f.Kind == "" {
		f.Kind = Slow
	}
	if f.Probability == 0 {
		f.Probability = 1
	}
	f.check()
	f.Header = f.Header.Clone()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{Fault: f, rand: rand.New(rand.NewPCG(f.Seed, 0)), left: f.Times})
}

func (f *Fault) check() {
	kinds := []FaultKind{Slow, Refuse, ResetBefore, ResetAfter, ApplyLate, Respond, RespondAfter, CutBody, OmitRecord}
	responds := f.Kind == Respond || f.Kind == RespondAfter
	switch {
	case !isOp(f.Op):
		panic(fmt.Sprintf("oakratest: a fault's Op is %q", f.Op))
	case !slices.Contains(kinds, f.Kind):
		panic(fmt.Sprintf("oakratest: a fault's Kind is %q", f.Kind))
	case !(f.Probability > 0 && f.Probability <= 1):
		panic(fmt.Sprintf("oakratest: a fault's Probability is %v", f.Probability))
	case responds && (f.Status < 200 || f.Status > 599):
		panic(fmt.Sprintf("oakratest: the Status of a fault that responds is %d", f.Status))
	}
}

// ClearFaults removes all faults. Requests that were struck already are not
// affected.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// strike returns the fault that strikes the next request of op, or a Fault without a
// Kind. Only faults whose Kind may strike here take part. s.mu must be held.
func (s *Server) strike(op string, may func(FaultKind) bool) Fault {
	var first *fault
	for _, f := range s.faults {
		if !matches(f.Op, op) || !may(f.Kind) || f.Times > 0 && f.left == 0 {
			continue
		}
		// A fault takes a random number even if another fault has struck, to be
		// independent of it.
		if f.rand.Float64() < f.Probability && first == nil {
			first = f
		}
	}
	if first == nil {
		return Fault{}
	}
	first.left--
	return first.Fault
}
