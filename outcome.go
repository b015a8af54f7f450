package oakra

import (
	"context"
	"errors"
	"iter"
	"strconv"
)

// Outcome says what became of a write: whether the stock changed.
type Outcome int

const (
	// OutcomeUnknown: the write may have been applied, or may still be. For a
	// [StockService.Change] read the record, or hand it to a person, before
	// sending it again: sent twice it would count twice. An
	// [StockService.Update] may be sent again as long as its number is the
	// newest.
	OutcomeUnknown Outcome = iota
	// OutcomeNotApplied: nothing of the write was applied. [Retryable] says
	// whether the same call may succeed later.
	OutcomeNotApplied
	// OutcomeApplied: the write was applied. An error with this outcome means
	// that only the answer was lost: do not send it again.
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

// OutcomeOf says whether the write that returned err was applied: nil is
// applied, an [*Error] has its Outcome, a wrapped error that of what it wraps.
// Of a joined error, and of a [*BulkError] with the items that it counts as
// applied, it is what all parts agree on, else unknown, so also where some were
// applied and some not. An error of another package is unknown.
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

// Retryable reports whether nothing was applied and the cause is passing, so
// that the same call may succeed later: no connection was established (but not
// where the host does not exist or its certificate is refused), the context ended
// before anything was applied, a limiter gave up within the context's deadline, or
// 429. For [StockService.List], which applies nothing, also a 408, a 5xx other than
// 501, and a connection that broke. Of a joined error all parts must be so. nil is
// not retryable.
//
// The client may not have waited: wait [Error.RetryAfter], or a little, before
// calling again.
//
// A write that was not applied and is not retryable fails again until something is
// put right: the order, if the error is ErrInvalidRequest, ErrNotFound or
// ErrConflict and the server has a message or names fields; with any other error,
// a List's among them, the program's setup (the app key or its source, the
// address, a certificate), for which no order is to blame.
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	retryable := false
	for part := range parts(err) {
		if part == nil || part.Outcome != OutcomeNotApplied || !part.passing() {
			return false
		}
		retryable = true
	}
	return retryable
}

func (e *Error) passing() bool {
	if errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, errHeldBack) {
		return true
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

// parts yields each *Error that err is made of, and nil for each part that is
// not one.
func parts(err error) iter.Seq[*Error] {
	return func(yield func(*Error) bool) { walk(err, yield) }
}

func walk(err error, yield func(*Error) bool) bool {
	switch e := err.(type) {
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
