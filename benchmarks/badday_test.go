package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// TestBadDay takes all measurements with small runs, and checks everything except the
// times.
func TestBadDay(t *testing.T) {
	t.Parallel()
	d := badDay{
		items: 1000, stopped: 1000, targets: 60, limited: 4000, pairs: 1,
		outage: 100 * time.Millisecond, lasting: 300 * time.Millisecond, latency: time.Millisecond,
		options: oakra.BulkOptions{BatchSize: 5, Concurrency: 4},
	}
	all, err := d.run(t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 12 {
		t.Errorf("%d measures, want 12", len(all))
	}
	for _, m := range all {
		if !m.right {
			t.Errorf("%s: must be %s, was %+v, %s", m.what, m.must, m.ending, m.cost)
		}
	}
}

func TestPrintMeasured(t *testing.T) {
	var b strings.Builder
	rows := []measured{{what: "a", right: true, inTime: true}, {what: "b", inTime: true}, {what: "c", right: true}}
	if err := printMeasured(&b, rows[:1]); err != nil {
		t.Error(err)
	}
	if err := printMeasured(&b, rows); err == nil || !strings.Contains(err.Error(), "2 of 3") {
		t.Error(err)
	}
	if got := strings.Fields(b.String()); !slices.Contains(got, "NOT") || !slices.Contains(got, "SLOW") {
		t.Error(b.String())
	}
}

// TestEnding checks that a wrong report is found.
func TestEnding(t *testing.T) {
	failures := &oakra.BulkError{Failures: []oakra.BulkFailure{
		{Index: 1, Outcome: oakra.OutcomeNotApplied, Err: errors.New("no")},
		{Index: 2, Outcome: oakra.OutcomeUnknown, Err: errors.New("unknown")},
	}}
	for _, test := range []struct {
		ids   []int64 // ids of the applied changes
		wrong int
	}{
		{[]int64{1}, 0},
		{[]int64{1, 3}, 0},
		{nil, 1},
		{[]int64{1, 1}, 1},
		{[]int64{1, 2}, 1},
		{[]int64{1, 3, 3}, 1},
	} {
		var requests []oakratest.Request
		for _, id := range test.ids {
			requests = append(requests, oakratest.Request{Applied: []oakratest.Applied{{ID: id}}})
		}
		got := endingOf(3, failures, requests)
		if got.wrong != test.wrong || got.applied != 1 || got.notApplied != 1 || got.unknown != 1 || got.retryable {
			t.Errorf("%v: %+v", test.ids, got)
		}
	}
}
