package main

import (
	"context"
	"fmt"
	"time"

	"github.com/oakra/oakra-go"
)

// bulkResult holds how long UpdateAll takes.
type bulkResult struct {
	Updates   int       `json:"updates"`
	LatencyMS float64   `json:"server_ms_per_request"`
	RecordUS  float64   `json:"server_us_per_record"`
	OneByOne  oneByOne  `json:"one_at_a_time"`
	Runs      []bulkRun `json:"runs"`
}

// oneByOne is the result of one request for each record, one after the other. The time
// for all of them is computed from that of the number in Measured.
type oneByOne struct {
	Measured int     `json:"measured"`
	Seconds  float64 `json:"seconds"` // time for all updates
}

type bulkRun struct {
	BatchSize   int     `json:"batch_size"`
	Concurrency int     `json:"concurrency"`
	Seconds     float64 `json:"seconds"`
}

// timeBulk runs UpdateAll with all batch sizes and concurrencies.
func timeBulk(server string, n int, sizes, concurrencies []int, log func(string, ...any)) (*bulkResult, error) {
	result := &bulkResult{
		Updates:   n,
		LatencyMS: float64(bulkLatency) / float64(time.Millisecond),
		RecordUS:  float64(bulkPerRecord) / float64(time.Microsecond),
	}
	client, err := bulkClient(server)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	updates := bulkUpdates(n)

	const sample = 200
	start := time.Now()
	for i := range sample {
		if _, err := client.Stock.Update(context.Background(), updates[i:i+1]); err != nil {
			return nil, err
		}
	}
	result.OneByOne = oneByOne{sample, rounded(time.Since(start).Seconds() / sample * float64(n))}
	log("bulk: one record a request, one at a time")

	for _, size := range sizes {
		for _, concurrency := range concurrencies {
			run, err := timeUpdateAll(client, updates, size, concurrency)
			if err != nil {
				return nil, err
			}
			result.Runs = append(result.Runs, run)
			log("bulk: batches of %d, %d at once", size, concurrency)
		}
	}
	return result, nil
}

func bulkClient(server string) (*oakra.Client, error) {
	return oakra.NewClient(appKey, oakra.WithBaseURL(server+"/bulk/"))
}

func bulkUpdates(n int) []oakra.StockUpdate {
	updates := make([]oakra.StockUpdate, n)
	for i := range updates {
		updates[i] = oakra.StockUpdate{ID: int64(i + 1), Quantity: int64(i % 1000)}
	}
	return updates
}

func timeUpdateAll(client *oakra.Client, updates []oakra.StockUpdate, size, concurrency int) (bulkRun, error) {
	applied := 0
	start := time.Now()
	err := client.Stock.UpdateAll(context.Background(), updates, oakra.BulkOptions{
		BatchSize:   size,
		Concurrency: concurrency,
		OnProgress:  func(p oakra.BulkProgress) { applied = p.Applied },
	})
	took := time.Since(start)
	if err == nil && applied != len(updates) {
		err = fmt.Errorf("bulk: of %d updates %d were applied", len(updates), applied)
	}
	return bulkRun{size, concurrency, rounded(took.Seconds())}, err
}
