package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oakra/oakra-go"
)

// soaking has the flags of a check that may run for a long time.
type soaking struct {
	For   time.Duration `placeholder:"DURATION" help:"Go on changing them for this long, such as 24h."`
	Every time.Duration `default:"1s" help:"Pause between two changes (default ${default})."`
}

// soak calls step, with a pause after each call, until the time is over or ctx ends.
// The number of calls is even, because every second call takes back what the first did.
func (s soaking) soak(ctx context.Context, a *app, step func(n int64) error) (took time.Duration, err error) {
	began, told := time.Now(), time.Now()
	for n := int64(0); n == 0 || n%2 == 1 || ctx.Err() == nil && time.Since(began) < s.For; n++ {
		if err := step(n); err != nil {
			return time.Since(began), err
		}
		if time.Since(told) > 10*time.Minute {
			told = time.Now()
			a.note(fmt.Sprintf("%d changes in %v", n+1, time.Since(began).Round(time.Minute)))
		}
		wait(ctx, s.Every)
	}
	return time.Since(began), nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// tally counts the requests of a client, and records the route of each operation.
type tally struct {
	mu       sync.Mutex
	requests int
	lost     int // number of writes whose response was lost
	routes   map[string]string
}

func (t *tally) observer() oakra.Observer {
	t.routes = make(map[string]string)
	return oakra.Observer{AttemptEnd: func(_ context.Context, a oakra.AttemptEnd) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.requests++
		switch {
		case a.Err == nil:
			t.routes[a.Op] = a.Method + " " + a.Path
		case a.Outcome == oakra.OutcomeUnknown:
			t.lost++
		}
	}}
}

func (t *tally) counts() (requests, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.requests, t.lost
}

func (t *tally) route(op string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.routes[op]
}

// peek is a transport that keeps the body of the last response.
type peek struct {
	*http.Transport
	body []byte
}

func (p *peek) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.Transport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if p.body, err = io.ReadAll(response.Body); err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(p.body))
	return response, nil
}

// shape describes the form of the body.
func (p *peek) shape() string {
	var object map[string]json.RawMessage
	if json.Unmarshal(p.body, &object) != nil {
		return "an array of records"
	}
	return "an object with " + strings.Join(slices.Sorted(maps.Keys(object)), ", ")
}
