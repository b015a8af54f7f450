//go:build unix

package storm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/outbox"
)

// This file tests databases that lost commits or were copied.

// A clone that runs next to the original is noticed at the next read, before anything
// else is sent, whichever of the two sends first.
func TestClone(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		dsn, cloneDSN, clone := cloneOf(t, d)
		server := newServer(t, 3)
		open := func(dsn string) *shop { return openShop(t, d.openDSN(t, dsn), server, options()) }
		first := open(dsn)
		require.NoError(t, first.Add(t.Context(), sell("a", 0, 1)))
		first.drain(t)
		require.NoError(t, first.Add(t.Context(), sell("b", 1, 1)))
		clone(first)
		original, other := open(dsn), open(cloneDSN)
		other.drain(t)
		require.Equal(t, int64(999), original.quantity(1))
		require.NoError(t, original.Add(t.Context(), sell("c", 2, 1)))
		require.ErrorIs(t, original.Drain(t.Context()), outbox.ErrHalted)
		require.Equal(t, int64(999), original.quantity(1), "b, which both have, is not sent again")
		require.Equal(t, int64(1000), original.quantity(2))
	})
}

// cloneOf returns the DSNs of a database and of its clone, which clone makes.
func cloneOf(t *testing.T, d database) (dsn, cloneDSN string, clone func(s *shop)) {
	if d.dialect == "sqlite" {
		dsn = d.newDSN(t)
		file, settings, _ := strings.Cut(strings.TrimPrefix(dsn, "file:"), "?")
		copied := file + ".clone"
		return dsn, "file:" + copied + "?" + settings, func(s *shop) {
			_, err := s.db.Exec("VACUUM INTO '" + copied + "'")
			require.NoError(t, err)
		}
	}
	d.newDSN(t) // starts the cluster
	dsn = shared.create(t)
	_, name, _ := strings.Cut(dsn, "dbname=")
	name, _, _ = strings.Cut(name, " ")
	return dsn, postgresNamed(name + "_clone"), func(s *shop) {
		require.NoError(t, s.db.Close()) // a template must not be in use
		shared.exec(t, fmt.Sprintf("CREATE DATABASE %s_clone TEMPLATE %s", name, name))
	}
}

// After a replica that lacks the last commits was promoted, the outbox halts before it
// sends.
func TestPromotedReplica(t *testing.T) {
	if why := postgresMissing(); why != "" || postgresBin("pg_basebackup") == "" {
		t.Skipf("LEFT OUT: PostgreSQL, %s", why)
	}
	t.Parallel()
	pgx := database{driver: "pgx"}
	primary, err := newCluster()
	require.NoError(t, err)
	t.Cleanup(primary.remove)
	server := newServer(t, 3)
	dsn := primary.create(t)
	s := openShop(t, pgx.openDSN(t, dsn), server, options())
	require.NoError(t, s.Add(t.Context(), sell("a", 0, 1)))
	s.drain(t)

	replica := &cluster{dir: filepath.Join(primary.dir, "replica"), as: primary.as}
	require.NoError(t, primary.run("pg_basebackup", "-h", primary.dir, "-U", "shop", "-D", replica.data(), "-R", "--checkpoint=fast"))
	require.NoError(t, os.Chmod(replica.dir, 0o755))
	require.NoError(t, replica.start())
	t.Cleanup(func() { _ = replica.stop("immediate") })
	_, err = outbox.New(t.Context(), pgx.openDSN(t, strings.Replace(dsn, primary.dir, replica.dir, 1)), nil, options())
	require.ErrorContains(t, err, "read replica")

	require.NoError(t, replica.stop("fast"))
	require.NoError(t, s.Add(t.Context(), sell("b", 1, 1)))
	s.drain(t) // the replica never receives these commits
	require.NoError(t, primary.stop("immediate"))
	require.NoError(t, replica.start())
	require.NoError(t, replica.run("pg_ctl", "-D", replica.data(), "-w", "promote"))
	promoted := openShop(t, pgx.openDSN(t, strings.Replace(dsn, primary.dir, replica.dir, 1)), server, options())
	require.NoError(t, promoted.Add(t.Context(), sell("c", 2, 1)))
	require.ErrorIs(t, promoted.Drain(t.Context()), outbox.ErrHalted)
	require.Equal(t, int64(1000), promoted.quantity(2))
	require.NoError(t, promoted.Resume(t.Context(), outbox.ResumeOptions{By: "ann", Note: "failed over", DatabaseRestored: true}))
	require.Equal(t, outbox.StateParked, promoted.find(t, "c").State)
	require.NoError(t, promoted.Add(t.Context(), sell("d", 2, 10)))
	promoted.drain(t)
	require.Equal(t, int64(990), promoted.quantity(2))
}

func TestUnsafePostgresIsRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d database) {
		if d.dialect != "postgres" {
			t.Skip()
		}
		db := d.openDSN(t, d.newDSN(t)+" synchronous_commit=off")
		_, err := outbox.New(t.Context(), db, nil, options())
		require.ErrorContains(t, err, "synchronous_commit is off")
		var tables int
		require.NoError(t, db.QueryRow("SELECT count(*) FROM pg_class WHERE oid = to_regclass('oakra_outbox_meta')").Scan(&tables))
		require.Zero(t, tables)
	})
}
