package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

type serveCommand struct {
	Addr string `default:"127.0.0.1:8480" help:"Address to listen at (default ${default})."`
	Key  string `default:"stockctl-demo-key" help:"App key that the fake server accepts (default ${default}); make one up."`
}

const curls = `Try it:

  # list
  curl '%[1]sstock/stock-records/?location_id=warehouse-1&sku=shirt-blue-m&sku=shirt-green-m' \
    -H 'Authorization: Bearer %[2]s' -H 'X-OAKRA-API-VERSION: v1'

  # update: set the quantity
  curl -X POST '%[1]sstock/stock-records/update/' \
    -H 'Authorization: Bearer %[2]s' -H 'X-OAKRA-API-VERSION: v1' \
    -H 'Content-Type: application/json' \
    -d '{"stock_records": [{"id": 123, "quantity": 150}]}'

  # change: add to the quantity, or deduct from it
  curl -X POST '%[1]sstock/stock-records/change/' \
    -H 'Authorization: Bearer %[2]s' -H 'X-OAKRA-API-VERSION: v1' \
    -H 'Content-Type: application/json' \
    -d '{"stock_records": [{"id": 123, "quantity_change": 20}]}'

  # cancel a sale
  curl -X POST '%[1]ssales/cancel/' \
    -H 'Authorization: Bearer %[2]s' -H 'X-OAKRA-API-VERSION: v1' \
    -H 'Content-Type: application/json' \
    -d '{"sale_id": "100001235", "cancel_reason": "out_of_stock"}'

  # ship sales
  curl -X POST '%[1]sfulfillment/shipping/init/' \
    -H 'Authorization: Bearer %[2]s' -H 'X-OAKRA-API-VERSION: v1' \
    -H 'Content-Type: application/json' \
    -d '{"sale_ids": ["100001234"]}'

Ctrl-C ends it. Requests:

`

func (c *serveCommand) Run(ctx context.Context, a *app) error {
	if _, err := oakra.NewClient(c.Key); err != nil || strings.Contains(c.Key, "'") {
		return plain("--key: 1 to 512 visible ASCII characters are needed, none of them a '")
	}
	server, err := oakratest.NewServerAt(c.Addr, catalogue()...)
	if err != nil {
		return plain("%v; choose another with --addr", err)
	}
	defer server.Close()
	server.Key = c.Key
	addSales(server)
	if a.flags.JSON {
		if err := a.writeJSON(map[string]string{"url": server.URL, "key": c.Key}); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.stdout, "A fake Oakra server is at %s, with the app key %s\n\n", server.URL, c.Key)
		fmt.Fprintf(a.stdout, curls, server.URL, c.Key)
	}

	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	printed := 0
	for ctx.Err() == nil {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		for _, r := range server.Requests()[printed:] {
			if r.Status == 0 { // no response yet
				break
			}
			if err := a.printRequest(r); err != nil {
				return err
			}
			printed++
		}
	}
	return nil
}

// printRequest writes one line.
func (a *app) printRequest(r oakratest.Request) error {
	target := r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	if a.flags.JSON {
		return a.writeJSON(map[string]any{"method": r.Method, "target": target, "status": r.Status, "applied": r.Applied, "applied_sales": r.AppliedSales})
	}
	var effects []string
	for _, c := range r.Applied {
		effects = append(effects, fmt.Sprintf("%d: %d to %d", c.ID, c.From, c.To))
	}
	for _, s := range r.AppliedSales {
		effects = append(effects, fmt.Sprintf("%s: %s to %s", s.SaleID, s.From, s.To))
	}
	line := fmt.Sprintf("%s  %d  %-5s %s  %s", time.Now().Format(time.TimeOnly), r.Status, r.Method, target, strings.Join(effects, ", "))
	_, err := fmt.Fprintln(a.stdout, printable(strings.TrimSpace(line)))
	return err
}
