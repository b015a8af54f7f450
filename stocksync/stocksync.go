// Package stocksync sets the quantities in Oakra to those in a shop's own
// records.
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
// [Compare] reads the stock from Oakra and returns a plan of what would change,
// for a person or a program to review. [Plan.Apply] carries it out. [Sync] does
// both. Every target ends with exactly one [Status]. Records that are not a target
// are left alone.
//
// # Writes whose outcome is unknown
//
// The response to a write can be lost, and it is then unknown whether the write was
// applied. This is settled by reading the records again after [Options].SettleAfter.
// A record whose quantity is the step's To is Synced. A record whose quantity is
// still From is sent again; if it is still at From after the eighth round, it is
// [Unknown]. A record with any other quantity was changed by somebody else: it is
// Unknown, with the quantity that was seen, and left alone.
//
// Somebody else may have changed a record by exactly the difference. The record is
// then at To although nothing was applied, or back at From although the step was
// applied. ByChange therefore compares the records of one request with each other,
// because Oakra applies a request as a whole or not at all. If more than half of
// them show the same outcome, it is taken as that of the request, and the records
// that show anything else are Unknown. If there is no such majority, because most of
// the records were sold meanwhile, all are Unknown.
//
// One mistake remains possible. If sales as large as the differences affect more
// than half of the records of a request (which is likely if it has only one), a
// record may be reported as Synced although its difference was not applied, or the
// difference may be applied twice. If many sales are as large as the differences,
// run at a quiet time or with large batches.
//
// # Rejected requests
//
// If a request is rejected because of some of its records, the others are sent again:
// together if the response names the bad ones, otherwise in halves. Oakra should not
// have applied any part of a rejected request, but some servers save its good records,
// and a change sent again would count twice there. ByChange therefore reads the
// records first. Those at From are sent again. If some are at To, the server saves
// item by item: these are Synced, and from then on each request has one record. A
// record that contradicts the others of its request is Unknown. If most were sold
// meanwhile, all are Unknown. A run that ends before it can read reports the records
// as NotTried, because the response said that nothing was applied.
//
// # Running it again
//
// Nothing is kept between runs. Each run reads Oakra again and leaves alone the
// records that are already right. It is therefore safe to run again after any
// failure, once no request of the previous run can still arrive: after an Unknown
// result, after the context ended, and after the process was killed, wait for
// SettleAfter first. After [Options].Stop, only Unknown results need that wait.
// Two runs at the same time for the same records are not safe.
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

// Stock is the part of Oakra's API that Compare, Apply and Sync use.
// [oakra.StockService] implements it. Another implementation must behave as that
// one documents: UpdateAll and ChangeAll must respect the [oakra.BulkOptions] and
// return an [oakra.BulkError] that lists every item that is not known to be
// applied, with the same error for all items of one request. Any other error is
// taken to concern all items.
//
// A Stock that also has the ListSeq method of StockService is read with that
// instead of Lookup. Lookup fails if one key has several records. With ListSeq the
// other targets can still be synced, and records that differ from a target only in
// case are found.
type Stock interface {
	Lookup(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error)
	UpdateAll(ctx context.Context, updates []oakra.StockUpdate, o oakra.BulkOptions) error
	ChangeAll(ctx context.Context, changes []oakra.StockChange, o oakra.BulkOptions) error
}

// Target is the quantity of an item at one location in the shop's records.
type Target struct {
	SKU, LocationID string
	Quantity        int64 // in units; may be negative where the shop oversold
}

// Key returns the key of the target's record in Oakra.
func (t Target) Key() oakra.StockKey {
	return oakra.StockKey{SKU: t.SKU, LocationID: t.LocationID}
}

// name describes the target in errors. It is not called String, because Result
// would inherit that and print as a Target.
func (t Target) name() string { return fmt.Sprintf("SKU %.60q at %.60q", t.SKU, t.LocationID) }

// Mode says how a step is written.
type Mode int

const (
	// ByChange sends the difference between the target and the quantity that was
	// read, as the API reference recommends. A sale between reading and writing is
	// kept, and the record ends at the target minus the units sold.
	ByChange Mode = iota
	// ByUpdate sends the target's quantity. A sale between reading and writing is
	// overwritten. Use it while nothing is sold, such as for a stocktake.
	ByUpdate
)

// Options tunes a run. The zero value is ready to use.
type Options struct {
	Mode        Mode // ByChange by default
	BatchSize   int  // most records in one request; 0 means the default of [oakra.BulkOptions]; with small batches fewer unknown outcomes can be settled
	Concurrency int  // most writes in flight; 0 means the default of [oakra.BulkOptions]

	// MaxSteps is the most records that a run may change; 0 means no limit. A plan
	// with more steps is not applied and fails with ErrTooManySteps. Set it to a
	// little more than a usual run changes, to stop a broken feed before it does harm.
	MaxSteps int

	// SumDuplicates adds up the quantities of targets with the same SKU and
	// location, such as one line for each bin, lot or serial number. Otherwise these
	// targets are a Conflict, even if their quantities are equal.
	SumDuplicates bool

	// SettleAfter is how long a write whose outcome is unknown may still arrive. The
	// run waits that long after the writes of a round before it reads Oakra again.
	// Writes that were not applied for a temporary reason, such as a 429, wait for
	// the next round too. A run waits at most eight times. A write that arrives even
	// later may count twice. 0 means one minute: a proxy in front of a Django server
	// commonly gives up on a request after 60 s, and gunicorn stops one that takes
	// 30 s. Tests with the fake server set a few milliseconds.
	SettleAfter time.Duration

	// OutageTimeout is how long a write or a read waits for a service that stops
	// responding, as in [oakra.BulkOptions]. 0 means one minute, and a negative value
	// means not to wait. When the wait of a read is over, Compare fails, and so does
	// Apply if nothing was written. A later read is tried again in the next round.
	OutageTimeout time.Duration

	// Stop ends the run early without making an outcome unknown. Once it is closed,
	// the run sends and reads nothing more and does not wait; the writes in flight
	// finish. Outcomes that were unknown before stay Unknown, the rest are NotTried,
	// and the errors match [oakra.ErrStopped]. Stop is usually the Done channel of the
	// program's signal context, while the call itself gets [context.WithoutCancel] of
	// that context.
	Stop <-chan struct{}

	// OnProgress is called as the run progresses, and when it begins or stops waiting
	// for the service. Calls do not overlap, and the run waits for each.
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
	Reading  Phase = "reading"  // Compare or Apply reads before anything is written; counts requested records
	Writing  Phase = "writing"  // Apply writes; counts steps, of which the synced ones are done
	Settling Phase = "settling" // Apply waits to read again, or reads; counts steps whose outcome is unknown
)

// Progress says how far a phase has come.
type Progress struct {
	Phase       Phase
	Done, Total int

	Waiting      bool      // whether the run waits for a service that does not respond
	WaitingSince time.Time // time of the failure that started the wait
	WaitingFor   error     // that failure, which wraps an [oakra.Error]
}

var (
	// ErrTooManySteps means that the plan changes more records than [Options].MaxSteps.
	ErrTooManySteps = errors.New("stocksync: more steps than MaxSteps")
	// ErrApplied means that the plan was applied before. Its quantities may be out of
	// date.
	ErrApplied = errors.New("stocksync: the plan was applied before: compare again")
	// ErrIncomplete means that a plan was applied, and some targets are Rejected,
	// Differs, Unknown or NotTried.
	ErrIncomplete = errors.New("stocksync: not every target is synced")
	// ErrNoneKnown means that all targets are NotFound. Most likely Oakra spells the
	// locations or the SKUs in another way.
	ErrNoneKnown = errors.New("stocksync: Oakra knows none of the targets: are the SKUs and locations written as there?")
)

// Step changes one record from one quantity to another.
type Step struct {
	ID       int64 // id of the record
	Key      oakra.StockKey
	From, To int64 // quantity that was read, and quantity of the target
}

// Conflict is a record with several targets, where [Options].SumDuplicates is not
// set or the sum does not fit into 64 bits.
type Conflict struct {
	Key        oakra.StockKey
	Quantities []int64 // quantities of the targets, in the order given
}

// Ambiguity is a target for which Oakra has several records, although there should
// be one for a SKU at a location. Only the owner of the account can decide which of
// them is right.
type Ambiguity struct {
	Target  Target
	Records []oakra.StockRecord
}

// Plan is the result of Compare. Each target is in exactly one of the lists, which
// keep the order of the targets. Steps may be removed before Apply, which carries
// out only those that are left.
type Plan struct {
	Steps     []Step      // records that would change
	Equal     []Target    // targets whose record has the quantity already
	NotFound  []Target    // targets without a record in Oakra
	Ambiguous []Ambiguity // targets with several records; Apply reports them as Rejected
	Conflicts []Conflict  // records with several targets; Apply reports these as Rejected

	// Similar maps the key of a NotFound target to that of a record whose SKU or
	// location differs only in case, if there is one. Such a record is found only if
	// Oakra's search ignores case.
	Similar map[oakra.StockKey]oakra.StockKey

	unread  []Target // targets of Sync, when reading failed
	stock   Stock
	options Options
	applied atomic.Bool
}

// Compare reads the stock from Oakra and returns what would change. It writes
// nothing.
//
// Compare fails before it reads anything if an option is invalid or a target has a
// blank SKU or location. If reading fails, the error wraps an [oakra.Error]; if the
// service does not respond, that is after [Options].OutageTimeout. With
// ErrTooManySteps the plan is returned too, for review. With any other error it is
// nil.
func Compare(ctx context.Context, stock Stock, targets []Target, o Options) (*Plan, error) {
	plan, err := compare(ctx, stock, targets, o)
	if err != nil && !errors.Is(err, ErrTooManySteps) {
		return nil, err
	}
	return plan, err
}

// Sync calls Compare and Apply, and returns the error of the one that failed. The
// report is never nil. If Compare failed, targets whose record was not read, or
// needs a write, are reported as NotTried.
func Sync(ctx context.Context, stock Stock, targets []Target, o Options) (*Report, error) {
	plan, err := compare(ctx, stock, targets, o)
	if err != nil {
		return plan.report(plan.notTried(err), err), err
	}
	return plan.apply(ctx, true)
}

// compare always returns a plan. If it could not read, all targets are unread.
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

// group returns the quantities for each key, and the keys in order.
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

// addUp replaces the quantities for each key with their sum, if it fits.
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
