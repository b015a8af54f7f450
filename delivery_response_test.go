package oakra_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestDeliveryReadableAnswer has the row without an error.
func TestDeliveryReadableAnswer(t *testing.T) {
	for _, row := range []struct {
		name string
		turn rawTurn
	}{
		{"array", rawAnswer(200, "", deliveryRecords)},
		{"object", rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`}`)},
		{"201", rawAnswer(201, "", deliveryRecords)},
		{"other fields", rawAnswer(200, "", `{"count":2,"stock_records":`+deliveryRecords+`,"next":null}`)},
		{"white space", rawAnswer(200, "", " \r\n"+deliveryRecords+"\n")},
		{"chunked", rawApply(rawWrite("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkText(deliveryRecords, 7)+"0\r\n\r\n", rawKeep))},
		{"until the end", rawApply(rawWrite("HTTP/1.1 200 OK\r\n\r\n"+deliveryRecords, rawClose))},
		{"gzip", rawAnswer(200, "Content-Encoding: gzip\r\n", gzipText(deliveryRecords))},
		{"text/html", rawAnswer(200, "Content-Type: text/html\r\n", deliveryRecords)},
		{"reset after", rawApply(rawWrite(rawText(200, "", deliveryRecords), rawReset))},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), rawClient(t, s))
				require.NoError(t, err)
				assert.Equal(t, deliveredRecords, records)
				assert.Equal(t, applied, oakra.OutcomeOf(err))
				checkLedger(t, op, err, 1, s.ledger())
			})
		})
	}
}

// TestDeliveryUnreadableAnswer has the rows of a 2xx that is not as it should be.
// The server has applied the write in all of them.
func TestDeliveryUnreadableAnswer(t *testing.T) {
	cut := func(header, body string, end rawEnd) rawTurn {
		return rawApply(rawWrite("HTTP/1.1 200 OK\r\n"+header+"\r\n"+body, end))
	}
	const length, chunked = "Content-Length: 999\r\n", "Transfer-Encoding: chunked\r\n"
	gzipped := gzipText(deliveryRecords)

	for _, row := range []struct {
		name  string
		turn  rawTurn
		began bool
		cut   bool // a List is sent again
		check func(t *testing.T, op deliveryOp, e *oakra.Error)
	}{
		{name: "end before the body", turn: cut(length, "", rawClose), cut: true},
		{name: "end before the chunked body", turn: cut(chunked, "", rawClose), cut: true},
		{name: "end before the records", turn: cut(length, `{"count":1,`, rawClose), cut: true},
		{name: "reset before the records", turn: cut(length, `{"count":1,`, rawReset), cut: true},
		{name: "end in the key before the records", turn: cut(length, `{"stock_rec`, rawClose), cut: true},
		{name: "end after the bracket", turn: cut(length, `[`, rawClose), began: true, cut: true},
		{name: "end in the array", turn: cut(length, `[`+firstRecord, rawClose), began: true, cut: true},
		{name: "reset in the array", turn: cut(length, `[`+firstRecord, rawReset), began: true, cut: true},
		{name: "half-closed in the array", turn: cut(length, `[`+firstRecord+`,{"id":`, rawHalfClose), began: true, cut: true},
		{name: "end in stock_records", turn: cut(length, `{"stock_records":[`+firstRecord+`,`, rawClose), began: true, cut: true},
		{name: "end in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawClose), began: true, cut: true},
		{name: "reset in the chunked array", turn: cut(chunked, chunkText(`[`+firstRecord, 20), rawReset), began: true, cut: true},
		{name: "end in a chunk", turn: cut(chunked, "ff\r\n["+firstRecord, rawClose), began: true, cut: true},
		{name: "last chunk missing", turn: cut(chunked, chunkText(deliveryRecords, 50), rawClose), began: true, cut: true},
		{name: "end after the records, before the length", turn: cut(length, deliveryRecords, rawClose), began: true, cut: true},
		{name: "cut gzip", turn: cut(length+"Content-Encoding: gzip\r\n", gzipped[:len(gzipped)-9], rawClose), began: true, cut: true},

		{name: "malformed in the array", turn: rawAnswer(200, "", `[{"id":1,,}]`), began: true},
		{name: "malformed in stock_records", turn: rawAnswer(200, "", `{"stock_records":[}`), began: true},
		{name: "JSON ends early", turn: rawAnswer(200, "", `[`+firstRecord+`,`), began: true, cut: true},
		{name: "null for a record", turn: rawAnswer(200, "", `[null]`), began: true},
		{name: "number for a record", turn: rawAnswer(200, "", `[1]`), began: true},
		{name: "fraction for a quantity", turn: rawAnswer(200, "", `[{"id":1,"location_id":"w","sku":"a","quantity":5.5}]`), began: true},
		{name: "record without fields", turn: rawAnswer(200, "", `[{}]`), began: true},
		{name: "trailing garbage", turn: rawAnswer(200, "", deliveryRecords+`x`), began: true},
		{name: "two values", turn: rawAnswer(200, "", deliveryRecords+deliveryRecords), began: true},
		{name: "JSON ends after stock_records", turn: rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`,`), began: true, cut: true},
		{name: "malformed after stock_records", turn: rawAnswer(200, "", `{"stock_records":`+deliveryRecords+`,]`), began: true},

		{name: "HTML", turn: rawAnswer(200, "Content-Type: text/html\r\n", "<html>Welcome</html>")},
		{name: "empty", turn: rawAnswer(200, "", "")},
		{name: "white space", turn: rawAnswer(200, "", "  \n")},
		{name: "204", turn: rawAnswer(204, "", "")},
		{name: "null", turn: rawAnswer(200, "", "null")},
		{name: "text", turn: rawAnswer(200, "", `"ok"`)},
		{name: "number", turn: rawAnswer(200, "", `1`)},
		{name: "malformed before the records", turn: rawAnswer(200, "", `{"a":}`)},
		{name: "object", turn: rawAnswer(200, "", `{}`)},
		{name: "object of others", turn: rawAnswer(200, "", `{"status":"ok","Stock_Records":[]}`)},
		{name: "stock_records null", turn: rawAnswer(200, "", `{"stock_records":null}`)},
		{name: "detail", turn: rawAnswer(200, "", `{"detail":"No such shop."}`),
			check: func(t *testing.T, _ deliveryOp, e *oakra.Error) {
				assert.Equal(t, "No such shop.", e.Message)
				assert.Contains(t, e.Error(), "No such shop.")
			}},
		{name: "202", turn: rawAnswer(202, "", deliveryRecords)},
		{name: "202 empty", turn: rawAnswer(202, "", "")},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachOp(t, func(t *testing.T, op deliveryOp) {
				s := newRawServer(t, row.turn)
				records, err := op.call(t.Context(), rawClient(t, s))
				want := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}
				if row.began {
					want.outcome = applied
				}
				if row.cut {
					want.resent, want.retryable = onlyList, onlyList
				}
				if name, _, _ := strings.Cut(row.name, " "); name == "202" || name == "204" {
					fmt.Sscan(name, &want.status)
				}
				attempts := want.attempts(op)
				e := want.check(t, op, records, err, attempts)
				s.close()
				checkLedger(t, op, err, attempts, s.ledger())
				assert.Empty(t, e.MissingIDs)
				if row.check != nil {
					row.check(t, op, e)
				}
			})
		})
	}
}

// TestDeliveryMissingIDs has the row of a 2xx whose records lack an id.
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
		{"the last", `[` + firstRecord + `]`, []int64{2}, deliveredRecords[:1]},
		{"another instead", `[` + firstRecord + `,` + third + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], {ID: 3, LocationID: "w", SKU: "c", Quantity: 7}}},
		{"one twice", `[` + firstRecord + `,` + firstRecord + `]`, []int64{2},
			[]oakra.StockRecord{deliveredRecords[0], deliveredRecords[0]}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				s := newRawServer(t, rawAnswer(200, "", row.body))
				records, err := op.call(t.Context(), rawClient(t, s))
				e := verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}.check(t, op, records, err, 1)
				assert.Equal(t, row.missing, e.MissingIDs)
				assert.Equal(t, row.records, e.Records)
				checkLedger(t, op, err, 1, s.ledger())
			}
			// A List names no ids, and takes what there is.
			s := newRawServer(t, rawAnswer(200, "", row.body))
			records, err := deliverList.call(t.Context(), rawClient(t, s))
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
				s := newRawServer(t, rawAnswer(200, "", tt.body))
				_, err := op.call(t.Context(), rawClient(t, s))
				require.NoError(t, err)
			}
		})
	}
}

// TestDeliveryTooLarge has the row of an answer over 64 MiB, and keeps the memory
// in view that it costs.
func TestDeliveryTooLarge(t *testing.T) {
	const limit = 64 << 20
	tooLarge := verdict{outcome: applied, status: 200, is: oakra.ErrBadResponse}
	padding := bytes.Repeat([]byte(" "), 64<<10)
	// pad writes a body that begins with text and is longer than the limit.
	pad := func(w io.Writer, text string) {
		io.WriteString(w, text)
		for range limit/len(padding) + 2 {
			if _, err := w.Write(padding); err != nil {
				return // the client has read enough
			}
		}
		io.WriteString(w, "]")
	}
	var bomb bytes.Buffer
	gz, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	pad(gz, "["+firstRecord)
	gz.Close()
	huge := func(status string) rawTurn {
		return func(c *rawConn) bool {
			c.read()
			fmt.Fprintf(c, "HTTP/1.1 %s\r\nConnection: close\r\n\r\n", status)
			pad(c, "["+firstRecord)
			return false
		}
	}
	for _, row := range []struct {
		name    string
		turn    rawTurn
		verdict verdict
	}{
		{"records", rawApply(huge("200 OK")), tooLarge},
		{"gzip bomb", rawApply(rawWrite(rawText(200, "Content-Encoding: gzip\r\n", bomb.String()), rawClose)), tooLarge},
		{"no records", rawApply(func(c *rawConn) bool {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			pad(c, `{"detail":"`)
			return false
		}), verdict{outcome: unknown, status: 200, is: oakra.ErrBadResponse}},
		{"refusal", huge("409 Conflict"), verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}},
		{"202", rawApply(huge("202 Accepted")), verdict{outcome: unknown, status: 202, is: oakra.ErrBadResponse}},
	} {
		for _, op := range []deliveryOp{deliverList, deliverChange} {
			t.Run(row.name+"/"+op.name, func(t *testing.T) {
				s := newRawServer(t, row.turn)
				client := rawClient(t, s)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				records, err := op.call(t.Context(), client)
				runtime.ReadMemStats(&after)
				e := row.verdict.check(t, op, records, err, 1)
				assert.LessOrEqual(t, len(e.Body), 64<<10)
				// Of both sides together, and of the race detector.
				assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), "bytes allocated on the way")
				s.close()
				checkLedger(t, op, err, 1, s.ledger())
			})
		}
	}
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
