package stocksync_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go/stocksync"
)

func TestReadFeedOfShops(t *testing.T) {
	for name, tt := range map[string]struct {
		options stocksync.FeedOptions
		file    string
		want    stocksync.Feed
	}{
		"Shopify": {
			stocksync.FeedOptions{Quantity: "On hand (current)", Skip: []string{"not stocked"}, SkipUnnamed: true},
			`Handle,Title,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Option3 Name,Option3 Value,SKU,HS Code,COO,Location,Bin name,Incoming (not editable),Unavailable (not editable),Committed (not editable),Available (not editable),On hand (current),On hand (new)
mug,"Mug, ""Anna""",Color,Blue,,,,,mug-blue,,,Main street,A-1,0,0,2,10,12,
mug,"Mug, ""Anna""",Color,Blue,,,,,mug-blue,,,Store,,,,,not stocked,Not stocked,
gift,Gift card,,,,,,,,,,Main street,,0,0,0,0,0,
pot,Pot,,,,,,,pot-1,,,Main street,,0,0,3,-3,0,
`,
			stocksync.Feed{
				Targets: []stocksync.Target{{SKU: "mug-blue", LocationID: "Main street", Quantity: 12}, {SKU: "pot-1", LocationID: "Main street", Quantity: 0}},
				Skipped: []stocksync.SkippedLine{{Line: 3, Reason: `the On hand (current) is "Not stocked"`}, {Line: 4, Reason: "no sku"}},
			},
		},
		"Shopify, a column for each location": {
			stocksync.FeedOptions{Quantity: "Main street", LocationID: "warehouse-1", Skip: []string{"not stocked"}},
			"Handle,Title,SKU,HS Code,COO,Main street,Store\nmug,Mug,mug-blue,,,10,3\npot,Pot,pot-1,,,not stocked,4\n",
			stocksync.Feed{
				Targets: []stocksync.Target{{SKU: "mug-blue", LocationID: "warehouse-1", Quantity: 10}},
				Skipped: []stocksync.SkippedLine{{Line: 3, Reason: `the Main street is "not stocked"`}},
			},
		},
		"WooCommerce": {
			stocksync.FeedOptions{Quantity: "Stock", LocationID: "warehouse-1", Skip: []string{"", "parent"}, SkipUnnamed: true},
			"\uFEFFID,Type,SKU,Name,Published,Description,\"In stock?\",Stock,\"Low stock amount\",Parent\n" +
				"10,simple,belt,Belt,1,\"Leather,\nbrown\",1,7,,\n" +
				"11,variable,hoodie,Hoodie,1,,1,,,\n" +
				"12,variation,hoodie-m,Hoodie - M,1,,1,parent,,hoodie\n" +
				"13,variation,hoodie-l,Hoodie - L,1,,0,-2,,hoodie\n" +
				"14,simple,,Album,1,,1,5,,\n",
			stocksync.Feed{
				Targets: []stocksync.Target{{SKU: "belt", LocationID: "warehouse-1", Quantity: 7}, {SKU: "hoodie-l", LocationID: "warehouse-1", Quantity: -2}},
				Skipped: []stocksync.SkippedLine{{Line: 4, Reason: `the Stock is ""`}, {Line: 5, Reason: `the Stock is "parent"`}, {Line: 7, Reason: "no sku"}},
			},
		},
		"Magento, stock sources": {
			stocksync.FeedOptions{Location: "source_code"},
			"source_code,sku,status,quantity\ndefault,24-MB01,1,100.0000\neu-1,24-MB01,0,0.0000\n",
			stocksync.Feed{Targets: []stocksync.Target{{SKU: "24-MB01", LocationID: "default", Quantity: 100}, {SKU: "24-MB01", LocationID: "eu-1", Quantity: 0}}},
		},
		"Magento, products": {
			stocksync.FeedOptions{LocationID: "warehouse-1"},
			"sku,store_view_code,product_type,additional_attributes,qty,out_of_stock_qty\n24-MB01,,simple,\"color=Red,size=\"\"M\"\"\",100.0000,0.0000\n",
			stocksync.Feed{Targets: []stocksync.Target{{SKU: "24-MB01", LocationID: "warehouse-1", Quantity: 100}}},
		},
		"ERPNext, Stock Balance": {
			stocksync.FeedOptions{SKU: "Item", Location: "Warehouse", Quantity: "Balance Qty", SkipUnnamed: true},
			`"Item","Item Name","Item Group","Warehouse","Stock UOM","Balance Qty","Balance Value","Company"
"SKU001","T-shirt","Apparel","Stores - G",Nos,12.0,240.0,"Grey"
"SKU002","Laptop","Electronics","Stores - G",Nos,1234.0,99.5,"Grey"
"Total","","","","",1246.0,339.5,""
`,
			stocksync.Feed{
				Targets: []stocksync.Target{{SKU: "SKU001", LocationID: "Stores - G", Quantity: 12}, {SKU: "SKU002", LocationID: "Stores - G", Quantity: 1234}},
				Skipped: []stocksync.SkippedLine{{Line: 4, Reason: "no Warehouse"}},
			},
		},
		"ERPNext, Bin": {
			stocksync.FeedOptions{SKU: "Item Code", Location: "Warehouse", Quantity: "Actual Quantity"},
			"\"Sr\",\"Warehouse\",\"Item Code\",\"Actual Quantity\"\n1,\"Stores - G\",\"SKU001\",12.0\n",
			stocksync.Feed{Targets: []stocksync.Target{{SKU: "SKU001", LocationID: "Stores - G", Quantity: 12}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stocksync.ReadFeed(strings.NewReader(tt.file), tt.options)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// TestReadFeedNamesBadLines checks that a line without a quantity is bad unless the
// options skip it, and that there is no feed if a line is bad.
func TestReadFeedNamesBadLines(t *testing.T) {
	file := "Item;Place;On hand\na;w1;5\n;w1;5\nb;;5\nc;w1;not stocked\nd;w1;\ne;w1;NOT STOCKED\n"
	columns := stocksync.FeedOptions{SKU: "item", Location: "PLACE", Quantity: "on-hand"}
	for want, options := range map[string]stocksync.FeedOptions{
		`bad lines: 5; line 3: no item; line 4: no PLACE; line 5: the quantity "not stocked" is not plainly a whole number: it has letters; line 6: no on-hand; line 7: `: columns,
		`bad lines: 3; line 3: no item; line 4: no PLACE; line 6: no on-hand`:                                                                                             {SKU: "item", Location: "PLACE", Quantity: "on-hand", Skip: []string{"Not stocked"}},
		`bad lines: 3; line 5: the quantity "not stocked"`:                                                                                                                {SKU: "item", Location: "PLACE", Quantity: "on-hand", SkipUnnamed: true},
		`bad lines: 1; line 6: no on-hand`:                                                                                                                                {SKU: "item", Location: "PLACE", Quantity: "on-hand", SkipUnnamed: true, Skip: []string{"Not stocked"}},
	} {
		feed, err := stocksync.ReadFeed(strings.NewReader(file), options)
		require.ErrorContains(t, err, want)
		require.Zero(t, feed)
	}
	feed, err := stocksync.ReadFeed(strings.NewReader(file), stocksync.FeedOptions{SKU: "item", Location: "PLACE", Quantity: "on-hand", SkipUnnamed: true, Skip: []string{"", "not stocked"}})
	require.NoError(t, err)
	require.Len(t, feed.Targets, 1)
	require.Len(t, feed.Skipped, 5)
}

// TestReadFeedAllSkipped checks that a file whose lines are all skipped is not taken
// for one that was cut short: a shop may track no stock.
func TestReadFeedAllSkipped(t *testing.T) {
	feed, err := stocksync.ReadFeed(strings.NewReader("sku,location,qty\na,w1,-\n"), stocksync.FeedOptions{Skip: []string{"-"}})
	require.NoError(t, err)
	require.Empty(t, feed.Targets)
	require.Equal(t, []stocksync.SkippedLine{{Line: 2, Reason: `the quantity is "-"`}}, feed.Skipped)
}

// TestReadFeedSkippedHidesRows checks that a line that would be skipped counts as a
// row too.
func TestReadFeedSkippedHidesRows(t *testing.T) {
	file := "sku,name,location_id,quantity\nhose,\"Hose,w1,n/a\ntube,Tube 1\",w1,80\n"
	_, err := stocksync.ReadFeed(strings.NewReader(file), stocksync.FeedOptions{Skip: []string{"N/A"}})
	require.ErrorContains(t, err, "a quote in line 2 closes in line 3")
}

func TestReadFeedColumns(t *testing.T) {
	for want, tt := range map[string]struct {
		options stocksync.FeedOptions
		header  string
	}{
		`the header has no column Item: ["sku" "location_id" "quantity"]`: {stocksync.FeedOptions{SKU: "Item"}, "sku,location_id,quantity"},
		"the header has no column Stock":                                  {stocksync.FeedOptions{Quantity: "Stock"}, "sku,location_id,quantity"},
		"the header has the column Stock twice":                           {stocksync.FeedOptions{Quantity: "Stock"}, "sku,location_id,stock,STOCK"},
		"the header has the column location_id twice":                     {stocksync.FeedOptions{}, "sku,location_id,location,quantity"},
		"the header has no column location_id":                            {stocksync.FeedOptions{}, "sku,quantity"},
		`both Location "Place" and LocationID "w1" are set`:               {stocksync.FeedOptions{Location: "Place", LocationID: "w1"}, "sku,place,quantity"},
		"the column sku is named twice":                                   {stocksync.FeedOptions{SKU: "sku", Location: "Place", Quantity: "sku"}, "sku,place"},
	} {
		_, err := stocksync.ReadFeed(strings.NewReader(tt.header+"\na,w1,5,5\n"), tt.options)
		require.ErrorContains(t, err, want)
	}
	// Only the columns that are read must be unique.
	feed, err := stocksync.ReadFeed(strings.NewReader("sku,note,note,quantity,qty,location\na,x,y,5,6,w2\n"), stocksync.FeedOptions{Quantity: "QTY", LocationID: "w1"})
	require.NoError(t, err)
	require.Equal(t, []stocksync.Target{{SKU: "a", LocationID: "w1", Quantity: 6}}, feed.Targets)
}

func ExampleReadFeed() {
	export := strings.NewReader(`SKU,Location,Committed (not editable),On hand (current)
mug-blue,Main street,2,12
mug-red,Main street,0,not stocked
`)
	feed, err := stocksync.ReadFeed(export, stocksync.FeedOptions{Quantity: "On hand (current)", Skip: []string{"not stocked"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range feed.Targets {
		feed.Targets[i].LocationID = "warehouse-1" // Oakra's name for the main street
	}
	fmt.Println(feed.Targets)
	fmt.Println(feed.Skipped)
	// Output:
	// [{mug-blue warehouse-1 12}]
	// [{3 the On hand (current) is "not stocked"}]
}
