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
	started time.Time // zero if it did not begin
	err     *Error    // nil after a success
	held    error     // why it did not begin
}

// RoundTrip is one whole attempt: the limiter, the key, the request, and its
// response read to the end, within the attempt timeout.
func (c *call) RoundTrip(request *http.Request) (*http.Response, error) {
	key, err := c.admit()
	if err != nil {
		c.last = attempt{held: err}
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.client.attemptTimeout)
	defer cancel()
	t := trace{cancel: cancel}
	if !c.unknownSince.IsZero() {
		defer t.limit(time.Until(c.unknownSince.Add(maxUpdateAge))).Stop()
	}
	request = request.WithContext(t.context(ctx))
	request.Header = c.header(request.Header)
	if err := c.client.authorize(request, key); err != nil {
		c.last = attempt{held: err}
		return nil, err
	}
	if c.body != nil {
		// There is no GetBody: the transport cannot send a write again by itself.
		request.Body, request.ContentLength = c.body.open(), int64(len(c.body.json))
	}

	started := time.Now()
	response, err := c.client.http.Transport.RoundTrip(request)
	if err == nil && response == nil {
		err = errors.New("the transport returned neither a response nor an error")
	}
	if err != nil {
		c.last = attempt{started: started, err: c.failed(ctx, &t, err)}
		return nil, err
	}
	if response.Body == nil {
		response.Body = http.NoBody
	}
	defer response.Body.Close()
	c.last = attempt{started: started, err: c.read(response, cancel)}
	response.Body = http.NoBody
	return response, nil
}

// errHeldBack marks a limiter's error where time may be what it lacked: that of
// rate.Limiter does not say so.
var errHeldBack = errors.New("the limiter, within the context's deadline")

// admit waits until the attempt may begin, and returns its key.
func (c *call) admit() (string, error) {
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
	if err := c.client.pace.wait(c.ctx); err != nil {
		return "", err
	}
	key, err := c.keys.get(c.ctx, c.client.credential)
	if err != nil {
		return "", err
	}
	if err := contextError(c.ctx); err != nil {
		return "", err
	}
	if c.tooLate(0) {
		return "", errTooLate
	}
	return key, nil
}

var headerJSON = []string{"application/json"}

// header returns the header of an attempt, except what authorize adds. It is a new
// one each time, since the attempt before may still be at work on its own.
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

// failed returns the error of an attempt that got no response.
func (c *call) failed(ctx context.Context, t *trace, err error) *Error {
	e := c.newError(failureRow(t, err))
	e.Err = c.keys.seen.err(c.withContext(err))
	switch stopped := t.stopped.Load(); {
	case c.ctx.Err() != nil:
	case stopped != nil:
		e.Err = fmt.Errorf("%w: %v", *stopped, e.Err) // that a context ended was not the caller's doing
	case ctx.Err() != nil:
		e.Err = fmt.Errorf("no answer within the attempt timeout of %v: %w", c.client.attemptTimeout, e.Err)
	case t.responded.Load() && e.row.again == none:
		e.Err = fmt.Errorf("%w: %w", ErrBadResponse, e.Err)
	}
	if t.requested.Load() && !t.connected.Load() {
		e.Err = fmt.Errorf("%w: %w", ErrUnreachable, e.Err)
	}
	return e
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
