package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/oakra/oakra-go"
)

// Change is a change of stock that the outbox applies in Oakra.
type Change struct {
	// ID is the shop's own name for the change, such as "order-1001/2". It must be
	// unique for as long as Retention, and have at most 200 bytes.
	ID string
	// SKU and LocationID name the stock record; at most 500 bytes each.
	SKU, LocationID string
	// QuantityChange is the number of units to add, or to deduct if it is negative;
	// from -2^40 to 2^40, except 0.
	QuantityChange int64
}

const (
	maxIDBytes        = 200
	maxKeyBytes       = 500 // a longer SKU or location may not fit into a request line
	maxQuantityChange = 1 << 40
)

// AddTx records changes in the caller's transaction: they are applied if and only if
// it commits. Adding a change again with the same content is not an error.
//
// AddTx returns [ErrIDReused], an error of the database, or an error that names a
// change that is malformed or changes a witness. With an error, it has recorded nothing.
func (o *Outbox) AddTx(ctx context.Context, tx *sql.Tx, changes ...Change) error {
	if len(changes) == 0 {
		return nil
	}
	query, args, err := o.AddSQL(changes...)
	if err != nil {
		return err
	}
	if err := o.execAdd(ctx, tx, query, args); err != nil {
		return addError(err)
	}
	o.added()
	return nil
}

// prepared is the prepared statement that adds one change, on SQLite. Compiling it takes
// longer than executing it, and database/sql keeps a prepared one with each connection.
type prepared struct {
	*sql.Stmt
	query string
}

func (o *Outbox) prepareAdd(ctx context.Context) (err error) {
	if o.dialect == sqlite {
		o.prepared.query = o.dialect.sql(addOne)
		o.prepared.Stmt, err = o.db.PrepareContext(ctx, o.prepared.query)
	}
	return err
}

func (o *Outbox) execAdd(ctx context.Context, tx *sql.Tx, query string, args []any) error {
	if query == o.prepared.query {
		_, err := tx.StmtContext(ctx, o.prepared.Stmt).ExecContext(ctx, args...)
		if err == nil || !strings.Contains(err.Error(), "statement from different database") {
			return err
		}
		// The transaction belongs to another sql.DB, which has not prepared it.
	}
	_, err := tx.ExecContext(ctx, query, args...)
	return err
}

// AddSQL returns the statement that records changes, to be executed in the caller's
// transaction by a driver or a library that [Outbox.AddTx] does not fit, such as
// pgx.Tx or gorm. A reused ID violates the constraint oakra_outbox_id_reused.
//
// AddSQL returns the errors of AddTx except those of the database.
func (o *Outbox) AddSQL(changes ...Change) (query string, args []any, err error) {
	rows, err := o.rowsOf(changes)
	if err != nil {
		return "", nil, err
	}
	if len(rows) == 1 {
		r := rows[0]
		return o.dialect.sql(addOne), []any{o.options.Name, r.ID, r.SKU, r.LocationID, r.Quantity}, nil
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return "", nil, fmt.Errorf("outbox: %w", err)
	}
	return o.dialect.sql(addMany), []any{o.options.Name, string(text)}, nil
}

// The statements that add changes. One change has its own statement, which is faster.
const (
	addOne = `INSERT INTO oakra_outbox_change (name, id, sku, location_id, quantity, added)
		VALUES ($1, $2, $3, $4, $5, {now})` + addReused
	addMany = `INSERT INTO oakra_outbox_change (name, id, sku, location_id, quantity, added)
		SELECT CAST($1 AS text), c.id, c.sku, c.location_id, c.quantity, {now} FROM {changes $2} WHERE true` + addReused
	addReused = ` ON CONFLICT (name, id) DO UPDATE SET reused = true
		WHERE oakra_outbox_change.sku <> excluded.sku OR oakra_outbox_change.location_id <> excluded.location_id OR oakra_outbox_change.quantity <> excluded.quantity`
)

// Add records changes in a transaction of its own. When it returns nil, they are
// durable. Concurrent calls share a commit. If ctx ends first, the changes may or may
// not have been recorded, and can safely be added again.
//
// Add returns the errors of AddTx.
func (o *Outbox) Add(ctx context.Context, changes ...Change) error {
	if len(changes) == 0 {
		return nil
	}
	if _, err := o.rowsOf(changes); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	call := &addCall{changes: changes, done: make(chan error, 1)}
	o.adder.enqueue(call, o.dialect.commits, o.addAll)
	select {
	case err := <-call.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// adder makes calls of Add share a commit. While as many commits are in progress as the
// database can use at once, new calls wait for the next one.
type adder struct {
	mu      sync.Mutex
	waiting []*addCall
	running int // number of commits in progress
}

type addCall struct {
	changes []Change
	done    chan error
}

// maxShared is the largest number of changes that share a commit.
const maxShared = 5000

func (a *adder) enqueue(call *addCall, most int, add func(calls []*addCall)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, call)
	if a.running == most {
		return
	}
	a.running++
	go func() {
		for calls := a.next(); len(calls) > 0; calls = a.next() {
			add(calls)
		}
	}()
}

// next takes the calls that share the next commit. Two calls with the same ID do not
// share a commit, so that only one of them fails if their contents differ.
func (a *adder) next() []*addCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make(map[string]bool)
	size := 0
	n := 0
	for _, call := range a.waiting {
		if size += len(call.changes); n > 0 && size > maxShared ||
			slices.ContainsFunc(call.changes, func(c Change) bool { return ids[c.ID] }) {
			break
		}
		for _, c := range call.changes {
			ids[c.ID] = true
		}
		n++
	}
	calls := slices.Clone(a.waiting[:n])
	a.waiting = slices.Delete(a.waiting, 0, n)
	if n == 0 {
		a.running--
	}
	return calls
}

// addAll records the changes of calls in one transaction. If that fails, each call
// is tried alone, so that one with a reused ID does not harm the others.
func (o *Outbox) addAll(calls []*addCall) {
	var all []Change
	for _, call := range calls {
		all = append(all, call.changes...)
	}
	err := o.addOnce(all)
	if err != nil && len(calls) > 1 && errors.Is(err, ErrIDReused) {
		for _, call := range calls {
			call.done <- o.addOnce(call.changes)
		}
		return
	}
	for _, call := range calls {
		call.done <- err
	}
}

// addOnce records changes. It does not end with a caller's context, because other
// callers may still wait for it.
func (o *Outbox) addOnce(changes []Change) error {
	ctx, cancel := context.WithTimeout(context.Background(), databaseTimeout)
	defer cancel()
	query, args, err := o.AddSQL(changes...)
	if err != nil {
		return err
	}
	if _, err := o.db.ExecContext(ctx, query, args...); err != nil {
		return addError(err)
	}
	o.added()
	return nil
}

func (o *Outbox) added() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// addError returns the error for a failure of the statement of AddSQL.
func addError(err error) error {
	if strings.Contains(err.Error(), "oakra_outbox_id_reused") {
		return fmt.Errorf("outbox: add: %w: %w", ErrIDReused, err)
	}
	return fmt.Errorf("outbox: add: %w", err)
}

// addRow is a change as JSON.
type addRow struct {
	ID         string `json:"id"`
	SKU        string `json:"sku"`
	LocationID string `json:"location_id"`
	Quantity   int64  `json:"quantity"`
}

// rowsOf checks changes and returns each once, sorted by ID, so that two transactions
// that add the same changes lock them in the same order.
func (o *Outbox) rowsOf(changes []Change) ([]addRow, error) {
	if len(changes) == 0 {
		return nil, errors.New("outbox: add: no changes")
	}
	rows := make([]addRow, 0, len(changes))
	for i, c := range changes {
		if err := o.checkChange(c); err != nil {
			return nil, fmt.Errorf("outbox: add: change %d (ID %.40q): %w", i, c.ID, err)
		}
		rows = append(rows, addRow{c.ID, c.SKU, c.LocationID, c.QuantityChange})
	}
	slices.SortStableFunc(rows, func(a, b addRow) int { return strings.Compare(a.ID, b.ID) })
	rows = slices.Compact(rows)
	for i := 1; i < len(rows); i++ {
		if rows[i].ID == rows[i-1].ID {
			return nil, fmt.Errorf("outbox: add: %w: %q is given twice, with different content", ErrIDReused, rows[i].ID)
		}
	}
	return rows, nil
}

func (o *Outbox) checkChange(c Change) error {
	key := oakra.StockKey{SKU: c.SKU, LocationID: c.LocationID}
	switch {
	case len(c.ID) > maxIDBytes:
		return fmt.Errorf("the ID has %d bytes: it may have %d", len(c.ID), maxIDBytes)
	case len(c.SKU) > maxKeyBytes || len(c.LocationID) > maxKeyBytes:
		return fmt.Errorf("the SKU has %d bytes and the location %d: each may have %d", len(c.SKU), len(c.LocationID), maxKeyBytes)
	case c.QuantityChange == 0:
		return errors.New("the quantity change is 0")
	case c.QuantityChange > maxQuantityChange || c.QuantityChange < -maxQuantityChange:
		return fmt.Errorf("the quantity change is %d: it may be 2^40 either way", c.QuantityChange)
	case c.SKU != "" && slices.Contains(o.witnesses[:], key):
		return fmt.Errorf("%s is a witness of this outbox, which nothing else may change", keyText(key))
	}
	if err := checkText("the ID", c.ID); err != nil {
		return err
	}
	return checkKey("", key)
}

func checkKey(where string, key oakra.StockKey) error {
	if where != "" {
		where += "."
	}
	if err := checkText(where+"SKU", key.SKU); err != nil {
		return err
	}
	return checkText(where+"LocationID", key.LocationID)
}

// checkText refuses text that one of the databases cannot store.
func checkText(what, text string) error {
	switch {
	case strings.TrimSpace(text) == "":
		return fmt.Errorf("%s is blank", what)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not valid UTF-8", what)
	case strings.ContainsRune(text, 0):
		return fmt.Errorf("%s contains a NUL byte", what)
	}
	return nil
}
