// Package oakraotel reports the calls of an [oakra.Client] to OpenTelemetry, as
// traces and metrics.
//
//	client, err := oakra.NewClient(key, oakra.WithObserver(oakraotel.NewObserver()))
//
// # Spans
//
// A call has an INTERNAL span, named oakra. and the operation: oakra.stock.change.
// Its parent is the span of the context that the call was given. Each request of a
// List, a Lookup or a bulk run is a call. The attributes are set at the end of the span:
//
//	oakra.operation  string  stock.list, stock.update, stock.change, sales.cancel or shipping.init
//	oakra.items      int     number of SKUs, of records to write, or of sales
//	oakra.outcome    string  applied, not applied or unknown; applied after a successful list too
//	oakra.attempts   int     number of attempts, without probes
//	error.type       string  only if the call returned an error; see below
//
// Below it, each attempt has a CLIENT span, named by its method, with the stable
// attributes of OpenTelemetry's conventions for HTTP. It begins when the request may be
// sent, after the waits for the limiter and the app key, and ends when the response has
// been read.
//
//	http.request.method        string
//	url.full                   string  without the query
//	server.address             string
//	server.port                int
//	http.request.resend_count  int     only of a resend: number of attempts of the call before it
//	http.response.status_code  int     only if there was a response
//	error.type                 string  only if the attempt failed
//	oakra.operation            string
//	oakra.outcome              string  what this attempt alone shows
//	oakra.attempt.kind         string  first, resend or probe
//
// A resend is any attempt of a call after its first, including one on another route. A
// probe is a request with an empty list, with which the client asks whether a route
// exists. It changes nothing, and the statuses 400, 404 and 405 are not errors of a
// probe.
//
// A call that the client's own checks reject has no span and is not in the metrics.
//
// # Metrics
//
// All are recorded when the call or the attempt ends.
//
//	oakra.client.call.duration  histogram, s        time from the start of a call to its end, with all waits,
//	                                                by oakra.operation, oakra.outcome and error.type
//	oakra.client.attempts       counter, {attempt}  attempts and probes,
//	                                                by oakra.operation, oakra.attempt.kind and error.type
//	oakra.client.unknown        counter, {call}     calls with an unknown outcome, by oakra.operation
//
// The histogram has the bucket boundaries of OpenTelemetry's HTTP metrics, from 5 ms to
// 10 s. The counter of unknown outcomes is 0 for each operation that writes as soon as
// NewObserver has returned, since many alarms miss the step from no value to 1.
//
// # Error types
//
// The attribute error.type is the status of the last response unless that is a 2xx, such
// as 429, or one of:
//
//	no_route         none of the known routes of the operation is there
//	canceled         the context was canceled
//	unreachable      no connection was established, and nothing was sent
//	timeout          the attempt timeout, or the deadline of the context
//	bad_response     a 2xx that cannot be read as it should, or a response that is not HTTP
//	connection_lost  the connection ended before there was a response
//	_OTHER           anything else, such as a limiter or a key source that failed
//
// # What is left out
//
// No SKU, record, sale, app key, header or body is in a span or a metric, and no error
// text, since the server's words may name them. The log of [oakra.WithLogger] has the
// error texts.
package oakraotel

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/oakra/oakra-go"
)

const scope = "github.com/oakra/oakra-go/oakraotel"

// The attributes that are not part of OpenTelemetry's conventions.
const (
	operationKey = attribute.Key("oakra.operation")
	itemsKey     = attribute.Key("oakra.items")
	outcomeKey   = attribute.Key("oakra.outcome")
	attemptsKey  = attribute.Key("oakra.attempts")
	kindKey      = attribute.Key("oakra.attempt.kind")
)

// Option tunes [NewObserver].
type Option func(*config)

type config struct {
	tracers    trace.TracerProvider
	meters     metric.MeterProvider
	propagator propagation.TextMapPropagator
}

// WithTracerProvider sets where the spans go; the default is the global provider,
// [otel.GetTracerProvider].
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(c *config) { c.tracers = p }
}

// WithMeterProvider sets where the metrics go; the default is the global provider,
// [otel.GetMeterProvider].
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(c *config) { c.meters = p }
}

// WithPropagators sets what adds the trace context to the headers of each request; the
// default is the global propagator, [otel.GetTextMapPropagator], which adds nothing
// until one is set. Baggage that it adds is sent to Oakra: to send nothing, use an empty
// [propagation.NewCompositeTextMapPropagator].
func WithPropagators(p propagation.TextMapPropagator) Option {
	return func(c *config) { c.propagator = p }
}

// NewObserver returns an observer for [oakra.WithObserver]. Several clients may share
// it. If it uses the global meter provider, set that first: the zeros of
// oakra.client.unknown are lost otherwise.
func NewObserver(opts ...Option) oakra.Observer {
	c := config{
		tracers:    otel.GetTracerProvider(),
		meters:     otel.GetMeterProvider(),
		propagator: otel.GetTextMapPropagator(),
	}
	for _, opt := range opts {
		opt(&c)
	}
	o := &observer{
		tracer: c.tracers.Tracer(scope,
			trace.WithInstrumentationVersion(oakra.Version), trace.WithSchemaURL(semconv.SchemaURL)),
		propagator: c.propagator,
		metrics: newMetrics(c.meters.Meter(scope,
			metric.WithInstrumentationVersion(oakra.Version), metric.WithSchemaURL(semconv.SchemaURL))),
	}
	return oakra.Observer{
		CallStart:    o.callStart,
		AttemptStart: o.attemptStart,
		AttemptEnd:   o.attemptEnd,
		CallEnd:      o.callEnd,
	}
}

// observer is an [oakra.Observer]. It is also the key under which it keeps its span in
// a context: the current span of the context may be another observer's.
type observer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
	metrics    metrics
	targets    sync.Map // []trace.SpanStartOption by target
}

func (o *observer) withSpan(ctx context.Context, s trace.Span) context.Context {
	return context.WithValue(ctx, o, s)
}

func (o *observer) span(ctx context.Context) trace.Span {
	s, ok := ctx.Value(o).(trace.Span)
	if !ok { // another hook returned a context that is not made from the one it was given
		return noop.Span{}
	}
	return s
}

func (o *observer) callStart(ctx context.Context, c oakra.CallStart) context.Context {
	ctx, span := o.tracer.Start(ctx, "oakra."+c.Op)
	return o.withSpan(ctx, span)
}

func (o *observer) attemptStart(ctx context.Context, a oakra.AttemptStart) context.Context {
	// The name has no path: the conventions allow only one with placeholders.
	ctx, span := o.tracer.Start(ctx, a.Method, o.startOptions(a)...)
	if a.Number > 1 {
		span.SetAttributes(semconv.HTTPRequestResendCount(a.Number - 1))
	}
	o.propagator.Inject(ctx, propagation.HeaderCarrier(a.Header))
	return o.withSpan(ctx, span)
}

func (o *observer) attemptEnd(ctx context.Context, a oakra.AttemptEnd) {
	failure := attemptFailure(a)
	if span := o.span(ctx); span.IsRecording() {
		if a.StatusCode != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(a.StatusCode))
		}
		end(span, a.Outcome, failure)
	}
	o.metrics.attempt(ctx, a, failure)
}

func (o *observer) callEnd(ctx context.Context, c oakra.CallEnd) {
	failure := errorType(c.Err)
	if span := o.span(ctx); span.IsRecording() {
		span.SetAttributes(
			operationKey.String(c.Op),
			itemsKey.Int(c.Items),
			attemptsKey.Int(c.Attempts),
		)
		end(span, c.Outcome, failure)
	}
	o.metrics.call(ctx, c, failure)
}

// end ends a span; failure is its error.type, "" after a success.
func end(span trace.Span, outcome oakra.Outcome, failure string) {
	span.SetAttributes(outcomeKey.String(outcome.String()))
	if failure != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(failure))
		span.SetStatus(codes.Error, "") // an error text may name SKUs and ids
	}
	span.End()
}
