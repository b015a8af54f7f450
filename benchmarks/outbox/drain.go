package main

import (
	"context"
	"fmt"
	"time"

	"github.com/oakra/oakra-go/outbox"
)

// drained is how changes of 1,000 records were applied.
type drained struct {
	Name     string  `json:"name"`
	Changes  int     `json:"changes"`             // measured; the rest is in proportion
	AtOnce   int     `json:"at_once"`             // requests at once
	Requests int     `json:"requests"`            // writes, for 100,000 changes
	Seconds  float64 `json:"seconds"`             // for 100,000 changes, the median
	ToRecord *spread `json:"to_record,omitempty"` // ratio to recording the changes, of this outbox
}

const (
	drainItems   = 1000
	drainLatency = 20 * time.Millisecond // latency of a request
	drainAll     = 100_000               // changes that the results are for
)

// measureDrains applies many changes, always on a fresh database.
func (p plan) measureDrains(ctx context.Context, h *host, log func(string, ...any)) ([]drained, error) {
	own := drained{Name: nameOutbox, Changes: p.drained, AtOnce: 1}
	var took, ratios timing
	for range p.drainRounds {
		record, drain, writes, err := drainOnce(ctx, h, newOutbox, p.drained)
		if err != nil {
			return nil, err
		}
		took, ratios = append(took, drain.Seconds()), append(ratios, drain.Seconds()/record.Seconds())
		own.Requests = max(own.Requests, writes)
		log("%s: recorded in %.2f s, drained in %.2f s, %d writes", nameOutbox, record.Seconds(), drain.Seconds(), writes)
	}
	scale := float64(drainAll) / float64(p.drained)
	own.Seconds, own.ToRecord = rounded(scale*spreadOf(took).P50), new(spreadOf(ratios))
	all := []drained{own}
	for _, other := range []struct {
		name  string
		start maker
	}{{nameRiver, newRiver}, {nameByHand, newByHand}} {
		changes := p.drainedOneByOne[h.name]
		_, drain, writes, err := drainOnce(ctx, h, other.start, changes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", other.name, err)
		}
		log("%s: drained %d in %.2f s, %d writes", other.name, changes, drain.Seconds(), writes)
		scale := float64(drainAll) / float64(changes)
		all = append(all, drained{Name: other.name, Changes: changes, AtOnce: workers,
			Requests: int(scale * float64(writes)), Seconds: rounded(scale * drain.Seconds())})
	}
	return all, nil
}

func drainOnce(ctx context.Context, h *host, start maker, changes int) (record, drain time.Duration, writes int, err error) {
	d, err := h.fresh(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	defer d.close()
	w, err := newWarehouse(drainItems, "")
	if err != nil {
		return 0, 0, 0, err
	}
	defer w.Close()
	w.SetLatency(drainLatency, 0)
	c, err := start(ctx, d, w, outbox.Options{})
	if err != nil {
		return 0, 0, 0, err
	}
	began := time.Now()
	const call = 500
	for from := 0; from < changes; from += call {
		if err := c.add(ctx, sales(from, min(call, changes-from), drainItems)...); err != nil {
			return 0, 0, 0, err
		}
	}
	record = time.Since(began)
	began = time.Now()
	if err := c.drain(ctx); err != nil {
		return 0, 0, 0, err
	}
	drain = time.Since(began)
	if wrong := w.wrong(changes); wrong > 0 {
		return 0, 0, 0, fmt.Errorf("%d records are wrong although nothing failed", wrong)
	}
	return record, drain, w.writes(), nil
}

// wrong is how many records do not show exactly the first so many sales.
func (w *warehouse) wrong(sold int) (n int) {
	items := len(w.ids)
	for i := range items {
		want := int64(itemStart - sold/items)
		if i < sold%items {
			want--
		}
		if w.Quantity(firstItem+int64(i)) != want {
			n++
		}
	}
	return n
}
