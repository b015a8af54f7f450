package oakra

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"strings"
)

// setBody puts the body of a response on the error and, if message is set, reads
// the server's words from it.
func (e *Error) setBody(body []byte, message bool) {
	e.Body = body
	first := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	e.json = len(first) > 0 && (first[0] == '{' || first[0] == '[')
	if !message {
		return
	}
	if e.json || len(first) > 0 && first[0] == '"' {
		e.readMessage(first)
		return
	}
	e.Message = title(body)
	switch {
	case len(first) == 0:
	case e.StatusCode/100 == 2:
		e.note = "this is not from the API: is the base URL right?"
	case e.StatusCode == 403:
		e.note = "this page is not from the API, but from something on the way to it"
	}
}

// readMessage reads what a server in Django's manner says about an error:
// {"detail": "..."}, {"field": ["..."]}, both nested in any way, or a list of texts.
// In a 2xx, whose members are records rather than messages, it looks for the names
// that other servers use.
func (e *Error) readMessage(body []byte) {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return
	}
	object, ok := v.(map[string]any)
	switch {
	case !ok:
		if all := texts(v); len(all) > 0 {
			e.Message = strings.Join(all, " ")
		} else if e.StatusCode/100 != 2 {
			e.addFields("", v)
		} else if list, ok := v.([]any); ok && len(list) > 0 {
			object, _ = list[0].(map[string]any) // [{"detail": "..."}]
			e.Message = firstText(object)
		}
	case e.StatusCode/100 == 2:
		e.Message = firstText(object)
	default:
		if detail := texts(object["detail"]); len(detail) > 0 {
			e.Message = strings.Join(detail, " ")
			delete(object, "detail")
		}
		e.addFields("", object)
		// A text that is not in a list may repeat what was sent.
		for _, name := range []string{"sale_id", "cancel_reason"} {
			if messages, isList := object[name].([]any); isList {
				e.sale = e.sale || len(texts(messages)) > 0
			}
		}
	}
}

// firstText returns the first message that an object has under one of the usual
// names.
func firstText(object map[string]any) string {
	for _, name := range []string{"detail", "message", "error", "errors"} {
		v := object[name]
		if inner, ok := v.(map[string]any); ok {
			if text := firstText(inner); text != "" {
				return text
			}
		}
		if all := texts(v); len(all) > 0 {
			return strings.Join(all, " ")
		}
	}
	return ""
}

// title returns the title of an HTML page, "" if body is none.
func title(body []byte) string {
	lower := lower(body)
	begin := bytes.Index(lower, []byte("<title"))
	if begin < 0 {
		return ""
	}
	open := bytes.IndexByte(lower[begin:], '>')
	if open < 0 {
		return ""
	}
	begin += open + 1
	end := bytes.Index(lower[begin:], []byte("</title"))
	if end < 0 {
		return ""
	}
	text := html.UnescapeString(string(body[begin : begin+end]))
	return strings.Join(strings.Fields(strings.ToValidUTF8(text, "")), " ")
}

// addFields adds the texts at and under path, unless it is absurdly long.
func (e *Error) addFields(path string, v any) {
	const longest = 1000
	if len(path) > longest {
		return
	}
	if all := texts(v); len(all) > 0 {
		if e.Fields == nil {
			e.Fields = make(map[string][]string)
		}
		e.Fields[path] = all
		return
	}
	switch v := v.(type) {
	case map[string]any:
		for name, item := range v {
			if path != "" {
				name = path + "." + name
			}
			e.addFields(name, item)
		}
	case []any:
		for i, item := range v {
			e.addFields(fmt.Sprintf("%s[%d]", path, i), item)
		}
	}
}

// texts returns v if it is a text or a list of texts only.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		all := make([]string, 0, len(v))
		for _, item := range v {
			text, ok := item.(string)
			if !ok {
				return nil
			}
			all = append(all, text)
		}
		return all
	}
	return nil
}
