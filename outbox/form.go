package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oakra/oakra-go"
)

// This file puts pending changes into requests, and finds the records that they name.

const (
	// window is the number of pending changes that are considered for one request.
	// It also bounds the sum of a record's changes, to 2^57.
	window = 100_000
	// lookAgain is the time between the two lookups of a key that Oakra does not
	// have. Its changes are parked only after the second one, because a list may
	// lack a record for a moment.
	lookAgain = 10 * time.Second
	// lookUnknown is how often the keys of parked changes are looked up again.
	lookUnknown = time.Hour
	// limitFor is how long a smaller batch size is kept.
	limitFor = time.Hour
	// careEvery is how often old rows are deleted and parked keys looked up.
	careEvery = time.Minute
	// careBatch is how many rows are checked or deleted at a time.
	careBatch = 500
)

// form puts pending changes into the request with the given ID (row 1).
func (r *runner) form(ctx context.Context, id int64) (event, error) {
	kept := context.WithoutCancel(ctx)
	keys, last, err := r.pendingKeys(kept)
	if err != nil {
		return event{}, err
	}
	if len(keys) == 0 {
		return event{kind: eventFormed, pending: len(r.held) > 0}, nil
	}
	records, err := r.resolveKeys(ctx, keys)
	switch {
	case errors.Is(err, errLookup):
		return r.failure(ctx, event{kind: eventFailed}, "looking up stock records", err), nil
	case err != nil:
		return event{}, err
	case len(records) == 0: // all changes were parked, or have to wait
		return r.beat(kept)
	}
	formed, err := r.freeze(kept, id, records, last)
	if err != nil || !formed {
		return event{kind: eventWoken, pending: true}, err
	}
	return event{kind: eventFormed, request: id}, nil
}

// known is what the table of records says about a key.
type known struct {
	id     sql.NullInt64 // id of the record; 0 if Oakra did not have the key
	looked sql.NullInt64
}

// pendingKeys returns the keys that have waited longest, as many as fit into a request,
// and the newest change that may go with them. It leaves out keys that have to be looked
// up again later.
func (r *runner) pendingKeys(ctx context.Context) (keys map[oakra.StockKey]known, last int64, err error) {
	size, err := r.batchSize(ctx)
	if err != nil {
		return nil, 0, err
	}
	maps.DeleteFunc(r.held, func(_ oakra.StockKey, until instant) bool { return until <= r.now() })
	keys = make(map[oakra.StockKey]known)
	err = r.each(ctx, r.db, func(rows *sql.Rows) error {
		var key oakra.StockKey
		var k known
		err := rows.Scan(&key.SKU, &key.LocationID, &k.id, &k.looked, &last)
		keys[key] = k
		return err
	}, `WITH pending AS MATERIALIZED (
			SELECT seq, sku, location_id FROM oakra_outbox_change WHERE name = $1 AND state = 0 ORDER BY seq LIMIT $2),
		oldest AS MATERIALIZED (
			SELECT sku, location_id, min(seq) AS first FROM pending
			WHERE (sku, location_id) NOT IN (SELECT k.sku, k.location_id FROM {keys $4})
			GROUP BY sku, location_id ORDER BY min(seq) LIMIT $3)
		SELECT o.sku, o.location_id, r.id, r.looked, (SELECT max(seq) FROM pending)
		FROM oldest o LEFT JOIN oakra_outbox_record r ON r.name = $1 AND r.sku = o.sku AND r.location_id = o.location_id`,
		r.options.Name, window, size-r.options.reserved(), asJSON(keyRows(slices.Collect(maps.Keys(r.held)), nil)))
	return keys, last, err
}

// batchSize returns how many records a request may have now.
func (o *Outbox) batchSize(ctx context.Context) (int, error) {
	var limit int
	err := o.row(ctx, o.db, "SELECT coalesce(max(batch), 0) FROM oakra_outbox_account WHERE name = $1 AND batch_until > {now}", o.options.Name).Scan(&limit)
	if limit == 0 {
		limit = o.options.BatchSize
	}
	return max(min(limit, o.options.BatchSize), 1+o.options.reserved()), err
}

// limitBatch makes requests smaller for a while.
func (r *runner) limitBatch(ctx context.Context, tx *sql.Tx, now instant, items int) error {
	_, err := r.exec(ctx, tx, "UPDATE oakra_outbox_account SET batch = $2, batch_until = $3 WHERE name = $1 AND (batch > $2 OR batch_until <= $4)",
		r.options.Name, max(items, 1)+r.options.reserved(), now+limitFor.Milliseconds(), now)
	return err
}

// noticeLimit makes requests smaller if both halves of a rejected request were applied,
// because its size was then at fault.
func (r *runner) noticeLimit(ctx context.Context, tx *sql.Tx, now instant, whole int64) error {
	var unapplied, larger int
	err := r.row(ctx, tx, `SELECT count(CASE WHEN q.state <> 2 THEN 1 END),
		max((SELECT count(*) FROM oakra_outbox_item i WHERE i.name = q.name AND i.request = q.id))
		FROM oakra_outbox_request q WHERE q.name = $1 AND q.part_of = $2`, r.options.Name, whole).Scan(&unapplied, &larger)
	if err != nil || unapplied > 0 {
		return err
	}
	return r.limitBatch(ctx, tx, now, larger)
}

// errLookup is matched by errors of Oakra, but not by those of the database.
var errLookup = errors.New("lookup")

// resolveKeys returns the record of each key. The changes of a key that two reads did
// not find, the second one lookAgain after the first, are parked.
func (r *runner) resolveKeys(ctx context.Context, keys map[oakra.StockKey]known) (map[oakra.StockKey]int64, error) {
	kept := context.WithoutCancel(ctx)
	records := make(map[oakra.StockKey]int64)
	notes := make(map[oakra.StockKey]string)
	var missing []oakra.StockKey
	for key, k := range keys {
		switch {
		case slices.Contains(r.witnesses[:], key):
			notes[key] = noteWitness
		case k.id.Int64 != 0:
			records[key] = k.id.Int64
		case k.looked.Valid && k.looked.Int64 > r.now()-lookAgain.Milliseconds():
			r.held[key] = k.looked.Int64 + lookAgain.Milliseconds()
		default:
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		found, refused, err := r.lookupEach(ctx, missing)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errLookup, err)
		}
		var looked []oakra.StockKey // keys that were looked up successfully, with or without a record
		for _, key := range missing {
			record, ok := found[key]
			switch note, bad := refused[key]; {
			case bad:
				notes[key] = note
				continue
			case !ok && keys[key].looked.Valid:
				notes[key] = noteUnknownKey
			case !ok:
				r.held[key] = r.now() + lookAgain.Milliseconds()
			default:
				records[key] = record.ID
			}
			looked = append(looked, key)
		}
		if err := r.remember(kept, looked, records); err != nil {
			return nil, err
		}
	}
	for key, id := range records {
		if slices.Contains(r.witness[:], id) && !r.rules.blind {
			notes[key] = noteWitness
			delete(records, key)
		}
	}
	return records, r.parkPending(kept, notes)
}

const noteWitness = "a witness of the outbox, which nothing else may change"

// lookupEach looks keys up. If the lookup is refused because of a key, it looks up each
// half, down to the keys at fault, which it returns with the reason.
func (r *runner) lookupEach(ctx context.Context, keys []oakra.StockKey) (found map[oakra.StockKey]oakra.StockRecord, refused map[oakra.StockKey]string, err error) {
	found, err = r.lookup(ctx, keys)
	if err == nil {
		return found, nil, nil
	}
	if !keyAtFault(err) && !r.onlyTheseFail(ctx, keys, err) {
		return nil, nil, err
	}
	if len(keys) == 1 {
		return nil, map[oakra.StockKey]string{keys[0]: words(err)}, nil
	}
	found, refused = make(map[oakra.StockKey]oakra.StockRecord), make(map[oakra.StockKey]string)
	for _, half := range [][]oakra.StockKey{keys[:len(keys)/2], keys[len(keys)/2:]} {
		f, bad, err := r.lookupEach(ctx, half)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(found, f)
		maps.Copy(refused, bad)
	}
	return found, refused, nil
}

// onlyTheseFail reports whether a lookup that the server rejected fails again although a
// lookup of the witnesses between the two passes. If so, the setup is not at fault.
func (r *runner) onlyTheseFail(ctx context.Context, keys []oakra.StockKey, err error) bool {
	if r.rules.blind || !keyPerhapsAtFault(err) {
		return false
	}
	if _, err := r.lookup(ctx, r.witnesses[:]); err != nil {
		return false
	}
	_, err = r.lookup(ctx, keys)
	return err != nil && keyPerhapsAtFault(err)
}

// remember stores the records of keys, and releases the changes that were parked because
// their key had no record.
func (r *runner) remember(ctx context.Context, looked []oakra.StockKey, records map[oakra.StockKey]int64) error {
	if len(looked) == 0 {
		return nil
	}
	rows := asJSON(keyRows(looked, func(key oakra.StockKey) int64 { return records[key] }))
	_, err := r.fenced(ctx, &r.d.ledger, func(tx *sql.Tx, now instant) error {
		_, err := r.exec(ctx, tx, `INSERT INTO oakra_outbox_record (name, sku, location_id, id, looked)
			SELECT CAST($1 AS text), k.sku, k.location_id, k.id, CAST($2 AS bigint) FROM {keys $3} WHERE true
			ON CONFLICT (name, sku, location_id) DO UPDATE SET id = excluded.id, looked = excluded.looked`, r.options.Name, now, rows)
		if err != nil {
			return err
		}
		if err := r.prepareJoin(ctx, tx); err != nil {
			return err
		}
		released, err := r.numbers(ctx, tx, `UPDATE oakra_outbox_change SET state = 0, request = NULL, note = ''
			WHERE name = $1 AND state = 3 AND note = $2 AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $3} WHERE k.id <> 0) RETURNING seq`,
			r.options.Name, noteUnknownKey, rows)
		if err != nil || len(released) == 0 {
			return err
		}
		return r.logEvents(ctx, tx, now, r.owner, "released", "Oakra has a stock record now", released)
	})
	return err
}

// prepareJoin gives the planner the statistics that it lacks.
func (r *runner) prepareJoin(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range r.dialect.prepare {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// parkPending parks the pending changes of keys, each with its note.
func (r *runner) parkPending(ctx context.Context, notes map[oakra.StockKey]string) error {
	if len(notes) == 0 {
		return nil
	}
	var parked []int64
	_, err := r.fenced(ctx, &r.d.ledger, func(tx *sql.Tx, now instant) error {
		if err := r.prepareJoin(ctx, tx); err != nil {
			return err
		}
		parked = nil
		for note, keys := range keysByNote(notes) {
			seqs, err := r.park(ctx, tx, now, r.owner, note, "state = 0 AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $3})", asJSON(keyRows(keys, nil)))
			if err != nil {
				return err
			}
			parked = append(parked, seqs...)
		}
		return nil
	})
	if err == nil {
		r.parked = append(r.parked, parked...)
	}
	return err
}

// freeze puts the pending changes of records into a request, and then sums exactly those.
// A change that is committed meanwhile stays pending. It returns false if nothing is left
// to send, because the changes add up to 0.
func (r *runner) freeze(ctx context.Context, id int64, records map[oakra.StockKey]int64, last int64) (formed bool, err error) {
	name := r.options.Name
	rows := asJSON(keyRows(slices.Collect(maps.Keys(records)), func(key oakra.StockKey) int64 { return records[key] }))
	l := r.d.ledger
	l.lastID = id
	_, err = r.fenced(ctx, &l, func(tx *sql.Tx, now instant) error {
		if err := r.prepareJoin(ctx, tx); err != nil {
			return err
		}
		_, err := r.exec(ctx, tx, `UPDATE oakra_outbox_change SET request = $2, state = 1
			WHERE name = $1 AND state = 0 AND seq <= $3 AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $4})`, name, id, last, rows)
		if err != nil {
			return err
		}
		_, err = r.exec(ctx, tx, `INSERT INTO oakra_outbox_item (name, request, sku, location_id, record, delta)
			WITH summed AS MATERIALIZED (
				SELECT sku, location_id, CAST(sum(quantity) AS bigint) AS delta FROM oakra_outbox_change
				WHERE name = $1 AND request = $2 AND state = 1 GROUP BY sku, location_id),
			known AS MATERIALIZED (SELECT k.sku, k.location_id, k.id FROM {keys $3})
			SELECT CAST($1 AS text), CAST($2 AS bigint), s.sku, s.location_id, k.id, s.delta
			FROM summed s JOIN known k ON k.sku = s.sku AND k.location_id = s.location_id`, name, id, rows)
		if err != nil {
			return err
		}
		_, err = r.exec(ctx, tx, `UPDATE oakra_outbox_change SET state = 2, settled = $3, request = NULL, note = 'the changes of this record added up to 0: there was nothing to send'
			WHERE name = $1 AND request = $2 AND state = 1 AND (sku, location_id) IN (
				SELECT sku, location_id FROM oakra_outbox_item WHERE name = $1 AND request = $2 AND delta = 0)`, name, id, now)
		if err != nil {
			return err
		}
		if _, err := r.exec(ctx, tx, "DELETE FROM oakra_outbox_item WHERE name = $1 AND request = $2 AND delta = 0", name, id); err != nil {
			return err
		}
		n, err := r.exec(ctx, tx, `INSERT INTO oakra_outbox_request (name, id, added) SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS bigint)
			WHERE EXISTS (SELECT 1 FROM oakra_outbox_item WHERE name = $1 AND request = $2)`, name, id, now)
		formed = n > 0
		return err
	})
	return formed, err
}

// care deletes old rows and looks parked keys up again, a few at a time. It reports
// whether parked changes are pending again.
func (r *runner) care(ctx context.Context) (released bool, err error) {
	if time.Now().Before(r.nextCare) {
		return false, nil
	}
	more, err := r.deleteOld(ctx)
	if err != nil {
		return false, err
	}
	r.nextCare = time.Now()
	if more {
		return false, nil
	}
	r.nextCare = r.nextCare.Add(careEvery)
	return r.lookUnknown(ctx)
}

// lookUnknown looks up the keys of changes that are parked because Oakra did not have
// them.
func (r *runner) lookUnknown(ctx context.Context) (released bool, err error) {
	var keys []oakra.StockKey
	err = r.each(ctx, r.db, func(rows *sql.Rows) error {
		var key oakra.StockKey
		err := rows.Scan(&key.SKU, &key.LocationID)
		keys = append(keys, key)
		return err
	}, `SELECT DISTINCT c.sku, c.location_id FROM oakra_outbox_change c
		JOIN oakra_outbox_record r ON r.name = c.name AND r.sku = c.sku AND r.location_id = c.location_id
		WHERE c.name = $1 AND c.state = 3 AND c.note = $2 AND r.looked <= {now} - $3 LIMIT $4`,
		r.options.Name, noteUnknownKey, lookUnknown.Milliseconds(), careBatch)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	found, refused, err := r.lookupEach(ctx, keys)
	if err != nil {
		r.failure(ctx, event{}, "looking up unknown stock records", err)
		return false, nil // the next round of care tries again
	}
	records := make(map[oakra.StockKey]int64)
	for key, record := range found {
		records[key] = record.ID
	}
	keys = slices.DeleteFunc(keys, func(key oakra.StockKey) bool { _, bad := refused[key]; return bad })
	return len(records) > 0, r.remember(ctx, keys, records)
}

// deleteOld deletes a few settled changes that are older than Retention, and the
// requests of that time. It reports whether there are more.
func (r *runner) deleteOld(ctx context.Context) (more bool, err error) {
	if r.options.Retention == 0 {
		return false, nil
	}
	age := r.options.Retention.Milliseconds()
	_, err = r.fenced(ctx, &r.d.ledger, func(tx *sql.Tx, now instant) error {
		seqs, err := r.oldChanges(ctx, tx, now-age)
		if err != nil {
			return err
		}
		more = r.careSeq > 0
		if len(seqs) > 0 {
			rows := asJSON(seqs)
			for _, statement := range []string{
				"DELETE FROM oakra_outbox_event WHERE change IN (SELECT n FROM {numbers $1})",
				"DELETE FROM oakra_outbox_change WHERE seq IN (SELECT n FROM {numbers $1})",
			} {
				if _, err := r.exec(ctx, tx, statement, rows); err != nil {
					return err
				}
			}
		}
		ids, err := r.numbers(ctx, tx, `SELECT id FROM (SELECT id, settled FROM oakra_outbox_request WHERE name = $1 ORDER BY id LIMIT $3) AS q WHERE settled < $2
			AND NOT EXISTS (SELECT 1 FROM oakra_outbox_attempt a WHERE a.name = $1 AND a.state = 0 AND a.request = q.id)`,
			r.options.Name, now-age-2*r.rules.forget*r.rules.grace, careBatch)
		if err != nil || len(ids) == 0 {
			return err
		}
		more = more || len(ids) == careBatch
		rows := asJSON(ids)
		for _, statement := range []string{
			"DELETE FROM oakra_outbox_item WHERE name = $1 AND request IN (SELECT n FROM {numbers $2})",
			"DELETE FROM oakra_outbox_attempt WHERE name = $1 AND request IN (SELECT n FROM {numbers $2})",
			"DELETE FROM oakra_outbox_request WHERE name = $1 AND id IN (SELECT n FROM {numbers $2})",
		} {
			if _, err := r.exec(ctx, tx, statement, r.options.Name, rows); err != nil {
				return err
			}
		}
		return nil
	})
	return more, err
}

// oldChanges returns settled changes that were added before a time. It goes through the
// table by number, which is roughly the order of age, a few rows at a time, and ends a
// pass at the first change that is younger.
func (r *runner) oldChanges(ctx context.Context, tx *sql.Tx, before instant) (old []int64, err error) {
	seen, last := 0, int64(0)
	err = r.each(ctx, tx, func(rows *sql.Rows) error {
		var seq int64
		var added instant
		var name string
		var state int
		var settled sql.NullInt64
		if err := rows.Scan(&seq, &name, &state, &added, &settled); err != nil {
			return err
		}
		if added < before {
			seen, last = seen+1, seq
		}
		if name == r.options.Name && settled.Valid && settled.Int64 < before && (state == changeApplied || state == changeDropped) {
			old = append(old, seq)
		}
		return nil
	}, "SELECT seq, name, state, added, settled FROM oakra_outbox_change WHERE seq > $1 ORDER BY seq LIMIT $2", r.careSeq, careBatch)
	if r.careSeq = last; seen < careBatch {
		r.careSeq = 0
	}
	return old, err
}
