package main

import (
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// newDemo starts the fake server of --demo, slow enough to see the progress.
func newDemo() *oakratest.Server {
	server := oakratest.NewServer(catalogue()...)
	addSales(server)
	server.SetLatency(200*time.Millisecond, 20*time.Millisecond)
	return server
}

// addSales makes a fake server follow the newest version of the API reference, and adds
// some sales.
func addSales(server *oakratest.Server) {
	server.SetDialect(oakratest.Dialect{Newest: true})
	server.SetSales(
		oakratest.Sale{ID: 30420, SaleID: "100001234"},
		oakratest.Sale{ID: 30421, SaleID: "100001235"},
		oakratest.Sale{ID: 30422, SaleID: "100001236", Status: oakratest.SaleInFulfillment},
		oakratest.Sale{ID: 30423, SaleID: "100001237", Status: oakratest.SaleCanceled},
	)
}

// catalogue returns the records of a small shop. The first two are those of the API
// reference.
func catalogue() []oakra.StockRecord {
	locations := []string{"warehouse-1", "warehouse-2", "shop-berlin"}
	items := []struct {
		sku   string
		units [3]int64 // quantities by location
	}{
		{"shirt-blue-m", [3]int64{135, 60, 8}},
		{"shirt-green-m", [3]int64{142, 48, 5}},
		{"shirt-white-l", [3]int64{210, 95, 12}},
		{"hoodie-grey-m", [3]int64{64, 30, 3}},
		{"hoodie-black-l", [3]int64{71, 22, 4}},
		{"jeans-slim-32", [3]int64{88, 41, 6}},
		{"jeans-straight-34", [3]int64{93, 37, 5}},
		{"socks-wool-3pack", [3]int64{1250, 480, 40}},
		{"belt-leather-95", [3]int64{55, 0, 2}},
		{"cap-navy", [3]int64{120, 75, 9}},
		{"scarf-red", [3]int64{0, 18, 1}},
		{"tote-canvas", [3]int64{340, 160, 25}},
	}
	var records []oakra.StockRecord
	for l, location := range locations {
		for _, item := range items {
			records = append(records, oakra.StockRecord{
				ID:         122 + int64(len(records)),
				LocationID: location,
				SKU:        item.sku,
				Quantity:   item.units[l],
			})
		}
	}
	return records
}
