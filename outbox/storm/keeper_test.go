//go:build unix

package storm_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// This file makes sure that no database outlives its test process.

const clusterPrefix = "oakra-pg"

// keep is the script of a keeper. When the test process ends, the keeper's standard input
// is closed. The keeper then ends everything that runs in the directory (PostgreSQL
// without a checkpoint, and pgbouncer), and removes the directory.
const keep = `trap "" INT QUIT TERM HUP
cat >/dev/null
find . -name "*.pid" | while read -r file; do
	case $file in */postmaster.pid) signal=QUIT ;; *) signal=KILL ;; esac
	kill -$signal "$(head -n 1 "$file")"
done
cd /
tries=0
until rm -rf "$0" || [ $((tries += 1)) = 100 ]; do sleep 0.1; done`

// newClusterDir creates the directory of a cluster, and starts its keeper.
func newClusterDir() (*cluster, error) {
	removeLeftovers(os.TempDir())
	dir, err := os.MkdirTemp("", clusterPrefix)
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	if c.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		c.as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	c.keeper = keeperOf(dir)
	if c.alive, err = c.keeper.StdinPipe(); err != nil {
		return nil, err
	}
	return c, c.keeper.Start()
}

func keeperOf(dir string) *exec.Cmd {
	cmd := exec.Command("sh", "-c", keep, dir)
	cmd.Dir = dir
	return cmd
}

// lockDir creates the lock of a directory, and holds it until the file is closed or this
// process ends. The lock file gets its name only once the lock is held.
func lockDir(dir string) (*os.File, error) {
	made := filepath.Join(dir, "new-lock")
	if err := os.WriteFile(made, nil, 0o600); err != nil {
		return nil, err
	}
	file, err := holdLock(made)
	if err != nil {
		return nil, err
	}
	return file, os.Rename(made, filepath.Join(dir, "lock"))
}

func holdLock(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// removeLeftovers removes the clusters of processes that ended together with their
// keepers, as happens when a container is stopped.
func removeLeftovers(temp string) {
	locks, _ := filepath.Glob(filepath.Join(temp, clusterPrefix+"*", "lock"))
	for _, name := range locks {
		if lock, err := holdLock(name); err == nil {
			_ = keeperOf(filepath.Dir(name)).Run()
			_ = lock.Close()
		}
	}
}

// clusterEnv is the environment variable that makes the test binary start a cluster.
const clusterEnv = "OAKRA_STORM_CLUSTER"

// runClusterChild starts a cluster, prints where it is, and waits to be killed.
func runClusterChild() int {
	c, err := newCluster()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.dir)
	select {}
}

// If a test process is killed, its PostgreSQL ends too.
func TestClusterDiesWithItsProcess(t *testing.T) {
	if why := postgresMissing(); why != "" {
		t.Skipf("LEFT OUT: PostgreSQL, %s", why)
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clusterEnv+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	dir, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	dir = strings.TrimSpace(dir)
	conn, err := database{driver: "pgx"}.openDSN(t, (&cluster{dir: dir}).dsn("postgres")).Conn(t.Context())
	require.NoError(t, err, dir)
	defer conn.Close()

	removeLeftovers(os.TempDir())
	require.DirExists(t, dir, "it is in use")
	require.NoError(t, cmd.Process.Kill())
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { return conn.PingContext(t.Context()) != nil }, time.Minute, 10*time.Millisecond, "PostgreSQL runs on")
}

// If the keeper of a process was killed too, what is left is removed at the next start.
func TestLeftoversAreRemoved(t *testing.T) {
	temp := t.TempDir()
	left, used := filepath.Join(temp, clusterPrefix+"1"), filepath.Join(temp, clusterPrefix+"2")
	for _, dir := range []string{left, used} {
		require.NoError(t, os.Mkdir(dir, 0o700))
		lock, err := lockDir(dir)
		require.NoError(t, err)
		if dir == left {
			require.NoError(t, lock.Close())
		} else {
			t.Cleanup(func() { _ = lock.Close() })
		}
	}
	running := exec.Command("sleep", "60")
	require.NoError(t, running.Start())
	t.Cleanup(func() { _ = running.Process.Kill() })
	require.NoError(t, os.WriteFile(filepath.Join(left, "pgbouncer.pid"), fmt.Appendln(nil, running.Process.Pid), 0o600))
	removeLeftovers(temp)
	require.NoDirExists(t, left)
	require.DirExists(t, used)
	require.Error(t, running.Wait(), "it was killed")
}
