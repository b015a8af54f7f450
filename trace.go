package oakra

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
)

// trace is what net/http reports of one attempt, and stops the attempt where
// net/http would go on for ever. Its hooks run on several goroutines, also at
// once, and may run after the attempt.
type trace struct {
	hooks     httptrace.ClientTrace
	untouched bool         // whether the transport was not given the request
	requested atomic.Bool  // whether a connection was requested
	connected atomic.Bool  // whether one was obtained
	informs   atomic.Int32 // number of 1xx responses
	responded atomic.Bool
	handshake atomic.Pointer[error] // failure of the TLS handshake

	cancel  context.CancelFunc // ends the attempt
	stopped atomic.Pointer[error]

	mu   sync.Mutex
	conn net.Conn // last connection
	uses int
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

// got records a connection.
func (t *trace) got(info httptrace.GotConnInfo) {
	t.connected.Store(true)
	t.mu.Lock()
	same := sameConn(t.conn, info.Conn)
	if t.conn = info.Conn; same || !info.Reused {
		t.uses++
	}
	over := t.uses > maxUses
	t.mu.Unlock()
	if over {
		t.stop(errUses)
	}
}

// sameConn compares two connections. Two of a type that cannot be compared count as the
// same.
func sameConn(a, b net.Conn) bool {
	if a == nil || b == nil || reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	if !reflect.ValueOf(a).Comparable() || !reflect.ValueOf(b).Comparable() {
		return true
	}
	return a == b
}

func (t *trace) stop(why error) {
	t.stopped.CompareAndSwap(nil, &why)
	t.cancel()
}

// maxInforms is how many 1xx responses may come before the real one.
const maxInforms = 20

var errInforms = fmt.Errorf("%w: over %d responses of 1xx", ErrBadResponse, maxInforms)

// inform counts a 1xx. It does not return an error, since the error of a caller's own
// trace would replace it.
func (t *trace) inform(int, textproto.MIMEHeader) error {
	if t.informs.Add(1) > maxInforms {
		t.stop(errInforms)
	}
	return nil
}

// malformed reports whether something that is not HTTP came in response. The
// first byte of a 1xx says nothing about what came after it.
func (t *trace) malformed(err error) bool {
	n := t.informs.Load()
	if n > maxInforms {
		return true
	}
	return t.responded.Load() && n == 0 && !broke(err)
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

// timedOut reports whether err is a timeout, of the attempt or of a transport's own.
func timedOut(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

func noSuchHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// proxyError is the error of [DefaultTransport] where a proxy rejects CONNECT.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the proxy responded to CONNECT with %d %s", e.status, http.StatusText(e.status)))
}

// proxyRejected reports whether a proxy rejected CONNECT with a 4xx, which lets a
// request pass only once somebody gives it a password, or a rule. net/http itself
// leaves only the status text in its error.
func proxyRejected(err error) bool {
	var proxy *proxyError
	if errors.As(err, &proxy) {
		return proxy.status/100 == 4
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	for status := 400; status < 500; status++ {
		if text := http.StatusText(status); text != "" && strings.EqualFold(err.Error(), text) {
			return true
		}
	}
	return false
}
