package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

type outboxCheckCommand struct {
	Head           string        `required:"" placeholder:"SKU@LOCATION" help:"The first witness."`
	Tail           string        `required:"" placeholder:"SKU@LOCATION" help:"The second witness."`
	Item           string        `required:"" placeholder:"SKU@LOCATION" help:"A stock record to try on, which nobody sells or counts meanwhile. In the end all three have the quantities that they had."`
	RequestTimeout time.Duration `default:"30s" help:"As in the shop's Options.RequestTimeout (default ${default})."`
	Grace          time.Duration `default:"1m" help:"As in the shop's Options.Grace (default ${default})."`
	Yes            bool          `short:"y" help:"Do not ask for confirmation."`
	soaking
}

// minWitness is how many units a new witness of an outbox needs.
const minWitness = 200_000

// witnessCheck is one run of the command, with the keys and records of head, tail and
// item.
type witnessCheck struct {
	app     *app
	keys    []oakra.StockKey
	records [3]oakra.StockRecord
}

func (c *outboxCheckCommand) Run(ctx context.Context, a *app) error {
	if c.For < 0 || c.Every < 0 || c.RequestTimeout <= 0 || c.Grace <= 0 {
		return plain("--for and --every must not be negative, --request-timeout and --grace must be positive")
	}
	keys, err := parseKeys(c.Head, c.Tail, c.Item)
	if err != nil {
		return err
	}
	k := &witnessCheck{app: a, keys: keys}
	if err := a.connect(); err != nil {
		return err
	}
	if err := k.find(ctx); err != nil {
		return err
	}
	for _, witness := range k.records[:2] {
		if witness.Quantity < minWitness {
			return unfit("the witness %s@%s has %d units: give it 200,000", witness.SKU, witness.LocationID, witness.Quantity)
		}
	}
	if err := a.confirm(ctx, c.Yes, "This changes the three records. An outbox that uses these witnesses already would halt. Go on?"); err != nil {
		return err
	}
	writes, cancel := a.writing(ctx)
	defer cancel()
	if err := k.reject(writes); err != nil {
		return err
	}
	return k.soak(ctx, writes, c)
}

// find reads the records.
func (k *witnessCheck) find(ctx context.Context) error {
	records, err := k.app.recordsOf(ctx, k.keys)
	if err == nil {
		k.records = [3]oakra.StockRecord(records)
	}
	return err
}

// unfit returns the failure that says why this account cannot have an outbox.
func unfit(format string, args ...any) error {
	return &failure{code: exitRejected, message: fmt.Sprintf(format, args...)}
}

// reject sends a request that Oakra must reject as a whole.
func (k *witnessCheck) reject(ctx context.Context) error {
	before := k.records
	_, err := k.app.client.Stock.Change(ctx, []oakra.StockChange{
		{ID: before[0].ID, QuantityChange: 1}, {ID: absentID, QuantityChange: 1}, {ID: before[1].ID, QuantityChange: 1},
	})
	switch outcome := oakra.OutcomeOf(err); {
	case err == nil:
		return unfit("Oakra accepts a change of record %d, which should not exist", int64(absentID))
	case outcome != oakra.OutcomeNotApplied || !oakra.Rejected(err):
		return err
	}
	if err := k.find(ctx); err != nil {
		return err
	}
	if k.records[0] != before[0] || k.records[1] != before[1] {
		return unfit("Oakra applied a part of a request that it rejected, or somebody else changes the witnesses: they had %d and %d units, and have %d and %d",
			before[0].Quantity, before[1].Quantity, k.records[0].Quantity, k.records[1].Quantity)
	}
	return nil
}

// soak runs an outbox in memory. It adds a unit to the item and takes it away again,
// until the time is over or ctx ends.
func (k *witnessCheck) soak(ctx, writes context.Context, c *outboxCheckCommand) error {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	box, err := outbox.New(ctx, db, k.app.client.Stock, outbox.Options{
		Witnesses: [2]oakra.StockKey(k.keys[:2]), RequestTimeout: c.RequestTimeout, Grace: c.Grace,
	})
	if err != nil {
		return plain("%s", outboxReason(err))
	}
	took, err := c.soak(ctx, k.app, func(n int64) error {
		err := box.Add(writes, outbox.Change{
			ID: number(n), SKU: k.keys[2].SKU, LocationID: k.keys[2].LocationID, QuantityChange: 1 - 2*(n%2),
		})
		if err != nil {
			return err
		}
		return box.Drain(writes)
	})
	if err != nil {
		return k.failed(err)
	}
	return k.end(writes, box, took)
}

// failed returns the failure of a run that ended early.
func (k *witnessCheck) failed(err error) error {
	var f *failure
	if !errors.As(outboxFailure(err), &f) {
		return err
	}
	return &failure{code: f.code, message: fmt.Sprintf("%s; give the witnesses 200,000 units again, and the item the %d that it had", f.message, k.records[2].Quantity)}
}

// end waits until no request can land, and compares the item's quantity.
func (k *witnessCheck) end(ctx context.Context, box *outbox.Outbox, took time.Duration) error {
	if err := settle(ctx, box); err != nil {
		return k.failed(err)
	}
	s, err := box.Status(ctx)
	if err != nil {
		return k.failed(err)
	}
	before := k.records
	if err := k.find(ctx); err != nil {
		return k.failed(err)
	}
	if had, has := before[2].Quantity, k.records[2].Quantity; has != had {
		return unfit("the item had %d units and has %d: somebody else changes it, or the outbox does not work with this account", had, has)
	}
	_, err = k.app.client.Stock.Update(ctx, []oakra.StockUpdate{
		{ID: before[0].ID, Quantity: before[0].Quantity}, {ID: before[1].ID, Quantity: before[1].Quantity},
	})
	if err != nil {
		return err
	}
	if k.app.flags.JSON {
		return k.app.printStatus("check", s)
	}
	fmt.Fprintf(k.app.stdout, "%d requests in %v: %d had an unknown outcome, %d counted twice and were taken back\n", s.Requests, took.Round(time.Second), s.Unknown, s.Compensated)
	fmt.Fprintln(k.app.stdout, "Both witnesses showed what landed, a rejected request changed nothing, and all three records have the quantities that they had.")
	return nil
}

// settle dispatches until no attempt can land.
func settle(ctx context.Context, box *outbox.Outbox) error {
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- box.Run(running) }()
	for {
		s, err := box.Status(ctx)
		if err == nil && s.Halted != "" {
			err = fmt.Errorf("%w: %s", outbox.ErrHalted, s.Halted)
		}
		if err != nil || s.Pending == 0 && s.OpenAttempts == 0 {
			stop()
			return errors.Join(err, <-ended)
		}
		wait(ctx, 200*time.Millisecond)
	}
}
