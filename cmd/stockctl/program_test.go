package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// asProgram is set in the environment of a process that is to be stockctl, and not
// its tests.
const asProgram = "STOCKCTL_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program returns stockctl as a process of its own, on a server at the URL.
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

// behind returns the URL of a proxy before the server of s. A write waits there for
// what hold returns.
func (s *session) behind(hold func() <-chan struct{}) string {
	target, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	target.Path = ""
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			body, _ := io.ReadAll(r.Body) // only then net/http notices that the client goes away
			r.Body = io.NopCloser(bytes.NewReader(body))
			select {
			case <-hold():
			case <-r.Context().Done():
				return
			}
		}
		forward.ServeHTTP(w, r)
	}))
	s.t.Cleanup(proxy.Close)
	return proxy.URL + "/api/v1/"
}

// TestSignals sends signals to a process while its writes are under way. After the
// first one these end well, so that nothing is unknown, and no other begins.
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
			url := s.behind(func() <-chan struct{} {
				arrived <- struct{}{}
				return release
			})
			var stdout, stderr output
			command := program(t, url, test.args...)
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
			_ = command.Wait() // the exit code says more
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
