package oakratest

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// FaultKind is what a [Fault] does to a request. What a client makes of it, for a
// Change: Refuse once, sent again and applied; Refuse each time, not applied;
// ResetBefore, ResetAfter and ApplyLate, unknown at once, as it is not sent again;
// CutBody, applied; OmitRecord, unknown but for the records that are there; an
// answer, as its status and body have it.
type FaultKind string

const (
	// Slow handles the request as usual, after the Delay; for an answer that is
	// late though the write was applied at once, see [Server.SetLatency]. It is
	// what a Fault without a Kind is. A client that gives up meanwhile does not
	// stop it: a write is applied all the same.
	Slow FaultKind = "slow"

	// Refuse refuses the connection, so that the request is never sent and
	// appears in [Server.Refused] instead of [Server.Requests]. It comes before
	// all other faults, and on an idle connection too. That takes the transport
	// of [Server.Client]; with any other it is a ResetBefore.
	Refuse FaultKind = "refuse"

	// ResetBefore resets the connection; nothing is applied.
	ResetBefore FaultKind = "reset before"

	// ResetAfter applies the request, and resets the connection in place of an
	// answer.
	ResetAfter FaultKind = "reset after"

	// ApplyLate resets the connection at once, and applies the request when the
	// Delay is over.
	ApplyLate FaultKind = "apply late"

	// Respond responds with the fault's Status, Header and Body; nothing is
	// applied or checked.
	Respond FaultKind = "respond"

	// RespondAfter applies the request, and responds with the fault's Status,
	// Header and Body, such as a 200 with an HTML page of some proxy.
	RespondAfter FaultKind = "respond after"

	// CutBody applies the request and sends the right header, with the length of
	// the whole body, but half of the body; then the connection ends.
	CutBody FaultKind = "cut body"

	// OmitRecord applies the request, and leaves the last record out of the
	// answer.
	OmitRecord FaultKind = "omit record"
)

// Fault is something that goes wrong, for [Server.Inject].
type Fault struct {
	// Op is the operation that it strikes, as in [Request]; "" for all requests.
	Op string
	// Times is how many requests it strikes; 0 for every one.
	Times int
	// Probability is that of striking a request, above 0 and up to 1; 0 is taken
	// for 1. Each request of the Op is one draw, whatever other faults there are,
	// from a generator that starts at Seed: with the same Seed the same ones of
	// these requests are struck, counted in order of arrival.
	Probability float64
	Seed        uint64
	// Delay comes before what the Kind does.
	Delay time.Duration
	Kind  FaultKind
	// Status, Header and Body are for Respond and RespondAfter. The Content-Type,
	// if Header has none, is application/json for a Body that is JSON, else
	// text/html.
	Status int
	Header http.Header
	Body   string
}

type fault struct {
	Fault
	rand *rand.Rand
	left int // of Times
}

// Inject adds a fault. Of those that would strike a request, the one that was
// injected first does. It panics if an Op, Kind, Probability or Status is
// not a possible one.
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
	answers := f.Kind == Respond || f.Kind == RespondAfter
	switch {
	case f.Op != "" && f.Op != opList && f.Op != opUpdate && f.Op != opChange:
		panic(fmt.Sprintf("oakratest: a fault's Op is %q", f.Op))
	case !slices.Contains(kinds, f.Kind):
		panic(fmt.Sprintf("oakratest: a fault's Kind is %q", f.Kind))
	case !(f.Probability > 0 && f.Probability <= 1):
		panic(fmt.Sprintf("oakratest: a fault's Probability is %v", f.Probability))
	case answers && (f.Status < 200 || f.Status > 599):
		panic(fmt.Sprintf("oakratest: the Status of a fault that answers is %d", f.Status))
	}
}

// ClearFaults removes all faults. What they did to requests that have arrived
// goes on.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// strike returns the fault that strikes the next request of op, or one without a
// Kind. Only the kinds that may are asked. s.mu is held.
func (s *Server) strike(op string, may func(FaultKind) bool) Fault {
	var first *fault
	for _, f := range s.faults {
		if f.Op != "" && f.Op != op || !may(f.Kind) || f.Times > 0 && f.left == 0 {
			continue
		}
		// Drawn even if another has struck, to be independent of it.
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
