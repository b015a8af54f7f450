package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// State is the state of a change on its way to Oakra.
type State string

// The states of a change.
const (
	StatePending State = "pending" // recorded, but not in a request yet
	StateSent    State = "sent"    // in a request that is queued or open
	StateApplied State = "applied" // counted once in Oakra
	StateParked  State = "parked"  // waiting for a person's decision, see [Outbox.Resolve]
	StateDropped State = "dropped" // never to be applied, as a person decided
)

// Entry is a recorded change.
type Entry struct {
	Change
	State   State
	Reason  string // why the change is parked, or a note on how it was settled
	Added   time.Time
	Settled time.Time // zero until the change is applied or dropped
	Seq     int64     // number of the change, for [Filter].Before
}

// Event is something that happened to a change.
type Event struct {
	At     time.Time
	By     string // process, or person who resolved the change
	Action string // "added", "requested", "attempted", "applied", "parked", "released", "resolved"
	Note   string
}

// Filter selects changes for [Outbox.List].
type Filter struct {
	// State selects changes in one state; "" means any. StatePending does not
	// include StateSent.
	State State
	// SKU and LocationID select changes by SKU and location; they need
	// StatePending or StateParked.
	SKU, LocationID string
	// Before continues a list: it selects changes with a smaller Seq; 0 means to
	// start with the newest.
	Before int64
	// Limit is the largest number of entries to return; 0 means 100.
	Limit int
}

// Status describes how an outbox is doing.
type Status struct {
	// Pending counts the changes that are neither settled nor parked.
	Pending int64
	// Parked counts the changes that wait for a person.
	Parked int64
	// OpenAttempts counts the attempts that may still land.
	OpenAttempts int64
	// OldestPending is the age of the oldest change that Pending counts.
	OldestPending time.Duration
	// Halted is why the outbox is halted, "" while it works. See [Outbox.Resume].
	Halted string
	// HaltedAt is when it halted; zero while it works.
	HaltedAt time.Time
	// Warnings are problems that a person should look at within days.
	Warnings []string
	// Leader is the process that dispatches, "" if none does.
	Leader string
	// BatchSize is the largest number of records that a request may have at
	// present, including the witnesses.
	BatchSize int
	// LastSettled is when a request was last seen to have landed.
	LastSettled time.Time
	// Requests counts attempts, Unknown attempts whose response was lost or not
	// conclusive, Compensated landings that were taken back, and Rejected attempts
	// that the server rejected. All four count since the account's first use.
	Requests, Unknown, Compensated, Rejected int64
}

// warnReplaced is how long Status warns that the witnesses were replaced.
const warnReplaced = 7 * 24 * time.Hour

// fromAccount selects from the account a, which has no row before its first dispatch.
const fromAccount = "FROM (SELECT 1) AS one LEFT JOIN oakra_outbox_account a ON a.name = $1"

// Status returns how the outbox is doing.
func (o *Outbox) Status(ctx context.Context) (Status, error) {
	var s Status
	var head, tail, until, now, haltedAt, lastSettled, replaced int64
	var former string
	var parked parkedMark
	var oldest sql.NullInt64
	err := o.row(ctx, o.db, `SELECT {now}, coalesce(a.head, 0), coalesce(a.tail, 0), coalesce(a.until, 0), coalesce(a.owner, ''), coalesce(a.halted, ''), coalesce(a.halted_at, 0),
		coalesce(a.last_settled, 0), coalesce(a.former_witnesses, ''), coalesce(a.replaced, 0),
		coalesce(a.requests, 0), coalesce(a.unknown, 0), coalesce(a.compensated, 0), coalesce(a.rejected, 0),
		(SELECT count(*) FROM oakra_outbox_change WHERE name = $1 AND state = 0) + (SELECT count(*) FROM oakra_outbox_change WHERE name = $1 AND state = 1),
		`+parked.columns()+`,
		(SELECT count(*) FROM oakra_outbox_attempt WHERE name = $1 AND state = 0),
		(SELECT min(added) FROM (SELECT min(added) AS added FROM oakra_outbox_change WHERE name = $1 AND state = 0
			UNION ALL SELECT min(added) FROM oakra_outbox_change WHERE name = $1 AND state = 1) AS old)
		`+fromAccount, o.options.Name).
		Scan(&now, &head, &tail, &until, &s.Leader, &s.Halted, &haltedAt, &lastSettled, &former, &replaced, &s.Requests, &s.Unknown, &s.Compensated, &s.Rejected,
			&s.Pending, &parked.version, &parked.first, &parked.last, &s.OpenAttempts, &oldest)
	if err == nil {
		s.Parked, err = o.countParked(ctx, parked)
	}
	if err == nil {
		s.BatchSize, err = o.batchSize(ctx)
	}
	if err != nil {
		return Status{}, fmt.Errorf("outbox: status: %w", err)
	}
	if until < now {
		s.Leader = ""
	}
	if oldest.Valid {
		s.OldestPending = time.Duration(now-oldest.Int64) * time.Millisecond
	}
	if s.Halted != "" {
		s.HaltedAt = timeOf(sql.NullInt64{Int64: haltedAt, Valid: true})
	}
	s.LastSettled = timeOf(sql.NullInt64{Int64: lastSettled, Valid: lastSettled != 0})
	if former != "" && now-replaced < warnReplaced.Milliseconds() {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the witnesses were replaced on %s: if that was a mistake, name the former ones again, %s",
			time.UnixMilli(replaced).UTC().Format("2006-01-02 15:04 UTC"), former))
	}
	if tail > 1<<30 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the tail witness has %d units: before a server of 32 bits overflows at %d, let the outbox drain and name new witnesses", tail, math.MaxInt32))
	}
	for i, quantity := range []int64{head, tail} {
		if looksCapped(quantity) {
			s.Warnings = append(s.Warnings, fmt.Sprintf("the witness %s has %d units, which looks like a limit of the server", keyText(o.witnesses[i]), quantity))
		}
	}
	return s, nil
}

// parkedCount is the latest count of the parked changes. It is kept because counting ten
// thousand takes several times as long as everything else that Status reads, and
// the number changes rarely.
type parkedCount struct {
	mu    sync.Mutex
	mark  parkedMark
	count int64
	at    time.Time
}

// parkedMark changes whenever changes are parked or no longer parked.
type parkedMark struct {
	version, first, last int64 // number of the account's parkings, and lowest and highest seq of a parked change
}

// columns returns the columns that select a mark from an account a.
func (parkedMark) columns() string {
	const of = "(seq), 0) FROM oakra_outbox_change WHERE name = $1 AND state = 3)"
	return "coalesce(a.parkings, 0), (SELECT coalesce(min" + of + ", (SELECT coalesce(max" + of
}

// recount is how long a count is kept. It is short because somebody may change the
// tables by hand.
const recount = 10 * time.Second

// countParked returns the number of parked changes. It counts them again only if they
// may have changed since the last count.
func (o *Outbox) countParked(ctx context.Context, mark parkedMark) (int64, error) {
	p := &o.counted
	p.mu.Lock()
	count, fresh := p.count, mark == p.mark && time.Since(p.at) < recount
	p.mu.Unlock()
	if fresh {
		return count, nil
	}
	at := time.Now()
	err := o.row(ctx, o.db, "SELECT "+mark.columns()+`, (SELECT count(*) FROM oakra_outbox_change WHERE name = $1 AND state = 3)
		`+fromAccount, o.options.Name).Scan(&mark.version, &mark.first, &mark.last, &count)
	if err == nil {
		p.mu.Lock()
		p.mark, p.count, p.at = mark, count, at
		p.mu.Unlock()
	}
	return count, err
}

// Find returns the changes with the given IDs, in the order of the IDs. It leaves out
// unknown IDs.
func (o *Outbox) Find(ctx context.Context, ids ...string) ([]Entry, error) {
	found, err := o.entries(ctx, "id IN (SELECT t FROM {texts $2})", asJSON(ids))
	if err != nil {
		return nil, fmt.Errorf("outbox: find: %w", err)
	}
	byID := make(map[string]Entry, len(found))
	for _, e := range found {
		byID[e.ID] = e
	}
	all := make([]Entry, 0, len(found))
	for _, id := range ids {
		if e, ok := byID[id]; ok {
			all = append(all, e)
		}
	}
	return all, nil
}

// List returns the changes that f selects, newest first. To continue, set
// [Filter].Before to the Seq of the last one.
func (o *Outbox) List(ctx context.Context, f Filter) ([]Entry, error) {
	condition, args := "true", []any(nil)
	add := func(clause string, arg any) {
		args = append(args, arg)
		condition += fmt.Sprintf(" AND %s $%d", clause, len(args)+1)
	}
	if f.State != "" {
		state := slices.Index(stateNames[:], f.State)
		if state < 0 {
			return nil, fmt.Errorf("outbox: list: there is no state %q", f.State)
		}
		condition = fmt.Sprintf("state = %d", state) // not a parameter, so that the partial indexes are used
	}
	if (f.SKU != "" || f.LocationID != "") && f.State != StatePending && f.State != StateParked {
		return nil, errors.New("outbox: list: SKU and LocationID need StatePending or StateParked")
	}
	if f.SKU != "" {
		add("sku =", f.SKU)
	}
	if f.LocationID != "" {
		add("location_id =", f.LocationID)
	}
	if f.Before < 0 || f.Limit < 0 {
		return nil, errors.New("outbox: list: Before and Limit must not be negative")
	}
	if f.Before > 0 {
		add("seq <", f.Before)
	}
	if f.Limit == 0 {
		f.Limit = 100
	}
	all, err := o.entries(ctx, fmt.Sprintf("%s ORDER BY seq DESC LIMIT %d", condition, f.Limit), args...)
	if err != nil {
		return nil, fmt.Errorf("outbox: list: %w", err)
	}
	return all, nil
}

// entries returns the changes of the account that a condition selects. Its
// parameters begin at $2.
func (o *Outbox) entries(ctx context.Context, condition string, args ...any) (all []Entry, err error) {
	err = o.each(ctx, o.db, func(rows *sql.Rows) error {
		var e Entry
		var state int
		var added int64
		var settled sql.NullInt64
		err := rows.Scan(&e.Seq, &e.ID, &e.SKU, &e.LocationID, &e.QuantityChange, &state, &e.Reason, &added, &settled)
		if err != nil {
			return err
		}
		e.State, e.Added, e.Settled = stateNames[state], time.UnixMilli(added), timeOf(settled)
		all = append(all, e)
		return nil
	}, "SELECT seq, id, sku, location_id, quantity, state, note, added, settled FROM oakra_outbox_change WHERE name = $1 AND "+condition,
		append([]any{o.options.Name}, args...)...)
	return all, err
}

func timeOf(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64)
}

// History returns what happened to a change, oldest first. For an unknown ID it returns
// no events and no error.
func (o *Outbox) History(ctx context.Context, id string) ([]Event, error) {
	events, err := o.history(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("outbox: history: %w", err)
	}
	slices.SortStableFunc(events, func(a, b Event) int { return a.At.Compare(b.At) })
	return events, nil
}

func (o *Outbox) history(ctx context.Context, id string) (events []Event, err error) {
	var seq, added int64
	var request, settled sql.NullInt64
	var state int
	var note string
	err = o.row(ctx, o.db, "SELECT seq, request, state, note, added, settled FROM oakra_outbox_change WHERE name = $1 AND id = $2", o.options.Name, id).
		Scan(&seq, &request, &state, &note, &added, &settled)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	events = []Event{{At: time.UnixMilli(added), Action: "added"}}
	for whole := request.Int64; whole != 0; {
		part := whole
		var at int64
		err := o.row(ctx, o.db, "SELECT added, part_of FROM oakra_outbox_request WHERE name = $1 AND id = $2", o.options.Name, part).Scan(&at, &whole)
		if errors.Is(err, sql.ErrNoRows) {
			break // deleted because it is old
		}
		if err != nil {
			return nil, err
		}
		events = append(events, Event{At: time.UnixMilli(at), Action: "requested", Note: fmt.Sprintf("in request %d", part)})
		err = o.each(ctx, o.db, func(rows *sql.Rows) error {
			var attempt, at, state int64
			err := rows.Scan(&attempt, &at, &state)
			note := fmt.Sprintf("attempt %d of request %d: %s", attempt, part, [...]string{"open", "landed", "not applied", "never seen to land"}[state])
			events = append(events, Event{At: time.UnixMilli(at), Action: "attempted", Note: note})
			return err
		}, "SELECT id, added, state FROM oakra_outbox_attempt WHERE name = $1 AND request = $2 ORDER BY id", o.options.Name, part)
		if err != nil {
			return nil, err
		}
	}
	settledByHand := false
	err = o.each(ctx, o.db, func(rows *sql.Rows) error {
		var e Event
		var at int64
		err := rows.Scan(&at, &e.By, &e.Action, &e.Note)
		e.At = time.UnixMilli(at)
		settledByHand = at == settled.Int64
		events = append(events, e)
		return err
	}, "SELECT at, who, action, note FROM oakra_outbox_event WHERE name = $1 AND change = $2 ORDER BY seq", o.options.Name, seq)
	if err == nil && state == changeApplied && !settledByHand {
		events = append(events, Event{At: timeOf(settled), Action: "applied", Note: note})
	}
	return events, err
}
