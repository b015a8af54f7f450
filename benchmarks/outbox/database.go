package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"
)

const (
	onSQLite   = "SQLite"
	onPostgres = "PostgreSQL"
)

// engine is a kind of database.
type engine struct {
	name    string
	missing func() string // why it is left out, "" if it is there
}

var engines = []engine{
	{onSQLite, func() string { return "" }},
	{onPostgres, postgresMissing},
}

// host makes databases of one engine.
type host struct {
	engine
	dir     string
	cluster *cluster // the PostgreSQL that the run started
	made    int
}

func newHost(ctx context.Context, e engine) (*host, error) {
	dir, err := os.MkdirTemp("", "oakra-benchmark-")
	if err != nil {
		return nil, err
	}
	h := &host{engine: e, dir: dir}
	if e.name == onPostgres {
		if h.cluster, err = newCluster(ctx, dir); err != nil {
			h.close(ctx)
			return nil, err
		}
	}
	return h, nil
}

func (h *host) close(ctx context.Context) {
	if h.cluster != nil {
		h.cluster.stop(ctx)
	}
	_ = os.RemoveAll(h.dir)
}

// version returns the version of the database, "" if it cannot be obtained.
func (h *host) version(ctx context.Context) (version string) {
	d, err := h.fresh(ctx)
	if err != nil {
		return ""
	}
	defer d.close()
	_ = d.QueryRowContext(ctx, map[string]string{onSQLite: "SELECT sqlite_version()", onPostgres: "SHOW server_version"}[h.name]).Scan(&version)
	version, _, _ = strings.Cut(version, " ")
	return version
}

// database is a new, empty database.
type database struct {
	*sql.DB
	engine string
	pool   *pgxpool.Pool // the same database, for River; nil on SQLite
	drop   func()
}

const (
	connections     = 32  // connections to PostgreSQL at most
	poolConnections = 120 // a worker of the outbox written by hand holds one during its request
)

// fresh makes a database. A SQLite file has one connection, since there is one writer
// at a time: callers then wait in Go instead of in SQLite's busy handler, which is
// faster for all that are compared, and what River asks for.
func (h *host) fresh(ctx context.Context) (*database, error) {
	h.made++
	if h.name == onSQLite {
		file := filepath.Join(h.dir, fmt.Sprintf("shop%d.db", h.made))
		db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(file)+
			"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1)
		return &database{DB: db, engine: h.name, drop: func() {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				_ = os.Remove(file + suffix)
			}
		}}, nil
	}
	name := fmt.Sprintf("shop%d", h.made)
	if err := h.cluster.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, err
	}
	db, err := sql.Open("pgx", h.cluster.dsn(name))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	pool, err := pgxpool.New(ctx, h.cluster.dsn(name)+fmt.Sprintf(" pool_max_conns=%d", poolConnections))
	if err != nil {
		return nil, err
	}
	return &database{DB: db, engine: h.name, pool: pool, drop: func() {
		_ = h.cluster.exec(context.WithoutCancel(ctx), "DROP DATABASE "+name)
	}}, nil
}

func (d *database) close() {
	_ = d.Close()
	if d.pool != nil {
		d.pool.Close()
	}
	d.drop()
}
