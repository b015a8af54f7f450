package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
)

// Every client returns what the server sent.
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

// Whether the answer states its length is what the setup says.
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

func TestCompare(t *testing.T) {
	got, err := compare(setup{opList, overMemory, true, 1}, "", 3, time.Millisecond/10)
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

func TestCompareFindsFailures(t *testing.T) {
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
	server := httptest.NewServer(newHandler(nil))
	defer server.Close()
	got, err := compareBulk(server.URL, 300, []int{100}, []int{4}, t.Logf)
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

// sample are results of every kind that is printed and drawn.
func sample() results {
	r := results{Machine: machine{"linux", "amd64", 2, "go1.26"}, Versions: map[string]string{nameResty: "v2"}, Pairs: 25}
	for _, transport := range []string{overMemory, overLoopback} {
		for _, op := range []string{opList, opUpdate} {
			for _, n := range []int{1, 100, 10_000} {
				s := timedSetup{setup: setup{op, transport, true, n}, Pairs: 25}
				for _, name := range append(slices.Clone(drawnClients), nameNetHTTP) {
					s.Clients = append(s.Clients, timed{Client: name, Nanos: 1e4, Ratio: spread{0.9, 1, 1.1}, Allocs: 400, Bytes: 4096})
				}
				s.Clients[0].Ratio = spread{0.11, 0.12, 0.14}
				r.Setups = append(r.Setups, s)
			}
		}
	}
	r.Bulk = &bulkResult{Updates: 100_000, LatencyMS: 20, RecordUS: 20, OneByOne: oneByOne{200, 2100}, Runs: []bulkRun{
		{100, 1, 22}, {100, 4, 5.6}, {500, 1, 6.1}, {500, 4, 1.6},
	}}
	return r
}

// The data file holds all that the tables and the picture show.
func TestDataFile(t *testing.T) {
	dir := t.TempDir()
	want := sample()
	if err := want.write(filepath.Join(dir, "results.json")); err != nil {
		t.Fatal(err)
	}
	if err := drawFile(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "results.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, drawSVG(want)) {
		t.Error("the picture drawn from the file is another")
	}
}

func TestSVG(t *testing.T) {
	svg := drawSVG(sample())
	if err := wellFormed(svg); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"oakra-go", "oapi-codegen", "10,000 records", ">0.12<", "100,000 updates", "35 min", "5.6 s, 4 at once"} {
		if !bytes.Contains(svg, []byte(part)) {
			t.Errorf("%q is not in the picture", part)
		}
	}
	if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
		t.Error("a number is missing from the picture")
	}
}

func wellFormed(svg []byte) error {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// The committed picture is drawn from the committed data file.
func TestCommittedPicture(t *testing.T) {
	r, err := readResults("results.json")
	if os.IsNotExist(err) {
		t.Skip("nothing was measured yet")
	}
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("results.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, drawSVG(r)) {
		t.Error("results.svg is not drawn from results.json: go run . -draw")
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

// Every bound is of something that a full run measures.
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
