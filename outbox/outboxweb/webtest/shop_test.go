package webtest

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
	"github.com/oakra/oakra-go/outbox/outboxweb"
)

var (
	head = oakra.StockKey{SKU: "outbox-head", LocationID: "warehouse-1"}
	tail = oakra.StockKey{SKU: "outbox-tail", LocationID: "warehouse-1"}
)

// Limits of waiting for what must happen.
const (
	timeLimit = time.Minute
	tick      = 5 * time.Millisecond
)

// soldOut is the ID of a record of which a sale is rejected.
const soldOut = 100

const appKey = "the-app-key-of-the-shop"

// shop is an outbox with a fake Oakra, and its pages.
type shop struct {
	*outbox.Outbox
	t      testing.TB
	db     *sql.DB
	oakra  *oakratest.Server
	web    *httptest.Server
	prefix string
	user   string // who is at the browser
}

// mounted is where the shop has its pages.
const mounted = "/admin/outbox/"

func newShop(t testing.TB, db *sql.DB) *shop {
	s := &shop{t: t, db: db, prefix: mounted, user: "Anna"}
	s.oakra = oakratest.NewServer(
		oakra.StockRecord{ID: 1, SKU: head.SKU, LocationID: head.LocationID, Quantity: 200_000},
		oakra.StockRecord{ID: 2, SKU: tail.SKU, LocationID: tail.LocationID, Quantity: 200_000},
		oakra.StockRecord{ID: 3, SKU: "shirt-blue-m", LocationID: "warehouse-1", Quantity: 135},
		oakra.StockRecord{ID: 4, SKU: "cap-navy", LocationID: "warehouse-1", Quantity: 50},
	)
	for i, sku := range []string{"sold-out-hat", "sold-out-scarf"} {
		for j := range 3 {
			s.oakra.SetRecords(oakra.StockRecord{ID: soldOut + int64(10*i+j), SKU: sku, LocationID: fmt.Sprintf("warehouse-%d", j+1)})
		}
	}
	s.oakra.SetDialect(oakratest.Dialect{RejectNegative: true})
	s.oakra.Key = appKey
	t.Cleanup(s.oakra.Close)
	client := s.oakra.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}))
	var err error
	s.Outbox, err = outbox.New(t.Context(), db, client.Stock, outbox.Options{
		Witnesses:      [2]oakra.StockKey{head, tail},
		RequestTimeout: time.Minute,
		Grace:          50 * time.Millisecond,
		Lease:          time.Second,
		Poll:           10 * time.Millisecond,
	})
	require.NoError(t, err)
	s.serve(outboxweb.Options{
		AllowWrites: true,
		User:        func(*http.Request) string { return s.user },
		Link:        func(id string) string { return "/orders/" + url.PathEscape(strings.SplitN(id, "/", 2)[0]) },
	})
	return s
}

// serve mounts the pages.
func (s *shop) serve(o outboxweb.Options) {
	if s.web != nil {
		s.web.Close()
	}
	mux := http.NewServeMux()
	mux.Handle(mounted, outboxweb.Handler(s.Outbox, o))
	mux.HandleFunc("/orders/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "the order", r.URL.Path) })
	s.web = httptest.NewServer(mux)
	s.t.Cleanup(s.web.Close)
}

// run dispatches until the test ends.
func (s *shop) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		require.NoError(s.t, <-ended)
	})
}

func (s *shop) add(id, sku string, change int64) {
	require.NoError(s.t, s.Add(s.t.Context(), outbox.Change{ID: id, SKU: sku, LocationID: "warehouse-1", QuantityChange: change}))
}

func (s *shop) drain() {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	require.NoError(s.t, s.Drain(ctx))
}

func (s *shop) find(id string) outbox.Entry {
	found, err := s.Find(s.t.Context(), id)
	require.NoError(s.t, err)
	require.Len(s.t, found, 1, "%s", id)
	return found[0]
}

func (s *shop) quantity(id int64) int64 {
	return s.oakra.Quantity(id)
}

// set gives a record another quantity, as a person does by hand.
func (s *shop) set(id, quantity int64) {
	for _, r := range s.oakra.Records() {
		if r.ID == id {
			r.Quantity = quantity
			s.oakra.SetRecords(r)
		}
	}
}

// halt makes the outbox halt, with a change that is pending.
func (s *shop) halt() {
	s.add("before-halt", "shirt-blue-m", -1)
	s.drain()
	s.set(1, 4711+s.quantity(1))
	s.add("at-halt", "shirt-blue-m", -1)
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	require.ErrorIs(s.t, s.Drain(ctx), outbox.ErrHalted)
}

// answer is what the pages responded.
type answer struct {
	status int
	header http.Header
	text   string
}

func (s *shop) do(r *http.Request) answer {
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	require.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return answer{response.StatusCode, response.Header, string(text)}
}

func (s *shop) get(path string) answer {
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.web.URL+s.prefix+path, nil)
	require.NoError(s.t, err)
	return s.do(r)
}

// post sends a form as a browser does that shows a page of the outbox.
func (s *shop) post(path string, form url.Values) answer {
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.web.URL+s.prefix+path, strings.NewReader(form.Encode()))
	require.NoError(s.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", s.web.URL)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return s.do(r)
}
