package oakra

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryPolicy says how often and after what wait a request is sent again, where
// the delivery table of the package documentation allows it. A field that is zero
// takes its default; MinBackoff and MaxBackoff are then lowered or raised to the
// other, if that is set.
type RetryPolicy struct {
	// MaxAttempts is how often a request is sent in all; the default is 4. With 1
	// nothing is sent again, except with a new key of [WithAppKeySource]. It holds
	// for each route: the first write of a client may have to look for the right one.
	// Within one attempt net/http may repeat a read by itself: on every idle
	// connection that it finds closed, and three times more.
	MaxAttempts int
	// MinBackoff and MaxBackoff bound the wait: before the second attempt it is
	// drawn evenly from 0 to MinBackoff, and the upper bound doubles with each
	// further attempt up to MaxBackoff. The defaults are 250 ms and 5 s.
	MinBackoff time.Duration
	MaxBackoff time.Duration
	// MaxRetryAfter is the longest Retry-After that is waited for; a longer one makes
	// the call fail at once. The default is 30 s.
	MaxRetryAfter time.Duration
}

const (
	defaultMaxAttempts   = 4
	defaultMinBackoff    = 250 * time.Millisecond
	defaultMaxBackoff    = 5 * time.Second
	defaultMaxRetryAfter = 30 * time.Second
)

func (p RetryPolicy) withDefaults() (RetryPolicy, error) {
	switch {
	case p.MaxAttempts < 0:
		return p, fmt.Errorf("RetryPolicy: MaxAttempts is %d, less than zero", p.MaxAttempts)
	case p.MinBackoff < 0 || p.MaxBackoff < 0 || p.MaxRetryAfter < 0:
		return p, errors.New("RetryPolicy: a duration is less than zero")
	case p.MaxBackoff != 0 && p.MinBackoff > p.MaxBackoff:
		return p, fmt.Errorf("RetryPolicy: MinBackoff %v is more than MaxBackoff %v", p.MinBackoff, p.MaxBackoff)
	}
	if p.MaxAttempts == 0 {
		p.MaxAttempts = defaultMaxAttempts
	}
	if p.MinBackoff == 0 {
		p.MinBackoff = defaultMinBackoff
		if p.MaxBackoff != 0 {
			p.MinBackoff = min(p.MinBackoff, p.MaxBackoff)
		}
	}
	if p.MaxBackoff == 0 {
		p.MaxBackoff = max(defaultMaxBackoff, p.MinBackoff)
	}
	if p.MaxRetryAfter == 0 {
		p.MaxRetryAfter = defaultMaxRetryAfter
	}
	return p, nil
}

// backoff draws the wait after the n-th failed attempt, n from 1: full jitter, so
// that clients that failed together do not come back together.
func (p RetryPolicy) backoff(n int) time.Duration {
	bound := p.MinBackoff
	for ; n > 1 && bound < p.MaxBackoff; n-- {
		bound *= 2
		if bound <= 0 { // overflow
			bound = p.MaxBackoff
		}
	}
	return rand.N(max(1, min(bound, p.MaxBackoff)))
}

// retryAfter reads the Retry-After header of a response (RFC 9110, section 10.2.3):
// seconds, of which a fraction is rounded up, or any of the three forms of an HTTP
// date, which counts from the response's own Date. Servers also send the Unix time.
// It returns 0 and says so if it cannot read the header.
func retryAfter(header http.Header, now time.Time) (wait time.Duration, problem string) {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0, ""
	}
	if whole, fraction, _ := strings.Cut(value, "."); isDigits(whole) && (fraction == "" || isDigits(fraction)) && !strings.HasSuffix(value, ".") {
		seconds, err := strconv.ParseInt(whole, 10, 64)
		if err != nil || seconds > maxSeconds-1 {
			return math.MaxInt64, ""
		}
		if strings.Trim(fraction, "0") != "" {
			seconds++
		}
		if at := time.Unix(seconds, 0); at.Sub(now).Abs() < aboutNow { // a Unix time: as a wait it would be decades
			return untilTime(at, header, now), ""
		}
		return time.Duration(seconds) * time.Second, ""
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, fmt.Sprintf("its Retry-After, %.40q, cannot be read", value)
	}
	return untilTime(at, header, now), ""
}

// untilTime returns how long it is until at by the server's clock.
func untilTime(at time.Time, header http.Header, now time.Time) time.Duration {
	if date, err := http.ParseTime(header.Get("Date")); err == nil {
		now = date
	}
	return max(0, at.Sub(now))
}

const (
	maxSeconds = int64(math.MaxInt64 / time.Second)
	aboutNow   = 366 * 24 * time.Hour
)

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
