package stocksync

import (
	"context"
	"errors"
	"fmt"
)

// Apply carries out the steps of the plan and no others, as the package comment
// describes. It reads the records again first. A step whose SKU and location now
// have another record, or none, is NotTried. A step whose record has changed its
// quantity is still carried out, and ByChange keeps the sale between.
//
// The report is never nil. The error is nil if all targets are Synced or NotFound,
// and ErrNoneKnown if there are targets and all are NotFound. Otherwise the error
// says how many targets have which status and what to do. It wraps ErrIncomplete,
// [oakra.ErrStopped] if the run was stopped early, and the Err of the first result
// with the most severe status, which is an [*oakra.Error] unless this package found
// the problem itself. Unknown is the most severe status, then NotTried, Differs and
// Rejected. Among NotTried results, one that is not [oakra.Retryable] comes first.
//
// With any other error nothing was sent, and all steps are NotTried: ErrTooManySteps;
// ErrApplied if the plan was applied before, whatever the result; and an error for a
// step whose ID is not positive or is also the ID of another step.
//
// If the context ends, the run ends at once: requests in flight are Unknown, steps
// that were not sent are NotTried, and nothing is read again. A program that shuts
// down should close [Options].Stop instead, which makes no outcome unknown.
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

// notTried returns the results of the steps before anything is sent.
func (p *Plan) notTried(err error) []Result {
	results := make([]Result, len(p.Steps))
	for i, step := range p.Steps {
		t := Target{SKU: step.Key.SKU, LocationID: step.Key.LocationID, Quantity: step.To}
		results[i] = Result{Target: t, ID: step.ID, Status: NotTried, Err: err, Seen: &step.From}
	}
	return results
}
