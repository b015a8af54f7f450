package stocksync

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// convention says what the comma and the point mean in the numbers of a file.
type convention int

const (
	pointDecimal convention = 1 << iota // 1,234.00
	commaDecimal                        // 1.234,00
)

// A number that begins with 0 has no group of thousands.
var (
	pointWhole = regexp.MustCompile(`^-?([0-9]+|[1-9][0-9]{0,2}(,[0-9]{3})+)(\.0+)?$`)
	commaWhole = regexp.MustCompile(`^-?([0-9]+|[1-9][0-9]{0,2}(\.[0-9]{3})+)(,0+)?$`)
	oneGroup   = regexp.MustCompile(`^-?[1-9][0-9]{0,2}[.,][0-9]{3}$`) // thousands or decimals
)

// conventions returns the conventions that the numbers show. Only a number with a
// comma or a point that can be read in one way shows a convention.
func conventions(numbers []string) (shown convention) {
	for _, text := range numbers {
		if !strings.ContainsAny(text, ".,") || oneGroup.MatchString(text) {
			continue
		}
		if _, err := readWhole(text, conventionOf(text)); err == nil {
			shown |= conventionOf(text)
		}
	}
	return shown
}

// conventionOf returns the convention of a number that can be read in one way.
func conventionOf(text string) convention {
	if commaWhole.MatchString(text) {
		return commaDecimal
	}
	return pointDecimal
}

// readQuantity reads a quantity of a file that shows the given conventions and
// separates its cells by comma.
func readQuantity(text string, shown convention, comma string) (int64, error) {
	if !oneGroup.MatchString(text) {
		return readWhole(text, conventionOf(text))
	}
	switch {
	case shown == pointDecimal || shown == commaDecimal:
		return readWhole(text, shown)
	case shown == 0 && comma == "," && strings.Contains(text, ","):
		return readWhole(text, pointDecimal)
	}
	mark, name := ",", "comma"
	if strings.Contains(text, ".") {
		mark, name = ".", "point"
	}
	return 0, fmt.Errorf("the quantity %q is ambiguous: %s if the %s separates thousands, %s if it separates decimals",
		text, strings.Replace(text, mark, "", 1), name, strings.Replace(text, mark, ".", 1))
}

// readWhole reads a number by one convention.
func readWhole(text string, c convention) (int64, error) {
	whole, thousands, decimals := pointWhole, ",", "."
	if c == commaDecimal {
		whole, thousands, decimals = commaWhole, ".", ","
	}
	if !whole.MatchString(text) {
		return 0, fmt.Errorf("the quantity %.40q is not plainly a whole number%s", text, whyNot(text))
	}
	digits, _, _ := strings.Cut(text, decimals)
	n, err := strconv.ParseInt(strings.ReplaceAll(digits, thousands, ""), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the quantity %.40q does not fit into 64 bits", text)
	}
	return n, nil
}

// scientific matches a long number as spreadsheets rewrite it, which loses digits.
var scientific = regexp.MustCompile(`(?i)^-?[0-9]+([.,][0-9]+)?e[+-]?[0-9]+$`)

// whyNot returns what is most likely wrong with a quantity.
func whyNot(text string) string {
	other := func(r rune) bool {
		return r > unicode.MaxASCII && (unicode.IsDigit(r) || unicode.Is(unicode.Pd, r) || r == '\u2212')
	}
	switch {
	case text[0] == '\'':
		return ": it begins with an apostrophe"
	case text[0] == '+':
		return ": a plus sign means \"add\" in some feeds"
	case text[0] == '(':
		return ": parentheses mean a negative number in some books"
	case scientific.MatchString(text):
		return ": it is in scientific notation, which may have lost digits"
	case strings.Contains(text, "%"):
		return ": it is a percentage"
	case strings.ContainsFunc(text, other):
		return ": it has a digit or a minus sign that is not ASCII"
	case strings.ContainsFunc(text, unicode.IsLetter):
		return ": it has letters"
	}
	return ""
}
