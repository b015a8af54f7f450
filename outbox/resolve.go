package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Action is what a person decides about a parked change.
type Action int

// The decisions.
const (
	Resend      Action = iota + 1 // for a change that was not applied: send it again
	MarkApplied                   // for a change that was applied, or whose stock was corrected by hand
	Drop                          // for a change that must not be applied
)

// String returns "resend", "mark applied" or "drop".
func (a Action) String() string {
	switch a {
	case Resend:
		return "resend"
	case MarkApplied:
		return "mark applied"
	case Drop:
		return "drop"
	}
	return fmt.Sprintf("Action(%d)", int(a))
}

// Decision is a person's decision about parked changes.
type Decision struct {
	Action   Action
	By, Note string // who decided, and why; both are required
}

// ResumeOptions says who ends a halt, and why.
type ResumeOptions struct {
	By, Note string // both are required
	// DatabaseRestored says that the shop's database lost commits: a backup was
	// restored, or a failover lost the last transactions. All changes that are not
	// settled are then parked, because the lost transactions may have sent them.
	DatabaseRestored bool
}

// Resolve carries out a person's decision about parked changes, for all of the IDs or
// for none of them. A change that is sent again waits until ten seconds after its SKU
// was last looked up, and is parked again if Oakra still does not have the SKU.
//
// Resolve returns [ErrUnknownID], [ErrNotParked], an error of the database, or an error
// that says that Action, By or Note is missing.
func (o *Outbox) Resolve(ctx context.Context, d Decision, ids ...string) error {
	if err := o.resolve(ctx, d, ids); err != nil {
		return fmt.Errorf("outbox: resolve: %w", err)
	}
	return nil
}

func (o *Outbox) resolve(ctx context.Context, d Decision, ids []string) error {
	state, ok := map[Action]int{Resend: changePending, MarkApplied: changeApplied, Drop: changeDropped}[d.Action]
	if !ok {
		return fmt.Errorf("the action is %v: give Resend, MarkApplied or Drop", d.Action)
	}
	if err := checkWho(d.By, d.Note); err != nil {
		return err
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	err := o.transact(ctx, func(tx *sql.Tx) error {
		var now instant
		err := o.row(ctx, tx, "UPDATE oakra_outbox_account SET epoch = epoch WHERE name = $1 RETURNING {now}", o.options.Name).Scan(&now)
		if err != nil && !errors.Is(err, sql.ErrNoRows) { // without a row, nothing is parked
			return err
		}
		settled := sql.NullInt64{Int64: now, Valid: d.Action != Resend}
		seqs, err := o.numbers(ctx, tx, `UPDATE oakra_outbox_change SET state = $3, settled = $4,
			request = CASE WHEN $5 = 1 THEN NULL ELSE request END, note = CASE WHEN $5 = 1 THEN '' ELSE note END
			WHERE name = $1 AND state = 3 AND id IN (SELECT t FROM {texts $2}) RETURNING seq`,
			o.options.Name, asJSON(ids), state, settled, truth(d.Action == Resend))
		if err != nil {
			return err
		}
		if len(seqs) < len(ids) {
			return o.whyNot(ctx, tx, seqs, ids)
		}
		return o.logEvents(ctx, tx, now, d.By, "resolved", d.Action.String()+": "+d.Note, seqs)
	})
	if err == nil && d.Action == Resend {
		o.added()
	}
	return err
}

// whyNot returns an error that names the IDs that are not those of parked changes.
func (o *Outbox) whyNot(ctx context.Context, tx *sql.Tx, resolved []int64, ids []string) error {
	found := make(map[string]bool)
	parked := make(map[string]bool)
	err := o.each(ctx, tx, func(rows *sql.Rows) error {
		var id string
		var seq int64
		err := rows.Scan(&id, &seq)
		found[id], parked[id] = true, slices.Contains(resolved, seq)
		return err
	}, "SELECT id, seq FROM oakra_outbox_change WHERE name = $1 AND id IN (SELECT t FROM {texts $2})", o.options.Name, asJSON(ids))
	if err != nil {
		return err
	}
	var unknown, notParked []string
	for _, id := range ids {
		switch {
		case !found[id]:
			unknown = append(unknown, id)
		case !parked[id]:
			notParked = append(notParked, id)
		}
	}
	var all []error
	if len(unknown) > 0 {
		all = append(all, fmt.Errorf("%w: %q", ErrUnknownID, unknown))
	}
	if len(notParked) > 0 {
		all = append(all, fmt.Errorf("%w: %q", ErrNotParked, notParked))
	}
	return errors.Join(all...)
}

func checkWho(by, note string) error {
	return cmp.Or(checkText("By", by), checkText("Note", note))
}

// Resume ends a halt. It reads the witnesses, records their present quantities, and
// parks the changes of the requests that were open, because it can no longer be known
// whether they landed. Compare the stock with your own records, then resolve them.
//
// Resume fails if By, Note, Stock or Witnesses is missing, if a witness is missing in
// Oakra or has too few units, if an attempt is open although the outbox is not halted,
// or if the server or the database fails.
func (o *Outbox) Resume(ctx context.Context, options ResumeOptions) error {
	if err := o.resume(ctx, options); err != nil {
		return fmt.Errorf("outbox: resume: %w", err)
	}
	return nil
}

func (o *Outbox) resume(ctx context.Context, options ResumeOptions) error {
	if err := checkWho(options.By, options.Note); err != nil {
		return err
	}
	if err := o.canDispatch(); err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "outbox: "))
	}
	if o.rules.blind {
		return errors.New("there are no witnesses: name them in Options.Witnesses")
	}
	lookup, cancel := context.WithTimeout(ctx, o.options.RequestTimeout)
	defer cancel()
	found, err := o.stock.Lookup(lookup, o.witnesses[:])
	if err != nil {
		return fmt.Errorf("reading the witnesses: %w", err)
	}
	for _, key := range o.witnesses {
		if record, ok := found[key]; !ok || record.Quantity < 1<<o.rules.codes {
			return fmt.Errorf("the witness %s is missing or has too few units (%d): give both witnesses a quantity of %d", keyText(key), record.Quantity, start)
		}
	}
	var parked []int64
	err = o.transact(ctx, func(tx *sql.Tx) error {
		var now instant
		err := o.row(ctx, tx, `UPDATE oakra_outbox_account SET head = $2, tail = $3, halted = '', epoch = epoch + 1, until = 0, owner = ''
			WHERE name = $1 AND (halted <> '' OR NOT EXISTS (SELECT 1 FROM oakra_outbox_attempt WHERE name = $1 AND state = 0)) RETURNING {now}`,
			o.options.Name, found[o.witnesses[0]].Quantity, found[o.witnesses[1]].Quantity).Scan(&now)
		if errors.Is(err, sql.ErrNoRows) {
			return errors.New("the outbox is not halted, and an attempt is open: wait until it is settled")
		}
		if err != nil {
			return err
		}
		parked, err = o.parkAtResume(ctx, tx, now, options)
		return err
	})
	if err != nil {
		return err
	}
	o.added()
	return o.tellParked(ctx, parked)
}

// parkAtResume parks the changes that may have been sent.
func (o *Outbox) parkAtResume(ctx context.Context, tx *sql.Tx, now instant, options ResumeOptions) (parked []int64, err error) {
	name := o.options.Name
	open, err := o.numbers(ctx, tx, "UPDATE oakra_outbox_attempt SET state = 3, settled = $2 WHERE name = $1 AND state = 0 RETURNING request", name, now)
	if err != nil {
		return nil, err
	}
	doubtful, err := o.undoneByOpen(ctx, tx, open)
	if err != nil {
		return nil, err
	}
	requests := asJSON(open)
	park := func(note, condition string, arg any) {
		if err == nil {
			var seqs []int64
			seqs, err = o.park(ctx, tx, now, options.By, note+": "+options.Note, condition, arg)
			parked = append(parked, seqs...)
		}
	}
	park("its request was open at the halt", "state = 1 AND request IN (SELECT n FROM {numbers $3})", requests)
	park("an attempt to send it again, or to take it back, was open at the halt, so it may not count once",
		"state = 2 AND request IN (SELECT n FROM {numbers $3})", asJSON(slices.Concat(doubtful, open)))
	settle := "UPDATE oakra_outbox_request SET state = 3, settled = $2 WHERE name = $1 AND state < 2"
	args := []any{name, now}
	if options.DatabaseRestored {
		// Not only what was added before the halt: the halt itself may be one of the
		// backup, which the original ended long ago.
		park("the database was restored, so it may have been sent before", "state IN (0, 1) AND added <= $3", now)
	} else {
		settle += " AND id IN (SELECT n FROM {numbers $3})"
		args = append(args, requests)
	}
	if err == nil {
		_, err = o.exec(ctx, tx, settle, args...)
	}
	return parked, err
}

// undoneByOpen returns the requests that the open undos should have taken back.
func (o *Outbox) undoneByOpen(ctx context.Context, tx *sql.Tx, open []int64) (all []int64, err error) {
	for _, id := range open {
		var undoes int64
		if err := o.row(ctx, tx, "SELECT undoes FROM oakra_outbox_request WHERE name = $1 AND id = $2", o.options.Name, id).Scan(&undoes); err != nil {
			return nil, err
		}
		if undoes == 0 {
			continue
		}
		family, _, err := o.family(ctx, tx, undoes)
		if err != nil {
			return nil, err
		}
		all = append(all, family...)
	}
	return all, nil
}
