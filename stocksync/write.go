package stocksync

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/oakra/oakra-go"
)

// request holds the steps of a failed request that are not decided yet.
type request struct {
	kind      kind
	steps     []int
	confirmed int   // number of its other steps that the response showed as written
	named     []int // steps of the same call that a rejection names
}

// kind says how a request failed.
type kind int

const (
	lost     kind = iota // outcome unknown
	passing              // not applied, for a temporary reason
	innocent             // rejected because of other records, which the response names
	nameless             // rejected by a response that names no record
	decided              // not applied, for a reason that does not pass by itself
)

// write sends the steps of a parcel, decides those whose outcome is certain, and
// returns the others grouped by request.
func (r *run) write(ctx context.Context, p parcel) []request {
	shown := make(map[int64]oakra.StockRecord)
	show := func(records []oakra.StockRecord) {
		for _, record := range records {
			shown[record.ID] = record
		}
	}
	err := r.call(ctx, p.steps, oakra.BulkOptions{
		BatchSize:     r.size(),
		Concurrency:   r.options.Concurrency,
		NoSplit:       r.options.Mode == ByChange,
		Stop:          r.options.Stop,
		OutageTimeout: r.options.OutageTimeout,
		OnRecords:     show,
		OnProgress: func(bulk oakra.BulkProgress) {
			r.options.report(Progress{
				Writing, r.synced + bulk.Applied, len(r.steps),
				bulk.Waiting, bulk.WaitingSince, bulk.WaitingFor,
			})
		},
	})
	failures := failuresOf(err, len(p.steps))
	failed := make(map[int]bool, len(failures))
	for _, f := range failures {
		failed[p.steps[f.Index]] = true
		show(provenRecords(f.Err))
	}
	for _, i := range p.steps {
		r.results[i].Seen = nil
		if !failed[i] {
			r.accept(i, shown)
		}
	}
	return r.sort(p, failures)
}

// call sends steps by the method of the run's mode.
func (r *run) call(ctx context.Context, steps []int, o oakra.BulkOptions) error {
	if r.options.Mode == ByUpdate {
		updates := make([]oakra.StockUpdate, len(steps))
		for n, i := range steps {
			updates[n] = oakra.StockUpdate{ID: r.steps[i].ID, Quantity: r.steps[i].To}
		}
		return r.stock.UpdateAll(ctx, updates, o)
	}
	changes := make([]oakra.StockChange, len(steps))
	for n, i := range steps {
		d, _ := difference(r.steps[i])
		changes[n] = oakra.StockChange{ID: r.steps[i].ID, QuantityChange: d}
	}
	return r.stock.ChangeAll(ctx, changes, o)
}

// accept decides a step that was applied, by the record in the response.
func (r *run) accept(i int, shown map[int64]oakra.StockRecord) {
	step, result := r.steps[i], &r.results[i]
	record, ok := shown[step.ID]
	if result.Seen = nil; ok {
		result.Seen = &record.Quantity
	}
	switch {
	case ok && record.SKU != step.Key.SKU:
		r.decide(i, Unknown, fmt.Errorf("the response names SKU %.60q for the ID %d", record.SKU, step.ID))
	case ok && r.options.Mode == ByUpdate && record.Quantity != step.To:
		r.decide(i, Differs, fmt.Errorf("it was set to %d, and the response shows %d", step.To, record.Quantity))
	default:
		r.decide(i, Synced, nil)
	}
}

// sort decides the failures that are certain, and returns the others grouped by
// request.
func (r *run) sort(p parcel, failures []oakra.BulkFailure) (left []request) {
	var named []int
	for _, f := range failures {
		if f.Messages != nil {
			named = append(named, p.steps[f.Index])
		}
	}
	var requests []request
	at := make(map[error]int) // the items of a request share their error
	for _, f := range failures {
		i := p.steps[f.Index]
		k := r.kindOf(f, len(named) > 0)
		switch {
		case f.Outcome == oakra.OutcomeUnknown:
			r.decide(i, Unknown, f.Err)
		case k == decided && oakra.Rejected(f.Err):
			r.decide(i, Rejected, f.Err)
			continue
		default:
			r.decide(i, NotTried, f.Err)
			if k == decided {
				r.ended = true
				continue
			}
		}
		var e *oakra.Error
		n, seen := -1, false
		if errors.As(f.Err, &e) {
			n, seen = at[e]
		}
		if !seen {
			n = len(requests)
			requests = append(requests, request{kind: k, confirmed: len(provenRecords(f.Err)), named: named})
			if e != nil {
				at[e] = n
			}
		}
		requests[n].steps = append(requests[n].steps, i)
	}
	for _, q := range requests {
		if q.kind == nameless && (len(q.steps) == 1 || r.options.Mode == ByUpdate) {
			for _, i := range q.steps {
				r.rejectSingle(i, p.part)
			}
			continue
		}
		left = append(left, q)
	}
	return left
}

// kindOf returns how the request of an item failed. The argument named says whether
// any rejection in the same call names an item.
func (r *run) kindOf(f oakra.BulkFailure, named bool) kind {
	switch {
	case f.Outcome == oakra.OutcomeUnknown:
		return lost
	case oakra.Rejected(f.Err) && (f.Messages != nil || r.options.Mode == ByUpdate):
		return decided
	case named && isInnocent(f.Err):
		return innocent
	case oakra.Retryable(f.Err):
		return passing
	case oakra.Rejected(f.Err), oakra.Splittable(f.Err):
		return nameless
	}
	return decided
}

// isInnocent reports whether err is the error of items whose request was rejected
// because of others. Such a request was sent, and err has no status.
func isInnocent(err error) bool {
	var e *oakra.Error
	return errors.As(err, &e) && e.StatusCode == 0 && e.Attempts > 0 && oakra.Retryable(err) && !errors.Is(err, oakra.ErrUnreachable)
}

// provenRecords returns the records that were certainly written by a request that
// failed with err. The records of a 207 only show what Oakra has now, and prove
// nothing.
func provenRecords(err error) []oakra.StockRecord {
	var e *oakra.Error
	if !errors.As(err, &e) || e.StatusCode == http.StatusMultiStatus {
		return nil
	}
	return e.Records
}

// failuresOf returns the items that a bulk run of n items did not apply.
func failuresOf(err error, n int) []oakra.BulkFailure {
	var failures []oakra.BulkFailure
	var bulk *oakra.BulkError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &bulk):
		failures = slices.Clone(bulk.Failures)
	default:
		for i := range n {
			failures = append(failures, oakra.BulkFailure{Index: i, Outcome: oakra.OutcomeOf(err), Err: err})
		}
	}
	return slices.DeleteFunc(failures, func(f oakra.BulkFailure) bool { return f.Outcome == oakra.OutcomeApplied })
}
