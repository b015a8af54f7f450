package outbox_test

import (
	"context"
	"database/sql"
	"log"
	"os"
	"os/signal"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// A service dispatches in the background for as long as it runs. The driver, here
// modernc.org/sqlite, is imported by the program.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	client, err := oakra.NewClient(os.Getenv("OAKRA_APP_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:shop.db?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		log.Fatal(err)
	}
	box, err := outbox.New(ctx, db, client.Stock, outbox.Options{
		Witnesses: [2]oakra.StockKey{
			{SKU: "outbox-head", LocationID: "warehouse-1"},
			{SKU: "outbox-tail", LocationID: "warehouse-1"},
		},
		OnHalt: func(reason string) { log.Print("the outbox needs a person: ", reason) },
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := box.Run(ctx); err != nil { // runs until Ctrl-C; a service starts it in a goroutine
		log.Fatal(err)
	}
}

// The order and its stock changes are recorded together, or not at all.
func ExampleOutbox_AddTx() {
	placeOrder := func(ctx context.Context, db *sql.DB, box *outbox.Outbox, order string) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (id) VALUES ($1)", order); err != nil {
			return err
		}
		err = box.AddTx(ctx, tx,
			outbox.Change{ID: order + "/1", SKU: "shirt-blue-m", LocationID: "warehouse-1", QuantityChange: -1},
			outbox.Change{ID: order + "/2", SKU: "socks-wool-3pack", LocationID: "warehouse-1", QuantityChange: -2},
		)
		if err != nil {
			return err
		}
		return tx.Commit()
	}
	_ = placeOrder
}
