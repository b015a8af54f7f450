package oakratest

import (
	"fmt"
	"net/http"

	"github.com/oakra/oakra-go"
)

// write applies an update or change as a whole or not at all. If the dialect saves item
// by item, it applies the good items.
func (s *Server) write(x *exchange) *response {
	field := "quantity"
	if x.op == opChange {
		field = "quantity_change"
	}
	items, problems, rejection := readItems(x.Body, field)
	if rejection != nil {
		return reject(rejection)
	}
	if limit := x.dialect.BatchLimit; limit > 0 && len(items) > limit {
		return detail(http.StatusBadRequest, fmt.Sprintf("A request may have %d stock records at most, this one has %d.", limit, len(items)))
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	unknown := false
	named := make([]*record, len(items))
	for i := range items {
		item := &items[i] // n becomes the new quantity
		r := s.byID[item.id]
		named[i] = r
		switch {
		case problems[i] != nil:
		case r == nil && x.dialect.UnknownIDNotFound:
			unknown = true
		case r == nil:
			problems.add(i, "id", fmt.Sprintf("Invalid pk \"%d\" - object does not exist.", item.id))
		case r.named == x.Request:
			problems.add(i, "id", "This id is given twice.")
		default:
			r.named = x.Request
			outside := false
			if x.op == opChange {
				sum := r.Quantity + item.n
				outside = (sum > r.Quantity) != (item.n > 0)
				item.n = sum
			}
			if most := x.dialect.MaxQuantity; most > 0 {
				item.n = min(item.n, most)
			}
			switch {
			case outside:
				problems.add(i, field, outOfRange)
			case item.n < 0 && x.dialect.RejectNegative:
				problems.add(i, field, "Ensure this value is greater than or equal to 0.")
			}
		}
	}
	good := len(problems) == 0 && !unknown
	records := make([]oakra.StockRecord, 0, len(items))
	if good || x.dialect.ItemByItem {
		applied := make([]Applied, 0, len(items))
		for i, item := range items {
			r := named[i]
			if r == nil || problems[i] != nil {
				continue
			}
			applied = append(applied, Applied{ID: r.ID, From: r.Quantity, To: item.n})
			r.write(item.n, x.dialect.StaleReads)
			records = append(records, r.StockRecord)
		}
		if len(applied) > 0 {
			x.Applied = applied
		}
	}
	switch {
	case good:
		return x.withStock(records)
	case unknown && (len(problems) == 0 || x.dialect.ItemByItem):
		return detail(http.StatusNotFound, "Not found.")
	}
	return reject(map[string]any{"stock_records": problems.list(len(items))})
}
