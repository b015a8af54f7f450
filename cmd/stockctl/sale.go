package main

import (
	"context"
	"errors"
	"slices"

	"github.com/oakra/oakra-go"
)

type saleCommand struct {
	Cancel cancelCommand `cmd:"" help:"Cancel a sale, in Oakra and in the marketplace that it comes from."`
}

type cancelCommand struct {
	SaleID string             `arg:"" name:"sale-id" help:"ID of the sale in its channel, such as a marketplace's order ID."`
	Reason oakra.CancelReason `required:"" enum:"out_of_stock,customer_request,other" placeholder:"REASON" help:"Why: out_of_stock, customer_request or other."`
}

type shipCommand struct {
	SaleIDs []string `arg:"" name:"sale-id" help:"IDs of the sales in their channel, which must be pending."`
}

func (c *cancelCommand) Run(ctx context.Context, a *app) error {
	if err := a.connect(); err != nil {
		return err
	}
	ctx, cancel := a.writingOne(ctx)
	defer cancel()
	sale, err := a.client.Sales.Cancel(ctx, oakra.SaleCancelParams{SaleID: c.SaleID, Reason: c.Reason})
	if err != nil {
		return err
	}
	a.note("whether its units are back in stock is not documented: look with stockctl list SKU")
	t := table{header: []string{"ID", "SALE", "STATUS"}}
	t.add(number(sale.ID), sale.SaleID, sale.Status)
	return a.printSales(t, sale)
}

func (c *shipCommand) Run(ctx context.Context, a *app) error {
	if err := a.connect(); err != nil {
		return err
	}
	ctx, cancel := a.writingOne(ctx)
	defer cancel()
	fulfillments, err := a.client.Shipping.Initiate(ctx, c.SaleIDs)
	var e *oakra.Error
	switch {
	case errors.As(err, &e) && e.Attempts > 0:
		return requestFailure(c.SaleIDs, slices.Repeat([]oakra.Outcome{e.Outcome}, len(c.SaleIDs)), e)
	case err != nil:
		return err
	}
	t := table{header: []string{"SALE", "STATUS", "LOCATION", "PACKAGE", "PROVIDER", "TRACKING"}}
	for _, f := range fulfillments {
		t.add(f.Sale.SaleID, f.Sale.Status, f.Location.LocationID, f.FulfillmentID, f.ShippingProvider.Name, f.TrackingNumber)
	}
	return a.printSales(t, fulfillments)
}

// printSales prints the result of sale cancel and ship: t for a person, v as JSON.
func (a *app) printSales(t table, v any) error {
	var err error
	if a.flags.JSON {
		err = a.printJSON(v)
	} else {
		err = t.write(a.stdout)
	}
	if err != nil {
		return plain("the sales were changed, but the result was not printed: %v", err)
	}
	return nil
}
