package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// fault is what happens to one request of a storm.
type fault string

const (
	refused      fault = "connection refused"
	resetBefore  fault = "connection reset, nothing applied"
	resetAfter   fault = "applied, connection reset"
	unavailable  fault = "503 from the gateway, nothing applied"
	badGateway   fault = "applied, 502 from the gateway"
	lateResponse fault = "applied, response after the client's timeout"
	lateApplied  fault = "applied after the client's timeout"
	cutResponse  fault = "applied, response cut in half"
	tooMany      fault = "429 with Retry-After, nothing applied"
	rejected     fault = "400, nothing applied"
)

var faults = []fault{refused, resetBefore, resetAfter, unavailable, badGateway, lateResponse, lateApplied, cutResponse, tooMany, rejected}

const (
	stormTimeout = 2 * time.Second // timeout of every client for one attempt
	stormLate    = 3 * time.Second // delay of a late fault
)

// storm is a gateway in front of the API that lets half of the requests pass. The others
// meet one of the faults, each equally often. The fault depends only on the seed, the
// change, and the number of earlier requests for that change. Every client therefore
// meets the same faults.
//
// Each request needs a connection of its own, so that the fault is chosen when it is
// dialed, and a refused connection is really refused.
type storm struct {
	api   string // host and port
	fault func(id int64, n int) fault
	http  http.Client

	mu       sync.Mutex
	requests map[int64]int    // number of requests, by id of the change
	struck   map[string]fault // fault of a connection, by the client's address
	err      error            // error of the API, which should not fail
}

func newStorm(seed uint64, api string) *storm {
	return &storm{
		api:      api,
		fault:    func(id int64, n int) fault { return draw(seed, id, n) },
		http:     http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		requests: make(map[int64]int), struck: make(map[string]fault),
	}
}

// draw returns the fault of the nth request for a change, or "" for none.
func draw(seed uint64, id int64, n int) fault {
	random := rand.New(rand.NewPCG(seed, uint64(id)<<16|uint64(n)))
	if i := random.IntN(2 * len(faults)); i < len(faults) {
		return faults[i]
	}
	return ""
}

// changeID is the context key of the id of the change that a request is for.
type changeID struct{}

// transport returns the transport for a client in the storm.
func (s *storm) transport() *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: s.dial}
}

func (s *storm) dial(ctx context.Context, network, address string) (net.Conn, error) {
	id := ctx.Value(changeID{}).(int64)
	s.mu.Lock()
	fault := s.fault(id, s.requests[id])
	s.requests[id]++
	s.mu.Unlock()
	if fault == refused {
		address = nobody
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		s.mu.Lock()
		s.struck[conn.LocalAddr().String()] = fault
		s.mu.Unlock()
	}
	return conn, err
}

// nobody is a loopback address on which nothing listens.
const nobody = "127.0.0.1:1"

// ServeHTTP handles a request to the gateway.
func (s *storm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.struck[r.RemoteAddr]
	delete(s.struck, r.RemoteAddr)
	s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		reset(w)
		return
	}
	switch fault {
	case resetBefore:
		reset(w)
		return
	case unavailable:
		respond(w, http.StatusServiceUnavailable, "text/html", "<html>Service Unavailable</html>")
		return
	case tooMany:
		w.Header().Set("Retry-After", "1")
		respond(w, http.StatusTooManyRequests, "application/json", `{"detail":"Request was throttled."}`)
		return
	case rejected:
		respond(w, http.StatusBadRequest, "application/json", `{"detail":"Invalid request."}`)
		return
	case lateApplied:
		time.Sleep(stormLate)
	}
	status, body, err := s.forward(r, body)
	if err != nil {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}
	switch fault {
	case resetAfter:
		reset(w)
		return
	case badGateway:
		respond(w, http.StatusBadGateway, "text/html", "<html>Bad Gateway</html>")
		return
	case lateResponse:
		time.Sleep(stormLate)
	case cutResponse:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		respond(w, status, "application/json", string(body[:len(body)/2]))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	respond(w, status, "application/json", string(body))
}

// forward sends a request to the API, even if its client has given up.
func (s *storm) forward(r *http.Request, body []byte) (status int, response []byte, err error) {
	request := r.Clone(context.WithoutCancel(r.Context()))
	request.RequestURI = ""
	request.URL.Scheme, request.URL.Host = "http", s.api
	request.Body = io.NopCloser(bytes.NewReader(body))
	resp, err := s.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	response, err = io.ReadAll(resp.Body)
	return resp.StatusCode, response, err
}

func respond(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// reset resets the connection of a request.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
