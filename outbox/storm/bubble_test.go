package storm_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// These tests run in a bubble of testing/synctest, in which hours pass at once: this
// SQLite driver takes its clock from package time. The options are the defaults.

// bubbleShop is a shop in a bubble.
type bubbleShop struct {
	*shop
	statements atomic.Int64
}

func newBubbleShop(t *testing.T, items int) *bubbleShop {
	s := &bubbleShop{}
	db, err := driver.Open(":memory:", func(c *sqlite3.Conn) error {
		return c.Trace(sqlite3.TRACE_STMT, func(sqlite3.TraceEvent, any, any) error {
			s.statements.Add(1)
			return nil
		})
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxOpenConns(1)
	server := newServer(t, items)
	s.shop = &shop{db: db, server: server}
	s.Outbox, err = outbox.New(t.Context(), db, server.Client().Stock, outbox.Options{Witnesses: options().Witnesses})
	require.NoError(t, err)
	return s
}

// An outage of an hour parks nothing, halts nothing, and causes few requests. After an
// attempt with an unknown outcome, no other attempt begins before a read has succeeded.
func TestHourOfFailure(t *testing.T) {
	for _, test := range []struct {
		name   string
		fault  oakratest.Fault
		writes int // most writes
	}{
		{"401", oakratest.Fault{Kind: oakratest.Respond, Status: 401, Body: `{"detail":"Invalid token."}`}, 1},
		{"503", oakratest.Fault{Kind: oakratest.Respond, Status: 503, Body: "<html>"}, 4},
		{"no response", oakratest.Fault{Kind: oakratest.ResetBefore}, 1},
		{"no connection", oakratest.Fault{Kind: oakratest.Refuse}, 1},
		{"writes get no response", oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetBefore}, 130},
		{"writes 503", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 503, Body: "<html>"}, 130},
		{"writes 403", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 403, Body: "<html>"}, 130},
		{"writes no route", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 404, Body: "<html>"}, 130},
		{"writes 301", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 301}, 130},
		{"writes 400 without a name", oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 400, Body: `{"detail":"Unsupported API version."}`}, 200},
		{"writes lost", oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter}, 130},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newBubbleShop(t, 60)
				stop := s.run(t)
				require.NoError(t, s.Add(t.Context(), sell("before", 0, 1)))
				time.Sleep(5 * time.Second)
				require.Equal(t, int64(999), s.quantity(0))
				s.server.Inject(test.fault)
				before := len(s.server.Requests())
				for minute := range 60 {
					require.NoError(t, s.Add(t.Context(), sell(fmt.Sprint(minute), minute, 1)))
					time.Sleep(time.Minute)
					status := s.status(t)
					require.Empty(t, status.Halted)
					require.Zero(t, status.Parked)
					require.LessOrEqual(t, status.OpenAttempts, int64(16))
				}
				during := s.server.Requests()[before:]
				s.checkOneUnknown(t, during, test.writes)
				require.Less(t, len(during), 600)
				s.server.ClearFaults()
				time.Sleep(15 * time.Minute)
				status := s.status(t)
				require.Zero(t, status.Pending)
				require.Zero(t, status.OpenAttempts)
				require.Equal(t, int64(998), s.quantity(0))
				for i := 1; i < 60; i++ {
					require.Equal(t, int64(999), s.quantity(i))
				}
				stop()
			})
		})
	}
}

// checkOneUnknown checks that a read succeeded between any two writes that failed, and
// that there are not too many writes.
func (s *bubbleShop) checkOneUnknown(t *testing.T, requests []oakratest.Request, most int) {
	writes, read := 0, true
	for _, r := range requests {
		switch r.Op {
		case "stock.list":
			read = read || r.Status == 200
		case "stock.change":
			require.True(t, read, "write %d", writes)
			read = r.Status == 200 && r.Fault == ""
			writes++
		}
	}
	t.Logf("%d requests, %d of them writes", len(requests), writes)
	require.LessOrEqual(t, writes, most)
}

// An idle outbox queries its database at most twice a second, and sends Oakra nothing.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleShop(t, 1)
		stop := s.run(t)
		require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
		time.Sleep(5 * time.Second)
		require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
		requests, statements := len(s.server.Requests()), s.statements.Load()
		time.Sleep(time.Hour)
		require.Len(t, s.server.Requests(), requests)
		require.LessOrEqual(t, s.statements.Load()-statements, int64(2*3600))
		stop()
	})
}

// A key that Oakra does not have is looked up twice before its changes are parked, ten
// seconds apart, and then every hour.
func TestUnknownKeyIsLookedUpEveryHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleShop(t, 1)
		stop := s.run(t)
		require.NoError(t, s.Add(t.Context(), sell("x", 7, 1)))
		time.Sleep(9 * time.Second)
		require.Equal(t, outbox.StatePending, s.find(t, "x").State)
		time.Sleep(3 * time.Second)
		require.Equal(t, outbox.StateParked, s.find(t, "x").State)
		s.server.SetRecords(oakra.StockRecord{ID: 70, SKU: itemKey(7).SKU, LocationID: itemKey(7).LocationID, Quantity: 10})
		time.Sleep(50 * time.Minute)
		require.Equal(t, outbox.StateParked, s.find(t, "x").State)
		time.Sleep(15 * time.Minute)
		require.Equal(t, outbox.StateApplied, s.find(t, "x").State)
		require.Equal(t, int64(9), s.server.Quantity(70))
		require.Less(t, len(s.server.Requests()), 8)
		stop()
	})
}

// If a change with an unknown key is sent again by hand, its key is looked up at once, or
// ten seconds after the last lookup. If the key is still unknown, the change is parked
// again.
func TestResendOfAnUnknownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newBubbleShop(t, 1)
		stop := s.run(t)
		resend := func() {
			require.NoError(t, s.Resolve(t.Context(), outbox.Decision{Action: outbox.Resend, By: "ann", Note: "made it"}, "x"))
		}
		require.NoError(t, s.Add(t.Context(), sell("x", 7, 1)))
		time.Sleep(12 * time.Second)
		require.Equal(t, outbox.StateParked, s.find(t, "x").State)

		time.Sleep(time.Minute)
		before := len(s.server.Requests())
		resend()
		time.Sleep(2 * time.Second)
		require.Equal(t, outbox.StateParked, s.find(t, "x").State, "it is still not there")
		require.Len(t, s.server.Requests(), before+1)

		s.server.SetRecords(oakra.StockRecord{ID: 70, SKU: itemKey(7).SKU, LocationID: itemKey(7).LocationID, Quantity: 10})
		resend()
		time.Sleep(6 * time.Second) // 8 seconds since the last lookup
		require.Equal(t, outbox.StatePending, s.find(t, "x").State)
		require.Len(t, s.server.Requests(), before+1)
		time.Sleep(4 * time.Second)
		require.Equal(t, outbox.StateApplied, s.find(t, "x").State)
		require.Equal(t, int64(9), s.server.Quantity(70))
		stop()
	})
}
