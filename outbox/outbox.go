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
// db is a SQLite file, or PostgreSQL; the package needs a driver that the program
// imports. [New] checks that the settings of the database are safe.
//
// # The promise
//
// Every recorded change is applied once in the end, or the outbox halts and says why;
// it never guesses. It is not "exactly once": a request that lands later than Grace
// may count twice for a while, until it is taken back.
//
// A change that Oakra rejects is parked with the server's words, for a person, see
// [Outbox.Resolve]. No change is parked because of an outage or of a fault in the
// setup, such as a revoked app key.
//
// # How it knows what landed
//
// A response can be lost, and other sellers change the same records, so neither a
// response nor the items themselves say whether a request was applied. Each request
// therefore carries two records that nothing else changes, the witnesses: head, the
// items, tail. An attempt to send it has a code, a power of two below 2^16, and a sign
// that leads head back to 200,000. It adds sign*code to head, and twice that plus 11
// to tail. From the two quantities, which a response or a read shows, follows exactly
// which attempts landed. A pair of quantities that no set of attempts explains is read
// again, and if that does not help within Grace, the outbox halts.
//
// Create the two stock records in Oakra once, with a quantity of 200,000 each, and
// never list, sell, count or edit them. One pair belongs to one account in one
// database.
//
// # What happens
//
//  1. Pending changes are put into a request, the changes of a record summed.
//  2. An attempt is recorded, with its code and deadline, before its first byte leaves.
//  3. An attempt that the witnesses show has landed: its request is applied.
//  4. A request that landed twice, or after it was rejected, is taken back by another
//     request.
//  5. An attempt that was proved not to be sent is closed, and its request sent again.
//  6. A request whose attempts' deadlines passed more than Grace ago, and which a read
//     that began later does not show, is sent again. The earlier attempts may still
//     land.
//  7. A rejected request is ended, once a read shows that it was not applied: the items
//     that the server names are parked, the others are sent again; without names, its
//     halves are sent.
//  8. An attempt that a read does not show is forgotten, if the read began later than
//     11 times Grace after the attempt's deadline.
//  9. Witnesses that cannot be explained by three reads, spread over Grace, halt the
//     outbox.
//  10. A process that is silent for longer than Lease is replaced by another one, which
//     reads the witnesses before it sends.
//
// # What it assumes
//
// A1. A request is applied whole or not at all. A server that applies the first part
// of a request is found out, and the outbox halts; with one that applies other parts,
// that one request may be wrong in part.
//
// A2. Nothing else writes the witnesses. Else the outbox finds out and halts, unless
// an edit happens to be exactly what an open attempt would have done.
//
// A3. A read shows the server as it was at some moment of the last ten times Grace.
// Else a landing may be forgotten, and a request counted twice. Three reads in a row,
// spread over Grace, that are older than what is recorded halt the outbox: they look
// like a server that was set back.
//
// A4. The database keeps what it committed. After a backup was restored, or a failover
// lost commits, the outbox halts before it sends anything, unless a request was under
// way at that moment.
//
// A5. Nothing lands later than Grace after its deadline. Else it may count twice for a
// while, and is then taken back.
//
// A6. Nothing lands after its attempt was forgotten. Else the outbox halts, unless the
// code of that attempt is in use again by then.
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

// Options are the settings of an Outbox. The zero value is good for a first try; a
// shop names its Witnesses.
type Options struct {
	// Name is the Oakra account, where several share the tables; "" is "default".
	// Each name is an outbox of its own: changes that are added under a misspelled
	// one wait for a process that dispatches under it.
	Name string
	// Witnesses are the two records that show which requests landed, head and
	// tail: SKUs that the shop creates once in Oakra with a quantity of 200,000
	// and never lists or sells. Without them, changes whose outcome is unknown are
	// parked at once, for a person.
	Witnesses [2]oakra.StockKey
	// BatchSize is how many stock records a request has at most, the witnesses
	// included; 0 is 500.
	BatchSize int
	// RequestTimeout bounds one call of Change, its resends included; 0 is 30 s.
	RequestTimeout time.Duration
	// Grace is how long after its timeout a request may still land; 0 is one
	// minute. If it is too short, some changes count twice until they are taken
	// back; sums are right in the end. Processes may have different values: for a
	// request, the longer of the sender's and the dispatcher's counts.
	Grace time.Duration
	// Lease is how long dispatching stays with a process that went silent; 0 is
	// 30 s. It saves work; safety does not depend on it.
	Lease time.Duration
	// Poll is how often to look for changes that another process added; 0 is one
	// second.
	Poll time.Duration
	// Retention is how long settled changes are kept, and their IDs remembered; 0
	// keeps them for ever.
	Retention time.Duration
	// NoMigrate makes New fail instead of creating or changing tables.
	NoMigrate bool
	// OnHalt is called when the outbox halts, with the reason, for an alarm. It is
	// called once, by the process that halted, after the halt is committed.
	OnHalt func(reason string)
	// OnParked is called for each change that is parked, by the process that
	// parked it, after that is committed.
	OnParked func(Entry)
	// Logger receives what a person may want to know; nil logs nothing.
	Logger *slog.Logger
}

// Outbox is an outbox of one Oakra account. Its methods may be called by many
// goroutines at once.
type Outbox struct {
	db        *sql.DB
	stock     Stock
	options   Options
	dialect   *dialect
	rules     rules
	log       *slog.Logger
	witnesses [2]oakra.StockKey // also those that another process named
	wake      chan struct{}     // a change was added in this process
	adder     adder
	prepared  prepared // for AddTx
}

// ErrHalted, and the errors of adding and resolving.
var (
	// ErrHalted is matched by the error of Drain while the outbox is halted.
	ErrHalted = errors.New("the outbox is halted")
	// ErrIDReused is matched when a change has the ID of a recorded one and other
	// content. With the same content adding it again is no error. On PostgreSQL it
	// aborts the caller's transaction.
	ErrIDReused = errors.New("the ID belongs to another change")
	// ErrUnknownID is matched when Resolve is given an ID that is not recorded.
	ErrUnknownID = errors.New("no change has this ID")
	// ErrNotParked is matched when Resolve is given the ID of a change that is not
	// parked.
	ErrNotParked = errors.New("the change is not parked")
)

// New returns an outbox in a SQLite or PostgreSQL database, and creates or migrates
// its tables. stock is nil in a process that only adds.
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
			return fmt.Errorf("the option Witnesses has twice %s: head and tail must be two records", keyText(head))
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

// rules are the numbers by which the dispatcher decides.
func (o Options) rules(witnesses bool) rules {
	return rules{
		codes:   16,
		growth:  11,
		timeout: o.RequestTimeout.Milliseconds(),
		grace:   o.Grace.Milliseconds(),
		forget:  11, // a read may be 10 times Grace old (A3), and the landing Grace late (A5)
		pause:   50,
		setup:   500,
		longest: 30_000,
		look:    o.Poll.Milliseconds(),
		blind:   !witnesses,
	}
}

// enroll learns the account's witnesses, and records those that this process names.
//
// It makes no row for an account without witnesses: its first dispatcher does, once a
// change is recorded (see lead). A misspelled Name then leaves nothing behind in a
// process that only adds, or that only looks.
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

// storedWitnesses returns the witnesses that a process named for the account; the zero
// value if none did.
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
