package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// addRate is how many changes become durable in a second.
type addRate struct {
	Name      string  `json:"name"`
	Calls     int     `json:"changes_a_call"`
	PerSecond float64 `json:"per_second"`    // the median
	ToOne     spread  `json:"to_one_by_one"` // ratio to a transaction of this outbox for each change, in the same round
}

const (
	callers  = 256
	manyCall = 20
)

// nameOneByOne is a transaction for each call, with AddTx in it.
const nameOneByOne = "AddTx in a transaction for each call"

// measureAdds lets 256 callers record changes at once.
func (p plan) measureAdds(ctx context.Context, h *host) ([]addRate, error) {
	d, err := h.fresh(ctx)
	if err != nil {
		return nil, err
	}
	defer d.close()
	w, err := newWarehouse(1000, "")
	if err != nil {
		return nil, err
	}
	defer w.Close()
	all, err := contenders(ctx, d, w, outbox.Options{})
	if err != nil {
		return nil, err
	}
	own := all[0]
	oneByOne := contender{name: nameOneByOne, add: func(ctx context.Context, changes ...outbox.Change) error {
		tx, err := d.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if err := own.addTx(ctx, tx, changes...); err != nil {
			return err
		}
		return tx.Commit()
	}}
	all = append([]contender{oneByOne}, all...)
	var numbers atomic.Int64
	took := make([]timing, 2*len(all)) // time of one change
	err = rounds(p.addRounds, len(took), func(i int) (time.Duration, error) {
		c, size := all[i/2], 1
		if i%2 == 1 {
			size = manyCall
		}
		n, seconds, err := addFor(ctx, p.addFor, func() error {
			from := int(numbers.Add(int64(size))) - size
			return c.add(ctx, sales(from, size, 1000)...)
		})
		if err != nil {
			return 0, fmt.Errorf("%s: %w", c.name, err)
		}
		return time.Duration(seconds / float64(n*size) * float64(time.Second)), nil
	}, took)
	if err != nil {
		return nil, err
	}
	var rates []addRate
	for i := range took {
		r := addRate{Name: all[i/2].name, Calls: 1, PerSecond: rounded(1 / spreadOf(took[i]).P50), ToOne: spreadOf(took[0].over(took[i]))}
		if i%2 == 1 {
			r.Calls = manyCall
		}
		rates = append(rates, r)
	}
	return rates, nil
}

// addFor lets the callers call for a while. It returns how many calls returned and how
// long they took.
func addFor(ctx context.Context, d time.Duration, call func() error) (calls int, seconds float64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	var done atomic.Int64
	var adding sync.WaitGroup
	for range callers {
		adding.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				if err := call(); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	adding.Wait()
	return int(done.Load()), time.Since(began).Seconds(), context.Cause(ctx)
}
