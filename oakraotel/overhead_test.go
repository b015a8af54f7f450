package oakraotel_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/oakraotel"
)

// BenchmarkOverhead compares a call without and with an observer, to a server on the
// loopback interface that does as little as possible. The two take turns, one call
// each, and which of them begins changes from pair to pair. It reports the median of
// each, and the median of the differences as a fraction of the first.
//
//	go test -run '^$' -bench Overhead -benchtime 20000x ./oakraotel
func BenchmarkOverhead(b *testing.B) {
	b.Run("noop", func(b *testing.B) {
		benchmarkOverhead(b,
			oakraotel.WithTracerProvider(tracenoop.NewTracerProvider()),
			oakraotel.WithMeterProvider(metricnoop.NewMeterProvider()),
			oakraotel.WithPropagators(propagation.TraceContext{}))
	})
	b.Run("sdk", func(b *testing.B) {
		benchmarkOverhead(b,
			oakraotel.WithTracerProvider(sdktrace.NewTracerProvider()),
			oakraotel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))),
			oakraotel.WithPropagators(propagation.TraceContext{}))
	})
}

func benchmarkOverhead(b *testing.B, opts ...oakraotel.Option) {
	const response = `{"stock_records":[{"id":987654321987654,"location_id":"warehouse-1","sku":"shirt-green-m","quantity":148}]}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, response)
	}))
	defer server.Close()
	plain, err := oakra.NewClient("app-key", oakra.WithBaseURL(server.URL))
	require.NoError(b, err)
	defer plain.CloseIdleConnections()
	observed, err := oakra.NewClient("app-key", oakra.WithBaseURL(server.URL), oakra.WithObserver(oakraotel.NewObserver(opts...)))
	require.NoError(b, err)
	defer observed.CloseIdleConnections()
	call := func(c *oakra.Client) time.Duration {
		start := time.Now()
		_, err := c.Stock.Change(b.Context(), single)
		took := time.Since(start)
		require.NoError(b, err)
		return took
	}

	var without, with, more []time.Duration
	for b.Loop() {
		var p, o time.Duration
		if len(with)%2 == 0 {
			p, o = call(plain), call(observed)
		} else {
			o, p = call(observed), call(plain)
		}
		without, with, more = append(without, p), append(with, o), append(more, o-p)
	}
	b.ReportMetric(0, "ns/op") // the time of a pair says nothing
	b.ReportMetric(median(without), "ns/plain")
	b.ReportMetric(median(with), "ns/observed")
	b.ReportMetric(100*median(more)/median(without), "%overhead")
}

func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2])
}
