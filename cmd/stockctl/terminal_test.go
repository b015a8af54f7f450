package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/creack/pty"
)

var outage = flag.Duration("outage", 1500*time.Millisecond, "how long an outage of TestTerminal lasts once the screen shows it")

// TestTerminal syncs 20,000 records in a pseudo-terminal, through an outage. Meanwhile
// the screen must show what the program waits for and since when. In the end every
// record must be right.
func TestTerminal(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("LEFT OUT: there are no pseudo-terminals on Windows")
	}
	const down, gone = `503 Service Unavailable`, `(?:no response|no connection)`
	for _, test := range []struct {
		name   string
		method string // method of the request that the outage begins with
		after  int64  // number of requests with that method before the outage
		refuse bool   // whether connections are refused, instead of a 503 response
		phase  string
		cause  string
	}{
		{"503 while writing", http.MethodPost, 15, false, "writing", down},
		{"503 while reading", http.MethodGet, 20, false, "reading", down},
		{"refused while writing", http.MethodPost, 15, true, "writing", gone},
		{"refused while reading", http.MethodGet, 20, true, "reading", gone},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			records, _ := many(20_000)
			s := newSession(t, records...)
			s.server.SetLatency(50*time.Millisecond, 0)
			file := filepath.Join(t.TempDir(), "feed.csv")
			if err := os.WriteFile(file, []byte(feedOf(records, 11)), 0o600); err != nil {
				t.Fatal(err)
			}
			var requests atomic.Int64
			var began atomic.Pointer[time.Time] // time when the outage began
			front := s.behind(func(p *proxy, w http.ResponseWriter, r *http.Request) bool {
				if r.Method == test.method && requests.Add(1) == test.after {
					now := time.Now()
					began.Store(&now)
					if test.refuse {
						p.close()
					}
				}
				if began.Load() == nil {
					return true
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				return false
			})
			command := program(t, front.url, "sync", file, "--settle-after", "1s")
			terminal, err := pty.StartWithSize(command, &pty.Winsize{Rows: 24, Cols: 120})
			if err != nil {
				t.Fatal(err)
			}
			defer terminal.Close()

			waits := regexp.MustCompile(`^` + test.phase + `: \d+ of 20000 records, waiting for the service since (\d\d:\d\d:\d\d) \(` + test.cause + `\)$`)
			seen := &screen{began: time.Now()}
			var ending sync.WaitGroup
			at, since := -1, time.Time{} // index of the line that says so, and beginning of the outage
			for chunk := make([]byte, 4096); ; {
				n, err := terminal.Read(chunk)
				seen.write(chunk[:n])
				if at < 0 {
					if at = slices.IndexFunc(seen.lines, waits.MatchString); at >= 0 {
						since = *began.Load()
						ending.Go(func() {
							time.Sleep(*outage)
							began.Store(nil)
							if test.refuse {
								front.listen()
							}
						})
					}
				}
				if err != nil { // the program has ended
					break
				}
			}
			if err := command.Wait(); err != nil {
				t.Error(err)
			}
			ending.Wait()
			t.Logf("on the screen:\n%s", seen)

			if at < 0 {
				t.Fatalf("nowhere does it say %s", waits)
			}
			if text := waits.FindStringSubmatch(seen.lines[at])[1]; !slices.Contains(secondsBetween(since, seen.times[at]), text) {
				t.Errorf("since %s, it says; the outage began at %v", text, since)
			}
			equal(t, "the last line", seen.lines[len(seen.lines)-1], "20000 records changed, 0 right already")
			changed := make(map[int64]bool)
			for _, r := range s.server.Requests() {
				for _, a := range r.Applied {
					if changed[a.ID] || a.To != 11 {
						t.Errorf("record %d went from %d to %d", a.ID, a.From, a.To)
					}
					changed[a.ID] = true
				}
			}
			if len(changed) != len(records) {
				t.Errorf("%d records were changed", len(changed))
			}
		})
	}
}

// secondsBetween returns the times of day from one time to another, by the second, as
// the screen shows them.
func secondsBetween(from, to time.Time) (all []string) {
	for at := from; !at.After(to.Add(time.Second)); at = at.Add(time.Second) {
		all = append(all, at.Format(time.TimeOnly))
	}
	return all
}

// screen holds what a person sees in a terminal: the bottom line, which is overwritten,
// and the lines above it.
type screen struct {
	began  time.Time
	line   []byte // bottom line
	column int
	escape []byte // escape sequence that is not complete yet
	lines  []string
	times  []time.Time // times when the lines were first seen
}

func (s *screen) write(text []byte) {
	for _, c := range text {
		switch {
		case s.escape != nil:
			if s.escape = append(s.escape, c); !unicode.IsLetter(rune(c)) {
				continue
			}
			if c == 'K' {
				s.line = s.line[:min(s.column, len(s.line))]
			}
			s.escape = nil
		case c == '\x1b':
			s.escape = []byte{}
		case c == '\r':
			s.see()
			s.column = 0
		case c == '\n':
			s.see()
			s.line = nil
		default:
			for len(s.line) <= s.column {
				s.line = append(s.line, ' ')
			}
			s.line[s.column] = c
			s.column++
		}
	}
	s.see()
}

// see records the bottom line, unless it is the same as before.
func (s *screen) see() {
	line := strings.TrimSpace(string(s.line))
	if line != "" && (len(s.lines) == 0 || s.lines[len(s.lines)-1] != line) {
		s.lines = append(s.lines, line)
		s.times = append(s.times, time.Now())
	}
}

func (s *screen) String() string {
	var b strings.Builder
	for i, line := range s.lines {
		fmt.Fprintf(&b, "%6.1f s  %s\n", s.times[i].Sub(s.began).Seconds(), line)
	}
	return b.String()
}
