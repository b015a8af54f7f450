// Package oakra is a client of the Oakra API, an inventory service for shops that
// sell on many channels. It lists stock records, sets quantities
// ([StockService.Update]) and changes them by a difference
// ([StockService.Change]).
//
//	client, err := oakra.NewClient(os.Getenv("OAKRA_APP_KEY"))
//	if err != nil {
//		return err
//	}
//	records, err := client.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"shirt-blue-m"}})
//	if err != nil {
//		return err
//	}
//	_, err = client.Stock.Change(ctx, []oakra.StockChange{{ID: records[0].ID, QuantityChange: -1}})
//	switch oakra.OutcomeOf(err) {
//	case oakra.OutcomeApplied: // done; if err is not nil, only the answer was lost
//	case oakra.OutcomeNotApplied: // nothing changed; if oakra.Retryable(err), the same call may succeed later
//	case oakra.OutcomeUnknown: // it may have changed: look before sending again
//	}
//
// # Writes
//
// Whatever happens to a write, its error says which of three things is true:
// applied, not applied, or unknown ([OutcomeOf]). Two facts that the API
// reference does not state are assumed: an answer of 400, 401, 403, 404, 405,
// 409, 410, 413, 415, 422, 425 or 429 means that nothing of the request was
// applied, a batch being refused whole; and a 2xx is sent after the stock has
// changed.
//
// A Change sent twice counts twice, and the server takes no idempotency key. So
// it is sent again only when nothing was applied:
//
//   - no connection was had (refused, timed out, reset in the TLS handshake,
//     temporary DNS failure, the proxy refused), so nothing was sent;
//   - the answer was 429, after the wait that it asks for;
//   - the answer was 401, and the source of the app key has another key.
//
// An Update sets the same number twice, so it is also sent again after a broken
// connection, an attempt that timed out, 408, and any 5xx but 501; but only
// within 5 s, since later it might undo a newer number. A List is sent again
// after all of these, and when its answer was cut short.
//
// These writes end unknown: the connection broke, or the context ended, after a
// connection was had and before an answer; 408, 5xx, a 303 or other rare status;
// a 2xx without stock records in it; a 2xx whose records lack an id that was
// sent. A 2xx whose records began and cannot be read to the end was applied.
//
// # Time
//
// The context bounds a whole call; one attempt is bounded by
// [WithAttemptTimeout]. Between attempts the client waits with full jitter, or
// as long as Retry-After asks; if that is longer than [RetryPolicy] or the
// context's deadline allows, the call fails at once with the server's error. A
// context that ends while a write is under way leaves it unknown, so a program
// that shuts down should let its writes end: [context.WithoutCancel] and a
// timeout of its own.
package oakra

import (
	"log/slog"
	"net/http"
	"net/url"
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
	userAgent      []string
	keySource      keySource
	bearer         func(key string) []string // the Authorization header
	rotates        bool                      // the keySource is the caller's
	limiter        Limiter
	routes         *routes
	pace           *pace // of a bulk run; else nil
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
			return nil, invalid(opNewClient, "an option is nil")
		}
		if err := opt(&o); err != nil {
			return nil, invalid(opNewClient, "%v", err)
		}
	}
	base, err := parseBaseURL(o.baseURL, o.insecureHTTP)
	if err != nil {
		return nil, invalid(opNewClient, "%v", err)
	}
	rotates := o.keySource != nil
	switch {
	case rotates && appKey != "":
		return nil, invalid(opNewClient, "an app key and WithAppKeySource were given: which is it?")
	case !rotates:
		if err := checkKey(appKey); err != nil {
			return nil, invalid(opNewClient, "%v", err)
		}
		o.keySource = staticKey(appKey)
	}

	c := &Client{
		base:           base,
		http:           o.httpClient,
		attemptTimeout: o.attemptTimeout,
		retry:          o.retry,
		logger:         o.logger,
		userAgent:      []string{o.userAgent},
		keySource:      o.keySource,
		bearer:         bearerHeader(),
		rotates:        rotates,
		limiter:        o.limiter,
		routes:         newRoutes(base),
	}
	if c.http.Transport == nil {
		c.http.Transport = DefaultTransport()
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
