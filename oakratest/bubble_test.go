package oakratest_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// inBubble runs f in a bubble, with a server made there.
func inBubble(t *testing.T, f func(t *testing.T, server *oakratest.Server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newServer(t, shirts...)) })
}

func TestBubbleRetryAfter(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 429, Header: http.Header{"Retry-After": {"20"}}, Times: 2})
		start := time.Now()
		_, err := server.Client().Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 2}})
		require.NoError(t, err)
		assert.Equal(t, []int64{137, 150, 7}, quantities(server))
		assert.GreaterOrEqual(t, time.Since(start), 40*time.Second)
		assert.Less(t, time.Since(start), time.Minute)
	})
}

func TestBubbleBackoff(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Kind: oakratest.Refuse, Times: 1})
		server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Times: 1})
		client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 3, MinBackoff: time.Second, MaxBackoff: 2 * time.Second}))
		_, err := client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 122, Quantity: 1}})
		require.NoError(t, err)
		assert.Equal(t, 1, server.Refused())
		assert.Len(t, server.Requests(), 2)
	})
}

func TestBubbleAttemptTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Op: "stock.change", Delay: time.Hour})
		client := server.Client(oakra.WithAttemptTimeout(5 * time.Second))
		start := time.Now()
		_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 2}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 5*time.Second, time.Since(start))
	})
}

// Requests of every kind are under way when the server closes. A goroutine that
// stayed behind would be a deadlock of the bubble.
func TestBubbleClose(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
		_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.NoError(t, err)
		for _, kind := range []oakratest.FaultKind{oakratest.Slow, oakratest.ApplyLate, oakratest.ResetAfter, oakratest.CutBody, oakratest.Refuse} {
			server.Inject(oakratest.Fault{Kind: kind, Delay: time.Hour, Times: 1})
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}})
				assert.Error(t, err)
			})
		}
		synctest.Wait()
		start := time.Now()
		server.Close()
		wg.Wait()
		assert.Less(t, time.Since(start), time.Second)
		assert.Equal(t, asItWas, quantities(server))

		_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.ErrorIs(t, err, oakra.ErrUnreachable)
	})
}

func TestBubbleBulk(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.SetLatency(time.Second, 0)
		server.Inject(oakratest.Fault{Kind: oakratest.ResetBefore, Probability: 0.2, Seed: 1})
		updates := make([]oakra.StockUpdate, 3)
		for i, r := range server.Records() {
			updates[i] = oakra.StockUpdate{ID: r.ID, Quantity: int64(i)}
		}
		require.NoError(t, server.Client().Stock.UpdateAll(t.Context(), updates, oakra.BulkOptions{BatchSize: 1}))
		assert.Equal(t, []int64{0, 1, 2}, quantities(server))
	})
}

// A bubble has no network, and a server outside of it cannot be used inside.
func TestBubbleIsClosed(t *testing.T) {
	outside := newServer(t, shirts...)
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		once := oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})
		_, err := outside.Client(once).Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.ErrorIs(t, err, oakra.ErrUnreachable)
		require.ErrorContains(t, err, "synctest bubble")

		client, err := oakra.NewClient(server.Key, oakra.WithBaseURL(server.URL), once)
		require.NoError(t, err)
		_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.ErrorIs(t, err, oakra.ErrUnreachable)

		_, err = oakratest.NewServerAt("127.0.0.1:0")
		require.ErrorContains(t, err, "synctest")
	})
}
