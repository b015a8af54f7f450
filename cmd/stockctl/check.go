package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/oakra/oakra-go"
)

type checkCommand struct {
	First       string        `arg:"" name:"sku@location" help:"A record that nothing is sold from."`
	Second      string        `arg:"" name:"sku@location-2" help:"Another one."`
	SettleAfter time.Duration `default:"1m" help:"How long a write whose response was lost may still land, and a read may lag behind (default ${default})."`
	Yes         bool          `short:"y" help:"Do not ask before changing these two records."`
	soaking
}

const checkQuestion = `This changes the quantities of %s and %s, to at most %d and
to below zero, and then sets them to %d and %d again. Nothing may be sold from them meanwhile.
Continue?`

const (
	largeQuantity = 1_000_000
	absentID      = 1<<31 - 1 // id that fits into any database's integer, and that no record has
)

// finding is the result of one test of check.
type finding struct {
	Test   string `json:"test"`
	Result string `json:"result"`
	Holds  bool   `json:"holds"`
	Set    string `json:"set,omitempty"` // what to do if it does not hold
}

func (c *checkCommand) Run(ctx context.Context, a *app) error {
	if c.For < 0 || c.Every < 0 || c.SettleAfter <= 0 {
		return plain("--for and --every must not be negative, --settle-after must be positive")
	}
	keys, err := parseKeys(c.First, c.Second)
	if err != nil {
		return err
	}
	k := &checker{command: c, app: a}
	if err := a.connect(oakra.WithObserver(k.tally.observer())); err != nil {
		return err
	}
	records, err := a.recordsOf(ctx, keys)
	if err != nil {
		return err
	}
	k.stock, k.before = a.client.Stock, [2]oakra.StockRecord(records)
	for _, r := range records {
		if r.Quantity < 0 {
			return plain("%s@%s has %d units: choose a record with 0 or more", r.SKU, r.LocationID, r.Quantity)
		}
	}
	question := fmt.Sprintf(checkQuestion, c.First, c.Second, largeQuantity, k.before[0].Quantity, k.before[1].Quantity)
	if err := a.confirm(ctx, c.Yes, question); err != nil {
		return err
	}
	writes, cancel := a.writing(ctx)
	defer cancel()
	failed := k.run(writes, ctx)
	restored := k.restore(writes)
	printed := a.printFindings(k.findings)
	switch {
	case restored != nil:
		if failed != nil {
			a.note("a test failed: " + reason(failed))
		}
		return restored
	case failed != nil:
		if errors.Is(failed, context.Canceled) {
			return fmt.Errorf("the quantities were restored: %w", failed)
		}
		return plain("a test failed, and the quantities were restored: %s", reason(failed))
	case printed != nil:
		return printed
	}
	for _, found := range k.findings {
		if !found.Holds {
			return &failure{code: exitRejected, message: "not everything holds", next: "set what is named above", subject: ofStock}
		}
	}
	return nil
}

// checker tests the assumptions of the library with two records.
type checker struct {
	command  *checkCommand
	app      *app
	stock    *oakra.StockService
	tally    tally
	before   [2]oakra.StockRecord
	findings []finding
	lag      time.Duration // longest time by which a read was seen to lag behind a write
}

// pair is a quantity of each of the two records.
type pair [2]int64

func (p pair) plus(n int64) pair { return pair{p[0] + n, p[1] + n} }

func (k *checker) had() pair { return pair{k.before[0].Quantity, k.before[1].Quantity} }

func (k *checker) add(holds bool, test, result, set string) {
	if holds {
		set = ""
	}
	k.findings = append(k.findings, finding{test, result, holds, set})
}

// run runs the tests. It begins none after stopped has ended.
func (k *checker) run(ctx, stopped context.Context) error {
	tests := []func(context.Context) error{k.list, k.change, k.update, k.unknownID, k.negative, k.large}
	if k.command.For > 0 {
		tests = append(tests, func(ctx context.Context) error { return k.soak(ctx, stopped) })
	}
	for _, test := range tests {
		if stopped.Err() != nil {
			return errStopped
		}
		if err := k.settled(ctx, test(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// settled returns err. If its outcome is unknown, it first waits until the write can no
// longer arrive.
func (k *checker) settled(ctx context.Context, err error) error {
	var e *oakra.Error
	if errors.As(err, &e) && oakra.OutcomeOf(err) == oakra.OutcomeUnknown {
		k.app.note(fmt.Sprintf("a response was lost: waiting %v, since the write may still land", k.command.SettleAfter))
		wait(ctx, k.command.SettleAfter)
	}
	return err
}

// read returns the quantities, once they show the writes so far.
func (k *checker) read(ctx context.Context) (pair, error) {
	wait(ctx, 2*k.lag)
	found, err := k.stock.Lookup(ctx, []oakra.StockKey{k.before[0].Key(), k.before[1].Key()})
	if err != nil {
		return pair{}, err
	}
	return pair{found[k.before[0].Key()].Quantity, found[k.before[1].Key()].Quantity}, nil
}

// readUntil reads until the quantities are those of want, or the time within is over,
// and records by how much the reads lagged.
func (k *checker) readUntil(ctx context.Context, want pair, within time.Duration) (pair, error) {
	began := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		got, err := k.read(ctx)
		lag := time.Since(began)
		switch {
		case err != nil, ctx.Err() != nil, lag >= within:
			return got, err
		case got == want:
			if pause > 50*time.Millisecond {
				k.lag = max(k.lag, lag)
			}
			return got, nil
		}
		wait(ctx, pause)
	}
}

// list checks the raw response. The client can read several forms of it.
func (k *checker) list(ctx context.Context) error {
	peek := &peek{Transport: oakra.DefaultTransport()}
	client, err := k.app.newClient(oakra.WithHTTPClient(&http.Client{Transport: peek}))
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	_, err = client.Stock.List(ctx, oakra.StockListParams{SKUs: []string{k.before[0].SKU, k.before[1].SKU}})
	if err != nil {
		return err
	}
	k.add(true, "list", k.tally.route("stock.list"), "")
	k.add(true, "shape of a list", peek.shape(), "")
	return nil
}

func (k *checker) change(ctx context.Context) error {
	_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.before[0].ID, QuantityChange: 1}})
	if err != nil {
		return err
	}
	k.add(true, "change", k.tally.route("stock.change"), "")
	want := pair{k.before[0].Quantity + 1, k.before[1].Quantity}
	got, err := k.readUntil(ctx, want, k.command.SettleAfter)
	switch {
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("%v after the change, it is not seen: the quantities are %v instead of %v; does somebody else change them?", k.command.SettleAfter, got, want)
	}
	result := "fresh"
	if k.lag > 0 {
		result = fmt.Sprintf("stale for up to %v", k.lag.Round(time.Millisecond))
	}
	k.add(k.lag == 0, "read after a write", result, "set --settle-after of sync to more than the time by which a read lags")
	return nil
}

func (k *checker) update(ctx context.Context) error {
	_, err := k.stock.Update(ctx, []oakra.StockUpdate{{ID: k.before[0].ID, Quantity: k.before[0].Quantity}})
	if err == nil {
		k.add(true, "update", k.tally.route("stock.update"), "")
	}
	return err
}

func (k *checker) unknownID(ctx context.Context) error {
	_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.before[0].ID, QuantityChange: 1}, {ID: absentID, QuantityChange: 1}})
	switch {
	case err == nil:
		_, err = k.stock.Change(ctx, []oakra.StockChange{{ID: absentID, QuantityChange: -1}})
		return errors.Join(fmt.Errorf("there is a record %d, which should not exist", int64(absentID)), err)
	case !oakra.Splittable(err):
		return err
	}
	got, err := k.read(ctx)
	if err != nil {
		return err
	}
	result := "rejected whole"
	if got != k.had() {
		result = fmt.Sprintf("the other record of it was changed all the same, from %d to %d", k.before[0].Quantity, got[0])
	}
	k.add(got == k.had(), "a request with an unknown id", result,
		"set BulkOptions.NoSplit, and look at the stock after a rejected request; sync does so by itself")
	return nil
}

// negative tests a change that leads below zero. The server may accept or reject it, but
// must not store a third quantity.
func (k *checker) negative(ctx context.Context) error {
	_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.before[1].ID, QuantityChange: -k.before[1].Quantity - 1}})
	result, want := "accepted", int64(-1)
	switch {
	case oakra.Splittable(err):
		result, want = "rejected", k.before[1].Quantity
	case err != nil:
		return err
	}
	got, err := k.read(ctx)
	if err != nil {
		return err
	}
	if got[1] != want {
		result += fmt.Sprintf(", but the quantity is %d instead of %d", got[1], want)
	}
	k.add(got[1] == want, "a quantity below zero", result, "read the stock before a change that may go below zero")
	return nil
}

func (k *checker) large(ctx context.Context) error {
	_, err := k.stock.Update(ctx, []oakra.StockUpdate{{ID: k.before[1].ID, Quantity: largeQuantity}})
	rejected := oakra.Splittable(err)
	if err != nil && !rejected {
		return err
	}
	got, err := k.read(ctx)
	if err != nil {
		return err
	}
	result := fmt.Sprintf("%d is kept", largeQuantity)
	if rejected {
		result = fmt.Sprintf("%d is rejected", largeQuantity)
	} else if got[1] != largeQuantity {
		result = fmt.Sprintf("%d is capped at %d", largeQuantity, got[1])
	}
	k.add(rejected || got[1] == largeQuantity, "a large quantity", result,
		fmt.Sprintf("keep quantities at most %d: sync reports larger ones as differing", got[1]))
	return nil
}

// soak changes both records in one request, again and again, and compares the
// quantities that it reads with the responses. After a lost response, the quantities
// must show that the request was applied as a whole or not at all.
func (k *checker) soak(ctx, stopped context.Context) error {
	if _, err := k.stock.Update(ctx, k.updates()); err != nil {
		return err
	}
	has := k.had()
	wrong, first := 0, ""
	requests, lost := k.tally.counts()
	took, err := k.command.soak(stopped, k.app, func(int64) error {
		d := int64(1)
		if has[0] > k.before[0].Quantity {
			d = -1
		}
		_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.before[0].ID, QuantityChange: d}, {ID: k.before[1].ID, QuantityChange: d}})
		outcome := oakra.OutcomeOf(k.settled(ctx, err))
		want := has.plus(d)
		if outcome == oakra.OutcomeNotApplied {
			if !oakra.Retryable(err) {
				return err
			}
			want = has
		}
		read := func() (pair, error) { return k.readUntil(ctx, want, k.command.SettleAfter) }
		if outcome == oakra.OutcomeUnknown {
			read = func() (pair, error) { return k.read(ctx) }
		}
		got, err := read()
		for stopped.Err() == nil && oakra.Retryable(err) { // an outage does not end the check
			wait(stopped, time.Second)
			got, err = read()
		}
		if err != nil {
			return err
		}
		if got != want && (outcome != oakra.OutcomeUnknown || got != has) {
			if wrong++; wrong == 1 {
				first = fmt.Sprintf(": at %s they had %v instead of %v", time.Now().Format(time.DateTime), got, want)
			}
		}
		has = got
		return nil
	})
	allRequests, allLost := k.tally.counts()
	result := fmt.Sprintf("%d requests, %d lost responses, ", allRequests-requests, allLost-lost)
	if wrong == 0 {
		result += "all explained"
	} else {
		result += fmt.Sprintf("%d not explained, the first%s", wrong, first)
	}
	k.add(wrong == 0, fmt.Sprintf("changes for %v", took.Round(time.Second)), result,
		"find out who else writes these records; if nobody does, a request was applied in part, twice, or very late")
	return err
}

func (k *checker) updates() []oakra.StockUpdate {
	return []oakra.StockUpdate{
		{ID: k.before[0].ID, Quantity: k.before[0].Quantity},
		{ID: k.before[1].ID, Quantity: k.before[1].Quantity},
	}
}

// restoreFor is how long check tries to restore the quantities.
const restoreFor = 10 * time.Minute

// restore sets the quantities back to what they were, even through an outage, and reads
// them to make sure. If they differ, the error says what each record has.
func (k *checker) restore(ctx context.Context) error {
	var err error
	for began := time.Now(); ; wait(ctx, time.Second) {
		_, err = k.stock.Update(ctx, k.updates())
		passing := oakra.Retryable(err) || err != nil && oakra.OutcomeOf(err) == oakra.OutcomeUnknown
		if !passing || ctx.Err() != nil || time.Since(began) > restoreFor {
			break
		}
		k.app.note("the quantities are not restored yet: " + reason(err))
	}
	within := k.command.SettleAfter
	if err != nil { // waiting would not help
		within = 0
	}
	reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), within+10*time.Second)
	defer cancel()
	got, unread := k.readUntil(reading, k.had(), within)
	if unread == nil && got == k.had() {
		return nil
	}
	f := &failure{
		code:    exitPartly,
		message: "the quantities were not restored",
		next:    fmt.Sprintf("stockctl update %d=%d %d=%d", k.before[0].ID, k.before[0].Quantity, k.before[1].ID, k.before[1].Quantity),
		subject: ofStock,
	}
	if unread != nil {
		f.code = exitUnknown
	}
	if err != nil {
		f.message += ": " + reason(err)
	}
	for i, r := range k.before {
		has := fmt.Sprintf("has %d", got[i])
		if unread != nil {
			has = "may have any quantity, since it cannot be read,"
		}
		f.message += fmt.Sprintf("; record %d, %s@%s, %s and should have %d", r.ID, r.SKU, r.LocationID, has, r.Quantity)
	}
	return f
}

func (a *app) printFindings(findings []finding) error {
	if a.flags.JSON {
		return a.printJSON(findings)
	}
	t := table{header: []string{"TEST", "HOLDS", "RESULT", "SET"}}
	for _, f := range findings {
		holds := "no"
		if f.Holds {
			holds = "yes"
		}
		t.add(f.Test, holds, f.Result, f.Set)
	}
	return t.write(a.stdout)
}
