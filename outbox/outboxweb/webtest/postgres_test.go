//go:build unix

package webtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// cluster is a private PostgreSQL, which listens on a socket in its own directory. It
// runs as an ordinary user if the tests run as root, as it must.
type cluster struct {
	dir string
	as  *syscall.SysProcAttr
}

func postgresBin(program string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	path, _ := exec.LookPath(program)
	return path
}

func postgresMissing() string {
	if postgresBin("initdb") == "" || postgresBin("postgres") == "" {
		return "its programs are not installed"
	}
	return ""
}

func newCluster() (*cluster, error) {
	dir, err := os.MkdirTemp("", "oakra-pg")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
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

func (c *cluster) start() error {
	return c.run("pg_ctl", "-D", c.data(), "-w", "-l", filepath.Join(c.dir, "log"), "-o",
		fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s -c fsync=off -c shared_buffers=256MB -c max_wal_size=4GB", c.dir), "start")
}

func (c *cluster) stop() error {
	return c.run("pg_ctl", "-D", c.data(), "-w", "-m", "immediate", "stop")
}

func (c *cluster) remove() {
	_ = c.stop() // it may be stopped already
	_ = os.RemoveAll(c.dir)
}

func (c *cluster) dsn() string {
	return fmt.Sprintf("host=%s port=5432 user=shop password=hunter2-of-the-database dbname=postgres sslmode=disable", c.dir)
}
