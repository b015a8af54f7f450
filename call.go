package oakra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// call is one call of a service method. send makes it on one route; retryablehttp
// repeats the attempts, which RoundTrip makes one by one, as checkRetry says.
// What each attempt came to is left in the fields, and not in what RoundTrip
// returns: that passes through net/http and retryablehttp, which add and drop.
type call struct {
	client  *Client
	ctx     context.Context
	op      operation
	query   string
	body    *body // of a write
	probing bool  // a GET to find out about a route, whatever the operation

	// On the route.
	route *route
	tries int  // attempts that count against RetryPolicy.MaxAttempts
	ready bool // the next attempt was decided on and has not begun

	// Of the last attempt.
	started time.Time
	records []StockRecord
	failure *Error // nil after success
	json    bool   // the answer was JSON, though not 2xx
	wait    time.Duration
	halted  error // what kept the next attempt from beginning

	// Over all routes and attempts.
	attempts     int
	unknownSince time.Time // start of the first attempt of unknown outcome
	keys         secrets   // all that were seen
	key          string    // of the last attempt
	nextKey      string    // that the source gave for a rejected one
	rotated      bool

	// What send hands on, here so that a call is one piece of memory.
	http    http.Client
	retry   retryablehttp.Client
	request retryablehttp.Request
}

// send makes the call on one route and returns how its last attempt failed.
func (c *call) send(r *route) *Error {
	c.route, c.tries, c.ready, c.failure, c.halted = r, 0, true, nil, nil

	c.http = c.client.http
	c.http.Transport = c
	c.retry = retryablehttp.Client{
		HTTPClient:   &c.http,
		RetryMax:     math.MaxInt, // checkRetry counts
		CheckRetry:   c.checkRetry,
		Backoff:      c.backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	c.request = retryablehttp.Request{Request: c.newRequest()}
	_, err := c.retry.Do(&c.request)
	if c.ready {
		c.interrupted(cmp.Or(c.halted, contextError(c.ctx), err))
	}
	return c.failure
}

// newRequest is what net/http is given; each attempt adds its own header and body.
func (c *call) newRequest() *http.Request {
	u := c.route.url // of its own: the transport may still read that of the route before
	u.RawQuery = c.query
	header := noHeader
	if c.http.Jar != nil { // which adds cookies
		header = make(http.Header)
	}
	request := http.Request{
		Method:     c.route.method,
		URL:        &u,
		Host:       u.Host,
		Header:     header,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
	}
	return request.WithContext(c.ctx)
}

var noHeader = http.Header{}

// RoundTrip is one whole attempt: the limiter, the key, the request, and its
// answer read to the end, within the attempt timeout.
func (c *call) RoundTrip(request *http.Request) (*http.Response, error) {
	key, err := c.prepare()
	if err != nil {
		c.halted = err
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.client.attemptTimeout)
	defer cancel()
	t := trace{cancel: cancel}
	if !c.unknownSince.IsZero() {
		late := time.AfterFunc(time.Until(c.unknownSince.Add(maxUpdateAge)), t.late)
		defer late.Stop()
	}
	request = request.WithContext(t.context(ctx))
	request.Header = c.header(request.Header)
	if err := c.client.authorize(request, key); err != nil {
		c.halted = err
		return nil, err
	}
	if c.body != nil {
		// There is no GetBody, so that the transport cannot send a write again by itself.
		request.Body, request.ContentLength = c.body.open(), int64(len(c.body.json))
	}

	c.ready, c.failure, c.records, c.json = false, nil, nil, false
	c.attempts++
	c.tries++
	c.started = time.Now()
	response, err := c.client.http.Transport.RoundTrip(request)
	if err == nil && response == nil {
		err = errors.New("the transport returned neither an answer nor an error")
	}
	if err != nil {
		c.failed(ctx, &t, err)
		return nil, err
	}
	if response.Body == nil {
		response.Body = http.NoBody
	}
	defer response.Body.Close()
	if response.StatusCode/100 == 2 && response.StatusCode != http.StatusAccepted && !c.probing {
		c.readRecords(response)
	} else {
		c.readError(response, cancel)
	}
	response.Body = http.NoBody
	return response, nil
}

// errHeldBack marks a limiter's error where time may be what it lacked: that of
// rate.Limiter does not say so.
var errHeldBack = errors.New("the limiter, within the context's deadline")

// prepare waits until the attempt may begin, and returns its key.
func (c *call) prepare() (string, error) {
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.client.limiter != nil {
		if err := c.client.limiter.Wait(c.ctx); err != nil {
			if _, bounded := c.ctx.Deadline(); bounded {
				return "", fmt.Errorf("%w: %w", errHeldBack, err)
			}
			return "", fmt.Errorf("the limiter: %w", err)
		}
	}
	if c.client.pace != nil {
		if err := c.client.pace.wait(c.ctx); err != nil {
			return "", err
		}
	}
	key := c.nextKey
	if c.nextKey = ""; key == "" {
		var err error
		key, err = c.client.credential.key(c.ctx, "")
		c.keys = c.keys.with(key)
		if err == nil {
			err = checkKey(key)
		}
		if err != nil {
			return "", fmt.Errorf("the app key source: %w", err)
		}
	}
	c.key = key
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.tooLate(0) {
		return "", errTooLate
	}
	return key, nil
}

var headerJSON = []string{"application/json"}

// header is that of an attempt, but for what authorize adds. It is a new one each
// time, since the attempt before may still be at work on its own.
func (c *call) header(given http.Header) http.Header {
	header := make(http.Header, 8)
	if len(given) > 0 {
		maps.Copy(header, given)
		clear(given) // or the cookies would be there twice in the next attempt
	}
	header["Accept"] = headerJSON
	header["User-Agent"] = c.client.userAgent
	if c.body != nil {
		header["Content-Type"] = headerJSON
	}
	return header
}

// newError starts the error of an attempt.
func (c *call) newError() *Error {
	return &Error{
		Op:     operations[c.op].name,
		Method: c.route.method,
		Path:   c.route.url.Path,
	}
}

// failed takes an attempt that got no answer.
func (c *call) failed(attempt context.Context, t *trace, err error) {
	e := c.newError()
	e.Outcome, e.resend = failureVerdict(t, err)
	e.Err = c.keys.err(c.withContext(err))
	switch stopped := t.stopped.Load(); {
	case c.ctx.Err() != nil:
	case stopped != nil:
		e.Err = fmt.Errorf("%w: %v", *stopped, e.Err) // that a context ended was not the caller's doing
	case attempt.Err() != nil:
		e.Err = fmt.Errorf("no answer within the attempt timeout of %v: %w", c.client.attemptTimeout, e.Err)
	case t.answered.Load() && e.resend == resendNever:
		e.Err = fmt.Errorf("%w: %w", ErrBadResponse, e.Err)
	}
	if t.asked.Load() && !t.connected.Load() {
		e.Err = fmt.Errorf("%w: %w", ErrUnreachable, e.Err)
	}
	c.failure = e
}

// withContext adds to err that the caller's context ended, if it did.
func (c *call) withContext(err error) error {
	switch ended := c.ctx.Err(); {
	case ended == nil || errors.Is(err, ended):
		return err
	case errors.Is(err, context.Cause(c.ctx)): // which net/http gives instead
		return fmt.Errorf("%w: %w", ended, err)
	}
	return fmt.Errorf("%w: %w", contextError(c.ctx), err)
}

// interrupted takes what kept the next attempt from beginning. The failure
// before it, if there was one, stays the error, with this as a further cause.
func (c *call) interrupted(cause error) {
	cause = c.keys.err(cause)
	switch {
	case c.failure == nil:
		c.failure = c.newError()
		c.failure.Outcome, c.failure.resend = OutcomeNotApplied, resendNever
		c.failure.Err = cause
	case c.failure.Err == nil:
		c.failure.Err = fmt.Errorf("not sent again: %w", cause)
	default:
		c.failure.Err = fmt.Errorf("%w; not sent again: %w", c.failure.Err, cause)
	}
}

// finish completes the error of the call from all its attempts.
func (c *call) finish(e *Error) ([]StockRecord, error) {
	if e == nil {
		return c.records, nil
	}
	e.Attempts = c.attempts
	if e.Outcome == OutcomeNotApplied && !c.unknownSince.IsZero() {
		e.Outcome = OutcomeUnknown
	}
	return nil, e
}

// log notes the attempt that has just ended.
func (c *call) log() {
	logger := c.client.logger
	if logger == nil || !logger.Enabled(c.ctx, slog.LevelDebug) {
		return
	}
	attrs := []slog.Attr{
		slog.String("op", operations[c.op].name),
		slog.String("method", c.route.method),
		slog.String("path", c.route.url.Path),
		slog.Int("attempt", c.attempts),
		slog.Duration("took", time.Since(c.started)),
	}
	if c.failure != nil {
		attrs = append(attrs, slog.Attr{Key: "failure", Value: c.failure.LogValue()}) // as it is now: a handler may look later
	}
	if c.ready {
		attrs = append(attrs, slog.Duration("resend_after", c.wait))
	}
	logger.LogAttrs(c.ctx, slog.LevelDebug, "oakra: attempt", attrs...)
}

// contextError is nil while ctx lasts, else why it ended.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
