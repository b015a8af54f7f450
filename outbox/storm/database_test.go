package storm_test

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// cluster is a private PostgreSQL that is started once for the tests.
var cluster struct {
	once sync.Once
	dir  string
	err  error
	next int
	mu   sync.Mutex
}

func postgresBin(program string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	return path
}

func postgresMissing() string {
	if postgresBin("initdb") == "" || postgresBin("postgres") == "" {
		return "its programs are not installed"
	}
	return ""
}

// postgresDSN returns a new, empty database.
func postgresDSN(t testing.TB) string {
	cluster.once.Do(func() { cluster.dir, cluster.err = startPostgres() })
	require.NoError(t, cluster.err)
	cluster.mu.Lock()
	cluster.next++
	name := "shop" + strconv.Itoa(cluster.next)
	cluster.mu.Unlock()
	admin, err := sql.Open("pgx", clusterDSN("postgres"))
	require.NoError(t, err)
	defer admin.Close()
	_, err = admin.Exec("CREATE DATABASE " + name)
	require.NoError(t, err)
	return clusterDSN(name)
}

func clusterDSN(name string) string {
	return fmt.Sprintf("host=%s port=5432 user=shop dbname=%s sslmode=disable", cluster.dir, name)
}

// startPostgres starts a cluster that listens on a socket in its own directory, as
// an ordinary user if the tests run as root, and is stopped by TestMain.
func startPostgres() (dir string, err error) {
	dir, err = os.MkdirTemp("", "oakra-pg")
	if err != nil {
		return "", err
	}
	var as *syscall.SysProcAttr
	if os.Getuid() == 0 {
		ordinary, err := user.Lookup("nobody")
		if err != nil {
			return "", err
		}
		uid, _ := strconv.Atoi(ordinary.Uid)
		gid, _ := strconv.Atoi(ordinary.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", err
		}
		as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	run := func(program string, args ...string) error {
		cmd := exec.Command(postgresBin(program), args...)
		cmd.SysProcAttr, cmd.Dir = as, dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
		}
		return err
	}
	data := filepath.Join(dir, "data")
	if err := run("initdb", "-D", data, "-U", "shop", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"); err != nil {
		return "", err
	}
	return dir, run("pg_ctl", "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o",
		fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s -c max_connections=300 -c fsync=off", dir), "start")
}

func stopPostgres() {
	if cluster.dir == "" {
		return
	}
	pid, err := os.ReadFile(filepath.Join(cluster.dir, "data", "postmaster.pid"))
	if err == nil {
		first, _, _ := strings.Cut(string(pid), "\n")
		if n, err := strconv.Atoi(first); err == nil {
			_ = syscall.Kill(n, syscall.SIGINT)
			for syscall.Kill(n, 0) == nil {
				if out, err := exec.Command(postgresBin("pg_isready"), "-h", cluster.dir).CombinedOutput(); err != nil && strings.Contains(string(out), "no response") {
					break
				}
			}
		}
	}
	_ = os.RemoveAll(cluster.dir)
}

func TestMain(m *testing.M) {
	code := m.Run()
	stopPostgres()
	os.Exit(code)
}
