//go:build unix

package storm_test

import (
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cluster is a private PostgreSQL that listens on a socket in its own directory. If the
// tests run as root, it runs as an ordinary user, because PostgreSQL refuses root. It
// ends with the test process, even if that is killed.
type cluster struct {
	dir    string
	as     *syscall.SysProcAttr
	lock   *os.File // locked while this process lives
	keeper *exec.Cmd
	alive  io.Closer // the keeper's standard input
	mu     sync.Mutex
	n      int // number of databases
}

// shared is the cluster of all tests that do not crash it. TestMain removes it.
var shared struct {
	once sync.Once
	*cluster
	err error
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

// postgresDSN returns the DSN of a new, empty schema in the shared cluster. Creating a
// schema is much faster than creating a database.
func postgresDSN(t testing.TB) string {
	shared.once.Do(func() { shared.cluster, shared.err = newCluster() })
	require.NoError(t, shared.err)
	name := shared.name()
	shared.exec(t, "CREATE SCHEMA "+name)
	return postgresNamed("postgres") + " search_path=" + name
}

func newCluster() (*cluster, error) {
	c, err := newClusterDir()
	if err != nil {
		return nil, err
	}
	if err := c.run("initdb", "-D", c.data(), "-U", "shop", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"); err != nil {
		return nil, err
	}
	return c, c.start()
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *cluster) run(program string, args ...string) error {
	cmd := exec.Command(postgresBin(program), args...)
	cmd.SysProcAttr, cmd.Dir = c.as, c.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return err
}

// start starts the server. What a crash left behind may take a moment to go away.
// Without fsync the data still survives every crash except one of the machine.
func (c *cluster) start() (err error) {
	for range 20 {
		err = c.run("pg_ctl", "-D", c.data(), "-w", "-l", filepath.Join(c.dir, "log"), "-o",
			fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s -c max_connections=300 -c fsync=off", c.dir), "start")
		if err == nil {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

func (c *cluster) stop(mode string) error {
	return c.run("pg_ctl", "-D", c.data(), "-w", "-m", mode, "stop")
}

// kill kills the server's main process. Its children notice that and end.
func (c *cluster) kill() error {
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// remove ends everything that runs in the directory, and removes it.
func (c *cluster) remove() {
	_ = c.alive.Close()
	_ = c.keeper.Wait()
	_ = c.lock.Close()
}

func (c *cluster) dsn(name string) string {
	return fmt.Sprintf("host=%s port=5432 user=shop dbname=%s sslmode=disable", c.dir, name)
}

// name returns a new name.
func (c *cluster) name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return "shop" + strconv.Itoa(c.n)
}

func (c *cluster) exec(t testing.TB, statement string) {
	admin, err := sql.Open("pgx", c.dsn("postgres"))
	require.NoError(t, err)
	defer admin.Close()
	_, err = admin.Exec(statement)
	require.NoError(t, err)
}

// create creates a database, and returns its DSN.
func (c *cluster) create(t testing.TB) string {
	name := c.name()
	c.exec(t, "CREATE DATABASE "+name)
	return c.dsn(name)
}

// postgresNamed returns the DSN of a database of the shared cluster.
func postgresNamed(name string) string { return shared.dsn(name) }

func TestMain(m *testing.M) {
	if plan := os.Getenv(childEnv); plan != "" {
		os.Exit(runChild(plan))
	}
	if os.Getenv(clusterEnv) != "" {
		os.Exit(runClusterChild())
	}
	code := m.Run()
	if shared.cluster != nil {
		shared.remove()
	}
	os.Exit(code)
}
