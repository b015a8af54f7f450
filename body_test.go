package oakra_test

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// lateReader is a transport that responds at once, and reads the body of the request
// only when the test lets it, as HTTP/2 may.
type lateReader struct {
	mu     sync.Mutex
	bodies []io.ReadCloser
}

func (l *lateReader) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies = append(l.bodies, r.Body)
	return stubResponse(429, `{}`), nil
}

// longItems is large enough for the memory of a body to be reused.
const longItems = 2000

// TestBodyReadLate checks that the memory of a body is not used for another
// write before the transport has closed it, whatever the result of the call.
func TestBodyReadLate(t *testing.T) {
	late := &lateReader{}
	client := oakra.KeepRoutes(stubClient(t, late, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})))
	const n = 20
	for i := range int64(n) {
		_, err := client.Stock.Change(t.Context(), longChange(i))
		require.ErrorIs(t, err, oakra.ErrRateLimited)
	}
	require.Len(t, late.bodies, n)
	for i, body := range late.bodies {
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, longBody(t, longChange(int64(i))), string(got))
		require.NoError(t, body.Close())
		require.NoError(t, body.Close())
		_, err = body.Read(make([]byte, 8))
		require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	}
}

func longChange(i int64) []oakra.StockChange {
	changes := make([]oakra.StockChange, longItems)
	for j := range changes {
		changes[j] = oakra.StockChange{ID: int64(j + 1), QuantityChange: i * int64(j)}
	}
	return changes
}

// longBody returns the body as encoding/json writes it.
func longBody(t testing.TB, changes []oakra.StockChange) string {
	b, err := json.Marshal(map[string]any{"stock_records": changes})
	require.NoError(t, err)
	return string(b)
}

// checkingReader reads bodies on a goroutine that goes on after the response,
// while another goroutine closes them.
type checkingReader struct {
	t       *testing.T
	want    string
	running *sync.WaitGroup
}

func (c checkingReader) RoundTrip(r *http.Request) (*http.Response, error) {
	c.running.Go(func() {
		got, err := io.ReadAll(iotest.OneByteReader(r.Body))
		if err != nil {
			assert.ErrorIs(c.t, err, http.ErrBodyReadAfterClose)
		}
		assert.True(c.t, strings.HasPrefix(c.want, string(got)), "%.100q was read of %.100q", got, c.want)
	})
	c.running.Go(func() {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		r.Body.Close()
	})
	return stubResponse(429, `{}`), nil
}

// TestBodyClosedWhileRead checks that a reader gets the start of the right
// body, and then an error.
func TestBodyClosedWhileRead(t *testing.T) {
	var callers, running sync.WaitGroup
	for worker := range int64(4) {
		callers.Go(func() {
			for i := range int64(30) {
				changes := longChange(worker*100 + i)
				transport := checkingReader{t, longBody(t, changes), &running}
				client := oakra.KeepRoutes(stubClient(t, transport, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})))
				_, err := client.Stock.Change(context.Background(), changes)
				assert.ErrorIs(t, err, oakra.ErrRateLimited)
			}
		})
	}
	callers.Wait()
	running.Wait()
}
