package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// decision is what a person has to say of a change by hand.
type decision struct {
	By   string `required:"" placeholder:"NAME" help:"Who decides."`
	Note string `required:"" placeholder:"TEXT" help:"Why; it is kept in the history."`
	Yes  bool   `short:"y" help:"Do not ask for confirmation."`
}

// confirm asks a person, on stderr, unless yes was said already.
func (a *app) confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if a.flags.JSON {
		return plain("with --json there is no question: confirm with --yes")
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(&interruptible{ctx, a.stdin}).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return outboxFailure(err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return plain("not confirmed; nothing was done")
}

type outboxResolveCommand struct {
	Action string   `arg:"" enum:"resend,applied,drop" help:"resend: it was not applied, send it again. applied: it was, or the stock was corrected by hand. drop: it shall not be applied."`
	IDs    []string `arg:"" name:"id" help:"IDs of parked changes; all of them are resolved, or none."`
	decision
}

func (c *outboxResolveCommand) Run(ctx context.Context, a *app) error {
	b, err := a.openOutbox(ctx, nil, outbox.Options{})
	if err != nil {
		return err
	}
	defer b.close()
	entries, err := b.find(ctx, c.IDs)
	if err != nil {
		return err
	}
	choice := map[string]struct {
		action   outbox.Action
		question string
	}{
		"resend":  {outbox.Resend, "Send these changes again?"},
		"applied": {outbox.MarkApplied, "Take these changes as applied?"},
		"drop":    {outbox.Drop, "Give these changes up?"},
	}[c.Action]
	if !c.Yes && !a.flags.JSON {
		if err := entryTable(entries).write(a.stderr); err != nil {
			return err
		}
	}
	if err := a.confirm(ctx, c.Yes, choice.question); err != nil {
		return err
	}
	if err := b.Resolve(ctx, outbox.Decision{Action: choice.action, By: c.By, Note: c.Note}, c.IDs...); err != nil {
		return outboxFailure(err)
	}
	entries, err = b.find(ctx, c.IDs)
	if err != nil {
		return plain("the changes were resolved, but cannot be shown: %v", err)
	}
	return a.printEntries(entries)
}

type outboxResumeCommand struct {
	decision
	DatabaseRestored bool `help:"The database lost commits: a backup was restored, or a failover lost the last ones. What was not settled is parked."`
}

func (c *outboxResumeCommand) Run(ctx context.Context, a *app) error {
	b, err := a.openDispatching(ctx, outbox.Options{})
	if err != nil {
		return err
	}
	defer b.close()
	before, err := b.Status(ctx)
	if err != nil {
		return outboxFailure(err)
	}
	if before.Halted == "" {
		a.note("the outbox is not halted")
	} else {
		a.note("halted: " + before.Halted)
	}
	question := "Take the witnesses as they stand, and park the changes that were being sent?"
	if c.DatabaseRestored {
		question = "Take the witnesses as they stand, and park all changes that are not settled?"
	}
	if err := a.confirm(ctx, c.Yes, question); err != nil {
		return err
	}
	if err := b.Resume(ctx, outbox.ResumeOptions{By: c.By, Note: c.Note, DatabaseRestored: c.DatabaseRestored}); err != nil {
		return outboxFailure(err)
	}
	return a.printAfter(ctx, b, before)
}

type outboxDrainCommand struct {
	RequestTimeout time.Duration `default:"30s" help:"As in the shop's Options.RequestTimeout (default ${default})."`
	Grace          time.Duration `default:"1m" help:"As in the shop's Options.Grace (default ${default})."`
	For            time.Duration `placeholder:"DURATION" help:"Stop after this time, with exit code 3 if something is pending."`
}

func (c *outboxDrainCommand) Run(ctx context.Context, a *app) error {
	if c.RequestTimeout <= 0 || c.Grace <= 0 || c.For < 0 {
		return plain("--request-timeout, --grace and --for must be positive")
	}
	b, err := a.openDispatching(ctx, outbox.Options{RequestTimeout: c.RequestTimeout, Grace: c.Grace})
	if err != nil {
		return err
	}
	defer b.close()
	before, err := b.Status(ctx)
	if err != nil {
		return outboxFailure(err)
	}
	dispatching, cancel := ctx, context.CancelFunc(func() {})
	if c.For > 0 {
		dispatching, cancel = context.WithTimeout(ctx, c.For)
	}
	defer cancel()
	err = b.Drain(dispatching)
	switch {
	case err == nil, errors.Is(err, outbox.ErrHalted):
	case ctx.Err() != nil:
		err = context.Canceled // a driver may have words of its own for it
	case dispatching.Err() != nil:
		err = &failure{code: exitRetry, message: fmt.Sprintf("not drained in %v", c.For), next: "run it again later"}
	}
	return errors.Join(outboxFailure(err), a.printAfter(context.WithoutCancel(ctx), b, before))
}

// openDispatching opens the outbox with a client of Oakra.
func (a *app) openDispatching(ctx context.Context, o outbox.Options) (*box, error) {
	if a.flags.Demo {
		return nil, plain("--demo has no outbox: its server forgets everything")
	}
	if err := a.connect(); err != nil {
		return nil, err
	}
	return a.openOutbox(ctx, a.client.Stock, o)
}

// printAfter prints the status, and says how many changes were parked meanwhile.
func (a *app) printAfter(ctx context.Context, b *box, before outbox.Status) error {
	s, err := b.Status(ctx)
	if err != nil {
		return outboxFailure(err)
	}
	if parked := s.Parked - before.Parked; parked > 0 {
		a.note(fmt.Sprintf("parked by this: %d; see stockctl outbox list --state parked", parked))
	}
	return a.printStatus(b.name, s)
}
