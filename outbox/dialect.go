package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// dialect is everything that differs between the databases. Statements are written
// with PostgreSQL's numbered parameters, $1 and so on.
type dialect struct {
	name     string
	ddl      func(statement string) string
	numbered string // prefix of a parameter's number
	hasMeta  string // query that counts the table of the version: 0 or 1
	commits  int    // most commits of Add at one time
	options  *sql.TxOptions
	prepare  []string // statements to run before a join, in its transaction
	check    func(ctx context.Context, db *sql.DB) error

	now string // expression for the database's clock, in milliseconds
	// changes, keys, numbers and texts are expressions for a table from a JSON
	// parameter, for which %s stands.
	changes, keys, numbers, texts string

	statements sync.Map // translated statements, by the argument of sql
}

// sql translates a statement into the database's dialect: {now} is its clock, and
// {keys $2} stands for the rows of a JSON parameter.
func (d *dialect) sql(statement string) string {
	if ready, ok := d.statements.Load(statement); ok {
		return ready.(string)
	}
	rows := map[string]string{"changes": d.changes, "keys": d.keys, "numbers": d.numbers, "texts": d.texts}
	ready := rowsOf.ReplaceAllStringFunc(statement, func(s string) string {
		kind, parameter, _ := strings.Cut(strings.Trim(s, "{}"), " ")
		return fmt.Sprintf(rows[kind], parameter)
	})
	ready = strings.ReplaceAll(ready, "{now}", d.now)
	ready = parameter.ReplaceAllString(ready, strings.ReplaceAll(d.numbered, "$", "$$")+"$1")
	d.statements.Store(statement, ready)
	return ready
}

var (
	rowsOf    = regexp.MustCompile(`\{[a-z]+ \$[0-9]+\}`)
	parameter = regexp.MustCompile(`\$([0-9]+)`)
)

var sqlite = &dialect{
	name: "sqlite",
	ddl: strings.NewReplacer(
		"{seq}", "integer PRIMARY KEY",
		"{bool}", "integer",
	).Replace,
	numbered: "?",
	hasMeta:  "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'oakra_outbox_meta'",
	commits:  1, // SQLite has one writer at a time
	check:    checkSQLite,
	now:      "CAST((julianday('now') - 2440587.5) * 86400000 AS integer)",
	changes: "(SELECT json_extract(value, '$.id') AS id, json_extract(value, '$.sku') AS sku, json_extract(value, '$.location_id') AS location_id," +
		" json_extract(value, '$.quantity') AS quantity FROM json_each(%s)) AS c",
	keys: "(SELECT json_extract(value, '$.sku') AS sku, json_extract(value, '$.location_id') AS location_id," +
		" json_extract(value, '$.id') AS id FROM json_each(%s)) AS k",
	numbers: "(SELECT value AS n FROM json_each(%s)) AS n",
	texts:   "(SELECT value AS t FROM json_each(%s)) AS t",
}

var postgres = &dialect{
	name: "postgres",
	ddl: strings.NewReplacer(
		"{seq}", "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		"{bool}", "boolean",
	).Replace,
	numbered: "$",
	hasMeta:  "SELECT count(*) FROM pg_class WHERE oid = to_regclass('oakra_outbox_meta')",
	commits:  4,
	options:  &sql.TxOptions{Isolation: sql.LevelReadCommitted},
	// Without statistics, the planner expects a few rows instead of a hundred
	// thousand, and a nested loop over them takes minutes.
	prepare: []string{"SET LOCAL enable_nestloop = off"},
	check:   checkPostgres,
	now:     "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
	changes: "json_to_recordset(CAST(%s AS json)) AS c(id text, sku text, location_id text, quantity bigint)",
	keys:    "json_to_recordset(CAST(%s AS json)) AS k(sku text, location_id text, id bigint)",
	numbers: "(SELECT CAST(value AS bigint) AS n FROM json_array_elements_text(CAST(%s AS json))) AS n",
	texts:   "(SELECT value AS t FROM json_array_elements_text(CAST(%s AS json))) AS t",
}

func dialectNamed(name string) *dialect {
	switch name {
	case sqlite.name:
		return sqlite
	case postgres.name:
		return postgres
	}
	return nil
}

// detect returns the dialect of db. It tries PostgreSQL's function first, because
// PostgreSQL logs an error for an unknown function.
func detect(ctx context.Context, db *sql.DB) (*dialect, error) {
	if err := connect(ctx, db); err != nil {
		return nil, err
	}
	var version string
	err := db.QueryRowContext(ctx, "SELECT version()").Scan(&version)
	if err == nil && strings.HasPrefix(version, "PostgreSQL") {
		return postgres, nil
	}
	if err != nil {
		if again := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); again == nil {
			return sqlite, nil
		}
		return nil, fmt.Errorf("the database is neither SQLite nor PostgreSQL: %w", err)
	}
	return nil, fmt.Errorf("the database is %q, and must be SQLite or PostgreSQL", version)
}

// connect makes the first connection. If several processes open a new SQLite file at the
// same time, journal_mode(WAL) fails at once in all except one of them, whatever
// busy_timeout is. See https://sqlite.org/wal.html, "Sometimes Queries Return
// SQLITE_BUSY In WAL Mode".
func connect(ctx context.Context, db *sql.DB) error {
	began := time.Now()
	for {
		err := db.PingContext(ctx)
		if err == nil || !strings.Contains(err.Error(), "database is locked") || time.Since(began) > 5*time.Second {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

const sqliteDSN = `open it with "file:shop.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate"` +
	` (with mattn/go-sqlite3: "file:shop.db?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000&_txlock=immediate")`

// checkSQLite refuses settings with which a recorded change could be lost. Because each
// connection has its own settings, it checks two.
func checkSQLite(ctx context.Context, db *sql.DB) error {
	for range 2 {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := checkSQLiteConn(ctx, conn, db.Stats().MaxOpenConnections == 1); err != nil {
			return err
		}
		if db.Stats().MaxOpenConnections == 1 {
			break
		}
	}
	return nil
}

func checkSQLiteConn(ctx context.Context, conn *sql.Conn, alone bool) error {
	var file, journal string
	var synchronous, timeout int
	err := errors.Join(
		conn.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&file),
		conn.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal),
		conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous),
		conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout),
	)
	switch {
	case err != nil:
		return err
	case file == "" && !alone:
		return errors.New("a SQLite database in memory needs db.SetMaxOpenConns(1), or each connection has a database of its own")
	case file == "":
		return nil // a database for tests, in which nothing is durable
	case synchronous < 2:
		return fmt.Errorf("SQLite's synchronous is %d, so a power cut may lose recorded changes: %s", synchronous, sqliteDSN)
	case journal == "off" || journal == "memory":
		return fmt.Errorf("SQLite's journal_mode is %s, so a crash may destroy the database: %s", journal, sqliteDSN)
	case timeout < 10_000:
		return fmt.Errorf("SQLite's busy_timeout is %d ms, so writers would fail instead of waiting for each other: %s", timeout, sqliteDSN)
	}
	return nil
}

// checkPostgres refuses settings with which a recorded change could be lost.
func checkPostgres(ctx context.Context, db *sql.DB) error {
	var synchronous string
	var replica bool
	if err := db.QueryRowContext(ctx, "SELECT current_setting('synchronous_commit'), pg_is_in_recovery()").Scan(&synchronous, &replica); err != nil {
		return err
	}
	switch {
	case replica:
		return errors.New("the database is a read replica of PostgreSQL: connect to the primary")
	case synchronous == "off":
		return errors.New("PostgreSQL's synchronous_commit is off, so a crash may lose recorded changes: set it to on for this database or role")
	}
	return nil
}
