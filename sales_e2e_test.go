package oakra_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// saleShop is a fake server with pending sales, "S1" and so on.
func saleShop(t *testing.T, sales int) *oakratest.Server {
	t.Helper()
	server := oakratest.Start(t)
	server.SetDialect(oakratest.Dialect{Newest: true})
	for i := range sales {
		server.SetSales(oakratest.Sale{SaleID: fmt.Sprintf("S%d", i+1)})
	}
	return server
}

func cancelSale(ctx context.Context, client *oakra.Client, id string) error {
	sale, err := client.Sales.Cancel(ctx, oakra.SaleCancelParams{SaleID: id, Reason: oakra.CancelCustomerRequest})
	if err == nil && (sale.SaleID != id || sale.Status != "canceled") {
		return fmt.Errorf("the canceled sale is %v", sale)
	}
	return err
}

func shipSales(ctx context.Context, client *oakra.Client, ids ...string) error {
	fulfillments, err := client.Shipping.Initiate(ctx, ids)
	if err == nil && len(fulfillments) != len(ids) {
		return fmt.Errorf("the fulfillments are %v", fulfillments)
	}
	return err
}

// appliedTo returns what the server's ledger has for each sale.
func appliedTo(server *oakratest.Server) map[string][]oakratest.AppliedSale {
	applied := make(map[string][]oakratest.AppliedSale)
	for _, request := range server.Requests() {
		for _, a := range request.AppliedSales {
			applied[a.SaleID] = append(applied[a.SaleID], a)
		}
	}
	return applied
}

// TestSalesEndToEnd follows three sales through the fake server.
func TestSalesEndToEnd(t *testing.T) {
	server := saleShop(t, 3)
	client := server.Client()
	rejected := func(err error) *oakra.Error {
		t.Helper()
		require.Equal(t, oakra.StepReject, oakra.NextStep(err), "%v", err)
		require.ErrorIs(t, err, oakra.ErrInvalidRequest)
		return requireError(t, err)
	}

	require.NoError(t, cancelSale(t.Context(), client, "S1"))
	e := rejected(cancelSale(t.Context(), client, "S1"))
	require.Equal(t, map[string][]string{"sale_id": {"This sale is canceled already."}}, e.Fields)
	e = rejected(cancelSale(t.Context(), client, "S9"))
	require.Contains(t, e.Error(), "sale_id: Object with sale_id=S9 does not exist.")

	e = rejected(shipSales(t.Context(), client, "S2", "S1", "S9"))
	require.Equal(t, map[int][]string{
		1: {`This sale is not pending, its status is "canceled".`},
		2: {"Object with sale_id=S9 does not exist."},
	}, e.Items())
	require.NoError(t, shipSales(t.Context(), client, "S3", "S2"))
	e = rejected(shipSales(t.Context(), client, "S2"))
	require.Equal(t, map[int][]string{0: {`This sale is not pending, its status is "in_fulfillment".`}}, e.Items())
	require.NoError(t, cancelSale(t.Context(), client, "S2"))

	require.Equal(t, map[string][]oakratest.AppliedSale{
		"S1": {{SaleID: "S1", From: "pending", To: "canceled"}},
		"S2": {{SaleID: "S2", From: "pending", To: "in_fulfillment"}, {SaleID: "S2", From: "in_fulfillment", To: "canceled"}},
		"S3": {{SaleID: "S3", From: "pending", To: "in_fulfillment"}},
	}, appliedTo(server))
	require.Len(t, server.Requests(), 7)
}

// TestSalesWrongServer: without the path of the base URL, or with a server that has no
// sales, the setup is at fault, and not a sale.
func TestSalesWrongServer(t *testing.T) {
	server := saleShop(t, 1)
	root := oakra.WithBaseURL(strings.TrimSuffix(server.URL, "api/v1/"))
	older := oakratest.Start(t)
	for name, client := range map[string]*oakra.Client{"no path": server.Client(root), "older server": older.Client()} {
		for op, err := range map[string]error{
			"cancel": cancelSale(t.Context(), client, "S1"),
			"ship":   shipSales(t.Context(), client, "S1"),
		} {
			require.Equal(t, oakra.StepAlert, oakra.NextStep(err), "%s, %s: %v", name, op, err)
			require.ErrorIs(t, err, oakra.ErrNoRoute)
			require.NotErrorIs(t, err, oakra.ErrNotFound)
		}
	}
	require.Empty(t, appliedTo(server))
}

// TestSalesFaults has each fault, with the outcome that the client reports and what the
// server has applied.
func TestSalesFaults(t *testing.T) {
	const (
		unknown    = oakra.OutcomeUnknown
		notApplied = oakra.OutcomeNotApplied
		applied    = oakra.OutcomeApplied
	)
	page := "<html><title>Gateway</title></html>"
	for _, tt := range []struct {
		name     string
		fault    oakratest.Fault
		outcome  oakra.Outcome
		applied  bool
		requests int
	}{
		{"slow", oakratest.Fault{Delay: time.Second}, applied, true, 1},
		{"refused once", oakratest.Fault{Kind: oakratest.Refuse, Times: 1}, applied, true, 1},
		{"refused every time", oakratest.Fault{Kind: oakratest.Refuse}, notApplied, false, 0},
		{"reset before", oakratest.Fault{Kind: oakratest.ResetBefore}, unknown, false, 1},
		{"reset after", oakratest.Fault{Kind: oakratest.ResetAfter}, unknown, true, 1},
		{"applied late", oakratest.Fault{Kind: oakratest.ApplyLate, Delay: time.Minute}, unknown, true, 1},
		{"page after", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: page}, unknown, true, 1},
		{"502 after", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502, Body: page}, unknown, true, 1},
		{"429 once", oakratest.Fault{Kind: oakratest.Respond, Status: 429, Times: 1}, applied, true, 2},
		{"503", oakratest.Fault{Kind: oakratest.Respond, Status: 503}, unknown, false, 1},
		{"403", oakratest.Fault{Kind: oakratest.Respond, Status: 403, Body: `{"detail":"No."}`}, notApplied, false, 1},
		{"body cut", oakratest.Fault{Kind: oakratest.CutBody}, unknown, true, 1},
		{"outlasts the attempt", oakratest.Fault{Delay: time.Minute}, unknown, true, 1},
	} {
		for op, call := range map[string]func(context.Context, *oakra.Client) error{
			"cancel": func(ctx context.Context, c *oakra.Client) error { return cancelSale(ctx, c, "S1") },
			"ship":   func(ctx context.Context, c *oakra.Client) error { return shipSales(ctx, c, "S1") },
		} {
			t.Run(tt.name+"/"+op, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := saleShop(t, 1)
					server.Inject(tt.fault)
					err := call(t.Context(), server.Client())
					require.Equal(t, tt.outcome, oakra.OutcomeOf(err), "%v", err)
					require.Equal(t, tt.outcome == applied, err == nil, "%v", err)
					time.Sleep(time.Hour) // for what lands late
					require.Len(t, server.Requests(), tt.requests)
					require.Equal(t, tt.applied, len(appliedTo(server)["S1"]) == 1)
				})
			})
		}
	}
	t.Run("fulfillment omitted", func(t *testing.T) {
		server := saleShop(t, 2)
		server.Inject(oakratest.Fault{Kind: oakratest.OmitRecord})
		err := shipSales(t.Context(), server.Client(), "S1", "S2")
		require.Equal(t, oakra.StepAsk, oakra.NextStep(err))
		require.ErrorContains(t, err, `no fulfillment was read for sale "S2"`)
		require.Len(t, appliedTo(server), 2)
	})
}

var saleStormSeed = flag.Uint64("sale-storm-seed", 1, "of the faults of TestSalesStorm")

// TestSalesStorm cancels or ships each of many sales once, through faults of every
// kind, and compares the outcomes with the server's ledger.
func TestSalesStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 600
		server := saleShop(t, n)
		for i, f := range []oakratest.Fault{
			{Kind: oakratest.Refuse, Probability: 0.2},
			{Kind: oakratest.ResetBefore, Probability: 0.05},
			{Kind: oakratest.ResetAfter, Probability: 0.05},
			{Kind: oakratest.ApplyLate, Probability: 0.05, Delay: time.Minute},
			{Kind: oakratest.Respond, Status: 429, Probability: 0.2, Header: http.Header{"Retry-After": {"1"}}},
			{Kind: oakratest.Respond, Status: 400, Probability: 0.05, Body: `{"detail":"No."}`},
			{Kind: oakratest.Respond, Status: 503, Probability: 0.05},
			{Kind: oakratest.RespondAfter, Status: 502, Probability: 0.05, Body: "<html>"},
			{Kind: oakratest.CutBody, Probability: 0.05},
			{Kind: oakratest.Slow, Probability: 0.05, Delay: 40 * time.Second}, // outlasts the attempt
		} {
			f.Seed = *saleStormSeed*100 + uint64(i)
			server.Inject(f)
		}
		client := server.Client()
		results := make([]error, n)
		var workers sync.WaitGroup
		for w := range 16 {
			workers.Go(func() {
				for i := w; i < n; i += 16 {
					id := fmt.Sprintf("S%d", i+1)
					if i%2 == 0 {
						results[i] = cancelSale(t.Context(), client, id)
					} else {
						results[i] = shipSales(t.Context(), client, id)
					}
				}
			})
		}
		workers.Wait()
		time.Sleep(time.Hour) // for what lands late

		ledger := appliedTo(server)
		labels := make(map[oakra.Outcome]int)
		for i, err := range results {
			times := len(ledger[fmt.Sprintf("S%d", i+1)])
			outcome := oakra.OutcomeOf(err)
			labels[outcome]++
			wrong := times > 1 || outcome == oakra.OutcomeApplied && times == 0 || outcome == oakra.OutcomeNotApplied && times > 0
			require.False(t, wrong, "seed %d, sale %d: %v, but applied %d times: %v", *saleStormSeed, i+1, outcome, times, err)
			var e *oakra.Error
			require.True(t, err == nil || errors.As(err, &e), "%v", err)
		}
		t.Log("seed", *saleStormSeed, "outcomes", labels, "requests", len(server.Requests()))
		require.Len(t, labels, 3, "the storm must reach every outcome")
	})
}
