package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// decision has the flags that a person gives with a decision.
type decision struct {
	By   string `required:"" placeholder:"NAME" help:"Who decides."`
	Note string `required:"" placeholder:"TEXT" help:"Why; it is kept in the history."`
	Yes  bool   `short:"y" help:"Do not ask for confirmation."`
}

type outboxResolveCommand struct {
	Action string   `arg:"" enum:"resend,applied,drop" help:"resend: it was not applied, send it again. applied: it was, or the stock was corrected by hand. drop: it shall not be applied."`
	IDs    []string `arg:"" name:"id" help:"IDs of parked changes; all of them are resolved, or none."`
	decision
}

func (c *outboxResolveCommand) Run(ctx context.Context, a *app) error {
	choice := map[string]struct {
		action   outbox.Action
		question string
	}{
		"resend":  {outbox.Resend, "Send these changes again?"},
		"applied": {outbox.MarkApplied, "Take these changes as applied?"},
		"drop":    {outbox.Drop, "Give these changes up?"},
	}[c.Action]
	return a.withOutbox(ctx, nil, outbox.Options{}, func(b *box) error {
		entries, err := b.find(ctx, c.IDs)
		if err != nil {
			return err
		}
		if !c.Yes && !a.flags.JSON {
			if err := entryTable(entries).write(a.stderr); err != nil {
				return err
			}
		}
		if err := a.confirm(ctx, c.Yes, choice.question); err != nil {
			return err
		}
		if err := b.Resolve(ctx, outbox.Decision{Action: choice.action, By: c.By, Note: c.Note}, c.IDs...); err != nil {
			return err
		}
		entries, err = b.find(ctx, c.IDs)
		if err != nil {
			return plain("the changes were resolved, but cannot be shown: %v", err)
		}
		return a.printEntries(entries)
	})
}

type outboxResumeCommand struct {
	decision
	DatabaseRestored bool `help:"The database lost commits: a backup was restored, or a failover lost the last ones. What was not settled is parked."`
}

func (c *outboxResumeCommand) Run(ctx context.Context, a *app) error {
	question := "Take the witnesses as they stand, and park the changes that were being sent?"
	if c.DatabaseRestored {
		question = "Take the witnesses as they stand, and park all changes that are not settled?"
	}
	return a.dispatching(ctx, outbox.Options{}, func(b *box, before outbox.Status) error {
		if before.Halted == "" {
			a.note("the outbox is not halted")
		} else {
			a.note("halted: " + before.Halted)
		}
		if err := a.confirm(ctx, c.Yes, question); err != nil {
			return err
		}
		if err := b.Resume(ctx, outbox.ResumeOptions{By: c.By, Note: c.Note, DatabaseRestored: c.DatabaseRestored}); err != nil {
			return err
		}
		return a.printAfter(ctx, b, before)
	})
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
	o := outbox.Options{RequestTimeout: c.RequestTimeout, Grace: c.Grace}
	return a.dispatching(ctx, o, func(b *box, before outbox.Status) error {
		within, cancel := ctx, context.CancelFunc(func() {})
		if c.For > 0 {
			within, cancel = context.WithTimeout(ctx, c.For)
		}
		defer cancel()
		err := b.Drain(within)
		switch {
		case err == nil, errors.Is(err, outbox.ErrHalted):
		case ctx.Err() != nil:
			err = context.Canceled // a driver may return an error of its own
		case within.Err() != nil:
			err = &failure{code: exitRetry, message: fmt.Sprintf("not drained in %v", c.For), next: "run it again later"}
		}
		return errors.Join(outboxFailure(err), a.printAfter(context.WithoutCancel(ctx), b, before))
	})
}

// dispatching is like withOutbox, with a client of Oakra. It passes the status before
// dispatching to use.
func (a *app) dispatching(ctx context.Context, o outbox.Options, use func(b *box, before outbox.Status) error) error {
	if a.flags.Demo {
		return plain("--demo has no outbox: its server forgets everything")
	}
	if err := a.connect(); err != nil {
		return err
	}
	return a.withOutbox(ctx, a.client.Stock, o, func(b *box) error {
		before, err := b.Status(ctx)
		if err != nil {
			return err
		}
		return use(b, before)
	})
}

// printAfter prints the status and how many changes were parked meanwhile.
func (a *app) printAfter(ctx context.Context, b *box, before outbox.Status) error {
	s, err := b.Status(ctx)
	if err != nil {
		return err
	}
	if parked := s.Parked - before.Parked; parked > 0 {
		a.note(fmt.Sprintf("parked by this: %d; see stockctl outbox list --state parked", parked))
	}
	return a.printStatus(b.name, s)
}
