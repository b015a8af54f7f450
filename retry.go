package oakra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// RetryPolicy says how often and after what wait a request is sent again, where
// that is safe: a read after any passing failure, an Update likewise but after
// an unknown only within 5 s, a Change only when nothing was applied. A field
// that is zero takes its default; MinBackoff and MaxBackoff are then lowered or
// raised to the other, if that is set.
type RetryPolicy struct {
	// MaxAttempts is how often a request is sent in all; the default is 4. 1
	// never sends again, but for the new key of [WithAppKeySource]. It holds for
	// each route: the first write of a client may have to look for the right one.
	// Within one attempt net/http may repeat a read by itself: on every idle
	// connection that it finds closed, and three times more.
	MaxAttempts int
	// MinBackoff and MaxBackoff bound the wait: before the second attempt it is
	// drawn evenly from 0 to MinBackoff, and the upper bound doubles with each
	// further attempt up to MaxBackoff. The defaults are 250 ms and 5 s.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	// MaxRetryAfter is the longest wait that a Retry-After header is granted; a
	// longer one makes the call fail at once. The default is 30 s.
	MaxRetryAfter time.Duration
}

const (
	defaultMaxAttempts   = 4
	defaultMinBackoff    = 250 * time.Millisecond
	defaultMaxBackoff    = 5 * time.Second
	defaultMaxRetryAfter = 30 * time.Second

	// maxUpdateAge is how long after the start of an attempt of unknown outcome
	// an Update may be sent again: later, it might undo a newer number.
	maxUpdateAge = 5 * time.Second
)

func (p RetryPolicy) withDefaults() (RetryPolicy, error) {
	switch {
	case p.MaxAttempts < 0:
		return p, fmt.Errorf("RetryPolicy: MaxAttempts is %d, less than zero", p.MaxAttempts)
	case p.MinBackoff < 0 || p.MaxBackoff < 0 || p.MaxRetryAfter < 0:
		return p, errors.New("RetryPolicy: a duration is less than zero")
	case p.MaxBackoff != 0 && p.MinBackoff > p.MaxBackoff:
		return p, fmt.Errorf("RetryPolicy: MinBackoff %v is more than MaxBackoff %v", p.MinBackoff, p.MaxBackoff)
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = defaultMaxAttempts
	}
	if p.MinBackoff == 0 {
		p.MinBackoff = defaultMinBackoff
		if p.MaxBackoff != 0 {
			p.MinBackoff = min(p.MinBackoff, p.MaxBackoff)
		}
	}
	if p.MaxBackoff == 0 {
		p.MaxBackoff = max(defaultMaxBackoff, p.MinBackoff)
	}
	if p.MaxRetryAfter == 0 {
		p.MaxRetryAfter = defaultMaxRetryAfter
	}
	return p, nil
}

// backoff draws the wait after the n-th failed attempt, n from 1: full jitter, so
// that clients that failed together do not come back together.
func (p RetryPolicy) backoff(n int) time.Duration {
	bound := p.MinBackoff
	for ; n > 1 && bound < p.MaxBackoff; n-- {
		bound *= 2
		if bound <= 0 { // overflow
			bound = p.MaxBackoff
		}
	}
	return rand.N(max(1, min(bound, p.MaxBackoff)))
}

// parseRetryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds
// or any of the three forms of an HTTP date. Anything else is 0.
func parseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, at.Sub(now))
}

// backoff is retryablehttp's question before each wait.
func (c *call) backoff(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return c.wait }

// checkRetry is retryablehttp's question after each attempt.
func (c *call) checkRetry(context.Context, *http.Response, error) (bool, error) {
	if c.ready { // the attempt never began
		return false, nil
	}
	if e := c.failure; e != nil {
		if c.op == opList || c.probing {
			e.Outcome = OutcomeNotApplied
		} else if e.Outcome == OutcomeUnknown && c.unknownSince.IsZero() {
			c.unknownSince = c.started
		}
		c.ready = c.again(e)
	}
	if pace := c.client.pace; pace != nil {
		if c.failure == nil {
			pace.ease()
		} else if e := c.failure; e.StatusCode == http.StatusTooManyRequests && e.RetryAfter <= c.client.retry.MaxRetryAfter {
			pace.slow(max(c.wait, e.RetryAfter)) // a longer one ends the run instead
		}
	}
	c.log()
	return c.ready, nil
}

// again reports whether the request is sent once more, after c.wait.
func (c *call) again(e *Error) bool {
	c.wait = 0
	if e.StatusCode == http.StatusUnauthorized && c.client.credential.rotates && !c.rotated {
		return c.rotate(e)
	}
	policy := c.client.retry
	if pace := c.client.pace; pace != nil && e.StatusCode == http.StatusTooManyRequests && pace.underWay() &&
		policy.MaxAttempts > 1 && c.attempts < mostPaced*policy.MaxAttempts {
		c.tries-- // does not count
	}
	safe := e.resend == resendAny || e.resend == resendIdempotent && (operations[c.op].idempotent || c.probing)
	if !safe || c.tries >= policy.MaxAttempts {
		return false
	}
	if ended := contextError(c.ctx); ended != nil {
		if !errors.Is(e.Err, c.ctx.Err()) {
			c.interrupted(ended)
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
	key, err := c.client.credential.key(c.ctx, c.key)
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

var errTooLate = fmt.Errorf("over %v after an attempt of unknown outcome, sending the number again might undo a newer one", maxUpdateAge)

// tooLate reports whether, after the wait, an attempt of unknown outcome is too
// long ago for sending again.
func (c *call) tooLate(wait time.Duration) bool {
	return !c.unknownSince.IsZero() && time.Since(c.unknownSince) > maxUpdateAge-wait
}

// resend says which operations the delivery table lets be sent again after a
// failure.
type resend int

const (
	resendUnset      resend = iota
	resendNever             // none
	resendIdempotent        // List and Update
	resendAny               // all: the write was not applied
)

// statusVerdict is the delivery table for answers: what a status says of a
// write, and who may send again.
func statusVerdict(status int) (Outcome, resend) {
	switch status {
	case 429:
		return OutcomeNotApplied, resendAny
	case 301, 302, 307, 308,
		400, 401, 403, 404, 405, 409, 410, 413, 415, 422, 425:
		return OutcomeNotApplied, resendNever
	case 408:
		return OutcomeUnknown, resendIdempotent
	case 501:
		return OutcomeUnknown, resendNever
	}
	if status/100 == 5 {
		return OutcomeUnknown, resendIdempotent
	}
	return OutcomeUnknown, resendNever
}

// failureVerdict is the delivery table for attempts without an answer.
func failureVerdict(t *trace, err error) (Outcome, resend) {
	switch {
	case !t.asked.Load(): // a transport that reports no trace: its errors prove nothing
		return OutcomeUnknown, resendIdempotent
	case !t.connected.Load() && (noSuchHost(err) || t.refused()):
		return OutcomeNotApplied, resendNever
	case !t.connected.Load():
		return OutcomeNotApplied, resendAny
	case t.answered.Load() && !t.onlyInformed() && !broke(err): // what came is not HTTP
		return OutcomeUnknown, resendNever
	default:
		return OutcomeUnknown, resendIdempotent
	}
}

// trace is what net/http reports of one attempt. A connection was asked for and
// not had: that, and nothing else, proves that nothing was sent. The hooks run
// on several goroutines, and may run after the attempt.
type trace struct {
	hooks     httptrace.ClientTrace
	asked     atomic.Bool
	connected atomic.Bool
	wrote     atomic.Bool  // the header
	informs   atomic.Int32 // answers of 1xx
	answered  atomic.Bool
	handshake atomic.Pointer[error]

	cancel  context.CancelFunc // of the attempt
	stopped atomic.Pointer[error]
	conn    net.Conn // the last one
	uses    int
}

// maxUses is how often an attempt may use a connection, of HTTP/2 a stream. The
// transport sends a read again by itself when the server ends it; with HTTP/2, for
// ever. Idle connections that turn out to be closed do not count.
const maxUses = 4

var errUses = fmt.Errorf("the server ended %d connections or streams of this attempt before answering", maxUses)

// got takes a connection. net/http calls it in the goroutine of RoundTrip.
func (t *trace) got(info httptrace.GotConnInfo) {
	t.connected.Store(true)
	same := info.Conn != nil && reflect.TypeOf(info.Conn).Comparable() && t.conn == info.Conn
	if t.conn = info.Conn; same || !info.Reused {
		t.uses++
	}
	if t.uses > maxUses {
		t.stop(errUses)
	}
}

// late ends an attempt whose request is still held back: no connection, or no
// stream of one, is free. That of a transport without a trace cannot be seen.
func (t *trace) late() {
	if t.asked.Load() && !t.wrote.Load() {
		t.stop(errTooLate)
	}
}

func (t *trace) stop(why error) {
	t.stopped.CompareAndSwap(nil, &why)
	t.cancel()
}

// maxInforms is how many answers of 1xx may come before the real one.
const maxInforms = 20

var errInforms = fmt.Errorf("over %d answers of 1xx", maxInforms)

func (t *trace) inform(int, textproto.MIMEHeader) error {
	if t.informs.Add(1) > maxInforms {
		return errInforms
	}
	return nil
}

// onlyInformed reports whether the first byte that came was of a 1xx, so that a
// failure after it says nothing of the answer.
func (t *trace) onlyInformed() bool { n := t.informs.Load(); return 0 < n && n <= maxInforms }

func (t *trace) context(ctx context.Context) context.Context {
	t.hooks = httptrace.ClientTrace{
		GetConn:              func(string) { t.asked.Store(true) },
		GotConn:              t.got,
		WroteHeaders:         func() { t.wrote.Store(true) },
		Got1xxResponse:       t.inform,
		GotFirstResponseByte: func() { t.answered.Store(true) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				t.handshake.Store(&err)
			}
		},
	}
	return httptrace.WithClientTrace(ctx, &t.hooks)
}

// refused reports whether the TLS handshake failed for what the other side is,
// its certificate or protocol, rather than because the connection broke.
func (t *trace) refused() bool {
	failure := t.handshake.Load()
	if failure == nil {
		return false
	}
	var op *net.OpError
	alert := errors.As(*failure, &op) && (op.Op == "remote error" || op.Op == "local error")
	return alert || !broke(*failure)
}

// broke reports whether err is a connection's end or a timeout.
func broke(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func noSuchHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}
