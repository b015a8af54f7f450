package outbox

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// While pending changes wait for a second look at their key, a request that was tried
// before is sent again, and time passes between two looks.
func TestWaitingChangesHoldUpNoRequest(t *testing.T) {
	r := theRules
	d, p := r.decide(dispatcher{}, event{kind: eventLed, now: 1, pending: true, ledger: ledger{
		head: start, tail: start, lastID: 2, requests: []request{{id: 1, tried: 2}},
	}})
	require.Equal(t, taskRead, p.task)
	d, p = r.decide(d, event{kind: eventRead, now: 2, began: 2, head: start, tail: start})
	require.Equal(t, taskForm, p.task)
	d, p = r.decide(d, event{kind: eventFormed, now: 3, pending: true})
	require.Equal(t, taskWait, p.task)
	require.Equal(t, 3+r.look, p.until)
	require.True(t, d.pending)
	_, p = r.decide(d, event{kind: eventWoken, now: 3 + r.look, pending: true})
	require.Equal(t, taskSend, p.task)
	require.Equal(t, int64(1), p.request)
}

// Ten thousand quiet requests, each seen to land by its response, keep head near its
// start, and tail grows by 11 with each, in addition to twice the move of head.
func TestQuietRequests(t *testing.T) {
	const n = 10_000
	r := theRules
	now := instant(1)
	happen := func(d dispatcher, e event) (dispatcher, plan) {
		now++
		e.now, e.pending = now, true
		return r.decide(d, e)
	}
	head, tail := int64(start), int64(start)
	d, p := happen(dispatcher{}, event{kind: eventLed, ledger: ledger{code: r.codes - 1}})
	require.Equal(t, taskRead, p.task)
	d, p = happen(d, event{kind: eventRead, began: now, head: head, tail: tail})
	for i := range int64(n) {
		require.Equal(t, taskForm, p.task)
		d, p = happen(d, event{kind: eventFormed, request: p.request})
		require.Equal(t, taskSend, p.task)
		a := d.requests[0].open[0]
		require.Equal(t, int(i%16), a.code)
		head, tail = head+a.move(), tail+r.moveTail(a)
		require.Greater(t, head, int64(134_000))
		require.Less(t, head, int64(266_000))
		require.Greater(t, tail, int64(68_000))
		require.Equal(t, 11*(i+1), tail-start-2*(head-start))
		d, p = happen(d, event{kind: eventSent, attempt: p.attempt, result: resultApplied, head: head, tail: tail})
		require.Empty(t, d.requests)
	}
	require.Equal(t, int64(n), d.counts.requests)
}

// Even if there are always more pending changes, a request that was tried before gets
// every other turn.
func TestTriedRequestsTakeTurns(t *testing.T) {
	r := theRules
	d, p := r.decide(dispatcher{}, event{kind: eventLed, now: 1, pending: true, ledger: ledger{
		head: start, tail: start, lastID: 2, requests: []request{{id: 1, tried: 2}},
	}})
	require.Equal(t, taskRead, p.task)
	d, p = r.decide(d, event{kind: eventRead, now: 2, began: 2, head: start, tail: start})
	require.Equal(t, taskForm, p.task)
	d, p = r.decide(d, event{kind: eventFormed, now: 3, request: p.request})
	require.Equal(t, taskSend, p.task)
	require.NotEqual(t, int64(1), p.request)
	a := d.attempts()[0]
	_, p = r.decide(d, event{kind: eventSent, now: 4, pending: true, attempt: a.id, result: resultApplied, head: start + a.move(), tail: start + r.moveTail(a)})
	require.Equal(t, taskSend, p.task)
	require.Equal(t, int64(1), p.request)
}

// A success that the witnesses do not confirm is an unknown outcome, and nothing is sent
// before a read.
func TestUnconfirmedSuccess(t *testing.T) {
	r := theRules
	d, _ := r.decide(dispatcher{}, event{kind: eventLed, now: 1, pending: true, ledger: ledger{head: start, tail: start}})
	d, p := r.decide(d, event{kind: eventRead, now: 2, began: 2, head: start, tail: start})
	d, p = r.decide(d, event{kind: eventFormed, now: 3, request: p.request})
	require.Equal(t, taskSend, p.task)
	d, p = r.decide(d, event{kind: eventSent, now: 4, attempt: p.attempt, result: resultApplied, head: start, tail: start})
	require.Equal(t, taskRead, p.task)
	require.Equal(t, int64(1), d.counts.unknown)
	require.Len(t, d.attempts(), 1)
}

// Row 6: the deadline and Grace have passed, but the read that would show a landing
// fails. Nothing is sent before a read succeeds.
func TestOverdueRequestWaitsForARead(t *testing.T) {
	r := theRules
	overdue := r.grace + 11
	d, _ := r.decide(dispatcher{}, event{kind: eventLed, now: 5, ledger: ledger{
		head: start, tail: start, lastID: 2,
		requests: []request{{id: 1, state: requestOpen, tried: 2, open: []attempt{{id: 2, sign: 1, deadline: 10}}}},
	}})
	d, p := r.decide(d, event{kind: eventRead, now: 6, began: 6, head: start, tail: start})
	require.Equal(t, taskWait, p.task)
	d, p = r.decide(d, event{kind: eventWoken, now: overdue})
	require.Equal(t, taskRead, p.task)
	d, p = r.decide(d, event{kind: eventReadFail, now: overdue + 1})
	require.Equal(t, taskWait, p.task)
	now := p.until
	d, p = r.decide(d, event{kind: eventWoken, now: now})
	require.Equal(t, taskRead, p.task)
	_, p = r.decide(d, event{kind: eventRead, now: now + 1, began: now, head: start, tail: start})
	require.Equal(t, taskSend, p.task)
}

// Rows 5 and 7: a response that says that nothing was applied is not believed until a
// read of the witnesses confirms it.
func TestRefusalsWaitForARead(t *testing.T) {
	r := theRules
	for _, result := range []result{resultBusy, resultSetup, resultRejected} {
		d, _ := r.decide(dispatcher{}, event{kind: eventLed, now: 1, pending: true, ledger: ledger{head: start, tail: start}})
		d, p := r.decide(d, event{kind: eventRead, now: 2, began: 2, head: start, tail: start})
		d, p = r.decide(d, event{kind: eventFormed, now: 3, request: p.request})
		d, p = r.decide(d, event{kind: eventSent, now: 4, attempt: p.attempt, result: result})
		require.Empty(t, p.writes)
		require.Len(t, d.attempts(), 1)
		if p.task == taskWait { // a pause
			d, p = r.decide(d, event{kind: eventWoken, now: p.until})
		}
		require.Equal(t, taskRead, p.task)
		d, _ = r.decide(d, event{kind: eventRead, now: 9, began: 9, head: start, tail: start})
		require.Equal(t, resultRejected == result, len(d.attempts()) == 1, "a rejection is closed when it is replaced")
	}
}

// Row 9: it takes three reads in a row that cannot be explained, over at least Grace.
func TestBadReadsHalt(t *testing.T) {
	for _, grace := range []instant{1, 60_000} {
		r := theRules
		r.grace = grace
		d, p := r.decide(dispatcher{}, event{kind: eventLed, now: 1, ledger: ledger{head: start, tail: start}})
		now, reads, first := instant(1), 0, instant(0)
		for d.halted == "" {
			for p.task == taskWait {
				now = p.until
				d, p = r.decide(d, event{kind: eventWoken, now: now})
			}
			require.Equal(t, taskRead, p.task)
			if reads++; reads == 1 {
				first = now
			}
			d, p = r.decide(d, event{kind: eventRead, now: now, began: now, head: start + 5, tail: start})
		}
		require.GreaterOrEqual(t, reads, 3)
		require.GreaterOrEqual(t, now-first, grace)
		require.Less(t, now-first, 3*grace+1000)
		require.Contains(t, d.halted, "200005 and 200000 units, +5 and +0")
	}
}

// Row 9: an account's first read halts unless each witness is there with its start.
func TestFirstRead(t *testing.T) {
	for _, test := range []struct {
		read event
		want string
	}{
		{event{head: start, tail: start}, ""},
		{event{head: 300_000, tail: start}, ""},
		{event{head: start - 1, tail: start}, "199999 and 200000 units: give each"},
		{event{head: start, tail: start - 1}, "200000 and 199999 units: give each"},
		{event{head: start, missing: "the-tail"}, "the witness the-tail is not in Oakra"},
	} {
		d, _ := theRules.decide(dispatcher{}, event{kind: eventLed, now: 1})
		test.read.kind, test.read.now, test.read.began = eventRead, 2, 2
		d, _ = theRules.decide(d, test.read)
		require.Contains(t, d.halted, test.want)
		require.Equal(t, test.want == "", d.halted == "")
	}
}

// Row 5: an attempt that certainly was not sent is closed, and its request is sent again
// without waiting for Grace.
func TestUnsentIsSentAgain(t *testing.T) {
	r := theRules
	d, _ := r.decide(dispatcher{}, event{kind: eventLed, now: 1, pending: true, ledger: ledger{head: start, tail: start}})
	d, p := r.decide(d, event{kind: eventRead, now: 2, began: 2, head: start, tail: start})
	d, p = r.decide(d, event{kind: eventFormed, now: 3, request: p.request})
	first := p.attempt
	d, p = r.decide(d, event{kind: eventSent, now: 4, attempt: first, result: resultUnsent})
	require.Equal(t, []write{{kind: writeUnsent, request: first - 1, attempt: attempt{id: first}}, {kind: writeQueued, request: first - 1}}, p.writes)
	require.Empty(t, d.attempts())
	require.Zero(t, d.counts.unknown)
	now := instant(5)
	for p.task != taskSend {
		require.Less(t, now, r.grace)
		if p.task == taskWait {
			now = p.until
			d, p = r.decide(d, event{kind: eventWoken, now: now})
		} else {
			require.Equal(t, taskRead, p.task)
			d, p = r.decide(d, event{kind: eventRead, now: now, began: now, head: start, tail: start})
		}
	}
	require.Equal(t, first-1, p.request)
}
