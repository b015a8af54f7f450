package oakra

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzRetryAfter compares the parser with what the standard library says of the
// same text: seconds or a date, else nothing.
func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 700, time.UTC)
	for _, value := range []string{
		"", " ", "0", "1", "120", "007", "-1", "+1", "1.5", "1e3", "0x10", "1_000", "٣", "soon", "1, 2", "1;q=1", "\x00", "\xff",
		"9223372036", "9223372037", "9223372036854775807", "9223372036854775808", "18446744073709551616", strings.Repeat("9", 300),
		"Tue, 03 Feb 2026 04:06:06 GMT", "Tuesday, 03-Feb-26 04:06:06 GMT", "Tue Feb  3 04:06:06 2026",
		"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Tue, 03 Feb 2026 04:06:06 +0100", "2026-02-03T04:06:06Z",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := retryAfterOf(value, now)
		if got < 0 {
			t.Fatalf("%q is %v, less than zero", value, got)
		}
		text := strings.TrimSpace(value)
		digits := text != ""
		for _, r := range text {
			digits = digits && '0' <= r && r <= '9'
		}
		if digits {
			seconds, err := strconv.ParseUint(text, 10, 64)
			if err != nil || seconds > math.MaxInt64/uint64(time.Second) {
				// More than a Duration holds: as long as can be, and never short.
				if got < 290*365*24*time.Hour {
					t.Fatalf("%q is %v, which is too short", value, got)
				}
				return
			}
			if want := time.Duration(seconds) * time.Second; got != want {
				t.Fatalf("%q is %v, want %v", value, got, want)
			}
			return
		}
		at, err := http.ParseTime(text)
		switch {
		case err != nil && got != 0:
			t.Fatalf("%q is %v, but no date", value, got)
		case err == nil && got != max(0, at.Sub(now)):
			t.Fatalf("%q is %v, want %v", value, got, at.Sub(now))
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

func retryAfterOf(value string, now time.Time) time.Duration {
	wait, _ := retryAfter(http.Header{"Retry-After": {value}}, now)
	return wait
}
