package oakra

import (
	"context"
	"net/url"
	"strings"

	"github.com/google/go-querystring/query"
)

// StockService reads and writes stock records (API reference, "Stock").
type StockService struct{ client *Client }

// StockRecord is how many units of an item are in stock at one location (API
// reference, "Get stock records").
type StockRecord struct {
	ID         int64  `json:"id"`          // names the record in writes
	LocationID string `json:"location_id"` // code name of the location, such as "warehouse-1"
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"` // in units; may be negative where the shop oversold
}

// StockListParams selects the records that [StockService.List] returns.
type StockListParams struct {
	SKUs       []string // at least one, none blank
	LocationID string   // one location; all locations if empty
}

// StockUpdate sets the quantity of a record.
type StockUpdate struct {
	ID       int64 `json:"id"`       // ID of the stock record, positive
	Quantity int64 `json:"quantity"` // units now available; 0 is sent
}

// StockChange changes the quantity of a record by a difference.
type StockChange struct {
	ID             int64 `json:"id"`              // ID of the stock record, positive
	QuantityChange int64 `json:"quantity_change"` // units added, or deducted if negative; 0 is sent
}

// List returns the records of the SKUs, at one location or at all (API reference,
// "Get stock records"). A SKU that Oakra does not know has no record and is no
// error. Many SKUs are asked for in several requests, one after the other, so
// that no request line passes 4,000 bytes; a SKU given twice is asked for once,
// and the records come in the order of the requests. Without an error all
// records are there, with one there are none.
//
// Errors: [ErrInvalidRequest] if there are no SKUs, one is blank, or one is too
// long for a request line; otherwise as for every call, see [Error].
func (s *StockService) List(ctx context.Context, params StockListParams) ([]StockRecord, error) {
	skus, fixed, err := s.checkList(params)
	if err != nil {
		return nil, err
	}
	var all []StockRecord
	for len(skus) > 0 {
		n := fitting(skus, fixed)
		records, err := s.list(ctx, skus[:n], params.LocationID)
		if err != nil {
			return nil, err
		}
		if skus = skus[n:]; all == nil {
			all = records
		} else {
			all = append(all, records...)
		}
	}
	return all, nil
}

// Update sets the quantities of records to the units now available, in one
// request (API reference, "Update stock record"), and returns the records as
// the server then has them. Prefer [StockService.Change] for sales and
// deliveries: an Update undoes what others changed since the number was read.
//
// Errors: [ErrInvalidRequest] if there are no updates, an id is not positive,
// or one id is given twice; otherwise as for every call, see [Error]. Whether the
// stock changed is the error's Outcome.
func (s *StockService) Update(ctx context.Context, updates []StockUpdate) ([]StockRecord, error) {
	return write(ctx, s.client, opUpdate, `,"quantity":`, updates,
		func(u StockUpdate) (id, n int64) { return u.ID, u.Quantity })
}

// Change adds to the quantities of records, or deducts from them, in one request (API
// reference, "Change in stock"), and returns the records as the server then has them.
// It is never sent twice unless nothing of it was applied. The server decides whether a
// quantity may fall below zero.
//
// Errors: [ErrInvalidRequest] if there are no changes, an id is not positive,
// or one id is given twice (sum its changes, or use [StockService.ChangeAll]);
// otherwise as for every call, see [Error]. Whether the stock changed is the
// error's Outcome, which may be [OutcomeApplied]: only the response was lost. After
// [OutcomeUnknown] read the records before sending it again.
func (s *StockService) Change(ctx context.Context, changes []StockChange) ([]StockRecord, error) {
	return write(ctx, s.client, opChange, `,"quantity_change":`, changes,
		func(c StockChange) (id, n int64) { return c.ID, c.QuantityChange })
}

// write checks and sends the items of an Update or a Change.
func write[T any](ctx context.Context, c *Client, op operation, member string, items []T, of func(T) (id, n int64)) ([]StockRecord, error) {
	if len(items) == 0 {
		return nil, invalid(op.String(), "no items")
	}
	b := newBody(len(items))
	defer b.release()
	for i, item := range items {
		id, n := of(item)
		if id <= 0 {
			return nil, invalid(op.String(), "item %d: the id %d must be positive", i, id)
		}
		b.add(id, member, n)
	}
	b.end()
	if first, second, twice := findTwice(b.ids); twice {
		return nil, invalid(op.String(), "item %d: the id %d was given before, in item %d: UpdateAll and ChangeAll merge the items of a record", second, b.ids[second], first)
	}
	result := stockRecords{ids: b.ids}
	err := c.do(ctx, op, len(items), "", b, &result)
	return result.records, err
}

// findTwice returns the two indexes of the first id that occurs twice.
func findTwice(ids []int64) (first, second int, twice bool) {
	sorted := true
	for i := 1; i < len(ids) && sorted; i++ {
		sorted = ids[i-1] < ids[i]
	}
	if sorted {
		return 0, 0, false
	}
	seen := make(map[int64]int, len(ids))
	for i, id := range ids {
		if at, ok := seen[id]; ok {
			return at, i, true
		}
		seen[id] = i
	}
	return 0, 0, false
}

// listQuery is the query string of a List (API reference, "Query Parameters").
type listQuery struct {
	Select listSelect `url:"sku"`
}

// listSelect encodes itself. The encoder would go through the SKUs by reflection.
type listSelect struct {
	skus       []string
	locationID string
}

// EncodeValues implements [query.Encoder].
func (s listSelect) EncodeValues(key string, v *url.Values) error {
	(*v)[key] = s.skus
	if s.locationID != "" {
		(*v)["location_id"] = []string{s.locationID}
	}
	return nil
}

// list makes one request.
func (s *StockService) list(ctx context.Context, skus []string, locationID string) ([]StockRecord, error) {
	values, err := query.Values(listQuery{listSelect{skus, locationID}})
	if err != nil {
		return nil, invalid(opList.String(), "%v", err)
	}
	result := stockRecords{skus: skus, locationID: locationID}
	err = s.client.do(ctx, opList, len(skus), values.Encode(), nil, &result)
	return result.records, err
}

// maxRequestLine bounds the line "GET /path?query HTTP/1.1": gunicorn refuses
// one over 4,094 bytes, others over 8 KiB.
const maxRequestLine = 4000

// checkList returns the SKUs of params, each once, and how much of a request line
// is taken by all the rest.
func (s *StockService) checkList(params StockListParams) (skus []string, fixed int, err error) {
	op := opList.String()
	if len(params.SKUs) == 0 {
		return nil, 0, invalid(op, "no SKUs")
	}
	fixed = len("GET ? HTTP/1.1\r\n") + s.client.routes.listPath
	if params.LocationID != "" {
		fixed += len("location_id=&") + escapedLen(params.LocationID)
	}
	for i, sku := range params.SKUs {
		if strings.TrimSpace(sku) == "" {
			return nil, 0, invalid(op, "SKUs[%d] is blank", i)
		}
		if over := fixed + lineCost(sku) - maxRequestLine; over > 0 {
			return nil, 0, invalid(op, "SKUs[%d], %.20q, is too long: with it a request line is %d bytes over %d", i, sku, over, maxRequestLine)
		}
	}
	if len(params.SKUs) == 1 {
		return params.SKUs, fixed, nil
	}
	return unique(params.SKUs), fixed, nil
}

// fitting returns how many of the SKUs, at least one, fit into one request line.
func fitting(skus []string, fixed int) int {
	size := fixed
	for i, sku := range skus {
		if size += lineCost(sku); size > maxRequestLine && i > 0 {
			return i
		}
	}
	return len(skus)
}

// lineCost returns how much of a request line a SKU takes.
func lineCost(sku string) int { return len("sku=&") + escapedLen(sku) }

func unique(skus []string) []string {
	seen := make(map[string]struct{}, len(skus))
	once := make([]string, 0, len(skus))
	for _, sku := range skus {
		if _, ok := seen[sku]; !ok {
			seen[sku] = struct{}{}
			once = append(once, sku)
		}
	}
	return once
}

// escapedLen returns the length of url.QueryEscape(s).
func escapedLen(s string) int {
	n := 0
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9',
			b == '-', b == '_', b == '.', b == '~', b == ' ':
			n++
		default:
			n += 3
		}
	}
	return n
}
