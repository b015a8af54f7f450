package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// call is one call of a service method. send makes it on one route: retryablehttp
// repeats the attempts, which RoundTrip makes one by one, and asks checkRetry
// after each. The result of an attempt is in last, and not in what RoundTrip
// returns: that passes through net/http and retryablehttp, which add and drop.
type call struct {
	client  *Client
	ctx     context.Context
	waits   context.Context // ends with ctx, or when its bulk run lets no further attempt begin
	op      operation
	effect  effect
	items   int // number of SKUs, records or sales
	query   string
	body    *body   // nil for a List
	decoder decoder // reads a 2xx; nil if its status is all that matters
	probing bool    // whether it only asks if a route is there

	route   *route
	last    attempt // result of the last attempt, until checkRetry takes it
	failure *Error  // failure of the last attempt on the route; nil after a success
	next    next    // what checkRetry decided
	tries   int     // attempts on the route that count against RetryPolicy.MaxAttempts

	// Over all routes.
	started      time.Time // for the observers
	attempts     int
	unknownSince time.Time // start of the first attempt of unknown outcome
	keys         callKeys

	// What send hands on. It is here so that a call is one allocation.
	http    http.Client
	retry   retryablehttp.Client
	request retryablehttp.Request
}

// next is what follows an attempt.
type next struct {
	pending bool // another attempt, which has not begun
	wait    time.Duration
}

// send makes the call on one route and returns how its last attempt failed.
func (c *call) send(r *route) *Error {
	c.route, c.failure, c.tries, c.next = r, nil, 0, next{pending: true}

	c.http = c.client.http
	c.http.Transport = c
	c.retry = retryablehttp.Client{
		HTTPClient:   &c.http,
		RetryMax:     math.MaxInt, // decide counts
		CheckRetry:   c.checkRetry,
		Backoff:      c.backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	c.request = retryablehttp.Request{Request: c.newRequest()}
	_, err := c.retry.Do(&c.request) //nolint:bodyclose // RoundTrip closed it
	if c.next.pending {              // the wait was cut short
		c.failure = c.interrupted(c.failure, cmp.Or(c.stopped(), err))
	}
	return c.failure
}

// stopped returns why no further attempt begins, or nil while one may.
func (c *call) stopped() error {
	return cmp.Or(contextError(c.ctx), c.client.pace.stopped())
}

// newRequest returns what net/http is given; each attempt adds its own header, body and
// context. The context of the request itself bounds only the waits between attempts.
func (c *call) newRequest() *http.Request {
	u := c.route.url // a copy: the transport may still read that of the route before
	u.RawQuery = c.query
	request := http.Request{
		Method:     c.route.method,
		URL:        &u,
		Host:       u.Host,
		Header:     make(http.Header), // for cookies
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
	}
	return request.WithContext(c.waits)
}

// backoff is called by retryablehttp before each wait.
func (c *call) backoff(_, _ time.Duration, _ int, _ *http.Response) time.Duration {
	return c.next.wait
}

// checkRetry is called by retryablehttp after each attempt. It records the result of
// the attempt.
func (c *call) checkRetry(_ context.Context, _ *http.Response, err error) (bool, error) { //nolint:contextcheck // c.ctx is the context
	a := c.last
	c.last = attempt{}
	if a.started.IsZero() {
		c.failure = c.interrupted(c.failure, cmp.Or(a.held, c.stopped(), err))
		c.next = next{}
		return false, nil
	}
	c.failure = a.err
	c.tries++
	if e := a.err; e != nil && e.Outcome == OutcomeUnknown && c.unknownSince.IsZero() {
		c.unknownSince = a.started
	}
	c.next = c.decide(a.err)
	c.client.pace.note(a.err, c.next.wait, c.client.retry)
	c.observeEnd(a, c.next)
	c.attempts++
	return c.next.pending, nil
}

// decide returns what follows an attempt that failed with e. Where it is not sent
// again although it may be, e gets a note that says why.
func (c *call) decide(e *Error) next {
	if e == nil {
		return next{}
	}
	if e.StatusCode == http.StatusUnauthorized && c.keys.mayRotate(c.client.credential) {
		another, err := c.keys.rotate(c.waits, c.client.credential)
		if err != nil {
			e.Err = cmp.Or(c.client.pace.stopped(), c.withContext(err))
		}
		if another {
			c.tries-- // a resend with a new key does not count
		}
		return next{pending: another}
	}
	policy := c.client.retry
	if c.paced(e) {
		c.tries--
	}
	if !e.row.allows(c.effect) || c.tries >= policy.MaxAttempts {
		return next{}
	}
	if stopped := c.stopped(); stopped != nil {
		if c.ctx.Err() == nil || !errors.Is(e.Err, c.ctx.Err()) {
			e.Err = notSentAgain(e.Err, stopped)
		}
		return next{}
	}
	wait := max(policy.backoff(c.tries), e.RetryAfter)
	deadline, bounded := c.ctx.Deadline()
	switch {
	case e.RetryAfter > policy.MaxRetryAfter:
		e.addNote("it asks to wait %v, over the %v that RetryPolicy allows", e.RetryAfter, policy.MaxRetryAfter)
	case bounded && time.Until(deadline) <= wait:
		e.addNote("not sent again: the wait of %v would outlast the context", wait.Round(time.Millisecond))
	case c.tooLate(wait):
		e.addNote("not sent again: %v", errTooLate)
	default:
		return next{pending: true, wait: wait}
	}
	return next{}
}

// paced reports whether a 429 in a bulk run only means "not so fast", and does not
// count as an attempt.
func (c *call) paced(e *Error) bool {
	policy := c.client.retry
	return e.StatusCode == http.StatusTooManyRequests && c.client.pace.underWay() &&
		policy.MaxAttempts > 1 && c.attempts < mostPaced*policy.MaxAttempts
}

// maxUpdateAge is how long after the start of an attempt of unknown outcome an
// Update may be sent again. Later, it might undo a newer number.
const maxUpdateAge = 5 * time.Second

var errTooLate = fmt.Errorf("over %v after an attempt of unknown outcome, sending the number again might undo a newer one", maxUpdateAge)

// tooLate reports whether, after the wait, an attempt of unknown outcome is too long
// ago to send the request again.
func (c *call) tooLate(wait time.Duration) bool {
	return !c.unknownSince.IsZero() && updateAge(c.unknownSince) > maxUpdateAge-wait
}

// interrupted returns the error of a call whose next attempt did not begin. It is
// e, the failure of the attempt before, if there was one, with cause as a further
// cause.
func (c *call) interrupted(e *Error, cause error) *Error {
	if e == nil {
		e = c.newError(row{OutcomeNotApplied, none})
		e.Err = cause
		return e
	}
	e.Err = notSentAgain(e.Err, cause)
	return e
}

// notSentAgain adds the cause to the error of an attempt.
func notSentAgain(err, cause error) error {
	if err == nil {
		return fmt.Errorf("not sent again: %w", cause)
	}
	return fmt.Errorf("%w; not sent again: %w", err, cause)
}

// newError starts the error of an attempt.
func (c *call) newError(r row) *Error {
	e := &Error{
		Op:      c.op.String(),
		Method:  c.route.method,
		Path:    c.route.url.Path,
		Outcome: r.outcome,
		row:     r,
		made:    true,
	}
	if c.effect == reads {
		e.Outcome = OutcomeNotApplied
	}
	return e
}

// begin starts the call for the observers.
func (c *call) begin() {
	if len(c.client.observers) == 0 {
		return
	}
	c.started = time.Now()
	c.ctx = c.client.observers.callStart(c.ctx, CallStart{Op: c.op.String(), Items: c.items})
}

// finish completes the error of the call from all its attempts.
func (c *call) finish(e *Error) error {
	if e != nil {
		e.Attempts = c.attempts
		if e.Outcome == OutcomeNotApplied && !c.unknownSince.IsZero() {
			e.Outcome = OutcomeUnknown
		}
		c.keys.seen.redact(e)
	}
	if len(c.client.observers) > 0 {
		end := CallEnd{
			Op: c.op.String(), Items: c.items, Attempts: c.attempts,
			Duration: time.Since(c.started), Outcome: OutcomeApplied,
		}
		if e != nil {
			end.Outcome, end.Err = e.Outcome, e.observed()
		}
		c.client.observers.callEnd(c.ctx, end)
	}
	if e == nil {
		return nil
	}
	return e
}

// contextError is nil while ctx lasts, else why it ended.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		return fmt.Errorf("%w: %w", err, outside(cause))
	}
	return err
}
