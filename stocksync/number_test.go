package stocksync_test

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/stocksync"
)

// readNumbers reads a file with these quantities, in quotes, and the separator.
func readNumbers(separator string, quantities ...string) ([]int64, error) {
	file := strings.ReplaceAll("sku,location_id,quantity\n", ",", separator)
	for i, q := range quantities {
		file += fmt.Sprintf("s%d%sw1%s\"%s\"\n", i, separator, separator, q)
	}
	targets, err := stocksync.ReadCSV(strings.NewReader(file))
	var numbers []int64
	for _, target := range targets {
		numbers = append(numbers, target.Quantity)
	}
	return numbers, err
}

var separators = []string{",", ";", "\t"}

func TestQuantityWithOneReading(t *testing.T) {
	for text, want := range map[string]int64{
		"0":                          0,
		"0012":                       12,
		"-5":                         -5,
		"12.0":                       12,
		"12.00":                      12,
		"12.0000":                    12,
		"12,0":                       12,
		"12,0000":                    12,
		"0.000":                      0,
		"1234.000":                   1234,
		"1,234.0":                    1234,
		"1,234.00":                   1234,
		"1,234.000":                  1234,
		"1.234,00":                   1234,
		"-12,345,678":                -12345678,
		"12.345.678":                 12345678,
		"9223372036854775807":        math.MaxInt64,
		"-9,223,372,036,854,775,808": math.MinInt64,
	} {
		for _, separator := range separators {
			got, err := readNumbers(separator, text)
			require.NoError(t, err, "%q between %q", text, separator)
			require.Equal(t, []int64{want}, got, "%q between %q", text, separator)
		}
	}
}

func TestQuantityWithTwoReadings(t *testing.T) {
	for _, separator := range separators {
		for _, text := range []string{"12,000", "1,234", "-1,234", "123,456", "12.000", "1.234", "-123.456"} {
			if separator == "," && strings.Contains(text, ",") {
				continue
			}
			_, err := readNumbers(separator, text, "7", text)
			require.ErrorContains(t, err, fmt.Sprintf("line 2: the quantity %q is ambiguous", text), "between %q", separator)
			require.ErrorContains(t, err, fmt.Sprintf("line 4: the quantity %q is ambiguous", text), "between %q", separator)

			// Numbers that contradict each other show nothing.
			_, err = readNumbers(separator, "1,234.0", text, "1.234,0")
			require.ErrorContains(t, err, "bad lines: 1; line 3: ", "between %q", separator)
			require.ErrorContains(t, err, "ambiguous")
		}
	}
	_, err := readNumbers(",", "1,234.0", "12,000", "1.234,0")
	require.ErrorContains(t, err, "bad lines: 1; line 3: ")
	got, err := readNumbers(",", "1,000", "-12,000")
	require.NoError(t, err, "between commas, a comma is for thousands")
	require.Equal(t, []int64{1000, -12000}, got)
}

// TestQuantityShownByOthers checks that the numbers of other lines, before and after,
// show what the comma and the point of a file mean.
func TestQuantityShownByOthers(t *testing.T) {
	for _, tt := range []struct {
		shows string
		want  map[string]int64
	}{
		{"1,234,567", map[string]int64{"12,000": 12000, "12.000": 12, "1,234": 1234}},
		{"1,234.00", map[string]int64{"12,000": 12000, "12.000": 12, "1,234": 1234}},
		{"7.0", map[string]int64{"12,000": 12000, "12.000": 12, "1,234": 1234}},
		{"1.234.567", map[string]int64{"12,000": 12, "12.000": 12000, "1.234": 1234}},
		{"1.234,00", map[string]int64{"12,000": 12, "12.000": 12000, "1.234": 1234}},
		{"7,00", map[string]int64{"12,000": 12, "12.000": 12000, "1.234": 1234}},
	} {
		for _, separator := range separators {
			for text, want := range tt.want {
				before, err := readNumbers(separator, tt.shows, text)
				require.NoError(t, err, "%q after %q between %q", text, tt.shows, separator)
				require.Equal(t, want, before[1], "%q after %q between %q", text, tt.shows, separator)
				after, err := readNumbers(separator, text, tt.shows)
				require.NoError(t, err, "%q before %q between %q", text, tt.shows, separator)
				require.Equal(t, want, after[0], "%q before %q between %q", text, tt.shows, separator)
			}
		}
	}
	for shows, text := range map[string]string{"1,234.00": "1.234", "1.234,00": "1,234"} {
		_, err := readNumbers(";", shows, text)
		require.ErrorContains(t, err, "is not plainly a whole number", "%q shows that %q has decimals", shows, text)
	}
	for _, shows := range []string{"12.5", "9,223,372,036,854,775,808", "12,34,567"} {
		_, err := readNumbers(";", shows, "12,000")
		require.ErrorContains(t, err, "line 3: the quantity \"12,000\" is ambiguous", "a bad number, %q, shows nothing", shows)
	}
}

func TestQuantityIsBad(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "no quantity",
		" ":                          "no quantity",
		"+10":                        `a plus sign means "add"`,
		"+0":                         "a plus sign",
		"=1+1":                       "is a formula: save its value",
		"'5":                         "begins with an apostrophe",
		"(5)":                        "parentheses mean a negative number",
		"5%":                         "is a percentage",
		"12 pcs":                     "it has letters",
		"12pcs":                      "it has letters",
		"N/A":                        "it has letters",
		"#REF!":                      "it has letters",
		"1E+05":                      "scientific notation",
		"1e3":                        "scientific notation",
		"1.5E+05":                    "scientific notation",
		"\uff11\uff12":               "not ASCII", // full width
		"\u0665":                     "not ASCII", // an Arabic digit
		"\u22125":                    "not ASCII", // a minus sign
		"\u20135":                    "not ASCII", // an en dash
		"1\u00a0234":                 "U+00A0",
		"5\u00a0":                    "U+00A0",
		"5\u200b":                    "U+200B",
		"1 234":                      "whole number",
		"1'234":                      "whole number",
		"12.5":                       "whole number",
		"12,5":                       "whole number",
		"0,123":                      "whole number",
		"0.123":                      "whole number",
		"1,23":                       "whole number",
		"12,34,567":                  "whole number",
		"1.234.56":                   "whole number",
		"1,234.567":                  "whole number",
		"0,123,456":                  "whole number",
		"1,,234":                     "whole number",
		"12.":                        "whole number",
		".5":                         "whole number",
		".":                          "whole number",
		"-":                          "whole number",
		"--5":                        "whole number",
		"5-":                         "whole number",
		"- 5":                        "whole number",
		"9223372036854775808":        "does not fit into 64 bits",
		"-9,223,372,036,854,775,809": "does not fit into 64 bits",
	} {
		for _, separator := range separators {
			_, err := readNumbers(separator, text)
			require.ErrorContains(t, err, "line 2: ", "%q between %q", text, separator)
			require.ErrorContains(t, err, want, "%q between %q", text, separator)
		}
	}
}

// reading returns the value of a number whose thousands and decimals are separated by
// the given characters.
func reading(text, thousands, point string) (value string, ok bool) {
	whole, decimals, has := strings.Cut(text, point)
	if strings.Trim(decimals, "0123456789") != "" || has && decimals == "" {
		return "", false
	}
	number, ok := new(big.Int).SetString(strings.ReplaceAll(whole, thousands, ""), 10)
	if !ok {
		return "", false
	}
	plain := new(big.Int).Abs(number).String()
	if !strings.Contains(whole, thousands) {
		whole = strings.TrimLeft(strings.TrimPrefix(whole, "-"), "0")
		plain = strings.TrimLeft(plain, "0")
	}
	for i := len(plain) - 3; i > 0 && strings.Contains(whole, thousands); i -= 3 {
		plain = plain[:i] + thousands + plain[i:]
	}
	if strings.TrimPrefix(whole, "-") != plain {
		return "", false
	}
	return strings.TrimRight(number.String()+"."+decimals, "0"), true
}

// FuzzQuantity compares the number that is read with all possible readings of a text.
func FuzzQuantity(f *testing.F) {
	for _, text := range []string{"5", "-5", "+5", "1,234", "1.234", "12,000", "1,234,567", "1.234,00", "12.0000", "0.000", "00,000", "1e3", "9223372036854775808", "1,234.5", "-0", "007", "-1.234.567,0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Trim(text, "0123456789.,+-eE") != "" || strings.HasPrefix(text, "+") {
			return
		}
		readings := make(map[string]bool)
		for _, mark := range []struct{ thousands, point string }{{",", "."}, {".", ","}} {
			if value, ok := reading(text, mark.thousands, mark.point); ok {
				readings[value] = true
			}
		}
		want, wanted := int64(0), false
		for value := range readings {
			n, err := strconv.ParseInt(strings.TrimSuffix(value, "."), 10, 64)
			want, wanted = n, err == nil && len(readings) == 1
		}
		got, err := readNumbers(";", text)
		switch {
		case (err == nil) != wanted:
			t.Fatalf("%q: %v, %v; its readings are %v", text, got, err, readings)
		case err == nil && got[0] != want:
			t.Fatalf("%q became %d; its readings are %v", text, got[0], readings)
		}
	})
}
