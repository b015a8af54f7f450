package stockjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// outcome is all that a Decoder reports about a body.
type outcome struct {
	recs []Record
	next string
	cut  bool
	err  error
	name string // in a reference: the record that is not valid, as an error names it
}

func (o outcome) String() string {
	return fmt.Sprintf("%q next=%q cut=%v failed=%v", o.recs, o.next, o.cut, o.err != nil)
}

func decode(r io.Reader, limit int64) (o outcome) {
	d := NewDecoder(r, limit)
	defer d.Close()
	var rec Record
	for d.Next(&rec) {
		o.recs = append(o.recs, rec)
	}
	if d.Next(&rec) {
		panic("Next after false")
	}
	if d.Count() != len(o.recs) {
		panic("wrong count")
	}
	o.next, o.cut, o.err = d.NextPage(), d.Cut(), d.Err()
	return o
}

// reference decodes data with encoding/json.
func reference(data []byte) (o outcome) {
	const bom = "\xef\xbb\xbf"
	if strings.HasPrefix(bom, string(data)) { // a body of this alone, or of a part of it, is empty
		data = nil
	}
	data = bytes.TrimPrefix(data, []byte(bom))
	blank := strings.Trim(string(data), " \t\r\n") == ""
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	fail := func(err error) outcome {
		o.err = err
		o.cut = !blank && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
		return o
	}
	// following returns the next byte that is not white space, after skip; -1 if there
	// is none.
	following := func(skip string) int {
		rest := bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n")
		if skip != "" {
			rest = bytes.TrimLeft(bytes.TrimPrefix(rest, []byte(skip)), " \t\r\n")
		}
		if len(rest) == 0 {
			return -1
		}
		return int(rest[0])
	}
	array := func() error {
		for dec.More() {
			skip := ","
			if len(o.recs) == 0 {
				skip = ""
			}
			if c := following(skip); c >= 0 && c != '{' {
				return errors.New("not an object")
			}
			var raw json.RawMessage
			if err := dec.Decode(&raw); err != nil {
				return err
			}
			rec, name, err := referenceRecord(raw)
			if err != nil {
				if len(rec.SKU) <= 40 {
					o.name = fmt.Sprintf("record %d%s: ", len(o.recs)+1, name)
				}
				return err
			}
			o.recs = append(o.recs, rec)
		}
		_, err := dec.Token()
		return err
	}
	if c := following(""); c >= 0 && c != '{' && c != '[' {
		return fail(errors.New("neither array nor object"))
	}
	first, err := dec.Token()
	if err != nil {
		return fail(err)
	}
	if first == json.Delim('[') {
		if err := array(); err != nil {
			return fail(err)
		}
	} else {
		seen := false // stock_records
		for dec.More() {
			start := dec.InputOffset()
			key, err := dec.Token()
			if err != nil {
				return fail(err)
			}
			if !isText(bytes.TrimLeft(data[start:dec.InputOffset()], ", \t\r\n")) {
				return fail(errors.New("key is no text"))
			}
			if key != "stock_records" {
				var raw json.RawMessage
				if err := dec.Decode(&raw); err != nil {
					return fail(err)
				}
				if key == "next" && raw[0] == '"' {
					if !isText(raw) {
						return fail(errors.New("next is no text"))
					}
					var next string
					if err := json.Unmarshal(raw, &next); err != nil {
						return fail(err)
					}
					o.next = cmp.Or(next, o.next)
				}
				if following("") < 0 { // a number might go on
					return fail(io.ErrUnexpectedEOF)
				}
				continue
			}
			if seen {
				return fail(errors.New("twice"))
			}
			seen = true
			if c := following(":"); c < 0 {
				return fail(io.ErrUnexpectedEOF)
			} else if following("") != ':' {
				return fail(errors.New("no colon"))
			} else if c != '[' {
				return fail(errors.New("not an array"))
			}
			if _, err := dec.Token(); err != nil {
				return fail(err)
			}
			if err := array(); err != nil {
				return fail(err)
			}
		}
		if _, err := dec.Token(); err != nil {
			return fail(err)
		}
		if !seen {
			return fail(errors.New("no stock_records"))
		}
	}
	if !json.Valid(data) {
		return fail(errors.New("not valid"))
	}
	return o
}

// referenceRecord returns the record that raw is, or an error with the SKU and the
// id as the name of the record.
func referenceRecord(raw json.RawMessage) (rec Record, name string, err error) {
	m := map[string]json.RawMessage{}
	keys := true // all are text
	dec := json.NewDecoder(bytes.NewReader(raw))
	for _, err = dec.Token(); err == nil && dec.More(); {
		start := dec.InputOffset()
		key, err := dec.Token()
		if err != nil {
			return rec, "", err
		}
		keys = keys && isText(bytes.TrimLeft(raw[start:dec.InputOffset()], ", \t\r\n"))
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return rec, "", err
		}
		m[key.(string)] = value
	}
	if err != nil {
		return rec, "", err
	}

	var wrong []string
	text := func(key string) (s string) {
		v := m[key]
		if v == nil || v[0] != '"' || !isText(v) || json.Unmarshal(v, &s) != nil {
			wrong = append(wrong, key)
		}
		return s
	}
	number := func(key string) int64 {
		s := string(m[key])
		if strings.HasPrefix(s, `"`) && json.Unmarshal(m[key], &s) != nil {
			s = ""
		}
		n, ok := referenceNumber(s)
		if !ok || key == "id" && strings.ContainsAny(s, "eE") {
			wrong = append(wrong, key)
		}
		return n
	}
	rec = Record{number("id"), text("location_id"), text("sku"), number("quantity")}
	if keys && wrong == nil {
		return rec, "", nil
	}
	var names []string
	if !slices.Contains(wrong, "sku") {
		names = append(names, fmt.Sprintf("SKU %q", rec.SKU))
	}
	if !slices.Contains(wrong, "id") {
		names = append(names, fmt.Sprint("id ", rec.ID))
	}
	if names != nil {
		name = " (" + strings.Join(names, ", ") + ")"
	}
	return rec, name, errors.New("not valid")
}

var (
	jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
	// unicodeString is a string in which surrogates come in pairs.
	unicodeString = regexp.MustCompile(`^"([^\\"]|\\[^u]|\\u([^dD]...|[dD][0-7]..)|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*"$`)
	bigExponent   = regexp.MustCompile(`[eE][-+]?0*[1-9][0-9]{4,}$`)
)

// isText reports whether v, a string of valid JSON, is Unicode text.
func isText(v []byte) bool { return utf8.Valid(v) && unicodeString.Match(v) }

func referenceNumber(s string) (int64, bool) {
	if !jsonNumber.MatchString(s) {
		return 0, false
	}
	if bigExponent.MatchString(s) && len(s) < 5000 { // too much for math/big
		mantissa, _, _ := strings.Cut(strings.ToLower(s), "e")
		return 0, strings.Trim(mantissa, "-0.") == ""
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok || !r.IsInt() || !r.Num().IsInt64() {
		return 0, false
	}
	return r.Num().Int64(), true
}

var seeds = []string{
	``, ` `, "\n\t ", `[]`, `[ ]`, `{}`, `null`, `5`, `"x"`, `tru`, `x`, "\ufeff[]", `[]]`, `[] x`, `[]` + "\x00", "\x00", `[`, `{`, `[,]`, `{,}`,
	`[null]`, `[5]`, `[nul`, `[[]]`, `["x"]`, `[{}]`, `[{},]`,
	`[{"id":122,"location_id":"warehouse-1","sku":"shirt-blue-m","quantity":135}]`,
	`[{"id": 122, "location_id": "warehouse-1", "sku": "shirt-blue-m", "quantity": 135}, {"id": 1, "location_id": "w", "sku": "", "quantity": -3}]`,
	`[{"id":1,"location_id":"a","sku":"b","quantity":2},{"quantity":1,"sku":"x","location_id":"","id":4} , {"sku":"x","id":-0,"quantity":0,"location_id":"a"}]`,
	`[{"id":1,"location_id":"a","sku":"b","quantity":2},{"id":1,"location_id":"a","sku":"b","quantity":2},]`,
	`[{"id":1,"location_id":"a","sku":"b","quantity":2}{"id":1,"location_id":"a","sku":"b","quantity":2}]`,
	`[,{"id":1,"location_id":"a","sku":"b","quantity":2}]`,
	"[\r\n  {\n \"id\" : 1 ,\t\"location_id\" : \"a\",\n \"sku\":\"b\",\"quantity\":2\n }\n]\n",
	`[{"id":1,"location_id":"a","sku":"b","quantity":2,}]`,
	`[{"id":1,"location_id":"a","sku":"b"}]`, `[{"id":1,"location_id":"a","sku":"b","quantity":null}]`,
	`[{"id":1,"location_id":null,"sku":"b","quantity":1}]`, `[{"id":1,"location_id":5,"sku":"b","quantity":1}]`,
	`[{"ID":1,"location_id":"a","sku":"b","quantity":1}]`, `[{"id":1,"Location_ID":"a","sku":"b","quantity":1}]`,
	`[{"id":1,"id":2,"location_id":"a","sku":"b","quantity":1}]`, `[{"id":null,"id":2,"location_id":"a","sku":"b","quantity":1}]`,
	`[{"id":2,"id":null,"location_id":"a","sku":"b","quantity":1}]`, `[{"sku":"a","location_id":"a","sku":"b","sku":"c","quantity":1,"id":1}]`,
	`[{"id":"5","location_id":"a","sku":"b","quantity":5.0}]`, `[{"id":"5.00","location_id":"a","sku":"b","quantity":5e0}]`,
	`[{"id":500e-2,"location_id":"a","sku":"b","quantity":"\u0035"}]`, `[{"id":5.5,"location_id":"a","sku":"b","quantity":1}]`,
	`[{"id":"05","location_id":"a","sku":"b","quantity":1}]`, `[{"id":05,"location_id":"a","sku":"b","quantity":1}]`,
	`[{"id":-,"location_id":"a","sku":"b","quantity":1}]`, `[{"id":"\"5","location_id":"a","sku":"b","quantity":1}]`,
	`[{"id":9223372036854775807,"location_id":"a","sku":"b","quantity":-9223372036854775808}]`,
	`[{"id":9223372036854775808,"location_id":"a","sku":"b","quantity":1}]`, `[{"id":999999999999999999,"location_id":"a","sku":"b","quantity":1000000000000000000}]`,
	`[{"id":1,"location_id":"Köln","sku":"\u00e9\ud83d\ude00\"\\\/","quantity":1}]`, "[{\"id\":1,\"location_id\":\"a\xff\",\"sku\":\"b\xc3\",\"quantity\":1}]",
	"[{\"id\":1,\"location_id\":\"a\x01\",\"sku\":\"b\",\"quantity\":1}]", "[{\"id\":1,\"location_id\":\"a\",\"sku\":\"b\n\",\"quantity\":1}]",
	"[{\"id\":1,\"location_id\":\"a\x7f\",\"sku\":\"01234567\x1f\",\"quantity\":1}]", `[{"id":1,"location_id":"a","sku":"\x","quantity":1}]`,
	`[{"i\u0064":1,"location_id":"a","sku":"b","quantity":1}]`, `[{"id":1,"location_id":"a","sku":"b","quantity":1,"x":{"id":[1,{"a":"}]\"\\"}]}}]`,
	`[{"id":1,"location_id":"a","sku":"b","quantity":1,"x":tru}]`, `[{"id":1,"location_id":"a","sku":"b","quantity":1]`, `[{"id":1 "sku":2}]`, `[{"id":[}]`,
	`{"stock_records":[]}`, `{"stock_records":[{"id":1,"location_id":"a","sku":"b","quantity":2}]}`, `{"stock_records":null}`, `{"stock_records":"x"}`,
	`{"stock_records":{}}`, `{"stock_records" []}`, `{"stock_records":[]`, `{"stock_records":`, `{"stock_records":]`, "{\"stock_records\":\x00", `{"stock_records":[],"stock_records":[]}`,
	`{"stock_records":[],"a":1,"stock_records":null}`, `{"a":1,"b":"\u00e9","c":{"stock_records":[]},"d":[{}],"stock\u005frecords":[{"id":1,"location_id":"a","sku":"b","quantity":2}],"e":-1.5e3,"f":null}`,
	`{"Stock_Records":[]}`, `{"a":tru,"stock_records":[]}`, `{"a":5`, `{"a":}`, `{"a":]`, `{"a"::1}`, `{"a":5x}`, `{"a":"\x"}`, `{"a":1,}`, `{"a":-`, `{"\x":1}`, `{"a":[{]}`, `{1:2}`, `{"a":01}`, "{\"a\":\x00", "{\"a\x01",
	"\ufeff", "\ufeff ", "\ufeff\ufeff[]", " \ufeff[]", "\ufeff{\"stock_records\":[{\"id\":1,\"location_id\":\"a\",\"sku\":\"b\",\"quantity\":2}]}\n", "\xef\xbb[]", "\xef\xbb\xbe[]", "[]\ufeff",
	`{"next":"/?page=2","stock_records":[]}`, `{"next":null,"stock_records":[],"n\u0065xt":"\u002f","next":""}`, `{"Next":"x","next":{"next":"y"},"stock_records":[]}`, `{"next":"\ud83d\ude00","next":"\ud83d"}`, `{"next":"x`, `{"next":"x"`, `{"next":"\x"}`,
	"{\"next\":\"\xe9\"}", "{\"\xe9\":1}", `{"\udc00":1,"stock_records":[]}`, "{\"a\":\"\xe9\\ud83d\",\"stock_records\":[]}",
	`[{"id":1,"location_id":"\ud83d\ude00","sku":"\\ud83d\"\u00E9\uD83D\uDE00","quantity":1},{"id":2,"location_id":"a","sku":"\ud83d\u0041","quantity":1}]`, `[{"id":3,"location_id":"\ude00\ud83d","sku":"b","quantity":1}]`,
	`[{"quantity":1,"id":4,"sku":"b","location_id":"a","\ud83d":null}]`, `[{"x":"\ud83d","id":1,"location_id":"a","sku":"b","quantity":1}]`, "[{\"id\":1,\"location_id\":\"a\",\"sku\":\"b\",\"quantity\":1,\"\xe9\":[\"\xe9\"]}]",
	`[{"id":3.83e+15,"location_id":"a","sku":"b","quantity":1e2}]`, `[{"id":"1E2","location_id":"a","sku":"b","quantity":1}]`, `[{"id":122.0,"location_id":"a","sku":"b","quantity":"1e2"}]`, `[{"id":"1\u00652","location_id":"a","sku":"b","quantity":1}]`,
	`[{"quantity":5.5,"sku":"silk-by-metre","id":"1234567","location_id":"a"}]`, `[{"id":1234567,"location_id":"a","sku":"a\n\u202e","quantity":"1,234"}]`, `[{"id":1,"id":null,"location_id":"a","sku":"b","sku":5}]`,
	"\x0c[]", "[\xa0{}]", `{"error":"no such shop"}`, `<html>`,
}

// chunks reads at most n bytes at a time.
type chunks struct {
	r io.Reader
	n int
}

func (c chunks) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.n)]) }

func compare(t *testing.T, data []byte) {
	t.Helper()
	o := reference(data)
	want, name := o.String(), o.name
	for _, n := range []int{1, 2, 3, 7, 16, 61, 1 << 20} {
		got := decode(chunks{bytes.NewReader(data), n}, 1<<40)
		if got.String() != want {
			t.Errorf("%q in chunks of %d:\ngot  %v\n     %v\nwant %v", data, n, got, got.err, want)
		}
		if got.err != nil && !strings.HasPrefix(got.err.Error(), name) {
			t.Errorf("%q: %v, want %s", data, got.err, name)
		}
		if got.cut && !errors.Is(got.err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: cut, but %v", data, got.err)
		}
	}
}

// Every seed, and every prefix of it, gives the result of encoding/json.
func TestReference(t *testing.T) {
	for _, s := range seeds {
		for i := range len(s) + 1 {
			compare(t, []byte(s[:i]))
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compare(t, data) })
}

func FuzzWhole(f *testing.F) {
	for _, s := range []string{"0", "-0", "5", "-5", "5.0", "5.00", "5e0", "500e-2", "0.05e2", "5.5", "1e18", "1e19", "9223372036854775807",
		"9223372036854775808", "-9223372036854775808", "-9223372036854775809", "9007199254740993", "92233720368547758.07e2", "1e999999999",
		"1e-999999999", "0e999999999", "0.0e-99999999999999999999", "05", "+5", " 5", "5 ", "", "-", "5.", ".5", "5e", "5e+", "1E+2", "0x5",
		"1_0", "NaN", "null", "true", `"5"`, "[5]", "5,5", "1.0e1.0", "--5", "123456789012345678", "1234567890123456789", "12345678901234567890",
		"00", "-00", "-01", "0.10e1", "100e-2", "1e0000000000000000000000005",
		"0." + strings.Repeat("0", 20000) + "5e20001", "-5" + strings.Repeat("0", 20000) + ".0e-20000", "5" + strings.Repeat("0", 20000) + "e-20001"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, ok := referenceNumber(s)
		got, wrong := number([]byte(s))
		if got != want || (wrong == "") != ok {
			t.Errorf("%q: got %d %q, want %d %v", s, got, wrong, want, ok)
		}
	})
}
