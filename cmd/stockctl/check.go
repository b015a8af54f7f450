package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/oakra/oakra-go"
)

type checkCommand struct {
	First  string `arg:"" name:"sku@location" help:"A record that nothing is sold from."`
	Second string `arg:"" name:"sku@location-2" help:"Another one."`
	Yes    bool   `short:"y" help:"Do not ask before changing these two records."`
}

const checkQuestion = `This changes the quantities of %s and %s, to at most %d and
to below zero, and then sets them to %d and %d again. Nothing may be sold from them meanwhile.
Continue? [y/N] `

const (
	largeQuantity = 1_000_000
	unknownID     = 1<<31 - 1 // an id that fits into any database's integer, and is not in use
)

// finding is what one test of check shows.
type finding struct {
	Test   string `json:"test"`
	Result string `json:"result"`
	Holds  bool   `json:"holds"`
	Set    string `json:"set,omitempty"` // what to do if it does not hold
}

func (c *checkCommand) Run(ctx context.Context, a *app) error {
	orders, err := parseOrders([]string{c.First + "=0", c.Second + "=0"}, parseNumber)
	if err != nil {
		return err
	}
	if orders[0].id != 0 || orders[1].id != 0 {
		return plain("check needs two records as SKU@LOCATION")
	}
	if a.flags.JSON && !c.Yes {
		return plain("--json asks nothing, so check needs --yes")
	}
	if err := a.connect(); err != nil {
		return err
	}
	keys := []oakra.StockKey{orders[0].key, orders[1].key}
	if err := a.lookUp(ctx, orders); err != nil {
		return err
	}
	found, err := a.client.Stock.Lookup(ctx, keys)
	if err != nil {
		return err
	}
	k := &checker{stock: a.client.Stock, first: found[keys[0]], second: found[keys[1]]}
	if !c.Yes {
		fmt.Fprintf(a.stderr, checkQuestion, c.First, c.Second, largeQuantity, k.first.Quantity, k.second.Quantity)
		line, _ := bufio.NewReader(&interruptible{ctx, a.stdin}).ReadString('\n')
		if text := strings.ToLower(strings.TrimSpace(line)); text != "y" && text != "yes" {
			return plain("not checked, since the question was not answered with y")
		}
	}
	writes, cancel := a.writing(ctx)
	defer cancel()
	failed := k.run(writes, ctx)
	restored := k.restore(writes)
	if err := a.printFindings(k.findings); err != nil && restored == nil {
		return err
	}
	if restored != nil {
		return &failure{
			code:    exitUnknown,
			message: fmt.Sprintf("the quantities were not restored: %s", reason(restored)),
			next:    fmt.Sprintf("stockctl update %d=%d %d=%d", k.first.ID, k.first.Quantity, k.second.ID, k.second.Quantity),
			subject: ofStock,
		}
	}
	if failed != nil {
		f := explain(failed)
		f.code, f.subject = exitError, ofStock
		f.message = "a test failed, and the quantities were restored: " + f.message
		if oakra.OutcomeOf(failed) == oakra.OutcomeUnknown { // a write that was lost may still land
			f.code = exitUnknown
			f.next = fmt.Sprintf("wait a minute, and look whether %s still has %d and %s %d", c.First, k.first.Quantity, c.Second, k.second.Quantity)
		}
		return f
	}
	for _, found := range k.findings {
		if !found.Holds {
			return &failure{code: exitRefused, message: "not everything holds", next: "set what is named above", subject: ofStock}
		}
	}
	return nil
}

// checker tests what the library assumes on two records.
type checker struct {
	stock         *oakra.StockService
	first, second oakra.StockRecord // as they were
	findings      []finding
}

func (k *checker) add(holds bool, test, result, set string) {
	if holds {
		set = ""
	}
	k.findings = append(k.findings, finding{test, result, holds, set})
}

// run does the tests, each begun only before stopped ends.
func (k *checker) run(ctx, stopped context.Context) error {
	k.add(true, "list", "readable, with both records", "")
	for _, test := range []func(context.Context) error{k.change, k.update, k.unknownID, k.negative, k.large} {
		if stopped.Err() != nil {
			return errStopped
		}
		if err := test(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restore sets the quantities as they were, and reads whether they are.
func (k *checker) restore(ctx context.Context) error {
	for _, r := range []oakra.StockRecord{k.first, k.second} {
		if _, err := k.stock.Update(ctx, []oakra.StockUpdate{{ID: r.ID, Quantity: r.Quantity}}); err != nil {
			return err
		}
		if n, err := k.read(ctx, r); err != nil {
			return err
		} else if n != r.Quantity {
			return fmt.Errorf("record %d has %d instead of %d", r.ID, n, r.Quantity)
		}
	}
	return nil
}

func (k *checker) read(ctx context.Context, r oakra.StockRecord) (int64, error) {
	found, err := k.stock.Lookup(ctx, []oakra.StockKey{{SKU: r.SKU, LocationID: r.LocationID}})
	if err != nil {
		return 0, err
	}
	return found[oakra.StockKey{SKU: r.SKU, LocationID: r.LocationID}].Quantity, nil
}

func (k *checker) change(ctx context.Context) error {
	if _, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.first.ID, QuantityChange: 1}}); err != nil {
		return err
	}
	n, err := k.read(ctx, k.first)
	if err != nil {
		return err
	}
	k.add(true, "change", "its route is found", "")
	k.add(n == k.first.Quantity+1, "read after a write", fmt.Sprintf("%d, want %d", n, k.first.Quantity+1),
		"a read may be stale: set --settle-after of sync to more than the time by which it lags")
	return nil
}

func (k *checker) update(ctx context.Context) error {
	_, err := k.stock.Update(ctx, []oakra.StockUpdate{{ID: k.first.ID, Quantity: k.first.Quantity}})
	if err == nil {
		k.add(true, "update", "its route is found", "")
	}
	return err
}

func (k *checker) unknownID(ctx context.Context) error {
	_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.first.ID, QuantityChange: 1}, {ID: unknownID, QuantityChange: 1}})
	if !oakra.Splittable(err) {
		return errors.Join(errors.New("a request with an unknown id was not rejected as such"), err)
	}
	n, err := k.read(ctx, k.first)
	if err != nil {
		return err
	}
	result := "rejected whole"
	if n != k.first.Quantity {
		result = fmt.Sprintf("the other record of it was changed all the same, from %d to %d", k.first.Quantity, n)
	}
	k.add(n == k.first.Quantity, "a request with an unknown id", result,
		"set BulkOptions.NoSplit, and look at the stock after a rejected request; sync does so by itself")
	return nil
}

// negative holds in both cases, unless a quantity becomes what nobody asked for.
func (k *checker) negative(ctx context.Context) error {
	below := -k.second.Quantity - 1
	_, err := k.stock.Change(ctx, []oakra.StockChange{{ID: k.second.ID, QuantityChange: below}})
	if err != nil && !oakra.Splittable(err) {
		return err
	}
	refused, want := err != nil, int64(-1)
	if refused {
		want = k.second.Quantity
	}
	n, err := k.read(ctx, k.second)
	if err != nil {
		return err
	}
	result := "accepted"
	if refused {
		result = "rejected"
	}
	if n != want {
		result += fmt.Sprintf(", but the quantity is %d instead of %d", n, want)
	}
	k.add(n == want, "a quantity below zero", result, "read the stock before a change that may go below zero")
	return nil
}

func (k *checker) large(ctx context.Context) error {
	_, err := k.stock.Update(ctx, []oakra.StockUpdate{{ID: k.second.ID, Quantity: largeQuantity}})
	rejected := oakra.Splittable(err)
	if err != nil && !rejected {
		return err
	}
	n, readErr := k.read(ctx, k.second)
	if readErr != nil {
		return readErr
	}
	result := fmt.Sprintf("%d is kept", largeQuantity)
	if rejected {
		result = "rejected"
	} else if n != largeQuantity {
		result = fmt.Sprintf("%d becomes %d", largeQuantity, n)
	}
	k.add(rejected || n == largeQuantity, "a large quantity", result, fmt.Sprintf("keep quantities at most %d: sync never finds a larger one right", n))
	return nil
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
