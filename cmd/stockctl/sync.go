package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/stocksync"
)

//go:embed testdata/feed.csv
var demoFeed []byte

type syncCommand struct {
	Feed        string        `arg:"" optional:"" help:"CSV file with the columns sku, location_id and quantity; - for standard input. With --demo, one that ships with this program if left out."`
	DryRun      bool          `short:"n" help:"Show what would change, and write nothing."`
	MaxSteps    int           `placeholder:"N" help:"Write nothing if more than N records would change (default: any number)."`
	Mode        string        `enum:"change,update" default:"change" help:"change (the default) sends differences, which keeps what is sold meanwhile; update sends the numbers."`
	BatchSize   int           `placeholder:"N" help:"Records in one request, at most (default 500)."`
	Concurrency int           `placeholder:"N" help:"Requests under way, at most (default 4)."`
	SettleAfter time.Duration `default:"1m" help:"How long a write whose response was lost may still land; after that the record is read again (default ${default})."`
}

func (c *syncCommand) Run(ctx context.Context, a *app) error {
	switch {
	case min(c.MaxSteps, c.BatchSize, c.Concurrency) < 0:
		return plain("--max-steps, --batch-size and --concurrency must not be negative")
	case c.SettleAfter <= 0:
		return plain("--settle-after must be positive")
	}
	targets, err := c.targets(ctx, a)
	if err != nil {
		return err
	}
	if err := a.connect(); err != nil {
		return err
	}
	bar := a.newProgress()
	defer bar.clear()
	bar.show("reading", 0, len(targets))
	plan, err := stocksync.Compare(ctx, a.client.Stock, targets, c.options(ctx, a, bar))
	bar.clear()
	var e *oakra.Error
	switch {
	case errors.Is(err, stocksync.ErrTooManySteps):
		err = &failure{
			code:    exitRejected,
			message: fmt.Sprintf("%s would change, over the %d of --max-steps", records(len(plan.Steps)), c.MaxSteps),
			next:    "look at the plan (--dry-run shows it), and raise --max-steps if it is right",
			subject: ofStock,
		}
	case errors.As(err, &e):
		return err
	case err != nil:
		return plain("%s", strings.TrimPrefix(err.Error(), "stocksync: "))
	}
	if c.DryRun {
		return errors.Join(a.printPlan(plan), err, planFailure(plan))
	}
	if err != nil {
		return err
	}

	writes, cancel := a.writing(ctx)
	defer cancel()
	bar.show("writing", 0, len(plan.Steps))
	report, err := plan.Apply(writes)
	bar.clear()
	printed := a.printReport(report)
	if err := c.reportFailure(report, err); err != nil || printed == nil {
		return err
	}
	return plain("the stock was written, but the report was not: %v", printed)
}

// targets reads the feed.
func (c *syncCommand) targets(ctx context.Context, a *app) ([]stocksync.Target, error) {
	var feed io.Reader
	switch {
	case c.Feed == "-":
		feed = &interruptible{ctx, a.stdin}
	case c.Feed == "" && a.flags.Demo:
		feed = bytes.NewReader(demoFeed)
	case c.Feed == "":
		return nil, plain("which feed? stockctl sync feed.csv, or - for standard input")
	default:
		file, err := os.Open(c.Feed)
		if err != nil {
			return nil, plain("%v", err)
		}
		defer file.Close()
		feed = file
	}
	targets, err := stocksync.ReadCSV(feed)
	switch {
	case errors.Is(err, errStopped):
		return nil, errStopped
	case err != nil:
		return nil, plain("the feed: %s", strings.TrimPrefix(err.Error(), "stocksync: "))
	}
	return targets, nil
}

// interruptible is a reader that does not keep the program waiting after Ctrl-C.
type interruptible struct {
	stopped context.Context
	io.Reader
}

func (r *interruptible) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data := make([]byte, len(p))
		n, err := r.Reader.Read(data)
		read <- result{data[:n], err}
	}()
	select {
	case got := <-read:
		return copy(p, got.data), got.err
	case <-r.stopped.Done():
		return 0, errStopped
	}
}

func (c *syncCommand) options(ctx context.Context, a *app, bar *progress) stocksync.Options {
	o := stocksync.Options{
		Stop:        ctx.Done(),
		BatchSize:   c.BatchSize,
		Concurrency: c.Concurrency,
		MaxSteps:    c.MaxSteps,
		SettleAfter: c.SettleAfter,
		OnProgress: func(p stocksync.Progress) {
			what := string(p.Phase)
			if p.Phase == stocksync.Settling {
				what = fmt.Sprintf("unknown, to be read again after %v", c.SettleAfter)
			}
			bar.wait(p.Waiting, p.WaitingSince, p.WaitingFor)
			bar.show(what, p.Done, p.Total)
		},
	}
	if c.Mode == "update" {
		o.Mode = stocksync.ByUpdate
	}
	if a.flags.Demo && o.BatchSize == 0 && o.Concurrency == 0 {
		o.BatchSize, o.Concurrency = 2, 1 // slow, so that the progress can be seen
	}
	return o
}

func (a *app) printPlan(plan *stocksync.Plan) error {
	if a.flags.JSON {
		return a.printJSON(newPlanJSON(plan))
	}
	if len(plan.Steps) > 0 {
		t := table{header: []string{"ID", "LOCATION", "SKU", "FROM", "TO", "DIFFERENCE"}}
		for _, s := range plan.Steps {
			t.add(number(s.ID), s.Key.LocationID, s.Key.SKU, number(s.From), number(s.To), signed(s.To-s.From))
		}
		if err := t.write(a.stdout); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	fmt.Fprintf(a.stdout, "%s would change, %d right already\n", records(len(plan.Steps)), len(plan.Equal))
	for _, t := range plan.NotFound {
		hint := ""
		if similar, ok := plan.Similar[t.Key()]; ok {
			hint = fmt.Sprintf(" (there is %s@%s)", printable(similar.SKU), printable(similar.LocationID))
		}
		fmt.Fprintf(a.stdout, "not found in Oakra: %s@%s%s\n", printable(t.SKU), printable(t.LocationID), hint)
	}
	for _, ambiguous := range plan.Ambiguous {
		fmt.Fprintf(a.stdout, "several records in Oakra: %s@%s\n", printable(ambiguous.Target.SKU), printable(ambiguous.Target.LocationID))
	}
	for _, conflict := range plan.Conflicts {
		fmt.Fprintf(a.stdout, "given several times: %s@%s: %s\n",
			printable(conflict.Key.SKU), printable(conflict.Key.LocationID), strings.Trim(fmt.Sprint(conflict.Quantities), "[]"))
	}
	return nil
}

func records(n int) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}

type planJSON struct {
	Steps     []stepJSON     `json:"steps"`
	Equal     int            `json:"equal"`
	NotFound  []targetJSON   `json:"not_found"`
	Ambiguous []targetJSON   `json:"ambiguous"`
	Conflicts []conflictJSON `json:"conflicts"`
}

type stepJSON struct {
	ID         int64  `json:"id"`
	LocationID string `json:"location_id"`
	SKU        string `json:"sku"`
	From       int64  `json:"from"`
	To         int64  `json:"to"`
	Difference int64  `json:"difference"`
}

type targetJSON struct {
	ID         int64  `json:"id,omitempty"`
	LocationID string `json:"location_id"`
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"`
	Seen       *int64 `json:"seen,omitempty"`
	Status     string `json:"status,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

type conflictJSON struct {
	LocationID string  `json:"location_id"`
	SKU        string  `json:"sku"`
	Quantities []int64 `json:"quantities"`
}

func newPlanJSON(plan *stocksync.Plan) planJSON {
	p := planJSON{Steps: []stepJSON{}, Equal: len(plan.Equal), NotFound: []targetJSON{}, Ambiguous: []targetJSON{}, Conflicts: []conflictJSON{}}
	for _, s := range plan.Steps {
		p.Steps = append(p.Steps, stepJSON{s.ID, s.Key.LocationID, s.Key.SKU, s.From, s.To, s.To - s.From})
	}
	for _, t := range plan.NotFound {
		p.NotFound = append(p.NotFound, targetJSON{LocationID: t.LocationID, SKU: t.SKU, Quantity: t.Quantity})
	}
	for _, a := range plan.Ambiguous {
		p.Ambiguous = append(p.Ambiguous, targetJSON{LocationID: a.Target.LocationID, SKU: a.Target.SKU, Quantity: a.Target.Quantity})
	}
	for _, c := range plan.Conflicts {
		p.Conflicts = append(p.Conflicts, conflictJSON{c.Key.LocationID, c.Key.SKU, c.Quantities})
	}
	return p
}

// planFailure returns the failure of a plan that leaves something out.
func planFailure(plan *stocksync.Plan) error {
	if len(plan.NotFound)+len(plan.Ambiguous)+len(plan.Conflicts) == 0 {
		return nil
	}
	return &failure{
		code: exitRejected,
		message: fmt.Sprintf("the feed has %s not found in Oakra, %d with several records there, and %d given several times",
			records(len(plan.NotFound)), len(plan.Ambiguous), len(plan.Conflicts)),
		next:    "correct the feed, or leave them out",
		subject: ofStock,
	}
}

// summary counts the statuses of a report.
type summary struct {
	Changed   int          `json:"changed"`
	Equal     int          `json:"equal"`
	NotFound  int          `json:"not_found"`
	Rejected  int          `json:"rejected"`
	Differs   int          `json:"differs"`
	NotTried  int          `json:"not_tried"`
	Unknown   int          `json:"unknown"`
	NotSynced []targetJSON `json:"not_synced"`

	gravest error // error of a target that was not tried, preferably one that does not pass by itself
}

func summarize(report *stocksync.Report) summary {
	s := summary{NotSynced: []targetJSON{}}
	for _, r := range report.Results {
		switch r.Status {
		case stocksync.Synced:
			if r.ID != 0 {
				s.Changed++
			} else {
				s.Equal++
			}
			continue
		case stocksync.NotFound:
			s.NotFound++
		case stocksync.Rejected:
			s.Rejected++
		case stocksync.Differs:
			s.Differs++
		case stocksync.NotTried:
			s.NotTried++
			if s.gravest == nil || oakra.Retryable(s.gravest) {
				s.gravest = r.Err
			}
		default:
			s.Unknown++
		}
		t := targetJSON{ID: r.ID, LocationID: r.LocationID, SKU: r.SKU, Quantity: r.Quantity, Seen: r.Seen, Status: r.Status.String()}
		if r.Err != nil {
			t.Reason = reason(r.Err)
		}
		s.NotSynced = append(s.NotSynced, t)
	}
	return s
}

func (s summary) String() string {
	text := fmt.Sprintf("%s changed, %d right already", records(s.Changed), s.Equal)
	for _, count := range []struct {
		n      int
		status stocksync.Status
	}{
		{s.NotFound, stocksync.NotFound},
		{s.Rejected, stocksync.Rejected},
		{s.Differs, stocksync.Differs},
		{s.NotTried, stocksync.NotTried},
		{s.Unknown, stocksync.Unknown},
	} {
		if count.n > 0 {
			text += fmt.Sprintf(", %d %v", count.n, count.status)
		}
	}
	return text
}

func (a *app) printReport(report *stocksync.Report) error {
	s := summarize(report)
	if a.flags.JSON {
		return a.printJSON(s)
	}
	var rows []targetJSON
	notTried := make(map[string]int) // counts by reason; thousands of rows would hide the others
	for _, r := range s.NotSynced {
		if r.Status == stocksync.NotTried.String() {
			notTried[r.Reason]++
		} else {
			rows = append(rows, r)
		}
	}
	if len(rows) > 0 {
		t := table{header: []string{"ID", "LOCATION", "SKU", "TARGET", "STATUS", "REASON"}}
		for _, r := range rows {
			id := ""
			if r.ID != 0 {
				id = number(r.ID)
			}
			t.add(id, r.LocationID, r.SKU, number(r.Quantity), r.Status, r.Reason)
		}
		if err := t.write(a.stdout); err != nil {
			return err
		}
		fmt.Fprintln(a.stdout)
	}
	for _, reason := range slices.Sorted(maps.Keys(notTried)) {
		fmt.Fprintf(a.stdout, "%s %v: %s\n", records(notTried[reason]), stocksync.NotTried, printable(reason))
	}
	_, err := fmt.Fprintln(a.stdout, s)
	return err
}

// reportFailure returns the failure of a run that did not sync all targets.
func (c *syncCommand) reportFailure(report *stocksync.Report, err error) error {
	s := summarize(report)
	f := &failure{message: "not every target is synced", subject: ofStock}
	if errors.Is(err, stocksync.ErrNoneKnown) {
		f.message = strings.TrimPrefix(err.Error(), "stocksync: ")
	}
	switch {
	case len(s.NotSynced) == 0:
		return err
	case s.Unknown > 0:
		f.code = exitUnknown
		f.next = fmt.Sprintf("wait %v, then run it again: it reads the stock anew", c.SettleAfter)
	case s.Changed+s.Differs > 0:
		f.code = exitPartly
	case s.NotTried > 0 && oakra.Retryable(s.gravest):
		f.code = exitRetry
	case s.NotTried > 0 && s.Rejected+s.NotFound == 0:
		f.code = exitError
	default:
		f.code = exitRejected
	}
	switch {
	case f.next != "":
	case s.NotTried > 0:
		f.next = "run it again: it reads the stock anew, and leaves alone what is right"
		if !oakra.Retryable(s.gravest) {
			f.next = advice(exitError, s.gravest) + "; then run it again"
		}
	case s.Differs > 0:
		f.next = "look at the records that differ: Oakra accepts the target and keeps another quantity, also the next time; correct the feed, or leave out what is named above"
	default:
		f.next = "correct the feed, or leave out what is named above"
	}
	return f
}
