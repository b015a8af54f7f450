package stocksync_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/stocksync"
)

// size is the number of targets in the tests over the network: STOCKSYNC_TARGETS, or
// 2,000.
func size(t *testing.T) int64 {
	if text := os.Getenv("STOCKSYNC_TARGETS"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return 2000
}

// stock returns the records that Oakra has at first, with ID n for record n.
func stock(n int64) []oakra.StockRecord {
	records := recordsTo(n)
	for i := range records {
		records[i].Quantity = int64(i*7%400) - 10
		records[i].LocationID = fmt.Sprintf("warehouse-%d", i%3)
	}
	return records
}

// feed returns targets for all records, one in eight of which are equal already.
func feed(n int64) []stocksync.Target {
	var targets []stocksync.Target
	for i, r := range stock(n) {
		targets = append(targets, stocksync.Target{SKU: r.SKU, LocationID: r.LocationID, Quantity: r.Quantity + int64(i%8)*int64(i%5-2)})
	}
	return targets
}

func newServer(t *testing.T, n int64) *oakratest.Server {
	server := oakratest.NewServer(stock(n)...)
	t.Cleanup(server.Close)
	return server
}

// clientOf returns a client that does not wait long before it sends again.
func clientOf(server *oakratest.Server, opts ...oakra.Option) *oakra.Client {
	return server.Client(append(opts, oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}))...)
}

// trouble injects the faults of all tests.
func trouble(server *oakratest.Server, seed uint64) {
	server.Inject(oakratest.Fault{Kind: oakratest.ResetAfter, Probability: 0.05, Seed: seed})
	server.Inject(oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502, Body: "<h1>Bad Gateway</h1>", Probability: 0.05, Seed: seed + 1})
	server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 429, Probability: 0.05, Seed: seed + 2})
	server.Inject(oakratest.Fault{Kind: oakratest.CutBody, Probability: 0.02, Seed: seed + 3})
}

// checkServer fails unless each record has its target's quantity less the units sold.
func checkServer(t *testing.T, server *oakratest.Server, targets []stocksync.Target, sold map[int64]int64) {
	t.Helper()
	wrong := 0
	for i, r := range server.Records() {
		if want := targets[i].Quantity - sold[r.ID]; r.Quantity != want {
			if wrong++; wrong <= 5 {
				t.Errorf("%v has %d, want %d", targets[i], r.Quantity, want)
			}
		}
	}
	if wrong > 5 {
		t.Errorf("and %d more", wrong-5)
	}
}

func checkAllSynced(t *testing.T, report *stocksync.Report, err error, n int64) {
	t.Helper()
	if err != nil || int64(report.Count(stocksync.Synced)) != n || int64(len(report.Results)) != n {
		t.Errorf("%d of %d are synced: %v", report.Count(stocksync.Synced), n, err)
	}
}

func TestFaults(t *testing.T) {
	const settle = 20 * time.Millisecond
	for kind, inject := range map[string]func(*oakratest.Server, uint64){
		"none":           func(*oakratest.Server, uint64) {},
		"after applying": trouble,
		"before and after": func(s *oakratest.Server, seed uint64) {
			trouble(s, seed)
			s.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetBefore, Probability: 0.15, Seed: seed + 4})
			s.Inject(oakratest.Fault{Op: "stock.update", Kind: oakratest.ResetBefore, Probability: 0.15, Seed: seed + 4})
			s.Inject(oakratest.Fault{Kind: oakratest.Refuse, Probability: 0.05, Seed: seed + 5})
			s.Inject(oakratest.Fault{Kind: oakratest.OmitRecord, Op: "stock.change", Probability: 0.05, Seed: seed + 6})
		},
		"late": func(s *oakratest.Server, seed uint64) {
			for _, op := range []string{"stock.change", "stock.update"} {
				s.Inject(oakratest.Fault{Op: op, Kind: oakratest.ApplyLate, Delay: settle / 2, Probability: 0.2, Seed: seed})
			}
		},
	} {
		t.Run(kind, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) {
				n := size(t)
				server := newServer(t, n)
				inject(server, 7)
				targets := feed(n)
				report, err := stocksync.Sync(t.Context(), clientOf(server).Stock, targets, stocksync.Options{Mode: mode, BatchSize: 50, SettleAfter: settle})
				checkAllSynced(t, report, err, n)
				time.Sleep(settle)
				checkServer(t, server, targets, nil)
				if mode == stocksync.ByChange {
					checkChangedOnce(t, server)
				}
			})
		})
	}
}

const seller = "second-seller/1"

// checkChangedOnce fails if the run changed a record twice. It returns which records
// were changed, and the units that the second seller sold.
func checkChangedOnce(t *testing.T, server *oakratest.Server) (changed map[int64]bool, sold map[int64]int64) {
	t.Helper()
	changed, sold = make(map[int64]bool), make(map[int64]int64)
	for _, request := range server.Requests() {
		sells := strings.HasPrefix(request.Header.Get("User-Agent"), seller)
		for _, a := range request.Applied {
			if sells {
				sold[a.ID] += a.From - a.To
				continue
			}
			if changed[a.ID] {
				t.Errorf("record %d was changed twice", a.ID)
			}
			changed[a.ID] = true
		}
	}
	return changed, sold
}

// TestSecondSeller sells during the run, one unit at a time, so that a sale is often
// as large as the difference. Without a pause between sales, most records of a lost
// request are sold before it is settled.
func TestSecondSeller(t *testing.T) {
	allLeft := 0
	for _, pause := range []time.Duration{20 * time.Millisecond, 0} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%v/%d", pause, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { allLeft += secondSeller(t, seed, pause) })
			})
		}
	}
	if allLeft == 0 {
		t.Error("no outcome was unknown: the test does not test that")
	}
}

// secondSeller returns how many outcomes were unknown.
func secondSeller(t *testing.T, seed uint64, pause time.Duration) int {
	n := size(t)
	server := newServer(t, n)
	trouble(server, 10*seed)
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetBefore, Probability: 0.1, Seed: seed})
	server.SetLatency(5*time.Millisecond, 0)
	targets := feed(n)
	o := stocksync.Options{BatchSize: 50, SettleAfter: 20 * time.Millisecond}
	plan, err := stocksync.Compare(t.Context(), clientOf(server).Stock, targets, o)
	if err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	var selling sync.WaitGroup
	selling.Go(func() {
		random := rand.New(rand.NewPCG(seed, 0))
		client := clientOf(server, oakra.WithUserAgent(seller))
		for ctx.Err() == nil {
			sales := make([]oakra.StockChange, n/100)
			for i := range sales {
				sales[i] = oakra.StockChange{ID: int64(i)*100 + 1 + random.Int64N(100), QuantityChange: -1}
			}
			_, _ = client.Stock.Change(t.Context(), sales) // the server knows what was sold
			time.Sleep(pause)
		}
	})
	report, err := plan.Apply(t.Context())
	stop()
	selling.Wait()

	changed, sold := checkChangedOnce(t, server)
	left, records := 0, server.Records()
	for _, r := range report.Results {
		switch {
		case r.ID == 0:
		case r.Status == stocksync.Unknown:
			left++
		case r.Status != stocksync.Synced || !changed[r.ID] || records[r.ID-1].Quantity != r.Quantity-sold[r.ID]:
			t.Errorf("%+v, sold %d, and has %d", r, sold[r.ID], records[r.ID-1].Quantity)
		}
	}
	t.Logf("%d of %d are unknown, of %d something was sold", left, n, len(sold))
	if (err == nil) != (left == 0) {
		t.Errorf("%d of %d are unknown: %v", left, n, err)
	}

	// With the seller gone, running it again syncs everything.
	report, err = stocksync.Sync(t.Context(), clientOf(server).Stock, targets, o)
	checkAllSynced(t, report, err, n)
	checkServer(t, server, targets, nil)
	return left
}

// TestMain is also the process that TestKilled kills.
func TestMain(m *testing.M) {
	if url := os.Getenv("STOCKSYNC_CHILD_URL"); url != "" {
		client, err := oakra.NewClient(os.Getenv("STOCKSYNC_CHILD_KEY"), oakra.WithBaseURL(url))
		if err == nil {
			mode, _ := strconv.Atoi(os.Getenv("STOCKSYNC_CHILD_MODE"))
			targets, _ := strconv.ParseInt(os.Getenv("STOCKSYNC_CHILD_TARGETS"), 10, 64)
			_, err = stocksync.Sync(context.Background(), client.Stock, feed(targets), killedOptions(stocksync.Mode(mode)))
		}
		fmt.Println(err)
		os.Exit(3) // it should have been killed
	}
	os.Exit(m.Run())
}

func killedOptions(mode stocksync.Mode) stocksync.Options {
	return stocksync.Options{Mode: mode, BatchSize: 50, SettleAfter: 50 * time.Millisecond}
}

func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			n := size(t)
			server := newServer(t, n)
			trouble(server, 3)
			const pass = 15 // requests of 50 records that pass; the others wait until the process is killed
			server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.Slow, Times: pass})
			server.Inject(oakratest.Fault{Op: opOf(mode), Kind: oakratest.ResetBefore, Delay: time.Hour})
			targets := feed(n)

			var out strings.Builder
			child := exec.Command(self)
			child.Stdout, child.Stderr = &out, &out
			child.Env = append(os.Environ(), "STOCKSYNC_CHILD_URL="+server.URL, "STOCKSYNC_CHILD_KEY="+server.Key,
				fmt.Sprintf("STOCKSYNC_CHILD_MODE=%d", mode), fmt.Sprintf("STOCKSYNC_CHILD_TARGETS=%d", n))
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); written(server) < pass*40 && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
			if err := child.Process.Kill(); err != nil { // SIGKILL
				t.Fatal(err)
			}
			err := child.Wait()
			killed := -1
			if runtime.GOOS == "windows" {
				killed = 1
			}
			if child.ProcessState.ExitCode() != killed {
				t.Fatalf("it ended by itself: %v: %s", err, out.String())
			}
			o := killedOptions(mode)
			time.Sleep(o.SettleAfter)
			at := written(server)
			t.Logf("killed when %d of %d were written", at, n)
			if at < pass*40 || at == n {
				t.Errorf("%d of %d is none or all", at, n)
			}

			server.ClearFaults()
			trouble(server, 3)
			report, err := stocksync.Sync(t.Context(), clientOf(server).Stock, targets, o)
			checkAllSynced(t, report, err, n)
			checkServer(t, server, targets, nil)
			if mode == stocksync.ByChange {
				checkChangedOnce(t, server)
			}
		})
	}
}

// written returns how many records were written.
func written(server *oakratest.Server) int64 {
	all := make(map[int64]bool)
	for _, request := range server.Requests() {
		for _, a := range request.Applied {
			all[a.ID] = true
		}
	}
	return int64(len(all))
}
