package oakratest

import (
	"errors"
	"time"
)

var processStart = time.Now()

// inBubble reports whether it is called in a bubble of testing/synctest, whose clock
// begins at the year 2000. Outside of a bubble the result of Since is not negative, even
// if the wall clock is set back, since both times have a monotonic clock reading.
func inBubble() bool { return time.Since(processStart) < 0 }

// errOtherBubble does not name the package, since a client cuts out texts that look
// like the app key.
var errOtherBubble = errors.New("a fake server made in a synctest bubble can be used only there, and one made outside only outside")

// checkBubble returns an error if the server was made in a bubble and the caller is
// outside, or the reverse. The program would crash if one woke the other.
func (s *Server) checkBubble() error {
	if inBubble() != s.bubble {
		return errOtherBubble
	}
	return nil
}
