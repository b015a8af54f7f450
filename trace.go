package oakra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"sync/atomic"
	"time"
)

// trace is what net/http reports of one attempt, and stops the attempt where
// net/http would go on for ever. Its hooks run on several goroutines, and may run
// after the attempt.
type trace struct {
	hooks     httptrace.ClientTrace
	requested atomic.Bool  // a connection
	connected atomic.Bool  // it was obtained
	wrote     atomic.Bool  // the header of the request
	informs   atomic.Int32 // number of 1xx responses
	responded atomic.Bool
	handshake atomic.Pointer[error] // failure of the TLS handshake

	cancel  context.CancelFunc // ends the attempt
	stopped atomic.Pointer[error]
	conn    net.Conn // last connection
	uses    int
}

// context returns ctx with the hooks.
func (t *trace) context(ctx context.Context) context.Context {
	t.hooks.GetConn = func(string) { t.requested.Store(true) }
	t.hooks.GotConn = t.got
	t.hooks.Got1xxResponse = t.inform
	t.hooks.GotFirstResponseByte = func() { t.responded.Store(true) }
	t.hooks.TLSHandshakeDone = func(_ tls.ConnectionState, err error) {
		if err != nil {
			t.handshake.Store(&err)
		}
	}
	return httptrace.WithClientTrace(ctx, &t.hooks)
}

// maxUses is how often an attempt may use a connection or, with HTTP/2, a stream.
// The transport sends a read again by itself when the server ends it; with HTTP/2,
// for ever. Idle connections that turn out to be closed do not count.
const maxUses = 4

var errUses = fmt.Errorf("the server ended %d connections or streams of this attempt before a response", maxUses)

// got records a connection. net/http calls it in the goroutine of RoundTrip.
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

// limit stops the attempt after d if its request is still held back then, since no
// connection, or no stream of one, is free. A transport without a trace cannot be
// watched. It is called before context.
func (t *trace) limit(d time.Duration) *time.Timer {
	t.hooks.WroteHeaders = func() { t.wrote.Store(true) }
	return time.AfterFunc(d, func() {
		if t.requested.Load() && !t.wrote.Load() {
			t.stop(errTooLate)
		}
	})
}

func (t *trace) stop(why error) {
	t.stopped.CompareAndSwap(nil, &why)
	t.cancel()
}

// maxInforms is how many 1xx responses may come before the real one.
const maxInforms = 20

var errInforms = fmt.Errorf("over %d responses of 1xx", maxInforms)

func (t *trace) inform(int, textproto.MIMEHeader) error {
	if t.informs.Add(1) > maxInforms {
		return errInforms
	}
	return nil
}

// malformed reports whether something that is not HTTP came in response. The
// first byte of a 1xx says nothing about what came after it.
func (t *trace) malformed(err error) bool {
	n := t.informs.Load()
	onlyInformed := 0 < n && n <= maxInforms
	return t.responded.Load() && !onlyInformed && !broke(err)
}

// rejected reports whether the TLS handshake failed because of the other side's
// certificate or protocol, rather than because the connection broke.
func (t *trace) rejected() bool {
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
