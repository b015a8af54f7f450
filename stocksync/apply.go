package stocksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
)

// Status says how a target ended.
type Status int

const (
	// NotTried means that nothing was applied, and the target itself is not at fault: the
	// run was stopped before its turn, or the cause is a passing one, such as 429
	// or no connection, that lasted for all rounds.
	NotTried Status = iota
	// Synced means that Oakra had the target's quantity when it was read, or the step was
	// applied. A change was applied exactly once (except in the case that the
	// package comment describes), which leaves the record at the target minus what
	// was sold meanwhile.
	Synced
	// NotFound means that Oakra has no such SKU at that location. Nothing was written.
	NotFound
	// Rejected means that nothing was applied, and trying again will not help: Oakra rejected
	// the record (400, 404, 409, 413, 422) or has several for the key, there is
	// another target for it, or the difference does not fit into 64 bits.
	Rejected
	// Unknown means that the step may have been applied, or may still be. A change was
	// applied at most once, with the same exception.
	Unknown
)

// String returns "not tried", "synced", "not found", "rejected" or "unknown".
func (s Status) String() string {
	switch s {
	case NotTried:
		return "not tried"
	case Synced:
		return "synced"
	case NotFound:
		return "not found"
	case Rejected:
		return "rejected"
	case Unknown:
		return "unknown"
	}
	return "Status(" + strconv.Itoa(int(s)) + ")"
}

// Result says how one target ended.
type Result struct {
	Target
	ID     int64 // of the record; 0 if the target was no step of the plan
	Status Status
	Err    error // why; nil for Synced, and for NotFound unless there is a similar key

	// Seen is the quantity that Oakra had when the record was last read; nil if it
	// was not read since it was last sent.
	Seen *int64
}

// Report has one result for each target of a plan: those of its Steps in their
// order, then Equal, NotFound, Ambiguous and Conflicts. A conflict has one for each of its
// quantities.
type Report struct {
	Results []Result
}

// Count returns how many results have the status.
func (r *Report) Count(s Status) int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Status == s {
			n++
		}
	}
	return n
}

// Apply does the plan's steps and no others, as the package comment says. A batch
// that is rejected is cut in halves to find the records at fault; that rests on
// the assumption of package oakra that a rejected request has applied nothing.
//
// The report is never nil. The error is ErrNoneKnown if there are targets and all
// are NotFound, and nil if all are Synced or NotFound. Otherwise it says how many
// have which status and what to do; it wraps ErrIncomplete and the Err of the
// first result with the gravest status (Unknown before NotTried before Rejected),
// an [*oakra.Error] unless this package rejected the target.
//
// With other errors nothing was sent, and all steps are NotTried: ErrTooManySteps;
// ErrApplied, if the plan was applied before, with any result; an error for a step
// whose ID is not positive, or is that of another step.
//
// When the context ends, so does the run: requests in flight are Unknown, what was
// not sent is NotTried, and nothing is waited for or read again. A program that
// shuts down should rather let Apply end.
func (p *Plan) Apply(ctx context.Context) (*Report, error) {
	if err := p.begin(); err != nil {
		return p.report(p.notTried(err), err), err
	}
	r := run{stock: p.stock, options: p.options, steps: p.Steps, results: p.notTried(nil)}
	r.do(ctx)
	report := p.report(r.results, nil)
	return report, report.err(p.options)
}

// begin rejects a plan that must not be applied.
func (p *Plan) begin() error {
	if p.stock == nil {
		return errors.New("stocksync: the plan is not one that Compare returned")
	}
	if err := p.tooMany(); err != nil {
		return err
	}
	first := make(map[int64]int, len(p.Steps))
	for i, step := range p.Steps {
		if step.ID <= 0 {
			return fmt.Errorf("stocksync: Steps[%d]: the ID %d must be positive; nothing was written", i, step.ID)
		}
		if at, twice := first[step.ID]; twice {
			return fmt.Errorf("stocksync: Steps[%d]: the ID %d was given before, in Steps[%d]; nothing was written", i, step.ID, at)
		}
		first[step.ID] = i
	}
	if p.applied.Swap(true) {
		return ErrApplied
	}
	return nil
}

// notTried are results of the steps before anything is sent.
func (p *Plan) notTried(err error) []Result {
	results := make([]Result, len(p.Steps))
	for i, step := range p.Steps {
		t := Target{SKU: step.Key.SKU, LocationID: step.Key.LocationID, Quantity: step.To}
		results[i] = Result{Target: t, ID: step.ID, Status: NotTried, Err: err, Seen: &step.From}
	}
	return results
}

// report adds to the results of the steps those of all other targets.
func (p *Plan) report(results []Result, err error) *Report {
	for _, t := range p.Equal {
		results = append(results, Result{Target: t, Status: Synced, Seen: &t.Quantity})
	}
	for _, t := range p.NotFound {
		result := Result{Target: t, Status: NotFound}
		if similar, ok := p.Similar[t.Key()]; ok {
			result.Err = fmt.Errorf("there is SKU %.60q at %.60q, which differs only in case", similar.SKU, similar.LocationID)
		}
		results = append(results, result)
	}
	for _, a := range p.Ambiguous {
		ids := make([]int64, len(a.Records))
		for i, record := range a.Records {
			ids[i] = record.ID
		}
		results = append(results, Result{Target: a.Target, Status: Rejected, Err: fmt.Errorf("there are %d records for it in Oakra, with the IDs %d", len(ids), ids)})
	}
	for _, c := range p.Conflicts {
		why := fmt.Errorf("given %d times, and SumDuplicates is not set", len(c.Quantities))
		if p.options.SumDuplicates {
			why = fmt.Errorf("given %d times, and the sum does not fit into 64 bits", len(c.Quantities))
		}
		for _, quantity := range c.Quantities {
			t := Target{SKU: c.Key.SKU, LocationID: c.Key.LocationID, Quantity: quantity}
			results = append(results, Result{Target: t, Status: Rejected, Err: why})
		}
	}
	for _, t := range p.unread {
		results = append(results, Result{Target: t, Status: NotTried, Err: err})
	}
	return &Report{Results: results}
}

// err is the error of a run with these results.
func (r *Report) err(o Options) error {
	if n := r.Count(NotFound); n > 0 && n == len(r.Results) {
		for _, result := range r.Results {
			if result.Err != nil {
				return fmt.Errorf("%w; first %s: %w", ErrNoneKnown, result.name(), result.Err)
			}
		}
		return ErrNoneKnown
	}
	advice := func(s Status, cause error) string {
		switch {
		case s == Unknown:
			return fmt.Sprintf("the unknown ones may or may not have been changed: wait %v and run again, which reads them anew", o.settleAfter())
		case s == NotTried && oakra.Retryable(cause):
			return "nothing of those not tried was applied: run again"
		case s == NotTried:
			return "nothing of those not tried was applied: mend what stopped the run, and run again"
		default:
			return "nothing of the rejected ones was applied, and running again will not help"
		}
	}
	for _, gravest := range []Status{Unknown, NotTried, Rejected} {
		for _, result := range r.Results {
			if result.Status != gravest {
				continue
			}
			var counts []string
			for _, s := range []Status{Synced, NotFound, Rejected, Unknown, NotTried} {
				if n := r.Count(s); n > 0 {
					counts = append(counts, fmt.Sprintf("%d %v", n, s))
				}
			}
			return fmt.Errorf("%w: of %d targets, %s; %s; first %v, %s: %w", ErrIncomplete,
				len(r.Results), strings.Join(counts, ", "), advice(gravest, result.Err), gravest, result.name(), result.Err)
		}
	}
	return nil
}

// rounds is how often a step is sent at most, each time after its write before
// was not applied: with one request in four failing, one in 65,000 steps is left
// over.
const rounds = 8

// run applies steps, which are named by their index. The results are true at
// any time, were the run to stop there.
type run struct {
	stock   Stock
	options Options
	steps   []Step
	results []Result
	lost    []request // of unknown outcome, not yet settled
	synced  int
}

// request is what is left of a request that failed: the steps whose outcome is
// unknown, and how many of its records Oakra said it had written.
type request struct {
	steps     []int
	confirmed int
}

func (r *run) do(ctx context.Context) {
	var send []int
	for i, step := range r.steps {
		if _, ok := difference(step); !ok && r.options.Mode == ByChange {
			r.results[i].Status = Rejected
			r.results[i].Err = fmt.Errorf("the difference between %d and %d is more than 64 bits hold", step.From, step.To)
			continue
		}
		send = append(send, i)
	}
	for round := 1; ; round++ {
		send = r.write(ctx, send)
		if len(r.lost) == 0 && (len(send) == 0 || round == rounds) {
			return
		}
		if !r.wait(ctx) {
			return
		}
		send = append(send, r.settle(ctx, round == rounds)...)
		if round == rounds {
			return
		}
	}
}

func difference(s Step) (d int64, ok bool) {
	d = s.To - s.From
	return d, (d > 0) == (s.To > s.From)
}

// write sends steps, and returns those that were not applied for a passing cause.
func (r *run) write(ctx context.Context, send []int) (again []int) {
	if len(send) == 0 {
		return nil
	}
	o := oakra.BulkOptions{
		BatchSize:   r.options.BatchSize,
		Concurrency: r.options.Concurrency,
		OnProgress: func(p oakra.BulkProgress) {
			r.options.progress(Writing, r.synced+p.Applied, len(r.steps))
		},
	}
	var err error
	switch r.options.Mode {
	case ByUpdate:
		updates := make([]oakra.StockUpdate, len(send))
		for n, i := range send {
			updates[n] = oakra.StockUpdate{ID: r.steps[i].ID, Quantity: r.steps[i].To}
		}
		err = r.stock.UpdateAll(ctx, updates, o)
	default:
		changes := make([]oakra.StockChange, len(send))
		for n, i := range send {
			d, _ := difference(r.steps[i])
			changes[n] = oakra.StockChange{ID: r.steps[i].ID, QuantityChange: d}
		}
		err = r.stock.ChangeAll(ctx, changes, o)
	}

	for _, i := range send {
		r.decide(i, Synced, nil)
		r.results[i].Seen = nil
	}
	requests := make(map[*oakra.Error]int) // in r.lost
	for _, f := range failuresOf(err, len(send)) {
		i := send[f.Index]
		var e *oakra.Error
		switch {
		case f.Outcome == oakra.OutcomeApplied:
			continue
		case f.Outcome == oakra.OutcomeNotApplied && oakra.Retryable(f.Err):
			r.decide(i, NotTried, f.Err)
			again = append(again, i)
			continue
		case errors.As(f.Err, &e) && f.Outcome == oakra.OutcomeNotApplied && rejects(e):
			r.decide(i, Rejected, f.Err)
			continue
		case f.Outcome == oakra.OutcomeNotApplied: // the run was stopped
			r.decide(i, NotTried, f.Err)
			continue
		}
		r.decide(i, Unknown, f.Err)
		at, seen := requests[e]
		if e == nil || !seen {
			at = len(r.lost)
			r.lost = append(r.lost, request{})
			if e != nil {
				requests[e], r.lost[at].confirmed = at, len(e.Records)
			}
		}
		r.lost[at].steps = append(r.lost[at].steps, i)
	}
	return again
}

// failuresOf reads the error of a bulk run of n items.
func failuresOf(err error, n int) []oakra.BulkFailure {
	if err == nil {
		return nil
	}
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		return bulk.Failures
	}
	failures := make([]oakra.BulkFailure, n)
	for i := range failures {
		failures[i] = oakra.BulkFailure{Index: i, Outcome: oakra.OutcomeOf(err), Err: err}
	}
	return failures
}

// rejects reports whether Oakra rejected the record, rather than everything alike.
// A 404 with a cause is that of a missing route; one that says nothing is that of
// a proxy.
func rejects(e *oakra.Error) bool {
	switch e.StatusCode {
	case 400, 409, 413, 422:
		return true
	case 404:
		return e.Err == nil && (e.Message != "" || e.Fields != nil)
	}
	return false
}

// decide notes the status of a step, which may change until the run ends.
func (r *run) decide(i int, s Status, err error) {
	if result := &r.results[i]; result.Status != s {
		switch Synced {
		case s:
			r.synced++
		case result.Status:
			r.synced--
		}
		result.Status = s
	}
	r.results[i].Err = err
}

// wait reports whether SettleAfter passed before the context ended.
func (r *run) wait(ctx context.Context) bool {
	unsettled := 0
	for _, request := range r.lost {
		unsettled += len(request.steps)
	}
	r.options.progress(Settling, 0, unsettled)
	timer := time.NewTimer(r.options.settleAfter())
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// settle reads the records of unknown outcome again, and returns the steps that
// were not applied. If it cannot read for now, they are left for the next round.
func (r *run) settle(ctx context.Context, last bool) (again []int) {
	var keys []oakra.StockKey
	for _, request := range r.lost {
		for _, i := range request.steps {
			keys = append(keys, r.steps[i].Key)
		}
	}
	stocked, err := read(ctx, r.stock, keys, func(done int) { r.options.progress(Settling, done, len(keys)) })
	if err != nil && !last && ctx.Err() == nil && oakra.Retryable(err) {
		return nil
	}
	for _, request := range r.lost {
		if err == nil {
			again = append(again, r.settleRequest(request, stocked.records)...)
			continue
		}
		for _, i := range request.steps {
			r.decide(i, Unknown, fmt.Errorf("%w; it could not be read again: %w", r.results[i].Err, err))
		}
	}
	r.lost = nil
	return again
}

// settleRequest settles the steps of one request by what was read.
func (r *run) settleRequest(request request, records map[oakra.StockKey][]oakra.StockRecord) (again []int) {
	var atTo, atFrom []int
	for _, i := range request.steps {
		step, result := r.steps[i], &r.results[i]
		at := slices.IndexFunc(records[step.Key], func(record oakra.StockRecord) bool { return record.ID == step.ID })
		if at < 0 {
			r.decide(i, Unknown, fmt.Errorf("read again, the record is gone: %w", result.Err))
			continue
		}
		seen := records[step.Key][at].Quantity
		result.Seen = &seen
		switch seen {
		case step.To:
			atTo = append(atTo, i)
		case step.From:
			atFrom = append(atFrom, i)
		default:
			r.decide(i, Unknown, fmt.Errorf("read again, it is at %d, neither %d nor %d, so somebody else changed it: %w",
				seen, step.From, step.To, result.Err))
		}
	}
	// A request is applied whole or not at all, and sales hide which: more than half
	// of its records must agree. By an update, To is as wanted whoever made it so, and
	// may be set again.
	half := (len(request.steps) + request.confirmed) / 2
	believed := func(records int) bool { return r.options.Mode == ByUpdate || records > half }
	applied, unapplied := believed(len(atTo)+request.confirmed), believed(len(atFrom))
	for _, i := range atTo {
		if !applied {
			r.contradict(i)
			continue
		}
		r.decide(i, Synced, nil)
	}
	for _, i := range atFrom {
		if !unapplied {
			r.contradict(i)
			continue
		}
		r.results[i].Err = fmt.Errorf("read again, it is still at %d: %w", r.steps[i].From, r.results[i].Err)
		again = append(again, i)
	}
	return again
}

// contradict leaves a step unknown that too few others of its request agree with.
func (r *run) contradict(i int) {
	r.decide(i, Unknown, fmt.Errorf("read again, it is at %d, but most other records of its request, which was applied whole or not at all, do not show the same: %w",
		*r.results[i].Seen, r.results[i].Err))
}
