package stocksync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/oakra/oakra-go"
)

// rounds is how often a step is sent at most. A step is sent again only if its
// previous write was not applied. If one request in four fails, one in 65,000 steps
// remains. Requests that were rejected because of other records are not counted.
const rounds = 8

// run applies steps, which it refers to by index. The results are valid at any
// time, so that the run can stop anywhere.
type run struct {
	stock   Stock
	options Options
	steps   []Step
	results []Result
	from    []int64  // quantities of the records when they were last read before they were sent
	next    []int    // steps to send in the next round
	parts   []parcel // steps to send separately, because of a rejection
	synced  int

	batch    int   // records in one request; 0 means the default
	byItem   bool  // whether the server saves the good records of a request that it rejects
	nameless int   // number of single records rejected by a response that names no record
	isolated []int // nameless records that were separated from others of a rejected request
	ended    bool  // whether a failure ended the run that every later request would meet
}

func newRun(p *Plan) *run {
	r := &run{
		stock:   p.stock,
		options: p.options,
		steps:   p.Steps,
		results: p.notTried(nil),
		from:    make([]int64, len(p.Steps)),
		batch:   p.options.BatchSize,
	}
	for i, step := range r.steps {
		r.from[i] = step.From
		if _, ok := difference(step); !ok && r.options.Mode == ByChange {
			r.decide(i, Rejected, fmt.Errorf("the difference between %d and %d is more than 64 bits hold", step.From, step.To))
			continue
		}
		r.next = append(r.next, i)
	}
	return r
}

func difference(s Step) (d int64, ok bool) {
	d = s.To - s.From
	return d, (d > 0) == (s.To > s.From)
}

// to returns the quantity that a record has after its step, if nobody else changes
// it.
func (r *run) to(i int) int64 {
	if r.options.Mode == ByUpdate {
		return r.steps[i].To
	}
	d, _ := difference(r.steps[i])
	return r.from[i] + d
}

// check reads the records again, and leaves out the steps whose record was replaced.
func (r *run) check(ctx context.Context) {
	steps := r.next
	if r.next = nil; len(steps) == 0 {
		return
	}
	stocked, err := r.read(ctx, Reading, steps)
	for _, i := range steps {
		if err != nil {
			r.decide(i, NotTried, fmt.Errorf("reading the stock; nothing was written: %w", err))
		} else if r.readAnew(i, stocked) {
			r.next = append(r.next, i)
		}
	}
}

func (r *run) do(ctx context.Context) {
	var open []request
	for round := 1; len(r.next)+len(r.parts)+len(open) > 0; round++ {
		open = append(open, r.send(ctx)...)
		last := round == rounds || r.ended
		if last {
			open = slices.DeleteFunc(open, func(q request) bool { return q.kind == passing })
		}
		if len(open) == 0 {
			break
		}
		if !r.wait(ctx, open) {
			r.cutShort(ctx, open)
			break
		}
		if open = r.settle(ctx, open, last); last {
			break
		}
	}
	if r.synced > 0 { // otherwise the setup may be at fault instead of the records
		for _, i := range r.isolated {
			r.decide(i, Rejected, r.results[i].Err)
		}
	}
}

// over returns why the run must end, or nil if it may go on.
func (r *run) over(ctx context.Context) error {
	if r.options.stopped() {
		return oakra.ErrStopped
	}
	return ctx.Err()
}

// cutShort decides the steps of requests that a run that ends leaves unsettled.
func (r *run) cutShort(ctx context.Context, left []request) {
	cause := r.over(ctx)
	for _, q := range left {
		for _, i := range q.steps {
			if q.kind == lost {
				r.decide(i, Unknown, fmt.Errorf("%w; it was not read again: %w", r.results[i].Err, cause))
			} else {
				r.decide(i, NotTried, &oakra.Error{Op: r.op(), Outcome: oakra.OutcomeNotApplied, Err: cause})
			}
		}
	}
}

func (r *run) op() string {
	if r.options.Mode == ByUpdate {
		return "stock.update"
	}
	return "stock.change"
}

// decide sets the status of a step, which may change until the run ends.
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

// wait reports whether SettleAfter passed before the run was over.
func (r *run) wait(ctx context.Context, open []request) bool {
	unsettled := 0
	for _, q := range open {
		if q.kind == lost {
			unsettled += len(q.steps)
		}
	}
	r.options.report(Progress{Phase: Settling, Total: unsettled})
	timer := time.NewTimer(r.options.settleAfter())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.options.Stop:
	case <-ctx.Done():
	}
	return r.over(ctx) == nil
}

// parcel holds the steps that one call sends.
type parcel struct {
	steps []int
	part  bool    // whether it is a part of a rejected request
	whole *halved // rejected request that it is a half of, or nil
}

// halved is a rejected request whose response names no record.
type halved struct {
	size   int
	passed int // number of its halves that were applied
}

// send sends the steps of the next round, and sends those again that were rejected
// because of others. It returns the requests that have to be settled.
func (r *run) send(ctx context.Context) (open []request) {
	left := r.parts // the last one is sent first
	if len(r.next) > 0 {
		left = append(left, parcel{steps: r.next})
	}
	r.parts, r.next = nil, nil
	for len(left) > 0 && !r.ended {
		p := left[len(left)-1]
		left = left[:len(left)-1]
		var rejected []request
		for _, q := range r.write(ctx, p) {
			if q.kind == innocent || q.kind == nameless {
				rejected = append(rejected, q)
			} else {
				open = append(open, q)
			}
		}
		left = r.learn(p, left)
		open = append(open, r.settle(ctx, rejected, false)...)
		left = append(left, r.parts...)
		r.parts = nil
	}
	return open
}

// learn lowers the size of requests if both halves of a rejected one were applied:
// no record was at fault, and the server has a limit. The rest is divided again.
func (r *run) learn(p parcel, left []parcel) []parcel {
	if p.whole == nil {
		return left
	}
	for _, i := range p.steps {
		if r.results[i].Status != Synced {
			return left
		}
	}
	if p.whole.passed++; p.whole.passed < 2 {
		return left
	}
	if size := p.whole.size / 2; r.batch == 0 || size < r.batch {
		r.batch = size
	}
	joined := parcel{part: true}
	for _, p := range left {
		joined.steps = append(joined.steps, p.steps...)
	}
	if len(joined.steps) == 0 {
		return nil
	}
	return []parcel{joined}
}

// mostNameless is the number of single records rejected by responses that name no
// record after which the setup is at fault, if no record was synced before.
const mostNameless = 10

// rejectSingle decides a single record whose rejection names no record.
func (r *run) rejectSingle(i int, part bool) {
	err := r.results[i].Err
	if oakra.Rejected(err) {
		r.decide(i, Rejected, err)
		return
	}
	var e *oakra.Error
	if part && errors.As(err, &e) && e.StatusCode == http.StatusBadRequest {
		r.isolated = append(r.isolated, i)
	}
	if r.nameless++; r.nameless == mostNameless && r.synced == 0 {
		r.ended = true
	}
}

// size returns how many records one request may write.
func (r *run) size() int {
	if r.byItem {
		return 1
	}
	return cmp.Or(r.batch, r.options.BatchSize)
}
