package oakra

import (
	"bytes"
	"io"
	"math"
	"math/big"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzRetryAfter compares the parser with another one, made of regular expressions
// and numbers of any size.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 700, time.UTC)
	for i, value := range []string{
		"", " ", "0", "1", "120", "007", "-1", "+1", "1.5", "1.0", "0.493", "299.997", "1.", ".5", "1.2.3", "1e3", "0x10", "1_000", "٣", "soon", "1, 2", "1;q=1", "\x00", "\xff",
		"9223372035", "9223372036", "9223372036.5", "9223372037", "9223372036854775807", "9223372036854775808", "18446744073709551616", strings.Repeat("9", 300),
		"0." + strings.Repeat("0", 300), "0." + strings.Repeat("0", 300) + "1",
		"1770091506", "1770091526", "1770091506.001", "1738468706", "1801627506", "1801800000", "1738000000", "1770091526000",
		"Tue, 03 Feb 2026 04:06:06 GMT", "Tuesday, 03-Feb-26 04:06:06 GMT", "Tue Feb  3 04:06:06 2026",
		"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Tue, 03 Feb 2026 04:06:06 +0100", "2026-02-03T04:06:06Z",
	} {
		f.Add(value, []string{"", "Tue, 03 Feb 2026 04:05:00 GMT", "Tue, 03 Feb 2026 09:00:00 GMT", "yesterday"}[i%4])
	}
	number := regexp.MustCompile(`^([0-9]+)(\.[0-9]+)?$`)
	f.Fuzz(func(t *testing.T, value, date string) {
		got, problem := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, now)
		server := now
		if at, err := http.ParseTime(date); err == nil {
			server = at
		}
		text := strings.TrimSpace(value)
		var want time.Duration
		readable := true
		if m := number.FindStringSubmatch(text); m != nil {
			seconds, _ := new(big.Int).SetString(m[1], 10)
			if strings.ContainsAny(m[2], "123456789") {
				seconds.Add(seconds, big.NewInt(1))
			}
			sinceNow := new(big.Int).Sub(seconds, big.NewInt(now.Unix()))
			switch {
			case sinceNow.CmpAbs(big.NewInt(365*24*60*60)) < 0: // a Unix time near now
				want = max(0, time.Unix(seconds.Int64(), 0).Sub(server))
			case sinceNow.CmpAbs(big.NewInt(367*24*60*60)) < 0: // near the limit either result is right
				return
			case seconds.Cmp(big.NewInt(math.MaxInt64/int64(time.Second))) >= 0:
				// It is more than a Duration holds: the wait is as long as possible,
				// and never short.
				want = math.MaxInt64
			default:
				want = time.Duration(seconds.Int64()) * time.Second
			}
		} else if at, err := http.ParseTime(text); err == nil {
			want = max(0, at.Sub(server))
		} else {
			readable = text == ""
		}
		if got != want {
			t.Fatalf("%q, by the Date %q, is %v, want %v", value, date, got, want)
		}
		if readable != (problem == "") {
			t.Fatalf("%q: the problem is %q", value, problem)
		}
	})
}

// FuzzAppendInt compares the digits with those of strconv.
func FuzzAppendInt(f *testing.F) {
	for _, n := range []int64{0, 1, 9, 10, 11, 99, 100, 12345678901, math.MaxInt64} {
		f.Add(n, 0)
		f.Add(-n, 3)
	}
	f.Add(int64(math.MinInt64), 40)
	f.Fuzz(func(t *testing.T, n int64, room int) {
		before := make([]byte, 2, 2+max(0, min(room, 100)))
		got, want := appendInt(before, n), strconv.AppendInt(before[:2:2], n, 10)
		if string(got) != string(want) {
			t.Fatalf("%d is written %q", n, got)
		}
	})
}

// TestSecretsCost: cutting the keys out of a short text takes little time. A hostile
// header has tens of thousands of them.
func TestSecretsCost(t *testing.T) {
	var keys secrets
	for _, letter := range []string{"a", "b", "c", "d"} {
		keys = keys.with(strings.Repeat(letter, 512))
	}
	for _, text := range []string{"no", "none", "nothing", "no key in it"} {
		if n := testing.AllocsPerRun(100, func() { keys.text(text) }); n > 30 {
			t.Errorf("%q takes %v allocations", text, n)
		}
	}
}

// TestInMemory checks which bodies are read without a goroutine: only those that cannot
// wait.
func TestInMemory(t *testing.T) {
	pipe, _ := io.Pipe()
	for _, row := range []struct {
		name string
		body io.ReadCloser
		want bool
	}{
		{"none", http.NoBody, true},
		{"bytes", io.NopCloser(bytes.NewReader(nil)), true},
		{"buffer", io.NopCloser(new(bytes.Buffer)), true},
		{"string", io.NopCloser(strings.NewReader("")), true},
		{"pipe", pipe, false},
		{"wrapped pipe", io.NopCloser(pipe), false},
		{"a reader that writes itself", io.NopCloser(struct {
			io.Reader
			io.WriterTo
		}{pipe, new(bytes.Buffer)}), false},
	} {
		t.Run(row.name, func(t *testing.T) { require.Equal(t, row.want, inMemory(row.body)) })
	}
}
