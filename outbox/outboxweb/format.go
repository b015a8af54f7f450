package outboxweb

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/oakra/oakra-go/outbox"
)

// functions are what the templates call.
var functions = template.FuncMap{
	"count":   count,
	"signed":  signed,
	"units":   units,
	"when":    when,
	"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"length":  length,
	"visible": visible,
	"plural":  plural,
	"effect": func(action string, e outbox.Entry) any {
		return struct {
			outbox.Entry
			Action string
		}{e, action}
	},
	"state": func(s outbox.State) string { return stateWords[s] },
}

// stateWords say what a state means to somebody who has not read the documentation.
var stateWords = map[outbox.State]string{
	outbox.StatePending: "waits to be sent",
	outbox.StateSent:    "is being sent",
	outbox.StateApplied: "counted in Oakra",
	outbox.StateParked:  "waits for a decision",
	outbox.StateDropped: "given up",
}

// count writes a number with separators: 10,000.
func count(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// signed writes a change of quantity: +3, −1.
func signed(n int64) string {
	if n < 0 {
		return "−" + count(-n)
	}
	return "+" + count(n)
}

// units writes a change of quantity without its sign.
func units(n int64) string { return count(max(n, -n)) }

// plural returns the word for one or for several.
func plural(n int64, one, several string) string {
	if n == 1 {
		return one
	}
	return several
}

// when writes a time with its zone.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// length writes a duration in words, rounded down to its largest unit.
func length(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{
		{24 * time.Hour, "day"},
		{time.Hour, "hour"},
		{time.Minute, "minute"},
	} {
		if n := int64(d / unit.length); n > 0 {
			return count(n) + " " + plural(n, unit.name, unit.name+"s")
		}
	}
	n := int64(max(d, 0) / time.Second)
	return count(n) + " " + plural(n, "second", "seconds")
}

// visible shows the characters of a value that cannot be seen, or that move others,
// by their number, and spaces at its ends as ␣. A SKU that looks like another one is
// often the reason why Oakra does not know it.
func visible(s string) string {
	inner := strings.Trim(s, " ")
	if inner == "" {
		return strings.Repeat("␣", len(s))
	}
	before := strings.Index(s, inner)
	var b strings.Builder
	b.WriteString(strings.Repeat("␣", before))
	for _, r := range inner {
		if r == ' ' || unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		}
	}
	b.WriteString(strings.Repeat("␣", len(s)-before-len(inner)))
	return b.String()
}
