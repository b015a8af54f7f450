package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
)

// databaseTimeout bounds a transaction of the outbox's own.
const databaseTimeout = time.Minute

// errFenced is the error of a transaction of a process that no longer dispatches,
// because another one took over or the outbox halted.
var errFenced = errors.New("another process dispatches, or the outbox is halted")

// The states of a change in its table.
const (
	changePending = iota
	changeSent
	changeApplied
	changeParked
	changeDropped
)

var stateNames = [...]State{StatePending, StateSent, StateApplied, StateParked, StateDropped}

// The states of an attempt in its table.
var attemptStates = map[writeKind]int{writeLanded: 1, writeUnsent: 2, writeForget: 3}

// noteUnknownKey is the reason for parking a change whose SKU and location Oakra does not
// have. The change is released when they appear.
const noteUnknownKey = "not known: Oakra has no stock record of this SKU and location"

// noteHalf marks a request that is half of another one. If both halves land, the whole
// one was too large.
const noteHalf = "half"

// querier is *sql.DB, *sql.Tx or *sql.Conn.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (o *Outbox) exec(ctx context.Context, q querier, statement string, args ...any) (int64, error) {
	result, err := q.ExecContext(ctx, o.dialect.sql(statement), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (o *Outbox) row(ctx context.Context, q querier, statement string, args ...any) *sql.Row {
	return q.QueryRowContext(ctx, o.dialect.sql(statement), args...)
}

// each calls scan for each row.
func (o *Outbox) each(ctx context.Context, q querier, scan func(rows *sql.Rows) error, statement string, args ...any) error {
	rows, err := q.QueryContext(ctx, o.dialect.sql(statement), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// numbers returns the numbers that a statement selects or returns.
func (o *Outbox) numbers(ctx context.Context, q querier, statement string, args ...any) (all []int64, err error) {
	err = o.each(ctx, q, func(rows *sql.Rows) error {
		var n int64
		err := rows.Scan(&n)
		all = append(all, n)
		return err
	}, statement, args...)
	return all, err
}

// asJSON returns rows as a parameter for {numbers $1} and the like.
func asJSON[T any](rows []T) string {
	if len(rows) == 0 {
		return "[]" // a nil slice would be null
	}
	text, err := json.Marshal(rows)
	if err != nil {
		panic(err) // encoding numbers and texts cannot fail
	}
	return string(text)
}

// keyRow is a key, and optionally a record, as {keys $1} reads it.
type keyRow struct {
	SKU        string `json:"sku"`
	LocationID string `json:"location_id"`
	ID         int64  `json:"id"`
}

func keyRows(keys []oakra.StockKey, record func(oakra.StockKey) int64) []keyRow {
	rows := make([]keyRow, len(keys))
	for i, key := range keys {
		rows[i] = keyRow{SKU: key.SKU, LocationID: key.LocationID}
		if record != nil {
			rows[i].ID = record(key)
		}
	}
	return rows
}

// transact runs do in a transaction, whose first statement should be a write.
func (o *Outbox) transact(ctx context.Context, do func(tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	tx, err := o.db.BeginTx(ctx, o.dialect.options)
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx.Commit()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// fenced runs do in a transaction that fails if another process took over. It renews
// the lease, saves the ledger's numbers, and returns the database's time.
func (r *runner) fenced(ctx context.Context, l *ledger, do func(tx *sql.Tx, now instant) error) (now instant, err error) {
	o := r.Outbox
	err = o.transact(ctx, func(tx *sql.Tx) error {
		err := o.row(ctx, tx, `UPDATE oakra_outbox_account SET until = {now} + $3,
			head = $4, tail = $5, last_code = $6, last_id = $7, halted = $8, halted_at = CASE WHEN $9 = 1 THEN {now} ELSE halted_at END,
			requests = $10, unknown = $11, compensated = $12, rejected = $13
			WHERE name = $1 AND epoch = $2 AND halted = '' RETURNING {now}`,
			o.options.Name, r.epoch, o.options.Lease.Milliseconds(), l.head, l.tail, l.code, l.lastID, l.halted, truth(l.halted != ""),
			l.counts.requests, l.counts.unknown, l.counts.compensated, l.counts.rejected).Scan(&now)
		if errors.Is(err, sql.ErrNoRows) {
			return errFenced
		}
		if err != nil {
			return err
		}
		return do(tx, now)
	})
	if err == nil {
		r.seen(now)
	}
	return now, err
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// insertAccount creates the row of an account.
const insertAccount = "INSERT INTO oakra_outbox_account (name) SELECT CAST($1 AS text) WHERE true"

// errWitnesses is the error of a process that does not know the account's witnesses.
var errWitnesses = errors.New("another process named other witnesses for this account: start this one with them")

// lead takes over dispatching if no process dispatches, or continues it after a database
// error, and loads the ledger. It returns false if another process dispatches or the
// outbox is halted.
func (r *runner) lead(ctx context.Context) (e event, ok bool, err error) {
	o := r.Outbox
	e.kind = eventLed
	err = o.transact(ctx, func(tx *sql.Tx) error {
		l := &e.ledger
		var head, tail oakra.StockKey
		if o.rules.blind { // New created no row
			_, err := o.exec(ctx, tx, insertAccount+" AND EXISTS (SELECT 1 FROM oakra_outbox_change WHERE name = $1 AND state = 0) ON CONFLICT (name) DO NOTHING", o.options.Name)
			if err != nil {
				return err
			}
		}
		err := o.row(ctx, tx, `UPDATE oakra_outbox_account SET until = {now} + $4, owner = $2,
			epoch = epoch + CASE WHEN owner = $2 AND epoch = $3 THEN 0 ELSE 1 END
			WHERE name = $1 AND halted = '' AND (until < {now} OR owner = $2 AND epoch = $3)
			RETURNING epoch, {now}, head, tail, last_code, last_id, requests, unknown, compensated, rejected, head_sku, head_location, tail_sku, tail_location`,
			o.options.Name, r.owner, r.epoch, o.options.Lease.Milliseconds()).
			Scan(&r.epoch, &e.now, &l.head, &l.tail, &l.code, &l.lastID, &l.counts.requests, &l.counts.unknown, &l.counts.compensated, &l.counts.rejected,
				&head.SKU, &head.LocationID, &tail.SKU, &tail.LocationID)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return errFenced
		case err != nil:
			return err
		case o.witnesses != [2]oakra.StockKey{head, tail}:
			return errWitnesses
		}
		if e.ledger.requests, err = o.loadRequests(ctx, tx); err != nil {
			return err
		}
		return o.row(ctx, tx, "SELECT EXISTS (SELECT 1 FROM oakra_outbox_change WHERE name = $1 AND state = 0)", o.options.Name).Scan(&e.pending)
	})
	if errors.Is(err, errFenced) {
		return e, false, nil
	}
	if err == nil {
		r.seen(e.now)
	}
	return e, err == nil, err
}

// loadRequests returns the requests that are not settled or have an open attempt.
func (o *Outbox) loadRequests(ctx context.Context, tx *sql.Tx) (all []request, err error) {
	err = o.each(ctx, tx, func(rows *sql.Rows) error {
		var q request
		err := rows.Scan(&q.id, &q.state, &q.tried)
		all = append(all, q)
		return err
	}, `SELECT id, state, tried FROM oakra_outbox_request WHERE name = $1 AND state < 2
		UNION SELECT r.id, r.state, r.tried FROM oakra_outbox_attempt a JOIN oakra_outbox_request r ON r.name = a.name AND r.id = a.request
		WHERE a.name = $1 AND a.state = 0 ORDER BY id`, o.options.Name)
	if err != nil {
		return nil, err
	}
	return all, o.each(ctx, tx, func(rows *sql.Rows) error {
		var a attempt
		var of int64
		if err := rows.Scan(&a.id, &of, &a.code, &a.sign, &a.deadline, &a.grace); err != nil {
			return err
		}
		for i := range all {
			if all[i].id == of {
				all[i].open = append(all[i].open, a)
			}
		}
		return nil
	}, "SELECT id, request, code, sign, deadline, grace FROM oakra_outbox_attempt WHERE name = $1 AND state = 0 ORDER BY id", o.options.Name)
}

// save commits a decision, that is, the numbers of its ledger and its writes. In the same
// transaction it reads the items to send.
func (r *runner) save(ctx context.Context, d dispatcher, p plan) (now instant, err error) {
	return r.fenced(ctx, &d.ledger, func(tx *sql.Tx, now instant) error {
		for _, w := range p.writes {
			if err := r.write(ctx, tx, now, w); err != nil {
				return fmt.Errorf("request %d: %w", w.request, err)
			}
		}
		if p.task != taskSend {
			return nil
		}
		items, err := r.body(ctx, tx, p.request)
		r.sent = sending{attempt: p.attempt, items: items}
		return err
	})
}

// write carries out one write of a plan.
func (r *runner) write(ctx context.Context, tx *sql.Tx, now instant, w write) error {
	o, name := r.Outbox, r.options.Name
	switch w.kind {
	case writeOpen: // row 2
		a := w.attempt
		_, err := o.exec(ctx, tx, "INSERT INTO oakra_outbox_attempt (name, id, request, code, sign, deadline, grace, added) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			name, a.id, w.request, a.code, a.sign, now+r.rules.timeout, a.grace, now)
		if err != nil {
			return err
		}
		_, err = o.exec(ctx, tx, "UPDATE oakra_outbox_request SET state = 1, tried = $3 WHERE name = $1 AND id = $2", name, w.request, a.id)
		return err
	case writeLanded, writeUnsent, writeForget:
		_, err := o.exec(ctx, tx, "UPDATE oakra_outbox_attempt SET state = $3, settled = $4 WHERE name = $1 AND id = $2 AND state = 0",
			name, w.attempt.id, attemptStates[w.kind], now)
		return err
	case writeQueued:
		_, err := o.exec(ctx, tx, "UPDATE oakra_outbox_request SET state = 0 WHERE name = $1 AND id = $2 AND state = 1", name, w.request)
		return err
	case writeApplied: // row 3
		return r.writeApplied(ctx, tx, now, w.request)
	case writeUndo: // row 4
		_, err := o.exec(ctx, tx, "INSERT INTO oakra_outbox_request (name, id, undoes, added) VALUES ($1, $2, $3, $4)", name, w.request, w.undoes, now)
		if err != nil {
			return err
		}
		_, err = o.exec(ctx, tx, `INSERT INTO oakra_outbox_item (name, request, sku, location_id, record, delta)
			SELECT name, $2, sku, location_id, record, -delta FROM oakra_outbox_item WHERE name = $1 AND request = $3`, name, w.request, w.undoes)
		return err
	}
	panic("a write of no kind")
}

func (r *runner) writeApplied(ctx context.Context, tx *sql.Tx, now instant, id int64) error {
	o, name := r.Outbox, r.options.Name
	var partOf int64
	var note string
	err := o.row(ctx, tx, "UPDATE oakra_outbox_request SET state = 2, settled = $3 WHERE name = $1 AND id = $2 RETURNING part_of, note", name, id, now).
		Scan(&partOf, &note)
	if err != nil {
		return err
	}
	_, err = o.exec(ctx, tx, "UPDATE oakra_outbox_change SET state = 2, settled = $3, note = '' WHERE name = $1 AND request = $2 AND state = 1", name, id, now)
	if err != nil {
		return err
	}
	if _, err := o.exec(ctx, tx, "UPDATE oakra_outbox_account SET last_settled = $2 WHERE name = $1", name, now); err != nil {
		return err
	}
	if note != noteHalf {
		return nil
	}
	return r.noticeLimit(ctx, tx, now, partOf)
}

// body returns the items of a request, sorted and summed by record, because two keys may
// name the same record after it was renamed.
func (r *runner) body(ctx context.Context, tx *sql.Tx, id int64) (items []item, err error) {
	err = r.each(ctx, tx, func(rows *sql.Rows) error {
		var key oakra.StockKey
		var record, delta int64
		if err := rows.Scan(&key.SKU, &key.LocationID, &record, &delta); err != nil {
			return err
		}
		if n := len(items); n == 0 || items[n-1].record != record {
			items = append(items, item{record: record})
		}
		last := &items[len(items)-1]
		last.delta += delta
		last.keys = append(last.keys, key)
		return nil
	}, "SELECT sku, location_id, record, delta FROM oakra_outbox_item WHERE name = $1 AND request = $2 ORDER BY record, sku, location_id", r.options.Name, id)
	return items, err
}

// item is a record of a request, with the keys by which the shop knows it.
type item struct {
	record, delta int64
	keys          []oakra.StockKey
}

// park parks the changes that a condition selects, and returns their seqs. The
// condition's parameters begin at $3.
func (o *Outbox) park(ctx context.Context, tx *sql.Tx, now instant, who, note, condition string, args ...any) ([]int64, error) {
	seqs, err := o.numbers(ctx, tx, "UPDATE oakra_outbox_change SET state = 3, note = $2, settled = NULL WHERE name = $1 AND "+condition+" RETURNING seq",
		append([]any{o.options.Name, note}, args...)...)
	if err != nil || len(seqs) == 0 {
		return nil, err
	}
	return seqs, o.logEvents(ctx, tx, now, who, "parked", note, seqs)
}

// logEvents adds an event to the history of each of the changes. As their parking begins
// or ends with it, [Outbox.countParked] counts again.
func (o *Outbox) logEvents(ctx context.Context, tx *sql.Tx, now instant, who, action, note string, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	_, err := o.exec(ctx, tx, "UPDATE oakra_outbox_account SET parkings = parkings + 1 WHERE name = $1", o.options.Name)
	if err != nil {
		return err
	}
	_, err = o.exec(ctx, tx, `INSERT INTO oakra_outbox_event (name, change, at, who, action, note)
		SELECT CAST($1 AS text), n, CAST($2 AS bigint), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text) FROM {numbers $6}`,
		o.options.Name, now, who, action, note, asJSON(seqs))
	return err
}
