package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"text/tabwriter"

	"github.com/cenkalti/backoff/v5"
	"github.com/go-resty/resty/v2"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// comparison is the data file of the storm that several clients go through.
type comparison struct {
	Versions  map[string]string `json:"versions"`
	Changes   int               `json:"changes"`
	Seed      uint64            `json:"seed"`
	TimeoutMS int64             `json:"attempt_timeout_ms"`
	Faults    []fault           `json:"faults"`
	Clients   []tally           `json:"clients"`
}

// tally counts the changes of one client by what the client reported and what the
// server did. Each change is counted in one of the fields from Doubled to Right.
type tally struct {
	Client         string `json:"client"`
	Doubled        int    `json:"doubled"`               // changes applied twice or more, whatever the client reported
	FailedApplied  int    `json:"failed_but_applied"`    // changes applied once, but reported as failed
	DoneNotApplied int    `json:"done_but_not_applied"`  // changes not applied, but reported as applied
	Unknown        int    `json:"unknown"`               // changes applied at most once, and reported as unknown
	Right          int    `json:"right"`                 // changes reported as they were
	Errors         int    `json:"errors"`                // calls that returned an error
	Arrived        int    `json:"requests_that_arrived"` // requests that arrived at the server
}

// sum returns the number of changes.
func (t tally) sum() int {
	return t.Doubled + t.FailedApplied + t.DoneNotApplied + t.Unknown + t.Right
}

// changeFunc is the call of a client that goes through the storm.
type changeFunc func(context.Context, []oakra.StockChange) ([]oakra.StockRecord, error)

// changer is a client that goes through the storm.
type changer struct {
	name string
	make func(baseURL string, transport http.RoundTripper) (changeFunc, error)
}

// changers lists the clients. Each has the defaults of its library, except that all
// have the same timeout for one attempt.
var changers = []changer{
	{nameNetHTTP, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		return netHTTPClient{withTimeout(transport), baseURL}.change, nil
	}},
	{nameBackoff, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		once := netHTTPClient{withTimeout(transport), baseURL}.change
		return func(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
			return backoff.Retry(ctx, func() ([]oakra.StockRecord, error) {
				records, err := once(ctx, changes)
				var status *statusError
				if errors.As(err, &status) && !mayPass(status.code) {
					err = backoff.Permanent(err)
				}
				return records, err
			}, backoff.WithMaxTries(5))
		}, nil
	}},
	{nameResty, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		c := resty.NewWithClient(withTimeout(transport)).SetBaseURL(baseURL).SetLogger(silent{})
		setHeader(c.Header)
		c.SetRetryCount(3).AddRetryCondition(func(r *resty.Response, err error) bool {
			return err != nil || mayPass(r.StatusCode())
		})
		return restyClient{c}.change, nil
	}},
	{nameRetryable, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		return newRetryable(baseURL, transport, retryablehttp.DefaultRetryPolicy), nil
	}},
	{nameRetryableOnce, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		never := func(context.Context, *http.Response, error) (bool, error) { return false, nil }
		return newRetryable(baseURL, transport, never), nil // it sends only POSTs
	}},
	{nameOakra, func(baseURL string, transport http.RoundTripper) (changeFunc, error) {
		c, err := oakra.NewClient(appKey, oakra.WithBaseURL(baseURL),
			oakra.WithHTTPClient(&http.Client{Transport: transport}), oakra.WithAttemptTimeout(stormTimeout))
		return oakraClient{c}.change, err
	}},
}

func newRetryable(baseURL string, transport http.RoundTripper, policy retryablehttp.CheckRetry) changeFunc {
	c := retryablehttp.NewClient()
	c.HTTPClient = withTimeout(transport)
	c.Logger = nil
	c.CheckRetry = policy
	return retryableClient{c, baseURL}.change
}

func withTimeout(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, Timeout: stormTimeout}
}

// mayPass reports whether a retry loop sends a request again after a status.
func mayPass(status int) bool { return status == http.StatusTooManyRequests || status >= 500 }

// silent is a logger for resty that discards everything.
type silent struct{}

func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

// inStorm is the number of changes in flight at a time.
const inStorm = 200

// compareInStorm sends n changes through the storm with the seed, with each client in
// turn.
func compareInStorm(n int, seed uint64, log func(string, ...any)) (comparison, error) {
	c := comparison{Versions: versions(), Changes: n, Seed: seed, TimeoutMS: stormTimeout.Milliseconds(), Faults: faults}
	maps.DeleteFunc(c.Versions, func(name, _ string) bool {
		return !slices.ContainsFunc(changers, func(client changer) bool { return client.name == name })
	})
	for _, client := range changers {
		errs, server, err := weather(n, seed, client.make)
		if err != nil {
			return c, fmt.Errorf("%s: %w", client.name, err)
		}
		c.Clients = append(c.Clients, count(client.name, errs, server))
		log("storm: %s", client.name)
	}
	return c, nil
}

// weather sends n changes, each in one call and for a record of its own. It returns the
// error of each call and the requests that arrived at the server.
func weather(n int, seed uint64, newClient func(string, http.RoundTripper) (changeFunc, error)) ([]error, []oakratest.Request, error) {
	server := oakratest.NewServer(stock(n)...)
	defer server.Close()
	server.Key = appKey
	url, err := url.Parse(server.URL)
	if err != nil {
		return nil, nil, err
	}
	storm := newStorm(seed, url.Host)
	gateway, stop, err := startServer(storm)
	if err != nil {
		return nil, nil, err
	}
	defer stop()
	change, err := newClient(gateway+url.Path, storm.transport())
	if err != nil {
		return nil, nil, err
	}
	errs := make([]error, n)
	var workers sync.WaitGroup
	next := make(chan int)
	for range inStorm {
		workers.Go(func() {
			for i := range next {
				id := int64(i + 1)
				ctx := context.WithValue(context.Background(), changeID{}, id)
				_, errs[i] = change(ctx, []oakra.StockChange{{ID: id, QuantityChange: -1}})
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	stop() // waits for changes that are applied late
	return errs, server.Requests(), storm.err
}

// stock returns the records 1 to n.
func stock(n int) []oakra.StockRecord {
	records := make([]oakra.StockRecord, n)
	for i := range records {
		records[i] = oakra.StockRecord{ID: int64(i + 1), SKU: fmt.Sprint("sku-", i+1), LocationID: "warehouse-1", Quantity: 100}
	}
	return records
}

// changes returns a change for each of the records 1 to n.
func changes(n int) []oakra.StockChange {
	all := make([]oakra.StockChange, n)
	for i := range all {
		all[i] = oakra.StockChange{ID: int64(i + 1), QuantityChange: -1}
	}
	return all
}

// applied returns how often each id was changed.
func applied(requests []oakratest.Request) map[int64]int {
	times := make(map[int64]int)
	for _, r := range requests {
		for _, a := range r.Applied {
			times[a.ID]++
		}
	}
	return times
}

// count compares the error of each change with what the server did. The first error is
// that of id 1.
func count(client string, errs []error, requests []oakratest.Request) tally {
	t := tally{Client: client, Arrived: len(requests)}
	times := applied(requests)
	for i, err := range errs {
		if err != nil {
			t.Errors++
		}
		switch outcome, n := outcomeOf(err), times[int64(i+1)]; {
		case n > 1:
			t.Doubled++
		case outcome == oakra.OutcomeUnknown:
			t.Unknown++
		case outcome == oakra.OutcomeApplied && n == 0:
			t.DoneNotApplied++
		case outcome == oakra.OutcomeNotApplied && n == 1:
			t.FailedApplied++
		default:
			t.Right++
		}
	}
	return t
}

// outcomeOf returns the outcome that a client reports for a change. An error of another
// client than this library is taken to say that the change failed.
func outcomeOf(err error) oakra.Outcome {
	var own *oakra.Error
	if err == nil || errors.As(err, &own) {
		return oakra.OutcomeOf(err)
	}
	return oakra.OutcomeNotApplied
}

// print writes the comparison as a table.
func (c comparison) print(w io.Writer) {
	fmt.Fprintf(w, "%s changes through the storm of seed %d\n", thousands(c.Changes), c.Seed)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tapplied twice or more\terror, but applied\tsuccess, but not applied\tunknown\tright\terrors\trequests that arrived\t")
	for _, t := range c.Clients {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", t.Client, t.Doubled, t.FailedApplied, t.DoneNotApplied, t.Unknown, t.Right, t.Errors, t.Arrived)
	}
	table.Flush()
}
