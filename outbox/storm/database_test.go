package storm_test

import (
	"database/sql"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "github.com/ncruces/go-sqlite3/driver"
	_ "github.com/ncruces/go-sqlite3/embed"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

// database is a kind of database, with a driver.
type database struct {
	name    string // short name of the driver
	dialect string // name of the dialect in outbox.Schema
	driver  string // name of the driver in database/sql
	newDSN  func(t testing.TB) string
}

var mainDrivers = flag.String("storm.drivers", "modernc,pgx", "the drivers that most tests run on, of modernc, ncruces, pgx and pq")

// allDatabases returns the databases that the tests know, with every driver. It logs
// what has to be left out.
func allDatabases(t testing.TB) []database {
	all := []database{
		{"modernc", "sqlite", "sqlite", sqliteDSN},
		{"ncruces", "sqlite", "sqlite3", sqliteDSN},
	}
	if why := postgresMissing(); why != "" {
		t.Logf("LEFT OUT: PostgreSQL, %s", why)
		return all
	}
	return append(all,
		database{"pgx", "postgres", "pgx", postgresDSN},
		database{"pq", "postgres", "postgres", postgresDSN},
	)
}

// databases returns the databases of the drivers in -storm.drivers.
func databases(t testing.TB) []database {
	names := strings.Split(*mainDrivers, ",")
	return slices.DeleteFunc(allDatabases(t), func(d database) bool { return !slices.Contains(names, d.name) })
}

// eachDriver runs a test with every driver.
func eachDriver(t *testing.T, test func(t *testing.T, d database)) {
	runOn(t, allDatabases(t), test)
}

// eachDatabase runs a test with one driver of each database, or with those of
// -storm.drivers.
func eachDatabase(t *testing.T, test func(t *testing.T, d database)) {
	runOn(t, databases(t), test)
}

func runOn(t *testing.T, all []database, test func(t *testing.T, d database)) {
	require.NotEmpty(t, all, "-storm.drivers")
	for _, d := range all {
		t.Run(d.name, func(t *testing.T) { t.Parallel(); test(t, d) })
	}
}

// onSQLite runs a test of the dispatcher's decisions, which do not depend on the
// database.
func onSQLite(t *testing.T, test func(t *testing.T, d database)) {
	t.Parallel()
	test(t, databases(t)[0])
}

var dsns sync.Map // DSNs by the name of a test

// open opens a new, empty database. Called again with the same t, it opens the same one.
func (d database) open(t testing.TB) *sql.DB {
	dsn, ok := dsns.Load(t.Name())
	if !ok {
		dsn = d.newDSN(t)
		dsns.Store(t.Name(), dsn)
		t.Cleanup(func() { dsns.Delete(t.Name()) }) // needed for -count
	}
	return d.openDSN(t, dsn.(string))
}

func (d database) openDSN(t testing.TB, dsn string) *sql.DB {
	db, err := sql.Open(d.driver, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func sqliteDSN(t testing.TB) string {
	return "file:" + filepath.ToSlash(filepath.Join(t.TempDir(), "shop.db")) +
		"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"
}
