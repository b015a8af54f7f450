package outboxweb

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

func TestHandlerOfNil(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Handler took a nil outbox")
		}
	}()
	Handler(nil, Options{})
}

func TestLongName(t *testing.T) {
	h := &handler{options: Options{AllowWrites: true, User: func(*http.Request) string { return " " + strings.Repeat("å", 10_000) }}}
	if name := h.writer(nil); name != strings.Repeat("å", 100) {
		t.Errorf("the name has %d bytes", len(name))
	}
}

func TestJudge(t *testing.T) {
	for want, s := range map[string]outbox.Status{
		"good Working The outbox works, and nothing waits.":                                                               {},
		"good Working The outbox works: 1 change waits to be sent.":                                                       {Pending: 1, Leader: "a", OldestPending: time.Minute},
		"attention Needs a decision The outbox works. 10,000 changes wait for a decision.":                                {Parked: 10_000},
		"attention Not sending No process dispatches, and 2 changes wait to be sent.":                                     {Pending: 2, Parked: 1, OldestPending: time.Hour},
		"attention Late The oldest change has waited for 2 hours: Oakra is down, or the app key or the address is wrong.": {Pending: 2, Leader: "a", OldestPending: 150 * time.Minute},
		"bad Halted Nothing is sent until a person resumes. Orders are still recorded.":                                   {Halted: "x", Pending: 2, Parked: 1},
	} {
		v := judge(s)
		if got := v.Level + " " + v.Word + " " + v.Sentence; !strings.HasPrefix(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestNumbersAndTimes(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(-1234567): "-1,234,567", count(-123): "-123",
		signed(-1): "−1", signed(12345): "+12,345", units(-3): "3",
		length(0): "0 seconds", length(-time.Second): "0 seconds", length(1500 * time.Millisecond): "1 second",
		length(119 * time.Second): "1 minute", length(25 * time.Hour): "1 day", length(72 * time.Hour): "3 days",
		when(time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local))[:20]: "2026-01-02 03:04:05 ",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestVisible(t *testing.T) {
	for value, want := range map[string]string{
		"":                 "",
		"cap navy":         "cap navy",
		" cap  ":           "␣cap␣␣",
		"  ":               "␣␣",
		"a\u202eb\x00\n":   "a⟨U+202E⟩b⟨U+0000⟩⟨U+000A⟩",
		"Größe 日本 العربية": "Größe 日本 العربية",
		"\xff":             "�",
	} {
		if got := visible(value); got != want {
			t.Errorf("visible(%q) is %q, want %q", value, got, want)
		}
	}
}
