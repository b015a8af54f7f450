// Package stocksync brings Oakra to the quantities that a shop's own records
// hold.
//
//	targets, err := stocksync.ReadCSV(file)
//	if err != nil {
//		return err // names the bad lines; nothing was read or written
//	}
//	report, err := stocksync.Sync(ctx, client.Stock, targets, stocksync.Options{MaxSteps: 500})
//	for _, r := range report.Results {
//		if r.Status != stocksync.Synced { // r.Err says why, except for NotFound
//			log.Println(r.SKU, r.LocationID, r.Status, r.Err)
//		}
//	}
//	return err
//
// [Compare] reads what Oakra has and says what would change, for a person or a
// program to look at; [Plan.Apply] does it; [Sync] does both. Every target ends
// with exactly one [Status]. Records that are no target are left alone.
//
// # Writes whose outcome is unknown
//
// The response to a write can be lost while the write is not. Such a write is
// settled by looking. After [Options].SettleAfter, Oakra is read again. A record
// at the step's To is Synced. One at its From is sent again; if it is still there
// after the eighth round, it is [Unknown]. One at anything else was changed by
// somebody else: it is Unknown, with the quantity that was seen, and left alone.
//
// Somebody else may have changed a record by exactly the difference, so that it
// is at To though nothing was applied, or back at From though it was. ByChange
// therefore holds the records of one request against each other, since Oakra
// applies a request whole or not at all: what more than half of them show is
// believed, and those that show anything else are Unknown. If no more than half
// agree, because most were sold meanwhile, all are Unknown. One mistake remains
// possible: if sales as large as the differences hit more than half of the records
// of a request (easily, if it has one), a record may be reported as Synced though its
// difference was not applied, or the difference may be applied twice. Run at a quiet
// time, or with large batches, if many sales are as large as the differences.
//
// # Rejected requests
//
// If a request is rejected because of some of its records, the others are sent again:
// together if the response names the bad ones, else in halves. Oakra should have
// applied nothing of a rejected request, but some servers save its good records, and
// a change sent again would count twice there. ByChange therefore reads the records
// first. Those at From are sent again. If some are at To, the server saves item by
// item: these are Synced, and from then on each request has one record. Records that
// the others speak against are Unknown, and so are all if most were sold meanwhile. A
// run that ends before it can read reports the records as NotTried, since the response
// said that nothing was applied.
//
// # Running it again
//
// Nothing is kept between runs: each reads Oakra anew, and what is right is left
// alone. So it is safe to run it again after any failure, once the requests of
// the run before have landed or are lost: after an Unknown, after a context that
// ended, and after a process that was killed, wait SettleAfter first. After
// [Options].Stop only the Unknown need that wait. Two runs at the same time for the
// same records are not safe.
package stocksync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/internal/hold"
)

// Stock is what Compare, Apply and Sync need of Oakra; [oakra.StockService] is
// one. Another must keep to what that documents: the error of UpdateAll and
// ChangeAll is an [oakra.BulkError] that lists every item that is not known to be
// applied, the items of one request with the same error. Any other error is taken to
// concern all items. Both must heed the [oakra.BulkOptions].
//
// A Stock that also has the method ListSeq of StockService is read with that
// instead of Lookup. Lookup fails if one key has several records; ListSeq lets the
// others be synced, and shows records that differ from a target only in case.
type Stock interface {
	Lookup(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error)
	UpdateAll(ctx context.Context, updates []oakra.StockUpdate, o oakra.BulkOptions) error
	ChangeAll(ctx context.Context, changes []oakra.StockChange, o oakra.BulkOptions) error
}

// Target is how many units of an item a shop's records hold at one location.
type Target struct {
	SKU, LocationID string
	Quantity        int64 // in units; may be negative where the shop oversold
}

// Key is what Oakra knows the target by.
func (t Target) Key() oakra.StockKey {
	return oakra.StockKey{SKU: t.SKU, LocationID: t.LocationID}
}

// name is not called String: Result would inherit that, and print as a Target.
func (t Target) name() string { return fmt.Sprintf("SKU %.60q at %.60q", t.SKU, t.LocationID) }

// Mode is how a step is written.
type Mode int

const (
	// ByChange sends the difference between the target and what was read, which
	// the API reference recommends: a sale between reading and writing is kept,
	// and the record ends at the target minus what was sold.
	ByChange Mode = iota
	// ByUpdate sends the target's number: a sale between reading and writing is
	// undone. It is for a shop that stands still, or for a count of the shelves.
	ByUpdate
)

// Options tunes a run; the zero value is good.
type Options struct {
	Mode        Mode // ByChange, unless set
	BatchSize   int  // records that one request writes at most; 0 is the default of [oakra.BulkOptions]; small ones leave more unknown outcomes to a person
	Concurrency int  // writes in flight at most; 0 is that default

	// MaxSteps is how many records a run may change; 0 is any number. A plan with
	// more is not applied, with ErrTooManySteps. Set it to a little more than a usual
	// run changes, so that a feed gone wrong stops before it does harm.
	MaxSteps int

	// SumDuplicates adds up the quantities of targets with the same SKU and
	// location, such as lines of bins, lots or serial numbers. Otherwise these
	// targets are a Conflict, also if their quantities are equal.
	SumDuplicates bool

	// SettleAfter is how long a write whose outcome is unknown may still land.
	// That long after the writes of a round, and not sooner, Oakra is read again
	// to see; and that long a write that was not applied for a passing cause,
	// such as 429, waits for the next round; so a run waits eight times at most.
	// A write that lands even later may count twice. 0 is one minute: a proxy
	// before a Django server commonly gives up on a request after 60 s, and
	// gunicorn stops one that takes 30 s. Tests on the fake server set a few
	// milliseconds.
	SettleAfter time.Duration

	// OutageTimeout is how long a write or a read waits for a service that stops
	// responding, as in [oakra.BulkOptions]; 0 is one minute. With a negative one
	// nothing is waited for. A read that waited in vain ends Compare, and Apply if
	// nothing was written; later, it is tried again in the next round.
	OutageTimeout time.Duration

	// Stop ends the run early without making an outcome unknown. Once it is closed,
	// nothing more is sent, read or waited for, and the writes in flight finish. An
	// outcome that was unknown before stays Unknown, the rest is NotTried, and the
	// errors match [oakra.ErrStopped]. It is usually the Done channel of the program's
	// signal context, while the call itself gets [context.WithoutCancel] of it.
	Stop <-chan struct{}

	// OnProgress is called now and then, and when the run begins or ends to wait for
	// the service, by one goroutine at a time; the run waits for it.
	OnProgress func(Progress)
}

const defaultSettleAfter = time.Minute

func (o Options) check() error {
	switch {
	case o.Mode != ByChange && o.Mode != ByUpdate:
		return fmt.Errorf("stocksync: Options: there is no Mode %d", o.Mode)
	case o.BatchSize < 0, o.Concurrency < 0, o.MaxSteps < 0, o.SettleAfter < 0:
		return fmt.Errorf("stocksync: Options: BatchSize %d, Concurrency %d, MaxSteps %d or SettleAfter %v is less than zero",
			o.BatchSize, o.Concurrency, o.MaxSteps, o.SettleAfter)
	}
	return nil
}

func (o Options) outageTimeout() time.Duration { return cmp.Or(o.OutageTimeout, hold.Timeout) }

func (o Options) settleAfter() time.Duration { return cmp.Or(o.SettleAfter, defaultSettleAfter) }

func (o Options) stopped() bool {
	select {
	case <-o.Stop:
		return true
	default:
		return false
	}
}

// untilStop returns a context that also ends when Stop is closed.
func (o Options) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if o.stopped() {
		cancel()
	}
	go func() {
		select {
		case <-o.Stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (o Options) report(p Progress) {
	if o.OnProgress != nil {
		o.OnProgress(p)
	}
}

// Phase is what a run is doing.
type Phase string

// The phases of a run.
const (
	Reading  Phase = "reading"  // Compare or Apply reads before anything is written; counted in records asked for
	Writing  Phase = "writing"  // Apply writes; counted in steps, of which the synced ones are done
	Settling Phase = "settling" // Apply waits to read again, or reads; counted in steps that are to be settled
)

// Progress says how far a phase has come.
type Progress struct {
	Phase       Phase
	Done, Total int

	Waiting      bool      // for a service that does not respond
	WaitingSince time.Time // time of the failure that the wait began with
	WaitingFor   error     // that failure, which wraps an [oakra.Error]
}

var (
	// ErrTooManySteps means that the plan changes more records than [Options].MaxSteps.
	ErrTooManySteps = errors.New("stocksync: more steps than MaxSteps")
	// ErrApplied means that the plan was applied before, so its numbers are no longer true.
	ErrApplied = errors.New("stocksync: the plan was applied before: compare anew")
	// ErrIncomplete means that a plan was applied, and some targets are Rejected, Unknown,
	// NotTried, or Differ.
	ErrIncomplete = errors.New("stocksync: not every target is synced")
	// ErrNoneKnown means that all targets are NotFound, so the locations or the SKUs are
	// likely written in another way in Oakra.
	ErrNoneKnown = errors.New("stocksync: Oakra knows none of the targets: are the SKUs and locations written as there?")
)

// Step changes one record from one quantity to another.
type Step struct {
	ID       int64 // id of the record
	Key      oakra.StockKey
	From, To int64 // what was read, and the target
}

// Conflict is a record for which there are several targets, without
// [Options].SumDuplicates, or with a sum that does not fit into 64 bits.
type Conflict struct {
	Key        oakra.StockKey
	Quantities []int64 // quantities of the targets, in the order given
}

// Ambiguity is a target for which Oakra has several records, though there should
// be one for a SKU at a location. Which one to write to is for the owner of the
// account to say.
type Ambiguity struct {
	Target  Target
	Records []oakra.StockRecord
}

// Plan is what Compare found. Each target is in exactly one of the lists, which
// are in the order given. Steps may be taken out before Apply, which does those
// that are left and no others.
type Plan struct {
	Steps     []Step      // would change
	Equal     []Target    // have the quantity already
	NotFound  []Target    // Oakra has no such SKU at that location
	Ambiguous []Ambiguity // Oakra has several records; Apply reports the targets as Rejected
	Conflicts []Conflict  // there are several targets; Apply reports them as Rejected

	// Similar maps keys of NotFound to that of a record whose SKU or location differs
	// only in case, if there is one. Oakra tells only if it searches so.
	Similar map[oakra.StockKey]oakra.StockKey

	unread  []Target // targets of Sync, when reading failed
	stock   Stock
	options Options
	applied atomic.Bool
}

// Compare reads what Oakra has and says what would change; it writes nothing.
//
// Errors: of the options; of the first target that has a blank SKU or location,
// before anything is read; of reading, wrapping an [oakra.Error], for a service that
// does not respond after [Options].OutageTimeout. ErrTooManySteps comes with the plan, to look at; without an
// error, or with that one, there is a plan, with any other there is none.
func Compare(ctx context.Context, stock Stock, targets []Target, o Options) (*Plan, error) {
	plan, err := compare(ctx, stock, targets, o)
	if err != nil && !errors.Is(err, ErrTooManySteps) {
		return nil, err
	}
	return plan, err
}

// Sync is Compare and Apply. The report is never nil: what failed before
// anything was written is reported as not tried. The error is that of Compare or
// that of Apply.
func Sync(ctx context.Context, stock Stock, targets []Target, o Options) (*Report, error) {
	plan, err := compare(ctx, stock, targets, o)
	if err != nil {
		return plan.report(plan.notTried(err), err), err
	}
	return plan.apply(ctx, true)
}

// compare always returns a plan; where it could not read, all targets are unread.
func compare(ctx context.Context, stock Stock, targets []Target, o Options) (*Plan, error) {
	plan := &Plan{stock: stock, options: o, unread: targets}
	if err := o.check(); err != nil {
		return plan, err
	}
	for i, t := range targets {
		if strings.TrimSpace(t.SKU) == "" || strings.TrimSpace(t.LocationID) == "" {
			return plan, fmt.Errorf("stocksync: targets[%d], %s: the SKU or the location is blank", i, t.name())
		}
	}
	keys, quantities := group(targets)
	if o.SumDuplicates {
		addUp(quantities)
	}
	plan.unread = make([]Target, 0, len(targets))
	for _, key := range keys {
		for _, quantity := range quantities[key] {
			plan.unread = append(plan.unread, Target{SKU: key.SKU, LocationID: key.LocationID, Quantity: quantity})
		}
	}
	reader := reader{stock: stock, options: o, phase: Reading}
	stocked, err := reader.read(ctx, keys)
	if err != nil {
		return plan, fmt.Errorf("stocksync: reading the stock; nothing was written: %w", err)
	}
	plan.unread = nil
	plan.Similar = make(map[oakra.StockKey]oakra.StockKey)
	for _, key := range keys {
		t := Target{SKU: key.SKU, LocationID: key.LocationID, Quantity: quantities[key][0]}
		records := stocked.records[key]
		switch {
		case len(quantities[key]) > 1:
			plan.Conflicts = append(plan.Conflicts, Conflict{Key: key, Quantities: quantities[key]})
		case len(records) > 1:
			plan.Ambiguous = append(plan.Ambiguous, Ambiguity{Target: t, Records: records})
		case len(records) == 0:
			plan.NotFound = append(plan.NotFound, t)
			if similar, ok := stocked.similar[key]; ok {
				plan.Similar[key] = similar
			}
		case records[0].Quantity == t.Quantity:
			plan.Equal = append(plan.Equal, t)
		default:
			plan.Steps = append(plan.Steps, Step{ID: records[0].ID, Key: key, From: records[0].Quantity, To: t.Quantity})
		}
	}
	return plan, plan.tooMany()
}

// group returns the quantities of each record, and the order of the records.
func group(targets []Target) (keys []oakra.StockKey, quantities map[oakra.StockKey][]int64) {
	quantities = make(map[oakra.StockKey][]int64, len(targets))
	for _, t := range targets {
		if quantities[t.Key()] == nil {
			keys = append(keys, t.Key())
		}
		quantities[t.Key()] = append(quantities[t.Key()], t.Quantity)
	}
	return keys, quantities
}

// addUp replaces the quantities of each record with their sum, if it fits.
func addUp(quantities map[oakra.StockKey][]int64) {
	for key, all := range quantities {
		if len(all) == 1 {
			continue
		}
		sum := new(big.Int)
		for _, quantity := range all {
			sum.Add(sum, big.NewInt(quantity))
		}
		if sum.IsInt64() {
			quantities[key] = []int64{sum.Int64()}
		}
	}
}

func (p *Plan) tooMany() error {
	if most := p.options.MaxSteps; most > 0 && len(p.Steps) > most {
		return fmt.Errorf("%w: it would change %d records, over %d; nothing was written: look at the plan, and raise MaxSteps if it is right",
			ErrTooManySteps, len(p.Steps), most)
	}
	return nil
}
