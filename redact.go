package oakra

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
)

const (
	cutOut     = "[app key]"
	cutOutPart = "[left out: it has a part of the app key in it]"
)

// secrets are app keys to cut out of texts of others. The longest comes first, as one
// may be the beginning of another.
type secrets []string

const (
	// minSecret is the length from which a key is cut out. Shorter ones are in any
	// text by chance, and exist only in tests.
	minSecret = 4
	// minPart is how many bytes of a key in a row are more than chance.
	minPart = 8
)

func (keys secrets) with(key string) secrets {
	if len(key) < minSecret || slices.Contains(keys, key) {
		return keys
	}
	keys = append(slices.Clip(keys), key)
	slices.SortStableFunc(keys, func(a, b string) int { return len(b) - len(a) })
	return keys
}

// redact cuts the keys out of all that e shows. It is the one place that does so:
// an error passes through it as its attempt ends, and as its call ends, when more
// keys may be known; an item of a bulk run that was not sent has its own.
func (keys secrets) redact(e *Error) {
	if len(keys) == 0 {
		e.Err = foreign(e.Err, keys)
		return
	}
	e.Message = keys.text(e.Message)
	e.note = keys.text(e.note)
	e.Fields = keys.lists(e.Fields)
	e.Records = keys.records(e.Records)
	e.Header = keys.lists(e.Header)
	e.Body = keys.body(e.Body)
	e.Err = foreign(e.Err, keys)
}

// text cuts the keys out of s, ignoring case. If a part of one is left, it returns
// none of s.
func (keys secrets) text(s string) string {
	if len(s) < minSecret {
		return s
	}
	s = string(keys.replace([]byte(s)))
	if keys.partly([]byte(s)) {
		return cutOutPart
	}
	return s
}

// body cuts the keys out of b, and the part of a key at its end, where it was cut
// short. JSON can spell a key in more ways than are worth replacing: a body that
// does so is cut out whole.
func (keys secrets) body(b []byte) []byte {
	b = keys.replace(b)
	for _, key := range keys {
		if n := partAtEnd(b, key); n > 0 {
			b = append(b[:len(b)-n:len(b)-n], cutOut...)
		}
	}
	if plain := unescaped(b); keys.partly(plain) || len(keys.replace(plain)) != len(plain) {
		return []byte(cutOut)
	}
	return b
}

// lists returns a copy of m without the keys.
func (keys secrets) lists(m map[string][]string) map[string][]string {
	if m == nil {
		return nil
	}
	clean := make(map[string][]string, len(m))
	for name, values := range m {
		name = keys.text(name)
		for _, value := range values {
			clean[name] = append(clean[name], keys.text(value))
		}
	}
	return clean
}

// records returns records without the keys: the same slice if there are none in it,
// since an observer may be reading it.
func (keys secrets) records(records []StockRecord) []StockRecord {
	var clean []StockRecord
	for i, r := range records {
		sku, location := keys.text(r.SKU), keys.text(r.LocationID)
		if sku == r.SKU && location == r.LocationID {
			continue
		}
		if clean == nil {
			clean = slices.Clone(records)
		}
		clean[i].SKU, clean[i].LocationID = sku, location
	}
	if clean == nil {
		return records
	}
	return clean
}

// replace puts a mark in the place of each key in b, ignoring case.
func (keys secrets) replace(b []byte) []byte {
	for _, key := range keys {
		low, lowKey := lower(b), lower([]byte(key))
		at := bytes.Index(low, lowKey)
		if at < 0 {
			continue
		}
		replaced := make([]byte, 0, len(b))
		for at >= 0 {
			replaced = append(append(replaced, b[:at]...), cutOut...)
			b, low = b[at+len(key):], low[at+len(key):]
			at = bytes.Index(low, lowKey)
		}
		b = append(replaced, b...)
	}
	return b
}

// partly reports whether a part of a key is in b, ignoring case.
func (keys secrets) partly(b []byte) bool {
	if len(b) < minPart {
		return false
	}
	low := lower(b)
	for _, key := range keys {
		key := lower([]byte(key))
		for i := 0; i+minPart <= len(low); i++ {
			if bytes.Contains(key, low[i:i+minPart]) {
				return true
			}
		}
	}
	return false
}

// lower returns b with the letters of ASCII in lower case, and so of the same
// length. An app key has no others.
func lower(b []byte) []byte {
	low := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	return low
}

// partAtEnd returns how many bytes at the end of b are the beginning of key.
func partAtEnd(b []byte, key string) int {
	for n := min(len(key)-1, len(b)); n >= minPart; n-- {
		if strings.EqualFold(string(b[len(b)-n:]), key[:n]) {
			return n
		}
	}
	return 0
}

// unescaped undoes the escapes of JSON anywhere in b.
func unescaped(b []byte) []byte {
	if bytes.IndexByte(b, '\\') < 0 {
		return b
	}
	plain := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' || i+1 == len(b) {
			plain = append(plain, b[i])
			continue
		}
		i++
		if b[i] == 'u' && i+4 < len(b) {
			if r, err := strconv.ParseUint(string(b[i+1:i+5]), 16, 16); err == nil && r < 0x80 {
				plain = append(plain, byte(r))
				i += 4
				continue
			}
		}
		plain = append(plain, b[i])
	}
	return plain
}

// foreign makes an error of others fit to be shown: without the keys in its text,
// and with nothing else of it in reach of a verb of fmt or of json.Marshal, since
// a transport's error may hold the request with its header. What it is and wraps
// can still be found with errors.Is and errors.As.
func foreign(err error, keys secrets) error {
	if err == nil || err == ErrBadResponse { //nolint:errorlint // alone, it is our own
		return err
	}
	text := keys.text(err.Error())
	// net/http's advice is for programs that build requests.
	text = strings.ReplaceAll(text, "; define Request.GetBody to avoid this error", "")
	if done, ok := err.(*foreignError); ok && done.text == text { //nolint:errorlint // a wrapped one would be shown
		return done
	}
	return &foreignError{
		text: text,
		is:   func(target error) bool { return errors.Is(err, target) },
		as:   func(target any) bool { return errors.As(err, target) },
	}
}

// outside returns an error of others such that it does not match this package's
// sentinels. A context may end because another call failed, as that of an errgroup
// does, and what was wrong with that call is not what is wrong with this one.
func outside(err error) error {
	matches := func(sentinel error) bool { return errors.Is(err, sentinel) }
	if err == nil || !slices.ContainsFunc(sentinels, matches) {
		return err
	}
	return &foreignError{
		text: err.Error(),
		is:   func(target error) bool { return !slices.Contains(sentinels, target) && errors.Is(err, target) },
		as:   func(target any) bool { return errors.As(err, target) },
	}
}

type foreignError struct {
	text string
	is   func(error) bool
	as   func(any) bool
}

func (e *foreignError) Error() string        { return e.text }
func (e *foreignError) Is(target error) bool { return e.is(target) }
func (e *foreignError) As(target any) bool   { return e.as(target) }
