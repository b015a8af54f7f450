package oakratest_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const (
	listPath   = "stock/stock-records/"
	updatePath = "stock/stock-record/update/"
	changePath = "stock/stock-records/change/"
)

var shirts = []oakra.StockRecord{
	{ID: 122, LocationID: "warehouse-1", SKU: "shirt-blue-m", Quantity: 135},
	{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150},
	{ID: 124, LocationID: "warehouse-2", SKU: "shirt-green-m", Quantity: 7},
}

// everywhere runs f with a server outside of a bubble, for TCP, and with one inside,
// which is reached in memory and has a clock of its own.
func everywhere(t *testing.T, f func(t *testing.T, server *oakratest.Server)) {
	t.Helper()
	t.Run("TCP", func(t *testing.T) { f(t, newServer(t, shirts...)) })
	t.Run("memory", func(t *testing.T) { inBubble(t, f) })
}

func newServer(t testing.TB, records ...oakra.StockRecord) *oakratest.Server {
	t.Helper()
	server := oakratest.NewServer(records...)
	t.Cleanup(server.Close)
	return server
}

// newRequest returns a good request, for the test to change.
func newRequest(t testing.TB, server *oakratest.Server, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+server.Key)
	r.Header.Set("X-OAKRA-API-VERSION", "v1")
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

type response struct {
	status int
	header http.Header
	length int64
	body   string
}

// send uses a new connection, on which net/http sends nothing twice.
func send(t testing.TB, server *oakratest.Server, r *http.Request) (response, error) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: server.DialContext}
	got, err := transport.RoundTrip(r)
	if err != nil {
		return response{}, err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	return response{got.StatusCode, got.Header, got.ContentLength, string(body)}, err
}

func call(t testing.TB, server *oakratest.Server, method, path, body string) response {
	t.Helper()
	got, err := send(t, server, newRequest(t, server, method, path, body))
	require.NoError(t, err)
	return got
}

func quantities(server *oakratest.Server) []int64 {
	var all []int64
	for _, r := range server.Records() {
		all = append(all, r.Quantity)
	}
	return all
}

func TestList(t *testing.T) {
	server := newServer(t, shirts[2], shirts[0], shirts[1])
	tests := []struct{ query, ids string }{
		{"sku=shirt-blue-m", "[122]"},
		{"sku=shirt-green-m", "[123 124]"},
		{"sku=shirt-green-m&&sku=shirt-blue-m", "[122 123 124]"},
		{"sku=shirt-green-m&sku=shirt-green-m", "[123 124]"},
		{"sku=shirt-green-m&sku=shirt-blue-m&location_id=warehouse-1", "[122 123]"},
		{"sku=shirt-green-m&location_id=warehouse-3", "[]"},
		{"sku=Shirt-Green-M", "[]"},
		{"sku=hat", "[]"},
	}
	for _, tt := range tests {
		got := call(t, server, "GET", listPath+"?"+tt.query, "")
		require.Equal(t, 200, got.status, tt.query)
		assert.Equal(t, "application/json", got.header.Get("Content-Type"))
		assert.Equal(t, int64(len(got.body)), got.length)
		var ids []int64
		for _, r := range decode(t, got.body) {
			ids = append(ids, r.ID)
		}
		assert.Equal(t, tt.ids, fmt.Sprint(ids), tt.query)
	}
	assert.JSONEq(t, `[{"id":122,"location_id":"warehouse-1","sku":"shirt-blue-m","quantity":135}]`,
		call(t, server, "GET", listPath+"?sku=shirt-blue-m", "").body)
}

func TestWrites(t *testing.T) {
	server := newServer(t, shirts...)

	got := call(t, server, "POST", changePath, `{"stock_records":[{"id":124,"quantity_change":-9},{"id":122,"quantity_change":20}]}`)
	assert.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"stock_records":[
		{"id":124,"location_id":"warehouse-2","sku":"shirt-green-m","quantity":-2},
		{"id":122,"location_id":"warehouse-1","sku":"shirt-blue-m","quantity":155}]}`, got.body)
	assert.Equal(t, []int64{155, 150, -2}, quantities(server))

	got = call(t, server, "POST", updatePath, ` { "note" : [1, {"id": 5}, "]"], "stock_records" : [ {"quantity" : 0 , "why":"a \"},{ b", "id":123} ] } `)
	assert.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"stock_records":[{"id":123,"location_id":"warehouse-1","sku":"shirt-green-m","quantity":0}]}`, got.body)
	assert.Equal(t, []int64{155, 0, -2}, quantities(server))

	requests := server.Requests()
	require.Len(t, requests, 2)
	assert.Equal(t, "stock.change", requests[0].Op)
	assert.Equal(t, "POST", requests[0].Method)
	assert.Equal(t, "/api/v1/"+changePath, requests[0].Path)
	assert.Equal(t, 200, requests[0].Status)
	assert.Equal(t, []oakratest.Applied{{ID: 124, From: 7, To: -2}, {ID: 122, From: 135, To: 155}}, requests[0].Applied)
	assert.JSONEq(t, `{"stock_records":[{"id":124,"quantity_change":-9},{"id":122,"quantity_change":20}]}`, string(requests[0].Body))
	assert.Equal(t, "stock.update", requests[1].Op)
	assert.Equal(t, []oakratest.Applied{{ID: 123, From: 150, To: 0}}, requests[1].Applied)
	assert.Empty(t, requests[1].Fault)
}

func TestLedgerHidesTheKey(t *testing.T) {
	server := newServer(t, shirts...)
	call(t, server, "GET", listPath+"?sku=a&sku=b", "")
	r := newRequest(t, server, "GET", listPath, "")
	r.Header.Set("Authorization", "Bearer other")
	_, err := send(t, server, r)
	require.NoError(t, err)
	_, err = server.Client().Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
	require.NoError(t, err)

	requests := server.Requests()
	require.Len(t, requests, 3)
	assert.Equal(t, "Bearer [app key]", requests[0].Header.Get("Authorization"))
	assert.Equal(t, url.Values{"sku": {"a", "b"}}, requests[0].Query)
	assert.Equal(t, "Bearer other", requests[1].Header.Get("Authorization"))
	assert.Equal(t, "Bearer [app key]", requests[2].Header.Get("Authorization"))
	for name := range requests[2].Header {
		assert.NotContains(t, name, "Oakratest")
	}
	assert.NotContains(t, fmt.Sprintf("%+v", requests), server.Key)
}

func TestSetRecords(t *testing.T) {
	server := newServer(t, oakra.StockRecord{SKU: "a"}, oakra.StockRecord{ID: 1, SKU: "b"}, oakra.StockRecord{SKU: "c"})
	assert.Equal(t, []oakra.StockRecord{{ID: 1, SKU: "b"}, {ID: 2, SKU: "a"}, {ID: 3, SKU: "c"}}, server.Records())

	server.SetRecords(oakra.StockRecord{ID: 2, SKU: "a", Quantity: 5}, oakra.StockRecord{ID: 3, SKU: "a", LocationID: "w"}, oakra.StockRecord{SKU: "d"})
	assert.Equal(t, []oakra.StockRecord{{ID: 1, SKU: "b"}, {ID: 2, SKU: "a", Quantity: 5}, {ID: 3, SKU: "a", LocationID: "w"}, {ID: 4, SKU: "d"}}, server.Records())
	assert.Equal(t, server.Records()[1:3], decode(t, call(t, server, "GET", listPath+"?sku=a", "").body))
	assert.Empty(t, decode(t, call(t, server, "GET", listPath+"?sku=c", "").body))
}

func TestNewServerAt(t *testing.T) {
	server, err := oakratest.NewServerAt("127.0.0.1:0", shirts...)
	require.NoError(t, err)
	defer server.Close()
	address := strings.TrimSuffix(strings.TrimPrefix(server.URL, "http://"), "/api/v1/")
	_, err = oakratest.NewServerAt(address)
	require.ErrorContains(t, err, address)

	everywhere, err := oakratest.NewServerAt(":0", shirts...)
	require.NoError(t, err)
	defer everywhere.Close()
	assert.Contains(t, everywhere.URL, "http://127.0.0.1:")
	assert.Equal(t, 200, call(t, everywhere, "GET", listPath+"?sku=a", "").status)
}

func TestClient(t *testing.T) {
	server := newServer(t, shirts...)
	clients := map[string]*oakra.Client{
		"plain":      server.Client(),
		"retry":      server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})),
		"HTTPClient": server.Client(oakra.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}})),
		"key source": server.Client(oakra.WithAppKeySource(func(context.Context, string) (string, error) { return server.Key, nil })),
	}
	for name, client := range clients {
		records, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"shirt-green-m"}})
		require.NoError(t, err, name)
		assert.Equal(t, shirts[1:], records, name)
	}
	assert.Panics(t, func() { server.Client(oakra.WithAttemptTimeout(-1)) })
	_, err := server.Client(oakra.WithBaseURL(newServer(t).URL)).Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"shirt-green-m"}})
	require.NoError(t, err)
	assert.Len(t, server.Requests(), len(clients), "another base URL is another server")

	client := server.Client()
	records, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 124, QuantityChange: -2}})
	require.NoError(t, err)
	assert.Equal(t, int64(5), records[0].Quantity)
	records, err = client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 124, Quantity: 9}})
	require.NoError(t, err)
	assert.Equal(t, int64(9), records[0].Quantity)

	server.Key = "rotated"
	_, err = client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 124, Quantity: 9}})
	require.ErrorIs(t, err, oakra.ErrUnauthorized)
}

func TestConcurrentWrites(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		const workers, each = 16, 25
		server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Probability: 0.2, Seed: 3})
		server.Inject(oakratest.Fault{Kind: oakratest.Refuse, Probability: 0.2})
		var wg sync.WaitGroup
		for range workers {
			client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
			wg.Go(func() {
				for range each {
					_, _ = client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}, {ID: 123, QuantityChange: -1}})
					server.Records()
					server.Requests()
					server.SetRecords(oakra.StockRecord{ID: 1, SKU: "x"})
				}
			})
		}
		wg.Wait()

		requests := server.Requests()
		assert.Equal(t, workers*each, len(requests)+server.Refused())
		assert.NotZero(t, server.Refused())
		assert.Equal(t, []int64{0, 135 + int64(len(requests)), 150 - int64(len(requests)), 7}, quantities(server))
		seen := map[int64]bool{} // every value of record 122 is in the ledger, once
		for _, r := range requests {
			require.Len(t, r.Applied, 2)
			assert.Equal(t, r.Applied[0].From+1, r.Applied[0].To)
			seen[r.Applied[0].To] = true
		}
		assert.Len(t, seen, len(requests))
	})
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	server := oakratest.NewServer(shirts...)
	once := oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})
	overTCP, err := oakra.NewClient(server.Key, oakra.WithBaseURL(server.URL), once)
	require.NoError(t, err)
	clients := []*oakra.Client{server.Client(once), overTCP}
	for range 3 {
		for _, client := range clients {
			_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
			require.NoError(t, err)
		}
	}
	server.Inject(oakratest.Fault{Kind: oakratest.ApplyLate, Delay: time.Hour, Times: 2})
	server.Inject(oakratest.Fault{Delay: time.Hour, Times: 2})
	server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Times: 2})
	var wg sync.WaitGroup
	for range 3 {
		for _, client := range clients {
			wg.Go(func() {
				_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}})
				assert.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
			})
		}
	}
	require.Eventually(t, func() bool { return len(server.Requests()) == 12 && server.Records()[0].Quantity == 137 }, time.Minute, time.Millisecond)

	server.Close()
	server.Close()
	wg.Wait()
	assert.Equal(t, []int64{137, 150, 7}, quantities(server), "late writes are dropped")
	for _, r := range server.Requests()[6:] {
		assert.Zero(t, r.Status)
	}
	for _, client := range clients {
		_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.ErrorIs(t, err, oakra.ErrUnreachable)
	}
	var left []string
	for range 10_000 {
		if left = goroutines(); len(left) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
}

func TestCloseWaitsForWrites(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		const items = 50_000
		records := make([]oakra.StockRecord, items)
		for i := range records {
			records[i].ID = int64(i + 1)
		}
		server.SetRecords(records...)
		go func() { _, _ = send(t, server, newRequest(t, server, "POST", changePath, changes(items, 1))) }()
		require.NoError(t, server.Wait(t.Context(), "stock.change"))
		server.Close()
		assert.Len(t, server.Requests()[0].Applied, items)
	})
}

func TestKeepAlive(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		conn, err := server.DialContext(t.Context(), "tcp", "")
		require.NoError(t, err)
		defer conn.Close()
		reader := bufio.NewReader(conn)
		for range 3 {
			require.NoError(t, newRequest(t, server, "GET", listPath+"?sku=a", "").Write(conn))
			got, err := http.ReadResponse(reader, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, got.Body)
			require.NoError(t, err)
			time.Sleep(2*time.Second - 1)
		}
		start := time.Now()
		_, err = reader.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		assert.Equal(t, time.Duration(1), time.Since(start))
	})
}

// changes returns the body of a change of n records, whose ids are step apart.
func changes(n, step int) string {
	var body strings.Builder
	body.WriteString(`{"stock_records":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"id":%d,"quantity_change":-3}`, i*step+1)
	}
	body.WriteString(`]}`)
	return body.String()
}

// goroutines returns those that this package or net/http started.
func goroutines() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var found []string
	for g := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if strings.Contains(string(g), "net/http.") || strings.Contains(string(g), "oakratest.(") {
			found = append(found, string(g))
		}
	}
	return found
}

// BenchmarkChange sends 1,000 items a request, for some of 100,000 records.
func BenchmarkChange(b *testing.B) {
	records := make([]oakra.StockRecord, 100_000)
	for i := range records {
		records[i] = oakra.StockRecord{ID: int64(i + 1), LocationID: "warehouse-1", SKU: fmt.Sprintf("sku-%d", i)}
	}
	server := newServer(b, records...)
	body := changes(1000, 97)
	b.ReportAllocs()
	for b.Loop() {
		require.Equal(b, 200, call(b, server, "POST", changePath, body).status)
	}
}
