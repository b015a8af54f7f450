package oakra_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestDeliveryReadableResponse has the row without an error.
func TestDeliveryReadableResponse(t *testing.T) {
	for _, row := range []struct {
		name string
		turn rawTurn
	}{
		{"array", rawRespond(200, "", deliveryRecords)},
		{"object", rawRespond(200, "", `{"stock_records":`+deliveryRecords+`}`)},
		{"201", rawRespond(201, "", deliveryRecords)},
		{"other fields", rawRespond(200, "", `{"count":2,"stock_records":`+deliveryRecords+`,"next":null}`)},
		{"white space", rawRespond(200, "", " \r\n"+deliveryRecords+"\n")},
		{"chunked", rawApply(rawWrite("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkText(deliveryRecords, 7)+"0\r\n\r\n", rawKeep))},
		{"until the end", rawApply(rawWrite("HTTP/1.1 200 OK\r\n\r\n"+deliveryRecords, rawClose))},
		{"gzip", rawRespond(200, "Content-Encoding: gzip\r\n", gzipText(deliveryRecords))},
		{"text/html", rawRespond(200, "Content-Type: text/html\r\n", deliveryRecords)},
		{"reset after", rawApply(rawWrite(rawText(200, "", deliveryRecords), rawResetAfter))},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), keptClient(t, s))
				require.NoError(t, err)
				assert.Equal(t, deliveredRecords, records)
				assert.Equal(t, applied, oakra.OutcomeOf(err))
				checkLedger(t, op, err, 1, s.ledger())
			})
		})
	}
}

// TestDeliveryUnreadableResponse has the rows of a 2xx response that cannot be
// used. The server has applied the write in all of them.
func TestDeliveryUnreadableResponse(t *testing.T) {
	cut := func(header, body string, end rawEnd) rawTurn {
		return rawApply(rawWrite("HTTP/1.1 200 OK\r\n"+header+"\r\n"+body, end))
	}
	const length, chunked = "Content-Length: 999\r\n", "Transfer-Encoding: chunked\r\n"
	gzipped := gzipText(deliveryRecords)

	for _, row := range []struct {
		name  string
		turn  rawTurn
		whole bool // whether a record was read to its end
		cut   bool // whether the body ended too early
		check func(t *testing.T, op deliveryOp, e *oakra.Error)
	}{
		{name: "end before the body", turn: cut(length, "", rawClose), cut: true},
		{name: "end before the chunked body", turn: cut(chunked, "", rawClose), cut: true},
		{name: "end before the records", turn: cut(length, `{"count":1,`, rawClose), cut: true},
		{name: "reset before the records", turn: cut(length, `{"count":1,`, rawResetAfter), cut: true},
		{name: "end in the key before the records", turn: cut(length, `{"stock_rec`, rawClose), cut: true},
		{name: "end after the bracket", turn: cut(length, `[`, rawClose), cut: true},
		{name: "end in the first record", turn: cut(length, firstRecord[:len(firstRecord)-1], rawClose), cut: true},
		{name: "end in the first record of stock_records", turn: cut(length, `{"stock_records":[`+firstRecord[:len(firstRecord)-1], rawClose), cut: true},
		{name: "end in the array", turn: cut(length, `[`+firstRecord, rawClose), whole: true, cut: true},
		{name: "reset in the array", turn: cut(length, `[`+firstRecord, rawResetAfter), whole: true, cut: true},
		{name: "half-closed in the array", turn: cut(length, `[`+firstRecord+`,{"id":`, rawHalfClose), whole: true, cut: true},
		{name: "end in stock_records", turn: cut(length, `{"stock_records":[`+firstRecord+`,`, rawClose), whole: true, cut: true},
		{name: "end in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawClose), whole: true, cut: true},
		{name: "reset in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawResetAfter), whole: true, cut: true},
		{name: "end in a chunk", turn: cut(chunked, "ff\r\n["+firstRecord, rawClose), whole: true, cut: true},
		{name: "last chunk missing", turn: cut(chunked, chunkText(deliveryRecords, 50), rawClose), whole: true, cut: true},
		{name: "end after the records, before the length", turn: cut(length, deliveryRecords, rawClose), whole: true, cut: true},
		{name: "cut gzip", turn: cut(length+"Content-Encoding: gzip\r\n", gzipped[:len(gzipped)-9], rawClose), whole: true, cut: true},

		{name: "malformed in the array", turn: rawRespond(200, "", `[{"id":1,,}]`)},
		{name: "malformed after a record", turn: rawRespond(200, "", `[`+firstRecord+`,{"id":1,,}]`), whole: true},
		{name: "malformed in stock_records", turn: rawRespond(200, "", `{"stock_records":[}`)},
		{name: "JSON ends early", turn: rawRespond(200, "", `[`+firstRecord+`,`), whole: true, cut: true},
		{name: "null for a record", turn: rawRespond(200, "", `[null]`)},
		{name: "null after a record", turn: rawRespond(200, "", `[`+firstRecord+`,null]`), whole: true},
		{name: "number for a record", turn: rawRespond(200, "", `[1]`)},
		{name: "fraction for a quantity", turn: rawRespond(200, "", `[{"id":1,"location_id":"w","sku":"a","quantity":5.5}]`)},
		{name: "record without fields", turn: rawRespond(200, "", `[{}]`)},
		{name: "texts for records", turn: rawRespond(200, "", `["You may not do this."]`),
			check: func(t *testing.T, _ deliveryOp, e *oakra.Error) { assert.Equal(t, "You may not do this.", e.Message) }},
		{name: "details for records", turn: rawRespond(200, "", `[{"detail":"You may not."}]`),
			check: func(t *testing.T, _ deliveryOp, e *oakra.Error) { assert.Equal(t, "You may not.", e.Message) }},
		{name: "details in stock_records", turn: rawRespond(200, "", `{"stock_records":[{"detail":"You may not."}]}`)},
		{name: "trailing garbage", turn: rawRespond(200, "", deliveryRecords+`x`), whole: true},
		{name: "two values", turn: rawRespond(200, "", deliveryRecords+deliveryRecords), whole: true},
		{name: "JSON ends after stock_records", turn: rawRespond(200, "", `{"stock_records":`+deliveryRecords+`,`), whole: true, cut: true},
		{name: "malformed after stock_records", turn: rawRespond(200, "", `{"stock_records":`+deliveryRecords+`,]`), whole: true},

		{name: "HTML", turn: rawRespond(200, "Content-Type: text/html\r\n", "<html>Welcome</html>")},
		{name: "empty", turn: rawRespond(200, "", "")},
		{name: "white space", turn: rawRespond(200, "", "  \n")},
		{name: "204", turn: rawRespond(204, "", "")},
		{name: "null", turn: rawRespond(200, "", "null")},
		{name: "text", turn: rawRespond(200, "", `"ok"`)},
		{name: "number", turn: rawRespond(200, "", `1`)},
		{name: "malformed before the records", turn: rawRespond(200, "", `{"a":}`)},
		{name: "object", turn: rawRespond(200, "", `{}`)},
		{name: "object of others", turn: rawRespond(200, "", `{"status":"ok","Stock_Records":[]}`)},
		{name: "stock_records null", turn: rawRespond(200, "", `{"stock_records":null}`)},
		{name: "detail", turn: rawRespond(200, "", `{"detail":"No such shop."}`),
			check: func(t *testing.T, _ deliveryOp, e *oakra.Error) {
				assert.Equal(t, "No such shop.", e.Message)
				assert.Contains(t, e.Error(), "No such shop.")
			}},
		{name: "202", turn: rawRespond(202, "", deliveryRecords)},
		{name: "202 empty", turn: rawRespond(202, "", "")},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), keptClient(t, s))
				want := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}
				if row.whole {
					want.outcome = applied
				}
				switch {
				case row.cut && row.whole:
					want.resent, want.retryable = onlyList, onlyList
				case row.cut:
					want.resent, want.retryable = listAndUpdate, onlyList
				}
				if name, _, _ := strings.Cut(row.name, " "); name == "202" || name == "204" {
					fmt.Sscan(name, &want.status)
				}
				attempts := want.attempts(op)
				e := want.check(t, op, records, err, attempts)
				s.close()
				checkLedger(t, op, err, attempts, s.ledger())
				assert.Empty(t, e.MissingIDs)
				assert.Nil(t, e.Records, "no partial result")
				if row.check != nil {
					row.check(t, op, e)
				}
			})
		})
	}
}

// TestDeliveryMissingIDs has the row of a 2xx response without a record for
// some id.
func TestDeliveryMissingIDs(t *testing.T) {
	const third = `{"id":3,"location_id":"w","sku":"c","quantity":7}`
	for _, row := range []struct {
		name    string
		body    string
		missing []int64
		records []oakra.StockRecord
	}{
		{"none at all", `[]`, []int64{1, 2}, []oakra.StockRecord{}},
		{"none in the object", `{"stock_records":[]}`, []int64{1, 2}, []oakra.StockRecord{}},
		{"the first", `[` + secondRecord + `]`, []int64{1}, deliveredRecords[1:]},
		{"the first, in the object", `{"stock_records":[` + secondRecord + `]}`, []int64{1}, deliveredRecords[1:]},
		{"the last", `[` + firstRecord + `]`, []int64{2}, deliveredRecords[:1]},
		{"another instead", `[` + firstRecord + `,` + third + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], {ID: 3, LocationID: "w", SKU: "c", Quantity: 7}}},
		{"another instead of the first", `[` + third + `,` + secondRecord + `]`, []int64{1},
			[]oakra.StockRecord{{ID: 3, LocationID: "w", SKU: "c", Quantity: 7}, deliveredRecords[1]}},
		{"one twice", `[` + firstRecord + `,` + firstRecord + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], deliveredRecords[0]}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				s := newRawServer(t, rawRespond(200, "", row.body))
				records, err := op.call(t.Context(), keptClient(t, s))
				e := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
				assert.Equal(t, row.missing, e.MissingIDs)
				assert.Equal(t, row.records, e.Records)
				assert.Regexp(t, fmt.Sprintf(`\b%d\b`, row.missing[0]), err.Error())
				checkLedger(t, op, err, 1, s.ledger())
			}
			// A List has no ids, and returns the records that there are.
			s := newRawServer(t, rawRespond(200, "", row.body))
			records, err := deliverList.call(t.Context(), keptClient(t, s))
			if strings.Contains(row.body, third) { // which was not requested
				e := verdict{status: 200, is: oakra.ErrBadResponse}.check(t, deliverList, records, err, 1)
				assert.Contains(t, err.Error(), `"c"`)
				assert.Nil(t, e.Records)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, row.records, records)
		})
	}
	for _, tt := range []struct{ name, body string }{
		{"other order", `[` + secondRecord + `,` + firstRecord + `]`},
		{"one more", `[` + firstRecord + `,` + third + `,` + secondRecord + `]`},
		{"id as a text", `[{"id":"2","location_id":"w","sku":"b","quantity":6},{"id":1.0,"location_id":"w","sku":"a","quantity":"5"}]`},
		{"in the object", `{"stock_records":[` + secondRecord + `,` + firstRecord + `]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				s := newRawServer(t, rawRespond(200, "", tt.body))
				_, err := op.call(t.Context(), keptClient(t, s))
				require.NoError(t, err)
			}
		})
	}
}

// TestDeliveryMultiStatus has the row of 207, which proves nothing, whatever it holds.
// The error has the records of the response.
func TestDeliveryMultiStatus(t *testing.T) {
	const length = "HTTP/1.1 207 Multi-Status\r\nContent-Length: 999\r\n\r\n"
	for _, row := range []struct {
		name    string
		turn    rawTurn
		records []oakra.StockRecord
		missing []int64
	}{
		{"all records", rawRespond(207, "", deliveryRecords), deliveredRecords, nil},
		{"all records in an object", rawRespond(207, "", `{"stock_records":`+deliveryRecords+`}`), deliveredRecords, nil},
		{"one record", rawRespond(207, "", `[`+firstRecord+`]`), deliveredRecords[:1], []int64{2}},
		{"one record, one error", rawRespond(207, "", `[`+firstRecord+`,{"detail":"No."}]`), deliveredRecords[:1], nil},
		{"cut after a record", rawApply(rawWrite(length+"["+firstRecord, rawClose)), deliveredRecords[:1], nil},
		{"cut before the records", rawApply(rawWrite(length, rawClose)), nil, nil},
		{"statuses", rawRespond(207, "", `{"results":[{"status":200},{"status":409}]}`), nil, nil},
		{"a page", rawRespond(207, "", "<html>"), nil, nil},
		{"nothing", rawRespond(207, "", ""), nil, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), keptClient(t, s))
				e := verdict{outcome: unknown, status: 207, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
				if op.name == "list" {
					assert.Empty(t, e.Records)
					assert.Empty(t, e.MissingIDs)
				} else {
					assert.ElementsMatch(t, row.records, e.Records)
					assert.Equal(t, row.missing, e.MissingIDs)
				}
				checkLedger(t, op, err, 1, s.ledger())
			})
		})
	}
}

// TestDeliveryStrictList has what makes a List an error although its records are
// readable. A write is not affected, since the ids prove it.
func TestDeliveryStrictList(t *testing.T) {
	const third = `{"id":3,"location_id":"w","sku":"c","quantity":7}`
	type row struct {
		name   string
		header string
		body   string
		says   string // "" if it is a success
		resent who
	}
	rows := []row{}
	for _, age := range []string{"1", "120", "31536000", "00001", "1.5"} {
		rows = append(rows, row{"Age: " + age, "Age: " + age + "\r\n", deliveryRecords, "Age", onlyList})
	}
	for _, age := range []string{"0", "00", " 0 "} {
		rows = append(rows, row{"Age: " + age, "Age: " + age + "\r\n", deliveryRecords, "", nobody})
	}
	for _, link := range []string{
		`</x?page=2>; rel="next"`, `</x?page=2>; rel=next`, `</x?page=2>;rel=NEXT`, `</x>; title="a"; Rel="next"`, `</x>; rel="last next"`,
		`</a>; rel="prev", </x?page=2>; rel="next"`, `</x?page=2>; rel="next", </a>; rel="last"`, `</x>; rel = "next"`,
	} {
		rows = append(rows, row{"Link: " + link, "Link: " + link + "\r\n", deliveryRecords, "further pages", nobody})
	}
	rows = append(rows, row{"second Link", "Link: </a>; rel=prev\r\nLink: </b>; rel=next\r\n", deliveryRecords, "further pages", nobody})
	for _, link := range []string{`</x>; rel="prev"`, `</next>; rel=last`, `</x>; rel="nextish"`, `</x>; title="next"`, `</x>`} {
		rows = append(rows, row{"Link: " + link, "Link: " + link + "\r\n", deliveryRecords, "", nobody})
	}
	rows = append(rows,
		row{"another SKU", "", `[` + firstRecord + `,` + third + `]`, `"c"`, nobody},
		row{"another SKU first", "", `[` + third + `,` + firstRecord + `]`, `"c"`, nobody},
		row{"SKUs in another case", "", strings.NewReplacer(`"a"`, `"A"`, `"b"`, `"B"`).Replace(deliveryRecords), "", nobody},
		row{"SKU with a space", "", strings.ReplaceAll(deliveryRecords, `"b"`, `"b "`), `"b "`, nobody},
		row{"a record twice", "", `[` + firstRecord + `,` + firstRecord + `]`, "", nobody},
		row{"in another order", "", `[` + secondRecord + `,` + firstRecord + `,` + secondRecord + `]`, "", nobody},
		row{"fewer", "", `[` + secondRecord + `]`, "", nobody},
	)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newRawServer(t, rawRespond(200, row.header, row.body))
			records, err := deliverList.call(t.Context(), rawClient(t, s))
			if row.says == "" {
				require.NoError(t, err)
				require.NotEmpty(t, records)
				return
			}
			want := verdict{resent: row.resent, retryable: row.resent, status: 200, is: oakra.ErrBadResponse}
			want.check(t, deliverList, records, err, want.attempts(deliverList))
			assert.ErrorContains(t, err, row.says)
			assert.Equal(t, want.attempts(deliverList), s.ledger().turns)

			if row.header != "" { // another read is fresh, and a write is not a read
				s.play(rawRespond(200, row.header, row.body), deliverOK)
				_, err = deliverList.call(t.Context(), rawClient(t, s))
				assert.Equal(t, row.resent == onlyList, err == nil)
				for _, op := range routedOps {
					s.play(rawRespond(200, row.header, row.body))
					_, err = op.call(t.Context(), rawClient(t, s))
					assert.NoError(t, err)
				}
			}
		})
	}

	t.Run("another location", func(t *testing.T) {
		for location, ok := range map[string]bool{"w": true, "W": true, "w2": false, "w ": false} {
			s := newRawServer(t, rawRespond(200, "", strings.ReplaceAll(deliveryRecords, `"w"`, `"`+location+`"`)))
			_, err := rawClient(t, s).Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a", "b"}, LocationID: "w"})
			if ok {
				assert.NoError(t, err)
				continue
			}
			assert.ErrorIs(t, err, oakra.ErrBadResponse)
			assert.ErrorContains(t, err, `"`+location+`"`)
			assert.False(t, oakra.Retryable(err))
		}
	})
}

// TestDeliveryTooLarge has the row of a response over 64 MiB. It also checks that
// the rest of the response is not read, and how much memory the call takes.
func TestDeliveryTooLarge(t *testing.T) {
	const limit = 64 << 20
	inRecords := verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}
	noRecords := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}
	fill := func(text string) []byte { return bytes.Repeat([]byte(text), 64<<10/len(text)) }
	spaces := fill(" ")
	// pad writes a body that begins with head and is 4 MiB longer than the limit.
	pad := func(w io.Writer, head string, filling []byte) {
		io.WriteString(w, head)
		for range (limit + 4<<20) / len(filling) {
			if _, err := w.Write(filling); err != nil {
				return // the client has read enough
			}
		}
		io.WriteString(w, "]")
	}
	huge := func(status, head string, filling []byte) rawTurn {
		return func(c *rawConn) bool {
			c.read()
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nConnection: close\r\n\r\n", status)
			pad(c, head, filling)
			return false
		}
	}
	zipped := func(body string) rawTurn {
		return rawApply(rawWrite(rawText(200, "Content-Encoding: gzip\r\n", body), rawClose))
	}
	var bomb bytes.Buffer
	gz, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	pad(gz, "["+firstRecord, spaces)
	gz.Close()
	// Compressed streams may follow each other: one can be sent many times.
	const block = 1 << 20
	streams := gzipText("["+firstRecord+","+secondRecord) +
		strings.Repeat(gzipText(strings.Repeat(" ", block)), limit/block+1) + gzipText("]")
	require.Less(t, len(streams), limit/100)

	both := []deliveryOp{deliverList, deliverChange} // some rows take long, and one is enough
	for _, row := range []struct {
		name    string
		turn    rawTurn
		verdict verdict
		ops     []deliveryOp
	}{
		{"records", rawApply(huge("200 OK", "["+firstRecord, spaces)), inRecords, both},
		{"gzip bomb", zipped(bomb.String()), inRecords, both},
		{"gzip bomb of many streams", zipped(streams), inRecords, both[1:]},
		{"no records", rawApply(huge("200 OK", `{"detail":"`, spaces)), noRecords, both},
		{"refusal", huge("409 Conflict", "["+firstRecord, spaces), verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}, both},
		{"202", rawApply(huge("202 Accepted", "["+firstRecord, spaces)), verdict{outcome: unknown, status: 202, is: oakra.ErrBadResponse}, both},
		{"white space first", rawApply(huge("200 OK", "", spaces)), noRecords, both[1:]},
		{"white space in the array", rawApply(huge("200 OK", "[", spaces)), inRecords, both[:1]},
		{"unknown field", rawApply(huge("200 OK", `{"x":[`, fill("1,"))), noRecords, both},
		{"text in an unknown field", rawApply(huge("200 OK", `{"x":"`, fill("x"))), noRecords, both},
		{"long SKU", rawApply(huge("200 OK", `[{"sku":"`, fill("x"))), noRecords, both},
		{"long SKU after a record", rawApply(huge("200 OK", `[`+firstRecord+`,{"sku":"`, fill("x"))), inRecords, both},
		{"digits", rawApply(huge("200 OK", `[{"id":`, fill("1"))), noRecords, both},
		{"nesting", rawApply(huge("200 OK", `{"x":`, fill("["))), noRecords, both},
		{"page", rawApply(huge("200 OK", "<html>", fill("x"))), noRecords, both},
	} {
		for _, op := range row.ops {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				s := newRawServer(t, row.turn)
				transport := rawTransport(t, s)
				var read atomic.Int64
				transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := s.dial(ctx, network, addr)
					return countingConn{conn, &read}, err
				}
				client := oakra.KeepRoutes(rawClientOn(t, s.baseURL, transport))
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				records, err := op.call(t.Context(), client)
				runtime.ReadMemStats(&after)
				e := row.verdict.check(t, op, records, err, 1)
				assert.LessOrEqual(t, len(e.Body), 64<<10)
				assert.LessOrEqual(t, read.Load(), int64(limit+1<<20), "bytes read")
				assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "bytes allocated by both sides")
				s.close()
				checkLedger(t, op, err, 1, s.ledger())
			})
		}
	}
}

// TestDeliveryLengthIsALie checks that memory grows with what has arrived, and not with
// what Content-Length promises.
func TestDeliveryLengthIsALie(t *testing.T) {
	const records = 300
	var body strings.Builder
	body.WriteString("[" + firstRecord)
	for range records - 1 {
		body.WriteString("," + secondRecord)
	}
	for _, promised := range []int64{1 << 20, 60 << 20, 64 << 20, 1 << 40} {
		eachOp(t, func(t *testing.T, op deliveryOp) {
			s := newRawServer(t, rawApply(rawWrite(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", promised, body.String()), rawClose)))
			client := keptClient(t, s, oakra.WithRetryPolicy(rawPolicy(1)))
			op.call(t.Context(), client) // the pools are filled
			s.play(s.script...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			records, err := op.call(t.Context(), client)
			runtime.ReadMemStats(&after)
			verdict{outcome: applied, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
			assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), "bytes allocated by both sides for %d that came", body.Len())
		})
	}
}

// countingConn counts the bytes that are read from it.
type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func chunkText(text string, size int) string {
	var b strings.Builder
	for part := range slices.Chunk([]byte(text), size) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(part), part)
	}
	return b.String()
}

func gzipText(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, text)
	w.Close()
	return b.String()
}
