package main

import (
	"context"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
)

// bulkResult is how long UpdateAll takes.
type bulkResult struct {
	Updates   int       `json:"updates"`
	LatencyMS float64   `json:"server_ms_per_request"`
	RecordUS  float64   `json:"server_us_per_record"`
	OneByOne  oneByOne  `json:"one_at_a_time"`
	Runs      []bulkRun `json:"runs"`
}

// oneByOne is a request for each record, one after the other. So many are
// measured as fit the time, and the rest is reckoned from them.
type oneByOne struct {
	Measured int     `json:"measured"`
	Seconds  float64 `json:"seconds"` // for all updates
}

type bulkRun struct {
	BatchSize   int     `json:"batch_size"`
	Concurrency int     `json:"concurrency"`
	Seconds     float64 `json:"seconds"`
}

// compareBulk runs UpdateAll with all batch sizes and concurrencies.
func compareBulk(server string, n int, sizes, concurrencies []int, log func(string, ...any)) (*bulkResult, error) {
	result := &bulkResult{
		Updates:   n,
		LatencyMS: float64(bulkLatency) / float64(time.Millisecond),
		RecordUS:  float64(bulkPerRecord) / float64(time.Microsecond),
	}
	ctx := context.Background()
	client, err := oakra.NewClient(appKey, oakra.WithBaseURL(server+"/bulk/"))
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	updates := make([]oakra.StockUpdate, n)
	for i := range updates {
		updates[i] = oakra.StockUpdate{ID: int64(i + 1), Quantity: int64(i % 1000)}
	}

	const sample = 200
	start := time.Now()
	for i := range sample {
		if _, err := client.Stock.Update(ctx, updates[i:i+1]); err != nil {
			return nil, err
		}
	}
	result.OneByOne = oneByOne{sample, rounded(time.Since(start).Seconds() / sample * float64(n))}
	log("bulk: one record a request, one at a time")

	for _, size := range sizes {
		for _, concurrency := range concurrencies {
			applied := 0
			start := time.Now()
			err := client.Stock.UpdateAll(ctx, updates, oakra.BulkOptions{
				BatchSize:   size,
				Concurrency: concurrency,
				OnProgress:  func(p oakra.BulkProgress) { applied = p.Applied },
			})
			took := time.Since(start)
			if err != nil {
				return nil, err
			}
			if applied != n {
				return nil, fmt.Errorf("bulk: of %d updates %d were applied", n, applied)
			}
			result.Runs = append(result.Runs, bulkRun{size, concurrency, rounded(took.Seconds())})
			log("bulk: batches of %d, %d at once", size, concurrency)
		}
	}
	return result, nil
}
