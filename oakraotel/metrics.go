package oakraotel

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/oakra/oakra-go"
)

// writes are the operations whose outcome may be unknown.
var writes = []string{"stock.update", "stock.change", "sales.cancel", "shipping.init"}

type metrics struct {
	duration metric.Float64Histogram
	attempts metric.Int64Counter
	unknown  metric.Int64Counter
}

func newMetrics(meter metric.Meter) metrics { //nolint:contextcheck // no call has begun
	duration, err := meter.Float64Histogram("oakra.client.call.duration",
		metric.WithUnit("s"),
		metric.WithDescription("Duration of calls of the Oakra client, with all attempts and waits."),
		metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		otel.Handle(err)
		duration = noop.Float64Histogram{}
	}
	m := metrics{
		duration: duration,
		attempts: counter(meter, "oakra.client.attempts", "{attempt}", "Number of requests of the Oakra client, resends and probes included."),
		unknown:  counter(meter, "oakra.client.unknown", "{call}", "Number of calls of the Oakra client of which it is unknown whether they were applied."),
	}
	for _, op := range writes {
		m.unknown.Add(context.Background(), 0, metric.WithAttributes(operationKey.String(op)))
	}
	return m
}

func counter(meter metric.Meter, name, unit, description string) metric.Int64Counter {
	c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	if err != nil {
		otel.Handle(err)
		return noop.Int64Counter{}
	}
	return c
}

func (m metrics) attempt(ctx context.Context, a oakra.AttemptEnd, failure string) {
	if m.attempts.Enabled(ctx) {
		m.attempts.Add(ctx, 1, withFailure(failure, operationKey.String(a.Op), kindKey.String(kind(a.Number))))
	}
}

func (m metrics) call(ctx context.Context, c oakra.CallEnd, failure string) {
	if m.duration.Enabled(ctx) {
		m.duration.Record(ctx, c.Duration.Seconds(),
			withFailure(failure, operationKey.String(c.Op), outcomeKey.String(c.Outcome.String())))
	}
	if c.Outcome == oakra.OutcomeUnknown {
		m.unknown.Add(ctx, 1, metric.WithAttributes(operationKey.String(c.Op)))
	}
}

// withFailure returns attrs and, after a failure, its error.type.
func withFailure(failure string, attrs ...attribute.KeyValue) metric.MeasurementOption {
	if failure != "" {
		attrs = append(attrs, semconv.ErrorTypeKey.String(failure))
	}
	return metric.WithAttributes(attrs...)
}
