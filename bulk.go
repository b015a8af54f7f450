package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/oakra/oakra-go/internal/hold"
)

// BulkOptions tunes [StockService.UpdateAll] and [StockService.ChangeAll]; the
// zero value is good.
type BulkOptions struct {
	// BatchSize is how many records one request writes at most; 0 is 500. If the
	// server turns out to accept fewer, the run finds out how many.
	BatchSize int
	// Concurrency is how many requests are in flight at most; 0 is 4.
	Concurrency int
	// NoSplit turns off the resending of items whose request was rejected because of
	// others. Set it if the server may have applied a part of a request that it
	// rejected: the API reference does not say that it never does, and with NoSplit
	// no item of a rejected request is sent twice.
	NoSplit bool
	// Stop ends the run without an unknown outcome. Once it is closed, no further
	// request begins, all waits end, and the requests in flight finish. What is left
	// is not applied, with an error that matches [ErrStopped]. It is usually the Done
	// channel of the program's signal context, while the call itself gets
	// [context.WithoutCancel] of it.
	Stop <-chan struct{}
	// OutageTimeout is how long the run waits for a service that stops responding; 0
	// is one minute. A negative one ends the run instead.
	OutageTimeout time.Duration
	// OnRecords is called after each successful request with its records as the
	// server then has them. It is called like OnProgress, and before it.
	OnRecords func([]StockRecord)
	// OnProgress is called after each request that settled some items, and when the run
	// starts or stops waiting for the service. The goroutine that called UpdateAll or
	// ChangeAll calls it, and the run waits for it.
	OnProgress func(BulkProgress)
}

// check returns what is wrong with the options of a run.
func (o BulkOptions) check(op operation) *Error {
	if o.BatchSize < 0 || o.Concurrency < 0 {
		return misuse(op.String(), "BulkOptions: BatchSize %d or Concurrency %d is less than zero", o.BatchSize, o.Concurrency)
	}
	return nil
}

func (o BulkOptions) withDefaults() BulkOptions {
	o.BatchSize = cmp.Or(o.BatchSize, 500)
	o.Concurrency = cmp.Or(o.Concurrency, 4)
	o.OutageTimeout = cmp.Or(o.OutageTimeout, hold.Timeout)
	return o
}

// BulkProgress counts the items of a bulk run by their outcome so far.
type BulkProgress struct {
	Total, Applied, NotApplied, Unknown int

	Waiting      bool      // whether the run waits for a service that does not respond
	WaitingSince time.Time // time of the failure that began the wait
	WaitingFor   error     // that failure, an *Error
}

// Done returns how many items have an outcome.
func (p BulkProgress) Done() int { return p.Applied + p.NotApplied + p.Unknown }

// BulkError is the error of a bulk run: the outcome of every item that is not known
// to be applied. An item that it does not list was applied, even where the response
// that said so was lost.
type BulkError struct {
	Op       string        // "stock.update" or "stock.change"
	Applied  int           // number of items that were applied
	Failures []BulkFailure // all others, by index
}

// BulkFailure is one item of a bulk run that is not known to be applied.
type BulkFailure struct {
	Index   int     // in the caller's slice
	Outcome Outcome // not applied, or unknown
	Err     error   // an *Error; the items of one request share it
	// Messages holds what the server says about this item, as in [Error.Items]; it is
	// nil if the server does not name the item. The indexes in Err are those of the
	// request, which had some of the items, and one item for all changes of a record.
	Messages []string
}

// Error says how many items have which outcome, and why the first failed.
func (e *BulkError) Error() string {
	unknown := len(e.Unknown())
	text := fmt.Sprintf("oakra: %s: of %d items %d applied, %d not applied, %d unknown",
		e.Op, e.Applied+len(e.Failures), e.Applied, len(e.Failures)-unknown, unknown)
	if len(e.Failures) > 0 {
		text += fmt.Sprintf("; first, item %d: %v", e.Failures[0].Index, e.Failures[0].Err)
	}
	return text
}

// NotApplied returns the indexes of the items that were not applied. [NextStep] of
// each failure's Err says what to do with it.
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

// UpdateAll sets any number of quantities, in requests of [BulkOptions].BatchSize
// records, several at a time. Of two updates of one record the later wins, and both
// share its outcome.
//
// The error is nil if every item was applied, else a [*BulkError] that lists each
// item that was not; [NextStep] of its Err says what to do with it.
//
//   - A bad item (see [StockService.Update]) is found before anything is sent, and
//     then nothing is.
//   - A request that the server rejects (see [Splittable]) is split, unless
//     [BulkOptions].NoSplit is set: the items that the response names are rejected,
//     and the rest goes again, or both halves if it names none. After ten single
//     items rejected without a name and none applied, the run ends.
//   - When two requests in a row get no response that shows their outcome, or no
//     connection, the run holds: nothing is sent except reads, until the service
//     responds again. After [BulkOptions].OutageTimeout, or if the first writes after
//     the hold fail too, the run ends, and what is left is not applied and [Retryable].
//   - A failure that every later request would meet ends the run: 401, 403 and other
//     rejections of no item, a redirect, [ErrNoRoute], a host that does not exist or a
//     bad certificate, a limiter or key source that fails, the end of the context.
//   - A 429 slows down all requests of the run; if it asks for a longer wait than
//     [RetryPolicy] allows, it ends the run. If one of them has succeeded within the
//     last minute, MaxAttempts does not count the 429 as an attempt (unless MaxAttempts
//     is 1), up to ten times as many.
//
// A panic in a transport, an observer or the like becomes a panic of UpdateAll.
func (s *StockService) UpdateAll(ctx context.Context, updates []StockUpdate, o BulkOptions) error {
	return bulk(ctx, s, opUpdate, updates, o,
		func(u StockUpdate) int64 { return u.ID },
		func(_, later StockUpdate) (StockUpdate, int) { return later, 0 },
		(*StockService).Update)
}

// ChangeAll changes any number of quantities, in requests of
// [BulkOptions].BatchSize records, several at a time. The changes of one record
// are summed and share one outcome. For the error see [StockService.UpdateAll]. No
// change is sent twice unless nothing of it was applied; that a rejected request was
// rejected as a whole is assumed, unless [BulkOptions].NoSplit is set.
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

// bulk merges all items of one record into one, so that no two requests of the run
// write the same record and none can overtake another, and sends them.
func bulk[T any](ctx context.Context, s *StockService, op operation, items []T, o BulkOptions,
	idOf func(T) int64, merge func(earlier, later T) (T, int),
	write func(*StockService, context.Context, []T) ([]StockRecord, error),
) error {
	if len(items) == 0 {
		return nil
	}
	if err := o.check(op); err != nil {
		return nothingSent(op, len(items), func(int) *Error { return err })
	}
	merged, of, bad, err := mergeItems(op, items, idOf, merge)
	if err != nil {
		others := notSent(op, "another item is invalid", err)
		others.row.again = adds
		return nothingSent(op, len(items), func(i int) *Error {
			if idOf(items[i]) == bad {
				return err
			}
			return others
		})
	}
	r := newBulkRun(ctx, s, op, o.withDefaults(), len(merged))
	r.idOf = func(item int32) int64 { return idOf(merged[item]) }
	r.send = func(ctx context.Context, batch []int32) ([]StockRecord, error) {
		picked := make([]T, len(batch))
		for i, item := range batch {
			picked[i] = merged[item]
		}
		return write(r.service, ctx, picked)
	}
	for _, item := range of {
		r.weights[item]++
	}
	r.progress.Total = len(items)
	r.run()
	return r.failures(of)
}

// mergeItems checks the items and merges those of one record, in the order of their
// first; of[i] is the merged item of items[i]. After an error, the items with the id
// bad are at fault.
func mergeItems[T any](op operation, items []T, idOf func(T) int64, merge func(earlier, later T) (T, int)) (merged []T, of []int32, bad int64, err *Error) {
	name := op.String()
	if len(items) > math.MaxInt32 {
		return nil, nil, 0, misuse(name, "%d items are too many for one run", len(items))
	}
	at := make(map[int64]int32, len(items))
	of = make([]int32, len(items))
	carries := make(map[int32]int) // out of 64 bits, by merged item; a later item may take it back
	for i, item := range items {
		id := idOf(item)
		if id <= 0 {
			return nil, nil, id, invalid(name, "item %d: the id %d must be positive", i, id)
		}
		m, ok := at[id]
		if !ok {
			m = int32(len(merged))
			at[id] = m
			merged = append(merged, item)
		} else {
			var carry int
			if merged[m], carry = merge(merged[m], item); carry != 0 {
				carries[m] += carry
			}
		}
		of[i] = m
	}
	for i, m := range of {
		if id := idOf(items[i]); carries[m] != 0 {
			return nil, nil, id, invalid(name, "item %d: with the others of id %d it adds up to more than 64 bits hold", i, id)
		}
	}
	return merged, of, 0, nil
}

// nothingSent returns the error of a run of n items that did not begin.
func nothingSent(op operation, n int, errOf func(i int) *Error) error {
	result := &BulkError{Op: op.String(), Failures: make([]BulkFailure, n)}
	for i := range result.Failures {
		result.Failures[i] = BulkFailure{Index: i, Outcome: OutcomeNotApplied, Err: errOf(i)}
	}
	return result
}

// notSent returns the error of items that are not sent because of cause, whose message
// follows why.
func notSent(op operation, why string, cause error) *Error {
	e := &Error{
		Op:      op.String(),
		Outcome: OutcomeNotApplied,
		made:    true,
		row:     row{OutcomeNotApplied, none},
	}
	if Retryable(cause) {
		e.row.again = adds
	}
	var failure *Error
	if errors.As(cause, &failure) {
		e.StatusCode, e.RetryAfter = failure.StatusCode, failure.RetryAfter
		switch {
		case failure.Message != "":
			why += ": " + failure.Message
		case failure.StatusCode == 0 && failure.Err != nil:
			why += ": " + failure.Err.Error()
		}
	}
	e.Err = &notSentError{"not sent: " + why, cause}
	return e
}

// notSentError does not repeat the whole text of its cause, whose advice is about
// the items of another request.
type notSentError struct {
	text  string
	cause error
}

func (e *notSentError) Error() string { return e.text }
func (e *notSentError) Unwrap() error { return e.cause }
