package main

import (
	"context"
	"strings"

	"github.com/oakra/oakra-go"
)

type listCommand struct {
	SKUs     []string `arg:"" name:"sku" help:"SKUs to show."`
	Location string   `placeholder:"CODE" help:"Show this location only, such as warehouse-1."`
}

func (c *listCommand) Run(ctx context.Context, a *app) error {
	if err := a.connect(); err != nil {
		return err
	}
	records, err := a.client.Stock.List(ctx, oakra.StockListParams{SKUs: c.SKUs, LocationID: c.Location})
	if err != nil {
		f := explain(err)
		f.subject = "" // listing changes nothing
		return f
	}
	if err := a.printRecords(records); err != nil {
		return err
	}
	found := make(map[string]bool, len(records))
	for _, r := range records {
		found[r.SKU] = true
	}
	var absent []string
	for _, sku := range c.SKUs {
		if !found[sku] {
			absent = append(absent, sku)
		}
	}
	if len(absent) > 0 {
		return &failure{code: exitAbsent, message: "no stock record: " + strings.Join(absent, ", ")}
	}
	return nil
}
