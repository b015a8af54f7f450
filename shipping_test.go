package oakra_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestInitiateReads checks that all members are returned, in the server's order.
func TestInitiateReads(t *testing.T) {
	client, _ := saleClient(t, 200, goldenResponse(t, "init"))
	fulfillments, err := client.Shipping.Initiate(t.Context(), []string{"100001235", "100001234"})
	require.NoError(t, err)
	shop := oakra.Shop{ID: 7, Channel: "TikTok", ShopName: "Shirts and more"}
	first := oakra.Fulfillment{
		ID: 51,
		Sale: oakra.Sale{
			ID: 30420, Shop: shop, SaleID: "100001234", DateCreated: "2024-01-03T11:22:02", Status: "in_fulfillment",
		},
		Location:         oakra.Location{Name: "Main warehouse", LocationID: "warehouse-1"},
		FulfillmentID:    "1153000",
		Status:           "waiting_for_picking",
		ShippingProvider: oakra.ShippingProvider{Name: "J&T Express", ShippingProviderID: "6841"},
		TrackingNumber:   "TH0123456789",
		DateCreated:      "2024-01-03T12:00:00",
	}
	second := first
	second.ID, second.FulfillmentID, second.TrackingNumber = 52, "1153001", "TH0123456790"
	second.Sale.ID, second.Sale.SaleID, second.Sale.DateCreated = 30421, "100001235", "2024-01-03T11:25:40"
	second.DateCreated, second.IsBulky = "2024-01-03T12:00:01", true
	require.Equal(t, []oakra.Fulfillment{first, second}, fulfillments)
}

// TestInitiateResponse lists what a 2xx to an Initiate of the sales A and B may hold,
// and which responses prove that both are being shipped.
func TestInitiateResponse(t *testing.T) {
	const (
		a = `{"id":1,"sale":{"sale_id":"A"}}`
		b = `{"id":2,"sale":{"sale_id":"B"}}`
	)
	of := func(fulfillments ...string) string {
		return `{"fulfillments":[` + strings.Join(fulfillments, ",") + `]}`
	}
	// with returns A with another member, at the path of the documentation.
	with := func(member string) string { return of(`{"id":1,"sale":{"sale_id":"A"},`+member+`}`, b) }
	inSale := func(member string) string { return of(`{"id":1,"sale":{"sale_id":"A",`+member+`}}`, b) }
	for _, tt := range []struct {
		name, body string
		want       string // in the error's text; empty if both are applied
	}{
		{"both", of(a, b), ""},
		{"other order", of(b, a), ""},
		{"a sale in two parcels", of(a, b, `{"id":3,"sale":{"sale_id":"A"}}`), ""},
		{"a third sale", of(a, `{"id":3,"sale":{"sale_id":"C"}}`, b), ""},
		{"an empty one more", of(a, b, `{}`), ""},
		{"one more without a sale", of(a, b, `{"id":3}`), ""},
		{"all members", with(`"sale_":1,"location":{"name":"n","location_id":"l"},"fulfillment_id":"f","status":"s","shipping_provider":{"name":"n","shipping_provider_id":"p"},"tracking_number":"t","date_created":"d","is_bulky":true`), ""},
		{"empty objects", with(`"location":{},"shipping_provider":{}`), ""},
		{"members that are not known", with(`"ID":"x","Sale":5,"buyer":null,"is_Bulky":"no"`), ""},
		{"members that are null", with(`"tracking_number":null,"location":null,"is_bulky":null`), ""},
		{"members beside the list", `{"count":2,"next":null,"fulfillments":[` + a + `,` + b + `]}`, ""},
		{"BOM", "\ufeff" + of(a, b), ""},
		{"one missing", of(a), `no fulfillment was read for sale "B"`},
		{"none", of(), `no fulfillment was read for sale "A", "B"`},
		{"no list", `{}`, `no fulfillment was read for sale "A", "B"`},
		{"list under another name", `{"Fulfillments":[` + a + `,` + b + `]}`, `no fulfillment was read for sale "A", "B"`},
		{"no id", of(a, `{"sale":{"sale_id":"B"}}`), `no fulfillment was read for sale "B"`},
		{"id in capitals", of(a, `{"ID":2,"sale":{"sale_id":"B"}}`), `no fulfillment was read for sale "B"`},
		{"no sale", of(a, `{"id":2}`), `no fulfillment was read for sale "B"`},
		{"no sale_id", of(a, `{"id":2,"sale":{"id":5}}`), `no fulfillment was read for sale "B"`},
		{"sale_id outside of the sale", of(a, `{"id":2,"sale_id":"B","sale":{}}`), `no fulfillment was read for sale "B"`},
		{"id and sale_id in two", of(a, `{"id":2}`, `{"sale":{"sale_id":"B"}}`), `no fulfillment was read for sale "B"`},
		{"another case", of(a, `{"id":2,"sale":{"sale_id":"b"}}`), `no fulfillment was read for sale "B"`},
		{"id of another type", of(a, `{"id":"2","sale":{"sale_id":"B"}}`), `"fulfillments[1].id" is not of the type int64: no fulfillment was read for sale "B"`},
		{"sale_id of another type", of(a, `{"id":2,"sale":{"sale_id":5}}`), `"fulfillments[1].sale.sale_id" is not of the type string`},
		{"sale of another type", of(a, `{"id":2,"sale":"B"}`), `"fulfillments[1].sale" does not begin with {`},
		{"fulfillment of another type", of(a, b, `null`), `"fulfillments[2]" does not begin with {`},
		{"list of another type", `{"fulfillments":{"0":` + a + `,"1":` + b + `}}`, `"fulfillments" does not begin with [`},
		{"list is null", `{"fulfillments":null}`, `no fulfillment was read for sale`},
		{"tracking_number", with(`"tracking_number":5`), `"fulfillments[0].tracking_number" is not of the type string`},
		{"is_bulky", with(`"is_bulky":0`), `"fulfillments[0].is_bulky" is not of the type bool`},
		{"status", with(`"status":["s"]`), `"fulfillments[0].status" is not of the type string`},
		{"fulfillment_id", with(`"fulfillment_id":5`), `"fulfillments[0].fulfillment_id" is not of the type string`},
		{"date_created", with(`"date_created":1704280922`), `"fulfillments[0].date_created" is not of the type string`},
		{"location", with(`"location":"l"`), `"fulfillments[0].location" does not begin with {`},
		{"location.name", with(`"location":{"name":1}`), `"fulfillments[0].location.name" is not of the type string`},
		{"location.location_id", with(`"location":{"location_id":1}`), `"fulfillments[0].location.location_id" is not of the type string`},
		{"shipping_provider", with(`"shipping_provider":[]`), `"fulfillments[0].shipping_provider" does not begin with {`},
		{"shipping_provider.name", with(`"shipping_provider":{"name":false}`), `"fulfillments[0].shipping_provider.name" is not of the type string`},
		{"shipping_provider_id", with(`"shipping_provider":{"shipping_provider_id":6841}`), `"fulfillments[0].shipping_provider.shipping_provider_id" is not of the type string`},
		{"sale.id", inSale(`"id":"5"`), `"fulfillments[0].sale.id" is not of the type int64`},
		{"sale.status", inSale(`"status":{}`), `"fulfillments[0].sale.status" is not of the type string`},
		{"sale.date_created", inSale(`"date_created":5`), `"fulfillments[0].sale.date_created" is not of the type string`},
		{"sale.shop", inSale(`"shop":7`), `"fulfillments[0].sale.shop" does not begin with {`},
		{"sale.shop.id", inSale(`"shop":{"id":7.5}`), `"fulfillments[0].sale.shop.id" is not of the type int64`},
		{"sale.shop.channel", inSale(`"shop":{"channel":1}`), `"fulfillments[0].sale.shop.channel" is not of the type string`},
		{"sale.shop.shop_name", inSale(`"shop":{"shop_name":1}`), `"fulfillments[0].sale.shop.shop_name" is not of the type string`},
		{"wrong only in a third sale", of(a, b, `{"id":3,"sale":{"sale_id":"C"},"is_bulky":1}`), `"fulfillments[2].is_bulky" is not of the type bool`},
		{"sale_id twice", of(a, `{"id":2,"sale":{"sale_id":"C","sale_id":"B"}}`), `"fulfillments[1].sale.sale_id" occurs twice`},
		{"list twice", `{"fulfillments":[` + a + `],"fulfillments":[` + b + `]}`, `"fulfillments" occurs twice`},
		{"cut after the first", `{"fulfillments":[` + a + `,`, `unexpected EOF: no fulfillment was read for sale "B"`},
		{"cut in the second", `{"fulfillments":[` + a + `,` + b[:len(b)-1], `unexpected EOF: no fulfillment was read for sale "B"`},
		{"cut after the second", `{"fulfillments":[` + a + `,` + b, `unexpected EOF`},
		{"cut at the last brace", strings.TrimSuffix(of(a, b), "}"), `unexpected EOF`},
		{"malformed after the second", `{"fulfillments":[` + a + `,` + b + `,}`, `invalid character '}'`},
		{"trailing garbage", of(a, b) + "<!-- 3 ms -->", "followed by something else"},
		{"bare array", `[` + a + `,` + b + `]`, `"the body" does not begin with {: no fulfillment was read for sale "A", "B"`},
		{"a sale", `{"id":1,"sale_id":"A","status":"canceled"}`, `no fulfillment was read for sale "A", "B"`},
		{"detail", `{"detail":"Sale B is not pending."}`, `Sale B is not pending.`},
		{"null", `null`, `"the body" does not begin with {`},
		{"empty", ``, `unexpected EOF: no fulfillment was read for sale "A", "B"`},
		{"page", `<html>`, `invalid character '<'`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, requests := saleClient(t, 200, tt.body)
			fulfillments, err := client.Shipping.Initiate(t.Context(), []string{"A", "B"})
			require.Equal(t, 1, *requests)
			if tt.want == "" {
				require.NoError(t, err)
				require.GreaterOrEqual(t, len(fulfillments), 2)
				return
			}
			require.Nil(t, fulfillments)
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
			require.False(t, oakra.Retryable(err))
			require.Equal(t, tt.body, string(requireError(t, err).Body))
		})
	}
}

// TestInitiateMany: the error names the first ten of many sales, and none at length.
func TestInitiateMany(t *testing.T) {
	saleIDs := make([]string, 25)
	for i := range saleIDs {
		saleIDs[i] = fmt.Sprint("sale-", i, strings.Repeat("-", 100*i))
	}
	client, _ := saleClient(t, 200, `{"fulfillments":[{"id":1,"sale":{"sale_id":"sale-0"}}]}`)
	_, err := client.Shipping.Initiate(t.Context(), saleIDs)
	require.ErrorContains(t, err, `no fulfillment was read for sale "sale-1-`)
	require.ErrorContains(t, err, `"sale-10-`)
	require.ErrorContains(t, err, ` and 14 more`)
	require.NotContains(t, err.Error(), "sale-11")
	require.Less(t, len(err.Error()), 1000)
}

// TestInitiateChecks: what is wrong never leaves the process, and the error names
// the item.
func TestInitiateChecks(t *testing.T) {
	client, requests := saleClient(t, 200, `{}`)
	many := make([]string, 1<<18)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for _, tt := range []struct {
		name    string
		saleIDs []string
		want    string
	}{
		{"nil", nil, "no sale IDs"},
		{"empty", []string{}, "no sale IDs"},
		{"blank", []string{"A", "B", " \n"}, "item 2: the sale ID is blank"},
		{"empty ID", []string{""}, "item 0: the sale ID is blank"},
		{"twice", []string{"A", "B", "C", "B"}, `item 3: the sale ID "B" was given before, in item 1`},
		{"NUL", []string{"A", "\x00"}, `item 1: the sale ID "\x00" has a NUL or is not UTF-8`},
		{"not UTF-8", []string{"A", "B\xc3"}, `item 1: the sale ID "B\xc3" has a NUL or is not UTF-8`},
		{"long and twice", []string{strings.Repeat("A", 1000), strings.Repeat("A", 1000)}, `item 1: the sale ID "A`},
		{"more than a request holds", many, "over 1048576"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fulfillments, err := client.Shipping.Initiate(t.Context(), tt.saleIDs)
			require.Nil(t, fulfillments)
			requireNotSent(t, err, "shipping.init", tt.want)
		})
	}
	require.Zero(t, *requests)
}

// TestInitiateLargest: a request of 1 MiB is sent.
func TestInitiateLargest(t *testing.T) {
	id := strings.Repeat("A", 1<<20-len(`{"sale_ids":[""]}`))
	client, requests := saleClient(t, 200, `{"fulfillments":[{"id":1,"sale":{"sale_id":"`+id+`"}}]}`)
	_, err := client.Shipping.Initiate(t.Context(), []string{id})
	require.NoError(t, err)
	_, err = client.Shipping.Initiate(t.Context(), []string{id + "A"})
	requireNotSent(t, err, "shipping.init", "the request would be 1048577 bytes long, over 1048576")
	require.Equal(t, 1, *requests)
}

func TestLocalTime(t *testing.T) {
	bangkok := time.FixedZone("Asia/Bangkok", 7*60*60)
	for _, tt := range []struct {
		text string
		loc  *time.Location
		want string // in RFC 3339; empty for an error
	}{
		{"2024-01-03T11:22:02", time.UTC, "2024-01-03T11:22:02Z"},
		{"2024-01-03T11:22:02", bangkok, "2024-01-03T11:22:02+07:00"},
		{"2024-02-29T23:59:59", bangkok, "2024-02-29T23:59:59+07:00"},
		{"2024-01-03T11:22:02.123456", bangkok, "2024-01-03T11:22:02.123456+07:00"},
		{"2023-02-29T00:00:00", time.UTC, ""},
		{"2024-01-03T11:22:02Z", bangkok, ""},
		{"2024-01-03T11:22:02+02:00", bangkok, ""},
		{"2024-01-03 11:22:02", time.UTC, ""},
		{"2024-01-03", time.UTC, ""},
		{"", time.UTC, ""},
	} {
		t.Run(fmt.Sprintf("%q in %v", tt.text, tt.loc), func(t *testing.T) {
			got, err := oakra.LocalTime(tt.text).In(tt.loc)
			if tt.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, got.Format(time.RFC3339Nano))
			require.Equal(t, tt.loc, got.Location())
		})
	}
}
