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

// This file defines the shop that the tests share.

var (
	head = oakra.StockKey{SKU: "outbox-head", LocationID: "warehouse-1"}
	tail = oakra.StockKey{SKU: "outbox-tail", LocationID: "warehouse-1"}
)

const firstItem = 1000 // ID of the first item's record

// shop is an outbox with a fake server.
type shop struct {
	*outbox.Outbox
	db     *sql.DB
	server *oakratest.Server
}

// options returns options with short times, which keep the tests short.
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
	return openShop(t, d.open(t), newServer(t, items), o)
}

// openShop opens a shop with a database and a server that others may use too.
func openShop(t testing.TB, db *sql.DB, server *oakratest.Server, o outbox.Options) *shop {
	s := &shop{db: db, server: server}
	var err error
	s.Outbox, err = outbox.New(t.Context(), db, quickClient(server).Stock, o)
	require.NoError(t, err)
	return s
}

// sell returns the change that sells units of an item.
func sell(id string, item int, units int64) outbox.Change {
	key := itemKey(item)
	return outbox.Change{ID: id, SKU: key.SKU, LocationID: key.LocationID, QuantityChange: -units}
}

// drain drains the outbox, and fails the test if that takes a minute.
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
	return s.server.Quantity(firstItem + int64(item))
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

// settle runs the outbox until no attempt is open.
func (s *shop) settle(t testing.TB) {
	for s.drain(t); s.status(t).OpenAttempts > 0; s.drain(t) {
		stop := s.run(t)
		require.Eventually(t, func() bool { return s.status(t).OpenAttempts == 0 }, time.Minute, 5*time.Millisecond)
		stop()
	}
}

// drainUnknown drains changes, some of which have a key that Oakra does not have. It
// makes the ten seconds between the two lookups of such a key pass at once.
func (s *shop) drainUnknown(t testing.TB) {
	missed := func() (n int) {
		require.NoError(t, s.db.QueryRow("SELECT count(*) FROM oakra_outbox_record WHERE id = 0").Scan(&n))
		return n
	}
	stop := s.run(t)
	require.Eventually(t, func() bool { return missed() > 0 }, time.Minute, 5*time.Millisecond)
	stop()
	require.Zero(t, s.status(t).Parked, "one read is not enough")
	_, err := s.db.Exec("UPDATE oakra_outbox_record SET looked = looked - 10001 WHERE id = 0")
	require.NoError(t, err)
	s.drain(t)
}

// troubleWitness changes a witness without the outbox.
func (s *shop) troubleWitness(id int64, trouble func(r *oakra.StockRecord)) {
	for _, r := range s.server.Records() {
		if r.ID == id {
			trouble(&r)
			s.server.SetRecords(r)
		}
	}
}
