package oakraotel_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakraotel"
)

// telemetry keeps what an observer reports.
type telemetry struct {
	exporter *tracetest.InMemoryExporter
	tracers  *sdktrace.TracerProvider
	reader   *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
}

func newTelemetry() *telemetry {
	exporter, reader := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	return &telemetry{
		exporter: exporter,
		tracers:  sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)),
		reader:   reader,
		meters:   sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	}
}

func (t *telemetry) observe() oakra.Option {
	return oakra.WithObserver(oakraotel.NewObserver(
		oakraotel.WithTracerProvider(t.tracers),
		oakraotel.WithMeterProvider(t.meters),
		oakraotel.WithPropagators(propagation.TraceContext{}),
	))
}

// metrics returns the metrics by name.
func (t *telemetry) metrics(tb testing.TB) map[string]metricdata.Metrics {
	var all metricdata.ResourceMetrics
	require.NoError(tb, t.reader.Collect(context.WithoutCancel(tb.Context()), &all))
	byName := make(map[string]metricdata.Metrics)
	for _, scope := range all.ScopeMetrics {
		require.Equal(tb, "github.com/oakra/oakra-go/oakraotel", scope.Scope.Name)
		require.Equal(tb, oakra.Version, scope.Scope.Version)
		for _, m := range scope.Metrics {
			byName[m.Name] = m
		}
	}
	return byName
}

// counts returns how often each metric was recorded, by name and attributes.
func (t *telemetry) counts(tb testing.TB) map[string]int {
	counts := make(map[string]int)
	for name, m := range t.metrics(tb) {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			require.True(tb, data.IsMonotonic)
			for _, p := range data.DataPoints {
				counts[name+" "+text(p.Attributes.ToSlice())] = int(p.Value)
			}
		case metricdata.Histogram[float64]:
			for _, p := range data.DataPoints {
				counts[name+" "+text(p.Attributes.ToSlice())] = int(p.Count)
			}
		}
	}
	return counts
}

// tree returns a line for each span in the order of their ends, attempts before their
// call, which is the order of sequential calls. It checks what holds for all spans.
func (t *telemetry) tree(tb testing.TB) []string {
	var lines []string
	var attempts tracetest.SpanStubs
	for _, s := range t.exporter.GetSpans() {
		a := attributes(s.Attributes)
		require.Equal(tb, a["error.type"] != nil, s.Status.Code == codes.Error)
		require.Empty(tb, s.Status.Description)
		require.Empty(tb, s.Events)
		require.Empty(tb, s.Links)
		failure := ""
		if e := a["error.type"]; e != nil {
			failure = fmt.Sprint(", ", e)
		}
		if s.SpanKind == trace.SpanKindClient {
			attempts = append(attempts, s)
			status := ""
			if code := a["http.response.status_code"]; code != nil {
				status = fmt.Sprint(code, ", ")
			}
			lines = append(lines, fmt.Sprintf("- %s %v: %s%v%s", s.Name, a["oakra.attempt.kind"], status, a["oakra.outcome"], failure))
			continue
		}
		require.Equal(tb, trace.SpanKindInternal, s.SpanKind)
		require.Equal(tb, "oakra."+a["oakra.operation"].(string), s.Name)
		counted := 0
		for _, attempt := range attempts {
			require.Equal(tb, s.SpanContext.SpanID(), attempt.Parent.SpanID())
			require.Equal(tb, s.SpanContext.TraceID(), attempt.SpanContext.TraceID())
			if attributes(attempt.Attributes)["oakra.attempt.kind"] != "probe" {
				counted++
			}
		}
		require.EqualValues(tb, counted, a["oakra.attempts"])
		attempts = nil
		lines = append(lines, fmt.Sprintf("%s of %v: %v%s", s.Name, a["oakra.items"], a["oakra.outcome"], failure))
	}
	require.Empty(tb, attempts)
	return lines
}

// wantCounts returns the counts that follow from the spans.
func (t *telemetry) wantCounts() map[string]int {
	counts := make(map[string]int)
	for _, op := range []string{"stock.update", "stock.change", "sales.cancel", "shipping.init"} {
		counts["oakra.client.unknown oakra.operation="+op] = 0
	}
	for _, s := range t.exporter.GetSpans() {
		a := attributes(s.Attributes)
		suffix := fmt.Sprint(" oakra.operation=", a["oakra.operation"])
		if s.SpanKind == trace.SpanKindClient {
			suffix = fmt.Sprint(" oakra.attempt.kind=", a["oakra.attempt.kind"], suffix)
		} else {
			if a["oakra.outcome"] == "unknown" {
				counts["oakra.client.unknown"+suffix]++
			}
			suffix += fmt.Sprint(" oakra.outcome=", a["oakra.outcome"])
		}
		if e := a["error.type"]; e != nil {
			suffix = fmt.Sprint(" error.type=", e, suffix)
		}
		if s.SpanKind == trace.SpanKindClient {
			counts["oakra.client.attempts"+suffix]++
		} else {
			counts["oakra.client.call.duration"+suffix]++
		}
	}
	return counts
}

func attributes(all []attribute.KeyValue) map[string]any {
	m := make(map[string]any)
	for _, a := range all {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

func text(all []attribute.KeyValue) string {
	var parts []string
	for _, a := range all {
		parts = append(parts, fmt.Sprintf("%s=%v", a.Key, a.Value.AsInterface()))
	}
	return strings.Join(parts, " ")
}

// traceparent is the header that a request in a span must have.
func traceparent(s tracetest.SpanStub) string {
	return fmt.Sprintf("00-%s-%s-%s", s.SpanContext.TraceID(), s.SpanContext.SpanID(), s.SpanContext.TraceFlags())
}

// records returns records with the ids 1 to n.
func records(n int) []oakra.StockRecord {
	return each(n, func(id int64) oakra.StockRecord {
		return oakra.StockRecord{ID: id, LocationID: "warehouse-1", SKU: fmt.Sprintf("sku-%d", id), Quantity: 100}
	})
}

func skus(n int) []string {
	return each(n, func(id int64) string { return fmt.Sprintf("sku-%d", id) })
}

func keys(n int) []oakra.StockKey {
	return each(n, func(id int64) oakra.StockKey {
		return oakra.StockKey{LocationID: "warehouse-1", SKU: fmt.Sprintf("sku-%d", id)}
	})
}

func updates(n int) []oakra.StockUpdate {
	return each(n, func(id int64) oakra.StockUpdate { return oakra.StockUpdate{ID: id, Quantity: 7} })
}

func changes(n int) []oakra.StockChange {
	return each(n, func(id int64) oakra.StockChange { return oakra.StockChange{ID: id, QuantityChange: -1} })
}

// each returns what f makes of the ids 1 to n.
func each[T any](n int, f func(id int64) T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = f(int64(i + 1))
	}
	return all
}
