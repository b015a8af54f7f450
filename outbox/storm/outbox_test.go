package storm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

func TestAddTxAndDrain(t *testing.T) {
	eachDriver(t, func(t *testing.T, d database) {
		s := newShop(t, d, 2, options())
		_, err := s.db.Exec("CREATE TABLE orders (id text)")
		require.NoError(t, err)
		tx, err := s.db.Begin()
		require.NoError(t, err)
		_, err = tx.Exec("INSERT INTO orders VALUES ('order-1')")
		require.NoError(t, err)
		require.NoError(t, s.AddTx(t.Context(), tx, sell("order-1/1", 0, 2), sell("order-1/2", 1, 3), sell("order-1/3", 0, 1)))
		require.NoError(t, tx.Commit())
		tx, err = s.db.Begin()
		require.NoError(t, err)
		require.NoError(t, s.AddTx(t.Context(), tx, sell("order-2/1", 0, 5)))
		require.NoError(t, tx.Rollback())
		require.Equal(t, outbox.StatePending, s.find(t, "order-1/1").State)

		s.drain(t)
		require.Equal(t, int64(997), s.quantity(0))
		require.Equal(t, int64(997), s.quantity(1))
		require.Equal(t, 1, s.writes())
		e := s.find(t, "order-1/2")
		require.Equal(t, outbox.StateApplied, e.State)
		require.WithinDuration(t, time.Now(), e.Settled, time.Minute)
		found, err := s.Find(t.Context(), "order-2/1", "order-1/3", "order-1/1")
		require.NoError(t, err)
		require.Len(t, found, 2)
		require.Equal(t, "order-1/3", found[0].ID)

		status := s.status(t)
		require.Equal(t, int64(1), status.Requests)
		require.Zero(t, status.Unknown)
		require.Zero(t, status.Pending)
		require.Empty(t, status.Leader)
		require.Equal(t, 500, status.BatchSize)
		history, err := s.History(t.Context(), "order-1/1")
		require.NoError(t, err)
		var actions []string
		for _, e := range history {
			actions = append(actions, e.Action)
		}
		require.Equal(t, []string{"added", "requested", "attempted", "applied"}, actions)
		s.drain(t)
		require.Equal(t, 1, s.writes())
	})
}

// After any single fault of a request, the change counts exactly once in the end.
func TestFaults(t *testing.T) {
	faults := []oakratest.Fault{
		{Kind: oakratest.ResetAfter},
		{Kind: oakratest.ResetBefore},
		{Kind: oakratest.Refuse},
		{Kind: oakratest.ApplyLate, Delay: 30 * time.Millisecond},
		{Kind: oakratest.CutBody},
		{Kind: oakratest.OmitRecord},
		{Kind: oakratest.Respond, Status: 200, Body: `[]`},
		{Kind: oakratest.Respond, Status: 200, Body: `<html>`},
		{Kind: oakratest.Respond, Status: 401, Body: `{"detail":"Invalid token."}`},
		{Kind: oakratest.Respond, Status: 403, Body: `<html>`},
		{Kind: oakratest.Respond, Status: 404, Body: `<html>`},
		{Kind: oakratest.Respond, Status: 429},
		{Kind: oakratest.Respond, Status: 500},
		{Kind: oakratest.RespondAfter, Status: 502, Body: `<html>`},
		{Kind: oakratest.RespondAfter, Status: 400, Body: `{"stock_records":[{},{"quantity_change":["no"]},{}]}`},
		{Kind: oakratest.RespondAfter, Status: 429},
	}
	eachDatabase(t, func(t *testing.T, d database) {
		for i, fault := range faults {
			t.Run(fmt.Sprintf("%d %s %d", i, fault.Kind, fault.Status), func(t *testing.T) {
				t.Parallel()
				o := options()
				o.RequestTimeout = 500 * time.Millisecond
				s := newShop(t, d, 1, o)
				fault.Op, fault.Times = "stock.change", 1
				s.server.Inject(fault)
				require.NoError(t, s.Add(t.Context(), sell("a", 0, 3)))
				s.drain(t)
				require.Equal(t, outbox.StateApplied, s.find(t, "a").State)
				s.settle(t)
				require.Equal(t, int64(997), s.quantity(0))
				require.Empty(t, s.status(t).Halted)
			})
		}
	})
}
