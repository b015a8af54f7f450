package oakra

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"
)

// Observer is told about calls and attempts, for traces, metrics and logs. Any
// function may be nil. They run in the goroutine of the call, and hold it up.
// No value that they get carries the app key, a query or a body.
//
// Each request of a List, a Lookup or a bulk run is a call. A call that the
// client's own checks reject is not reported. The empty list with which a write
// asks whether a route is there is attempt number 0.
//
// Several observers run in the order given, each with the context that the one
// before returned.
type Observer struct {
	// CallStart returns the context that the call goes on with: ctx, or one made
	// from it.
	CallStart func(ctx context.Context, c CallStart) context.Context
	// AttemptStart returns the context that the attempt goes on with. It is called
	// once the attempt may begin, after the limiter and the key source.
	AttemptStart func(ctx context.Context, a AttemptStart) context.Context
	// AttemptEnd gets the context of its AttemptStart.
	AttemptEnd func(ctx context.Context, a AttemptEnd)
	// CallEnd gets the context of its CallStart.
	CallEnd func(ctx context.Context, c CallEnd)
}

// CallStart describes a call that begins.
type CallStart struct {
	Op    string // operation, as in [Error]
	Items int    // number of SKUs, of records to write, or of sales
}

// CallEnd describes a call that has ended.
type CallEnd struct {
	Op       string
	Items    int
	Attempts int // as in [Error]
	Duration time.Duration
	Outcome  Outcome // OutcomeApplied after a success, for a List too
	Err      error   // an [*Error] without its Body; nil after a success
}

// AttemptStart describes an attempt that begins.
type AttemptStart struct {
	Op, Method string
	Scheme     string // "https" or "http"
	Host       string // with the port, if the base URL has one
	Path       string // without the query
	Number     int    // counts the attempts of the call from 1
	// Header is sent with the request: a hook may add to it, for trace context. A
	// header that the client sets itself is ignored, and so are Authorization and
	// idempotency keys, which would make net/http send a write again.
	Header http.Header
}

// AttemptEnd describes an attempt that has ended.
type AttemptEnd struct {
	Op, Method, Path string
	Number           int
	StatusCode       int // 0 without a response
	Duration         time.Duration
	Outcome          Outcome       // what this attempt alone shows; OutcomeApplied after a success, for a List too
	RequestID        string        // as [Error.RequestID] has it, of a success too
	Err              error         // an [*Error] without its Body; nil after a success
	Resend           bool          // the request is sent again, unless the context ends first …
	ResendAfter      time.Duration // … after this wait
}

// observers are those of one client.
type observers []Observer

func (all observers) callStart(ctx context.Context, c CallStart) context.Context {
	for _, o := range all {
		if o.CallStart != nil {
			ctx = orContext(o.CallStart(ctx, c), ctx)
		}
	}
	return ctx
}

func (all observers) attemptStart(ctx context.Context, a AttemptStart) context.Context {
	for _, o := range all {
		if o.AttemptStart != nil {
			ctx = orContext(o.AttemptStart(ctx, a), ctx)
		}
	}
	return ctx
}

// orContext returns ctx, or otherwise if a hook returned nil.
func orContext(ctx, otherwise context.Context) context.Context {
	if ctx == nil {
		return otherwise
	}
	return ctx
}

func (all observers) attemptEnd(ctx context.Context, a AttemptEnd) {
	for _, o := range all {
		if o.AttemptEnd != nil {
			o.AttemptEnd(ctx, a)
		}
	}
}

func (all observers) callEnd(ctx context.Context, c CallEnd) {
	for _, o := range all {
		if o.CallEnd != nil {
			o.CallEnd(ctx, c)
		}
	}
}

// observeStart reports an attempt that begins, and adds the headers of the hooks to
// its header. It returns the context that the attempt goes on with.
func (c *call) observeStart(request *http.Request, header http.Header) context.Context {
	if len(c.client.observers) == 0 {
		return c.ctx
	}
	added := make(http.Header)
	ctx := c.client.observers.attemptStart(c.ctx, AttemptStart{
		Op:     c.op.String(),
		Method: request.Method,
		Scheme: request.URL.Scheme,
		Host:   request.URL.Host,
		Path:   request.URL.Path,
		Number: c.number(),
		Header: added,
	})
	for name, values := range added {
		name = http.CanonicalHeaderKey(name)
		if _, taken := header[name]; taken || slices.Contains(reservedHeaders, name) {
			if c.client.logger != nil {
				c.client.logger.WarnContext(ctx, "oakra: header of an observer ignored", "op", c.op.String(), "header", name)
			}
			continue
		}
		header[name] = values
	}
	return ctx
}

// reservedHeaders are those that no hook may set, beside the ones that the client
// has set by then.
var reservedHeaders = []string{
	"Authorization", "X-Oakra-Api-Version", "Idempotency-Key", "X-Idempotency-Key",
	"Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection", "Upgrade", "Trailer", "Expect", "Cookie",
	"Accept-Encoding", // with one, net/http would leave a response compressed
}

// number counts the attempt that begins or has just begun; the empty list of the
// route search is number 0.
func (c *call) number() int {
	if c.probing {
		return 0
	}
	return c.attempts + 1
}

// observeEnd reports an attempt that has ended, before it is counted.
func (c *call) observeEnd(a attempt, n next) {
	if len(c.client.observers) == 0 {
		return
	}
	end := AttemptEnd{
		Op:          c.op.String(),
		Method:      c.route.method,
		Path:        c.route.url.Path,
		Number:      c.number(),
		StatusCode:  a.status,
		Duration:    a.took,
		Outcome:     OutcomeApplied,
		RequestID:   c.keys.seen.text(requestID(a.header)),
		Resend:      n.pending,
		ResendAfter: n.wait,
	}
	if a.err != nil {
		c.keys.seen.redact(a.err) // decide may have added a cause
		end.Outcome = a.err.Outcome
		end.Err = a.err.observed()
	}
	c.client.observers.attemptEnd(a.ctx, end)
}

// observed returns a copy of e without the server's body, and without the headers that
// may repeat the query. The copy is never changed, since a hook may read it later.
func (e *Error) observed() *Error {
	o := *e
	o.Body = nil
	o.Header = maps.Clone(e.Header)
	for _, name := range []string{"Location", "Content-Location", "Link", "Refresh"} {
		o.Header.Del(name)
	}
	return &o
}

// logObserver writes the log. Its messages and keys are documented at [WithLogger].
func logObserver(l *slog.Logger) Observer {
	return Observer{
		AttemptEnd: func(ctx context.Context, a AttemptEnd) {
			level := slog.LevelDebug
			if a.Resend || a.Outcome == OutcomeUnknown {
				level = slog.LevelWarn
			}
			if !l.Enabled(ctx, level) {
				return
			}
			attrs := []slog.Attr{
				slog.String("op", a.Op),
				slog.String("method", a.Method),
				slog.String("path", a.Path),
				slog.Int("attempt", a.Number),
				slog.Int("status", a.StatusCode),
				slog.String("outcome", a.Outcome.String()),
				slog.Duration("took", a.Duration),
			}
			if a.RequestID != "" {
				attrs = append(attrs, slog.String("request_id", a.RequestID))
			}
			if a.Err != nil {
				attrs = append(attrs, slog.String("error", a.Err.Error()))
			}
			if a.Resend {
				attrs = append(attrs, slog.Duration("resend_after", a.ResendAfter))
			}
			l.LogAttrs(ctx, level, "oakra: attempt", attrs...)
		},
		CallEnd: func(ctx context.Context, c CallEnd) {
			if c.Outcome != OutcomeUnknown || !l.Enabled(ctx, slog.LevelWarn) {
				return
			}
			status := 0
			if e, ok := c.Err.(*Error); ok { //nolint:errorlint // it is documented to be one
				status = e.StatusCode
			}
			l.LogAttrs(ctx, slog.LevelWarn, "oakra: outcome unknown",
				slog.String("op", c.Op),
				slog.Int("items", c.Items),
				slog.Int("attempt", c.Attempts),
				slog.Int("status", status),
				slog.String("outcome", c.Outcome.String()),
				slog.Duration("took", c.Duration),
				slog.String("error", c.Err.Error()))
		},
	}
}
