//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// cluster is a private PostgreSQL with its default settings, which listens on a socket
// in its own directory. It runs as an ordinary user if this program runs as root, as
// it must.
type cluster struct {
	dir string
	as  *syscall.SysProcAttr
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

func newCluster(ctx context.Context, dir string) (*cluster, error) {
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
	if err := c.run(ctx, "initdb", "-D", c.data(), "-U", "shop", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"); err != nil {
		return nil, err
	}
	return c, c.run(ctx, "pg_ctl", "-D", c.data(), "-w", "-l", filepath.Join(dir, "log"), "-o",
		fmt.Sprintf("-c listen_addresses= -c unix_socket_directories=%s -c max_connections=400", dir), "start")
}

func (c *cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *cluster) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, postgresBin(program), args...)
	cmd.SysProcAttr, cmd.Dir = c.as, c.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return err
}

func (c *cluster) stop(ctx context.Context) {
	_ = c.run(context.WithoutCancel(ctx), "pg_ctl", "-D", c.data(), "-w", "-m", "immediate", "stop")
}

func (c *cluster) dsn(name string) string {
	return fmt.Sprintf("host=%s port=5432 user=shop dbname=%s sslmode=disable", c.dir, name)
}

func (c *cluster) exec(ctx context.Context, statement string) error {
	admin, err := pgx.Connect(ctx, c.dsn("postgres"))
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	_, err = admin.Exec(ctx, statement)
	return err
}
