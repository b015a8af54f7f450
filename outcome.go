package oakra

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
)

// Outcome says whether a write changed anything at the service.
type Outcome int

const (
	// OutcomeUnknown means that the write may have been applied, or may still be
	// applied. Read the record before sending a [StockService.Change] again, or let a person decide:
	// sent twice it counts twice. A [StockService.Update] may be sent again as long
	// as its number is the newest.
	OutcomeUnknown Outcome = iota
	// OutcomeNotApplied means that nothing of the write was applied. [Retryable] and [Rejected]
	// say why.
	OutcomeNotApplied
	// OutcomeApplied means that the write was applied. An error with this outcome means that
	// only the response was lost: do not send it again.
	OutcomeApplied
)

// String returns "unknown", "not applied" or "applied".
func (o Outcome) String() string {
	switch o {
	case OutcomeUnknown:
		return "unknown"
	case OutcomeNotApplied:
		return "not applied"
	case OutcomeApplied:
		return "applied"
	}
	return "Outcome(" + strconv.Itoa(int(o)) + ")"
}

// MarshalText implements [encoding.TextMarshaler] with what String returns.
func (o Outcome) MarshalText() ([]byte, error) {
	if o < OutcomeUnknown || o > OutcomeApplied {
		return nil, fmt.Errorf("oakra: there is no %v", o)
	}
	return []byte(o.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler].
func (o *Outcome) UnmarshalText(text []byte) error {
	for _, known := range []Outcome{OutcomeUnknown, OutcomeNotApplied, OutcomeApplied} {
		if known.String() == string(text) {
			*o = known
			return nil
		}
	}
	return fmt.Errorf("oakra: there is no outcome %.40q", text)
}

// OutcomeOf returns whether the write that returned err was applied. For nil that is
// OutcomeApplied, for an [*Error], also a wrapped one, its Outcome. For a joined
// error, and for a [*BulkError] with the items that it counts as applied, it is what
// all parts agree on, else OutcomeUnknown, which therefore includes "some were
// applied, and some not". An error of another package is OutcomeUnknown.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeApplied
	}
	outcome, first := OutcomeUnknown, true
	for part := range parts(err) {
		o := OutcomeUnknown
		if part != nil {
			o = part.Outcome
		}
		if !first && o != outcome {
			return OutcomeUnknown
		}
		outcome, first = o, false
	}
	return outcome
}

// Retryable reports whether nothing was applied and the cause is passing: the same call
// may succeed later. That is the case where no connection was established (unless the
// host does not exist, its certificate is rejected, or a proxy responds with a 4xx),
// where the context ended before anything was sent, where a limiter gave up within the
// context's deadline, for a 429, and for an item of a bulk run that was not sent
// because the run was stopped or the service stopped responding. For a
// [StockService.List], which applies nothing, it is also the case for a 408, a 5xx
// except 501, and a connection that broke. A joined error is retryable if all its parts
// are. nil is not retryable.
//
// The client may not have waited: wait [Error.RetryAfter], or a little, before
// calling again.
func Retryable(err error) bool { return all(err, (*Error).retryable) }

func (e *Error) retryable() bool {
	if e.Outcome != OutcomeNotApplied {
		return false
	}
	for _, passing := range []error{context.Canceled, context.DeadlineExceeded, errHeldBack, ErrStopped} {
		if errors.Is(e.Err, passing) {
			return true
		}
	}
	r := e.row
	if !e.made {
		switch {
		case e.StatusCode != 0:
			r = statusRow(e.StatusCode)
		case errors.Is(e.Err, ErrUnreachable):
			r.again = adds
		}
	}
	return r.again == adds || e.Op == opList.String() && r.allows(reads)
}

// Rejected reports whether it is certain that nothing was applied because of what was
// sent: correct the items before sending them again. That is the case for the client's
// own checks of items, for a 4xx that names an item (stock_records[1].quantity), and
// for a 404, 409 or 422 in JSON on a route that is known to be right. It is not the
// case for an HTML page, an empty body, any other 4xx that names no item, bad options,
// or an item of a bulk run that was not sent: there the setup is at fault, or the cause
// is not known, and every other call would fail in the same way. A joined error is
// rejected if all its parts are.
func Rejected(err error) bool { return all(err, (*Error).rejected) }

func (e *Error) rejected() bool {
	if e.Outcome != OutcomeNotApplied || errors.Is(e.Err, ErrNoRoute) {
		return false
	}
	if e.made && e.StatusCode == 0 {
		return e.content
	}
	switch e.StatusCode {
	case 0:
		return errors.Is(e.Err, ErrInvalidRequest) && e.Op != opNewClient
	case 404, 409, 422:
		known := e.json && e.proven
		if !e.made {
			known = e.Message != "" || len(e.Fields) > 0
		}
		return known || e.content || e.namesContent()
	}
	return e.StatusCode/100 == 4 && !e.retryable() && (e.content || e.namesContent())
}

// namesContent reports whether the server has messages about an item, or a sale.
func (e *Error) namesContent() bool {
	if len(e.Items()) > 0 {
		return true
	}
	if e.made {
		return e.sale
	}
	return len(e.Fields["sale_id"]) > 0 || len(e.Fields["cancel_reason"]) > 0
}

// Splittable reports whether nothing was applied, and the same items may pass in
// smaller requests: a 400, 404, 409 or 422 in JSON, or a 413. It is not the case for an
// item of a bulk run that was not sent. A joined error is splittable if all its parts
// are.
func Splittable(err error) bool { return all(err, (*Error).splittable) }

func (e *Error) splittable() bool {
	unsent := e.made && e.Attempts == 0
	if e.Outcome != OutcomeNotApplied || unsent || errors.Is(e.Err, ErrNoRoute) {
		return false
	}
	switch e.StatusCode {
	case 413:
		return true
	case 400, 404, 409, 422:
		return e.json || !e.made && (e.Message != "" || len(e.Fields) > 0)
	}
	return false
}

// Step is what to do after a call.
type Step int

// The steps that [NextStep] returns.
const (
	StepDone   Step = iota + 1 // it was applied; if there is an error, only the response was lost
	StepRetry                  // nothing was applied: the same call may succeed later
	StepReject                 // nothing was applied: the content is at fault
	StepAsk                    // the outcome is unknown: look, or let a person decide, before sending it again
	StepAlert                  // nothing was applied: the setup is at fault (key, address, certificate, version), or it is not known what is
)

// String returns "done", "retry", "reject", "ask" or "alert".
func (s Step) String() string {
	switch s {
	case StepDone:
		return "done"
	case StepRetry:
		return "retry"
	case StepReject:
		return "reject"
	case StepAsk:
		return "ask"
	case StepAlert:
		return "alert"
	}
	return "Step(" + strconv.Itoa(int(s)) + ")"
}

// NextStep returns what to do after a call that returned err: one of the five Step
// constants. It asks [OutcomeOf], then [Retryable], then [Rejected]. After a bulk
// run, ask it for the Err of each [BulkFailure].
func NextStep(err error) Step {
	switch outcome := OutcomeOf(err); {
	case outcome == OutcomeApplied:
		return StepDone
	case outcome == OutcomeUnknown:
		return StepAsk
	case Retryable(err):
		return StepRetry
	case Rejected(err):
		return StepReject
	}
	return StepAlert
}

// all reports whether err is made of one or more *Error, and holds is true for each of
// them.
func all(err error, holds func(*Error) bool) bool {
	if err == nil {
		return false
	}
	found := false
	for part := range parts(err) {
		if part == nil || !holds(part) {
			return false
		}
		found = true
	}
	return found
}

// parts yields each *Error that err is made of, and nil for each part that is
// not one.
func parts(err error) iter.Seq[*Error] {
	return func(yield func(*Error) bool) { walk(err, yield) }
}

func walk(err error, yield func(*Error) bool) bool {
	switch e := err.(type) { //nolint:errorlint // it unwraps by itself
	case *Error:
		return yield(e)
	case *BulkError:
		if e.Applied > 0 && !yield(&Error{Outcome: OutcomeApplied}) {
			return false
		}
		for _, part := range e.Unwrap() {
			if !walk(part, yield) {
				return false
			}
		}
		return true
	case interface{ Unwrap() error }:
		return walk(e.Unwrap(), yield)
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if !walk(part, yield) {
				return false
			}
		}
		return true
	default:
		return yield(nil)
	}
}
