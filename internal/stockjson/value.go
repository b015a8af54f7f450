package stockjson

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

// fast reads the record at b[0] into r and returns its length. It knows only the
// usual form: the four members and no other, names and strings in ASCII and without
// escapes, plain integers. It returns 0 for everything else, and where the record
// does not end in b.
func (d *Decoder) fast(b []byte, r *Record) int {
	if len(b) == 0 || b[0] != '{' {
		return 0
	}
	var id, quantity int64
	var location, sku []byte
	seen := 0
	for i := 1; ; i++ {
		if i = space(b, i); len(b)-i < 2 {
			return 0
		}
		// The names differ in their first letter.
		switch name := b[i:]; name[1] {
		case 'i':
			if len(name) < 5 || string(name[:5]) != `"id":` {
				return 0
			}
			id, i = integer(b, i+5)
			seen |= 1
		case 'l':
			if len(name) < 14 || string(name[:14]) != `"location_id":` {
				return 0
			}
			location, i = ascii(b, i+14)
			seen |= 2
		case 's':
			if len(name) < 6 || string(name[:6]) != `"sku":` {
				return 0
			}
			sku, i = ascii(b, i+6)
			seen |= 4
		case 'q':
			if len(name) < 11 || string(name[:11]) != `"quantity":` {
				return 0
			}
			quantity, i = integer(b, i+11)
			seen |= 8
		default:
			return 0
		}
		if i = space(b, i); i >= len(b) {
			return 0
		}
		if b[i] == '}' && seen == 15 {
			r.ID, r.Quantity = id, quantity
			r.LocationID = d.location(location)
			r.SKU = d.sku(sku)
			return i + 1
		}
		if b[i] != ',' {
			return 0
		}
	}
}

// integer reads the plain integer at b[i], after white space, and returns the index
// after it. The index is over len(b) if there is no integer, or one that might not fit.
func integer(b []byte, i int) (v int64, end int) {
	i = space(b, i)
	negative := i < len(b) && b[i] == '-'
	if negative {
		i++
	}
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		v = v*10 + int64(b[i]-'0')
		i++
	}
	if n := i - start; n == 0 || n > 18 || n > 1 && b[start] == '0' {
		return 0, len(b) + 1
	}
	if negative {
		v = -v
	}
	return v, i
}

// ascii reads the string at b[i], after white space, and returns what is in its quotes,
// with the index after it. The index is over len(b) if there is no string, or one with
// a backslash, a control character or something that is not ASCII.
func ascii(b []byte, i int) (s []byte, end int) {
	if i = space(b, i); i >= len(b) || b[i] != '"' {
		return nil, len(b) + 1
	}
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	start := i + 1
	for i = start; len(b)-i >= 8; i += 8 {
		// Each term sets the high bit of the bytes that it looks for. Only those bytes
		// cause borrows, and therefore the lowest bit set is right.
		x := binary.LittleEndian.Uint64(b[i:])
		m := (x | (x - ' '*ones) | ((x ^ '"'*ones) - ones) | ((x ^ '\\'*ones) - ones)) & highs
		if m != 0 {
			i += bits.TrailingZeros64(m) / 8
			break
		}
	}
	for i < len(b) && b[i] != '"' && b[i] >= ' ' && b[i] < 0x80 && b[i] != '\\' {
		i++
	}
	if i >= len(b) || b[i] != '"' {
		return nil, len(b) + 1
	}
	return b[start:i], i + 1
}

// slow reads the record b, a complete object and the next unread bytes, into r. It
// knows any form, and leaves the syntax to encoding/json.
func (d *Decoder) slow(b []byte, r *Record) bool {
	if !json.Valid(b) {
		return d.invalid(b)
	}
	names := [...]string{"id", "location_id", "sku", "quantity"}
	var values [len(names)][]byte
	for key, value, i := member(b, 1); key != nil; key, value, i = member(b, i) {
		name, wrong := text(key)
		if wrong != "" {
			return d.fail("%s: key %s %s", d.record(), show(key), wrong)
		}
		for j := range names {
			if string(name) == names[j] {
				values[j] = value
			}
		}
	}
	var texts [len(names)][]byte
	var numbers [len(names)]int64
	for j, v := range values {
		if v == nil {
			return d.fail("%s: %s is missing", d.record(), names[j])
		}
		var wrong string
		switch names[j] {
		case "id":
			numbers[j], wrong = id(v)
		case "quantity":
			numbers[j], wrong = number(bare(v))
		default:
			texts[j], wrong = text(v)
		}
		if wrong != "" {
			return d.fail("%s: %s: %s %s", d.record(), names[j], show(v), wrong)
		}
	}
	*r = Record{numbers[0], d.location(texts[1]), d.sku(texts[2]), numbers[3]}
	return true
}

// member returns the key and the value of the member of an object at b[i], after white
// space and a comma, and the index after it. The key is nil if there is none. If the
// object is not valid JSON, they need not be valid either.
func member(b []byte, i int) (key, value []byte, end int) {
	if i = space(b, i); i < len(b) && b[i] == ',' {
		i = space(b, i+1)
	}
	if i >= len(b) || b[i] != '"' {
		return nil, nil, i
	}
	key = first(b[i:])
	if i = space(b, i+len(key)); i >= len(b) || b[i] != ':' {
		return nil, nil, i
	}
	i = space(b, i+1)
	value = first(b[i:])
	return key, value, i + len(value)
}

// text returns the text of v, which is valid JSON. If v is not a string, or the
// string is not Unicode text, wrong says what it is.
func text(v []byte) (s []byte, wrong string) {
	if v[0] != '"' {
		return nil, "is not a string"
	}
	if s, end := ascii(v, 0); end == len(v) {
		return s, ""
	}
	s = v[1 : len(v)-1]
	switch {
	case !utf8.Valid(s):
		return nil, "is not UTF-8"
	case bytes.IndexByte(s, '\\') < 0:
		return s, ""
	case halfPair(s):
		return nil, "has half of a surrogate pair"
	}
	var unquoted string
	_ = json.Unmarshal(v, &unquoted) // cannot fail
	return []byte(unquoted), ""
}

// halfPair reports whether s, what is between the quotes of a string, has an escape for
// one half of a surrogate pair without the other. Such a half is not a character, and
// encoding/json reads it as U+FFFD.
func halfPair(s []byte) bool {
	high := false // the first half was just before s[i]
	for i := 0; i < len(s); i++ {
		var unit uint64
		if s[i] == '\\' {
			i++
			if s[i] == 'u' {
				unit, _ = strconv.ParseUint(string(s[i+1:i+5]), 16, 16)
				i += 4
			}
		}
		if low := 0xdc00 <= unit && unit < 0xe000; low != high {
			return true
		}
		high = 0xd800 <= unit && unit < 0xdc00
	}
	return high
}

// bare returns what is in the quotes of v, or v if it is not a string of text.
func bare(v []byte) []byte {
	if s, wrong := text(v); wrong == "" {
		return s
	}
	return v
}

// id reads a number in any form except one with an exponent. An exponent shows that the
// server had the id as a floating-point number, which may have lost its last digits.
func id(v []byte) (n int64, wrong string) {
	s := bare(v)
	n, wrong = number(s)
	if wrong == "" && (bytes.IndexByte(s, 'e') >= 0 || bytes.IndexByte(s, 'E') >= 0) {
		wrong = "has an exponent, digits may be lost"
	}
	return n, wrong
}

// number reads a JSON number that is whole, in any form, without rounding.
// Otherwise wrong says what it is.
func number(s []byte) (v int64, wrong string) {
	const notWhole, tooBig = "is not a whole number", "is out of range"
	if len(s) == 0 || s[0] <= ' ' {
		return 0, notWhole
	}
	if v, end := integer(s, 0); end == len(s) {
		return v, ""
	}
	// A number is the only valid JSON that ends with a digit.
	if s[len(s)-1]-'0' > 9 || !json.Valid(s) {
		return 0, notWhole
	}
	s, negative := bytes.CutPrefix(s, []byte("-"))
	exponent := 0
	if e := bytes.IndexAny(s, "eE"); e >= 0 {
		for _, c := range bytes.TrimLeft(s[e+1:], "+-") {
			// No value has enough digits to make up for more.
			exponent = min(exponent*10+int(c-'0'), 1<<27)
		}
		if s[e+1] == '-' {
			exponent = -exponent
		}
		s = s[:e]
	}
	// The number is 0.digits times 10 to the exponent.
	integer, fraction, _ := bytes.Cut(s, []byte("."))
	digits := bytes.TrimLeft(slices.Concat(integer, fraction), "0")
	exponent += len(digits) - len(fraction)
	digits = bytes.TrimRight(digits, "0")
	switch {
	case len(digits) == 0:
		return 0, ""
	case exponent < len(digits):
		return 0, notWhole
	case exponent > 19:
		return 0, tooBig
	}
	u := uint64(0) // 19 digits fit
	for i := range exponent {
		u *= 10
		if i < len(digits) {
			u += uint64(digits[i] - '0')
		}
	}
	switch {
	case negative && u <= -math.MinInt64:
		return -int64(u), ""
	case !negative && u <= math.MaxInt64:
		return int64(u), ""
	}
	return 0, tooBig
}

// space returns the index of the first byte at or after b[i] that is not
// white space.
func space(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// extent finds the end of a value.
type extent struct {
	n        int // bytes looked at; in the end the length of the value
	depth    int
	left     int // number of levels that it may still nest
	inString bool
}

// scan looks at the rest of b, in which it was at n, and reports whether the value
// that starts at b[0] ends there. What it finds for a value that is not valid
// JSON is not valid JSON either.
func (e *extent) scan(b []byte) bool {
	for e.n < len(b) && e.left >= 0 {
		c := b[e.n]
		e.n++
		switch {
		case e.inString:
			switch c {
			case '\\':
				e.n++ // perhaps over the end of b
			case '"':
				e.inString = false
				if e.depth == 0 {
					return true
				}
			}
			continue
		case c == '"':
			e.inString = true
		case c == '{' || c == '[':
			e.depth++
			e.left--
		case e.depth > 0:
			if c == '}' || c == ']' {
				e.left++
				if e.depth--; e.depth == 0 {
					return true
				}
			}
		case c == ',' || c == '}' || c == ']' || space([]byte{c}, 0) > 0:
			e.n-- // behind a number or a literal
			return true
		}
	}
	return false
}

// first returns the value at the start of b, nil if it does not end in b.
func first(b []byte) []byte {
	if _, end := ascii(b, 0); end <= len(b) {
		return b[:end] // what scan would return, only faster
	}
	e := extent{left: maxDepth}
	if !e.scan(b) {
		return nil
	}
	return b[:e.n]
}
