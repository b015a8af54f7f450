package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const witnessFlags = "outbox check --head outbox-head@warehouse-1 --tail outbox-tail@warehouse-1 --item cap-navy@warehouse-1 --every 1ms --grace 20ms --request-timeout 5s --yes"

func newWitnessSession(t *testing.T) *session {
	return newSession(t, append(catalogue(),
		oakra.StockRecord{ID: 1, SKU: testHead.SKU, LocationID: testHead.LocationID, Quantity: 200_000},
		oakra.StockRecord{ID: 2, SKU: testTail.SKU, LocationID: testTail.LocationID, Quantity: 200_000})...)
}

func TestOutboxCheck(t *testing.T) {
	s := newWitnessSession(t)
	before := s.server.Records()
	stdout, _ := s.run(exitOK, strings.Fields(witnessFlags)...)
	contains(t, stdout, "2 requests in ", ": 0 had an unknown outcome", "a rejected request changed nothing")
	// There are three changes, and the update that restores, which looks for its route.
	if n, records := s.writes(), s.server.Records(); n != 5 || !slices.Equal(records, before) {
		t.Errorf("%d writes, %v", n, records)
	}
	// Lost responses are settled, except for that of the request that must be rejected.
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Slow, Times: 1})
	s.server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.ResetAfter, Probability: 0.3, Seed: 8})
	stdout, _ = s.run(exitOK, append(strings.Fields(witnessFlags), "--for", "200ms", "--json")...)
	contains(t, stdout, `"pending": 0`, `"open_attempts": 0`)
	if records := s.server.Records(); !slices.Equal(records, before) {
		t.Errorf("%v", records)
	}
}

// Ctrl-C ends the check with all records as they were.
func TestOutboxCheckIsStopped(t *testing.T) {
	s := newWitnessSession(t)
	before := s.server.Records()
	ctx, stop := context.WithCancel(t.Context())
	s.ctx = ctx
	go func() {
		for s.server.Quantity(131) == 120 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		stop()
	}()
	s.run(exitOK, append(strings.Fields(witnessFlags), "--for", "1h")...)
	if records := s.server.Records(); !slices.Equal(records, before) {
		t.Errorf("%v", records)
	}
}

func TestOutboxCheckFindsWhatIsUnfit(t *testing.T) {
	for name, test := range map[string]struct {
		args  string
		spoil func(s *session)
		code  int
		want  string
	}{
		"not confirmed":  {strings.Replace(witnessFlags, "--yes", "", 1), nil, exitError, "not confirmed; nothing was done"},
		"no key":         {strings.Replace(witnessFlags, "outbox-tail@warehouse-1", "outbox-tail", 1), nil, exitError, `"outbox-tail": a SKU and a location are needed`},
		"no record":      {strings.Replace(witnessFlags, "cap-navy", "hat", 1), nil, exitRejected, "no stock record: hat@warehouse-1"},
		"too few":        {strings.Replace(witnessFlags, "outbox-tail", "scarf-red", 1), nil, exitRejected, "scarf-red@warehouse-1 has 0 units: give it 200,000"},
		"a bad duration": {witnessFlags + " --for=-1s", nil, exitError, "--for and --every must not be negative"},
		"applied in part": {witnessFlags, func(s *session) {
			s.server.SetDialect(oakratest.Dialect{ItemByItem: true})
		}, exitRejected, "Oakra applied a part of a request that it rejected"},
		"nothing is applied": {witnessFlags, func(s *session) {
			s.server.SetRecords(oakra.StockRecord{ID: absentID, SKU: "x", LocationID: "y"})
		}, exitRejected, "Oakra accepts a change of record 2147483647"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWitnessSession(t)
			if test.spoil != nil {
				test.spoil(s)
			}
			_, stderr := s.run(test.code, strings.Fields(test.args)...)
			contains(t, stderr, test.want)
		})
	}
	t.Run("a foreign hand", func(t *testing.T) {
		s := newWitnessSession(t)
		go func() {
			_ = s.server.Wait(t.Context(), "stock.change")
			for s.server.Quantity(1) == 200_000 && t.Context().Err() == nil { // the outbox has begun
				time.Sleep(time.Millisecond)
			}
			s.server.SetRecords(oakra.StockRecord{ID: 2, SKU: testTail.SKU, LocationID: testTail.LocationID, Quantity: 150_000})
		}()
		_, stderr := s.run(exitRejected, append(strings.Fields(witnessFlags), "--for", "1h")...)
		contains(t, stderr, "the outbox is halted: the witnesses have", "give the witnesses 200,000 units again, and the item the 120 that it had")
	})
}
