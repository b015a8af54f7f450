package oakratest_test

import (
	"context"
	"fmt"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// Sell takes a sale out of stock.
func Sell(ctx context.Context, client *oakra.Client, id, units int64) error {
	_, err := client.Stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -units}})
	return err
}

// A sale whose response is lost counts once, and the shop is told that its outcome is unknown.
func Example() {
	server := oakratest.NewServer(oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
	defer server.Close()
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})

	err := Sell(context.Background(), server.Client(), 123, 2)

	fmt.Println("outcome:", oakra.OutcomeOf(err))
	fmt.Println("in stock:", server.Records()[0].Quantity)
	for _, r := range server.Requests() {
		fmt.Println(r.Op, r.Status, r.Applied, r.Fault)
	}
	// Output:
	// outcome: unknown
	// in stock: 148
	// stock.change 0 [{123 150 148}] reset after
}
