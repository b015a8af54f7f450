package oakratest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// A client must not see from its errors whether it is connected in memory or over
// TCP.
func TestClientSeesNoDifference(t *testing.T) {
	tests := []struct {
		fault oakratest.Fault
		cause error
	}{
		{oakratest.Fault{Kind: oakratest.ResetBefore}, oakratest.ErrReset},
		{oakratest.Fault{Kind: oakratest.ResetAfter}, oakratest.ErrReset},
		{oakratest.Fault{Kind: oakratest.ApplyLate}, oakratest.ErrReset},
		{oakratest.Fault{Kind: oakratest.CutBody}, io.ErrUnexpectedEOF},
		{oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502}, oakra.ErrServer},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault.Kind), func(t *testing.T) {
			server := newServer(t, shirts...)
			once := oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})
			overTCP, err := oakra.NewClient(server.Key, oakra.WithBaseURL(server.URL), once)
			require.NoError(t, err)
			inMemory := server.Client(once)
			change := func(client *oakra.Client) error {
				_, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}})
				return err
			}
			require.NoError(t, change(overTCP)) // leaves an idle connection
			require.NoError(t, change(inMemory))
			server.Inject(tt.fault)
			var want, got *oakra.Error
			require.ErrorAs(t, change(overTCP), &want)
			require.ErrorAs(t, change(inMemory), &got)
			require.ErrorIs(t, want, tt.cause)
			require.ErrorIs(t, got, tt.cause)
			assert.Equal(t, want.Outcome, got.Outcome)
			assert.Equal(t, want.Body, got.Body)
			var read *net.OpError
			if errors.Is(tt.cause, oakratest.ErrReset) {
				require.ErrorAs(t, got, &read)
				assert.Equal(t, "read", read.Op)
				assert.Equal(t, "tcp", read.Net)
			}
		})
	}
}

func dial(t *testing.T, server *oakratest.Server) net.Conn {
	t.Helper()
	conn, err := server.DialContext(t.Context(), "tcp", "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestConnDeadlines(t *testing.T) {
	everywhere(t, func(t *testing.T, server *oakratest.Server) {
		conn := dial(t, server)
		isTimeout := func(err error) {
			t.Helper()
			var timeout net.Error
			require.ErrorAs(t, err, &timeout)
			assert.True(t, timeout.Timeout())
		}
		start := time.Now()
		require.NoError(t, conn.SetReadDeadline(start.Add(time.Hour)))
		require.NoError(t, conn.SetReadDeadline(start.Add(50*time.Millisecond)))
		_, err := conn.Read(make([]byte, 1))
		isTimeout(err)
		assert.GreaterOrEqual(t, time.Since(start), 50*time.Millisecond)

		require.NoError(t, conn.SetDeadline(start))
		_, err = conn.Read(make([]byte, 1))
		isTimeout(err)
		_, err = conn.Write([]byte("x"))
		isTimeout(err)

		require.NoError(t, conn.SetDeadline(time.Time{}))
		require.NoError(t, newRequest(t, server, "GET", "", "").Write(conn))
		_, err = conn.Read(make([]byte, 1))
		require.NoError(t, err)
	})
}

// net/http ends a Read by a deadline in the past.
func TestConnDeadlineWakesRead(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		conn := dial(t, server)
		done := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			done <- err
		}()
		synctest.Wait()
		require.NoError(t, conn.SetReadDeadline(time.Now()))
		require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
	})
}

func TestConnClosed(t *testing.T) {
	everywhere(t, func(t *testing.T, server *oakratest.Server) {
		conn := dial(t, server)
		done := make(chan error)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			done <- err
		}()
		require.NoError(t, conn.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		_, err := conn.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// The first write to a connection that the server has closed succeeds, as the client
// cannot know of the close yet.
func TestConnClosedByServer(t *testing.T) {
	everywhere(t, func(t *testing.T, server *oakratest.Server) {
		conn := dial(t, server)
		r := newRequest(t, server, "GET", "", "")
		r.Close = true
		require.NoError(t, r.Write(conn))
		_, err := io.ReadAll(conn)
		require.NoError(t, err)
		server.Close()
		_, err = conn.Write([]byte("x"))
		require.NoError(t, err)
		requireBroken(t, conn, oakratest.ErrBroken)
	})
}

func TestConnReset(t *testing.T) {
	everywhere(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Kind: oakratest.ResetBefore})
		conn := dial(t, server)
		require.NoError(t, newRequest(t, server, "GET", "", "").Write(conn))
		requireBroken(t, conn, oakratest.ErrReset)
	})
}

// requireBroken writes until the other end's reset has arrived, and compares the error.
// Systems other than Linux may return ErrReset for ErrBroken, and the reverse.
func requireBroken(t *testing.T, conn net.Conn, want error) {
	t.Helper()
	var err error
	for err == nil {
		_, err = conn.Write([]byte("x"))
	}
	if runtime.GOOS != "linux" && (errors.Is(err, oakratest.ErrReset) || errors.Is(err, oakratest.ErrBroken)) {
		return
	}
	require.ErrorIs(t, err, want)
}

// BenchmarkClient changes one record a call.
func BenchmarkClient(b *testing.B) {
	server := newServer(b, shirts...)
	overTCP, err := oakra.NewClient(server.Key, oakra.WithBaseURL(server.URL))
	require.NoError(b, err)
	for name, client := range map[string]*oakra.Client{"memory": server.Client(), "TCP": overTCP} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := client.Stock.Change(b.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}})
				require.NoError(b, err)
			}
		})
	}
}
