package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// sales returns how many changes the server has applied to sales.
func (s *session) sales() int {
	n := 0
	for _, r := range s.server.Requests() {
		n += len(r.AppliedSales)
	}
	return n
}

func TestSaleCancel(t *testing.T) {
	s := newSession(t)
	stdout, stderr := s.run(exitOK, "sale", "cancel", "100001235", "--reason", "out_of_stock")
	equal(t, "stdout", stdout, `
   ID       SALE  STATUS
30421  100001235  canceled
`)
	equal(t, "stderr", stderr, "whether its units are back in stock is not documented: look with stockctl list SKU\n")
	contains(t, string(s.server.Requests()[0].Body), `"cancel_reason":"out_of_stock"`)

	stdout, stderr = s.run(exitOK, "sale", "cancel", "100001236", "--reason", "other", "--json")
	equal(t, "the result", result(t, stdout), `
{
  "id": 30422,
  "sale_id": "100001236",
  "status": "canceled"
}
`)
	equal(t, "stderr", stderr, "")

	_, stderr = s.run(exitRejected, "sale", "cancel", "100001235", "--reason", "out_of_stock")
	equal(t, "stderr", stderr, `
stockctl: POST /api/v1/sales/cancel/: 400 Bad Request: sale_id: This sale is canceled already.
sales: not changed
next: correct what is named above
`)
	if n := s.sales(); n != 2 {
		t.Errorf("%d changes of sales", n)
	}
}

func TestShip(t *testing.T) {
	s := newSession(t)
	_, stderr := s.run(exitRejected, "ship", "100001234", "100001236", "9")
	equal(t, "stderr", stderr, `
stockctl: POST /api/v1/fulfillment/shipping/init/: 400 Bad Request
     ITEM  OUTCOME      REASON
100001234  not applied  rejected together with the others
100001236  not applied  This sale is not pending, its status is "in_fulfillment".
        9  not applied  Object with sale_id=9 does not exist.
sales: not changed
next: correct what is named above
`)
	stdout, _ := s.run(exitRejected, "ship", "100001237", "--json")
	equal(t, "stdout", stdout, `
{
  "exit_code": 2,
  "result": null,
  "error": {
    "message": "POST /api/v1/fulfillment/shipping/init/: 400 Bad Request: sale_ids.0: This sale is not pending, its status is \"canceled\".",
    "sales": "not changed",
    "next": "correct what is named above",
    "items": [
      {
        "item": "100001237",
        "outcome": "not applied",
        "reason": "This sale is not pending, its status is \"canceled\"."
      }
    ]
  }
}
`)

	stdout, stderr = s.run(exitOK, "ship", "100001235")
	equal(t, "stdout", stdout, `
     SALE  STATUS          LOCATION     PACKAGE    PROVIDER       TRACKING
100001235  in_fulfillment  warehouse-1  package-1  Flash Express  TH0000000001
`)
	equal(t, "stderr", stderr, "")
	stdout, _ = s.run(exitOK, "ship", "100001234", "--json")
	var fulfillments []oakra.Fulfillment
	if err := json.Unmarshal([]byte(result(t, stdout)), &fulfillments); err != nil || len(fulfillments) != 1 || fulfillments[0].TrackingNumber != "TH0000000002" {
		t.Errorf("%v: %s", err, stdout)
	}
	if n := s.sales(); n != 2 {
		t.Errorf("%d changes of sales", n)
	}
}

// TestSalesNotSent checks that a request that the client rejects is not sent.
func TestSalesNotSent(t *testing.T) {
	s := newSession(t)
	_, stderr := s.run(exitRejected, "sale", "cancel", " ", "--reason", "other")
	contains(t, stderr, "stockctl: the sale ID is blank\nsales: not changed\nnext: correct what is named above\n")
	_, stderr = s.run(exitRejected, "ship", "1", "2", "1")
	contains(t, stderr, `item 2: the sale ID "1" was given before, in item 0`, "sales: not changed")
	if n := len(s.server.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestSalesExitCodes runs both commands through each fault.
func TestSalesExitCodes(t *testing.T) {
	respond := func(status int, body string) oakratest.Fault {
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Body: body}
	}
	const look = "next: look at the sales in Oakra or the marketplace before you run it again: it may have been done all the same\n"
	later := respond(429, "")
	later.Header = http.Header{"Retry-After": {"90"}}
	for _, test := range []struct {
		name    string
		fault   oakratest.Fault
		code    int
		applied int
		want    []string
	}{
		{"response lost", oakratest.Fault{Kind: oakratest.ResetAfter}, exitUnknown, 1, []string{"sales: unknown whether", look}},
		{"request lost", oakratest.Fault{Kind: oakratest.ResetBefore}, exitUnknown, 0, []string{"sales: unknown whether", look}},
		{"server error", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502, Body: "<title>Bad gateway</title>"}, exitUnknown, 1,
			[]string{"502 Bad Gateway: Bad gateway\n", look}},
		{"page", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: "<title>Welcome</title>"}, exitUnknown, 1, []string{"Welcome", look}},
		{"rejected", respond(422, `{"sale_id":["No."],"sale_ids":{"0":["No."]}}`), exitRejected, 0,
			[]string{"No.", "sales: not changed", "next: correct what is named above"}},
		{"no sale named", respond(400, `{"detail":"No."}`), exitError, 0,
			[]string{"No.", "sales: not changed", "next: check --base-url, and what is named above: the response does not say what is at fault"}},
		{"not found", respond(404, `{"detail":"Not found."}`), exitError, 0,
			[]string{"sales: not changed", "next: check --base-url, and what is named above"}},
		{"key", respond(401, ""), exitError, 0, []string{"sales: not changed", "next: check the app key in OAKRA_APP_KEY"}},
		{"limit", later, exitRetry, 0, []string{"sales: not changed", "next: run it again in 1m30s"}},
	} {
		for _, command := range []string{"sale cancel 100001234 --reason other", "ship 100001234"} {
			t.Run(test.name+"/"+command, func(t *testing.T) {
				s := newSession(t)
				s.server.Inject(test.fault)
				stdout, stderr := s.run(test.code, strings.Fields(command)...)
				contains(t, stderr, test.want...)
				equal(t, "stdout", stdout, "")
				if s.writes() != 1 || s.sales() != test.applied {
					t.Errorf("%d writes, %d changes of sales", s.writes(), s.sales())
				}
			})
		}
	}
	t.Run("fulfillment left out", func(t *testing.T) {
		s := newSession(t)
		s.server.Inject(oakratest.Fault{Kind: oakratest.OmitRecord})
		_, stderr := s.run(exitUnknown, "ship", "100001234", "100001235")
		contains(t, stderr, `no fulfillment was read for sale "100001235"`, "100001234  unknown\n", "100001235  unknown\n", look)
	})
	t.Run("unreachable", func(t *testing.T) {
		s := newSession(t)
		s.server.Close()
		_, stderr := s.run(exitRetry, "sale", "cancel", "100001234", "--reason", "other")
		contains(t, stderr, "unreachable", "sales: not changed", "next: run it again later")
	})
}

// TestSalesOfNowhere checks that a wrong address, or a server without sales, is not
// reported as a wrong sale.
func TestSalesOfNowhere(t *testing.T) {
	for _, command := range []string{"sale cancel 100001234 --reason other", "ship 100001234 100001235"} {
		s := newSession(t)
		url := s.server.URL
		s.server.URL = strings.TrimSuffix(url, "api/v1/")
		_, stderr := s.run(exitError, strings.Fields(command)...)
		contains(t, stderr, "sales: not changed", "next: check --base-url\n")
		s.server.URL = url
		s.server.SetDialect(oakratest.Dialect{})
		_, stderr = s.run(exitError, strings.Fields(command)...)
		contains(t, stderr, "sales: not changed", "next: check --base-url\n")
		if n := s.sales(); n != 0 {
			t.Errorf("%d changes of sales", n)
		}
	}
}

// TestStopSales checks that the first Ctrl-C lets a request finish, and that the second
// cuts it off.
func TestStopSales(t *testing.T) {
	for _, command := range []string{"sale cancel 100001234 --reason other", "ship 100001234"} {
		s := newSession(t)
		ctx, stop := context.WithCancel(t.Context())
		s.ctx = ctx
		s.server.SetLatency(200*time.Millisecond, 0)
		go func() { s.waitFor(); stop() }()
		s.run(exitOK, strings.Fields(command)...)
		stop() // if the request ended first
		_, stderr := s.run(exitRetry, strings.Fields(command)...)
		contains(t, stderr, "the program was told to stop", "sales: not changed", "next: run it again when you like")

		s = newSession(t)
		s.server.SetLatency(time.Hour, 0)
		ctx, stop = context.WithCancel(t.Context())
		s.ctx = ctx
		go func() { s.waitFor(); stop(); close(s.cut) }()
		_, stderr = s.run(exitUnknown, strings.Fields(command)...)
		contains(t, stderr, "cut off, since the program was told twice to stop\n", "sales: unknown")
	}
}
