package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

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
	paced.pace = &pace{open: ctx}
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

	result := &BulkError{Op: op.String(), Applied: progress.Applied}
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
	name := op.String()
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
	result := &BulkError{Op: op.String(), Failures: make([]BulkFailure, n)}
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
	if e == nil || e.Outcome != OutcomeNotApplied || errors.Is(e, ErrNoRoute) {
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
	case ctx.Err() != nil, errors.Is(e, ErrNoRoute):
		return true
	case e.StatusCode == 0: // the host or its certificate, the key source, the limiter
		return e.Outcome == OutcomeNotApplied && e.row.again == none
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
		made:    true,
		row:     row{OutcomeNotApplied, stopped.row.again},
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
