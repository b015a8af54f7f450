package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// lateReader is a transport that answers at once, and reads the request's body
// only when it is told to, as HTTP/2 may.
type lateReader struct {
	mu     sync.Mutex
	bodies []io.ReadCloser
}

func (l *lateReader) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies = append(l.bodies, r.Body)
	return stubAnswer(429, `{}`), nil
}

// TestBodyReadLate: the memory of a body is not used for another write before
// the transport has closed it, whatever the call has come to.
func TestBodyReadLate(t *testing.T) {
	late := &lateReader{}
	client := stubClient(t, late, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
	const n = 50
	for i := range int64(n) {
		_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: i + 1, QuantityChange: -i}})
		require.ErrorIs(t, err, oakra.ErrRateLimited)
	}
	require.Len(t, late.bodies, n)
	for i, body := range late.bodies {
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf(`{"stock_records":[{"id":%d,"quantity_change":%d}]}`, i+1, -i), string(got))
		require.NoError(t, body.Close())
		require.NoError(t, body.Close())
		_, err = body.Read(make([]byte, 8))
		require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	}
}

// checkingReader reads bodies on a goroutine that goes on after the answer, and
// closes them while it reads.
type checkingReader struct {
	t       *testing.T
	running sync.WaitGroup
}

func (c *checkingReader) RoundTrip(r *http.Request) (*http.Response, error) {
	want := r.Header.Get("X-Want")
	closed := make(chan struct{})
	c.running.Go(func() {
		var got strings.Builder
		b := make([]byte, 7)
		for {
			n, err := r.Body.Read(b)
			got.Write(b[:n])
			if err != nil {
				if !errors.Is(err, io.EOF) {
					assert.ErrorIs(c.t, err, http.ErrBodyReadAfterClose)
				}
				break
			}
		}
		assert.True(c.t, strings.HasPrefix(want, got.String()), "%q was read of %q", got.String(), want)
		<-closed
	})
	c.running.Go(func() {
		r.Body.Close()
		close(closed)
	})
	return stubAnswer(429, `{}`), nil
}

// wanting tells the transport what the body must be.
type wanting struct {
	*checkingReader
	want string
}

func (w wanting) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Want", w.want)
	return w.checkingReader.RoundTrip(r)
}

// TestBodyClosedWhileRead: what is read is the start of the right body, and then
// an error.
func TestBodyClosedWhileRead(t *testing.T) {
	checking := &checkingReader{t: t}
	var callers sync.WaitGroup
	for worker := range int64(8) {
		callers.Go(func() {
			for i := range int64(200) {
				id := worker*1000 + i + 1
				client := stubClient(t, wanting{checking, fmt.Sprintf(`{"stock_records":[{"id":%d,"quantity":%d}]}`, id, id*id)},
					oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
				_, err := client.Stock.Update(context.Background(), []oakra.StockUpdate{{ID: id, Quantity: id * id}})
				assert.ErrorIs(t, err, oakra.ErrRateLimited)
			}
		})
	}
	callers.Wait()
	checking.running.Wait()
}
