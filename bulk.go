package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"sync"
	"time"
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
// map.
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
	// (400, 404, 409, 413, 422), to find the items at fault. Set it if the server
	// refuses a batch whole; with one that had applied a part of it, that part
	// would count twice. UpdateAll always does so.
	SplitRefused bool
	// OnProgress is called after each request that settled some items, by one
	// goroutine at a time; the run waits for it.
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
	Err     error   // an *Error; the items of one request share it
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

// NotApplied returns the indexes of the items of which nothing was applied.
// Whether sending them again may help, [Retryable] says of each failure.
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
// The error is nil if every item was applied, else a [*BulkError] that gives
// each item that was not exactly one fate. A bad item (see
// [StockService.Update]) is found before anything is sent, and then nothing is.
// An error that every later request would meet stops the run, and the rest is
// not applied: 401, 403, a redirect, a missing route, a host or certificate that
// is refused, the end of the context. A 429 slows down all requests of the run.
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
		op:       op,
		options:  o,
		service:  &StockService{client: &paced},
		idOf:     idOf,
		write:    write,
		fates:    make([]fate, len(merged)),
		weights:  make([]int, len(merged)),
		progress: BulkProgress{Total: len(items)},
	}
	for _, m := range of {
		run.weights[m]++
	}
	run.do(ctx, merged)

	result := &BulkError{Op: operations[op].name}
	for i, m := range of {
		if f := run.fates[m]; f.outcome == OutcomeApplied {
			result.Applied++
		} else {
			result.Failures = append(result.Failures, BulkFailure{Index: i, Outcome: f.outcome, Err: f.err})
		}
	}
	if len(result.Failures) == 0 {
		return nil
	}
	return result
}

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

type bulkRun[T any] struct {
	op      operation
	options BulkOptions
	service *StockService
	idOf    func(T) int64
	write   func(*StockService, context.Context, []T) ([]StockRecord, error)
	fates   []fate // by merged item; each is written by the one request that holds it
	weights []int  // how many items were merged into one

	mu       sync.Mutex
	progress BulkProgress
	stopped  *Error // of the items left, once no further request is made
	refused  int    // records that were refused in a request of their own, of batches that are done
}

const (
	// After so many records that were refused one by one, and none accepted, the
	// server seems to refuse all there are: a refused batch is then cut no more
	// than so often, which still finds a few bad items among good ones.
	hopelessAfter = 100
	hopelessCuts  = 3
)

// part is what one request writes: a batch, or what it was cut into.
type part struct {
	from, to int // of the merged items
	cuts     int
	refusal  *Error // of the part that it was cut from
}

// do sends all batches, each by one of the workers.
func (r *bulkRun[T]) do(ctx context.Context, merged []T) {
	size := min(cmp.Or(r.options.BatchSize, 500), len(merged))
	batches := make(chan part)
	var workers sync.WaitGroup
	for range min(cmp.Or(r.options.Concurrency, 4), (len(merged)+size-1)/size) {
		workers.Go(func() {
			for b := range batches {
				r.batch(ctx, merged, b)
			}
		})
	}
	for from := 0; from < len(merged); from += size {
		batches <- part{from: from, to: min(from+size, len(merged))}
	}
	close(batches)
	workers.Wait()
}

// batch writes a batch in one request or, if it is refused and may be split, in
// several: the larger parts first, since what becomes of them tells whether the
// smaller are worth a request.
func (r *bulkRun[T]) batch(ctx context.Context, merged []T, whole part) {
	alone := 0 // records refused in a request of their own
	for parts := []part{whole}; len(parts) > 0; {
		p := parts[0]
		parts = parts[1:]
		if e := r.givenUp(p); e != nil {
			r.settle(p, func(int) fate { return fate{OutcomeNotApplied, e} })
			continue
		}
		_, err := r.write(r.service, ctx, merged[p.from:p.to])
		var e *Error
		errors.As(err, &e)
		switch refused := e != nil && refusesItems(e); {
		case refused && p.to-p.from == 1:
			alone++
		case refused && r.options.SplitRefused:
			middle := p.from + (p.to-p.from)/2
			parts = append(parts, part{p.from, middle, p.cuts + 1, e}, part{middle, p.to, p.cuts + 1, e})
			continue
		}
		r.take(ctx, merged, p, e)
	}
	r.mu.Lock()
	r.refused += alone
	r.mu.Unlock()
}

// givenUp returns why a part is not sent, if it is not.
func (r *bulkRun[T]) givenUp(p part) *Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopped != nil:
		return r.stopped
	case p.cuts > hopelessCuts && r.refused >= hopelessAfter && r.progress.Applied == 0:
		return p.refusal
	}
	return nil
}

// take settles a part by what came of its request.
func (r *bulkRun[T]) take(ctx context.Context, merged []T, p part, e *Error) {
	if e == nil {
		r.settle(p, func(int) fate { return fate{OutcomeApplied, nil} })
		return
	}
	if r.stops(ctx, e) {
		r.mu.Lock()
		if r.stopped == nil {
			r.stopped = notSent(ctx, e)
		}
		r.mu.Unlock()
	}
	here := make(map[int64]bool, len(e.Records))
	for _, record := range e.Records {
		here[record.ID] = true
	}
	r.settle(p, func(i int) fate {
		if here[r.idOf(merged[i])] {
			return fate{OutcomeApplied, nil}
		}
		return fate{e.Outcome, e}
	})
}

// settle notes the fate of a part's items and reports progress.
func (r *bulkRun[T]) settle(p part, fateOf func(int) fate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := p.from; i < p.to; i++ {
		f := fateOf(i)
		r.fates[i] = f
		switch f.outcome {
		case OutcomeApplied:
			r.progress.Applied += r.weights[i]
		case OutcomeNotApplied:
			r.progress.NotApplied += r.weights[i]
		default:
			r.progress.Unknown += r.weights[i]
		}
	}
	if r.options.OnProgress != nil {
		r.options.OnProgress(r.progress)
	}
}

// refusesItems reports whether a refusal may be for some of the items only.
func refusesItems(e *Error) bool {
	if e.Outcome != OutcomeNotApplied || errors.Is(e, errNoRoute) {
		return false
	}
	switch e.StatusCode {
	case 400, 404, 409, 413, 422:
		return true
	}
	return false
}

// stops reports whether every later request would fail alike.
func (r *bulkRun[T]) stops(ctx context.Context, e *Error) bool {
	switch {
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

// notSentError does not repeat the text of its cause, whose advice is about the
// items of another request.
type notSentError struct{ cause error }

func (e *notSentError) Error() string {
	text := "not sent, since an earlier request of the run failed"
	if stopped, ok := e.cause.(*Error); !ok {
		text += ": " + e.cause.Error()
	} else if stopped.StatusCode != 0 {
		text += fmt.Sprintf(" with status %d", stopped.StatusCode)
	}
	return text
}

func (e *notSentError) Unwrap() error { return e.cause }

// pace holds back the requests of one bulk run after a 429: all of them for as
// long as the server asks, and then one after the other with a gap that shrinks
// with each success.
type pace struct {
	mu    sync.Mutex
	until time.Time // no request starts before
	next  time.Time // when the next request may start
	gap   time.Duration
}

const (
	minGap = 10 * time.Millisecond
	maxGap = time.Second
)

// wait returns when a request may start, or an error if the context will have
// ended by then.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		now := time.Now()
		start := now
		if p.next.After(now) {
			start = p.next
		}
		if p.gap > 0 {
			p.next = start.Add(p.gap)
		}
		p.mu.Unlock()
		if start.After(now) {
			if deadline, ok := ctx.Deadline(); ok && deadline.Before(start) {
				return fmt.Errorf("the server slows the run beyond the context's deadline: %w", context.DeadlineExceeded)
			}
			timer := time.NewTimer(start.Sub(now))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return contextError(ctx)
			}
		}
		p.mu.Lock()
		held := p.until.After(time.Now()) // by a 429 that came meanwhile
		p.mu.Unlock()
		if !held {
			return nil
		}
	}
}

// slow takes a 429 that asks to wait.
func (p *pace) slow(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = min(max(2*p.gap, minGap), maxGap)
	if until := time.Now().Add(wait); until.After(p.until) {
		p.until, p.next = until, until
	}
}

// ease takes a success.
func (p *pace) ease() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gap /= 2; p.gap < minGap {
		p.gap = 0
	}
}
