package stocksync_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/stocksync"
)

// TestModel syncs random targets with a shop in which anything may go wrong at random,
// and compares the report with the shop's own record of what happened.
func TestModel(t *testing.T) {
	runs := 800
	if testing.Short() {
		runs = 150
	}
	var met [6]int // results by status, over all runs
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(runs) {
				synctest.Test(t, func(t *testing.T) {
					m := model{rand: rand.New(rand.NewPCG(seed, uint64(mode))), mode: mode}
					m.run(t)
					for i, n := range m.met {
						met[i] += n
					}
				})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
	t.Logf("not tried, synced, not found, rejected, differs, unknown: %v", met)
	for f, n := range met {
		if n < runs/20 {
			t.Errorf("only %d ended %v: the test does not test that", n, stocksync.Status(f))
		}
	}
}

type model struct {
	rand *rand.Rand
	mode stocksync.Mode
	shop *shop
	met  [6]int
	cut  bool // whether the run ended early
}

func (m *model) chance(percent int) bool { return m.rand.IntN(100) < percent }

// sale is larger than any difference. Units are sold in multiples of it, so that no
// sale is taken for a write that was applied or lost.
const sale = 100_000

func (m *model) run(t *testing.T) {
	var records []oakra.StockRecord
	for n := range int64(1 + m.rand.IntN(60)) {
		r := record(n + 1)
		r.LocationID = fmt.Sprintf("w%d", m.rand.IntN(2))
		r.Quantity = m.rand.Int64N(200) - 20
		records = append(records, r)
	}
	m.shop = newShop(records...)
	m.shop.takes = m.duration(time.Second)
	m.shop.delay = func() time.Duration { return m.duration(time.Minute) }
	trouble, stops := m.rand.IntN(60), m.chance(20)
	m.shop.next = func([]int64) event {
		switch {
		case stops && m.chance(5):
			return []event{forbidden, noRoute}[m.rand.IntN(2)]
		case m.chance(trouble):
			return []event{unreachable, limited, lost, responseLost, late, omitted}[m.rand.IntN(6)]
		}
		return applied
	}
	m.shop.reading = func() error {
		if m.chance(trouble / 2) {
			return &oakra.Error{Op: "stock.list", StatusCode: 502, Outcome: oakra.OutcomeNotApplied}
		}
		return nil
	}
	for _, r := range records {
		m.shop.bad[r.ID] = m.chance(3)
	}
	m.shop.named, m.shop.byItem = m.chance(50), m.chance(30)
	if m.chance(20) {
		m.shop.most = 1 + m.rand.IntN(10)
	}
	if m.chance(30) {
		m.shop.shows = func(r oakra.StockRecord) oakra.StockRecord {
			if m.chance(10) {
				r.Quantity++
			}
			return r
		}
	}
	before := m.quantities()

	targets := m.targets(records)
	left := make(map[stocksync.Target]int) // targets that are not in the report
	for _, target := range targets {
		left[target]++
	}
	o := stocksync.Options{Mode: m.mode, BatchSize: 1 + m.rand.IntN(20), Concurrency: m.rand.IntN(5)}
	if m.chance(10) {
		o.MaxSteps = 1 + m.rand.IntN(30)
	}
	stop := make(chan struct{})
	if m.chance(20) {
		o.Stop = stop
		timer := time.AfterFunc(m.duration(3*time.Minute), func() { close(stop) })
		defer timer.Stop()
	}
	ctx := t.Context()
	if m.chance(20) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.duration(3*time.Minute))
		defer cancel()
	}

	var report *stocksync.Report
	plan, err := stocksync.Compare(ctx, m.shop, targets, o)
	if err != nil && plan == nil {
		if len(m.shop.writes) > 0 {
			t.Error("Compare wrote")
		}
		return
	}
	if m.chance(30) { // a person removes steps
		plan.Steps = slices.DeleteFunc(plan.Steps, func(s stocksync.Step) bool {
			target := stocksync.Target{SKU: s.Key.SKU, LocationID: s.Key.LocationID, Quantity: s.To}
			if m.chance(20) {
				delete(left, target)
				return true
			}
			return false
		})
	}
	sold := m.sellMeanwhile(records)
	report, err = plan.Apply(ctx)
	m.cut = ctx.Err() != nil || errors.Is(err, oakra.ErrStopped)
	time.Sleep(5 * time.Minute) // every late write has arrived, and every sale is made
	synctest.Wait()
	if _, again := plan.Apply(t.Context()); again == nil {
		t.Error("the plan was applied twice")
	}

	all := true
	steps := make(map[int64]stocksync.Step)
	for _, step := range plan.Steps {
		steps[step.ID] = step
	}
	for _, r := range report.Results {
		if left[r.Target] == 0 {
			t.Errorf("%v is in the report too often, or was no target", r)
		}
		if left[r.Target]--; left[r.Target] == 0 {
			delete(left, r.Target)
		}
		m.met[r.Status]++
		all = all && (r.Status == stocksync.Synced || r.Status == stocksync.NotFound)
		step, isStep := steps[r.ID]
		if !isStep {
			continue
		}
		m.check(t, r, step)
	}
	if len(left) > 0 {
		t.Errorf("not in the report: %v", left)
	}
	if none := report.Count(stocksync.NotFound) == len(report.Results); none && len(report.Results) > 0 {
		if !errors.Is(err, stocksync.ErrNoneKnown) {
			t.Errorf("no target was found, and the error is %v", err)
		}
	} else if (err == nil) != all || err != nil && !errors.Is(err, stocksync.ErrIncomplete) && !errors.Is(err, stocksync.ErrTooManySteps) {
		t.Errorf("all synced or not found: %v, and the error is %v", all, err)
	}
	for id, writes := range m.shop.writes {
		if _, ok := steps[id]; !ok {
			t.Errorf("record %d was no step, and was written %v", id, writes)
		}
	}
	for _, r := range records {
		if m.mode == stocksync.ByChange {
			written := int64(0)
			for _, d := range m.shop.writes[r.ID] {
				written += d
			}
			if got := m.shop.quantity(r.ID); got != before[r.ID]+written-sold[r.ID] {
				t.Errorf("the model is wrong: record %d", r.ID)
			}
		}
	}

	// Another run while nothing else happens syncs whatever can be synced.
	m.shop.next, m.shop.reading, m.shop.shows, o.MaxSteps, o.Stop = nil, nil, nil, 0, nil
	m.shop.bad = make(map[int64]bool)
	report, _ = stocksync.Sync(t.Context(), m.shop, targets, o)
	for _, r := range report.Results {
		id := m.id(r.Target)
		switch r.Status {
		case stocksync.Synced:
			if m.shop.quantity(id) != r.Quantity {
				t.Errorf("run again, %v has %d", r, m.shop.quantity(id))
			}
		case stocksync.Unknown, stocksync.NotTried:
			t.Errorf("run again, %v", r)
		}
	}
}

// check compares the result of a step with what was written.
func (m *model) check(t *testing.T, r stocksync.Result, step stocksync.Step) {
	writes := m.shop.writes[step.ID]
	n := step.To
	if m.mode == stocksync.ByChange {
		n = step.To - step.From
		if len(writes) > 1 {
			t.Errorf("%v was changed %d times", r, len(writes))
		}
	}
	for _, w := range writes {
		if w != n {
			t.Errorf("%v was written as %d, want %d", r, w, n)
		}
	}
	switch r.Status {
	case stocksync.Synced, stocksync.Differs:
		if len(writes) == 0 {
			t.Errorf("%v was not written", r)
		}
		if r.Status == stocksync.Differs && (m.mode == stocksync.ByChange || *r.Seen == r.Quantity) {
			t.Errorf("%v", r)
		}
	case stocksync.NotTried, stocksync.Rejected:
		if m.shop.byItem && (m.cut || m.mode == stocksync.ByUpdate) {
			return // nothing was read after a rejection, and the server may have saved this record
		}
		if len(writes) > 0 {
			t.Errorf("%v was written %v", r, writes)
		}
	case stocksync.NotFound:
		t.Errorf("%v was there", r)
	}
}

// targets returns targets for most of the records, some of them twice and some with
// two quantities, and for some records that do not exist.
func (m *model) targets(records []oakra.StockRecord) []stocksync.Target {
	var targets []stocksync.Target
	for _, r := range records {
		target := stocksync.Target{SKU: r.SKU, LocationID: r.LocationID, Quantity: m.rand.Int64N(200) - 20}
		switch {
		case m.chance(10):
			continue
		case m.chance(10):
			target.Quantity = r.Quantity
		case m.chance(3):
			targets = append(targets, target)
		case m.chance(3):
			targets = append(targets, target)
			target.Quantity++
		case m.chance(3):
			target.LocationID = "elsewhere"
		}
		targets = append(targets, target)
	}
	m.rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	return targets
}

// sellMeanwhile sells as a second seller at random times, and returns how much.
func (m *model) sellMeanwhile(records []oakra.StockRecord) map[int64]int64 {
	sold := make(map[int64]int64)
	if m.chance(50) {
		for range m.rand.IntN(20) {
			id := records[m.rand.IntN(len(records))].ID
			units := sale * (1 + m.rand.Int64N(3))
			sold[id] += units
			time.AfterFunc(m.duration(4*time.Minute), func() { m.shop.sell(id, units) })
		}
	}
	return sold
}

// duration returns a random duration of less than most.
func (m *model) duration(most time.Duration) time.Duration {
	return time.Duration(m.rand.Int64N(int64(most)))
}

func (m *model) quantities() map[int64]int64 {
	all := make(map[int64]int64)
	for id, r := range m.shop.records {
		all[id] = r.Quantity
	}
	return all
}

func (m *model) id(target stocksync.Target) int64 {
	for id, r := range m.shop.records {
		if r.Key() == target.Key() {
			return id
		}
	}
	return 0
}
