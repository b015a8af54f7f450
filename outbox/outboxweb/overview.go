package outboxweb

import (
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// late is the age of the oldest pending change from which on somebody should look.
const late = 10 * time.Minute

// lastStatus keeps the newest Status that could be read.
type lastStatus struct {
	mu      sync.Mutex
	status  outbox.Status
	at      time.Time // zero if none was read yet
	failing bool
}

// overviewData is what the overview shows.
type overviewData struct {
	Verdict verdict
	Status  outbox.Status
	At      time.Time     // when Status was read; zero if never
	Age     time.Duration // of Status, if the database does not respond now; else 0
}

// Known reports whether there is a Status to show.
func (d overviewData) Known() bool { return !d.At.IsZero() }

// verdict is one sentence about an outbox. Level is "good", "attention", "bad" or
// "unknown".
type verdict struct {
	Level, Word, Sentence string
}

func (h *handler) overview(r *http.Request) page {
	ctx, cancel := reads(r.Context())
	defer cancel()
	status, err := h.box.Status(ctx)
	now := time.Now()

	h.last.mu.Lock()
	defer h.last.mu.Unlock()
	if err == nil {
		h.last.status, h.last.at, h.last.failing = status, now, false
		return page{template: "overview", title: "Overview", data: overviewData{Verdict: judge(status), Status: status, At: now}}
	}
	if !h.last.failing && r.Context().Err() == nil {
		h.last.failing = true // the page asks every few seconds: log it once
		slog.ErrorContext(r.Context(), "outboxweb: the database failed", "error", err)
	}
	d := overviewData{Status: h.last.status, At: h.last.at}
	d.Verdict = verdict{"unknown", "Unknown", "The database does not respond, and was not read since this page was started: nothing is known yet."}
	if d.Known() {
		d.Age = now.Sub(d.At)
		d.Verdict.Sentence = fmt.Sprintf("The database does not respond. What is shown below was read %s ago, at %s.", length(d.Age), when(d.At))
	}
	return page{status: http.StatusServiceUnavailable, template: "overview", title: "Overview", data: d}
}

// judge says how an outbox is doing.
func judge(s outbox.Status) verdict {
	waiting := fmt.Sprintf("%s %s", count(s.Pending), plural(s.Pending, "change waits to be sent", "changes wait to be sent"))
	switch {
	case s.Halted != "":
		return verdict{"bad", "Halted", "Nothing is sent until a person resumes. Orders are still recorded."}
	case s.Pending > 0 && s.Leader == "":
		return verdict{"attention", "Not sending", "No process dispatches, and " + waiting + "."}
	case s.OldestPending > late:
		return verdict{"attention", "Late", "The oldest change has waited for " + length(s.OldestPending) +
			": Oakra is down, or the app key or the address is wrong. The log says which."}
	case s.Parked > 0:
		return verdict{"attention", "Needs a decision", fmt.Sprintf("The outbox works. %s %s for a decision.",
			count(s.Parked), plural(s.Parked, "change waits", "changes wait"))}
	case s.Pending > 0:
		return verdict{"good", "Working", "The outbox works: " + waiting + "."}
	default:
		return verdict{"good", "Working", "The outbox works, and nothing waits."}
	}
}
