package oakra_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// The bulk tests compare the outcomes that a call reports with what the server
// did: with the ledger of oakratest, or with that of a bulkShop where time
// matters.

// bulkStart is the quantity of every record before a run.
const bulkStart = 1000

// bulkItem is an update or a change.
type bulkItem struct{ id, n int64 }

type bulkOp struct {
	name string
	all  func(context.Context, *oakra.Client, []bulkItem, oakra.BulkOptions) error
	// merged returns what is sent for two items of one record.
	merged func(earlier, later int64) int64
	// after returns the new quantity of a record whose quantity was q.
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

// bulkClient returns a client of a transport in memory that knows the routes.
func bulkClient(t testing.TB, transport http.RoundTripper, opts ...oakra.Option) *oakra.Client {
	return oakra.KeepRoutes(stubClient(t, transport, opts...))
}

// serverClient returns a client of a server that knows the routes.
func serverClient(server *oakratest.Server, opts ...oakra.Option) *oakra.Client {
	return oakra.KeepRoutes(server.Client(opts...))
}

func eachBulkOp(t *testing.T, test func(t *testing.T, op bulkOp)) {
	for _, op := range []bulkOp{bulkUpdate, bulkChange} {
		t.Run(op.name, func(t *testing.T) { test(t, op) })
	}
}

// bulkItems returns one item for each of the ids 1 to n.
func bulkItems(n int) []bulkItem {
	items := make([]bulkItem, n)
	for i := range items {
		items[i] = bulkItem{int64(i + 1), int64(i%7 + 1)}
	}
	return items
}

// bulkServer returns a server with the records 1 to n.
func bulkServer(t testing.TB, n int) *oakratest.Server {
	records := make([]oakra.StockRecord, n)
	for i := range records {
		records[i] = oakra.StockRecord{ID: int64(i + 1), SKU: fmt.Sprint("sku-", i+1), LocationID: "w", Quantity: bulkStart}
	}
	server := oakratest.NewServer(records...)
	t.Cleanup(server.Close)
	return server
}

// bulkPolicy resends at once, and bulkOnce never resends.
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

// bulkWrites returns the writes of op that arrived, without the empty lists that ask
// whether a route is there.
func bulkWrites(server *oakratest.Server, op bulkOp) []oakratest.Request {
	return slices.DeleteFunc(server.Requests(), func(r oakratest.Request) bool {
		return r.Op != op.name || string(r.Body) == emptyBulk
	})
}

const emptyBulk = `{"stock_records":[]}`

// bulkSizes returns how many items each of the writes has.
func bulkSizes(t testing.TB, writes []oakratest.Request) []int {
	sizes := make([]int, len(writes))
	for i, w := range writes {
		sizes[i] = len(bulkBody(t, w.Body))
	}
	return sizes
}

// bulkOutcomes checks that the error of a run is consistent, and returns the
// outcome of each of the n items.
func bulkOutcomes(t testing.TB, op bulkOp, n int, err error) []oakra.Outcome {
	t.Helper()
	outcomes := make([]oakra.Outcome, n)
	for i := range outcomes {
		outcomes[i] = applied
	}
	if err == nil {
		return outcomes
	}
	var bulk *oakra.BulkError
	require.ErrorAs(t, err, &bulk)
	require.Equal(t, op.name, bulk.Op)
	require.NotEmpty(t, bulk.Failures, "an error without a failure")
	require.Equal(t, n, bulk.Applied+len(bulk.Failures), "items with an outcome")

	var none, perhaps []int
	retryable := bulk.Applied == 0
	causes := make(map[error]bool)
	last := -1
	for _, f := range bulk.Failures {
		if f.Index <= last || f.Index >= n {
			require.Fail(t, "indexes are in order, each once", "%d after %d", f.Index, last)
		}
		last = f.Index
		switch f.Outcome {
		case notApplied:
			none = append(none, f.Index)
		case unknown:
			perhaps = append(perhaps, f.Index)
		default:
			require.Fail(t, "a failure that was applied", "item %d: %v", f.Index, f.Err)
		}
		outcomes[f.Index] = f.Outcome
		if causes[f.Err] {
			continue // checked before
		}
		causes[f.Err] = true
		e := requireError(t, f.Err)
		require.Equal(t, op.name, e.Op)
		require.Equal(t, f.Outcome, oakra.OutcomeOf(f.Err), "item %d: %v", f.Index, f.Err)
		if f.Outcome == unknown {
			require.False(t, oakra.Retryable(f.Err), "item %d: %v", f.Index, f.Err)
		}
		retryable = retryable && oakra.Retryable(f.Err)
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
	return outcomes
}

// bulkMerged returns what should be sent for the items, by id.
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

// requireBulkTruth compares the outcomes of the items with the ledger of the
// server, and the ledger with the records. It returns how many items have which
// outcome.
func requireBulkTruth(t testing.TB, op bulkOp, server *oakratest.Server, items []bulkItem, err error) map[oakra.Outcome]int {
	t.Helper()
	outcomes := bulkOutcomes(t, op, len(items), err)
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
		outcome, n := outcomes[i], times[item.id]
		count[outcome]++
		switch outcome {
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

// requireShopTruth compares the outcomes of the items, each of a record of its own,
// with what a bulkShop did.
func requireShopTruth(t testing.TB, op bulkOp, s *bulkShop, items []bulkItem, err error) map[oakra.Outcome]int {
	t.Helper()
	count := make(map[oakra.Outcome]int)
	for i, outcome := range bulkOutcomes(t, op, len(items), err) {
		count[outcome]++
		id := items[i].id
		switch times := s.times[id]; {
		case outcome == applied && times == 0:
			require.Fail(t, "an item is said to be applied", "item %d", i)
		case outcome == applied && s.quantities[id] != op.after(bulkStart, items[i].n):
			require.Fail(t, "a wrong quantity", "item %d: %d", i, s.quantities[id])
		case outcome == notApplied && times > 0:
			require.Fail(t, "an item is said not to be applied", "item %d", i)
		case op.name == bulkChange.name && times > 1:
			require.Fail(t, "an item was applied more than once", "item %d", i)
		}
	}
	return count
}

// requireFailures calls check with each failure of a bulk run.
func requireFailures(t testing.TB, err error, check func(f oakra.BulkFailure)) {
	t.Helper()
	var bulk *oakra.BulkError
	require.ErrorAs(t, err, &bulk)
	for _, f := range bulk.Failures {
		check(f)
	}
}

// bulkOutcomeText returns a letter for each outcome.
func bulkOutcomeText(outcomes []oakra.Outcome) string {
	var b strings.Builder
	for _, outcome := range outcomes {
		b.WriteByte(map[oakra.Outcome]byte{applied: 'a', notApplied: 'n', unknown: 'u'}[outcome])
	}
	return b.String()
}

// bulkShop is a server in the transport, for tests in a synctest bubble.
type bulkShop struct {
	t testing.TB
	// latency returns how long the n-th request takes, counted from 0; nil is no time.
	latency func(n int) time.Duration
	// respond returns the response to the n-th write; nil applies it.
	respond func(n int, r *http.Request, items []bulkItem) *http.Response
	// probe responds to the n-th probe of a hold, counted from 0; nil responds with an
	// empty list.
	probe func(n int, r *http.Request) (*http.Response, error)

	mu             sync.Mutex
	arrivals       []bulkArrival // writes that arrived
	probes         []time.Time
	inFlight, peak int
	times          map[int64]int // how often each id was applied
	quantities     map[int64]int64
}

type bulkArrival struct {
	at    time.Time
	items []bulkItem
}

func (s *bulkShop) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet {
		if r.URL.RawQuery != "sku=oakra-go-probe" {
			s.t.Errorf("a GET of %v", r.URL)
		}
		s.mu.Lock()
		n := len(s.probes)
		s.probes = append(s.probes, time.Now())
		s.mu.Unlock()
		if s.probe != nil {
			return s.probe(n, r)
		}
		return stubResponse(200, "[]"), nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if string(body) == emptyBulk { // after a 404: is the route there?
		return stubResponse(400, `{"stock_records":["This list may not be empty."]}`), nil
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
	if s.respond != nil {
		if a := s.respond(n, r, items); a != nil {
			return a, nil
		}
	}
	return s.apply(r, items), nil
}

// apply applies the items and returns a response with their records.
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

func TestBulkSizes(t *testing.T) {
	for _, row := range []struct {
		items, size int
		want        []int // expected sizes, the largest first
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
					err = op.all(context.Background(), serverClient(server), items, oakra.BulkOptions{BatchSize: row.size})
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
					err := op.all(t.Context(), bulkClient(t, s), bulkItems(row.batches*3), oakra.BulkOptions{BatchSize: 3, Concurrency: row.concurrency})
					require.NoError(t, err)
					require.Len(t, s.arrivals, row.batches)
					require.Equal(t, row.peak, s.peak, "in flight at once")
					require.Zero(t, s.inFlight)
				})
			})
		})
	}
}

// TestBulkMerge checks that the items of one record become one item of the
// request, wherever they are in the slice.
func TestBulkMerge(t *testing.T) {
	for _, row := range []struct {
		name  string
		op    bulkOp
		items []bulkItem
		want  []bulkItem // in the order of the first item of each record
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
				err := row.op.all(t.Context(), bulkClient(t, s), given, oakra.BulkOptions{BatchSize: size, Concurrency: 1})
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

// TestBulkInvalid checks that nothing is sent if one item is invalid.
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
		bad     int // number of items at fault; the others may be sent again
	}{
		{"first id", both, changed(1200, 0, bulkItem{0, 1}), oakra.BulkOptions{}, "item 0:", 1},
		{"middle id", both, changed(1200, 601, bulkItem{-1, 1}), oakra.BulkOptions{}, "item 601:", 1},
		{"last id", both, changed(1200, 1199, bulkItem{math.MinInt64, 1}), oakra.BulkOptions{}, "item 1199:", 1},
		{"BatchSize", both, bulkItems(3), oakra.BulkOptions{BatchSize: -1}, "BatchSize", 0},
		{"Concurrency", both, bulkItems(3), oakra.BulkOptions{Concurrency: -1}, "Concurrency", 0},
		{"over the most", []bulkOp{bulkChange}, []bulkItem{{2, 1}, {1, math.MaxInt64}, {1, 1}}, oakra.BulkOptions{}, "id 1", 2},
		{"under the least", []bulkOp{bulkChange}, []bulkItem{{2, 1}, {1, math.MinInt64}, {2, 1}, {1, -1}}, oakra.BulkOptions{}, "id 1", 2},
		{"twice the most", []bulkOp{bulkChange}, []bulkItem{{1, math.MaxInt64}, {1, math.MaxInt64}}, oakra.BulkOptions{}, "id 1", 2},
		{"twice the least", []bulkOp{bulkChange}, []bulkItem{{1, math.MinInt64}, {1, math.MinInt64}}, oakra.BulkOptions{}, "id 1", 2},
	} {
		for _, op := range row.ops {
			t.Run(row.name+" "+op.name, func(t *testing.T) {
				server := bulkServer(t, 1)
				err := op.all(t.Context(), serverClient(server), row.items, row.options)
				require.ErrorIs(t, err, oakra.ErrInvalidRequest)
				require.Contains(t, err.Error(), row.text)
				require.Equal(t, strings.Repeat("n", len(row.items)), bulkOutcomeText(bulkOutcomes(t, op, len(row.items), err)))
				require.False(t, oakra.Retryable(err))
				require.Empty(t, server.Requests())
				bad := 0
				requireFailures(t, err, func(f oakra.BulkFailure) {
					switch oakra.NextStep(f.Err) {
					case oakra.StepReject:
						bad++
					case oakra.StepRetry:
						require.ErrorContains(t, f.Err, "not sent: another item is invalid: item")
					default:
						require.Zero(t, row.bad, "options are no fault of an item: %v", f.Err)
					}
				})
				require.Equal(t, row.bad, bad, "items at fault")
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
			require.NoError(t, op.all(ctx, serverClient(server), items, oakra.BulkOptions{}))
		}
		require.Empty(t, server.Requests())
	})
}

// TestBulkOrder sends many items of few records in small batches, many at a
// time and some of them again. The last update of each record must win.
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
			client := serverClient(server, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 20, MinBackoff: 1, MaxBackoff: 1}))
			err := op.all(t.Context(), client, items, oakra.BulkOptions{BatchSize: 2, Concurrency: 16})
			require.NoError(t, err)
			requireBulkTruth(t, op, server, items, err)
		}
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
