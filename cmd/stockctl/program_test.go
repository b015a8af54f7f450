package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// asProgram is an environment variable that makes the test binary run as stockctl
// instead of running its tests.
const asProgram = "STOCKCTL_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program returns a command that runs stockctl as a process of its own, with the server
// at the URL.
func program(t *testing.T, url string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), self, append(args, "--base-url", url)...)
	command.Env = append(os.Environ(), asProgram+"=yes", keyVariable+"="+appKey)
	return command
}

// proxy is a proxy between a process and the server of a session.
type proxy struct {
	t       *testing.T
	url     string
	addr    string
	handler http.Handler
	mu      sync.Mutex
	server  *http.Server
}

// behind starts a proxy in front of the server of s. It forwards a request unless meet
// returns false.
func (s *session) behind(meet func(p *proxy, w http.ResponseWriter, r *http.Request) bool) *proxy {
	target, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	target.Path = ""
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorLog = log.New(io.Discard, "", 0)
	p := &proxy{t: s.t}
	p.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // net/http notices only after this that the client goes away
		r.Body = io.NopCloser(bytes.NewReader(body))
		if meet(p, w, r) {
			forward.ServeHTTP(w, r)
		}
	})
	// The kernel never assigns one of these ports by itself. The port is therefore still
	// free when the proxy listens again.
	for p.server == nil {
		p.addr = fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		p.listen()
	}
	p.url = "http://" + p.addr + "/api/v1/"
	s.t.Cleanup(p.close)
	return p
}

// listen accepts connections, unless the address is taken.
func (p *proxy) listen() {
	listener, err := net.Listen("tcp", p.addr)
	if err != nil {
		p.t.Log(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server = &http.Server{Handler: p.handler}
	go func(server *http.Server) { _ = server.Serve(listener) }(p.server)
}

// close ends all connections, and refuses new ones.
func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.server.Close()
}

// TestSignals sends signals to a process while its writes are in flight. After the
// first signal these writes finish, no outcome is unknown, and no other write begins.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("LEFT OUT: Windows has no signals to send to a process")
	}
	const (
		stopping = "stopping when the writes under way have ended; Ctrl-C again cuts them off\n"
		unknown  = "stock: unknown whether all, some or nothing of it changed\n"
	)
	sync := []string{"sync", "-", "--batch-size", "10", "--concurrency", "2"}
	stopped := []string{"380 records not tried: not sent, since the program was told to stop\n20 records changed, 0 right already, 380 not tried\n"}
	again := "stock: partly changed\nnext: run it again: it reads the stock anew, and leaves alone what is right\n"
	cut := []string{"cut off, since the program was told twice to stop", "\n0 records changed, 0 right already, 380 not tried, 20 unknown\n"}
	for _, test := range []struct {
		name     string
		args     []string
		inFlight int
		signals  []os.Signal
		code     int
		stdout   []string
		stderr   string
	}{
		{"sync, SIGINT", sync, 2, []os.Signal{os.Interrupt}, exitPartly, stopped, again},
		{"sync, SIGTERM", sync, 2, []os.Signal{syscall.SIGTERM}, exitPartly, stopped, again},
		{"sync, both", sync, 2, []os.Signal{syscall.SIGTERM, os.Interrupt}, exitUnknown, cut, unknown + "next: wait 1m0s, then run it again"},
		{"change, SIGINT", []string{"change", "1=+1"}, 1, []os.Signal{os.Interrupt}, exitOK, []string{" 1  w         s1         11\n"}, ""},
		{"change, SIGTERM", []string{"change", "1=+1"}, 1, []os.Signal{syscall.SIGTERM}, exitOK, []string{" 1  w         s1         11\n"}, ""},
		{"change, SIGINT twice", []string{"change", "1=+1"}, 1, []os.Signal{os.Interrupt, os.Interrupt}, exitUnknown, nil, unknown + "next: look at the unknown records"},
	} {
		t.Run(test.name, func(t *testing.T) {
			records, _ := many(400)
			s := newSession(t, records...)
			arrived, release := make(chan struct{}, len(records)), make(chan struct{})
			front := s.behind(func(_ *proxy, _ http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet {
					return true
				}
				arrived <- struct{}{}
				select {
				case <-release:
					return true
				case <-r.Context().Done():
					return false
				}
			})
			var stdout, stderr output
			command := program(t, front.url, test.args...)
			command.Stdin, command.Stdout, command.Stderr = strings.NewReader(feedOf(records, 11)), &stdout, &stderr
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			for range test.inFlight {
				<-arrived
			}
			for _, signal := range test.signals {
				if err := command.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				waitUntil(t, &stderr, stopping)
			}
			applied := 0
			if len(test.signals) == 1 {
				close(release)
				applied = 10 * test.inFlight
				if test.args[0] == "change" {
					applied = 1
				}
			}
			_ = command.Wait() // the exit code is checked instead
			if code := command.ProcessState.ExitCode(); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			contains(t, stderr.String(), stopping, test.stderr)
			contains(t, stdout.String(), test.stdout...)
			for _, r := range s.server.Requests() {
				if applied -= len(r.Applied); r.Op == "stock.change" && r.Status != http.StatusOK {
					t.Errorf("a write got %d", r.Status)
				}
			}
			if applied != 0 {
				t.Errorf("%d more changes should have been applied", applied)
			}
		})
	}
}
