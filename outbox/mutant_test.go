package outbox

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// mutants are protocols that look right but are wrong. The model must find a wrong or
// endless run of each in its scenario. Otherwise it would not find a fault of the
// shipped protocol either.
var mutants = []struct {
	name     string
	scenario string
	decide   decision
}{
	{"one witness", "a part applied", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		if e.kind == eventRead || e.kind == eventSent && e.result == resultApplied {
			e.tail = tailThatFits(r, d, e.head) // tail is ignored
		}
		return r.decide(d, e)
	}},
	{"codes used again at once", "lost responses", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		before := d
		d, p := r.decide(d, e)
		if e.kind != eventRead || p.task != taskSend {
			return d, p
		}
		// An attempt that a read does not show is given up, and the next attempt
		// gets its code.
		for i := range before.requests {
			for _, a := range before.requests[i].open {
				s := step{rules: r, dispatcher: before}
				s.requests = slices.Clone(before.requests)
				s.close(writeForget, a.id, true)
				s.code = r.codes - 1
				before = s.dispatcher
				before.code = (a.code + r.codes - 1) % r.codes
				next, plan := r.decide(before, e)
				plan.writes = append(s.plan.writes, plan.writes...)
				return next, plan
			}
		}
		return d, p
	}},
	{"16 in place of 11", "a part applied", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		return r.decide(d, e) // TestMutants sets the growth in the rules
	}},
	{"doubles not taken back", "late landings and stale reads", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		d, p := r.decide(d, e)
		for _, w := range p.writes {
			if w.kind == writeUndo {
				d.requests = slices.DeleteFunc(slices.Clone(d.requests), func(q request) bool { return q.id == w.request })
			}
		}
		if p.task == taskSend && !slices.ContainsFunc(d.requests, func(q request) bool { return q.id == p.request }) {
			p.task, p.until = taskWait, d.now
			p.writes = slices.DeleteFunc(p.writes, func(w write) bool { return w.kind == writeOpen })
		}
		p.writes = slices.DeleteFunc(p.writes, func(w write) bool { return w.kind == writeUndo })
		return d, p
	}},
	{"no read after a takeover", "a restored database", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		if e.kind != eventLed {
			return r.decide(d, e)
		}
		s := step{rules: r}
		s.take(e)
		s.unread, s.read = false, e.now
		s.choose(false)
		return s.dispatcher, s.plan
	}},
	{"codes that restart low after a takeover", "a restored database after lost requests", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		if e.kind == eventLed {
			e.ledger.code = r.codes - 1
		}
		return r.decide(d, e)
	}},
	{"row 8 without the Grace of A5", "old reads", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		r.forget--
		return r.decide(d, e)
	}},
	{"each process has its own Grace", "a longer Grace before", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		e.ledger.requests = slices.Clone(e.ledger.requests)
		for i := range e.ledger.requests {
			q := &e.ledger.requests[i]
			q.open = slices.Clone(q.open)
			for j := range q.open {
				q.open[j].grace = 0
			}
		}
		return r.decide(d, e)
	}},
	{"row 8 waits for its request", "writes that fail", func(r rules, d dispatcher, e event) (dispatcher, plan) {
		// No attempt of an unsettled request is ever old enough.
		if e.kind == eventRead {
			requests := slices.Clone(d.requests)
			for i := range requests {
				if q := &requests[i]; !q.settled() {
					q.open = slices.Clone(q.open)
					for j := range q.open {
						q.open[j].deadline = max(q.open[j].deadline, e.began-r.forget*r.graceOf(q.open[j]))
					}
				}
			}
			kept := d
			kept.requests = requests
			if _, p := r.decide(kept, e); !slices.ContainsFunc(p.writes, func(w write) bool { return w.kind == writeForget }) {
				r.forget = never / 64
			}
		}
		return r.decide(d, e)
	}},
}

// tailThatFits returns the tail that makes head look right on its own.
func tailThatFits(r rules, d dispatcher, head int64) int64 {
	tail := d.tail
	rest := head - d.head
	for code := range r.codes {
		if rest&(1<<code) == 0 {
			continue
		}
		for _, a := range d.attempts() {
			if a.code == code {
				rest -= a.move()
				tail += r.moveTail(a)
			}
		}
	}
	return tail
}

func TestMutants(t *testing.T) {
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == mutant.scenario })
			c := newChecker(scenarios[i], mutant.decide)
			if mutant.name == "codes that restart low after a takeover" {
				c.budget = c.more // the fault needs many lost requests
			}
			if mutant.name == "16 in place of 11" {
				c.rules.growth = 16
			}
			wrong := c.walk()
			require.NotEmpty(t, wrong, "no wrong run among %d states", len(c.seen))
			t.Logf("%s, after %d steps", wrong, len(c.trail))
		})
	}
}
