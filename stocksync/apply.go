package stocksync

import (
	"context"
	"errors"
	"fmt"
)

// Apply does the plan's steps and no others, as the package comment says. It reads
// the records again first. A step whose SKU and location now have another record,
// or none, is NotTried; one whose quantity has changed is done, and a change keeps
// the sale between.
//
// The report is never nil. The error is ErrNoneKnown if there are targets and all
// are NotFound, and nil if all are Synced or NotFound. Otherwise it says how many
// have which status and what to do; it wraps ErrIncomplete, [oakra.ErrStopped] if
// the run was stopped early, and the Err of the first result with the gravest status
// (Unknown before NotTried before Differs before Rejected; of those NotTried, one that
// is not [oakra.Retryable] if there is one), an [*oakra.Error] unless it is this package
// that found fault.
//
// With other errors nothing was sent, and all steps are NotTried: ErrTooManySteps;
// ErrApplied, if the plan was applied before, with any result; an error for a step
// whose ID is not positive, or is that of another step.
//
// When the context ends, so does the run: requests in flight are Unknown, what was
// not sent is NotTried, and nothing is waited for or read again. A program that
// shuts down should rather close [Options].Stop, which makes nothing unknown.
func (p *Plan) Apply(ctx context.Context) (*Report, error) { return p.apply(ctx, false) }

// apply reads the records again unless they were just read.
func (p *Plan) apply(ctx context.Context, fresh bool) (*Report, error) {
	if err := p.begin(); err != nil {
		return p.report(p.notTried(err), err), err
	}
	r := newRun(p)
	if !fresh {
		r.check(ctx)
	}
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
