// Package oakra is a client of the Oakra API, an inventory service for shops that
// sell on many channels. It lists stock records, sets quantities
// ([StockService.Update]) and changes them by a difference
// ([StockService.Change]).
//
//	client, err := oakra.NewClient(os.Getenv("OAKRA_APP_KEY"))
//	if err != nil {
//		return err
//	}
//	key := oakra.StockKey{SKU: "shirt-blue-m", LocationID: "warehouse-1"}
//	records, err := client.Stock.Lookup(ctx, []oakra.StockKey{key})
//	if err != nil {
//		return err
//	}
//	record, ok := records[key]
//	if !ok {
//		return fmt.Errorf("Oakra has no record of %v", key)
//	}
//	_, err = client.Stock.Change(ctx, []oakra.StockChange{{ID: record.ID, QuantityChange: -1}})
//	switch oakra.OutcomeOf(err) {
//	case oakra.OutcomeApplied: // done; if err is not nil, only the answer was lost
//	case oakra.OutcomeNotApplied: // nothing changed; oakra.Retryable(err) says if the same call may succeed later
//	case oakra.OutcomeUnknown: // it may have changed: look before sending again
//	}
//
// # Outcomes
//
// The error of a write says which of three things is true: it was applied, not
// applied, or that is unknown ([OutcomeOf]). The server takes no idempotency key,
// and a Change sent twice counts twice; so each request is sent again only where
// this table says so, up to [RetryPolicy].MaxAttempts times:
//
//	what happened                               List    Update  Change  outcome of a write
//	bad arguments, refused before sending       -       -       -       not applied
//	limiter or key source failed                -       -       -       not applied
//	no connection established: refused, timed   resend  resend  resend  not applied
//	  out, DNS or TLS handshake failed for now
//	no such host, certificate refused           -       -       -       not applied
//	429, after its Retry-After or the backoff   resend  resend  resend  not applied
//	401, and the key source has another key     once    once    once    as the resend's
//	301 302 307 308 400 401 403 404 405 409     -       -       -       not applied
//	  410 413 415 422 425
//	connection broke, attempt timed out,        resend  resend  -       unknown
//	  408, 5xx but 501
//	context ended before there was a connection -       -       -       not applied
//	context ended after that                    -       -       -       unknown
//	any other status, or not HTTP               -       -       -       unknown
//	2xx without stock records in it             *       -       -       unknown
//	2xx that lacks a record that was written    -       -       -       unknown: see MissingIDs
//	2xx that breaks off, or is bad JSON, after  *       -       -       applied, with an error
//	  the array of its records began
//
//	* sent again if the body ended too early
//
// After several attempts the outcome is that of the last one; but once an attempt
// was unknown, the call is never "not applied". An Update is sent again after an unknown
// only within 5 s, since later it might undo a newer number.
//
// Two facts that the API reference does not state are assumed here: where the table
// says "not applied" of a status, nothing of the request was applied, a batch being
// refused whole; and a 2xx is sent after the stock has changed.
//
// An unknown Change is settled by looking: note the quantity before it, and keep
// the SKU and location beside the id, as records are read by these. Where others
// sell too, a person or package stocksync has to decide.
//
// # Routes
//
// The API reference names three routes for an Update and two for a Change. The
// first write finds out which is there, and the client keeps it: the next one is
// tried only after a 405, or after a 404 whose path a GET does not find either, so
// that no write can count twice. [Error].Attempts counts the writes on all of them.
//
// # Time
//
// The context bounds a whole call, [WithAttemptTimeout] one attempt. Between
// attempts the client waits with full jitter, or as long as Retry-After asks; if
// that is longer than [RetryPolicy] or the context's deadline allows, the call
// fails at once with the last attempt's error.
//
// A context that ends while a write is under way leaves it unknown. So a program
// that shuts down should begin no more writes, let those under way end, and wait
// for them before it exits:
//
//	if err := ctx.Err(); err != nil {
//		return err
//	}
//	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
//	defer cancel()
//	_, err := client.Stock.Change(ctx, lines)
package oakra

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	// Version of this library, sent in the User-Agent header.
	Version = "0.1.0"
	// APIVersion is sent as X-OAKRA-API-VERSION; the types here are that version
	// (API reference, "Versioning").
	APIVersion = "v1"
	// DefaultBaseURL is where the API is. The reference writes http; the client
	// uses https, so that the app key is not readable on the way.
	DefaultBaseURL = "https://app.oakra.com/api/v1/"

	defaultAttemptTimeout = 30 * time.Second
)

// Client makes the calls of the API. Make one with [NewClient] and share it: it
// is safe for use by many goroutines at once.
type Client struct {
	Stock *StockService

	base           *url.URL
	http           http.Client // its Transport makes one attempt
	attemptTimeout time.Duration
	retry          RetryPolicy
	logger         *slog.Logger
	observers      observers
	ownTransport   bool // no transport was given
	userAgent      []string
	credential     credential
	limiter        Limiter
	routes         *routes
	pace           *pace // of a bulk run
}

// NewClient returns a client that authenticates with appKey (API reference,
// "Authentication"): 1 to 512 bytes, each of 0x21 to 0x7E. Nothing is read from
// the environment, and nothing is sent. The error is an [*Error] that matches
// [ErrInvalidRequest], names the option that is wrong, and repeats neither the
// key nor the base URL.
func NewClient(appKey string, opts ...Option) (*Client, error) {
	retry, _ := RetryPolicy{}.withDefaults()
	o := options{
		baseURL:        DefaultBaseURL,
		attemptTimeout: defaultAttemptTimeout,
		retry:          retry,
		userAgent:      "oakra-go/" + Version,
	}
	for _, opt := range opts {
		if opt == nil {
			return nil, misuse(opNewClient, "an option is nil")
		}
		if err := opt(&o); err != nil {
			return nil, misuse(opNewClient, "%v", err)
		}
	}
	base, err := parseBaseURL(o.baseURL, o.insecureHTTP)
	if err != nil {
		return nil, misuse(opNewClient, "%v", err)
	}
	switch {
	case o.credential.rotates && appKey != "":
		return nil, misuse(opNewClient, "an app key and WithAppKeySource were given: which is it?")
	case !o.credential.rotates:
		if err := checkKey(appKey); err != nil {
			return nil, misuse(opNewClient, "%v", err)
		}
		o.credential = staticKey(appKey)
	}

	c := &Client{
		base:           base,
		http:           o.httpClient,
		attemptTimeout: o.attemptTimeout,
		retry:          o.retry,
		logger:         o.logger,
		observers:      o.observers,
		userAgent:      []string{o.userAgent},
		credential:     o.credential,
		limiter:        o.limiter,
		routes:         newRoutes(base),
	}
	if c.http.Transport == nil {
		c.http.Transport, c.ownTransport = DefaultTransport(), true
	}
	if c.logger != nil {
		c.observers = append(slices.Clip(c.observers), logObserver(c.logger))
	}
	// A redirect could carry the key elsewhere, and 301 to 303 turn a write into
	// a read whose 200 looks like success.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	// The context of an attempt does what http.Client.Timeout does, for less.
	if c.http.Timeout > 0 {
		c.attemptTimeout = min(c.attemptTimeout, c.http.Timeout)
	}
	c.http.Timeout = 0
	c.Stock = &StockService{client: c}
	return c, nil
}

const opNewClient = "client.new"

// CloseIdleConnections closes the connections that the client keeps for later
// calls, as [http.Client.CloseIdleConnections] does. Calls under way go on.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }
