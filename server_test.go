package oakra_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jarcoal/httpmock"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// rawServer is an HTTP/1.1 server whose responses are written byte by byte,
// including how the connection ends. It keeps a ledger to compare the client's
// claims with: how many requests began, how many arrived whole, and how many
// were applied.
type rawServer struct {
	baseURL  string
	listener net.Listener // nil if only dial reaches the server

	mu       sync.Mutex
	script   []rawTurn
	turns    int          // requests whose first byte arrived
	requests []rawRequest // requests that arrived whole
	applied  []rawRequest // writes that a turn applied
	accepted int          // connections since the start
	open     map[net.Conn]struct{}
	closed   bool
	running  sync.WaitGroup
}

// rawRequest is what the ledger keeps of a request.
type rawRequest struct{ method, path, query, body, key, userAgent string }

func (r rawRequest) String() string { return r.method + " " + r.path }

// rawTurn responds to one request, whose first byte has arrived, and reports
// whether the connection stays open.
type rawTurn func(c *rawConn) (open bool)

// newRawServer listens on a loopback port. The n-th turn responds to the n-th
// request, and the last turn to all later ones.
func newRawServer(t testing.TB, script ...rawTurn) *rawServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := newPipeServer(t, script...)
	s.listener = listener
	s.baseURL = "http://" + listener.Addr().String() + "/api/v1/"
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.start(conn)
		}
	}()
	return s
}

// newPipeServer returns a server without a port. Its connections are pipes in
// memory, which dial makes, and it works in a synctest bubble.
func newPipeServer(t testing.TB, script ...rawTurn) *rawServer {
	s := &rawServer{
		baseURL: "http://127.0.0.1:1/api/v1/",
		script:  script,
		open:    make(map[net.Conn]struct{}),
	}
	t.Cleanup(s.close)
	return s
}

// dial is a DialContext that connects to s, whatever the address.
func (s *rawServer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if s.listener != nil {
		return new(net.Dialer).DialContext(ctx, "tcp", s.listener.Addr().String())
	}
	near, far := net.Pipe()
	s.start(far)
	return near, nil
}

func (s *rawServer) start(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	s.accepted++
	s.open[conn] = struct{}{}
	s.running.Add(1)
	go s.serve(conn)
}

func (s *rawServer) serve(conn net.Conn) {
	defer s.running.Done()
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
	}()
	c := &rawConn{Conn: conn, server: s, reader: bufio.NewReader(conn)}
	for {
		if _, err := c.reader.Peek(1); err != nil {
			return
		}
		c.request = nil
		if open := s.nextTurn()(c); !open {
			return
		}
	}
}

func (s *rawServer) nextTurn() rawTurn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turns++
	return s.script[min(s.turns, len(s.script))-1]
}

// play starts a new script and a new ledger. Connections stay open.
func (s *rawServer) play(script ...rawTurn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script, s.turns, s.requests, s.applied = script, 0, nil, nil
}

// close ends all connections and waits for all goroutines.
func (s *rawServer) close() {
	if s.listener != nil {
		s.listener.Close()
	}
	s.mu.Lock()
	s.closed = true
	for conn := range s.open {
		conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// rawLedger is what a server has seen since the last play.
type rawLedger struct {
	turns    int
	requests []rawRequest
	applied  []rawRequest
	accepted int // connections since the start of the server
	open     int // open connections
}

func (s *rawServer) ledger() rawLedger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rawLedger{
		turns:    s.turns,
		requests: append([]rawRequest(nil), s.requests...),
		applied:  append([]rawRequest(nil), s.applied...),
		accepted: s.accepted,
		open:     len(s.open),
	}
}

// paths lists the requests as "POST stock/stock-records/change/", an empty list with
// the mark of emptyTo.
func (l rawLedger) paths() []string {
	paths := []string{}
	for _, r := range l.requests {
		if r.body == emptyList {
			paths = append(paths, emptyTo(r.String()))
		} else {
			paths = append(paths, r.String())
		}
	}
	return paths
}

// emptyList is the body that asks whether a route is there.
const emptyList = `{"stock_records":[]}`

// emptyTo names the request that asks whether a route is there.
func emptyTo(route string) string { return route + " []" }

// keys lists the app keys that the requests carried.
func (l rawLedger) keys() []string {
	keys := []string{}
	for _, r := range l.requests {
		keys = append(keys, r.key)
	}
	return keys
}

// rawConn is a connection in the middle of a turn.
type rawConn struct {
	net.Conn
	server  *rawServer
	reader  *bufio.Reader
	request *rawRequest // request of this turn, once it was read
}

// read reads the whole request and enters it in the ledger. It returns nil if
// the request does not arrive whole.
func (c *rawConn) read() *rawRequest {
	if c.request != nil {
		return c.request
	}
	request, err := http.ReadRequest(c.reader)
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil
	}
	c.request = &rawRequest{
		method:    request.Method,
		path:      strings.TrimPrefix(request.URL.Path, "/api/v1/"),
		query:     request.URL.RawQuery,
		body:      string(body),
		key:       strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer "),
		userAgent: request.Header.Get("User-Agent"),
	}
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.requests = append(c.server.requests, *c.request)
	return c.request
}

// rawEnd decides how a connection goes on after a turn.
type rawEnd func(c *rawConn) (open bool)

func rawKeep(*rawConn) bool { return true }

func rawClose(*rawConn) bool { return false }

// rawReset makes the peer see a reset instead of the end of the stream.
func rawReset(c *rawConn) bool {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return false
}

// rawResetAfter is a rawReset after a part of a response. On Windows it is a rawClose:
// a reset there discards what has arrived and was not read. TestEveryByte resets in
// memory.
func rawResetAfter(c *rawConn) bool {
	if runtime.GOOS == "windows" {
		return rawClose(c)
	}
	return rawReset(c)
}

// rawHalfClose closes the sending side and goes on reading.
func rawHalfClose(c *rawConn) bool {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
	return rawStall(c)
}

// rawStall does nothing more until the peer has gone.
func rawStall(c *rawConn) bool {
	io.Copy(io.Discard, c.reader)
	return false
}

// rawUnread ends the connection before it reads the request.
func rawUnread(end rawEnd) rawTurn {
	return func(c *rawConn) bool { return end(c) }
}

// rawWrite reads the request, writes the text unchanged, and ends.
func rawWrite(text string, end rawEnd) rawTurn {
	return func(c *rawConn) bool {
		if c.read() == nil {
			return false
		}
		io.Copy(c, strings.NewReader(text))
		return end(c)
	}
}

// rawRespond writes a complete response and keeps the connection open. The
// lines of header end in CRLF. A 2xx response to a write applies the write
// first; any other status does not. See rawApply.
func rawRespond(status int, header, body string) rawTurn {
	turn := rawWrite(rawText(status, header, body), rawKeep)
	if status/100 == 2 {
		return rawApply(turn)
	}
	return turn
}

func rawText(status int, header, body string) string {
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\n%s", status, http.StatusText(status), header)
	if status == http.StatusNoContent || status == http.StatusNotModified {
		return text + "\r\n"
	}
	return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", text, len(body), body)
}

// rawApply enters a write in the ledger as applied, and then plays turn.
func rawApply(turn rawTurn) rawTurn {
	return func(c *rawConn) bool {
		r := c.read()
		if r == nil {
			return false
		}
		if r.method != http.MethodGet && r.body != emptyList {
			c.server.mu.Lock()
			c.server.applied = append(c.server.applied, *r)
			c.server.mu.Unlock()
		}
		return turn(c)
	}
}

// rawAfter calls f once the request has been read, and then plays turn.
func rawAfter(f func(), turn rawTurn) rawTurn {
	return func(c *rawConn) bool {
		if c.read() == nil {
			return false
		}
		f()
		return turn(c)
	}
}

// rawRoutes chooses a turn by method and path, for an empty list first as emptyTo
// names it, and plays otherwise for all other requests.
func rawRoutes(routes map[string]rawTurn, otherwise rawTurn) rawTurn {
	return func(c *rawConn) bool {
		r := c.read()
		if r == nil {
			return false
		}
		if turn, ok := routes[emptyTo(r.String())]; ok && r.body == emptyList {
			return turn(c)
		}
		if turn, ok := routes[r.String()]; ok {
			return turn(c)
		}
		return otherwise(c)
	}
}

// rawTransport returns the default transport of the package, connecting to s.
func rawTransport(t testing.TB, s *rawServer) *http.Transport {
	transport := oakra.DefaultTransport()
	transport.Proxy = nil
	transport.DialContext = s.dial
	// On a slow machine a connection must not expire between two calls.
	transport.IdleConnTimeout = time.Minute
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

const rawKey = "raw-test-key-0123456789"

// rawTries is how often rawClient sends a request that may be sent again.
const rawTries = 3

// rawClient returns a client of s that waits for at most a millisecond before it
// resends.
func rawClient(t testing.TB, s *rawServer, opts ...oakra.Option) *oakra.Client {
	t.Helper()
	return rawClientOn(t, s.baseURL, rawTransport(t, s), opts...)
}

// keptClient returns a rawClient that keeps the routes. A test of one write then sees
// no search for them.
func keptClient(t testing.TB, s *rawServer, opts ...oakra.Option) *oakra.Client {
	t.Helper()
	return oakra.KeepRoutes(rawClient(t, s, opts...))
}

func rawClientOn(t testing.TB, baseURL string, transport http.RoundTripper, opts ...oakra.Option) *oakra.Client {
	t.Helper()
	client, err := oakra.NewClient(rawKey, rawOptions(baseURL, transport, opts...)...)
	require.NoError(t, err)
	return client
}

func rawOptions(baseURL string, transport http.RoundTripper, opts ...oakra.Option) []oakra.Option {
	return append([]oakra.Option{
		oakra.WithBaseURL(baseURL),
		oakra.WithHTTPClient(&http.Client{Transport: transport}),
		oakra.WithRetryPolicy(rawPolicy(rawTries)),
	}, opts...)
}

func rawPolicy(attempts int) oakra.RetryPolicy {
	return oakra.RetryPolicy{
		MaxAttempts: attempts,
		MinBackoff:  time.Millisecond,
		MaxBackoff:  time.Millisecond,
	}
}

// rawClosedPort returns a loopback address that refuses connections. The
// address is one end of a connection, since another test could be given a port
// that was only closed.
func rawClosedPort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	conn, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn.LocalAddr().String()
}

// TestRawServer checks that the ledger is right.
func TestRawServer(t *testing.T) {
	s := newRawServer(t, rawRespond(200, "", "one"), rawRespond(500, "", "two"), rawWrite("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut", rawClose))
	client := &http.Client{Transport: rawTransport(t, s)}
	for i, want := range []string{"one", "two", "cut"} {
		response, err := client.Post(s.baseURL+"p/", "text/plain", bytes.NewReader([]byte{'a' + byte(i)}))
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.Equal(t, want, string(body))
		require.Equal(t, want == "cut", err != nil)
	}
	s.play(rawUnread(rawReset))
	_, err := client.Post(s.baseURL, "text/plain", strings.NewReader("d"))
	require.Error(t, err)

	s.play(rawApply(rawWrite("", rawReset)))
	_, err = client.Post(s.baseURL+"q/", "text/plain", strings.NewReader("e"))
	require.Error(t, err)
	s.close()
	ledger := s.ledger()
	require.Equal(t, []rawRequest{{method: "POST", path: "q/", body: "e", userAgent: "Go-http-client/1.1"}}, ledger.requests)
	require.Equal(t, ledger.requests, ledger.applied)
	require.Equal(t, 1, ledger.turns)
	require.Equal(t, 3, ledger.accepted, "the first three requests shared a connection, the others had one each")
}

// newTLSServer speaks HTTP/1 over TLS. The pool holds its certificate.
func newTLSServer(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	return startTLS(t, httptest.NewUnstartedServer(handler))
}

func startTLS(t *testing.T, server *httptest.Server) (*httptest.Server, *x509.CertPool) {
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail on purpose
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server, pool
}

const stubKey = "stub-key-0123456789abcdef"

// stubTransport is a transport without a network. It calls no httptrace hook
// unless its function does.
type stubTransport func(*http.Request) (*http.Response, error)

func (f stubTransport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// stubLimiter is an oakra.Limiter.
type stubLimiter func(context.Context) error

func (f stubLimiter) Wait(ctx context.Context) error { return f(ctx) }

// stubResponse returns a response with the header fields name, value, name,
// value.
func stubResponse(status int, body string, header ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: h,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

func stubClient(t testing.TB, transport http.RoundTripper, opts ...oakra.Option) *oakra.Client {
	t.Helper()
	all := []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: transport})}
	client, err := oakra.NewClient(stubKey, append(all, opts...)...)
	require.NoError(t, err)
	return client
}

// responding returns a client that gets the same response to every request, never
// sends a request again, and keeps the routes.
func responding(t testing.TB, status int, body string) *oakra.Client {
	t.Helper()
	mock := httpmock.NewMockTransport()
	mock.RegisterNoResponder(httpmock.NewStringResponder(status, body))
	return oakra.KeepRoutes(stubClient(t, mock, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})))
}

// stubSequence is a transport that takes one step for each request and repeats
// the last one for ever. It records when each request arrived.
type stubSequence struct {
	steps []func(*http.Request) (*http.Response, error)
	times []time.Time
}

func (s *stubSequence) RoundTrip(r *http.Request) (*http.Response, error) {
	s.times = append(s.times, time.Now())
	return s.steps[min(len(s.times), len(s.steps))-1](r)
}

// gaps returns the waits between the requests.
func (s *stubSequence) gaps() []time.Duration {
	var gaps []time.Duration
	for i := 1; i < len(s.times); i++ {
		gaps = append(gaps, s.times[i].Sub(s.times[i-1]))
	}
	return gaps
}

func sequence(steps ...func(*http.Request) (*http.Response, error)) *stubSequence {
	return &stubSequence{steps: steps}
}

func status(code int, header ...string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return stubResponse(code, "", header...), nil }
}

func success(*http.Request) (*http.Response, error) {
	return stubResponse(200, "["+recordA+","+recordB+"]"), nil
}

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}

// refuse fails the way net/http does when it obtains no connection.
func refuse(r *http.Request) (*http.Response, error) {
	httptrace.ContextClientTrace(r.Context()).GetConn("app.oakra.com:443")
	return nil, errRefused
}

var errReset = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")}

// reset fails the way net/http does when a connection breaks after the request.
func reset(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	trace.GetConn("app.oakra.com:443")
	trace.GotConn(httptrace.GotConnInfo{})
	return nil, errReset
}

// handshakeReset fails the way net/http does when a connection breaks in the
// TLS handshake.
func handshakeReset(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	trace.GetConn("app.oakra.com:443")
	trace.TLSHandshakeDone(tls.ConnectionState{}, errReset)
	return nil, errReset
}

// noWait makes the waits nearly zero, except for a Retry-After.
var noWait = oakra.RetryPolicy{MinBackoff: 1, MaxBackoff: 1}

// stubRecords returns a 200 response with the records.
func stubRecords(records []oakra.StockRecord) *http.Response {
	body, err := json.Marshal(records)
	if err != nil {
		panic(err)
	}
	return stubResponse(200, string(body))
}

// jitter returns latencies of up to 100 ms, always the same one for the n-th
// request.
func jitter(seed uint64) func(n int) time.Duration {
	return func(n int) time.Duration {
		return time.Duration(1+rand.New(rand.NewPCG(seed, uint64(n))).IntN(100)) * time.Millisecond
	}
}

// requireNoMoreGoroutines waits until there are no more goroutines than before.
func requireNoMoreGoroutines(t testing.TB, before int) {
	t.Helper()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 5*time.Second, 5*time.Millisecond, // Eventually itself runs one
		"goroutines are left behind")
}

func requireError(t testing.TB, err error) *oakra.Error {
	t.Helper()
	var e *oakra.Error
	require.ErrorAs(t, err, &e)
	return e
}

func second[T any](_ T, err error) error { return err }

type stockCall struct {
	name string
	call func(context.Context, *oakra.Client) ([]oakra.StockRecord, error)
}

// stockCalls are the three calls, each about the records 1 and 2.
var stockCalls = []stockCall{
	{"stock.list", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"a", "b"}})
	}},
	{"stock.update", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.Update(ctx, []oakra.StockUpdate{{ID: 1, Quantity: 5}, {ID: 2, Quantity: 6}})
	}},
	{"stock.change", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 5}, {ID: 2, QuantityChange: 6}})
	}},
}

func isWrite(call stockCall) bool { return call.name != "stock.list" }

const (
	recordA = `{"id":1,"location_id":"l","sku":"a","quantity":5}`
	recordB = `{"id":2,"location_id":"m","sku":"b","quantity":-6}`
)

var recordsAB = []oakra.StockRecord{
	{ID: 1, LocationID: "l", SKU: "a", Quantity: 5},
	{ID: 2, LocationID: "m", SKU: "b", Quantity: -6},
}

// deliveryOp is one of the three calls. All of them have two records.
type deliveryOp struct {
	name string
	path string // path of the first route
	call func(context.Context, *oakra.Client) ([]oakra.StockRecord, error)
}

var (
	deliverList = deliveryOp{"list", "/api/v1/stock/stock-records/", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"a", "b"}})
	}}
	deliverUpdate = deliveryOp{"update", "/api/v1/stock/stock-record/update/", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.Update(ctx, []oakra.StockUpdate{{ID: 1, Quantity: 5}, {ID: 2, Quantity: 6}})
	}}
	deliverChange = deliveryOp{"change", "/api/v1/stock/stock-records/change/", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: -1}, {ID: 2, QuantityChange: 3}})
	}}
	deliveryOps = []deliveryOp{deliverList, deliverUpdate, deliverChange}
)

const (
	firstRecord     = `{"id":1,"location_id":"w","sku":"a","quantity":5}`
	secondRecord    = `{"id":2,"location_id":"w","sku":"b","quantity":6}`
	deliveryRecords = `[` + firstRecord + `,` + secondRecord + `]`
)

var deliveredRecords = []oakra.StockRecord{
	{ID: 1, LocationID: "w", SKU: "a", Quantity: 5},
	{ID: 2, LocationID: "w", SKU: "b", Quantity: 6},
}

var deliverOK = rawRespond(200, "", deliveryRecords)

// who names the calls for which a column of the table says yes.
type who int

const (
	nobody who = iota
	onlyList
	listAndUpdate
	everyone
)

func (w who) includes(op deliveryOp) bool {
	switch op.name {
	case "list":
		return w >= onlyList
	case "update":
		return w >= listAndUpdate
	default:
		return w == everyone
	}
}

const (
	unknown    = oakra.OutcomeUnknown
	notApplied = oakra.OutcomeNotApplied
	applied    = oakra.OutcomeApplied
)

// verdict is a row of the delivery table, without the failure itself.
type verdict struct {
	outcome   oakra.Outcome // outcome of a write; a List is always not applied
	resent    who
	retryable who
	status    int
	is        error // the only sentinel that matches; nil for none
}

var sentinels = []error{
	oakra.ErrInvalidRequest, oakra.ErrUnauthorized, oakra.ErrForbidden, oakra.ErrNotFound, oakra.ErrConflict,
	oakra.ErrRateLimited, oakra.ErrServer, oakra.ErrRedirect, oakra.ErrBadResponse, oakra.ErrUnreachable, oakra.ErrNoRoute,
}

// check compares an error with the row, and returns it.
func (v verdict) check(t *testing.T, op deliveryOp, records []oakra.StockRecord, err error, attempts int) *oakra.Error {
	t.Helper()
	require.Error(t, err)
	var e *oakra.Error
	require.ErrorAs(t, err, &e)
	outcome := v.outcome
	if op.name == "list" {
		outcome = notApplied
	}
	assert.Nil(t, records, "records with an error")
	assert.Equal(t, outcome, oakra.OutcomeOf(err), "outcome of: %v", err)
	assert.Equal(t, v.retryable.includes(op), oakra.Retryable(err), "Retryable of: %v", err)
	assert.Equal(t, v.status, e.StatusCode, "StatusCode of: %v", err)
	assert.Equal(t, attempts, e.Attempts, "Attempts of: %v", err)
	assert.Equal(t, "stock."+op.name, e.Op)
	for _, sentinel := range sentinels {
		assert.Equal(t, sentinel == v.is, errors.Is(err, sentinel), "errors.Is(%v, %q)", err, sentinel)
	}
	assert.NotContains(t, err.Error(), rawKey)
	assert.NotContains(t, err.Error(), "%!", "a verb without its value")
	assert.NotContains(t, err.Error(), "sku=", "no query")
	return e
}

// attempts returns how often a call is sent if the failure lasts.
func (v verdict) attempts(op deliveryOp) int {
	if v.resent.includes(op) {
		return rawTries
	}
	return 1
}

// checkLedger compares what a call claims with what its server saw: the number
// of attempts, and the outcome.
func checkLedger(t *testing.T, op deliveryOp, err error, attempts int, ledger rawLedger) {
	t.Helper()
	if op.name == "list" {
		// net/http itself sends a List again if a kept connection had ended.
		assert.GreaterOrEqual(t, ledger.turns, attempts, "how often it was sent")
		assert.LessOrEqual(t, ledger.turns, attempts+1, "how often it was sent")
		return
	}
	assert.Equal(t, attempts, ledger.turns, "how often it was sent")
	switch oakra.OutcomeOf(err) {
	case notApplied:
		assert.Empty(t, ledger.applied, "it says not applied: %v", err)
	case applied:
		assert.NotEmpty(t, ledger.applied, "it says applied: %v", err)
	}
	if op.name == "change" {
		assert.LessOrEqual(t, len(ledger.applied), 1, "a change was applied twice")
	}
}

// eachOp runs a test for each of the calls.
func eachOp(t *testing.T, test func(t *testing.T, op deliveryOp)) {
	for _, op := range deliveryOps {
		t.Run(op.name, func(t *testing.T) { test(t, op) })
	}
}

// warmUp makes a call that succeeds, after which the route is known and a
// connection is kept. It leaves an empty ledger and the script.
func warmUp(t *testing.T, op deliveryOp, client *oakra.Client, s *rawServer, script ...rawTurn) {
	t.Helper()
	s.play(deliverOK)
	records, err := op.call(t.Context(), client)
	require.NoError(t, err)
	require.Equal(t, deliveredRecords, records)
	s.play(script...)
}
