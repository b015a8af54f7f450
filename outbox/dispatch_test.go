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
