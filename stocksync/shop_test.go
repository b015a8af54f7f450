package stocksync_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/stocksync"
)

// event is what happens to a request to the shop.
type event int

const (
	applied      event = iota
	unreachable        // not applied, for a temporary reason
	limited            // 429
	rejected           // 400 that names every item
	unsupported        // 400 that names no item
	forbidden          // 403, which stops the run
	noRoute            // 404 with a cause
	lost               // outcome unknown, never applied
	responseLost       // outcome unknown, applied
	late               // outcome unknown, applied later
	omitted            // applied, but the last record is not in the response
	skipped            // applied and in the response, except for the last record
)

// shop is a Stock in memory that records what was really written. Its next field
// decides what happens to each write. Use it in a synctest bubble if a write is late.
type shop struct {
	next    func(ids []int64) event // event of a write; applied if nil
	reading func() error            // error of a Lookup; no error if nil
	takes   time.Duration           // duration of a write
	delay   func() time.Duration    // delay of a late write

	mu      sync.Mutex
	records map[int64]oakra.StockRecord
	bad     map[int64]bool                            // records that are rejected, with their whole batch
	named   bool                                      // whether a rejection names the bad records
	byItem  bool                                      // whether the good records of a rejected batch are still written
	prefix  bool                                      // whether the records before the first bad one are written, and only that one is named
	most    int                                       // most items in a request; 0 means no limit
	shows   func(oakra.StockRecord) oakra.StockRecord // form of a record in the response; unchanged if nil
	writes  map[int64][]int64
	sent    int // number of write requests
	lookups int
}

func newShop(records ...oakra.StockRecord) *shop {
	s := &shop{records: make(map[int64]oakra.StockRecord), bad: make(map[int64]bool), writes: make(map[int64][]int64)}
	for _, r := range records {
		s.records[r.ID] = r
	}
	return s
}

var _ stocksync.Stock = (*shop)(nil)

func (s *shop) Lookup(ctx context.Context, keys []oakra.StockKey) (map[oakra.StockKey]oakra.StockRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	if err := ctx.Err(); err != nil {
		return nil, &oakra.Error{Op: "stock.list", Outcome: oakra.OutcomeNotApplied, Err: err}
	}
	if s.reading != nil {
		if err := s.reading(); err != nil {
			return nil, err
		}
	}
	byKey := make(map[oakra.StockKey]oakra.StockRecord)
	for _, r := range s.records {
		byKey[r.Key()] = r
	}
	found := make(map[oakra.StockKey]oakra.StockRecord)
	for _, key := range keys {
		if r, ok := byKey[key]; ok {
			found[key] = r
		}
	}
	return found, nil
}

type item struct {
	index int // index in the run
	id, n int64
}

func (s *shop) UpdateAll(ctx context.Context, updates []oakra.StockUpdate, o oakra.BulkOptions) error {
	items := make([]item, len(updates))
	for i, u := range updates {
		items[i] = item{i, u.ID, u.Quantity}
	}
	return s.writeAll(ctx, "stock.update", items, o, func(_, n int64) int64 { return n })
}

func (s *shop) ChangeAll(ctx context.Context, changes []oakra.StockChange, o oakra.BulkOptions) error {
	items := make([]item, len(changes))
	for i, c := range changes {
		items[i] = item{i, c.ID, c.QuantityChange}
	}
	return s.writeAll(ctx, "stock.change", items, o, func(q, n int64) int64 { return q + n })
}

// errInnocent makes an error of the shop Retryable although it has no status.
var errInnocent = fmt.Errorf("another item of its request was rejected: %w", context.Canceled)

// writeAll returns the errors that a bulk run of package oakra would.
func (s *shop) writeAll(ctx context.Context, op string, items []item, o oakra.BulkOptions, to func(q, n int64) int64) error {
	result := &oakra.BulkError{Op: op}
	fail := func(batch []item, e *oakra.Error) {
		for _, it := range batch {
			result.Failures = append(result.Failures, oakra.BulkFailure{Index: it.index, Outcome: e.Outcome, Err: e})
		}
	}
	var stopped *oakra.Error
	done := 0
	var write func(batch []item)
	write = func(batch []item) {
		select {
		case <-o.Stop:
			stopped = &oakra.Error{Op: op, Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrStopped}
		default:
		}
		if stopped != nil {
			fail(batch, stopped)
			return
		}
		e, failed := s.request(ctx, op, batch, to)
		if e == nil && o.OnRecords != nil {
			o.OnRecords(s.shown(batch))
		}
		var named, others []item
		if e != nil && e.StatusCode == 400 {
			messages := e.Items()
			for i, it := range batch {
				if messages[i] == nil {
					others = append(others, it)
					continue
				}
				named = append(named, it)
				result.Failures = append(result.Failures, oakra.BulkFailure{Index: it.index, Outcome: e.Outcome, Err: e, Messages: messages[i]})
			}
		}
		switch middle := len(batch) / 2; {
		case len(named) > 0 && len(others) > 0 && o.NoSplit:
			fail(others, &oakra.Error{Op: op, Attempts: 1, Outcome: oakra.OutcomeNotApplied, Err: errInnocent})
		case len(named) > 0 && len(others) > 0:
			write(others)
			return
		case len(named) > 0:
		case len(others) > 1 && !o.NoSplit:
			write(batch[:middle])
			write(batch[middle:])
			return
		default:
			if e != nil && (e.StatusCode == 401 || e.StatusCode == 403 || e.StatusCode == 404 || ctx.Err() != nil) {
				stopped = &oakra.Error{Op: op, Message: "not sent", Outcome: oakra.OutcomeNotApplied, Err: e}
			}
			fail(failed, e)
		}
		done += len(batch)
		if o.OnProgress != nil {
			o.OnProgress(oakra.BulkProgress{Total: len(items), Applied: done - len(result.Failures)})
		}
	}
	for batch := range slices.Chunk(items, cmp.Or(o.BatchSize, 500)) {
		write(batch)
	}
	if len(result.Failures) == 0 {
		return nil
	}
	slices.SortFunc(result.Failures, func(a, b oakra.BulkFailure) int { return a.Index - b.Index })
	result.Applied = len(items) - len(result.Failures)
	return result
}

// shown returns the records in the response for items.
func (s *shop) shown(items []item) (records []oakra.StockRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		r := s.records[it.id]
		if s.shows != nil {
			r = s.shows(r)
		}
		records = append(records, r)
	}
	return records
}

// request sends one request. The items that failed are the last ones.
func (s *shop) request(ctx context.Context, op string, batch []item, to func(q, n int64) int64) (*oakra.Error, []item) {
	if err := ctx.Err(); err != nil {
		return &oakra.Error{Op: op, Outcome: oakra.OutcomeNotApplied, Err: err}, batch
	}
	s.mu.Lock()
	s.sent++
	ids := make([]int64, len(batch))
	var good, bad []item
	fields := make(map[string][]string)
	for i, it := range batch {
		ids[i] = it.id
		if !s.bad[it.id] {
			if len(bad) == 0 || !s.prefix {
				good = append(good, it)
			}
			continue
		}
		if bad = append(bad, it); len(bad) > 1 && s.prefix {
			continue
		}
		fields[fmt.Sprintf("stock_records[%d].id", i)] = []string{"Bad."}
	}
	what := applied
	if s.next != nil {
		what = s.next(ids)
	}
	s.mu.Unlock()
	if s.takes > 0 {
		time.Sleep(s.takes)
	}
	apply := func(batch []item) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, it := range batch {
			r := s.records[it.id]
			r.Quantity = to(r.Quantity, it.n)
			s.records[it.id] = r
			s.writes[it.id] = append(s.writes[it.id], it.n)
		}
	}
	unknown := &oakra.Error{Op: op, StatusCode: 502, Outcome: oakra.OutcomeUnknown}
	rejection := &oakra.Error{Op: op, StatusCode: 400, Message: "Rejected.", Outcome: oakra.OutcomeNotApplied}
	switch what {
	case unreachable:
		return &oakra.Error{Op: op, Attempts: 1, Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrUnreachable}, batch
	case limited:
		return &oakra.Error{Op: op, Attempts: 1, StatusCode: 429, Outcome: oakra.OutcomeNotApplied}, batch
	case forbidden:
		return &oakra.Error{Op: op, StatusCode: 403, Outcome: oakra.OutcomeNotApplied}, batch
	case noRoute:
		return &oakra.Error{Op: op, StatusCode: 404, Outcome: oakra.OutcomeNotApplied, Err: oakra.ErrNoRoute}, batch
	case lost:
		return unknown, batch
	case unsupported:
		return rejection, batch
	case rejected:
		rejection.Fields = make(map[string][]string)
		for i := range batch {
			rejection.Fields[fmt.Sprintf("stock_records[%d].id", i)] = []string{"Bad."}
		}
		return rejection, batch
	}
	if s.most > 0 && len(batch) > s.most {
		return rejection, batch
	}
	if len(bad) > 0 {
		if s.named {
			rejection.Fields = fields
		}
		if !s.byItem && !s.prefix {
			good = nil
		}
		if what == applied {
			apply(good)
			return rejection, batch
		}
		if what == responseLost {
			apply(good)
		}
		return unknown, batch
	}
	switch what {
	case responseLost:
		apply(batch)
		return unknown, batch
	case late:
		time.AfterFunc(s.delay(), func() { apply(batch) })
		return unknown, batch
	case omitted, skipped:
		last := len(batch) - 1
		if what == omitted {
			apply(batch)
		} else {
			apply(batch[:last])
		}
		e := &oakra.Error{Op: op, StatusCode: 200, Outcome: oakra.OutcomeUnknown, Err: oakra.ErrBadResponse, MissingIDs: ids[last:]}
		e.Records = s.shown(batch[:last])
		return e, batch[last:]
	}
	apply(batch)
	if ctx.Err() != nil { // it ended before the response
		return &oakra.Error{Op: op, Outcome: oakra.OutcomeUnknown, Err: ctx.Err()}, batch
	}
	return nil, nil
}

// sell sells units as a second seller would.
func (s *shop) sell(id, units int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[id]
	r.Quantity -= units
	s.records[id] = r
}

func (s *shop) quantity(id int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[id].Quantity
}

// timesWritten returns how often a record was written.
func (s *shop) timesWritten(id int64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.writes[id])
}

// record returns the record with ID n, SKU sku-n, and n units.
func record(n int64) oakra.StockRecord {
	return oakra.StockRecord{ID: n, LocationID: "w1", SKU: fmt.Sprintf("sku-%d", n), Quantity: n}
}

func recordsTo(n int64) []oakra.StockRecord {
	var records []oakra.StockRecord
	for id := int64(1); id <= n; id++ {
		records = append(records, record(id))
	}
	return records
}

// plus returns targets for the records, each d units above the record's quantity.
func plus(d int64, records ...oakra.StockRecord) []stocksync.Target {
	var targets []stocksync.Target
	for _, r := range records {
		targets = append(targets, stocksync.Target{SKU: r.SKU, LocationID: r.LocationID, Quantity: r.Quantity + d})
	}
	return targets
}

// inTurn returns one event after the other, and then applied.
func inTurn(events ...event) func([]int64) event {
	return func([]int64) event {
		if len(events) == 0 {
			return applied
		}
		e := events[0]
		events = events[1:]
		return e
	}
}
