package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
)

// The exit codes. If several apply, the program exits with the highest.
const (
	exitOK       = 0
	exitError    = 1 // wrong usage, an unreadable file, a wrong key or address: no item is to blame; the message says so if anything changed
	exitRejected = 2 // nothing changed, and the command needs a correction
	exitRetry    = 3 // nothing changed, and the same command may succeed later
	exitPartly   = 4 // some items were applied, and others not
	exitUnknown  = 5 // some items may have been applied
	exitAbsent   = 6 // a list found all that there is, and a SKU has no record
)

// exitCode returns the exit code of a call.
func exitCode(step oakra.Step) int {
	switch step {
	case oakra.StepDone:
		return exitOK
	case oakra.StepRetry:
		return exitRetry
	case oakra.StepReject:
		return exitRejected
	case oakra.StepAsk:
		return exitUnknown
	default: // StepAlert
		return exitError
	}
}

// failure is an error as the program reports it.
type failure struct {
	code    int
	message string  // what happened
	next    string  // what to do
	subject subject // what a write may have changed
	items   []item  // items of a write
}

// subject is what a command writes. It is empty if the command writes nothing, or if
// the message says what was written.
type subject string

const (
	ofStock subject = "stock"
	ofSales subject = "sales"
)

func subjectOf(e *oakra.Error) subject {
	if strings.HasPrefix(e.Op, "stock.") {
		return ofStock
	}
	return ofSales
}

func (f *failure) Error() string { return f.message }

// item is what happened to one item of a write.
type item struct {
	Item    string `json:"item"` // the item as the person gave it
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// changed says whether the subject changed.
func (f *failure) changed() string {
	switch f.code {
	case exitOK:
		return "changed as asked, only the response was lost"
	case exitPartly:
		return "partly changed"
	case exitUnknown:
		return "unknown whether all, some or nothing of it changed"
	}
	return "not changed"
}

// report prints err, if it is not nil, and returns the exit code.
func (a *app) report(err error) int {
	if err == nil {
		if a.flags.JSON && a.command != nil && a.command != &a.flags.Serve && a.command != &a.flags.Completion {
			return a.reportJSON(nil)
		}
		return exitOK
	}
	var f *failure
	if !errors.As(err, &f) {
		f = explain(err)
	}
	if a.flags.JSON {
		return a.reportJSON(f)
	}
	fmt.Fprintf(a.stderr, "stockctl: %s\n", printable(f.message))
	if len(f.items) > 1 {
		t := table{header: []string{"ITEM", "OUTCOME", "REASON"}}
		for _, i := range f.items {
			t.add(i.Item, i.Outcome, i.Reason)
		}
		_ = t.write(a.stderr)
	}
	if f.subject != "" {
		fmt.Fprintf(a.stderr, "%s: %s\n", f.subject, f.changed())
	}
	if f.next != "" {
		fmt.Fprintf(a.stderr, "next: %s\n", f.next)
	}
	return f.code
}

// explain returns the failure of a single call, or of something other than a call.
func explain(err error) *failure {
	var e *oakra.Error
	if !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) {
			return &failure{code: exitRetry, message: err.Error(), next: "run it again when you like"}
		}
		return &failure{code: exitError, message: err.Error()}
	}
	f := &failure{code: exitCode(oakra.NextStep(err)), message: reason(err), subject: subjectOf(e)}
	f.next = advice(f.code, err)
	return f
}

// counts holds how many items of a write have each outcome.
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

// exitCode returns the exit code of a write that failed. If no item was applied, it is
// that of step.
func (c counts) exitCode(step oakra.Step) int {
	switch {
	case c.unknown > 0:
		return exitUnknown
	case c.notApplied == 0:
		return exitOK
	case c.applied > 0:
		return exitPartly
	}
	return exitCode(step)
}

func (c counts) String() string {
	return fmt.Sprintf("%d applied, %d not applied, %d unknown", c.applied, c.notApplied, c.unknown)
}

// advice returns what to do after a failure.
func advice(code int, err error) string {
	var e *oakra.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch code {
	case exitOK:
		return "do not run it again"
	case exitUnknown:
		return whenUnknown(e)
	case exitPartly:
		return "run it again with the items that were not applied, and only those"
	case exitRejected:
		return "correct what is named above"
	case exitRetry:
		switch {
		case errors.Is(err, oakra.ErrStopped), errors.Is(err, context.Canceled):
			return "run it again when you like"
		case e.RetryAfter > 0:
			return fmt.Sprintf("run it again in %v", e.RetryAfter.Round(time.Second))
		}
		return "run it again later"
	}
	switch {
	case errors.Is(err, oakra.ErrUnauthorized):
		return "check the app key in " + keyVariable
	case errors.Is(err, oakra.ErrForbidden):
		return "use an app key that may do this"
	case errors.Is(err, oakra.ErrNoRoute), errors.Is(err, oakra.ErrRedirect), errors.Is(err, oakra.ErrUnreachable), errors.Is(err, oakra.ErrBadResponse):
		return "check --base-url"
	}
	return "check --base-url, and what is named above: the response does not say what is at fault"
}

// whenUnknown returns what to do about a write with an unknown outcome.
func whenUnknown(e *oakra.Error) string {
	switch {
	case e.Op == "stock.update":
		return "if the numbers are still right, run it again: an update may be sent twice"
	case subjectOf(e) == ofSales:
		return "look at the sales in Oakra or the marketplace before you run it again: it may have been done all the same"
	}
	return "look at the unknown records (stockctl list SKU) before you run it again for them: a change sent twice counts twice"
}

// reason returns the text of an error without the name of the library. It also leaves
// out whether the stock changed, which is printed elsewhere.
func reason(err error) string {
	var e *oakra.Error
	switch {
	case !errors.As(err, &e):
		return err.Error()
	case e.Attempts == 0 && (errors.Is(err, oakra.ErrStopped) || errors.Is(err, context.Canceled)):
		return "not sent, since the program was told to stop"
	case e.Op == "stock.list" && errors.Is(err, context.Canceled):
		return "stopped while reading"
	}
	return strings.ReplaceAll(err.Error(), e.Error(), describe(e)) // err may wrap e in more text
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
	var earlier *oakra.Error // reported with the items that it concerns
	switch {
	case e.Err == nil, errors.As(e.Err, &earlier), e.Message != "" && errors.Is(e.Err, oakra.ErrInvalidRequest):
	case errors.Is(e.Err, context.Canceled):
		parts = append(parts, "cut off, since the program was told twice to stop")
	default:
		parts = append(parts, e.Err.Error())
	}
	if len(e.MissingIDs) > 0 {
		parts = append(parts, "no record in the response for id "+strings.Trim(fmt.Sprint(e.MissingIDs), "[]"))
	}
	text := strings.Join(parts, ": ")
	if e.Attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", e.Attempts)
	}
	return text
}
