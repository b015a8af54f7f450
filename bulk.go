package oakra

import (
	"context"
	"fmt"
)

// BulkOptions tunes [StockService.UpdateAll] and [StockService.ChangeAll]; the
// zero value is good.
type BulkOptions struct {
	// BatchSize is how many records one request writes at most; 0 is 500.
	BatchSize int
	// Concurrency is how many requests are in flight at most; 0 is 4.
	Concurrency int
	// SplitRefused makes ChangeAll send the halves of a batch that was refused
	// (400, 404, 409, 413, 422), and theirs, to find the items at fault. Set it if
	// the server refuses a batch whole; with one that had applied a part of it,
	// that part would count twice. UpdateAll always splits, as its numbers may be
	// sent twice.
	SplitRefused bool
	// OnProgress is called after each request that settled some items, by the
	// goroutine that called UpdateAll or ChangeAll; the run waits for it.
	OnProgress func(BulkProgress)
}

// BulkProgress counts the items of a bulk run: of Total, so many were applied,
// were not, or are unknown so far.
type BulkProgress struct {
	Total, Applied, NotApplied, Unknown int
}

// Done is how many items have met their fate.
func (p BulkProgress) Done() int { return p.Applied + p.NotApplied + p.Unknown }

// BulkError is the error of a bulk run: the fate of every item that is not known
// to be applied. An item that it does not list was applied, also where the
// answer that said so was lost.
type BulkError struct {
	Op       string        // "stock.update" or "stock.change"
	Applied  int           // how many items were applied
	Failures []BulkFailure // all others, by index
}

// BulkFailure is one item of a bulk run that is not known to be applied.
type BulkFailure struct {
	Index   int     // in the slice that was given
	Outcome Outcome // not applied, or unknown
	Err     error   // an *Error; the items of one request share it, and its Fields count the request's records
}

// Error says how many items met which fate, and why the first failed.
func (e *BulkError) Error() string {
	unknown := len(e.Unknown())
	text := fmt.Sprintf("oakra: %s: of %d items %d applied, %d not applied, %d unknown",
		e.Op, e.Applied+len(e.Failures), e.Applied, len(e.Failures)-unknown, unknown)
	if len(e.Failures) > 0 {
		text += fmt.Sprintf("; first, item %d: %v", e.Failures[0].Index, e.Failures[0].Err)
	}
	return text
}

// NotApplied returns the indexes of the items of which nothing was applied. Call
// [Retryable] on each failure's Err to see whether sending it again may help.
func (e *BulkError) NotApplied() []int { return e.indexes(OutcomeNotApplied) }

// Unknown returns the indexes of the items that may have been applied.
func (e *BulkError) Unknown() []int { return e.indexes(OutcomeUnknown) }

func (e *BulkError) indexes(o Outcome) []int {
	var all []int
	for _, f := range e.Failures {
		if f.Outcome == o {
			all = append(all, f.Index)
		}
	}
	return all
}

// Unwrap returns the errors of the failures, those shared by several items once.
func (e *BulkError) Unwrap() []error {
	var all []error
	seen := make(map[error]struct{})
	for _, f := range e.Failures {
		if _, ok := seen[f.Err]; !ok {
			seen[f.Err] = struct{}{}
			all = append(all, f.Err)
		}
	}
	return all
}

// UpdateAll sets any number of quantities, in requests of
// [BulkOptions].BatchSize records, several at a time. Of two updates of one
// record the later wins, and both share its fate. A batch that is refused is
// split to find the items at fault.
//
// The error is nil if every item was applied, else a [*BulkError] that lists each
// item that was not, with one fate. A bad item (see [StockService.Update]) is found
// before anything is sent, and then nothing is. An error that every later request
// would meet stops the run, and the rest is not applied: 401, 403, a redirect, a
// missing route, a host that does not exist or a certificate that is refused, a
// limiter or key source that fails, the end of the context.
//
// A 429 slows down all requests of the run; if it asks to wait longer than
// [RetryPolicy] allows, it stops the run. While one of them has succeeded within a
// minute, it is no attempt that MaxAttempts counts (unless that is 1), up to ten
// times as many.
func (s *StockService) UpdateAll(ctx context.Context, updates []StockUpdate, o BulkOptions) error {
	o.SplitRefused = true
	return bulk(ctx, s, opUpdate, updates, o,
		func(u StockUpdate) int64 { return u.ID },
		func(_, later StockUpdate) (StockUpdate, int) { return later, 0 },
		(*StockService).Update)
}

// ChangeAll changes any number of quantities, in requests of
// [BulkOptions].BatchSize records, several at a time. The changes of one record
// are summed and share one fate. For the error see [StockService.UpdateAll]; no
// change is ever sent twice unless nothing of it was applied.
func (s *StockService) ChangeAll(ctx context.Context, changes []StockChange, o BulkOptions) error {
	return bulk(ctx, s, opChange, changes, o,
		func(c StockChange) int64 { return c.ID },
		func(a, b StockChange) (merged StockChange, carry int) {
			sum := a.QuantityChange + b.QuantityChange
			switch a, b := a.QuantityChange, b.QuantityChange; {
			case a > 0 && b > 0 && sum < 0:
				carry = 1
			case a < 0 && b < 0 && sum >= 0:
				carry = -1
			}
			return StockChange{ID: a.ID, QuantityChange: sum}, carry
		},
		(*StockService).Change)
}
