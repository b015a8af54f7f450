package storm_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// wrapped is a Stock whose calls a test can replace.
type wrapped struct {
	outbox.Stock
	mu     sync.Mutex
	change func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) // replacement of Change; nil for the server's
	lookup func(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error)
	calls  int
}

func (w *wrapped) set(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
}

func (w *wrapped) Change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	w.mu.Lock()
	change := w.change
	w.calls++
	w.mu.Unlock()
	if change == nil {
		change = w.Stock.Change
	}
	return change(ctx, changes)
}

func (w *wrapped) Lookup(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
	w.mu.Lock()
	lookup := w.lookup
	w.mu.Unlock()
	if lookup == nil {
		lookup = w.Stock.Lookup
	}
	return lookup(ctx, keys)
}

// errLost is an unknown outcome.
var errLost = &oakra.Error{Op: "stock.change", Outcome: oakra.OutcomeUnknown, Err: context.DeadlineExceeded}

// newWrapped is like newShop, with a Stock whose calls the test can replace.
func newWrapped(t testing.TB, d database, items int, o outbox.Options) (*shop, *wrapped) {
	s := newShop(t, d, items, o)
	w := &wrapped{Stock: quickClient(s.server).Stock}
	var err error
	s.Outbox, err = outbox.New(t.Context(), s.db, w, o)
	require.NoError(t, err)
	return s, w
}

// late makes the first Change land only after the second one. It then calls the function
// then, if that is not nil, with w.mu held.
func (w *wrapped) late(then func()) {
	var first []oakra.StockChange
	w.change = func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if first == nil {
			first = changes
			return nil, errLost
		}
		records, err := w.Stock.Change(ctx, changes)
		if _, late := w.Stock.Change(ctx, first); late == nil {
			w.change = nil
			if then != nil {
				then()
			}
		}
		return records, err
	}
}

// rejecting returns a Change that rejects every request with the given record, and names
// the record.
func rejecting(stock outbox.Stock, id int64, text string) func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	return func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
		for i, c := range changes {
			if c.ID == id {
				return nil, &oakra.Error{Op: "stock.change", StatusCode: 400, Outcome: oakra.OutcomeNotApplied,
					Fields: map[string][]string{fmt.Sprintf("stock_records[%d].quantity_change", i): {text}}}
			}
		}
		return stock.Change(ctx, changes)
	}
}

// rejection is a 400 that names no item.
func rejection(text string) error {
	return &oakra.Error{Op: "stock.change", StatusCode: 400, Outcome: oakra.OutcomeNotApplied, Message: text}
}
