package oakratest_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// waiter waits for a request of op in another goroutine. The channel has the result.
func waiter(t *testing.T, server *oakratest.Server, op string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- server.Wait(t.Context(), op) }()
	return done
}

func TestWait(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		client := server.Client()
		change := func() {
			_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}})
			assert.NoError(t, err)
		}
		change() // has ended, and does not count

		early, other, anyOp := waiter(t, server, "stock.change"), waiter(t, server, "stock.list"), waiter(t, server, "")
		synctest.Wait()
		assert.Empty(t, early)
		server.Inject(oakratest.Fault{Op: "stock.change", Delay: 20 * time.Second})
		go change()
		require.NoError(t, <-early)
		require.NoError(t, <-anyOp)
		for range 2 {
			require.NoError(t, server.Wait(t.Context(), "stock.change"))
		}
		assert.Equal(t, []int64{136, 150, 7}, quantities(server))
		synctest.Wait()
		assert.Empty(t, other)

		time.Sleep(20 * time.Second)
		synctest.Wait()
		assert.Equal(t, []int64{137, 150, 7}, quantities(server))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, server.Wait(ctx, "stock.change"), context.DeadlineExceeded)
		assert.Equal(t, time.Hour, time.Since(start))

		server.Close()
		require.ErrorContains(t, <-other, "closed")
		assert.Panics(t, func() { _ = server.Wait(t.Context(), "change") })
	})
}

// A request is in flight until its client can know the outcome, and a late write until
// it is applied.
func TestWaitFlight(t *testing.T) {
	for _, kind := range []oakratest.FaultKind{oakratest.Slow, oakratest.ResetAfter, oakratest.ApplyLate, oakratest.Respond, oakratest.CutBody} {
		t.Run(string(kind), func(t *testing.T) {
			inBubble(t, func(t *testing.T, server *oakratest.Server) {
				server.Inject(oakratest.Fault{Kind: kind, Delay: time.Minute, Status: http.StatusTeapot})
				go func() { _, _ = send(t, server, newRequest(t, server, "POST", changePath, addTwo)) }()
				require.NoError(t, server.Wait(t.Context(), "stock.change"))
				time.Sleep(time.Minute - 1)
				require.NoError(t, server.Wait(t.Context(), "stock.change"))
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				late := waiter(t, server, "stock.change")
				synctest.Wait()
				assert.Empty(t, late)
				server.Close()
				require.Error(t, <-late)
			})
		})
	}
}

func TestWaitOutsideOfABubble(t *testing.T) {
	server := newServer(t, shirts...)
	server.Inject(oakratest.Fault{Delay: time.Hour})
	go func() { _, _ = send(t, server, newRequest(t, server, "POST", changePath, addTwo)) }()
	require.NoError(t, server.Wait(t.Context(), "stock.change"))
	assert.Equal(t, asItWas, quantities(server))
	synctest.Test(t, func(t *testing.T) {
		require.ErrorContains(t, server.Wait(t.Context(), "stock.change"), "bubble")
	})
}

func TestStart(t *testing.T) {
	var server *oakratest.Server
	t.Run("outside", func(t *testing.T) { server = oakratest.Start(t, shirts...) })
	require.ErrorContains(t, server.Wait(t.Context(), ""), "closed")
	assert.Equal(t, shirts, server.Records())

	// A server that is not closed would be a deadlock of the bubble.
	synctest.Test(t, func(t *testing.T) {
		server = oakratest.Start(t)
		_, err := server.Client().Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		require.NoError(t, err)
	})
	require.ErrorContains(t, server.Wait(t.Context(), ""), "bubble")
	var _ = []oakratest.TB{(*testing.T)(nil), (*testing.B)(nil), (*testing.F)(nil)}
}

func TestQuantity(t *testing.T) {
	server := newServer(t, shirts...)
	assert.Equal(t, int64(150), server.Quantity(123))
	assert.PanicsWithValue(t, "oakratest: there is no stock record with id 99", func() { server.Quantity(99) })
}
