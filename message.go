package oakra

import (
	"encoding/json"
	"fmt"
	"strings"
)

// readMessage takes what a server in Django's manner says of an error from its
// body: {"detail": "..."}, {"field": ["..."]}, both nested in any way, or a list
// of texts. It reports whether the body is JSON at all.
func (e *Error) readMessage(body []byte) bool {
	var v any
	if json.Unmarshal(body, &v) != nil {
		return false
	}
	switch v := v.(type) {
	case map[string]any:
		if detail := texts(v["detail"]); len(detail) > 0 {
			e.Message = strings.Join(detail, " ")
			delete(v, "detail")
		}
		if e.StatusCode/100 != 2 { // whose members are rather records than messages
			e.addFields("", v)
		}
	case []any, string:
		if all := texts(v); len(all) > 0 {
			e.Message = strings.Join(all, " ")
		} else if e.StatusCode/100 != 2 {
			e.addFields("", v)
		}
	}
	return true
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

// texts returns v if it is a text or a list of nothing but texts.
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
