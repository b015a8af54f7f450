package oakra_test

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

// bulkOutcomeItems are three batches of three items, and two more items whose
// records are in these batches and which share their outcome.
var bulkOutcomeItems = append(bulkItems(9), bulkItem{6, 4}, bulkItem{1, 4})

// TestBulkOutcomes has every kind of fault strike the second of three batches,
// once.
func TestBulkOutcomes(t *testing.T) {
	const (
		allOf   = "aaa aaa aaa aa"
		dark    = "aaa uuu aaa ua"
		refused = "aaa nnn aaa na"
		stopped = "aaa nnn nnn na"
	)
	respond := func(status int, header ...string) oakratest.Fault {
		h := make(http.Header)
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Header: h, Body: `{"detail":"No."}`}
	}
	split := []int{3, 3, 1, 2, 3}
	for _, row := range []struct {
		name      string
		fault     oakratest.Fault
		update    string // outcomes
		change    string
		is        error // sentinel of the failures, or nil
		retryable bool  // Retryable of the items that were not applied
	}{
		{"reset before", oakratest.Fault{Kind: oakratest.ResetBefore}, dark, dark, nil, false},
		{"reset after", oakratest.Fault{Kind: oakratest.ResetAfter}, dark, dark, nil, false},
		{"refused connection", oakratest.Fault{Kind: oakratest.Refuse}, refused, refused, oakra.ErrUnreachable, true},
		{"cut body", oakratest.Fault{Kind: oakratest.CutBody}, allOf, allOf, nil, false},
		{"record omitted", oakratest.Fault{Kind: oakratest.OmitRecord}, "aaa aau aaa ua", "aaa aau aaa ua", oakra.ErrBadResponse, false},
		{"no record", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `[]`}, dark, dark, oakra.ErrBadResponse, false},
		{"a page", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `<html>`}, dark, dark, oakra.ErrBadResponse, false},
		{"502 after", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502}, dark, dark, oakra.ErrServer, false},
		{"503", respond(503), dark, dark, oakra.ErrServer, false},
		{"501", respond(501), dark, dark, oakra.ErrServer, false},
		{"408", respond(408), dark, dark, nil, false},
		{"429", respond(429), refused, refused, oakra.ErrRateLimited, true},
		{"429 for too long", respond(429, "Retry-After", "3600"), stopped, stopped, oakra.ErrRateLimited, true},
		{"400", respond(400), allOf, refused, oakra.ErrInvalidRequest, false},
		{"404", respond(404), allOf, refused, oakra.ErrNotFound, false},
		{"409", respond(409), allOf, refused, oakra.ErrConflict, false},
		{"413", respond(413), allOf, refused, oakra.ErrInvalidRequest, false},
		{"422", respond(422), allOf, refused, oakra.ErrInvalidRequest, false},
		{"405", respond(405), refused, refused, oakra.ErrNotFound, false},
		{"410", respond(410), refused, refused, oakra.ErrNotFound, false},
		{"415", respond(415), refused, refused, oakra.ErrInvalidRequest, false},
		{"401", respond(401), stopped, stopped, oakra.ErrUnauthorized, false},
		{"403", respond(403), stopped, stopped, oakra.ErrForbidden, false},
		{"301", respond(301, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"302", respond(302, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"303", respond(303, "Location", "/"), "aaa uuu nnn ua", "aaa uuu nnn ua", oakra.ErrRedirect, false},
		{"307", respond(307, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
		{"308", respond(308, "Location", "/"), stopped, stopped, oakra.ErrRedirect, false},
	} {
		for _, run := range []struct {
			op    bulkOp
			split bool
			want  string
		}{
			{bulkUpdate, false, row.update},
			{bulkChange, false, row.change},
			{bulkChange, true, row.update}, // a Change with SplitRefused is like an Update
		} {
			t.Run(fmt.Sprintf("%s %s %v", row.name, run.op.name, run.split), func(t *testing.T) {
				server := bulkServer(t, 9)
				server.Inject(oakratest.Fault{Op: run.op.name, Times: 1, Kind: oakratest.Slow})
				fault := row.fault
				fault.Op, fault.Times = run.op.name, 1
				if fault.Kind == oakratest.Refuse { // a refusal comes before all other faults
					fault.Times = 0
				}
				options := oakra.BulkOptions{BatchSize: 3, Concurrency: 1, SplitRefused: run.split}
				if fault.Kind != oakratest.Refuse {
					server.Inject(fault)
				}
				options.OnProgress = func(p oakra.BulkProgress) {
					if fault.Kind != oakratest.Refuse {
						return
					}
					if server.ClearFaults(); p.Done() == 4 { // the first batch, and the item of the same record
						server.Inject(fault)
					}
				}
				err := run.op.all(t.Context(), server.Client(bulkOnce), bulkOutcomeItems, options)
				outcomes := bulkOutcomes(t, run.op, len(bulkOutcomeItems), err)
				require.Equal(t, strings.ReplaceAll(run.want, " ", ""), bulkOutcomeText(outcomes))
				requireBulkTruth(t, run.op, server, bulkOutcomeItems, err)

				sizes := bulkSizes(t, bulkWrites(server, run.op))
				switch {
				case run.want == allOf && fault.Kind == oakratest.Respond:
					require.Equal(t, split, sizes)
				case outcomes[6] == notApplied, fault.Kind == oakratest.Refuse:
					require.Equal(t, []int{3, 3}, sizes)
				default:
					require.Equal(t, []int{3, 3, 3}, sizes)
				}
				if err == nil {
					return
				}
				var bulk *oakra.BulkError
				require.ErrorAs(t, err, &bulk)
				for _, f := range bulk.Failures {
					if row.is != nil {
						require.ErrorIs(t, f.Err, row.is)
					}
					require.Equal(t, row.retryable, oakra.Retryable(f.Err), "%v", f.Err)
				}
			})
		}
	}
}

// TestBulkMissingIDs checks that exactly the ids without a record in the
// response have an unknown outcome.
func TestBulkMissingIDs(t *testing.T) {
	eachBulkOp(t, func(t *testing.T, op bulkOp) {
		missing := []int64{1, 4, 5, 9}
		s := &bulkShop{t: t}
		s.respond = func(_ int, r *http.Request, items []bulkItem) *http.Response {
			s.apply(r, items)
			var records []oakra.StockRecord
			for _, item := range items {
				if !slices.Contains(missing, item.id) {
					records = append(records, oakra.StockRecord{ID: item.id, SKU: "s", LocationID: "w", Quantity: item.n})
				}
			}
			return stubRecords(records)
		}
		err := op.all(t.Context(), stubClient(t, s, bulkPolicy), bulkOutcomeItems, oakra.BulkOptions{BatchSize: 3})
		require.Equal(t, "uaa"+"uua"+"aau"+"au", bulkOutcomeText(bulkOutcomes(t, op, len(bulkOutcomeItems), err)))
		require.ErrorIs(t, err, oakra.ErrBadResponse)
		require.Len(t, s.arrivals, 3, "none is sent again")
	})
}

// TestBulkOutcomeOfTheLastAttempt checks that a refusal after an attempt with
// an unknown outcome leaves the outcome unknown, and that the batch is not
// split.
func TestBulkOutcomeOfTheLastAttempt(t *testing.T) {
	server := bulkServer(t, 4)
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.RespondAfter, Status: 502})
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.Respond, Status: 400})
	items := bulkItems(4)
	err := bulkUpdate.all(t.Context(), server.Client(bulkPolicy), items, oakra.BulkOptions{})
	require.Equal(t, "uuuu", bulkOutcomeText(bulkOutcomes(t, bulkUpdate, 4, err)))
	require.Equal(t, []int{4, 4}, bulkSizes(t, bulkWrites(server, bulkUpdate)))
	requireBulkTruth(t, bulkUpdate, server, items, err)
}

// TestBulkErrorOfTheCaller checks a BulkError that a caller's test makes.
func TestBulkErrorOfTheCaller(t *testing.T) {
	limited := &oakra.Error{StatusCode: 429, Outcome: notApplied}
	dark := &oakra.Error{StatusCode: 502}
	for _, row := range []struct {
		name      string
		err       oakra.BulkError
		outcome   oakra.Outcome
		retryable bool
		causes    []error
	}{
		{"nothing", oakra.BulkError{}, unknown, false, nil},
		{"all applied", oakra.BulkError{Applied: 2}, applied, false, nil},
		{"none applied", oakra.BulkError{Failures: []oakra.BulkFailure{{0, notApplied, limited}, {1, notApplied, limited}}}, notApplied, true, []error{limited}},
		{"some applied", oakra.BulkError{Applied: 1, Failures: []oakra.BulkFailure{{1, notApplied, limited}}}, unknown, false, []error{limited}},
		{"all unknown", oakra.BulkError{Failures: []oakra.BulkFailure{{0, unknown, dark}}}, unknown, false, []error{dark}},
		{"mixed", oakra.BulkError{Failures: []oakra.BulkFailure{{0, notApplied, limited}, {1, unknown, dark}, {2, notApplied, limited}}}, unknown, false, []error{limited, dark}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, err := range []error{&row.err, fmt.Errorf("the nightly sync: %w", &row.err)} {
				require.Equal(t, row.outcome, oakra.OutcomeOf(err))
				require.Equal(t, row.retryable, oakra.Retryable(err))
				require.NotEmpty(t, err.Error())
			}
			require.Equal(t, row.causes, row.err.Unwrap())
			for _, cause := range row.causes {
				require.ErrorIs(t, &row.err, cause)
			}
		})
	}
}

// TestBulkGoexit checks that each item has an outcome and an error even if the
// transport ends its goroutine, as a failing test does.
func TestBulkGoexit(t *testing.T) {
	s := &bulkShop{t: t}
	s.respond = func(n int, _ *http.Request, _ []bulkItem) *http.Response {
		if n >= 3 {
			runtime.Goexit()
		}
		return nil
	}
	err := bulkChange.all(t.Context(), stubClient(t, s), bulkItems(20), oakra.BulkOptions{BatchSize: 1, Concurrency: 2})
	require.Len(t, s.times, 3)
	for i, outcome := range bulkOutcomes(t, bulkChange, 20, err) {
		require.Equal(t, s.times[int64(i+1)] == 1, outcome == applied, "item %d", i)
		require.NotEqual(t, notApplied, outcome, "item %d", i)
	}
	require.NotErrorIs(t, err, oakra.ErrServer)
	require.ErrorContains(t, err, "Goexit")
}
