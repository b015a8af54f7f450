package stocksync_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

func Example() {
	// The server's first response to a change is lost on the way.
	server := oakratest.NewServer(
		oakra.StockRecord{SKU: "shirt-blue-m", LocationID: "warehouse-1", Quantity: 135},
		oakra.StockRecord{SKU: "shirt-green-m", LocationID: "warehouse-1", Quantity: 142},
	)
	defer server.Close()
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})
	client := server.Client()

	targets, err := stocksync.ReadCSV(strings.NewReader(`sku;location_id;quantity
shirt-blue-m;warehouse-1;1200
shirt-green-m;warehouse-1;142
shirt-red-m;warehouse-1;7
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	report, err := stocksync.Sync(context.Background(), client.Stock, targets, stocksync.Options{
		MaxSteps:    100,
		SettleAfter: 10 * time.Millisecond, // one minute by default
	})
	for _, r := range report.Results {
		fmt.Printf("%s: %v\n", r.SKU, r.Status)
	}
	fmt.Println("error:", err)
	fmt.Println("Oakra has", server.Records()[0].Quantity)
	// Output:
	// shirt-blue-m: synced
	// shirt-green-m: synced
	// shirt-red-m: not found
	// error: <nil>
	// Oakra has 1200
}

func ExampleCompare() {
	server := oakratest.NewServer(oakra.StockRecord{ID: 123, SKU: "shirt-green-m", LocationID: "warehouse-1", Quantity: 142})
	defer server.Close()

	plan, err := stocksync.Compare(context.Background(), server.Client().Stock,
		[]stocksync.Target{{SKU: "shirt-green-m", LocationID: "warehouse-1", Quantity: 150}}, stocksync.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range plan.Steps {
		fmt.Printf("%s at %s, record %d: %d, would be %d\n", step.Key.SKU, step.Key.LocationID, step.ID, step.From, step.To)
	}
	// A person agrees; then:
	_, err = plan.Apply(context.Background())
	fmt.Println(err)
	// Output:
	// shirt-green-m at warehouse-1, record 123: 142, would be 150
	// <nil>
}
