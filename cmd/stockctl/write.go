package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go"
)

type updateCommand struct {
	Items []string `arg:"" name:"item" help:"What to set: ID=QUANTITY, or SKU@LOCATION=QUANTITY."`
}

type changeCommand struct {
	Items []string `arg:"" name:"item" help:"What to add or deduct: ID=DIFFERENCE, or SKU@LOCATION=DIFFERENCE, such as 122=-2."`
}

func (c *updateCommand) Run(ctx context.Context, a *app) error {
	orders, err := parseOrders(c.Items, func(text string) (int64, error) {
		if strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-") {
			return 0, errors.New("an update sets the quantity itself, without a sign; to add or deduct, use change")
		}
		return parseNumber(text)
	})
	if err != nil {
		return err
	}
	return write(ctx, a, orders,
		func(o order) oakra.StockUpdate { return oakra.StockUpdate{ID: o.id, Quantity: o.n} },
		(*oakra.StockService).Update, (*oakra.StockService).UpdateAll)
}

func (c *changeCommand) Run(ctx context.Context, a *app) error {
	orders, err := parseOrders(c.Items, func(text string) (int64, error) {
		n, err := parseNumber(text)
		if err == nil && n == 0 {
			err = errors.New("a difference of 0 changes nothing; to set the quantity, use update")
		}
		return n, err
	})
	if err != nil {
		return err
	}
	return write(ctx, a, orders,
		func(o order) oakra.StockChange { return oakra.StockChange{ID: o.id, QuantityChange: o.n} },
		(*oakra.StockService).Change, (*oakra.StockService).ChangeAll)
}

// order is one item of a write, as a person gives it.
type order struct {
	text string
	id   int64          // id of the record; 0 until it is looked up
	key  oakra.StockKey // key of the record, if no id was given
	n    int64
}

// parseOrders reads ID=N and SKU@LOCATION=N. A SKU and a location may hold any
// character: the last = and the last @ are the separators.
func parseOrders(texts []string, parse func(string) (int64, error)) ([]order, error) {
	orders := make([]order, len(texts))
	for i, text := range texts {
		at := strings.LastIndexByte(text, '=')
		if at < 0 {
			return nil, plain("%q is not ID=NUMBER or SKU@LOCATION=NUMBER", text)
		}
		o := order{text: text}
		var err error
		if o.n, err = parse(text[at+1:]); err != nil {
			return nil, plain("%q: %v", text, err)
		}
		name := text[:at]
		if strings.Contains(name, "@") {
			if o.key, err = parseKey(name); err != nil {
				return nil, err
			}
		} else if o.id, err = strconv.ParseInt(name, 10, 64); err != nil || o.id <= 0 {
			return nil, plain("%q: %q is neither the ID of a record, a whole number from 1, nor SKU@LOCATION", text, name)
		}
		orders[i] = o
	}
	return orders, nil
}

// parseKey reads SKU@LOCATION.
func parseKey(text string) (oakra.StockKey, error) {
	at := strings.LastIndexByte(text, '@')
	if at < 0 || strings.TrimSpace(text[:at]) == "" || at == len(text)-1 {
		return oakra.StockKey{}, plain("%q: a SKU and a location are needed, SKU@LOCATION", text)
	}
	return oakra.StockKey{SKU: text[:at], LocationID: text[at+1:]}, nil
}

// parseKeys reads several SKU@LOCATION, each of which must name another record.
func parseKeys(texts ...string) ([]oakra.StockKey, error) {
	keys := make([]oakra.StockKey, len(texts))
	for i, text := range texts {
		var err error
		if keys[i], err = parseKey(text); err != nil {
			return nil, err
		}
		if slices.Contains(keys[:i], keys[i]) {
			return nil, plain("%q is given twice", text)
		}
	}
	return keys, nil
}

func parseNumber(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is out of range", text)
	case err != nil:
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}

// lookUp fills in the ids. It fails if Oakra does not know a key or if a record is named
// twice. Nothing has been written then.
func (a *app) lookUp(ctx context.Context, orders []order) error {
	var keys []oakra.StockKey
	for _, o := range orders {
		if o.id == 0 {
			keys = append(keys, o.key)
		}
	}
	found, err := a.recordsOf(ctx, keys)
	if err != nil {
		return err
	}
	named := make(map[int64]string, len(orders))
	for i := range orders {
		o := &orders[i]
		if o.id == 0 {
			o.id, found = found[0].ID, found[1:]
		}
		if first, twice := named[o.id]; twice {
			return plain("%q and %q name the same record, %d", first, o.text, o.id)
		}
		named[o.id] = o.text
	}
	return nil
}

// recordsOf returns the records of keys, in their order. It fails if Oakra does not know
// a key.
func (a *app) recordsOf(ctx context.Context, keys []oakra.StockKey) ([]oakra.StockRecord, error) {
	found, err := a.client.Stock.Lookup(ctx, keys)
	if err != nil {
		return nil, err
	}
	records := make([]oakra.StockRecord, len(keys))
	var unknown []string
	for i, key := range keys {
		record, ok := found[key]
		if !ok {
			unknown = append(unknown, key.SKU+"@"+key.LocationID)
		}
		records[i] = record
	}
	if len(unknown) > 0 {
		return nil, &failure{
			code:    exitRejected,
			message: "no stock record: " + strings.Join(unknown, ", "),
			next:    "correct what is named above",
			subject: ofStock,
		}
	}
	return records, nil
}

// inOneRequest is the most records that a write sends without a bulk run.
const inOneRequest = 500

// write sends the orders, in one request or in many, and prints the result.
func write[T any](ctx context.Context, a *app, orders []order, itemOf func(order) T,
	one func(*oakra.StockService, context.Context, []T) ([]oakra.StockRecord, error),
	many func(*oakra.StockService, context.Context, []T, oakra.BulkOptions) error,
) error {
	if err := a.connect(); err != nil {
		return err
	}
	if err := a.lookUp(ctx, orders); err != nil {
		return err
	}
	items := make([]T, len(orders))
	for i, o := range orders {
		items[i] = itemOf(o)
	}
	if len(items) > inOneRequest {
		writes, cancel := a.writing(ctx)
		defer cancel()
		bar := a.newProgress()
		bar.show("writing", 0, len(items))
		var written []oakra.StockRecord
		err := many(a.client.Stock, writes, items, oakra.BulkOptions{
			Stop:      ctx.Done(),
			OnRecords: func(records []oakra.StockRecord) { written = append(written, records...) },
			OnProgress: func(p oakra.BulkProgress) {
				bar.wait(p.Waiting, p.WaitingSince, p.WaitingFor)
				bar.show("writing", p.Done(), p.Total)
			},
		})
		bar.clear()
		if a.flags.JSON {
			_ = a.printRecords(written) // only kept for the report, which cannot fail
		}
		if err != nil {
			return bulkFailure(orders, err)
		}
		if a.flags.JSON {
			return nil
		}
		fmt.Fprintf(a.stdout, "%d records written\n", len(items))
		return nil
	}
	writes, cancel := a.writingOne(ctx)
	defer cancel()
	records, err := one(a.client.Stock, writes, items)
	if err == nil {
		if err := a.printRecords(records); err != nil {
			return plain("the stock was written, but the records were not: %v", err)
		}
		return nil
	}
	var e *oakra.Error
	if !errors.As(err, &e) {
		return err
	}
	if len(e.Records) > 0 || e.Outcome == oakra.OutcomeApplied { // records that were applied despite the error
		_ = a.printRecords(e.Records) // the failure of the write matters more
	}
	return writeFailure(orders, e)
}

// writeFailure returns the failure of one request to write stock.
func writeFailure(orders []order, e *oakra.Error) *failure {
	applied := make(map[int64]bool, len(e.Records))
	if e.StatusCode != http.StatusMultiStatus { // the records of a 207 prove nothing
		for _, r := range e.Records {
			applied[r.ID] = true
		}
	}
	names := make([]string, len(orders))
	outcomes := make([]oakra.Outcome, len(orders))
	for i, o := range orders {
		names[i], outcomes[i] = o.text, e.Outcome
		if applied[o.id] {
			outcomes[i] = oakra.OutcomeApplied
		}
	}
	return requestFailure(names, outcomes, e)
}

// requestFailure returns the failure of one request, whose items have names and
// outcomes.
func requestFailure(names []string, outcomes []oakra.Outcome, e *oakra.Error) *failure {
	messages := e.Items()
	short := *e
	if len(names) > 1 && len(messages) > 0 {
		short.Fields = nil // each item reports its own
	}
	f := &failure{message: reason(&short), subject: subjectOf(e)}
	var n counts
	for i, name := range names {
		n.add(outcomes[i])
		it := item{Item: name, Outcome: outcomes[i].String(), Reason: strings.Join(messages[i], "; ")}
		if it.Reason == "" && len(messages) > 0 && outcomes[i] == oakra.OutcomeNotApplied {
			it.Reason = "rejected together with the others"
		}
		f.items = append(f.items, it)
	}
	f.code = n.exitCode(oakra.NextStep(e))
	f.next = advice(f.code, e)
	return f
}

// bulkFailure returns the failure of a bulk run.
func bulkFailure(orders []order, err error) error {
	var bulk *oakra.BulkError
	if !errors.As(err, &bulk) {
		return err
	}
	n := counts{applied: bulk.Applied}
	f := &failure{subject: ofStock}
	for _, failed := range bulk.Failures {
		n.add(failed.Outcome)
		f.items = append(f.items, item{
			Item:    orders[failed.Index].text,
			Outcome: failed.Outcome.String(),
			Reason:  reason(failed.Err),
		})
	}
	f.code = n.exitCode(gravest(bulk))
	f.message = fmt.Sprintf("of %d items %v; those not applied or unknown:", len(orders), n)
	f.next = advice(f.code, err)
	return f
}

// gravest returns the next step after a run that applied nothing: the step that its
// items have in common, or otherwise one for a failure that does not pass by itself.
func gravest(bulk *oakra.BulkError) oakra.Step {
	steps := make(map[oakra.Step]bool)
	for _, failed := range bulk.Failures {
		steps[oakra.NextStep(failed.Err)] = true
	}
	switch {
	case steps[oakra.StepReject]:
		return oakra.StepReject
	case steps[oakra.StepAlert]:
		return oakra.StepAlert
	}
	return oakra.StepRetry
}
