package oakratest_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// Sell takes a sale out of stock.
func Sell(ctx context.Context, client *oakra.Client, id, units int64) error {
	_, err := client.Stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -units}})
	return err
}

// A sale whose response is lost counts once, and the shop learns that its outcome is unknown.
func Example() {
	server := oakratest.NewServer(oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150})
	defer server.Close()
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Times: 1})

	err := Sell(context.Background(), server.Client(), 123, 2)

	fmt.Println("outcome:", oakra.OutcomeOf(err))
	fmt.Println("in stock:", server.Quantity(123))
	for _, r := range server.Requests() {
		fmt.Println(r.Op, r.Status, r.Applied, r.Fault)
	}
	// Output:
	// outcome: unknown
	// in stock: 148
	// stock.change 0 [{123 150 148}] reset after
}

var shirt = oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 150}

// The service asks to wait for 20 s, and is slow besides. The test takes no time.
func TestSellRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, shirt)
		server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 429, Header: http.Header{"Retry-After": {"20"}}, Times: 1})
		server.Inject(oakratest.Fault{Kind: oakratest.Slow, Delay: 5 * time.Second})

		start := time.Now()
		if err := Sell(t.Context(), server.Client(), 123, 2); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took < 25*time.Second {
			t.Errorf("sent again after %v", took)
		}
		if got := server.Quantity(123); got != 148 {
			t.Errorf("%d left of 150 after selling 2", got)
		}
	})
}

// The sale is applied 30 s after its connection was lost.
func TestSellAppliedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, shirt)
		server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ApplyLate, Delay: 30 * time.Second, Times: 1})

		_ = Sell(t.Context(), server.Client(), 123, 2)
		if got := server.Quantity(123); got != 150 {
			t.Errorf("%d in stock before the sale is applied", got)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := server.Quantity(123); got != 148 {
			t.Errorf("%d in stock after the sale was applied", got)
		}
	})
}

// Another seller corrects the record while a sale is in flight. The sale counts too.
func TestSellWhileCorrected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, shirt)
		server.Inject(oakratest.Fault{Op: "stock.change", Delay: 5 * time.Second})
		sold := make(chan error)
		go func() { sold <- Sell(t.Context(), server.Client(), 123, 2) }()

		if err := server.Wait(t.Context(), "stock.change"); err != nil {
			t.Fatal(err)
		}
		server.SetRecords(oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 100})
		if err := <-sold; err != nil {
			t.Error(err)
		}
		if got := server.Quantity(123); got != 98 {
			t.Errorf("%d left of 100 after selling 2", got)
		}
	})
}
