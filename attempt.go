package oakra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// attempt is the result of one attempt.
type attempt struct {
	held    error           // why it did not begin
	started time.Time       // zero if it did not begin
	ctx     context.Context // context that the observers gave it
	took    time.Duration
	status  int         // status of the response, if there was one
	header  http.Header // header of the response
	err     *Error      // nil after a success
}

// RoundTrip is one whole attempt: the limiter, the key, the request, and its
// response read to the end, within the attempt timeout.
func (c *call) RoundTrip(request *http.Request) (*http.Response, error) {
	key, err := c.admit()
	if err != nil {
		c.last = attempt{held: err}
		return nil, err
	}
	header := c.header(request.Header)
	if err := c.client.authorize(header, request.URL, key); err != nil {
		c.last = attempt{held: err}
		return nil, err
	}
	a := attempt{ctx: c.observeStart(request, header), started: time.Now()}
	ctx, cancel := context.WithTimeout(a.ctx, c.client.attemptTimeout)
	defer cancel()
	t := trace{cancel: cancel}
	if err := ctx.Err(); err != nil { // an observer took long, or ended it
		t.untouched = true
		a.err = c.failed(ctx, &t, err)
		c.last = a
		return nil, err
	}
	request = request.WithContext(t.context(ctx))
	request.Header = header
	if c.body != nil {
		// There is no GetBody: the transport cannot send a write again by itself.
		request.Body, request.ContentLength = c.body.open(), int64(len(c.body.json))
		if !c.unknownSince.IsZero() {
			late := &lateBody{ReadCloser: request.Body, since: c.unknownSince}
			request.Body = late
			// The wait for a connection, or for a stream of one, is bounded too.
			defer time.AfterFunc(time.Until(c.unknownSince.Add(maxUpdateAge)), func() {
				if !late.begun.Load() {
					t.stop(errTooLate)
				}
			}).Stop()
		}
	}

	response, err := c.client.http.Transport.RoundTrip(request)
	if err == nil && response == nil {
		err = errors.New("the transport returned neither a response nor an error")
	}
	if err == nil {
		a.status, a.header = response.StatusCode, response.Header
		a.err = c.read(ctx, cancel, response)
	} else {
		a.err = c.failed(ctx, &t, err)
	}
	a.took = time.Since(a.started)
	c.last = a
	return response, err
}

// errHeldBack marks the error of a limiter in a call with a deadline. The deadline may
// have been too near, which the error of rate.Limiter does not say.
var errHeldBack = errors.New("the limiter, within the context's deadline")

// admit waits until the attempt may begin, and returns its key.
func (c *call) admit() (string, error) {
	key, err := c.wait()
	if stopped := c.client.pace.stopped(); stopped != nil && c.ctx.Err() == nil {
		return "", stopped
	}
	return key, err
}

func (c *call) wait() (string, error) {
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.client.limiter != nil {
		if err := c.client.limiter.Wait(c.waits); err != nil {
			err = c.withContext(err)
			if _, bounded := c.ctx.Deadline(); bounded {
				return "", fmt.Errorf("%w: %w", errHeldBack, err)
			}
			return "", fmt.Errorf("the limiter: %w", err)
		}
	}
	if err := c.client.pace.wait(c.waits); err != nil {
		return "", err
	}
	key, err := c.keys.get(c.waits, c.client.credential)
	if err != nil {
		return "", c.withContext(err)
	}
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.tooLate(0) {
		return "", errTooLate
	}
	return key, nil
}

var (
	headerJSON    = []string{"application/json"}
	headerNoCache = []string{"no-cache"}
)

// header returns the header of an attempt, with the cookies of the given one, and
// without what authorize adds. It is a new map each time, since the transport of the
// attempt before may still read its own.
func (c *call) header(given http.Header) http.Header {
	header := make(http.Header, 8)
	maps.Copy(header, given)
	clear(given) // otherwise the next attempt would have the cookies twice
	header["Accept"] = headerJSON
	header["User-Agent"] = c.client.userAgent
	if c.body != nil {
		header["Content-Type"] = headerJSON
	}
	if c.op == opList {
		header["Cache-Control"] = headerNoCache // RFC 9111, section 5.2.1.4
	}
	return header
}

// failed returns the error of an attempt that got no response.
func (c *call) failed(ctx context.Context, t *trace, err error) *Error {
	err = outside(err)
	e := c.newError(failureRow(t, err, c.client.ownTransport || t.untouched))
	stopped := t.stopped.Load()
	switch {
	case c.ctx.Err() != nil:
		e.Err = c.withContext(err)
	case stopped != nil:
		e.Err = fmt.Errorf("%w: %s", *stopped, err.Error()) // the caller did not end the context
	case errors.Is(ctx.Err(), context.Canceled):
		e.Err = fmt.Errorf("an observer's context ended: %w", err)
	case ctx.Err() != nil:
		e.Err = fmt.Errorf("no response within the attempt timeout of %v: %w", c.client.attemptTimeout, err)
	case t.responded.Load() && t.malformed(err):
		e.Err = fmt.Errorf("%w: %w", ErrBadResponse, err)
	default:
		e.Err = err
	}
	if t.requested.Load() && !t.connected.Load() {
		e.Err = fmt.Errorf("%w: %w", ErrUnreachable, e.Err)
	}
	c.keys.seen.redact(e)
	return e
}

// withContext adds to err that the caller's context ended, if it did.
func (c *call) withContext(err error) error {
	err = outside(err)
	switch ended := c.ctx.Err(); {
	case ended == nil || errors.Is(err, ended):
		return err
	case errors.Is(err, context.Cause(c.ctx)): // which net/http gives instead
		return fmt.Errorf("%w: %w", ended, err)
	}
	return fmt.Errorf("%w: %w", contextError(c.ctx), err)
}
