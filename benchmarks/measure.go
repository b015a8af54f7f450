package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/oakra/oakra-go"
)

const (
	overMemory   = "memory"
	overLoopback = "loopback"
)

// setup is a call that the clients are compared with.
type setup struct {
	Op        string `json:"op"`
	Transport string `json:"transport"`
	Length    bool   `json:"content_length"` // whether the response has a Content-Length
	Records   int    `json:"records"`
}

func (s setup) String() string {
	text := fmt.Sprintf("%s of %s over %s", s.Op, thousands(s.Records), s.Transport)
	if !s.Length {
		text += " without Content-Length"
	}
	return text
}

// baseURL returns the base URL at which the server responds as s requires.
func (s setup) baseURL(server string) string {
	kind := "records"
	if !s.Length {
		kind = "chunked"
	}
	return fmt.Sprintf("%s/%s/%d/", server, kind, s.Records)
}

func (s setup) clients(server string) ([]client, error) {
	if s.Transport == overMemory {
		m := memory{bodies: newBodies(s.Records), length: s.Length}
		return newClients("http://localhost/api/v1/", func() http.RoundTripper { return m })
	}
	return newClients(s.baseURL(server), func() http.RoundTripper { return oakra.DefaultTransport() })
}

// timed is the time and memory that one client took.
type timed struct {
	Client string  `json:"client"`
	Nanos  float64 `json:"ns_per_call"`            // median
	Ratio  spread  `json:"ratio"`                  // ratio to net/http in the same pair
	Allocs float64 `json:"allocs_per_call"`        // allocations, measured over memory only; otherwise 0
	Bytes  float64 `json:"alloc_bytes_per_call"`   // allocated bytes, measured over memory only
	Once   float64 `json:"alloc_bytes_first_call"` // allocated bytes with nothing pooled, measured over memory only
}

type timedSetup struct {
	setup
	Pairs   int     `json:"pairs"`
	BlockMS float64 `json:"block_ms"`
	Clients []timed `json:"clients"`
}

// timeClients measures all clients with s. For each pair, every client runs calls for
// about the duration of block. Each pair begins with another client.
func timeClients(s setup, server string, pairs int, block time.Duration, only ...string) (timedSetup, error) {
	clients, err := s.clients(server)
	if err != nil {
		return timedSetup{}, err
	}
	if len(only) > 0 {
		clients = slices.DeleteFunc(clients, func(c client) bool { return !slices.Contains(only, c.name) })
	}
	result := timedSetup{setup: s, Pairs: pairs, BlockMS: float64(block) / float64(time.Millisecond)}
	calls := make([]call, len(clients))
	first := make([]float64, len(clients))
	for i, c := range clients {
		calls[i] = c.prepare(s.Op, s.Records)
		_, first[i], err = allocations(1, calls[i])
		if err != nil {
			return timedSetup{}, fmt.Errorf("%s: %s: %w", s, c.name, err)
		}
		if err := check(calls[i], s.Records); err != nil {
			return timedSetup{}, fmt.Errorf("%s: %s: %w", s, c.name, err)
		}
	}
	repeat := make([]int, len(clients))
	for i := range clients {
		if repeat[i], err = howMany(calls[i], block); err != nil {
			return timedSetup{}, err
		}
	}

	base := slices.IndexFunc(clients, func(c client) bool { return c.name == nameNetHTTP })
	nanos := make([][]float64, len(clients))
	ratios := make([][]float64, len(clients))
	for pair := range pairs {
		took := make([]float64, len(clients))
		for j := range clients {
			i := (pair + j) % len(clients)
			// This collects the garbage of the previous client. The call after it
			// refills the pools that the collection emptied.
			runtime.GC()
			if _, err := run(calls[i], 1); err != nil {
				return timedSetup{}, err
			}
			d, err := run(calls[i], repeat[i])
			if err != nil {
				return timedSetup{}, err
			}
			took[i] = float64(d.Nanoseconds()) / float64(repeat[i])
		}
		for i := range clients {
			nanos[i] = append(nanos[i], took[i])
			ratios[i] = append(ratios[i], took[i]/took[base])
		}
	}
	for i, c := range clients {
		t := timed{Client: c.name, Nanos: spreadOf(nanos[i]).P50, Ratio: spreadOf(ratios[i])}
		if s.Transport == overMemory {
			if t.Allocs, t.Bytes, err = allocations(min(100, max(5, 20_000/s.Records)), calls[i]); err != nil {
				return timedSetup{}, err
			}
			t.Once = first[i]
		}
		result.Clients = append(result.Clients, t)
	}
	return result, nil
}

// check compares what a client returns with what the server sent.
func check(call call, n int) error {
	var got []oakra.StockRecord
	if _, err := call(context.Background(), &got); err != nil {
		return err
	}
	if !slices.Equal(got, serverRecords(n)) {
		return fmt.Errorf("the %d records that it returns are not those that the server sent", len(got))
	}
	return nil
}

// run makes n calls one after the other.
func run(call call, n int) (time.Duration, error) {
	ctx := context.Background()
	start := time.Now()
	for range n {
		if _, err := call(ctx, nil); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// howMany returns the number of calls that fill a block.
func howMany(call call, block time.Duration) (int, error) {
	for n := 1; ; n *= 2 {
		took, err := run(call, n)
		if err != nil {
			return 0, err
		}
		if took >= block {
			return max(1, int(float64(n)*float64(block)/float64(took)+0.999)), nil
		}
	}
}

// allocations returns how many allocations a call makes, and of how many bytes.
func allocations(n int, call call) (allocs, bytes float64, err error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	if n > 1 { // GOMAXPROCS has emptied the pools, and refilling them must not count
		if _, err := run(call, 1); err != nil {
			return 0, 0, err
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = run(call, n)
	runtime.ReadMemStats(&after)
	allocs = float64(after.Mallocs-before.Mallocs) / float64(n)
	bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
	return rounded(allocs), rounded(bytes), err
}
