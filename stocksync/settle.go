package stocksync

import (
	"context"
	"fmt"
	"slices"

	"github.com/oakra/oakra-go"
)

// read reads the records of steps.
func (r *run) read(ctx context.Context, phase Phase, steps []int) (found, error) {
	keys := make([]oakra.StockKey, len(steps))
	for n, i := range steps {
		keys[n] = r.steps[i].Key
	}
	reader := reader{r.stock, r.options, phase, true}
	return reader.read(ctx, keys)
}

// look sets Seen to the quantity of a step's record, and reports whether the record
// is still there.
func (r *run) look(i int, stocked found) bool {
	step := r.steps[i]
	records := stocked.records[step.Key]
	at := slices.IndexFunc(records, func(record oakra.StockRecord) bool { return record.ID == step.ID })
	if at < 0 {
		r.results[i].Seen = nil
		return false
	}
	r.results[i].Seen = &records[at].Quantity
	return true
}

// gone decides a step whose record is no longer there.
func (r *run) gone(i int, s Status, stocked found) {
	step, before := r.steps[i], r.results[i].Err
	now := "no record"
	if others := stocked.records[step.Key]; len(others) > 0 {
		now = fmt.Sprintf("record %d", others[0].ID)
	}
	err := fmt.Errorf("read again, record %d is gone, and there is %s for the SKU and location", step.ID, now)
	if before != nil {
		err = fmt.Errorf("%w: %w", err, before)
	}
	r.decide(i, s, err)
}

// readAnew starts a step again from the quantity that was read. It reports whether
// the step can be sent, which requires that its record is still there.
func (r *run) readAnew(i int, stocked found) bool {
	if !r.look(i, stocked) {
		r.gone(i, NotTried, stocked)
		return false
	}
	r.from[i] = *r.results[i].Seen
	return true
}

// settle reads the records of requests again, and queues the steps that were not
// applied. It returns the requests to read again in the next round, because reading
// failed.
func (r *run) settle(ctx context.Context, open []request, last bool) []request {
	open = slices.DeleteFunc(open, func(q request) bool {
		sent := q.kind == passing && r.options.Mode == ByUpdate
		if sent { // an update sends the same quantity whatever is read
			r.next = append(r.next, q.steps...)
		}
		return sent
	})
	if len(open) == 0 {
		return nil
	}
	if r.over(ctx) != nil {
		r.cutShort(ctx, open)
		return nil
	}
	stocked, err := r.read(ctx, Settling, stepsOf(open))
	switch {
	case err == nil:
		r.settleRead(open, stocked)
	case r.over(ctx) != nil:
		r.cutShort(ctx, open)
	case !last && oakra.Retryable(err):
		return open
	default:
		r.notRead(open, err)
	}
	return nil
}

// settleRead settles requests by the records that were read.
func (r *run) settleRead(open []request, stocked found) {
	rest := parcel{part: true} // remaining steps of rejected requests, sent as one request
	for _, q := range open {
		switch q.kind {
		case lost:
			r.settleLost(q, stocked)
		case passing:
			for _, i := range q.steps {
				if r.readAnew(i, stocked) {
					r.next = append(r.next, i)
				}
			}
		default:
			steps := r.settleRejected(q, stocked)
			if q.kind == innocent || len(steps) < len(q.steps) || r.byItem {
				rest.steps = append(rest.steps, steps...)
				continue
			}
			middle, whole := len(steps)/2, &halved{size: len(steps)}
			r.parts = append(r.parts,
				parcel{steps: steps[middle:], part: true, whole: whole},
				parcel{steps: steps[:middle], part: true, whole: whole})
		}
	}
	if len(rest.steps) > 0 {
		r.parts = append(r.parts, rest)
	}
}

func stepsOf(requests []request) (steps []int) {
	for _, q := range requests {
		steps = append(steps, q.steps...)
	}
	return steps
}

// notRead decides the steps of requests whose records cannot be read.
func (r *run) notRead(requests []request, err error) {
	for _, q := range requests {
		status := Unknown
		if q.kind == passing {
			status = NotTried
		}
		for _, i := range q.steps {
			r.decide(i, status, fmt.Errorf("%w; it could not be read again: %w", r.results[i].Err, err))
		}
	}
}

// sorted groups the steps of a request by the quantities of their records.
type sorted struct {
	atTo, atFrom, elsewhere []int
}

// sortRead groups the steps of a request. Steps whose record is gone get the status
// gone instead.
func (r *run) sortRead(q request, stocked found, gone Status) (s sorted) {
	for _, i := range q.steps {
		if !r.look(i, stocked) {
			r.gone(i, gone, stocked)
			continue
		}
		switch *r.results[i].Seen {
		case r.to(i):
			s.atTo = append(s.atTo, i)
		case r.from[i]:
			s.atFrom = append(s.atFrom, i)
		default:
			s.elsewhere = append(s.elsewhere, i)
		}
	}
	return s
}

// settleLost settles the steps of a request whose outcome is unknown.
func (r *run) settleLost(q request, stocked found) {
	s := r.sortRead(q, stocked, Unknown)
	// A request is applied as a whole or not at all, but sales can hide which. More than
	// half of its records must therefore agree. An update needs no majority: a record at
	// To is right whoever set it, and it is safe to set it again.
	half := (len(q.steps) + q.confirmed) / 2
	believed := func(records int) bool { return r.options.Mode == ByUpdate || records > half }
	applied, unapplied := believed(len(s.atTo)+q.confirmed), believed(len(s.atFrom))
	for _, i := range s.atTo {
		if applied {
			r.decide(i, Synced, nil)
		} else {
			r.contradict(i)
		}
	}
	for _, i := range s.atFrom {
		if unapplied {
			r.results[i].Err = fmt.Errorf("read again, it is still at %d: %w", r.from[i], r.results[i].Err)
			r.next = append(r.next, i)
		} else {
			r.contradict(i)
		}
	}
	for _, i := range s.elsewhere {
		r.changedByOthers(i)
	}
}

// settleRejected decides the steps of a rejected request that was saved in part, and
// returns those that were not saved.
//
// A server that saves item by item does so in order. It has then saved every record
// up to the last one at To, except those that it names. If more of these are at From
// than at To, it has saved none, and somebody else changed those at To. After the last
// record at To it has saved none if it stopped at a record that it names.
func (r *run) settleRejected(q request, stocked found) (again []int) {
	s := r.sortRead(q, stocked, NotTried)
	half := len(q.steps) / 2
	last, before := -1, 0 // last step at To, and number of steps at From before it
	if len(s.atTo) > 0 {
		last = s.atTo[len(s.atTo)-1]
		before, _ = slices.BinarySearch(s.atFrom, last)
	}
	switch {
	case len(s.atTo) > before && len(s.atTo)+len(s.atFrom) > half:
		r.byItem = true
		for _, i := range s.atTo {
			r.decide(i, Synced, nil)
		}
		for _, i := range s.atFrom {
			stopped := slices.ContainsFunc(q.named, func(n int) bool { return last < n && n < i })
			if q.kind == nameless || stopped {
				again = append(again, i)
			} else {
				r.contradict(i)
			}
		}
		for _, i := range s.elsewhere {
			r.changedByOthers(i)
		}
	case len(s.atFrom) > half:
		for _, i := range s.atTo {
			r.contradict(i)
		}
		again = slices.Concat(s.atFrom, s.elsewhere)
		slices.Sort(again)
		for _, i := range again {
			r.readAnew(i, stocked)
		}
	default: // too many were sold meanwhile to decide
		for _, i := range slices.Concat(s.atTo, s.atFrom, s.elsewhere) {
			r.contradict(i)
		}
	}
	return again
}

// changedByOthers makes a step Unknown because somebody else changed its record.
func (r *run) changedByOthers(i int) {
	r.decide(i, Unknown, fmt.Errorf("read again, it is at %d, neither %d nor %d, so somebody else changed it: %w",
		*r.results[i].Seen, r.from[i], r.to(i), r.results[i].Err))
}

// contradict makes a step Unknown because the other records of its request show
// another outcome.
func (r *run) contradict(i int) {
	r.decide(i, Unknown, fmt.Errorf("read again, it is at %d, but the other records of its request do not show the same: %w",
		*r.results[i].Seen, r.results[i].Err))
}
