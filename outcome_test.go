package oakra_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// stepBodies are the kinds of body that a rejection may have.
var stepBodies = []struct {
	kind, body  string
	json, items bool
}{
	{"items", `{"stock_records":[{},{"quantity":["A valid integer is required."]}]}`, true, true},
	{"detail", `{"detail":"Unsupported API version."}`, true, false},
	{"page", "<html><title>Sorry</title></html>", false, false},
	{"nothing", "", false, false},
}

// TestNextStep has every status with each kind of body, on a route that is known to
// be right and on one that is not. The expectations are those of the documentation
// and not of the code: a wrong "reject" costs somebody an order.
func TestNextStep(t *testing.T) {
	retried := func(op string, status int) bool { // whether the same call may succeed later
		if op == "stock.list" && (status == 408 || status/100 == 5 && status != 501) {
			return true
		}
		return status == 429
	}
	for status := 300; status < 600; status++ {
		for _, body := range stepBodies {
			for _, known := range []bool{true, false} {
				for _, call := range stockCalls {
					client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
						return stubResponse(status, body.body), nil
					}), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
					if known {
						oakra.KeepRoutes(client)
					}
					_, err := call.call(t.Context(), client)

					write := isWrite(call)
					// No candidate exists: they all respond with this, to the empty
					// list too.
					noRoute := status == 405 || status == 404 && (write || !body.json) ||
						!known && call.name == "stock.update" && !body.json && (status/100 == 3 || status == 400 || status == 403)
					want := oakra.StepAlert
					switch {
					case write && tableOutcome(status) == oakra.OutcomeUnknown:
						want = oakra.StepAsk
					case retried(call.name, status):
						want = oakra.StepRetry
					case noRoute, status/100 != 4:
					case body.items, status == 409 && body.json, status == 422 && body.json, status == 404 && body.json && known:
						want = oakra.StepReject
					}
					text := fmt.Sprintf("%s: %d with %s, route known: %t: %v", call.name, status, body.kind, known, err)
					require.Equal(t, want, oakra.NextStep(err), text)
					require.Equal(t, noRoute, errors.Is(err, oakra.ErrNoRoute), text)
					require.Equal(t, want == oakra.StepReject, oakra.Rejected(err), text)
					require.Equal(t, want == oakra.StepRetry, oakra.Retryable(err), text)
					require.Equal(t, want, oakra.NextStep(fmt.Errorf("the shop: %w", err)), "wrapped")
					require.Equal(t, want, oakra.NextStep(errors.Join(err, err)), "joined")
					if write {
						split := status == 413 || body.json && !noRoute && (status == 400 || status == 404 || status == 409 || status == 422)
						require.Equal(t, split, oakra.Splittable(err), text)
					}
				}
			}
		}
	}
}

// TestNextStepWithoutStatus has the errors without a status, or with a 2xx.
func TestNextStepWithoutStatus(t *testing.T) {
	change := stockCalls[2]
	for _, row := range []struct {
		name string
		err  func() error
		want oakra.Step
	}{
		{"success", func() error {
			return second(change.call(t.Context(), responding(t, 200, "["+recordA+","+recordB+"]")))
		}, oakra.StepDone},
		{"the response was lost", func() error { return second(change.call(t.Context(), responding(t, 200, "["+recordA+",{"))) }, oakra.StepDone},
		{"no records", func() error { return second(change.call(t.Context(), responding(t, 200, "{}"))) }, oakra.StepAsk},
		{"a record is missing", func() error { return second(change.call(t.Context(), responding(t, 200, "["+recordA+"]"))) }, oakra.StepAsk},
		{"207", func() error {
			return second(change.call(t.Context(), responding(t, 207, "["+recordA+","+recordB+"]")))
		}, oakra.StepAsk},
		{"no connection", func() error { return second(change.call(t.Context(), stubClient(t, stubTransport(refuse)))) }, oakra.StepRetry},
		{"reset", func() error { return second(change.call(t.Context(), stubClient(t, stubTransport(reset)))) }, oakra.StepAsk},
		{"bad id", func() error {
			return second(responding(t, 200, "").Stock.Change(t.Context(), []oakra.StockChange{{ID: -1}}))
		}, oakra.StepReject},
		{"an id twice", func() error {
			return second(responding(t, 200, "").Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1}, {ID: 1}}))
		}, oakra.StepReject},
		{"blank SKU", func() error {
			return second(responding(t, 200, "").Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{" "}}))
		}, oakra.StepReject},
		{"bad key", func() error { return second(oakra.NewClient("a b")) }, oakra.StepAlert},
		{"bad option", func() error { return second(oakra.NewClient(stubKey, oakra.WithHTTPClient(nil))) }, oakra.StepAlert},
		{"a list that is a page", func() error { return second(stockCalls[0].call(t.Context(), responding(t, 200, "<html>"))) }, oakra.StepAlert},
		{"foreign", func() error { return errors.New("foreign") }, oakra.StepAsk},
		{"some applied, some not", func() error {
			return errors.Join(&oakra.Error{Outcome: oakra.OutcomeApplied}, &oakra.Error{Outcome: oakra.OutcomeNotApplied})
		}, oakra.StepAsk},
		{"one to retry, one to reject", func() error {
			return errors.Join(&oakra.Error{StatusCode: 429, Outcome: oakra.OutcomeNotApplied},
				&oakra.Error{StatusCode: 409, Message: "No.", Outcome: oakra.OutcomeNotApplied})
		}, oakra.StepAlert},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.err()
			require.Equal(t, row.want, oakra.NextStep(err), "%v", err)
			require.False(t, oakra.Splittable(err))
		})
	}
}

// TestNextStepOfHandMade checks the errors that a shop's own tests make.
func TestNextStepOfHandMade(t *testing.T) {
	not := oakra.OutcomeNotApplied
	for _, row := range []struct {
		name string
		err  oakra.Error
		want oakra.Step
	}{
		{"429", oakra.Error{Op: "stock.change", StatusCode: 429, Outcome: not}, oakra.StepRetry},
		{"409 with words", oakra.Error{Op: "stock.change", StatusCode: 409, Message: "Locked.", Outcome: not}, oakra.StepReject},
		{"409 without words", oakra.Error{Op: "stock.change", StatusCode: 409, Outcome: not}, oakra.StepAlert},
		{"400 with words", oakra.Error{Op: "stock.change", StatusCode: 400, Message: "Unsupported.", Outcome: not}, oakra.StepAlert},
		{"400 that names an item", oakra.Error{Op: "stock.change", StatusCode: 400, Fields: map[string][]string{"stock_records[0].id": {"No."}}, Outcome: not}, oakra.StepReject},
		{"401", oakra.Error{Op: "stock.change", StatusCode: 401, Message: "Bad key.", Outcome: not}, oakra.StepAlert},
		{"404 without a route", oakra.Error{Op: "stock.change", StatusCode: 404, Message: "No.", Outcome: not, Err: oakra.ErrNoRoute}, oakra.StepAlert},
		{"rejected before sending", oakra.Error{Op: "stock.change", Outcome: not, Err: oakra.ErrInvalidRequest}, oakra.StepReject},
		{"unreachable", oakra.Error{Op: "stock.change", Outcome: not, Err: oakra.ErrUnreachable}, oakra.StepRetry},
		{"zero", oakra.Error{}, oakra.StepAsk},
		{"applied", oakra.Error{Outcome: oakra.OutcomeApplied}, oakra.StepDone},
	} {
		t.Run(row.name, func(t *testing.T) { require.Equal(t, row.want, oakra.NextStep(&row.err)) })
	}
	require.Equal(t, oakra.StepDone, oakra.NextStep(nil))
	require.False(t, oakra.Rejected(nil) || oakra.Splittable(nil) || oakra.Retryable(nil))
	require.False(t, oakra.Rejected(oakra.ErrInvalidRequest), "a sentinel alone does not say what was applied")
}

func TestStepString(t *testing.T) {
	seen := map[string]bool{}
	for _, step := range []oakra.Step{oakra.StepDone, oakra.StepRetry, oakra.StepReject, oakra.StepAsk, oakra.StepAlert} {
		require.NotZero(t, step, "the zero value is no step")
		require.False(t, seen[step.String()])
		seen[step.String()] = true
	}
	require.Contains(t, oakra.Step(9).String(), "9")
}

// TestOutcomeText writes outcomes into JSON and reads them back.
func TestOutcomeText(t *testing.T) {
	for outcome, text := range map[oakra.Outcome]string{
		oakra.OutcomeUnknown: "unknown", oakra.OutcomeNotApplied: "not applied", oakra.OutcomeApplied: "applied",
	} {
		type note struct {
			Outcome oakra.Outcome `json:"outcome"`
		}
		written, err := json.Marshal(note{outcome})
		require.NoError(t, err)
		require.Equal(t, `{"outcome":"`+text+`"}`, string(written))
		read := note{Outcome: oakra.OutcomeApplied}
		require.NoError(t, json.Unmarshal(written, &read))
		require.Equal(t, outcome, read.Outcome)
	}
	_, err := json.Marshal(oakra.Outcome(7))
	require.Error(t, err)
	_, err = json.Marshal(oakra.Outcome(-1))
	require.Error(t, err)
	for _, bad := range []string{`"Applied"`, `"not_applied"`, `""`, `"applied "`, `1`, `"7"`} {
		outcome := oakra.OutcomeNotApplied
		require.Error(t, json.Unmarshal([]byte(bad), &outcome), bad)
		require.Equal(t, oakra.OutcomeNotApplied, outcome, "an error changes nothing")
	}
}

func TestErrorItems(t *testing.T) {
	for _, row := range []struct {
		body string
		want map[int][]string
	}{
		{`{"stock_records":[{},{"quantity":["A valid integer is required."]}]}`, map[int][]string{1: {"quantity: A valid integer is required."}}},
		{`{"stock_records":[{"id":["Unknown."],"quantity":["Too small.","Too even."]},{},{"id":"Gone."}]}`,
			map[int][]string{0: {"id: Unknown.", "quantity: Too small.", "quantity: Too even."}, 2: {"id: Gone."}}},
		{`{"detail":"No.","stock_records":[{"non_field_errors":["Odd."]}]}`, map[int][]string{0: {"non_field_errors: Odd."}}},
		{`{"stock_records":[[],["Odd."]]}`, map[int][]string{1: {"Odd."}}},
		{`{"stock_records":[{"a":{"b":["Deep."]}}]}`, map[int][]string{0: {"a.b: Deep."}}},
		{`{"stock_records":["This list may not be empty."]}`, nil},
		{`{"stock_record":[{"id":["x"]}]}`, nil},
		{`{"quantity":["A valid integer is required."]}`, nil},
		{`{"detail":"No."}`, nil},
		{`[{},{"id":["x"]}]`, nil},
		{`{"stock_records":{"1":{"id":["x"]}}}`, map[int][]string{1: {"id: x"}}},
		{`<html>`, nil},
		{``, nil},
	} {
		for _, call := range stockCalls[1:] {
			_, err := call.call(t.Context(), responding(t, 400, row.body))
			require.Equal(t, row.want, requireError(t, err).Items(), row.body)
			require.Equal(t, row.want != nil, oakra.Rejected(err), row.body)
		}
	}
	for name, want := range map[string]map[int][]string{
		"stock_records[12].id": {12: {"id: x"}}, "sale_ids[3]": {3: {"x"}}, "sale_ids.4": {4: {"x"}}, "stock_recordsx1": nil,
		"stock_records[-1].id": nil, "stock_records[].id": nil, "stock_records[one].id": nil,
		"stock_records[99999999999999999999].id": nil, "xstock_records[1].id": nil, "": nil,
	} {
		e := &oakra.Error{Fields: map[string][]string{name: {"x"}}}
		require.Equal(t, want, e.Items(), name)
	}
	// A 404 with fields and no detail names the item too.
	s := newRawServer(t, rawRoutes(map[string]rawTurn{emptyTo(routesOf["change"][0]): rawRespond(200, "", "[]")},
		rawRespond(404, "", `{"stock_records":[{},{"id":["Invalid pk."]}]}`)))
	_, err := deliverChange.call(t.Context(), rawClient(t, s))
	require.Equal(t, map[int][]string{1: {"id: Invalid pk."}}, requireError(t, err).Items())
	require.Equal(t, oakra.StepReject, oakra.NextStep(err))
	require.ErrorContains(t, err, "stock_records[1].id: Invalid pk.")
	// If several candidates are missing, the error is that of the one with a message.
	s = newRawServer(t, rawRoutes(map[string]rawTurn{routesOf["change"][1]: rawRespond(404, "", `{"stock_records":[{"id":["Gone."]}]}`)}, routeNoPage))
	_, err = deliverChange.call(t.Context(), rawClient(t, s))
	require.ErrorIs(t, err, oakra.ErrNoRoute)
	require.Equal(t, routesOf["change"][1], requestOf(requireError(t, err)))
}

func TestErrorRequestID(t *testing.T) {
	for _, row := range []struct {
		want   string
		header []string
	}{
		{"", nil},
		{"", []string{"X-Request", "no"}},
		{"a-1", []string{"X-Request-Id", "a-1"}},
		{"b-2", []string{"X-Correlation-Id", "b-2"}},
		{"c-3", []string{"Request-Id", "c-3"}},
		{"8f2-FRA", []string{"CF-Ray", "8f2-FRA"}},
		{"Root=1-5", []string{"X-Amzn-Trace-Id", "Root=1-5"}},
		{"d/4;o=1", []string{"X-Cloud-Trace-Context", "d/4;o=1"}},
		{"a-1", []string{"CF-Ray", "8f2-FRA", "X-Request-Id", "a-1"}},
	} {
		for _, status := range []int{200, 302, 404, 503} {
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
				return stubResponse(status, `{"detail":"x"}`, row.header...), nil
			}), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
			_, err := stockCalls[0].call(t.Context(), client)
			e := requireError(t, err)
			require.Equal(t, row.want, e.RequestID())
			if row.header != nil {
				require.Equal(t, row.header[1], e.Header.Get(row.header[0]))
			}
		}
	}
	_, err := stockCalls[2].call(t.Context(), stubClient(t, stubTransport(refuse), oakra.WithRetryPolicy(noWait)))
	require.Nil(t, requireError(t, err).Header, "there was no response")
	require.Empty(t, requireError(t, err).RequestID())
	require.Empty(t, new(oakra.Error).RequestID())

	// The ID is the last response's, and not that of the one before.
	client := stubClient(t, sequence(status(429, "X-Request-Id", "first"), status(409, "X-Request-Id", "second")), oakra.WithRetryPolicy(noWait))
	_, err = stockCalls[2].call(t.Context(), client)
	require.Equal(t, "second", requireError(t, err).RequestID())
}
