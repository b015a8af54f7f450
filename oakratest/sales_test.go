package oakratest_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/oakratest"
)

const (
	cancelPath = "sales/cancel/"
	initPath   = "fulfillment/shipping/init/"
)

var orders = []oakratest.Sale{
	{ID: 30421, SaleID: "1001"},
	{SaleID: "1002", Status: oakratest.SalePending},
	{SaleID: "1003", Status: oakratest.SaleInFulfillment},
	{SaleID: "1004", Status: oakratest.SaleCanceled},
}

func newest(t *testing.T) *oakratest.Server {
	t.Helper()
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{Newest: true})
	server.SetSales(orders...)
	return server
}

func statuses(server *oakratest.Server) []oakratest.SaleStatus {
	var all []oakratest.SaleStatus
	for _, sale := range server.Sales() {
		all = append(all, sale.Status)
	}
	return all
}

var asTheyWere = []oakratest.SaleStatus{"pending", "pending", "in_fulfillment", "canceled"}

func TestNewestRoutes(t *testing.T) {
	server := newest(t)
	assert.Equal(t, 200, call(t, server, "POST", "stock/stock-records/update/", `{"stock_records":[{"id":122,"quantity":1}]}`).status)
	assert.Equal(t, 200, call(t, server, "POST", "stock/stock-records/change/", `{"stock_records":[{"id":122,"quantity_change":1}]}`).status)
	assert.Equal(t, 404, call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":1}]}`).status)
	assert.Equal(t, 405, call(t, server, "GET", cancelPath, "").status)
	assert.Equal(t, 301, call(t, server, "POST", "sales/cancel", `{}`).status)

	server.SetDialect(oakratest.Dialect{Newest: true, Update: oakratest.UpdateEndpoint})
	assert.Equal(t, 200, call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":1}]}`).status)

	server.SetDialect(oakratest.Dialect{})
	assert.Equal(t, 404, call(t, server, "POST", cancelPath, `{"sale_id":"1001","cancel_reason":"other"}`).status)
	assert.Equal(t, 404, call(t, server, "POST", initPath, `{"sale_ids":["1001"]}`).status)
	server.SetDialect(oakratest.Dialect{WrongRouteNotAllowed: true})
	assert.Equal(t, 405, call(t, server, "POST", initPath, `{"sale_ids":["1001"]}`).status)
	assert.Equal(t, asTheyWere, statuses(server))
	requests := server.Requests()
	assert.Equal(t, "sales.cancel", requests[len(requests)-3].Op)
	assert.Equal(t, "shipping.init", requests[len(requests)-2].Op)
}

func TestSetSales(t *testing.T) {
	server := newServer(t)
	server.SetSales(oakratest.Sale{SaleID: "b"}, oakratest.Sale{ID: 7, SaleID: "a", Status: oakratest.SaleCanceled})
	server.SetSales(oakratest.Sale{SaleID: "c"}, oakratest.Sale{ID: 1, SaleID: "a"})
	assert.Equal(t, []oakratest.Sale{
		{ID: 1, SaleID: "a", Status: oakratest.SalePending},
		{ID: 8, SaleID: "b", Status: oakratest.SalePending},
		{ID: 9, SaleID: "c", Status: oakratest.SalePending},
	}, server.Sales())
	assert.Panics(t, func() { server.SetSales(oakratest.Sale{SaleID: " "}) })
	assert.Panics(t, func() { server.SetSales(oakratest.Sale{SaleID: "d", Status: "Pending"}) })
}

func TestCancel(t *testing.T) {
	server := newest(t)
	got := call(t, server, "POST", cancelPath, `{"sale_id":"1001","cancel_reason":"out_of_stock"}`)
	assert.Equal(t, 200, got.status)
	assert.JSONEq(t, `{"id":30421,"sale_id":"1001","status":"canceled"}`, got.body)
	assert.Equal(t, "application/json", got.header.Get("Content-Type"))
	got = call(t, server, "POST", cancelPath, `{"cancel_reason":"other","sale_id":1003,"note":null}`)
	assert.Equal(t, 200, got.status, got.body)

	assert.Equal(t, []oakratest.SaleStatus{"canceled", "pending", "canceled", "canceled"}, statuses(server))
	assert.Equal(t, asItWas, quantities(server))
	assert.Equal(t, []oakratest.AppliedSale{{SaleID: "1001", From: "pending", To: "canceled"}}, server.Requests()[0].AppliedSales)
	assert.Equal(t, []oakratest.AppliedSale{{SaleID: "1003", From: "in_fulfillment", To: "canceled"}}, server.Requests()[1].AppliedSales)
	assert.Equal(t, "sales.cancel", server.Requests()[0].Op)
	assert.Nil(t, server.Requests()[0].Applied)

	tests := []struct{ body, want string }{
		{`{"sale_id":"1001","cancel_reason":"other"}`, `{"sale_id":["This sale is canceled already."]}`},
		{`{"sale_id":"99","cancel_reason":"other"}`, `{"sale_id":["Object with sale_id=99 does not exist."]}`},
		{`{}`, `{"sale_id":["This field is required."],"cancel_reason":["This field is required."]}`},
		{`{"sale_id":null,"cancel_reason":null}`, `{"sale_id":["This field may not be null."],"cancel_reason":["This field may not be null."]}`},
		{`{"sale_id":" ","cancel_reason":"other"}`, `{"sale_id":["This field may not be blank."]}`},
		{`{"sale_id":["1002"],"cancel_reason":"other"}`, `{"sale_id":["Not a valid string."]}`},
		{`{"sale_id":"1002","cancel_reason":"Other"}`, `{"cancel_reason":["\"Other\" is not a valid choice."]}`},
		{`{"Sale_id":"1002","cancel_reason":"other"}`, `{"sale_id":["This field is required."]}`},
		{`[]`, `{"non_field_errors":["Invalid data. Expected a dictionary."]}`},
		{`{`, `{"detail":"JSON parse error - unexpected end of JSON input"}`},
	}
	for i, tt := range tests {
		got := call(t, server, "POST", cancelPath, tt.body)
		assert.Equal(t, 400, got.status, tt.body)
		assert.JSONEq(t, tt.want, got.body, tt.body)
		assert.Nil(t, server.Requests()[i+2].AppliedSales)
	}
	server.SetDialect(oakratest.Dialect{Newest: true, UnknownIDNotFound: true})
	got = call(t, server, "POST", cancelPath, `{"sale_id":"99","cancel_reason":"other"}`)
	assert.Equal(t, 404, got.status)
	assert.JSONEq(t, `{"detail":"Not found."}`, got.body)
	assert.Equal(t, []oakratest.SaleStatus{"canceled", "pending", "canceled", "canceled"}, statuses(server))
}

func TestInitiate(t *testing.T) {
	server := newest(t)
	got := call(t, server, "POST", initPath, `{"sale_ids":["1002","1001"]}`)
	assert.Equal(t, 200, got.status)
	first := `{"id":1,"sale":{"id":30422,"shop":{"id":1,"channel":"TikTok","shop_name":"Shirts"},"sale_id":"1002","date_created":"2024-01-03T11:22:02","status":"in_fulfillment"},
		"location":{"name":"Warehouse 1","location_id":"warehouse-1"},"fulfillment_id":"package-1","status":"waiting_for_picking",
		"shipping_provider":{"name":"Flash Express","shipping_provider_id":"flash-express"},"tracking_number":"TH0000000001","date_created":"2024-01-04T08:00:00","is_bulky":false}`
	second := `{"id":2,"sale":{"id":30421,"shop":{"id":1,"channel":"TikTok","shop_name":"Shirts"},"sale_id":"1001","date_created":"2024-01-03T11:22:02","status":"in_fulfillment"},
		"location":{"name":"Warehouse 1","location_id":"warehouse-1"},"fulfillment_id":"package-2","status":"waiting_for_picking",
		"shipping_provider":{"name":"Flash Express","shipping_provider_id":"flash-express"},"tracking_number":"TH0000000002","date_created":"2024-01-04T08:00:00","is_bulky":false}`
	assert.JSONEq(t, `{"fulfillments":[`+first+`,`+second+`]}`, got.body)
	assert.Equal(t, []oakratest.SaleStatus{"in_fulfillment", "in_fulfillment", "in_fulfillment", "canceled"}, statuses(server))
	assert.Equal(t, []oakratest.AppliedSale{
		{SaleID: "1002", From: "pending", To: "in_fulfillment"}, {SaleID: "1001", From: "pending", To: "in_fulfillment"},
	}, only(t, server).AppliedSales)
	assert.Equal(t, "shipping.init", only(t, server).Op)
	assert.Equal(t, asItWas, quantities(server))
}

// A request to ship is applied whole or not at all.
func TestInitiateRejected(t *testing.T) {
	server := newest(t)
	tests := []struct{ body, want string }{
		{`{"sale_ids":["1001","1003","1002","1004","99","1001"," ",null]}`, `{"sale_ids":{
			"1":["This sale is not pending, its status is \"in_fulfillment\"."],
			"3":["This sale is not pending, its status is \"canceled\"."],
			"4":["Object with sale_id=99 does not exist."],
			"5":["This sale is given twice."],
			"6":["This field may not be blank."],
			"7":["This field may not be null."]}}`},
		{`{"sale_ids":[true,["1001"]]}`, `{"sale_ids":{"0":["Not a valid string."],"1":["Not a valid string."]}}`},
		{`{"sale_ids":[ ]}`, `{"sale_ids":{"non_field_errors":["This list may not be empty."]}}`},
		{`{"sale_ids":"1001"}`, `{"sale_ids":{"non_field_errors":["Expected a list of items."]}}`},
		{`{"sale_ids":null}`, `{"sale_ids":["This field may not be null."]}`},
		{`{"stock_records":[]}`, `{"sale_ids":["This field is required."]}`},
		{`[]`, `{"non_field_errors":["Invalid data. Expected a dictionary."]}`},
	}
	for i, tt := range tests {
		got := call(t, server, "POST", initPath, tt.body)
		assert.Equal(t, 400, got.status, tt.body)
		assert.JSONEq(t, tt.want, got.body, tt.body)
		assert.Nil(t, server.Requests()[i].AppliedSales)
		assert.Equal(t, "shipping.init", server.Requests()[i].Op, "only lists of stock records are probes")
	}
	server.SetDialect(oakratest.Dialect{Newest: true, UnknownIDNotFound: true})
	assert.Equal(t, 404, call(t, server, "POST", initPath, `{"sale_ids":["1001","99"]}`).status)
	assert.Equal(t, 400, call(t, server, "POST", initPath, `{"sale_ids":["1004","99"]}`).status)
	assert.Equal(t, asTheyWere, statuses(server))
	assert.Equal(t, 415, func() int {
		r := newRequest(t, server, "POST", initPath, `{"sale_ids":["1001"]}`)
		r.Header.Set("Content-Type", "text/plain")
		got, err := send(t, server, r)
		require.NoError(t, err)
		return got.status
	}())
}

func TestFaultsOfSales(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.SetDialect(oakratest.Dialect{Newest: true})
		server.SetSales(orders...)
		server.Inject(oakratest.Fault{Op: "sales.cancel", Kind: oakratest.ResetAfter, Times: 1})
		server.Inject(oakratest.Fault{Op: "sales.cancel", Kind: oakratest.OmitRecord, Times: 1})
		server.Inject(oakratest.Fault{Op: "shipping.init", Kind: oakratest.OmitRecord, Times: 1})
		server.SetLatency(time.Second, time.Minute)

		_, err := send(t, server, newRequest(t, server, "POST", cancelPath, `{"sale_id":"1003","cancel_reason":"other"}`))
		require.Error(t, err)
		start := time.Now()
		got := call(t, server, "POST", initPath, `{"sale_ids":["1001","1002"]}`)
		assert.Equal(t, 121*time.Second, time.Since(start))
		var body struct{ Fulfillments []json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(got.body), &body))
		assert.Len(t, body.Fulfillments, 1)
		got = call(t, server, "POST", cancelPath, `{"sale_id":"1001","cancel_reason":"other"}`)
		assert.JSONEq(t, `{"id":30421,"sale_id":"1001","status":"canceled"}`, got.body, "no record to omit")

		assert.Equal(t, []oakratest.SaleStatus{"canceled", "in_fulfillment", "canceled", "canceled"}, statuses(server))
		assert.Equal(t, oakratest.ResetAfter, server.Requests()[0].Fault)
		assert.Len(t, server.Requests()[1].AppliedSales, 2)
	})
}
