package oakratest

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/oakra/oakra-go"
)

const (
	basePath    = "/api/v1/"
	idleTimeout = 2 * time.Second // as in gunicorn
)

// Server is a fake Oakra server. Its methods may be called by several goroutines at
// once. Those that read may also be called after Close.
type Server struct {
	// URL is the base URL, for [oakra.WithBaseURL] and for other programs:
	// "http://127.0.0.1:port/api/v1/". In a bubble of testing/synctest nobody listens
	// there.
	URL string
	// Key is the app key that it accepts. It may be changed while no request is
	// under way; the clients made before then have a wrong key.
	Key string

	http    http.Server
	memory  *memoryListener // listener for Client
	host    string          // host of URL
	bubble  bool            // whether it was made in a bubble of testing/synctest
	serving sync.WaitGroup  // listeners
	active  sync.WaitGroup  // connections, and writes to be applied late
	closing chan struct{}   // closed by Close, to end all delays
	close   sync.Once

	mu              sync.Mutex
	byID            map[int64]*record
	bySKU           map[string][]*record
	lastID          int64
	sales           map[string]*Sale // by SaleID
	lastSaleID      int64
	lastFulfillment int64
	requests        []*Request
	inFlight        []*Request
	watches         []watch
	refused         int
	faults          []*fault
	dialect         Dialect
	perRequest      time.Duration
	perRecord       time.Duration
	transports      []*transport
}

type record struct {
	oakra.StockRecord
	named *Request // the last write that named it, to detect duplicate ids
	stale []stale  // quantities that lists still show, the oldest first
}

// stale is a quantity that lists show until a time.
type stale struct {
	quantity int64
	until    time.Time
}

// shown returns the record as a list shows it.
func (r *record) shown() oakra.StockRecord {
	for len(r.stale) > 0 && !r.stale[0].until.After(time.Now()) {
		r.stale = r.stale[1:]
	}
	record := r.StockRecord
	if len(r.stale) > 0 {
		record.Quantity = r.stale[0].quantity
	}
	return record
}

// write sets the quantity, which lists show after a while.
func (r *record) write(quantity int64, after time.Duration) {
	if after > 0 {
		r.stale = append(r.stale, stale{r.Quantity, time.Now().Add(after)})
	}
	r.Quantity = quantity
}

// NewServer starts a server on a free port of the loopback interface, with
// the given records, see [Server.SetRecords]. It panics if it cannot listen, as
// httptest.NewServer does. The caller should call Close when finished.
//
// In a bubble of testing/synctest the server has no port, and is reached through
// [Server.Client] only.
func NewServer(records ...oakra.StockRecord) *Server {
	if inBubble() {
		s := newServer(noAddr, records)
		s.bubble = true
		s.serve(s.memory)
		return s
	}
	s, err := NewServerAt("127.0.0.1:0", records...)
	if err != nil {
		if s, err = NewServerAt("[::1]:0", records...); err != nil {
			panic(fmt.Sprintf("oakratest: %v", err))
		}
	}
	return s
}

// TB is the part of a test, such as [testing.T], that [Start] needs.
type TB interface {
	// Cleanup registers a function to be called at the end of the test.
	Cleanup(func())
}

// Start is like [NewServer], and closes the server at the end of the test t.
func Start(t TB, records ...oakra.StockRecord) *Server {
	s := NewServer(records...)
	t.Cleanup(s.Close)
	return s
}

// NewServerAt is like [NewServer], but listens on addr, such as "127.0.0.1:8480".
// With port 0 it chooses a free port. An error is from [net.Listen], or is returned
// because a bubble of testing/synctest has no network.
func NewServerAt(addr string, records ...oakra.StockRecord) (*Server, error) {
	if inBubble() {
		return nil, errors.New("oakratest: cannot listen on " + addr + " in a synctest bubble, where only NewServer works")
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	at := *listener.Addr().(*net.TCPAddr)
	if at.IP.IsUnspecified() {
		at.IP = net.IPv4(127, 0, 0, 1)
	}
	s := newServer(at, records)
	s.serve(listener)
	s.serve(s.memory)
	return s, nil
}

// noAddr is the address of a server without a port. A connection to port 1 is
// refused: it belongs to a service that nobody runs.
var noAddr = net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}

func newServer(addr net.TCPAddr, records []oakra.StockRecord) *Server {
	s := &Server{
		URL:     "http://" + addr.String() + basePath,
		Key:     "5f0e2c1a9b7d4e3f",
		memory:  newMemoryListener(&addr),
		host:    addr.String(),
		closing: make(chan struct{}),
		byID:    make(map[int64]*record, len(records)),
		bySKU:   make(map[string][]*record, len(records)),
		sales:   make(map[string]*Sale),
	}
	s.SetDialect(Dialect{})
	s.SetRecords(records...)

	s.http.Handler = http.HandlerFunc(s.serveHTTP)
	s.http.IdleTimeout = idleTimeout
	s.http.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // called before Serve can return
			s.active.Add(1)
		case http.StateClosed: // reset does the same for a hijacked connection
			s.active.Done()
		}
	}
	return s
}

func (s *Server) serve(listener net.Listener) {
	s.serving.Go(func() { _ = s.http.Serve(listener) })
}

// Close stops the server and waits for the requests that it is handling. Delays of
// a [Fault] or of [Server.SetLatency] end at once: their connections are reset, and a
// write that was not applied by then never is. Close also closes the idle
// connections of the clients made by Client. A second call does nothing.
func (s *Server) Close() {
	s.close.Do(func() {
		close(s.closing)
		_ = s.http.Close()
		s.serving.Wait()
		s.active.Wait()

		s.mu.Lock()
		defer s.mu.Unlock()
		for _, t := range s.transports {
			t.CloseIdleConnections()
		}
	})
}

// Records returns a copy of all records, by id.
func (s *Server) Records() []oakra.StockRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	records := make([]oakra.StockRecord, 0, len(s.byID))
	for _, r := range s.byID {
		records = append(records, r.StockRecord)
	}
	slices.SortFunc(records, byID)
	return records
}

// Quantity returns the quantity of the record with the given id. It panics if there is
// no such record.
func (s *Server) Quantity(id int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byID[id]
	if r == nil {
		panic(fmt.Sprintf("oakratest: there is no stock record with id %d", id))
	}
	return r.Quantity
}

func byID(a, b oakra.StockRecord) int { return cmp.Compare(a.ID, b.ID) }

// SetRecords adds records and replaces those whose ID is known already, as another
// seller or a correction by hand would. A record with ID 0 gets the next free id, one
// more than the highest. All of them change at once.
func (s *Server) SetRecords(records ...oakra.StockRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		if r.ID != 0 {
			s.set(r)
		}
	}
	for _, r := range records {
		if r.ID == 0 {
			r.ID = s.lastID + 1
			s.set(r)
		}
	}
}

func (s *Server) set(r oakra.StockRecord) {
	old := s.byID[r.ID]
	if old != nil && old.SKU == r.SKU {
		old.StockRecord, old.stale = r, nil
		return
	}
	if old != nil {
		s.bySKU[old.SKU] = slices.DeleteFunc(s.bySKU[old.SKU], func(r *record) bool { return r == old })
	}
	added := &record{StockRecord: r}
	s.byID[r.ID] = added
	s.bySKU[r.SKU] = append(s.bySKU[r.SKU], added)
	s.lastID = max(s.lastID, r.ID)
}

// SetDialect chooses which of the reference's routes and shapes the server
// speaks, from the next request on. It panics if a value of d is not a possible one.
func (s *Server) SetDialect(d Dialect) {
	d.check()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialect = d
}

// SetLatency delays each response by perRequest, and by perRecord more for each
// record in it. A write is applied before its response is delayed.
func (s *Server) SetLatency(perRequest, perRecord time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perRequest, s.perRecord = perRequest, perRecord
}

func (s *Server) latency(records int) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.perRequest + time.Duration(records)*s.perRecord
}

// sleep waits for d. It returns false if Close ended the wait.
func (s *Server) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.closing:
		return false
	}
}
