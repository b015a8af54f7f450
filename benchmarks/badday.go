package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// badDay sets the size of the bulk runs and syncs on a bad day. All of them use real
// connections to oakratest and real time, and compare what the run reports with what
// the server did.
type badDay struct {
	items     int           // items of a run through an outage or resets
	stopped   int           // items of a run that is stopped
	targets   int           // targets of a sync
	limited   int           // items of a run on a server with a limit
	pairs     int           // number of pairs of runs through resets
	outage    time.Duration // length of an outage that passes
	lasting   time.Duration // OutageTimeout of a run through an outage that lasts
	options   oakra.BulkOptions
	latency   time.Duration // server time for a request
	perRecord time.Duration // additional server time for each record
}

func fullBadDay() badDay {
	return badDay{
		items: 100_000, stopped: 20_000, targets: 1000, limited: 10_000, pairs: 15,
		outage: time.Second, lasting: time.Minute, latency: bulkLatency, perRecord: bulkPerRecord,
		options: oakra.BulkOptions{BatchSize: 500, Concurrency: 4}, // the defaults
	}
}

// measured is one line of the table.
type measured struct {
	what, must string
	ending
	cost   string // time or number of requests
	right  bool   // whether everything except the time is as it must be
	inTime bool
}

func (m measured) verdict() string {
	switch {
	case !m.right:
		return "NOT ok"
	case !m.inTime:
		return "TOO SLOW"
	}
	return "ok"
}

func (d badDay) run(log func(string, ...any)) (all []measured, err error) {
	for _, measure := range []func() ([]measured, error){
		d.passingOutages, d.lastingOutages, d.randomResets, d.stops, d.syncs, d.limit, d.updates,
	} {
		rows, err := measure()
		if err != nil {
			return all, err
		}
		all = append(all, rows...)
		for _, m := range rows {
			log("%s: %s", m.what, m.verdict())
		}
	}
	return all, nil
}

// printMeasured writes the table, and returns an error if something in it is not ok.
func printMeasured(w io.Writer, all []measured) error {
	failed := 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "run\tapplied\tnot applied\tunknown\twrong\tcost\tmust be\t")
	for _, m := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", m.what,
			thousands(m.applied), thousands(m.notApplied), thousands(m.unknown), m.wrong, m.cost, m.must, m.verdict())
		if m.verdict() != "ok" {
			failed++
		}
	}
	table.Flush()
	if failed > 0 {
		return fmt.Errorf("%d of %d measures are not ok", failed, len(all))
	}
	return nil
}

// site is a server and a client of it. The client has default options, and opens a
// connection for each request.
type site struct {
	*oakratest.Server
	client  *oakra.Client
	refuses atomic.Bool // whether connections are refused

	mu      sync.Mutex
	longest time.Duration // duration of the longest attempt
}

func (d badDay) newSite(n int, dialect oakratest.Dialect) (*site, error) {
	s := &site{Server: oakratest.NewServer(stock(n)...)}
	s.SetDialect(dialect)
	s.SetLatency(d.latency, d.perRecord)
	transport := oakra.DefaultTransport()
	transport.DisableKeepAlives = true
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if s.refuses.Load() {
			address = nobody
		}
		return dial(ctx, network, address)
	}
	var err error
	s.client, err = oakra.NewClient(s.Key, oakra.WithBaseURL(s.URL), oakra.WithHTTPClient(&http.Client{Transport: transport}),
		oakra.WithObserver(oakra.Observer{AttemptEnd: func(_ context.Context, a oakra.AttemptEnd) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.longest = max(s.longest, a.Duration)
		}}))
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ending is what a run of ChangeAll reports, compared with what the server did.
type ending struct {
	applied, notApplied, unknown int
	wrong                        int  // items whose reported outcome is wrong
	retryable                    bool // whether every item that was not applied is retryable
	took                         time.Duration
}

// changeAll changes n records. As soon as at items have an outcome, it calls then and
// starts to measure the time.
func (s *site) changeAll(n int, o oakra.BulkOptions, at int, then func()) ending {
	start, begun := time.Now(), false
	o.OnProgress = func(p oakra.BulkProgress) {
		if p.Done() >= at && !begun {
			start, begun = time.Now(), true
			then()
		}
	}
	err := s.client.Stock.ChangeAll(context.Background(), changes(n), o)
	took := time.Since(start)
	e := endingOf(n, err, s.Requests())
	e.took = took
	return e
}

// endingOf compares the error of a run that changed n records with what the server did.
func endingOf(n int, err error, requests []oakratest.Request) ending {
	e := ending{retryable: true}
	outcomes := slices.Repeat([]oakra.Outcome{oakra.OutcomeApplied}, n)
	var bulk *oakra.BulkError
	if errors.As(err, &bulk) {
		for _, f := range bulk.Failures {
			outcomes[f.Index] = f.Outcome
			if f.Outcome == oakra.OutcomeNotApplied && !oakra.Retryable(f.Err) {
				e.retryable = false
			}
		}
	}
	times := applied(requests)
	for i, outcome := range outcomes {
		n := times[int64(i+1)]
		wrong := n > 1
		switch outcome {
		case oakra.OutcomeApplied:
			e.applied++
			wrong = n != 1
		case oakra.OutcomeNotApplied:
			e.notApplied++
			wrong = n != 0
		default:
			e.unknown++
		}
		if wrong {
			e.wrong++
		}
	}
	return e
}

// outages lists the ways in which a service can be down.
var outages = []struct {
	name  string
	begin func(*site)
}{
	{"503 at once", func(s *site) {
		s.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: http.StatusServiceUnavailable})
	}},
	{"resets", func(s *site) { s.Inject(oakratest.Fault{Kind: oakratest.ResetBefore}) }},
	{"refused connections", func(s *site) { s.refuses.Store(true) }},
}

func (s *site) endOutage() {
	s.ClearFaults()
	s.refuses.Store(false)
}

// mostUnknown returns how many outcomes an outage may leave unknown.
func (d badDay) mostUnknown() int { return (d.options.Concurrency + 4) * d.options.BatchSize }

// passingOutages measures runs through an outage that passes.
func (d badDay) passingOutages() ([]measured, error) {
	var rows []measured
	for _, outage := range outages {
		s, err := d.newSite(d.items, oakratest.Dialect{})
		if err != nil {
			return nil, err
		}
		e := s.changeAll(d.items, d.options, d.items/2, func() {
			outage.begin(s)
			time.AfterFunc(d.outage, s.endOutage)
		})
		s.Close()
		rows = append(rows, measured{
			what:   fmt.Sprintf("%s changes, %s for %v", thousands(d.items), outage.name, d.outage),
			must:   fmt.Sprintf("unknown ≤ %s, the rest applied", thousands(d.mostUnknown())),
			ending: e,
			cost:   fmt.Sprintf("%.1f s", e.took.Seconds()),
			right:  e.unknown <= d.mostUnknown() && e.notApplied == 0 && e.wrong == 0,
			inTime: true,
		})
	}
	return rows, nil
}

// lastingOutages measures runs through an outage that does not end. The runs are made
// at the same time, because they mostly wait.
func (d badDay) lastingOutages() ([]measured, error) {
	rows := make([]measured, len(outages))
	errs := make([]error, len(outages))
	o := d.options
	o.OutageTimeout = d.lasting
	most := d.lasting + 5*time.Second
	var running sync.WaitGroup
	for i, outage := range outages {
		running.Go(func() {
			s, err := d.newSite(d.items, oakratest.Dialect{})
			if err != nil {
				errs[i] = err
				return
			}
			defer s.Close()
			e := s.changeAll(d.items, o, d.items/2, func() { outage.begin(s) })
			rows[i] = measured{
				what:   fmt.Sprintf("%s changes, %s for good", thousands(d.items), outage.name),
				must:   fmt.Sprintf("unknown ≤ %s, the rest retryable, ≤ %.0f s", thousands(d.mostUnknown()), most.Seconds()),
				ending: e,
				cost:   fmt.Sprintf("%.1f s", e.took.Seconds()),
				right:  e.unknown <= d.mostUnknown() && e.notApplied > 0 && e.retryable && e.wrong == 0,
				inTime: e.took <= most,
			}
		})
	}
	running.Wait()
	return rows, errors.Join(errs...)
}

// randomResets measures what the caution after a failure costs. It compares a run of
// ChangeAll with one that sends the next request right after each failure.
func (d badDay) randomResets() ([]measured, error) {
	const most = 1.15
	var ratios []float64
	var all ending // sum of all pairs
	for pair := range d.pairs {
		var took [2]time.Duration
		for j := range took {
			i := (pair + j) % len(took)
			s, err := d.newSite(d.items, oakratest.Dialect{})
			if err != nil {
				return nil, err
			}
			s.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetBefore, Probability: 0.05, Seed: uint64(pair)})
			if i == 0 {
				e := s.changeAll(d.items, d.options, 0, func() {})
				took[i] = e.took
				all.applied += e.applied
				all.notApplied += e.notApplied
				all.unknown += e.unknown
				all.wrong += e.wrong
			} else {
				took[i] = s.heedless(d.items, d.options)
			}
			s.Close()
		}
		ratios = append(ratios, took[0].Seconds()/took[1].Seconds())
	}
	ratio := spreadOf(ratios)
	return []measured{{
		what:   fmt.Sprintf("%d × %s changes, 5 %% of requests reset", d.pairs, thousands(d.items)),
		must:   fmt.Sprintf("< %.2f× the time without care", most),
		ending: all,
		cost:   fmt.Sprintf("%.2f× (%.2f–%.2f)", ratio.P50, ratio.P25, ratio.P75),
		right:  all.wrong == 0 && all.unknown > 0,
		inTime: ratio.P50 < most,
	}}, nil
}

// heedless makes the same requests as changeAll, and ignores failures.
func (s *site) heedless(n int, o oakra.BulkOptions) time.Duration {
	start := time.Now()
	batches := make(chan []oakra.StockChange)
	var workers sync.WaitGroup
	for range o.Concurrency {
		workers.Go(func() {
			for batch := range batches {
				_, _ = s.client.Stock.Change(context.Background(), batch)
			}
		})
	}
	for batch := range slices.Chunk(changes(n), o.BatchSize) {
		batches <- batch
	}
	close(batches)
	workers.Wait()
	return time.Since(start)
}

// stops measures a run that is stopped after a third of its items.
func (d badDay) stops() ([]measured, error) {
	s, err := d.newSite(d.stopped, oakratest.Dialect{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	stop := make(chan struct{})
	o := d.options
	o.Stop = stop
	e := s.changeAll(d.stopped, o, d.stopped/3, func() { close(stop) })
	const slack = 20 * time.Millisecond
	return []measured{{
		what:   fmt.Sprintf("%s changes, stopped after a third", thousands(d.stopped)),
		must:   fmt.Sprintf("unknown 0, ≤ %d ms after the stop: the longest request and %d ms", (s.longest + slack).Milliseconds(), slack.Milliseconds()),
		ending: e,
		cost:   fmt.Sprintf("%d ms", e.took.Milliseconds()),
		right:  e.unknown == 0 && e.wrong == 0 && e.applied >= d.stopped/3 && e.notApplied > 0,
		inTime: e.took <= s.longest+slack,
	}}, nil
}

// syncs measures both modes of stocksync on a server that saves item by item and rejects
// negative quantities.
func (d badDay) syncs() ([]measured, error) {
	var rows []measured
	for mode, name := range []string{stocksync.ByChange: "ByChange", stocksync.ByUpdate: "ByUpdate"} {
		s, err := d.newSite(d.targets, oakratest.Dialect{ItemByItem: true, RejectNegative: true})
		if err != nil {
			return nil, err
		}
		before := s.Records()
		var targets []stocksync.Target
		for i, r := range before {
			target := stocksync.Target{SKU: r.SKU, LocationID: r.LocationID, Quantity: int64(i % 90)}
			if i == d.targets/3 || i == 2*d.targets/3 {
				target.Quantity = -1
			}
			targets = append(targets, target)
		}
		start := time.Now()
		report, _ := stocksync.Sync(context.Background(), s.client.Stock, targets, stocksync.Options{Mode: stocksync.Mode(mode)})
		took := time.Since(start)
		s.Close()
		e := ending{
			applied:    report.Count(stocksync.Synced),
			notApplied: report.Count(stocksync.Rejected) + report.Count(stocksync.NotTried),
			unknown:    report.Count(stocksync.Unknown),
		}
		for _, r := range report.Results {
			want := before[r.ID-1].Quantity
			if r.Status == stocksync.Synced {
				want = r.Quantity
			}
			if s.Quantity(r.ID) != want {
				e.wrong++
			}
		}
		rows = append(rows, measured{
			what:   fmt.Sprintf("sync %s, %s targets, 2 negative", name, thousands(d.targets)),
			must:   "only the negative ones not applied",
			ending: e,
			cost:   fmt.Sprintf("%.1f s", took.Seconds()),
			right:  e.applied == d.targets-2 && e.notApplied == 2 && e.wrong == 0,
			inTime: true,
		})
	}
	return rows, nil
}

// limit measures a run on a server that accepts fewer items per request.
func (d badDay) limit() ([]measured, error) {
	const limit = 20
	s, err := d.newSite(d.limited, oakratest.Dialect{BatchLimit: limit})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	e := s.changeAll(d.limited, oakra.BulkOptions{}, 0, func() {})
	requests := 0
	for _, r := range s.Requests() {
		if r.Op == "stock.change" {
			requests++
		}
	}
	most := d.limited/limit + 100
	return []measured{{
		what:   fmt.Sprintf("%s changes, at most %d a request", thousands(d.limited), limit),
		must:   fmt.Sprintf("≤ %d requests, all applied", most),
		ending: e,
		cost:   fmt.Sprintf("%d requests", requests),
		right:  requests <= most && e.applied == d.limited && e.wrong == 0,
		inTime: true,
	}}, nil
}

// updates measures the bulk run of the benchmarks, and compares it with the time that
// its server takes.
func (d badDay) updates() ([]measured, error) {
	const most = 1.25
	address, stop, err := startServer(newHandler(nil))
	if err != nil {
		return nil, err
	}
	defer stop()
	o := d.options
	client, err := bulkClient(address)
	if err != nil {
		return nil, err
	}
	run, err := timeUpdateAll(client, bulkUpdates(d.items), o.BatchSize, o.Concurrency)
	if err != nil {
		return nil, err
	}
	perRequest := bulkLatency + time.Duration(o.BatchSize)*bulkPerRecord
	server := float64(d.items/o.BatchSize) * perRequest.Seconds() / float64(o.Concurrency)
	return []measured{{
		what:   fmt.Sprintf("%s updates", thousands(d.items)),
		must:   fmt.Sprintf("≤ %.2f× the %.2f s of the server", most, server),
		ending: ending{applied: d.items},
		cost:   fmt.Sprintf("%.2f s", run.Seconds),
		right:  true,
		inTime: run.Seconds <= most*server,
	}}, nil
}
