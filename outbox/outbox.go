// Package outbox records stock changes in the shop's own database, in the same
// transaction as the order, and applies each of them to Oakra once, whatever fails in
// between.
//
//	box, err := outbox.New(ctx, db, client.Stock, outbox.Options{
//		Witnesses: [2]oakra.StockKey{
//			{SKU: "outbox-head", LocationID: "warehouse-1"},
//			{SKU: "outbox-tail", LocationID: "warehouse-1"},
//		},
//	})
//	...
//	go box.Run(ctx) // dispatches until ctx ends
//	...
//	tx, err := db.BeginTx(ctx, nil)
//	... // insert the order
//	err = box.AddTx(ctx, tx, outbox.Change{ID: "order-1001/1", SKU: "shirt-blue-m", LocationID: "warehouse-1", QuantityChange: -1})
//	err = tx.Commit() // now both are durable, or neither is
//
// The database is a SQLite file or PostgreSQL. The program imports its driver. [New]
// checks that the settings of the database are safe.
//
// # The promise
//
// Every recorded change is applied once in the end, or the outbox halts and says why.
// It never guesses. This is not "exactly once": a request that lands, that is, arrives
// and is applied by Oakra, later than [Options].Grace may count twice until the outbox
// takes one of the two back.
//
// A change that Oakra rejects is parked with the server's message until a person decides
// what to do, see [Outbox.Resolve]. No change is parked because of an outage or an
// error in the setup, such as a revoked app key.
//
// # How it knows what landed
//
// A response can be lost, and other sellers change the same stock records. Neither a
// response nor the items themselves can therefore show whether a request was applied.
// Each request carries two more records, the witnesses, which nothing else changes:
// first the head, then the items, then the tail.
//
// Every attempt to send a request has a code, which is a power of two below 2^16, and
// a sign, which is chosen to bring the head back towards 200,000. The attempt adds
// sign*code to the head, and 2*sign*code + 11 to the tail. The quantities of the two
// witnesses, in a response or a later read, then show exactly which attempts landed.
// If no set of attempts explains the quantities, they are read again. If they cannot
// be explained for as long as Grace, the outbox halts.
//
// Create the two stock records in Oakra once, with a quantity of 200,000 each. Never
// list, sell, count or edit them. Each account in each database needs a pair of its
// own.
//
// # What happens
//
//  1. Pending changes are put into a request, which has one item for each stock record.
//  2. An attempt is committed to the database, with its code and deadline, before its
//     first byte is sent.
//  3. When the witnesses show that an attempt landed, its request is applied.
//  4. If a request landed twice, or landed after it was rejected, another request, an
//     undo, takes one landing back.
//  5. If an attempt certainly was not sent, it is closed, and its request is sent again.
//  6. A request is sent again once all of its attempts have been overdue for Grace and a
//     read that began after that does not show them. They may still land.
//  7. If Oakra rejects a request, and a read confirms that it was not applied, the items
//     that the response names are parked and the others are sent again. If it names
//     none, each half of the request is sent by itself.
//  8. An attempt is forgotten once a read that began more than 11 times Grace after its
//     deadline does not show it.
//  9. If at least three reads in a row, over at least Grace, cannot be explained, the
//     outbox halts.
//  10. If a dispatching process is silent for longer than Lease, another one replaces it
//     and reads the witnesses before it sends anything.
//
// # What it assumes
//
// A1. A request is applied as a whole or not at all. If a server applies only the first
// items of a request, the outbox notices and halts. If it applies other items, the
// result of that one request may be wrong.
//
// A2. Nothing else changes the witnesses. If something does, the outbox notices and
// halts, unless the edit happens to be exactly what an open attempt would have done.
//
// A3. A read shows a state of the server that is at most ten times Grace old. If it
// shows an older one, a landing may be forgotten, and a request may count twice. If
// three reads in a row, over at least Grace, are older than what is recorded, the outbox
// halts, because the server may have been restored from a backup.
//
// A4. The database keeps what it committed. After a backup is restored, or a failover
// loses commits, the outbox halts before it sends anything, unless a request was in
// flight at that moment.
//
// A5. No request lands later than Grace after its deadline. If one does, it may count
// twice until it is taken back.
//
// A6. No attempt lands after it was forgotten. If one does, the outbox halts, unless the
// same code is in use again by then.
//
// Without witnesses, a change whose outcome is unknown is parked at once.
package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/oakra/oakra-go"
)

// Stock is the part of [*oakra.StockService] that an Outbox uses.
type Stock interface {
	Lookup(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error)
	Change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error)
}

// Options are the settings of an Outbox. The zero value is enough to try it. In
// production, set Witnesses.
type Options struct {
	// Name is the name of the Oakra account, if several accounts share the tables;
	// "" means "default". Each name is an outbox of its own: changes that are added
	// under a misspelled name wait for a process that dispatches under that name.
	Name string
	// Witnesses are the two records that show which requests landed, head and
	// tail: SKUs that the shop creates once in Oakra with a quantity of 200,000
	// and never lists or sells. Without them, changes whose outcome is unknown are
	// parked at once. The database stores them, and a process that only adds may
	// leave them out. They can be replaced only while no attempt is open.
	Witnesses [2]oakra.StockKey
	// BatchSize is the largest number of stock records in a request, including
	// the witnesses; 0 means 500.
	BatchSize int
	// RequestTimeout bounds one call of Stock.Change, including its resends; 0
	// means 30 s.
	RequestTimeout time.Duration
	// Grace is how long after its timeout a request may still land; 0 means one
	// minute. If it is too short, some changes count twice until they are taken
	// back. If the process that sent a request and the one that dispatches have
	// different values, the longer one applies to the request.
	Grace time.Duration
	// Lease is how long a dispatching process may be silent before another one
	// replaces it; 0 means 30 s. Safety does not depend on it.
	Lease time.Duration
	// Poll is how often to look for changes that another process added; 0 means
	// one second.
	Poll time.Duration
	// Retention is how long settled changes are kept and their IDs remembered; 0
	// means for ever.
	Retention time.Duration
	// NoMigrate makes New fail instead of creating or changing tables.
	NoMigrate bool
	// OnHalt is called when the outbox halts, with the reason, for an alarm. It is
	// called once, by the process that halted, after the halt is committed.
	OnHalt func(reason string)
	// OnParked is called for each change that is parked, by the process that
	// parked it, after that is committed.
	OnParked func(Entry)
	// Logger receives failures, parked changes and halts; nil logs nothing.
	Logger *slog.Logger
}

// Outbox is the outbox of one Oakra account. Its methods are safe for concurrent use.
type Outbox struct {
	db        *sql.DB
	stock     Stock
	options   Options
	dialect   *dialect
	rules     rules
	log       *slog.Logger
	witnesses [2]oakra.StockKey // witnesses of the account, even if another process named them
	wake      chan struct{}     // signal that this process added a change
	adder     adder
	prepared  prepared // for AddTx
	counted   parkedCount
}

// Errors that the methods of an Outbox match.
var (
	// ErrHalted is matched by the error of Drain while the outbox is halted.
	ErrHalted = errors.New("the outbox is halted")
	// ErrIDReused is matched when a change has the ID of a recorded change with
	// different content. Adding the same change again is not an error. On
	// PostgreSQL the error aborts the caller's transaction.
	ErrIDReused = errors.New("the ID belongs to another change")
	// ErrUnknownID is matched when Resolve is given an ID that is not recorded.
	ErrUnknownID = errors.New("no change has this ID")
	// ErrNotParked is matched when Resolve is given the ID of a change that is not
	// parked.
	ErrNotParked = errors.New("the change is not parked")
)

// New returns an outbox in a SQLite or PostgreSQL database, and creates or migrates
// its tables. A process that only adds changes passes a nil stock.
func New(ctx context.Context, db *sql.DB, stock Stock, o Options) (*Outbox, error) {
	outbox, err := open(ctx, db, stock, o)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return outbox, nil
}

func open(ctx context.Context, db *sql.DB, stock Stock, options Options) (*Outbox, error) {
	if db == nil {
		return nil, errors.New("the database is nil")
	}
	if service, ok := stock.(*oakra.StockService); ok && service == nil {
		return nil, errors.New("stock is a nil *oakra.StockService: take that of a client of oakra.NewClient")
	}
	if err := options.complete(); err != nil {
		return nil, err
	}
	dialect, err := detect(ctx, db)
	if err != nil {
		return nil, err
	}
	if err := dialect.check(ctx, db); err != nil {
		return nil, err
	}
	o := &Outbox{
		db: db, stock: stock, options: options, dialect: dialect,
		rules: options.rules(options.Witnesses[0].SKU != ""),
		log:   options.Logger,
		wake:  make(chan struct{}, 1),
	}
	if err := o.migrate(ctx); err != nil {
		return nil, err
	}
	if err := o.enroll(ctx); err != nil {
		return nil, err
	}
	if err := o.prepareAdd(ctx); err != nil {
		return nil, err
	}
	return o, nil
}

// complete checks the options and fills in the defaults.
func (o *Options) complete() error {
	o.Name = cmp.Or(o.Name, "default")
	if err := checkText("the option Name", o.Name); err != nil {
		return err
	}
	head, tail := o.Witnesses[0], o.Witnesses[1]
	if o.Witnesses != [2]oakra.StockKey{} {
		for i, key := range o.Witnesses {
			if err := checkKey(fmt.Sprintf("the option Witnesses[%d]", i), key); err != nil {
				return fmt.Errorf("%w (name both witnesses, or none)", err)
			}
		}
		if head == tail {
			return fmt.Errorf("the option Witnesses names %s twice: head and tail must be two records", keyText(head))
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		unset time.Duration
	}{
		{"RequestTimeout", &o.RequestTimeout, 30 * time.Second},
		{"Grace", &o.Grace, time.Minute},
		{"Lease", &o.Lease, 30 * time.Second},
		{"Poll", &o.Poll, time.Second},
		{"Retention", &o.Retention, 0},
	} {
		if *d.value < 0 {
			return fmt.Errorf("the option %s is %v: it must not be negative", d.name, *d.value)
		}
		*d.value = cmp.Or(*d.value, d.unset)
		if *d.value > 0 && *d.value < time.Millisecond {
			return fmt.Errorf("the option %s is %v: it must be at least one millisecond", d.name, *d.value)
		}
	}
	o.BatchSize = cmp.Or(o.BatchSize, 500)
	if least := 1 + o.reserved(); o.BatchSize < least {
		return fmt.Errorf("the option BatchSize is %d: it must be at least %d", o.BatchSize, least)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// reserved returns how many records of a request are witnesses.
func (o *Options) reserved() int {
	if o.Witnesses[0].SKU == "" {
		return 0
	}
	return len(o.Witnesses)
}

// rules returns the numbers by which the dispatcher decides.
func (o Options) rules(witnesses bool) rules {
	return rules{
		codes:   16,
		growth:  11,
		timeout: o.RequestTimeout.Milliseconds(),
		grace:   o.Grace.Milliseconds(),
		forget:  11, // a read may be 10 times Grace old (A3), and a landing may be Grace late (A5)
		pause:   50,
		setup:   500,
		longest: 30_000,
		look:    o.Poll.Milliseconds(),
		blind:   !witnesses,
	}
}

// enroll loads the account's witnesses, and records those that this process names.
//
// It does not create a row for an account without witnesses. The account's first
// dispatcher does that once a change is recorded (see lead). A misspelled Name
// therefore leaves nothing behind if the process only adds or only reads.
func (o *Outbox) enroll(ctx context.Context) (err error) {
	named := o.options.Witnesses
	if named == [2]oakra.StockKey{} {
		o.witnesses, err = o.storedWitnesses(ctx, o.db)
		return err
	}
	var former [2]oakra.StockKey
	err = o.transact(ctx, func(tx *sql.Tx) error {
		if _, err := o.exec(ctx, tx, insertAccount+" ON CONFLICT (name) DO NOTHING", o.options.Name); err != nil {
			return err
		}
		if former, err = o.storedWitnesses(ctx, tx); err != nil || former == named {
			return err
		}
		var open int64
		if err := o.row(ctx, tx, "SELECT count(*) FROM oakra_outbox_attempt WHERE name = $1 AND state = 0", o.options.Name).Scan(&open); err != nil {
			return err
		}
		if open > 0 {
			return fmt.Errorf("the account %q has %d open attempts with other witnesses, %s: name these until nothing is open", o.options.Name, open, pairText(former))
		}
		_, err = o.exec(ctx, tx, `UPDATE oakra_outbox_account SET head_sku = $2, head_location = $3, tail_sku = $4, tail_location = $5,
			former_witnesses = $6, replaced = {now}, head = 0, tail = 0, epoch = epoch + 1, until = 0 WHERE name = $1`,
			o.options.Name, named[0].SKU, named[0].LocationID, named[1].SKU, named[1].LocationID, pairText(former))
		return err
	})
	if err != nil {
		return err
	}
	o.witnesses = named
	if former != named && former[0].SKU != "" {
		o.log.WarnContext(ctx, "outbox: replaced the witnesses of the account", "account", o.options.Name, "former", pairText(former), "now", pairText(named))
	}
	return nil
}

// storedWitnesses returns the witnesses that a process named for the account, or the
// zero value if none did.
func (o *Outbox) storedWitnesses(ctx context.Context, q querier) (w [2]oakra.StockKey, err error) {
	err = o.row(ctx, q, "SELECT head_sku, head_location, tail_sku, tail_location FROM oakra_outbox_account WHERE name = $1", o.options.Name).
		Scan(&w[0].SKU, &w[0].LocationID, &w[1].SKU, &w[1].LocationID)
	if errors.Is(err, sql.ErrNoRows) {
		return w, nil
	}
	return w, err
}

func keyText(key oakra.StockKey) string { return fmt.Sprintf("%q at %q", key.SKU, key.LocationID) }

// pairText names two witnesses; it is empty if there are none.
func pairText(w [2]oakra.StockKey) string {
	if w[0].SKU == "" {
		return ""
	}
	return keyText(w[0]) + " and " + keyText(w[1])
}
