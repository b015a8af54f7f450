package oakra

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ShippingService ships the sales of a shop (API reference, "Shipping").
type ShippingService struct{ client *Client }

// Fulfillment is the shipment of a sale (API reference, "Initiate shipping"). A
// field is zero if the response does not have it, except ID and the SaleID of Sale,
// which are always there.
type Fulfillment struct {
	ID               int64            `json:"id"`
	Sale             Sale             `json:"sale"`
	Location         Location         `json:"location"`       // place that ships the sale
	FulfillmentID    string           `json:"fulfillment_id"` // ID in the channel, such as a package ID
	Status           string           `json:"status"`         // such as "waiting_for_picking"
	ShippingProvider ShippingProvider `json:"shipping_provider"`
	TrackingNumber   string           `json:"tracking_number"`
	DateCreated      LocalTime        `json:"date_created"`
	IsBulky          bool             `json:"is_bulky"`
}

// Sale is an order of a customer (API reference, "Initiate shipping").
type Sale struct {
	ID          int64     `json:"id"` // ID in Oakra
	Shop        Shop      `json:"shop"`
	SaleID      string    `json:"sale_id"` // ID in the channel
	DateCreated LocalTime `json:"date_created"`
	Status      string    `json:"status"` // such as "in_fulfillment"
}

// Shop is where a sale was made.
type Shop struct {
	ID       int64  `json:"id"`
	Channel  string `json:"channel"` // such as "TikTok"
	ShopName string `json:"shop_name"`
}

// Location is a place that holds stock.
type Location struct {
	Name       string `json:"name"`
	LocationID string `json:"location_id"` // code name, as in [StockRecord]
}

// ShippingProvider is a company that transports parcels.
type ShippingProvider struct {
	Name               string `json:"name"`
	ShippingProviderID string `json:"shipping_provider_id"`
}

// LocalTime is a time as the API writes it, such as "2024-01-03T11:22:02": with no
// zone, and the API reference does not say which zone is meant. It is empty if the
// response had none.
type LocalTime string

// In returns the time, read as one in loc, or an error if t does not have the form of a
// [LocalTime]. Like [time.Time.In] it panics if loc is nil.
func (t LocalTime) In(loc *time.Location) (time.Time, error) {
	return time.ParseInLocation("2006-01-02T15:04:05", string(t), loc)
}

// Initiate starts the shipping of sales, in one request (API reference, "Initiate
// shipping"): they must be "Pending" and are then "In Fulfillment", and a marketplace
// is told that its orders are ready to ship. It returns the fulfillments in the
// order of the response, which has at least one for each sale. The API reference
// does not say what a second call does. Like a [StockService.Change], an Initiate
// is never sent again unless nothing of it was applied.
//
// Errors: [ErrInvalidRequest] if there are no sale IDs, one is blank, has a NUL or
// is not UTF-8, one is given twice, or the request would be longer than 1 MiB;
// [ErrBadResponse], with [OutcomeUnknown], if a 2xx lacks a fulfillment with the id
// and sale_id of a sale, and the error's text names the first ten such sales;
// otherwise as for every call, see [Error]. After [OutcomeUnknown] look at the sales
// in Oakra or the marketplace before calling again.
func (s *ShippingService) Initiate(ctx context.Context, saleIDs []string) ([]Fulfillment, error) {
	response, err := exchange(ctx, s.client, opInit, len(saleIDs), initRequest{saleIDs})
	return response.Fulfillments, err
}

type initRequest struct {
	SaleIDs []string `json:"sale_ids"`
}

type initResponse struct {
	Fulfillments []Fulfillment `json:"fulfillments"`
}

func (r initRequest) check() error {
	if len(r.SaleIDs) == 0 {
		return errors.New("no sale IDs")
	}
	seen := make(map[string]int, len(r.SaleIDs))
	for i, id := range r.SaleIDs {
		if err := checkSaleID(id); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
		if first, twice := seen[id]; twice {
			return fmt.Errorf("item %d: the sale ID %.40q was given before, in item %d", i, id, first)
		}
		seen[id] = i
	}
	return nil
}

func (r initRequest) confirm(response initResponse) error {
	there := make(map[string]bool, len(response.Fulfillments))
	for _, f := range response.Fulfillments {
		if f.ID != 0 {
			there[f.Sale.SaleID] = true
		}
	}
	var missing []string
	for _, id := range r.SaleIDs {
		if !there[id] {
			missing = append(missing, fmt.Sprintf("%.40q", id))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("no fulfillment was read for sale %s", list(missing))
}
