package oakra

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/oakra/oakra-go/internal/stockjson"
)

const (
	maxBody      = 64 << 20    // of a 2xx, after decompression
	maxErrorBody = 64 << 10    // kept of any other answer
	errorBodyFor = time.Second // how long that is waited for; the status has decided already
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
	body    []byte
	ids     []int64 // that a write sends
	probing bool    // a GET to find out about a route, whatever the operation

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
	url     url.URL
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
	if c.body != nil {
		if err := c.request.SetBody(c.body); err != nil {
			c.interrupted(err)
			return c.failure
		}
	}
	_, err := c.retry.Do(&c.request)
	if c.ready {
		c.interrupted(cmp.Or(c.halted, contextError(c.ctx), err))
	}
	return c.failure
}

// newRequest is what net/http is given; each attempt adds its own header.
func (c *call) newRequest() *http.Request {
	u := c.route.url
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
	var t trace
	request = request.WithContext(t.context(ctx))
	request.Header = c.header(request.Header)
	if err := c.client.authorize(request, key); err != nil {
		c.halted = err
		return nil, err
	}
	// Without GetBody the transport cannot send a write again by itself.
	request.GetBody = nil

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

// prepare waits until the attempt may begin, and returns its key.
func (c *call) prepare() (string, error) {
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.client.limiter != nil {
		if err := c.client.limiter.Wait(c.ctx); err != nil {
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
		key, err = c.client.keySource(c.ctx, "")
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

var errTooLate = fmt.Errorf("over %v after an attempt of unknown outcome, sending the number again might undo a newer one", maxUpdateAge)

// tooLate reports whether, after the wait, an attempt of unknown outcome is too
// long ago for sending again.
func (c *call) tooLate(wait time.Duration) bool {
	return !c.unknownSince.IsZero() && time.Since(c.unknownSince) > maxUpdateAge-wait
}

var headerJSON = []string{"application/json"}

// header is that of an attempt, but for what authorize adds. It is a new one each
// time, since the attempt before may still be at work on its own.
func (c *call) header(given http.Header) http.Header {
	header := make(http.Header, 8)
	if len(given) > 0 {
		maps.Copy(header, given)
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
	err = c.keys.err(err)
	if ended := contextError(c.ctx); ended != nil {
		if !errors.Is(err, c.ctx.Err()) {
			err = fmt.Errorf("%w: %w", ended, err)
		}
		e.resend = resendNever
	} else if attempt.Err() != nil {
		err = fmt.Errorf("no answer within the attempt timeout of %v: %w", c.client.attemptTimeout, err)
	}
	switch {
	case t.asked.Load() && !t.connected.Load():
		err = fmt.Errorf("%w: %w", ErrUnreachable, err)
	case t.answered.Load() && e.resend == resendNever && contextError(c.ctx) == nil:
		err = fmt.Errorf("%w: %w", ErrBadResponse, err)
	}
	e.Err = err
	c.failure = e
}

// readRecords takes an answer of 2xx.
func (c *call) readRecords(response *http.Response) {
	d := stockjson.NewDecoder(response.Body, maxBody)
	defer d.Close()
	records, err := decode(d, response.ContentLength)
	if err == nil {
		missing := missingIDs(c.ids, records)
		if len(missing) == 0 {
			c.records = records
			return
		}
		e := c.newError()
		e.StatusCode = response.StatusCode
		e.Outcome, e.resend = OutcomeUnknown, resendNever
		e.Err, e.MissingIDs, e.Records = ErrBadResponse, missing, records
		e.Body = c.keys.body(bytes.Clone(d.Head()))
		c.failure = e
		return
	}
	e := c.newError()
	e.StatusCode = response.StatusCode
	e.Outcome, e.resend = OutcomeUnknown, resendNever
	if d.Began() {
		e.Outcome = OutcomeApplied
	}
	if c.op == opList && d.Cut() {
		e.resend = resendIdempotent
	}
	e.Err = fmt.Errorf("%w: %w", ErrBadResponse, c.keys.err(err))
	if ended := contextError(c.ctx); ended != nil && !errors.Is(err, c.ctx.Err()) {
		e.Err = fmt.Errorf("%w: %w", e.Err, ended)
	}
	c.takeBody(e, bytes.Clone(d.Head()), !d.Began())
	c.failure = e
}

// readError takes an answer of any other status.
func (c *call) readError(response *http.Response, cancel context.CancelFunc) {
	var body []byte
	if response.StatusCode != http.StatusSwitchingProtocols { // whose body is the connection
		timer := time.AfterFunc(errorBodyFor, cancel)
		// A little more than is kept, so that no key is cut in two at the end.
		body, _ = io.ReadAll(io.LimitReader(response.Body, maxErrorBody+1024))
		timer.Stop()
	}

	e := c.newError()
	e.StatusCode = response.StatusCode
	e.Outcome, e.resend = statusVerdict(e.StatusCode)
	e.RetryAfter = parseRetryAfter(response.Header.Get("Retry-After"), time.Now())
	c.takeBody(e, body, true)
	switch e.StatusCode / 100 {
	case 2:
		e.Err = ErrBadResponse
	case 3:
		if to := c.redirectTarget(response); to != "" && e.Message == "" {
			e.Message = "it points to " + to + ", which is not followed"
		}
	}
	c.failure = e
}

// takeBody puts the body on the error and, where it can hold one, reads the
// server's message from it.
func (c *call) takeBody(e *Error, body []byte, message bool) {
	e.Body = c.keys.body(body)
	if message {
		c.json = e.readMessage(e.Body) || looksLikeJSON(e.Body)
		c.keys.message(e)
	}
	if len(e.Body) > maxErrorBody {
		e.Body = e.Body[:maxErrorBody:maxErrorBody]
	}
}

// looksLikeJSON is for a body of which only the beginning was read.
func looksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) >= maxErrorBody && (body[0] == '{' || body[0] == '[')
}

// redirectTarget is where a redirect points, without query or user.
func (c *call) redirectTarget(response *http.Response) string {
	to, err := url.Parse(response.Header.Get("Location"))
	if err != nil || *to == (url.URL{}) {
		return ""
	}
	to = c.route.url.ResolveReference(to)
	const longest = 200
	text := c.keys.text((&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String())
	return text[:min(len(text), longest)]
}

// backoff is retryablehttp's question before each wait.
func (c *call) backoff(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return c.wait }

// checkRetry is retryablehttp's question after each attempt.
func (c *call) checkRetry(context.Context, *http.Response, error) (bool, error) {
	if c.ready { // the attempt never began
		return false, nil
	}
	if c.failure != nil && c.failure.Outcome == OutcomeUnknown && c.unknownSince.IsZero() && c.op != opList && !c.probing {
		c.unknownSince = c.started
	}
	c.ready = c.failure != nil && c.again(c.failure)
	if pace := c.client.pace; pace != nil {
		if c.failure == nil {
			pace.ease()
		} else if c.failure.StatusCode == http.StatusTooManyRequests {
			pace.slow(c.wait)
		}
	}
	c.log()
	return c.ready, nil
}

// again reports whether the request is sent once more, after c.wait.
func (c *call) again(e *Error) bool {
	c.wait = 0
	if e.StatusCode == http.StatusUnauthorized && c.client.rotates && !c.rotated {
		return c.rotate(e)
	}
	policy := c.client.retry
	safe := e.resend == resendAny || e.resend == resendIdempotent && (operations[c.op].idempotent || c.probing)
	if !safe || c.tries >= policy.MaxAttempts {
		return false
	}
	if ended := contextError(c.ctx); ended != nil {
		if !errors.Is(e.Err, c.ctx.Err()) {
			e.Err = joinCause(e.Err, ended)
		}
		return false
	}
	c.wait = max(policy.backoff(c.tries), e.RetryAfter)
	deadline, bounded := c.ctx.Deadline()
	switch {
	case e.RetryAfter > policy.MaxRetryAfter:
		e.note = fmt.Sprintf("it asks to wait %v, over the %v that RetryPolicy allows", e.RetryAfter, policy.MaxRetryAfter)
	case bounded && time.Until(deadline) <= c.wait:
		e.note = fmt.Sprintf("not sent again: the wait of %v would outlast the context", c.wait.Round(time.Millisecond))
	case c.tooLate(c.wait):
		e.note = "not sent again: " + errTooLate.Error()
	default:
		return true
	}
	return false
}

// rotate asks the source for another key than the one just answered 401.
func (c *call) rotate(e *Error) bool {
	c.rotated = true
	key, err := c.client.keySource(c.ctx, c.key)
	if err == nil && key == c.key {
		return false
	}
	c.keys = c.keys.with(key)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		e.Err = fmt.Errorf("the app key source: %w", c.keys.err(err))
		return false
	}
	c.nextKey = key
	c.tries--
	return true
}

// interrupted takes what kept the next attempt from beginning. The failure
// before it, if there was one, stays the error, with this as a further cause.
func (c *call) interrupted(cause error) {
	cause = c.keys.err(cause)
	if c.failure == nil {
		c.failure = c.newError()
		c.failure.Outcome, c.failure.resend = OutcomeNotApplied, resendNever
		c.failure.Err = cause
		return
	}
	c.failure.Err = joinCause(c.failure.Err, cause)
}

func joinCause(err, cause error) error {
	if err == nil {
		return fmt.Errorf("not sent again: %w", cause)
	}
	return fmt.Errorf("%w; not sent again: %w", err, cause)
}

// finish completes the error of the call from all its attempts.
func (c *call) finish(e *Error) ([]StockRecord, error) {
	if e == nil {
		return c.records, nil
	}
	e.Attempts = c.attempts
	switch {
	case c.op == opList:
		e.Outcome = OutcomeNotApplied
	case e.Outcome == OutcomeNotApplied && !c.unknownSince.IsZero():
		e.Outcome = OutcomeUnknown
	}
	return nil, e
}

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
		attrs = append(attrs, slog.Any("failure", c.failure))
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
