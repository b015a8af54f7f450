package oakra_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// perRecord is a latency of 20 ms a request and 20 µs a record.
func perRecord(records int) time.Duration {
	return 20*time.Millisecond + time.Duration(records)*20*time.Microsecond
}

// TestBulkMeasures runs large calls in default options through a bad day, and logs how
// many items met which outcome. Its times are those of a synctest bubble.
func TestBulkMeasures(t *testing.T) {
	for _, kind := range []struct {
		name  string
		items int
		fail  func(*http.Request) (*http.Response, error)
	}{
		{"503 at once", 100_000, status(503)},
		{"resets", 20_000, reset},
		{"refused connections", 20_000, refuse},
	} {
		for _, length := range []time.Duration{time.Second, time.Hour} {
			t.Run(fmt.Sprintf("%s for %v", kind.name, length), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					s := &bulkShop{t: t, latency: func(int) time.Duration { return perRecord(500) }}
					o := &bulkOutage{bulkShop: s, fail: kind.fail, from: start.Add(time.Duration(kind.items/500/2/4) * perRecord(500))}
					o.to = o.from.Add(length)
					items := bulkItems(kind.items)
					err := bulkChange.all(t.Context(), bulkClient(t, o), items, oakra.BulkOptions{})
					count := requireShopTruth(t, bulkChange, s, items, err)
					t.Logf("%d items: %d applied, %d not applied, %d unknown, in %v", kind.items, count[applied], count[notApplied], count[unknown], time.Since(start))
					require.LessOrEqual(t, count[unknown], 4000)
					if length == time.Second {
						require.Zero(t, count[notApplied])
						return
					}
					require.Less(t, time.Since(o.from), time.Minute+5*time.Second)
					requireFailures(t, err, func(f oakra.BulkFailure) {
						if f.Outcome == notApplied && !oakra.Retryable(f.Err) {
							require.Fail(t, "an item that was not sent is not retryable", "%v", f.Err)
						}
					})
				})
			})
		}
	}

	t.Run("stopped after a third", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const n = 20_000
			s := &bulkShop{t: t, latency: func(int) time.Duration { return perRecord(500) }}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var stopped time.Time
			items := bulkItems(n)
			err := bulkChange.all(context.WithoutCancel(ctx), bulkClient(t, s), items, oakra.BulkOptions{
				Stop: ctx.Done(),
				OnProgress: func(p oakra.BulkProgress) {
					if p.Done() > n/3 && stopped.IsZero() {
						stopped = time.Now()
						stop()
					}
				},
			})
			count := requireShopTruth(t, bulkChange, s, items, err)
			t.Logf("%d applied, %d not applied, %d unknown, %v after the stop", count[applied], count[notApplied], count[unknown], time.Since(stopped))
			require.Zero(t, count[unknown])
			require.LessOrEqual(t, time.Since(stopped), perRecord(500))
		})
	})
}
