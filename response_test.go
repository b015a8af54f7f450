package oakra_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

func TestResponseRead(t *testing.T) {
	const both = recordA + "," + recordB
	for _, row := range []struct{ name, body string }{
		{"array", `[` + both + `]`},
		{"object", `{"stock_records":[` + both + `]}`},
		{"white space", " \r\n\t[ " + recordA + " \n, " + recordB + " ] \r\n\t "},
		{"white space in records", strings.NewReplacer(",", " , ", ":", " : ", "{", "{ ", "}", "\n}").Replace(`{"stock_records":[` + both + `]}`)},
		{"fields in any order", `[{"quantity":5,"sku":"a","location_id":"l","id":1},
			{"sku":"b","id":2,"quantity":-6,"location_id":"m"}]`},
		{"unknown fields in the object", `{"count":2,"next":null,"meta":{"stock_records":[{"id":9}]},"stock_records":[` + both + `],"after":[1,{"x":"]"}]}`},
		{"unknown fields in a record", `[{"shop":{"id":7,"sku":"no","tags":["]","}"]},"id":1,"x":null,"location_id":"l","y":1.5e3,"sku":"a","quantity":5,"z":true},` + recordB + `]`},
		{"names of another case are others", `[{"ID":7,"Sku":"no","QUANTITY":9,"Location_ID":"x","id":1,"location_id":"l","sku":"a","quantity":5,"Id":8},` + recordB + `]`},
		{"escapes in names and texts", `[{"\u0069d":1,"location_id":"\u006c","sku":"\u0061","quantity":5},` + recordB + `]`},
	} {
		for _, call := range stockCalls {
			t.Run(row.name+"/"+call.name, func(t *testing.T) {
				records, err := call.call(t.Context(), responding(t, 200, row.body))
				require.NoError(t, err)
				require.Equal(t, recordsAB, records)
			})
		}
	}
}

func TestResponseOf2xx(t *testing.T) {
	for _, status := range []int{200, 201, 203, 206, 299} {
		for _, call := range stockCalls {
			records, err := call.call(t.Context(), responding(t, status, `[`+recordA+`,`+recordB+`]`))
			require.NoError(t, err, "%d", status)
			require.Equal(t, recordsAB, records)
		}
	}
	// "Accepted" is a promise, not a success.
	for _, call := range stockCalls {
		for _, body := range []string{`[` + recordA + `]`, `{"stock_records":[` + recordA + `]}`} {
			records, err := call.call(t.Context(), responding(t, 202, body))
			require.Nil(t, records)
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.Empty(t, requireError(t, err).Fields, "records are not messages")
			if isWrite(call) {
				require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
			}
		}
	}
}

func TestResponseEmptyList(t *testing.T) {
	for _, body := range []string{`[]`, `{"stock_records":[]}`, ` [ ] `, `{"a":1,"stock_records":[ ],"b":2}`} {
		records, err := stockCalls[0].call(t.Context(), responding(t, 200, body))
		require.NoError(t, err, "a SKU without records is not an error")
		require.Empty(t, records)
	}
}

func TestResponseTexts(t *testing.T) {
	for _, row := range []struct{ written, want string }{
		{`""`, ""},
		{`"é"`, "é"},
		{`"\u00e9"`, "é"},
		{`"\ud83d\udc9a 💚"`, "💚 💚"},
		{`"a\"b\\c\/d\b\f\n\r\te"`, "a\"b\\c/d\b\f\n\r\te"},
		{`"[{]}\\\","`, `[{]}\",`},
		{`"` + strings.Repeat("x", 70_000) + `"`, strings.Repeat("x", 70_000)},
		{`"null"`, "null"},
		{`"\u0000"`, "\x00"},
	} {
		records, err := responding(t, 200, fmt.Sprintf(`[{"id":1,"location_id":%[1]s,"sku":%[1]s,"quantity":5}]`, row.written)).
			Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1, Quantity: 5}})
		require.NoError(t, err, "%.40s", row.written)
		require.Equal(t, []oakra.StockRecord{{ID: 1, LocationID: row.want, SKU: row.want, Quantity: 5}}, records)
	}
}

// TestResponseNumbers checks the ways to write a number. Django writes decimals
// as strings, and other encoders add a point or an exponent. A whole number is
// read exactly, to the last digit of an int64.
func TestResponseNumbers(t *testing.T) {
	good := []struct {
		written string
		want    int64
	}{
		{`5`, 5}, {`"5"`, 5}, {`5.0`, 5}, {`"5.00"`, 5}, {`5e0`, 5}, {`5E0`, 5}, {`5e+0`, 5}, {`5e-0`, 5}, {`"5e0"`, 5},
		{`0`, 0}, {`-0`, 0}, {`0.0`, 0}, {`"0"`, 0}, {`"0.00"`, 0}, {`-0.0`, 0}, {`0e5`, 0},
		{`-5`, -5}, {`"-5"`, -5}, {`-5.0`, -5}, {`"-5.00"`, -5},
		{`5e1`, 50}, {`1.5e1`, 15}, {`50e-1`, 5}, {`1e18`, 1000000000000000000},
		{`9007199254740993`, 1<<53 + 1},
		{`"9007199254740993.000"`, 1<<53 + 1},
		{`-9007199254740993.0`, -(1<<53 + 1)},
		{`9223372036854775807`, math.MaxInt64},
		{`"9223372036854775807"`, math.MaxInt64},
		{`9223372036854775807.0`, math.MaxInt64},
		{`"9223372036854775807.00"`, math.MaxInt64},
		{`9223372036854775807e0`, math.MaxInt64},
		{`-9223372036854775808`, math.MinInt64},
		{`"-9223372036854775808"`, math.MinInt64},
		{`-9223372036854775808.0`, math.MinInt64},
		{`9223372036854775806`, math.MaxInt64 - 1},
		{`-9223372036854775807`, math.MinInt64 + 1},
	}
	for _, row := range good {
		t.Run(row.written, func(t *testing.T) {
			for _, body := range []string{
				fmt.Sprintf(`[{"id":1,"location_id":"l","sku":"a","quantity":%s},{"id":2,"location_id":"l","sku":"b","quantity":0}]`, row.written),
				fmt.Sprintf(`{"stock_records":[{"quantity":%s,"id":1,"location_id":"l","sku":"a"},{"id":2,"location_id":"l","sku":"b","quantity":0}]}`, row.written),
			} {
				for _, call := range stockCalls {
					records, err := call.call(t.Context(), responding(t, 200, body))
					require.NoError(t, err, call.name)
					require.Equal(t, row.want, records[0].Quantity)
				}
			}
			if row.want <= 0 || strings.ContainsAny(row.written, "eE") {
				return // TestFieldExponentID
			}
			// An id is read like a quantity, except that it has no exponent.
			records, err := stockCalls[0].call(t.Context(), responding(t, 200,
				fmt.Sprintf(`[{"id":%s,"location_id":"l","sku":"a","quantity":1}]`, row.written)))
			require.NoError(t, err)
			require.Equal(t, row.want, records[0].ID)
		})
	}
	for _, written := range []string{
		`5.5`, `"5.5"`, `0.1`, `-0.5`, `5e-1`, `1e-400`, `9007199254740993.5`,
		`9223372036854775808`, `"9223372036854775808"`, `-9223372036854775809`, `9223372036854775807.5`,
		`92233720368547758070`, `18446744073709551621`, `1e19`, `1e400`, `1e99999999999`, `-1e99999999999`,
		`""`, `" "`, `"five"`, `"NaN"`, `"Infinity"`, `"0x5"`, `"5_0"`, `"--5"`, `"5."`, `"5 units"`, `"1,000"`,
		`null`, `true`, `false`, `[]`, `[5]`, `{}`, `{"value":5}`,
		`05`, `+5`, `.5`, `5.`, `NaN`, `5e`, `0x5`, `-`,
	} {
		t.Run("refused "+written, func(t *testing.T) {
			for _, field := range []string{"id", "quantity"} {
				record := `{"location_id":"l","sku":"a","id":1,"quantity":1}`
				record = strings.Replace(record, `"`+field+`":1`, `"`+field+`":`+written, 1)
				for _, call := range stockCalls {
					records, err := call.call(t.Context(), responding(t, 200, `[`+record+`,`+recordB+`]`))
					require.Nil(t, records)
					require.ErrorIs(t, err, oakra.ErrBadResponse, "%s as the %s", written, field)
				}
			}
		})
	}
}

// TestResponseBad checks that a response that breaks the API reference is an
// error. It must not become a record with a zero in it, and the records before
// the fault are not returned. TestDeliveryUnreadableResponse has further rows.
func TestResponseBad(t *testing.T) {
	const (
		began  = oakra.OutcomeApplied // since a record was read to its end
		absent = oakra.OutcomeUnknown // since the response may be a refusal
	)
	tests := []struct {
		name string
		body string
		want oakra.Outcome // outcome of a write
	}{
		{"true", "true", absent},
		{"records of another name", `{"records":[` + recordA + `,` + recordB + `]}`, absent},
		{"records in another case", `{"Stock_Records":[` + recordA + `,` + recordB + `]}`, absent},
		{"records deeper", `{"data":{"stock_records":[` + recordA + `,` + recordB + `]}}`, absent},
		{"a single record", recordA, absent},
		{"two objects", `{}{"stock_records":[]}`, absent},
		{"null after a record", `[` + recordA + `,null]`, began},
		{"a list for a record", `[[` + recordA + `]]`, absent},
		{"no id", `[{"location_id":"l","sku":"a","quantity":5}]`, absent},
		{"no sku", `[{"id":1,"location_id":"l","quantity":5}]`, absent},
		{"no location", `[{"id":1,"sku":"a","quantity":5}]`, absent},
		{"no quantity", `[{"id":1,"location_id":"l","sku":"a"}]`, absent},
		{"no quantity after a record", `{"stock_records":[` + recordA + `,{"id":2,"location_id":"l","sku":"a"}]}`, began},
		{"quantity in another case", `[{"id":1,"location_id":"l","sku":"a","Quantity":5}]`, absent},
		{"id in another case", `[{"ID":1,"location_id":"l","sku":"a","quantity":5}]`, absent},
		{"null sku", `[{"id":1,"location_id":"l","sku":null,"quantity":5}]`, absent},
		{"null location", `[{"id":1,"location_id":null,"sku":"a","quantity":5}]`, absent},
		{"a number for a sku", `[{"id":1,"location_id":"l","sku":5,"quantity":5}]`, absent},
		{"cut in a record", `[` + recordA + `,{"id":2,"loc`, began},
		{"cut after a record", `[` + recordA, began},
		{"cut after a comma", `{"stock_records":[` + recordA + `,`, began},
		{"cut before the end", `{"stock_records":[` + recordA + `,` + recordB + `]`, began},
		{"cut before the records", `{"count":2,`, absent},
		{"garbage after an object", `{"stock_records":[` + recordA + `,` + recordB + `]}}`, began},
		{"a comma too many", `[` + recordA + `,` + recordB + `,]`, began},
		{"a comma too few", `[` + recordA + recordB + `]`, began},
		{"single quotes", `[{'id':1,'location_id':'l','sku':'a','quantity':5}]`, absent},
		{"a line break in a text", "[{\"id\":1,\"location_id\":\"l\nm\",\"sku\":\"a\",\"quantity\":5}]", absent},
		{"a bad escape", `[{"id":1,"location_id":"\x","sku":"a","quantity":5}]`, absent},
		{"bad syntax in unknown field", `[{"id":1,"location_id":"l","sku":"a","quantity":5,"x":[1,}]`, absent},
	}
	for _, tt := range tests {
		for _, call := range stockCalls {
			t.Run(tt.name+"/"+call.name, func(t *testing.T) {
				records, err := call.call(t.Context(), responding(t, 200, tt.body))
				require.Nil(t, records)
				require.ErrorIs(t, err, oakra.ErrBadResponse)
				e := requireError(t, err)
				require.Equal(t, call.name, e.Op)
				require.Equal(t, 200, e.StatusCode)
				require.Nil(t, e.Records, "no partial result")
				require.Equal(t, tt.body, string(e.Body))
				want := oakra.OutcomeNotApplied
				if isWrite(call) {
					want = tt.want
				}
				require.Equal(t, want, e.Outcome, err)
				// A List that was cut short may arrive whole the next time.
				cut := strings.HasPrefix(tt.name, "cut")
				require.Equal(t, !isWrite(call) && cut, oakra.Retryable(err))
			})
		}
	}
}

// zipped serves what write writes, compressed, without a Content-Length, and
// without the last cut bytes.
func zipped(t *testing.T, cut int, write func(io.Writer)) *oakra.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			http.Error(w, "not asked for", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err != nil {
			panic(err)
		}
		write(z)
		z.Close()
		w.Write(b.Bytes()[:b.Len()-cut])
	}))
	t.Cleanup(server.Close)
	client, err := oakra.NewClient(stubKey, oakra.WithBaseURL(server.URL), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func TestResponseGzip(t *testing.T) {
	client := zipped(t, 0, func(w io.Writer) { io.WriteString(w, `[`+recordA+`,`+recordB+`]`) })
	for _, call := range stockCalls {
		records, err := call.call(t.Context(), client)
		require.NoError(t, err)
		require.Equal(t, recordsAB, records)
	}
	// The checksum at the end shows whether all bytes arrived unchanged.
	client = zipped(t, 6, func(w io.Writer) { io.WriteString(w, `[`+recordA+`,`+recordB+`]`) })
	for _, call := range stockCalls {
		records, err := call.call(t.Context(), client)
		require.Nil(t, records)
		require.ErrorIs(t, err, oakra.ErrBadResponse)
		if isWrite(call) {
			require.Equal(t, oakra.OutcomeApplied, oakra.OutcomeOf(err))
		}
	}
}

// TestResponseLarge checks that a large response below the limit is read.
func TestResponseLarge(t *testing.T) {
	const n = 20_000
	var body strings.Builder
	body.WriteString(`{"stock_records":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"id":%d,"location_id":"warehouse-%d","sku":"sku-%d","quantity":%d}`, i+1, i%3, i, -i)
	}
	body.WriteString(`]}`)
	updates := make([]oakra.StockUpdate, n)
	for i := range updates {
		updates[i].ID = int64(i) + 1
	}
	records, err := responding(t, 200, body.String()).Stock.Update(t.Context(), updates)
	require.NoError(t, err)
	require.Len(t, records, n)
	for i, record := range records {
		if record != (oakra.StockRecord{ID: int64(i) + 1, LocationID: "warehouse-" + strconv.Itoa(i%3), SKU: "sku-" + strconv.Itoa(i), Quantity: int64(-i)}) {
			t.Fatalf("record %d is %+v", i, record)
		}
	}
}

// TestResponseErrorBody checks that an error keeps at most 64 KiB of the body.
func TestResponseErrorBody(t *testing.T) {
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		body := strings.Repeat("x", size)
		_, err := stockCalls[2].call(t.Context(), responding(t, 400, body))
		e := requireError(t, err)
		require.Len(t, e.Body, min(size, 64<<10))
		require.Equal(t, body[:len(e.Body)], string(e.Body))
		require.NotContains(t, err.Error(), "xxx", "the body is not part of the text")
	}
}
