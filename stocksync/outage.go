package stocksync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/internal/hold"
)

// listThroughOutage is like list, but waits for a service that does not respond, as
// a bulk run of package oakra does. It tries any number of times, because a read
// that fails, unlike a write, makes no outcome unknown.
func (r *reader) listThroughOutage(ctx context.Context, keys []oakra.StockKey, p Progress) ([]oakra.StockRecord, error) {
	var clock hold.Clock
	failures := 0 // in a row
	for {
		records, err := list(ctx, r.stock, keys)
		if ctx.Err() != nil || !r.outage(err) {
			return records, err
		}
		failures += attempts(err)
		switch {
		case failures < hold.InARow:
			continue
		case !p.Waiting:
			clock = hold.Start()
			p.Waiting, p.WaitingSince, p.WaitingFor = true, clock.Since, err
			r.options.report(p)
		default:
			clock.TrialFailed()
		}
		if !r.await(ctx, &clock, keys[0].LocationID) {
			if ctx.Err() != nil {
				return nil, readNotSent(ctx.Err())
			}
			return nil, fmt.Errorf("the service stopped responding: %w", p.WaitingFor)
		}
	}
}

// await reports whether the service responds again before ctx ends or OutageTimeout
// is over.
func (r *reader) await(ctx context.Context, clock *hold.Clock, location string) bool {
	end := clock.Since.Add(r.options.outageTimeout())
	for {
		next := clock.Next
		if next.After(end) {
			next = end
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
		if time.Until(end) <= 0 {
			return false
		}
		if r.responds(ctx, min(hold.ProbeFor, time.Until(end)), location) {
			return true
		}
		clock.ProbeFailed()
	}
}

// responds sends a lookup to find out whether the service responds.
func (r *reader) responds(ctx context.Context, within time.Duration, location string) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := r.stock.Lookup(ctx, []oakra.StockKey{{SKU: hold.ProbeSKU, LocationID: location}})
	return err == nil || !r.outage(err) && !errors.Is(err, oakra.ErrNoRoute) // which a proxy may say too
}

// outage reports whether a read failed because the service does not respond. A
// response that asks to wait is not an outage, because the client has already waited
// as long as it may. An unreadable success, such as a page of a proxy, counts as an
// outage only if the base URL is known to be right.
func (r *reader) outage(err error) bool {
	var e *oakra.Error
	if !errors.As(err, &e) || e.StatusCode == 429 && e.RetryAfter > 0 {
		return false
	}
	sent := e.Attempts > 0 || e.StatusCode != 0
	return sent && (oakra.Retryable(err) || r.proven && e.StatusCode/100 == 2)
}

// attempts returns how many requests failed in a row.
func attempts(err error) int {
	var e *oakra.Error
	errors.As(err, &e)
	return max(1, e.Attempts)
}
