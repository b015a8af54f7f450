// Command replay sends a shop's real trade to Oakra, with every sale and return as a
// change of stock. It then compares all quantities with those computed from the file. It
// runs a fake server in its own process, which responds after 20 ms and, with -faults,
// fails in many ways:
//
//	go run ./examples/replay                    # one day, included here
//	go run ./examples/replay -faults -seed 7
//	go run ./examples/replay -data year.csv.gz  # time,invoice,sku,country,quantity
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

type config struct {
	data        string
	latency     time.Duration
	faults      bool
	seed        uint64
	window      int
	batch       int
	concurrency int
	settleAfter time.Duration
}

func main() {
	var c config
	flag.StringVar(&c.data, "data", "", "the trade, a .csv or .csv.gz `file`; empty is the day that ships with the program")
	flag.DurationVar(&c.latency, "latency", 20*time.Millisecond, "how long the server takes for a request")
	flag.BoolVar(&c.faults, "faults", false, "the server fails: 5% resets and 5% 502 after applying, 5% 429, 2% responses cut short")
	flag.Uint64Var(&c.seed, "seed", 1, "of the faults")
	flag.IntVar(&c.window, "window", 0, "how many `lines` one ChangeAll gets; 0 is a hundredth of all, 300 at least")
	flag.IntVar(&c.batch, "batch", 0, "how many records one request changes at most; 0 is an eighth of the window")
	flag.IntVar(&c.concurrency, "concurrency", 16, "how many requests are in flight at most")
	flag.DurationVar(&c.settleAfter, "settle-after", time.Second, "how long to wait before reading the records with an unknown outcome; by then the fake server has applied everything")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	result, err := replay(ctx, c, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "replay:", err)
		os.Exit(1)
	}
	result.print(os.Stdout)
	if result.wrong > 0 {
		os.Exit(1)
	}
}

// result is the result of a replay.
type result struct {
	lines, records   int
	requests, writes int // number of requests that arrived at the server
	struck           int // number of requests struck by a fault
	took             time.Duration
	resent, unknown  int // changes sent again because they were not applied; records put right by stocksync
	right, wrong     int // number of records with the right and with a wrong quantity
	peakMemory       int64
}

func (r result) print(w io.Writer) {
	fmt.Fprintf(w, "%d changes of %d records in %.1f s: %.0f changes a second\n",
		r.lines, r.records, r.took.Seconds(), float64(r.lines)/r.took.Seconds())
	fmt.Fprintf(w, "%d requests, %d of them writes, %d struck by a fault\n", r.requests, r.writes, r.struck)
	fmt.Fprintf(w, "%d changes were not applied and sent again, %d records had an unknown outcome and were put right\n", r.resent, r.unknown)
	if r.peakMemory > 0 {
		fmt.Fprintf(w, "largest memory of the process: %d MB\n", r.peakMemory>>20)
	}
	fmt.Fprintf(w, "final quantities: %d right, %d wrong\n", r.right, r.wrong)
}

func replay(ctx context.Context, c config, progress io.Writer) (result, error) {
	if c.window < 0 || c.batch < 0 {
		return result{}, fmt.Errorf("-window is %d or -batch is %d, less than zero", c.window, c.batch)
	}
	trade, err := readTrade(c.data)
	if err != nil {
		return result{}, err
	}
	c.window = cmp.Or(c.window, max(300, len(trade.lines)/100))
	c.batch = cmp.Or(c.batch, max(1, c.window/8))
	server := oakratest.NewServer(trade.opening()...)
	defer server.Close()
	server.SetLatency(c.latency, 0)
	if c.faults {
		injectFaults(server, c.seed)
	}
	client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 20 * time.Millisecond}))

	start := time.Now()
	sender := sender{client: client, config: c, trade: trade}
	if err := sender.lookup(ctx); err != nil {
		return result{}, err
	}
	bar := newBar(len(trade.lines), progress)
	if err := sender.sendAll(ctx, func(n int) { _ = bar.Add(n) }); err != nil {
		return result{}, err
	}
	_ = bar.Finish()
	if err := sender.putRight(ctx); err != nil {
		return result{}, err
	}
	r := result{
		lines:   len(trade.lines),
		records: len(trade.keys),
		took:    time.Since(start),
		resent:  sender.resent,
		unknown: len(sender.unknown),
	}
	for _, request := range server.Requests() {
		r.requests++
		if request.Op == "stock.change" {
			r.writes++
		}
		if request.Fault != "" {
			r.struck++
		}
	}
	final := make(map[oakra.StockKey]int64, len(trade.keys))
	for _, record := range server.Records() {
		final[record.Key()] = record.Quantity
	}
	for i, key := range trade.keys {
		if quantity, ok := final[key]; ok && quantity == trade.closing(i) {
			r.right++
		} else {
			r.wrong++
		}
	}
	r.peakMemory = peakMemory()
	return r, nil
}

func injectFaults(server *oakratest.Server, seed uint64) {
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.ResetAfter, Probability: 0.05},
		{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>bad gateway</html>", Probability: 0.05},
		{Kind: oakratest.Respond, Status: 429, Body: `{"detail":"Request was throttled."}`, Probability: 0.05},
		{Kind: oakratest.CutBody, Probability: 0.02},
	} {
		f.Seed = seed*10 + uint64(i)
		server.Inject(f)
	}
}

// sender sends the trade to Oakra as a shop would that knows SKUs and locations.
type sender struct {
	client *oakra.Client
	config config
	trade  *trade

	ids     []int64      // ids of the records, by index of trade.keys
	unknown map[int]bool // records with an unknown outcome, by index of trade.keys
	resent  int
}

func (s *sender) lookup(ctx context.Context) error {
	records, err := s.client.Stock.Lookup(ctx, s.trade.keys)
	if err != nil {
		return err
	}
	s.ids = make([]int64, len(s.trade.keys))
	s.unknown = make(map[int]bool)
	for i, key := range s.trade.keys {
		record, ok := records[key]
		if !ok {
			return fmt.Errorf("lookup: Oakra does not know SKU %q at %q", key.SKU, key.LocationID)
		}
		s.ids[i] = record.ID
	}
	return nil
}

// sendAll sends all lines in windows. Lines that were not applied go with the next
// window. Lines with an unknown outcome are left to putRight.
func (s *sender) sendAll(ctx context.Context, done func(int)) error {
	const rounds = 20 // rounds for lines that were not applied, after the last window
	lines := s.trade.lines
	var again []line
	for round := 0; len(lines) > 0 || len(again) > 0; {
		n := min(s.config.window, len(lines))
		window := slices.Concat(again, lines[:n])
		if lines = lines[n:]; n == 0 {
			if round++; round > rounds {
				return fmt.Errorf("%d changes were not applied in %d rounds", len(again), rounds)
			}
		}
		again = nil
		changes := make([]oakra.StockChange, len(window))
		for i, l := range window {
			changes[i] = oakra.StockChange{ID: s.ids[l.record], QuantityChange: -l.sold}
		}
		err := s.client.Stock.ChangeAll(ctx, changes, oakra.BulkOptions{
			BatchSize: s.config.batch, Concurrency: s.config.concurrency,
		})
		var bulk *oakra.BulkError
		if err != nil && !errors.As(err, &bulk) {
			return err
		}
		if bulk != nil {
			for _, f := range bulk.Failures {
				switch {
				case f.Outcome == oakra.OutcomeUnknown:
					s.unknown[window[f.Index].record] = true
				case oakra.Retryable(f.Err) && ctx.Err() == nil:
					again = append(again, window[f.Index])
				default:
					return f.Err
				}
			}
			s.resent += len(again)
		}
		done(n)
	}
	return nil
}

// putRight syncs the records of changes with an unknown outcome to the quantities
// computed from the file. They must have these, because the replay is the only writer.
func (s *sender) putRight(ctx context.Context) error {
	if len(s.unknown) == 0 {
		return nil
	}
	// A request whose response was lost may still be under way.
	select {
	case <-time.After(s.config.settleAfter):
	case <-ctx.Done():
		return ctx.Err()
	}
	targets := make([]stocksync.Target, 0, len(s.unknown))
	for i := range s.unknown {
		key := s.trade.keys[i]
		targets = append(targets, stocksync.Target{SKU: key.SKU, LocationID: key.LocationID, Quantity: s.trade.closing(i)})
	}
	_, err := stocksync.Sync(ctx, s.client.Stock, targets, stocksync.Options{
		BatchSize: s.config.batch, Concurrency: s.config.concurrency, SettleAfter: s.config.settleAfter,
	})
	return err
}

func newBar(lines int, w io.Writer) *progressbar.ProgressBar {
	return progressbar.NewOptions(lines,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetVisibility(isTerminal(w)),
		progressbar.OptionSetDescription("changes"),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetItsString("changes"),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
