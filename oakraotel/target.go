package oakraotel

import (
	"net/url"
	"strconv"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/oakra/oakra-go"
)

// target is what is known about an attempt before it is sent.
type target struct {
	op, method, scheme, host, path, kind string
}

// startOptions returns the options of an attempt's span. They are kept for each target,
// as there are few, and making them anew would take half of the observer's time with
// no-op providers.
func (o *observer) startOptions(a oakra.AttemptStart) []trace.SpanStartOption {
	t := target{a.Op, a.Method, a.Scheme, a.Host, a.Path, kind(a.Number)}
	options, ok := o.targets.Load(t)
	if !ok {
		options, _ = o.targets.LoadOrStore(t, t.startOptions())
	}
	return options.([]trace.SpanStartOption)
}

func (t target) startOptions() []trace.SpanStartOption {
	u := url.URL{Scheme: t.scheme, Host: t.host, Path: t.path}
	port, err := strconv.Atoi(u.Port())
	switch {
	case err == nil:
	case t.scheme == "http":
		port = 80
	default:
		port = 443
	}
	return []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(
			semconv.HTTPRequestMethodKey.String(t.method),
			semconv.URLFull(u.String()),
			semconv.ServerAddress(u.Hostname()),
			semconv.ServerPort(port),
			operationKey.String(t.op),
			kindKey.String(t.kind),
		),
	}
}

// kind returns the kind of the attempt with a number.
func kind(number int) string {
	switch number {
	case 0:
		return "probe"
	case 1:
		return "first"
	}
	return "resend"
}
