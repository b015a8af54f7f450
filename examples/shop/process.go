package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/oakra/oakra-go/oakratest"
)

// newPassword returns a password for the staff.
func newPassword() string { return rand.Text() }

// process is the running shop.
type process struct {
	cmd     *exec.Cmd
	pipe    io.Closer // the shop ends when it is closed
	address string
}

// startShop starts this program once more, as the shop, and waits until it listens.
func startShop(ctx context.Context, database, password string, server *oakratest.Server) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self) // ended by stop, so that its last request ends first
	cmd.Env = append(os.Environ(), "SHOP_DATABASE="+database, "SHOP_STAFF_PASSWORD="+password, "OAKRA_BASE_URL="+server.URL, "OAKRA_APP_KEY="+server.Key)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, pipe: pipe}
	p.address, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the shop did not start: %w", errors.Join(err, p.stop()))
	}
	p.address = strings.TrimSpace(p.address)
	return p, nil
}

// kill does what kill -9 does: the shop cannot finish anything.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = p.cmd.Wait() // "signal: killed"
	return nil
}

// stop lets the shop end in order.
func (p *process) stop() error {
	_ = p.pipe.Close() // closed already if the shop was killed
	if p.cmd.ProcessState != nil {
		return nil
	}
	return p.cmd.Wait()
}
