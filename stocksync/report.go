package stocksync

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go"
)

// Status says how a target ended.
type Status int

const (
	// NotTried means that nothing was applied, and that the target itself is not at
	// fault: the run ended first, a temporary failure such as a 429 or no connection
	// lasted for all rounds, or the setup is wrong, such as the API key. It is also the
	// status if the record is no longer the one that was compared.
	NotTried Status = iota
	// Synced means that Oakra had the target's quantity when it was read, or that the
	// step was applied. A change was applied exactly once (except in the case that the
	// package comment describes), which leaves the record at the target minus the units
	// sold meanwhile.
	Synced
	// NotFound means that Oakra has no such SKU at that location. Nothing was written.
	NotFound
	// Rejected means that nothing was applied, and that running again will not help:
	// Oakra rejected the record (see [oakra.Rejected]) or has several records for the
	// key, the record has several targets, or the difference does not fit into 64 bits.
	Rejected
	// Differs means that an update was accepted, but the response shows another quantity,
	// which is in [Result].Seen. For example, the server may not go below zero.
	Differs
	// Unknown means that the step may have been applied, or may still be. A change was
	// applied at most once, with the same exception as for Synced.
	Unknown
)

// String returns "not tried", "synced", "not found", "rejected", "differs" or
// "unknown".
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
	case Differs:
		return "differs"
	case Unknown:
		return "unknown"
	}
	return "Status(" + strconv.Itoa(int(s)) + ")"
}

// Result says how one target ended.
type Result struct {
	Target
	ID     int64 // id of the record; 0 if the target was not a step of the plan
	Status Status
	Err    error // reason for the Status; nil for Synced, and for NotFound unless there is a similar key

	// Seen is the quantity in the last response or read that showed the record, or nil
	// if none has shown it since it was last sent.
	Seen *int64
}

// Report has one result for each target of a plan: first the Steps in their order,
// then Equal, NotFound, Ambiguous and Conflicts. A conflict has one result for each of
// its quantities.
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

// report returns a report of the steps' results and those of all other targets.
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

// err returns the error of a run with these results.
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
			return "nothing of those not tried was applied: correct what stopped the run, and run again"
		case s == Differs:
			return "those that differ were accepted, but the server shows another quantity"
		default:
			return "nothing of the rejected ones was applied, and running again will not help"
		}
	}
	incomplete := ErrIncomplete
	for _, result := range r.Results {
		if errors.Is(result.Err, oakra.ErrStopped) {
			incomplete = fmt.Errorf("%w: %w", ErrIncomplete, oakra.ErrStopped)
			break
		}
	}
	for _, gravest := range []Status{Unknown, NotTried, Differs, Rejected} {
		first := r.first(gravest)
		if first == nil {
			continue
		}
		var counts []string
		for _, s := range []Status{Synced, NotFound, Rejected, Differs, Unknown, NotTried} {
			if n := r.Count(s); n > 0 {
				counts = append(counts, fmt.Sprintf("%d %v", n, s))
			}
		}
		return fmt.Errorf("%w: of %d targets, %s; %s; first %v, %s: %w", incomplete,
			len(r.Results), strings.Join(counts, ", "), advice(gravest, first.Err), gravest, first.name(), first.Err)
	}
	return nil
}

// first returns the first result with the status, or nil. For NotTried, it prefers
// the first result that running again does not help.
func (r *Report) first(s Status) (first *Result) {
	for i := range r.Results {
		result := &r.Results[i]
		switch {
		case result.Status != s:
		case s != NotTried || !oakra.Retryable(result.Err):
			return result
		case first == nil:
			first = result
		}
	}
	return first
}
