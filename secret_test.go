package oakra_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// secretKeys are an ordinary key, and one made of what encoders escape.
var secretKeys = []string{
	"5ecre7-0f-the-shop-9f86d081884c7d65",
	`q"b\s/s<l>g&a'u+%20{}:;=5ecre7-0f86d081`,
}

// shows reports in which form text has the key in it, "" if in none.
func shows(text, key string) string {
	quoted := strconv.Quote(key)
	escaped, _ := json.Marshal(key)
	for _, row := range []struct{ form, written string }{
		{"plain", key},
		{"Go-quoted", quoted[1 : len(quoted)-1]},
		{"JSON", string(escaped[1 : len(escaped)-1])},
		{"hexadecimal", hex.EncodeToString([]byte(key))},
		{"HEXADECIMAL", strings.ToUpper(hex.EncodeToString([]byte(key)))},
		{"byte numbers", strings.Trim(fmt.Sprint([]byte(key)), "[]")},
		{"Go bytes", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(key)), "[]byte{"), "}")},
		{"base64", base64.StdEncoding.EncodeToString([]byte(key))[:len(key)]},
	} {
		if strings.Contains(text, row.written) {
			return row.form
		}
	}
	return ""
}

// requireHidden renders v in every way that ends up in a log.
func requireHidden(t *testing.T, v any, keys ...string) {
	t.Helper()
	rendered := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%T"} {
		rendered[verb] = fmt.Sprintf(verb, v)
	}
	if marshalled, err := json.Marshal(v); err == nil {
		rendered["json.Marshal"] = string(marshalled)
	} else {
		rendered["json.Marshal's error"] = err.Error()
	}
	var logged bytes.Buffer
	for _, row := range []struct {
		name    string
		handler slog.Handler
	}{
		{"slog text", slog.NewTextHandler(&logged, nil)},
		{"slog JSON", slog.NewJSONHandler(&logged, nil)},
	} {
		logged.Reset()
		slog.New(row.handler).Info("test", "value", v, slog.Group("group", slog.Any("value", v)))
		rendered[row.name] = logged.String()
	}
	for how, text := range rendered {
		for _, key := range keys {
			if form := shows(text, key); form != "" {
				t.Errorf("%s of %T shows the key (%s): %.400s", how, v, form, text)
			}
		}
	}
}

// requireHiddenError does so for an error, the errors that wrap it, and all that
// it holds.
func requireHiddenError(t *testing.T, err error, keys ...string) {
	t.Helper()
	require.Error(t, err)
	e := requireError(t, err)
	requireHidden(t, err, keys...)
	requireHidden(t, *e, keys...)
	requireHidden(t, fmt.Errorf("the shop: %w", err), keys...)
	requireHidden(t, errors.Join(io.EOF, err), keys...)
	var chain func(error)
	chain = func(inner error) {
		for _, key := range keys {
			require.Empty(t, shows(inner.Error(), key), "%T", inner)
		}
		switch inner := inner.(type) {
		case interface{ Unwrap() error }:
			if next := inner.Unwrap(); next != nil {
				chain(next)
			}
		case interface{ Unwrap() []error }:
			for _, next := range inner.Unwrap() {
				chain(next)
			}
		}
	}
	chain(err)
	for _, key := range keys {
		require.Empty(t, shows(string(e.Body), key), "in the body")
		var decoded any
		if json.Unmarshal(e.Body, &decoded) == nil {
			require.NotContains(t, fmt.Sprint(decoded), key, "in the decoded body")
		}
		for name, texts := range e.Fields {
			require.NotContains(t, name+strings.Join(texts, " "), key)
		}
	}
}

func TestSecretClient(t *testing.T) {
	for i, key := range secretKeys {
		source := func(context.Context, string) (string, error) { return key, nil }
		for _, row := range []struct {
			name   string
			client func() (*oakra.Client, error)
		}{
			{"key", func() (*oakra.Client, error) { return oakra.NewClient(key) }},
			{"source", func() (*oakra.Client, error) { return oakra.NewClient("", oakra.WithAppKeySource(source)) }},
			{"all options", func() (*oakra.Client, error) {
				return oakra.NewClient(key, oakra.WithBaseURL("https://example.com/"), oakra.WithUserAgent("x"),
					oakra.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil))), oakra.WithHTTPClient(&http.Client{
						Transport: stubTransport(func(*http.Request) (*http.Response, error) { return stubResponse(200, "[]"), nil }),
					}))
			}},
		} {
			t.Run(fmt.Sprintf("key %d/%s", i, row.name), func(t *testing.T) {
				client, err := row.client()
				require.NoError(t, err)
				if row.name == "all options" { // what a call leaves behind is hidden too
					_, err = stockCalls[0].call(t.Context(), client)
					require.NoError(t, err)
				}
				requireHidden(t, client, key)
				requireHidden(t, client.Stock, key)
				requireHidden(t, *client.Stock, key)
				requireHidden(t, []*oakra.Client{client}, key)
				requireHidden(t, struct{ C *oakra.Client }{client}, key)
				// Through reflection, since vet refuses the copy that others may make.
				requireHidden(t, reflect.ValueOf(client).Elem().Interface(), key)
				requireNoText(t, reflect.ValueOf(client), key)
			})
		}
		for _, option := range []oakra.Option{
			oakra.WithAppKeySource(source),
			oakra.WithBaseURL("https://" + "user:" + "pass@example.com"),
		} {
			requireHidden(t, option, key)
		}
	}
}

// requireNoText walks through all that v holds, exported or not, as a debugger
// or a deep printer would: no text in it is the key.
func requireNoText(t *testing.T, v reflect.Value, key string) {
	t.Helper()
	seen := map[any]bool{}
	texts := 0
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			at := [2]any{v.Pointer(), v.Type()}
			if v.IsNil() || seen[at] {
				return
			}
			seen[at] = true
			walk(v.Elem(), path)
		case reflect.Interface:
			if !v.IsNil() {
				walk(v.Elem(), path)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		case reflect.Slice, reflect.Array:
			if v.Type().Elem().Kind() == reflect.Uint8 {
				text := make([]byte, v.Len())
				for i := range text {
					text[i] = byte(v.Index(i).Uint())
				}
				require.NotContains(t, string(text), key, path)
				return
			}
			for i := range v.Len() {
				walk(v.Index(i), path+"["+strconv.Itoa(i)+"]")
			}
		case reflect.Map:
			for _, name := range v.MapKeys() {
				walk(name, path+".key")
				walk(v.MapIndex(name), path+".value")
			}
		case reflect.String:
			texts++
			require.NotContains(t, v.String(), key, path)
		}
	}
	walk(v, "client")
	require.NotZero(t, texts, "the walk saw nothing")
}

// jsonForms are ways in which encoders write a key.
func jsonForms(key string) []struct{ name, text string } {
	html, _ := json.Marshal(key)
	var plain bytes.Buffer
	encoder := json.NewEncoder(&plain)
	encoder.SetEscapeHTML(false)
	encoder.Encode(key)
	all := &strings.Builder{}
	for _, r := range key {
		fmt.Fprintf(all, `\u%04X`, r)
	}
	return []struct{ name, text string }{
		{"careful", strings.Trim(string(html), "\n")},
		{"plain", strings.Trim(plain.String(), "\n")},
		{"slashes", strings.ReplaceAll(strings.Trim(plain.String(), "\n"), "/", `\/`)},
		{"all escaped", `"` + all.String() + `"`},
		{"unescaped (!)", `"` + key + `"`}, // not JSON if the key has a quote
	}
}

// TestSecretEchoed: servers, proxies and debug pages repeat the request.
func TestSecretEchoed(t *testing.T) {
	for i, key := range secretKeys {
		bodies := []struct{ name, text string }{
			{"page", "<html><body><pre>Authorization: Bearer " + key + "</pre></body></html>"},
			{"text", "Bearer " + key},
			{"text, many", strings.Repeat(key+" ", 50)},
			{"only the key", key},
		}
		for _, form := range jsonForms(key) {
			inText := strings.TrimPrefix(form.text, `"`)
			bodies = append(bodies, []struct{ name, text string }{
				{"detail, " + form.name, `{"detail":"Bad key: ` + inText + `}`},
				{"details, " + form.name, `{"detail":["Bad key:",` + form.text + `]}`},
				{"field, " + form.name, `{"stock_records":[{},{"quantity":[` + form.text + `]}]}`},
				{"name, " + form.name, `{` + form.text + `:["is wrong"]}`},
				{"deep name, " + form.name, `{"a":{` + form.text + `:{"b":["is wrong"]}}}`},
				{"beside a detail, " + form.name, `{"detail":"No.","request":{"headers":{"Authorization":"Bearer ` + inText + `}}}`},
				{"beside numbers, " + form.name, `{"detail":"No.","request":[1,true,null,` + form.text + `]}`},
				{"text only, " + form.name, form.text},
				{"list, " + form.name, `[` + form.text + `]`},
				{"cut, " + form.name, `{"detail":"No.","request":"` + inText + `,`},
				{"deep, " + form.name, `{"detail":"No."` + strings.Repeat(`,"a":{"b":1`, 30) + `,"c":` + form.text + strings.Repeat(`}`, 31)},
				{"under a long name, " + form.name, `{"` + strings.Repeat("n", 2000) + `":{"x":` + form.text + `}}`},
			}...)
		}
		for _, body := range bodies {
			for _, status := range []int{200, 302, 400, 503} {
				t.Run(fmt.Sprintf("key %d/%s/%d", i, body.name, status), func(t *testing.T) {
					var logged bytes.Buffer
					client, err := oakra.NewClient(key,
						oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
							return stubResponse(status, body.text), nil
						})}),
						oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: 1, MaxBackoff: 1}),
						oakra.WithLogger(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
					require.NoError(t, err)
					_, err = stockCalls[2].call(t.Context(), client)
					requireHiddenError(t, err, key)
					require.NotEmpty(t, logged.String())
					require.Empty(t, shows(logged.String(), key), "in the log")
				})
			}
		}
	}
}

// TestSecretKeepsTheRest: the key is cut out, and the text around it is kept.
func TestSecretKeepsTheRest(t *testing.T) {
	key := secretKeys[0]
	for _, row := range []struct{ body, want, message string }{
		{"<pre>Bearer " + key + "</pre>", "<pre>Bearer [app key]</pre>", ""},
		{`{"detail":"Bad key ` + key + `, sorry."}`, `{"detail":"Bad key [app key], sorry."}`, "Bad key [app key], sorry."},
		{`{"detail":"Bad key ` + strings.ToUpper(key) + `, sorry."}`, `{"detail":"Bad key [app key], sorry."}`, "Bad key [app key], sorry."},
	} {
		client, err := oakra.NewClient(key, oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
			return stubResponse(400, row.body), nil
		})}))
		require.NoError(t, err)
		_, err = stockCalls[2].call(t.Context(), client)
		e := requireError(t, err)
		require.Equal(t, row.want, string(e.Body))
		require.Equal(t, row.message, e.Message)
	}
}

// TestSecretCut: where a body is cut, by the network or by the limit of what is kept, a
// key may be cut too. Less than half of the key may be left.
func TestSecretCut(t *testing.T) {
	const kept = 64 << 10
	key := secretKeys[0]
	half := key[:len(key)/2]
	for _, tt := range []struct{ name, before, after string }{
		{"page", "<pre>", "</pre>"},
		{"JSON", `{"detail":"No.","request":"`, `"}`},
		{"array", `[{"id":1,"x":"`, `"}]`},
		{"records", `{"stock_records":[{"id":1,"x":"`, `"}]}`},
		{"key and key", key, key},
		{"many of them", strings.Repeat(key+",", 100), ""},
	} {
		for _, status := range []int{200, 400, 503} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, status), func(t *testing.T) {
				list := func(body string) error {
					client, err := oakra.NewClient(key, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
						oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
							return stubResponse(status, body), nil
						})}))
					require.NoError(t, err)
					_, err = stockCalls[2].call(t.Context(), client)
					return err
				}
				check := func(err error, what string, at int) {
					t.Helper()
					e := requireError(t, err)
					require.LessOrEqual(t, len(e.Body), kept)
					for _, text := range []string{string(e.Body), err.Error(), fmt.Sprintf("%+v", e.Fields)} {
						if strings.Contains(text, half) {
							t.Fatalf("half of the key is seen: %s at %d", what, at)
						}
					}
				}
				// The network cuts.
				for n := 1; n <= len(key); n++ {
					check(list(tt.before+key[:n]), "cut", n)
				}
				// What is kept ends within the key.
				for from := kept - len(key) - 2; from <= kept+2; from += 5 {
					if filling := from - len(tt.before); filling >= 0 {
						body := tt.before + strings.Repeat("x", filling) + key + tt.after + strings.Repeat("y", 3000)
						check(list(body), "at the end of what is kept", from)
					}
				}
				// What is read ends within the key, and cutting out others makes room for it.
				for from := kept + 1024 - len(key) - 2; from <= kept+1024+2; from += 5 {
					many := strings.Repeat(key, 300)
					if filling := from - len(tt.before) - len(many); filling >= 0 {
						body := tt.before + many + strings.Repeat("x", filling) + key + tt.after + strings.Repeat("y", 3000)
						check(list(body), "at the end of what is read", from)
					}
				}
			})
		}
	}
}

// TestSecretExcerpt: an error that quotes the beginning of what is wrong quotes no part
// of a key, even if the whole key would not fit.
func TestSecretExcerpt(t *testing.T) {
	for _, key := range []string{
		"5ecre7e5" + strings.Repeat("0f9a", 14), // 64 bytes, as the API reference shows one
		secretKeys[0],
	} {
		for _, row := range []struct{ name, format string }{
			{"nothing else", `%s`},
			{"page", `<pre>%s</pre>`},
			{"header", `Authorization: Bearer %s`},
			{"an id", `[{"location_id":"l","sku":"a","quantity":5,"id":"%s"}]`},
			{"a quantity", `[{"id":1,"location_id":"l","sku":"a","quantity":"%s"}]`},
			{"bare", `[{"id":1,"location_id":"l","sku":"a","quantity":%s}]`},
			{"a record", `["%s"]`},
			{"a name", `[{"%s"}]`},
			{"the records", `{"stock_records":"%s"}`},
			{"behind records", `[` + recordA + `,` + recordB + `] %s`},
			{"bad escape", `[{"id":1,"sku":"\x%s"}]`},
		} {
			for _, cut := range []int{len(key), len(key) - 1, len(key) / 2} {
				for _, call := range stockCalls {
					var logged bytes.Buffer
					body := fmt.Sprintf(row.format, key)
					if cut < len(key) { // the network cuts
						body = body[:strings.Index(body, key)+cut]
					}
					client, err := oakra.NewClient(key, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
						oakra.WithLogger(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
						oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
							return stubResponse(200, body), nil
						})}))
					require.NoError(t, err)
					_, err = call.call(t.Context(), client)
					require.Error(t, err)
					for _, text := range []string{err.Error(), fmt.Sprintf("%#v", err), logged.String(), string(requireError(t, err).Body)} {
						if part := partOf(key, text); part != "" {
							t.Errorf("%s, %d of %d bytes: %q of the key is seen: %.300s", row.name, cut, len(key), part, text)
							break
						}
					}
				}
			}
		}
	}
}

// partOf returns a part of 16 bytes of the key that is in the text, "" if none is.
func partOf(key, text string) string {
	const conclusive = 16
	for i := range len(key) - conclusive + 1 {
		if part := key[i : i+conclusive]; strings.Contains(text, part) {
			return part
		}
	}
	return ""
}

// TestSecretLocation: a redirect may repeat the request's header in its target.
func TestSecretLocation(t *testing.T) {
	everyByte := func(s string) string {
		return "%" + strings.ToUpper(strings.Trim(strings.ReplaceAll(fmt.Sprintf("% x", s), " ", "%"), " "))
	}
	// The last one may be the scheme of a URL.
	for _, key := range append(secretKeys[:1:1], "5ecre7%20of<the>shop-9f86d081884c7d65", "shop.5ecre7-0f86d081884c7d65+x") {
		for _, location := range []string{
			"https://elsewhere.test/" + url.PathEscape(key),
			"https://elsewhere.test/" + url.PathEscape(url.PathEscape(key)),
			"https://elsewhere.test/" + everyByte(key),
			"https://elsewhere.test/" + url.PathEscape(everyByte(key)),
			"https://elsewhere.test/" + everyByte(key[:len(key)-1]),
			"https://elsewhere.test/" + key + "/x",
			"https://elsewhere.test/?key=" + key,
			"https://elsewhere.test/#" + key,
			"https://" + key + "@elsewhere.test/",
			"https://user:" + key + "@elsewhere.test/",
			"https://" + key + ".elsewhere.test/",
			"//" + key + "/",
			"/" + key, key, "mailto:" + key, key + "://x/", "?" + key, "%zz" + key,
			"https://elsewhere.test/" + strings.Repeat("x", 180) + key,
			"https://elsewhere.test/" + strings.Repeat("x", 160) + key,
		} {
			for _, status := range []int{301, 302, 303, 307, 308} {
				client, err := oakra.NewClient(key, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
					oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
						return stubResponse(status, "", "Location", location), nil
					})}))
				require.NoError(t, err)
				for _, call := range stockCalls {
					_, err = call.call(t.Context(), client)
					require.ErrorIs(t, err, oakra.ErrRedirect)
					requireHiddenError(t, err, key)
					require.NotContains(t, err.Error(), key[:len(key)/2], location)
				}
			}
		}
	}
}

// TestSecretCause has texts of the caller's own code about a context or a limiter.
func TestSecretCause(t *testing.T) {
	for i, key := range secretKeys {
		saying := errors.New("the key " + key + " is revoked")
		for _, row := range []struct {
			name string
			call func() error
		}{
			{"cause, before the first attempt", func() error {
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(saying)
				_, err := secretStub(t, key, nil).Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				return err
			}},
			{"cause, in an attempt", func() error {
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err := secretStub(t, key, func(r *http.Request) (*http.Response, error) {
					cancel(saying)
					return nil, context.Cause(r.Context())
				}).Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, 1, strings.Count(err.Error(), "is revoked"), "%v", err)
				return err
			}},
			{"cause, and another failure", func() error {
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err := secretStub(t, key, func(*http.Request) (*http.Response, error) {
					cancel(saying)
					return nil, io.ErrUnexpectedEOF
				}).Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				require.ErrorIs(t, err, context.Canceled)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				return err
			}},
			{"cause, in the response", func() error {
				ctx, cancel := context.WithCancelCause(t.Context())
				_, err := secretStub(t, key, func(*http.Request) (*http.Response, error) {
					response := stubResponse(200, "")
					response.ContentLength = -1
					response.Body = io.NopCloser(io.MultiReader(strings.NewReader("["+recordA), readFunc(func([]byte) (int, error) {
						cancel(saying)
						return 0, io.ErrUnexpectedEOF
					})))
					return response, nil
				}).Stock.Change(ctx, []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, applied, oakra.OutcomeOf(err))
				return err
			}},
			{"limiter", func() error {
				limiter := stubLimiter(func(context.Context) error { return saying })
				_, err := secretStub(t, key, nil, oakra.WithLimiter(limiter)).Stock.Change(t.Context(), []oakra.StockChange{{ID: 1, QuantityChange: 1}})
				return err
			}},
		} {
			t.Run(fmt.Sprintf("key %d/%s", i, row.name), func(t *testing.T) { requireHiddenError(t, row.call(), key) })
		}
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func secretStub(t *testing.T, key string, transport stubTransport, opts ...oakra.Option) *oakra.Client {
	client, err := oakra.NewClient(key, append([]oakra.Option{oakra.WithHTTPClient(&http.Client{Transport: transport})}, opts...)...)
	require.NoError(t, err)
	return client
}

// TestSecretTooShort: the short keys of tests occur everywhere by chance, and are not
// cut out of the server's texts.
func TestSecretTooShort(t *testing.T) {
	const body = `{"stock_records":[{},{"id":["This key is unknown."]}]}`
	for _, key := range []string{"k", "key", "a"} {
		_, err := secretStub(t, key, func(*http.Request) (*http.Response, error) { return stubResponse(400, body), nil }).
			Stock.Change(t.Context(), []oakra.StockChange{{ID: 1, QuantityChange: 1}})
		e := requireError(t, err)
		require.Equal(t, map[string][]string{"stock_records[1].id": {"This key is unknown."}}, e.Fields)
		require.Equal(t, body, string(e.Body))
	}
}

// TestSecretLogLater: a handler that formats a log record later shows the attempt as it
// was then.
func TestSecretLogLater(t *testing.T) {
	later := &laterHandler{}
	calls := 0
	_, err := secretStub(t, secretKeys[0], func(*http.Request) (*http.Response, error) {
		calls++
		return stubResponse([]int{503, 409}[calls-1], ""), nil
	}, oakra.WithLogger(slog.New(later)), oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 1, MaxBackoff: 1})).
		Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 1}})
	require.Equal(t, unknown, oakra.OutcomeOf(err), "of the call")
	var outcomes []string
	for _, record := range later.records {
		record.Attrs(func(a slog.Attr) bool {
			if a.Key == "outcome" && record.Message == "oakra: attempt" {
				outcomes = append(outcomes, a.Value.String())
			}
			return true
		})
	}
	require.Equal(t, []string{"unknown", "not applied"}, outcomes, "of the attempts")
}

type laterHandler struct{ records []slog.Record }

func (h *laterHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *laterHandler) Handle(_ context.Context, r slog.Record) error {
	h.records = append(h.records, r)
	return nil
}
func (h *laterHandler) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *laterHandler) WithGroup(string) slog.Handler      { return h }

// dumpError is what a tracing or recording transport might return.
type dumpError struct{ Header http.Header }

func (e *dumpError) Error() string { return fmt.Sprintf("could not send %v", e.Header) }

// quietError does not show the header that it holds.
type quietError struct{ Header http.Header }

func (e *quietError) Error() string { return "could not send" }

// quietValue is the same without a pointer, so that %#v prints all of it.
type quietValue struct{ Header http.Header }

func (e quietValue) Error() string { return "could not send" }

func TestSecretTransportError(t *testing.T) {
	for i, key := range secretKeys {
		for _, row := range []struct {
			name    string
			failing func(h http.Header) error
		}{
			{"in the text", func(h http.Header) error { return &dumpError{h} }},
			{"wrapped", func(h http.Header) error { return fmt.Errorf("trace: %w", &dumpError{h}) }},
			{"joined", func(h http.Header) error { return errors.Join(io.ErrUnexpectedEOF, &dumpError{h}) }},
			{"quoted", func(h http.Header) error { return fmt.Errorf("sending %q: %w", h.Get("Authorization"), io.EOF) }},
			{"held by a pointer", func(h http.Header) error { return &quietError{h} }},
			{"held by a value", func(h http.Header) error { return quietValue{h} }},
			{"held, and wrapped", func(h http.Header) error { return fmt.Errorf("trace: %w", quietValue{h}) }},
			{"as a text of itself", func(h http.Header) error { return errors.New(h.Get("Authorization")) }},
		} {
			for _, tt := range []struct {
				when  string
				hooks func(*httptrace.ClientTrace)
			}{
				{"without a trace", func(*httptrace.ClientTrace) {}},
				{"unreachable", func(trace *httptrace.ClientTrace) { trace.GetConn("") }},
				{"connected", func(trace *httptrace.ClientTrace) { trace.GetConn(""); trace.GotConn(httptrace.GotConnInfo{}) }},
			} {
				t.Run(fmt.Sprintf("key %d/%s/%s", i, row.name, tt.when), func(t *testing.T) {
					var logged bytes.Buffer
					client, err := oakra.NewClient(key,
						oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
							tt.hooks(httptrace.ContextClientTrace(r.Context()))
							return nil, row.failing(r.Header.Clone())
						})}),
						oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 2, MinBackoff: 1, MaxBackoff: 1}),
						oakra.WithLogger(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
					require.NoError(t, err)
					for _, call := range stockCalls {
						_, err = call.call(t.Context(), client)
						requireHiddenErrorText(t, err, key)
						requireHidden(t, err, key)
					}
					require.NotEmpty(t, logged.String())
					require.Empty(t, shows(logged.String(), key))
				})
			}
		}
	}
	// What the hidden error wraps is still found.
	key := secretKeys[0]
	client, err := oakra.NewClient(key, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
		oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("sending %q: %w", r.Header, io.ErrUnexpectedEOF)
		})}))
	require.NoError(t, err)
	_, err = stockCalls[0].call(t.Context(), client)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// requireHiddenErrorText checks the texts along the chain of a transport's error.
func requireHiddenErrorText(t *testing.T, err error, key string) {
	t.Helper()
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		require.Empty(t, shows(inner.Error(), key))
	}
}

func TestSecretBodyError(t *testing.T) {
	key := secretKeys[0]
	for _, status := range []int{200, 400, 500} {
		client, err := oakra.NewClient(key, oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
			oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
				a := stubResponse(status, "")
				a.Body = io.NopCloser(io.MultiReader(strings.NewReader("[{"), failingReader{fmt.Errorf("replaying %v", r.Header)}))
				a.ContentLength = -1
				return a, nil
			})}))
		require.NoError(t, err)
		for _, call := range stockCalls {
			_, err = call.call(t.Context(), client)
			requireHiddenError(t, err, key)
		}
	}
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestSecretSourceError(t *testing.T) {
	key, other := secretKeys[0], "an0ther-5ecre7-0f-the-shop-e3b0c44298fc"
	status := 503
	transport := stubTransport(func(*http.Request) (*http.Response, error) { return stubResponse(status, ""), nil })
	for _, tt := range []struct {
		name   string
		status int
		source func() func(context.Context, string) (string, error)
	}{
		{"repeats the key that it gave before", 503, func() func(context.Context, string) (string, error) {
			asked := 0
			return func(context.Context, string) (string, error) {
				if asked++; asked > 1 {
					return "", fmt.Errorf("the lease of %s is over", key)
				}
				return key, nil
			}
		}},
		{"repeats the rejected key", 401, func() func(context.Context, string) (string, error) {
			return func(_ context.Context, rejected string) (string, error) {
				if rejected != "" {
					return "", fmt.Errorf("nothing newer than %s", rejected)
				}
				return key, nil
			}
		}},
		{"gives a key and an error that repeats it", 503, func() func(context.Context, string) (string, error) {
			return func(context.Context, string) (string, error) { return key, fmt.Errorf("%s expired", key) }
		}},
		{"gives a new key and an error that repeats it", 401, func() func(context.Context, string) (string, error) {
			return func(_ context.Context, rejected string) (string, error) {
				if rejected != "" {
					return other, fmt.Errorf("%s is not valid yet", other)
				}
				return key, nil
			}
		}},
		{"gives a bad key", 401, func() func(context.Context, string) (string, error) {
			return func(_ context.Context, rejected string) (string, error) {
				if rejected != "" {
					return other + "\n", nil
				}
				return key, nil
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status = tt.status
			for _, call := range stockCalls {
				client, err := oakra.NewClient("", oakra.WithAppKeySource(tt.source()),
					oakra.WithHTTPClient(&http.Client{Transport: transport}),
					oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 1, MaxBackoff: 1}))
				require.NoError(t, err)
				_, err = call.call(t.Context(), client)
				requireHiddenError(t, err, key, other)
			}
		})
	}
}

// TestSecretRotation: after a rotation both keys are secret, and a key that
// begins another does not uncover its end.
func TestSecretRotation(t *testing.T) {
	for _, row := range []struct {
		name string
		keys [2]string
	}{
		{"unlike", [2]string{secretKeys[0], secretKeys[1]}},
		{"old begins new", [2]string{"shop-5ecre7-0123456789", "shop-5ecre7-0123456789-and-its-5uccessor-abcdef"}},
		{"new begins old", [2]string{"shop-5ecre7-0123456789-and-its-5uccessor-abcdef", "shop-5ecre7-0123456789"}},
		{"old is in the new", [2]string{"5ecre7-0123456789", "shop-5ecre7-0123456789-5uccessor-abcdef"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, wrap := range []func(string) string{
				func(s string) string { return s },
				func(s string) string { return "<pre>" + s + "</pre>" },
				func(s string) string { b, _ := json.Marshal(map[string]string{"detail": s}); return string(b) },
			} {
				var logged bytes.Buffer
				client, err := oakra.NewClient("", oakra.WithAppKeySource(func(_ context.Context, rejected string) (string, error) {
					if rejected != "" {
						return row.keys[1], nil
					}
					return row.keys[0], nil
				}), oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
					return stubResponse(401, wrap("neither "+row.keys[0]+" nor "+row.keys[1])), nil
				})}), oakra.WithLogger(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
				require.NoError(t, err)
				for _, call := range stockCalls {
					_, err = call.call(t.Context(), client)
					require.ErrorIs(t, err, oakra.ErrUnauthorized)
					require.Equal(t, 2, requireError(t, err).Attempts)
					requireHiddenError(t, err, row.keys[0], row.keys[1])
					e := requireError(t, err)
					require.NotContains(t, err.Error()+string(e.Body), "5uccessor", "the rest of a key")
				}
			}
		})
	}
}

// TestSecretRotatedBefore: a server may name a key that an earlier call used, before
// the source gave another one.
func TestSecretRotatedBefore(t *testing.T) {
	const current = "the-current-5ecre7-0f-the-shop"
	old := []string{"0ldest-5ecre7-0f-the-shop-9f86", "0lder-5ecre7-0f-the-shop-d081", "0ld-5ecre7-0f-the-shop-884c7d65"}
	keys := append(slices.Clone(old), current)
	used := 0
	var logged bytes.Buffer
	said := strings.Join(old, ", ")
	client, err := oakra.NewClient("", oakra.WithAppKeySource(func(context.Context, string) (string, error) { return keys[used], nil }),
		oakra.WithLogger(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
		oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
			if used < len(old) {
				return stubResponse(409, ""), nil
			}
			return stubResponse(409, `{"detail":"Revoked: `+said+`"}`, "X-Old", said, "X-Request-Id", old[0]), nil
		})}))
	require.NoError(t, err)
	for used = range keys {
		for _, call := range stockCalls {
			_, err = call.call(t.Context(), client)
			requireHiddenError(t, err, keys...)
		}
	}
	require.Contains(t, err.Error(), "Revoked: ", "what stands around the keys is kept")
	for _, key := range keys {
		require.NotContains(t, logged.String(), key)
	}
	// It may have been used by another goroutine.
	var callers sync.WaitGroup
	for i := range 50 {
		callers.Go(func() {
			for range 20 {
				source := fmt.Sprintf("%d-of-the-5ecre7-keys-of-the-shop", i)
				client, err := oakra.NewClient("", oakra.WithAppKeySource(func(context.Context, string) (string, error) { return source, nil }),
					oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(r *http.Request) (*http.Response, error) {
						return stubResponse(403, r.Header.Get("Authorization")), nil
					})}))
				if assert.NoError(t, err) {
					_, err = stockCalls[0].call(context.Background(), client)
					assert.NotContains(t, fmt.Sprintf("%#v", err), source)
				}
			}
		})
	}
	callers.Wait()
}

// TestSecretEveryField: wherever a server puts the key, in its own case or not, it is
// cut out of every field of the error. This includes keys of a length that encoders and
// excerpts cut evenly, and keys that are the beginning of another.
func TestSecretEveryField(t *testing.T) {
	keys := [][]string{{"shop-5ecre7-0f9a-b3c4-and-5ucce55or", "shop-5ecre7-0f9a"}}
	for _, length := range []int{8, 16, 24, 64} {
		keys = append(keys, []string{strings.Repeat("Zy9-5ecre7-0f9A-", 4)[:length]})
	}
	for _, keys := range keys {
		for _, spelled := range []func(string) string{strings.Clone, strings.ToUpper, strings.ToLower} {
			for _, key := range keys {
				said := spelled(key)
				escaped := url.PathEscape(said)
				for _, row := range []struct {
					name   string
					status int
					body   string
					header []string
				}{
					{"message", 400, `{"detail":"Bad key ` + said + `"}`, nil},
					{"title", 403, "<html><title>" + said + "</title>", nil},
					{"field", 400, `{"stock_records":[{},{"id":["for ` + said + `"]}]}`, nil},
					{"name of a field", 400, `{"` + said + `":["No."]}`, nil},
					{"SKU of a record", 200, `[{"id":1,"location_id":"l","sku":"x` + said + `x","quantity":5}]`, nil},
					{"location of a record", 200, `[{"id":1,"location_id":"` + said + `","sku":"a","quantity":5}]`, nil},
					{"SKU of a 207", 207, `[{"id":1,"location_id":"l","sku":"` + said + `","quantity":5},` + recordB + `]`, nil},
					{"odd record", 200, `[{"id":1,"location_id":"l","sku":"` + said + `","quantity":5.5}]`, nil},
					{"header", 409, "{}", []string{"X-Seen", "Bearer " + said}},
					{"name of a header", 409, "{}", []string{"X-" + said, "1"}},
					{"request id", 409, "{}", []string{"X-Request-Id", said}},
					{"Retry-After", 429, "{}", []string{"Retry-After", said}},
					{"Age", 200, "[" + recordA + "," + recordB + "]", []string{"Age", said}},
					{"Location", 302, "", []string{"Location", "/" + escaped}},
					{"scheme of a Location", 307, "", []string{"Location", said + "://x/"}},
					{"host of a Location", 307, "", []string{"Location", "https://" + escaped + ".test/"}},
					{"body", 500, "key=" + said + ";", nil},
				} {
					if row.name == "name of a header" && strings.ContainsAny(said, "/<>") {
						continue
					}
					var logged bytes.Buffer
					var seen []any
					given, warm := 0, false
					client, err := oakra.NewClient("", oakra.WithAppKeySource(func(context.Context, string) (string, error) {
						given++
						return keys[given%len(keys)], nil
					}), oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
						if !warm {
							return stubResponse(409, ""), nil
						}
						return stubResponse(row.status, row.body, row.header...), nil
					})}), oakra.WithRetryPolicy(oakra.RetryPolicy{MaxAttempts: 1}),
						oakra.WithLogger(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
						oakra.WithObserver(oakra.Observer{
							AttemptEnd: func(_ context.Context, a oakra.AttemptEnd) { seen = append(seen, a, a.Err) },
							CallEnd:    func(_ context.Context, c oakra.CallEnd) { seen = append(seen, c, c.Err) },
						}))
					require.NoError(t, err)
					for range keys { // all of them have been used
						stockCalls[0].call(t.Context(), client)
					}
					warm = true
					for _, call := range stockCalls {
						_, err = call.call(t.Context(), client)
						if err == nil { // a write need not look at an Age
							continue
						}
						e := requireError(t, err)
						text := fmt.Sprintf("%s %#v %+v %s %s %#v", err, err, *e, e.Body, logged.String(), seen)
						for _, secret := range keys {
							if at := strings.Index(strings.ToLower(text), strings.ToLower(secret)); at >= 0 {
								t.Fatalf("%s of %s: the key %q is seen: %.200q", row.name, call.name, secret, text[max(0, at-100):])
							}
						}
						require.NotContains(t, strings.ToLower(text), "5ucce55or", "the rest of a longer key")
					}
				}
			}
		}
	}
}

// TestSecretLimiterError: a limiter gets no key, but its text may contain one.
func TestSecretLimiterError(t *testing.T) {
	key := secretKeys[0]
	asked := 0
	client, err := oakra.NewClient(key, oakra.WithLimiter(stubLimiter(func(context.Context) error {
		if asked++; asked%2 == 0 {
			return fmt.Errorf("the quota of %s is used up", key)
		}
		return nil
	})), oakra.WithHTTPClient(&http.Client{Transport: stubTransport(func(*http.Request) (*http.Response, error) {
		return stubResponse(503, ""), nil
	})}), oakra.WithRetryPolicy(oakra.RetryPolicy{MinBackoff: 1, MaxBackoff: 1}))
	require.NoError(t, err)
	_, err = stockCalls[0].call(t.Context(), client)
	requireHiddenError(t, err, key)
}
