package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
)

// TestClientsAgree checks that every client returns the records that the server sent.
func TestClientsAgree(t *testing.T) {
	sizes := []int{1, 7, 300}
	server := httptest.NewServer(newHandler(sizes))
	defer server.Close()
	for _, transport := range []string{overMemory, overLoopback} {
		for _, length := range []bool{true, false} {
			for _, op := range []string{opList, opUpdate, opChange} {
				for _, n := range sizes {
					s := setup{op, transport, length, n}
					clients, err := s.clients(server.URL)
					if err != nil {
						t.Fatal(err)
					}
					for _, c := range clients {
						if err := check(c.prepare(op, n), n); err != nil {
							t.Errorf("%s: %s: %v", s, c.name, err)
						}
					}
				}
			}
		}
	}
}

// TestContentLength checks that the response has a Content-Length if the setup says so.
func TestContentLength(t *testing.T) {
	server := httptest.NewServer(newHandler([]int{1, 100}))
	defer server.Close()
	for _, n := range []int{1, 100} {
		for _, length := range []bool{true, false} {
			response, err := server.Client().Get(setup{opList, overLoopback, length, n}.baseURL(server.URL) + listPath)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if got := response.ContentLength >= 0; got != length {
				t.Errorf("%d records: Content-Length stated: %v, want %v", n, got, length)
			}
		}
	}
}

func TestTimeClients(t *testing.T) {
	got, err := timeClients(setup{opList, overMemory, true, 1}, "", 3, time.Millisecond/10)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Clients) != 6 {
		t.Fatalf("%d clients, want 6", len(got.Clients))
	}
	for _, c := range got.Clients {
		if c.Nanos <= 0 || c.Ratio.P50 <= 0 || c.Allocs <= 0 || c.Bytes <= 0 {
			t.Errorf("nothing was measured of %s: %+v", c.Client, c)
		}
		if one := (spread{1, 1, 1}); c.Client == nameNetHTTP && c.Ratio != one {
			t.Errorf("the ratio of %s to itself is %v", c.Client, c.Ratio)
		}
	}
}

func TestFailures(t *testing.T) {
	failure := errors.New("no")
	failing := func(context.Context, *[]oakra.StockRecord) (int, error) { return 0, failure }
	if _, err := run(failing, 1); !errors.Is(err, failure) {
		t.Errorf("run: %v", err)
	}
	wrong := func(_ context.Context, keep *[]oakra.StockRecord) (int, error) {
		*keep = serverRecords(2)[1:]
		return 1, nil
	}
	if check(wrong, 1) == nil {
		t.Error("check took another record")
	}
}

func TestBulk(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newHandler(nil))
	defer server.Close()
	got, err := timeBulk(server.URL, 300, []int{100}, []int{4}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Runs) != 1 || got.Runs[0].Seconds < bulkLatency.Seconds() || got.OneByOne.Seconds < 300*bulkLatency.Seconds() {
		t.Errorf("got %+v", got)
	}
}

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{7}, spread{7, 7, 7}},
		{[]float64{2, 1}, spread{1.25, 1.5, 1.75}},
		{[]float64{5, 3, 1, 4, 2}, spread{2, 3, 4}},
		{[]float64{4, 3, 2, 1}, spread{1.75, 2.5, 3.25}},
	} {
		if got := spreadOf(test.values); got != test.want {
			t.Errorf("%v: got %v, want %v", test.values, got, test.want)
		}
	}
}

func TestRounded(t *testing.T) {
	for x, want := range map[float64]float64{0: 0, 1.23456: 1.235, 123456: 123500, 0.00123449: 0.001234, -98765: -98770} {
		if got := rounded(x); got != want {
			t.Errorf("%v: got %v, want %v", x, got, want)
		}
	}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	r := sample()
	r.print(&b)
	r.printBounds(&b)
	for _, part := range []string{
		"List of 10,000 over loopback\n", "0.110–0.140", "resty v2", "from 200 requests",
		"at most 0.130×  ", "NOT ok",
	} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in the report:\n%s", part, b.String())
		}
	}
}

// TestBounds checks that a full run measures something for every bound.
func TestBounds(t *testing.T) {
	sizes := slices.Concat(full().sizes, []int{100_000})
	seen := map[string]bool{}
	for _, b := range bounds() {
		if !slices.Contains(sizes, b.Records) {
			t.Errorf("%s is not measured", b.setup)
		}
		if key := fmt.Sprint(b.setup, b.what); seen[key] {
			t.Errorf("%s: two bounds", key)
		} else {
			seen[key] = true
		}
	}
}

func BenchmarkList(b *testing.B)   { benchmark(b, opList, 1, 100, 1000, 10_000) }
func BenchmarkUpdate(b *testing.B) { benchmark(b, opUpdate, 1, 100, 1000, 10_000) }
func BenchmarkChange(b *testing.B) { benchmark(b, opChange, 1) }

func benchmark(b *testing.B, op string, sizes ...int) {
	server := httptest.NewServer(newHandler(sizes))
	defer server.Close()
	for _, transport := range []string{overMemory, overLoopback} {
		for _, n := range sizes {
			clients, err := setup{op, transport, true, n}.clients(server.URL)
			if err != nil {
				b.Fatal(err)
			}
			for _, c := range clients {
				b.Run(fmt.Sprintf("%s/%d/%s", transport, n, strings.ReplaceAll(c.name, "/", "-")), func(b *testing.B) {
					call := c.prepare(op, n)
					b.ReportAllocs()
					for b.Loop() {
						if _, err := call(b.Context(), nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
