package oakraotel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakraotel"
	"github.com/oakra/oakra-go/oakratest"
)

const (
	id  = 987_654_321_987_654
	sku = "shirt-green-m"
)

var (
	stock  = oakra.StockRecord{ID: id, LocationID: "warehouse-1", SKU: sku, Quantity: 150}
	single = []oakra.StockChange{{ID: id, QuantityChange: -2}}
)

func TestAttributes(t *testing.T) {
	server := oakratest.Start(t, stock)
	server.Inject(oakratest.Fault{Kind: oakratest.Refuse, Times: 1})
	recorded := newTelemetry()
	client := server.Client(recorded.observe(), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: time.Nanosecond, MaxBackoff: time.Nanosecond}))

	ctx, shop := recorded.tracers.Tracer("shop").Start(t.Context(), "order")
	_, err := client.Stock.List(ctx, oakra.StockListParams{SKUs: []string{sku, "shirt-blue-m"}})
	require.NoError(t, err)
	shop.End()

	port := strings.TrimSuffix(strings.TrimPrefix(server.URL, "http://127.0.0.1:"), "/api/v1/")
	spans := recorded.exporter.GetSpans()
	require.Len(t, spans, 4)
	target := func(a map[string]any) map[string]any {
		a["http.request.method"] = "GET"
		a["url.full"] = server.URL + "stock/stock-records/"
		a["server.address"] = "127.0.0.1"
		require.Equal(t, port, fmt.Sprint(attributes(spans[1].Attributes)["server.port"]))
		a["server.port"] = attributes(spans[1].Attributes)["server.port"]
		a["oakra.operation"] = "stock.list"
		return a
	}
	require.Equal(t, target(map[string]any{
		"oakra.attempt.kind": "first",
		"oakra.outcome":      "not applied",
		"error.type":         "unreachable",
	}), attributes(spans[0].Attributes))
	require.Equal(t, target(map[string]any{
		"oakra.attempt.kind":        "resend",
		"http.request.resend_count": int64(1),
		"http.response.status_code": int64(200),
		"oakra.outcome":             "applied",
	}), attributes(spans[1].Attributes))
	require.Equal(t, map[string]any{
		"oakra.operation": "stock.list",
		"oakra.items":     int64(2),
		"oakra.attempts":  int64(2),
		"oakra.outcome":   "applied",
	}, attributes(spans[2].Attributes))
	require.Equal(t, "GET", spans[1].Name)
	require.Equal(t, "oakra.stock.list", spans[2].Name)
	require.Equal(t, shop.SpanContext().SpanID(), spans[2].Parent.SpanID())
	require.Equal(t, oakra.Version, spans[2].InstrumentationScope.Version)
}

func TestServerAddress(t *testing.T) {
	for _, tt := range []struct {
		base, url, address string
		port               int64
	}{
		{"https://oakra.example/api/v1/", "https://oakra.example/api/v1/stock/stock-records/", "oakra.example", 443},
		{"https://oakra.example:8443/", "https://oakra.example:8443/stock/stock-records/", "oakra.example", 8443},
		{"http://localhost/", "http://localhost/stock/stock-records/", "localhost", 80},
		{"http://[::1]:8480/a%20b/", "http://[::1]:8480/a%20b/stock/stock-records/", "::1", 8480},
	} {
		t.Run(tt.base, func(t *testing.T) {
			recorded := newTelemetry()
			client, err := oakra.NewClient("app-key", recorded.observe(), oakra.WithBaseURL(tt.base),
				oakra.WithHTTPClient(&http.Client{Transport: rejecting{}}))
			require.NoError(t, err)
			_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{sku}})
			require.ErrorIs(t, err, oakra.ErrUnauthorized)

			a := attributes(recorded.exporter.GetSpans()[0].Attributes)
			require.Equal(t, tt.url, a["url.full"])
			require.Equal(t, tt.address, a["server.address"])
			require.Equal(t, tt.port, a["server.port"])
		})
	}
}

// rejecting responds with 401.
type rejecting struct{}

func (rejecting) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

func TestOutcomes(t *testing.T) {
	change := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.Change(ctx, single)
		return err
	}
	changeMany := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.Change(ctx, changes(300))
		return err
	}
	list := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{sku}})
		return err
	}
	respond := func(status, times int, body string) oakratest.Fault {
		return oakratest.Fault{Kind: oakratest.Respond, Status: status, Times: times, Body: body}
	}
	for _, tt := range []struct {
		name  string
		fault oakratest.Fault
		call  func(ctx context.Context, c *oakra.Client) error
		want  []string
	}{
		{"applied", oakratest.Fault{Delay: time.Second, Times: 1}, change, []string{
			"- POST first: 200, applied",
			"oakra.stock.change of 1: applied",
		}},
		{"refused once", oakratest.Fault{Kind: oakratest.Refuse, Times: 1}, change, []string{
			"- POST first: not applied, unreachable",
			"- POST resend: 200, applied",
			"oakra.stock.change of 1: applied",
		}},
		{"refused", oakratest.Fault{Kind: oakratest.Refuse}, change, []string{
			"- POST first: not applied, unreachable",
			"- POST resend: not applied, unreachable",
			"- POST resend: not applied, unreachable",
			"- POST resend: not applied, unreachable",
			"oakra.stock.change of 1: not applied, unreachable",
		}},
		{"throttled", respond(429, 1, `{"detail":"Request was throttled."}`), change, []string{
			"- POST first: 429, not applied, 429",
			"- POST resend: 200, applied",
			"oakra.stock.change of 1: applied",
		}},
		{"key revoked", respond(401, 0, `{"detail":"Invalid token."}`), change, []string{
			"- POST first: 401, not applied, 401",
			"oakra.stock.change of 1: not applied, 401",
		}},
		{"response lost", oakratest.Fault{Kind: oakratest.ResetAfter}, change, []string{
			"- POST first: unknown, connection_lost",
			"oakra.stock.change of 1: unknown, connection_lost",
		}},
		{"record missing", oakratest.Fault{Kind: oakratest.OmitRecord}, change, []string{
			"- POST first: 200, unknown, bad_response",
			"oakra.stock.change of 1: unknown, bad_response",
		}},
		{"server error", respond(500, 0, "<html>"), change, []string{
			"- POST first: 500, unknown, 500",
			"oakra.stock.change of 1: unknown, 500",
		}},
		{"list sent again", respond(503, 1, "<html>"), list, []string{
			"- GET first: 503, not applied, 503",
			"- GET resend: 200, applied",
			"oakra.stock.list of 1: applied",
		}},
		{"redirected", respond(302, 0, ""), list, []string{
			"- GET first: 302, not applied, 302",
			"oakra.stock.list of 1: not applied, 302",
		}},
		{"cut short", oakratest.Fault{Kind: oakratest.CutBody}, list, []string{
			"- GET first: 200, not applied, bad_response",
			"- GET resend: 200, not applied, bad_response",
			"- GET resend: 200, not applied, bad_response",
			"- GET resend: 200, not applied, bad_response",
			"oakra.stock.list of 1: not applied, bad_response",
		}},
		{"attempt timeout", oakratest.Fault{Delay: time.Hour}, change, []string{
			"- POST first: unknown, timeout",
			"oakra.stock.change of 1: unknown, timeout",
		}},
		{"context's deadline", oakratest.Fault{Delay: time.Hour}, func(ctx context.Context, c *oakra.Client) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return change(ctx, c)
		}, []string{
			"- POST first: unknown, timeout",
			"oakra.stock.change of 1: unknown, timeout",
		}},
		{"canceled", oakratest.Fault{Delay: time.Hour}, func(ctx context.Context, c *oakra.Client) error {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return change(ctx, c)
		}, []string{
			"- POST first: unknown, canceled",
			"oakra.stock.change of 1: unknown, canceled",
		}},
		{"canceled before", oakratest.Fault{Times: 1}, func(ctx context.Context, c *oakra.Client) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return change(ctx, c)
		}, []string{
			"oakra.stock.change of 1: not applied, canceled",
		}},
		{"no route", respond(404, 0, "<html>"), change, []string{
			"- POST first: 404, not applied, 404",
			"- POST probe: 404, not applied",
			"- POST resend: 404, not applied, 404",
			"- POST probe: 404, not applied",
			"oakra.stock.change of 1: not applied, no_route",
		}},
		{"large first write", oakratest.Fault{Delay: time.Second, Times: 1}, changeMany, []string{
			"- POST probe: 400, not applied",
			"- POST first: 200, applied",
			"oakra.stock.change of 300: applied",
		}},
		{"no route for a large write", respond(405, 1, `{"detail":"Method not allowed."}`), changeMany, []string{
			"- POST probe: 405, not applied",
			"- POST probe: 404, not applied",
			"oakra.stock.change of 300: not applied, no_route",
		}},
		{"probe fails", respond(500, 1, "<html>"), func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Stock.Update(ctx, updates(300))
			return err
		}, []string{
			"- POST probe: 500, not applied, 500",
			"- POST probe: 400, not applied",
			"- POST first: 200, applied",
			"oakra.stock.update of 300: applied",
		}},
		{"rejected by the client", oakratest.Fault{Times: 1}, func(ctx context.Context, c *oakra.Client) error {
			_, err := c.Stock.Change(ctx, []oakra.StockChange{{ID: -1}})
			return err
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := oakratest.Start(t, append(records(300), stock)...)
				server.Inject(tt.fault)
				recorded := newTelemetry()
				_ = tt.call(t.Context(), server.Client(recorded.observe()))
				require.Equal(t, tt.want, recorded.tree(t))
				require.Equal(t, recorded.wantCounts(), recorded.counts(t))
			})
		})
	}
}

func TestKeySource(t *testing.T) {
	server := oakratest.Start(t, stock)
	key, failure := "another-key", error(nil)
	recorded := newTelemetry()
	client := server.Client(recorded.observe(), oakra.WithAppKeySource(func(_ context.Context, rejected string) (string, error) {
		if rejected != "" {
			key = server.Key
		}
		return key, failure
	}))
	_, err := client.Stock.Change(t.Context(), single)
	require.NoError(t, err)
	failure = errors.New("the vault is sealed")
	_, err = client.Stock.Change(t.Context(), single)
	require.ErrorIs(t, err, failure)

	require.Equal(t, []string{
		"- POST first: 401, not applied, 401",
		"- POST resend: 200, applied",
		"oakra.stock.change of 1: applied",
		"oakra.stock.change of 1: not applied, _OTHER",
	}, recorded.tree(t))
	require.Equal(t, recorded.wantCounts(), recorded.counts(t))
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, stock)
		server.Inject(oakratest.Fault{Delay: 3 * time.Second, Kind: oakratest.ResetAfter, Times: 1})
		recorded := newTelemetry()
		client := server.Client(recorded.observe())
		_, err := client.Stock.Change(t.Context(), single)
		require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))

		metrics := recorded.metrics(t)
		require.Len(t, metrics, 3)
		duration := metrics["oakra.client.call.duration"]
		require.Equal(t, "s", duration.Unit)
		point := duration.Data.(metricdata.Histogram[float64]).DataPoints[0]
		require.Equal(t, []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}, point.Bounds)
		require.InDelta(t, 3, point.Sum, 1e-3)
		require.Equal(t, "{attempt}", metrics["oakra.client.attempts"].Unit)
		require.Equal(t, "{call}", metrics["oakra.client.unknown"].Unit)
		require.Equal(t, map[string]int{
			"oakra.client.call.duration error.type=connection_lost oakra.operation=stock.change oakra.outcome=unknown": 1,
			"oakra.client.attempts error.type=connection_lost oakra.attempt.kind=first oakra.operation=stock.change":   1,
			"oakra.client.unknown oakra.operation=stock.change":                                                        1,
			"oakra.client.unknown oakra.operation=stock.update":                                                        0,
			"oakra.client.unknown oakra.operation=sales.cancel":                                                        0,
			"oakra.client.unknown oakra.operation=shipping.init":                                                       0,
		}, recorded.counts(t))
	})
}

func TestGlobalProviders(t *testing.T) {
	recorded := newTelemetry()
	otel.SetTracerProvider(recorded.tracers)
	otel.SetMeterProvider(recorded.meters)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	server := oakratest.Start(t, stock)
	_, err := server.Client(oakra.WithObserver(oakraotel.NewObserver())).Stock.Change(t.Context(), single)
	require.NoError(t, err)

	require.Equal(t, []string{"- POST first: 200, applied", "oakra.stock.change of 1: applied"}, recorded.tree(t))
	require.Equal(t, recorded.wantCounts(), recorded.counts(t))
	require.Equal(t, traceparent(recorded.exporter.GetSpans()[0]), server.Requests()[0].Header.Get("Traceparent"))
}

// TestObserversBesideEachOther has two of them on one client, and a third observer that
// makes spans too.
func TestObserversBesideEachOther(t *testing.T) {
	server := oakratest.Start(t, stock)
	a, b, other := newTelemetry(), newTelemetry(), newTelemetry()
	inner := other.tracers.Tracer("other")
	client := server.Client(a.observe(), b.observe(), oakra.WithObserver(oakra.Observer{
		CallStart: func(ctx context.Context, _ oakra.CallStart) context.Context {
			ctx, _ = inner.Start(ctx, "call")
			return ctx
		},
		AttemptStart: func(ctx context.Context, _ oakra.AttemptStart) context.Context {
			ctx, _ = inner.Start(ctx, "attempt")
			return ctx
		},
	}))
	_, err := client.Stock.Change(t.Context(), single)
	require.NoError(t, err)
	for _, recorded := range []*telemetry{a, b} {
		spans := recorded.exporter.GetSpans()
		require.Len(t, spans, 2)
		require.Equal(t, "POST", spans[0].Name)
		require.Equal(t, "oakra.stock.change", spans[1].Name)
		require.Equal(t, recorded.wantCounts(), recorded.counts(t))
	}
	require.Empty(t, other.exporter.GetSpans())
}

// TestForeignContext has a hook that drops the context of the observer.
func TestForeignContext(t *testing.T) {
	server := oakratest.Start(t, stock)
	recorded := newTelemetry()
	client := server.Client(recorded.observe(), oakra.WithObserver(oakra.Observer{
		CallStart: func(context.Context, oakra.CallStart) context.Context { return context.Background() },
	}))
	_, err := client.Stock.Change(t.Context(), single)
	require.NoError(t, err)
	require.Equal(t, 1, recorded.counts(t)["oakra.client.call.duration oakra.operation=stock.change oakra.outcome=applied"])
}

// TestManyGoroutines has lists, lookups, single writes and bulk runs on one client, and
// a server that fails. Each request must have one span, below the span of its call.
func TestManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, records(300)...)
		for i, fault := range []oakratest.Fault{
			{Kind: oakratest.Refuse},
			{Kind: oakratest.Respond, Status: 429, Body: `{"detail":"Request was throttled."}`},
			{Kind: oakratest.ResetAfter, Op: "stock.change"},
			{Kind: oakratest.Respond, Status: 503, Body: "<html>", Op: "stock.list"},
		} {
			fault.Probability, fault.Seed = 0.1, uint64(i)
			server.Inject(fault)
		}
		server.SetLatency(time.Millisecond, 0)
		recorded := newTelemetry()
		client := server.Client(recorded.observe())

		done := make(chan struct{})
		jobs := []func(ctx context.Context){
			func(ctx context.Context) {
				for range client.Stock.ListSeq(ctx, oakra.StockListParams{SKUs: skus(300)}) {
					continue
				}
			},
			func(ctx context.Context) {
				_, _ = client.Stock.Lookup(ctx, keys(300))
			},
			func(ctx context.Context) {
				_ = client.Stock.UpdateAll(ctx, updates(300), oakra.BulkOptions{BatchSize: 20})
			},
			func(ctx context.Context) {
				_ = client.Stock.ChangeAll(ctx, changes(300), oakra.BulkOptions{BatchSize: 20})
			},
			func(ctx context.Context) {
				for range 20 {
					_, _ = client.Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				}
			},
		}
		for _, job := range jobs {
			for range 2 {
				go func() {
					job(t.Context())
					done <- struct{}{}
				}()
			}
		}
		for range 2 * len(jobs) {
			<-done
		}

		calls, attempts := make(map[trace.SpanID]trace.TraceID), make(map[string]bool)
		for _, s := range recorded.exporter.GetSpans() {
			if s.SpanKind == trace.SpanKindInternal {
				calls[s.SpanContext.SpanID()] = s.SpanContext.TraceID()
			}
		}
		for _, s := range recorded.exporter.GetSpans() {
			if s.SpanKind == trace.SpanKindClient {
				require.Equal(t, calls[s.Parent.SpanID()], s.SpanContext.TraceID())
				attempts[traceparent(s)] = true
			}
		}
		require.Equal(t, len(server.Requests())+server.Refused(), len(attempts))
		for _, r := range server.Requests() {
			parent := r.Header.Get("Traceparent")
			require.True(t, attempts[parent], "%q is of no attempt, or of two requests", parent)
			delete(attempts, parent)
		}
		require.Len(t, attempts, server.Refused())
		require.Positive(t, recorded.counts(t)["oakra.client.unknown oakra.operation=stock.change"])
		require.Equal(t, recorded.wantCounts(), recorded.counts(t))
	})
}

// TestNothingSecret has a server that repeats the app key, a SKU and an id in every
// place of its responses, and looks for them in all that was recorded.
func TestNothingSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := oakratest.Start(t, stock)
		recorded := newTelemetry()
		client := server.Client(recorded.observe())
		words := fmt.Sprintf("%s %s %d %s", server.Key, sku, int64(id), "sale-4711")
		header := http.Header{"X-Request-Id": {words}, "Retry-After": {words}, "Location": {"/" + words}}
		for _, body := range []string{
			fmt.Sprintf(`{"detail":%q}`, words),
			fmt.Sprintf(`{"stock_records":[{%q:[%q]}]}`, words, words),
			"<html>" + words,
		} {
			for _, status := range []int{200, 207, 302, 400, 401, 404, 429, 500} {
				server.Inject(oakratest.Fault{Kind: oakratest.RespondAfter, Status: status, Header: header, Body: body})
				_, _ = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{sku}})
				_, _ = client.Stock.Change(t.Context(), single)
				_, _ = client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: id, Quantity: 1}})
				_, _ = client.Sales.Cancel(t.Context(), oakra.SaleCancelParams{SaleID: "sale-4711", Reason: "out_of_stock"})
				_, _ = client.Shipping.Initiate(t.Context(), []string{"sale-4711"})
				server.ClearFaults()
			}
		}
		for _, kind := range []oakratest.FaultKind{oakratest.OmitRecord, oakratest.CutBody, oakratest.ResetAfter, oakratest.Refuse} {
			server.Inject(oakratest.Fault{Kind: kind})
			_, _ = client.Stock.Change(t.Context(), single)
			server.ClearFaults()
		}

		spans, err := json.Marshal(recorded.exporter.GetSpans())
		require.NoError(t, err)
		metrics, err := json.Marshal(recorded.metrics(t))
		require.NoError(t, err)
		require.Contains(t, string(spans), `"oakra.shipping.init"`)
		require.Contains(t, string(metrics), `"shipping.init"`)
		for _, secret := range strings.Fields(words) {
			require.NotContains(t, string(spans), secret)
			require.NotContains(t, string(metrics), secret)
		}
	})
}
