package stocksync_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/stocksync"
)

var modes = map[string]stocksync.Mode{"ByChange": stocksync.ByChange, "ByUpdate": stocksync.ByUpdate}

// inModes runs a test in both modes, each in a synctest bubble.
func inModes(t *testing.T, test func(t *testing.T, mode stocksync.Mode)) {
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, mode) })
		})
	}
}

func TestCompare(t *testing.T) {
	shop := newShop(recordsTo(5)...)
	r2 := record(2)
	r2.ID, r2.LocationID, r2.Quantity = 12, "w2", 20
	shop.records[12] = r2
	var progress []stocksync.Progress
	plan, err := stocksync.Compare(t.Context(), shop, []stocksync.Target{
		{"sku-3", "w1", 0},
		{"sku-1", "w1", 1},
		{"sku-2", "w2", 2},
		{"sku-9", "w1", 7},
		{"sku-4", "w1", 40},
		{"sku-4", "w1", 4},
		{"sku-3", "w2", 3},
	}, stocksync.Options{OnProgress: func(p stocksync.Progress) { progress = append(progress, p) }})
	if err != nil {
		t.Fatal(err)
	}
	if want := []stocksync.Step{
		{ID: 3, Key: oakra.StockKey{SKU: "sku-3", LocationID: "w1"}, From: 3, To: 0},
		{ID: 12, Key: oakra.StockKey{SKU: "sku-2", LocationID: "w2"}, From: 20, To: 2},
	}; !slices.Equal(plan.Steps, want) {
		t.Errorf("steps %v", plan.Steps)
	}
	if want := []stocksync.Target{{"sku-1", "w1", 1}}; !slices.Equal(plan.Equal, want) {
		t.Errorf("equal %v", plan.Equal)
	}
	if want := []stocksync.Target{{"sku-9", "w1", 7}, {"sku-3", "w2", 3}}; !slices.Equal(plan.NotFound, want) {
		t.Errorf("not found %v", plan.NotFound)
	}
	if len(plan.Conflicts) != 1 || plan.Conflicts[0].Key.SKU != "sku-4" || !slices.Equal(plan.Conflicts[0].Quantities, []int64{40, 4}) {
		t.Errorf("conflicts %v", plan.Conflicts)
	}
	if want := []stocksync.Progress{{Phase: stocksync.Reading, Done: 6, Total: 6}}; !slices.Equal(progress, want) {
		t.Errorf("progress %v", progress)
	}
	if shop.sent != 0 {
		t.Error("Compare wrote")
	}

	report, err := plan.Apply(t.Context())
	if !errors.Is(err, stocksync.ErrIncomplete) || oakra.OutcomeOf(err) != oakra.OutcomeUnknown || oakra.Retryable(err) {
		t.Errorf("got %v", err)
	}
	checkStatuses(t, report, map[string]stocksync.Status{
		"sku-3@w1=0": stocksync.Synced, "sku-2@w2=2": stocksync.Synced, "sku-1@w1=1": stocksync.Synced,
		"sku-9@w1=7": stocksync.NotFound, "sku-3@w2=3": stocksync.NotFound,
		"sku-4@w1=40": stocksync.Rejected, "sku-4@w1=4": stocksync.Rejected,
	})
	if report.Results[0].ID != 3 || report.Results[1].ID != 12 {
		t.Errorf("results %v", report.Results)
	}
	if shop.quantity(3) != 0 || shop.quantity(12) != 2 || shop.quantity(4) != 4 || len(shop.writes) != 2 {
		t.Errorf("wrote %v", shop.writes)
	}
}

// checkStatuses compares the status of each target. Each must be in the report once.
func checkStatuses(t *testing.T, report *stocksync.Report, want map[string]stocksync.Status) {
	t.Helper()
	got := make(map[string]stocksync.Status)
	for _, r := range report.Results {
		name := fmt.Sprintf("%s@%s=%d", r.SKU, r.LocationID, r.Quantity)
		if _, twice := got[name]; twice {
			t.Errorf("%s is in the report twice", name)
		}
		got[name] = r.Status
		if (r.Err == nil) != (r.Status == stocksync.Synced || r.Status == stocksync.NotFound) {
			t.Errorf("%s: %v with the error %v", name, r.Status, r.Err)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	for s := stocksync.NotTried; s <= stocksync.Unknown; s++ {
		n := 0
		for _, w := range want {
			if w == s {
				n++
			}
		}
		if report.Count(s) != n {
			t.Errorf("%d are counted as %v, want %d", report.Count(s), s, n)
		}
	}
}

// statuses returns the statuses of the targets plus(1, recordsTo(n)...), by number.
func statuses(all ...stocksync.Status) map[string]stocksync.Status {
	want := make(map[string]stocksync.Status)
	for i, f := range all {
		want[fmt.Sprintf("sku-%d@w1=%d", i+1, i+2)] = f
	}
	return want
}

// TestDuplicates checks several lines of one record. They may be bins, lots or serial
// numbers, or one of them may be wrong. Nothing says which, even if they are equal.
func TestDuplicates(t *testing.T) {
	targets := []stocksync.Target{
		{"sku-1", "w1", 1}, {"sku-2", "w1", 5}, {"sku-1", "w1", 1}, {"sku-1", "w1", 1},
		{"sku-3", "w1", math.MaxInt64}, {"sku-3", "w1", 1}, {"sku-4", "w1", math.MaxInt64}, {"sku-4", "w1", 1}, {"sku-4", "w1", -2},
	}
	key := func(sku string) oakra.StockKey { return oakra.StockKey{SKU: sku, LocationID: "w1"} }

	shop := newShop(recordsTo(4)...)
	plan, err := stocksync.Compare(t.Context(), shop, targets, stocksync.Options{})
	require.NoError(t, err)
	require.Equal(t, []stocksync.Step{{ID: 2, Key: key("sku-2"), From: 2, To: 5}}, plan.Steps)
	require.Equal(t, []stocksync.Conflict{
		{Key: key("sku-1"), Quantities: []int64{1, 1, 1}},
		{Key: key("sku-3"), Quantities: []int64{math.MaxInt64, 1}},
		{Key: key("sku-4"), Quantities: []int64{math.MaxInt64, 1, -2}},
	}, plan.Conflicts)
	report, err := plan.Apply(t.Context())
	require.ErrorContains(t, err, "given 3 times, and SumDuplicates is not set")
	require.Len(t, report.Results, len(targets))
	require.Equal(t, 8, report.Count(stocksync.Rejected))
	require.Equal(t, map[int64][]int64{2: {3}}, shop.writes)

	shop = newShop(recordsTo(4)...)
	plan, err = stocksync.Compare(t.Context(), shop, targets, stocksync.Options{SumDuplicates: true})
	require.NoError(t, err)
	require.Equal(t, []stocksync.Step{
		{ID: 1, Key: key("sku-1"), From: 1, To: 3},
		{ID: 2, Key: key("sku-2"), From: 2, To: 5},
		{ID: 4, Key: key("sku-4"), From: 4, To: math.MaxInt64 - 1},
	}, plan.Steps)
	require.Equal(t, []stocksync.Conflict{{Key: key("sku-3"), Quantities: []int64{math.MaxInt64, 1}}}, plan.Conflicts)
	report, err = plan.Apply(t.Context())
	require.ErrorContains(t, err, "given 2 times, and the sum does not fit into 64 bits")
	require.Len(t, report.Results, 5)
	require.Equal(t, 3, report.Count(stocksync.Synced))
}

// TestDuplicatesNotRead checks that duplicates are in the report as Compare would have
// reported them, even if reading failed.
func TestDuplicatesNotRead(t *testing.T) {
	targets := []stocksync.Target{{"sku-1", "w1", 1}, {"sku-1", "w1", 1}}
	for sum, want := range map[bool][]int64{false: {1, 1}, true: {2}} {
		shop := newShop(record(1))
		shop.reading = func() error {
			return &oakra.Error{Op: "stock.list", StatusCode: 401, Outcome: oakra.OutcomeNotApplied}
		}
		report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{SumDuplicates: sum})
		require.ErrorIs(t, err, oakra.ErrUnauthorized)
		var got []int64
		for _, r := range report.Results {
			require.Equal(t, stocksync.NotTried, r.Status)
			got = append(got, r.Quantity)
		}
		require.Equal(t, want, got)
	}
}

func TestNothingToDo(t *testing.T) {
	shop := newShop(recordsTo(3)...)
	for name, targets := range map[string][]stocksync.Target{
		"no targets": nil,
		"equal":      plus(0, recordsTo(3)...),
		"not found":  {{"x", "w1", 1}, plus(0, recordsTo(1)...)[0]},
	} {
		report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{})
		if err != nil || len(report.Results) != len(targets) || shop.sent != 0 {
			t.Errorf("%s: %v, %v, %d requests", name, report, err, shop.sent)
		}
	}
}

// TestNoneKnown checks that a feed that spells every location in another way is an
// error.
func TestNoneKnown(t *testing.T) {
	shop := newShop(recordsTo(3)...)
	report, err := stocksync.Sync(t.Context(), shop, []stocksync.Target{{"sku-1", "W1", 1}, {"sku-2", "W1", 1}}, stocksync.Options{})
	if !errors.Is(err, stocksync.ErrNoneKnown) || report.Count(stocksync.NotFound) != 2 || shop.sent != 0 {
		t.Errorf("%v, %v, %d requests", report, err, shop.sent)
	}
}

func TestBadInput(t *testing.T) {
	good := stocksync.Target{"sku-1", "w1", 5}
	for name, tt := range map[string]struct {
		targets []stocksync.Target
		options stocksync.Options
		want    string
	}{
		"no SKU":      {[]stocksync.Target{good, {"", "w1", 1}}, stocksync.Options{}, `targets[1], SKU "" at "w1"`},
		"blank SKU":   {[]stocksync.Target{good, good, {" ", "w1", 1}}, stocksync.Options{}, `targets[2], SKU " " at "w1"`},
		"no location": {[]stocksync.Target{{"sku-2", "", 1}}, stocksync.Options{}, `targets[0], SKU "sku-2" at ""`},
		"mode":        {[]stocksync.Target{good}, stocksync.Options{Mode: 2}, "Mode 2"},
		"batch size":  {[]stocksync.Target{good}, stocksync.Options{BatchSize: -1}, "BatchSize -1"},
		"concurrency": {[]stocksync.Target{good}, stocksync.Options{Concurrency: -1}, "Concurrency -1"},
		"max steps":   {[]stocksync.Target{good}, stocksync.Options{MaxSteps: -1}, "MaxSteps -1"},
		"settle":      {[]stocksync.Target{good}, stocksync.Options{SettleAfter: -time.Second}, "SettleAfter -1s"},
	} {
		t.Run(name, func(t *testing.T) {
			shop := newShop(recordsTo(2)...)
			if plan, err := stocksync.Compare(t.Context(), shop, tt.targets, tt.options); plan != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Compare: %v, %v; want %q", plan, err, tt.want)
			}
			report, err := stocksync.Sync(t.Context(), shop, tt.targets, tt.options)
			if err == nil || report.Count(stocksync.NotTried) != len(tt.targets) || len(report.Results) != len(tt.targets) {
				t.Errorf("Sync: %v, %v", report, err)
			}
			if shop.sent+shop.lookups != 0 {
				t.Error("asked Oakra")
			}
		})
	}
}

func TestReading(t *testing.T) {
	passing := &oakra.Error{Op: "stock.list", StatusCode: 503, Outcome: oakra.OutcomeNotApplied}
	lasting := &oakra.Error{Op: "stock.list", StatusCode: 401, Outcome: oakra.OutcomeNotApplied}
	t.Run("passing", func(t *testing.T) {
		shop, failures := newShop(recordsTo(2)...), 3
		shop.reading = func() error {
			if failures--; failures >= 0 {
				return passing
			}
			return nil
		}
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
		if err != nil {
			t.Fatal(err)
		}
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced))
	})
	for name, tt := range map[string]struct {
		err   error
		lasts time.Duration
	}{"lasting": {lasting, 0}, "passing, but always": {passing, time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := newShop(recordsTo(2)...)
				shop.reading = func() error { return tt.err }
				start := time.Now()
				plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
				if plan != nil || !errors.Is(err, tt.err) || time.Since(start) != tt.lasts {
					t.Errorf("Compare: %v, %v after %v", plan, err, time.Since(start))
				}
				report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
				if !errors.Is(err, tt.err) || shop.sent != 0 {
					t.Errorf("Sync: %v", err)
				}
				checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried))
			})
		})
	}
	t.Run("in chunks", func(t *testing.T) {
		shop := newShop(recordsTo(4500)...)
		var progress []int
		plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(4500)...), stocksync.Options{
			OnProgress: func(p stocksync.Progress) { progress = append(progress, p.Done) }})
		if err != nil || len(plan.Steps) != 4500 || !slices.Equal(progress, []int{2000, 4000, 4500}) {
			t.Errorf("%v, progress %v", err, progress)
		}
	})
	t.Run("context", func(t *testing.T) {
		shop := newShop(recordsTo(1)...)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		report, err := stocksync.Sync(ctx, shop, plus(1, record(1)), stocksync.Options{})
		if !errors.Is(err, context.Canceled) || shop.lookups != 1 {
			t.Errorf("%v after %d lookups", err, shop.lookups)
		}
		checkStatuses(t, report, statuses(stocksync.NotTried))
	})
}

func TestMaxSteps(t *testing.T) {
	shop, targets := newShop(recordsTo(5)...), append(plus(1, recordsTo(3)...), plus(0, record(5))...)
	want := statuses(stocksync.NotTried, stocksync.NotTried, stocksync.NotTried)
	want["sku-5@w1=5"] = stocksync.Synced

	report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{MaxSteps: 2})
	if !errors.Is(err, stocksync.ErrTooManySteps) || !strings.Contains(err.Error(), "change 3 records, over 2") {
		t.Errorf("Sync: %v", err)
	}
	checkStatuses(t, report, want)

	plan, err := stocksync.Compare(t.Context(), shop, targets, stocksync.Options{MaxSteps: 2})
	if plan == nil || !errors.Is(err, stocksync.ErrTooManySteps) || len(plan.Steps) != 3 {
		t.Fatalf("Compare: %v, %v", plan, err)
	}
	report, err = plan.Apply(t.Context())
	if !errors.Is(err, stocksync.ErrTooManySteps) {
		t.Errorf("Apply: %v", err)
	}
	checkStatuses(t, report, want)
	if shop.sent != 0 {
		t.Fatal("sent something")
	}

	plan.Steps = plan.Steps[1:] // a person may remove steps
	if report, err = plan.Apply(t.Context()); err != nil || len(report.Results) != 3 || shop.quantity(1) != 1 || shop.quantity(2) != 3 {
		t.Errorf("Apply: %v, %v", report, err)
	}
	if report, err := stocksync.Sync(t.Context(), shop, targets, stocksync.Options{MaxSteps: 1}); err != nil || shop.quantity(1) != 2 {
		t.Errorf("as many as MaxSteps: %v, %v", report, err)
	}
}

func TestApplyRejectsPlan(t *testing.T) {
	shop := newShop(recordsTo(3)...)
	compare := func() *stocksync.Plan {
		plan, err := stocksync.Compare(t.Context(), shop, plus(1, recordsTo(3)...), stocksync.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	bad := compare()
	bad.Steps[2].ID = 0
	twice := compare()
	twice.Steps[2].ID = 1
	made := &stocksync.Plan{Steps: compare().Steps}
	for want, plan := range map[string]*stocksync.Plan{
		"Steps[2]: the ID 0 must be positive":              bad,
		"Steps[2]: the ID 1 was given before, in Steps[0]": twice,
		"the plan is not one that Compare returned":        made,
	} {
		report, err := plan.Apply(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || shop.sent != 0 {
			t.Errorf("got %v, want %q", err, want)
		}
		checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried, stocksync.NotTried))
	}

	plan := compare()
	if _, err := plan.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := shop.sent
	report, err := plan.Apply(t.Context())
	if !errors.Is(err, stocksync.ErrApplied) || shop.sent != sent {
		t.Errorf("the second time: %v", err)
	}
	checkStatuses(t, report, statuses(stocksync.NotTried, stocksync.NotTried, stocksync.NotTried))
}

func TestDifferenceTooLarge(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		r := record(1)
		r.Quantity = -2
		shop := newShop(r, record(2))
		report, err := stocksync.Sync(t.Context(), shop, []stocksync.Target{{"sku-1", "w1", math.MaxInt64}, {"sku-2", "w1", 3}}, stocksync.Options{Mode: mode})
		want := map[string]stocksync.Status{"sku-1@w1=9223372036854775807": stocksync.Rejected, "sku-2@w1=3": stocksync.Synced}
		if mode == stocksync.ByUpdate {
			want["sku-1@w1=9223372036854775807"] = stocksync.Synced
		}
		checkStatuses(t, report, want)
		if (err == nil) != (mode == stocksync.ByUpdate) || shop.timesWritten(2) != 1 {
			t.Errorf("got %v", err)
		}
	})
}

// TestUnknown checks the status that results from the event of one request and from
// what somebody else does until the record is read again. From is 1, To is 2.
func TestUnknown(t *testing.T) {
	for name, tt := range map[string]struct {
		events   []event
		sold     int64
		change   stocksync.Status
		update   stocksync.Status
		requests int
	}{
		"applied":             {[]event{responseLost}, 0, stocksync.Synced, stocksync.Synced, 1},
		"lost":                {[]event{lost}, 0, stocksync.Synced, stocksync.Synced, 2},
		"late":                {[]event{late}, 0, stocksync.Synced, stocksync.Synced, 1},
		"applied and sold":    {[]event{responseLost}, 3, stocksync.Unknown, stocksync.Unknown, 1},
		"lost and sold":       {[]event{lost}, 3, stocksync.Unknown, stocksync.Unknown, 1},
		"lost thrice":         {[]event{lost, lost, lost}, 0, stocksync.Synced, stocksync.Synced, 4},
		"lost, then applied":  {[]event{lost, responseLost}, 0, stocksync.Synced, stocksync.Synced, 2},
		"lost, then late":     {[]event{lost, late}, 0, stocksync.Synced, stocksync.Synced, 2},
		"limited, then lost":  {[]event{limited, lost}, 0, stocksync.Synced, stocksync.Synced, 3},
		"lost 7 times":        {[]event{lost, lost, lost, lost, lost, lost, lost}, 0, stocksync.Synced, stocksync.Synced, 8},
		"lost 8 times":        {[]event{lost, lost, lost, lost, lost, lost, lost, lost}, 0, stocksync.Unknown, stocksync.Unknown, 8},
		"applied the 8th":     {[]event{lost, lost, lost, lost, lost, lost, lost, responseLost}, 0, stocksync.Synced, stocksync.Synced, 8},
		"unreachable 7 times": {[]event{unreachable, limited, unreachable, limited, limited, limited, limited}, 0, stocksync.Synced, stocksync.Synced, 8},
		"limited 8 times":     {[]event{limited, limited, limited, limited, limited, limited, limited, limited}, 0, stocksync.NotTried, stocksync.NotTried, 8},
		"forbidden":           {[]event{forbidden}, 0, stocksync.NotTried, stocksync.NotTried, 1},
		"no route":            {[]event{noRoute}, 0, stocksync.NotTried, stocksync.NotTried, 1},
		"rejected":            {[]event{rejected}, 0, stocksync.Rejected, stocksync.Rejected, 1},
		"unsupported":         {[]event{unsupported}, 0, stocksync.NotTried, stocksync.NotTried, 1},
		"lost, then rejected": {[]event{lost, rejected}, 0, stocksync.Rejected, stocksync.Rejected, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) {
				shop := newShop(record(1))
				shop.next = inTurn(tt.events...)
				shop.delay = func() time.Duration { return time.Minute - 1 }
				time.AfterFunc(30*time.Second, func() { shop.sell(1, tt.sold) })
				start := time.Now()
				report, err := stocksync.Sync(t.Context(), shop, plus(1, record(1)), stocksync.Options{Mode: mode})
				want := tt.change
				if mode == stocksync.ByUpdate {
					want = tt.update
				}
				checkStatuses(t, report, statuses(want))
				if shop.sent != tt.requests {
					t.Errorf("%d requests, want %d", shop.sent, tt.requests)
				}
				took := time.Since(start)
				if want == stocksync.Synced {
					if err != nil || shop.quantity(1) != 2 || shop.timesWritten(1) != 1 {
						t.Errorf("%v, and Oakra has %d after %d writes", err, shop.quantity(1), shop.timesWritten(1))
					}
					settled := len(tt.events)
					if took != time.Duration(settled)*time.Minute {
						t.Errorf("it took %v", took)
					}
					return
				}
				var e *oakra.Error
				if !errors.Is(err, stocksync.ErrIncomplete) || !errors.As(err, &e) || e.Op == "" {
					t.Errorf("the error is %v", err)
				}
				if took > 8*time.Minute {
					t.Errorf("it took %v", took)
				}
				if r := report.Results[0]; want == stocksync.Unknown && (r.Seen == nil || *r.Seen != shop.quantity(1)) {
					t.Errorf("seen: %+v", r)
				}
				if want != stocksync.Unknown && (shop.timesWritten(1) != 0 || report.Results[0].Seen != nil) {
					t.Errorf("it was written, or read again after that: %+v", report.Results[0])
				}
			})
		})
	}
}

func TestSettleAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := newShop(record(1))
		shop.next = inTurn(late)
		shop.delay = func() time.Duration { return 299 * time.Second }
		start := time.Now()
		_, err := stocksync.Sync(t.Context(), shop, plus(1, record(1)), stocksync.Options{SettleAfter: 5 * time.Minute})
		if err != nil || shop.quantity(1) != 2 || time.Since(start) != 5*time.Minute {
			t.Errorf("%v, quantity %d after %v", err, shop.quantity(1), time.Since(start))
		}
	})
}

// TestByTheRest checks that the records of one request settle each other. Their
// differences are 1, and of some records one unit is sold or returned.
func TestByTheRest(t *testing.T) {
	const synced, unknown = stocksync.Synced, stocksync.Unknown
	for name, tt := range map[string]struct {
		event event
		sold  map[int64]int64
		want  []stocksync.Status
	}{
		"all at to":                  {responseLost, nil, []stocksync.Status{synced, synced, synced, synced}},
		"applied, one sold":          {responseLost, map[int64]int64{2: 1}, []stocksync.Status{synced, unknown, synced, synced}},
		"applied, half sold":         {responseLost, map[int64]int64{2: 1, 3: 1}, []stocksync.Status{unknown, unknown, unknown, unknown}},
		"lost, one brought":          {lost, map[int64]int64{4: -1}, []stocksync.Status{synced, synced, synced, unknown}},
		"lost, half brought":         {lost, map[int64]int64{3: -1, 4: -1}, []stocksync.Status{unknown, unknown, unknown, unknown}},
		"applied, others elsewhere":  {responseLost, map[int64]int64{1: 5, 2: 1, 3: 5}, []stocksync.Status{unknown, unknown, unknown, unknown}},
		"applied, most elsewhere":    {responseLost, map[int64]int64{1: 5, 2: 1, 3: 5, 4: 5}, []stocksync.Status{unknown, unknown, unknown, unknown}},
		"lost, most elsewhere":       {lost, map[int64]int64{1: 5, 2: -1, 3: 5, 4: 5}, []stocksync.Status{unknown, unknown, unknown, unknown}},
		"applied, the rest confirms": {omitted, map[int64]int64{4: 1}, []stocksync.Status{synced, synced, synced, unknown}},
		"omitted":                    {omitted, nil, []stocksync.Status{synced, synced, synced, synced}},
		"skipped":                    {skipped, nil, []stocksync.Status{synced, synced, synced, unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				shop := newShop(recordsTo(4)...)
				shop.next = inTurn(tt.event)
				time.AfterFunc(time.Second, func() {
					for id, n := range tt.sold {
						shop.sell(id, n)
					}
				})
				report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(4)...), stocksync.Options{})
				checkStatuses(t, report, statuses(tt.want...))
				if (err == nil) != !slices.Contains(tt.want, unknown) {
					t.Error(err)
				}
				for id := int64(1); id <= 4; id++ {
					n := shop.timesWritten(id)
					if n > 1 || n == 0 && tt.want[id-1] == synced {
						t.Errorf("record %d was written %d times", id, n)
					}
				}
			})
		})
	}

	t.Run("requests apart", func(t *testing.T) { // a lost request does not contradict an applied one
		synctest.Test(t, func(t *testing.T) {
			shop := newShop(recordsTo(4)...)
			shop.next = inTurn(lost, responseLost)
			report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(4)...), stocksync.Options{BatchSize: 2})
			if err != nil {
				t.Error(err)
			}
			checkStatuses(t, report, statuses(synced, synced, synced, synced))
		})
	})
	t.Run("updates", func(t *testing.T) { // the record is at To, or the update is sent again
		synctest.Test(t, func(t *testing.T) {
			shop := newShop(recordsTo(4)...)
			shop.next = inTurn(responseLost)
			time.AfterFunc(time.Second, func() { shop.sell(1, 1); shop.sell(2, 1) })
			report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(4)...), stocksync.Options{Mode: stocksync.ByUpdate})
			if err != nil || shop.timesWritten(1) != 2 || shop.timesWritten(3) != 1 {
				t.Error(err)
			}
			checkStatuses(t, report, statuses(synced, synced, synced, synced))
		})
	})
}

func TestSaleIsKept(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(2)...)
		plan, err := stocksync.Compare(t.Context(), shop, plus(10, recordsTo(2)...), stocksync.Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		shop.sell(1, 1)
		if _, err := plan.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := map[stocksync.Mode]int64{stocksync.ByChange: 10, stocksync.ByUpdate: 11}[mode]
		if got := shop.quantity(1); got != want || shop.quantity(2) != 12 {
			t.Errorf("%d left, want %d", got, want)
		}
	})
}

func TestRejectedItem(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(5)...)
		shop.bad[3], shop.named = true, true
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(5)...), stocksync.Options{Mode: mode})
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced, stocksync.Rejected, stocksync.Synced, stocksync.Synced))
		const want = `of 5 targets, 4 synced, 1 rejected; nothing of the rejected ones was applied, and running again will not help; first rejected, SKU "sku-3" at "w1": `
		if !errors.Is(err, oakra.ErrInvalidRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRecordGone(t *testing.T) {
	for name, change := range map[string]func(*shop){
		"gone": func(s *shop) { delete(s.records, 1) },
		"another": func(s *shop) {
			s.records[9] = s.records[1]
			r := s.records[9]
			r.ID = 9
			s.records[9] = r
			delete(s.records, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode stocksync.Mode) {
				shop := newShop(record(1))
				shop.next = inTurn(lost)
				time.AfterFunc(time.Second, func() { shop.mu.Lock(); defer shop.mu.Unlock(); change(shop) })
				report, err := stocksync.Sync(t.Context(), shop, plus(1, record(1)), stocksync.Options{Mode: mode})
				checkStatuses(t, report, statuses(stocksync.Unknown))
				if err == nil || !strings.Contains(err.Error(), "gone") || report.Results[0].Seen != nil || shop.sent != 1 {
					t.Errorf("%v, %+v", err, report.Results[0])
				}
			})
		})
	}
}

func TestReadingAgainFails(t *testing.T) {
	down := &oakra.Error{Op: "stock.list", StatusCode: 503, Outcome: oakra.OutcomeNotApplied}
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		for _, forGood := range []bool{false, true} {
			shop := newShop(recordsTo(2)...)
			shop.next = inTurn(responseLost, limited)
			lookups := 0
			shop.reading = func() error {
				if lookups++; lookups > 1 && (forGood || lookups < 10) {
					return down
				}
				return nil
			}
			start := time.Now()
			report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{Mode: mode, BatchSize: 1})
			want, sent := []stocksync.Status{stocksync.Unknown, stocksync.Synced}, 3
			least, most := 16*time.Minute, 16*time.Minute // eight waits, each for two reasons
			switch {
			case !forGood:
				want[0], least, most = stocksync.Synced, time.Minute, 2*time.Minute
			case mode == stocksync.ByChange: // not sent again before it is read
				want[1], sent = stocksync.NotTried, 2
			}
			checkStatuses(t, report, statuses(want...))
			if shop.timesWritten(1) != 1 || shop.timesWritten(2) != sent-2 || shop.sent != sent {
				t.Errorf("writes %v", shop.writes)
			}
			if took := time.Since(start); took < least || took > most || errors.Is(err, down) != forGood || (err == nil) == forGood {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			if forGood && report.Results[0].Seen != nil {
				t.Errorf("%+v", report.Results[0])
			}
		}
	})
}

// TestReadingAgainIsRejected checks that the run does not wait if the key was revoked
// meanwhile.
func TestReadingAgainIsRejected(t *testing.T) {
	revoked := &oakra.Error{Op: "stock.list", StatusCode: 401, Outcome: oakra.OutcomeNotApplied}
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(2)...)
		shop.next = inTurn(responseLost)
		lookups := 0
		shop.reading = func() error {
			if lookups++; lookups > 1 {
				return revoked
			}
			return nil
		}
		start := time.Now()
		report, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{Mode: mode, BatchSize: 1})
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.Synced))
		if !errors.Is(err, oakra.ErrUnauthorized) || time.Since(start) != time.Minute || lookups != 2 {
			t.Errorf("%v after %v, %d lookups", err, time.Since(start), lookups)
		}
	})
}

// TestReadingRateLimited checks that a read that is rate limited is not tried again at
// once. The client has already waited as long as it was told to.
func TestReadingRateLimited(t *testing.T) {
	shop := newShop(recordsTo(2)...)
	shop.reading = func() error {
		return &oakra.Error{Op: "stock.list", StatusCode: 429, RetryAfter: time.Hour, Outcome: oakra.OutcomeNotApplied}
	}
	_, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(2)...), stocksync.Options{})
	if !errors.Is(err, oakra.ErrRateLimited) || shop.lookups != 1 {
		t.Errorf("%v, %d lookups", err, shop.lookups)
	}
}

func TestContextEnds(t *testing.T) {
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		// Of three requests the first is done, the second under way, the third unsent.
		shop := newShop(recordsTo(3)...)
		shop.takes = 10 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		report, err := stocksync.Sync(ctx, shop, plus(1, recordsTo(3)...), stocksync.Options{Mode: mode, BatchSize: 1})
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Unknown, stocksync.NotTried))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 20*time.Second || shop.lookups != 1 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		const want = `of 3 targets, 1 synced, 1 unknown, 1 not tried; the unknown ones may or may not have been changed: wait 1m0s and run again`
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	})
	inModes(t, func(t *testing.T, mode stocksync.Mode) {
		shop := newShop(recordsTo(2)...)
		shop.next = inTurn(lost, limited)
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := time.Now()
		report, err := stocksync.Sync(ctx, shop, plus(1, recordsTo(2)...), stocksync.Options{Mode: mode, BatchSize: 1})
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.NotTried))
		if err == nil || time.Since(start) != 15*time.Second || shop.sent != 2 {
			t.Errorf("while settling: %v after %v", err, time.Since(start))
		}
	})
}

// other is a Stock whose writes fail with an error that is not an oakra.BulkError.
type other struct {
	*shop
	err error
}

func (o other) ChangeAll(context.Context, []oakra.StockChange, oakra.BulkOptions) error { return o.err }

func TestErrorOfAnotherStock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		strange := errors.New("strange")
		report, err := stocksync.Sync(t.Context(), other{newShop(recordsTo(2)...), strange}, plus(1, recordsTo(2)...), stocksync.Options{})
		checkStatuses(t, report, statuses(stocksync.Unknown, stocksync.Unknown))
		if !errors.Is(err, strange) {
			t.Error(err)
		}
		done := fmt.Errorf("wrapped: %w", &oakra.Error{Outcome: oakra.OutcomeApplied})
		report, err = stocksync.Sync(t.Context(), other{newShop(recordsTo(2)...), done}, plus(1, recordsTo(2)...), stocksync.Options{})
		checkStatuses(t, report, statuses(stocksync.Synced, stocksync.Synced))
		if err != nil {
			t.Error(err)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shop := newShop(recordsTo(4)...)
		shop.next = inTurn(applied, lost)
		var got []stocksync.Progress
		_, err := stocksync.Sync(t.Context(), shop, plus(1, recordsTo(4)...), stocksync.Options{
			BatchSize: 2, OnProgress: func(p stocksync.Progress) { got = append(got, p) }})
		if err != nil {
			t.Error(err)
		}
		want := []stocksync.Progress{
			{Phase: stocksync.Reading, Done: 4, Total: 4},
			{Phase: stocksync.Writing, Done: 2, Total: 4}, {Phase: stocksync.Writing, Done: 2, Total: 4},
			{Phase: stocksync.Settling, Done: 0, Total: 2}, {Phase: stocksync.Settling, Done: 2, Total: 2},
			{Phase: stocksync.Writing, Done: 4, Total: 4},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestStatusString(t *testing.T) {
	for f, want := range map[stocksync.Status]string{
		stocksync.NotTried: "not tried", stocksync.Synced: "synced", stocksync.NotFound: "not found",
		stocksync.Rejected: "rejected", stocksync.Unknown: "unknown", 9: "Status(9)",
	} {
		if f.String() != want {
			t.Errorf("%v, want %s", f, want)
		}
	}
}
