package main

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// serveUI runs stockctl outbox ui until the test ends, and returns the address of its
// pages.
func (s *outboxSession) serveUI(args ...string) string {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	var out output
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, process{
			args:   append([]string{"outbox", "ui", s.flag, "--addr", "127.0.0.1:0", "--base-url", s.server.URL}, args...),
			stdout: &out, stderr: &out, cut: s.cut,
			getenv:     func(name string) string { return map[string]string{keyVariable: appKey}[name] },
			isTerminal: func(io.Writer) bool { return false },
		})
	}()
	s.t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitOK {
			s.t.Errorf("exit code %d: %s", code, &out)
		}
	})
	for address := regexp.MustCompile(`http://[^\s"]+/`); ; time.Sleep(5 * time.Millisecond) {
		if found := address.FindString(out.String()); found != "" || len(ended) > 0 {
			return found
		}
	}
}

// ask sends a request to the pages, with a form if there is one.
func (s *outboxSession) ask(address, host string, form url.Values) (status int, text string) {
	s.t.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if strings.Contains(string(body), appKey) {
		s.t.Errorf("%s shows the app key", address)
	}
	return response.StatusCode, string(body)
}

func TestOutboxUI(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	s.server.SetDialect(oakratest.Dialect{RejectNegative: true})
	s.add("order-1/1", "cap-navy", -100_000)
	if err := s.box.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	decision := url.Values{"id": {"order-1/1"}, "action": {"drop"}, "confirmed": {"yes"}, "note": {"cancelled"}}

	reading := s.serveUI()
	status, text := s.ask(reading, "", nil)
	if status != http.StatusOK {
		t.Error(status, text)
	}
	contains(t, text, "1 change waits for a decision.", "Decisions are switched off here.")
	if status, _ := s.ask(reading+"decide", "", decision); status != http.StatusForbidden {
		t.Error(status)
	}
	u, err := url.Parse(reading)
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := s.ask(reading, "localhost:"+u.Port(), nil); status != http.StatusOK {
		t.Error(status)
	}
	for _, host := range []string{"evil.example", "evil.example:" + u.Port(), "localhost", u.Host + ".evil.example"} {
		if status, text := s.ask(reading, host, nil); status != http.StatusForbidden || strings.Contains(text, "Overview") {
			t.Error(host, status, text)
		}
	}
	if status, _ := s.ask("http://"+u.Host+"/", "", nil); status != http.StatusNotFound {
		t.Error("the pages are found without their path", status)
	}

	writing := s.serveUI("--write", "--by", "ann", "--json")
	status, text = s.ask(writing+"decide", "", decision)
	if status != http.StatusOK || s.state("order-1/1") != outbox.StateDropped {
		t.Error(status, text)
	}
	contains(t, text, "<bdi>ann</bdi>", "drop: cancelled")

	s.setQuantity(1, 204_711)
	s.add("order-2/1", "cap-navy", -1)
	s.outbox(exitRejected, "drain", "--grace=20ms")
	status, text = s.ask(writing+"resume", "", url.Values{"restored": {"no"}, "note": {"a stock take"}})
	if status != http.StatusOK {
		t.Error(status, text)
	}
	s.outbox(exitOK, "status")
}

func TestOutboxUIRefuses(t *testing.T) {
	s := newOutboxSession(t, outbox.Options{})
	for want, args := range map[string][]string{
		"--by NAME":                  {"--write"},
		"add --write":                {"--by", "ann"},
		"is not an address":          {"--addr", "0.0.0.0:0"},
		"is not an address ":         {"--addr", ":8481"},
		"is not an address of":       {"--addr", "192.0.2.1:0"},
		"missing port":               {"--addr", "127.0.0.1"},
		"choose another with --addr": {"--addr", "127.0.0.1:99999"},
	} {
		_, stderr := s.outbox(exitError, append([]string{"ui"}, args...)...)
		contains(t, stderr, want)
	}
}
