package oakra_test

import (
	"cmp"
	"fmt"
	"net/http"
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
		allOf    = "aaa aaa aaa aa"
		dark     = "aaa uuu aaa ua"
		rejected = "aaa nnn aaa na"
		stopped  = "aaa nnn nnn na"
	)
	page := func(status int) oakratest.Fault {
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Body: "<html><title>No.</title>"}
	}
	respond := func(status int, header ...string) oakratest.Fault {
		h := make(http.Header)
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Header: h, Body: `{"detail":"No."}`}
	}
	for _, row := range []struct {
		name      string
		fault     oakratest.Fault
		want      string // expected outcomes
		noSplit   string // expected outcomes with NoSplit; "" stands for want
		is        error  // sentinel of the failures, or nil
		retryable bool   // Retryable of the items that were not applied
	}{
		{"reset before", oakratest.Fault{Kind: oakratest.ResetBefore}, dark, "", nil, false},
		{"reset after", oakratest.Fault{Kind: oakratest.ResetAfter}, dark, "", nil, false},
		{"refused connection", oakratest.Fault{Kind: oakratest.Refuse}, allOf, "", nil, false},
		{"cut body", oakratest.Fault{Kind: oakratest.CutBody}, allOf, "", nil, false},
		{"record omitted", oakratest.Fault{Kind: oakratest.OmitRecord}, "aaa aau aaa ua", "", oakra.ErrBadResponse, false},
		{"no record", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `[]`}, dark, "", oakra.ErrBadResponse, false},
		{"a page", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: `<html>`}, dark, "", oakra.ErrBadResponse, false},
		{"502 after", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 502}, dark, "", oakra.ErrServer, false},
		{"503", respond(503), dark, "", oakra.ErrServer, false},
		{"501", respond(501), dark, "", oakra.ErrServer, false},
		{"408", respond(408), dark, "", nil, false},
		{"460", respond(460), dark, "", nil, false},
		{"499", respond(499), dark, "", nil, false},
		{"429", respond(429), rejected, "", oakra.ErrRateLimited, true},
		{"429 for too long", respond(429, "Retry-After", "3600"), stopped, "", oakra.ErrRateLimited, true},
		{"400", respond(400), allOf, rejected, oakra.ErrInvalidRequest, false},
		{"404", respond(404), allOf, rejected, oakra.ErrNotFound, false},
		{"409", respond(409), allOf, rejected, oakra.ErrConflict, false},
		{"413", respond(413), allOf, rejected, oakra.ErrInvalidRequest, false},
		{"422", respond(422), allOf, rejected, oakra.ErrInvalidRequest, false},
		{"413, a page", page(413), allOf, rejected, oakra.ErrInvalidRequest, false},
		{"400, a page", page(400), stopped, "", nil, false},
		{"404, a page", page(404), stopped, "", nil, false},
		{"404, empty", oakratest.Fault{Kind: oakratest.Respond, Status: 404}, stopped, "", nil, false},
		{"409, a page", page(409), stopped, "", oakra.ErrConflict, false},
		{"422, a page", page(422), stopped, "", oakra.ErrInvalidRequest, false},
		{"401", respond(401), stopped, "", oakra.ErrUnauthorized, false},
		{"402", respond(402), stopped, "", nil, false},
		{"403", respond(403), stopped, "", oakra.ErrForbidden, false},
		{"405", respond(405), stopped, "", oakra.ErrNoRoute, false},
		{"406", respond(406), stopped, "", nil, false},
		{"407", respond(407), stopped, "", nil, false},
		{"410", respond(410), stopped, "", oakra.ErrNotFound, false},
		{"415", respond(415), stopped, "", oakra.ErrInvalidRequest, false},
		{"423", respond(423), stopped, "", nil, false},
		{"426", respond(426), stopped, "", nil, false},
		{"451", respond(451), stopped, "", nil, false},
		{"301", respond(301, "Location", "/"), stopped, "", oakra.ErrRedirect, false},
		{"302", respond(302, "Location", "/"), stopped, "", oakra.ErrRedirect, false},
		{"303", respond(303, "Location", "/"), "aaa uuu nnn ua", "", oakra.ErrRedirect, false},
		{"307", respond(307, "Location", "/"), stopped, "", oakra.ErrRedirect, false},
		{"308", respond(308, "Location", "/"), stopped, "", oakra.ErrRedirect, false},
	} {
		for _, run := range []struct {
			op      bulkOp
			noSplit bool
		}{{bulkUpdate, false}, {bulkUpdate, true}, {bulkChange, false}, {bulkChange, true}} {
			t.Run(fmt.Sprintf("%s %s %v", row.name, run.op.name, run.noSplit), func(t *testing.T) {
				server := bulkServer(t, 9)
				server.Inject(oakratest.Fault{Op: run.op.name, Times: 1, Kind: oakratest.Slow})
				fault := row.fault
				fault.Op, fault.Times = run.op.name, 1
				server.Inject(fault)
				err := run.op.all(t.Context(), serverClient(server, bulkOnce), bulkOutcomeItems, oakra.BulkOptions{BatchSize: 3, Concurrency: 1, NoSplit: run.noSplit})
				outcomes := bulkOutcomes(t, run.op, len(bulkOutcomeItems), err)
				want := row.want
				if run.noSplit {
					want = cmp.Or(row.noSplit, want)
				}
				require.Equal(t, strings.ReplaceAll(want, " ", ""), bulkOutcomeText(outcomes))
				requireBulkTruth(t, run.op, server, bulkOutcomeItems, err)

				writes := bulkWrites(server, run.op)
				known := writes[0].Path // a missing route makes the client look for others
				sizes := bulkSizes(t, slices.DeleteFunc(writes, func(w oakratest.Request) bool { return w.Path != known }))
				switch {
				case want == allOf && row.noSplit != "":
					require.Equal(t, []int{3, 3, 1, 2, 3}, sizes)
				case outcomes[6] == notApplied:
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
					require.Nil(t, f.Messages)
					if f.Index >= 6 && f.Index < 9 {
						require.ErrorContains(t, f.Err, "not sent: an earlier request of the run failed")
						require.False(t, oakra.Rejected(f.Err), "%v", f.Err)
					}
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
		err := op.all(t.Context(), bulkClient(t, s, bulkPolicy), bulkOutcomeItems, oakra.BulkOptions{BatchSize: 3})
		require.Equal(t, "uaa"+"uua"+"aau"+"au", bulkOutcomeText(bulkOutcomes(t, op, len(bulkOutcomeItems), err)))
		require.ErrorIs(t, err, oakra.ErrBadResponse)
		require.Len(t, s.arrivals, 3, "none is sent again")
	})
}

// TestBulkOutcomeOfTheLastAttempt checks that a rejection after an attempt with
// an unknown outcome leaves the outcome unknown, and that the batch is not
// split.
func TestBulkOutcomeOfTheLastAttempt(t *testing.T) {
	server := bulkServer(t, 4)
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.RespondAfter, Status: 502})
	server.Inject(oakratest.Fault{Times: 1, Kind: oakratest.Respond, Status: 400})
	items := bulkItems(4)
	err := bulkUpdate.all(t.Context(), serverClient(server, bulkPolicy), items, oakra.BulkOptions{})
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
		{"none applied", oakra.BulkError{Failures: []oakra.BulkFailure{{Outcome: notApplied, Err: limited}, {Index: 1, Outcome: notApplied, Err: limited}}}, notApplied, true, []error{limited}},
		{"some applied", oakra.BulkError{Applied: 1, Failures: []oakra.BulkFailure{{Index: 1, Outcome: notApplied, Err: limited}}}, unknown, false, []error{limited}},
		{"all unknown", oakra.BulkError{Failures: []oakra.BulkFailure{{Outcome: unknown, Err: dark}}}, unknown, false, []error{dark}},
		{"mixed", oakra.BulkError{Failures: []oakra.BulkFailure{{Outcome: notApplied, Err: limited}, {Index: 1, Outcome: unknown, Err: dark}, {Index: 2, Outcome: notApplied, Err: limited}}}, unknown, false, []error{limited, dark}},
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
