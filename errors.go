package oakra

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What went wrong, for [errors.Is]: an [*Error] matches the sentinel that names its
// status, if one does, and whatever its Err wraps. ErrInvalidRequest,
// ErrBadResponse and ErrUnreachable may come so, without a status; 408, 425 and
// other rare statuses match none.
var (
	// ErrInvalidRequest: refused before sending, or answered 400, 413, 415 or 422.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrUnauthorized: 401, the app key is missing, wrong or revoked.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden: 403, the app key may not do this.
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: 404, 405 or 410, no such record or no such route.
	ErrNotFound = errors.New("not found")
	// ErrConflict: 409.
	ErrConflict = errors.New("conflict")
	// ErrRateLimited: 429; [Error.RetryAfter] says how long to wait, if the server did.
	ErrRateLimited = errors.New("rate limited")
	// ErrServer: any 5xx.
	ErrServer = errors.New("server error")
	// ErrRedirect: any 3xx. No redirect is followed: it could carry the app key
	// elsewhere, or turn a write into a read that reports success.
	ErrRedirect = errors.New("redirected")
	// ErrBadResponse: a 2xx that cannot be read as it should, or an answer that
	// is not HTTP.
	ErrBadResponse = errors.New("bad response")
	// ErrUnreachable: no connection was established, so nothing was sent.
	ErrUnreachable = errors.New("unreachable")
)

// Error is the one error type of this package: every call that fails returns
// an *Error, and so does [NewClient]; UpdateAll and ChangeAll return a [*BulkError]
// made of them. Branch with [errors.Is] on the sentinels such as [ErrRateLimited],
// ask [OutcomeOf] whether the stock changed and [Retryable] whether the same call
// may succeed later, and use [errors.As] for the details here. A test that makes
// one sets Op, StatusCode and Outcome.
type Error struct {
	Op         string              // "stock.list", "stock.update", "stock.change" or "client.new"
	Method     string              // of the HTTP request; empty if the arguments were refused
	Path       string              // of the request, without query
	StatusCode int                 // of the last answer; 0 when there was none
	Message    string              // the server's "detail", or what is wrong with the arguments; may be empty, as Error() never is
	Fields     map[string][]string // the server's messages by field, nested ones as stock_records[1].quantity
	RetryAfter time.Duration       // as the server asked; 0 if it did not
	Attempts   int                 // how often the request was handed to the transport, whether or not it had a connection
	Outcome    Outcome             // whether the write was applied; always not applied for a read
	MissingIDs []int64             // ids that were sent, and have no record in an answer of 2xx: these are unknown
	Records    []StockRecord       // the other records of that answer: these were applied
	Body       []byte              // of the answer, at most 64 KiB of it; not part of Error()
	Err        error               // the cause: a context's end, a transport's failure, bad JSON

	made bool   // by this package: row is that of the last attempt, and not to be derived
	row  row    // of the delivery table
	json bool   // the body is JSON
	note string // why it was not sent again, where that is not plain
}

// Error says what happened, whether the stock changed and what to do next. Of many
// ids or fields it names the first 10, and of a long message the first 1,000 bytes.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("oakra: ")
	b.WriteString(e.Op)
	if e.Method != "" {
		fmt.Fprintf(&b, ": %s %s", e.Method, e.Path)
	}
	if e.StatusCode != 0 {
		b.WriteString(strings.TrimSpace(fmt.Sprintf(": %d %s", e.StatusCode, http.StatusText(e.StatusCode))))
	}
	text := ""
	if e.Err != nil {
		text = ": " + e.Err.Error()
	}
	if e.StatusCode == 0 { // the cause first, and then the details
		b.WriteString(text)
		text = ""
	}
	if e.Message != "" {
		b.WriteString(": " + shortened(e.Message))
	}
	names := slices.Sorted(maps.Keys(e.Fields))
	for _, name := range names[:min(len(names), mostNamed)] {
		fmt.Fprintf(&b, ": %s: %s", name, shortened(strings.Join(e.Fields[name], " ")))
	}
	if len(names) > mostNamed {
		fmt.Fprintf(&b, ": and %d more fields", len(names)-mostNamed)
	}
	b.WriteString(text)
	if len(e.MissingIDs) > 0 {
		fmt.Fprintf(&b, ": no record in the answer for id %s", list(e.MissingIDs))
	}
	if e.note != "" {
		b.WriteString("; " + e.note)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (%d attempts)", e.Attempts)
	}
	if e.isWrite() {
		b.WriteString("; " + e.advice())
	}
	return b.String()
}

func (e *Error) isWrite() bool {
	return e.Op == opUpdate.String() || e.Op == opChange.String()
}

// advice is the end of a write's error text: whether the stock changed, and
// what to do.
func (e *Error) advice() string {
	switch {
	case e.Outcome == OutcomeApplied:
		return "the write was applied, only its answer was lost: do not send it again"
	case e.Outcome == OutcomeNotApplied && Retryable(e):
		return "nothing was applied: the same call may be sent again"
	case e.Outcome == OutcomeNotApplied:
		return "nothing was applied"
	case e.Op == opUpdate.String():
		return "it is unknown whether the write was applied: send it again if its quantity is still the newest"
	default:
		return "it is unknown whether the write was applied: read the record before sending it again"
	}
}

// mostNamed is how many ids or fields an error text names.
const mostNamed = 10

// shortened cuts off what is too long for an error text.
func shortened(text string) string {
	const longest = 1000
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// list names the first few of many ids.
func list(ids []int64) string {
	var b strings.Builder
	for i, id := range ids[:min(len(ids), mostNamed)] {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	if len(ids) > mostNamed {
		fmt.Fprintf(&b, " and %d more", len(ids)-mostNamed)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the sentinel of e's status, for [errors.Is]; a 2xx
// with an error is an ErrBadResponse.
func (e *Error) Is(target error) bool {
	sentinel := sentinelOf(e.StatusCode)
	return sentinel != nil && target == sentinel
}

func sentinelOf(status int) error {
	switch status {
	case 400, 413, 415, 422:
		return ErrInvalidRequest
	case 401:
		return ErrUnauthorized
	case 403:
		return ErrForbidden
	case 404, 405, 410:
		return ErrNotFound
	case 409:
		return ErrConflict
	case 429:
		return ErrRateLimited
	}
	switch status / 100 {
	case 2:
		return ErrBadResponse
	case 3:
		return ErrRedirect
	case 5:
		return ErrServer
	}
	return nil
}

// LogValue makes e a group of its fields in structured logs, the body left out.
func (e *Error) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("op", e.Op), slog.String("outcome", e.Outcome.String()), slog.String("error", e.Error())}
	if e.StatusCode != 0 {
		attrs = append(attrs, slog.Int("status", e.StatusCode))
	}
	if e.Attempts != 0 {
		attrs = append(attrs, slog.Int("attempts", e.Attempts))
	}
	if e.RetryAfter != 0 {
		attrs = append(attrs, slog.Duration("retry_after", e.RetryAfter))
	}
	if len(e.MissingIDs) > 0 {
		attrs = append(attrs, slog.Any("missing_ids", e.MissingIDs))
	}
	return slog.GroupValue(attrs...)
}

// invalid is the error of a call that was refused before anything was sent.
func invalid(op, format string, args ...any) *Error {
	return &Error{
		Op:      op,
		Message: fmt.Sprintf(format, args...),
		Outcome: OutcomeNotApplied,
		Err:     ErrInvalidRequest,
		made:    true,
	}
}
