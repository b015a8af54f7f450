package oakra

import (
	"context"
	"time"

	"github.com/oakra/oakra-go/internal/hold"
)

// outage is what a run knows about whether the service responds. After two failures
// in a row the run holds: nothing is sent but reads that change nothing. When the
// service responds to one, a single write shows whether the run may go on.
type outage struct {
	phase    phase
	failures int // number of failed requests in a row
	begun    int // number of requests that had begun by the last of them

	clock   hold.Clock
	failure *Error // that began the hold
	trials  int    // number of single writes that failed since the last success
	probing bool   // a probe is in flight
}

// phase is where a run is in an outage.
type phase int

const (
	flowing phase = iota // requests begin
	holding              // none begins
	ready                // one may begin, and no other
	trying               // it is in flight
)

const mostTrials = 3 // single writes that fail, that end the run

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
			o.phase = holding
			o.clock.TrialFailed()
		case o.phase == flowing && o.failures >= hold.InARow:
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
	o.phase, o.failure, o.clock = holding, failure, hold.Start()
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
	case time.Since(o.clock.Since) >= r.options.OutageTimeout:
		r.endOutage()
	case r.mayProbe() && time.Until(o.clock.Next) <= 0:
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
	wait = r.options.OutageTimeout - time.Since(o.clock.Since)
	if r.mayProbe() {
		wait = min(wait, time.Until(o.clock.Next))
	}
	return wait, true
}

// probe asks whether the service responds, with a read that changes nothing.
func (r *bulkRun) probe() {
	client := *r.service.client
	client.pace = nil
	client.retry.MaxAttempts = 1
	client.attemptTimeout = min(client.attemptTimeout, hold.ProbeFor)
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
	query := "sku=" + hold.ProbeSKU
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
		r.outage.clock.ProbeFailed()
	}
}
