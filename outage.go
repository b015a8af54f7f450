package oakra

import (
	"context"
	"math/rand/v2"
	"time"
)

// outage is what a run knows about whether the service responds. After two failures
// in a row the run holds: nothing is sent but reads that change nothing. When the
// service responds to one, a single write shows whether the run may go on.
type outage struct {
	phase    phase
	failures int // number of failed requests in a row
	begun    int // number of requests that had begun by the last of them

	since   time.Time // time of the failure that began the hold
	failure *Error
	trials  int // number of single writes that failed since the last success

	probing bool          // a probe is in flight
	next    time.Time     // time of the next probe
	backoff time.Duration // longest wait after the next one
}

// phase is where a run is in an outage.
type phase int

const (
	flowing phase = iota // requests begin
	holding              // none begins
	ready                // one may begin, and no other
	trying               // it is in flight
)

const (
	mostInARow  = 2 // failures, that begin a hold
	mostTrials  = 3 // single writes that fail, that end the run
	probeSKU    = "oakra-go-probe"
	probeFor    = 5 * time.Second
	firstProbe  = 100 * time.Millisecond // backoff after it
	lastProbe   = 5 * time.Second        // longest backoff
	trialFailed = time.Second            // least backoff after a single write that failed
)

// failed reports whether a request that ended with e says nothing about its items:
// its outcome is unknown, or it got no connection.
func failed(e *Error) bool {
	return e != nil && !succeeded(e) && (e.Outcome == OutcomeUnknown || gotNoConnection(e))
}

// succeeded reports whether the service has applied a request that ended with e, or
// at least some items of it.
func succeeded(e *Error) bool {
	return e == nil || e.Outcome == OutcomeApplied || len(provenRecords(e)) > 0
}

// gotNoConnection reports whether nothing was sent, and the cause is passing.
func gotNoConnection(e *Error) bool { return neverSent(e) && e.row.again == adds }

// neverSent reports whether nothing was sent, whatever the cause.
func neverSent(e *Error) bool { return e.StatusCode == 0 && e.Outcome == OutcomeNotApplied }

// watch learns from a request that has ended.
func (r *bulkRun) watch(d delivery) {
	o := &r.outage
	switch {
	case r.unsent != nil:
	case failed(d.err):
		o.failures++
		o.begun = r.begun
		if d.single {
			o.trials++
		}
		switch {
		case o.trials == mostTrials:
			r.endOutage()
		case d.single:
			o.backoff = max(o.backoff, trialFailed)
			o.phase = holding
			o.wait()
		case o.phase == flowing && o.failures >= mostInARow:
			r.hold(d.err)
		}
	case d.single && !succeeded(d.err):
		*o = outage{trials: o.trials}
	case d.single || succeeded(d.err) && d.number > o.begun && o.phase == flowing:
		*o = outage{}
	}
}

// hold lets no further request begin, except for probes.
func (r *bulkRun) hold(failure *Error) {
	o := &r.outage
	o.phase, o.failure = holding, failure
	o.since = time.Now()
	o.next, o.backoff = o.since, firstProbe
}

// wait sets the time of the next probe, with full jitter.
func (o *outage) wait() {
	o.next = time.Now().Add(rand.N(o.backoff))
	o.backoff = min(2*o.backoff, lastProbe)
}

// endOutage ends the run because the service does not respond.
func (r *bulkRun) endOutage() {
	e := notSent(r.op, "the service stopped responding", r.outage.failure)
	e.row.again = adds
	r.end(e)
}

// passTime does what is due in a hold. A negative OutageTimeout is over at once.
func (r *bulkRun) passTime() {
	switch o := &r.outage; {
	case r.unsent != nil || o.phase == flowing:
	case time.Since(o.since) >= r.options.OutageTimeout:
		r.endOutage()
	case r.mayProbe() && time.Until(o.next) <= 0:
		r.probe()
	}
}

// mayProbe reports whether there is a reason to ask whether the service responds.
func (r *bulkRun) mayProbe() bool {
	return r.outage.phase == holding && !r.outage.probing && !r.left.empty()
}

// due returns how long it is until passTime has something to do.
func (r *bulkRun) due() (wait time.Duration, ok bool) {
	o := &r.outage
	if r.unsent != nil || o.phase == flowing {
		return 0, false
	}
	wait = r.options.OutageTimeout - time.Since(o.since)
	if r.mayProbe() {
		wait = min(wait, time.Until(o.next))
	}
	return wait, true
}

// probe asks whether the service responds, with a read that changes nothing.
func (r *bulkRun) probe() {
	client := *r.service.client
	client.pace = nil
	client.retry.MaxAttempts = 1
	client.attemptTimeout = min(client.attemptTimeout, probeFor)
	r.outage.probing = true
	go func() {
		p := probed{exited: true}
		defer func() { r.probes <- p }()
		p.panic = catch(func() { p.responds = responds(r.open, &client) })
		p.exited = false
	}()
}

// probed is the result of a probe.
type probed struct {
	responds bool
	panic    *workerPanic
	exited   bool // by runtime.Goexit
}

// responds reports whether the API itself responds: with a list, or a rejection.
func responds(ctx context.Context, c *Client) bool {
	query := "sku=" + probeSKU
	err := c.do(ctx, opList, 1, query, nil, new(stockRecords))
	e, _ := err.(*Error) //nolint:errorlint // do returns no other
	return e == nil || e.json && e.StatusCode/100 == 4 && e.StatusCode != 408 && e.StatusCode != 429
}

// heed takes the result of a probe.
func (r *bulkRun) heed(p probed) {
	r.outage.probing = false
	switch {
	case p.panic != nil:
		panic(p.panic)
	case p.exited:
		r.end(notSent(r.op, errGoexit.Error(), errGoexit))
	case r.outage.phase != holding:
	case p.responds:
		r.outage.phase = ready
	default:
		r.outage.wait()
	}
}
