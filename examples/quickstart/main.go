// Command quickstart lists, updates and changes stock, and handles each outcome
// as a shop would.
//
// Without OAKRA_APP_KEY in the environment it runs on a fake server in its own
// process, and shows failures too. With it, it needs the SKU to work on, and
// leaves the stock as it was:
//
//	go run ./examples/quickstart
//	OAKRA_APP_KEY=... go run ./examples/quickstart shirt-blue-m
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Getenv("OAKRA_APP_KEY"), os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, appKey string, skus []string) error {
	if appKey == "" {
		return demo(ctx)
	}
	if len(skus) == 0 {
		return fmt.Errorf("usage: quickstart SKU [SKU]")
	}
	client, err := oakra.NewClient(appKey, oakra.WithUserAgent("quickstart/1.0"))
	if err != nil {
		return err
	}
	return readAndWrite(ctx, client, skus)
}

// demo is the same on a fake server, and then a bad day.
func demo(ctx context.Context) error {
	fmt.Println("OAKRA_APP_KEY is not set: this is a fake server in this process.")
	server := oakratest.NewServer(
		oakra.StockRecord{ID: 122, LocationID: "warehouse-1", SKU: "shirt-blue-m", Quantity: 135},
		oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 142},
	)
	defer server.Close()
	client := server.Client()
	if err := readAndWrite(ctx, client, []string{"shirt-blue-m", "shirt-green-m"}); err != nil {
		return err
	}

	order := []oakra.StockChange{{ID: 122, QuantityChange: -2}, {ID: 123, QuantityChange: -1}}
	for _, day := range []struct {
		name  string
		fault oakratest.Fault
	}{
		{"the connection is refused once", oakratest.Fault{Kind: oakratest.Refuse, Times: 1}},
		{"the server says 429 for a while", oakratest.Fault{Kind: oakratest.Respond, Status: 429, Times: 6,
			Header: http.Header{"Retry-After": {"0"}}, Body: `{"detail":"Request was throttled."}`}},
		{"the order has an unknown id", oakratest.Fault{Kind: oakratest.Respond, Status: 400, Times: 1,
			Body: `{"stock_records":[{},{"id":["Object does not exist."]}]}`}},
		{"the address is one of a web page", oakratest.Fault{Kind: oakratest.Respond, Status: 404, Times: 4,
			Body: "<html><title>Page not found</title></html>"}},
		{"the response is lost after applying", oakratest.Fault{Kind: oakratest.ResetAfter, Times: 1}},
	} {
		fmt.Printf("\nAn order, and %s:\n", day.name)
		server.Inject(day.fault)
		book(ctx, client, order)
	}

	fmt.Println("\nWhat the server has applied in the end:")
	for _, record := range server.Records() {
		fmt.Printf("  %-14s %4d\n", record.SKU, record.Quantity)
	}
	return nil
}

func readAndWrite(ctx context.Context, client *oakra.Client, skus []string) error {
	records, err := client.Stock.List(ctx, oakra.StockListParams{SKUs: skus})
	if err != nil {
		return err
	}
	fmt.Println("\nIn stock:")
	for _, record := range records {
		fmt.Printf("  %-14s %4d  (record %d at %s)\n", record.SKU, record.Quantity, record.ID, record.LocationID)
	}
	if len(records) == 0 {
		return fmt.Errorf("no record: Oakra knows none of the SKUs %q", skus)
	}
	first := records[0]

	fmt.Printf("\nA count found %d of %s; set it:\n", first.Quantity, first.SKU)
	records, err = client.Stock.Update(ctx, []oakra.StockUpdate{{ID: first.ID, Quantity: first.Quantity}})
	if err != nil {
		return err
	}
	fmt.Printf("  it is %d\n", records[0].Quantity)

	fmt.Println("\nTwo are sold, and come back:")
	book(ctx, client, []oakra.StockChange{{ID: first.ID, QuantityChange: -2}})
	book(ctx, client, []oakra.StockChange{{ID: first.ID, QuantityChange: +2}})
	return nil
}

// book changes the stock by the lines of an order, and takes the next step as a shop
// would: done, send again, correct the order, put aside for a person, or an alarm.
func book(ctx context.Context, client *oakra.Client, lines []oakra.StockChange) {
	// If the program is told to stop now, the write under way should still end:
	// cut off, its outcome would be unknown.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()

	for {
		records, err := client.Stock.Change(ctx, lines)
		switch oakra.NextStep(err) {
		case oakra.StepDone: // err, if any, says that only the response was lost
			fmt.Printf("  done: %v\n", quantities(records))
			return
		case oakra.StepRetry:
			if !sleep(ctx, err) {
				fmt.Printf("  not applied, kept for later: %v\n", err)
				return
			}
			fmt.Printf("  not applied, sending it again: %v\n", err)
		case oakra.StepReject:
			fmt.Printf("  rejected, the order needs a correction: %v\n", err)
			return
		case oakra.StepAsk:
			fmt.Printf("  put aside for a person: %v\n", err)
			return
		case oakra.StepAlert: // the app key, the address: no order is to blame
			fmt.Printf("  not applied, the shop's setup needs a correction: %v\n", err)
			return
		}
	}
}

// sleep waits before a call is made again: for as long as the server asked, or a
// little. It reports whether there is time left.
func sleep(ctx context.Context, err error) bool {
	wait := time.Second
	var e *oakra.Error
	if errors.As(err, &e) {
		wait = max(wait, e.RetryAfter)
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

func quantities(records []oakra.StockRecord) []string {
	all := make([]string, 0, len(records))
	for _, record := range records {
		all = append(all, fmt.Sprintf("%s now %d", record.SKU, record.Quantity))
	}
	return all
}
