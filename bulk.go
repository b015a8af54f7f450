package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"sync/atomic"
)

// StockKey is what a shop knows a stock record by; writes need its ID, which
// [StockService.Lookup] finds.
type StockKey struct{ SKU, LocationID string }

// Key returns the SKU and the location of r.
func (r StockRecord) Key() StockKey { return StockKey{SKU: r.SKU, LocationID: r.LocationID} }

// listsInFlight is how many requests ListSeq has under way.
const listsInFlight = 4

// ListSeq is [StockService.List] for any number of SKUs: it yields the records as
// they come, in the same order, with up to four requests in flight and no more
// than their answers in memory. After the first error, which is yielded with a
// zero record, it ends. After a break, nothing is left running.
func (s *StockService) ListSeq(ctx context.Context, params StockListParams) iter.Seq2[StockRecord, error] {
	return func(yield func(StockRecord, error) bool) {
		skus, fixed, err := s.checkList(params)
		if err != nil {
			yield(StockRecord{}, err)
			return
		}
		type answer struct {
			records []StockRecord
			err     error
		}
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		var pending []chan answer // in the order of the SKUs
		start := func() {
			n, done := fitting(skus, fixed), make(chan answer, 1)
			batch := skus[:n]
			skus, pending = skus[n:], append(pending, done)
			running.Go(func() {
				records, err := s.list(ctx, batch, params.LocationID)
				done <- answer{records, err}
			})
		}
		for len(skus) > 0 && len(pending) < listsInFlight {
			start()
		}
		for len(pending) > 0 {
			next := <-pending[0]
			pending = pending[1:]
			if next.err != nil {
				yield(StockRecord{}, next.err)
				return
			}
			if len(skus) > 0 {
				start()
			}
			for _, record := range next.records {
				if !yield(record, nil) {
					return
				}
			}
		}
	}
}

// Lookup finds the records of keys, with the requests of [StockService.ListSeq].
// A key that Oakra does not know is absent from the map. No keys give an empty
// map. Keys at several locations read the SKUs at all locations.
//
// Errors: [ErrInvalidRequest] if a key has a blank SKU or no location,
// [ErrBadResponse] if Oakra has two records for one key, otherwise as for List.
func (s *StockService) Lookup(ctx context.Context, keys []StockKey) (map[StockKey]StockRecord, error) {
	found := make(map[StockKey]StockRecord, len(keys))
	if len(keys) == 0 {
		return found, nil
	}
	op := operations[opList].name
	wanted := make(map[StockKey]struct{}, len(keys))
	params := StockListParams{SKUs: make([]string, len(keys)), LocationID: keys[0].LocationID}
	for i, key := range keys {
		if key.LocationID == "" {
			return nil, invalid(op, "keys[%d], SKU %.40q, has no location", i, key.SKU)
		}
		if key.LocationID != params.LocationID {
			params.LocationID = "" // several: ask for all
		}
		params.SKUs[i] = key.SKU
		wanted[key] = struct{}{}
	}
	for record, err := range s.ListSeq(ctx, params) {
		if err != nil {
			return nil, err
		}
		key := record.Key()
		if _, ok := wanted[key]; !ok {
			continue
		}
		if other, ok := found[key]; ok && other.ID != record.ID {
			return nil, &Error{
				Op:      op,
				Message: fmt.Sprintf("SKU %q at %q has two records, %d and %d", key.SKU, key.LocationID, other.ID, record.ID),
				Outcome: OutcomeNotApplied,
				Err:     ErrBadResponse,
				resend:  resendNever,
			}
		}
		found[key] = record
	}
	return found, nil
}

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

// bulk sends items in batches. All items of one record are merged into one
// before, so that no two requests of the run write the same record and none can
// overtake another.
func bulk[T any](ctx context.Context, s *StockService, op operation, items []T, o BulkOptions,
	idOf func(T) int64, merge func(earlier, later T) (T, int),
	write func(*StockService, context.Context, []T) ([]StockRecord, error),
) error {
	if len(items) == 0 {
		return nil
	}
	merged, of, err := mergeItems(op, items, o, idOf, merge)
	if err != nil {
		return refuseAll(op, len(items), err)
	}
	paced := *s.client
	paced.pace = &pace{}
	run := bulkRun[T]{
		options: o,
		service: &StockService{client: &paced},
		items:   merged,
		write:   write,
		settled: make(chan part),
		noted:   make(chan struct{}),
	}
	run.start(ctx)
	defer run.end() // also if OnProgress panics

	fates := make([]fate, len(merged))
	weights := make([]int, len(merged)) // how many items were merged into one
	for _, m := range of {
		weights[m]++
	}
	progress := BulkProgress{Total: len(items)}
	for p := range run.settled {
		fateOf := p.fates()
		for i := p.from; i < p.to; i++ {
			fates[i] = fateOf(idOf(merged[i]))
			switch n := weights[i]; fates[i].outcome {
			case OutcomeApplied:
				progress.Applied += n
			case OutcomeNotApplied:
				progress.NotApplied += n
			default:
				progress.Unknown += n
			}
		}
		if o.OnProgress != nil {
			o.OnProgress(progress)
		}
		run.noted <- struct{}{}
	}

	result := &BulkError{Op: operations[op].name, Applied: progress.Applied}
	for i, m := range of {
		if f := fates[m]; f.outcome != OutcomeApplied {
			if f.err == nil { // no part with it was settled
				f.err = &Error{Op: result.Op, Err: errGoexit}
			}
			result.Failures = append(result.Failures, BulkFailure{Index: i, Outcome: f.outcome, Err: f.err})
		}
	}
	if len(result.Failures) == 0 {
		return nil
	}
	return result
}

var errGoexit = errors.New("a goroutine of the run ended early: the transport, a limiter or a key source called runtime.Goexit, or a test's FailNow")

// mergeItems checks the items and merges those of one record, in the order of
// their first; of[i] is where items[i] went.
func mergeItems[T any](op operation, items []T, o BulkOptions, idOf func(T) int64, merge func(earlier, later T) (T, int)) (merged []T, of []int32, err *Error) {
	name := operations[op].name
	switch {
	case o.BatchSize < 0 || o.Concurrency < 0:
		return nil, nil, invalid(name, "BulkOptions: BatchSize %d or Concurrency %d is less than zero", o.BatchSize, o.Concurrency)
	case len(items) > math.MaxInt32:
		return nil, nil, invalid(name, "%d items are too many for one run", len(items))
	}
	at := make(map[int64]int32, len(items))
	of = make([]int32, len(items))
	carries := make(map[int32]int) // out of 64 bits, by merged item; a later item may take it back
	for i, item := range items {
		id := idOf(item)
		if id <= 0 {
			return nil, nil, invalid(name, "item %d: the id %d is not more than 0", i, id)
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
		if carries[m] != 0 {
			return nil, nil, invalid(name, "item %d: with the others of id %d it adds up to more than 64 bits hold", i, idOf(items[i]))
		}
	}
	return merged, of, nil
}

func refuseAll(op operation, n int, err *Error) error {
	result := &BulkError{Op: operations[op].name, Failures: make([]BulkFailure, n)}
	for i := range result.Failures {
		result.Failures[i] = BulkFailure{Index: i, Outcome: OutcomeNotApplied, Err: err}
	}
	return result
}

// fate is what became of one merged item.
type fate struct {
	outcome Outcome
	err     *Error
}

// bulkRun sends merged items.
type bulkRun[T any] struct {
	options BulkOptions
	service *StockService
	items   []T
	write   func(*StockService, context.Context, []T) ([]StockRecord, error)
	settled chan part
	noted   chan struct{}         // a worker goes on when the part that it settled is noted
	stopped atomic.Pointer[Error] // of the items left, once no further request is made
}

// part is some items whose request has ended.
type part struct {
	from, to int
	err      *Error // nil if they were applied
}

// start sends all items; every part of them comes out of r.settled.
func (r *bulkRun[T]) start(ctx context.Context) {
	size := min(cmp.Or(r.options.BatchSize, 500), len(r.items))
	batches := (len(r.items) + size - 1) / size
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(cmp.Or(r.options.Concurrency, 4), batches) {
		workers.Go(func() {
			for n := int(next.Add(1)); n <= batches; n = int(next.Add(1)) {
				r.batch(ctx, part{from: (n - 1) * size, to: min(n*size, len(r.items))})
			}
		})
	}
	go func() {
		workers.Wait()
		close(r.settled)
	}()
}

// end waits for the requests in flight; no others are made.
func (r *bulkRun[T]) end() {
	r.stopped.CompareAndSwap(nil, &Error{})
	close(r.noted)
	for range r.settled {
	}
}

// batch writes a part in one request or, if it is refused and may be split, in
// several.
func (r *bulkRun[T]) batch(ctx context.Context, p part) {
	if p.err = r.stopped.Load(); p.err == nil {
		_, err := r.write(r.service, ctx, r.items[p.from:p.to])
		errors.As(err, &p.err)
		if p.to-p.from > 1 && r.options.SplitRefused && refusesItems(p.err) {
			middle := p.from + (p.to-p.from)/2
			r.batch(ctx, part{from: p.from, to: middle})
			r.batch(ctx, part{from: middle, to: p.to})
			return
		}
		if r.stops(ctx, p.err) {
			r.stopped.CompareAndSwap(nil, notSent(ctx, p.err))
		}
	}
	r.settled <- p
	<-r.noted
}

// fates returns a function that tells the fate of the record with an id.
func (p part) fates() func(id int64) fate {
	if p.err == nil {
		return func(int64) fate { return fate{OutcomeApplied, nil} }
	}
	written := make(map[int64]bool, len(p.err.Records))
	for _, record := range p.err.Records {
		written[record.ID] = true
	}
	return func(id int64) fate {
		if written[id] {
			return fate{OutcomeApplied, nil}
		}
		return fate{p.err.Outcome, p.err}
	}
}

// refusesItems reports whether a refusal may be for some of the items only. A 404
// that says nothing is rather a proxy's, or that of a server just restarting.
func refusesItems(e *Error) bool {
	if e == nil || e.Outcome != OutcomeNotApplied || errors.Is(e, errNoRoute) {
		return false
	}
	switch e.StatusCode {
	case 400, 409, 413, 422:
		return true
	case 404:
		return e.Message != "" || e.Fields != nil
	}
	return false
}

// stops reports whether every later request would fail alike.
func (r *bulkRun[T]) stops(ctx context.Context, e *Error) bool {
	switch {
	case e == nil:
		return false
	case ctx.Err() != nil, errors.Is(e, errNoRoute):
		return true
	case e.StatusCode == 0: // the host or its certificate, the key source, the limiter
		return e.Outcome == OutcomeNotApplied && e.resend == resendNever
	case e.StatusCode == 429:
		return e.RetryAfter > r.service.client.retry.MaxRetryAfter
	}
	return e.StatusCode == 401 || e.StatusCode == 403 || e.StatusCode/100 == 3
}

// notSent is the error of items that were left out after the run was stopped.
func notSent(ctx context.Context, stopped *Error) *Error {
	return &Error{
		Op:      stopped.Op,
		Outcome: OutcomeNotApplied,
		Err:     &notSentError{cmp.Or[error](contextError(ctx), stopped)},
		resend:  stopped.resend,
	}
}

// notSentError does not repeat the whole text of its cause, whose advice is about
// the items of another request.
type notSentError struct{ cause error }

func (e *notSentError) Error() string {
	const text = "not sent, since an earlier request of the run failed"
	stopped, ok := e.cause.(*Error)
	switch {
	case !ok:
		return text + ": " + e.cause.Error()
	case stopped.StatusCode != 0:
		return fmt.Sprintf("%s with status %d", text, stopped.StatusCode)
	case stopped.Err != nil:
		return text + ": " + stopped.Err.Error()
	}
	return text
}

func (e *notSentError) Unwrap() error { return e.cause }
