package oakra_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// bulkRejection says how a bulkShop rejects a request that has a bad item.
type bulkRejection struct {
	name   string
	status int
	named  bool // whether the response names the item
	page   bool // whether the response is a page
}

var bulkRejections = []bulkRejection{
	{"400 with names", 400, true, false},
	{"422 with names", 422, true, false},
	{"400", 400, false, false},
	{"404", 404, false, false},
	{"409", 409, false, false},
	{"422", 422, false, false},
	{"413", 413, false, false},
	{"413, a page", 413, false, true},
}

// respond rejects a request as a whole if one of its items is bad.
func (r bulkRejection) respond(bad func(bulkItem) bool) func(int, *http.Request, []bulkItem) *http.Response {
	return func(_ int, _ *http.Request, items []bulkItem) *http.Response {
		if !slices.ContainsFunc(items, bad) {
			return nil
		}
		switch {
		case r.page:
			return stubResponse(r.status, "<html><title>No.</title>")
		case !r.named:
			return stubResponse(r.status, `{"detail":"No."}`)
		}
		problems := make([]map[string][]string, len(items))
		for i, item := range items {
			problems[i] = map[string][]string{}
			if bad(item) {
				problems[i]["id"] = []string{fmt.Sprintf("No %d here.", item.id)}
			}
		}
		body, err := json.Marshal(map[string]any{"stock_records": problems})
		if err != nil {
			panic(err)
		}
		return stubResponse(r.status, string(body))
	}
}

// bulkBad is the least id that the test servers reject.
const bulkBad = 10_000

func isBad(item bulkItem) bool { return item.id >= bulkBad }

// TestBulkSplit has one bad item in each place of the second of three batches.
func TestBulkSplit(t *testing.T) {
	const n, size = 24, 8
	for _, rejection := range bulkRejections {
		t.Run(rejection.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				for bad := range size {
					s := &bulkShop{t: t, respond: rejection.respond(isBad)}
					items := bulkItems(n)
					items[size+bad].id = bulkBad
					err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: size, Concurrency: 1})
					requireShopTruth(t, op, s, items, err)
					var bulk *oakra.BulkError
					require.ErrorAs(t, err, &bulk)
					require.Equal(t, []int{size + bad}, bulk.NotApplied())
					f := bulk.Failures[0]
					require.Equal(t, rejection.status != 413, oakra.Rejected(f.Err), "a 400 too, as the run has seen others pass: %v", f.Err)
					require.False(t, oakra.Retryable(f.Err))
					if rejection.named {
						require.Equal(t, []string{"id: No 10000 here."}, f.Messages)
						require.Len(t, s.arrivals, 3+1, "the rest in one request")
					} else {
						require.Nil(t, f.Messages)
						require.Len(t, s.arrivals, 3+2*3, "two halves, three times")
					}
				}
			})
		})
	}
}

// TestBulkNoSplit checks that with NoSplit no item of a rejected request is sent
// again, and that the innocent ones have an error of their own.
func TestBulkNoSplit(t *testing.T) {
	const n, size = 24, 8
	for _, rejection := range bulkRejections {
		t.Run(rejection.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				s := &bulkShop{t: t, respond: rejection.respond(isBad)}
				items := bulkItems(n)
				items[size+2].id = bulkBad
				err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: size, NoSplit: true})
				requireShopTruth(t, op, s, items, err)
				require.Len(t, s.arrivals, 3)
				var bulk *oakra.BulkError
				require.ErrorAs(t, err, &bulk)
				require.Equal(t, []int{8, 9, 10, 11, 12, 13, 14, 15}, bulk.NotApplied())
				for _, f := range bulk.Failures {
					if rejection.named && f.Index != size+2 {
						require.ErrorContains(t, f.Err, "not applied: another item of its request was rejected")
						require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err))
						require.False(t, oakra.Splittable(f.Err))
						require.NotErrorIs(t, f.Err, oakra.ErrInvalidRequest)
						require.Nil(t, f.Messages)
						continue
					}
					require.Equal(t, rejection.status, requireError(t, f.Err).StatusCode)
					require.False(t, oakra.Retryable(f.Err))
					require.Equal(t, rejection.named, f.Messages != nil)
					require.Equal(t, rejection.named || rejection.status != 400 && rejection.status != 413, oakra.Rejected(f.Err))
				}
			})
		})
	}
}

// TestBulkMessages checks that each of the caller's items has what the server says
// about its record, however the records were merged and split.
func TestBulkMessages(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for _, noSplit := range []bool{false, true} {
			for seed := range uint64(5) {
				random := rand.New(rand.NewPCG(seed, 4))
				server := bulkServer(t, 50)
				items := make([]bulkItem, 200)
				for i := range items {
					items[i] = bulkItem{1 + random.Int64N(60), random.Int64N(9)} // the server has no id above 50
				}
				err := op.all(t.Context(), serverClient(server), items, oakra.BulkOptions{BatchSize: 7, NoSplit: noSplit})
				requireBulkTruth(t, op, server, items, err)
				rejected := 0
				requireFailures(t, err, func(f oakra.BulkFailure) {
					id := items[f.Index].id
					if id > 50 {
						rejected++
						require.Equal(t, []string{fmt.Sprintf(`id: Invalid pk "%d" - object does not exist.`, id)}, f.Messages)
						require.Equal(t, oakra.StepReject, oakra.NextStep(f.Err))
					} else {
						require.True(t, noSplit, "item %d, id %d is innocent: %v", f.Index, id, f.Err)
						require.Nil(t, f.Messages)
						require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err))
					}
				})
				require.Equal(t, len(slices.DeleteFunc(items, func(item bulkItem) bool { return item.id <= 50 })), rejected, "seed %d", seed)
			}
		}
	})
}

// TestBulkNamesBeyond checks that a rejection that names only items beyond the request
// counts as one without names.
func TestBulkNamesBeyond(t *testing.T) {
	s := &bulkShop{t: t}
	s.respond = func(_ int, _ *http.Request, items []bulkItem) *http.Response {
		if slices.ContainsFunc(items, isBad) {
			return stubResponse(400, `{"stock_records":[{},{},{},{},{"id":["No."]}]}`)
		}
		return nil
	}
	items := bulkItems(8)
	items[5].id = bulkBad
	err := bulkChange.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: 4})
	require.Equal(t, "aaaaanaa", bulkOutcomeText(bulkOutcomes(t, bulkChange, 8, err)))
	requireFailures(t, err, func(f oakra.BulkFailure) { require.Nil(t, f.Messages) })
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
			err := op.all(t.Context(), serverClient(server, bulkPolicy), items, oakra.BulkOptions{BatchSize: size})
			requireBulkTruth(t, op, server, items, err)
			var bulk *oakra.BulkError
			require.ErrorAs(t, err, &bulk)
			require.Equal(t, want, bulk.NotApplied())
			require.Empty(t, bulk.Unknown())
			require.True(t, oakra.Rejected(errors.Join(bulk.Unwrap()...)), "%v", err)
		}
	})
}

// TestBulkAllBad checks that a run ends after ten single items that were rejected
// without a name, if nothing was applied: the setup is at fault. No item is rejected.
func TestBulkAllBad(t *testing.T) {
	const n = 1000
	for _, status := range []int{400, 404, 409, 413, 422} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				for _, size := range []int{0, 64, 1} {
					s := &bulkShop{t: t}
					s.respond = func(int, *http.Request, []bulkItem) *http.Response {
						return stubResponse(status, `{"detail":"Unsupported API version."}`)
					}
					items := bulkItems(n)
					err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: size})
					require.Equal(t, map[oakra.Outcome]int{notApplied: n}, requireShopTruth(t, op, s, items, err))
					require.LessOrEqual(t, len(s.arrivals), 100)
					tried := 0
					requireFailures(t, err, func(f oakra.BulkFailure) {
						require.Equal(t, status, requireError(t, f.Err).StatusCode)
						require.False(t, oakra.Retryable(f.Err), "%v", f.Err)
						if strings.Contains(f.Err.Error(), "not sent: ten items were rejected") {
							require.Equal(t, oakra.StepAlert, oakra.NextStep(f.Err), "%v", f.Err)
							require.False(t, oakra.Splittable(f.Err), "%v", f.Err)
							var cause *oakra.Error
							require.ErrorAs(t, errors.Unwrap(f.Err), &cause, "it wraps the last rejection")
							require.Equal(t, "Unsupported API version.", cause.Message)
							require.ErrorContains(t, f.Err, cause.Message, "an operator reads the text")
							return
						}
						tried++
						if status == 400 || status == 413 {
							require.False(t, oakra.Rejected(f.Err), "nothing was applied: %v", f.Err)
						}
					})
					require.GreaterOrEqual(t, tried, 10)
					require.Less(t, tried, 10+4)
				}
			})
		})
	}
}

// TestBulkManyBad checks that bad items do not end a run in which others pass, with
// names or without.
func TestBulkManyBad(t *testing.T) {
	const n = 400
	for _, rejection := range bulkRejections {
		t.Run(rejection.name, func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				s := &bulkShop{t: t, respond: rejection.respond(isBad)}
				items := bulkItems(n)
				for i := n / 2; i < n; i++ {
					items[i].id += bulkBad
				}
				err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: 100, Concurrency: 1})
				require.Equal(t, strings.Repeat("a", n/2)+strings.Repeat("n", n/2), bulkOutcomeText(bulkOutcomes(t, op, n, err)))
				requireShopTruth(t, op, s, items, err)
				requireFailures(t, err, func(f oakra.BulkFailure) {
					require.Equal(t, rejection.status != 413, oakra.Rejected(f.Err), "%v", f.Err)
				})
				require.Less(t, len(s.arrivals), 4+2*n/2)
			})
		})
	}
}

// TestBulkLoneItem checks that a 400 that names nothing does not blame an item that
// was alone in its request from the beginning.
func TestBulkLoneItem(t *testing.T) {
	s := &bulkShop{t: t, respond: bulkRejection{status: 400}.respond(isBad)}
	items := bulkItems(3)
	items[2].id = bulkBad
	err := bulkChange.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{BatchSize: 1})
	require.Equal(t, "aan", bulkOutcomeText(bulkOutcomes(t, bulkChange, 3, err)))
	requireFailures(t, err, func(f oakra.BulkFailure) { require.Equal(t, oakra.StepAlert, oakra.NextStep(f.Err)) })
}

// TestBulkHalfApplied has a server that rejects a batch after it applied half
// of it. The reported outcome is wrong and cannot be right, but with NoSplit no
// change is applied twice.
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
		err := bulkChange.all(t.Context(), bulkClient(t, s, bulkPolicy), items, oakra.BulkOptions{BatchSize: 4, NoSplit: true})
		require.Error(t, err)
		require.Len(t, s.arrivals, 10, "%d: each batch is sent once", status)
		for id, times := range s.times {
			require.Equal(t, 1, times, "%d: id %d", status, id)
		}
	}
}

// bulkLimit is a server that limits the number of records in a request.
func bulkLimit(limit int, bad func(bulkItem) bool, status int, body string) func(int, *http.Request, []bulkItem) *http.Response {
	return func(_ int, _ *http.Request, items []bulkItem) *http.Response {
		if len(items) > limit || slices.ContainsFunc(items, bad) {
			return stubResponse(status, body)
		}
		return nil
	}
}

// TestBulkLimit checks that the run finds out how many records a request may have.
func TestBulkLimit(t *testing.T) {
	const tooMany = `{"detail":"Too many records."}`
	good := func(bulkItem) bool { return false }
	for _, row := range []struct {
		n, limit, status int
		body             string
		most             int // requests
	}{
		{10_000, 20, 400, tooMany, 600},
		{2000, 20, 413, `<html><title>Request Entity Too Large</title>`, 100 + 80},
		{500, 1, 400, tooMany, 500 + 80},
		{500, 2, 422, tooMany, 250 + 80},
		{2000, 7, 400, tooMany, 2000/7 + 80},
		{5000, 250, 400, tooMany, 20 + 40},
		{5000, 499, 400, tooMany, 10 + 40},
		{5000, 500, 400, tooMany, 10},
	} {
		t.Run(fmt.Sprintf("%d %d", row.limit, row.status), func(t *testing.T) {
			eachBulkOp(t, func(t *testing.T, op bulkOp) {
				for _, concurrency := range []int{1, 4} {
					synctest.Test(t, func(t *testing.T) {
						s := &bulkShop{t: t, latency: jitter(7), respond: bulkLimit(row.limit, good, row.status, row.body)}
						items := bulkItems(row.n)
						err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{Concurrency: concurrency})
						require.NoError(t, err)
						requireShopTruth(t, op, s, items, err)
						t.Logf("%d items, a limit of %d, %d in flight: %d requests", row.n, row.limit, concurrency, len(s.arrivals))
						require.LessOrEqual(t, len(s.arrivals), row.most)
					})
				}
			})
		})
	}
}

// TestBulkLimitAndBad checks that a limit does not hide bad items.
func TestBulkLimitAndBad(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		for seed := range uint64(4) {
			n, limit := 4000, 20
			if seed == 0 {
				n, limit = 1000, 1 // then a request of one item is smaller because of a rejection
			}
			random := rand.New(rand.NewPCG(seed, 5))
			items := bulkItems(n)
			want := []int{}
			for i := range items {
				if random.IntN(100) == 0 {
					items[i].id += bulkBad
					want = append(want, i)
				}
			}
			s := &bulkShop{t: t, respond: bulkLimit(limit, isBad, 400, `{"detail":"No."}`)}
			err := op.all(t.Context(), bulkClient(t, s), items, oakra.BulkOptions{})
			requireShopTruth(t, op, s, items, err)
			var bulk *oakra.BulkError
			require.ErrorAs(t, err, &bulk)
			require.Equal(t, want, bulk.NotApplied(), "seed %d", seed)
			requireFailures(t, err, func(f oakra.BulkFailure) { require.True(t, oakra.Rejected(f.Err), "%v", f.Err) })
			require.Less(t, len(s.arrivals), n/limit+200+2*5*len(want), "seed %d", seed)
		}
	})
}

// TestBulkNoLimit checks that a rejection for a passing cause does not make the
// batches of the rest smaller.
func TestBulkNoLimit(t *testing.T) {
	for _, at := range []int{0, 5} {
		s := &bulkShop{t: t}
		s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
			if n == at {
				return stubResponse(409, `{"detail":"Locked."}`)
			}
			return nil
		}
		err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(20_000), oakra.BulkOptions{Concurrency: 1})
		require.NoError(t, err)
		require.LessOrEqual(t, len(s.arrivals), 20_000/500+5, "request %d was rejected", at)
		require.GreaterOrEqual(t, len(s.arrivals[len(s.arrivals)-2].items), 499)
	}
}
