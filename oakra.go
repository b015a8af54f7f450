// Package oakra is a client of the Oakra API, an inventory service for shops that
// sell on many channels. It lists stock records, sets quantities
// ([StockService.Update]), changes them by a difference ([StockService.Change]),
// cancels sales ([SalesService.Cancel]) and starts shipping
// ([ShippingService.Initiate]).
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
//	switch oakra.NextStep(err) {
//	case oakra.StepDone: // applied; if err is not nil, only the response was lost
//	case oakra.StepRetry: // nothing was applied; the same call may succeed later
//	case oakra.StepReject: // nothing was applied; this change is at fault
//	case oakra.StepAsk: // it may have been applied: look before sending it again
//	case oakra.StepAlert: // nothing was applied; the key, the address or the like may be at fault
//	}
//
// # Outcomes
//
// The error of a write says which of three things is true: the write was applied,
// it was not applied, or its outcome is unknown ([OutcomeOf]). [Retryable] and
// [Rejected] say why nothing was applied, and [NextStep] turns all of that into what
// to do.
//
// Quantity is the number of units in stock. Oakra has counted units that are
// reserved for orders separately; a shop that sends "available to sell" may count
// reservations twice.
//
// A Change of unknown outcome is settled by reading the record: note its quantity
// before the Change, and keep the SKU and location beside the id, as records are read
// by these. Where others sell the same stock, reading does not settle it, and a person
// has to.
//
// # Delivery
//
// The server takes no idempotency key, and a Change that is sent twice counts twice.
// A request is sent again only where this table says so, up to
// [RetryPolicy].MaxAttempts times. The outcome is that of a write. The Change column
// also holds for Cancel and Initiate, except that their outcome is unknown after
// every 2xx that is not complete.
//
//	what happened                                  List    Update  Change  outcome
//	rejected before sending; limiter or key        -       -       -       not applied
//	  source failed; context ended before
//	no connection: refused, timed out, DNS or      resend  resend  resend  not applied
//	  TLS handshake failed for now, proxy 5xx
//	no such host, certificate rejected, proxy 4xx  -       -       -       not applied
//	429, after its Retry-After or the backoff      resend  resend  resend  not applied
//	401, and the key source has another key        once    once    once    that of the resend
//	301 302 307 308; every other 4xx except 408,   -       -       -       not applied
//	  460 and 499
//	connection broke after it was obtained;        resend  resend  -       unknown
//	  5xx except 501 and 504
//	attempt timed out; 408 504                     resend  -       -       unknown
//	context ended after a connection was obtained  -       -       -       unknown
//	460 499 501, other 3xx, not HTTP               -       -       -       unknown
//	2xx without a whole record                     *       *       -       unknown
//	2xx that lacks a record that was sent; 207     -       -       -       unknown: see MissingIDs
//	2xx that ends early or turns malformed after   *       -       -       applied, with an error
//	  a whole record
//
//	* sent again if the body ended too early
//
// The outcome of a call is that of its last attempt, except that "not applied" after
// an attempt of unknown outcome stays unknown. An Update is sent again after an
// unknown outcome only if that begins within 5 s of the attempt, since a late resend
// may undo a newer number; an earlier attempt may still land after a later success.
//
// This rests on what the API reference does not state:
//
//   - a 4xx other than 408, 460 and 499 means that nothing of the request was
//     applied: a batch is rejected whole;
//   - a 2xx is sent after the stock has changed;
//   - a write with an empty list changes nothing.
//
// It also needs a transport that does not send a write again by itself, as net/http
// does not. A server that lies about its status deceives the client.
//
// # Routes
//
// The API reference names three routes for an Update and two for a Change. The
// first write finds out which of them exists, and all goroutines then use it. The next
// candidate is tried only after a response that shows that no code of the API ran:
// a 405, or a 404 whose path does not take an empty list either. The search of an
// Update, which does no harm twice, also goes on after a web page. It begins again if
// the route responds 404 or 405 later. [ErrNoRoute] means that none of them exists.
//
// # Time
//
// The context bounds a whole call, [WithAttemptTimeout] one attempt. Between
// attempts the client waits with full jitter, or as long as Retry-After says; if
// that is longer than [RetryPolicy] or the context's deadline allows, the call fails
// at once with the last attempt's error.
//
// A context that ends while a write is under way leaves its outcome unknown. A
// program that shuts down should therefore begin no more writes, let those under way
// end, and wait for them before it exits:
//
//	if err := ctx.Err(); err != nil {
//		return err
//	}
//	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
//	defer cancel()
//	_, err := client.Stock.Change(ctx, lines)
//
// # The app key
//
// The key is sent to the scheme, host and port of the base URL only; no redirect is
// followed. It is in no error and no log of this package: where a server repeats it,
// it is cut out. The package cannot hide it from a transport or an httptrace of the
// caller's, from a proxy if the base URL is plain http, or from what net/http itself
// logs: the first bytes that a server sends unasked, and all with GODEBUG=http2debug.
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
// is safe for use by many goroutines at once. The zero value cannot be used.
type Client struct {
	Stock    *StockService
	Sales    *SalesService
	Shipping *ShippingService

	base           *url.URL
	http           http.Client // its Transport makes one attempt
	attemptTimeout time.Duration
	retry          RetryPolicy
	logger         *slog.Logger
	observers      observers
	ownTransport   bool // no transport was given
	heeds          bool // bodies of the transport end with their context, as those of net/http do
	userAgent      []string
	credential     credential
	limiter        Limiter
	routes         *routes
	pace           *pace // pace of a bulk run; nil otherwise
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
	_, c.heeds = c.http.Transport.(*http.Transport)
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
	c.Sales = &SalesService{client: c}
	c.Shipping = &ShippingService{client: c}
	return c, nil
}

const opNewClient = "client.new"

// CloseIdleConnections closes the connections that the client keeps for later
// calls, as [http.Client.CloseIdleConnections] does. Calls under way go on.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }
