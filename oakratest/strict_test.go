package oakratest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

func decode(t testing.TB, body string) []oakra.StockRecord {
	t.Helper()
	var records []oakra.StockRecord
	require.NoError(t, json.Unmarshal([]byte(body), &records))
	return records
}

// setHeader changes a good request; an empty value removes the header.
func setHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Del(name)
		if value != "" {
			r.Header.Set(name, value)
		}
	}
}

func TestRequestsRejected(t *testing.T) {
	const good = `{"stock_records":[{"id":122,"quantity":1}]}`
	tests := []struct {
		name, method, path, body string
		change                   func(*http.Request)
		status                   int
		want                     string            // JSON, or part of a page
		header                   map[string]string // header of the response
	}{
		{"no key", "POST", updatePath, good, setHeader("Authorization", ""), 401,
			`{"detail":"Authentication credentials were not provided."}`, map[string]string{"WWW-Authenticate": `Bearer realm="api"`}},
		{"other scheme", "POST", updatePath, good, setHeader("Authorization", "Basic 5f0e2c1a9b7d4e3f"), 401,
			`{"detail":"Authentication credentials were not provided."}`, nil},
		{"wrong key", "POST", updatePath, good, setHeader("Authorization", "Bearer 5f0e2c1a9b7d4e3fx"), 401,
			`{"detail":"Invalid token."}`, map[string]string{"WWW-Authenticate": `Bearer realm="api"`}},
		{"key before version", "POST", updatePath, good, func(r *http.Request) { r.Header = http.Header{} }, 401,
			`{"detail":"Authentication credentials were not provided."}`, nil},
		{"no version", "POST", updatePath, good, setHeader("X-Oakra-Api-Version", ""), 400,
			`{"detail":"Invalid version \"\" in the X-OAKRA-API-VERSION header."}`, nil},
		{"other version", "GET", listPath + "?sku=a", "", setHeader("X-Oakra-Api-Version", "v2"), 400,
			`{"detail":"Invalid version \"v2\" in the X-OAKRA-API-VERSION header."}`, nil},
		{"GET of a write", "GET", updatePath, "", nil, 405,
			`{"detail":"Method \"GET\" not allowed."}`, map[string]string{"Allow": "POST"}},
		{"POST of the list", "POST", listPath, good, nil, 405,
			`{"detail":"Method \"POST\" not allowed."}`, map[string]string{"Allow": "GET"}},
		{"key before method", "GET", changePath, "", setHeader("Authorization", ""), 401,
			`{"detail":"Authentication credentials were not provided."}`, nil},
		{"unknown path", "GET", "stock/", "", nil, 404, "<h1>Not Found</h1>", map[string]string{"Content-Type": "text/html; charset=utf-8"}},
		{"unknown path before key", "GET", "stock/", "", setHeader("Authorization", ""), 404, "<h1>Not Found</h1>", nil},
		{"outside the base URL", "GET", "../" + listPath, "", nil, 404, "<h1>Not Found</h1>", nil},
		{"another route of the reference", "POST", "stock/stock-record/change/", good, nil, 404, "<h1>Not Found</h1>", nil},
		{"no slash", "POST", strings.TrimSuffix(updatePath, "/"), good, nil, 301, "", map[string]string{"Location": "/api/v1/" + updatePath}},
		{"no slash before the query", "GET", strings.TrimSuffix(listPath, "/") + "?sku=a%2Fb", "", nil, 301, "", map[string]string{"Location": "/api/v1/" + listPath + "?sku=a%2Fb"}},
		{"no slash of an unknown path", "GET", "stock", "", nil, 404, "<h1>Not Found</h1>", nil},
		{"no sku", "GET", listPath + "?location_id=warehouse-1", "", nil, 400, `{"sku":["This field is required."]}`, nil},
		{"blank sku", "GET", listPath + "?sku=shirt-blue-m&sku=", "", nil, 400, `{"sku":["This field may not be blank."]}`, nil},
		{"long line", "GET", listPath + "?sku=" + strings.Repeat("x", 4094), "", nil, 400, "Request Line is too large (4140 &gt; 4094)", nil},
		{"no content type", "POST", updatePath, good, setHeader("Content-Type", ""), 415, `{"detail":"Unsupported media type \"\" in request."}`, nil},
		{"form", "POST", updatePath, good, setHeader("Content-Type", "application/x-www-form-urlencoded"), 415,
			`{"detail":"Unsupported media type \"application/x-www-form-urlencoded\" in request."}`, nil},
		{"no JSON", "POST", updatePath, `{"stock_records":[}`, nil, 400, `{"detail":"JSON parse error - invalid character '}' looking for beginning of value"}`, nil},
		{"two values", "POST", updatePath, good + good, nil, 400, `{"detail":"JSON parse error - invalid character '{' after top-level value"}`, nil},
		{"no body", "POST", updatePath, "", setHeader("Content-Type", "application/json"), 400, `{"detail":"JSON parse error - unexpected end of JSON input"}`, nil},
		{"list as body", "POST", updatePath, `[{"id":122,"quantity":1}]`, nil, 400, `{"non_field_errors":["Invalid data. Expected a dictionary."]}`, nil},
		{"text as body", "POST", updatePath, `"{"`, nil, 400, `{"non_field_errors":["Invalid data. Expected a dictionary."]}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, shirts...)
			r := newRequest(t, server, tt.method, tt.path, tt.body)
			if tt.change != nil {
				tt.change(r)
			}
			got, err := send(t, server, r)
			require.NoError(t, err)
			assert.Equal(t, tt.status, got.status)
			if strings.HasPrefix(tt.want, "{") {
				assert.JSONEq(t, tt.want, got.body)
				assert.Equal(t, "application/json", got.header.Get("Content-Type"))
			} else {
				assert.Contains(t, got.body, tt.want)
			}
			for name, value := range tt.header {
				assert.Equal(t, value, got.header.Get(name))
			}
			assert.Equal(t, []int64{135, 150, 7}, quantities(server))
			require.Len(t, server.Requests(), 1)
			assert.Equal(t, tt.status, server.Requests()[0].Status)
			assert.Nil(t, server.Requests()[0].Applied)
		})
	}
}

func TestLongestRequestLine(t *testing.T) {
	server := newServer(t)
	sku := strings.Repeat("x", 4094-len("GET /api/v1/"+listPath+"?sku= HTTP/1.1"))
	assert.Equal(t, 200, call(t, server, "GET", listPath+"?sku="+sku, "").status)
	assert.Equal(t, 400, call(t, server, "GET", listPath+"?sku="+sku+"x", "").status)
}

func TestItemsRejected(t *testing.T) {
	const (
		required = `{"stock_records":[{"quantity_change":["This field is required."]}]}`
		invalid  = `{"stock_records":[{"quantity_change":["A valid integer is required."]}]}`
		outside  = `{"stock_records":[{"quantity_change":["This integer is out of the range of 64 bits."]}]}`
	)
	tests := []struct{ body, want string }{
		{`{}`, `{"stock_records":["This field is required."]}`},
		{`{"Stock_records":[{"id":122,"quantity_change":1}]}`, `{"stock_records":["This field is required."]}`},
		{`{"stock_records":null}`, `{"stock_records":["This field may not be null."]}`},
		{`{"stock_records":{"id":122,"quantity_change":1}}`, `{"stock_records":{"non_field_errors":["Expected a list of items."]}}`},
		{`{"stock_records":[ ]}`, `{"stock_records":{"non_field_errors":["This list may not be empty."]}}`},
		{`{"stock_records":[null,{"id":122,"quantity_change":1},[]]}`,
			`{"stock_records":[{"non_field_errors":["Invalid data. Expected a dictionary."]},{},{"non_field_errors":["Invalid data. Expected a dictionary."]}]}`},
		{`{"stock_records":[{}]}`, `{"stock_records":[{"id":["This field is required."],"quantity_change":["This field is required."]}]}`},
		{`{"stock_records":[{"quantity_change":1}]}`, `{"stock_records":[{"id":["This field is required."]}]}`},
		{`{"stock_records":[{"ID":122,"quantity_change":1}]}`, `{"stock_records":[{"id":["This field is required."]}]}`},
		{`{"stock_records":[{"id":122,"quanity_change":1}]}`, required},
		{`{"stock_records":[{"id":122,"quantity":1}]}`, required},
		{`{"stock_records":[{"id":122,"Quantity_change":1}]}`, required},
		{`{"stock_records":[{"id":122,"quantity_change":null}]}`, `{"stock_records":[{"quantity_change":["This field may not be null."]}]}`},
		{`{"stock_records":[{"id":122,"quantity_change":1.5}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":1e2}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":true}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":[1]}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":""}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":"one"}]}`, invalid},
		{`{"stock_records":[{"id":122,"quantity_change":9223372036854775808}]}`, outside},
		{`{"stock_records":[{"id":122,"quantity_change":-9223372036854775809}]}`, outside},
		{`{"stock_records":[{"id":122,"quantity_change":9223372036854775807}]}`, outside}, // the sum is
		{`{"stock_records":[{"id":122,"quantity_change":1},{"id":123,"quantity_change":"x"}]}`,
			`{"stock_records":[{},{"quantity_change":["A valid integer is required."]}]}`},
		{`{"stock_records":[{"id":122,"quantity_change":1},{"id":99,"quantity_change":1}]}`,
			`{"stock_records":[{},{"id":["Invalid pk \"99\" - object does not exist."]}]}`},
		{`{"stock_records":[{"id":122,"quantity_change":1},{"id":123,"quantity_change":1},{"id":122,"quantity_change":1}]}`,
			`{"stock_records":[{},{},{"id":["This id is given twice."]}]}`},
	}
	server := newServer(t, shirts...)
	for _, tt := range tests {
		got := call(t, server, "POST", changePath, tt.body)
		assert.Equal(t, 400, got.status, tt.body)
		assert.JSONEq(t, tt.want, got.body, tt.body)
	}
	assert.Equal(t, []int64{135, 150, 7}, quantities(server))
	for _, r := range server.Requests() {
		assert.Nil(t, r.Applied)
	}
	got := call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity_change":1}]}`)
	assert.JSONEq(t, `{"stock_records":[{"quantity":["This field is required."]}]}`, got.body)
}

func TestItemsAccepted(t *testing.T) {
	tests := []struct {
		item string
		want int64
	}{
		{`{"id":122,"quantity":0}`, 0},
		{`{"id":122,"quantity":-5}`, -5},
		{`{"id":122.0,"quantity":"5.00"}`, 5},
		{`{"id":"122","quantity":" 6 "}`, 6},
		{`{"quantity":1,"id":122,"quantity":7}`, 7},
		{`{"id":122,"quantity":9007199254740993}`, 9007199254740993},
		{`{"id":122,"quantity":9223372036854775807}`, 9223372036854775807},
		{`{"id":122,"quantity":-9223372036854775808}`, -9223372036854775808},
		{"\t{ \"id\"\n:\r122 ,\"x\":{\"id\":[1]}, \"y\\\"\":\"\\\\\",\"quantity\" : 8 } ", 8},
	}
	server := newServer(t, shirts...)
	for _, tt := range tests {
		r := newRequest(t, server, "POST", updatePath, `{"stock_records":[`+tt.item+`]}`)
		r.Header.Set("Content-Type", "application/json; charset=utf-8")
		got, err := send(t, server, r)
		require.NoError(t, err)
		assert.Equal(t, 200, got.status, "%s: %s", tt.item, got.body)
		assert.Equal(t, tt.want, quantities(server)[0], tt.item)
	}
	underflow := call(t, server, "POST", changePath, `{"stock_records":[{"id":123,"quantity_change":-9223372036854775808},{"id":124,"quantity_change":0}]}`)
	assert.Equal(t, 200, underflow.status, "150 less 2^63 is in range")
	underflow = call(t, server, "POST", changePath, `{"stock_records":[{"id":123,"quantity_change":-151}]}`)
	assert.Equal(t, 400, underflow.status)
}

func FuzzWriteBody(f *testing.F) {
	for _, body := range []string{`{"stock_records":[{"id":122,"quantity":1}]}`, `{"a":"\\\"]","stock_records":[[],{},null,1,"x"]}`, ` null `, `[`} {
		f.Add(body)
	}
	server := oakratest.NewServer(shirts...)
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, body string) {
		r := newRequest(t, server, "POST", updatePath, body)
		r.Header.Set("Content-Type", "application/json")
		got, err := send(t, server, r) // a panic would end the connection
		require.NoError(t, err)
		require.Contains(t, []int{200, 400}, got.status)
		require.Equal(t, strings.Contains(got.body, "JSON parse error"), !json.Valid([]byte(body)))
	})
}
