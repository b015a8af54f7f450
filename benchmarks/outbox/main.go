// Outbox compares package outbox with River and with an outbox written by hand, on
// SQLite and on PostgreSQL, and measures how it scales. It prints tables, and writes
// results.json, the picture results.svg, and the tables of outbox/README.md. See
// README.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	small := flag.Bool("small", false, "measure little, in about a minute, and write nothing")
	draw := flag.Bool("draw", false, "measure nothing: write the tables and the picture of the results.json that is there")
	only := flag.String("only", "", "measure one thing, and write nothing: orders, adds, drain, storm, settled or accounts")
	on := flag.String("on", "", "measure on one database, SQLite or PostgreSQL, and keep the results of the other")
	seed := flag.Uint64("seed", 1, "decides which requests of the storm fail")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := full
	if *small {
		p = quick
	}
	p.only, p.on, p.seed = *only, *on, *seed
	err := run(ctx, p, *draw, !*small && *only == "")
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/outbox:", err)
		os.Exit(1)
	}
}

// run measures, or reads what was measured, and publishes it.
func run(ctx context.Context, p plan, draw, write bool) error {
	dir := moduleDir()
	if draw {
		r, err := readResults(filepath.Join(dir, "results.json"))
		if err != nil {
			return err
		}
		r.print(os.Stdout)
		return r.publish(dir)
	}
	if !write {
		r, err := p.measure(ctx, func(results) error { return nil })
		r.print(os.Stdout)
		return err
	}
	file := filepath.Join(dir, "results.json")
	r, err := p.measure(ctx, func(r results) error { return r.keep(file, p.on) })
	r.print(os.Stdout)
	if err != nil {
		return err
	}
	if r, err = readResults(file); err != nil {
		return err
	}
	return r.publish(dir)
}

// moduleDir is the directory of this module, seen from the root of the repository or
// from inside.
func moduleDir() string {
	if _, err := os.Stat("benchmarks/outbox/go.mod"); err == nil {
		return "benchmarks/outbox"
	}
	return "."
}

// plan is how much is measured.
type plan struct {
	only, on string
	seed     uint64

	orderRounds     int           // orders of each kind
	addRounds       int           // rounds of adding,
	addFor          time.Duration // each kind for so long
	drainRounds     int
	drained         int            // changes that this outbox drains
	drainedOneByOne map[string]int // changes that the others drain, by database
	stormRecords    int
	settled         []int // how many settled changes there are
	settledRounds   int
	settledAdd      int // changes that a round adds and drains
	accounts        []int
	accountRounds   int
	accountChanges  int // changes of each account
	idle            time.Duration
}

var full = plan{
	orderRounds: 3000,
	addRounds:   5, addFor: time.Second,
	drainRounds: 5, drained: 100_000, drainedOneByOne: map[string]int{onSQLite: 5000, onPostgres: 20_000},
	stormRecords: 2000,
	settled:      []int{0, 1_000_000, 5_000_000}, settledRounds: 7, settledAdd: 20_000,
	accounts: []int{1, 10, 100}, accountRounds: 3, accountChanges: 2000,
	idle: 10 * time.Second,
}

var quick = plan{
	orderRounds: 300,
	addRounds:   2, addFor: 300 * time.Millisecond,
	drainRounds: 2, drained: 20_000, drainedOneByOne: map[string]int{onSQLite: 500, onPostgres: 2000},
	stormRecords: 200,
	settled:      []int{0, 50_000}, settledRounds: 3, settledAdd: 2000,
	accounts: []int{1, 10}, accountRounds: 1, accountChanges: 500,
	idle: 2 * time.Second,
}

// measure measures everything on each database, and keeps the results after each.
func (p plan) measure(ctx context.Context, keep func(results) error) (results, error) {
	started := time.Now()
	log := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	r := results{Machine: thisMachine(), Versions: versions(), Seed: p.seed}
	for _, e := range engines {
		if p.on != "" && p.on != e.name {
			continue
		}
		if why := e.missing(); why != "" {
			log("LEFT OUT: %s, %s", e.name, why)
			r.LeftOut = append(r.LeftOut, e.name+": "+why)
			continue
		}
		one, err := p.measureOn(ctx, e, log)
		r.Databases = append(r.Databases, one)
		if err != nil {
			return r, fmt.Errorf("%s: %w", e.name, err)
		}
		if err := keep(r); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (p plan) measureOn(ctx context.Context, e engine, log func(string, ...any)) (r measured, err error) {
	h, err := newHost(ctx, e)
	if err != nil {
		return r, err
	}
	defer h.close(ctx)
	began := time.Now()
	r.Load = []string{loadAverage()}
	if r.Database, r.Version, err = e.name, h.version(ctx), nil; r.Version == "" {
		return r, fmt.Errorf("the database does not say its version")
	}
	for _, step := range []struct {
		name    string
		measure func() error
	}{
		{"orders", func() (err error) { r.Orders, err = p.measureOrders(ctx, h); return err }},
		{"adds", func() (err error) { r.Adds, err = p.measureAdds(ctx, h); return err }},
		{"drain", func() (err error) { r.Drains, err = p.measureDrains(ctx, h, log); return err }},
		{"storm", func() (err error) { r.Storms, err = p.measureStorms(ctx, h, log); return err }},
		{"settled", func() (err error) { r.Settled, err = p.measureSettled(ctx, h, log); return err }},
		{"accounts", func() (err error) { r.Accounts, err = p.measureAccounts(ctx, h); return err }},
	} {
		if p.only != "" && p.only != step.name {
			continue
		}
		if err := step.measure(); err != nil {
			return r, fmt.Errorf("%s: %w", step.name, err)
		}
		log("%s: %s", e.name, step.name)
	}
	r.Load = append(r.Load, loadAverage())
	r.Minutes = rounded(time.Since(began).Minutes())
	return r, nil
}
