package outbox

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/oakra/oakra-go"
)

// This file ends requests that the server rejected (row 7), and parks changes.

// replacement is what replaces a rejected request: parked changes and new requests.
type replacement struct {
	parked map[oakra.StockKey]string // reasons for parking, by key
	parts  [][]keyRow                // items of each new request
	note   string                    // note of the new requests
	limit  int                       // most items that a request may have from now on; 0 if unknown
}

// reject replaces the request of a plan, whose attempt was rejected and, as a read
// showed, not applied.
func (r *runner) reject(ctx context.Context, p plan) (event, error) {
	items, err := r.sent.items, r.sent.err
	named, witness := r.namedItems(err)
	if witness != "" {
		return event{kind: eventHalt, reason: "the server rejects the witness " + witness}, nil
	}
	var s replacement
	var e *oakra.Error
	if errors.As(err, &e) && e.StatusCode == http.StatusRequestEntityTooLarge && len(items) > 1 {
		s.limit = (len(items) + 1) / 2
	}
	switch {
	case len(named) > 0:
	case len(items) > 1:
		half := (len(items) + 1) / 2
		s.parts, s.note = [][]keyRow{rowsOfItems(items[:half]), rowsOfItems(items[half:])}, noteHalf
		return r.replace(ctx, p, s)
	case !oakra.Rejected(err) && !r.othersLanded(p.request):
		return r.failure(ctx, event{kind: eventRequeued, attempt: p.attempt}, "sending a request", err), nil
	default:
		named = map[int]string{0: words(err)}
	}
	if s.parked, s.parts, err = r.judge(ctx, items, named); err != nil {
		return r.failure(ctx, event{kind: eventFailed}, "looking up rejected stock records", err), nil
	}
	return r.replace(ctx, p, s)
}

// namedItems returns what the server says about the items of the newest attempt, by
// index, and about a witness, with its key.
func (r *runner) namedItems(err error) (named map[int]string, witness string) {
	named = make(map[int]string)
	before := 0
	if !r.rules.blind {
		before = 1
	}
	for i, texts := range itemsOf(err) {
		text := strings.Join(texts, " ")
		switch i -= before; {
		case i >= 0 && i < len(r.sent.items):
			named[i] = text
		case i < 0:
			witness = keyText(r.witnesses[0]) + ": " + text
		case !r.rules.blind:
			witness = keyText(r.witnesses[1]) + ": " + text
		}
	}
	return named, witness
}

// othersLanded reports whether a request has landed since the given one was first
// rejected as a single item that the response did not name. If so, the setup is not at
// fault.
func (r *runner) othersLanded(request int64) bool {
	at, seen := r.suspect[request]
	if !seen {
		r.suspect[request] = r.landed
	}
	return seen && r.landed > at
}

func rowsOfItems(items []item) []keyRow {
	var rows []keyRow
	for _, i := range items {
		rows = append(rows, keyRows(i.keys, func(oakra.StockKey) int64 { return i.record })...)
	}
	return rows
}

// judge looks up the named items again. Those that have another record now are sent with
// that record, together with the items that were not named. The others are parked.
func (r *runner) judge(ctx context.Context, items []item, named map[int]string) (parked map[oakra.StockKey]string, parts [][]keyRow, err error) {
	var keys []oakra.StockKey
	for i := range named {
		keys = append(keys, items[i].keys...)
	}
	found, refused, err := r.lookupEach(ctx, keys)
	if err != nil {
		return nil, nil, err
	}
	var rest []keyRow
	parked = make(map[oakra.StockKey]string)
	for i, it := range items {
		text, isNamed := named[i]
		if !isNamed {
			rest = append(rest, rowsOfItems(items[i:i+1])...)
			continue
		}
		for _, key := range it.keys {
			record, ok := found[key]
			switch note, bad := refused[key]; {
			case bad:
				parked[key] = note
			case !ok:
				parked[key] = noteUnknownKey
			case record.ID != it.record:
				rest = append(rest, keyRow{key.SKU, key.LocationID, record.ID})
			default:
				parked[key] = text
			}
		}
	}
	if len(rest) > 0 {
		parts = [][]keyRow{rest}
	}
	return parked, parts, nil
}

// replace ends a request and creates its replacement.
func (r *runner) replace(ctx context.Context, p plan, s replacement) (event, error) {
	name := r.options.Name
	l := r.d.ledger
	l.lastID += int64(len(s.parts))
	var parked []int64
	_, err := r.fenced(ctx, &l, func(tx *sql.Tx, now instant) error {
		var undoes int64
		err := r.row(ctx, tx, "UPDATE oakra_outbox_request SET state = 3, settled = $3, note = $4 WHERE name = $1 AND id = $2 RETURNING undoes",
			name, p.request, now, words(r.sent.err)).Scan(&undoes)
		if err != nil {
			return err
		}
		if err := r.prepareJoin(ctx, tx); err != nil {
			return err
		}
		for i, part := range s.parts {
			if err := r.insertPart(ctx, tx, now, p.request, undoes, r.d.lastID+1+int64(i), part, s.note); err != nil {
				return err
			}
		}
		parked = nil
		for note, keys := range keysByNote(s.parked) {
			seqs, err := r.parkItems(ctx, tx, now, p.request, undoes, note, asJSON(keyRows(keys, nil)))
			if err != nil {
				return err
			}
			parked = append(parked, seqs...)
			if note == noteUnknownKey {
				if err := r.forgetRecords(ctx, tx, now, keys); err != nil {
					return err
				}
			}
		}
		if s.limit > 0 {
			return r.limitBatch(ctx, tx, now, s.limit)
		}
		return nil
	})
	var untraced errUntraced
	if errors.As(err, &untraced) {
		return event{kind: eventHalt, reason: untraced.Error()}, nil
	}
	if err != nil {
		return event{}, err
	}
	r.parked = append(r.parked, parked...)
	return event{kind: eventReplaced, request: p.request, attempt: p.attempt, parts: int64(len(s.parts))}, nil
}

func keysByNote(notes map[oakra.StockKey]string) map[string][]oakra.StockKey {
	byNote := make(map[string][]oakra.StockKey)
	for key, note := range notes {
		byNote[note] = append(byNote[note], key)
	}
	return byNote
}

// insertPart creates a request from some of the items of another.
func (r *runner) insertPart(ctx context.Context, tx *sql.Tx, now instant, whole, undoes, id int64, items []keyRow, note string) error {
	name, rows := r.options.Name, asJSON(items)
	_, err := r.exec(ctx, tx, "INSERT INTO oakra_outbox_request (name, id, undoes, part_of, note, added) VALUES ($1, $2, $3, $4, $5, $6)",
		name, id, undoes, whole, note, now)
	if err != nil {
		return err
	}
	_, err = r.exec(ctx, tx, `INSERT INTO oakra_outbox_item (name, request, sku, location_id, record, delta)
		SELECT i.name, CAST($2 AS bigint), i.sku, i.location_id, k.id, i.delta FROM oakra_outbox_item i
		JOIN {keys $4} ON k.sku = i.sku AND k.location_id = i.location_id WHERE i.name = $1 AND i.request = $3`, name, id, whole, rows)
	if err != nil {
		return err
	}
	_, err = r.exec(ctx, tx, `UPDATE oakra_outbox_change SET request = $2 WHERE name = $1 AND request = $3 AND state = 1
		AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $4})`, name, id, whole, rows)
	if err != nil {
		return err
	}
	_, err = r.exec(ctx, tx, `INSERT INTO oakra_outbox_record (name, sku, location_id, id, looked)
		SELECT CAST($1 AS text), k.sku, k.location_id, k.id, CAST($2 AS bigint) FROM {keys $3} WHERE true
		ON CONFLICT (name, sku, location_id) DO UPDATE SET id = excluded.id WHERE oakra_outbox_record.id <> excluded.id`, name, now, rows)
	return err
}

// forgetRecords records that Oakra no longer has the keys.
func (r *runner) forgetRecords(ctx context.Context, tx *sql.Tx, now instant, keys []oakra.StockKey) error {
	_, err := r.exec(ctx, tx, `UPDATE oakra_outbox_record SET id = 0, looked = $2
		WHERE name = $1 AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $3})`, r.options.Name, now, asJSON(keyRows(keys, nil)))
	return err
}

// parkItems parks the changes of some items of a request. An undo has no changes of its
// own: the changes that it should have taken back, or restored, are parked instead.
func (r *runner) parkItems(ctx context.Context, tx *sql.Tx, now instant, request, undoes int64, note, keys string) ([]int64, error) {
	if undoes == 0 {
		return r.park(ctx, tx, now, r.owner, note, "request = $3 AND state = 1 AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $4})", request, keys)
	}
	family, back, err := r.family(ctx, tx, undoes)
	if err != nil {
		return nil, err
	}
	among := "request IN (SELECT n FROM {numbers $3}) AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $4})"
	reason := "it counts once more than it should: its request landed twice, and taking it back was rejected: " + note
	if !back {
		reason = "it may not count: its request was taken back twice, and sending it again was rejected: " + note
	}
	// A change that was parked as rejected has been applied after all.
	late, err := r.numbers(ctx, tx, "UPDATE oakra_outbox_change SET state = 2, settled = $2, note = 'landed late' WHERE name = $1 AND state = 3 AND "+among+" RETURNING seq",
		r.options.Name, now, asJSON(family), keys)
	if err != nil {
		return nil, err
	}
	if err := r.logEvents(ctx, tx, now, r.owner, "applied", "landed late, and taking it back was rejected: "+note, late); err != nil {
		return nil, err
	}
	lateRows := asJSON(late)
	parked, err := r.park(ctx, tx, now, r.owner, reason, "state IN (1, 2, 4) AND "+among+" AND seq NOT IN (SELECT n FROM {numbers $5})", asJSON(family), keys, lateRows)
	if err == nil && len(late)+len(parked) == 0 {
		err = errUntraced{note}
	}
	return parked, err
}

// errUntraced is the error of a rejected undo whose changes cannot be found, because they
// were resolved by hand and sent again.
type errUntraced struct{ words string }

func (e errUntraced) Error() string {
	return "a request landed twice, taking it back was rejected, and its changes were resolved by hand meanwhile: compare the stock. The server's words: " + e.words
}

// family returns the request whose landing an undo takes back, with the parts that it
// was split into. It follows undos of undos. The result back is true if the undo takes a
// landing back, and false if it restores one.
func (o *Outbox) family(ctx context.Context, tx *sql.Tx, undone int64) (ids []int64, back bool, err error) {
	root := undone
	for back = true; ; back = !back {
		var next int64
		if err := o.row(ctx, tx, "SELECT undoes FROM oakra_outbox_request WHERE name = $1 AND id = $2", o.options.Name, root).Scan(&next); err != nil {
			return nil, false, err
		}
		if next == 0 {
			break
		}
		root = next
	}
	ids = []int64{root}
	for from := ids; len(from) > 0; {
		from, err = o.numbers(ctx, tx, "SELECT id FROM oakra_outbox_request WHERE name = $1 AND part_of IN (SELECT n FROM {numbers $2})", o.options.Name, asJSON(from))
		if err != nil {
			return nil, false, err
		}
		ids = append(ids, from...)
	}
	return ids, back, nil
}

// parkUnknown parks a request whose outcome is unknown, if there are no witnesses. The
// changes to records that the response did show were applied.
func (r *runner) parkUnknown(ctx context.Context, p plan) (event, error) {
	note := "the outcome is unknown: the process that sent it ended, and there are no witnesses"
	var shown []keyRow
	if r.sent.attempt == p.attempt && r.sent.err != nil {
		note = "the outcome is unknown, and there are no witnesses: " + r.sent.err.Error()
		var e *oakra.Error
		if errors.As(r.sent.err, &e) && e.StatusCode != http.StatusMultiStatus {
			for _, i := range r.sent.items {
				if slices.ContainsFunc(e.Records, func(s oakra.StockRecord) bool { return s.ID == i.record }) {
					shown = append(shown, rowsOfItems([]item{i})...)
				}
			}
		}
	}
	var parked []int64
	_, err := r.fenced(ctx, &r.d.ledger, func(tx *sql.Tx, now instant) error {
		_, err := r.exec(ctx, tx, "UPDATE oakra_outbox_request SET state = 3, settled = $3, note = $4 WHERE name = $1 AND id = $2", r.options.Name, p.request, now, note)
		if err != nil {
			return err
		}
		if err := r.prepareJoin(ctx, tx); err != nil {
			return err
		}
		_, err = r.exec(ctx, tx, `UPDATE oakra_outbox_change SET state = 2, settled = $3 WHERE name = $1 AND request = $2 AND state = 1
			AND (sku, location_id) IN (SELECT k.sku, k.location_id FROM {keys $4})`, r.options.Name, p.request, now, asJSON(shown))
		if err != nil {
			return err
		}
		parked, err = r.park(ctx, tx, now, r.owner, note, "request = $3 AND state = 1", p.request)
		return err
	})
	if err != nil {
		return event{}, err
	}
	r.parked = append(r.parked, parked...)
	return event{kind: eventParked, request: p.request, attempt: p.attempt}, nil
}

// tellParked calls OnParked for the changes that were parked since the last call.
func (r *runner) tellParked(ctx context.Context) error {
	parked := r.parked
	r.parked = nil
	return r.Outbox.tellParked(ctx, parked)
}

func (o *Outbox) tellParked(ctx context.Context, seqs []int64) error {
	for chunk := range slices.Chunk(seqs, careBatch) {
		entries, err := o.entries(ctx, "seq IN (SELECT n FROM {numbers $2}) ORDER BY seq", asJSON(chunk))
		if err != nil {
			return err
		}
		for _, e := range entries {
			o.log.WarnContext(ctx, "outbox: parked a change", "id", e.ID, "reason", e.Reason)
			if o.options.OnParked != nil {
				o.options.OnParked(e)
			}
		}
	}
	return nil
}
