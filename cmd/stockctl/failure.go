package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
)

// The exit codes. Where several fit, the highest is taken.
const (
	exitOK      = 0
	exitError   = 1 // wrong usage, an unreadable file and the like; the message says so if the stock changed
	exitRefused = 2 // nothing changed, and the same command would fail again
	exitRetry   = 3 // nothing changed, and the same command may succeed later
	exitPartly  = 4 // some items were applied, and others not
	exitUnknown = 5 // some items may have been applied
)

// failure is an error as the program reports it.
type failure struct {
	code    int
	message string // what happened
	next    string // what to do
	reading bool   // the command reads, and so cannot have changed the stock
	items   []item // of a write, where they did not all meet the same fate for the same reason
}

func (f *failure) Error() string { return f.message }

// item is what happened to one item of a write.
type item struct {
	Item    string `json:"item"` // as it was given
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// stock says whether it changed, where that is a question.
func (f *failure) stock() string {
	switch {
	case f.reading:
		return ""
	case f.code == exitOK:
		return "changed as asked, only the answer was lost"
	case f.code == exitPartly:
		return "partly changed"
	case f.code == exitUnknown:
		return "unknown whether all, some or nothing of it changed"
	}
	return "not changed"
}

// report prints err, if it is one, and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	var f *failure
	if !errors.As(err, &f) {
		f = explain(err)
	}
	if a.flags.JSON {
		encoder := json.NewEncoder(a.stderr)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(map[string]any{"error": struct {
			Message  string `json:"message"`
			Stock    string `json:"stock,omitempty"`
			Next     string `json:"next,omitempty"`
			ExitCode int    `json:"exit_code"`
			Items    []item `json:"items,omitempty"`
		}{f.message, f.stock(), f.next, f.code, f.items}})
		return f.code
	}
	fmt.Fprintf(a.stderr, "stockctl: %s\n", printable(f.message))
	if len(f.items) > 1 {
		t := table{header: []string{"ITEM", "OUTCOME", "REASON"}}
		for _, i := range f.items {
			t.add(i.Item, i.Outcome, i.Reason)
		}
		_ = t.write(a.stderr)
	}
	if stock := f.stock(); stock != "" && f.code != exitError {
		fmt.Fprintf(a.stderr, "stock: %s\n", stock)
	}
	if f.next != "" {
		fmt.Fprintf(a.stderr, "next: %s\n", f.next)
	}
	return f.code
}

// explain is the failure of a single call, or of something besides the calls.
func explain(err error) *failure {
	var e *oakra.Error
	if !errors.As(err, &e) {
		return &failure{code: exitError, message: err.Error()}
	}
	f := &failure{code: exitRefused, message: reason(err)}
	switch outcome := oakra.OutcomeOf(err); {
	case outcome == oakra.OutcomeUnknown:
		f.code = exitUnknown
	case oakra.Retryable(err):
		f.code = exitRetry
	}
	f.next = advice(f.code, err)
	return f
}

// counts is how many items of a write met which fate.
type counts struct{ applied, notApplied, unknown int }

func (c *counts) add(o oakra.Outcome) {
	switch o {
	case oakra.OutcomeApplied:
		c.applied++
	case oakra.OutcomeNotApplied:
		c.notApplied++
	default:
		c.unknown++
	}
}

// exitCode of a write that failed.
func (c counts) exitCode(retryable bool) int {
	switch {
	case c.unknown > 0:
		return exitUnknown
	case c.notApplied == 0:
		return exitOK
	case c.applied > 0:
		return exitPartly
	case retryable:
		return exitRetry
	}
	return exitRefused
}

func (c counts) String() string {
	return fmt.Sprintf("%d applied, %d not applied, %d unknown", c.applied, c.notApplied, c.unknown)
}

// advice is what to do after a failure.
func advice(code int, err error) string {
	var e *oakra.Error
	errors.As(err, &e)
	switch {
	case code == exitOK:
		return "do not run it again"
	case code == exitUnknown && e != nil && e.Op == "stock.update":
		return "if the numbers are still right, run it again: an update may be sent twice"
	case code == exitUnknown:
		return "look at the unknown records (stockctl list SKU) before you run it again for them: a change sent twice counts twice"
	case code == exitPartly:
		return "run it again with the items that were not applied, and only those"
	case errors.Is(err, errStopped), errors.Is(err, context.Canceled):
		return "run it again when you like"
	case code == exitRetry && e != nil && e.RetryAfter > 0:
		return fmt.Sprintf("run it again in %v", e.RetryAfter.Round(time.Second))
	case code == exitRetry:
		return "run it again later"
	case errors.Is(err, oakra.ErrUnauthorized):
		return "check the app key in " + keyVariable
	case errors.Is(err, oakra.ErrForbidden):
		return "use an app key that may do this"
	case errors.Is(err, oakra.ErrRedirect), errors.Is(err, oakra.ErrUnreachable), errors.Is(err, oakra.ErrBadResponse),
		errors.Is(err, oakra.ErrNotFound) && e != nil && (e.Err != nil || e.Op == "stock.list"): // no route
		return "check --base-url"
	case errors.Is(err, oakra.ErrInvalidRequest), errors.Is(err, oakra.ErrNotFound), errors.Is(err, oakra.ErrConflict):
		return "correct what is named above"
	}
	return ""
}

// reason is the text of an error without the name of the library, and without
// whether the stock changed, which is said elsewhere.
func reason(err error) string {
	var e *oakra.Error
	switch {
	case !errors.As(err, &e):
		return err.Error()
	case e.Attempts == 0 && errors.Is(err, context.Canceled):
		return "not sent, since the program was told to stop"
	case e.Op == "stock.list" && errors.Is(err, context.Canceled):
		return "stopped while reading"
	}
	return strings.ReplaceAll(err.Error(), e.Error(), describe(e)) // err may say more than e
}

func describe(e *oakra.Error) string {
	var parts []string
	if e.Method != "" {
		parts = append(parts, e.Method+" "+e.Path)
	}
	if e.StatusCode != 0 {
		parts = append(parts, strings.TrimSpace(fmt.Sprint(e.StatusCode, " ", http.StatusText(e.StatusCode))))
	}
	if e.Message != "" {
		parts = append(parts, e.Message)
	}
	for _, field := range slices.Sorted(maps.Keys(e.Fields)) {
		parts = append(parts, field, strings.Join(e.Fields[field], " "))
	}
	var earlier *oakra.Error // which is told of the items that it struck
	switch {
	case e.Err == nil, errors.As(e.Err, &earlier), e.Message != "" && errors.Is(e.Err, oakra.ErrInvalidRequest):
	case errors.Is(e.Err, context.Canceled):
		parts = append(parts, "cut off by Ctrl-C")
	default:
		parts = append(parts, e.Err.Error())
	}
	if len(e.MissingIDs) > 0 {
		parts = append(parts, "no record in the answer for id "+strings.Trim(fmt.Sprint(e.MissingIDs), "[]"))
	}
	text := strings.Join(parts, ": ")
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return text
}
