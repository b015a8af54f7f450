// Package hold has what the writes of package oakra and the reads of package
// stocksync have in common while they wait for a service that does not respond:
// nothing is sent then except probes.
package hold

import (
	"math/rand/v2"
	"time"
)

// The numbers of a hold.
const (
	InARow   = 2                // failed requests in a row that begin a hold
	ProbeSKU = "oakra-go-probe" // the SKU that a probe lists, which changes nothing
	ProbeFor = 5 * time.Second  // longest time that a probe takes
	Timeout  = time.Minute      // default of an OutageTimeout

	firstWait  = 100 * time.Millisecond // longest wait after the first probe
	lastWait   = 5 * time.Second        // longest wait after any
	afterTrial = time.Second            // longest wait after a trial, at least
)

// Clock says when the next probe of a hold is due.
type Clock struct {
	Since   time.Time // beginning of the hold
	Next    time.Time // time of the next probe
	longest time.Duration
}

// Start begins a hold. The first probe is due at once.
func Start() Clock {
	now := time.Now()
	return Clock{Since: now, Next: now, longest: firstWait}
}

// ProbeFailed sets the time of the next probe, with full jitter and a longer wait than
// before.
func (c *Clock) ProbeFailed() {
	c.Next = time.Now().Add(rand.N(c.longest))
	c.longest = min(2*c.longest, lastWait)
}

// TrialFailed is ProbeFailed for a request that failed although the probe before it
// did not.
func (c *Clock) TrialFailed() {
	c.longest = max(c.longest, afterTrial)
	c.ProbeFailed()
}
