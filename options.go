package oakra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

// Option changes a default of [NewClient]. A bad value makes NewClient fail.
type Option func(*options) error

// options is what the Options set, with the defaults in place.
type options struct {
	baseURL        string
	insecureHTTP   bool
	httpClient     http.Client
	attemptTimeout time.Duration
	retry          RetryPolicy
	logger         *slog.Logger
	observers      observers
	userAgent      string
	credential     credential
	limiter        Limiter
}

// WithBaseURL sets the address of the API, "https://host/api/v1/"; the default
// is [DefaultBaseURL]. It needs a host and takes no user, query or fragment. The
// app key is sent to its scheme, host and port alone. Plain http is
// rejected, except to localhost and loopback addresses; see [WithInsecureHTTP].
func WithBaseURL(rawURL string) Option {
	return func(o *options) error {
		o.baseURL = rawURL
		return nil
	}
}

// WithInsecureHTTP permits a base URL of plain http to a host that is not
// loopback. The app key then crosses the network readable by anyone on the way.
func WithInsecureHTTP() Option {
	return func(o *options) error {
		o.insecureHTTP = true
		return nil
	}
}

// WithHTTPClient sets the http.Client to copy; it is never changed. Its
// Transport and Jar are used, a Transport of nil means [DefaultTransport]; its
// Timeout bounds one attempt if it is shorter than that of
// [WithAttemptTimeout]; its CheckRedirect is not used, as no redirect is
// followed.
//
// A transport of your own must not send a write again by itself; one of retryablehttp
// is rejected for that reason. It must return when the request's context ends, since
// the client waits for it. It should pass that context on: the httptrace in it tells
// the client whether a connection was obtained. It should drop idle connections sooner
// than the server does, as DefaultTransport does: a write that meets the server's close
// has an unknown outcome.
func WithHTTPClient(c *http.Client) Option {
	return func(o *options) error {
		if c == nil {
			return errors.New("WithHTTPClient: the client is nil")
		}
		if _, retries := c.Transport.(*retryablehttp.RoundTripper); retries {
			return errors.New("WithHTTPClient: a transport of retryablehttp sends a write again by itself; WithRetryPolicy does so where that is safe")
		}
		o.httpClient = *c
		return nil
	}
}

// WithAttemptTimeout bounds one attempt, from asking for a connection to the end
// of its response; the default is 30 s. The context bounds the whole call.
func WithAttemptTimeout(d time.Duration) Option {
	return func(o *options) error {
		if d <= 0 {
			return fmt.Errorf("WithAttemptTimeout: %v must be positive", d)
		}
		o.attemptTimeout = d
		return nil
	}
}

// WithRetryPolicy sets how often and after what wait a request is sent again,
// where that is safe.
func WithRetryPolicy(p RetryPolicy) Option {
	return func(o *options) error {
		var err error
		o.retry, err = p.withDefaults()
		return err
	}
}

// WithLogger writes a log. Its messages and keys are stable:
//
//   - "oakra: attempt", for each attempt, at level Debug, or Warn if it is sent again
//     or its outcome is unknown: op, method, path, attempt (counted from 1, 0 for the
//     empty list that asks whether a route is there), status (0 without a response),
//     outcome, took, request_id, error, resend_after;
//   - "oakra: outcome unknown", at level Warn, for a call that ends so: op, items,
//     attempt (the number of attempts), status, outcome, took, error;
//   - "oakra: header of an observer ignored", at level Warn: op, header.
//
// It has neither the app key nor a body. The default is no log.
func WithLogger(l *slog.Logger) Option {
	return func(o *options) error {
		if l == nil {
			return errors.New("WithLogger: the logger is nil")
		}
		o.logger = l
		return nil
	}
}

// WithObserver tells obs about calls and attempts, for traces and metrics. It may be
// given several times; see [Observer].
func WithObserver(obs Observer) Option {
	return func(o *options) error {
		o.observers = append(o.observers, obs)
		return nil
	}
}

// WithUserAgent puts product, such as "my-shop/2.1", before the library's own
// name in the User-Agent header (RFC 9110, section 10.1.5).
func WithUserAgent(product string) Option {
	return func(o *options) error {
		if strings.TrimSpace(product) == "" {
			return errors.New("WithUserAgent: the product is blank")
		}
		for i := range len(product) {
			if product[i] < 0x20 || product[i] > 0x7e {
				return fmt.Errorf("WithUserAgent: byte %d of the product is not printable ASCII", i)
			}
		}
		o.userAgent = strings.TrimSpace(product) + " " + o.userAgent
		return nil
	}
}

// WithAppKeySource takes the app key from f instead of from [NewClient]'s first
// argument, which must then be empty. f is asked before each attempt, with the
// call's context and an empty rejected. When the server responds 401 to a key, f is
// asked once more with that key as rejected; if it then gives another key, the
// request is sent again once, whatever the [RetryPolicy]. If f fails, or gives a
// key that is not 1 to 512 bytes of 0x21 to 0x7E, the call fails and nothing is
// sent. f is called by many goroutines at once.
func WithAppKeySource(f func(ctx context.Context, rejected string) (string, error)) Option {
	return func(o *options) error {
		if f == nil {
			return errors.New("WithAppKeySource: the function is nil")
		}
		o.credential = keyFrom(f)
		return nil
	}
}

// Limiter holds requests back; [golang.org/x/time/rate.Limiter] is one.
type Limiter interface {
	// Wait returns nil when a request may be sent, or an error when ctx ends first.
	Wait(ctx context.Context) error
}

// WithLimiter asks l before each attempt. If Wait fails, the call fails and
// nothing is sent.
func WithLimiter(l Limiter) Option {
	return func(o *options) error {
		if l == nil {
			return errors.New("WithLimiter: the limiter is nil")
		}
		o.limiter = l
		return nil
	}
}

// DefaultTransport returns a new transport with this library's settings, to wrap
// with tracing and the like and hand to [WithHTTPClient]. A client that is given no
// transport has one of the same.
//
// It speaks HTTP/1.1 only. With HTTP/2 all calls share a connection: when that is lost,
// all of them have an unknown outcome, and nginx ends one every 1,000 requests by
// default. It keeps 64 idle connections a host, each for one second: gunicorn, for
// example, closes an idle connection after two seconds, and a write that meets that
// close has an unknown outcome. Dialing and the TLS handshake may take 10 s each, and
// response headers 256 KiB. Proxies come from the environment, as in net/http.
func DefaultTransport() *http.Transport {
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		Protocols:              new(http.Protocols),
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode != http.StatusOK {
				return &proxyError{response.StatusCode}
			}
			return nil
		},
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// parseBaseURL checks rawURL and ends its path in a slash. Its errors do not
// repeat the URL, which might hold a password.
func parseBaseURL(rawURL string, insecureHTTP bool) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, errors.New("WithBaseURL: it cannot be parsed")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("WithBaseURL: it does not start with https://")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("WithBaseURL: it has no host")
	case !validPort(u.Port()):
		return nil, errors.New("WithBaseURL: its port is not one of 1 to 65535")
	case u.User != nil:
		return nil, errors.New("WithBaseURL: it has a user name or password; the app key is an argument of NewClient")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("WithBaseURL: it has a query")
	case strings.Contains(rawURL, "#"):
		return nil, errors.New("WithBaseURL: it has a fragment")
	case len(u.EscapedPath()) > maxBasePath:
		return nil, fmt.Errorf("WithBaseURL: its path is over %d bytes, which leaves no room for SKUs", maxBasePath)
	case u.Scheme == "http" && !insecureHTTP && !isLoopback(u.Hostname()):
		return nil, errors.New("WithBaseURL: plain http would show the app key to the network; use https, or WithInsecureHTTP")
	}
	u.Host = strings.ToLower(u.Host) // as net/http compares it with localhost, which needs no proxy
	if !strings.HasSuffix(u.EscapedPath(), "/") {
		u = u.JoinPath("/")
	}
	return u, nil
}

// maxBasePath bounds the path of a base URL. With a longer one each SKU would seem to
// be too long for a request line.
const maxBasePath = maxRequestLine / 2

func validPort(port string) bool {
	n, err := strconv.Atoi(port)
	return port == "" || err == nil && 1 <= n && n <= 65535
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
