package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// opening is the stock at the beginning. Record 1 is head, record 2 is tail.
func opening() []oakra.StockRecord {
	records := []oakra.StockRecord{
		{ID: 1, SKU: head.SKU, LocationID: warehouse, Quantity: 200_000},
		{ID: 2, SKU: tail.SKU, LocationID: warehouse, Quantity: 200_000},
	}
	for i, sku := range []string{"shirt-blue-m", "shirt-green-m", "shirt-white-l", "hoodie-grey-m", "jeans-slim-32", "socks-wool-3pack", "cap-navy", "tote-canvas"} {
		records = append(records, oakra.StockRecord{ID: 122 + int64(i), SKU: sku, LocationID: warehouse, Quantity: 10_000})
	}
	return records
}

func anySKU(random *rand.Rand) oakra.StockRecord {
	items := opening()[2:]
	return items[random.IntN(len(items))]
}

// storm makes the server fail in every way that a write can fail.
func storm(server *oakratest.Server, seed uint64) {
	for i, f := range []oakratest.Fault{
		{Kind: oakratest.ResetBefore, Probability: 0.03},
		{Kind: oakratest.ResetAfter, Probability: 0.05},
		{Kind: oakratest.RespondAfter, Status: 502, Body: "<html>bad gateway</html>", Probability: 0.03},
		{Kind: oakratest.Respond, Status: 503, Body: "<html>try again later</html>", Probability: 0.03},
		{Kind: oakratest.Respond, Status: 429, Body: `{"detail":"Request was throttled."}`, Probability: 0.03},
		{Kind: oakratest.CutBody, Probability: 0.03},
		{Kind: oakratest.ApplyLate, Delay: late, Op: "stock.change", Probability: 0.03},
	} {
		f.Seed = seed*10 + uint64(i)
		server.Inject(f)
	}
}

// outage makes the server fail whatever it is asked.
func outage(server *oakratest.Server) {
	server.ClearFaults()
	server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 503, Body: "<html>down for maintenance</html>"})
}

// till sells the same items elsewhere, past the outbox, until ctx ends. Whether a
// sale was applied is read from the server's own record of it, see soldElsewhere.
func till(ctx context.Context, client *oakra.Client, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1000))
	for ctx.Err() == nil {
		_, _ = client.Stock.Change(ctx, []oakra.StockChange{{ID: anySKU(random).ID, QuantityChange: -1}})
		sleep(ctx, 40*time.Millisecond)
	}
}

// soldElsewhere counts by ID what the till sold: the requests without a witness.
func soldElsewhere(server *oakratest.Server) map[int64]int64 {
	sold := make(map[int64]int64)
	for _, request := range server.Requests() {
		if len(request.Applied) > 0 && request.Applied[0].ID != 1 {
			for _, a := range request.Applied {
				sold[a.ID] += a.From - a.To
			}
		}
	}
	return sold
}

// customers buy at the shop over HTTP.
type customers struct {
	address atomic.Value // string: where the shop is; it changes when it is started again
	placed  atomic.Int64
	mu      sync.Mutex
	seen    map[string]bool // the orders that the shop confirmed
}

// buy places orders until stopped is closed. An order that was not confirmed, since the
// shop was killed, is placed again until it is, or ctx ends.
func (c *customers) buy(ctx context.Context, stopped <-chan struct{}, name string, random *rand.Rand) {
	for n := 1; ctx.Err() == nil; n++ {
		select {
		case <-stopped:
			return
		default:
		}
		var lines []line
		for range 1 + random.IntN(3) {
			lines = append(lines, line{anySKU(random).SKU, 1 + random.Int64N(2)})
		}
		id := fmt.Sprintf("%s-%d", name, n)
		for !c.confirmed(ctx, id, lines) && ctx.Err() == nil {
			sleep(ctx, 100*time.Millisecond)
		}
		sleep(ctx, 30*time.Millisecond)
	}
}

func (c *customers) confirmed(ctx context.Context, id string, lines []line) bool {
	text, err := json.Marshal(lines)
	if err != nil {
		return false
	}
	status, _ := c.ask(ctx, "PUT", "/orders/"+id, text)
	if status != http.StatusNoContent {
		return false
	}
	c.placed.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[id] = true
	return true
}

// ask returns the status of the shop's response, or 0 if there was none.
func (c *customers) ask(ctx context.Context, method, path string, body []byte) (status int, response []byte) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.address.Load().(string)+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil
	}
	defer r.Body.Close()
	response, err = io.ReadAll(r.Body)
	if err != nil {
		return 0, nil
	}
	return r.StatusCode, response
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
