package oakra

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// exchangeSample has one member of each kind that readJSON knows.
type exchangeSample struct {
	ID    int64            `json:"id"`
	Text  exchangeText     `json:"text"`
	Flag  bool             `json:"flag"`
	Inner exchangeInner    `json:"inner"`
	List  []exchangeInner  `json:"list"`
	Rows  [][]int64        `json:"rows"`
	Other map[string]int64 // no tag: never filled
}

type exchangeText string

type exchangeInner struct {
	Name string `json:"name"`
	N    int64  `json:"n"`
}

// exchangeSchema is exchangeSample in the form that the reference takes.
var exchangeSchema = map[string]any{
	"id": int64(0), "text": "", "flag": false,
	"inner": map[string]any{"name": "", "n": int64(0)},
	"list":  []any{map[string]any{"name": "", "n": int64(0)}},
	"rows":  []any{[]any{int64(0)}},
}

var exchangeSeeds = []string{
	``, ` `, `null`, `[]`, `{}`, `""`, `5`, `true`, ` {} `, `{}x`, `{}{}`, `{},`, `{} null`, "{}\x00", "{}\n", "\ufeff{}", "\ufeff\ufeff{}", "{}\ufeff", "\xff\xfe{\x00}\x00",
	`{"id":5}`, `{"id":-5}`, `{"id":0}`, `{"id":5.0}`, `{"id":5e0}`, `{"id":"5"}`, `{"id":null}`, `{"id":true}`, `{"id":[5]}`, `{"id":{}}`, `{"id":05}`, `{"id":-}`, `{"id":}`,
	`{"id":9007199254740993}`, `{"id":9223372036854775807}`, `{"id":-9223372036854775808}`, `{"id":9223372036854775808}`,
	`{"ID":5}`, `{"Id":5,"id":6}`, `{"id":5,"ID":"x"}`, `{"i\u0064":5}`, `{"id":5,"i\u0064":6}`, `{"id":5,"id":5}`, `{"id ":5}`, `{"":5}`, `{"-":5}`, `{"Other":{"a":1}}`, `{"Text":5}`,
	`{"x":1,"x":2}`, `{"x":{"id":"a","id":null}}`, `{"x":[1,{"a":"}]\"\\"}],"id":5}`, `{"x":tru}`, `{"x":"\ud800"}`, "{\"x\":\"\xff\",\"id\":5}", "{\"\xff\":1,\"id\":5}", `{"\ud800":1,"id":5}`,
	`{"text":""}`, `{"text":"a"}`, `{"text":5}`, `{"text":null}`, `{"text":["a"]}`, `{"text":{"a":"b"}}`, `{"text":"\u00e9\ud83d\ude00\"\\\/\n"}`, "{\"text\":\"é😀\"}",
	`{"text":"\ud83d"}`, `{"text":"\ud83d\ud83d\ude00"}`, `{"text":"\ude00"}`, `{"text":"\ud83d\n"}`, `{"text":"\ud83d\\ude00"}`, `{"text":"\\ud83d"}`, `{"text":"\ud83d\u0041"}`, `{"text":"\uD83D\uDE00"}`,
	`{"text":"\ufffd"}`, `{"text":"\uFFFD"}`, "{\"text\":\"\ufffd\"}", "{\"text\":\"\ufffd\xff\"}", `{"text":"\ufffd\ud800"}`, `{"text":"\\ufffd\ud800"}`, `{"text":"\\\ufffd"}`, `{"text":"\\\\ufffd\ud800"}`, `{"text":"\ud83d\ufffd"}`,
	"{\"text\":\"\xff\"}", "{\"text\":\"\xc3\"}", "{\"text\":\"\xed\xa0\x80\"}", "{\"text\":\"\xc0\x80\"}", "{\"text\":\"a\x01\"}", `{"text":"\x"}`, `{"text":"\u12"}`, `{"text":"a`, `{"text":"\u0000"}`,
	`{"flag":true}`, `{"flag":false}`, `{"flag":null}`, `{"flag":"true"}`, `{"flag":1}`, `{"flag":True}`,
	`{"inner":{}}`, `{"inner":{"name":"a","n":1,"x":[{}]}}`, `{"inner":null}`, `{"inner":[]}`, `{"inner":"{}"}`, `{"inner":{"name":"a"},"inner":{"n":1}}`, `{"inner":{"n":1,"n":2}}`, `{"inner":{"n":"1"}}`, `{"inner":{]}`, `{"inner":{"n":1]}`,
	`{"list":[]}`, `{"list":[{}]}`, `{"list":[{"name":"a"},{"n":2}]}`, `{"list":[null]}`, `{"list":[[]]}`, `{"list":null}`, `{"list":{}}`, `{"list":{"0":{}}}`, `{"list":[{"n":1},5]}`, `{"list":[{}{}]}`, `{"list":[{},]}`, `{"list":[,{}]}`, `{"list":[{}}`, `{"list":[1}`,
	`{"rows":[]}`, `{"rows":[[]]}`, `{"rows":[[1,2],[3]]}`, `{"rows":[1]}`, `{"rows":[[1],[null]]}`, `{"rows":[[1]}`,
	`{"id":5,}`, `{,"id":5}`, `{"id" 5}`, `{"id"::5}`, `{"id":5 "text":""}`, `{"id":5;}`, `{id:5}`, `{5:5}`, `{"id":5]`, `[{"id":5}]`, `{"id":5}]`, `{[`, `{"x":[}`, `{"x":]}`, `{null:1}`, `{{}:1}`, `{"id"}`, `{"id":5,"text"}`,
	strings.Repeat(`[`, 200), `{"x":` + strings.Repeat(`[`, 20000), `{"x":` + strings.Repeat(`[`, 9000) + strings.Repeat(`]`, 9000) + `}`, `<html>`, `{"detail":"No."}`,
	`{"id":1,"text":"a","flag":true,"inner":{"name":"b","n":2},"list":[{"name":"c","n":3}],"rows":[[4]],"more":{"id":[]}}`,
}

// reference reads from content what the schema names, with encoding/json alone. It
// reports false where readJSON has to return an error.
func reference(content []byte) (v exchangeSample, ok bool) {
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	if !json.Valid(content) {
		return v, false
	}
	named, ok := conform(content, exchangeSchema)
	if !ok {
		return v, false
	}
	spelled, err := json.Marshal(named)
	return v, err == nil && json.Unmarshal(spelled, &v) == nil
}

// conform returns the parts of raw that the schema names, and whether they all have the
// schema's types.
func conform(raw json.RawMessage, schema any) (any, bool) {
	if string(bytes.TrimSpace(raw)) == "null" {
		return nil, false
	}
	switch schema := schema.(type) {
	case map[string]any:
		members := map[string]json.RawMessage{}
		if json.Unmarshal(raw, &members) != nil || repeats(raw, schema) {
			return nil, false
		}
		named := map[string]any{}
		for name, of := range schema {
			if member, there := members[name]; there && string(bytes.TrimSpace(member)) != "null" {
				v, ok := conform(member, of)
				if !ok {
					return nil, false
				}
				named[name] = v
			}
		}
		return named, true
	case []any:
		var elements []json.RawMessage
		if json.Unmarshal(raw, &elements) != nil {
			return nil, false
		}
		all := []any{}
		for _, element := range elements {
			v, ok := conform(element, schema[0])
			if !ok {
				return nil, false
			}
			all = append(all, v)
		}
		return all, true
	case string:
		var v string
		err := json.Unmarshal(raw, &v)
		return v, err == nil && unicodeText(raw)
	case int64:
		var v int64
		err := json.Unmarshal(raw, &v)
		return v, err == nil
	default:
		var v bool
		err := json.Unmarshal(raw, &v)
		return v, err == nil
	}
}

// repeats reports whether the object has a name of the schema twice.
func repeats(object json.RawMessage, schema map[string]any) bool {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		return false
	}
	seen := map[string]bool{}
	for d.More() {
		name, _ := d.Token()
		if _, named := schema[name.(string)]; named && seen[name.(string)] {
			return true
		}
		seen[name.(string)] = true
		if d.Decode(new(any)) != nil {
			return false
		}
	}
	return false
}

// unicodeText reports whether a JSON string is UTF-8 in which every escaped
// surrogate has its other half.
func unicodeText(raw []byte) bool {
	high := rune(0)
	for i := 0; i < len(raw); {
		unit, size := rune(-1), 1
		switch {
		case bytes.HasPrefix(raw[i:], []byte(`\u`)):
			unit, size = 0, 6
			for _, c := range bytes.ToLower(raw[i+2 : i+6]) {
				unit = unit<<4 + rune(strings.IndexByte("0123456789abcdef", c))
			}
		case raw[i] == '\\':
			size = 2
		}
		switch {
		case high != 0 && (unit < 0xDC00 || unit > 0xDFFF): // the half before is alone
			return false
		case high != 0:
			high = 0
		case utf16.IsSurrogate(unit) && unit >= 0xDC00:
			return false
		case utf16.IsSurrogate(unit):
			high = unit
		}
		i += size
	}
	return high == 0 && utf8.Valid(raw)
}

func compareWithReference(t *testing.T, content []byte) {
	t.Helper()
	want, ok := reference(content)
	var got exchangeSample
	err := readJSON(content, &got)
	if (err == nil) != ok {
		t.Fatalf("%.300q: %v; the reference accepts it: %t", content, err, ok)
	}
	if ok {
		require.Equal(t, want, got, "%.300q", content)
	}
}

// TestReadJSONReference compares every seed, and every start of the short ones.
func TestReadJSONReference(t *testing.T) {
	accepted := 0
	for _, seed := range exchangeSeeds {
		for i := range len(seed) {
			if len(seed) < 300 {
				compareWithReference(t, []byte(seed[:i]))
			}
		}
		compareWithReference(t, []byte(seed))
		if _, ok := reference([]byte(seed)); ok {
			accepted++
		}
	}
	require.Greater(t, accepted, len(exchangeSeeds)/4)
}

func FuzzReadJSON(f *testing.F) {
	for _, seed := range exchangeSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) { compareWithReference(t, content) })
}

// TestReadJSONErrors: the error says what is wrong, and where.
func TestReadJSONErrors(t *testing.T) {
	for _, tt := range []struct{ content, want string }{
		{``, "unexpected EOF"},
		{`{"list":[{"n":1}`, "unexpected EOF"},
		{`{"id":5}{}`, "followed by something else"},
		{`<html>`, "invalid character '<'"},
		{`[]`, `"the body" does not begin with {`},
		{`{"list":{}}`, `"list" does not begin with [`},
		{`{"list":[{},null]}`, `"list[1]" does not begin with {`},
		{`{"list":[{},{"n":"1"}]}`, `"list[1].n" is not of the type int64`},
		{`null`, `"the body" does not begin with {`},
		{`{"rows":[[],[1,true]]}`, `"rows[1][1]" is not of the type int64`},
		{`{"flag":0}`, `"flag" is not of the type bool`},
		{`{"text":"\ud800"}`, `"text" is not Unicode text`},
		{`{"inner":{"n":1,"n":1}}`, `"inner.n" occurs twice`},
	} {
		t.Run(cmp.Or(tt.content, "empty"), func(t *testing.T) {
			require.ErrorContains(t, readJSON([]byte(tt.content), new(exchangeSample)), tt.want)
		})
	}
}

// TestReadJSONPartly: what was read before an error is kept, except incomplete
// elements.
func TestReadJSONPartly(t *testing.T) {
	for _, content := range []string{
		`{"id":7,"list":[{"name":"a","n":1},{"name":"b"`,
		`{"id":7,"list":[{"name":"a","n":1},{"name":"b","n":"2"}]}`,
		`{"id":7,"list":[{"name":"a","n":1},{"name":"b"},]}`[:46],
	} {
		var v exchangeSample
		require.Error(t, readJSON([]byte(content), &v))
		require.EqualValues(t, 7, v.ID)
		require.Equal(t, exchangeInner{"a", 1}, v.List[0])
	}
	var v exchangeSample
	require.Error(t, readJSON([]byte(`{"list":[{"name":"a"},{"name":"b"`), &v))
	require.Equal(t, []exchangeInner{{Name: "a"}}, v.List)
}

// TestReadJSONElements: a short body cannot take memory without bound.
func TestReadJSONElements(t *testing.T) {
	var v struct {
		List []struct{} `json:"list"`
	}
	content := `{"list":[{}` + strings.Repeat(",{}", maxElements) + `]}`
	require.ErrorContains(t, readJSON([]byte(content), &v), `"list" has over 262144 elements`)
	require.Len(t, v.List, maxElements)
}
