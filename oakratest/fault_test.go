package oakratest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakratest"
)

const addTwo = `{"stock_records":[{"id":122,"quantity_change":2},{"id":123,"quantity_change":2}]}`

var (
	added   = []int64{137, 152, 7}
	asItWas = []int64{135, 150, 7}
)

// raw sends a change and returns all that comes back, and how it ends.
func raw(t *testing.T, server *oakratest.Server) (string, error) {
	t.Helper()
	conn, err := server.DialContext(t.Context(), "tcp", "")
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, newRequest(t, server, "POST", changePath, addTwo).Write(conn))
	got, err := io.ReadAll(conn)
	return string(got), err
}

func only(t *testing.T, server *oakratest.Server) oakratest.Request {
	t.Helper()
	requests := server.Requests()
	require.Len(t, requests, 1)
	return requests[0]
}

func TestResets(t *testing.T) {
	tests := []struct {
		kind oakratest.FaultKind
		want []int64
	}{
		{oakratest.ResetBefore, asItWas},
		{oakratest.ResetAfter, added},
		{oakratest.Refuse, asItWas}, // for a client that is not the server's
	}
	for _, tt := range tests {
		t.Run(string(tt.kind), func(t *testing.T) {
			everywhere(t, func(t *testing.T, server *oakratest.Server) {
				server.Inject(oakratest.Fault{Kind: tt.kind})
				got, err := raw(t, server)
				require.ErrorIs(t, err, oakratest.ErrReset)
				assert.Empty(t, got)
				assert.Equal(t, tt.want, quantities(server))
				r := only(t, server)
				assert.Zero(t, r.Status)
				assert.Equal(t, tt.kind, r.Fault)
				assert.Equal(t, tt.kind == oakratest.ResetAfter, len(r.Applied) == 2)
				assert.Zero(t, server.Refused())
			})
		})
	}
}

func TestApplyLate(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Kind: oakratest.ApplyLate, Delay: 30 * time.Second})
		start := time.Now()
		_, err := raw(t, server)
		require.ErrorIs(t, err, oakratest.ErrReset)
		assert.Zero(t, time.Since(start))

		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		assert.Equal(t, asItWas, quantities(server))
		assert.Nil(t, only(t, server).Applied)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.Equal(t, added, quantities(server))
		assert.Equal(t, []oakratest.Applied{{ID: 122, From: 135, To: 137}, {ID: 123, From: 150, To: 152}}, only(t, server).Applied)
		assert.Zero(t, only(t, server).Status)
	})
}

func TestSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Delay: time.Minute})
		start := time.Now()
		assert.Equal(t, 200, call(t, server, "POST", changePath, addTwo).status)
		assert.Equal(t, time.Minute, time.Since(start))
		assert.Equal(t, oakratest.Slow, only(t, server).Fault)
		assert.Equal(t, added, quantities(server))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := send(t, server, newRequest(t, server, "POST", changePath, addTwo).WithContext(ctx))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, added, quantities(server))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Equal(t, []int64{139, 154, 7}, quantities(server), "a client that gives up does not stop it")
	})
}

func TestLatency(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		took := func(method, path, body string) time.Duration {
			start := time.Now()
			call(t, server, method, path, body)
			return time.Since(start)
		}
		server.SetLatency(40*time.Second, 30*time.Second)
		assert.Equal(t, 100*time.Second, took("GET", listPath+"?sku=shirt-green-m", ""))
		assert.Equal(t, 70*time.Second, took("POST", changePath, `{"stock_records":[{"id":122,"quantity_change":1}]}`))
		assert.Equal(t, 40*time.Second, took("POST", changePath, `{}`))
		server.SetLatency(0, 0)
		assert.Zero(t, took("GET", listPath+"?sku=shirt-green-m", ""))
	})
}

func TestResponses(t *testing.T) {
	tests := []struct {
		name        string
		fault       oakratest.Fault
		want        []int64
		contentType string
	}{
		{"429", oakratest.Fault{Kind: oakratest.Respond, Status: 429, Header: http.Header{"Retry-After": {"1"}}, Body: `{"detail":"Request was throttled."}`}, asItWas, "application/json"},
		{"503", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 503}, added, "text/html; charset=utf-8"},
		{"page", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 200, Body: "<html>"}, added, "text/html; charset=utf-8"},
		{"own type", oakratest.Fault{Kind: oakratest.Respond, Status: 502, Header: http.Header{"Content-Type": {"text/plain"}}, Body: "bad"}, asItWas, "text/plain"},
		{"204", oakratest.Fault{Kind: oakratest.RespondAfter, Status: 204}, added, "text/html; charset=utf-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t, shirts...)
			server.Inject(tt.fault)
			got := call(t, server, "POST", changePath, addTwo)
			assert.Equal(t, tt.fault.Status, got.status)
			assert.Equal(t, tt.fault.Body, got.body)
			assert.Equal(t, tt.fault.Header.Get("Retry-After"), got.header.Get("Retry-After"))
			assert.Equal(t, tt.contentType, got.header.Get("Content-Type"))
			assert.Equal(t, tt.want, quantities(server))
			assert.Equal(t, tt.fault.Status, only(t, server).Status)
			assert.Equal(t, tt.fault.Kind, only(t, server).Fault)
		})
	}
}

func TestCutBody(t *testing.T) {
	everywhere(t, func(t *testing.T, server *oakratest.Server) {
		for _, chunked := range []bool{false, true} {
			server.SetDialect(oakratest.Dialect{Chunked: chunked})
			server.ClearFaults()
			whole := call(t, server, "POST", updatePath, `{"stock_records":[{"id":122,"quantity":137},{"id":123,"quantity":152}]}`)
			server.SetRecords(shirts...)
			server.Inject(oakratest.Fault{Kind: oakratest.CutBody})

			all, err := raw(t, server)
			require.NoError(t, err)
			got, err := http.ReadResponse(bufio.NewReader(strings.NewReader(all)), nil)
			require.NoError(t, err)
			assert.Equal(t, 200, got.StatusCode)
			assert.Equal(t, whole.length, got.ContentLength)
			body, err := io.ReadAll(got.Body)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.Equal(t, whole.body[:len(whole.body)/2], string(body))
			assert.Equal(t, added, quantities(server))
			requests := server.Requests()
			assert.Equal(t, 200, requests[len(requests)-1].Status)
		}
	})
}

func TestOmitRecord(t *testing.T) {
	server := newServer(t, shirts...)
	server.Inject(oakratest.Fault{Kind: oakratest.OmitRecord})
	got := call(t, server, "POST", changePath, addTwo)
	assert.JSONEq(t, `{"stock_records":[{"id":122,"location_id":"warehouse-1","sku":"shirt-blue-m","quantity":137}]}`, got.body)
	assert.Equal(t, added, quantities(server))
	assert.Len(t, only(t, server).Applied, 2)
	assert.Equal(t, `[]`, call(t, server, "GET", listPath+"?sku=shirt-blue-m", "").body)
	assert.Equal(t, 400, call(t, server, "POST", changePath, `{}`).status)

	_, err := server.Client().Stock.Change(t.Context(), []oakra.StockChange{{ID: 122, QuantityChange: 1}, {ID: 123, QuantityChange: 1}})
	var failure *oakra.Error
	require.ErrorAs(t, err, &failure)
	assert.Equal(t, []int64{123}, failure.MissingIDs)
}

func TestFaultsThatApplyCheckFirst(t *testing.T) {
	for _, kind := range []oakratest.FaultKind{oakratest.ResetAfter, oakratest.CutBody, oakratest.ApplyLate} {
		server := newServer(t, shirts...)
		server.Inject(oakratest.Fault{Kind: kind})
		_, err := send(t, server, newRequest(t, server, "POST", changePath, `{"stock_records":[{"id":122,"quantity_change":2},{"id":99,"quantity_change":2}]}`))
		require.Error(t, err)
		server.Close()
		assert.Equal(t, asItWas, quantities(server))
	}
}

// TestRefuse looks at a refusal as the client library does, and in a trace.
func TestRefuse(t *testing.T) {
	server := newServer(t, shirts...)
	client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
	_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}}) // leaves an idle connection
	require.NoError(t, err)

	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Refuse, Times: 2})
	var asked, got int
	var dialed error
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { asked++ },
		GotConn: func(httptrace.GotConnInfo) { got++ },
	})
	for range 2 {
		_, err = client.Stock.Change(ctx, []oakra.StockChange{{ID: 122, QuantityChange: 1}})
		require.ErrorIs(t, err, oakra.ErrUnreachable)
		assert.Equal(t, oakra.OutcomeNotApplied, oakra.OutcomeOf(err))
		assert.True(t, oakra.Retryable(err))
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, "dial", op.Op)
		require.ErrorIs(t, op, oakratest.ErrRefused)
		dialed = op
	}
	assert.Equal(t, 2, asked)
	assert.Zero(t, got)
	assert.Equal(t, 2, server.Refused())
	assert.Len(t, server.Requests(), 1)

	_, genuine := net.Dial("tcp", unusedAddress(t))
	require.ErrorIs(t, genuine, oakratest.ErrRefused)
	shape := func(err error) string { text := err.Error(); return text[strings.LastIndex(text, ": connect"):] }
	assert.Equal(t, shape(genuine), shape(dialed))

	_, err = client.Stock.Change(ctx, []oakra.StockChange{{ID: 122, QuantityChange: 1}})
	require.NoError(t, err, "Times is over")
	assert.Equal(t, 2, server.Refused())
}

func unusedAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func TestRefuseAfterDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, server *oakratest.Server) {
		server.Inject(oakratest.Fault{Kind: oakratest.Refuse, Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := server.Client().Stock.Change(ctx, []oakra.StockChange{{ID: 122, QuantityChange: 1}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, oakra.OutcomeNotApplied, oakra.OutcomeOf(err))
		assert.Equal(t, time.Second, time.Since(start))
		assert.Empty(t, server.Requests())
	})
}

func TestWhichFaultStrikes(t *testing.T) {
	server := newServer(t, shirts...)
	server.Inject(oakratest.Fault{Op: "stock.change", Kind: oakratest.Respond, Status: 501, Times: 2})
	server.Inject(oakratest.Fault{Kind: oakratest.Respond, Status: 502})
	status := func(method, path string) int { return call(t, server, method, path, "").status }
	assert.Equal(t, 502, status("GET", listPath+"?sku=a"))
	assert.Equal(t, 502, status("GET", changePath), "a probe of the path is not a change")
	assert.Equal(t, 501, status("POST", changePath))
	assert.Equal(t, 501, status("POST", "stock/stock-record/change/"), "on a route that the dialect does not have, too")
	assert.Equal(t, 502, status("POST", changePath), "Times is over")
	server.ClearFaults()
	assert.Equal(t, 200, status("GET", listPath+"?sku=a"))
	assert.Equal(t, oakratest.FaultKind(""), server.Requests()[5].Fault)
}

func TestImpossibleFaults(t *testing.T) {
	server := newServer(t)
	for _, f := range []oakratest.Fault{
		{Op: "change"}, {Kind: "Slow"}, {Probability: -0.1}, {Probability: 1.1},
		{Kind: oakratest.Respond}, {Kind: oakratest.RespondAfter, Status: 100},
	} {
		assert.Panics(t, func() { server.Inject(f) }, "%+v", f)
	}
}

// struck sends 200 lists and returns which of them a fault struck.
func struck(t *testing.T, faults ...oakratest.Fault) string {
	t.Helper()
	server := newServer(t)
	for _, f := range faults {
		server.Inject(f)
	}
	client := server.Client(oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}))
	var b strings.Builder
	for range 200 {
		_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
		var failure *oakra.Error
		switch {
		case err == nil:
			b.WriteByte('.')
		case errors.Is(err, oakra.ErrUnreachable):
			b.WriteByte('R')
		case errors.As(err, &failure):
			b.WriteByte("?12345"[failure.StatusCode-500])
		}
	}
	return b.String()
}

func TestProbability(t *testing.T) {
	seeded := func(seed uint64) oakratest.Fault {
		return oakratest.Fault{Kind: oakratest.Respond, Status: 501, Probability: 0.3, Seed: seed}
	}
	first := struck(t, seeded(1))
	assert.Equal(t, first, struck(t, seeded(1)))
	assert.NotEqual(t, first, struck(t, seeded(2)))
	assert.InDelta(t, 60, strings.Count(first, "1"), 25)

	limited := seeded(1)
	limited.Times = 7
	assert.Equal(t, 7, strings.Count(struck(t, limited), "1"))

	// The random numbers of one fault do not depend on those of another.
	other := oakratest.Fault{Kind: oakratest.Respond, Status: 502, Probability: 0.5, Seed: 9}
	both := struck(t, seeded(1), other)
	reversed := struck(t, other, seeded(1))
	for i := range first {
		assert.Equal(t, first[i] == '1', both[i] == '1', "request %d", i)
		assert.Equal(t, first[i] == '1' || both[i] == '2', reversed[i] != '.', "request %d", i)
	}
}
