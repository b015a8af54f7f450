package webtest

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"
)

// eachDatabase runs a test on SQLite, and on PostgreSQL if it is installed.
func eachDatabase(t *testing.T, test func(t *testing.T, db *sql.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, openSQLite(t)) })
	t.Run("postgres", func(t *testing.T) {
		if why := postgresMissing(); why != "" {
			t.Skip("LEFT OUT: PostgreSQL, " + why)
		}
		test(t, openPostgres(t))
	})
}

func openSQLite(t testing.TB) *sql.DB {
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(filepath.Join(t.TempDir(), "shop.db"))+
		"?_pragma=busy_timeout(20000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// shared is the cluster that the tests share. TestMain removes it.
var shared struct {
	once sync.Once
	*cluster
	err     error
	schemas int
}

// openPostgres opens a new, empty schema.
func openPostgres(t testing.TB) *sql.DB {
	shared.once.Do(func() { shared.cluster, shared.err = newCluster() })
	require.NoError(t, shared.err)
	shared.schemas++
	name := fmt.Sprintf("shop%d", shared.schemas)
	db, err := sql.Open("pgx", shared.dsn()+" search_path="+name)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	_, err = db.Exec("CREATE SCHEMA " + name)
	require.NoError(t, err)
	return db
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.cluster != nil {
		shared.remove()
	}
	os.Exit(code)
}
