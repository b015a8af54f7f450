package oakra_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// What a bulk call says of its items is compared with what the server did: the
// ledger of oakratest, or that of a bulkShop where time matters.

// bulkStart is what every record has before a run.
const bulkStart = 1000

// bulkItem is an update or a change.
type bulkItem struct{ id, n int64 }

type bulkOp struct {
	name string
	all  func(context.Context, *oakra.Client, []bulkItem, oakra.BulkOptions) error
	// merged is what one record is sent for two of its items.
	merged func(earlier, later int64) int64
	// after is the quantity of a record that had q.
	after func(q, n int64) int64
}

var (
	bulkUpdate = bulkOp{
		name: "stock.update",
		all: func(ctx context.Context, c *oakra.Client, items []bulkItem, o oakra.BulkOptions) error {
			updates := make([]oakra.StockUpdate, len(items))
			for i, item := range items {
				updates[i] = oakra.StockUpdate{ID: item.id, Quantity: item.n}
			}
			return c.Stock.UpdateAll(ctx, updates, o)
		},
		merged: func(_, later int64) int64 { return later },
		after:  func(_, n int64) int64 { return n },
	}
	bulkChange = bulkOp{
		name: "stock.change",
		all: func(ctx context.Context, c *oakra.Client, items []bulkItem, o oakra.BulkOptions) error {
			changes := make([]oakra.StockChange, len(items))
			for i, item := range items {
				changes[i] = oakra.StockChange{ID: item.id, QuantityChange: item.n}
			}
			return c.Stock.ChangeAll(ctx, changes, o)
		},
		merged: func(earlier, later int64) int64 { return earlier + later },
		after:  func(q, n int64) int64 { return q + n },
	}
)

func eachBulkOp(t *testing.T, test func(t *testing.T, op bulkOp)) {
	for _, op := range []bulkOp{bulkUpdate, bulkChange} {
		t.Run(op.name, func(t *testing.T) { test(t, op) })
	}
}

// bulkItems are one item for each of the ids 1 to n.
func bulkItems(n int) []bulkItem {
	items := make([]bulkItem, n)
	for i := range items {
		items[i] = bulkItem{int64(i + 1), int64(i%7 + 1)}
	}
	return items
}

// bulkServer has the records 1 to n.
func bulkServer(t testing.TB, n int) *oakratest.Server {
	records := make([]oakra.StockRecord, n)
	for i := range records {
		records[i] = oakra.StockRecord{ID: int64(i + 1), SKU: fmt.Sprint("sku-", i+1), LocationID: "w", Quantity: bulkStart}
	}
	server := oakratest.NewServer(records...)
	t.Cleanup(server.Close)
	return server
}

// bulkPolicy sends again at once; bulkOnce never does.
var (
	bulkPolicy = oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 1, MaxBackoff: 1})
	bulkOnce   = oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})
)

// bulkBody reads the items of a write.
func bulkBody(t testing.TB, body []byte) []bulkItem {
	t.Helper()
	var sent struct {
		Records []struct {
			ID       int64  `json:"id"`
			Quantity *int64 `json:"quantity"`
			Change   *int64 `json:"quantity_change"`
		} `json:"stock_records"`
	}
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Errorf("%v in %s", err, body)
	}
	items := make([]bulkItem, len(sent.Records))
	for i, r := range sent.Records {
		n := r.Quantity
		if n == nil {
			n = r.Change
		}
		items[i] = bulkItem{r.ID, *n}
	}
	return items
}

// bulkWrites are the writes of op that arrived.
func bulkWrites(server *oakratest.Server, op bulkOp) []oakratest.Request {
	return slices.DeleteFunc(server.Requests(), func(r oakratest.Request) bool { return r.Op != op.name })
}

// bulkSizes are how many items each of these writes has.
func bulkSizes(t testing.TB, writes []oakratest.Request) []int {
	sizes := make([]int, len(writes))
	for i, w := range writes {
		sizes[i] = len(bulkBody(t, w.Body))
	}
	return sizes
}

// bulkFates checks that the error of a run agrees with itself, and returns the
// fate of each of the n items.
func bulkFates(t testing.TB, op bulkOp, n int, err error) []oakra.Outcome {
	t.Helper()
	fates := make([]oakra.Outcome, n)
	for i := range fates {
		fates[i] = applied
	}
	if err == nil {
		return fates
	}
	var bulk *oakra.BulkError
	require.ErrorAs(t, err, &bulk)
	require.Equal(t, op.name, bulk.Op)
	require.NotEmpty(t, bulk.Failures, "an error without a failure")
	require.Equal(t, n, bulk.Applied+len(bulk.Failures), "items with a fate")

	var none, perhaps []int
	retryable := bulk.Applied == 0
	causes := make(map[error]bool)
	last := -1
	for _, f := range bulk.Failures {
		require.Greater(t, f.Index, last, "indexes are in order, each once")
		require.Less(t, f.Index, n)
		last = f.Index
		switch f.Outcome {
		case notApplied:
			none = append(none, f.Index)
		case unknown:
			perhaps = append(perhaps, f.Index)
		default:
			require.Fail(t, "a failure that was applied", "item %d: %v", f.Index, f.Err)
		}
		fates[f.Index] = f.Outcome
		e := requireError(t, f.Err)
		require.Equal(t, op.name, e.Op)
		require.Equal(t, f.Outcome, oakra.OutcomeOf(f.Err), "item %d: %v", f.Index, f.Err)
		if f.Outcome == unknown {
			require.False(t, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
		}
		retryable = retryable && oakra.Retryable(f.Err)
		causes[f.Err] = true
		require.ErrorIs(t, err, f.Err)
	}
	require.Equal(t, none, bulk.NotApplied())
	require.Equal(t, perhaps, bulk.Unknown())
	require.Len(t, bulk.Unwrap(), len(causes), "each error once")

	want := unknown
	if bulk.Applied == 0 && len(perhaps) == 0 {
		want = notApplied
	}
	require.Equal(t, want, oakra.OutcomeOf(err), "of: %v", err)
	require.Equal(t, retryable, oakra.Retryable(err), "of: %v", err)
	require.Contains(t, err.Error(), fmt.Sprintf("of %d items %d applied, %d not applied, %d unknown", n, bulk.Applied, len(none), len(perhaps)))
	require.Contains(t, err.Error(), fmt.Sprintf("first, item %d: ", bulk.Failures[0].Index))
	require.Less(t, len(err.Error()), 2000)
	return fates
}

// bulkMerged is what should be sent of the items, by id.
func bulkMerged(op bulkOp, items []bulkItem) map[int64]int64 {
	merged := make(map[int64]int64)
	for _, item := range items {
		if n, ok := merged[item.id]; ok {
			merged[item.id] = op.merged(n, item.n)
		} else {
			merged[item.id] = item.n
		}
	}
	return merged
}

// requireBulkTruth compares the fates of the items with the server's ledger, and
// the ledger with the records. It returns how many items met which fate.
func requireBulkTruth(t testing.TB, op bulkOp, server *oakratest.Server, items []bulkItem, err error) map[oakra.Outcome]int {
	t.Helper()
	fates := bulkFates(t, op, len(items), err)
	merged := bulkMerged(op, items)
	times := make(map[int64]int)
	for _, w := range bulkWrites(server, op) {
		for _, item := range bulkBody(t, w.Body) {
			require.Equal(t, merged[item.id], item.n, "what was sent for id %d", item.id)
		}
		for _, a := range w.Applied {
			times[a.ID]++
			require.Equal(t, op.after(a.From, merged[a.ID]), a.To, "what was applied to id %d", a.ID)
		}
	}
	count := make(map[oakra.Outcome]int)
	for i, item := range items {
		fate, n := fates[i], times[item.id]
		count[fate]++
		switch fate {
		case applied:
			require.Positive(t, n, "item %d, id %d is said to be applied", i, item.id)
		case notApplied:
			require.Zero(t, n, "item %d, id %d is said not to be applied", i, item.id)
		}
		if op.name == bulkChange.name {
			require.LessOrEqual(t, n, 1, "item %d, id %d was applied more than once", i, item.id)
		}
	}
	for _, record := range server.Records() {
		want := int64(bulkStart)
		if times[record.ID] > 0 {
			want = op.after(bulkStart, merged[record.ID])
		}
		require.Equal(t, want, record.Quantity, "id %d", record.ID)
	}
	return count
}

// bulkFateText is a letter for each fate.
func bulkFateText(fates []oakra.Outcome) string {
	var b strings.Builder
	for _, fate := range fates {
		b.WriteByte(map[oakra.Outcome]byte{applied: 'a', notApplied: 'n', unknown: 'u'}[fate])
	}
	return b.String()
}

// bulkShop is a server in the transport, for tests in a synctest bubble.
type bulkShop struct {
	t testing.TB
	// latency is how long the n-th request takes, from 0; nil is no time.
	latency func(n int) time.Duration
	// answer is that of the n-th request; nil applies it.
	answer func(n int, r *http.Request, items []bulkItem) *http.Response

	mu             sync.Mutex
	arrivals       []bulkArrival
	inFlight, peak int
	times          map[int64]int // applied, by id
	quantities     map[int64]int64
}

type bulkArrival struct {
	at    time.Time
	items []bulkItem
}

func (s *bulkShop) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet { // after a 404: is the route there?
		return stubAnswer(http.StatusMethodNotAllowed, `{"detail":"Method not allowed."}`), nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	items := bulkBody(s.t, body)
	s.mu.Lock()
	n := len(s.arrivals)
	s.arrivals = append(s.arrivals, bulkArrival{time.Now(), items})
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()
	if s.latency != nil {
		select {
		case <-time.After(s.latency(n)):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if s.answer != nil {
		if a := s.answer(n, r, items); a != nil {
			return a, nil
		}
	}
	return s.apply(r, items), nil
}

// apply applies items and answers with their records.
func (s *bulkShop) apply(r *http.Request, items []bulkItem) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times, s.quantities = make(map[int64]int), make(map[int64]int64)
	}
	records := make([]oakra.StockRecord, len(items))
	for i, item := range items {
		q, ok := s.quantities[item.id]
		if !ok {
			q = bulkStart
		}
		if strings.HasSuffix(r.URL.Path, "/change/") {
			q += item.n
		} else {
			q = item.n
		}
		s.quantities[item.id] = q
		s.times[item.id]++
		records[i] = oakra.StockRecord{ID: item.id, SKU: "sku", LocationID: "w", Quantity: q}
	}
	return stubRecords(records)
}

// shelf is a server of lists in the transport, which knows every SKU.
type shelf struct {
	latency func(n int) time.Duration
	answer  func(n int, skus []string) *http.Response // nil is a record for each

	mu             sync.Mutex
	requests       [][]string
	inFlight, peak int
}

func (s *shelf) RoundTrip(r *http.Request) (*http.Response, error) {
	skus := r.URL.Query()["sku"]
	s.mu.Lock()
	n := len(s.requests)
	s.requests = append(s.requests, skus)
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inFlight--
		s.mu.Unlock()
	}()
	if s.latency != nil {
		select {
		case <-time.After(s.latency(n)):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if s.answer != nil {
		if a := s.answer(n, skus); a != nil {
			return a, nil
		}
	}
	records := make([]oakra.StockRecord, len(skus))
	for i, sku := range skus {
		records[i] = shelfRecord(sku)
	}
	return stubRecords(records), nil
}

func (s *shelf) now() (requests, inFlight, peak int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests), s.inFlight, s.peak
}

// shelfRecord is the record of a SKU of longSKUs.
func shelfRecord(sku string) oakra.StockRecord {
	var i int64
	if _, err := fmt.Sscanf(sku, "%d-", &i); err != nil {
		panic(err)
	}
	return oakra.StockRecord{ID: i + 1, SKU: sku, LocationID: "w", Quantity: i}
}

// longSKUs are n SKUs of which perRequest fit into a request line.
const perRequest = 10

func longSKUs(n int) []string {
	skus := make([]string, n)
	for i := range skus {
		skus[i] = fmt.Sprintf("%05d-%s", i, strings.Repeat("x", 374))
	}
	return skus
}

// TestListSeq: all records, once, in the order of the SKUs though the answers come
// in another, with four requests in flight and no more; and again when ranged
// over again.
func TestListSeq(t *testing.T) {
	for _, row := range []struct{ skus, requests, peak int }{
		{1, 1, 1}, {perRequest, 1, 1}, {perRequest + 1, 2, 2}, {4 * perRequest, 4, 4}, {5*perRequest - 1, 5, 4}, {537, 54, 4},
	} {
		t.Run(fmt.Sprint(row.skus), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shelf{latency: jitter(1)}
				skus := longSKUs(row.skus)
				var want []oakra.StockRecord
				for _, sku := range skus {
					want = append(want, shelfRecord(sku))
				}
				twice := append(slices.Clone(skus), skus...) // asked for once all the same
				seq := stubClient(t, s).Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: twice})
				requests, _, _ := s.now()
				require.Zero(t, requests, "requests before it is ranged over")
				for range 2 {
					s.requests, s.peak = nil, 0
					var got []oakra.StockRecord
					for record, err := range seq {
						require.NoError(t, err)
						got = append(got, record)
					}
					require.Equal(t, want, got)
					requests, inFlight, peak := s.now()
					require.Equal(t, row.requests, requests)
					require.Equal(t, row.peak, peak, "in flight at once")
					require.Zero(t, inFlight)
				}
			})
		})
	}
}

// TestListSeqLikeList compares the two on the fake server, with SKUs at several
// locations and such as it does not know.
func TestListSeqLikeList(t *testing.T) {
	server := oakratest.NewServer()
	t.Cleanup(server.Close)
	skus := longSKUs(100)
	for i, sku := range skus {
		for _, location := range []string{"w1", "w2"}[:i%3] {
			server.SetRecords(oakra.StockRecord{SKU: sku, LocationID: location, Quantity: int64(i)})
		}
	}
	before := runtime.NumGoroutine()
	client := server.Client()
	for _, location := range []string{"", "w1", "w2", "elsewhere"} {
		params := oakra.StockListParams{SKUs: skus, LocationID: location}
		want, err := client.Stock.List(t.Context(), params)
		require.NoError(t, err)
		var got []oakra.StockRecord
		for record, err := range client.Stock.ListSeq(t.Context(), params) {
			require.NoError(t, err)
			got = append(got, record)
		}
		require.ElementsMatch(t, want, got)
		require.True(t, slices.EqualFunc(want, got, func(a, b oakra.StockRecord) bool { return a == b }), "in the same order")
	}
	client.CloseIdleConnections()
	requireNoMoreGoroutines(t, before)
}

// TestListSeqBounded: a consumer that takes its time has few answers waiting.
func TestListSeqBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		const n = 60
		i := 0
		for _, err := range stubClient(t, s).Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: longSKUs(n * perRequest)}) {
			require.NoError(t, err)
			time.Sleep(time.Second)
			requests, _, _ := s.now()
			require.LessOrEqual(t, requests, i/perRequest+1+4, "requests made when record %d is taken", i)
			i++
		}
		require.Equal(t, n*perRequest, i)
	})
}

// TestListSeqBreak: after a break nothing is in flight and nothing is sent.
func TestListSeqBreak(t *testing.T) {
	for _, after := range []int{1, perRequest - 1, perRequest, perRequest + 1, 5*perRequest + 3} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shelf{latency: jitter(2)}
				taken := 0
				for _, err := range stubClient(t, s).Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: longSKUs(300)}) {
					require.NoError(t, err)
					if taken++; taken == after {
						break
					}
				}
				requests, inFlight, _ := s.now()
				require.Zero(t, inFlight, "in flight after the break")
				time.Sleep(time.Hour)
				later, _, _ := s.now()
				require.Equal(t, requests, later, "requests after the break")
			})
		})
	}

	t.Run("on a connection", func(t *testing.T) {
		server := bulkServer(t, 1)
		before := runtime.NumGoroutine()
		client := server.Client()
		skus := append([]string{"sku-1"}, longSKUs(200)...)
		for range 10 {
			for record, err := range client.Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: skus}) {
				require.NoError(t, err)
				require.EqualValues(t, 1, record.ID)
				server.SetLatency(time.Minute, 0) // for those in flight
				break
			}
			server.SetLatency(0, 0)
		}
		client.CloseIdleConnections()
		server.Close()
		requireNoMoreGoroutines(t, before)
	})

	t.Run("by a panic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &shelf{latency: jitter(2)}
			require.Panics(t, func() {
				for range stubClient(t, s).Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: longSKUs(300)}) {
					panic("of the consumer")
				}
			})
			_, inFlight, _ := s.now()
			require.Zero(t, inFlight)
		})
	})
}

// TestListSeqError: the records before the error are yielded, the error comes
// last and alone, and nothing is left running.
func TestListSeqError(t *testing.T) {
	for _, failing := range []int{0, 1, 3, 4, 17, 29} {
		t.Run(fmt.Sprint(failing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				skus := longSKUs(300)
				s := &shelf{
					latency: jitter(3),
					answer: func(_ int, asked []string) *http.Response {
						if asked[0] == skus[failing*perRequest] {
							return stubAnswer(400, `{"detail":"No."}`)
						}
						return nil
					},
				}
				var got []string
				var failure error
				seq := stubClient(t, s).Stock.ListSeq(t.Context(), oakra.StockListParams{SKUs: skus})
				seq(func(record oakra.StockRecord, err error) bool {
					require.NoError(t, failure, "yielded after the error")
					if failure = err; err != nil {
						require.Zero(t, record, "the record beside an error")
						return true // and still nothing comes
					}
					got = append(got, record.SKU)
					return true
				})
				require.ErrorIs(t, failure, oakra.ErrInvalidRequest)
				require.Equal(t, "stock.list", requireError(t, failure).Op)
				if failing == 0 {
					require.Empty(t, got)
				} else {
					require.Equal(t, skus[:failing*perRequest], got)
				}
				requests, inFlight, _ := s.now()
				require.LessOrEqual(t, requests, failing+4)
				require.Zero(t, inFlight)
			})
		})
	}
}

func TestListSeqContext(t *testing.T) {
	t.Run("over before", func(t *testing.T) {
		s := &shelf{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var errs []error
		for _, err := range stubClient(t, s).Stock.ListSeq(ctx, oakra.StockListParams{SKUs: longSKUs(100)}) {
			errs = append(errs, err)
		}
		require.Len(t, errs, 1)
		require.ErrorIs(t, errs[0], context.Canceled)
		require.True(t, oakra.Retryable(errs[0]))
		require.Empty(t, s.requests)
	})

	for name, end := range map[string]error{"canceled": context.Canceled, "deadline": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shelf{latency: func(int) time.Duration { return time.Second }}
				ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
				defer cancel()
				if end == context.Canceled {
					ctx, cancel = context.WithCancel(t.Context())
					time.AfterFunc(10500*time.Millisecond, cancel)
				}
				start := time.Now()
				var failure error
				records := 0
				for _, err := range stubClient(t, s).Stock.ListSeq(ctx, oakra.StockListParams{SKUs: longSKUs(2000)}) {
					require.NoError(t, failure, "yielded after the error")
					if failure = err; err == nil {
						records++
					}
				}
				require.ErrorIs(t, failure, end)
				require.GreaterOrEqual(t, records, 10*perRequest)
				require.Equal(t, 10500*time.Millisecond, time.Since(start))
				_, inFlight, _ := s.now()
				require.Zero(t, inFlight)
			})
		})
	}
}

func TestListSeqInvalid(t *testing.T) {
	for name, params := range map[string]oakra.StockListParams{
		"no SKUs":         {},
		"a blank SKU":     {SKUs: []string{"a", " "}},
		"a long SKU":      {SKUs: []string{"a", strings.Repeat("x", 5000)}},
		"a long location": {SKUs: []string{"a"}, LocationID: strings.Repeat("x", 5000)},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{}
			var errs []error
			for record, err := range stubClient(t, s).Stock.ListSeq(t.Context(), params) {
				require.Zero(t, record)
				errs = append(errs, err)
			}
			require.Len(t, errs, 1)
			require.ErrorIs(t, errs[0], oakra.ErrInvalidRequest)
			require.Equal(t, notApplied, oakra.OutcomeOf(errs[0]))
			require.Empty(t, s.requests)
		})
	}
}

// lookupRecords are two SKUs at two places, and one at one.
var lookupRecords = []oakra.StockRecord{
	{ID: 1, SKU: "a", LocationID: "w1", Quantity: 10},
	{ID: 2, SKU: "a", LocationID: "w2", Quantity: 20},
	{ID: 3, SKU: "b", LocationID: "w1", Quantity: 30},
	{ID: 4, SKU: "b", LocationID: "w2", Quantity: 40},
	{ID: 5, SKU: "c", LocationID: "w2", Quantity: 50},
}

func TestLookup(t *testing.T) {
	for _, row := range []struct {
		name     string
		keys     []oakra.StockKey
		want     []int64 // ids
		location string  // that the server is asked for
	}{
		{"one", []oakra.StockKey{{"a", "w1"}}, []int64{1}, "w1"},
		{"one location", []oakra.StockKey{{"a", "w2"}, {"c", "w2"}}, []int64{2, 5}, "w2"},
		{"many locations", []oakra.StockKey{{"a", "w2"}, {"b", "w1"}}, []int64{2, 3}, ""},
		{"one SKU at many", []oakra.StockKey{{"a", "w1"}, {"a", "w2"}}, []int64{1, 2}, ""},
		{"not known there", []oakra.StockKey{{"c", "w1"}, {"c", "w2"}}, []int64{5}, ""},
		{"not known", []oakra.StockKey{{"x", "w1"}}, nil, "w1"},
		{"a key twice", []oakra.StockKey{{"a", "w1"}, {"a", "w1"}}, []int64{1}, "w1"},
		{"another case", []oakra.StockKey{{"A", "w1"}, {"b", "W1"}, {"c", "w2"}}, []int64{5}, ""},
	} {
		want := make(map[oakra.StockKey]oakra.StockRecord)
		for _, id := range row.want {
			record := lookupRecords[id-1]
			want[oakra.StockKey{SKU: record.SKU, LocationID: record.LocationID}] = record
		}
		t.Run(row.name, func(t *testing.T) {
			server := oakratest.NewServer(lookupRecords...)
			defer server.Close()
			got, err := server.Client().Stock.Lookup(t.Context(), row.keys)
			require.NoError(t, err)
			require.Equal(t, want, got)
			requests := server.Requests()
			require.Len(t, requests, 1)
			require.Equal(t, row.location, requests[0].Query.Get("location_id"))
		})
		t.Run(row.name+", filters ignored", func(t *testing.T) {
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) { return stubRecords(lookupRecords), nil }))
			got, err := client.Stock.Lookup(t.Context(), row.keys)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// TestLookupMany has more keys than fit into a request, and a server that
// answers each request with all it has.
func TestLookupMany(t *testing.T) {
	var all []oakra.StockRecord
	var keys []oakra.StockKey
	for _, sku := range longSKUs(100) {
		record := shelfRecord(sku)
		all = append(all, record)
		keys = append(keys, record.Key())
	}
	for name, answer := range map[string]func(int, []string) *http.Response{
		"as asked":        nil,
		"filters ignored": func(int, []string) *http.Response { return stubRecords(all) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{answer: answer}
			found, err := stubClient(t, s).Stock.Lookup(t.Context(), keys)
			require.NoError(t, err)
			require.Len(t, s.requests, len(keys)/perRequest)
			require.Len(t, found, len(keys))
			for i, key := range keys {
				require.Equal(t, all[i], found[key])
			}
		})
	}
}

func TestLookupNoKeys(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, keys := range [][]oakra.StockKey{nil, {}} {
		s := &shelf{}
		found, err := stubClient(t, s).Stock.Lookup(ctx, keys)
		require.NoError(t, err)
		require.NotNil(t, found)
		require.Empty(t, found)
		require.Empty(t, s.requests)
	}
}

func TestLookupErrors(t *testing.T) {
	twins := []oakra.StockRecord{lookupRecords[0], {ID: 77, SKU: "a", LocationID: "w1"}}
	for _, row := range []struct {
		name     string
		keys     []oakra.StockKey
		answer   *http.Response // nil: nothing is to be sent
		is       error
		contains []string
	}{
		{"blank SKU", []oakra.StockKey{{"a", "w1"}, {" ", "w1"}}, nil, oakra.ErrInvalidRequest, []string{"1"}},
		{"no location", []oakra.StockKey{{"a", "w1"}, {"b", ""}}, nil, oakra.ErrInvalidRequest, []string{"keys[1]", "b"}},
		{"no first location", []oakra.StockKey{{"a", ""}, {"b", "w1"}}, nil, oakra.ErrInvalidRequest, []string{"keys[0]", "a"}},
		{"two records", []oakra.StockKey{{"b", "w1"}, {"a", "w1"}}, stubRecords(twins), oakra.ErrBadResponse, []string{`"a"`, `"w1"`, "77"}},
		{"refused", []oakra.StockKey{{"a", "w1"}}, stubAnswer(403, ""), oakra.ErrForbidden, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			requests := 0
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
				requests++
				return row.answer, nil
			}))
			found, err := client.Stock.Lookup(t.Context(), row.keys)
			require.ErrorIs(t, err, row.is)
			require.Nil(t, found)
			require.Equal(t, "stock.list", requireError(t, err).Op)
			require.Equal(t, notApplied, oakra.OutcomeOf(err))
			require.False(t, oakra.Retryable(err))
			for _, text := range row.contains {
				require.Contains(t, err.Error(), text)
			}
			require.Equal(t, row.answer != nil, requests == 1)
		})
	}

	t.Run("two records that nobody asked for", func(t *testing.T) {
		client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
			return stubRecords(append(slices.Clone(twins), lookupRecords[2])), nil
		}))
		found, err := client.Stock.Lookup(t.Context(), []oakra.StockKey{{"b", "w1"}})
		require.NoError(t, err)
		require.Len(t, found, 1)
	})

	// The second twin comes with another request, and the rest is given up.
	t.Run("two records in two requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			keys := make([]oakra.StockKey, 0, 1000)
			for _, sku := range longSKUs(1000) {
				keys = append(keys, oakra.StockKey{SKU: sku, LocationID: "w"})
			}
			s := &shelf{latency: jitter(4)}
			s.answer = func(_ int, skus []string) *http.Response {
				first := shelfRecord(keys[0].SKU)
				if skus[0] != keys[0].SKU {
					first.ID = 77
				}
				return stubRecords([]oakra.StockRecord{first})
			}
			_, err := stubClient(t, s).Stock.Lookup(t.Context(), keys)
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			requests, inFlight, _ := s.now()
			require.LessOrEqual(t, requests, 2+4)
			require.Zero(t, inFlight)
		})
	})
}

// within fails the test if f takes absurdly long.
func within(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "it hangs")
	}
}

func TestBulkSizes(t *testing.T) {
	for _, row := range []struct {
		items, size int
		want        []int // the largest first
	}{
		{1, 0, []int{1}},
		{499, 0, []int{499}},
		{500, 0, []int{500}},
		{501, 0, []int{500, 1}},
		{2000, 0, []int{500, 500, 500, 500}},
		{10, 5, []int{5, 5}},
		{11, 5, []int{5, 5, 1}},
		{14, 5, []int{5, 5, 4}},
		{3, 1, []int{1, 1, 1}},
		{5, 100, []int{5}},
		{5, math.MaxInt, []int{5}},
	} {
		t.Run(fmt.Sprintf("%d by %d", row.items, row.size), func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				server := bulkServer(t, row.items)
				items := bulkItems(row.items)
				var err error
				within(t, func() {
					err = op.all(context.Background(), server.Client(), items, oakra.BulkOptions{BatchSize: row.size})
				})
				require.NoError(t, err)
				sizes := bulkSizes(t, bulkWrites(server, op))
				slices.SortFunc(sizes, func(a, b int) int { return cmp.Compare(b, a) })
				require.Equal(t, row.want, sizes)
				requireBulkTruth(t, op, server, items, err)
			})
		})
	}
}

func TestBulkConcurrency(t *testing.T) {
	for _, row := range []struct{ concurrency, batches, peak int }{
		{0, 40, 4}, {1, 40, 1}, {2, 40, 2}, {9, 40, 9}, {100, 7, 7}, {0, 2, 2}, {math.MaxInt, 3, 3},
	} {
		t.Run(fmt.Sprintf("%d of %d", row.concurrency, row.batches), func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkShop{t: t, latency: jitter(5)}
					err := op.all(t.Context(), stubClient(t, s), bulkItems(row.batches*3), oakra.BulkOptions{BatchSize: 3, Concurrency: row.concurrency})
					require.NoError(t, err)
					require.Len(t, s.arrivals, row.batches)
					require.Equal(t, row.peak, s.peak, "in flight at once")
					require.Zero(t, s.inFlight)
				})
			})
		})
	}
}

// TestBulkMerge: the items of one record are one in the request, wherever they
// stand in the slice.
func TestBulkMerge(t *testing.T) {
	for _, row := range []struct {
		name  string
		op    bulkOp
		items []bulkItem
		want  []bulkItem // in the order of each record's first
	}{
		{"summed", bulkChange, []bulkItem{{1, 2}, {2, 5}, {1, -7}}, []bulkItem{{1, -5}, {2, 5}}},
		{"far apart", bulkChange, []bulkItem{{3, 1}, {1, 1}, {2, 1}, {4, 1}, {3, 1}, {5, 1}, {1, 1}, {3, 1}}, []bulkItem{{3, 3}, {1, 2}, {2, 1}, {4, 1}, {5, 1}}},
		{"sum of zero", bulkChange, []bulkItem{{1, 3}, {2, 1}, {1, -3}}, []bulkItem{{1, 0}, {2, 1}}},
		{"of zeros", bulkChange, []bulkItem{{1, 0}, {1, 0}}, []bulkItem{{1, 0}}},
		{"to the least", bulkChange, []bulkItem{{1, math.MinInt64 + 1}, {1, -1}, {2, -5}, {1, 0}}, []bulkItem{{1, math.MinInt64}, {2, -5}}},
		{"to the most", bulkChange, []bulkItem{{1, math.MaxInt64 - 1}, {1, 1}}, []bulkItem{{1, math.MaxInt64}}},
		{"there and back", bulkChange, []bulkItem{{1, math.MaxInt64}, {1, math.MinInt64}, {1, 1}}, []bulkItem{{1, 0}}},
		{"past the most and back", bulkChange, []bulkItem{{1, math.MaxInt64}, {1, 1}, {1, -1}}, []bulkItem{{1, math.MaxInt64}}},
		{"past the least and back", bulkChange, []bulkItem{{1, math.MinInt64}, {1, -1}, {1, 1}}, []bulkItem{{1, math.MinInt64}}},
		{"last wins", bulkUpdate, []bulkItem{{1, 2}, {2, 5}, {1, 7}}, []bulkItem{{1, 7}, {2, 5}}},
		{"last of many", bulkUpdate, []bulkItem{{1, 9}, {1, math.MaxInt64}, {2, 1}, {1, math.MinInt64}, {1, 0}}, []bulkItem{{1, 0}, {2, 1}}},
	} {
		for _, size := range []int{0, 2, 1} {
			t.Run(fmt.Sprintf("%s by %d", row.name, size), func(t *testing.T) {
				s := &bulkShop{t: t}
				given := slices.Clone(row.items)
				err := row.op.all(t.Context(), stubClient(t, s), given, oakra.BulkOptions{BatchSize: size, Concurrency: 1})
				require.NoError(t, err)
				var sent []bulkItem
				for _, a := range s.arrivals {
					sent = append(sent, a.items...)
				}
				require.Equal(t, row.want, sent)
			})
		}
	}
}

// TestBulkInvalid: one bad item anywhere, and nothing is sent.
func TestBulkInvalid(t *testing.T) {
	changed := func(n, at int, item bulkItem) []bulkItem {
		items := bulkItems(n)
		items[at] = item
		return items
	}
	both := []bulkOp{bulkUpdate, bulkChange}
	for _, row := range []struct {
		name    string
		ops     []bulkOp
		items   []bulkItem
		options oakra.BulkOptions
		text    string
	}{
		{"first id", both, changed(1200, 0, bulkItem{0, 1}), oakra.BulkOptions{}, "item 0:"},
		{"middle id", both, changed(1200, 601, bulkItem{-1, 1}), oakra.BulkOptions{}, "item 601:"},
		{"last id", both, changed(1200, 1199, bulkItem{math.MinInt64, 1}), oakra.BulkOptions{}, "item 1199:"},
		{"BatchSize", both, bulkItems(3), oakra.BulkOptions{BatchSize: -1}, "BatchSize"},
		{"Concurrency", both, bulkItems(3), oakra.BulkOptions{Concurrency: -1}, "Concurrency"},
		{"over the most", []bulkOp{bulkChange}, []bulkItem{{2, 1}, {1, math.MaxInt64}, {1, 1}}, oakra.BulkOptions{}, "id 1"},
		{"under the least", []bulkOp{bulkChange}, []bulkItem{{2, 1}, {1, math.MinInt64}, {2, 1}, {1, -1}}, oakra.BulkOptions{}, "id 1"},
		{"twice the most", []bulkOp{bulkChange}, []bulkItem{{1, math.MaxInt64}, {1, math.MaxInt64}}, oakra.BulkOptions{}, "id 1"},
		{"twice the least", []bulkOp{bulkChange}, []bulkItem{{1, math.MinInt64}, {1, math.MinInt64}}, oakra.BulkOptions{}, "id 1"},
	} {
		for _, op := range row.ops {
			t.Run(row.name+" "+op.name, func(t *testing.T) {
				server := bulkServer(t, 1)
				err := op.all(t.Context(), server.Client(), row.items, row.options)
				require.ErrorIs(t, err, oakra.ErrInvalidRequest)
				require.Contains(t, err.Error(), row.text)
				require.Equal(t, strings.Repeat("n", len(row.items)), bulkFateText(bulkFates(t, op, len(row.items), err)))
				require.False(t, oakra.Retryable(err))
				require.Empty(t, server.Requests())
			})
		}
	}
}

func TestBulkEmpty(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, 1)
		for _, items := range [][]bulkItem{nil, {}} {
			require.NoError(t, op.all(ctx, server.Client(), items, oakra.BulkOptions{}))
		}
		require.Empty(t, server.Requests())
	})
}

// TestBulkOrder: many items of few records, in small batches, many at a time,
// some of them sent again: the last update of each record is what stays.
func TestBulkOrder(t *testing.T) {
	const ids, n = 40, 2000
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for seed := range uint64(3) {
			random := rand.New(rand.NewPCG(seed, 1))
			items := make([]bulkItem, n)
			for i := range items {
				items[i] = bulkItem{1 + random.Int64N(ids), random.Int64N(100)}
			}
			server := bulkServer(t, ids)
			server.Inject(oakratest.Fault{Op: op.name, Kind: oakratest.Refuse, Probability: 0.2, Seed: seed})
			server.Inject(oakratest.Fault{Op: bulkUpdate.name, Kind: oakratest.RespondAfter, Status: 502, Probability: 0.2, Seed: seed + 1})
			server.Inject(oakratest.Fault{Op: op.name, Delay: 3 * time.Millisecond, Probability: 0.3, Seed: seed + 2})
			client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 20, MinBackoff: 1, MaxBackoff: 1}))
			err := op.all(t.Context(), client, items, oakra.BulkOptions{BatchSize: 2, Concurrency: 16})
			require.NoError(t, err)
			requireBulkTruth(t, op, server, items, err)
		}
	})
}

// bulkFateItems are three batches of three, and two more items of records that
// have one, which share its fate.
var bulkFateItems = append(bulkItems(9), bulkItem{6, 4}, bulkItem{1, 4})

// TestBulkFates has every fault strike the second of three batches, once.
func TestBulkFates(t *testing.T) {
	const (
		allOf   = "aaa aaa aaa aa"
		dark    = "aaa uuu aaa ua"
		refused = "aaa nnn aaa na"
		stopped = "aaa nnn nnn na"
	)
	answer := func(status int, header ...string) oakratest.Fault {
		h := make(http.Header)
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Header: h, Body: `{"detail":"No."}`}
	}
	split := []int{3, 3, 1, 2, 3}
	for _, row := range []struct {
		name      string
		fault     oakratest.Fault
		update    string // the fates
		change    string
		is        error // of the failures, if it is one of ours
		retryable bool  // those that were not applied
	}{
		{"reset before", oakratest.Fault{Kind: oakratest.ResetBefore}, dark, dark, nil, false},
		{"reset after", oakratest.Fault{Kind: oakratest.ResetAfter}, dark, dark, nil, false},
		{"refused connection", oakratest.Fault{Kind: oakratest.Refuse}, refused, refused, oakra.ErrUnreachable, true},
		{"cut body", oakratest.Fault{Kind: oakratest.CutBody}, allOf, allOf, nil, false},
		{"record omitted", oakratest.Fault{Kind: oakratest.OmitRecord}, "aaa aau aaa ua", "aaa aau aaa ua", oakra.ErrBadResponse, false},
		{"no record", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `[]`}, dark, dark, oakra.ErrBadResponse, false},
		{"a page", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `<html>`}, dark, dark, oakra.ErrBadResponse, false},
		{"502 after", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502}, dark, dark, oakra.ErrServer, false},
		{"503", answer(503), dark, dark, oakra.ErrServer, false},
		{"501", answer(501), dark, dark, oakra.ErrServer, false},
		{"408", answer(408), dark, dark, nil, false},
		{"429", answer(429), refused, refused, oakra.ErrRateLimited, true},
		{"429 for too long", answer(429, "Retry-After", "3600"), stopped, stopped, oakra.ErrRateLimited, true},
		{"400", answer(400), allOf, refused, oakra.ErrInvalidRequest, false},
		{"404", answer(404), allOf, refused, oakra.ErrNotFound, false},
		{"409", answer(409), allOf, refused, oakra.ErrConflict, false},
		{"413", answer(413), allOf, refused, oakra.ErrInvalidRequest, false},
		{"422", answer(422), allOf, refused, oakra.ErrInvalidRequest, false},
		{"405", answer(405), refused, refused, oakra.ErrNotFound, false},
		{"410", answer(410), refused, refused, oakra.ErrNotFound, false},
		{"415", answer(415), refused, refused, oakra.ErrInvalidRequest, false},
		{"401", answer(401), stopped, stopped, oakra.ErrUnauthorized, false},
		{"403", answer(403), stopped, stopped, oakra.ErrForbidden, false},
		{"301", answer(301, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"302", answer(302, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"303", answer(303, "Location", "/"), "aaa uuu nnn ua", "aaa uuu nnn ua", oakra.ErrRedirect, false},
		{"307", answer(307, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"308", answer(308, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
	} {
		for _, run := range []struct {
			op    bulkOp
			split bool
			want  string
		}{
			{bulkUpdate, false, row.update},
			{bulkChange, false, row.change},
			{bulkChange, true, row.update}, // with SplitRefused they are alike
		} {
			t.Run(fmt.Sprintf("%s %s %v", row.name, run.op.name, run.split), func(t *testing.T) {
				server := bulkServer(t, 9)
				server.Inject(oakratest.Fault{Op: run.op.name, Times: 1, Kind: oakratest.Slow})
				fault := row.fault
				fault.Op, fault.Times = run.op.name, 1
				if fault.Kind == oakratest.Refuse { // which is asked before all others
					fault.Times = 0
				}
				options := oakra.BulkOptions{BatchSize: 3, Concurrency: 1, SplitRefused: run.split}
				if fault.Kind != oakratest.Refuse {
					server.Inject(fault)
				}
				options.OnProgress = func(p oakra.BulkProgress) {
					if fault.Kind != oakratest.Refuse {
						return
					}
					if server.ClearFaults(); p.Done() == 4 { // the first batch, with the item that shares a fate
						server.Inject(fault)
					}
				}
				err := run.op.all(t.Context(), server.Client(bulkOnce), bulkFateItems, options)
				fates := bulkFates(t, run.op, len(bulkFateItems), err)
				require.Equal(t, strings.ReplaceAll(run.want, " ", ""), bulkFateText(fates))
				requireBulkTruth(t, run.op, server, bulkFateItems, err)

				sizes := bulkSizes(t, bulkWrites(server, run.op))
				switch {
				case run.want == allOf && fault.Kind == oakratest.Respond:
					require.Equal(t, split, sizes)
				case fates[6] == notApplied, fault.Kind == oakratest.Refuse:
					require.Equal(t, []int{3, 3}, sizes)
				default:
					require.Equal(t, []int{3, 3, 3}, sizes)
				}
				if err == nil {
					return
				}
				var bulk *oakra.BulkError
				require.ErrorAs(t, err, &bulk)
				for _, f := range bulk.Failures {
					if row.is != nil {
						require.ErrorIs(t, f.Err, row.is)
					}
					require.Equal(t, row.retryable, oakra.Retryable(f.Err), "%v", f.Err)
				}
			})
		}
	}
}

// TestBulkMissingIDs: of an answer that lacks some ids, those are unknown and no
// others, wherever they stood.
func TestBulkMissingIDs(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		missing := []int64{1, 4, 5, 9}
		s := &bulkShop{t: t}
		s.answer = func(_ int, r *http.Request, items []bulkItem) *http.Response {
			s.apply(r, items)
			var records []oakra.StockRecord
			for _, item := range items {
				if !slices.Contains(missing, item.id) {
					records = append(records, oakra.StockRecord{ID: item.id, SKU: "s", LocationID: "w", Quantity: item.n})
				}
			}
			return stubRecords(records)
		}
		err := op.all(t.Context(), stubClient(t, s, bulkPolicy), bulkFateItems, oakra.BulkOptions{BatchSize: 3})
		require.Equal(t, "uaa"+"uua"+"aau"+"au", bulkFateText(bulkFates(t, op, len(bulkFateItems), err)))
		require.ErrorIs(t, err, oakra.ErrBadResponse)
		require.Len(t, s.arrivals, 3, "none is sent again")
	})
}

// TestBulkFateOfTheLastAttempt: refused after an attempt of unknown outcome is
// unknown, and is not split.
func TestBulkFateOfTheLastAttempt(t *testing.T) {
	server := bulkServer(t, 4)
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.RespondAfter, Status: 502})
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.Respond, Status: 400})
	items := bulkItems(4)
	err := bulkUpdate.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{})
	require.Equal(t, "uuuu", bulkFateText(bulkFates(t, bulkUpdate, 4, err)))
	require.Equal(t, []int{4, 4}, bulkSizes(t, bulkWrites(server, bulkUpdate)))
	requireBulkTruth(t, bulkUpdate, server, items, err)
}

// TestBulkSplit has one bad item in each place of a batch of eight, the second
// of three.
func TestBulkSplit(t *testing.T) {
	const n, size = 24, 8
	for _, dialect := range []struct {
		name    string
		dialect oakratest.Dialect
		is      error
	}{
		{"400", oakratest.Dialect{}, oakra.ErrInvalidRequest},
		{"404", oakratest.Dialect{UnknownIDNotFound: true}, oakra.ErrNotFound},
	} {
		for _, run := range []struct {
			op    bulkOp
			split bool
		}{{bulkUpdate, false}, {bulkChange, true}, {bulkChange, false}} {
			t.Run(fmt.Sprintf("%s %s %v", dialect.name, run.op.name, run.split), func(t *testing.T) {
				for bad := range size {
					server := bulkServer(t, n)
					server.SetDialect(dialect.dialect)
					items := bulkItems(n)
					items[size+bad].id = 999
					err := run.op.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{BatchSize: size, SplitRefused: run.split})
					require.ErrorIs(t, err, dialect.is)
					require.False(t, oakra.Retryable(err))
					requireBulkTruth(t, run.op, server, items, err)
					var bulk *oakra.BulkError
					require.ErrorAs(t, err, &bulk)
					if run.split || run.op.name == bulkUpdate.name {
						require.Equal(t, []int{size + bad}, bulk.NotApplied())
						require.Len(t, bulkWrites(server, run.op), 3+2*3, "two halves, three times")
					} else {
						require.Equal(t, size, len(bulk.NotApplied()))
						require.Equal(t, size, bulk.NotApplied()[0])
						require.Len(t, bulkWrites(server, run.op), 3, "nothing of a refused batch is sent again")
					}
				}
			})
		}
	}
}

// TestBulkSplitSeveral has some bad items by chance, in batches that also have
// good ones, and records with several items.
func TestBulkSplitSeveral(t *testing.T) {
	const n, size = 120, 20
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for seed := range uint64(5) {
			random := rand.New(rand.NewPCG(seed, 2))
			server := bulkServer(t, n)
			server.SetDialect(oakratest.Dialect{UnknownIDNotFound: seed%2 == 0})
			items := bulkItems(n)
			var want []int
			for i := range items {
				if i%size != int(seed) && random.IntN(5) == 0 {
					items[i].id += 1000
				}
			}
			for _, item := range items[:n/2] {
				items = append(items, bulkItem{item.id, 3})
			}
			for i, item := range items {
				if item.id > 1000 {
					want = append(want, i)
				}
			}
			err := op.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{BatchSize: size, SplitRefused: true})
			requireBulkTruth(t, op, server, items, err)
			var bulk *oakra.BulkError
			require.ErrorAs(t, err, &bulk)
			require.Equal(t, want, bulk.NotApplied())
			require.Empty(t, bulk.Unknown())
		}
	})
}

// TestBulkAllBad: when every item is refused, that takes less than two requests
// for each.
func TestBulkAllBad(t *testing.T) {
	const batches, size = 20, 64
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, 1)
		items := bulkItems(batches * size)
		for i := range items {
			items[i].id += 10_000
		}
		err := op.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{BatchSize: size, SplitRefused: true})
		require.Equal(t, strings.Repeat("n", len(items)), bulkFateText(bulkFates(t, op, len(items), err)))
		require.ErrorIs(t, err, oakra.ErrInvalidRequest)
		require.Len(t, server.Requests(), batches*(2*size-1))
		requireBulkTruth(t, op, server, items, err)
	})
}

// TestBulkNotFoundPage: a 404 that is a page is no item's fault, and no batch is
// split for it.
func TestBulkNotFoundPage(t *testing.T) {
	const n, size = 200, 20
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, n)
		client := server.Client(bulkPolicy)
		first := bulkItems(1)
		require.NoError(t, op.all(t.Context(), client, first, oakra.BulkOptions{})) // the route is kept
		server.Inject(oakratest.Fault{Op: op.name, Kind: oakratest.Respond, Status: 404, Body: "<html>no such page</html>"})
		err := op.all(t.Context(), client, bulkItems(n), oakra.BulkOptions{BatchSize: size, SplitRefused: true})
		require.ErrorIs(t, err, oakra.ErrNotFound)
		require.Equal(t, strings.Repeat("n", n), bulkFateText(bulkFates(t, op, n, err)))
		require.Len(t, server.Requests(), 1+n/size)
	})
}

// TestBulkBadBatchFirst: a batch of nothing but bad items says nothing about
// the next one, whose single bad item is found as ever.
func TestBulkBadBatchFirst(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for _, size := range []int{2, 10, 120} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				server := bulkServer(t, 3*size)
				items := bulkItems(3 * size)
				want := []int{}
				for i := range size + 1 {
					items[i].id += 10_000
					want = append(want, i)
				}
				err := op.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{BatchSize: size, Concurrency: 1, SplitRefused: true})
				requireBulkTruth(t, op, server, items, err)
				var bulk *oakra.BulkError
				require.ErrorAs(t, err, &bulk)
				require.Equal(t, want, bulk.NotApplied())
			})
		}
	})
}

// TestBulkHalfApplied: a server that refuses a batch and has applied half of it.
// What it says cannot be helped, but without SplitRefused no change counts twice.
func TestBulkHalfApplied(t *testing.T) {
	for _, status := range []int{400, 404, 409, 413, 422} {
		s := &bulkShop{t: t}
		s.answer = func(n int, r *http.Request, items []bulkItem) *http.Response {
			if n%2 == 0 {
				return nil
			}
			s.apply(r, items[:len(items)/2])
			return stubAnswer(status, `{"detail":"One of them is bad."}`)
		}
		items := bulkItems(40)
		err := bulkChange.all(t.Context(), stubClient(t, s, bulkPolicy), items, oakra.BulkOptions{BatchSize: 4})
		require.Error(t, err)
		require.Len(t, s.arrivals, 10, "%d: each batch is sent once", status)
		for id, times := range s.times {
			require.Equal(t, 1, times, "%d: id %d", status, id)
		}
	}
}

var errBroken = errors.New("it is broken")

// TestBulkStops: an error that every later request would meet ends the run. What
// was not sent is not applied, and its error says why.
func TestBulkStops(t *testing.T) {
	const n, size = 200, 2 // a hundred batches
	failsAfter := func(calls int64) func() error {
		var asked atomic.Int64
		return func() error {
			if asked.Add(1) > calls {
				return errBroken
			}
			return nil
		}
	}
	answerFrom := func(from, status int, header ...string) func(int, *http.Request, []bulkItem) *http.Response {
		return func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < from {
				return nil
			}
			return stubAnswer(status, `{"detail":"No."}`, header...)
		}
	}
	for _, row := range []struct {
		name      string
		answer    func(int, *http.Request, []bulkItem) *http.Response
		transport func(http.RoundTripper) http.RoundTripper
		option    func() oakra.Option
		is        error
		retryable bool
		most      int // requests, with four workers
		applied   bool
	}{
		{name: "401", answer: answerFrom(7, 401), is: oakra.ErrUnauthorized, most: 7 + 4, applied: true},
		{name: "401 at once", answer: answerFrom(0, 401), is: oakra.ErrUnauthorized, most: 4},
		{name: "403", answer: answerFrom(7, 403), is: oakra.ErrForbidden, most: 7 + 4, applied: true},
		{name: "307", answer: answerFrom(7, 307, "Location", "https://example.com/"), is: oakra.ErrRedirect, most: 7 + 4, applied: true},
		{name: "429 for too long", answer: answerFrom(7, 429, "Retry-After", "31"), is: oakra.ErrRateLimited, retryable: true, most: 7 + 4, applied: true},
		{name: "no route, 404", answer: answerFrom(0, 404), is: oakra.ErrNotFound, most: 4 * 3 * 2},
		{name: "no route, 405", answer: answerFrom(0, 405), is: oakra.ErrNotFound, most: 4 * 3},
		{name: "key source", option: func() oakra.Option {
			fails := failsAfter(7)
			return oakra.WithAppKeySource(func(context.Context, string) (string, error) { return stubKey, fails() })
		}, is: errBroken, most: 7, applied: true},
		{name: "limiter", option: func() oakra.Option {
			fails := failsAfter(7)
			return oakra.WithLimiter(stubLimiter(func(context.Context) error { return fails() }))
		}, is: errBroken, most: 7, applied: true},
		{name: "no such host", transport: func(http.RoundTripper) http.RoundTripper {
			return stubTransport(func(r *http.Request) (*http.Response, error) {
				httptrace.ContextClientTrace(r.Context()).GetConn(r.URL.Host)
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Name: r.URL.Host, Err: "no such host", IsNotFound: true}}
			})
		}, is: oakra.ErrUnreachable},
	} {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			t.Run(row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkShop{t: t, latency: jitter(6)}
					s.answer = row.answer
					var transport http.RoundTripper = s
					if row.transport != nil {
						transport = row.transport(s)
					}
					var attempts atomic.Int64
					counting := stubTransport(func(r *http.Request) (*http.Response, error) {
						attempts.Add(1)
						if r.Method == http.MethodGet { // the probe of a route
							return stubAnswer(404, ""), nil
						}
						return transport.RoundTrip(r)
					})
					opts := []oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: counting})}
					key := stubKey
					if row.option != nil {
						opts = append(opts, row.option())
						if row.name == "key source" {
							key = ""
						}
					}
					client, err := oakra.NewClient(key, opts...)
					require.NoError(t, err)
					start := time.Now()
					err = op.all(t.Context(), client, bulkItems(n), oakra.BulkOptions{BatchSize: size, SplitRefused: true})
					fates := bulkFates(t, op, n, err)
					require.Less(t, time.Since(start), 10*time.Second)
					require.LessOrEqual(t, attempts.Load(), int64(cmp.Or(row.most, 4)))
					require.Equal(t, row.applied, slices.Contains(fates, applied))
					for i, fate := range fates {
						require.NotEqual(t, unknown, fate, "item %d", i)
						require.Equal(t, fate == applied, s.times[int64(i+1)] == 1, "item %d", i)
					}
					if row.applied {
						require.Equal(t, unknown, oakra.OutcomeOf(err))
					} else {
						require.Equal(t, notApplied, oakra.OutcomeOf(err))
						require.Equal(t, row.retryable, oakra.Retryable(err))
					}
					var bulk *oakra.BulkError
					require.ErrorAs(t, err, &bulk)
					for _, f := range bulk.Failures {
						require.ErrorIs(t, f.Err, row.is, "item %d", f.Index)
						require.Equal(t, row.retryable, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
					}
				})
			})
		})
	}
}

// TestBulkStopsOnCertificate is a row of TestBulkStops on a real connection.
func TestBulkStopsOnCertificate(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		var connections atomic.Int64
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		}
		server.StartTLS()
		defer server.Close()
		client := stubClient(t, oakra.DefaultTransport(), oakra.WithBaseURL(server.URL+"/api/v1/"))
		defer client.CloseIdleConnections()
		err := op.all(t.Context(), client, bulkItems(100), oakra.BulkOptions{BatchSize: 1})
		require.Equal(t, strings.Repeat("n", 100), bulkFateText(bulkFates(t, op, 100, err)))
		require.ErrorIs(t, err, oakra.ErrUnreachable)
		require.False(t, oakra.Retryable(err))
		require.LessOrEqual(t, connections.Load(), int64(4))
	})
}

// TestBulkContext: once the context has ended nothing is sent, and the items left
// say so, whatever the request under way came to.
func TestBulkContext(t *testing.T) {
	t.Run("over before", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			server := bulkServer(t, 20)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := op.all(ctx, server.Client(), bulkItems(20), oakra.BulkOptions{BatchSize: 2})
			require.Equal(t, strings.Repeat("n", 20), bulkFateText(bulkFates(t, op, 20, err)))
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, oakra.Retryable(err))
			require.Empty(t, server.Requests())
		})
	})

	t.Run("between two batches", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			server := bulkServer(t, 20)
			ctx, cancel := context.WithCancel(t.Context())
			items := bulkItems(20)
			err := op.all(ctx, server.Client(), items, oakra.BulkOptions{BatchSize: 2, Concurrency: 1, OnProgress: func(p oakra.BulkProgress) {
				if p.Done() == 6 {
					cancel()
				}
			}})
			require.Equal(t, "aaaaaa"+strings.Repeat("n", 14), bulkFateText(bulkFates(t, op, 20, err)))
			requireBulkTruth(t, op, server, items, err)
			require.Len(t, server.Requests(), 3)
			requireCanceledRest(t, err, 6)
		})
	})

	t.Run("under way", func(t *testing.T) {
		eachBulkOp(t, func(t *testing.T, op bulkOp) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(2500*time.Millisecond, cancel)
				s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Second }}
				err := op.all(ctx, stubClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 2})
				fates := bulkFates(t, op, 40, err)
				require.Equal(t, 16, strings.Count(bulkFateText(fates), "a"), "two rounds of four batches")
				require.Equal(t, 8, strings.Count(bulkFateText(fates), "u"), "the third is under way")
				require.Len(t, s.arrivals, 12)
				for _, arrival := range s.arrivals {
					for _, item := range arrival.items {
						require.Equal(t, s.times[item.id] == 1, fates[item.id-1] == applied, "id %d", item.id)
						require.NotEqual(t, notApplied, fates[item.id-1], "id %d was sent", item.id)
					}
				}
				requireCanceledRest(t, err, 0)
			})
		})
	})

	// In these the context ends as the second request is answered.
	for _, row := range []struct {
		name   string
		answer func(s *bulkShop, r *http.Request, items []bulkItem) *http.Response
		want   string
	}{
		{"applied", func(s *bulkShop, r *http.Request, items []bulkItem) *http.Response { return s.apply(r, items) }, "aaaannnn"},
		{"refused with 400", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(400, `{"detail":"No."}`) }, "aannnnnn"},
		{"410", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(410, "") }, "aannnnnn"},
		{"429", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(429, "") }, "aannnnnn"},
		{"503", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(503, "") }, "aauunnnn"},
		{"501", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(501, "") }, "aauunnnn"},
		{"no record", func(*bulkShop, *http.Request, []bulkItem) *http.Response { return stubAnswer(200, "[]") }, "aauunnnn"},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := &bulkShop{t: t}
				s.answer = func(n int, r *http.Request, items []bulkItem) *http.Response {
					if n == 0 {
						return nil
					}
					cancel()
					return row.answer(s, r, items)
				}
				err := op.all(ctx, stubClient(t, s), bulkItems(8), oakra.BulkOptions{BatchSize: 2, Concurrency: 1})
				require.Equal(t, row.want, bulkFateText(bulkFates(t, op, 8, err)))
				require.Len(t, s.arrivals, 2)
				requireCanceledRest(t, err, 4)
			})
		})
	}
}

// requireCanceledRest checks the errors of the items from index from on, which a
// context's end kept from being sent or met under way.
func requireCanceledRest(t *testing.T, err error, from int) {
	t.Helper()
	require.ErrorIs(t, err, context.Canceled)
	var bulk *oakra.BulkError
	require.ErrorAs(t, err, &bulk)
	for _, f := range bulk.Failures {
		if f.Index >= from {
			require.ErrorIs(t, f.Err, context.Canceled, "item %d", f.Index)
			require.Equal(t, f.Outcome == notApplied, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
		}
	}
}

// TestBulkGoesOn: errors that say nothing of later requests do not stop a run.
func TestBulkGoesOn(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, 60)
		server.Inject(oakratest.Fault{Kind: oakratest.Refuse, Times: 3})
		server.Inject(oakratest.Fault{Kind: oakratest.ResetBefore, Times: 3})
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503, Times: 3})
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 429, Times: 3})
		items := bulkItems(60)
		err := op.all(t.Context(), server.Client(bulkOnce), items, oakra.BulkOptions{BatchSize: 3})
		count := requireBulkTruth(t, op, server, items, err)
		require.Equal(t, map[oakra.Outcome]int{applied: 8 * 3, notApplied: 6 * 3, unknown: 6 * 3}, count)
	})
}

// TestBulkRateLimited: what a 429 asks of one request it asks of the run.
func TestBulkRateLimited(t *testing.T) {
	type limit struct {
		at    int // which request
		after string
	}
	const n = 60
	for _, row := range []struct {
		name     string
		limits   []limit
		attempts int
	}{
		{"one", []limit{{9, "5"}}, 4},
		{"the first", []limit{{0, "5"}}, 4},
		{"all that are in flight", []limit{{8, "2"}, {9, "2"}, {10, "2"}, {11, "2"}}, 4},
		{"longer and longer", []limit{{8, "1"}, {9, "2"}, {10, "4"}, {11, "8"}}, 4},
		{"shorter and shorter", []limit{{8, "8"}, {9, "4"}, {10, "2"}, {11, "1"}}, 4},
		{"again by the first that goes on", []limit{{8, "1"}, {9, "1"}, {10, "1"}, {11, "1"}, {12, "5"}}, 4},
		{"never sent again", []limit{{9, "5"}, {20, "7"}}, 1},
		{"the last attempt", []limit{{0, "1"}, {1, "1"}, {2, "1"}, {3, "1"}, {4, "1"}, {5, "1"}, {6, "1"}, {7, "9"}}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					type pause struct{ from, to time.Time }
					var pauses []pause
					s := &bulkShop{t: t, latency: func(int) time.Duration { return 5 * time.Millisecond }}
					s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
						for _, l := range row.limits {
							if l.at == n {
								wait, _ := time.ParseDuration(l.after + "s")
								s.mu.Lock()
								pauses = append(pauses, pause{time.Now(), time.Now().Add(wait)})
								s.mu.Unlock()
								return stubAnswer(429, "", "Retry-After", l.after)
							}
						}
						return nil
					}
					client := stubClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: row.attempts, MinBackoff: 1, MaxBackoff: 1}))
					start := time.Now()
					err := op.all(t.Context(), client, bulkItems(n), oakra.BulkOptions{BatchSize: 1})
					fates := bulkFates(t, op, n, err)
					for i, fate := range fates {
						require.Equal(t, fate == applied, s.times[int64(i+1)] == 1, "item %d", i)
					}
					if row.attempts == 4 {
						require.NoError(t, err)
					}
					require.Len(t, pauses, len(row.limits))
					for i, a := range s.arrivals {
						for _, p := range pauses {
							// At the very instant of the 429 another may still go out.
							assert.False(t, a.at.After(p.from) && a.at.Before(p.to), "request %d went out %v after a 429 that asked to wait %v",
								i, a.at.Sub(p.from), p.to.Sub(p.from))
						}
					}
					require.Less(t, time.Since(start), time.Minute, "it gets back to speed")
				})
			})
		})
	}
}

// TestBulkRateLimitedSlows: after a 429 that asks for no wait the requests come
// one by one, and after some successes as before.
func TestBulkRateLimitedSlows(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
			s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
				if 8 <= n && n < 12 {
					return stubAnswer(429, "")
				}
				return nil
			}
			start := time.Now()
			err := op.all(t.Context(), stubClient(t, s, bulkPolicy), bulkItems(400), oakra.BulkOptions{BatchSize: 1})
			require.NoError(t, err)
			at := func(n int) time.Time { return s.arrivals[n].at }
			require.Equal(t, at(8), at(11), "before: four at once")
			for n := 12; n < 15; n++ {
				require.GreaterOrEqual(t, at(n+1).Sub(at(n)), 10*time.Millisecond, "after: one by one, request %d", n)
			}
			last := len(s.arrivals) - 1
			require.LessOrEqual(t, at(last).Sub(at(last-3)), time.Millisecond, "at the end: four at once")
			require.Less(t, time.Since(start), 5*time.Second)
		})
	})
}

// TestBulkRateLimitedForTooLong: a run that is stopped by a 429 ends at once, also
// where other requests of it are about to be sent again.
func TestBulkRateLimitedForTooLong(t *testing.T) {
	for _, row := range []struct {
		name  string
		other func() *http.Response // to the other request
	}{
		{"429", func() *http.Response { return stubAnswer(429, "", "Retry-After", "1") }},
		{"503", func() *http.Response { return stubAnswer(503, "") }},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				synctest.Test(t, func(t *testing.T) {
					s := &bulkShop{t: t, latency: func(n int) time.Duration { return time.Duration(10-n) * time.Millisecond }}
					s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
						switch n {
						case 0:
							return stubAnswer(429, "", "Retry-After", "86400")
						case 1:
							return row.other()
						}
						return nil
					}
					start := time.Now()
					err := op.all(t.Context(), stubClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 2})
					require.ErrorIs(t, err, oakra.ErrRateLimited)
					for i, fate := range bulkFates(t, op, 20, err) {
						if fate != unknown {
							require.Equal(t, fate == applied, s.times[int64(i+1)] == 1, "item %d", i)
						}
					}
					require.Less(t, time.Since(start), 5*time.Second, "the run ends at once")
				})
			})
		})
	}
}

// TestBulkRateLimitedSteadily: a server that admits one request a second, and says
// so, is no reason to give up any item, however often each was answered 429.
func TestBulkRateLimitedSteadily(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for _, attempts := range []int{1, 2, 4} {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var admitted time.Time
				s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
				s.answer = func(int, *http.Request, []bulkItem) *http.Response {
					mu.Lock()
					defer mu.Unlock()
					if time.Since(admitted) < time.Second {
						return stubAnswer(429, "", "Retry-After", "1")
					}
					admitted = time.Now()
					return nil
				}
				const n = 100
				start := time.Now()
				err := op.all(t.Context(), stubClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: attempts})), bulkItems(n), oakra.BulkOptions{BatchSize: 1})
				if attempts == 1 {
					require.ErrorIs(t, err, oakra.ErrRateLimited, "1 never sends again")
					require.Len(t, s.arrivals, n)
					return
				}
				require.NoError(t, err)
				require.Len(t, s.times, n)
				require.Less(t, time.Since(start), 2*n*time.Second)
			})
		}
	})
}

// TestBulkRateLimitedAlone: one batch that is never admitted does not hold the run
// for as long as the others succeed.
func TestBulkRateLimitedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, alone, attempts = 3000, 7, 3
		s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
		tries := 0
		s.answer = func(_ int, _ *http.Request, items []bulkItem) *http.Response {
			if items[0].id == alone {
				tries++
				return stubAnswer(429, "", "Retry-After", "1")
			}
			return nil
		}
		err := bulkChange.all(t.Context(), stubClient(t, s, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: attempts})), bulkItems(n), oakra.BulkOptions{BatchSize: 1})
		var bulk *oakra.BulkError
		require.ErrorAs(t, err, &bulk)
		require.Equal(t, []int{alone - 1}, bulk.NotApplied())
		require.Equal(t, n-1, bulk.Applied)
		require.LessOrEqual(t, tries, 10*attempts+attempts)
	})
}

// TestBulkRateLimitedForEver: when nothing succeeds any more, the attempts count.
func TestBulkRateLimitedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkShop{t: t, latency: func(int) time.Duration { return 20 * time.Millisecond }}
		s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < 5 {
				return nil
			}
			return stubAnswer(429, "", "Retry-After", "1")
		}
		start := time.Now()
		err := bulkChange.all(t.Context(), stubClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1})
		require.ErrorIs(t, err, oakra.ErrRateLimited)
		require.Len(t, s.times, 5)
		require.Less(t, time.Since(start), 3*time.Minute)
	})
}

// TestBulkRateLimitedDeadline: a wait that outlasts the context is not begun.
func TestBulkRateLimitedDeadline(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		synctest.Test(t, func(t *testing.T) {
			s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
			s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
				if n >= 10 {
					return stubAnswer(429, "", "Retry-After", "20")
				}
				return nil
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			start := time.Now()
			err := op.all(ctx, stubClient(t, s), bulkItems(100), oakra.BulkOptions{BatchSize: 1})
			fates := bulkFates(t, op, 100, err)
			require.NotContains(t, fates, unknown)
			for i, fate := range fates {
				require.Equal(t, fate == applied, s.times[int64(i+1)] == 1, "item %d", i)
			}
			require.Less(t, time.Since(start), time.Second)
			require.LessOrEqual(t, len(s.arrivals), 10+4)
			var bulk *oakra.BulkError
			require.ErrorAs(t, err, &bulk)
			require.Equal(t, 10, bulk.Applied)
			for _, f := range bulk.Failures {
				require.True(t, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
			}
		})
	})
}

// TestBulkProgress: it counts the caller's items, only upwards, one call at a
// time, and ends at the fates of the run.
func TestBulkProgress(t *testing.T) {
	const n = 300
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for name, faults := range map[string][]oakratest.Fault{
			"none": nil,
			"some": {
				{Kind: oakratest.Refuse, Probability: 0.2, Seed: 1},
				{Kind: oakratest.ResetAfter, Probability: 0.1, Seed: 2},
				{Kind: oakratest.OmitRecord, Probability: 0.2, Seed: 3},
			},
			"stopped": {{Kind: oakratest.Slow, Times: 20}, {Kind: oakratest.Respond, Status: 401}},
		} {
			t.Run(name, func(t *testing.T) {
				server := bulkServer(t, n)
				for _, f := range faults {
					server.Inject(f)
				}
				items := bulkItems(n)
				for i := range n {
					items = append(items, bulkItem{int64(i*i%n + 1), 1})
				}
				items[7].id = 5000             // and its batch is split
				var calls []oakra.BulkProgress // no lock: the calls are one at a time
				var inside atomic.Int32
				err := op.all(t.Context(), server.Client(bulkOnce), items, oakra.BulkOptions{
					BatchSize: 5, Concurrency: 8, SplitRefused: true,
					OnProgress: func(p oakra.BulkProgress) {
						assert.EqualValues(t, 1, inside.Add(1), "two calls at once")
						runtime.Gosched()
						calls = append(calls, p)
						inside.Add(-1)
					},
				})
				count := requireBulkTruth(t, op, server, items, err)
				var last oakra.BulkProgress
				for i, p := range calls {
					require.Equal(t, len(items), p.Total)
					require.Equal(t, p.Applied+p.NotApplied+p.Unknown, p.Done())
					require.Greater(t, p.Done(), last.Done(), "call %d", i)
					require.True(t, p.Applied >= last.Applied && p.NotApplied >= last.NotApplied && p.Unknown >= last.Unknown, "call %d: %v after %v", i, p, last)
					last = p
				}
				require.Equal(t, oakra.BulkProgress{Total: len(items), Applied: count[applied], NotApplied: count[notApplied], Unknown: count[unknown]}, last)
				require.Equal(t, len(items), last.Done())
			})
		}
	})
}

// TestBulkProgressIsWaitedFor: the last call is over when the run is.
func TestBulkProgressIsWaitedFor(t *testing.T) {
	calls := 0
	err := bulkChange.all(t.Context(), stubClient(t, &bulkShop{t: t}), bulkItems(9), oakra.BulkOptions{BatchSize: 1, OnProgress: func(oakra.BulkProgress) {
		time.Sleep(time.Millisecond)
		calls++
	}})
	require.NoError(t, err)
	require.Equal(t, 9, calls)
}

// TestBulkProgressPanics: a panic of OnProgress is the caller's to recover. By
// then the requests in flight have ended, and no others were made.
func TestBulkProgressPanics(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		before := runtime.NumGoroutine()
		s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
		calls := 0
		require.PanicsWithValue(t, "out of paper", func() {
			_ = op.all(t.Context(), stubClient(t, s), bulkItems(100), oakra.BulkOptions{BatchSize: 1, OnProgress: func(oakra.BulkProgress) {
				if calls++; calls == 10 {
					panic("out of paper")
				}
			}})
		})
		require.Zero(t, s.inFlight)
		require.Equal(t, 10, calls)
		require.LessOrEqual(t, len(s.arrivals), 10+4)
		requireNoMoreGoroutines(t, before)
	})
}

// TestBulkGoexit: a transport whose test fails ends its goroutine. Each item has a
// fate and an error all the same.
func TestBulkGoexit(t *testing.T) {
	s := &bulkShop{t: t}
	s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
		if n >= 3 {
			runtime.Goexit()
		}
		return nil
	}
	err := bulkChange.all(t.Context(), stubClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 2})
	require.Len(t, s.times, 3)
	for i, fate := range bulkFates(t, bulkChange, 20, err) {
		require.Equal(t, s.times[int64(i+1)] == 1, fate == applied, "item %d", i)
		require.NotEqual(t, notApplied, fate, "item %d", i)
	}
	require.NotErrorIs(t, err, oakra.ErrServer)
	require.ErrorContains(t, err, "Goexit")
}

// TestBulkLeavesTheClientAlone: a run slowed by a 429 does not slow other calls
// of the client, nor the next run.
func TestBulkLeavesTheClientAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bulkShop{t: t, latency: func(int) time.Duration { return time.Millisecond }}
		s.answer = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n < 4 {
				return stubAnswer(429, "", "Retry-After", "20")
			}
			return nil
		}
		client := stubClient(t, s)
		var run sync.WaitGroup
		defer run.Wait()
		run.Go(func() {
			assert.NoError(t, bulkChange.all(t.Context(), client, bulkItems(50), oakra.BulkOptions{BatchSize: 1}))
		})
		time.Sleep(time.Second)
		start := time.Now()
		_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 99, QuantityChange: 1}})
		require.NoError(t, err)
		require.NoError(t, bulkChange.all(t.Context(), client, []bulkItem{{100, 1}, {101, 1}}, oakra.BulkOptions{}))
		require.Equal(t, 2*time.Millisecond, time.Since(start))
	})
}

// TestBulkErrorOfTheCaller: a BulkError that a test of a program makes.
func TestBulkErrorOfTheCaller(t *testing.T) {
	limited := &oakra.Error{StatusCode: 429, Outcome: notApplied}
	dark := &oakra.Error{StatusCode: 502}
	for _, row := range []struct {
		name      string
		err       oakra.BulkError
		outcome   oakra.Outcome
		retryable bool
		causes    []error
	}{
		{"nothing", oakra.BulkError{}, unknown, false, nil},
		{"all applied", oakra.BulkError{Applied: 2}, applied, false, nil},
		{"none applied", oakra.BulkError{Failures: []oakra.BulkFailure{{0, notApplied, limited}, {1, notApplied, limited}}}, notApplied, true, []error{limited}},
		{"some applied", oakra.BulkError{Applied: 1, Failures: []oakra.BulkFailure{{1, notApplied, limited}}}, unknown, false, []error{limited}},
		{"all unknown", oakra.BulkError{Failures: []oakra.BulkFailure{{0, unknown, dark}}}, unknown, false, []error{dark}},
		{"mixed", oakra.BulkError{Failures: []oakra.BulkFailure{{0, notApplied, limited}, {1, unknown, dark}, {2, notApplied, limited}}}, unknown, false, []error{limited, dark}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, err := range []error{&row.err, fmt.Errorf("the nightly sync: %w", &row.err)} {
				require.Equal(t, row.outcome, oakra.OutcomeOf(err))
				require.Equal(t, row.retryable, oakra.Retryable(err))
				require.NotEmpty(t, err.Error())
			}
			require.Equal(t, row.causes, row.err.Unwrap())
			for _, cause := range row.causes {
				require.ErrorIs(t, &row.err, cause)
			}
		})
	}
}

// TestBulkStorm sends many items with repeated ids and some bad ones through
// faults of every kind, and compares each fate with the server's ledger.
func TestBulkStorm(t *testing.T) {
	const ids, n = 1500, 5000
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3))
				server := bulkServer(t, ids)
				server.SetDialect(oakratest.Dialect{UnknownIDNotFound: seed%2 == 1, Chunked: seed%2 == 0})
				before := runtime.NumGoroutine()
				for i, f := range []oakratest.Fault{
					{Kind: oakratest.Refuse, Probability: 0.08},
					{Kind: oakratest.ResetBefore, Probability: 0.04},
					{Kind: oakratest.ResetAfter, Probability: 0.04},
					{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>", Probability: 0.04},
					{Kind: oakratest.Respond, Status: 503, Probability: 0.02},
					{Kind: oakratest.Respond, Status: 429, Probability: 0.02, Header: http.Header{"Retry-After": {"0"}}},
					{Kind: oakratest.Respond, Status: 409, Body: `{"detail":"Locked."}`, Probability: 0.02},
					{Kind: oakratest.CutBody, Probability: 0.05},
					{Kind: oakratest.OmitRecord, Probability: 0.05},
				} {
					f.Op, f.Seed = op.name, seed*100+uint64(i)
					server.Inject(f)
				}
				items := make([]bulkItem, n)
				for i := range items {
					items[i] = bulkItem{1 + random.Int64N(ids), random.Int64N(21) - 10}
					if random.IntN(100) == 0 {
						items[i].id += ids // unknown to the server
					}
				}
				client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: 1, MaxBackoff: 1}))
				err := op.all(t.Context(), client, items, oakra.BulkOptions{BatchSize: 10, SplitRefused: seed != 0})
				count := requireBulkTruth(t, op, server, items, err)
				t.Logf("%v", count)
				for _, o := range []oakra.Outcome{applied, notApplied, unknown} {
					require.Positive(t, count[o], "the storm was too mild: no %v", o)
				}
				requireBulkReasons(t, op, server, items, err)

				client.CloseIdleConnections()
				server.Close()
				requireNoMoreGoroutines(t, before)
			})
		}
	})
}

// requireBulkReasons checks that no fate is vaguer than it must be: what is
// unknown was in a request whose answer was lost, and what is not applied was
// refused, or never arrived.
func requireBulkReasons(t *testing.T, op bulkOp, server *oakratest.Server, items []bulkItem, err error) {
	t.Helper()
	lost, refused, last := make(map[int64]bool), make(map[int64]bool), make(map[int64]oakratest.Request)
	for _, w := range bulkWrites(server, op) {
		sent := bulkBody(t, w.Body)
		for i, item := range sent {
			last[item.id] = w
			switch w.Fault {
			case oakratest.ResetBefore, oakratest.ResetAfter, oakratest.RespondAfter:
				lost[item.id] = true
			case oakratest.OmitRecord:
				lost[item.id] = lost[item.id] || w.Applied != nil && i == len(sent)-1
			case oakratest.Respond:
				lost[item.id] = lost[item.id] || w.Status == 503
			}
			refused[item.id] = refused[item.id] || w.Status/100 == 4
		}
	}
	require.NotEmpty(t, slices.Collect(maps.Keys(last)))
	for i, fate := range bulkFates(t, op, len(items), err) {
		id := items[i].id
		switch fate {
		case unknown:
			require.True(t, lost[id], "item %d, id %d is said to be unknown, but no answer to it was lost", i, id)
		case notApplied:
			_, arrived := last[id]
			require.True(t, !arrived || refused[id], "item %d, id %d is said not to be applied, but nothing refused it", i, id)
		case applied:
			status := last[id].Status
			require.True(t, status == 200, "item %d, id %d is said to be applied, after an answer of %d", i, id, status)
		}
	}
}
