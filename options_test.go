package oakra_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// requireInvalidOption checks the error of a NewClient that must fail: that it
// is the one error type, and repeats nothing that might be secret.
func requireInvalidOption(t *testing.T, err error, secrets ...string) {
	t.Helper()
	require.ErrorIs(t, err, oakra.ErrInvalidRequest)
	e := requireError(t, err)
	require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
	require.Equal(t, oakra.OutcomeNotApplied, oakra.OutcomeOf(err))
	require.False(t, oakra.Retryable(err))
	require.Zero(t, e.StatusCode)
	require.Zero(t, e.Attempts)
	require.Empty(t, e.Method)
	require.NotEmpty(t, e.Message)
	for _, secret := range secrets {
		if secret != "" {
			require.NotContains(t, err.Error(), secret)
		}
	}
}

func TestOptionBaseURL(t *testing.T) {
	for _, good := range []string{
		"https://app.oakra.com/api/v1/", "https://app.oakra.com/api/v1", "https://app.oakra.com",
		"HTTPS://App.Oakra.Com/api/v1/", "https://example.com:8443/", "https://192.0.2.7/", "https://[2001:db8::1]:8443/a/",
		"https://example.com/shop%2Fnorth/",
		"http://localhost/", "http://localhost:8000/api/v1/", "http://LocalHost:8000", "http://127.0.0.1:8000/", "http://127.8.9.10/",
		"http://[::1]/", "http://[::1]:8000/api",
	} {
		_, err := oakra.NewClient(stubKey, oakra.WithBaseURL(good))
		require.NoError(t, err, good)
	}
	bad := []struct{ name, url string }{
		{"empty", ""},
		{"a path", "/hidden/api/v1/"},
		{"a word", "hidden"},
		{"no scheme", "hidden.example/api/"},
		{"no scheme but slashes", "//hidden.example/api/"},
		{"another scheme", "ftp://hidden.example/"},
		{"no host", "https:///hidden/api/"},
		{"only a port", "https://:8443/hidden/"},
		{"opaque", "https:hidden.example/api/"},
		{"user", "https://hidden@example.com/"},
		{"user and password", "https://user:hidden@example.com/"},
		{"port 0", "https://example.com:0/hidden/"},
		{"port over 65535", "https://example.com:65536/hidden/"},
		{"empty user", "https://@hidden.example/"},
		{"query", "https://example.com/?hidden=1"},
		{"bare ?", "https://hidden.example/api/?"},
		{"fragment", "https://example.com/#hidden"},
		{"bare #", "https://hidden.example/api/#"},
		{"? and #", "https://hidden.example/?#"},
		{"a bad escape", "https://example.com/hidden%zz/"},
		{"a bad port", "https://hidden.example:port/"},
		{"a space in the host", "https://hidden .example/"},
		{"a line break", "https://hidden.example/\n"},
		{"plain http", "http://hidden.example/"},
		{"plain http, any address", "http://0.0.0.0/hidden"},
		{"plain http, a LAN", "http://192.168.1.2/hidden"},
		{"plain http, localhost.", "http://localhost.hidden.example/"},
		{"plain http, not loopback", "http://127.0.0.1.hidden.example/"},
		{"plain http, IPv6", "http://[2001:db8::1]/hidden"},
	}
	for _, row := range bad {
		t.Run(row.name, func(t *testing.T) {
			client, err := oakra.NewClient(stubKey, oakra.WithBaseURL(row.url))
			require.Nil(t, client)
			requireInvalidOption(t, err, "hidden", stubKey, row.url)
		})
	}
}

func TestOptionInsecureHTTP(t *testing.T) {
	const url = "http://oakra.test:8080/api/v1/"
	for _, opts := range [][]oakra.Option{
		{oakra.WithBaseURL(url), oakra.WithInsecureHTTP()},
		{oakra.WithInsecureHTTP(), oakra.WithBaseURL(url)},
	} {
		_, err := oakra.NewClient(stubKey, opts...)
		require.NoError(t, err, "in either order")
	}
	// It permits plain http only.
	for _, bad := range []string{"ftp://hidden.test/", "http://user@hidden.test/", "http://hidden.test/?", "http:///hidden", "http://hidden.test/#"} {
		_, err := oakra.NewClient(stubKey, oakra.WithBaseURL(bad), oakra.WithInsecureHTTP())
		requireInvalidOption(t, err, "hidden")
	}
}

func TestOptionKey(t *testing.T) {
	every := ""
	for b := byte(0x21); b <= 0x7e; b++ {
		every += string(rune(b))
	}
	for _, good := range []string{"k", strings.Repeat("k", 512), every} {
		_, err := oakra.NewClient(good)
		require.NoError(t, err)
	}
	for _, row := range []struct{ name, bad string }{
		{"empty", ""},
		{"too long", strings.Repeat("hidden-", 73) + "xx"}, // 513 bytes
		{"only a space", " "},
		{"a space before", " hidden-key"},
		{"a space after", "hidden-key "},
		{"a space within", "hidden key"},
		{"a line break", "hidden-key\n"},
		{"a header injected", "hidden-key\r\nX-Evil: 1"},
		{"a tab", "hidden\tkey"},
		{"a zero", "hidden\x00key"},
		{"delete", "hidden-key\x7f"},
		{"not ASCII", "hidden-kéy"},
		{"a BOM", "\ufeffhidden-key"},
		{"not UTF-8", "hidden-key\xff"},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, err := oakra.NewClient(row.bad)
			require.Nil(t, client)
			requireInvalidOption(t, err, "hidden")
		})
	}
	require.Len(t, strings.Repeat("hidden-", 73)+"xx", 513)
}

func TestOptionKeyOrSource(t *testing.T) {
	source := oakra.WithAppKeySource(func(context.Context, string) (string, error) { return "source-key", nil })
	_, err := oakra.NewClient("", source)
	require.NoError(t, err)
	_, err = oakra.NewClient("hidden-key", source)
	requireInvalidOption(t, err, "hidden")
	_, err = oakra.NewClient("")
	requireInvalidOption(t, err)
	// A source of bad keys is found out when it is asked, and its key is not sent.
	for _, key := range []string{"", "hidden key", strings.Repeat("h", 513), "hidden\n"} {
		client, err := oakra.NewClient("", oakra.WithAppKeySource(func(context.Context, string) (string, error) { return key, nil }),
			oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
				t.Error("a request was made")
				return nil, errors.New("no")
			})}))
		require.NoError(t, err)
		for _, call := range stockCalls {
			_, err = call.call(t.Context(), client)
			e := requireError(t, err)
			require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
			require.Zero(t, e.Attempts)
			require.False(t, oakra.Retryable(err))
			require.NotContains(t, err.Error(), "hidden")
		}
	}
}

func TestOptionBadValues(t *testing.T) {
	for _, row := range []struct {
		name   string
		option oakra.Option
	}{
		{"nil option", nil},
		{"nil http.Client", oakra.WithHTTPClient(nil)},
		{"transport that sends again", oakra.WithHTTPClient(retryablehttp.NewClient().StandardClient())},
		{"no attempt timeout", oakra.WithAttemptTimeout(0)},
		{"negative timeout", oakra.WithAttemptTimeout(-time.Second)},
		{"nil logger", oakra.WithLogger(nil)},
		{"empty product", oakra.WithUserAgent("")},
		{"blank product", oakra.WithUserAgent(" \t")},
		{"line break in product", oakra.WithUserAgent("shop\r\nX-Evil: 1")},
		{"product not ASCII", oakra.WithUserAgent("café/1.0")},
		{"nil source", oakra.WithAppKeySource(nil)},
		{"nil limiter", oakra.WithLimiter(nil)},
		{"negative attempts", oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: -1})},
		{"negative MinBackoff", oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: -1})},
		{"negative MaxBackoff", oakra.WithRetryPolicy(oakra.RetryPolicy{MaxBackoff: -1})},
		{"negative MaxRetryAfter", oakra.WithRetryPolicy(oakra.RetryPolicy{MaxRetryAfter: -1})},
		{"minimum above maximum", oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 2, MaxBackoff: 1})},
		{"base path too long", oakra.WithBaseURL("https://example.com/" + strings.Repeat("p", 4000))},
		{"plain http to elsewhere", oakra.WithBaseURL("http://example.com")},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, err := oakra.NewClient(stubKey, row.option)
			require.Nil(t, client)
			requireInvalidOption(t, err, stubKey)
		})
	}
}

func TestOptionGoodValues(t *testing.T) {
	for _, row := range []struct {
		name   string
		option oakra.Option
	}{
		{"http.Client", oakra.WithHTTPClient(&http.Client{})},
		{"default transport", oakra.WithHTTPClient(&http.Client{Transport: oakra.DefaultTransport()})},
		{"shortest timeout", oakra.WithAttemptTimeout(1)},
		{"longest timeout", oakra.WithAttemptTimeout(math.MaxInt64)},
		{"logger", oakra.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))},
		{"product", oakra.WithUserAgent("my-shop/2.1 (linux; nightly)")},
		{"limiter", oakra.WithLimiter(stubLimiter(func(context.Context) error { return nil }))},
		{"zero policy", oakra.WithRetryPolicy(oakra.RetryPolicy{})},
		{"one attempt", oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1})},
		{"minimum = maximum", oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 5, MaxBackoff: 5})},
		{"a small maximum", oakra.WithRetryPolicy(oakra.RetryPolicy{MaxBackoff: time.Millisecond})},
		{"a large minimum", oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: time.Hour})},
	} {
		t.Run(row.name, func(t *testing.T) {
			client, err := oakra.NewClient(stubKey, row.option)
			require.NoError(t, err)
			require.NotNil(t, client.Stock)
			client.CloseIdleConnections()
		})
	}
}

// TestOptionHTTPClientIsCopied: programs share one http.Client among libraries.
func TestOptionHTTPClientIsCopied(t *testing.T) {
	followed, sent := 0, 0
	transport := stubTransport(func(*http.Request) (*http.Response, error) {
		sent++
		return stubResponse(307, "", "Location", "https://elsewhere.test/"), nil
	})
	given := &http.Client{
		Transport:     &transport,
		Timeout:       7 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { followed++; return nil },
	}
	client, err := oakra.NewClient(stubKey, oakra.WithHTTPClient(given))
	require.NoError(t, err)
	oakra.KeepRoutes(client)
	for _, call := range stockCalls {
		_, err = call.call(t.Context(), client)
		require.ErrorIs(t, err, oakra.ErrRedirect)
		require.Contains(t, err.Error(), "elsewhere.test", "it says where the redirect pointed")
	}
	require.Equal(t, 3, sent, "no redirect is followed")
	require.Zero(t, followed)

	require.Same(t, &transport, given.Transport)
	require.Equal(t, 7*time.Second, given.Timeout)
	require.NotNil(t, given.CheckRedirect)
	require.NoError(t, given.CheckRedirect(nil, nil))
	require.Equal(t, 1, followed, "the caller's own function is still there")

	// The client does not see what the caller changes later, either.
	given.Transport = stubTransport(func(*http.Request) (*http.Response, error) { return nil, errors.New("changed") })
	_, err = stockCalls[0].call(t.Context(), client)
	require.ErrorIs(t, err, oakra.ErrRedirect)

	// Without a transport the default one is used, and not put into the given client.
	empty := &http.Client{}
	_, err = oakra.NewClient(stubKey, oakra.WithHTTPClient(empty))
	require.NoError(t, err)
	require.Nil(t, empty.Transport)
	require.Nil(t, empty.CheckRedirect)
}

// hanging never responds, and counts its attempts.
func hanging(attempts *atomic.Int32) stubTransport {
	return func(r *http.Request) (*http.Response, error) {
		attempts.Add(1)
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
}

// TestOptionTimeouts checks that the timeout of the given http.Client and the option
// both bound one attempt. The shorter of the two counts.
func TestOptionTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		client, option, want time.Duration
	}{
		{"of the client", 2 * time.Second, 0, 2 * time.Second},
		{"of the option", 0, 3 * time.Second, 3 * time.Second},
		{"the client's shorter", 2 * time.Second, 3 * time.Second, 2 * time.Second},
		{"the option's shorter", 3 * time.Second, 2 * time.Second, 2 * time.Second},
		{"default", 0, 0, 30 * time.Second},
		{"the default's shorter", time.Hour, 0, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int32
				opts := []oakra.Option{
					oakra.WithHTTPClient(&http.Client{Transport: hanging(&attempts), Timeout: tt.client}),
					oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 3, MinBackoff: 1, MaxBackoff: 1}),
				}
				if tt.option != 0 {
					opts = append(opts, oakra.WithAttemptTimeout(tt.option))
				}
				client, err := oakra.NewClient(stubKey, opts...)
				require.NoError(t, err)
				start := time.Now()
				_, err = stockCalls[0].call(t.Context(), client)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.EqualValues(t, 3, attempts.Load(), "it bounds an attempt, not the call")
				require.InDelta(t, 3*tt.want, time.Since(start), 10)
			})
		})
	}
}

// slowBody is a body that never comes.
type slowBody struct{ ctx context.Context }

func (b slowBody) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, b.ctx.Err() }

func (b slowBody) Close() error { return nil }

// TestOptionTimeoutCoversBody checks that an attempt ends with the last byte of
// its response.
func TestOptionTimeoutCoversBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: slowBody{r.Context()}, ContentLength: -1}, nil
		}), oakra.WithAttemptTimeout(4*time.Second))
		start := time.Now()
		_, err := stockCalls[2].call(t.Context(), client)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 4*time.Second, time.Since(start))
		require.Equal(t, oakra.OutcomeUnknown, oakra.OutcomeOf(err))
		require.Equal(t, 200, requireError(t, err).StatusCode)
	})
}

// TestOptionRetryPolicyBends checks that the zero fields are adapted to those that are
// set. The backoff tests measure the waits themselves.
func TestOptionRetryPolicyBends(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policy   oakra.RetryPolicy
		attempts int
		longest  time.Duration // most that all waits take together
		shortest time.Duration // exceeded at least once in 40 calls
	}{
		{"defaults", oakra.RetryPolicy{}, 4, 250*time.Millisecond + 500*time.Millisecond + time.Second, 800 * time.Millisecond},
		{"a small maximum", oakra.RetryPolicy{MaxBackoff: 10 * time.Millisecond}, 4, 30 * time.Millisecond, 10 * time.Millisecond},
		{"a large minimum", oakra.RetryPolicy{MinBackoff: time.Minute}, 4, 3 * time.Minute, time.Minute},
		{"a minimum and a half", oakra.RetryPolicy{MinBackoff: 4 * time.Second}, 4, 14 * time.Second, 5 * time.Second},
		{"only attempts", oakra.RetryPolicy{MaxAttempts: 2}, 2, 250 * time.Millisecond, 100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sent := 0
				client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
					sent++
					return stubResponse(503, ""), nil
				}), oakra.WithRetryPolicy(tt.policy))
				var most time.Duration
				for range 40 {
					sent = 0
					start := time.Now()
					_, err := stockCalls[0].call(t.Context(), client)
					require.ErrorIs(t, err, oakra.ErrServer)
					require.Equal(t, tt.attempts, sent)
					require.Equal(t, tt.attempts, requireError(t, err).Attempts)
					most = max(most, time.Since(start))
				}
				require.LessOrEqual(t, most, tt.longest)
				require.GreaterOrEqual(t, most, tt.shortest)
			})
		})
	}
}

// TestOptionRetryPolicyExtremes: the longest Duration is not a crash.
func TestOptionRetryPolicyExtremes(t *testing.T) {
	for _, row := range []struct {
		name   string
		policy oakra.RetryPolicy
	}{
		{"minimum", oakra.RetryPolicy{MinBackoff: math.MaxInt64}},
		{"both", oakra.RetryPolicy{MinBackoff: math.MaxInt64, MaxBackoff: math.MaxInt64}},
		{"maximum", oakra.RetryPolicy{MinBackoff: math.MaxInt64 / 2, MaxBackoff: math.MaxInt64}},
	} {
		t.Run(row.name, func(t *testing.T) {
			client := stubClient(t, stubTransport(func(*http.Request) (*http.Response, error) {
				return stubResponse(429, ""), nil
			}), oakra.WithRetryPolicy(row.policy))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var err error
			require.NotPanics(t, func() { _, err = stockCalls[2].call(ctx, client) })
			require.ErrorIs(t, err, oakra.ErrRateLimited)
		})
	}
}

func TestOptionDefaultTransport(t *testing.T) {
	one, two := oakra.DefaultTransport(), oakra.DefaultTransport()
	require.NotSame(t, one, two, "each is the caller's own, to change")
	require.NotSame(t, http.DefaultTransport, one)
	requireDefaults(t, one)
	requireDefaults(t, two)

	for name, opts := range map[string][]oakra.Option{
		"no client":                  nil,
		"a client without transport": {oakra.WithHTTPClient(&http.Client{Timeout: time.Minute})},
	} {
		client, err := oakra.NewClient(stubKey, opts...)
		require.NoError(t, err, name)
		transport, ok := oakra.TransportOf(client).(*http.Transport)
		require.True(t, ok, name)
		requireDefaults(t, transport)
	}
	given := &http.Transport{}
	client, err := oakra.NewClient(stubKey, oakra.WithHTTPClient(&http.Client{Transport: given}))
	require.NoError(t, err)
	require.Same(t, given, oakra.TransportOf(client), "a caller's transport is used unchanged")
	require.Zero(t, given.MaxIdleConnsPerHost)
}

// requireDefaults checks what DefaultTransport documents.
func requireDefaults(t *testing.T, transport *http.Transport) {
	t.Helper()
	require.Equal(t, 64, transport.MaxIdleConnsPerHost)
	require.Zero(t, transport.MaxIdleConns, "the idle connections of all hosts together have no limit")
	require.Zero(t, transport.MaxConnsPerHost)
	require.Equal(t, time.Second, transport.IdleConnTimeout, "servers of this kind close an idle connection after two")
	require.EqualValues(t, 256<<10, transport.MaxResponseHeaderBytes)
	require.Equal(t, 10*time.Second, transport.TLSHandshakeTimeout)
	require.NotNil(t, transport.Proxy)
	require.True(t, transport.Protocols.HTTP1())
	require.False(t, transport.Protocols.HTTP2())
	require.False(t, transport.Protocols.UnencryptedHTTP2())
	require.False(t, transport.ForceAttemptHTTP2)
	require.False(t, transport.DisableKeepAlives)
}

// TestOptionLocalhost: net/http bypasses a proxy only if the host is spelled localhost
// in lower case, and a proxy would see the key.
func TestOptionLocalhost(t *testing.T) {
	for _, row := range []struct{ base, host, path string }{
		{"http://LOCALHOST:8000/Api/v1/", "localhost:8000", "/Api/v1/stock/stock-records/"},
		{"http://LocalHost", "localhost", "/stock/stock-records/"},
		{"HTTP://localhost:8000/", "localhost:8000", "/stock/stock-records/"},
		{"https://App.OAKRA.com/api/v1/", "app.oakra.com", "/api/v1/stock/stock-records/"},
	} {
		var proxied *url.URL
		_, err := stockCalls[0].call(t.Context(), stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
			proxied = r.URL
			require.Contains(t, []string{"", row.host}, r.Host)
			return stubResponse(200, "[]"), nil
		}), oakra.WithBaseURL(row.base)))
		require.NoError(t, err)
		require.Equal(t, row.host, proxied.Host)
		require.Equal(t, row.path, proxied.Path)
	}
}

// TestOptionNothingFromTheEnvironment: an ambient address could send the key
// elsewhere.
func TestOptionNothingFromTheEnvironment(t *testing.T) {
	for _, name := range []string{"OAKRA_APP_KEY", "OAKRA_API_KEY", "OAKRA_KEY", "OAKRA_TOKEN"} {
		t.Setenv(name, "ambient-key")
	}
	for _, name := range []string{"OAKRA_BASE_URL", "OAKRA_URL", "OAKRA_API_URL", "OAKRA_ENDPOINT"} {
		t.Setenv(name, "https://elsewhere.test/")
	}
	_, err := oakra.NewClient("")
	requireInvalidOption(t, err)
	client := stubClient(t, stubTransport(func(r *http.Request) (*http.Response, error) {
		require.Equal(t, "https://app.oakra.com/api/v1/stock/stock-records/?sku=a&sku=b", r.URL.String())
		require.Equal(t, "Bearer "+stubKey, r.Header.Get("Authorization"))
		return stubResponse(200, "[]"), nil
	}))
	_, err = stockCalls[0].call(t.Context(), client)
	require.NoError(t, err)
}
