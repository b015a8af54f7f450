package oakra_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// These tests have the kinds of input that public bug reports of similar clients name,
// where no other test has them.

// listBody makes a List of the SKUs and returns its result.
func listBody(t *testing.T, body string, skus ...string) ([]oakra.StockRecord, error) {
	t.Helper()
	return responding(t, 200, body).Stock.List(t.Context(), oakra.StockListParams{SKUs: skus})
}

// TestFieldPages: a list that names a next page is not all records, wherever that name
// is. A null there means that this is the last page.
func TestFieldPages(t *testing.T) {
	const records = `"stock_records":[` + recordA + `,` + recordB + `]`
	for _, next := range []string{`"https://app.oakra.com/api/v1/stock/stock-records/?page=2"`, `"?cursor=abc"`, `"2"`} {
		for _, body := range []string{
			`{"next":` + next + `,` + records + `}`,
			`{` + records + `,"next":` + next + `}`,
			`{"count":9,"next": ` + next + ` ,"previous":null,` + records + `}`,
			"{" + records + ",\"previous\":null , \"next\" :\n" + next + "}",
			`{"next":` + next + `,"stock_records":[]}`,
		} {
			records, err := listBody(t, body, "a", "b")
			require.Nil(t, records, body)
			require.ErrorIs(t, err, oakra.ErrBadResponse, body)
			require.ErrorContains(t, err, "page")
			require.False(t, oakra.Retryable(err), "the next would have pages too")
			require.Equal(t, oakra.StepAlert, oakra.NextStep(err))
		}
		// The ids prove a write.
		for _, call := range stockCalls[1:] {
			_, err := call.call(t.Context(), responding(t, 200, `{"next":`+next+`,`+records+`}`))
			require.NoError(t, err)
		}
	}
	for _, body := range []string{
		`{"next":null,` + records + `}`,
		`{` + records + `,"next":null}`,
		`{"next":"",` + records + `}`,
		`{"links":{"next":"?page=2"},` + records + `}`,
		`{"previous":"?page=0",` + records + `}`,
		`{"Next":"?page=2",` + records + `}`,
		`[` + recordA + `,` + recordB + `]`,
	} {
		got, err := listBody(t, body, "a", "b")
		require.NoError(t, err, body)
		require.Equal(t, recordsAB, got)
	}
}

// TestFieldCachedReads: a cache that heeds the request gives no stale record, and one
// that does not is found out.
func TestFieldCachedReads(t *testing.T) {
	for _, heeds := range []bool{true, false} {
		quantity, cached := 5, ""
		client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
			fresh := fmt.Sprintf(`[{"id":1,"location_id":"l","sku":"a","quantity":%d}]`, quantity)
			if cached != "" && !(heeds && strings.Contains(r.Header.Get("Cache-Control"), "no-cache")) {
				return stubResponse(200, cached, "Age", "120"), nil
			}
			cached = fresh
			return stubResponse(200, fresh), nil
		}), oakra.WithRetryPolicy(noWait))
		read := func() (int64, error) {
			records, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
			if err != nil {
				return 0, err
			}
			return records[0].Quantity, nil
		}
		got, err := read()
		require.NoError(t, err)
		require.EqualValues(t, 5, got)
		quantity = 7
		got, err = read()
		if heeds {
			require.NoError(t, err)
			require.EqualValues(t, 7, got)
		} else {
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, "120")
		}
	}
}

// TestFieldWordsOfTheServer: what a server says in a 2xx, or in a page, is in the
// error. The error doubts the base URL only where nothing of the API responded.
func TestFieldWordsOfTheServer(t *testing.T) {
	const doubt = "is the base URL right?"
	for _, row := range []struct {
		body, message string
		doubted       bool
	}{
		{`{"message":"call frequency exceeds the limit","code":"ApiCallLimit"}`, "call frequency exceeds the limit", false},
		{`{"error":"token expired"}`, "token expired", false},
		{`{"success":false,"error":{"code":7,"message":"subscription expired"}}`, "subscription expired", false},
		{`{"errors":["location is closed","come back"]}`, "location is closed come back", false},
		{`{"errors":"shop is closed"}`, "shop is closed", false},
		{`{"errors":{"message":"shop is closed"}}`, "shop is closed", false},
		{`{"detail":"No such shop.","message":"x"}`, "No such shop.", false},
		{`{"error":{"error":{"message":"deeper"}}}`, "deeper", false},
		{`["You may not do this."]`, "You may not do this.", false},
		{`[{"detail":"You may not."}]`, "You may not.", false},
		{`[{"message":"You may not."}]`, "You may not.", false},
		{`"Down for maintenance."`, "Down for maintenance.", false},
		{`{"message":5}`, "", false},
		{`{}`, "", false},
		{``, "", false},
		{`<html><head><TITLE id="t">Sign in &ndash;  Oakra</TITLE>`, "Sign in – Oakra", true},
		{`<html><body>Fatal error: Uncaught Error</body></html>`, "", true},
		{`Fatal error: Uncaught Error in /var/www`, "", true},
		{`<title>`, "", true},
		{`<title></title>`, "", true},
		{`<html><title>` + strings.Repeat("long ", 1000) + `</title>`, strings.TrimSpace(strings.Repeat("long ", 1000)), true},
	} {
		for _, call := range stockCalls {
			_, err := call.call(t.Context(), responding(t, 200, row.body))
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.Equal(t, row.message, requireError(t, err).Message, row.body)
			require.Contains(t, err.Error(), row.message[:min(len(row.message), 900)])
			require.Equal(t, row.doubted, strings.Contains(err.Error(), doubt), "%v", err)
			require.Less(t, len(err.Error()), 2000)
		}
	}

	t.Run("403", func(t *testing.T) {
		for body, page := range map[string]bool{
			"<html><title>Attention Required! | Cloudflare</title>": true, "Forbidden": true,
			`{"detail":"Permission denied."}`: false, "": false,
		} {
			for _, call := range stockCalls {
				_, err := call.call(t.Context(), responding(t, 403, body))
				require.ErrorIs(t, err, oakra.ErrForbidden)
				require.Equal(t, page, strings.Contains(err.Error(), "not from the API"), "%v", err)
				require.NotContains(t, err.Error(), doubt)
			}
		}
	})
}

// oddQuantities cannot be read as a whole number.
var oddQuantities = []string{"null", "5.5", `""`, `"1,234"`, "7.000000000000001", "true", "{}", `"five"`, "99999999999999999999"}

// TestFieldOddRecord: the error names the record by its SKU and id, as far as they were
// read, since it stops all others.
func TestFieldOddRecord(t *testing.T) {
	for _, quantity := range oddQuantities {
		for _, form := range []string{
			`{"id":1234567,"location_id":"w1","sku":"silk-by-metre","quantity":%s}`,
			`{"sku":"silk-by-metre","id":"1234567","location_id":"w1","quantity":%s}`,
			`{"id":1234567,"sku":"silk-by-metre","quantity":%s,"location_id":"w1","unit":"m"}`,
		} {
			body := `[` + recordA + `,` + fmt.Sprintf(form, quantity) + `]`
			_, err := listBody(t, body, "a", "silk-by-metre")
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, "silk-by-metre", body)
			require.ErrorContains(t, err, "1234567", body)
			require.ErrorContains(t, err, "quantity", body)
		}
	}
	_, err := listBody(t, `[`+recordA+`,{"id":77,"sku":"b"}]`, "a", "b")
	require.ErrorContains(t, err, "77")
	_, err = listBody(t, `[{"sku":"only-sku","location_id":"l","id":null,"quantity":1}]`, "a", "only-sku")
	require.ErrorContains(t, err, "only-sku")
}

// TestFieldText: a text that is not UTF-8, or half of a surrogate pair, is an error,
// and never another text.
func TestFieldText(t *testing.T) {
	for _, bad := range []string{
		`shirt-\ud83d`, `\udc9ashirt`, `\ud83d\ud83d`, `\ud83dx\udc9a`, `\uD83D\n`,
		"shirt-\xff", "\xc3", "\xe2\x82", "caf\xe9", "\xed\xa0\xbd", "\xf4\x90\x80\x80", "\xc0\x80",
	} {
		for _, member := range []string{"sku", "location_id"} {
			record := map[string]string{"sku": "a", "location_id": "l"}
			record[member] = bad
			body := `[` + recordB + `,{"id":4711,"location_id":"` + record["location_id"] + `","sku":"` + record["sku"] + `","quantity":5}]`
			for _, call := range stockCalls {
				records, err := call.call(t.Context(), responding(t, 200, body))
				require.Nil(t, records, "%q", bad)
				require.ErrorIs(t, err, oakra.ErrBadResponse, "%q", bad)
				require.ErrorContains(t, err, "record 2", "%q", bad)
			}
		}
	}
	for written, want := range map[string]string{`\ud83d\udc9a`: "💚", "💚": "💚", "é": "é", `\u00e9`: "é", "\ufffd": "\ufffd", `\ufffd`: "\ufffd"} {
		records, err := listBody(t, `[{"id":1,"location_id":"l","sku":"`+written+`","quantity":5}]`, want)
		require.NoError(t, err, written)
		require.Equal(t, want, records[0].SKU)
	}
}

// TestFieldByteOrderMark: a byte order mark before the JSON is ignored (RFC 8259,
// section 8.1); anywhere else it is an error.
func TestFieldByteOrderMark(t *testing.T) {
	const mark = "\ufeff"
	for _, body := range []string{mark + `[` + recordA + `,` + recordB + `]`, mark + " \n" + `{"stock_records":[` + recordA + `,` + recordB + `]}`} {
		for _, call := range stockCalls {
			records, err := call.call(t.Context(), responding(t, 200, body))
			require.NoError(t, err)
			require.Equal(t, recordsAB, records)
		}
	}
	for _, body := range []string{mark, mark + mark + `[]`, ` ` + mark + `[]`, `[` + mark + `]`, `[]` + mark, "\xef\xbb[]", "\xfe\xff[]"} {
		_, err := listBody(t, body, "a")
		require.ErrorIs(t, err, oakra.ErrBadResponse, "%q", body)
	}
	_, err := stockCalls[2].call(t.Context(), responding(t, 400, mark+`{"detail":"No."}`))
	require.Equal(t, "No.", requireError(t, err).Message)
	require.True(t, oakra.Splittable(err), "it is JSON")
}

// TestFieldExponentID: an id that went through a float has lost digits. A quantity may
// be written that way.
func TestFieldExponentID(t *testing.T) {
	for _, id := range []string{"3.8323063099599e+15", "1e3", "1E3", `"1e3"`, "12e0", "1.0e2"} {
		records, err := listBody(t, `[`+recordB+`,{"id":`+id+`,"location_id":"l","sku":"a","quantity":5}]`, "a", "b")
		require.Nil(t, records)
		require.ErrorIs(t, err, oakra.ErrBadResponse, id)
		require.ErrorContains(t, err, "record 2")
		require.ErrorContains(t, err, `id`)
	}
	for id, want := range map[string]int64{"122": 122, "122.0": 122, `"122"`: 122, `"122.00"`: 122, "9007199254740993": 1<<53 + 1} {
		records, err := listBody(t, `[{"id":`+id+`,"location_id":"l","sku":"a","quantity":1.5e1}]`, "a")
		require.NoError(t, err, id)
		require.Equal(t, want, records[0].ID)
		require.EqualValues(t, 15, records[0].Quantity)
	}
}

// TestFieldPaymentRequired: a 4xx that every request would meet changes nothing, blames
// no order, and is not sent again.
func TestFieldPaymentRequired(t *testing.T) {
	for _, status := range []int{402, 406, 407, 414, 418, 421, 423, 426, 428, 431, 451} {
		for _, body := range []string{`{"errors":"the shop is closed"}`, "<html>", ""} {
			for _, call := range stockCalls {
				sent := 0
				client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
					sent++
					return stubResponse(status, body), nil
				}), oakra.WithRetryPolicy(noWait))
				_, err := call.call(t.Context(), client)
				require.Equal(t, notApplied, oakra.OutcomeOf(err))
				require.Equal(t, oakra.StepAlert, oakra.NextStep(err), "%v", err)
				require.Equal(t, 1, sent)
			}
		}
	}
}

// TestFieldUnaskedRecords: a filter that the server ignores is an error that names what
// came, for a Lookup too.
func TestFieldUnaskedRecords(t *testing.T) {
	all := []oakra.StockRecord{
		{ID: 1, SKU: "Straße", LocationID: "w1", Quantity: 1}, {ID: 2, SKU: "mug-white", LocationID: "w1", Quantity: 9},
		{ID: 3, SKU: "Straße", LocationID: "w2", Quantity: 2},
	}
	for _, row := range []struct {
		name     string
		skus     []string
		location string
		records  []oakra.StockRecord
		says     string
	}{
		{"another SKU", []string{"Straße"}, "", all, "mug-white"},
		{"another location", []string{"Straße"}, "w1", []oakra.StockRecord{all[0], all[2]}, "w2"},
		{"ignoring case", []string{"STRAßE", "MUG-White"}, "", all, ""},
		{"not a folded spelling", []string{"STRASSE"}, "", all[:1], "Straße"},
		{"Kelvin sign", []string{"10K"}, "", []oakra.StockRecord{{ID: 1, SKU: "10\u212a", LocationID: "w"}}, ""},
		{"white space", []string{"mug-white "}, "", all[1:2], "mug-white"},
		{"composed otherwise", []string{"e\u0301"}, "", []oakra.StockRecord{{ID: 1, SKU: "é", LocationID: "w"}}, "é"},
		{"all that was asked", []string{"Straße", "mug-white"}, "", all, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			body, err := json.Marshal(row.records)
			require.NoError(t, err)
			got, err := responding(t, 200, string(body)).Stock.List(context.Background(), oakra.StockListParams{SKUs: row.skus, LocationID: row.location})
			if row.says == "" {
				require.NoError(t, err)
				require.Equal(t, row.records, got)
				return
			}
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, row.says)
			require.ErrorContains(t, err, "requested")
		})
	}
}
