package storm_test

import (
	"database/sql"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "github.com/ncruces/go-sqlite3/driver"
	_ "github.com/ncruces/go-sqlite3/embed"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

// database opens new databases of one kind.
type database struct {
	name string
	open func(t testing.TB) *sql.DB // called again with the same t, it opens the same database
}

// databases are those that the tests run on. What is left out is said loudly.
func databases(t testing.TB) []database {
	all := []database{
		{"modernc", openerOf("sqlite", sqliteDSN)},
		{"ncruces", openerOf("sqlite3", sqliteDSN)},
	}
	if why := postgresMissing(); why != "" {
		t.Logf("LEFT OUT: PostgreSQL, %s", why)
		return all
	}
	return append(all,
		database{"pgx", openerOf("pgx", postgresDSN)},
		database{"pq", openerOf("postgres", postgresDSN)},
	)
}

// eachDatabase runs a test on every database.
func eachDatabase(t *testing.T, test func(t *testing.T, d database)) {
	for _, d := range databases(t) {
		t.Run(d.name, func(t *testing.T) { t.Parallel(); test(t, d) })
	}
}

func openerOf(driver string, dsn func(t testing.TB) string) func(t testing.TB) *sql.DB {
	names := sync.Map{}
	return func(t testing.TB) *sql.DB {
		name, ok := names.Load(t.Name())
		if !ok {
			name = dsn(t)
			names.Store(t.Name(), name)
		}
		db, err := sql.Open(driver, name.(string))
		require.NoError(t, err)
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
}

func sqliteDSN(t testing.TB) string {
	return "file:" + filepath.ToSlash(filepath.Join(t.TempDir(), "shop.db")) +
		"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"
}
