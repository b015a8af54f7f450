package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestBulkRecords checks that OnRecords gets the records of each successful request as
// the server then has them, before OnProgress and in the goroutine of the caller.
func TestBulkRecords(t *testing.T) {
	const n, size = 60, 7
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		server := bulkServer(t, n)
		server.Inject(oakratest.Fault{Op: op.name, Kind: oakratest.ResetAfter, Times: 1})
		server.Inject(oakratest.Fault{Op: op.name, Kind: oakratest.CutBody, Times: 1})
		server.Inject(oakratest.Fault{Op: op.name, Kind: oakratest.OmitRecord, Times: 1})
		items := bulkItems(n)
		items = append(items, bulkItem{3, 5}, bulkItem{n, 2})
		items[40].id = 9999 // it splits its batch
		seen := make(map[int64]int64)
		var calls []string // no lock: the calls are one at a time
		err := op.all(t.Context(), serverClient(server, bulkOnce), items, oakra.BulkOptions{
			BatchSize: size,
			OnRecords: func(records []oakra.StockRecord) {
				require.NotEmpty(t, records)
				for _, r := range records {
					require.NotContains(t, seen, r.ID, "twice")
					seen[r.ID] = r.Quantity
				}
				calls = append(calls, "records")
			},
			OnProgress: func(p oakra.BulkProgress) {
				require.LessOrEqual(t, len(seen), p.Applied)
				calls = append(calls, "progress")
			},
		})
		requireBulkTruth(t, op, server, items, err)
		times := 0
		for _, w := range bulkWrites(server, op) {
			if w.Status != 200 || w.Fault != "" {
				continue
			}
			times++
			for _, a := range w.Applied {
				require.Equal(t, a.To, seen[a.ID], "id %d", a.ID)
				delete(seen, a.ID)
			}
		}
		require.Empty(t, seen, "records although no request succeeded")
		require.Equal(t, times, strings.Count(strings.Join(calls, " "), "records progress"), "%v", calls)
	})
}

// TestBulkUnsentKeepsTheKey checks that the app key is cut out of the errors of items
// that were not sent, also where it is in the cause of a context.
func TestBulkUnsentKeepsTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := fmt.Errorf("the session of %s has ended", strings.ToUpper(stubKey))
		time.AfterFunc(time.Second, func() { cancel(cause) })
		s := &bulkShop{t: t, latency: func(int) time.Duration { return 400 * time.Millisecond }}
		err := bulkChange.all(ctx, bulkClient(t, s), bulkItems(40), oakra.BulkOptions{BatchSize: 1})
		for _, part := range []error{err, errors.Unwrap(requireError(t, err))} {
			for _, verb := range []string{"%v", "%+v", "%#v"} {
				require.NotContains(t, strings.ToLower(fmt.Sprintf(verb, part)), stubKey)
			}
		}
		unsent := 0
		requireFailures(t, err, func(f oakra.BulkFailure) {
			require.ErrorIs(t, f.Err, context.Canceled)
			require.NotContains(t, strings.ToLower(fmt.Sprintf("%v %+v %#v", f.Err, f.Err, f.Err)), stubKey)
			if f.Outcome == notApplied {
				unsent++
				require.ErrorIs(t, f.Err, cause)
				require.ErrorContains(t, f.Err, "not sent: context canceled: the session of [app key] has ended")
			}
		})
		require.Positive(t, unsent)
	})
}

// TestBulkUnsentRetryAfter checks that items that a 429 left out say when to come back.
func TestBulkUnsentRetryAfter(t *testing.T) {
	s := &bulkScript{bulkShop: &bulkShop{t: t}, steps: steps{pass, status(429, "Retry-After", "3600")}}
	err := bulkChange.all(t.Context(), bulkClient(t, s), bulkItems(9), oakra.BulkOptions{BatchSize: 1, Concurrency: 1})
	require.Equal(t, "annnnnnnn", bulkOutcomeText(bulkOutcomes(t, bulkChange, 9, err)))
	requireFailures(t, err, func(f oakra.BulkFailure) {
		require.Equal(t, time.Hour, requireError(t, f.Err).RetryAfter)
		require.Equal(t, 429, requireError(t, f.Err).StatusCode)
		require.ErrorIs(t, f.Err, oakra.ErrRateLimited)
		require.Equal(t, oakra.StepRetry, oakra.NextStep(f.Err))
	})
}
