package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestDraw checks that half of all requests pass, that every fault is as frequent as the
// others, and that the fault depends on the change, the attempt and the seed.
func TestDraw(t *testing.T) {
	const n = 20_000
	count := make(map[fault]int)
	same, next := 0, 0
	for id := range int64(n) {
		f := draw(7, id, 0)
		count[f]++
		if f != draw(7, id, 0) {
			t.Fatal("the same request meets another fault")
		}
		if f == draw(8, id, 0) {
			same++
		}
		if f == draw(7, id, 1) {
			next++
		}
	}
	for f, n := range count {
		want := 1000 // expected count among 20,000 requests
		if f == "" {
			want = 10_000
		}
		if n < want*85/100 || n > want*115/100 {
			t.Errorf("%q: %d times, want about %d", f, n, want)
		}
	}
	if len(count) != len(faults)+1 {
		t.Errorf("%d kinds of weather, want %d", len(count), len(faults)+1)
	}
	for _, equal := range []int{same, next} { // 1/4 pass twice, and 1/400 meet the same fault for each of ten faults
		if equal > n*35/100 {
			t.Errorf("%d of %d requests of another seed or attempt meet the same", equal, n)
		}
	}
}

// TestFaults checks the effect of each fault on the client and on the server.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fault   fault
		applied int
		status  int // 0 if there is no response
		late    bool
	}{
		{"", 1, 200, false},
		{refused, 0, 0, false},
		{resetBefore, 0, 0, false},
		{resetAfter, 1, 0, false},
		{unavailable, 0, 503, false},
		{badGateway, 1, 502, false},
		{lateResponse, 1, 200, true},
		{lateApplied, 1, 200, true},
		{cutResponse, 1, 0, false},
		{tooMany, 0, 429, false},
		{rejected, 0, 400, false},
	} {
		t.Run(cmp.Or(string(test.fault), "no fault"), func(t *testing.T) {
			t.Parallel()
			server := oakratest.Start(t, stock(1)...)
			server.Key = appKey
			url, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			storm := newStorm(0, url.Host)
			storm.fault = func(int64, int) fault { return test.fault }
			gateway, stop, err := startServer(storm)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			client := netHTTPClient{&http.Client{Transport: storm.transport()}, gateway + url.Path}
			start := time.Now()
			_, err = client.change(context.WithValue(t.Context(), changeID{}, int64(1)), changes(1))
			if took := time.Since(start); test.late && took < stormLate {
				t.Errorf("it was not late: %v", took)
			}
			stop()

			status := 0
			var failed *statusError
			if err == nil {
				status = 200
			} else if errors.As(err, &failed) {
				status = failed.code
			}
			if status != test.status {
				t.Errorf("the client got %v, want %d", err, test.status)
			}
			var op *net.OpError
			if dial := errors.As(err, &op) && op.Op == "dial"; dial != (test.fault == refused) {
				t.Errorf("no connection: %v, %v", dial, err)
			}
			if n := applied(server.Requests())[1]; n != test.applied || storm.err != nil {
				t.Errorf("applied %d times, want %d; %v", n, test.applied, storm.err)
			}
		})
	}
}

// TestWeather sends a few changes through the storm. This library must not double any,
// and must report nothing wrong. A loop of retries doubles some.
func TestWeather(t *testing.T) {
	t.Parallel()
	const n = 100
	for _, client := range changers {
		if client.name == nameResty || client.name == nameRetryable {
			continue // they behave as the loop does, and wait longer
		}
		t.Run(client.name, func(t *testing.T) {
			t.Parallel()
			errs, requests, err := weather(n, 1, client.make)
			if err != nil {
				t.Fatal(err)
			}
			c := count(client.name, errs, requests)
			t.Logf("%+v", c)
			if sum := c.sum(); sum != n {
				t.Errorf("%d changes are counted", sum)
			}
			own, loop := client.name == nameOakra, client.name == nameBackoff
			switch {
			case (c.Doubled > 0) != loop:
				t.Errorf("%d are doubled", c.Doubled)
			case (c.Unknown > 0) != own:
				t.Errorf("%d are unknown", c.Unknown)
			case own && (c.FailedApplied > 0 || c.DoneNotApplied > 0):
				t.Error("a report is wrong")
			case client.name == nameNetHTTP && c.FailedApplied == 0:
				t.Error("the storm loses no response")
			}
		})
	}
}

func TestCount(t *testing.T) {
	failure, unknown := errors.New("no"), &oakra.Error{Outcome: oakra.OutcomeUnknown}
	lost := &oakra.Error{Outcome: oakra.OutcomeApplied}
	const n = 9
	errs := []error{nil, nil, nil, failure, failure, failure, unknown, unknown, lost}
	var requests []oakratest.Request
	for _, id := range []int64{2, 3, 3, 5, 6, 6, 8, 9} { // 3 and 6 are doubled
		requests = append(requests, oakratest.Request{Applied: []oakratest.Applied{{ID: id}}})
	}
	want := tally{Client: "x", Doubled: 2, FailedApplied: 1, DoneNotApplied: 1, Unknown: 2, Right: 3, Errors: 6, Arrived: 8}
	if got := count("x", errs, requests); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if sum := want.sum(); sum != n {
		t.Errorf("%d changes are counted, want %d", sum, n)
	}
}

// TestCommittedComparison checks that the data file is that of the storm in the code.
func TestCommittedComparison(t *testing.T) {
	var c comparison
	if err := readJSON(comparisonFile, &c); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(c.Faults) != fmt.Sprint(faults) || len(c.Clients) != len(changers) {
		t.Errorf("%s is of another storm: go run ./benchmarks compare", comparisonFile)
	}
	for i, client := range c.Clients {
		if client.Client != changers[i].name {
			t.Errorf("%s is %s in the data file", changers[i].name, client.Client)
		}
		if sum := client.sum(); sum != c.Changes {
			t.Errorf("%s: %d of %d changes are counted", client.Client, sum, c.Changes)
		}
	}
}
