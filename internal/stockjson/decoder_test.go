package stockjson

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

const noLimit = 1 << 40

var raceEnabled bool

func TestNumberForms(t *testing.T) {
	for form, want := range map[string]string{
		`5`: "5", `"5"`: "5", `5.0`: "5", `"5.00"`: "5", `5e0`: "5", `500e-2`: "5", `-0`: "0", `"-0"`: "0", `0.0`: "0", `-7`: "-7", `5E+1`: "50", `0.5e1`: "5",
		`9007199254740993`: "9007199254740993", `9223372036854775807`: "9223372036854775807", `-9223372036854775808`: "-9223372036854775808",
		`"9223372036854775807"`: "9223372036854775807", `9223372036854775807.000`: "9223372036854775807", `922337203685477580.7e1`: "9223372036854775807",
		`0e999999999`: "0", `"0e999999999"`: "0", `"\u0035"`: "5", `3.83e+15`: "3830000000000000", `"1e2"`: "100", `0e0`: "0", `122.0`: "122", `"122"`: "122",
		`5.5`: "not a whole number", `"5.5"`: "not a whole number", `5e-1`: "not a whole number", `1e-999999999`: "not a whole number",
		`1e19`: "out of range", `9223372036854775808`: "out of range", `-9223372036854775809`: "out of range",
		`1e999999999`: "out of range", `"1e999999999"`: "out of range", `1e99999999999999999999`: "out of range",
		`"05"`: "not a whole number", `"+5"`: "not a whole number", `" 5"`: "not a whole number", `"5 "`: "not a whole number",
		`""`: "not a whole number", `"5."`: "not a whole number", `"0x5"`: "not a whole number", `null`: "not a whole number",
		`true`: "not a whole number", `[5]`: "not a whole number", `{}`: "not a whole number", `"NaN"`: "not a whole number",
		`5.`: "invalid character", `05`: "invalid character", `+5`: "invalid character", `.5`: "invalid character", `NaN`: "invalid character",
	} {
		for _, name := range []string{"id", "quantity"} {
			body := `[{"id":1,"location_id":"a","sku":"b","quantity":1}]`
			body = strings.Replace(body, `"`+name+`":1`, `"`+name+`":`+form, 1)
			got := decode(strings.NewReader(body), noLimit)
			value, err := strconv.ParseInt(want, 10, 64)
			want := want
			if name == "id" && err == nil && strings.ContainsAny(form, "eE") {
				want, err = "has an exponent", errors.New("not an id")
			}
			if err != nil {
				if got.err == nil || len(got.recs) > 0 || !strings.Contains(got.err.Error(), want) || !strings.Contains(got.err.Error(), "record 1") {
					t.Errorf("%s as %s: %v, error %v, want %s", form, name, got, got.err, want)
				}
				continue
			}
			rec := Record{1, "a", "b", 1}
			if name == "id" {
				rec.ID = value
			} else {
				rec.Quantity = value
			}
			if got.err != nil || !reflect.DeepEqual(got.recs, []Record{rec}) {
				t.Errorf("%s as %s: %v, error %v, want %v", form, name, got, got.err, rec)
			}
		}
	}
}

// A number that would be huge when written out costs nothing.
func TestNumberCost(t *testing.T) {
	s := []byte("1e999999999")
	if n := testing.AllocsPerRun(10, func() { number(s) }); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

func TestShapes(t *testing.T) {
	const one = `{"id":122,"location_id":"warehouse-1","sku":"shirt-blue-m","quantity":135}`
	rec := Record{122, "warehouse-1", "shirt-blue-m", 135}
	for _, c := range []struct {
		body string
		recs int
		err  string
	}{
		{`[]`, 0, ""},
		{" [ ] \n", 0, ""},
		{`[` + one + `]`, 1, ""},
		{`[` + one + `,` + one + "]\r\n", 2, ""},
		{`{"stock_records":[` + one + `]}`, 1, ""},
		{`{"page":{"next":null},"stock_records":[` + one + `,` + one + `],"total":2}`, 2, ""},
		{`{"stock\u005frecords":[` + one + `]}`, 1, ""},
		{`[{"quantity":135,"sku":"shirt-blue-m","location_id":"warehouse-1","id":122}]`, 1, ""},
		{`[{"x":[{"id":5}],"quantity":135,"sku":"shirt-blue-m","unit":"\n","location_id":"warehouse-1","id":122}]`, 1, ""},
		{`[{"id":1,"location_id":"warehouse-1","sku":"x","sku":"shirt-blue-m","quantity":135,"id":122}]`, 1, ""},
		{`[{"\u0069d":122,"location_id":"\u0077arehouse-1","sku":"shirt-blue-\u006d","quantity":135}]`, 1, ""},

		{``, 0, "body ended after 0 bytes, at the start"},
		{" \n", 0, "body ended after 2 bytes, at the start"},
		{"\ufeff[]", 0, ""},
		{"\ufeff \n{\"stock_records\":[" + one + "]}", 1, ""},
		{"\ufeff", 0, "body ended after 3 bytes, at the start"},
		{"\xef\xbb", 0, "body ended after 2 bytes, at the start"},
		{"\xef[]", 0, `at the start: "\xef[]" at byte 0, want an array or an object`},
		{"\xfe\xff\x00[\x00]", 0, "want an array or an object"},
		{" \ufeff[]", 0, "want an array or an object"},
		{"\ufeff\ufeff[]", 0, "at byte 3, want an array or an object"},
		{"[\ufeff" + one + "]", 0, "want an object"},
		{"[" + one + ",\ufeff" + one + "]", 1, "want an object"},
		{"[]\ufeff", 0, "want the end of the body"},
		{`null`, 0, `at the start: "null" at byte 0, want an array or an object`},
		{`"x"`, 0, "want an array or an object"},
		{`5`, 0, "want an array or an object"},
		{`<html><body>` + strings.Repeat("x", 99), 0, `at the start: "<html><body>xxxxxxxxxxxxxxxxxxxxxxxxxxxx"… at byte 0, want`},
		{`{}`, 0, `object without "stock_records"`},
		{`{"error":"no"}`, 0, `object without "stock_records"`},
		{`{"Stock_Records":[]}`, 0, `object without "stock_records"`},
		{`{"stock_records":null}`, 0, `want an array as "stock_records"`},
		{`{"stock_records":"x"}`, 0, `want an array as "stock_records"`},
		{`{"stock_records":{}}`, 0, `want an array as "stock_records"`},
		{`{"stock_records":[` + one + `],"stock_records":[]}`, 1, `"stock_records" twice, again at byte 94`},
		{`[` + one + `]]`, 1, `after the value: "]" at byte 76, want the end of the body`},
		{`[` + one + `]` + "\x00", 1, "want the end of the body"},
		{`{"stock_records":[` + one + `]}{}`, 1, "want the end of the body"},
		{`[` + one + `,]`, 1, `inside record 2: "]" at byte 76, want an object`},
		{`[` + one + one + `]`, 1, "want a comma or the end of the array"},
		{`[` + one + `,null]`, 1, `inside record 2: "null]" at byte 76, want an object`},
		{`[5]`, 0, "want an object"},
		{`{"stock_records":[` + one + `] x`, 1, "want a comma or the end of the object"},
		{"{\"a\":1,\"b\xff\":2}", 0, `before the records: key "b\xff" at byte 7 is not UTF-8`},
		{`{"stock_records":[` + one + `],"\ud83d":2}`, 1, `after the records: key "\ud83d" at byte 94 has half of a surrogate pair`},
	} {
		var want []Record
		for range c.recs {
			want = append(want, rec)
		}
		got := decode(strings.NewReader(c.body), noLimit)
		if !reflect.DeepEqual(got.recs, want) ||
			(got.err != nil) != (c.err != "") || got.err != nil && !strings.Contains(got.err.Error(), c.err) {
			t.Errorf("%s: %v\nerror %v\nwant  %s, %d records", c.body, got, got.err, c.err, c.recs)
		}
	}
}

// Each member must be there under its exact name, and must not be null.
func TestMembers(t *testing.T) {
	all := []string{`"id":1`, `"location_id":"a"`, `"sku":"b"`, `"quantity":2`}
	for i, member := range all {
		name, _, _ := strings.Cut(member, ":")
		for _, instead := range []string{"", strings.ToUpper(member), name + ":null", `"x":1`, all[(i+1)%4]} {
			members := slices.Clone(all)
			if members[i] = instead; instead == "" {
				members = slices.Delete(members, i, i+1)
			}
			for _, f := range []string{"[{%s}]", "[{%s,\"é\":1}]"} {
				body := fmt.Sprintf(f, strings.Join(members, ","))
				got := decode(strings.NewReader(body), noLimit)
				if got.err == nil || len(got.recs) > 0 || !strings.HasPrefix(got.err.Error(), "record 1 (") || !strings.Contains(got.err.Error(), "): "+strings.Trim(name, `"`)+": null is not a ") &&
					!strings.HasSuffix(got.err.Error(), "): "+strings.Trim(name, `"`)+" is missing") {
					t.Errorf("%s: %v, error %v", body, got, got.err)
				}
			}
		}
	}
}

// An error in a record names the record by its number, SKU and id, wherever these are.
func TestNames(t *testing.T) {
	long := strings.Repeat("x", 35)
	for record, want := range map[string]string{
		`{"id":1234567,"location_id":"w","sku":"silk-by-metre","quantity":null}`: `record 2 (SKU "silk-by-metre", id 1234567): quantity: null is not a whole number`,
		`{"quantity":5.5,"sku":"silk","location_id":"w","id":"1234567"}`:         `record 2 (SKU "silk", id 1234567): quantity: 5.5 is not a whole number`,
		`{"sku":"silk","quantity":"","location_id":"w","id":12.0}`:               `record 2 (SKU "silk", id 12): quantity: "" is not a whole number`,
		`{"id":1,"location_id":"w","sku":"","quantity":"1,234"}`:                 `record 2 (SKU "", id 1): quantity: "1,234" is not a whole number`,
		`{"id":1,"location_id":"w","sku":"a","quantity":7.000000000000001}`:      `record 2 (SKU "a", id 1): quantity: 7.000000000000001 is not a whole number`,
		`{"id":1,"location_id":"w","sku":"a","quantity":1e19}`:                   `record 2 (SKU "a", id 1): quantity: 1e19 is out of range`,
		`{"id":1,"location_id":"w","sku":"a","quantity":[1]}`:                    `record 2 (SKU "a", id 1): quantity: [1] is not a whole number`,
		`{"id":1,"location_id":"w","sku":"a"}`:                                   `record 2 (SKU "a", id 1): quantity is missing`,
		`{"location_id":"w","quantity":1,"sku":"a"}`:                             `record 2 (SKU "a"): id is missing`,
		`{"id":null,"location_id":"w","quantity":1,"sku":"a"}`:                   `record 2 (SKU "a"): id: null is not a whole number`,
		`{"id":3.8323063099599e+15,"location_id":"w","quantity":1,"sku":"a"}`:    `record 2 (SKU "a"): id: 3.8323063099599e+15 has an exponent, digits may be lost`,
		`{"id":"1e2","location_id":"w","quantity":1,"sku":"a"}`:                  `record 2 (SKU "a"): id: "1e2" has an exponent, digits may be lost`,
		`{"id":"1\u00452","location_id":"w","quantity":1,"sku":"a"}`:             `record 2 (SKU "a"): id: "1\u00452" has an exponent, digits may be lost`,
		`{"id":1,"location_id":"w","quantity":1}`:                                `record 2 (id 1): sku is missing`,
		`{"id":1,"location_id":"w","quantity":1,"sku":5}`:                        `record 2 (id 1): sku: 5 is not a string`,
		`{"id":1,"location_id":null,"quantity":1,"sku":"a"}`:                     `record 2 (SKU "a", id 1): location_id: null is not a string`,
		`{"ID":1,"Location_id":null,"quantity":1,"Sku":"a"}`:                     `record 2: id is missing`,
		`{}`:                           `record 2: id is missing`,
		`{"x":{"id":5,"sku":"inner"}}`: `record 2: id is missing`,
		`{"sku":"old","s\u006bu":"new","id":4,"id":5}`:                            `record 2 (SKU "new", id 5): location_id is missing`,
		`{"sku":"old","sku":null,"id":4,"id":"x"}`:                                `record 2: id: "x" is not a whole number`,
		`{"sku":"` + long + `€uro","quantity":1}`:                                 `record 2 (SKU "` + long + `€ur"…): id is missing`,
		`{"sku":"` + long + `xxx€uro","quantity":1}`:                              `record 2 (SKU "` + long + `xxx"…): id is missing`,
		`{"sku":"a\u202eb\n\"","quantity":1}`:                                     `record 2 (SKU "a\u202eb\n\""): id is missing`,
		`{"id":"` + long + `123456","sku":"a"}`:                                   `record 2 (SKU "a"): id: "` + long + `12345"… is not a whole number`,
		"{\"id\":\"a\u202eb\",\"sku\":\"a\"}":                                     `record 2 (SKU "a"): id: "a\u202eb" is not a whole number`,
		"{\"id\":[\n],\"sku\":\"a\"}":                                             `record 2 (SKU "a"): id: "[\n]" is not a whole number`,
		`{"id":7,"location_id":"w","sku":"shirt-\ud83d","quantity":5}`:            `record 2 (id 7): sku: "shirt-\ud83d" has half of a surrogate pair`,
		"{\"sku\":\"caf\xe9\",\"id\":7,\"location_id\":\"w\",\"quantity\":5}":     `record 2 (id 7): sku: "caf\xe9" is not UTF-8`,
		"{\"location_id\":\"K\xf6ln\",\"sku\":\"a\",\"id\":7,\"quantity\":5}":     `record 2 (SKU "a", id 7): location_id: "K\xf6ln" is not UTF-8`,
		"{\"gr\xf6sse\":1,\"location_id\":\"w\",\"sku\":\"a\",\"id\":7}":          `record 2 (SKU "a", id 7): key "gr\xf6sse" is not UTF-8`,
		`{"sku":"a","id":7,"x\udc00":1}`:                                          `record 2 (SKU "a", id 7): key "x\udc00" has half of a surrogate pair`,
		`{"id":7,"quantity":NaN,"sku":"a","location_id":"w"}`:                     `inside record 2 (SKU "a", id 7): "NaN,\"sku\":\"a\",\"location_id\":\"w\"}" at byte 78: invalid character 'N'`,
		`{"id":7,"quantity":05,"location_id":"w"}`:                                `inside record 2 (id 7): "5,\"location_id\":\"w\"}" at byte 79: invalid character '5'`,
		`{"id":,"sku":"a","quantity":5}`:                                          `inside record 2 (SKU "a"): `,
		`{"id":7 "sku":"a","quantity":5}`:                                         `inside record 2 (SKU "a", id 7): `,
		`{"id":7,"\x":5,"sku":"a"}`:                                               `inside record 2 (SKU "a", id 7): `,
		`{"id":7,"\u1":5,"sku":"a"}`:                                              `inside record 2 (SKU "a", id 7): `,
		`{"id":7,"sku":"\x","quantity":5}`:                                        `inside record 2 (id 7): `,
		`{"id":7,{"sku":"a"}}`:                                                    `inside record 2 (id 7): `,
		`{"id":7,"x"}`:                                                            `inside record 2 (id 7): `,
		`{"id":7,"x":"y`:                                                          `body ended after 73 bytes, inside record 2 (id 7): unexpected EOF`,
		`{"id":7,"x":{"sku":"a"`:                                                  `body ended after 81 bytes, inside record 2 (id 7): unexpected EOF`,
		`{"sku":"a","id":7`:                                                       `body ended after 76 bytes, inside record 2 (SKU "a"): unexpected EOF`,
		`{"sku":"a","id":7,`:                                                      `body ended after 77 bytes, inside record 2 (SKU "a", id 7): unexpected EOF`,
		`{"sku":"a","id":7,"x":` + strings.Repeat("[", maxDepth) + `],"sku":"b"}`: `inside record 2 (SKU "a", id 7): nested too deeply`,
		`{"sku":"a","id":7,"x":"` + strings.Repeat("x", maxValue) + `"}`:          `inside record 2 (SKU "a", id 7): body over its limit`,
		`["sku":"a"]`: `inside record 2: "[`,
	} {
		body := `[{"id":122,"location_id":"w1","sku":"first","quantity":5}, ` + record + `]`
		if !strings.HasSuffix(record, "}") && record[0] == '{' {
			body = strings.TrimSuffix(body, "]")
		}
		for _, n := range []int{1, 1 << 20} {
			if n == 1 && len(body) > 1<<20 {
				continue
			}
			got := decode(chunks{strings.NewReader(body), n}, noLimit)
			if got.err == nil || len(got.recs) != 1 || !strings.Contains(got.err.Error(), want) {
				t.Errorf("%.200s:\n%v\nwant %s", record, got.err, want)
			}
		}
	}
}

// Text in a record that is not Unicode is an error.
func TestUnicode(t *testing.T) {
	const half, bytes = "has half of a surrogate pair", "is not UTF-8"
	for text, want := range map[string]string{
		`K\u00f6ln`: "", `Köln`: "", `\ud83d\ude00`: "", `\uD83D\uDE00`: "", `\udbff\udfff`: "", `😀\ud83d\ude00\ud83d\ude00x`: "",
		`\ufffd`: "", "\ufffd": "", `\\ud83d`: "", `\\\\ud83d`: "", `\u0000`: "", `\ud7ff\ue000`: "", "\U0010ffff": "", `\"\/\b`: "",
		`\ud83d`: half, `\uDE00`: half, `\ude00\ud83d`: half, `\ud83d\ud83d\ude00`: half, `\ud83d\ude00\ude00`: half, `a\ud83d b`: half,
		`\ud83d\u0041`: half, `\ud83d\\ude00`: half, `\ud83d\n\ude00`: half, `\ud83d😀`: half, `\\\ud83d`: half, `\ud83dude00`: half, `\uD800`: half, `\uDFFF`: half,
		"caf\xe9": bytes, "\xff": bytes, "a\xc3": bytes, "\xc0\x80": bytes, "\xed\xa0\xbd\xed\xb8\x80": bytes, "\xf4\x90\x80\x80": bytes, "\x80\\n": bytes, "\\ud83d\xe9": bytes,
	} {
		for _, f := range []string{`"location_id":"%s","sku":"b"`, `"location_id":"a","sku":"%s"`, `"%s":null,"location_id":"a","sku":"b"`} {
			body := fmt.Sprintf(`[{`+f+`,"id":1,"quantity":1}]`, text)
			got := decode(strings.NewReader(body), noLimit)
			if want != "" {
				if got.err == nil || !strings.HasSuffix(got.err.Error(), want) || !strings.Contains(got.err.Error(), "id 1") {
					t.Errorf("%q: %v, want %s", body, got.err, want)
				}
			} else if got.err != nil || !reflect.DeepEqual(got.recs, unmarshal(t, []byte(body))) {
				t.Errorf("%q: %v, error %v", body, got, got.err)
			}
		}
		// What is not read need not be text.
		for _, f := range []string{`[{"x":"%s","location_id":"a","sku":"b","id":1,"quantity":1}]`, `{"x":["%s"],"stock_records":[{"location_id":"a","sku":"b","id":1,"quantity":1}]}`} {
			if got := decode(strings.NewReader(fmt.Sprintf(f, text)), noLimit); got.err != nil || len(got.recs) != 1 {
				t.Errorf("%q: %v, error %v", fmt.Sprintf(f, text), got, got.err)
			}
		}
	}
}

func TestNextPage(t *testing.T) {
	const recs = `"stock_records":[{"id":1,"location_id":"a","sku":"b","quantity":1}]`
	for body, want := range map[string]string{
		`{"next":"/stock?page=2",` + recs + `}`:                              "/stock?page=2",
		`{` + recs + `,"next":"\/stock?page=2"}`:                             "/stock?page=2",
		`{"count":1,"n\u0065xt":"https://köln.example/","x":1,` + recs + `}`: "https://köln.example/",
		`{"next":"2",` + recs + `,"next":null}`:                              "2",
		`{"next":null,` + recs + `}`:                                         "",
		`{"next":"",` + recs + `}`:                                           "",
		`{` + recs + `,"next":2,"next":["x"],"next":{"next":"x"}}`:           "",
		`{` + recs + `,"Next":"x","nextPage":"x","links":{"next":"x"}}`:      "",
		`[{"next":"x","id":1,"location_id":"a","sku":"b","quantity":1}]`:     "",
		`{` + recs + `}`: "",
	} {
		for _, n := range []int{1, 1 << 20} {
			if got := decode(chunks{strings.NewReader(body), n}, noLimit); got.err != nil || len(got.recs) != 1 || got.next != want {
				t.Errorf("%s: %v, next %q, error %v", body, got, got.next, got.err)
			}
		}
	}
	got := decode(strings.NewReader(`{"next":"x\ud83d",`+recs+`}`), noLimit)
	if got.err == nil || got.err.Error() != `before the records: next: "x\ud83d" at byte 8 has half of a surrogate pair` || got.next != "" {
		t.Errorf("next %q, error %v", got.next, got.err)
	}
}

// Count is the number of records that are read and valid.
func TestCount(t *testing.T) {
	const one = `{"id":1,"location_id":"a","sku":"b","quantity":1}`
	for body, want := range map[string]int{
		``: 0, `[`: 0, `null`: 0, `[]`: 0, `["You may not do this."]`: 0, `[{"detail":"Not allowed."}]`: 0, `[null]`: 0, `[{}]`: 0,
		`{"stock_records":[`: 0, `{"stock_records":["x"]}`: 0, `[` + one[:len(one)-1]: 0, `[{"id":1,"location_id":"a","sku":"b","quantity":null}]`: 0,
		`[` + one: 1, `[` + one + `,`: 1, `[` + one + `,{"detail":"x"}]`: 1, `[` + one + `,` + one + `]`: 2, `{"stock_records":[` + one + `,` + one[:9]: 1,
		`[{"id":"1","location_id":"ä","sku":"b","quantity":1},` + one + `x`: 2,
	} {
		d := NewDecoder(strings.NewReader(body), noLimit)
		var rec Record
		for n := 0; d.Next(&rec); n++ {
			if d.Count() != n+1 {
				t.Errorf("%s: %d at record %d", body, d.Count(), n+1)
			}
		}
		if d.Close(); d.Count() != want {
			t.Errorf("%s: %d records, want %d", body, d.Count(), want)
		}
	}
}

// Records in a usual form are read by the fast path alone: only the end of the
// array and of a window are left to the slow one.
func TestFastPath(t *testing.T) {
	for _, style := range []string{"compact", "python", "indented"} {
		for _, n := range []int{1, 1000, 10000} {
			data := body(n, style)
			for _, f := range []string{"%s", `{"stock_records":%s}`} {
				d := NewDecoder(strings.NewReader(fmt.Sprintf(f, data)), noLimit)
				var rec Record
				for d.Next(&rec) {
				}
				ends := uint32(1 + len(data)/(windowSize-200)) // ends of the array and of the windows
				if d.Err() != nil || d.Count() != n || d.misses == 0 || d.misses > ends {
					t.Errorf("%s, %d records: %d read, %d not by the fast path, want 1 to %d; error %v", style, n, d.Count(), d.misses, ends, d.Err())
				}
				d.Close()
			}
		}
	}
}

// A body that is cut anywhere gives an error that says so, whether it ends or fails,
// and the records before the cut.
func TestCut(t *testing.T) {
	recs := `[{"id":1,"location_id":"a","sku":"b","quantity":2}, {"id":1,"location_id":"é","sku":"\u0062","quantity":"2"}]`
	for _, c := range []struct{ before, after string }{{"", " \n"}, {" \n", ""}, {"\ufeff\n", ""}, {`{"n":[1,"]"],"stock_records":`, `,"more": 12}`}} {
		body := c.before + recs + c.after
		complete := len(strings.TrimRight(body, " \n"))
		for i := range len(body) {
			for _, cause := range []error{io.EOF, io.ErrUnexpectedEOF, context.Canceled, errors.New("reset")} {
				d := NewDecoder(io.MultiReader(strings.NewReader(body[:i]), iotest.ErrReader(cause)), noLimit)
				n := 0
				var rec Record
				for d.Next(&rec) {
					n++
				}
				eof := errors.Is(cause, io.EOF)
				records := strings.Count(body[:min(i, len(c.before)+len(recs))], "}")
				if n != records {
					t.Errorf("%q: %d records, want %d", body[:i], n, records)
				}
				switch {
				case eof && i >= complete:
					if d.Err() != nil || d.Cut() || d.Offset() != int64(i) {
						t.Errorf("%q: error %v, cut %v, at %d", body[:i], d.Err(), d.Cut(), d.Offset())
					}
				default:
					if eof {
						cause = io.ErrUnexpectedEOF
					}
					blank := i == 0 || c.before != "" && c.before[0] != '{' && i <= len(c.before)
					if !errors.Is(d.Err(), cause) || d.Cut() == (blank && eof) || !strings.Contains(d.Err().Error(), fmt.Sprintf(" after %d bytes", i)) {
						t.Errorf("%q: error %v, cut %v", body[:i], d.Err(), d.Cut())
					}
				}
				d.Close()
			}
		}
	}
}

func TestCorruptIsNotCut(t *testing.T) {
	for _, err := range []error{gzip.ErrHeader, gzip.ErrChecksum, flate.CorruptInputError(7), fmt.Errorf("gzip: %w", flate.CorruptInputError(7))} {
		for _, s := range []string{"", "[", `[{"id":`, "[]"} {
			got := decode(io.MultiReader(strings.NewReader(s), iotest.ErrReader(err)), noLimit)
			if !errors.Is(got.err, err) || got.cut {
				t.Errorf("%q: error %v, cut %v, want %v", s, got.err, got.cut, err)
			}
		}
	}
}

func unmarshal(t *testing.T, data []byte) (recs []Record) {
	t.Helper()
	if err := json.Unmarshal(data, &recs); err != nil {
		t.Fatal(err)
	}
	return recs
}

// The result is the same however the body is read and wherever the windows end.
func TestReaders(t *testing.T) {
	check := func(name string, r io.Reader, want []Record) {
		t.Helper()
		if got := decode(r, noLimit); got.err != nil || !reflect.DeepEqual(got.recs, want) {
			t.Errorf("%s: %d records, error %v", name, len(got.recs), got.err)
		}
	}
	for _, style := range []string{"compact", "python", "indented", "extra", "umlaut"} {
		data := body(1700, style) // over two windows
		want := unmarshal(t, data)
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole":    func(r io.Reader) io.Reader { return r },
			"one byte": iotest.OneByteReader,
			"half":     iotest.HalfReader,
			"data err": iotest.DataErrReader,
			"4096":     func(r io.Reader) io.Reader { return chunks{r, 4096} },
			"1000":     func(r io.Reader) io.Reader { return chunks{r, 1000} },
		} {
			check(style+" "+name, wrap(bytes.NewReader(data)), want)
		}
		for i := range 90 {
			check(fmt.Sprint(style, " shifted by ", i), io.MultiReader(strings.NewReader(strings.Repeat(" ", i)), bytes.NewReader(data)), want)
		}
		got := decode(iotest.TimeoutReader(chunks{bytes.NewReader(data), 1000}), noLimit)
		if !errors.Is(got.err, iotest.ErrTimeout) || !got.cut || !reflect.DeepEqual(got.recs, want[:len(got.recs)]) {
			t.Errorf("timeout: %d records, cut %v, error %v", len(got.recs), got.cut, got.err)
		}
	}
	if got := decode(struct{ io.Reader }{iotest.ErrReader(nil)}, noLimit); !errors.Is(got.err, io.ErrNoProgress) {
		t.Errorf("idle reader: %v", got.err)
	}
}

// For bodies of about the size of the window, Head has what was read, and the end is
// found.
func TestWindowSize(t *testing.T) {
	for size := windowSize - 20; size < windowSize+100; size++ {
		for _, end := range []string{"", "\n"} {
			data := body(790, "compact")
			data = append(data[:len(data)-1], `,{"id":5,"location_id":"a","sku":"","quantity":5}]`+end...)
			pad := strings.Repeat("x", size-len(data))
			data = bytes.Replace(data, []byte(`"sku":""`), []byte(`"sku":"`+pad+`"`), 1)
			d := NewDecoder(bytes.NewReader(data), int64(len(data)))
			n := 0
			var rec Record
			for ; d.Next(&rec); n++ {
				if n == 790 && rec != (Record{5, "a", pad, 5}) {
					t.Fatalf("%d: wrong last record", size)
				}
			}
			if len(data) != size || n != 791 || d.Err() != nil || d.Offset() != int64(size) ||
				!bytes.Equal(d.Head(), data[:min(size, headSize)]) {
				t.Fatalf("%d: %d records, error %v, offset %d, head of %d", size, n, d.Err(), d.Offset(), len(d.Head()))
			}
			d.Close()
		}
	}
}

// Head is what is read, also after the window grew and moved on.
func TestHead(t *testing.T) {
	long := strings.Repeat("y", 300<<10)
	data := append(body(50, "python"), ' ')
	data = append(data[:len(data)-2], fmt.Sprintf(`,{"id":1,"location_id":%q,"sku":%q,"quantity":1},`, long, long)...)
	data = append(data, body(20000, "compact")[1:]...)
	d := NewDecoder(chunks{bytes.NewReader(data), 5000}, noLimit)
	defer d.Close()
	if len(d.Head()) != 0 {
		t.Error("head before Next")
	}
	var recs []Record
	var rec Record
	for d.Next(&rec) {
		recs = append(recs, rec)
		if h := d.Head(); int64(len(h)) < min(max(d.Offset(), 5000), headSize) || !bytes.HasPrefix(data, h) {
			t.Fatalf("at %d: head of %d bytes is wrong", d.Offset(), len(h))
		}
	}
	if d.Err() != nil || !reflect.DeepEqual(recs, unmarshal(t, data)) {
		t.Errorf("%d records, error %v", len(recs), d.Err())
	}
	d.Close()
	d.Close()
	if d.Next(&rec) || d.Head() != nil || d.Offset() != int64(len(data)) {
		t.Error("after Close")
	}
}

func TestValueSize(t *testing.T) {
	for _, over := range []int{-1, 0, 1} {
		for _, f := range []string{`[{"id":1,"location_id":"a","quantity":1,"sku":"%s"}]`, `{"x":"%s","stock_records":[]}`} {
			size := len(f) - len(`[]%s`)
			if f[0] == '{' {
				size = len(`""`)
			}
			text := strings.Repeat("z", maxValue-size+over)
			got := decode(strings.NewReader(fmt.Sprintf(f, text)), noLimit)
			if over > 0 {
				if !errors.Is(got.err, ErrTooLarge) || got.cut || len(got.recs) > 0 {
					t.Errorf("%s over: %d records, cut %v, error %v", f, len(got.recs), got.cut, got.err)
				}
			} else if got.err != nil || f[0] == '[' && got.recs[0].SKU != text {
				t.Errorf("%s by %d: %d records, error %v", f, over, len(got.recs), got.err)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	data := body(3000, "compact")
	want := unmarshal(t, data)
	for _, size := range []int{0, 1, 2, 100, windowSize - 1, windowSize, windowSize + 1, len(data) - 1, len(data), len(data) + 1} {
		for _, n := range []int{1, 4096, 1 << 20} {
			got := decode(chunks{bytes.NewReader(data), n}, int64(size))
			if size >= len(data) {
				if got.err != nil || !reflect.DeepEqual(got.recs, want) {
					t.Errorf("limit %d: %v", size, got.err)
				}
			} else if !errors.Is(got.err, ErrTooLarge) || got.cut || len(got.recs) != bytes.Count(data[:size], []byte("}")) {
				t.Errorf("limit %d: %d records, cut %v, error %v", size, len(got.recs), got.cut, got.err)
			}
		}
	}
}

// endless is an array of records without an end.
type endless struct{ rec, rest []byte }

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(e.rest) == 0 {
			e.rest = e.rec
		}
		c := copy(p[n:], e.rest)
		n, e.rest = n+c, e.rest[c:]
	}
	return n, nil
}

func TestLimitMemory(t *testing.T) {
	for name, r := range map[string]io.Reader{
		"records":     &endless{[]byte(`{"id":1,"location_id":"a","sku":"","quantity":1},`), []byte("[")},
		"white space": &endless{[]byte(" \n"), []byte("[")},
		"one string":  &endless{[]byte("x"), []byte(`[{"id":"`)},
		"one key":     &endless{[]byte("x"), []byte(`{"`)},
		"one number":  &endless{[]byte("1"), []byte(`{"a":`)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d := NewDecoder(r, 65<<20)
		n := 0
		var rec Record
		for d.Next(&rec) {
			n++
		}
		runtime.ReadMemStats(&after)
		if !errors.Is(d.Err(), ErrTooLarge) || d.Cut() {
			t.Errorf("%s: %d records, cut %v, error %v", name, n, d.Cut(), d.Err())
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 6<<20 {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
		d.Close()
	}
}

// Values may be nested as deeply as in encoding/json, and not deeper.
func TestDepth(t *testing.T) {
	for _, f := range []string{
		`[{"x":%s,"id":1,"location_id":"a","sku":"b","quantity":1}]`,
		`{"stock_records":[{"x":%s,"id":1,"location_id":"a","sku":"b","quantity":1}]}`,
		`{"stock_records":[],"x":%s}`,
	} {
		for n := maxDepth - 5; n < maxDepth+5; n++ {
			body := fmt.Sprintf(f, strings.Repeat("[", n)+strings.Repeat("]", n))
			for _, size := range []int{100, 1 << 20} {
				if got := decode(chunks{strings.NewReader(body), size}, noLimit); (got.err == nil) != json.Valid([]byte(body)) {
					t.Errorf("%s, %d deep: %v", f, n, got.err)
				}
			}
		}
	}
}

func TestManyBrackets(t *testing.T) {
	wide := strings.Repeat("[{}],", maxDepth)
	got := decode(strings.NewReader(`{"x":[`+wide+`1],"stock_records":[{"x":[`+wide+`1],"id":1,"location_id":"a","sku":"b","quantity":1}]}`), noLimit)
	if got.err != nil || len(got.recs) != 1 {
		t.Errorf("%d records, error %v", len(got.recs), got.err)
	}
}

// The strings of a record are not overwritten by what is decoded later.
func TestStringsLast(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 20 {
				var all [][]Record
				var want [][]Record
				for _, style := range []string{"compact", "extra"} {
					data := bytes.ReplaceAll(body(300*(i%5)+1, style), []byte("e-"), fmt.Appendf(nil, "%d/%d", g, i))
					got := decode(bytes.NewReader(data), noLimit)
					if got.err != nil {
						t.Error(got.err)
					}
					all = append(all, got.recs)
					want = append(want, unmarshal(t, data))
				}
				decode(bytes.NewReader(bytes.Repeat([]byte("#"), windowSize)), noLimit)
				if !reflect.DeepEqual(all, want) {
					t.Errorf("%d/%d: strings changed", g, i)
				}
			}
		})
	}
	wg.Wait()
}

func TestAllocations(t *testing.T) {
	// AllocsPerRun runs on one P. The scratch that the first run gives back to the
	// pool must be on the same one, or the next run allocates another.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, c := range []struct {
		n      int
		allocs float64
		bytes  uint64
	}{{1, 4, 500}, {100, 8, 4 << 10}, {10000, 30, 180 << 10}} {
		data := body(c.n, "python")
		r := bytes.NewReader(data)
		run := func() {
			r.Reset(data)
			d := NewDecoder(r, noLimit)
			defer d.Close()
			var rec Record
			for d.Next(&rec) {
			}
		}
		run()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		allocs := testing.AllocsPerRun(10, run)
		runtime.ReadMemStats(&after)
		if raceEnabled {
			continue // the pool drops some
		}
		if used := (after.TotalAlloc - before.TotalAlloc) / 11; allocs > c.allocs || used > c.bytes {
			t.Errorf("%d records: %v allocations, %d bytes", c.n, allocs, used)
		}
	}
}

// Equal locations of a usual length share one string. No SKU keeps alive a block larger
// than 16 KiB.
func TestSharing(t *testing.T) {
	d := NewDecoder(bytes.NewReader(nil), noLimit)
	defer d.Close()
	for n := range maxShared + 1 {
		b := bytes.Repeat([]byte("l"), n)
		if first := d.location(b); first != string(b) {
			t.Fatalf("%d bytes changed", n)
		}
		if got := testing.AllocsPerRun(5, func() { d.location(b) }); got > 0 {
			t.Errorf("%d bytes: not shared", n)
		}
	}
	used := map[uint64]int{}
	for i := range 4096 {
		used[hash(fmt.Appendf(nil, "warehouse-%d", i))>>57]++
	}
	for _, n := range used {
		if len(used) != 128 || n > 100 {
			t.Fatalf("bad hash: %v", used)
		}
	}
	for n := range 3 * maxBlock {
		if b := bytes.Repeat([]byte("s"), n/16); d.sku(b) != string(b) {
			t.Fatalf("%d bytes changed", n)
		}
		if d.length > maxBlock {
			t.Fatalf("block of %d bytes", d.length)
		}
	}
}
