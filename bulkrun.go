package oakra

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// bulkRun sends the merged items of one bulk call. The goroutine of the caller has all
// of its state, and calls the caller's functions. Each request has a goroutine of its
// own, which only sends it and delivers its result.
type bulkRun struct {
	op      operation
	options BulkOptions
	service *StockService // a copy, with the pace of this run
	send    func(ctx context.Context, batch []int32) ([]StockRecord, error)
	idOf    func(item int32) int64
	weights []int32 // number of the caller's items in each merged one

	ctx   context.Context         // the caller's
	open  context.Context         // ends when no further request begins
	close context.CancelCauseFunc // ends open

	left       batches // what is to be sent
	begun      int     // number of requests so far
	inFlight   int
	deliveries chan delivery
	probes     chan probed
	outage     outage
	unsent     *Error // error of the items left, once no further request begins

	results  []itemResult // by merged item
	messages map[int32][]string
	isolated []*Error // rejections of single items, by splitting, that name nothing
	nameless int      // number of single items rejected without a name

	progress BulkProgress
	reported BulkProgress
}

// itemResult is the outcome of a merged item, and the error unless it was applied.
type itemResult struct {
	outcome Outcome
	err     *Error
}

// delivery is the result of a request.
type delivery struct {
	batch
	number  int  // counts the requests of the run from 1
	single  bool // it shows whether an outage is over
	records []StockRecord
	err     *Error
	panic   *workerPanic
}

var (
	errGoexit  = errors.New("a goroutine of the call ended early: the transport, a limiter or a key source called runtime.Goexit, or a test's FailNow")
	errRunOver = errors.New("the bulk run has ended")
)

func newBulkRun(ctx context.Context, s *StockService, op operation, o BulkOptions, items int) *bulkRun {
	r := &bulkRun{
		op:         op,
		options:    o,
		weights:    make([]int32, items),
		ctx:        ctx,
		left:       newBatches(o.BatchSize, items),
		deliveries: make(chan delivery),
		probes:     make(chan probed),
		results:    make([]itemResult, items),
		messages:   make(map[int32][]string),
	}
	r.open, r.close = context.WithCancelCause(ctx)
	client := *s.client
	client.pace = &pace{open: r.open}
	r.service = &StockService{client: &client}
	return r
}

// run sends everything, or ends early.
func (r *bulkRun) run() {
	defer r.finish()
	if r.options.Stop != nil {
		go r.awaitStop()
	}
	r.reported = r.progress
	for {
		r.passTime()
		r.report()
		r.checkOpen()
		for r.mayBegin() {
			r.begin()
		}
		if r.inFlight == 0 && (r.unsent != nil || r.left.empty()) {
			break
		}
		r.await()
	}
	for _, item := range r.left.takeAll() {
		r.settle(item, OutcomeNotApplied, r.unsent)
	}
	r.report()
}

// awaitStop ends the waits of the requests in flight as soon as Stop is closed, even
// while the caller's function keeps the run from noticing.
func (r *bulkRun) awaitStop() {
	select {
	case <-r.options.Stop:
		r.close(ErrStopped)
	case <-r.open.Done():
	}
}

// finish waits for all goroutines of the run. After a panic some are left.
func (r *bulkRun) finish() {
	r.close(errRunOver)
	for ; r.inFlight > 0; r.inFlight-- {
		<-r.deliveries
	}
	if r.outage.probing {
		<-r.probes
	}
}

// checkOpen ends the run if Stop is closed or the caller's context has ended.
func (r *bulkRun) checkOpen() {
	if r.unsent != nil {
		return
	}
	select {
	case <-r.options.Stop:
		r.close(ErrStopped)
	default:
	}
	if r.open.Err() != nil {
		cause := cmp.Or(contextError(r.ctx), ErrStopped)
		r.setUnsent(notSent(r.op, cause.Error(), cause))
	}
}

// end lets no further request begin. It is for a reason of the run's own, which comes
// after those of the caller.
func (r *bulkRun) end(unsent *Error) {
	if r.checkOpen(); r.unsent == nil {
		r.setUnsent(unsent)
		r.close(errRunOver)
	}
}

func (r *bulkRun) setUnsent(e *Error) {
	r.service.client.credential.known().redact(e)
	r.unsent = e
}

// mayBegin reports whether a request may begin now.
func (r *bulkRun) mayBegin() bool {
	return r.unsent == nil && !r.left.empty() && r.inFlight < r.options.Concurrency &&
		(r.outage.phase == flowing || r.outage.phase == ready)
}

// begin sends the next batch.
func (r *bulkRun) begin() {
	r.begun++
	r.inFlight++
	d := delivery{batch: r.left.take(), number: r.begun, single: r.outage.phase == ready}
	if d.single {
		r.outage.phase = trying
	}
	go func() {
		d.err = &Error{Op: r.op.String(), Err: errGoexit, made: true}
		defer func() { r.deliveries <- d }()
		d.panic = catch(func() {
			records, err := r.send(r.ctx, d.items)
			d.records, d.err = records, nil
			errors.As(err, &d.err)
		})
	}()
}

// await waits for something to happen, and takes it.
func (r *bulkRun) await() {
	var timer <-chan time.Time
	if wait, ok := r.due(); ok {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	open := r.open.Done()
	if r.unsent != nil {
		open = nil
	}
	select {
	case d := <-r.deliveries:
		r.inFlight--
		r.take(d)
	case p := <-r.probes:
		r.heed(p)
	case <-open:
	case <-timer:
	}
}

// take settles the items of a request that has ended, or adds them to those that are
// to be sent.
func (r *bulkRun) take(d delivery) {
	if d.panic != nil {
		panic(d.panic)
	}
	r.checkOpen()
	r.watch(d)
	if succeeded(d.err) {
		r.left.accepted(d.batch)
	} else {
		r.left.failed(d.batch)
	}
	switch e := d.err; {
	case e == nil:
		for _, item := range d.items {
			r.settle(item, OutcomeApplied, nil)
		}
		if r.options.OnRecords != nil {
			r.options.OnRecords(d.records)
		}
	case gotNoConnection(e), neverSent(e) && r.unsent != nil:
		r.left.putBack(d.batch)
	case Splittable(e):
		r.takeRejection(d.batch, e)
	default:
		r.settleAll(d.items, e)
		if r.endsRun(e) {
			r.end(notSent(r.op, "an earlier request of the run failed", e))
		}
	}
}

// endsRun reports whether every later request would fail as one did with e, which
// neither rejects items nor has to go again.
func (r *bulkRun) endsRun(e *Error) bool {
	switch {
	case errors.Is(e, ErrNoRoute), errors.Is(e, errGoexit), e.StatusCode/100 == 3:
		return true
	case e.Outcome != OutcomeNotApplied:
		return false
	case e.StatusCode == 429:
		return e.RetryAfter > r.service.client.retry.MaxRetryAfter
	}
	return true // the setup: the key, the version, the host or its certificate, the limiter, the key source
}

// mostNameless is how many single items may be rejected without a name before any
// item is applied.
const mostNameless = 10

// takeRejection settles the items of a rejected request that are at fault, and sends
// the others again.
func (r *bulkRun) takeRejection(b batch, e *Error) {
	named := e.Items()
	var at, others []int32
	for i, item := range b.items {
		if messages := named[i]; messages != nil {
			r.messages[item] = messages
			at = append(at, item)
		} else {
			others = append(others, item)
		}
	}
	switch {
	case len(b.items) == 1 && len(at) == 0:
		r.settleAll(b.items, e)
		r.takeNameless(b, e)
	case len(at) == 0 && r.options.NoSplit:
		r.settleAll(b.items, e)
	case len(at) == 0:
		r.left.halve(b)
	default:
		r.settleAll(at, e)
		switch {
		case len(others) == 0:
		case r.options.NoSplit:
			r.settleAll(others, innocent(e))
		default:
			r.left.again(others)
		}
	}
}

// takeNameless notes that a single item was rejected, and that the response does not
// say that the item is to blame.
func (r *bulkRun) takeNameless(b batch, e *Error) {
	if b.part && e.StatusCode == 400 {
		r.isolated = append(r.isolated, e)
	}
	if r.nameless++; r.nameless == mostNameless && r.progress.Applied == 0 {
		r.end(notSent(r.op, "ten items were rejected one by one, without a name, and none was applied", e))
	}
}

var errInnocent = errors.New("not applied: another item of its request was rejected")

// innocent returns the error of the items that e does not name.
func innocent(e *Error) *Error {
	return &Error{
		Op: e.Op, Method: e.Method, Path: e.Path, Attempts: e.Attempts,
		Outcome: OutcomeNotApplied,
		Err:     errInnocent,
		made:    true,
		row:     row{OutcomeNotApplied, adds},
	}
}

// settleAll notes the result of items whose request failed with e.
func (r *bulkRun) settleAll(items []int32, e *Error) {
	written := make(map[int64]struct{})
	for _, record := range provenRecords(e) {
		written[record.ID] = struct{}{}
	}
	for _, item := range items {
		if _, ok := written[r.idOf(item)]; ok {
			r.settle(item, OutcomeApplied, nil)
		} else {
			r.settle(item, e.Outcome, e)
		}
	}
}

// provenRecords returns the records of a failed request that were certainly applied.
// Those of a 207 only show what the server has.
func provenRecords(e *Error) []StockRecord {
	if e.StatusCode == 207 {
		return nil
	}
	return e.Records
}

// settle notes the result of one item.
func (r *bulkRun) settle(item int32, outcome Outcome, e *Error) {
	r.results[item] = itemResult{outcome, e}
	n := int(r.weights[item])
	switch outcome {
	case OutcomeApplied:
		r.progress.Applied += n
	case OutcomeNotApplied:
		r.progress.NotApplied += n
	default:
		r.progress.Unknown += n
	}
}

// report calls OnProgress if there is something new.
func (r *bulkRun) report() {
	p := r.progress
	if o := &r.outage; o.phase != flowing && r.unsent == nil && (o.phase == trying || !r.left.empty()) {
		p.Waiting, p.WaitingSince, p.WaitingFor = true, o.clock.Since, o.failure
	}
	if p != r.reported && r.options.OnProgress != nil {
		r.reported = p
		r.options.OnProgress(p)
	}
}

// failures returns the error of the run, if there is one; of[i] is the merged item of
// the caller's item i.
func (r *bulkRun) failures(of []int32) error {
	if r.progress.Applied > 0 { // or the setup may be at fault, and not the item
		for _, e := range r.isolated {
			e.content = true
		}
	}
	result := &BulkError{Op: r.op.String(), Applied: r.progress.Applied}
	for i, item := range of {
		if failed := r.results[item]; failed.outcome != OutcomeApplied {
			result.Failures = append(result.Failures, BulkFailure{
				Index: i, Outcome: failed.outcome, Err: failed.err, Messages: r.messages[item],
			})
		}
	}
	if len(result.Failures) == 0 {
		return nil
	}
	return result
}
