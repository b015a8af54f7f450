package outbox

import (
	"encoding/binary"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// This model walks through every interleaving of dispatchers, a server, a network and a
// database, within a small budget of faults. The dispatchers use the shipped decision
// function. Every run must end with each change applied once, or halted for a fault that
// occurred in the run.

var deep = flag.Bool("deep", false, "walk about a million states of the model")

// budget is how often each fault may still occur in a run.
type budget struct {
	reset    int // responses that are lost; the request lands now, later or never
	lost     int // requests that never arrive, without a response
	refuse   int // connections that are refused
	busy     int // 429 and other responses that say that nothing was applied
	reject   int // rejections of the items
	lie      int // 200 responses although nothing is applied, or 400 although it is
	stale    int // reads that show an earlier moment
	torn     int // reads whose head and tail are from different moments
	unread   int // reads that fail
	database int // commits that fail, or whose reply is lost
	crash    int // processes that die, after which another one takes over
	takeover int // processes that are silent for their lease, and continue later
	restore  int // restores of the database from a backup
	hand     int // edits of a witness by a person
	prefix   int // requests of which the server applies only the first part
}

// scenario is a model to walk through.
type scenario struct {
	name    string
	changes int
	budget  budget
	more    budget  // budget with -deep
	late    instant // time after its deadline at which a request may land
	old     instant // age that a read may have; 0 means 1
	codes   int     // number of codes; 0 means 3
	code    int     // code that was used last before the run
	grace   instant // Grace of the first process, whose requests may land later by the difference; 0 means modelGrace
}

// The times of the model. As with the shipped rules, an attempt is remembered for Grace
// and the age of the oldest read, and longer if requests land later.
const (
	modelGrace  = 2
	modelForget = 3   // in multiples of Grace
	horizon     = 150 // longer than any run
)

func (s scenario) rules() rules {
	r := rules{codes: 3, growth: theRules.growth, timeout: 1, grace: modelGrace, forget: modelForget}
	if s.codes > 0 {
		r.codes = s.codes
	}
	return r
}

// decision is rules.decide, or a mutant of it.
type decision func(r rules, d dispatcher, e event) (dispatcher, plan)

// world is a state of the model.
type world struct {
	now    instant
	db     base
	backup *base
	head   int64 // quantity at the server
	tail   int64
	net    []int     // number of times that each change counts at the server
	shown  []showing // quantities of the witnesses over time
	flight []message
	procs  []proc
	left   budget
	blamed bool // whether a fault occurred for which a dispatcher must halt once it sees it
	wrong  string
}

type showing struct {
	since      instant
	head, tail int64
}

// message is a request on its way.
type message struct {
	move, moveTail int64
	content        content
	until          instant
}

// content is the change that a request adds (1) or takes back (-1).
type content struct{ change, delta int }

// base is the database.
type base struct {
	ledger  ledger
	epoch   int
	content map[int64]content // contents of the requests, by id
	changes []modelChange
}

type modelChange struct {
	state State
	want  int // number of times that it must count at the server in the end
}

// proc is a process that dispatches.
type proc struct {
	epoch    int
	d        dispatcher
	plan     plan
	commit   bool // whether the plan's writes still have to be committed
	message  message
	deadline instant
}

func (b base) clone() base {
	b.changes = slices.Clone(b.changes)
	content := make(map[int64]content, len(b.content))
	for id, c := range b.content {
		content[id] = c
	}
	b.content = content
	return b // the ledger is not cloned, because it is never changed in place
}

func (w world) clone() world {
	w.db = w.db.clone()
	w.net = slices.Clone(w.net)
	w.shown = slices.Clone(w.shown)
	w.flight = slices.Clone(w.flight)
	w.procs = slices.Clone(w.procs)
	return w
}

// key identifies the state. It leaves out everything that has no influence in the model.
func (w *world) key() string {
	b := make([]byte, 0, 512)
	add := func(all ...int64) {
		for _, n := range all {
			b = binary.AppendVarint(b, n)
		}
	}
	flag := func(x bool) int64 {
		if x {
			return 1
		}
		return 0
	}
	addLedger := func(l *ledger) {
		add(l.head, l.tail, int64(l.code), l.lastID, flag(l.halted != ""), int64(len(l.requests)))
		for _, q := range l.requests {
			add(q.id, int64(q.state), q.tried, int64(len(q.open)))
			for _, a := range q.open {
				add(a.id, int64(a.code), a.sign, a.deadline, a.grace)
			}
		}
	}
	addBase := func(d *base) {
		addLedger(&d.ledger)
		add(int64(d.epoch))
		for id := range d.ledger.lastID + 1 {
			add(int64(d.content[id].change), int64(d.content[id].delta))
		}
		for _, c := range d.changes {
			b = append(append(b, c.state...), byte(c.want))
		}
	}
	add(w.now, w.head, w.tail, flag(w.blamed))
	addBase(&w.db)
	if w.backup != nil {
		addBase(w.backup)
	}
	add(-1)
	for _, n := range w.net {
		add(int64(n))
	}
	for _, s := range w.shown {
		add(s.since, s.head, s.tail)
	}
	add(-1)
	for _, m := range w.flight {
		add(m.move, m.moveTail, int64(m.content.change), int64(m.content.delta), m.until)
	}
	for _, p := range w.procs {
		m, l := p.d.memory, p.plan
		add(-2, int64(p.epoch), flag(p.commit), int64(l.task), l.request, l.attempt, l.until, p.deadline)
		add(m.now, flag(m.unread), m.read, m.readAfter, m.sendAfter, int64(m.badReads), m.badSince, int64(m.verdict), m.refused, flag(m.pending), flag(m.again))
		addLedger(&p.d.ledger)
		for _, o := range l.writes {
			add(int64(o.kind), o.request, o.attempt.id, o.undoes)
		}
	}
	l := w.left
	add(-3)
	for _, n := range []int{l.reset, l.lost, l.refuse, l.busy, l.reject, l.lie, l.stale, l.torn, l.unread, l.database, l.crash, l.takeover, l.restore, l.hand, l.prefix} {
		add(int64(n))
	}
	return string(b)
}

// checker walks through a scenario.
type checker struct {
	scenario
	rules  rules
	decide decision
	seen   map[string]bool // states that were reached; true while runs through them are walked
	trail  []string
	ends   map[string]int
}

func newChecker(s scenario, decide decision) *checker {
	return &checker{scenario: s, rules: s.rules(), decide: decide, seen: make(map[string]bool), ends: make(map[string]int)}
}

// walk returns what is wrong with a run, or "" if all runs are right.
func (c *checker) walk() string {
	b := c.budget
	if *deep {
		b = c.more
	}
	w := world{
		head: start, tail: start, net: make([]int, c.changes), left: b,
		shown: []showing{{0, start, start}},
		db:    base{ledger: ledger{code: c.code, head: start, tail: start}, content: map[int64]content{}},
	}
	for range c.changes {
		w.db.changes = append(w.db.changes, modelChange{StatePending, 1})
	}
	w.takeOver(c)
	return c.visit(&w)
}

func (c *checker) visit(w *world) string {
	if w.wrong != "" {
		return w.wrong
	}
	if w.now > horizon {
		return "endless: time runs out"
	}
	key := w.key()
	if open, ok := c.seen[key]; ok {
		if open {
			return "endless: a circle"
		}
		return ""
	}
	c.seen[key] = true
	next := c.next(w)
	if len(next) == 0 {
		if wrong := c.end(w); wrong != "" {
			return wrong
		}
	}
	for _, n := range next {
		c.trail = append(c.trail, n.label)
		if wrong := c.visit(&n.world); wrong != "" {
			return wrong
		}
		c.trail = c.trail[:len(c.trail)-1]
	}
	c.seen[key] = false
	return ""
}

// end checks a state after which nothing more happens.
func (c *checker) end(w *world) string {
	if w.db.ledger.halted != "" {
		c.ends["halted"]++
		if !w.blamed {
			return "halted without a cause: " + w.db.ledger.halted
		}
		return ""
	}
	for i, change := range w.db.changes {
		if change.state != StateApplied && change.state != StateParked {
			return fmt.Sprintf("endless: change %d is left %s", i, change.state)
		}
		if (change.state == StateApplied) != (change.want == 1) {
			return fmt.Sprintf("change %d is %s but is to count %d times", i, change.state, change.want)
		}
		if w.net[i] != change.want {
			return fmt.Sprintf("change %d counts %d times, is %s", i, w.net[i], change.state)
		}
		c.ends[string(change.state)]++
	}
	return ""
}

// successor is a state that can follow.
type successor struct {
	label string
	world world
}

// next returns the states that can follow. There are none at the end of a run.
func (c *checker) next(w *world) []successor {
	var all []successor
	// then adds a successor if the budget that is left allows it.
	then := func(left *int, label string, do func(n *world)) {
		if left != nil && *left == 0 {
			return
		}
		spent := w.left
		if left != nil {
			*left--
		}
		n := w.clone()
		w.left = spent
		do(&n)
		all = append(all, successor{label, n})
	}
	if w.db.ledger.halted != "" {
		return nil
	}
	for i := range w.flight {
		then(nil, "a late request lands", func(n *world) {
			m := n.flight[i]
			n.flight = slices.Delete(n.flight, i, i+1)
			n.land(m)
		})
	}
	for i := range w.procs {
		c.nextOf(w, i, then)
	}
	if len(w.procs) == 1 {
		then(&w.left.crash, "crash", func(n *world) { n.procs = nil; n.takeOver(c) })
		then(&w.left.takeover, "takeover", func(n *world) { n.takeOver(c) })
	}
	if w.backup == nil && w.left.restore > 0 {
		then(nil, "backup", func(n *world) { b := n.db.clone(); n.backup = &b })
	} else if len(w.flight) == 0 { // A4
		then(&w.left.restore, "restore", func(n *world) {
			epoch := n.db.epoch
			n.db, n.procs, n.blamed = n.backup.clone(), nil, true
			n.db.epoch = epoch
			n.takeOver(c)
		})
	}
	for _, edit := range []int64{-9, -1, 1, 8, 9} {
		then(&w.left.hand, fmt.Sprintf("a hand adds %d to head", edit), func(n *world) { n.edit(edit, 0) })
		then(&w.left.hand, fmt.Sprintf("a hand adds %d to tail", edit), func(n *world) { n.edit(0, edit) })
	}
	if len(w.flight) == 0 && len(all) > 0 && c.idle(w) {
		// Only time can pass now, and the faults that are left need not occur.
		return append(all, successor{"the end", w.ended()})
	}
	return all
}

// idle reports whether every process waits for nothing.
func (c *checker) idle(w *world) bool {
	return !slices.ContainsFunc(w.procs, func(p proc) bool { return p.commit || p.plan.task != taskWait || p.plan.until != never }) &&
		len(w.procs) > 0 && !w.pending()
}

// ended returns w without any budget for faults.
func (w *world) ended() world {
	n := w.clone()
	n.left = budget{}
	return n
}

type thenFunc func(left *int, label string, do func(n *world))

// nextOf adds the states that process i can lead to.
func (c *checker) nextOf(w *world, i int, then thenFunc) {
	p := &w.procs[i]
	name := fmt.Sprintf("p%d ", p.epoch)
	if p.commit {
		then(nil, name+"commits", func(n *world) {
			if n.commit(i) {
				n.procs[i].commit = false
				c.ready(n, i)
			}
		})
		c.databaseFails(w, i, name+"commit", then, func(n *world) { n.commit(i) })
		return
	}
	switch p.plan.task {
	case taskWait:
		c.nextWait(w, i, name, then)
	case taskRead:
		c.nextRead(w, i, name, then)
	case taskSend:
		c.nextSend(w, i, name, then)
	case taskForm:
		then(nil, name+"forms a request", func(n *world) {
			if id, ok := n.form(i); ok {
				c.happen(n, i, event{kind: eventFormed, request: id})
			}
		})
		c.databaseFails(w, i, name+"forming", then, func(n *world) { n.form(i) })
	case taskReject:
		for _, split := range []bool{false, true} {
			then(nil, fmt.Sprintf("%sreplaces a request, split %v", name, split), func(n *world) {
				p := n.procs[i].plan
				if n.replace(i, split) {
					c.happen(n, i, event{kind: eventReplaced, request: p.request, attempt: p.attempt, parts: map[bool]int64{true: 1}[split]})
				}
			})
			c.databaseFails(w, i, name+"replacing", then, func(n *world) { n.replace(i, split) })
		}
	}
}

// databaseFails adds a transaction that fails and one whose reply is lost.
func (c *checker) databaseFails(w *world, i int, label string, then thenFunc, do func(n *world)) {
	then(&w.left.database, label+" fails", func(n *world) { c.reload(n, i) })
	then(&w.left.database, label+"'s reply is lost", func(n *world) {
		count := len(n.procs)
		if do(n); len(n.procs) == count {
			c.reload(n, i)
		}
	})
}

func (c *checker) nextWait(w *world, i int, name string, then thenFunc) {
	until := w.procs[i].plan.until
	if until == never {
		if !w.pending() {
			return
		}
		until = w.now
	}
	then(nil, fmt.Sprintf("%swaits until %d", name, until), func(n *world) {
		n.now = max(n.now, until)
		n.flight = slices.DeleteFunc(n.flight, func(m message) bool { return m.until < n.now })
		for len(n.shown) > 1 && n.shown[1].since < n.now-max(c.old, 1) {
			n.shown = n.shown[1:]
		}
		c.happen(n, i, event{kind: eventWoken, pending: n.pending()})
	})
}

func (c *checker) nextRead(w *world, i int, name string, then thenFunc) {
	read := func(head, tail showing) func(n *world) {
		return func(n *world) {
			c.happen(n, i, event{kind: eventRead, began: n.now, head: head.head, tail: tail.tail})
		}
	}
	newest := w.shown[len(w.shown)-1]
	then(nil, name+"reads", read(newest, newest))
	then(&w.left.unread, name+"read fails", func(n *world) {
		n.now++
		c.happen(n, i, event{kind: eventReadFail})
	})
	if w.procs[i].d.badReads == minReads-1 {
		return // three stale reads in a row halt the outbox, which A3 covers too
	}
	for j, old := range w.shown[:len(w.shown)-1] {
		then(&w.left.stale, fmt.Sprintf("%sreads what was shown %d landings ago", name, len(w.shown)-1-j), read(old, old))
		for _, other := range w.shown[j+1:] {
			then(&w.left.torn, name+"reads an older head", read(old, other))
			then(&w.left.torn, name+"reads an older tail", read(other, old))
		}
	}
}

func (c *checker) nextSend(w *world, i int, name string, then thenFunc) {
	p := &w.procs[i]
	sent := func(n *world, r result) {
		c.happen(n, i, event{kind: eventSent, attempt: p.plan.attempt, result: r, head: n.head, tail: n.tail})
	}
	if w.now > p.deadline { // the context of the attempt has ended
		then(nil, name+"is too late to send", func(n *world) { sent(n, resultUnsent) })
		return
	}
	then(nil, name+"sends", func(n *world) {
		n.check(c, *p)
		n.land(p.message)
		sent(n, resultApplied)
	})
	then(&w.left.reset, name+"sends, and the response is lost", func(n *world) { n.land(p.message); sent(n, resultUnknown) })
	then(&w.left.reset, name+"sends, and nothing is known", func(n *world) {
		n.flight = append(n.flight, p.message)
		sent(n, resultUnknown)
	})
	then(&w.left.lost, name+"sends, and nothing arrives", func(n *world) { sent(n, resultUnknown) })
	then(&w.left.refuse, name+"is refused a connection", func(n *world) { sent(n, resultUnsent) })
	then(&w.left.busy, name+"is told to wait", func(n *world) { sent(n, resultBusy) })
	then(&w.left.reject, name+"is rejected", func(n *world) { sent(n, resultRejected) })
	then(&w.left.lie, name+"is told 200, and nothing is applied", func(n *world) { sent(n, resultApplied) })
	then(&w.left.lie, name+"is told 400, and it is applied", func(n *world) { n.land(p.message); sent(n, resultRejected) })
	then(&w.left.lie, name+"is told 429, and it is applied", func(n *world) { n.land(p.message); sent(n, resultBusy) })
	for _, item := range []bool{false, true} {
		then(&w.left.prefix, fmt.Sprintf("%ssends, and head is applied, the item %v", name, item), func(n *world) {
			m := p.message
			m.moveTail = 0
			if !item {
				m.content.delta = 0
			}
			n.land(m)
			n.blamed = true
			sent(n, resultUnknown)
		})
	}
}

// check finds a request that must not be sent now, because the server shows what a
// restored database cannot explain, or because an earlier attempt is still in flight.
func (w *world) check(c *checker, p proc) {
	l := &w.db.ledger
	if w.blamed && c.budget.restore > 0 {
		if _, ok := c.rules.reconcile(l.attempts(), w.head-l.head, w.tail-l.tail); !ok {
			w.wrong = "a request is sent after the database was set back"
		}
	}
	for _, q := range p.d.requests {
		for _, a := range q.open {
			if q.id == p.plan.request && a.id != p.plan.attempt && w.now <= a.deadline+c.rules.graceOf(a) {
				w.wrong = "a request is sent again too early"
			}
		}
	}
}

// takeOver starts a process that has loaded the ledger.
func (w *world) takeOver(c *checker) {
	w.db.epoch++
	w.procs = append(w.procs, proc{epoch: w.db.epoch})
	c.reload(w, len(w.procs)-1)
}

// reload loads the ledger again, as a process does after a database error.
func (c *checker) reload(w *world, i int) {
	if w.fenced(i) {
		return
	}
	c.happen(w, i, event{kind: eventLed, ledger: w.db.ledger, pending: w.pending()})
}

// happen lets a process decide.
func (c *checker) happen(w *world, i int, e event) {
	e.now = w.now
	p := &w.procs[i]
	before := p.d.ledger
	if e.kind == eventLed {
		before = e.ledger
	}
	r := c.rules
	if p.epoch == 1 && c.grace > 0 {
		r.grace = c.grace
	}
	d, plan := c.decide(r, p.d, e)
	d.counts, d.failures, d.readFails = counts{}, 0, 0 // these have no influence without pauses
	p.d, p.plan = d, plan
	p.commit = len(plan.writes) > 0 || d.head != before.head || d.tail != before.tail || d.halted != before.halted
	if !p.commit {
		c.ready(w, i)
	}
}

// ready prepares the task of a plan whose writes are committed.
func (c *checker) ready(w *world, i int) {
	p := &w.procs[i]
	switch p.plan.task {
	case taskStop:
		w.procs = slices.Delete(w.procs, i, i+1)
	case taskSend:
		for _, a := range p.d.attempts() {
			if a.id == p.plan.attempt {
				p.deadline = a.deadline
				p.message = message{move: a.move(), moveTail: c.rules.moveTail(a), content: w.db.content[p.plan.request], until: a.deadline + c.late + a.grace - modelGrace}
			}
		}
	}
}

// fenced ends a process if another one took over.
func (w *world) fenced(i int) bool {
	if w.procs[i].epoch == w.db.epoch && w.db.ledger.halted == "" {
		return false
	}
	w.procs = slices.Delete(w.procs, i, i+1)
	return true
}

// commit carries out the writes of a plan.
func (w *world) commit(i int) bool {
	if w.fenced(i) {
		return false
	}
	p := w.procs[i]
	w.db.ledger = p.d.ledger
	for _, o := range p.plan.writes {
		switch o.kind {
		case writeApplied:
			if c := w.db.content[o.request]; c.delta == 1 && w.db.changes[c.change].state == StateSent {
				w.db.changes[c.change].state = StateApplied
			}
		case writeUndo:
			undone := w.db.content[o.undoes]
			w.db.content[o.request] = content{undone.change, -undone.delta}
		}
	}
	return true
}

// form puts the first pending change into a request and returns the request's ID, or 0
// if no change is pending.
func (w *world) form(i int) (id int64, ok bool) {
	if w.fenced(i) {
		return 0, false
	}
	k := slices.IndexFunc(w.db.changes, func(c modelChange) bool { return c.state == StatePending })
	if k < 0 {
		return 0, true
	}
	id = w.procs[i].plan.request
	w.db.changes[k].state = StateSent
	w.db.content[id] = content{k, 1}
	w.add(request{id: id})
	return id, true
}

// replace parks the change of a rejected request, or moves it to another request, as
// splitting does.
func (w *world) replace(i int, split bool) bool {
	if w.fenced(i) {
		return false
	}
	id := w.procs[i].plan.request
	w.db.ledger.requests = slices.Clone(w.db.ledger.requests)
	for j := range w.db.ledger.requests {
		if q := &w.db.ledger.requests[j]; q.id == id {
			q.state = requestReplaced
		}
	}
	content := w.db.content[id]
	if split {
		child := w.db.ledger.lastID + 1
		w.db.content[child] = content
		w.add(request{id: child})
		return true
	}
	c := &w.db.changes[content.change]
	c.want -= content.delta
	if c.state = StateParked; c.want == 1 {
		c.state = StateApplied
	}
	return true
}

func (w *world) add(q request) {
	w.db.ledger.requests = append(slices.Clone(w.db.ledger.requests), q)
	w.db.ledger.lastID = q.id
}

func (w *world) pending() bool {
	return slices.ContainsFunc(w.db.changes, func(c modelChange) bool { return c.state == StatePending })
}

func (w *world) land(m message) {
	w.net[m.content.change] += m.content.delta
	w.head += m.move
	w.tail += m.moveTail
	w.shown = append(w.shown, showing{w.now, w.head, w.tail})
}

func (w *world) edit(head, tail int64) {
	w.head += head
	w.tail += tail
	w.shown = append(w.shown, showing{w.now, w.head, w.tail})
	w.blamed = true
}

// scenarios are small enough to walk through every run.
var scenarios = []scenario{
	{name: "lost responses", changes: 2, late: modelGrace,
		budget: budget{reset: 2, unread: 1}, more: budget{reset: 5, unread: 1}},
	{name: "late landings and stale reads", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 2, stale: 1}, more: budget{reset: 3, stale: 2, lost: 1}},
	{name: "a longer Grace before", changes: 2, late: modelGrace, grace: 4 * modelGrace,
		budget: budget{reset: 2, crash: 1}, more: budget{reset: 3, crash: 1, stale: 1}},
	{name: "old reads", changes: 1, late: modelGrace, old: (modelForget - 1) * modelGrace,
		budget: budget{reset: 2, stale: 3}, more: budget{reset: 3, stale: 4}},
	{name: "two moments", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 2, torn: 1}, more: budget{reset: 3, torn: 2, lost: 1}},
	{name: "crashes", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 1, crash: 1, database: 1}, more: budget{reset: 2, crash: 2, database: 1}},
	{name: "takeovers", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 1, takeover: 1}, more: budget{reset: 1, takeover: 1, database: 1}},
	{name: "not applied", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 1, refuse: 1, busy: 1, lie: 1}, more: budget{reset: 2, refuse: 1, busy: 1, lie: 1}},
	{name: "rejections", changes: 2, late: modelGrace + 2,
		budget: budget{reset: 2, reject: 1}, more: budget{reset: 2, reject: 2, database: 1}},
	{name: "rejections that were applied", changes: 1, late: modelGrace + 2,
		budget: budget{reset: 1, lie: 1, reject: 1, database: 1}, more: budget{reset: 2, lie: 2, reject: 2}},
	{name: "a restored database", changes: 2, late: modelGrace, codes: 6,
		budget: budget{reset: 1, restore: 1}, more: budget{reset: 2, restore: 1, database: 1}},
	{name: "a restored database after a takeover", changes: 2, late: modelGrace, codes: 6,
		budget: budget{reset: 1, restore: 1, crash: 1}, more: budget{reset: 2, restore: 1, crash: 1}},
	{name: "a restored database after lost requests", changes: 2, codes: 8, code: 7,
		budget: budget{lost: 3, restore: 1, crash: 1}, more: budget{lost: 5, restore: 1, crash: 1}},
	{name: "a foreign hand", changes: 2, late: modelGrace,
		budget: budget{reset: 1, hand: 1}, more: budget{reset: 2, hand: 1, stale: 1}},
	{name: "a part applied", changes: 2, late: modelGrace, codes: 4, code: 2,
		budget: budget{reset: 1, prefix: 1}, more: budget{reset: 2, prefix: 1, unread: 1}},
	{name: "writes that fail", changes: 1, late: modelGrace, codes: 2,
		budget: budget{reset: 4}, more: budget{reset: 7}},
}

func TestModel(t *testing.T) {
	total := 0
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			c := newChecker(s, rules.decide)
			wrong := c.walk()
			require.Empty(t, wrong, "%s", strings.Join(c.trail, "\n"))
			require.Positive(t, c.ends[string(StateApplied)])
			total += len(c.seen)
			t.Logf("%d states, ends: %v", len(c.seen), c.ends)
		})
	}
	t.Logf("%d states", total)
}
