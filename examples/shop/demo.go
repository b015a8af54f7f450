package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/oakra/oakra-go/oakratest"
	"github.com/oakra/oakra-go/outbox"
)

// config is what the command line says.
type config struct {
	database string // a PostgreSQL URL; "" is a SQLite file
	length   time.Duration
	kills    int
	seed     uint64
	keep     bool
}

// demo is one run of the demonstration.
type demo struct {
	config
	out      io.Writer
	began    time.Time
	name     string // name of the database
	password string // password of the shop's staff
	server   *oakratest.Server
	shop     *process
	buyers   customers
	stopping chan struct{} // closed when no new orders are to be placed
}

// demonstrate runs everything, and returns an error unless orders and stock agree.
func demonstrate(ctx context.Context, c config, out io.Writer) (err error) {
	name, remove, err := newDatabase(ctx, c.database)
	if err != nil {
		return err
	}
	if c.keep {
		remove = func() error { return nil }
	}
	defer func() { err = errors.Join(err, remove()) }()
	d := &demo{config: c, out: out, began: time.Now(), name: name, password: newPassword(), stopping: make(chan struct{})}
	d.buyers.seen = make(map[string]bool)
	d.server = oakratest.NewServer(opening()...)
	defer d.server.Close()
	d.server.SetLatency(20*time.Millisecond, 0)

	fmt.Fprintf(out, "seed %d; the database is %s\n", c.seed, d.kind())
	if err := d.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "the staff looks after the outbox at %s/admin/outbox/ with any name and the password %s\n", d.shop.address, d.password)
	defer func() { err = errors.Join(err, d.shop.stop()) }()
	if err := d.trade(ctx); err != nil {
		return err
	}
	last, err := d.settle(ctx)
	if err != nil {
		return err
	}
	if err := d.shop.stop(); err != nil {
		return fmt.Errorf("the shop ended with an error: %w", err)
	}
	d.server.Close() // nothing lands after this
	if err := d.compare(ctx, last); err != nil {
		return err
	}
	if c.keep && c.database == "" {
		fmt.Fprintf(out, "\nThe database is kept: go run ./cmd/stockctl outbox list --db sqlite:%s\n", name)
	}
	return nil
}

func (d *demo) kind() string {
	if d.database == "" {
		return "the SQLite file " + d.name
	}
	return "a new schema in the PostgreSQL of DATABASE_URL"
}

// start starts the shop.
func (d *demo) start(ctx context.Context) error {
	p, err := startShop(ctx, d.name, d.password, d.server)
	if err != nil {
		return err
	}
	d.shop = p
	d.buyers.address.Store(p.address)
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%6.1f s  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

// trade lets customers buy while everything fails.
func (d *demo) trade(ctx context.Context) error {
	tillCtx, closeTill := context.WithCancel(ctx)
	defer closeTill()
	buyCtx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	storm(d.server, d.seed)
	var running sync.WaitGroup
	running.Go(func() { till(tillCtx, d.server.Client(), d.seed) })
	for i := range 8 {
		running.Go(func() {
			d.buyers.buy(buyCtx, d.stopping, fmt.Sprintf("c%d", i+1), rand.New(rand.NewPCG(d.seed, uint64(i))))
		})
	}
	d.say("8 customers buy, a till elsewhere sells the same items, and a fifth of the requests to Oakra fail")
	fmt.Fprintf(d.out, "%10s%s\n", "", statusHeader)
	err := d.play(ctx)
	close(d.stopping)
	closeTill()
	timer := time.AfterFunc(20*time.Second, func() { giveUp(errors.New("the shop does not confirm the last orders")) })
	defer timer.Stop()
	running.Wait()
	if err == nil {
		err = context.Cause(buyCtx)
	}
	return err
}

// step is something that happens at a time.
type step struct {
	at time.Duration
	do func(ctx context.Context) error
}

// play does what is planned for the time of the trade, and prints the status every
// second.
func (d *demo) play(ctx context.Context) error {
	random := rand.New(rand.NewPCG(d.seed, 2000))
	steps := []step{
		{d.length * 40 / 100, func(context.Context) error {
			d.say("Oakra is down; the shop goes on selling")
			outage(d.server)
			return nil
		}},
		{d.length * 55 / 100, func(context.Context) error {
			d.say("Oakra is up again")
			d.server.ClearFaults()
			storm(d.server, d.seed+1)
			return nil
		}},
		{d.length, nil},
	}
	for i := range d.kills {
		at := d.length * time.Duration(i+1) / time.Duration(d.kills+1)
		steps = append(steps, step{at + time.Duration(random.Int64N(int64(d.length)/20+1)), d.killAndStart})
	}
	for second := time.Second; second < d.length; second += time.Second {
		steps = append(steps, step{second, d.printStatus})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	for _, s := range steps {
		sleep(ctx, time.Until(d.began.Add(s.at)))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.do == nil {
			return nil
		}
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// killAndStart kills the shop, while a write to Oakra is under way if there is one
// soon, and starts it again.
func (d *demo) killAndStart(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = d.server.Wait(soon, "stock.change")
	if err := d.shop.kill(); err != nil {
		return err
	}
	d.say("kill -9 of the shop")
	err := d.start(ctx)
	if err == nil {
		d.say("the shop is started again, at %s", d.shop.address)
	}
	return err
}

const statusHeader = "orders  pending  open attempts  requests  unknown  counted twice, taken back"

// printStatus prints a line. A shop that was killed just now has none.
func (d *demo) printStatus(ctx context.Context) error {
	if s, ok := d.status(ctx); ok {
		d.say("%6d  %7d  %13d  %8d  %7d  %d", d.buyers.placed.Load(), s.Pending, s.OpenAttempts, s.Requests, s.Unknown, s.Compensated)
	}
	return nil
}

func (d *demo) status(ctx context.Context) (s outbox.Status, ok bool) {
	code, body := d.buyers.ask(ctx, http.MethodGet, "/status", nil)
	return s, code == http.StatusOK && json.Unmarshal(body, &s) == nil
}

// settle waits until nothing is pending, and nothing can land any more.
func (d *demo) settle(ctx context.Context) (outbox.Status, error) {
	d.say("the shop and the till close; waiting until nothing is pending and nothing can land any more")
	d.server.ClearFaults()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for n := 1; ; n++ {
		s, ok := d.status(ctx)
		switch {
		case ok && s.Halted != "":
			return s, fmt.Errorf("the outbox halted: %s", s.Halted)
		case ok && s.Parked > 0:
			return s, fmt.Errorf("%d changes are parked", s.Parked)
		case ok && s.Pending == 0 && s.OpenAttempts == 0:
			return s, d.printStatus(ctx)
		case ctx.Err() != nil:
			return s, fmt.Errorf("%d changes are pending and %d attempts open: %w", s.Pending, s.OpenAttempts, ctx.Err())
		case n%10 == 0:
			_ = d.printStatus(ctx)
		}
		sleep(ctx, 200*time.Millisecond)
	}
}

// compare prints for each item what should be there and what is there.
func (d *demo) compare(ctx context.Context, last outbox.Status) error {
	orders, err := readOrders(ctx, d.name)
	if err != nil {
		return err
	}
	lost := 0
	for id := range d.buyers.seen {
		if !orders.orders[id] {
			lost++
		}
	}
	elsewhere := soldElsewhere(d.server)
	fmt.Fprintln(d.out)
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "item\tat first\tin orders\tat the till\tshould be\tOakra has\t")
	wrong := 0
	for _, r := range opening()[2:] {
		want := r.Quantity - orders.units[r.SKU] - elsewhere[r.ID]
		have := d.server.Quantity(r.ID)
		mark := ""
		if want != have {
			wrong++
			mark = "  WRONG"
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%s\n", r.SKU, r.Quantity, orders.units[r.SKU], elsewhere[r.ID], want, have, mark)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%d orders in %d requests: %d had an unknown outcome, %d counted twice and were taken back.\n",
		len(orders.orders), last.Requests, last.Unknown, last.Compensated)
	fmt.Fprintf(d.out, "Kills: %d. Confirmed orders lost: %d. Quantities wrong: %d of %d.\n", d.kills, lost, wrong, len(opening())-2)
	if lost > 0 || wrong > 0 {
		return errors.New("orders and stock do not agree")
	}
	return nil
}
