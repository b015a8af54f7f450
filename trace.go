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
)

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
