package storm_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

func TestUnsafeSQLiteIsRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		if d.dialect != "sqlite" {
			t.Skip()
		}
		open := func(dsn string) error {
			_, err := outbox.New(t.Context(), d.openDSN(t, dsn), nil, outbox.Options{})
			return err
		}
		file := "file:" + filepath.ToSlash(filepath.Join(t.TempDir(), "shop.db"))
		for _, test := range []struct{ pragmas, want string }{
			{"?_pragma=busy_timeout(20000)&_pragma=synchronous(NORMAL)", "synchronous"},
			{"?_pragma=busy_timeout(20000)&_pragma=synchronous(OFF)", "synchronous"},
			{"?_pragma=busy_timeout(20000)&_pragma=synchronous(FULL)&_pragma=journal_mode(MEMORY)", "journal_mode"},
			{"?_pragma=busy_timeout(20000)&_pragma=synchronous(FULL)&_pragma=journal_mode(OFF)", "journal_mode"},
			{"?_pragma=busy_timeout(9000)&_pragma=synchronous(FULL)", "busy_timeout"},
		} {
			err := open(file + test.pragmas)
			require.ErrorContains(t, err, test.want, test.pragmas)
			require.ErrorContains(t, err, "_pragma=journal_mode(WAL)")
		}
		if d.name != "ncruces" { // the ncruces driver waits for a minute by default
			require.ErrorContains(t, open(file), "busy_timeout")
		}
		require.ErrorContains(t, open(":memory:"), "SetMaxOpenConns(1)")
	})
}

// One connection is enough for everything, even within the caller's transaction and the
// callbacks.
func TestOneConnection(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		dsn := d.newDSN(t)
		if d.dialect == "sqlite" {
			dsn = ":memory:"
		}
		db := d.openDSN(t, dsn)
		db.SetMaxOpenConns(1)
		server := newServer(t, 2)
		o := options()
		var box *outbox.Outbox
		parked := 0
		o.OnParked = func(e outbox.Entry) {
			found, err := box.Find(t.Context(), e.ID)
			require.NoError(t, err)
			require.Equal(t, outbox.StateParked, found[0].State)
			parked++
		}
		o.OnHalt = func(reason string) {
			status, err := box.Status(t.Context())
			require.NoError(t, err)
			require.Equal(t, reason, status.Halted)
		}
		var err error
		box, err = outbox.New(t.Context(), db, quickClient(server).Stock, o)
		require.NoError(t, err)
		tx, err := db.Begin()
		require.NoError(t, err)
		require.NoError(t, box.AddTx(t.Context(), tx, sell("a", 0, 1), sell("b", 9, 1)))
		require.NoError(t, tx.Commit())
		s := &shop{Outbox: box, db: db, server: server}
		s.drainUnknown(t)
		require.Equal(t, 1, parked)
		require.Equal(t, int64(999), s.quantity(0))
		s.troubleWitness(2, func(r *oakra.StockRecord) { r.Quantity = 7 })
		require.NoError(t, s.Add(t.Context(), sell("c", 0, 1)))
		require.ErrorIs(t, s.Drain(t.Context()), outbox.ErrHalted)
	})
}

func TestSchema(t *testing.T) {
	require.Empty(t, outbox.Schema("mysql", 0))
	eachDatabase(t, func(t *testing.T, d database) {
		name := d.dialect
		db := d.open(t)
		_, err := outbox.New(t.Context(), db, nil, outbox.Options{NoMigrate: true})
		require.ErrorContains(t, err, fmt.Sprintf("outbox.Schema(%q, 0)", name))
		for _, statement := range outbox.Schema(name, 0) {
			_, err := db.Exec(statement)
			require.NoError(t, err)
		}
		_, err = outbox.New(t.Context(), db, nil, outbox.Options{NoMigrate: true})
		require.NoError(t, err)
		var version int
		require.NoError(t, db.QueryRow("SELECT version FROM oakra_outbox_meta").Scan(&version))
		require.Empty(t, outbox.Schema(name, version))
		_, err = db.Exec("UPDATE oakra_outbox_meta SET version = 90")
		require.NoError(t, err)
		_, err = outbox.New(t.Context(), db, nil, outbox.Options{})
		require.NoError(t, err)
		_, err = db.Exec("UPDATE oakra_outbox_meta SET min_version = 80")
		require.NoError(t, err)
		_, err = outbox.New(t.Context(), db, nil, outbox.Options{})
		require.ErrorContains(t, err, "newer version of this package")
	})
}

// A misspelled name leaves nothing behind if the process only adds or reads. Changes that
// are added under it are dispatched only under that name.
func TestMisspelledName(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		accounts := func() (n int) {
			require.NoError(t, s.db.QueryRow("SELECT count(*) FROM oakra_outbox_account").Scan(&n))
			return n
		}
		other := openShop(t, s.db, s.server, outbox.Options{Name: "defaults"})
		require.Equal(t, outbox.Status{BatchSize: 500}, other.status(t))
		other.drain(t)
		resend := outbox.Decision{Action: outbox.Resend, By: "ann", Note: "x"}
		require.ErrorIs(t, other.Resolve(t.Context(), resend, "a"), outbox.ErrUnknownID)
		require.Equal(t, 1, accounts())

		require.NoError(t, other.Add(t.Context(), sell("a", 0, 1)))
		require.Equal(t, int64(1), other.status(t).Pending)
		require.Zero(t, s.status(t).Pending)
		s.drain(t)
		require.Equal(t, int64(1000), s.quantity(0))
		require.ErrorIs(t, other.Resolve(t.Context(), resend, "a"), outbox.ErrNotParked)
		require.Equal(t, 1, accounts())
		other.drain(t)
		require.Equal(t, 2, accounts())
		require.Equal(t, outbox.StateApplied, other.find(t, "a").State)
		require.Equal(t, int64(999), s.quantity(0))
	})
}

// The caller's transaction may belong to another sql.DB than the one passed to New.
func TestAddTxOfAnotherDB(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		s := newShop(t, d, 1, options())
		db := d.open(t)
		for range 2 {
			tx, err := db.Begin()
			require.NoError(t, err)
			require.NoError(t, s.AddTx(t.Context(), tx, sell("a", 0, 2)))
			require.NoError(t, tx.Commit())
		}
		tx, err := db.Begin()
		require.NoError(t, err)
		require.ErrorIs(t, s.AddTx(t.Context(), tx, sell("a", 0, 3)), outbox.ErrIDReused)
		require.NoError(t, tx.Rollback())
		s.drain(t)
		require.Equal(t, int64(998), s.quantity(0))
	})
}

// On PostgreSQL a call of Add that waits for a transaction with the same ID does not
// hold up others.
func TestAddBesideOneThatWaits(t *testing.T) {
	for _, d := range databases(t) {
		if d.name != "pgx" && d.name != "pq" {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			s := newShop(t, d, 1, options())
			tx, err := s.db.Begin()
			require.NoError(t, err)
			require.NoError(t, s.AddTx(t.Context(), tx, sell("a", 0, 2)))
			waiting := make(chan error, 1)
			go func() { waiting <- s.Add(t.Context(), sell("a", 0, 2)) }()
			require.Eventually(t, func() bool {
				var locks int
				require.NoError(t, s.db.QueryRow("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'").Scan(&locks))
				return locks > 0
			}, time.Minute, 5*time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.NoError(t, s.Add(ctx, sell("b", 0, 1)))
			require.NoError(t, tx.Commit())
			require.NoError(t, <-waiting)
			s.drain(t)
			require.Equal(t, int64(997), s.quantity(0))
		})
	}
}

// Several processes may create the tables at the same time.
func TestConcurrentNew(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		ended := make(chan error)
		for range 8 {
			db := d.open(t)
			go func() {
				_, err := outbox.New(context.Background(), db, nil, options())
				ended <- err
			}()
		}
		for range 8 {
			require.NoError(t, <-ended)
		}
	})
}

// AddSQL is for drivers that do not use database/sql.
func TestAddSQLWithPgx(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		if d.dialect != "postgres" {
			t.Skip()
		}
		s := newShop(t, d, 1, options())
		var schema string
		require.NoError(t, s.db.QueryRow("SELECT current_schema()").Scan(&schema))
		conn, err := pgx.Connect(t.Context(), postgresNamed("postgres")+" search_path="+schema)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		query, args, err := s.AddSQL(sell("a", 0, 2))
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), query, args...)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		s.drain(t)
		require.Equal(t, int64(998), s.quantity(0))
		query, args, err = s.AddSQL(sell("a", 0, 3))
		require.NoError(t, err)
		_, err = conn.Exec(t.Context(), query, args...)
		require.True(t, err != nil && strings.Contains(err.Error(), "oakra_outbox_id_reused"), "%v", err)
	})
}
