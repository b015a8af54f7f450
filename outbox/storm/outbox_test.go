package storm_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

var (
	head = oakra.StockKey{SKU: "outbox-head", LocationID: "warehouse-1"}
	tail = oakra.StockKey{SKU: "outbox-tail", LocationID: "warehouse-1"}
)

const firstItem = 1000 // the ID of the first item's record

// shop is an outbox with a fake server.
type shop struct {
	*outbox.Outbox
	db     *sql.DB
	server *oakratest.Server
}

// options are short, so that the tests are.
func options() outbox.Options {
	return outbox.Options{
		Witnesses:      [2]oakra.StockKey{head, tail},
		RequestTimeout: 2 * time.Second,
		Grace:          50 * time.Millisecond,
		Lease:          300 * time.Millisecond,
		Poll:           10 * time.Millisecond,
	}
}

func newServer(t testing.TB, items int) *oakratest.Server {
	records := []oakra.StockRecord{
		{ID: 1, SKU: head.SKU, LocationID: head.LocationID, Quantity: 200_000},
		{ID: 2, SKU: tail.SKU, LocationID: tail.LocationID, Quantity: 200_000},
	}
	for i := range items {
		key := itemKey(i)
		records = append(records, oakra.StockRecord{ID: firstItem + int64(i), SKU: key.SKU, LocationID: key.LocationID, Quantity: 1000})
	}
	server := oakratest.NewServer(records...)
	t.Cleanup(server.Close)
	return server
}

func itemKey(i int) oakra.StockKey {
	return oakra.StockKey{SKU: fmt.Sprintf("shirt-%d", i), LocationID: "warehouse-1"}
}

func quickClient(server *oakratest.Server) *oakra.Client {
	return server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1, MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond}))
}

func newShop(t testing.TB, d database, items int, o outbox.Options) *shop {
	s := &shop{db: d.open(t), server: newServer(t, items)}
	var err error
	s.Outbox, err = outbox.New(t.Context(), s.db, quickClient(s.server).Stock, o)
	require.NoError(t, err)
	return s
}

// sell returns the change that sells units of an item.
func sell(id string, item int, units int64) outbox.Change {
	key := itemKey(item)
	return outbox.Change{ID: id, SKU: key.SKU, LocationID: key.LocationID, QuantityChange: -units}
}

// drain drains, and fails the test if that takes a minute.
func (s *shop) drain(t testing.TB) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, s.Drain(ctx))
}

// run runs the outbox until the function that it returns is called.
func (s *shop) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

// quantity returns how many units of an item the server has.
func (s *shop) quantity(item int) int64 {
	for _, r := range s.server.Records() {
		if r.ID == firstItem+int64(item) {
			return r.Quantity
		}
	}
	return -1 << 62
}

// writes returns how many writes arrived at the server.
func (s *shop) writes() (n int) {
	for _, r := range s.server.Requests() {
		if r.Op == "stock.change" {
			n++
		}
	}
	return n
}

func (s *shop) find(t testing.TB, id string) outbox.Entry {
	found, err := s.Find(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, found, 1, "%s", id)
	return found[0]
}

func (s *shop) status(t testing.TB) outbox.Status {
	status, err := s.Status(t.Context())
	require.NoError(t, err)
	return status
}

func TestAddTxAndDrain(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
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

// Whatever single fault strikes a request, the change counts once in the end.
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
		if d.name == "ncruces" || d.name == "pq" {
			t.Skip("one driver of each database is enough")
		}
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

// settle runs until no attempt is open any more.
func (s *shop) settle(t testing.TB) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for s.drain(t); s.status(t).OpenAttempts > 0; s.drain(t) {
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(running) }()
		require.Eventually(t, func() bool { return s.status(t).OpenAttempts == 0 }, time.Minute, 5*time.Millisecond)
		stop()
		require.NoError(t, <-ended)
	}
}
