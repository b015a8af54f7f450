package main

import (
	"context"
	"database/sql"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/oakra/oakra-go/outbox"
)

// riverChange is a job of River: a change.
type riverChange struct{ outbox.Change }

func (riverChange) Kind() string { return "stock_change" }

// riverWorker applies a change.
type riverWorker struct {
	river.WorkerDefaults[riverChange]
	w    *warehouse
	done *atomic.Int64
}

func (r *riverWorker) Work(ctx context.Context, job *river.Job[riverChange]) error {
	err := r.w.send(ctx, job.Args.Change)
	if err == nil {
		r.done.Add(1)
	}
	return err
}

// soon tries a failed job again soon, instead of a second later and more.
type soon struct{}

func (soon) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(20 * time.Millisecond) }

// newRiver makes a River. On PostgreSQL it works with its pgx driver, except in the
// caller's transaction, which is one of database/sql as for the others.
func newRiver(ctx context.Context, d *database, w *warehouse, _ outbox.Options) (contender, error) {
	var added, done atomic.Int64
	config := func() *river.Config {
		all := river.NewWorkers()
		river.AddWorker(all, &riverWorker{w: w, done: &done})
		return &river.Config{
			Workers: all,
			Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
			// By default it fetches ten times a second, so 100 workers would do 1,000 jobs a second at most.
			FetchCooldown: 5 * time.Millisecond,
			RetryPolicy:   soon{},
			Logger:        slog.New(slog.DiscardHandler),
		}
	}
	var addTx func(ctx context.Context, tx *sql.Tx, changes ...outbox.Change) error
	var add func(ctx context.Context, changes ...outbox.Change) error
	var start, stop func(ctx context.Context) error
	if d.pool == nil {
		client, err := riverClient(ctx, riversqlite.New(d.DB), config())
		if err != nil {
			return contender{}, err
		}
		addTx, add, start, stop = inserterTx(client), inserter(client), client.Start, client.Stop
	} else {
		client, err := riverClient(ctx, riverpgxv5.New(d.pool), config())
		if err != nil {
			return contender{}, err
		}
		inserting, err := river.NewClient(riverdatabasesql.New(d.DB), &river.Config{Logger: config().Logger})
		if err != nil {
			return contender{}, err
		}
		addTx, add, start, stop = inserterTx(inserting), inserter(client), client.Start, client.Stop
	}
	return contender{name: nameRiver, addTx: addTx,
		add: func(ctx context.Context, changes ...outbox.Change) error {
			added.Add(int64(len(changes)))
			return add(ctx, changes...)
		},
		drain: func(ctx context.Context) error {
			if err := start(ctx); err != nil {
				return err
			}
			for done.Load() < added.Load() && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			if err := stop(ctx); err != nil { // which records what is done
				return err
			}
			return ctx.Err()
		},
	}, nil
}

// riverClient makes a client and River's tables.
func riverClient[TTx any](ctx context.Context, driver riverdriver.Driver[TTx], config *river.Config) (*river.Client[TTx], error) {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: config.Logger})
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	return river.NewClient(driver, config)
}

func inserterTx[TTx any](client *river.Client[TTx]) func(ctx context.Context, tx TTx, changes ...outbox.Change) error {
	return func(ctx context.Context, tx TTx, changes ...outbox.Change) error {
		if len(changes) == 1 {
			_, err := client.InsertTx(ctx, tx, riverChange{changes[0]}, nil)
			return err
		}
		_, err := client.InsertManyFastTx(ctx, tx, jobs(changes))
		return err
	}
}

func inserter[TTx any](client *river.Client[TTx]) func(ctx context.Context, changes ...outbox.Change) error {
	return func(ctx context.Context, changes ...outbox.Change) error {
		if len(changes) == 1 {
			_, err := client.Insert(ctx, riverChange{changes[0]}, nil)
			return err
		}
		_, err := client.InsertManyFast(ctx, jobs(changes))
		return err
	}
}

func jobs(changes []outbox.Change) []river.InsertManyParams {
	all := make([]river.InsertManyParams, len(changes))
	for i, c := range changes {
		all[i] = river.InsertManyParams{Args: riverChange{c}}
	}
	return all
}
