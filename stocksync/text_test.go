package stocksync_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/stocksync"
)

// readNames reads a line with a SKU and a location.
func readNames(sku, location string) (stocksync.Target, error) {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	targets, err := stocksync.ReadCSV(strings.NewReader("sku,location_id,quantity\n" + quote(sku) + "," + quote(location) + ",5\n"))
	if err != nil {
		return stocksync.Target{}, err
	}
	return targets[0], nil
}

// TestUnseenCharacters checks that invisible characters are reported: without that,
// nobody can see why a SKU with one of them is not found.
func TestUnseenCharacters(t *testing.T) {
	for _, r := range []rune{
		0x01, '\t', 0x7f, 0x85, // Cc
		0xad, 0x61c, 0x200b, 0x200d, 0x200e, 0x2060, 0x2066, 0xfeff, 0xe0041, // Cf
		0xa0, 0x1680, 0x2000, 0x2009, 0x202f, 0x205f, 0x3000, // Zs
		0x2028, 0x2029, // Zl, Zp
		0x34f, 0x115f, 0x1160, 0x17b4, 0x2800, 0x3164, 0xffa0, 0xe0100,
		0x180b, 0xfe00, 0xfe0e, 0xfe0f, // variation selectors
	} {
		for _, form := range []string{"a%cb", "a%c", "%ca", "a %c"} {
			text := fmt.Sprintf(form, r)
			if strings.Trim(text, " \t") != text {
				continue // ordinary space around a value
			}
			want := fmt.Sprintf("has %U, which cannot be seen or looks like a space", r)
			_, err := readNames(text, "w1")
			require.ErrorContains(t, err, "line 2: the sku ", "%+q", text)
			require.ErrorContains(t, err, want, "%+q", text)
			_, err = readNames("a", text)
			require.ErrorContains(t, err, "line 2: the location_id ", "%+q", text)
			require.ErrorContains(t, err, want, "%+q", text)
		}
	}
}

func TestVariationSelectors(t *testing.T) {
	for text, bad := range map[string]bool{
		"mug-\u2764\ufe0f":           false, // a red heart
		"mug-\u2764\ufe0e-b":         false, // a black one
		"mug-\u2122\ufe0f":           false, // trade mark
		"mug-\u00a9\ufe0f":           false,
		"mug-\u203c\ufe0f":           false,
		"mug-\u2194\ufe0f":           false,
		"mug-\U0001F54A\ufe0f":       false, // a dove
		"mug-1\ufe0f\u20e3":          false, // a keycap
		"mug-#\ufe0f\u20e3":          false,
		"mug-1\ufe0f":                true,
		"mug-\u2764\ufe0f\ufe0f":     true,
		"mug-\u2764\ufe00":           true,
		"mug-\u2764\U000E0100":       true,
		"mug-\u00b0\ufe0f":           true, // degree
		"mug-\u2103\ufe0f":           true, // degree Celsius
		"mug-\u0967\ufe0f\u20e3":     true, // a Devanagari digit
		"\ufe0fmug":                  true,
		"mug \ufe0f":                 true,
		"mug-\u2229\ufe00":           true, // a mathematical symbol
		"mug-\u845b\U000E0100":       true, // a form of an ideograph
		"mug-\u1820\u180b":           true, // a form of a Mongolian letter
		"mug-\U0001F469\u200d\u2695": true, // joined by U+200D, which is of category Cf
	} {
		_, err := readNames(text, "w1")
		require.Equal(t, bad, err != nil, "%+q: %v", text, err)
	}
}

func TestSeenCharacters(t *testing.T) {
	for _, text := range []string{
		"Stra\u00dfe 1/2", "gru\u0308n", "\u30ab\u30fc\u30c8", "\u0e01\u0e33", "\u0627\u0628", "\U0001F455", "a  b", "a'b", "\u2019a", "#1", "-a", "+a", "@a", "a=b",
		"1E5", "5E-10", "12E+45", "4.0", "00123", "4006381333931",
	} {
		target, err := readNames(text, text)
		require.NoError(t, err, "%+q", text)
		require.Equal(t, stocksync.Target{SKU: text, LocationID: text, Quantity: 5}, target)
	}
}

func TestNamesThatAreNotTheText(t *testing.T) {
	for text, want := range map[string]string{
		"":            "no ",
		" \t ":        "no ",
		"=\"00123\"":  "is a formula: save its value",
		"'00123":      "begins with an apostrophe",
		"4.00638E+12": "a number that a spreadsheet rewrote",
		"4,00638E+12": "a number that a spreadsheet rewrote",
		"1.0e-05":     "a number that a spreadsheet rewrote",
		"1E+05":       "a number that a spreadsheet rewrote",
		"gr\xfcn":     "is not UTF-8",
		"gr\ufffdn":   "U+FFFD, which stands for a character that was lost",
		"a\nb":        "runs over the end of a line",
	} {
		_, err := readNames(text, "w1")
		require.ErrorContains(t, err, want, "%+q", text)
		require.ErrorContains(t, err, "sku")
		_, err = readNames("a", text)
		require.ErrorContains(t, err, want, "%+q", text)
		require.ErrorContains(t, err, "location_id")
	}
}

// TestLoneSurrogates checks that an invalid UTF-16 file does not lose characters
// silently.
func TestLoneSurrogates(t *testing.T) {
	file := utf16File(binary.LittleEndian, "sku,location_id,quantity\na?b,w1,5\n")
	_, err := stocksync.ReadCSV(strings.NewReader(strings.Replace(file, "?\x00", "\x00\xd8", 1)))
	require.ErrorContains(t, err, "line 2: the sku")
	require.ErrorContains(t, err, "U+FFFD")
}
