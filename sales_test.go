package oakra_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// saleCall is one of the operations on sales, with the request that it has to send
// and the response that it has to accept.
type saleCall struct {
	op, path string
	sent     string
	response string
	call     func(context.Context, *oakra.Client) error
}

func saleCalls(t *testing.T) []saleCall {
	return []saleCall{
		{"sales.cancel", "sales/cancel/", `{"sale_id":"100001235","cancel_reason":"out_of_stock"}`, goldenResponse(t, "cancel"),
			func(ctx context.Context, c *oakra.Client) error {
				_, err := c.Sales.Cancel(ctx, oakra.SaleCancelParams{SaleID: "100001235", Reason: oakra.CancelOutOfStock})
				return err
			}},
		{"shipping.init", "fulfillment/shipping/init/", `{"sale_ids":["100001234","100001235"]}`, goldenResponse(t, "init"),
			func(ctx context.Context, c *oakra.Client) error {
				_, err := c.Shipping.Initiate(ctx, []string{"100001234", "100001235"})
				return err
			}},
	}
}

// saleClient gets one response to every request, and counts the requests.
func saleClient(t testing.TB, status int, body string) (client *oakra.Client, requests *int) {
	t.Helper()
	requests = new(int)
	return stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		*requests++
		return stubResponse(status, body), nil
	}), oakra.WithRetryPolicy(rawPolicy(rawTries))), requests
}

// TestSalesGoldenRequests compares the requests with those under testdata/requests.
func TestSalesGoldenRequests(t *testing.T) {
	for _, tt := range saleCalls(t) {
		t.Run(tt.op, func(t *testing.T) {
			arrived := make(chan wireRequest, 2)
			s := newRawServer(t, func(c *rawConn) bool {
				request, err := readWireRequest(c.reader)
				if err != nil {
					return false
				}
				arrived <- request
				_, err = io.WriteString(c, rawText(200, "", tt.response))
				return err == nil
			})
			client, err := oakra.NewClient(wireKey, oakra.WithBaseURL(s.baseURL), oakra.WithUserAgent("my-shop/2.1"))
			require.NoError(t, err)
			t.Cleanup(client.CloseIdleConnections)
			require.NoError(t, tt.call(t.Context(), client))
			request := <-arrived
			require.Empty(t, arrived, "it was sent twice")
			require.Equal(t, tt.sent, request.body)
			compareGolden(t, strings.ReplaceAll(tt.op, ".", "-"), s.listener.Addr().String(), request)
		})
	}
}

// TestSalesDelivery: both operations are delivered as a Change is, on one route,
// without a search.
func TestSalesDelivery(t *testing.T) {
	const (
		unknown    = oakra.OutcomeUnknown
		notApplied = oakra.OutcomeNotApplied
		applied    = oakra.OutcomeApplied
	)
	respond := func(status int, body string) rawTurn { return rawRespond(status, "", body) }
	no := `{"detail":"No."}`
	for _, op := range saleCalls(t) {
		good := respond(200, op.response)
		for _, tt := range []struct {
			name     string
			script   []rawTurn
			outcome  oakra.Outcome
			is       error
			requests int
		}{
			{"success", []rawTurn{good}, applied, nil, 1},
			{"201", []rawTurn{respond(201, op.response)}, applied, nil, 1},
			{"202", []rawTurn{respond(202, op.response)}, unknown, oakra.ErrBadResponse, 1},
			{"204", []rawTurn{respond(204, "")}, unknown, oakra.ErrBadResponse, 1},
			{"207", []rawTurn{respond(207, op.response)}, unknown, oakra.ErrBadResponse, 1},
			{"302", []rawTurn{respond(302, "")}, notApplied, oakra.ErrRedirect, 1},
			{"303", []rawTurn{respond(303, "")}, unknown, oakra.ErrRedirect, 1},
			{"400", []rawTurn{respond(400, no)}, notApplied, oakra.ErrInvalidRequest, 1},
			{"403", []rawTurn{respond(403, no)}, notApplied, oakra.ErrForbidden, 1},
			{"404 in JSON", []rawTurn{respond(404, no)}, notApplied, oakra.ErrNotFound, 1},
			{"404 of a page", []rawTurn{respond(404, "<html>")}, notApplied, nil, 1},
			{"405", []rawTurn{respond(405, no)}, notApplied, nil, 1},
			{"408", []rawTurn{respond(408, "")}, unknown, nil, 1},
			{"409", []rawTurn{respond(409, no)}, notApplied, oakra.ErrConflict, 1},
			{"429 and success", []rawTurn{respond(429, ""), good}, applied, nil, 2},
			{"429 for ever", []rawTurn{respond(429, "")}, notApplied, oakra.ErrRateLimited, rawTries},
			{"500", []rawTurn{respond(500, "")}, unknown, oakra.ErrServer, 1},
			{"503 with Retry-After", []rawTurn{rawRespond(503, "Retry-After: 0\r\n", "")}, unknown, oakra.ErrServer, 1},
			{"504", []rawTurn{respond(504, "")}, unknown, oakra.ErrServer, 1},
			{"429 and 503", []rawTurn{respond(429, ""), respond(503, "")}, unknown, oakra.ErrServer, 2},
			{"no response", []rawTurn{rawWrite("", rawClose)}, unknown, nil, 1},
			{"connection reset", []rawTurn{rawWrite("", rawReset)}, unknown, nil, 1},
			{"header cut", []rawTurn{rawWrite("HTTP/1.1 200 OK\r\nContent-Le", rawClose)}, unknown, nil, 1},
			{"not HTTP", []rawTurn{rawWrite("SSH-2.0\r\n\r\n", rawClose)}, unknown, oakra.ErrBadResponse, 1},
			{"body cut", []rawTurn{rawWrite(strings.TrimSuffix(rawText(200, "", op.response), "}\n"), rawClose)}, unknown, oakra.ErrBadResponse, 1},
			{"body cut after the JSON", []rawTurn{rawWrite(strings.TrimRight(rawText(200, "", op.response+"  "), " "), rawClose)}, unknown, oakra.ErrBadResponse, 1},
			{"body reset", []rawTurn{rawWrite(rawText(200, "", op.response)[:60], rawResetAfter)}, unknown, nil, 1},
		} {
			t.Run(op.op+"/"+tt.name, func(t *testing.T) {
				s := newRawServer(t, tt.script...)
				err := op.call(t.Context(), rawClient(t, s))
				require.Equal(t, tt.outcome, oakra.OutcomeOf(err), "%v", err)
				require.Equal(t, tt.outcome == applied, err == nil)
				if tt.is != nil {
					require.ErrorIs(t, err, tt.is)
				}
				ledger := s.ledger()
				require.Equal(t, tt.requests, ledger.turns)
				for _, request := range ledger.requests {
					require.Equal(t, "POST "+op.path, request.String())
					require.Equal(t, op.sent, request.body)
				}
				if err != nil {
					e := requireError(t, err)
					require.Equal(t, op.op, e.Op)
					require.Equal(t, tt.requests, e.Attempts)
				}
			})
		}
	}
}

func TestSalesNeverConnected(t *testing.T) {
	for _, op := range saleCalls(t) {
		client := rawClientOn(t, "http://"+rawClosedPort(t)+"/api/v1/", oakra.DefaultTransport())
		err := op.call(t.Context(), client)
		require.ErrorIs(t, err, oakra.ErrUnreachable)
		require.Equal(t, oakra.OutcomeNotApplied, oakra.OutcomeOf(err))
		require.True(t, oakra.Retryable(err))
		require.Equal(t, rawTries, requireError(t, err).Attempts)
	}
}

// TestSalesAdvice: the error's text says what to do now, and does not speak of
// stock.
func TestSalesAdvice(t *testing.T) {
	for _, op := range saleCalls(t) {
		for _, tt := range []struct {
			status int
			advice string
		}{
			{500, "; it is unknown whether it was applied: look at the sale in Oakra or the marketplace before calling again"},
			{400, "; nothing was applied"},
			{429, "; nothing was applied: the same call may be sent again"},
		} {
			client, _ := saleClient(t, tt.status, `{"detail":"No."}`)
			err := op.call(t.Context(), client)
			require.True(t, strings.HasSuffix(err.Error(), tt.advice), "%v", err)
			require.Contains(t, err.Error(), "oakra: "+op.op+": POST /api/v1/"+op.path)
			require.NotContains(t, err.Error(), "record")
		}
	}
}

// TestSalesSecret: a 2xx that repeats the app key does not bring it into the error.
func TestSalesSecret(t *testing.T) {
	for _, op := range saleCalls(t) {
		for _, body := range []string{
			`{"detail":"` + stubKey + `"}`,
			`{"id":1,"status":"x","sale_id":"` + stubKey + `"}`,
			`{"` + stubKey + `":` + stubKey,
			`{"fulfillments":["` + stubKey + `"]}`,
		} {
			client, _ := saleClient(t, 200, body)
			requireHiddenError(t, op.call(t.Context(), client), stubKey)
		}
	}
}

// TestCancelResponse lists what a 2xx may hold, and which responses prove that the sale
// was canceled.
func TestCancelResponse(t *testing.T) {
	lacks := "the id, sale_id or status of the canceled sale is missing"
	for _, tt := range []struct {
		body string
		want string // in the error's text; empty if the sale was canceled
	}{
		{`{"id":30421,"sale_id":"S","status":"canceled"}`, ""},
		{`{"status":"canceled","sale_id":"\u0053","id":30421,"more":{"id":null},"ID":"x"}`, ""},
		{"\ufeff" + ` {"id":30421,"sale_id":"S","status":"in_cancel"}` + "\r\n", ""},
		{`{"id":9007199254740993,"sale_id":"S","status":"canceled"}`, ""},
		{`{"id":30421,"sale_id":"S"}`, lacks},
		{`{"id":30421,"status":"canceled"}`, lacks},
		{`{"sale_id":"S","status":"canceled"}`, lacks},
		{`{"id":0,"sale_id":"S","status":"canceled"}`, lacks},
		{`{"ID":30421,"sale_id":"S","status":"canceled"}`, lacks},
		{`{"id":30421,"Sale_ID":"S","status":"canceled"}`, lacks},
		{`{"id":30421,"saleId":"S","status":"canceled"}`, lacks},
		{`{"id":30421,"sale_id":"s","status":"canceled"}`, `the canceled sale is "s", and not the one that was sent`},
		{`{"id":30421,"sale_id":"S ","status":"canceled"}`, `the canceled sale is "S ", and not the one that was sent`},
		{`{"id":"30421","sale_id":"S","status":"canceled"}`, `"id" is not of the type int64`},
		{`{"id":30421.5,"sale_id":"S","status":"canceled"}`, `"id" is not of the type int64`},
		{`{"id":null,"sale_id":"S","status":"canceled"}`, lacks},
		{`{"id":9223372036854775808,"sale_id":"S","status":"canceled"}`, `"id" is not of the type int64`},
		{`{"id":30421,"sale_id":5,"status":"canceled"}`, `"sale_id" is not of the type string`},
		{`{"id":30421,"sale_id":"S","status":true}`, `"status" is not of the type string`},
		{`{"id":30421,"sale_id":"S","status":null}`, lacks},
		{`{"id":30421,"sale_id":"S","status":"canceled\ud83d"}`, `"status" is not Unicode text`},
		{`{"id":30421,"sale_id":"T","sale_id":"S","status":"canceled"}`, `"sale_id" occurs twice`},
		{`{"id":30421,"sale_id":"S","status":"canceled"}{}`, "the JSON is followed by something else"},
		{`{"id":30421,"sale_id":"S","status":"canceled"`, "unexpected EOF"},
		{`{"id":30421,"sale_id":"S","status":"canceled"]`, "invalid character ']'"},
		{`[{"id":30421,"sale_id":"S","status":"canceled"}]`, `"the body" does not begin with {`},
		{`{"sale":{"id":30421,"sale_id":"S","status":"canceled"}}`, lacks},
		{`{"detail":"The channel said no."}`, "The channel said no."},
		{`{}`, lacks},
		{`null`, `"the body" does not begin with {`},
		{``, "unexpected EOF"},
		{`OK`, "invalid character 'O'"},
		{`<html>`, "invalid character '<'"},
	} {
		t.Run(cmp.Or(tt.body, "empty"), func(t *testing.T) {
			client, requests := saleClient(t, 200, tt.body)
			sale, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "S", Reason: oakra.CancelOther})
			require.Equal(t, 1, *requests)
			if tt.want == "" {
				require.NoError(t, err)
				require.Equal(t, "S", sale.SaleID)
				require.NotZero(t, sale.ID)
				require.NotEmpty(t, sale.Status)
				return
			}
			require.Zero(t, sale)
			require.ErrorIs(t, err, oakra.ErrBadResponse)
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
			require.False(t, oakra.Retryable(err))
			e := requireError(t, err)
			require.Equal(t, 200, e.StatusCode)
			require.Equal(t, tt.body, string(e.Body))
			require.Nil(t, e.Records)
			require.Nil(t, e.MissingIDs)
		})
	}
}

// TestCancelReads checks that what the server says is returned.
func TestCancelReads(t *testing.T) {
	client, _ := saleClient(t, 200, goldenResponse(t, "cancel"))
	sale, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "100001235", Reason: oakra.CancelCustomerRequest})
	require.NoError(t, err)
	require.Equal(t, oakra.CanceledSale{ID: 30421, SaleID: "100001235", Status: "canceled"}, sale)
}

// TestCancelTooLarge: an endless response is given up at 64 MiB.
func TestCancelTooLarge(t *testing.T) {
	body := io.MultiReader(strings.NewReader(`{"id":30421,"sale_id":"S","status":"canceled"}`), spaces{})
	client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(body), ContentLength: -1}, nil
	}))
	_, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "S", Reason: oakra.CancelOther})
	require.ErrorIs(t, err, oakra.ErrBadResponse)
	require.ErrorContains(t, err, "the body is over 64 MiB")
	require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
	require.LessOrEqual(t, len(requireError(t, err).Body), 64<<10)
}

// TestCancelBodyIsNotKept: the error of a long response keeps no more of it in memory
// than it shows.
func TestCancelBodyIsNotKept(t *testing.T) {
	const length = 32 << 20
	client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
		body := io.MultiReader(strings.NewReader("x"), io.LimitReader(spaces{}, length))
		return &http.Response{StatusCode: 200, Body: io.NopCloser(body), ContentLength: -1}, nil
	}))
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	_, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "S", Reason: oakra.CancelOther})
	require.Less(t, inUse(), before+length/2)
	require.Len(t, requireError(t, err).Body, 64<<10)
}

// spaces is endless JSON white space.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) { return copy(p, strings.Repeat(" ", len(p))), nil }

// TestCancelChecks: what is wrong never leaves the process.
func TestCancelChecks(t *testing.T) {
	client, requests := saleClient(t, 200, `{"id":1,"sale_id":"S","status":"canceled"}`)
	for _, tt := range []struct {
		name   string
		params oakra.SaleCancelParams
		want   string
	}{
		{"nothing", oakra.SaleCancelParams{}, `the reason "" is not one of ["out_of_stock" "customer_request" "other"]`},
		{"no reason", oakra.SaleCancelParams{SaleID: "S"}, `the reason "" is not one of`},
		{"unknown reason", oakra.SaleCancelParams{SaleID: "S", Reason: "Out_of_stock"}, `the reason "Out_of_stock" is not one of`},
		{"no ID", oakra.SaleCancelParams{Reason: oakra.CancelOther}, "the sale ID is blank"},
		{"blank ID", oakra.SaleCancelParams{SaleID: " \t\u00a0", Reason: oakra.CancelOther}, "the sale ID is blank"},
		{"NUL", oakra.SaleCancelParams{SaleID: "S\x00", Reason: oakra.CancelOther}, `the sale ID "S\x00" has a NUL or is not UTF-8`},
		{"not UTF-8", oakra.SaleCancelParams{SaleID: "S\xff", Reason: oakra.CancelOther}, `the sale ID "S\xff" has a NUL or is not UTF-8`},
		{"too long", oakra.SaleCancelParams{SaleID: strings.Repeat("S", 1<<20), Reason: oakra.CancelOther}, "over 1048576"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sale, err := client.Sales.Cancel(t.Context(), tt.params)
			require.Zero(t, sale)
			requireNotSent(t, err, "sales.cancel", tt.want)
		})
	}
	require.Zero(t, *requests)
	for _, reason := range []oakra.CancelReason{"out_of_stock", "customer_request", "other"} {
		_, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "S", Reason: reason})
		require.NoError(t, err)
	}
	require.Equal(t, 3, *requests)
}

func requireNotSent(t *testing.T, err error, op, want string) {
	t.Helper()
	require.ErrorIs(t, err, oakra.ErrInvalidRequest)
	require.ErrorContains(t, err, want)
	require.Less(t, len(err.Error()), 400)
	e := requireError(t, err)
	require.Equal(t, op, e.Op)
	require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
	require.Zero(t, e.Attempts)
	require.Zero(t, e.StatusCode)
	require.False(t, oakra.Retryable(err))
}

// TestSaleIDs: an ID arrives as the channel wrote it, and is recognized in the
// response.
func TestSaleIDs(t *testing.T) {
	for _, id := range []string{
		" 1 ", "a&b", "<1>", "é", "日本語", "💚", `"quoted"`, `back\slash`, "tab\there", "a\u2028b", "\ufffd", `\ufffd`, "a\x01", "null", "00012", "1e5",
	} {
		s := newRawServer(t, func(c *rawConn) bool {
			body := fmt.Sprintf(`{"id":1,"status":"canceled",%s`, strings.TrimPrefix(c.read().body, "{"))
			_, err := io.WriteString(c, rawText(200, "", body))
			return err == nil
		})
		sale, err := rawClient(t, s).Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: id, Reason: oakra.CancelOther})
		require.NoError(t, err, "%q", id)
		require.Equal(t, id, sale.SaleID)
	}
}

// TestSaleRepeated: a rejection that only repeats what was sent does not blame it.
func TestSaleRepeated(t *testing.T) {
	for _, tt := range []struct {
		body string
		want oakra.Step
	}{
		{`{"sale_id":["No such sale."]}`, oakra.StepReject},
		{`{"detail":"No.","cancel_reason":["It is \"other\" no more."]}`, oakra.StepReject},
		{`{"detail":"The marketplace is not connected.","sale_id":"S"}`, oakra.StepAlert},
		{`{"sale_id":"S","cancel_reason":"other","status":"pending"}`, oakra.StepAlert},
		{`{"sale_id":[]}`, oakra.StepAlert},
		{`{"sale_id":[{"id":["S"]}]}`, oakra.StepAlert},
	} {
		for _, status := range []int{400, 401, 403} {
			client, _ := saleClient(t, status, tt.body)
			_, err := client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "S", Reason: oakra.CancelOther})
			require.Equal(t, tt.want, oakra.NextStep(err), "%d %s", status, tt.body)
		}
	}
}
