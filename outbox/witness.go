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
	sign     int64 // direction of the move: up (1) or down (-1)
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
// The codes of open attempts are distinct powers of two. The lowest bit of head that is
// set can therefore only come from the attempt with that code, and subtracting its move
// leaves the same problem with one bit less. Hence there is at most one solution. The
// growth of tail then counts the landings, which distinguishes a landing from a stale
// read and from a request that was applied in part.
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

// nextCode returns the next code after last that no open attempt has. Codes are used
// strictly in turn, because a code that is used again soon could be mistaken for the
// attempt that had it before.
func (r rules) nextCode(open []attempt, last int) (code int, ok bool) {
	for i := range r.codes {
		code := (last + 1 + i) % r.codes
		if !slices.ContainsFunc(open, func(a attempt) bool { return a.code == code }) {
			return code, true
		}
	}
	return 0, false
}

// nextSign returns the direction that moves head back to start. It is also upwards while
// tail is below start, because the shop may have given the witnesses any larger
// quantities, and tail moves twice as far as head.
func nextSign(head, tail int64) int64 {
	if head >= start && tail >= start {
		return -1
	}
	return 1
}

// looksCapped reports whether servers are likely to cap at a quantity, because it is the
// largest with some number of bits or decimal digits.
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
