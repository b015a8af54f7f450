package outbox

import "slices"

// start is the quantity that a shop gives each witness when it creates it. Every
// request moves head up or down, whichever leads back to start, so that neither
// witness comes near zero or a limit of the server.
const start = 200_000

// instant is a time in milliseconds, by the database's clock.
type instant = int64

// attempt is one call of Change for a request. Until it is known to have landed,
// proved unsent, or forgotten, it is open: it may still land.
type attempt struct {
	id       int64
	code     int   // the attempt moves head by 2 to the power of code
	sign     int64 // up (1) or down (-1)
	deadline instant
	grace    instant // Grace of the process that opened it
}

// move returns what a landing of a adds to head.
func (a attempt) move() int64 { return a.sign << a.code }

// moveTail returns what a landing of a adds to tail.
func (r rules) moveTail(a attempt) int64 { return 2*a.move() + r.growth }

// reconcile returns which of the open attempts landed, given how far head and tail
// are from their recorded quantities. It reports false if no set of open attempts
// explains the two differences.
//
// The codes of open attempts are distinct powers of two, so the lowest bit of head
// that is set can only come from the attempt with that code; taking its move away
// leaves the same problem with one bit less. That is why there is at most one
// solution. The growth of tail then counts the landings, which tells a stale read
// or a request that was applied in part from a landing.
func (r rules) reconcile(open []attempt, head, tail int64) (landed []int64, ok bool) {
	grown := tail - 2*head
	for code := range r.codes {
		if head&(1<<code) == 0 {
			continue
		}
		i := slices.IndexFunc(open, func(a attempt) bool { return a.code == code })
		if i < 0 {
			return nil, false
		}
		head -= open[i].move()
		landed = append(landed, open[i].id)
	}
	return landed, head == 0 && grown == r.growth*int64(len(landed))
}

// nextCode returns the code after last, in turn, that no open attempt has. Codes
// go around strictly in turn because a code that is used again soon could be
// mistaken for the attempt that had it before.
func (r rules) nextCode(open []attempt, last int) (code int, ok bool) {
	for i := range r.codes {
		code := (last + 1 + i) % r.codes
		if !slices.ContainsFunc(open, func(a attempt) bool { return a.code == code }) {
			return code, true
		}
	}
	return 0, false
}

// nextSign returns the direction that leads head back to start. It leads upwards
// also while tail is below start: the shop may have given the witnesses any larger
// quantities, and tail moves twice as far as head.
func nextSign(head, tail int64) int64 {
	if head >= start && tail >= start {
		return -1
	}
	return 1
}

// looksCapped reports whether a quantity is one at which servers cap: the largest
// of some number of bits or of decimal digits.
func looksCapped(quantity int64) bool {
	for bits := 15; bits < 63; bits++ {
		if quantity == 1<<bits-1 {
			return true
		}
	}
	for nines := int64(99_999); nines <= 999_999_999_999; nines = nines*10 + 9 {
		if quantity == nines {
			return true
		}
	}
	return false
}
