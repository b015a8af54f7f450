package oakratest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// fulfillment is what a response says about a shipment. Only the sale and the ids
// differ from one to the next; the rest is as in the reference.
type fulfillment struct {
	ID               int64           `json:"id"`
	Sale             fulfilledSale   `json:"sale"`
	Location         json.RawMessage `json:"location"`
	FulfillmentID    string          `json:"fulfillment_id"`
	Status           string          `json:"status"`
	ShippingProvider json.RawMessage `json:"shipping_provider"`
	TrackingNumber   string          `json:"tracking_number"`
	DateCreated      string          `json:"date_created"`
	IsBulky          bool            `json:"is_bulky"`
}

type fulfilledSale struct {
	ID          int64           `json:"id"`
	Shop        json.RawMessage `json:"shop"`
	SaleID      string          `json:"sale_id"`
	DateCreated string          `json:"date_created"`
	Status      SaleStatus      `json:"status"`
}

func newFulfillment(id int64, sale *Sale) fulfillment {
	return fulfillment{
		ID: id,
		Sale: fulfilledSale{
			ID:          sale.ID,
			Shop:        json.RawMessage(`{"id":1,"channel":"TikTok","shop_name":"Shirts"}`),
			SaleID:      sale.SaleID,
			DateCreated: "2024-01-03T11:22:02",
			Status:      sale.Status,
		},
		Location:         json.RawMessage(`{"name":"Warehouse 1","location_id":"warehouse-1"}`),
		FulfillmentID:    fmt.Sprintf("package-%d", id),
		Status:           "waiting_for_picking",
		ShippingProvider: json.RawMessage(`{"name":"Flash Express","shipping_provider_id":"flash-express"}`),
		TrackingNumber:   fmt.Sprintf("TH%010d", id),
		DateCreated:      "2024-01-04T08:00:00",
	}
}

// initiate begins the shipping of all the sales of a request, or of none.
func (s *Server) initiate(x *exchange) *response {
	saleIDs, problems, rejection := readSaleIDs(x.Body)
	if rejection != nil {
		return reject(rejection)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	unknown := false
	sales := make([]*Sale, len(saleIDs))
	seen := make(map[string]bool)
	for i, id := range saleIDs {
		if problems[strconv.Itoa(i)] != nil {
			continue
		}
		sale := s.sales[id]
		problem := ""
		switch {
		case sale == nil && x.dialect.UnknownIDNotFound:
			unknown = true
		case sale == nil:
			problem = noSale(id)
		case seen[id]:
			problem = "This sale is given twice."
		case sale.Status != SalePending:
			problem = fmt.Sprintf("This sale is not pending, its status is \"%s\".", sale.Status)
		}
		if problem != "" {
			problems[strconv.Itoa(i)] = []string{problem}
		}
		seen[id] = true
		sales[i] = sale
	}
	switch {
	case len(problems) > 0:
		return reject(map[string]any{"sale_ids": problems})
	case unknown:
		return detail(http.StatusNotFound, "Not found.")
	}

	fulfillments := make([]fulfillment, len(sales))
	for i, sale := range sales {
		x.setStatus(sale, SaleInFulfillment)
		s.lastFulfillment++
		fulfillments[i] = newFulfillment(s.lastFulfillment, sale)
	}
	return ok(len(fulfillments), func(n int) []byte {
		return inJSON(http.StatusOK, map[string]any{"fulfillments": fulfillments[:n]}).body
	})
}

// readSaleIDs reads the body of a request to ship. Problems are by index; if there
// are no sale IDs at all, rejection is the body of the response.
func readSaleIDs(body []byte) (ids []string, problems map[string][]string, rejection any) {
	object, rejection := readObject(body)
	if rejection != nil {
		return nil, nil, rejection
	}
	list, rejection := readList(object, "sale_ids")
	if rejection != nil {
		return nil, nil, rejection
	}
	problems = make(map[string][]string)
	each(list, func(_, value []byte) {
		id, problem := text(value)
		if problem != "" {
			problems[strconv.Itoa(len(ids))] = []string{problem}
		}
		ids = append(ids, id)
	})
	return ids, problems, nil
}
