package outbox

import (
	"cmp"
	"fmt"
	"slices"
)

// This file decides what a dispatcher does. The decision is a pure function of what the
// dispatcher knows and of what just happened, without a database, a clock or a
// network. The code in run.go carries it out, and the model in model_test.go calls the
// same function. Row numbers refer to the list in the package documentation.

// rules are the numbers by which a dispatcher decides.
type rules struct {
	codes   int     // number of codes
	growth  int64   // amount that every landing adds to tail - 2*head
	timeout instant // timeout of one attempt
	grace   instant // time after its deadline at which an attempt may still land
	forget  instant // time after its deadline for which an attempt is remembered, in multiples of grace
	pause   instant // pause after the first failure; doubled by each further one
	setup   instant // pause after the first failure that only a change of the setup ends
	longest instant // longest of these pauses
	look    instant // interval at which to check whether pending changes can be sent
	blind   bool    // whether there are no witnesses
}

// requestState is the state of a request in the database.
type requestState int

const (
	requestQueued   requestState = iota // without an open attempt
	requestOpen                         // sent, and not known to have landed
	requestApplied                      // landed
	requestReplaced                     // rejected or parked; its changes are parked, or in requests that replace it
)

// request is a request that is not settled, or has an attempt that may still land.
type request struct {
	id    int64
	state requestState
	tried int64     // newest attempt; 0 if none
	open  []attempt // open attempts
}

func (q *request) settled() bool { return q.state >= requestApplied }

// quiet returns the latest time at which an open attempt of q may still land, by A5, or
// 0 if none is open.
func (r rules) quiet(q *request) instant {
	var last instant
	for _, a := range q.open {
		last = max(last, a.deadline+r.graceOf(a))
	}
	return last
}

// graceOf returns how long after its deadline an attempt may land. If this process and
// the one that opened the attempt have different Graces, the longer one applies.
func (r rules) graceOf(a attempt) instant { return max(r.grace, a.grace) }

// ledger is what the database knows about an account's requests. Every change to it is
// committed before anything that depends on it is done.
type ledger struct {
	head, tail int64     // recorded quantities; both 0 before the first read
	code       int       // code that was used last
	lastID     int64     // last number of a request or attempt, which share their numbers
	halted     string    // reason for the halt; "" while the account works
	requests   []request // requests, sorted by id
	counts     counts
}

// counts holds the numbers that Status reports since the account's first use.
type counts struct{ requests, unknown, compensated, rejected int64 }

// memory is what a dispatcher knows in addition to the ledger. It is empty after every
// start, takeover and database error.
type memory struct {
	now       instant
	unread    bool    // whether a read of the witnesses must be reconciled before anything is sent
	read      instant // beginning of the newest reconciled read
	readAfter instant // earliest time of the next read
	sendAfter instant // earliest time of the next attempt
	failures  int     // number of attempts in a row that did not land
	readFails int     // number of reads in a row that failed
	badReads  int     // number of reads in a row that could not be reconciled
	badSince  instant // beginning of the first of these reads
	verdict   result  // result of the attempt refused, to be acted on after a read; resultUnknown if there is none
	refused   int64
	pending   bool // whether there may be changes that are in no request
	again     bool // whether the next request is one that was tried before
}

// dispatcher is the state of a dispatcher.
type dispatcher struct {
	ledger
	memory
}

// result is how an attempt ended.
type result int

const (
	resultUnknown  result = iota // may have landed, and may still land
	resultApplied                // success that shows the witnesses
	resultUnsent                 // not sent, because no connection was established
	resultBusy                   // not applied; to be sent again later
	resultSetup                  // not applied, because of the key, the address or the like
	resultRejected               // not applied, because of its items or their number
)

// eventKind says what happened.
type eventKind int

const (
	eventLed      eventKind = iota // the ledger was loaded, at a start, at a takeover or after a database error
	eventWoken                     // time has passed, or changes were added
	eventRead                      // the witnesses were read
	eventReadFail                  // a read failed
	eventSent                      // an attempt ended
	eventFormed                    // pending changes were put into a new request, or into none
	eventReplaced                  // a request was replaced by the given number of others
	eventParked                    // without witnesses: a request was parked
	eventRequeued                  // a rejection turned out not to be the fault of the items
	eventFailed                    // replacing or forming a request failed
	eventHalt                      // a problem that the witnesses do not show needs a person
)

// event is what happened, with its details. The comment of a field begins with the event
// kinds that set it.
type event struct {
	kind       eventKind
	now        instant
	stopping   bool    // all: whether no further attempt may begin
	ledger     ledger  // led
	pending    bool    // led, woken: whether changes are pending; formed: whether they have to wait
	began      instant // read: beginning of the read
	missing    string  // read: witness that does not exist
	head, tail int64   // read, and sent with resultApplied
	attempt    int64   // sent, replaced, parked, requeued
	result     result  // sent
	setup      bool    // readFail, failed: whether only a change of the setup helps
	wait       instant // sent: time that the server asks to wait
	request    int64   // formed (0 for none), replaced, parked
	parts      int64   // replaced: number of new requests that replace it
	reason     string  // halt
}

// task is what a dispatcher does next.
type task int

const (
	taskNone   task = iota
	taskWait        // wait until a time, or until woken
	taskRead        // read the witnesses
	taskSend        // send an attempt, which the plan's writes make durable first
	taskForm        // put pending changes into a request of this id
	taskReject      // park or split a request whose attempt was rejected
	taskPark        // without witnesses: park a request whose outcome is unknown
	taskStop        // stop, because the process ends or the account is halted
)

// plan is what to do: first the writes, in one transaction, and then the task.
type plan struct {
	writes  []write
	task    task
	request int64 // send, form, reject, park
	attempt int64 // send, reject, park
	until   instant
}

// writeKind is a kind of change to the tables.
type writeKind int

const (
	writeOpen    writeKind = iota // a new attempt of a request
	writeLanded                   // an attempt landed
	writeUnsent                   // an attempt certainly did not land
	writeForget                   // an attempt can no longer land
	writeQueued                   // a request no longer has an open attempt
	writeApplied                  // a request landed, and its changes are applied
	writeUndo                     // a new request that takes back another
)

// write is a change to the tables. The ledger's numbers are saved with it.
type write struct {
	kind    writeKind
	request int64
	attempt attempt
	undoes  int64
}

// never is later than every time.
const never = instant(1) << 62

// minReads is how many reads in a row must disagree with the ledger before the outbox
// halts.
const minReads = 3

// decide returns the dispatcher after an event, and what it must do next.
func (r rules) decide(d dispatcher, e event) (dispatcher, plan) {
	s := step{rules: r, dispatcher: d}
	s.requests = slices.Clone(d.requests) // with(…) clones what it changes
	s.take(e)
	if s.plan.task == taskNone {
		s.choose(e.stopping)
	}
	s.requests = slices.DeleteFunc(s.requests, func(q request) bool { return q.settled() && len(q.open) == 0 })
	return s.dispatcher, s.plan
}

// step is a decision that is being made.
type step struct {
	rules
	dispatcher
	plan plan
}

// take updates the dispatcher with what happened.
func (s *step) take(e event) {
	s.now = e.now
	switch e.kind {
	case eventLed: // row 10
		s.ledger = e.ledger
		s.requests = slices.Clone(e.ledger.requests)
		s.memory = memory{now: e.now, pending: e.pending, unread: !s.blind}
	case eventWoken:
		s.pending = e.pending
	case eventRead:
		s.takeRead(e)
	case eventReadFail:
		s.readFails++
		s.readAfter = s.now + s.backoff(s.readFails, e.setup)
	case eventSent:
		s.takeSent(e)
	case eventFormed: // row 1
		s.pending = e.request != 0 || e.pending
		switch {
		case e.request != 0:
			s.add(request{id: e.request})
		case e.pending:
			s.again = true // a request that was tried before comes next
			s.wait(s.now + s.look)
		}
	case eventReplaced: // row 7
		s.verdict = resultUnknown
		s.close(writeUnsent, e.attempt, false)
		s.with(e.request).state = requestReplaced
		for range e.parts {
			s.add(request{id: s.lastID + 1})
		}
	case eventParked:
		s.close(writeForget, e.attempt, false)
		s.with(e.request).state = requestReplaced
	case eventRequeued:
		s.verdict = resultUnknown
		s.close(writeUnsent, e.attempt, true)
		s.failed(true, 0)
	case eventFailed:
		s.failed(e.setup, 0)
		s.readAfter = max(s.readAfter, s.sendAfter)
	case eventHalt:
		s.halt(e.reason)
	}
}

// takeRead takes the quantities of the witnesses from a read.
func (s *step) takeRead(e event) {
	if s.head == 0 && s.tail == 0 { // the account's first read
		switch {
		case e.missing != "":
			s.halt(fmt.Sprintf("the witness %s is not in Oakra: create it with a quantity of %d, then call Resume", e.missing, start))
		case e.head < start || e.tail < start:
			s.halt(fmt.Sprintf("the witnesses have %d and %d units: give each a quantity of %d, then call Resume", e.head, e.tail, start))
		default:
			s.head, s.tail = e.head, e.tail
			s.reconciled(e.began)
		}
		return
	}
	landed, ok := s.reconcile(s.attempts(), e.head-s.head, e.tail-s.tail)
	if !ok || e.missing != "" {
		s.takeBadRead(e)
		return
	}
	s.record(landed, e.head, e.tail)
	for _, a := range s.attempts() {
		if a.deadline+s.forget*s.graceOf(a) < e.began { // row 8
			s.close(writeForget, a.id, true)
		}
	}
	s.reconciled(e.began)
}

func (s *step) reconciled(began instant) {
	s.read, s.unread = began, false
	s.readFails, s.badReads, s.readAfter = 0, 0, 0
	if s.verdict != resultUnknown {
		s.conclude()
	}
}

// takeBadRead counts a read that the open attempts do not explain (row 9).
func (s *step) takeBadRead(e event) {
	if s.badReads == 0 {
		s.badSince = e.began
	}
	s.badReads++
	s.readFails = 0
	s.unread = true
	if s.badReads < minReads || e.began-s.badSince < s.grace {
		s.readAfter = s.now + max(1, min(s.backoff(s.badReads, false), s.grace/2))
		return
	}
	if e.missing != "" {
		s.halt(fmt.Sprintf("the witness %s is gone from Oakra", e.missing))
		return
	}
	s.halt(fmt.Sprintf("the witnesses have %d and %d units, %+d and %+d from what is recorded, which no request of this outbox explains: "+
		"somebody else changed them, Oakra or this database was set back, a request was applied in part, or three reads in a row were out of date. "+
		"See \"After a halt\" in OPERATING.md of the package",
		e.head, e.tail, e.head-s.head, e.tail-s.tail))
}

// takeSent takes the end of an attempt.
func (s *step) takeSent(e event) {
	s.unread = !s.blind
	switch e.result {
	case resultApplied: // row 3
		if s.blind {
			s.record([]int64{e.attempt}, 0, 0)
			s.failures = 0
			return
		}
		landed, ok := s.reconcile(s.attempts(), e.head-s.head, e.tail-s.tail)
		if ok && slices.Contains(landed, e.attempt) {
			s.record(landed, e.head, e.tail)
			s.unread, s.failures = false, 0
			return
		}
		s.counts.unknown++ // a success that the witnesses do not confirm proves nothing
		s.failed(false, 0)
	case resultUnknown:
		s.counts.unknown++
		s.failed(false, 0)
	case resultUnsent: // row 5
		s.close(writeUnsent, e.attempt, true)
		s.failed(false, e.wait)
	default:
		if e.result == resultRejected {
			s.counts.rejected++
		} else {
			s.failed(e.result == resultSetup, e.wait)
		}
		s.verdict, s.refused = e.result, e.attempt
		if s.blind {
			s.conclude()
		}
	}
}

// conclude acts on a response that says that an attempt was not applied, once a read
// confirms it (rows 5 and 7).
func (s *step) conclude() {
	q := s.of(s.refused)
	switch {
	case q == nil: // the attempt landed, or was forgotten
		s.verdict = resultUnknown
	case q.settled(): // an earlier attempt landed; this one did not
		s.verdict = resultUnknown
		s.close(writeUnsent, s.refused, true)
	case s.verdict == resultRejected:
		s.plan.task, s.plan.request, s.plan.attempt = taskReject, q.id, s.refused
	default:
		s.verdict = resultUnknown
		s.close(writeUnsent, s.refused, true)
	}
}

// record settles the attempts that landed.
func (s *step) record(landed []int64, head, tail int64) {
	s.head, s.tail = head, tail
	for _, id := range landed {
		q := s.of(id)
		s.close(writeLanded, id, false)
		if !q.settled() { // row 3
			q.state = requestApplied
			s.write(write{kind: writeApplied, request: q.id})
			continue
		}
		s.counts.compensated++ // row 4
		undo := s.lastID + 1
		s.write(write{kind: writeUndo, request: undo, undoes: q.id})
		s.add(request{id: undo})
	}
}

// choose finds what to do next.
func (s *step) choose(stopping bool) {
	if stopping || s.halted != "" {
		s.plan.task = taskStop
		return
	}
	if s.blind && s.chooseBlind() {
		return
	}
	due := max(s.readDue(), s.readAfter)
	switch {
	case due <= s.now:
		s.plan.task = taskRead
	case s.unread:
		s.wait(due)
	case s.sendAfter > s.now:
		s.wait(min(s.sendAfter, due))
	default:
		s.chooseRequest(due)
	}
}

// chooseBlind parks a request whose outcome is unknown, because only witnesses could
// settle it. It reports whether there is such a request.
func (s *step) chooseBlind() bool {
	switch open := s.attempts(); {
	case len(open) == 0:
		return false
	case s.verdict == resultUnknown:
		s.plan.task, s.plan.request, s.plan.attempt = taskPark, s.of(open[0].id).id, open[0].id
	case s.sendAfter > s.now:
		s.wait(s.sendAfter)
	default: // an earlier try to park a rejected request failed
		s.conclude()
	}
	return true
}

// chooseRequest sends a request, or forms one from pending changes. Requests that were
// tried before take turns with new ones.
func (s *step) chooseRequest(due instant) {
	code, free := s.nextCode(s.attempts(), s.code)
	if !free {
		s.wait(due)
		return
	}
	var next *request // request that has waited longest
	for i := range s.requests {
		q := &s.requests[i]
		ready := !q.settled() && (len(q.open) == 0 || s.quiet(q) < s.read) // row 6
		if ready && (next == nil || q.tried < next.tried) {
			next = q
		}
	}
	if next == nil || next.tried > 0 && s.pending && !s.again {
		if s.pending {
			s.plan.task, s.plan.request = taskForm, s.lastID+1
		} else {
			s.wait(due)
		}
		return
	}
	s.again = next.tried == 0
	s.send(next.id, code)
}

// send opens an attempt (row 2).
func (s *step) send(id int64, code int) {
	s.lastID++
	s.code = code
	s.counts.requests++
	a := attempt{id: s.lastID, code: code, sign: nextSign(s.head, s.tail), deadline: s.now + s.timeout, grace: s.grace}
	q := s.with(id)
	q.state, q.tried = requestOpen, a.id
	q.open = append(q.open, a)
	s.write(write{kind: writeOpen, request: id, attempt: a})
	s.plan.task, s.plan.request, s.plan.attempt = taskSend, id, a.id
}

// readDue returns when to read the witnesses next.
func (s *step) readDue() instant {
	if s.blind {
		return never
	}
	if s.unread {
		return s.now
	}
	due := never
	for _, q := range s.requests {
		if len(q.open) == 0 {
			continue
		}
		due = min(due, s.read+s.grace)
		if ready := s.quiet(&q); !q.settled() && s.read <= ready {
			due = min(due, ready+1)
		}
	}
	return due
}

// wait does nothing until a time, or until something happens.
func (s *step) wait(until instant) { s.plan.task, s.plan.until = taskWait, until }

// failed delays the next attempt.
func (s *step) failed(setup bool, wait instant) {
	s.failures++
	s.unread = !s.blind
	s.sendAfter = s.now + max(wait, s.backoff(s.failures, setup))
}

func (s *step) backoff(failures int, setup bool) instant {
	first := s.pause
	if setup {
		first = s.setup
	}
	return min(first<<min(failures, 20), s.longest)
}

func (s *step) halt(reason string) {
	s.halted = reason
	s.plan.task = taskStop
}

func (s *step) write(w write) { s.plan.writes = append(s.plan.writes, w) }

func (s *step) add(q request) {
	s.lastID = max(s.lastID, q.id)
	s.requests = append(s.requests, q)
}

// close ends an attempt. If requeue is true and the request is not settled and has no
// other open attempt, the request is queued again.
func (s *step) close(kind writeKind, id int64, requeue bool) {
	q := s.of(id)
	if q == nil {
		return
	}
	q = s.with(q.id)
	s.write(write{kind: kind, request: q.id, attempt: attempt{id: id}})
	q.open = slices.DeleteFunc(q.open, func(a attempt) bool { return a.id == id })
	if requeue && len(q.open) == 0 && !q.settled() {
		q.state = requestQueued
		s.write(write{kind: writeQueued, request: q.id})
	}
}

// of returns the request with the open attempt, or nil if there is none.
func (s *step) of(attemptID int64) *request {
	for i := range s.requests {
		if slices.ContainsFunc(s.requests[i].open, func(a attempt) bool { return a.id == attemptID }) {
			return &s.requests[i]
		}
	}
	return nil
}

// with returns a request for changing it. Its attempts are cloned first, because the
// caller's dispatcher shares them.
func (s *step) with(id int64) *request {
	i, _ := slices.BinarySearchFunc(s.requests, id, func(q request, id int64) int { return cmp.Compare(q.id, id) })
	q := &s.requests[i]
	q.open = slices.Clone(q.open)
	return q
}

// attempts returns all open attempts.
func (l *ledger) attempts() []attempt {
	var all []attempt
	for _, q := range l.requests {
		all = append(all, q.open...)
	}
	return all
}
