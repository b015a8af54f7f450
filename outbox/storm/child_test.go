//go:build unix

package storm_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/outbox"
)

// The processes of a storm run the test binary itself, each with a role.

// childEnv is the environment variable that makes the test binary a child.
const childEnv = "OAKRA_STORM_CHILD"

// child says what a process of a storm does.
type child struct {
	Role        string // "add" or "dispatch"
	Driver, DSN string
	URL, Key    string

	Seed  uint64
	Adder int
	From  int           // first change that was not acknowledged
	Count int           // number of changes of an adder; 0 means to go on until it is killed
	Pause time.Duration // average pause between two changes
}

const (
	stormItems  = 40
	stormStart  = 1_000_000 // opening quantity of each item
	adderCalls  = 4         // concurrent calls of each adder
	stormGrace  = 400 * time.Millisecond
	stormLease  = 300 * time.Millisecond
	stormWindow = 300 * time.Millisecond // RequestTimeout
)

func stormOptions() outbox.Options {
	return outbox.Options{
		Witnesses:      [2]oakra.StockKey{head, tail},
		BatchSize:      14,
		RequestTimeout: stormWindow,
		Grace:          stormGrace,
		Lease:          stormLease,
		Poll:           20 * time.Millisecond,
		OnHalt:         func(reason string) { fmt.Fprintln(os.Stderr, "HALTED:", reason) },
		OnParked:       func(e outbox.Entry) { fmt.Fprintln(os.Stderr, "PARKED:", e.ID, e.Reason) },
	}
}

// planned returns an adder's n-th change, which depends only on the seed.
func planned(seed uint64, adder, n int) outbox.Change {
	random := rand.New(rand.NewPCG(seed, uint64(adder)<<32|uint64(n)))
	units := random.Int64N(9) - 4
	if units >= 0 {
		units++
	}
	return sell(fmt.Sprintf("%d/%d", adder, n), random.IntN(stormItems), units)
}

// withOrder reports whether a change is added in the transaction of an order.
func withOrder(n int) bool { return n%3 == 0 }

func runChild(text string) int {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the child ends with its parent
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := c.run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", c.Role, err)
		return 1
	}
	return 0
}

func (c *child) run(ctx context.Context) error {
	db, err := sql.Open(c.Driver, c.DSN)
	if err != nil {
		return err
	}
	defer db.Close()
	var stock outbox.Stock
	if c.Role == "dispatch" {
		client, err := oakra.NewClient(c.Key, oakra.WithBaseURL(c.URL),
			oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}))
		if err != nil {
			return err
		}
		stock = client.Stock
	}
	var box *outbox.Outbox
	for { // the database may be down
		if box, err = outbox.New(ctx, db, stock, stormOptions()); err == nil {
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			return err
		}
	}
	if c.Role == "dispatch" {
		return box.Run(ctx)
	}
	c.add(ctx, db, box)
	return nil
}

// pause waits, and reports false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// add adds changes, and prints the number of each one once it is durable.
func (c *child) add(ctx context.Context, db *sql.DB, box *outbox.Outbox) {
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex
	var calls sync.WaitGroup
	for call := range adderCalls {
		calls.Go(func() {
			random := rand.New(rand.NewPCG(c.Seed, uint64(call)))
			for n := c.From + call; c.Count == 0 || n < c.Count; n += adderCalls {
				for c.addOne(ctx, db, box, n) != nil {
					if !pause(ctx, 20*time.Millisecond) { // it is not known whether the change was recorded, and it is added again
						return
					}
				}
				mu.Lock()
				fmt.Fprintln(out, n)
				_ = out.Flush()
				mu.Unlock()
				if !pause(ctx, time.Duration(random.Int64N(int64(2*c.Pause+1)))) {
					return
				}
			}
		})
	}
	calls.Wait()
}

func (c *child) addOne(ctx context.Context, db *sql.DB, box *outbox.Outbox, n int) error {
	change := planned(c.Seed, c.Adder, n)
	if !withOrder(n) {
		return box.Add(ctx, change)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO orders (id) VALUES ('%s') ON CONFLICT DO NOTHING", change.ID))
	if err == nil {
		err = box.AddTx(ctx, tx, change)
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
