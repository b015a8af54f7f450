package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// This file is the outbox that many shops write by hand: a table of what is to be sent,
// and workers that take a row each. On PostgreSQL a worker locks its row with FOR UPDATE
// SKIP LOCKED and keeps the transaction open during the request; on SQLite, which has one
// writer at a time, it claims the row for a minute.

type handTable struct {
	create []string
	insert string // one
	many   string
	claim  string // on SQLite
	failed string // the same
}

var handTables = map[string]handTable{
	onSQLite: {
		create: []string{
			`CREATE TABLE by_hand (id integer PRIMARY KEY, payload text NOT NULL, claimed integer NOT NULL DEFAULT 0, done integer)`,
			`CREATE INDEX by_hand_pending ON by_hand (id) WHERE done IS NULL`,
		},
		insert: `INSERT INTO by_hand (payload) VALUES ($1)`,
		many:   `INSERT INTO by_hand (payload) SELECT value FROM json_each($1)`,
		claim: `UPDATE by_hand SET claimed = unixepoch() + 60 WHERE id = (
			SELECT id FROM by_hand WHERE done IS NULL AND claimed <= unixepoch() ORDER BY id LIMIT 1) RETURNING id, payload`,
		failed: `UPDATE by_hand SET claimed = 0 WHERE id = $1`,
	},
	onPostgres: {
		create: []string{
			`CREATE TABLE by_hand (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb NOT NULL, done timestamptz)`,
			`CREATE INDEX by_hand_pending ON by_hand (id) WHERE done IS NULL`,
		},
		insert: `INSERT INTO by_hand (payload) VALUES ($1)`,
		many:   `INSERT INTO by_hand (payload) SELECT value FROM jsonb_array_elements($1::jsonb)`,
	},
}

// byHand is an outbox written by hand.
type byHand struct {
	handTable
	*database
	w *warehouse
}

func newByHand(ctx context.Context, d *database, w *warehouse, _ outbox.Options) (contender, error) {
	b := &byHand{handTables[d.engine], d, w}
	for _, statement := range b.create {
		if _, err := d.ExecContext(ctx, statement); err != nil {
			return contender{}, err
		}
	}
	return contender{name: nameByHand,
		addTx: func(ctx context.Context, tx *sql.Tx, changes ...outbox.Change) error {
			return b.add(ctx, tx.ExecContext, changes)
		},
		add: func(ctx context.Context, changes ...outbox.Change) error {
			return b.add(ctx, d.ExecContext, changes)
		},
		drain: b.drain,
	}, nil
}

func (b *byHand) add(ctx context.Context, exec func(context.Context, string, ...any) (sql.Result, error), changes []outbox.Change) error {
	query, what := b.many, any(changes)
	if len(changes) == 1 {
		query, what = b.insert, changes[0]
	}
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	_, err = exec(ctx, query, string(text))
	return err
}

// drain runs workers until every row is done.
func (b *byHand) drain(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for ctx.Err() == nil {
				switch found, err := b.work(ctx); {
				case err != nil:
					cancel(err)
				case found:
				case b.empty(ctx, cancel):
					return
				default: // others are at work, and may fail
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	working.Wait()
	return context.Cause(ctx)
}

func (b *byHand) empty(ctx context.Context, cancel context.CancelCauseFunc) bool {
	var pending bool
	if err := b.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM by_hand WHERE done IS NULL)").Scan(&pending); err != nil {
		cancel(err)
	}
	return !pending
}

// work sends one change. It reports whether it found one.
func (b *byHand) work(ctx context.Context) (found bool, err error) {
	if b.pool == nil {
		return b.workSQLite(ctx)
	}
	tx, err := b.pool.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	rows, err := tx.Query(ctx, "SELECT id, payload FROM by_hand WHERE done IS NULL ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED")
	if err != nil {
		return false, err
	}
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	var id int64
	var c outbox.Change
	if err := rows.Scan(&id, &c); err != nil {
		return false, err
	}
	rows.Close()
	if b.w.send(ctx, c) != nil {
		return true, nil // another worker tries it again
	}
	if _, err := tx.Exec(ctx, "UPDATE by_hand SET done = now() WHERE id = $1", id); err != nil {
		return true, err
	}
	return true, tx.Commit(ctx)
}

func (b *byHand) workSQLite(ctx context.Context) (found bool, err error) {
	var id int64
	var payload string
	err = b.QueryRowContext(ctx, b.claim).Scan(&id, &payload)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var c outbox.Change
	if err := json.Unmarshal([]byte(payload), &c); err != nil {
		return false, err
	}
	statement := "UPDATE by_hand SET done = unixepoch() WHERE id = $1"
	if b.w.send(ctx, c) != nil {
		statement = b.failed
	}
	_, err = b.ExecContext(ctx, statement, id)
	return true, err
}
