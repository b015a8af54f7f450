package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// providers returns the OpenTelemetry SDK of a shop: spans go to w, metrics to registry.
// A real shop would send its spans to a collector, with the otlptracegrpc exporter and
// sdktrace.WithBatcher, and have http.Handle("/metrics", promhttp.Handler()).
func providers(w io.Writer, registry *prometheus.Registry) (*sdktrace.TracerProvider, *sdkmetric.MeterProvider, error) {
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, nil, err
	}
	shop := resource.NewSchemaless(attribute.String("service.name", "shop"))
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(console{w}), sdktrace.WithResource(shop))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithResource(shop))
	return tracers, meters, nil
}

// console prints each span as it ends. The attempts therefore come before their call.
type console struct{ w io.Writer }

func (c console) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		name := s.Name()
		if s.SpanKind() == trace.SpanKindClient {
			name = "  " + name
		}
		took := s.EndTime().Sub(s.StartTime()).Round(10 * time.Microsecond)
		if _, err := fmt.Fprintf(c.w, "%s (%v)", name, took); err != nil {
			return err
		}
		for _, a := range s.Attributes() {
			fmt.Fprintf(c.w, " %s=%v", a.Key, a.Value.AsInterface())
		}
		fmt.Fprintln(c.w)
	}
	return nil
}

func (c console) Shutdown(context.Context) error { return nil }
