package oakratest

import (
	"cmp"
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
	idleTimeout = 2 * time.Second // as servers of this kind have it
)

// Server is a fake Oakra server. Its methods may be called by many goroutines at
// once, and those that read also after Close.
type Server struct {
	// URL is the base URL, for [oakra.WithBaseURL]: "http://127.0.0.1:port/api/v1/".
	URL string
	// Key is the app key that it accepts. It may be changed while no request is
	// under way, so that the clients of before have a wrong one.
	Key string

	http    http.Server
	served  chan struct{}  // closed when no connection is accepted any more
	closing chan struct{}  // closed by Close; ends all waiting
	active  sync.WaitGroup // connections, and writes to be applied late
	close   sync.Once

	mu         sync.Mutex
	byID       map[int64]*record
	bySKU      map[string][]*record
	lastID     int64
	requests   []*Request
	refused    int
	faults     []*fault
	dialect    Dialect
	perRequest time.Duration
	perRecord  time.Duration
	transports []*transport
}

type record struct {
	oakra.StockRecord
	named *Request // the last write that named it, to find an id given twice
}

// NewServer starts a server on a free port of the loopback interface, with
// these records as [Server.SetRecords] takes them. It panics if it cannot
// listen, as httptest.NewServer does. Close it after use.
func NewServer(records ...oakra.StockRecord) *Server {
	s, err := NewServerAt("127.0.0.1:0", records...)
	if err != nil {
		if s, err = NewServerAt("[::1]:0", records...); err != nil {
			panic(fmt.Sprintf("oakratest: %v", err))
		}
	}
	return s
}

// NewServerAt is NewServer at an address such as "127.0.0.1:8480", or with port
// 0 for a free one. Its error is that of [net.Listen].
func NewServerAt(addr string, records ...oakra.StockRecord) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Key:     "oakratest-app-key",
		served:  make(chan struct{}),
		closing: make(chan struct{}),
		byID:    make(map[int64]*record, len(records)),
		bySKU:   make(map[string][]*record, len(records)),
	}
	at := *listener.Addr().(*net.TCPAddr)
	if at.IP.IsUnspecified() {
		at.IP = net.IPv4(127, 0, 0, 1)
	}
	s.URL = "http://" + at.String() + basePath
	s.SetDialect(Dialect{})
	s.SetRecords(records...)

	s.http.Handler = http.HandlerFunc(s.serve)
	s.http.IdleTimeout = idleTimeout
	s.http.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // before Serve can return
			s.active.Add(1)
		case http.StateClosed: // reset does it for a hijacked one
			s.active.Done()
		}
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(listener)
	}()
	return s, nil
}

// Client returns a new client of the server: of its URL, with its key and a
// transport like [oakra.DefaultTransport] through which a [Refuse] is exact. opts
// come after these and may replace them; with [oakra.WithAppKeySource] the key
// is left out. It panics if an option is bad. Where faults last, an
// [oakra.WithRetryPolicy] with short waits keeps a test short.
func (s *Server) Client(opts ...oakra.Option) *oakra.Client {
	t := &transport{Transport: oakra.DefaultTransport(), server: s}
	opts = append([]oakra.Option{
		oakra.WithBaseURL(s.URL),
		oakra.WithInsecureHTTP(), // whatever address it was started at
		oakra.WithHTTPClient(&http.Client{Transport: t}),
	}, opts...)
	client, err := oakra.NewClient(s.Key, opts...)
	if err != nil {
		// The one good reason: a key source, which excludes a key.
		var noKey error
		if client, noKey = oakra.NewClient("", opts...); noKey != nil {
			panic(fmt.Sprintf("oakratest: %v", err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transports = append(s.transports, t)
	return client
}

// Close stops the server and waits for the requests that it is handling. It cuts
// short whatever they wait for by [Fault] or [Server.SetLatency]; their
// connections are reset, and a write that was not applied by then never is. It
// also closes the idle connections of the clients made by Client. A second call
// does nothing.
func (s *Server) Close() {
	s.close.Do(func() {
		close(s.closing)
		_ = s.http.Close()
		<-s.served
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

func byID(a, b oakra.StockRecord) int { return cmp.Compare(a.ID, b.ID) }

// SetRecords adds records, and replaces those whose id there is already: what
// another seller does, or a correction by hand. A record with ID 0 gets the next
// free id, one more than the highest. All of them change at once.
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
		old.StockRecord = r
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
// speaks, from the next request on. It panics if a route is not one of the
// constants.
func (s *Server) SetDialect(d Dialect) {
	d.check()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialect = d
}

// SetLatency makes each answer take perRequest, and perRecord more for each
// record in it. A write is applied first, and its answer then waits.
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

// sleep reports whether it slept for all of d, before Close.
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
