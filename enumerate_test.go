package oakra_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestEveryByte ends the connection at every byte of every request and of every
// response, in order and by a reset, for each operation and each kind of response,
// against a server that remembers what it applied. Then it does so in two attempts in a
// row, thinned by a fixed stride. No outcome may be wrong, and only an Update may be
// applied twice.
//
// To see it fail, let failureRow return {OutcomeUnknown, adds} for a connection that
// broke: a Change whose response was lost is then applied twice. Or let bodyRow say
// OutcomeNotApplied where a record was whole.
func TestEveryByte(t *testing.T) {
	counts := make(map[string]int)
	synctest.Test(t, func(t *testing.T) {
		for _, op := range byteOps {
			for _, kind := range byteKinds {
				checkEveryByte(t, op, kind, counts)
			}
		}
	})
	t.Logf("%d single faults, %d pairs of faults; outcomes: %d applied, %d not applied, %d unknown",
		counts["single"], counts["pair"], counts["applied"], counts["not applied"], counts["unknown"])
}

// pairStride thins the pairs of faults. It has no factor in common with the usual
// lengths of messages.
const pairStride = 1009

func checkEveryByte(t *testing.T, op byteOp, kind byteKind, counts map[string]int) {
	t.Helper()
	// One call without a fault shows how long the messages are.
	probe := &byteServer{op: op, turns: []byteTurn{{kind: kind, request: -1, response: -1}}}
	probe.call(t)
	faults := byteFaults(probe.sizes[0], kind)
	for _, first := range faults {
		(&byteServer{op: op, turns: []byteTurn{first}}).check(t, counts)
		counts["single"]++
	}
	for n := 0; n < len(faults)*len(faults); n += pairStride {
		pair := []byteTurn{faults[n/len(faults)], faults[n%len(faults)]}
		(&byteServer{op: op, turns: pair}).check(t, counts)
		counts["pair"]++
	}
}

// byteFaults returns a turn for each byte of the messages and each way to end there.
func byteFaults(size [2]int, kind byteKind) []byteTurn {
	var faults []byteTurn
	for _, reset := range []bool{false, true} {
		for at := 0; at <= size[0]; at++ {
			faults = append(faults, byteTurn{kind: kind, reset: reset, request: at, response: -1})
		}
		for at := 0; at <= size[1]; at++ {
			faults = append(faults, byteTurn{kind: kind, reset: reset, request: -1, response: at})
		}
	}
	return faults
}

// byteOp is an operation, and what the server responds to it.
type byteOp struct {
	name   string
	good   string
	adds   bool // whether sending it twice counts twice
	reads  bool
	client func(context.Context, *oakra.Client) error
}

var byteOps = []byteOp{
	{
		name: "stock.list", good: `[{"id":122,"location_id":"w","sku":"a","quantity":135},{"id":123,"location_id":"w","sku":"b","quantity":5}]`, reads: true,
		client: func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"a", "b"}})
			return err
		},
	},
	{
		name: "stock.update", good: `{"stock_records":[{"id":122,"location_id":"w","sku":"a","quantity":135},{"id":123,"location_id":"w","sku":"b","quantity":5}]}`,
		client: func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Stock.Update(ctx, []oakra.StockUpdate{{ID: 122, Quantity: 135}, {ID: 123, Quantity: 5}})
			return err
		},
	},
	{
		name: "stock.change", good: `{"stock_records":[{"id":122,"location_id":"w","sku":"a","quantity":135},{"id":123,"location_id":"w","sku":"b","quantity":5}]}`, adds: true,
		client: func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Stock.Change(ctx, []oakra.StockChange{{ID: 122, QuantityChange: -1}, {ID: 123, QuantityChange: -2}})
			return err
		},
	},
	{
		name: "sales.cancel", good: `{"id":30421,"sale_id":"100001235","status":"canceled"}`, adds: true,
		client: func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Sales.Cancel(ctx, oakra.SaleCancelParams{SaleID: "100001235", Reason: oakra.CancelOther})
			return err
		},
	},
	{
		name: "shipping.init", good: `{"fulfillments":[{"id":1,"sale":{"sale_id":"100001234"}},{"id":2,"sale":{"sale_id":"100001235"}}]}`, adds: true,
		client: func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Shipping.Initiate(ctx, []string{"100001234", "100001235"})
			return err
		},
	},
}

// byteKind is a kind of response. What the server applies before it is enumerated
// where the status does not say.
type byteKind struct {
	name    string
	respond func(body string) string
	applies bool
}

func byteStatus(status int, header, body string) func(string) string {
	return func(string) string { return rawText(status, header, body) }
}

func byteMalformed(string) string { return "HTTP/1.1 2oo OK\r\nContent-Length: 0\r\n\r\n" }

var byteKinds = []byteKind{
	{"good", func(body string) string { return rawText(200, "", body) }, true},
	{"without a length", func(body string) string {
		return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunkText(body, 20) + "0\r\n\r\n"
	}, true},
	{"400", byteStatus(400, "", `{"stock_records":[{},{"id":["Invalid pk."]}]}`), false},
	{"429", byteStatus(429, "Retry-After: 1\r\n", `{"detail":"Request was throttled."}`), false},
	{"503 before", byteStatus(503, "", "<title>Service Unavailable</title>"), false},
	{"503 after", byteStatus(503, "", "<title>Service Unavailable</title>"), true},
	{"malformed before", byteMalformed, false},
	{"malformed after", byteMalformed, true},
}

// byteTurn is what the server does with one request: it ends the connection after this
// many bytes of the request or of its response; -1 means that it does not.
type byteTurn struct {
	kind              byteKind
	reset             bool
	request, response int
}

// byteServer serves one call over connections in memory, one request each. After its
// turns it responds as it should.
type byteServer struct {
	op    byteOp
	turns []byteTurn

	mu      sync.Mutex
	arrived int // number of requests that began
	applied int
	sizes   [][2]int // length of each request and response that was complete
}

func (s *byteServer) call(t *testing.T) error {
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return s.dial(), nil },
		DisableKeepAlives: true,
	}
	client := oakra.KeepRoutes(rawClientOn(t, "http://127.0.0.1/", transport, oakra.WithRetryPolicy(rawPolicy(3))))
	return s.op.client(t.Context(), client)
}

// check makes the call and compares its outcome with what the server applied.
func (s *byteServer) check(t *testing.T, counts map[string]int) {
	t.Helper()
	err := s.call(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	outcome := oakra.OutcomeOf(err)
	counts[outcome.String()]++
	var e *oakra.Error
	problem := ""
	switch {
	case err != nil && !errors.As(err, &e):
		problem = "it is not an *oakra.Error"
	case s.op.reads && err != nil && outcome != oakra.OutcomeNotApplied:
		problem = "a read applies nothing"
	case s.op.reads:
	case s.op.adds && s.applied > 1:
		problem = "it was applied more than once"
	case outcome == oakra.OutcomeApplied && s.applied == 0:
		problem = "it was not applied"
	case outcome == oakra.OutcomeNotApplied && s.applied > 0:
		problem = "it was applied"
	case e != nil && e.Attempts != s.arrived:
		problem = fmt.Sprintf("%d attempts arrived", s.arrived)
	}
	if problem != "" {
		for i, turn := range s.turns {
			t.Logf("attempt %d: %s, reset %v, request until %d, response until %d", i+1, turn.kind.name, turn.reset, turn.request, turn.response)
		}
		require.Fail(t, problem, "%s: outcome %v: %v", s.op.name, outcome, err)
	}
}

func (s *byteServer) dial() net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	turn := byteTurn{kind: byteKinds[0], request: -1, response: -1}
	if s.arrived < len(s.turns) {
		turn = s.turns[s.arrived]
	}
	s.arrived++
	return &byteConn{server: s, turn: turn, ready: make(chan struct{})}
}

// byteConn is the client's end of a connection.
type byteConn struct {
	server *byteServer
	turn   byteTurn
	ready  chan struct{} // closed once there is a response, or an end

	mu     sync.Mutex
	in     bytes.Buffer // what the server has received
	out    []byte       // what it sends
	ended  bool         // whether the connection ends after out
	closed bool
}

// end lets the client read out, and then the end of the connection.
func (c *byteConn) end(out []byte) {
	if !c.ended {
		c.out, c.ended = out, true
		close(c.ready)
	}
}

func (c *byteConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.ended && c.turn.reset {
		return 0, resetError("write")
	}
	c.in.Write(p)
	if until := c.turn.request; until >= 0 && c.in.Len() >= until {
		c.end(nil)
		if c.turn.reset {
			return max(0, len(p)-(c.in.Len()-until)), resetError("write")
		}
		return len(p), nil // it is in the kernel's buffer, and nobody reads it
	}
	if requestIsWhole(c.in.Bytes()) && !c.ended {
		response := c.turn.kind.respond(c.server.op.good)
		c.server.mu.Lock()
		c.server.sizes = append(c.server.sizes, [2]int{c.in.Len(), len(response)})
		if c.turn.kind.applies {
			c.server.applied++
		}
		c.server.mu.Unlock()
		if c.turn.response >= 0 {
			response = response[:c.turn.response]
		}
		c.end([]byte(response))
	}
	return len(p), nil
}

func (c *byteConn) Read(p []byte) (int, error) {
	<-c.ready
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case len(c.out) > 0:
		n := copy(p, c.out)
		c.out = c.out[n:]
		return n, nil
	case c.turn.reset:
		return 0, resetError("read")
	}
	return 0, io.EOF
}

func (c *byteConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.end(nil)
	return nil
}

func (c *byteConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *byteConn) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (c *byteConn) SetDeadline(time.Time) error      { return nil }
func (c *byteConn) SetReadDeadline(time.Time) error  { return nil }
func (c *byteConn) SetWriteDeadline(time.Time) error { return nil }

func resetError(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
}

// requestIsWhole reports whether b is a request with all of its body.
func requestIsWhole(b []byte) bool {
	header, body, ok := strings.Cut(string(b), "\r\n\r\n")
	if !ok {
		return false
	}
	for _, line := range strings.Split(header, "\r\n") {
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			n, _ := strconv.Atoi(value)
			return len(body) >= n
		}
	}
	return true
}
