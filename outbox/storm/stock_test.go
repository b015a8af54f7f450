package storm_test

import (
	"context"
	"sync"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// wrapped is a Stock whose calls a test may change.
type wrapped struct {
	outbox.Stock
	mu     sync.Mutex
	change func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) // nil: as the server does
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
