package oakra

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// pace holds back the requests of one bulk run after a 429: all of them for as
// long as the server asks, and then one after the other with a gap that shrinks
// with each success. Once the run is over, none begins. A nil pace, of a single
// call, holds nothing back.
type pace struct {
	open context.Context // ends when the run lets no further attempt begin; its cause says why

	mu    sync.Mutex
	next  time.Time     // when the next request may start
	gap   time.Duration // between two that start
	eased time.Time     // when the last one succeeded
}

const (
	minGap = 10 * time.Millisecond
	maxGap = time.Second

	// As long after a success, the run is under way, and a 429 only means not so fast.
	easedFor = time.Minute

	// So many times RetryPolicy.MaxAttempts a request is sent at most even then:
	// it may be this one alone that the server never admits.
	mostPaced = 10
)

// bound returns ctx, which then ends too when the run lets no further attempt begin.
// The caller calls done.
func (p *pace) bound(ctx context.Context) (bounded context.Context, done func()) {
	if p == nil {
		return ctx, func() {}
	}
	bounded, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.open, func() { cancel(context.Cause(p.open)) })
	return bounded, func() {
		stop()
		cancel(nil)
	}
}

// stopped returns why the run lets no further attempt begin, or nil while it does.
func (p *pace) stopped() error {
	if p == nil || p.open.Err() == nil {
		return nil
	}
	return context.Cause(p.open)
}

// wait returns when a request may start, or an error if the context will have
// ended by then.
func (p *pace) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	for {
		wait := p.take()
		if wait <= 0 {
			return nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return fmt.Errorf("the server slows the run beyond the context's deadline: %w", context.DeadlineExceeded)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C: // by now another may have started, or been told to wait
		case <-ctx.Done():
			timer.Stop()
			return contextError(ctx)
		}
	}
}

// take lets a request start, or returns how long to wait before asking again.
func (p *pace) take() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if wait := p.next.Sub(now); wait > 0 {
		return wait
	}
	p.next = now.Add(p.gap)
	return 0
}

// note adapts the pace to an attempt that has ended with e, nil after a success,
// and is sent again after the wait.
func (p *pace) note(e *Error, wait time.Duration, policy RetryPolicy) {
	switch {
	case p == nil:
	case e == nil:
		p.ease()
	case e.StatusCode == http.StatusTooManyRequests && e.RetryAfter <= policy.MaxRetryAfter: // a longer one ends the run instead
		p.slow(max(wait, e.RetryAfter))
	}
}

// slow takes a 429 that asks to wait.
func (p *pace) slow(wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gap = min(max(2*p.gap, minGap), maxGap)
	if until := time.Now().Add(max(wait, p.gap)); until.After(p.next) {
		p.next = until
	}
}

// ease takes a success.
func (p *pace) ease() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eased = time.Now()
	if p.gap -= p.gap / 8; p.gap < minGap {
		p.gap = 0
	}
}

// underWay reports whether requests of the run succeed.
func (p *pace) underWay() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.eased.IsZero() && time.Since(p.eased) < easedFor
}
