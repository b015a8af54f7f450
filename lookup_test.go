package oakra_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
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

// shelf is a server of lists in the transport. It knows every SKU.
type shelf struct {
	latency func(n int) time.Duration
	respond func(n int, skus []string) *http.Response // nil for a record for each SKU

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
	if s.respond != nil {
		if a := s.respond(n, skus); a != nil {
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

// shelfRecord returns the record of a SKU of longSKUs.
func shelfRecord(sku string) oakra.StockRecord {
	var i int64
	if _, err := fmt.Sscanf(sku, "%d-", &i); err != nil {
		panic(err)
	}
	return oakra.StockRecord{ID: i + 1, SKU: sku, LocationID: "w", Quantity: i}
}

// longSKUs are n SKUs of which perRequest fit into a request line.
const perRequest = 10

// longSKUs returns n SKUs, of which perRequest fit into a request line.
func longSKUs(n int) []string {
	skus := make([]string, n)
	for i := range skus {
		skus[i] = fmt.Sprintf("%05d-%s", i, strings.Repeat("x", 374))
	}
	return skus
}

// TestListSeq checks that all records come once, in the order of the SKUs even
// if the responses come in another, with at most four requests in flight, and
// again when the sequence is ranged over again.
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
				twice := append(slices.Clone(skus), skus...) // each SKU is requested once all the same
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

// TestListSeqLikeList compares ListSeq with List on the fake server. Some SKUs
// are at several locations, and some are not known.
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

// TestListSeqBounded checks that only a few responses wait for a slow consumer.
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

// TestListSeqBreak checks that after a break nothing is in flight and nothing
// is sent.
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
				server.SetLatency(time.Minute, 0) // for the requests in flight
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

// TestListSeqError checks that the records before the error are yielded, that
// the error comes last and without a record, and that nothing is left running.
func TestListSeqError(t *testing.T) {
	for _, failing := range []int{0, 1, 3, 4, 17, 29} {
		t.Run(fmt.Sprint(failing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				skus := longSKUs(300)
				s := &shelf{
					latency: jitter(3),
					respond: func(_ int, asked []string) *http.Response {
						if asked[0] == skus[failing*perRequest] {
							return stubResponse(400, `{"detail":"No."}`)
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
						return true // nothing more comes
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

	for _, row := range []struct {
		name string
		end  error
	}{{"canceled", context.Canceled}, {"deadline", context.DeadlineExceeded}} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &shelf{latency: func(int) time.Duration { return time.Second }}
				ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
				defer cancel()
				if row.end == context.Canceled {
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
				require.ErrorIs(t, failure, row.end)
				require.GreaterOrEqual(t, records, 10*perRequest)
				require.Equal(t, 10500*time.Millisecond, time.Since(start))
				_, inFlight, _ := s.now()
				require.Zero(t, inFlight)
			})
		})
	}
}

func TestListSeqInvalid(t *testing.T) {
	for _, row := range []struct {
		name   string
		params oakra.StockListParams
	}{
		{"no SKUs", oakra.StockListParams{}},
		{"a blank SKU", oakra.StockListParams{SKUs: []string{"a", " "}}},
		{"a long SKU", oakra.StockListParams{SKUs: []string{"a", strings.Repeat("x", 5000)}}},
		{"a long location", oakra.StockListParams{SKUs: []string{"a"}, LocationID: strings.Repeat("x", 5000)}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &shelf{}
			var errs []error
			for record, err := range stubClient(t, s).Stock.ListSeq(t.Context(), row.params) {
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

// lookupRecords are two SKUs at two locations, and one SKU at one.
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
		want     []int64 // expected ids
		location string  // location_id of the request
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
			if row.name == "another case" { // whose SKUs are those of all records
				require.NoError(t, err)
				require.Equal(t, want, got)
				return
			}
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, "requested")
			require.Nil(t, got)
		})
	}
}

// TestLookupMany has more keys than fit into a request, and a server that
// responds to each request with all its records.
func TestLookupMany(t *testing.T) {
	var all []oakra.StockRecord
	var keys []oakra.StockKey
	for _, sku := range longSKUs(100) {
		record := shelfRecord(sku)
		all = append(all, record)
		keys = append(keys, record.Key())
	}
	for _, row := range []struct {
		name    string
		respond func(int, []string) *http.Response
		err     error
	}{
		{"as asked", nil, nil},
		{"filters ignored", func(int, []string) *http.Response { return stubRecords(all) }, oakra.ErrBadResponse},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &shelf{respond: row.respond}
			found, err := stubClient(t, s).Stock.Lookup(t.Context(), keys)
			if row.err != nil {
				require.ErrorIs(t, err, row.err)
				return
			}
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
		response *http.Response // nil if nothing must be sent
		is       error
		contains []string
	}{
		{"blank SKU", []oakra.StockKey{{"a", "w1"}, {" ", "w1"}}, nil, oakra.ErrInvalidRequest, []string{"1"}},
		{"no location", []oakra.StockKey{{"a", "w1"}, {"b", ""}}, nil, oakra.ErrInvalidRequest, []string{"keys[1]", "b"}},
		{"no first location", []oakra.StockKey{{"a", ""}, {"b", "w1"}}, nil, oakra.ErrInvalidRequest, []string{"keys[0]", "a"}},
		{"two records", []oakra.StockKey{{"b", "w1"}, {"a", "w1"}}, stubRecords(twins), oakra.ErrBadResponse, []string{`"a"`, `"w1"`, "77"}},
		{"refused", []oakra.StockKey{{"a", "w1"}}, stubResponse(403, ""), oakra.ErrForbidden, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			requests := 0
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
				requests++
				return row.response, nil
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
			require.Equal(t, row.response != nil, requests == 1)
		})
	}

	t.Run("two records at a location that nobody asked for", func(t *testing.T) {
		client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
			return stubRecords(append(slices.Clone(twins), lookupRecords[2])), nil
		}))
		found, err := client.Stock.Lookup(t.Context(), []oakra.StockKey{{"b", "w1"}, {"a", "w2"}})
		require.NoError(t, err)
		require.Len(t, found, 1)
	})

	// The second of the twins comes with another request, and the run ends there.
	t.Run("two records in two requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			keys := make([]oakra.StockKey, 0, 1000)
			for _, sku := range longSKUs(1000) {
				keys = append(keys, oakra.StockKey{SKU: sku, LocationID: "w"})
			}
			s := &shelf{latency: jitter(4)}
			s.respond = func(_ int, skus []string) *http.Response {
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
