package oakra_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/oakra/oakra-go"
)

// tableOutcome is the outcome that the documentation promises for a status that
// is not 2xx.
func tableOutcome(status int) oakra.Outcome {
	switch status {
	case 301, 302, 307, 308:
		return oakra.OutcomeNotApplied
	case 408, 460, 499:
		return oakra.OutcomeUnknown
	}
	if status/100 == 4 {
		return oakra.OutcomeNotApplied
	}
	return oakra.OutcomeUnknown
}

// FuzzResponse feeds any response to each of the calls. It must never panic,
// must return either an error or records, must have the outcome of the table,
// and must show no key.
func FuzzResponse(f *testing.F) {
	const key = stubKey
	bodies := []string{
		``, ` `, `null`, `[]`, `{}`, `[null]`, `[{}]`, `{"stock_records":null}`, `{"stock_records":[]}`, `{"stock_records":[null]}`,
		`[` + recordA + `]`, `[` + recordA + `,` + recordB + `]`, `{"stock_records":[` + recordA + `,` + recordB + `]}`,
		`{"stock_records":[` + recordA, `[` + recordA + `,`, `[` + recordA + `,` + recordB + `]x`, `[` + recordA + recordB + `]`,
		`[{"id":"1","location_id":"l","sku":"a","quantity":5.0},{"id":2e0,"location_id":"m","sku":"b","quantity":"-6.00"}]`,
		`[{"id":1,"location_id":"l","sku":"a","quantity":9223372036854775808},` + recordB + `]`,
		`[{"ID":1,"location_id":"l","sku":"a","quantity":5},` + recordB + `]`,
		`{"detail":"No."}`, `{"detail":["One.",2]}`, `{"stock_records":[{},{"quantity":["Too small."]}]}`, `["a","b"]`, `"text"`, `5`,
		`<html>Bad Gateway</html>`, `<html><title>Bad &amp; Gateway</title>`, `["You may not do this."]`, `[{"detail":"No."}]`, `{"error":{"message":"expired"}}`, `{"stock_records"`, `{"stock_records":`, `{"a":"stock_records`, `{"detail":"` + key + `"}`, `Bearer ` + key, `{"` + key + `":["x"]}`, `[{"` + key, `{"detail":"\u0073tub-key-0123456789abcdef"}`,
		`{"stock\u005frecords":[` + recordA + `,` + recordB + `]}`, "\xef\xbb\xbf[]", "\x1f\x8b\x08", `{"stock_records":[],"stock_records":[` + recordA + `]}`,
		strings.Repeat(`[`, 200), strings.Repeat(`{"a":`, 200),
	}
	for i, body := range bodies {
		f.Add(uint8(i), 200, []byte(body), "")
		f.Add(uint8(i+1), 200, []byte(body), "")
		f.Add(uint8(i+2), 201+i, []byte(body), "/x")
		f.Add(uint8(i), 400, []byte(body), "https://elsewhere.test/"+key)
		f.Add(uint8(i+1), 404, []byte(body), "")
	}
	for status := 200; status < 600; status++ {
		f.Add(uint8(status), status, []byte(`{"detail":"No."}`), "https://elsewhere.test/")
	}
	f.Fuzz(func(t *testing.T, op uint8, status int, body []byte, location string) {
		if status < 200 || status > 999 { // no final response
			return
		}
		call := stockCalls[int(op)%len(stockCalls)]
		client, err := oakra.NewClient(key,
			oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
				return stubResponse(status, string(body), "Location", location), nil
			})}),
			oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
		if err != nil {
			t.Fatal(err)
		}
		oakra.KeepRoutes(client)
		records, err := call.call(context.Background(), client)

		if err == nil {
			if status/100 != 2 || status == 202 || status == 207 {
				t.Fatalf("%d is a success", status)
			}
			checkRecords(t, call, body, records)
			return
		}
		if records != nil {
			t.Fatalf("an error and %d records", len(records))
		}
		checkError(t, call, status, body, err)
	})
}

// checkRecords looks for what a success must have.
func checkRecords(t *testing.T, call stockCall, body []byte, records []oakra.StockRecord) {
	t.Helper()
	if records == nil {
		t.Fatal("neither an error nor records")
	}
	if body = bytes.TrimPrefix(body, []byte("\ufeff")); !json.Valid(body) {
		t.Fatalf("a success that is not JSON: %q", body)
	}
	ids := map[int64]bool{}
	for _, record := range records {
		ids[record.ID] = true
	}
	if isWrite(call) && !(ids[1] && ids[2]) {
		t.Fatal("a record of the write is missing, and that is no error")
	}
}

// hasRecord reports whether text begins with an array, or an object with one as
// stock_records, whose first item is an object that ends: only that proves a write.
func hasRecord(text string) bool {
	d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, "\ufeff")))
	first, err := d.Token()
	for err == nil && first == json.Delim('{') {
		var name json.Token
		if name, err = d.Token(); err != nil {
			return false
		}
		if name == "stock_records" {
			first, err = d.Token()
			break
		}
		if name == json.Delim('}') {
			return false
		}
		err = d.Decode(new(json.RawMessage))
	}
	var record map[string]json.RawMessage
	return err == nil && first == json.Delim('[') && d.Decode(&record) == nil && record != nil
}

func checkError(t *testing.T, call stockCall, status int, body []byte, err error) {
	t.Helper()
	var e *oakra.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T is not *oakra.Error", err)
	}
	if e.Op != call.name || e.StatusCode != status {
		t.Fatalf("the error is of %s and %d", e.Op, e.StatusCode)
	}
	switch {
	case !isWrite(call):
		if e.Outcome != oakra.OutcomeNotApplied {
			t.Fatalf("a read is %v", e.Outcome)
		}
	case status/100 != 2 || status == 202:
		if e.Outcome != tableOutcome(status) {
			t.Fatalf("%d is %v", status, e.Outcome)
		}
	case e.Outcome == oakra.OutcomeNotApplied:
		t.Fatal("a 2xx says that nothing was applied")
	case e.Outcome == oakra.OutcomeApplied:
		if !hasRecord(string(body)) {
			t.Fatalf("applied, without a record: %q", body)
		}
	}
	if status/100 == 2 && !errors.Is(err, oakra.ErrBadResponse) {
		t.Fatalf("a 2xx that is not ErrBadResponse: %v", err)
	}
	if len(e.MissingIDs) > 0 && (e.Outcome != oakra.OutcomeUnknown || !isWrite(call)) {
		t.Fatalf("ids are missing, and the outcome is %v", e.Outcome)
	}
	if len(e.MissingIDs) == 0 && len(e.Records) > 0 && (status != 207 || e.Outcome != oakra.OutcomeUnknown) {
		t.Fatal("a partial result")
	}
	if oakra.OutcomeOf(err) != e.Outcome {
		t.Fatal("OutcomeOf says otherwise")
	}
	if retryable := oakra.Retryable(err); retryable && e.Outcome != oakra.OutcomeNotApplied ||
		status == 429 && !retryable {
		t.Fatalf("%d is retryable: %t", status, retryable)
	}
	if len(e.Body) > 64<<10 {
		t.Fatalf("%d bytes of the body are kept", len(e.Body))
	}
	for _, text := range []string{err.Error(), string(e.Body), e.LogValue().String(), e.Message} {
		if strings.Contains(text, stubKey) {
			t.Fatalf("the key is shown: %q", text)
		}
	}
}

// FuzzErrorBody checks how errors are read: no message is lost or made up, and
// none causes another failure.
func FuzzErrorBody(f *testing.F) {
	for _, body := range []string{
		``, `null`, `{}`, `[]`, `""`, `"No."`, `{"detail":"No."}`, `{"detail":null}`, `{"detail":[]}`, `{"detail":["a","b"]}`, `{"detail":{"code":"x"}}`,
		`{"quantity":["Too small."]}`, `{"stock_records":[{},{"quantity":["A valid integer is required."]}]}`, `{"stock_records":{"1":{"id":"x"}}}`,
		`{"":["x"]}`, `{"a":{"":""}}`, `{"detail":"` + stubKey + `"}`, `{"` + stubKey + `":"x","[app key]":"y"}`, `["` + stubKey + `"]`,
		`{"a":"\ud800"}`, `{"a":"\u0000"}`, "{\"a\":\"\xff\"}", `{"detail":"cut`, `<html>`, strings.Repeat(`{"a":[`, 500),
		strings.Repeat("x", 64<<10-10) + stubKey, `{"a":"` + strings.Repeat("x", 64<<10) + `"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, err := stockCalls[2].call(context.Background(), responding(t, 400, string(body)))
		checkError(t, stockCalls[2], 400, body, err)
		var e *oakra.Error
		errors.As(err, &e)
		var text string
		if json.Unmarshal(body, &text) == nil && !strings.Contains(string(body), "stub-key") && !strings.Contains(string(body), "0123456") && !strings.Contains(string(body), `\`) && e.Message != text && len(body) < 60<<10 && string(body) != "null" {
			t.Fatalf("the text %q came as %q", text, e.Message)
		}
		page := strings.Contains(strings.ToLower(string(body)), "<title")
		if !json.Valid(body) && !page && (e.Message != "" || len(e.Fields) > 0) && !strings.HasPrefix(string(body), "\ufeff") {
			t.Fatalf("a message %q %v of what is not JSON: %q", e.Message, e.Fields, body)
		}
		said := err.Error()
		for name, texts := range e.Fields {
			if len(texts) == 0 {
				t.Fatalf("no text for %q", name)
			}
			if len(e.Fields) <= 10 && !strings.Contains(said, name) {
				t.Fatalf("%q is not in %q", name, said)
			}
		}
		// Parts of the key may be cut out, and so may what could be one in disguise.
		plain := !strings.Contains(string(body), `\`) && len(body) <= 64<<10
		for i := 0; plain && i+4 <= len(stubKey); i++ {
			plain = !strings.Contains(strings.ToLower(string(body)), stubKey[i:i+4])
		}
		if plain && string(e.Body) != string(body) {
			t.Fatalf("the body %q came as %q", body, e.Body)
		}
	})
}
