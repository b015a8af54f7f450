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

// What went wrong, for [errors.Is]: an [*Error] matches the sentinel of its status,
// if there is one, and whatever its Err wraps. ErrInvalidRequest, ErrBadResponse and
// ErrUnreachable also occur without a status. 402, 406, 408 and other rare statuses
// match none.
var (
	// ErrInvalidRequest: rejected before sending, or 400, 413, 415 or 422.
	ErrInvalidRequest = errors.New("invalid request")
	// ErrUnauthorized: 401, the app key is missing, wrong or revoked.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrForbidden: 403, the app key may not do this, or something on the way to the
	// API does not let the request pass.
	ErrForbidden = errors.New("forbidden")
	// ErrNotFound: 404, 405 or 410, no such record, unless it is an ErrNoRoute.
	ErrNotFound = errors.New("not found")
	// ErrConflict: 409.
	ErrConflict = errors.New("conflict")
	// ErrRateLimited: 429; [Error.RetryAfter] says how long to wait, if the server said
	// so.
	ErrRateLimited = errors.New("rate limited")
	// ErrServer: any 5xx.
	ErrServer = errors.New("server error")
	// ErrRedirect: any 3xx. No redirect is followed: it could carry the app key
	// elsewhere, or turn a write into a read that reports success.
	ErrRedirect = errors.New("redirected")
	// ErrBadResponse: a 2xx that cannot be read as it should, or a response that is
	// not HTTP.
	ErrBadResponse = errors.New("bad response")
	// ErrUnreachable: no connection was established, and so nothing was sent.
	ErrUnreachable = errors.New("unreachable")
	// ErrNoRoute: none of the known routes of the operation is there. The base URL is
	// wrong, or the API has moved; no record is to blame. An error that matches it
	// does not match ErrNotFound.
	ErrNoRoute = errors.New("no such route")
	// ErrStopped: an item of a bulk run was not sent, or not sent again, because
	// [BulkOptions].Stop was closed.
	ErrStopped = errors.New("the run was stopped")
)

var sentinels = []error{
	ErrInvalidRequest, ErrUnauthorized, ErrForbidden, ErrNotFound, ErrConflict, ErrRateLimited,
	ErrServer, ErrRedirect, ErrBadResponse, ErrUnreachable, ErrNoRoute,
}

// Error is the one error type of this package: every call that fails returns an
// *Error, and so does [NewClient]; UpdateAll and ChangeAll return a [*BulkError]
// made of them. Decide with [NextStep], or branch with [errors.Is] on the sentinels
// such as [ErrRateLimited]; use [errors.As] for the details here. A test that makes
// one sets Op, StatusCode and Outcome.
type Error struct {
	Op         string              // such as "stock.change" or, of NewClient, "client.new"
	Method     string              // method of the HTTP request; empty if the arguments were rejected
	Path       string              // path of the request, without query
	StatusCode int                 // status of the last response; 0 without one
	Message    string              // the server's words, or what is wrong with the arguments; may be empty, as Error() never is
	Fields     map[string][]string // the server's messages by field, nested ones as stock_records[1].quantity
	RetryAfter time.Duration       // wait that the server asked for; 0 if it did not
	Attempts   int                 // how many attempts were made, whether or not they got a connection
	Outcome    Outcome             // whether the write was applied; always OutcomeNotApplied for a read
	MissingIDs []int64             // ids that were sent and have no record in a 2xx: their outcome is unknown
	Records    []StockRecord       // records of a 2xx that lacks others: they were applied, except after a 207, which proves nothing
	Header     http.Header         // header of the last response, without the app key; nil without a response
	Body       []byte              // body of the last response, at most 64 KiB of it; not part of Error()
	Err        error               // cause: the end of a context, a transport's failure, bad JSON

	made    bool   // whether this package made it, and set the fields below
	row     row    // row of the delivery table
	content bool   // whether what was sent is certainly at fault
	json    bool   // whether the body is JSON, as far as its first byte says
	sale    bool   // whether the server has messages about a sale
	cut     bool   // whether the body ended too early
	proven  bool   // whether the route is known to be right
	note    string // why it was not sent again, where that is not plain
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
		fmt.Fprintf(&b, ": no record in the response for id %s", list(e.MissingIDs))
	}
	if e.note != "" {
		b.WriteString("; " + e.note)
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, " (%d attempts)", e.Attempts)
	}
	if advice := e.advice(); advice != "" {
		b.WriteString("; " + advice)
	}
	return b.String()
}

// advice returns the end of a write's error text: whether anything changed, and what
// to do.
func (e *Error) advice() string {
	op, ok := operationNamed(e.Op)
	switch {
	case !ok || op.effect() == reads:
		return ""
	case e.Outcome == OutcomeApplied:
		return "it was applied, only the response was lost: do not send it again"
	case e.Outcome == OutcomeUnknown:
		return "it is unknown whether it was applied: " + operations[op].look
	case Retryable(e):
		return "nothing was applied: the same call may be sent again"
	case Rejected(e):
		return "nothing was applied: correct what was sent"
	}
	return "nothing was applied"
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
func list[T int64 | string](ids []T) string {
	var b strings.Builder
	for i, id := range ids[:min(len(ids), mostNamed)] {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprint(&b, id)
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
	if sentinel == ErrNotFound && errors.Is(e.Err, ErrNoRoute) { //nolint:errorlint // sentinels are not wrapped there
		return false
	}
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

// Items returns the server's messages by index into the slice that was given to the
// call, such as "quantity: A valid integer is required." under 1. It is nil if the
// server names no item.
func (e *Error) Items() map[int][]string {
	var items map[int][]string
	for _, name := range slices.Sorted(maps.Keys(e.Fields)) {
		index, member, ok := itemOf(name)
		if !ok {
			continue
		}
		if items == nil {
			items = make(map[int][]string)
		}
		for _, message := range e.Fields[name] {
			if member != "" {
				message = member + ": " + message
			}
			items[index] = append(items[index], message)
		}
	}
	return items
}

// itemOf reads the name of a field such as stock_records[1].quantity, or sale_ids.1,
// as Django names the elements of a list of texts.
func itemOf(name string) (index int, member string, ok bool) {
	for _, list := range []string{"stock_records", "sale_ids"} {
		rest, ok := strings.CutPrefix(name, list)
		if !ok || rest == "" {
			continue
		}
		number, member, _ := strings.Cut(strings.Replace(rest[1:], "]", "", 1), ".")
		if index, err := strconv.Atoi(number); err == nil && index >= 0 && (rest[0] == '[' || rest[0] == '.') {
			return index, member, true
		}
	}
	return 0, "", false
}

// RequestID returns what the response calls the request, for a support ticket: its
// X-Request-Id, X-Correlation-Id, Request-Id, X-Amzn-Trace-Id, X-Cloud-Trace-Context
// or CF-Ray, the first that is there; "" if none is.
func (e *Error) RequestID() string { return requestID(e.Header) }

func requestID(header http.Header) string {
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id", "Request-Id", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "Cf-Ray"} {
		if id := header.Get(name); id != "" {
			return id
		}
	}
	return ""
}

// addNote adds to the end of e's text.
func (e *Error) addNote(format string, args ...any) {
	e.note = strings.TrimPrefix(e.note+"; "+fmt.Sprintf(format, args...), "; ")
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

// invalid returns the error of a call whose items were rejected before anything was
// sent.
func invalid(op, format string, args ...any) *Error {
	e := misuse(op, format, args...)
	e.content = true
	return e
}

// misuse returns the error of a call that is wrong whatever its items are, such as one
// with a bad option.
func misuse(op, format string, args ...any) *Error {
	return &Error{
		Op:      op,
		Message: fmt.Sprintf(format, args...),
		Outcome: OutcomeNotApplied,
		Err:     ErrInvalidRequest,
		made:    true,
	}
}
