// Command bykey takes what was sold out of stock, by SKU and location, and deals with ids
// that it remembers and that are out of date. It runs on a fake server in its own
// process:
//
//	go run ./examples/bykey
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const warehouse = "warehouse-1"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server := oakratest.NewServer(
		oakra.StockRecord{ID: 123, LocationID: warehouse, SKU: "shirt-green-m", Quantity: 142},
		oakra.StockRecord{ID: 124, LocationID: warehouse, SKU: "shirt-white-m", Quantity: 10},
		oakra.StockRecord{ID: 222, LocationID: warehouse, SKU: "shirt-blue-m", Quantity: 135},
	)
	defer server.Close()
	key := func(sku string) oakra.StockKey { return oakra.StockKey{SKU: sku, LocationID: warehouse} }

	s := &stock{service: server.Client().Stock, ids: map[oakra.StockKey]int64{ // from yesterday
		key("shirt-green-m"): 123,
		key("shirt-blue-m"):  122, // made anew since then, as 222
		key("shirt-pink-m"):  150, // deleted since then
	}}
	sold := map[oakra.StockKey]int64{
		key("shirt-green-m"): -1,
		key("shirt-blue-m"):  -2,
		key("shirt-pink-m"):  -3,
		key("shirt-white-m"): -4, // not looked up yet
	}
	failed, err := s.changeAll(ctx, sold, oakra.BulkOptions{Stop: ctx.Done()})
	if err != nil {
		return err
	}
	for key, err := range failed {
		switch oakra.NextStep(err) {
		case oakra.StepRetry:
			fmt.Fprintln(out, key.SKU, "was not applied, try it later:", err)
		case oakra.StepReject:
			fmt.Fprintln(out, key.SKU, "was rejected:", err)
		case oakra.StepAsk:
			fmt.Fprintln(out, key.SKU, "may have been applied, look at the stock:", err)
		default:
			fmt.Fprintln(out, key.SKU, "was not applied, the setup is at fault:", err)
		}
	}
	for _, record := range server.Records() {
		fmt.Fprintf(out, "%-14s %4d  (record %d)\n", record.SKU, record.Quantity, record.ID)
	}
	return nil
}
