package main

import (
	"context"
	"fmt"
	"time"

	"github.com/oakra/oakra-go/oakratest"
)

// stormed is what a storm of faults left behind.
type stormed struct {
	Name     string  `json:"name"`
	Records  int     `json:"records"` // each with one change
	Requests int     `json:"requests"`
	Faults   int     `json:"faults"` // requests that were struck
	Wrong    int     `json:"wrong"`  // records that do not show exactly their change, by the server's ledger
	Seconds  float64 `json:"seconds"`
}

// stormLate is how long after its failure a late request lands.
const stormLate = 1500 * time.Millisecond

// measureStorms sends changes, each of a record of its own, while the server fails.
// The same writes fail for all, counted in order of arrival.
func (p plan) measureStorms(ctx context.Context, h *host, log func(string, ...any)) ([]stormed, error) {
	var all []stormed
	for _, start := range []maker{newOutbox, newRiver, newByHand} {
		s, err := p.storm(ctx, h, start)
		if err != nil {
			return nil, err
		}
		log("%s: %d requests, %d struck, %d records wrong, %.1f s", s.Name, s.Requests, s.Faults, s.Wrong, s.Seconds)
		all = append(all, s)
	}
	return all, nil
}

func (p plan) storm(ctx context.Context, h *host, start maker) (s stormed, err error) {
	d, err := h.fresh(ctx)
	if err != nil {
		return s, err
	}
	defer d.close()
	w, err := newWarehouse(p.stormRecords, "")
	if err != nil {
		return s, err
	}
	defer w.Close()
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.ResetBefore, Probability: 0.01},
		{Kind: oakratest.ResetAfter, Probability: 0.02},
		{Kind: oakratest.CutBody, Probability: 0.01},
		{Kind: oakratest.ApplyLate, Delay: stormLate, Probability: 0.01},
		{Kind: oakratest.Respond, Status: 503, Body: "<html>", Probability: 0.01},
		{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>", Probability: 0.01},
	} {
		f.Op, f.Seed = "stock.change", p.seed+uint64(i)
		w.Inject(f)
	}
	c, err := start(ctx, d, w, stormOptions)
	if err != nil {
		return s, err
	}
	s = stormed{Name: c.name, Records: p.stormRecords}
	began := time.Now()
	if err := c.add(ctx, sales(0, p.stormRecords, p.stormRecords)...); err != nil {
		return s, fmt.Errorf("%s: %w", c.name, err)
	}
	if err := c.drain(ctx); err != nil {
		return s, fmt.Errorf("%s: %w", c.name, err)
	}
	s.Seconds = rounded(time.Since(began).Seconds())
	for !s.count(w.Requests()) {
		time.Sleep(10 * time.Millisecond)
	}
	s.Wrong = w.wrong(p.stormRecords)
	return s, nil
}

// count counts the writes. It reports whether all late ones have landed.
func (s *stormed) count(requests []oakratest.Request) bool {
	s.Requests, s.Faults = 0, 0
	landed := true
	for _, r := range requests {
		if r.Op == "stock.change" {
			s.Requests++
			if r.Fault != "" {
				s.Faults++
			}
			landed = landed && (r.Fault != oakratest.ApplyLate || r.Applied != nil)
		}
	}
	return landed
}
