package oakra_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// requireSentinel checks that err matches the one sentinel, and no other.
func requireSentinel(t *testing.T, err, want error) {
	t.Helper()
	for _, sentinel := range sentinels {
		require.Equal(t, sentinel == want, errors.Is(err, sentinel), "errors.Is(%v, %q)", err, sentinel)
	}
}

// TestErrorSentinels checks errors that a caller's test makes from a status
// alone.
func TestErrorSentinels(t *testing.T) {
	want := map[int]error{
		400: oakra.ErrInvalidRequest, 413: oakra.ErrInvalidRequest, 415: oakra.ErrInvalidRequest, 422: oakra.ErrInvalidRequest,
		401: oakra.ErrUnauthorized,
		403: oakra.ErrForbidden,
		404: oakra.ErrNotFound, 405: oakra.ErrNotFound, 410: oakra.ErrNotFound,
		409: oakra.ErrConflict,
		429: oakra.ErrRateLimited,
	}
	for status := 300; status < 600; status++ {
		expected := want[status]
		switch status / 100 {
		case 3:
			expected = oakra.ErrRedirect
		case 5:
			expected = oakra.ErrServer
		}
		requireSentinel(t, &oakra.Error{StatusCode: status}, expected)
		requireSentinel(t, fmt.Errorf("the shop: %w", &oakra.Error{StatusCode: status}), expected)
	}
	for _, status := range []int{0, 100, 101, 600, 999, -1} {
		requireSentinel(t, &oakra.Error{StatusCode: status}, nil)
	}
	// These two come from what the error wraps, where the status does not say it.
	requireSentinel(t, &oakra.Error{Err: oakra.ErrUnreachable}, oakra.ErrUnreachable)
	requireSentinel(t, &oakra.Error{StatusCode: 200, Err: oakra.ErrBadResponse}, oakra.ErrBadResponse)
	requireSentinel(t, &oakra.Error{Err: oakra.ErrInvalidRequest}, oakra.ErrInvalidRequest)
	// A wrong address is not a record that was not found.
	for _, status := range []int{404, 405, 410} {
		requireSentinel(t, &oakra.Error{StatusCode: status, Err: oakra.ErrNoRoute}, oakra.ErrNoRoute)
		requireSentinel(t, &oakra.Error{StatusCode: status, Err: fmt.Errorf("x: %w", oakra.ErrNoRoute)}, oakra.ErrNoRoute)
	}
	for _, sentinel := range sentinels {
		requireSentinel(t, sentinel, sentinel)
	}
}

// TestErrorSentinelsOfResponses checks that the error of a call matches the
// same sentinels as one made by hand.
func TestErrorSentinelsOfResponses(t *testing.T) {
	for status := 300; status < 600; status++ {
		for _, call := range stockCalls {
			_, err := call.call(t.Context(), responding(t, status, `{"detail":"No."}`))
			e := requireError(t, err)
			require.Equal(t, status, e.StatusCode)
			require.Equal(t, call.name, e.Op)
			require.Equal(t, "No.", e.Message)
			byHand := &oakra.Error{StatusCode: status}
			if status == 405 || status == 404 && isWrite(call) { // no candidate is there
				byHand.Err = oakra.ErrNoRoute
			}
			for _, sentinel := range sentinels {
				require.Equal(t, errors.Is(byHand, sentinel), errors.Is(err, sentinel), "errors.Is(%v, %q)", err, sentinel)
			}
		}
	}
}

func TestErrorUnwrap(t *testing.T) {
	cause := errors.New("cause")
	err := error(&oakra.Error{StatusCode: 503, Err: fmt.Errorf("deeper: %w", cause)})
	require.ErrorIs(t, err, cause)
	require.ErrorIs(t, err, oakra.ErrServer)
	require.NotErrorIs(t, err, io.EOF)
	var e *oakra.Error
	require.ErrorAs(t, fmt.Errorf("the shop: %w", err), &e)
	require.Same(t, err, e)
	require.NoError(t, errors.Unwrap(&oakra.Error{StatusCode: 503}))
}

// errorTree is an error of many, as other packages make them.
type errorTree []error

func (errorTree) Error() string     { return "tree" }
func (e errorTree) Unwrap() []error { return e }

// emptyWrap wraps nothing.
type emptyWrap struct{}

func (emptyWrap) Error() string { return "empty" }
func (emptyWrap) Unwrap() error { return nil }

func TestErrorOutcomeOf(t *testing.T) {
	applied := &oakra.Error{Outcome: oakra.OutcomeApplied}
	not := &oakra.Error{Outcome: oakra.OutcomeNotApplied}
	unknown := &oakra.Error{Outcome: oakra.OutcomeUnknown}
	foreign := errors.New("foreign")
	for _, tt := range []struct {
		name string
		err  error
		want oakra.Outcome
	}{
		{"nil", nil, oakra.OutcomeApplied},
		{"foreign", foreign, oakra.OutcomeUnknown},
		{"a context's", context.Canceled, oakra.OutcomeUnknown},
		{"a sentinel", oakra.ErrUnreachable, oakra.OutcomeUnknown},
		{"wrapped foreign", fmt.Errorf("x: %w", foreign), oakra.OutcomeUnknown},
		{"the zero error", &oakra.Error{}, oakra.OutcomeUnknown},
		{"applied", applied, oakra.OutcomeApplied},
		{"not applied", not, oakra.OutcomeNotApplied},
		{"unknown", unknown, oakra.OutcomeUnknown},
		{"wrapped", fmt.Errorf("x: %w", not), oakra.OutcomeNotApplied},
		{"wrapped twice", fmt.Errorf("y: %w", fmt.Errorf("x: %w", applied)), oakra.OutcomeApplied},
		{"joined alone", errors.Join(not), oakra.OutcomeNotApplied},
		{"joined, agree", errors.Join(not, not, not), oakra.OutcomeNotApplied},
		{"joined, agree on applied", errors.Join(applied, nil, applied), oakra.OutcomeApplied},
		{"joined, disagree", errors.Join(not, applied), oakra.OutcomeUnknown},
		{"joined, disagree last", errors.Join(not, not, applied), oakra.OutcomeUnknown},
		{"joined with an unknown outcome", errors.Join(unknown, not), oakra.OutcomeUnknown},
		{"joined with a foreign", errors.Join(not, foreign), oakra.OutcomeUnknown},
		{"joined with a foreign before", errors.Join(foreign, not), oakra.OutcomeUnknown},
		{"joined in the depth, agree", fmt.Errorf("x: %w", errors.Join(not, fmt.Errorf("y: %w", errors.Join(not, not)))), oakra.OutcomeNotApplied},
		{"joined in the depth, not", errors.Join(not, fmt.Errorf("y: %w", errors.Join(not, applied))), oakra.OutcomeUnknown},
		{"two of one text", fmt.Errorf("%w and %w", not, not), oakra.OutcomeNotApplied},
		{"two of one text, not", fmt.Errorf("%w and %w", applied, not), oakra.OutcomeUnknown},
		{"a tree", errorTree{applied, applied}, oakra.OutcomeApplied},
		{"a tree of nothing", errorTree{}, oakra.OutcomeUnknown},
		{"a tree with nil", errorTree{not, nil}, oakra.OutcomeUnknown},
		{"wraps nothing", emptyWrap{}, oakra.OutcomeUnknown},
		// What the error wraps is its cause, not another write.
		{"its own cause", &oakra.Error{Outcome: oakra.OutcomeNotApplied, Err: errors.Join(foreign, applied)}, oakra.OutcomeNotApplied},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, oakra.OutcomeOf(tt.err)) })
	}
}

func TestErrorRetryable(t *testing.T) {
	limited := &oakra.Error{Op: "stock.change", StatusCode: 429, Outcome: oakra.OutcomeNotApplied}
	unreachable := &oakra.Error{Op: "stock.change", Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrUnreachable}
	invalid := &oakra.Error{Op: "stock.change", StatusCode: 400, Outcome: oakra.OutcomeNotApplied}
	foreign := errors.New("foreign")
	of := func(op string, status int, outcome oakra.Outcome) error {
		return &oakra.Error{Op: op, StatusCode: status, Outcome: outcome}
	}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"foreign", foreign, false},
		{"a context's", context.DeadlineExceeded, false},
		{"a sentinel", oakra.ErrRateLimited, false},
		{"the zero error", &oakra.Error{}, false},
		{"429", limited, true},
		{"429, wrapped", fmt.Errorf("x: %w", limited), true},
		{"429 without outcome", &oakra.Error{StatusCode: 429}, false},
		{"429 after an unknown outcome", of("stock.change", 429, oakra.OutcomeUnknown), false},
		{"applied", of("stock.change", 200, oakra.OutcomeApplied), false},
		{"unreachable", unreachable, true},
		{"unreachable, unknown", &oakra.Error{Err: oakra.ErrUnreachable}, false},
		{"context ended before", &oakra.Error{Outcome: oakra.OutcomeNotApplied, Err: context.Canceled}, true},
		{"deadline before", &oakra.Error{Outcome: oakra.OutcomeNotApplied, Err: fmt.Errorf("x: %w", context.DeadlineExceeded)}, true},
		{"context, unknown", &oakra.Error{Err: context.Canceled}, false},
		{"400", invalid, false},
		{"401", of("stock.list", 401, oakra.OutcomeNotApplied), false},
		{"404", of("stock.list", 404, oakra.OutcomeNotApplied), false},
		{"307", of("stock.list", 307, oakra.OutcomeNotApplied), false},
		{"list 503", of("stock.list", 503, oakra.OutcomeNotApplied), true},
		{"list 500", of("stock.list", 500, oakra.OutcomeNotApplied), true},
		{"list 501", of("stock.list", 501, oakra.OutcomeNotApplied), false},
		{"list 408", of("stock.list", 408, oakra.OutcomeNotApplied), true},
		{"change 503", of("stock.change", 503, oakra.OutcomeUnknown), false},
		{"update 503", of("stock.update", 503, oakra.OutcomeUnknown), false},
		{"joined, both", errors.Join(limited, unreachable), true},
		{"joined, one not", errors.Join(limited, invalid), false},
		{"joined, one foreign", errors.Join(limited, foreign), false},
		{"foreign first", errors.Join(foreign, limited), false},
		{"a tree of nothing", errorTree{}, false},
		{"a tree with nil", errorTree{limited, nil}, false},
		{"wraps nothing", emptyWrap{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) { require.Equal(t, tt.want, oakra.Retryable(tt.err)) })
	}
}

func TestErrorOutcomeString(t *testing.T) {
	require.Equal(t, "unknown", oakra.OutcomeUnknown.String())
	require.Equal(t, "not applied", oakra.OutcomeNotApplied.String())
	require.Equal(t, "applied", oakra.OutcomeApplied.String())
	require.Equal(t, "unknown", fmt.Sprint(oakra.Error{}.Outcome), "the zero value promises nothing")
	require.Contains(t, oakra.Outcome(7).String(), "7")
}

// TestErrorMessages checks that messages in the format of Django are taken
// apart, and that any other body is kept unchanged.
func TestErrorMessages(t *testing.T) {
	for _, tt := range []struct {
		name    string
		body    string
		message string
		fields  map[string][]string
	}{
		{"detail", `{"detail":"Not found."}`, "Not found.", nil},
		{"detail in a list", `{"detail":["One.","Two."]}`, "One. Two.", nil},
		{"detail and a field", `{"detail":"No.","quantity":["Too small."]}`, "No.", map[string][]string{"quantity": {"Too small."}}},
		{"a field", `{"quantity":["Too small.","Too even."]}`, "", map[string][]string{"quantity": {"Too small.", "Too even."}}},
		{"a field's only text", `{"sku":"This field is required."}`, "", map[string][]string{"sku": {"This field is required."}}},
		{"nested", `{"stock_records":[{},{"quantity":["A valid integer is required."]}]}`, "", map[string][]string{"stock_records[1].quantity": {"A valid integer is required."}}},
		{"nested, many", `{"stock_records":[{"id":["Unknown."]},{},{"id":["Unknown."],"quantity":["Too small."]}]}`, "", map[string][]string{"stock_records[0].id": {"Unknown."}, "stock_records[2].id": {"Unknown."}, "stock_records[2].quantity": {"Too small."}}},
		{"nested deeper", `{"a":{"b":[{"c":{"d":["x"]}}]}}`, "", map[string][]string{"a.b[0].c.d": {"x"}}},
		{"of the whole list", `{"stock_records":["This list may not be empty."]}`, "", map[string][]string{"stock_records": {"This list may not be empty."}}},
		{"non_field_errors", `{"non_field_errors":["Out of order."]}`, "", map[string][]string{"non_field_errors": {"Out of order."}}},
		{"detail is an object", `{"detail":{"code":"no_stock"}}`, "", map[string][]string{"detail.code": {"no_stock"}}},
		{"a list of texts", `["One.","Two."]`, "One. Two.", nil},
		{"a list of objects", `[{},{"quantity":["Too small."]}]`, "", map[string][]string{"[1].quantity": {"Too small."}}},
		{"a text", `"Not now."`, "Not now.", nil},
		{"beyond ASCII", `{"detail":"Unzul\u00e4ssig – é"}`, "Unzulässig – é", nil},
		{"white space", " \r\n{\"detail\": \"No.\"}\n", "No.", nil},
		{"an empty object", `{}`, "", nil},
		{"an empty list", `[]`, "", nil},
		{"null", `null`, "", nil},
		{"numbers", `{"code":17,"ok":false,"x":null}`, "", nil},
		{"a page", `<html><h1>Bad Gateway</h1></html>`, "", nil},
		{"text", `upstream connect error`, "", nil},
		{"nothing", ``, "", nil},
		{"JSON cut short", `{"detail":"Not fo`, "", nil},
		{"JSON and more", `{"detail":"No."} trailing`, "", nil},
		{"bytes that are not text", "\x00\xff\xfe", "", nil},
	} {
		for _, status := range []int{400, 404, 409, 422, 429, 500, 503} {
			for _, call := range stockCalls {
				t.Run(fmt.Sprintf("%s/%d/%s", tt.name, status, call.name), func(t *testing.T) {
					_, err := call.call(t.Context(), responding(t, status, tt.body))
					e := requireError(t, err)
					require.Equal(t, status, e.StatusCode)
					require.Equal(t, tt.message, e.Message)
					if len(tt.fields) == 0 {
						require.Empty(t, e.Fields)
					} else {
						require.Equal(t, tt.fields, e.Fields)
					}
					require.Equal(t, tt.body, string(e.Body))
					for field, texts := range tt.fields {
						require.Contains(t, err.Error(), field)
						for _, text := range texts {
							require.Contains(t, err.Error(), text)
						}
					}
					require.Contains(t, err.Error(), tt.message)
					if !strings.HasPrefix(strings.TrimSpace(tt.body), "{") && tt.message == "" && len(tt.body) > 4 {
						require.NotContains(t, err.Error(), tt.body[:5], "the body is not part of the text")
					}
				})
			}
		}
	}
}

// TestErrorMessagesOfHostileSize checks that a response cannot make an error
// huge.
func TestErrorMessagesOfHostileSize(t *testing.T) {
	for _, row := range []struct{ name, body string }{
		{"deep", strings.Repeat(`{"a":`, 9000) + `"x"` + strings.Repeat(`}`, 9000)},
		{"deep lists", strings.Repeat(`[`, 20000) + `"x"` + strings.Repeat(`]`, 20000)},
		{"wide", `{"x":["` + strings.Repeat(`a","`, 16000) + `"]}`},
		{"many fields", `{` + strings.Repeat(`"a":"b",`, 8000) + `"c":"d"}`},
		{"long name", `{"` + strings.Repeat("a", 60000) + `":"x"}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := stockCalls[2].call(t.Context(), responding(t, 400, row.body))
			e := requireError(t, err)
			require.Equal(t, 400, e.StatusCode)
			require.Less(t, len(err.Error()), 256<<10)
		})
	}
}

// TestErrorText has what a person reads at night: what happened, whether the stock
// changed, and what to do.
func TestErrorText(t *testing.T) {
	refused := stubTransport(func(r *http.Request) (*http.Response, error) {
		httptrace.ContextClientTrace(r.Context()).GetConn("app.oakra.com:443")
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	})
	responds := func(status int, body string, header ...string) stubTransport {
		return func(*http.Request) (*http.Response, error) { return stubResponse(status, body, header...), nil }
	}
	// The policy has one wait to draw from, nearly zero.
	policy := oakra.RetryPolicy{MaxAttempts: 3, MinBackoff: 1, MaxBackoff: 1, MaxRetryAfter: 30 * time.Second}
	call := func(i int, transport http.RoundTripper, opts ...oakra.Option) func(*testing.T) error {
		return func(t *testing.T) error {
			opts = append([]oakra.Option{oakra.WithRetryPolicy(policy)}, opts...)
			_, err := stockCalls[i].call(t.Context(), oakra.KeepRoutes(stubClient(t, transport, opts...)))
			return err
		}
	}
	const list, update, change = 0, 1, 2
	for _, tt := range []struct {
		name string
		err  func(*testing.T) error
		want string
	}{
		{
			"not found",
			call(list, responds(404, `{"detail":"Not found."}`)),
			"oakra: stock.list: GET /api/v1/stock/stock-records/: 404 Not Found: Not found.",
		},
		{
			"refused by field",
			call(change, responds(400, `{"stock_records":[{},{"quantity_change":["A valid integer is required."]}]}`)),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: 400 Bad Request: stock_records[1].quantity_change: A valid integer is required.; nothing was applied: correct what was sent",
		},
		{
			"rate limited",
			call(change, responds(429, `{"detail":"Slow down."}`, "Retry-After", "60")),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: 429 Too Many Requests: Slow down.; it asks to wait 1m0s, over the 30s that RetryPolicy allows; nothing was applied: the same call may be sent again",
		},
		{
			"server error, change",
			call(change, responds(502, "<html>")),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: 502 Bad Gateway; it is unknown whether it was applied: read the record before sending it again",
		},
		{
			"server error, update",
			call(update, responds(502, "<html>")),
			"oakra: stock.update: POST /api/v1/stock/stock-record/update/: 502 Bad Gateway (3 attempts); it is unknown whether it was applied: send it again if its quantity is still the newest",
		},
		{
			"server error, list",
			call(list, responds(503, "")),
			"oakra: stock.list: GET /api/v1/stock/stock-records/: 503 Service Unavailable (3 attempts)",
		},
		{
			"unreachable",
			call(change, refused),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: unreachable: dial tcp: connection refused (3 attempts); nothing was applied: the same call may be sent again",
		},
		{
			"response lost",
			call(change, responds(200, `[{"id":1,`)),
			"", // the text is tested with the decoder
		},
		{
			"missing",
			call(change, responds(200, "["+recordA+"]")),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: 200 OK: bad response: no record in the response for id 2; it is unknown whether it was applied: read the record before sending it again",
		},
		{
			"redirected",
			call(update, responds(301, "", "Location", "https://other.test/login?next=x")),
			"oakra: stock.update: POST /api/v1/stock/stock-record/update/: 301 Moved Permanently: it points to https://other.test/login, which is not followed; nothing was applied",
		},
		{
			"no such route",
			call(list, responds(404, "<html><head><title> Page not\n found </title>")),
			"oakra: stock.list: GET /api/v1/stock/stock-records/: 404 Not Found: Page not found: no such route (GET stock/stock-records/): is the base URL right?",
		},
		{
			"a page that forbids",
			call(change, responds(403, "<!DOCTYPE html><TITLE lang=en>Access &amp; denied</TITLE>")),
			"oakra: stock.change: POST /api/v1/stock/stock-records/change/: 403 Forbidden: Access & denied; this page is not from the API, but from something on the way to it; nothing was applied",
		},
		{
			"not sent",
			func(t *testing.T) error {
				_, err := stubClient(t, refused).Stock.Change(t.Context(), []oakra.StockChange{{ID: -3}})
				return err
			},
			"oakra: stock.change: invalid request: item 0: the id -3 must be positive; nothing was applied: correct what was sent",
		},
		{
			"client",
			func(*testing.T) error { _, err := oakra.NewClient(""); return err },
			"oakra: client.new: invalid request: the app key is empty",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.err(t)
			require.Error(t, err)
			text := err.Error()
			if tt.want != "" {
				require.Equal(t, tt.want, text)
			}
			require.NotContains(t, text, "\n")
			require.NotContains(t, text, "sku=", "no query")
			require.NotContains(t, text, "<html>", "no body")
			e := requireError(t, err)
			if strings.HasPrefix(e.Op, "stock.") && e.Op != "stock.list" {
				// The text of every write ends with whether the stock changed.
				words := map[oakra.Outcome]string{
					oakra.OutcomeApplied: "was applied", oakra.OutcomeNotApplied: "nothing was applied", oakra.OutcomeUnknown: "unknown whether",
				}
				require.Contains(t, text, words[e.Outcome])
			}
		})
	}
	// A status that has no name leaves no gap.
	require.NotContains(t, (&oakra.Error{Op: "stock.list", StatusCode: 599, Message: "No."}).Error(), " :")
	// Hand-made errors read well too, with whatever is set.
	for _, e := range []*oakra.Error{{}, {StatusCode: 429}, {Op: "stock.change", StatusCode: 503}, {Err: io.EOF}, {MissingIDs: []int64{1}}, {Fields: map[string][]string{"a": nil}}} {
		require.NotEmpty(t, e.Error())
		require.NotPanics(t, func() { _ = e.LogValue() })
	}
}

// TestErrorTextManyMissing: a batch of thousands does not fill the log.
func TestErrorTextManyMissing(t *testing.T) {
	changes := make([]oakra.StockChange, 1000)
	for i := range changes {
		changes[i] = oakra.StockChange{ID: int64(i) + 1, QuantityChange: 1}
	}
	_, err := responding(t, 200, `[]`).Stock.Change(t.Context(), changes)
	require.Len(t, requireError(t, err).MissingIDs, 1000)
	require.Less(t, len(err.Error()), 500)
	require.Contains(t, err.Error(), "990 more")
}

func TestErrorLogValue(t *testing.T) {
	_, err := stockCalls[2].call(t.Context(), stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		return stubResponse(429, `{"detail":"Slow down.","hidden":17}`, "Retry-After", "60"), nil
	})))
	var _ slog.LogValuer = requireError(t, err)

	var logged bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&logged, nil))
	logger.Error("change failed", "failure", err)
	var line struct {
		Failure map[string]any `json:"failure"`
	}
	require.NoError(t, json.Unmarshal(logged.Bytes(), &line))
	require.Equal(t, map[string]any{
		"op":          "stock.change",
		"outcome":     "not applied",
		"error":       err.Error(),
		"status":      429.0,
		"attempts":    1.0,
		"retry_after": float64(time.Minute),
	}, line.Failure)
	require.NotContains(t, logged.String(), "hidden", "the body is left out")

	_, err = stockCalls[2].call(t.Context(), responding(t, 200, "["+recordA+"]"))
	logged.Reset()
	logger.Error("change failed", "failure", err)
	require.NoError(t, json.Unmarshal(logged.Bytes(), &line))
	require.Equal(t, []any{2.0}, line.Failure["missing_ids"])
	require.Equal(t, "unknown", line.Failure["outcome"])
}

// TestErrorTextIsShort: neither the rejection of many items nor a talkative server
// makes an error of a hundred pages.
func TestErrorTextIsShort(t *testing.T) {
	items := make([]string, 500)
	for i := range items {
		items[i] = fmt.Sprintf(`{"id":["Invalid pk \"%d\" - object does not exist."]}`, i)
	}
	_, err := stockCalls[2].call(t.Context(), responding(t, 400, `{"stock_records":[`+strings.Join(items, ",")+`]}`))
	require.Len(t, requireError(t, err).Fields, 500)
	require.Contains(t, err.Error(), `stock_records[0].id: Invalid pk "0"`)
	require.Contains(t, err.Error(), "and 490 more fields")
	require.Less(t, len(err.Error()), 1500)

	long := strings.Repeat("é", 20_000)
	_, err = stockCalls[2].call(t.Context(), responding(t, 400, `{"detail":"`+long+`"}`))
	require.Equal(t, long, requireError(t, err).Message)
	require.Less(t, len(err.Error()), 1500)
	require.True(t, utf8.ValidString(err.Error()))
}

// TestErrorOfAnotherCall: a context that ends because of another call's error, as the
// context of an errgroup does, gives this call none of that error's sentinels.
func TestErrorOfAnotherCall(t *testing.T) {
	_, first := stockCalls[2].call(t.Context(), responding(t, 409, `{"detail":"No."}`))
	require.ErrorIs(t, first, oakra.ErrConflict)
	for _, cause := range []error{first, fmt.Errorf("the shop: %w", first), &oakra.BulkError{Failures: []oakra.BulkFailure{{Err: first}}}} {
		for _, call := range stockCalls {
			var cancel context.CancelCauseFunc
			end := func(ctx context.Context) error {
				cancel(cause)
				return context.Cause(ctx)
			}
			inBody := newRawServer(t, rawWrite(rawText(200, "", deliveryRecords)[:60], func(c *rawConn) bool {
				cancel(cause)
				return rawStall(c)
			}))
			for name, client := range map[string]*oakra.Client{
				"limiter": stubClient(t, stubTransport(success), oakra.WithLimiter(stubLimiter(end))),
				"transport": stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
					return nil, end(r.Context())
				})),
				"body": keptClient(t, inBody),
			} {
				ctx, stop := context.WithCancelCause(t.Context())
				t.Cleanup(func() { stop(nil) })
				cancel = stop
				_, err := call.call(ctx, client)
				require.ErrorIs(t, err, context.Canceled, name)
				require.ErrorIs(t, err, cause, name)
				require.ErrorContains(t, err, cause.Error(), name)
				require.NotErrorIs(t, err, oakra.ErrConflict, name)
				if name == "limiter" {
					require.Equal(t, oakra.StepRetry, oakra.NextStep(err))
				}

				_, err = call.call(ctx, client)
				require.ErrorIs(t, err, cause, "ended before")
				require.NotErrorIs(t, err, oakra.ErrConflict, "ended before")
				require.Equal(t, oakra.StepRetry, oakra.NextStep(err))
			}
		}
	}
}

// TestErrorOfKeySource: a key source that returns why the context ended is not at
// fault.
func TestErrorOfKeySource(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	client, err := oakra.NewClient("", oakra.WithAppKeySource(func(ctx context.Context, _ string) (string, error) {
		cancel(errors.New("the shop closes"))
		return "", context.Cause(ctx)
	}))
	require.NoError(t, err)
	_, err = stockCalls[2].call(ctx, client)
	require.ErrorContains(t, err, "context canceled: the app key source: the shop closes")
	require.Equal(t, oakra.StepRetry, oakra.NextStep(err))
}
