//go:build unix

package storm_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

var (
	stormSeed    = flag.Uint64("storm.seed", 1, "the plan of the storms: changes, faults, kills")
	stormFor     = flag.Duration("storm.for", 2*time.Second, "how long a storm rages on each database")
	stormChanges = flag.Int("storm.changes", 0, "how many changes a storm adds to each database, however long that takes; 0: as many as it can in -storm.for")
	stormPause   = flag.Duration("storm.pause", 4*time.Millisecond, "between two changes of a caller, on average")
)

// TestStorm kills and stops the processes of a shop that sells through faults, while
// somebody else sells the same items. Whatever happens, in the end the server must show
// each planned change exactly once, and the other seller's sales.
func TestStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("a storm takes seconds")
	}
	for _, d := range databases(t) {
		t.Run(d.dialect, func(t *testing.T) {
			t.Parallel()
			if d.dialect == "sqlite" {
				newStorm(t, d.driver, d.newDSN(t)).rage(nil)
				return
			}
			c, err := newCluster()
			require.NoError(t, err)
			t.Cleanup(c.remove)
			newStorm(t, d.driver, c.create(t)).rage(c)
		})
	}
	t.Run("pgbouncer", func(t *testing.T) {
		if why := postgresMissing(); why != "" {
			t.Skipf("LEFT OUT: PostgreSQL, %s", why)
		}
		t.Parallel()
		c, err := newCluster()
		require.NoError(t, err)
		t.Cleanup(c.remove)
		newStorm(t, "pgx", c.startBouncer(t, c.create(t))).rage(nil)
	})
}

// startBouncer starts pgbouncer in transaction mode in front of a database, and returns
// the DSN to use.
func (c *cluster) startBouncer(t *testing.T, dsn string) string {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("LEFT OUT: pgbouncer is not installed")
	}
	config := filepath.Join(c.dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, []byte(strings.Join([]string{
		"[databases]",
		"* = host=" + c.dir + " port=5432 user=shop",
		"[pgbouncer]",
		"listen_addr =", "listen_port = 6432", "unix_socket_dir = " + c.dir,
		"pidfile = " + filepath.Join(c.dir, "pgbouncer.pid"), "auth_type = any", "pool_mode = transaction", "default_pool_size = 5", "max_client_conn = 200", "",
	}, "\n")), 0o644))
	log, err := os.Create(filepath.Join(c.dir, "pgbouncer.log"))
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command(program, config)
	cmd.SysProcAttr, cmd.Stdout, cmd.Stderr, cmd.Dir = c.as, log, log, c.dir
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	dsn = strings.Replace(dsn, "port=5432", "port=6432", 1) + " default_query_exec_mode=exec"
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	defer db.Close()
	require.Eventually(t, func() bool { return db.Ping() == nil }, time.Minute, 20*time.Millisecond)
	return dsn
}

// storm is a shop in a storm of faults.
type storm struct {
	*testing.T
	child    // settings that the processes share
	server   *oakratest.Server
	shop     *shop
	random   *rand.Rand
	children []*process
	kills    int
	stops    int
	crashes  int // crashes of the database

	seenAcked    int
	seenRequests int64
	halted       bool

	mu  sync.Mutex
	err bytes.Buffer // standard error of the processes
}

// process is a place in the shop that a child takes until it is killed.
type process struct {
	child
	storm *storm
	cmd   *exec.Cmd
	stdin io.Closer
	read  chan struct{} // closed when all output was read
	acked map[int]bool  // changes that are durable
}

func newStorm(t *testing.T, driver, dsn string) *storm {
	records := []oakra.StockRecord{
		{ID: 1, SKU: head.SKU, LocationID: head.LocationID, Quantity: 200_000},
		{ID: 2, SKU: tail.SKU, LocationID: tail.LocationID, Quantity: 200_000},
	}
	for i := range stormItems {
		key := itemKey(i)
		records = append(records, oakra.StockRecord{ID: firstItem + int64(i), SKU: key.SKU, LocationID: key.LocationID, Quantity: stormStart})
	}
	server := oakratest.Start(t, records...)
	s := &storm{T: t, server: server, random: rand.New(rand.NewPCG(*stormSeed, 1)),
		child: child{Driver: driver, DSN: dsn, URL: server.URL, Key: server.Key, Seed: *stormSeed, Pause: *stormPause}}
	s.shop = openShop(t, database{driver: driver}.openDSN(t, dsn), server, stormOptions())
	_, err := s.shop.db.Exec("CREATE TABLE orders (id text PRIMARY KEY)")
	require.NoError(t, err)
	return s
}

// inject makes the server fail in nine ways.
func (s *storm) inject() {
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.ResetBefore, Probability: 0.01},
		{Kind: oakratest.ResetAfter, Probability: 0.02},
		{Kind: oakratest.CutBody, Probability: 0.01},
		{Op: "stock.change", Kind: oakratest.OmitRecord, Probability: 0.02},
		{Op: "stock.change", Kind: oakratest.ApplyLate, Delay: stormWindow + 2*stormGrace, Probability: 0.02},
		{Op: "stock.change", Kind: oakratest.Slow, Delay: stormWindow + stormGrace/2, Probability: 0.01},
		{Kind: oakratest.Respond, Status: 503, Body: "<html>", Probability: 0.01},
		{Kind: oakratest.Respond, Status: 429, Probability: 0.01},
		{Op: "stock.change", Kind: oakratest.RespondAfter, Status: 502, Probability: 0.01},
	} {
		f.Seed = *stormSeed + uint64(i)
		s.server.Inject(f)
	}
}

func (s *storm) start(c child) *process {
	p := &process{child: c, storm: s, acked: make(map[int]bool)}
	p.start()
	s.children = append(s.children, p)
	return p
}

func (p *process) start() {
	p.storm.mu.Lock()
	for p.acked[p.From] {
		p.From++
	}
	p.storm.mu.Unlock()
	plan, err := json.Marshal(p.child)
	require.NoError(p.storm, err)
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(plan))
	p.cmd.Stderr = p.storm
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(p.storm, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(p.storm, err)
	require.NoError(p.storm, p.cmd.Start())
	p.read = make(chan struct{})
	go func() {
		defer close(p.read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				p.storm.mu.Lock()
				p.acked[n] = true
				p.storm.mu.Unlock()
			}
		}
	}()
}

// Write receives the standard error of the processes.
func (s *storm) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err.Write(b)
}

// kill kills the process, and waits until its output was read.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.read
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// stopFor stops the process for a while, as a machine that swaps does.
func (p *process) stopFor(d time.Duration) {
	_ = p.cmd.Process.Signal(syscall.SIGSTOP)
	time.Sleep(d)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
}

// rage runs the storm. If a cluster is given, it is crashed too.
func (s *storm) rage(c *cluster) {
	s.Logf("-storm.seed=%d", *stormSeed)
	began := time.Now()
	s.inject()
	others, stopOthers := context.WithCancel(s.Context())
	var otherSellers sync.WaitGroup
	otherSellers.Go(func() {
		client := quickClient(s.server)
		random := rand.New(rand.NewPCG(*stormSeed, 2))
		for pause(others, 10*time.Millisecond) {
			_, _ = client.Stock.Change(others, []oakra.StockChange{{ID: firstItem + random.Int64N(stormItems), QuantityChange: -1}})
		}
	})
	var dispatchers, adders []*process
	for i := range 2 {
		adder := s.child
		adder.Role, adder.Adder, adder.Count = "add", i, *stormChanges/2
		adders = append(adders, s.start(adder))
		dispatcher := s.child
		dispatcher.Role = "dispatch"
		dispatchers = append(dispatchers, s.start(dispatcher))
	}
	finished := func() bool {
		if s.halted {
			return true
		}
		if *stormChanges == 0 {
			return time.Since(began) > *stormFor && s.kills+s.stops >= 4
		}
		return s.acked(adders) >= *stormChanges/2*2
	}
	nextCrash := time.Duration(0)
	for !finished() {
		s.awaitProgress(adders)
		if c != nil && time.Since(began) > nextCrash {
			s.crash(c)
			nextCrash = time.Since(began) + 10*time.Second
			continue
		}
		switch p := dispatchers[s.random.IntN(2)]; s.random.IntN(3) {
		case 0:
			p.kill()
			p.start()
			s.kills++
		case 1:
			p.stopFor(stormLease + time.Duration(s.random.IntN(600))*time.Millisecond)
			s.stops++
		case 2:
			p = adders[s.random.IntN(2)]
			p.kill()
			p.start()
			s.kills++
		}
	}
	for _, p := range s.children {
		p.kill()
	}
	stopOthers()
	otherSellers.Wait()
	s.server.ClearFaults()
	s.shop.db.SetMaxIdleConns(0) // drops idle connections that a crash broke
	s.shop.settle(s)
	s.check(adders, time.Since(began))
}

// awaitProgress waits a little, and then until changes were added and requests were sent
// since the last call. A slow machine then has a storm too.
func (s *storm) awaitProgress(adders []*process) {
	time.Sleep(time.Duration(s.random.IntN(300)) * time.Millisecond)
	more := int64(1 + s.random.IntN(8))
	for {
		status, err := s.shop.Status(s.Context())
		acked := s.acked(adders)
		if s.halted = status.Halted != ""; s.halted || acked == *stormChanges/2*2 && acked > 0 {
			return
		}
		if err == nil && acked > s.seenAcked && status.Requests >= s.seenRequests+more {
			s.seenAcked, s.seenRequests = acked, status.Requests
			return
		}
		require.True(s, pause(s.Context(), 20*time.Millisecond), "no progress")
	}
}

// crash crashes PostgreSQL and starts it again.
func (s *storm) crash(c *cluster) {
	var err error
	if s.random.IntN(2) == 0 {
		err = c.kill()
	} else {
		err = c.stop("immediate")
	}
	require.NoError(s, err)
	require.NoError(s, c.start())
	s.crashes++
}

func (s *storm) acked(adders []*process) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range adders {
		n += len(p.acked)
	}
	return n
}

// check compares the server with the recorded changes, and these with the plan.
func (s *storm) check(adders []*process, took time.Duration) {
	s.mu.Lock()
	said := s.err.String()
	s.mu.Unlock()
	want := make([]int64, stormItems)
	for i := range want {
		want[i] = stormStart
	}
	all, err := s.shop.List(s.Context(), outbox.Filter{Limit: 1 << 40})
	require.NoError(s, err)
	recorded := make(map[string]bool, len(all))
	for _, e := range all {
		require.Equal(s, outbox.StateApplied, e.State, "%s: %s\n%s", e.ID, e.Reason, said)
		recorded[e.ID] = true
		var adder, n, item int
		_, err := fmt.Sscanf(e.ID, "%d/%d", &adder, &n)
		require.NoError(s, err)
		require.Equal(s, planned(s.Seed, adder, n), e.Change)
		_, err = fmt.Sscanf(e.SKU, "shirt-%d", &item)
		require.NoError(s, err)
		want[item] += e.QuantityChange
	}
	for _, p := range adders {
		for n := range p.acked {
			if id := planned(s.Seed, p.Adder, n).ID; !recorded[id] {
				s.Fatalf("%s was acknowledged, and is lost", id)
			}
		}
	}
	s.checkOrders(recorded)
	sold := 0
	for _, r := range s.server.Requests() {
		if len(r.Applied) == 1 { // a change of the other seller
			want[r.Applied[0].ID-firstItem]--
			sold++
		}
	}
	for i := range want {
		require.Equal(s, want[i], s.shop.quantity(i), "item %d\n%s", i, said)
	}
	status := s.shop.status(s)
	require.Empty(s, status.Halted, said)
	require.Zero(s, status.Parked)
	require.Positive(s, len(all))
	s.Logf("%d changes, %d sold by others, %d kills, %d stops, %d crashes of the database in %.0f s: %d requests, %d unknown, %d taken back; 0 wrong, 0 parked, 0 halts",
		len(all), sold, s.kills, s.stops, s.crashes, took.Seconds(), status.Requests, status.Unknown, status.Compensated)
}

// checkOrders checks that each change that was added with an order has its order, and
// that each order has its change.
func (s *storm) checkOrders(recorded map[string]bool) {
	rows, err := s.shop.db.Query("SELECT id FROM orders")
	require.NoError(s, err)
	defer rows.Close()
	orders := make(map[string]bool)
	for rows.Next() {
		var id string
		require.NoError(s, rows.Scan(&id))
		if !recorded[id] {
			s.Fatalf("the order %s has no change", id)
		}
		orders[id] = true
	}
	require.NoError(s, rows.Err())
	for id := range recorded {
		_, number, _ := strings.Cut(id, "/")
		n, err := strconv.Atoi(number)
		require.NoError(s, err)
		if withOrder(n) && !orders[id] {
			s.Fatalf("the change %s has no order", id)
		}
	}
}
