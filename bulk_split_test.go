package oakra_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestBulkSplit has one bad item in each place of the second of three batches.
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

// TestBulkSplitSeveral has some bad items at random, in batches that also have
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

// TestBulkAllBad checks that a run sends fewer than two requests for each item
// if every item is refused.
func TestBulkAllBad(t *testing.T) {
	const batches, size = 20, 64
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, 1)
		items := bulkItems(batches * size)
		for i := range items {
			items[i].id += 10_000
		}
		err := op.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{BatchSize: size, SplitRefused: true})
		require.Equal(t, strings.Repeat("n", len(items)), bulkOutcomeText(bulkOutcomes(t, op, len(items), err)))
		require.ErrorIs(t, err, oakra.ErrInvalidRequest)
		require.Len(t, server.Requests(), batches*(2*size-1))
		requireBulkTruth(t, op, server, items, err)
	})
}

// TestBulkNotFoundPage checks that a 404 with an HTML page blames no item, and
// that no batch is split for it.
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
		require.Equal(t, strings.Repeat("n", n), bulkOutcomeText(bulkOutcomes(t, op, n, err)))
		require.Len(t, server.Requests(), 1+n/size)
	})
}

// TestBulkBadBatchFirst checks that a batch of only bad items does not change
// how the next batch is searched for its single bad item.
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

// TestBulkHalfApplied has a server that refuses a batch after it applied half
// of it. The reported outcome is wrong and cannot be right, but without
// SplitRefused no change is applied twice.
func TestBulkHalfApplied(t *testing.T) {
	for _, status := range []int{400, 404, 409, 413, 422} {
		s := &bulkShop{t: t}
		s.respond = func(n int, r *http.Request, items []bulkItem) *http.Response {
			if n%2 == 0 {
				return nil
			}
			s.apply(r, items[:len(items)/2])
			return stubResponse(status, `{"detail":"One of them is bad."}`)
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
