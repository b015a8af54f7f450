package oakratest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// item is one of the stock_records of a write.
type item struct{ id, n int64 }

// problems holds what is wrong with the items of a write, by index and field.
type problems map[int]map[string][]string

func (p problems) add(i int, field, text string) {
	if p[i] == nil {
		p[i] = make(map[string][]string)
	}
	p[i][field] = []string{text}
}

// list returns the problems of all n items, with an empty object for each good one.
func (p problems) list(n int) []map[string][]string {
	all := make([]map[string][]string, n)
	for i := range all {
		if all[i] = p[i]; all[i] == nil {
			all[i] = map[string][]string{}
		}
	}
	return all
}

// nonField is where Django REST reports what is wrong with more than one field.
const nonField = "non_field_errors"

const (
	required   = "This field is required."
	notNull    = "This field may not be null."
	outOfRange = "This integer is out of the range of 64 bits."
	notObject  = "Invalid data. Expected a dictionary."
)

// readItems reads the body of a write of stock records. If the body has no items at
// all, rejection is the body of the response.
func readItems(body []byte, field string) (items []item, p problems, rejection any) {
	object, rejection := readObject(body)
	if rejection != nil {
		return nil, nil, rejection
	}
	records, rejection := readList(object, "stock_records")
	if rejection != nil {
		return nil, nil, rejection
	}
	p = make(problems)
	each(records, func(_, value []byte) {
		items = append(items, readItem(value, field, p, len(items)))
	})
	return items, p, nil
}

// readObject returns the JSON object that a body must be.
func readObject(body []byte) (object []byte, rejection any) {
	if !json.Valid(body) {
		var v any
		return nil, map[string]string{"detail": fmt.Sprintf("JSON parse error - %v", json.Unmarshal(body, &v))}
	}
	if body = trimSpace(body); body[0] != '{' {
		return nil, map[string][]string{nonField: {notObject}}
	}
	return body, nil
}

// readList returns the list that a member of an object must be, with one item at
// least.
func readList(object []byte, member string) (list []byte, rejection any) {
	each(object, func(name, value []byte) {
		if string(name) == member {
			list = value
		}
	})
	switch {
	case list == nil:
		return nil, map[string][]string{member: {required}}
	case list[0] == 'n':
		return nil, map[string][]string{member: {notNull}}
	case list[0] != '[':
		return nil, map[string]any{member: map[string][]string{nonField: {"Expected a list of items."}}}
	case trimSpace(list[1:])[0] == ']':
		return nil, map[string]any{member: map[string][]string{nonField: {"This list may not be empty."}}}
	}
	return list, nil
}

func readItem(object []byte, field string, p problems, i int) item {
	if object[0] != '{' {
		p.add(i, nonField, notObject)
		return item{}
	}
	var id, n []byte
	each(object, func(name, value []byte) {
		switch string(name) {
		case "id":
			id = value
		case field:
			n = value
		}
	})
	return item{id: p.integer(i, "id", id), n: p.integer(i, field, n)}
}

// integer reads the value of a field, or adds what is wrong with it to p.
func (p problems) integer(i int, field string, value []byte) int64 {
	n, problem := integer(value)
	if problem != "" {
		p.add(i, field, problem)
	}
	return n
}

// integer reads a whole number as Django REST does, which also accepts a string and
// zeros after the decimal point.
func integer(value []byte) (n int64, problem string) {
	const invalid = "A valid integer is required."
	if value == nil {
		return 0, required
	}
	text := string(value)
	switch text[0] {
	case 'n':
		return 0, notNull
	case '"':
		var unquoted string
		_ = json.Unmarshal(value, &unquoted) // it is valid
		text = strings.TrimSpace(unquoted)
	}
	whole, fraction, _ := strings.Cut(text, ".")
	if strings.Trim(fraction, "0") != "" {
		return 0, invalid
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, outOfRange
	case err != nil:
		return 0, invalid
	}
	return n, ""
}

// text reads a string as Django REST does, which also accepts a number, and removes
// white space around it.
func text(value []byte) (s, problem string) {
	switch {
	case value == nil:
		return "", required
	case value[0] == 'n':
		return "", notNull
	case value[0] == '"':
		_ = json.Unmarshal(value, &s) // it is valid
	case strings.IndexByte("-0123456789", value[0]) >= 0:
		s = string(value)
	default:
		return "", "Not a valid string."
	}
	if s = strings.TrimSpace(s); s == "" {
		return "", "This field may not be blank."
	}
	return s, ""
}

// The functions below walk through JSON that is known to be valid. encoding/json
// accepts "Quantity" for "quantity" in structs, and is slow with maps; a test may
// send many thousands of items.

// each calls f with the members of an object, or with the items of an array, which
// have no name. A name with an escape in it is passed as written.
func each(container []byte, f func(name, value []byte)) {
	object := container[0] == '{'
	rest := container[1:]
	for {
		rest = trimSpace(rest)
		switch rest[0] {
		case '}', ']':
			return
		case ',':
			rest = trimSpace(rest[1:])
		}
		var name, value []byte
		if object {
			name, rest = first(rest)
			name, rest = name[1:len(name)-1], trimSpace(trimSpace(rest)[len(":"):])
		}
		value, rest = first(rest)
		f(name, value)
	}
}

// first splits off the value at the beginning of b.
func first(b []byte) (value, rest []byte) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return b[:i+1], b[i+1:]
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of the container
				return b[:i], b[i:]
			}
			if depth--; depth == 0 {
				return b[:i+1], b[i+1:]
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return b[:i], b[i:]
			}
		}
	}
	return b, nil
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\r' || b[0] == '\n') {
		b = b[1:]
	}
	return b
}
