package oakra

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// maxRequest is the longest body that exchange sends.
const maxRequest = 1 << 20

// request is the JSON body of an operation whose 2xx is a T.
type request[T any] interface {
	// check returns what is wrong with the request, which is then not sent.
	check() error
	// confirm returns what the response lacks to prove that the request was
	// applied.
	confirm(response T) error
}

// exchange sends a request about the given number of items, and returns its response.
func exchange[T any](ctx context.Context, c *Client, op operation, items int, r request[T]) (T, error) {
	var response T
	if err := r.check(); err != nil {
		return response, invalid(op.String(), "%v", err)
	}
	content, err := json.Marshal(r)
	if err != nil {
		return response, invalid(op.String(), "%v", err)
	}
	if len(content) > maxRequest {
		return response, invalid(op.String(), "the request would be %d bytes long, over %d", len(content), maxRequest)
	}
	d := exchangeDecoder[T]{request: r}
	err = c.do(ctx, op, items, "", &body{json: content}, &d)
	return d.response, err
}

// exchangeDecoder reads the 2xx of a request.
type exchangeDecoder[T any] struct {
	request  request[T]
	response T // set after a success
}

func (d *exchangeDecoder[T]) decode(c *call, response *http.Response) *Error {
	content, readErr := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	var value T
	err := readErr
	if len(content) > maxBody {
		err = fmt.Errorf("the body is over %d MiB", maxBody>>20)
	} else if wrong := readJSON(content, &value); err == nil {
		err = wrong
	}
	if err == nil && response.StatusCode == http.StatusMultiStatus {
		err = errMultiStatus
	}
	if lacks := d.request.confirm(value); err == nil {
		err = lacks
	} else if lacks != nil {
		err = fmt.Errorf("%w: %w", err, lacks)
	}
	if err == nil {
		d.response = value
		return nil
	}
	e := c.badResponse(response, bodyRow(false, readErr != nil), c.withContext(err))
	e.cut = readErr != nil
	e.setBody(bytes.Clone(content[:min(len(content), maxErrorBody+1024)]), true)
	return e
}

// readJSON reads an object into the struct that v points to. It is stricter than
// [json.Unmarshal]: a name must match its json tag exactly and occur once, and text
// must be Unicode. Members without a field are ignored, and fields without a member,
// or with null, keep their value. It stops at the first error; v has what
// was read before, and a slice only whole elements.
func readJSON(content []byte, v any) error {
	content = bytes.TrimPrefix(content, []byte("\ufeff"))
	r := jsonReader{json.NewDecoder(bytes.NewReader(content))}
	err := r.value(reflect.ValueOf(v).Elem(), "", false)
	if err == nil {
		if _, end := r.Token(); !errors.Is(end, io.EOF) {
			return errors.New("the JSON is followed by something else")
		}
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

type jsonReader struct{ *json.Decoder }

// value reads the next value, which is at path, into v. The value of a member may be
// null.
func (r jsonReader) value(v reflect.Value, path string, member bool) error {
	switch v.Kind() {
	case reflect.Struct:
		return r.object(v, path, member)
	case reflect.Slice:
		return r.array(v, path, member)
	}
	var raw json.RawMessage
	if err := r.Decode(&raw); err != nil {
		return err
	}
	if raw[0] == 'n' && member {
		return nil
	}
	if raw[0] == 'n' || json.Unmarshal(raw, v.Addr().Interface()) != nil {
		return fmt.Errorf("%q is not of the type %v", path, v.Kind())
	}
	if v.Kind() == reflect.String && garbled(raw, v.String()) {
		return fmt.Errorf("%q is not Unicode text", path)
	}
	return nil
}

func (r jsonReader) object(v reflect.Value, path string, member bool) error {
	if null, err := r.open('{', path, member); null || err != nil {
		return err
	}
	read := make([]bool, v.NumField())
	for r.More() {
		token, err := r.Token()
		if err != nil {
			return err
		}
		name := token.(string)
		i := fieldNamed(v.Type(), name)
		if i < 0 {
			if err := r.Decode(new(json.RawMessage)); err != nil {
				return err
			}
			continue
		}
		at := strings.TrimPrefix(path+"."+name, ".")
		if read[i] {
			return fmt.Errorf("%q occurs twice", at)
		}
		read[i] = true
		if err := r.value(v.Field(i), at, true); err != nil {
			return err
		}
	}
	_, err := r.Token()
	return err
}

// fieldNamed returns the index of the field with this json tag, or -1.
func fieldNamed(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if tag, tagged := t.Field(i).Tag.Lookup("json"); tagged && tag == name {
			return i
		}
	}
	return -1
}

// maxElements bounds the memory of an array: "{}," are three bytes of a body, and
// may be hundreds as a struct. A request of maxRequest holds fewer items.
const maxElements = 1 << 18

func (r jsonReader) array(v reflect.Value, path string, member bool) error {
	if null, err := r.open('[', path, member); null || err != nil {
		return err
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for r.More() {
		if v.Len() == maxElements {
			return fmt.Errorf("%q has over %d elements", path, maxElements)
		}
		element := reflect.New(v.Type().Elem()).Elem()
		if err := r.value(element, fmt.Sprintf("%s[%d]", path, v.Len()), false); err != nil {
			return err
		}
		v.Set(reflect.Append(v, element))
	}
	_, err := r.Token()
	return err
}

// open reads the bracket that an object or an array begins with, or the null in the
// place of a member.
func (r jsonReader) open(bracket json.Delim, path string, member bool) (null bool, err error) {
	token, err := r.Token()
	switch {
	case err != nil:
		return false, err
	case token == bracket:
		return false, nil
	case token == nil && member:
		return true, nil
	case path == "":
		path = "the body"
	}
	return false, fmt.Errorf("%q does not begin with %v", path, bracket)
}

// garbled reports whether the string that was decoded from raw has a replacement
// character that raw does not spell. [json.Unmarshal] puts one in place of invalid
// UTF-8 and of half a surrogate pair.
func garbled(raw []byte, decoded string) bool {
	n := strings.Count(decoded, "\ufffd")
	if n == 0 {
		return false
	}
	raw = bytes.ReplaceAll(raw, []byte(`\\`), nil) // which could precede a plain "ufffd"
	spelled := bytes.Count(raw, []byte("\ufffd")) + bytes.Count(bytes.ToLower(raw), []byte(`\ufffd`))
	return n > spelled
}
