package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/go-resty/resty/v2"
	"github.com/hashicorp/go-retryablehttp"

	"github.com/oakra/oakra-go"
	"github.com/oakra/oakra-go/benchmarks/internal/oapi"
)

// The names of the clients, in the order of all tables.
const (
	nameOakra     = "oakra-go"
	nameNetHTTP   = "net/http"
	nameRetryable = "go-retryablehttp"
	nameResty     = "resty"
	nameGitHub    = "go-github style"
	nameOAPI      = "oapi-codegen"

	// The following clients only go through the storm.
	nameBackoff       = "cenkalti/backoff"
	nameRetryableOnce = "go-retryablehttp without POST"
)

const (
	appKey    = "bd0bbbaa0cf25202981e7542b02ce1af3545b7102e96d6020b1e91c67fee159f"
	userAgent = "oakra-go-benchmarks/1"

	listPath   = "stock/stock-records/"
	updatePath = "stock/stock-record/update/"
	changePath = "stock/stock-records/change/"
)

// client is one of the clients that are compared.
type client struct {
	name string
	// prepare returns a call of op that sends n items. It creates everything that
	// the call needs, so that only the call itself is measured.
	prepare func(op string, n int) call
}

// call makes a request and returns the number of records in the response. It stores
// the records in keep if that is not nil.
type call func(ctx context.Context, keep *[]oakra.StockRecord) (int, error)

// api has the calls of a client, with the client's own types.
type api[R, U, C any] interface {
	list(ctx context.Context, sku string) ([]R, error)
	update(ctx context.Context, updates []U) ([]R, error)
	change(ctx context.Context, changes []C) ([]R, error)
}

// The linter misses that newClients uses these methods when it infers an api's types.
var (
	_ api[oakra.StockRecord, oakra.StockUpdate, oakra.StockChange] = oakraClient{}
	_ api[oapi.StockRecord, oapi.StockUpdate, oapi.StockChange]    = oapiClient{}
)

func newClient[
	R oakra.StockRecord | oapi.StockRecord,
	U oakra.StockUpdate | oapi.StockUpdate,
	C oakra.StockChange | oapi.StockChange,
](name string, a api[R, U, C]) client {
	return client{name, func(op string, n int) call {
		var updates []U
		var changes []C
		for id := int64(1); id <= int64(n); id++ {
			updates = append(updates, U(oakra.StockUpdate{ID: id, Quantity: 100 + id%900}))
			changes = append(changes, C(oakra.StockChange{ID: id, QuantityChange: -1 - id%9}))
		}
		return func(ctx context.Context, keep *[]oakra.StockRecord) (int, error) {
			var records []R
			var err error
			switch op {
			case opList:
				records, err = a.list(ctx, listedSKU)
			case opUpdate:
				records, err = a.update(ctx, updates)
			case opChange:
				records, err = a.change(ctx, changes)
			default:
				err = fmt.Errorf("no operation %q", op)
			}
			if keep != nil {
				for _, r := range records {
					*keep = append(*keep, oakra.StockRecord(r))
				}
			}
			return len(records), err
		}
	}}
}

// newClients returns all clients. Each gets a transport of its own from t.
func newClients(baseURL string, t func() http.RoundTripper) ([]client, error) {
	own, err := oakra.NewClient(appKey, oakra.WithBaseURL(baseURL), oakra.WithHTTPClient(&http.Client{Transport: t()}))
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, err
	}
	retryable := retryablehttp.NewClient()
	retryable.HTTPClient = &http.Client{Transport: t()}
	retryable.Logger = nil

	generated, err := oapi.NewClientWithResponses(baseURL,
		oapi.WithHTTPClient(&http.Client{Transport: t()}),
		oapi.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			setHeader(r.Header)
			return nil
		}))
	if err != nil {
		return nil, err
	}
	return []client{
		newClient(nameOakra, oakraClient{own}),
		newClient(nameNetHTTP, netHTTPClient{&http.Client{Transport: t()}, baseURL}),
		newClient(nameRetryable, retryableClient{retryable, baseURL}),
		newClient(nameResty, newRestyClient(baseURL, t())),
		newClient(nameGitHub, githubClient{&http.Client{Transport: t()}, base}),
		newClient(nameOAPI, oapiClient{generated}),
	}, nil
}

// setHeader sets what every client sends with every request.
func setHeader(h http.Header) {
	h.Set("Authorization", "Bearer "+appKey)
	h.Set("X-OAKRA-API-VERSION", "v1")
	h.Set("Accept", "application/json")
	h.Set("User-Agent", userAgent)
}

// The bodies of writes, and of their responses.
type (
	written struct {
		StockRecords []oakra.StockRecord `json:"stock_records"`
	}
	updateBody struct {
		StockRecords []oakra.StockUpdate `json:"stock_records"`
	}
	changeBody struct {
		StockRecords []oakra.StockChange `json:"stock_records"`
	}
)

// oakraClient is this library.
type oakraClient struct{ *oakra.Client }

func (c oakraClient) list(ctx context.Context, sku string) ([]oakra.StockRecord, error) {
	return c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{sku}})
}

func (c oakraClient) update(ctx context.Context, updates []oakra.StockUpdate) ([]oakra.StockRecord, error) {
	return c.Stock.Update(ctx, updates)
}

func (c oakraClient) change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	return c.Stock.Change(ctx, changes)
}

// netHTTPClient is a client written by hand with net/http and encoding/json.
type netHTTPClient struct {
	http *http.Client
	base string
}

func (c netHTTPClient) list(ctx context.Context, sku string) ([]oakra.StockRecord, error) {
	var records []oakra.StockRecord
	err := c.do(ctx, http.MethodGet, listPath+"?"+url.Values{"sku": {sku}}.Encode(), nil, &records)
	return records, err
}

func (c netHTTPClient) update(ctx context.Context, updates []oakra.StockUpdate) ([]oakra.StockRecord, error) {
	var result written
	err := c.do(ctx, http.MethodPost, updatePath, updateBody{updates}, &result)
	return result.StockRecords, err
}

func (c netHTTPClient) change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	var result written
	err := c.do(ctx, http.MethodPost, changePath, changeBody{changes}, &result)
	return result.StockRecords, err
}

func (c netHTTPClient) do(ctx context.Context, method, path string, body, result any) error {
	var reader io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return err
	}
	setHeader(request.Header)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return readBody(response, result)
}

func readBody(response *http.Response, result any) error {
	b, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return &statusError{response.StatusCode, b}
	}
	return json.Unmarshal(b, result)
}

// statusError is the error of a response that is not a success.
type statusError struct {
	code int
	body []byte
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%d %s: %.200s", e.code, http.StatusText(e.code), e.body)
}

// retryableClient is go-retryablehttp with its defaults, except for the log.
type retryableClient struct {
	http *retryablehttp.Client
	base string
}

func (c retryableClient) list(ctx context.Context, sku string) ([]oakra.StockRecord, error) {
	var records []oakra.StockRecord
	err := c.do(ctx, http.MethodGet, listPath+"?"+url.Values{"sku": {sku}}.Encode(), nil, &records)
	return records, err
}

func (c retryableClient) update(ctx context.Context, updates []oakra.StockUpdate) ([]oakra.StockRecord, error) {
	var result written
	err := c.do(ctx, http.MethodPost, updatePath, updateBody{updates}, &result)
	return result.StockRecords, err
}

func (c retryableClient) change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	var result written
	err := c.do(ctx, http.MethodPost, changePath, changeBody{changes}, &result)
	return result.StockRecords, err
}

func (c retryableClient) do(ctx context.Context, method, path string, body, result any) error {
	var raw any // untyped nil for no body, or a []byte
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		raw = b
	}
	request, err := retryablehttp.NewRequestWithContext(ctx, method, c.base+path, raw)
	if err != nil {
		return err
	}
	setHeader(request.Header)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return readBody(response, result)
}

// restyClient is resty, which encodes and decodes by itself.
type restyClient struct{ *resty.Client }

func newRestyClient(baseURL string, t http.RoundTripper) restyClient {
	c := resty.NewWithClient(&http.Client{Transport: t}).SetBaseURL(baseURL)
	setHeader(c.Header)
	return restyClient{c}
}

func (c restyClient) list(ctx context.Context, sku string) ([]oakra.StockRecord, error) {
	var records []oakra.StockRecord
	response, err := c.R().SetContext(ctx).SetQueryParam("sku", sku).SetResult(&records).Get(listPath)
	return records, restyError(response, err)
}

func (c restyClient) update(ctx context.Context, updates []oakra.StockUpdate) ([]oakra.StockRecord, error) {
	return c.post(ctx, updatePath, updateBody{updates})
}

func (c restyClient) change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	return c.post(ctx, changePath, changeBody{changes})
}

func (c restyClient) post(ctx context.Context, path string, body any) ([]oakra.StockRecord, error) {
	var result written
	response, err := c.R().SetContext(ctx).SetHeader("Content-Type", "application/json").
		SetBody(body).SetResult(&result).Post(path)
	return result.StockRecords, restyError(response, err)
}

func restyError(response *resty.Response, err error) error {
	if err == nil && response.StatusCode() != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", response.Status(), response.Body())
	}
	return err
}

// githubClient is a client in the style of go-github. Its newRequest resolves a path
// against the base URL, and do decodes the response as a stream.
type githubClient struct {
	http *http.Client
	base *url.URL
}

func (c githubClient) newRequest(ctx context.Context, method, path string, body any) (*http.Request, error) {
	rel, err := url.Parse(path)
	if err != nil {
		return nil, err
	}
	var buf io.ReadWriter
	if body != nil {
		buf = new(bytes.Buffer)
		enc := json.NewEncoder(buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(body); err != nil {
			return nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base.ResolveReference(rel).String(), buf)
	if err != nil {
		return nil, err
	}
	setHeader(request.Header)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

func (c githubClient) do(request *http.Request, result any) error {
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("%s: %s", response.Status, b)
	}
	return json.NewDecoder(response.Body).Decode(result)
}

func (c githubClient) list(ctx context.Context, sku string) ([]oakra.StockRecord, error) {
	request, err := c.newRequest(ctx, http.MethodGet, listPath+"?"+url.Values{"sku": {sku}}.Encode(), nil)
	if err != nil {
		return nil, err
	}
	var records []oakra.StockRecord
	err = c.do(request, &records)
	return records, err
}

func (c githubClient) update(ctx context.Context, updates []oakra.StockUpdate) ([]oakra.StockRecord, error) {
	return c.post(ctx, updatePath, updateBody{updates})
}

func (c githubClient) change(ctx context.Context, changes []oakra.StockChange) ([]oakra.StockRecord, error) {
	return c.post(ctx, changePath, changeBody{changes})
}

func (c githubClient) post(ctx context.Context, path string, body any) ([]oakra.StockRecord, error) {
	request, err := c.newRequest(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	var result written
	err = c.do(request, &result)
	return result.StockRecords, err
}

// oapiClient is the client that oapi-codegen generated from openapi.yaml.
type oapiClient struct{ *oapi.ClientWithResponses }

func (c oapiClient) list(ctx context.Context, sku string) ([]oapi.StockRecord, error) {
	response, err := c.ListStockRecordsWithResponse(ctx, &oapi.ListStockRecordsParams{Sku: []string{sku}})
	if err != nil {
		return nil, err
	}
	if response.JSON200 == nil {
		return nil, fmt.Errorf("%s: %.200s", response.Status(), response.Body)
	}
	return *response.JSON200, nil
}

func (c oapiClient) update(ctx context.Context, updates []oapi.StockUpdate) ([]oapi.StockRecord, error) {
	response, err := c.UpdateStockRecordsWithResponse(ctx, oapi.UpdateStockRecordsJSONRequestBody{StockRecords: updates})
	if err != nil {
		return nil, err
	}
	return oapiWritten(response.JSON200, response.Status(), response.Body)
}

func (c oapiClient) change(ctx context.Context, changes []oapi.StockChange) ([]oapi.StockRecord, error) {
	response, err := c.ChangeStockRecordsWithResponse(ctx, oapi.ChangeStockRecordsJSONRequestBody{StockRecords: changes})
	if err != nil {
		return nil, err
	}
	return oapiWritten(response.JSON200, response.Status(), response.Body)
}

func oapiWritten(result *oapi.Written, status string, body []byte) ([]oapi.StockRecord, error) {
	if result == nil {
		return nil, fmt.Errorf("%s: %.200s", status, body)
	}
	return result.StockRecords, nil
}
