package oakra

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
)

const cutOut = "[app key]"

// secrets are the keys of one call, to be cut out of what others say of it: the
// longest first, as one may be a part of another.
type secrets []string

// minSecret is the length from which a key is one. Shorter ones are found in any
// text by chance, and only in tests.
const minSecret = 4

func (keys secrets) with(key string) secrets {
	if len(key) < minSecret || slices.Contains(keys, key) {
		return keys
	}
	keys = append(keys, key)
	slices.SortFunc(keys, func(a, b string) int { return len(b) - len(a) })
	return keys
}

// text cuts the keys out of s.
func (keys secrets) text(s string) string {
	for _, key := range keys {
		s = strings.ReplaceAll(s, key, cutOut)
	}
	return s
}

// body cuts the keys out of b, and the part of a key at its end, where it was cut
// short. JSON can spell a key in more ways than are worth replacing: a body that
// does so is cut out whole.
func (keys secrets) body(b []byte) []byte {
	for _, key := range keys {
		b = bytes.ReplaceAll(b, []byte(key), []byte(cutOut))
		if n := partAtEnd(b, key); n > 0 {
			b = append(b[:len(b)-n:len(b)-n], cutOut...)
		}
	}
	if keys.in(string(unescaped(b))) {
		return []byte(cutOut)
	}
	return b
}

// in reports whether a key, or a part of one, is in s.
func (keys secrets) in(s string) bool {
	s = strings.ReplaceAll(s, cutOut, "")
	return keys.text(s) != s || keys.partly(s)
}

// telling is how many bytes of a key are more than chance.
const telling = 8

// partly reports whether a part of a key is in s.
func (keys secrets) partly(s string) bool {
	for _, key := range keys {
		for i := 0; i+telling <= len(key); i += telling {
			if strings.Contains(s, key[i:i+telling]) {
				return true
			}
		}
	}
	return false
}

// partAtEnd is how many bytes at the end of b are the beginning of key.
func partAtEnd(b []byte, key string) int {
	for n := min(len(key)-1, len(b)); n >= telling; n-- {
		if string(b[len(b)-n:]) == key[:n] {
			return n
		}
	}
	return 0
}

// unescaped undoes the escapes of JSON, wherever they stand in b.
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

// message cuts the keys out of what was read from an answer.
func (keys secrets) message(e *Error) {
	e.Message = keys.text(e.Message)
	for name, all := range e.Fields {
		for i := range all {
			all[i] = keys.text(all[i])
		}
		if without := keys.text(name); without != name {
			delete(e.Fields, name)
			e.Fields[without] = all
		}
	}
}

// err makes a foreign error fit to be shown: without the keys in its text, and
// with nothing else of it in reach of a verb of fmt or of json.Marshal, since a
// transport's error may hold the request with its header. What it is and wraps
// can still be found with errors.Is and errors.As.
func (keys secrets) err(err error) error {
	if err == nil {
		return nil
	}
	text := keys.text(err.Error())
	if keys.partly(text) {
		text = "the text of this error has a part of the app key in it, and is left out"
	}
	return &foreignError{
		text: text,
		is:   func(target error) bool { return errors.Is(err, target) },
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
