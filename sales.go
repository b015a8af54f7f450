package oakra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// SalesService changes the sales of a shop (API reference, "Sales").
type SalesService struct{ client *Client }

// CancelReason is why a sale is canceled (API reference, "Cancel sale").
type CancelReason string

// The reasons that the API accepts.
const (
	CancelOutOfStock      CancelReason = "out_of_stock"
	CancelCustomerRequest CancelReason = "customer_request"
	CancelOther           CancelReason = "other"
)

// SaleCancelParams selects the sale that [SalesService.Cancel] cancels.
type SaleCancelParams struct {
	SaleID string       `json:"sale_id"` // ID of the sale in its channel, such as a marketplace's order ID
	Reason CancelReason `json:"cancel_reason"`
}

// CanceledSale is a sale after its cancellation (API reference, "Cancel sale").
type CanceledSale struct {
	ID     int64  `json:"id"` // ID of the sale in Oakra
	SaleID string `json:"sale_id"`
	Status string `json:"status"` // "canceled"
}

// Cancel cancels a sale, both in Oakra and in the marketplace that it comes from
// (API reference, "Cancel sale"). The API reference does not say whether a canceled
// sale returns its units to stock, nor what a second call does. Like a
// [StockService.Change], a Cancel is never sent again unless nothing of it was
// applied.
//
// Errors: [ErrInvalidRequest] if SaleID is blank, has a NUL or is not UTF-8, if
// Reason is not one of the constants, or if the request would be longer than 1 MiB;
// [ErrBadResponse], with [OutcomeUnknown], if a 2xx is not about this sale or lacks
// its id, sale_id or status; otherwise as for every call, see [Error]. After
// [OutcomeUnknown] look at the sale in Oakra or the marketplace before calling again.
func (s *SalesService) Cancel(ctx context.Context, params SaleCancelParams) (CanceledSale, error) {
	return exchange(ctx, s.client, opCancel, 1, params)
}

func (p SaleCancelParams) check() error {
	reasons := []CancelReason{CancelOutOfStock, CancelCustomerRequest, CancelOther}
	if !slices.Contains(reasons, p.Reason) {
		return fmt.Errorf("the reason %.40q is not one of %q", p.Reason, reasons)
	}
	return checkSaleID(p.SaleID)
}

func (p SaleCancelParams) confirm(sale CanceledSale) error {
	switch {
	case sale.ID == 0 || sale.SaleID == "" || sale.Status == "":
		return errors.New("the id, sale_id or status of the canceled sale is missing")
	case sale.SaleID != p.SaleID:
		return fmt.Errorf("the canceled sale is %.40q, and not the one that was sent", sale.SaleID)
	}
	return nil
}

func checkSaleID(id string) error {
	switch {
	case strings.TrimSpace(id) == "":
		return errors.New("the sale ID is blank")
	case !utf8.ValidString(id) || strings.Contains(id, "\x00"):
		return fmt.Errorf("the sale ID %.40q has a NUL or is not UTF-8", id)
	}
	return nil
}
