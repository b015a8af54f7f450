package oakratest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Sale is a sale that the server knows, for [Dialect].Newest. Neither canceling nor
// shipping it changes a stock record, since the reference does not mention that.
type Sale struct {
	ID     int64  // number of the sale in responses
	SaleID string // ID at the channel, which requests name
	Status SaleStatus
}

// SaleStatus is the status of a [Sale], as responses spell it.
type SaleStatus string

// The statuses of a sale. A pending one can be shipped, and is then in fulfillment. A
// pending one and one in fulfillment can be canceled.
const (
	SalePending       SaleStatus = "pending"
	SaleInFulfillment SaleStatus = "in_fulfillment"
	SaleCanceled      SaleStatus = "canceled"
)

// AppliedSale is a change of one sale's status.
type AppliedSale struct {
	SaleID   string
	From, To SaleStatus
}

// SetSales adds sales and replaces those whose SaleID is known already. A sale with ID
// 0 gets the next free id, one more than the highest; the Status "" stands for
// [SalePending]. SetSales panics if a SaleID is blank or a Status is not a possible one.
func (s *Server) SetSales(sales ...Sale) {
	for i := range sales {
		if strings.TrimSpace(sales[i].SaleID) == "" {
			panic("oakratest: a sale without SaleID")
		}
		if !slices.Contains([]SaleStatus{"", SalePending, SaleInFulfillment, SaleCanceled}, sales[i].Status) {
			panic(fmt.Sprintf("oakratest: a sale's Status is %q", sales[i].Status))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sale := range sales {
		s.lastSaleID = max(s.lastSaleID, sale.ID)
	}
	for _, sale := range sales {
		if sale.ID == 0 {
			s.lastSaleID++
			sale.ID = s.lastSaleID
		}
		sale.Status = cmp.Or(sale.Status, SalePending)
		s.sales[sale.SaleID] = &sale
	}
}

// Sales returns a copy of all sales, by ID.
func (s *Server) Sales() []Sale {
	s.mu.Lock()
	defer s.mu.Unlock()
	sales := make([]Sale, 0, len(s.sales))
	for _, sale := range s.sales {
		sales = append(sales, *sale)
	}
	slices.SortFunc(sales, func(a, b Sale) int { return cmp.Compare(a.ID, b.ID) })
	return sales
}

// setStatus changes a sale and enters the change in the ledger. s.mu must be held.
func (x *exchange) setStatus(sale *Sale, status SaleStatus) {
	x.AppliedSales = append(x.AppliedSales, AppliedSale{sale.SaleID, sale.Status, status})
	sale.Status = status
}

func noSale(id string) string { return "Object with sale_id=" + id + " does not exist." }

// cancel cancels a sale.
func (s *Server) cancel(x *exchange) *response {
	object, rejection := readObject(x.Body)
	if rejection != nil {
		return reject(rejection)
	}
	members := make(map[string][]byte)
	each(object, func(name, value []byte) { members[string(name)] = value })
	problems := make(map[string][]string)
	saleID, problem := text(members["sale_id"])
	if problem != "" {
		problems["sale_id"] = []string{problem}
	}
	reason, problem := text(members["cancel_reason"])
	if problem == "" && !slices.Contains([]string{"out_of_stock", "customer_request", "other"}, reason) {
		problem = fmt.Sprintf("\"%s\" is not a valid choice.", reason)
	}
	if problem != "" {
		problems["cancel_reason"] = []string{problem}
	}
	if len(problems) > 0 {
		return reject(problems)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	sale := s.sales[saleID]
	switch {
	case sale == nil && x.dialect.UnknownIDNotFound:
		return detail(http.StatusNotFound, "Not found.")
	case sale == nil:
		return reject(map[string][]string{"sale_id": {noSale(saleID)}})
	case sale.Status == SaleCanceled:
		return reject(map[string][]string{"sale_id": {"This sale is canceled already."}})
	}
	x.setStatus(sale, SaleCanceled)
	return inJSON(http.StatusOK, struct {
		ID     int64      `json:"id"`
		SaleID string     `json:"sale_id"`
		Status SaleStatus `json:"status"`
	}{sale.ID, sale.SaleID, sale.Status})
}
