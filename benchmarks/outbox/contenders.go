package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

const (
	nameOutbox = "this outbox"
	nameRiver  = "River"
	nameByHand = "by hand"
)

// contender records changes in the shop's database, and applies them to Oakra.
type contender struct {
	name  string
	addTx func(ctx context.Context, tx *sql.Tx, changes ...outbox.Change) error // in the caller's transaction
	add   func(ctx context.Context, changes ...outbox.Change) error             // in one of its own
	drain func(ctx context.Context) error                                       // until nothing is left to send
}

// maker makes a contender, and its tables.
type maker func(ctx context.Context, d *database, w *warehouse, o outbox.Options) (contender, error)

// workers is how many requests the contenders that send one request a change send at
// once. At 20 ms a request they can send 5,000 a second, which is more than their
// databases manage here.
const workers = 100

// stormOptions are short, so that the storm is.
var stormOptions = outbox.Options{
	BatchSize:      3, // the witnesses and one record: as many requests as the others send
	RequestTimeout: time.Second,
	Grace:          200 * time.Millisecond,
	Poll:           20 * time.Millisecond,
}

// contenders makes all three on one database, whose tables it creates.
func contenders(ctx context.Context, d *database, w *warehouse, o outbox.Options) ([]contender, error) {
	var all []contender
	for _, start := range []maker{newOutbox, newRiver, newByHand} {
		c, err := start(ctx, d, w, o)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func newOutbox(ctx context.Context, d *database, w *warehouse, o outbox.Options) (contender, error) {
	o.Witnesses = witnesses("")
	box, err := outbox.New(ctx, d.DB, w.client.Stock, o)
	if err != nil {
		return contender{}, err
	}
	return contender{name: nameOutbox, addTx: box.AddTx, add: box.Add, drain: func(ctx context.Context) error {
		return settle(ctx, box)
	}}, nil
}

// settle drains an outbox. What may still land when the last change is settled, as in a
// storm, is waited for, and taken back if it does.
func settle(ctx context.Context, box *outbox.Outbox) error {
	for {
		if err := box.Drain(ctx); err != nil {
			return err
		}
		status, err := box.Status(ctx)
		if err != nil || status.OpenAttempts == 0 {
			return err
		}
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- box.Run(running) }()
		for err == nil && status.OpenAttempts > 0 {
			time.Sleep(10 * time.Millisecond)
			status, err = box.Status(ctx)
		}
		stop()
		if ended := <-ended; err == nil {
			err = ended
		}
		if err != nil {
			return err
		}
	}
}

// warehouse is a fake Oakra with a client of it.
type warehouse struct {
	*oakratest.Server
	client *oakra.Client
	ids    map[oakra.StockKey]int64
}

const (
	firstItem = 1_000_000 // the ID of the first item's record
	itemStart = 1_000_000 // its quantity
)

func itemKey(i int) oakra.StockKey {
	return oakra.StockKey{SKU: fmt.Sprintf("shirt-%d", i), LocationID: "warehouse-1"}
}

// witnesses are those of an account.
func witnesses(account string) [2]oakra.StockKey {
	return [2]oakra.StockKey{
		{SKU: "outbox-head" + account, LocationID: "warehouse-1"},
		{SKU: "outbox-tail" + account, LocationID: "warehouse-1"},
	}
}

// newWarehouse starts a server with so many items, and the witnesses of accounts.
func newWarehouse(items int, accounts ...string) (*warehouse, error) {
	w := &warehouse{ids: make(map[oakra.StockKey]int64)}
	var records []oakra.StockRecord
	for i, account := range accounts {
		for j, key := range witnesses(account) {
			records = append(records, oakra.StockRecord{ID: int64(1 + 2*i + j), SKU: key.SKU, LocationID: key.LocationID, Quantity: 200_000})
		}
	}
	for i := range items {
		key := itemKey(i)
		w.ids[key] = firstItem + int64(i)
		records = append(records, oakra.StockRecord{ID: w.ids[key], SKU: key.SKU, LocationID: key.LocationID, Quantity: itemStart})
	}
	w.Server = oakratest.NewServer(records...)
	var err error
	w.client, err = oakra.NewClient(w.Key, oakra.WithBaseURL(w.URL),
		oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}))
	if err != nil {
		w.Close()
	}
	return w, err
}

// send applies one change, as a worker of a queue does. The IDs of the records are known
// to it. What is proved to be applied is done; anything else is tried again, since
// a queue has no way to find out.
func (w *warehouse) send(ctx context.Context, c outbox.Change) error {
	id := w.ids[oakra.StockKey{SKU: c.SKU, LocationID: c.LocationID}]
	_, err := w.client.Stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: c.QuantityChange}})
	if err != nil && oakra.OutcomeOf(err) == oakra.OutcomeApplied {
		return nil
	}
	return err
}

// writes is how many requests changed stock, or might have.
func (w *warehouse) writes() (n int) {
	for _, r := range w.Requests() {
		if r.Op == "stock.change" {
			n++
		}
	}
	return n
}

// sale returns the n-th sale, of one of so many items.
func sale(n, items int) outbox.Change {
	key := itemKey(n % items)
	return outbox.Change{ID: fmt.Sprintf("order-%d/1", n), SKU: key.SKU, LocationID: key.LocationID, QuantityChange: -1}
}

func sales(from, count, items int) []outbox.Change {
	all := make([]outbox.Change, count)
	for i := range all {
		all[i] = sale(from+i, items)
	}
	return all
}
