package stockjson

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// record names the record at the next unread bytes for an error: by its number, and
// by its SKU and id if they can be read. It may be neither complete nor valid JSON.
func (d *Decoder) record() string {
	name := fmt.Sprint("record ", d.count+1)
	b := d.buf[d.pos:d.end]
	if b[0] != '{' {
		return name
	}
	var skuText, idText string
	for key, value, i := member(b, 1); key != nil; key, value, i = member(b, i) {
		if !json.Valid(key) || !json.Valid(value) {
			continue
		}
		switch k, _ := text(key); string(k) {
		case "sku":
			skuText = ""
			if s, wrong := text(value); wrong == "" {
				skuText = "SKU " + excerpt(s)
			}
		case "id":
			idText = ""
			if n, wrong := id(value); wrong == "" {
				idText = fmt.Sprint("id ", n)
			}
		}
	}
	switch {
	case skuText != "" && idText != "":
		return fmt.Sprintf("%s (%s, %s)", name, skuText, idText)
	case skuText != "" || idText != "":
		return fmt.Sprintf("%s (%s)", name, skuText+idText)
	}
	return name
}

// show returns the start of v, which is valid JSON, for an error: as it was sent,
// unless that cannot be printed.
func show(v []byte) string {
	quote := ""
	if v[0] == '"' {
		v, quote = v[1:len(v)-1], `"`
	}
	start, more := shorten(v)
	hidden := func(r rune) bool { return !strconv.IsPrint(r) }
	if utf8.ValidString(start) && !strings.ContainsFunc(start, hidden) {
		return quote + start + quote + more
	}
	return strconv.Quote(start) + more
}

// excerpt returns the start of b, quoted for an error.
func excerpt(b []byte) string {
	start, more := shorten(b)
	return strconv.Quote(start) + more
}

// shorten returns the start of b for an error, and a mark if there is more.
func shorten(b []byte) (start, more string) {
	const longest = 40
	if len(b) <= longest {
		return string(b), ""
	}
	n := longest
	for n > longest-utf8.UTFMax && !utf8.RuneStart(b[n]) {
		n-- // no character is cut in two
	}
	return string(b[:n]), "…"
}
