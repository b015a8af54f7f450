package stocksync_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// stopAfter returns a channel that is closed after d, at once if d is 0.
func stopAfter(d time.Duration) <-chan struct{} {
	stop := make(chan struct{})
	if d == 0 {
		close(stop)
	} else {
		time.AfterFunc(d, func() { close(stop) })
	}
	return stop
}

func TestStopBeforeReading(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(2)...)
		o := stocksync.Options{Mode: mode, Stop: stopAfter(0)}
		plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(2)...), o)
		require.Nil(t, plan)
		require.ErrorIs(t, err, oakra.ErrStopped)
		require.Equal(t, oakra.StepRetry, oakra.NextStep(err))
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), o)
		require.ErrorIs(t, err, oakra.ErrStopped)
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
		require.Zero(t, shop.sent)
	})
}

// TestStopCutsReadingShort checks reading by Compare, by Apply before it writes, and
// to settle.
func TestStopCutsReadingShort(t *testing.T) {
	hang := oakratest.Fault{Op: "stock.list", Kind: oakratest.Slow, Delay: time.Hour}
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2)...)
		client := server.Client(oakra.WithAttemptTimeout(time.Hour))
		server.Inject(hang)
		start := time.Now()
		_, err := stocksync.Compare(t.Context(), client.Stock, plus(1, recordsTo(2)...), stocksync.Options{Mode: mode, Stop: stopAfter(time.Second)})
		require.ErrorIs(t, err, oakra.ErrStopped)
		require.Equal(t, time.Second, time.Since(start))
	})
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2)...)
		client := server.Client(oakra.WithAttemptTimeout(time.Hour))
		start := time.Now()
		plan, err := stocksync.Compare(t.Context(), client.Stock, plus(1, recordsTo(2)...), stocksync.Options{Mode: mode, Stop: stopAfter(time.Second)})
		require.NoError(t, err)
		server.Inject(hang)
		report, err := plan.Apply(t.Context())
		require.ErrorIs(t, err, stocksync.ErrIncomplete)
		require.ErrorIs(t, err, oakra.ErrStopped)
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
		require.Zero(t, writes(server))
		require.Equal(t, time.Second, time.Since(start))
	})
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(2)...)
		client := server.Client(oakra.WithAttemptTimeout(time.Hour), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
		server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.ResetAfter, Times: 1})
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), client.Stock, plus(1, recordsTo(2)...), stocksync.Options{
			Mode: mode, Stop: stopAfter(2 * time.Minute),
			OnProgress: func(p stocksync.Progress) {
				if p.Phase == stocksync.Settling {
					server.Inject(hang)
				}
			},
		})
		require.ErrorIs(t, err, oakra.ErrStopped)
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.Unknown))
		require.ErrorContains(t, report.Results[0].Err, "it was not read again: the run was stopped")
		require.Equal(t, 2*time.Minute, time.Since(start))
	})
}

// TestStopWhileWriting checks that the writes in flight finish, that the others are not
// sent, and that no outcome is unknown.
func TestStopWhileWriting(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(100)...)
		server.Inject(oakratest.Fault{Op: opOf(mode), Delay: time.Second})
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), server.Client().Stock, plus(1, recordsTo(100)...), stocksync.Options{
			Mode: mode, BatchSize: 10, Concurrency: 2, Stop: stopAfter(1500 * time.Millisecond),
		})
		require.Equal(t, 2*time.Second, time.Since(start))
		require.ErrorIs(t, err, oakra.ErrStopped)
		require.ErrorContains(t, err, "not every target is synced: the run was stopped: of 100 targets, 40 synced, 60 not tried; nothing of those not tried was applied: run again")
		require.Equal(t, 40, report.Count(stocksync.Synced))
		require.Equal(t, 60, report.Count(stocksync.NotTried))
		for _, r := range report.Results {
			require.Equal(t, r.Status == stocksync.Synced, server.Quantity(r.ID) == r.Quantity, "%v", r)
			require.Equal(t, r.Status == stocksync.NotTried, oakra.Retryable(r.Err), "%v", r)
		}
	})
}

// TestStopWhileSettling checks that unknown outcomes stay Unknown, and that steps that
// were to be sent again are NotTried.
func TestStopWhileSettling(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(3)...)
		shop.next = inTurn(lost, limited)
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode, BatchSize: 1, Stop: stopAfter(15 * time.Second)})
		require.Equal(t, 15*time.Second, time.Since(start))
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.NotTried, stocksync.Synced))
		require.ErrorIs(t, err, oakra.ErrStopped)
		require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(report.Results[0].Err))
		require.ErrorIs(t, report.Results[1].Err, oakra.ErrStopped)
		require.True(t, oakra.Retryable(report.Results[1].Err))
		require.Equal(t, 1, shop.lookups)
	})
}

// TestStopInOutage checks that the wait for a service that does not respond ends at
// once.
func TestStopInOutage(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		server := oakratest.Start(t, recordsTo(100)...)
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), server.Client().Stock, plus(1, recordsTo(100)...), stocksync.Options{
			Mode: mode, BatchSize: 5, Stop: stopAfter(20 * time.Second),
			OnProgress: func(p stocksync.Progress) {
				if p.Phase == stocksync.Reading { // the service goes down after reading
					server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: http.StatusBadGateway, Body: "<html>"})
				}
			},
		})
		require.Equal(t, 20*time.Second, time.Since(start))
		require.ErrorIs(t, err, oakra.ErrStopped)
		require.LessOrEqual(t, report.Count(stocksync.Unknown), (4+4)*5)
		require.Equal(t, 100, report.Count(stocksync.Unknown)+report.Count(stocksync.NotTried))
		require.GreaterOrEqual(t, report.Count(stocksync.NotTried), 60)
	})
}

// TestStopAfterRejection checks that the other records of a rejected request are
// NotTried, as its response says.
func TestStopAfterRejection(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop, stop := newShop(recordsTo(3)...), make(chan struct{})
		shop.bad[2], shop.named = true, true
		shop.next = func([]int64) event {
			close(stop)
			return applied
		}
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode, Stop: stop})
		require.ErrorIs(t, err, oakra.ErrStopped)
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.Rejected, stocksync.NotTried))
		require.Equal(t, 1, shop.sent)
		require.Equal(t, 1, shop.lookups)
	})
}

// TestStopTooLate checks that Stop changes nothing while the last request is in flight.
func TestStopTooLate(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(3)...)
		shop.takes = time.Second
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode, Stop: stopAfter(time.Second / 2)})
		require.NoError(t, err)
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced, stocksync.Synced))
	})
}

// TestStopBySignalContext checks the pattern of the Stop field's documentation: the
// program's context ends, and the call has a context that does not.
func TestStopBySignalContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		shop := newShop(recordsTo(3)...)
		shop.takes = time.Second
		report, err := stocksync.Sync(context.WithoutCancel(ctx), shop, plus(1, recordsTo(3)...), stocksync.Options{BatchSize: 1, Stop: ctx.Done()})
		require.ErrorIs(t, err, oakra.ErrStopped)
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced, stocksync.NotTried))
	})
}
