package oakra_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// shop is the fake server of the examples.
func shop() *oakratest.Server {
	server := oakratest.NewServer(
		oakra.StockRecord{ID: 122, LocationID: "warehouse-1", SKU: "shirt-blue-m", Quantity: 135},
		oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 142},
		oakra.StockRecord{ID: 124, LocationID: "warehouse-2", SKU: "shirt-green-m", Quantity: 7},
	)
	server.SetDialect(oakratest.Dialect{Newest: true})
	server.SetSales(
		oakratest.Sale{ID: 30420, SaleID: "100001234"},
		oakratest.Sale{ID: 30421, SaleID: "100001235"},
	)
	return server
}

func ExampleNewClient() {
	client, err := oakra.NewClient(os.Getenv("OAKRA_APP_KEY"),
		oakra.WithUserAgent("my-shop/2.1"),
		oakra.WithAttemptTimeout(10*time.Second),
		oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 6}),
		oakra.WithLogger(slog.Default()),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.CloseIdleConnections()
	// Output: oakra: client.new: invalid request: the app key is empty
}

// The transport of the library, wrapped: here to count requests, in a program to
// trace them.
func ExampleDefaultTransport() {
	server := shop()
	defer server.Close()

	counted := &countingTransport{next: oakra.DefaultTransport()}
	client, err := oakra.NewClient(server.Key,
		oakra.WithBaseURL(server.URL),
		oakra.WithHTTPClient(&http.Client{Transport: counted}))
	if err != nil {
		log.Fatal(err)
	}
	defer counted.next.CloseIdleConnections()
	_, err = client.Stock.List(context.Background(), oakra.StockListParams{SKUs: []string{"shirt-blue-m"}})
	fmt.Println(counted.n, err)
	// Output: 1 <nil>
}

type countingTransport struct {
	next *http.Transport
	n    int
}

func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.n++
	return t.next.RoundTrip(r)
}

func ExampleStockService_List() {
	server := shop()
	defer server.Close()
	client := server.Client()

	records, err := client.Stock.List(context.Background(), oakra.StockListParams{
		SKUs:       []string{"shirt-blue-m", "shirt-green-m"},
		LocationID: "warehouse-1",
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range records {
		fmt.Println(r.ID, r.SKU, r.Quantity)
	}
	// Output:
	// 122 shirt-blue-m 135
	// 123 shirt-green-m 142
}

func ExampleStockService_Update() {
	server := shop()
	defer server.Close()
	client := server.Client()

	records, err := client.Stock.Update(context.Background(), []oakra.StockUpdate{{ID: 123, Quantity: 150}})
	fmt.Println(records, err)
	// Output: [{123 warehouse-1 shirt-green-m 150}] <nil>
}

// A shop handles three outcomes. Here the server applies the change, and then
// the connection breaks before the response.
func ExampleStockService_Change() {
	server := shop()
	defer server.Close()
	client := server.Client()
	server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Op: "stock.change", Times: 1})

	_, err := client.Stock.Change(context.Background(), []oakra.StockChange{{ID: 123, QuantityChange: -2}})
	switch oakra.OutcomeOf(err) {
	case oakra.OutcomeApplied:
		fmt.Println("done")
	case oakra.OutcomeNotApplied:
		fmt.Println("nothing changed; the same call may succeed later:", oakra.Retryable(err))
	case oakra.OutcomeUnknown:
		fmt.Println("put aside: it may have been applied")
	}
	// Output: put aside: it may have been applied
}

func ExampleStockService_ListSeq() {
	server := shop()
	defer server.Close()
	client := server.Client()

	var total int64
	for record, err := range client.Stock.ListSeq(context.Background(), oakra.StockListParams{SKUs: []string{"shirt-green-m"}}) {
		if err != nil {
			log.Fatal(err)
		}
		total += record.Quantity
	}
	fmt.Println(total)
	// Output: 149
}

// Writes need ids; a shop knows SKUs and places.
func ExampleStockService_Lookup() {
	server := shop()
	defer server.Close()
	client := server.Client()

	green := oakra.StockKey{SKU: "shirt-green-m", LocationID: "warehouse-2"}
	pink := oakra.StockKey{SKU: "shirt-pink-m", LocationID: "warehouse-2"}
	records, err := client.Stock.Lookup(context.Background(), []oakra.StockKey{green, pink})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("green:", records[green].ID)
	_, known := records[pink]
	fmt.Println("pink is known:", known)
	// Output:
	// green: 124
	// pink is known: false
}

func ExampleStockService_UpdateAll() {
	server := shop()
	defer server.Close()
	client := server.Client()

	err := client.Stock.UpdateAll(context.Background(), []oakra.StockUpdate{
		{ID: 122, Quantity: 100},
		{ID: 999, Quantity: 5}, // Oakra does not know it
		{ID: 124, Quantity: 0},
	}, oakra.BulkOptions{})
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		fmt.Println("applied:", bulk.Applied, "not applied:", bulk.NotApplied(), "unknown:", bulk.Unknown())
	}
	// Output: applied: 2 not applied: [1] unknown: []
}

func ExampleStockService_ChangeAll() {
	server := shop()
	defer server.Close()
	client := server.Client()

	err := client.Stock.ChangeAll(context.Background(), []oakra.StockChange{
		{ID: 122, QuantityChange: -1},
		{ID: 124, QuantityChange: +20},
		{ID: 122, QuantityChange: -3}, // summed with the first: one record, one outcome
	}, oakra.BulkOptions{})
	fmt.Println(err, server.Records()[0].Quantity)
	// Output: <nil> 131
}

// The program is told to stop after the first of three requests. That one is counted,
// and the others were not sent.
func ExampleBulkOptions_stop() {
	server := shop()
	defer server.Close()
	client := server.Client()
	ctx, stop := context.WithCancel(context.Background()) // a program has signal.NotifyContext
	defer stop()

	err := client.Stock.ChangeAll(context.WithoutCancel(ctx), []oakra.StockChange{
		{ID: 122, QuantityChange: -1},
		{ID: 123, QuantityChange: -1},
		{ID: 124, QuantityChange: -1},
	}, oakra.BulkOptions{
		Stop:        ctx.Done(),
		BatchSize:   1,
		Concurrency: 1,
		OnRecords:   func([]oakra.StockRecord) { stop() },
	})
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		fmt.Println("applied:", bulk.Applied, "not applied:", bulk.NotApplied(), "unknown:", bulk.Unknown())
		fmt.Println(errors.Is(err, oakra.ErrStopped), oakra.NextStep(bulk.Failures[0].Err) == oakra.StepRetry)
	}
	// Output:
	// applied: 1 not applied: [1 2] unknown: []
	// true true
}

// Each rejected item has the words of the server, with the index in the caller's slice.
func ExampleBulkFailure_messages() {
	server := shop()
	defer server.Close()
	client := server.Client()

	changes := []oakra.StockChange{
		{ID: 122, QuantityChange: -1},
		{ID: 999, QuantityChange: -1}, // Oakra does not know it
		{ID: 124, QuantityChange: -1},
	}
	err := client.Stock.ChangeAll(context.Background(), changes, oakra.BulkOptions{})
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		for _, f := range bulk.Failures {
			fmt.Println(changes[f.Index].ID, oakra.NextStep(f.Err) == oakra.StepReject, f.Messages)
		}
	}
	// Output: 999 true [id: Invalid pk "999" - object does not exist.]
}

func ExampleSalesService_Cancel() {
	server := shop()
	defer server.Close()
	client := server.Client()

	sale, err := client.Sales.Cancel(context.Background(), oakra.SaleCancelParams{
		SaleID: "100001235",
		Reason: oakra.CancelOutOfStock,
	})
	fmt.Println(sale.SaleID, sale.Status, err)
	// Output: 100001235 canceled <nil>
}

func ExampleShippingService_Initiate() {
	server := shop()
	defer server.Close()
	client := server.Client()

	fulfillments, err := client.Shipping.Initiate(context.Background(), []string{"100001234", "100001235"})
	if err != nil {
		log.Fatal(err) // see NextStep: it is not always safe to call again
	}
	for _, f := range fulfillments {
		fmt.Println(f.Sale.SaleID, f.Sale.Status, f.ShippingProvider.Name, f.TrackingNumber)
	}
	// Output:
	// 100001234 in_fulfillment Flash Express TH0000000001
	// 100001235 in_fulfillment Flash Express TH0000000002
}

// The path of the base URL was forgotten, and the host responds with a page. That is
// no reason to give up the order.
func ExampleNextStep() {
	server := shop()
	defer server.Close()
	client := server.Client(oakra.WithBaseURL(strings.TrimSuffix(server.URL, "api/v1/")))

	_, err := client.Stock.Change(context.Background(), []oakra.StockChange{{ID: 123, QuantityChange: -2}})
	switch oakra.NextStep(err) {
	case oakra.StepDone:
		fmt.Println("ship the order")
	case oakra.StepRetry:
		fmt.Println("try the order again later")
	case oakra.StepReject:
		fmt.Println("correct the order")
	case oakra.StepAsk:
		fmt.Println("let a person look at the stock")
	case oakra.StepAlert:
		fmt.Println("keep the order, stop, and call the operator")
	}
	// Output: keep the order, stop, and call the operator
}

// An operator watches how many outcomes are unknown.
func ExampleObserver() {
	server := shop()
	defer server.Close()
	server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Op: "stock.change", Times: 1})

	var calls, unknown atomic.Int64
	client := server.Client(oakra.WithObserver(oakra.Observer{
		CallEnd: func(_ context.Context, c oakra.CallEnd) {
			calls.Add(1)
			if c.Outcome == oakra.OutcomeUnknown {
				unknown.Add(1)
			}
		},
	}))
	for range 3 {
		_, _ = client.Stock.Change(context.Background(), []oakra.StockChange{{ID: 123, QuantityChange: -2}})
	}
	fmt.Println(unknown.Load(), "of", calls.Load(), "outcomes are unknown")
	// Output: 1 of 3 outcomes are unknown
}

func ExampleError() {
	server := shop()
	defer server.Close()
	client := server.Client()

	_, err := client.Stock.Change(context.Background(), []oakra.StockChange{{ID: 999, QuantityChange: 1}})
	var e *oakra.Error
	if errors.As(err, &e) {
		fmt.Println(errors.Is(err, oakra.ErrInvalidRequest), e.StatusCode, e.Outcome, e.Attempts)
	}
	// Output: true 400 not applied 1
}

// The order line that the server rejects is named by its index.
func ExampleError_Items() {
	server := shop()
	defer server.Close()
	client := server.Client()

	lines := []oakra.StockChange{{ID: 122, QuantityChange: -1}, {ID: 999, QuantityChange: -1}}
	_, err := client.Stock.Change(context.Background(), lines)
	var e *oakra.Error
	if errors.As(err, &e) {
		for i, messages := range e.Items() {
			fmt.Println(lines[i].ID, messages)
		}
	}
	// Output: 999 [id: Invalid pk "999" - object does not exist.]
}

// stockChanger is what an order handler needs from the client: an interface of the
// consumer, with the methods that it uses.
type stockChanger interface {
	Change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error)
}

var _ stockChanger = (*oakra.StockService)(nil)

// throttled is a stub for a shop's own tests.
type throttled struct{}

func (throttled) Change(context.Context, []oakra.StockChange) ([]oakra.StockRecord, error) {
	return nil, &oakra.Error{Op: "stock.change", StatusCode: 429, Outcome: oakra.OutcomeNotApplied}
}

// A consumer declares the methods that it uses, and its test hands in a type of
// its own, or the fake server's client.
func Example_consumerInterface() {
	sell := func(ctx context.Context, stock stockChanger, id int64) error {
		_, err := stock.Change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -1}})
		return err
	}
	err := sell(context.Background(), throttled{}, 122)
	fmt.Println(errors.Is(err, oakra.ErrRateLimited), oakra.Retryable(err))

	server := shop()
	defer server.Close()
	client := server.Client()
	fmt.Println(sell(context.Background(), client.Stock, 122), server.Records()[0].Quantity)
	// Output:
	// true true
	// <nil> 134
}
