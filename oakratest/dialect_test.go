package oakratest_test

import (
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

func TestDialectRoutes(t *testing.T) {
	updates := []oakratest.Route{oakratest.UpdateEndpoint, oakratest.UpdateNewer, oakratest.UpdateExample}
	changes := []oakratest.Route{oakratest.ChangeEndpoint, oakratest.ChangeExample}
	server := newServer(t, shirts...)
	post := func(route oakratest.Route, body string) int {
		method, path, _ := strings.Cut(string(route), " ")
		return call(t, server, method, path, body).status
	}
	for _, wrong := range []int{404, 405} {
		for i, update := range updates {
			for j, change := range changes {
				server.SetDialect(oakratest.Dialect{Update: update, Change: change, WrongRouteNotAllowed: wrong == 405})
				for k, route := range updates {
					want := map[bool]int{true: 200, false: wrong}[k == i]
					assert.Equal(t, want, post(route, `{"stock_records":[{"id":122,"quantity":1}]}`), "%s for %s", route, update)
				}
				for k, route := range changes {
					want := map[bool]int{true: 200, false: wrong}[k == j]
					assert.Equal(t, want, post(route, `{"stock_records":[{"id":122,"quantity_change":1}]}`), "%s for %s", route, change)
				}
			}
		}
	}
	for _, r := range server.Requests() { // the operation is known on the wrong routes too
		assert.Contains(t, []string{"stock.update", "stock.change"}, r.Op, r.Path)
	}
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{Update: "POST stock/"}) })
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{Change: oakratest.UpdateNewer}) })
}

func TestDialectResponses(t *testing.T) {
	const (
		change  = `{"stock_records":[{"id":124,"quantity_change":0}]}`
		record  = `{"id":124,"location_id":"warehouse-2","sku":"shirt-green-m","quantity":7}`
		decimal = `{"id":124,"location_id":"warehouse-2","sku":"shirt-green-m","quantity":7.0}`
		quoted  = `{"id":124,"location_id":"warehouse-2","sku":"shirt-green-m","quantity":"7"}`
	)
	tests := []struct {
		name        string
		dialect     oakratest.Dialect
		list, write string
	}{
		{"zero", oakratest.Dialect{}, `[` + record + `]`, `{"stock_records":[` + record + `]}`},
		{"list object", oakratest.Dialect{ListObject: true}, `{"stock_records":[` + record + `]}`, `{"stock_records":[` + record + `]}`},
		{"write array", oakratest.Dialect{WriteArray: true}, `[` + record + `]`, `[` + record + `]`},
		{"decimals", oakratest.Dialect{Quantities: oakratest.QuantityDecimal}, `[` + decimal + `]`, `{"stock_records":[` + decimal + `]}`},
		{"strings", oakratest.Dialect{Quantities: oakratest.QuantityString}, `[` + quoted + `]`, `{"stock_records":[` + quoted + `]}`},
		{"chunked", oakratest.Dialect{Chunked: true}, `[` + record + `]`, `{"stock_records":[` + record + `]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, shirts...)
			server.SetDialect(tt.dialect)
			list := call(t, server, "GET", listPath+"?sku=shirt-green-m&location_id=warehouse-2", "")
			write := call(t, server, "POST", changePath, change)
			assert.Equal(t, tt.list, list.body)
			assert.Equal(t, tt.write, write.body)
			if tt.dialect.Chunked {
				assert.Equal(t, int64(-1), list.length)
				assert.Equal(t, int64(-1), write.length)
			} else {
				assert.Equal(t, int64(len(list.body)), list.length)
			}
		})
	}
}

func TestDialectUnknownID(t *testing.T) {
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{UnknownIDNotFound: true})
	got := call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":1},{"id":99,"quantity_change":1}]}`)
	assert.Equal(t, 404, got.status)
	assert.JSONEq(t, `{"detail":"Not found."}`, got.body)
	got = call(t, server, "POST", changePath, `{"stock_records":[{"id":99,"quantity_change":1},{"id":122,"quantity_change":"x"}]}`)
	assert.Equal(t, 400, got.status, "the fields are checked first")
	assert.Equal(t, []int64{135, 150, 7}, quantities(server))
	assert.Equal(t, 405, call(t, server, "GET", changePath, "").status)
}

const (
	invalidPK = "Invalid pk \"99\" - object does not exist."
	negative  = "Ensure this value is greater than or equal to 0."
)

func TestRejectNegative(t *testing.T) {
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{RejectNegative: true})
	got := call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":-135},{"id":124,"quantity_change":-8}]}`)
	assert.Equal(t, 400, got.status)
	assert.JSONEq(t, `{"stock_records":[{},{"quantity_change":["`+negative+`"]}]}`, got.body)
	got = call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":-1},{"id":124,"quantity":0}]}`)
	assert.Equal(t, 400, got.status)
	assert.JSONEq(t, `{"stock_records":[{"quantity":["`+negative+`"]},{}]}`, got.body)
	got = call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":-9223372036854775807},{"id":122,"quantity_change":-9223372036854775807}]}`)
	assert.Equal(t, 400, got.status)
	assert.Equal(t, asItWas, quantities(server))
	got = call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":-135},{"id":124,"quantity_change":-7}]}`)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, []int64{0, 150, 0}, quantities(server))
}

func TestItemByItem(t *testing.T) {
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{ItemByItem: true, RejectNegative: true})
	got := call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":2},{"id":99,"quantity_change":1},
		{"id":124,"quantity_change":-8},{"id":123,"quantity_change":2},{"id":122,"quantity_change":2},{"id":124,"quantity_change":"x"},null]}`)
	assert.Equal(t, 400, got.status)
	assert.JSONEq(t, `{"stock_records":[{},{"id":[`+strconv.Quote(invalidPK)+`]},{"quantity_change":["`+negative+`"]},{},{"id":["This id is given twice."]},
		{"quantity_change":["A valid integer is required."]},{"non_field_errors":["Invalid data. Expected a dictionary."]}]}`, got.body)
	assert.Equal(t, added, quantities(server))
	assert.Equal(t, []oakratest.Applied{{ID: 122, From: 135, To: 137}, {ID: 123, From: 150, To: 152}}, only(t, server).Applied)

	got = call(t, server, "POST", changePath, addTwo)
	assert.Equal(t, 200, got.status)
	assert.Len(t, decode(t, strings.TrimSuffix(strings.TrimPrefix(got.body, `{"stock_records":`), "}")), 2)
	got = call(t, server, "POST", changePath, `{"stock_records":[{"id":99,"quantity_change":1}]}`)
	assert.Equal(t, 400, got.status)
	assert.Nil(t, server.Requests()[2].Applied)

	server.SetDialect(oakratest.Dialect{ItemByItem: true, UnknownIDNotFound: true})
	got = call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":1},{"id":99,"quantity":1},{"id":123,"quantity":"x"},{"id":124,"quantity":-1}]}`)
	assert.Equal(t, 404, got.status)
	assert.JSONEq(t, `{"detail":"Not found."}`, got.body)
	assert.Equal(t, []int64{1, 154, -1}, quantities(server))
}

func TestBatchLimit(t *testing.T) {
	server := newServer(t, shirts...)
	for _, itemByItem := range []bool{false, true} {
		server.SetDialect(oakratest.Dialect{BatchLimit: 2, ItemByItem: itemByItem})
		got := call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":2},{"id":123,"quantity_change":1},{"id":124,"quantity_change":"x"}]}`)
		assert.Equal(t, 400, got.status)
		assert.JSONEq(t, `{"detail":"A request may have 2 stock records at most, this one has 3."}`, got.body)
		assert.Equal(t, asItWas, quantities(server))
	}
	assert.Equal(t, 200, call(t, server, "POST", changePath, addTwo).status)
	assert.Equal(t, added, quantities(server))
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{BatchLimit: -1}) })
}

func TestMaxQuantity(t *testing.T) {
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{MaxQuantity: 140, WriteArray: true})
	got := call(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":5},{"id":124,"quantity_change":134}]}`)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, []int64{140, 150, 140}, quantities(server), "record 123 was not written")
	assert.Equal(t, int64(140), decode(t, got.body)[1].Quantity)
	assert.Equal(t, []oakratest.Applied{{ID: 122, From: 135, To: 140}, {ID: 124, From: 7, To: 140}}, only(t, server).Applied)
	got = call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":-1},{"id":123,"quantity":141}]}`)
	assert.Equal(t, 200, got.status)
	assert.Equal(t, []int64{-1, 140, 140}, quantities(server))
	got = call(t, server, "POST", changePath, `{"stock_records":[{"id":123,"quantity_change":9223372036854775807}]}`)
	assert.Equal(t, 400, got.status, "out of range")
	assert.Panics(t, func() { server.SetDialect(oakratest.Dialect{MaxQuantity: -1}) })
}

func TestStaleReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, shirts...)
		server.SetDialect(oakratest.Dialect{StaleReads: 2 * time.Second})
		client := server.Client()
		shown := func() int64 {
			records, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{shirts[0].SKU}, LocationID: shirts[0].LocationID})
			require.NoError(t, err)
			return records[0].Quantity
		}
		change := func(want int64) {
			records, err := client.Stock.Change(t.Context(), []oakra.StockChange{{ID: shirts[0].ID, QuantityChange: 1}})
			require.NoError(t, err)
			assert.Equal(t, want, records[0].Quantity)
			assert.Equal(t, want, server.Quantity(shirts[0].ID))
		}
		change(136) // at 0 s
		time.Sleep(time.Second)
		change(137) // at 1 s
		for _, want := range []int64{135, 136, 137, 137} {
			assert.Equal(t, want, shown())
			time.Sleep(time.Second)
		}
		change(138)
		shirt := shirts[0]
		shirt.Quantity = 5
		server.SetRecords(shirt)
		assert.Equal(t, int64(5), shown(), "SetRecords is no write")
		change(6)
		server.SetDialect(oakratest.Dialect{})
		change(7)
		assert.Equal(t, int64(5), shown(), "the write before")
		time.Sleep(2 * time.Second)
		assert.Equal(t, int64(7), shown())
	})
	assert.Panics(t, func() {
		oakratest.Start(t).SetDialect(oakratest.Dialect{StaleReads: -1})
	})
}

func TestTextsAreEscaped(t *testing.T) {
	for _, text := range []string{"", `a\b`, `"`, "\n", "<größe> 38 &", "\x7f", "\u2028", "😀"} {
		odd := oakra.StockRecord{ID: 1, LocationID: text, SKU: "sku" + text}
		server := newServer(t, odd)
		got := decode(t, call(t, server, "GET", listPath+"?sku="+url.QueryEscape(odd.SKU), "").body)
		assert.Equal(t, []oakra.StockRecord{odd}, got)
	}
}

func TestClientFindsTheRoutes(t *testing.T) {
	server := newServer(t, shirts...)
	server.SetDialect(oakratest.Dialect{Update: oakratest.UpdateExample, Change: oakratest.ChangeExample, WriteArray: true, Quantities: oakratest.QuantityString})
	client := server.Client()
	for range 2 {
		_, err := client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 122, Quantity: 10}})
		require.NoError(t, err)
		_, err = client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 123, QuantityChange: -1}})
		require.NoError(t, err)
	}
	assert.Equal(t, []int64{10, 148, 7}, quantities(server))
}
