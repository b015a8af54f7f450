package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// orderCost is what a shop's transaction takes with an outbox in it.
type orderCost struct {
	Name     string  `json:"name"`
	Millis   float64 `json:"ms"`        // the median
	ToAlone  spread  `json:"to_alone"`  // ratio to the order alone, in the same round
	ToInsert spread  `json:"to_insert"` // to the order with a plain second INSERT
}

const (
	orderAlone  = "an order alone"
	orderInsert = "with a plain second INSERT"
)

// orderTables are those of a shop: an order line refers to its order, and is found by it.
var orderTables = map[string][]string{
	onSQLite: {
		"CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL, cents bigint NOT NULL)",
		"CREATE TABLE order_lines (id integer PRIMARY KEY, order_id text NOT NULL REFERENCES orders, sku text NOT NULL, location_id text NOT NULL, quantity bigint NOT NULL)",
		"CREATE INDEX order_lines_order ON order_lines (order_id)",
	},
	onPostgres: {
		"CREATE TABLE orders (id text PRIMARY KEY, customer text NOT NULL, cents bigint NOT NULL)",
		"CREATE TABLE order_lines (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id text NOT NULL REFERENCES orders, sku text NOT NULL, location_id text NOT NULL, quantity bigint NOT NULL)",
		"CREATE INDEX order_lines_order ON order_lines (order_id)",
	},
}

// measureOrders measures the transaction of an order: alone, with a second row in a
// plain table, and with a change in each outbox.
func (p plan) measureOrders(ctx context.Context, h *host) ([]orderCost, error) {
	d, err := h.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer d.close()
	w, err := newWarehouse(1000, "")
	if err != nil {
		return nil, err
	}
	defer w.Close()
	all, err := contenders(ctx, d, w, outbox.Options{})
	if err != nil {
		return nil, err
	}
	for _, statement := range orderTables[h.name] {
		if _, err := d.ExecContext(ctx, statement); err != nil {
			return nil, err
		}
	}
	kinds := []contender{
		{name: orderAlone, addTx: func(context.Context, *sql.Tx, ...outbox.Change) error { return nil }},
		{name: orderInsert, addTx: func(ctx context.Context, tx *sql.Tx, changes ...outbox.Change) error {
			c := changes[0]
			_, err := tx.ExecContext(ctx, "INSERT INTO order_lines (order_id, sku, location_id, quantity) VALUES ($1, $2, $3, $4)", c.ID, c.SKU, c.LocationID, c.QuantityChange)
			return err
		}},
	}
	kinds = append(kinds, all...)
	orders := 0
	took := make([]timing, len(kinds))
	err = rounds(p.orderRounds, len(kinds), func(i int) (time.Duration, error) {
		orders++
		began := time.Now()
		if err := order(ctx, d, kinds[i], sale(orders, 1000)); err != nil {
			return 0, fmt.Errorf("%s: %w", kinds[i].name, err)
		}
		return time.Since(began), nil
	}, took)
	if err != nil {
		return nil, err
	}
	var costs []orderCost
	for i, k := range kinds {
		costs = append(costs, orderCost{k.name, rounded(1000 * spreadOf(took[i]).P50),
			spreadOf(took[i].over(took[0])), spreadOf(took[i].over(took[1]))})
	}
	return costs, nil
}

func order(ctx context.Context, d *database, k contender, c outbox.Change) error {
	tx, err := d.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id, customer, cents) VALUES ($1, $2, $3)", c.ID, "Ada Lovelace", 1999); err != nil {
		return err
	}
	if err := k.addTx(ctx, tx, c); err != nil {
		return err
	}
	return tx.Commit()
}
