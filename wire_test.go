package oakra_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// -update writes the golden requests anew. Read the difference before keeping it: it
// shows what the server of every shop will receive.
var updateGolden = flag.Bool("update", false, "write the golden requests under testdata/requests")

const wireKey = "app-key-of-the-golden-requests"

// wireServer is a TCP server that keeps the requests as the bytes that arrived:
// an http.Server would hide how a request was spelled.
type wireServer struct {
	addr string

	mu       sync.Mutex
	requests []wireRequest
}

type wireRequest struct {
	raw  string // head and body
	head string // up to the empty line, with it
	body string
}

func (r wireRequest) line() string { return r.head[:strings.Index(r.head, "\r\n")+2] }

// target returns what is between the method and the protocol.
func (r wireRequest) target() string { return strings.Fields(r.line())[1] }

func (r wireRequest) query(t *testing.T) url.Values {
	t.Helper()
	_, raw, _ := strings.Cut(r.target(), "?")
	values, err := url.ParseQuery(raw)
	require.NoError(t, err)
	return values
}

// header parses the head. The golden files show the spelling.
func (r wireRequest) header(t *testing.T) http.Header {
	t.Helper()
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(r.raw)))
	require.NoError(t, err)
	return request.Header
}

// wireResponse is the status and body of a response of a wireServer.
type wireResponse struct {
	status int
	body   string
}

func newWireServer(t *testing.T, respond func(n int, r wireRequest) wireResponse) *wireServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &wireServer{addr: listener.Addr().String()}
	var conns sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				s.serve(conn, respond)
			})
		}
	})
	return s
}

func (s *wireServer) serve(conn net.Conn, respond func(int, wireRequest) wireResponse) {
	in := bufio.NewReader(conn)
	for {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		request, err := readWireRequest(in)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.requests = append(s.requests, request)
		n := len(s.requests)
		s.mu.Unlock()
		a := respond(n, request)
		fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
			a.status, http.StatusText(a.status), len(a.body), a.body)
	}
}

func readWireRequest(in *bufio.Reader) (wireRequest, error) {
	var r wireRequest
	length := 0
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return r, err
		}
		r.head += line
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return r, err
			}
		}
		if line == "\r\n" {
			break
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(in, body); err != nil {
		return r, err
	}
	r.body = string(body)
	r.raw = r.head + r.body
	return r, nil
}

func (s *wireServer) seen() []wireRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]wireRequest(nil), s.requests...)
}

// client returns a client of the server at the path. Its attempts may take long, since
// the machine may be busy.
func (s *wireServer) client(t *testing.T, path string, opts ...oakra.Option) *oakra.Client {
	t.Helper()
	all := []oakra.Option{oakra.WithBaseURL("http://" + s.addr + path)}
	client, err := oakra.NewClient(wireKey, append(all, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func goldenResponse(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "responses", name+".json"))
	require.NoError(t, err)
	return string(content)
}

// TestWireGoldenRequests compares each operation's request, on each of its
// routes, with the text under testdata/requests.
func TestWireGoldenRequests(t *testing.T) {
	const (
		updateBody = `{"stock_records":[{"id":123,"quantity":150}]}`
		changeBody = `{"stock_records":[{"id":123,"quantity_change":20}]}`
	)
	list := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.List(ctx, oakra.StockListParams{
			SKUs:       []string{"shirt-blue-m", "shirt-green-m"},
			LocationID: "warehouse-1",
		})
		return err
	}
	listAnywhere := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"shirt-blue-m"}})
		return err
	}
	update := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.Update(ctx, []oakra.StockUpdate{{ID: 123, Quantity: 150}})
		return err
	}
	change := func(ctx context.Context, c *oakra.Client) error {
		_, err := c.Stock.Change(ctx, []oakra.StockChange{{ID: 123, QuantityChange: 20}})
		return err
	}
	missing := wireResponse{404, `{"detail":"Not found."}`}
	notAllowed := wireResponse{405, `{"detail":"Method \"POST\" not allowed."}`}

	type step struct {
		golden   string // the request that arrives
		body     string // its body, as literal text: -update cannot change this
		response wireResponse
	}
	tests := []struct {
		name  string
		call  func(context.Context, *oakra.Client) error
		steps []step
	}{
		{"list", list, []step{
			{"list", "", wireResponse{200, goldenResponse(t, "list-array")}},
		}},
		{"list at all locations", listAnywhere, []step{
			{"list-anywhere", "", wireResponse{200, `{"stock_records":[]}`}},
		}},
		{"update", update, []step{
			{"update-endpoint-line", updateBody, wireResponse{200, goldenResponse(t, "update")}},
		}},
		{"update on the second route", update, []step{
			{"update-endpoint-line", updateBody, notAllowed},
			{"update-newer-reference", updateBody, wireResponse{200, goldenResponse(t, "update")}},
		}},
		{"update on the third route", update, []step{
			{"update-endpoint-line", updateBody, notAllowed},
			{"update-newer-reference", updateBody, notAllowed},
			{"update-example", updateBody, wireResponse{200, goldenResponse(t, "update")}},
		}},
		{"change", change, []step{
			{"change-endpoint-line", changeBody, wireResponse{200, goldenResponse(t, "change")}},
		}},
		{"change on the second route", change, []step{
			{"change-endpoint-line", changeBody, notAllowed},
			{"change-example", changeBody, wireResponse{200, goldenResponse(t, "change")}},
		}},
		{"change asks with an empty list whether a route is missing", change, []step{
			{"change-endpoint-line", changeBody, missing},
			{"change-probe", emptyList, missing},
			{"change-example", changeBody, wireResponse{200, goldenResponse(t, "change")}},
		}},
		{"update asks with the route's own method", update, []step{
			{"update-endpoint-line", updateBody, notAllowed},
			{"update-newer-reference", updateBody, notAllowed},
			{"update-example", updateBody, missing},
			{"update-probe-example", emptyList, wireResponse{200, `[]`}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := newWireServer(t, func(n int, _ wireRequest) wireResponse {
				if n > len(tt.steps) {
					return wireResponse{500, "one request too many"}
				}
				return tt.steps[n-1].response
			})
			client := server.client(t, "/api/v1/", oakra.WithUserAgent("my-shop/2.1"))
			err := tt.call(t.Context(), client)
			if tt.steps[len(tt.steps)-1].body == emptyList { // and the caller gets the 404
				require.ErrorIs(t, err, oakra.ErrNotFound)
			} else {
				require.NoError(t, err)
			}

			requests := server.seen()
			require.Len(t, requests, len(tt.steps))
			for i, request := range requests {
				require.Equal(t, tt.steps[i].body, request.body)
				compareGolden(t, tt.steps[i].golden, server.addr, request)
			}
		})
	}
}

// compareGolden compares a request with its golden file, in which HOST stands for
// the server's address and VERSION for the library's version.
func compareGolden(t *testing.T, name, addr string, r wireRequest) {
	t.Helper()
	got := strings.ReplaceAll(r.raw, "Host: "+addr, "Host: HOST")
	got = strings.ReplaceAll(got, "oakra-go/"+oakra.Version, "oakra-go/VERSION")
	got = strings.ReplaceAll(got, "\r\n", "\n") + "\n"
	file := filepath.Join("testdata", "requests", name+".http")
	if *updateGolden {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "golden request %s", name)
}

// TestWireHeader checks one by one the headers that the golden requests show, since an
// update of those files might lose one.
func TestWireHeader(t *testing.T) {
	responses := map[string]string{
		"GET":  goldenResponse(t, "list-array"),
		"POST": goldenResponse(t, "update"),
	}
	server := newWireServer(t, func(_ int, r wireRequest) wireResponse {
		return wireResponse{200, responses[strings.Fields(r.line())[0]]}
	})
	plain := server.client(t, "/api/v1/")
	named := server.client(t, "/api/v1/", oakra.WithUserAgent("my-shop/2.1 (nightly)"))

	for _, client := range []*oakra.Client{plain, named} {
		_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"shirt-blue-m", "shirt-green-m"}})
		require.NoError(t, err)
		_, err = client.Stock.Update(t.Context(), []oakra.StockUpdate{{ID: 123, Quantity: 150}})
		require.NoError(t, err)
		_, err = client.Stock.Change(t.Context(), []oakra.StockChange{{ID: 123, QuantityChange: 8}})
		require.NoError(t, err)
	}

	requests := server.seen()
	require.Len(t, requests, 6)
	for i, request := range requests {
		header := request.header(t)
		require.Equal(t, []string{"Bearer " + wireKey}, header.Values("Authorization"))
		require.Equal(t, []string{oakra.APIVersion}, header.Values("X-OAKRA-API-VERSION"))
		require.Equal(t, []string{"application/json"}, header.Values("Accept"))
		if i%3 == 0 {
			require.Empty(t, header.Values("Content-Type"), "a read has no body")
			require.Empty(t, header.Values("Content-Length"))
			require.Equal(t, []string{"no-cache"}, header.Values("Cache-Control"))
		} else {
			require.Empty(t, header.Values("Cache-Control"), "a write is not kept by a cache")
			require.Equal(t, []string{"application/json"}, header.Values("Content-Type"))
		}
		userAgent := "oakra-go/" + oakra.Version
		if i >= 3 {
			userAgent = "my-shop/2.1 (nightly) " + userAgent
		}
		require.Equal(t, []string{userAgent}, header.Values("User-Agent"))

		// With one of these net/http sends a POST again by itself.
		require.NotContains(t, strings.ToLower(request.head), "idempotency-key")
	}
}

// TestWireGoldenResponses reads the responses of the API reference.
func TestWireGoldenResponses(t *testing.T) {
	blue := oakra.StockRecord{ID: 122, LocationID: "warehouse-1", SKU: "shirt-blue-m", Quantity: 135}
	green := oakra.StockRecord{ID: 123, LocationID: "warehouse-1", SKU: "shirt-green-m", Quantity: 142}
	updated, changed := green, green
	updated.Quantity = 150
	changed.Quantity = 170

	list := func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
		return c.Stock.List(ctx, oakra.StockListParams{SKUs: []string{"shirt-blue-m", "shirt-green-m"}})
	}
	tests := []struct {
		golden string
		call   func(context.Context, *oakra.Client) ([]oakra.StockRecord, error)
		want   []oakra.StockRecord
	}{
		{"list-array", list, []oakra.StockRecord{blue, green}},
		{"list-object", list, []oakra.StockRecord{blue, green}},
		{"update", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
			return c.Stock.Update(ctx, []oakra.StockUpdate{{ID: 123, Quantity: 150}})
		}, []oakra.StockRecord{updated}},
		{"change", func(ctx context.Context, c *oakra.Client) ([]oakra.StockRecord, error) {
			return c.Stock.Change(ctx, []oakra.StockChange{{ID: 123, QuantityChange: 20}})
		}, []oakra.StockRecord{changed}},
	}
	for _, tt := range tests {
		t.Run(tt.golden, func(t *testing.T) {
			server := newWireServer(t, func(int, wireRequest) wireResponse {
				return wireResponse{200, goldenResponse(t, tt.golden)}
			})
			records, err := tt.call(t.Context(), server.client(t, "/api/v1/"))
			require.NoError(t, err)
			require.Equal(t, tt.want, records)
		})
	}
}

// TestWireNumbers: zero is "out of stock" and must be sent, and no number may
// lose a digit.
func TestWireNumbers(t *testing.T) {
	numbers := []int64{0, 1, -1, 1<<53 + 1, -(1<<53 + 1), math.MaxInt64, math.MinInt64}
	ids := []int64{1, 2, 3, 4, 5, 1<<53 + 1, math.MaxInt64}

	server := newWireServer(t, func(int, wireRequest) wireResponse {
		records := make([]string, len(ids))
		for i, id := range ids {
			records[i] = fmt.Sprintf(`{"id":%d,"sku":"s","location_id":"l","quantity":%d}`, id, numbers[i])
		}
		return wireResponse{200, "[" + strings.Join(records, ",") + "]"}
	})
	client := server.client(t, "/api/v1/")
	updates := make([]oakra.StockUpdate, len(ids))
	changes := make([]oakra.StockChange, len(ids))
	want := make([]oakra.StockRecord, len(ids))
	for i, id := range ids {
		updates[i] = oakra.StockUpdate{ID: id, Quantity: numbers[i]}
		changes[i] = oakra.StockChange{ID: id, QuantityChange: numbers[i]}
		want[i] = oakra.StockRecord{ID: id, SKU: "s", LocationID: "l", Quantity: numbers[i]}
	}
	updated, err := client.Stock.Update(t.Context(), updates)
	require.NoError(t, err)
	require.Equal(t, want, updated)
	changed, err := client.Stock.Change(t.Context(), changes)
	require.NoError(t, err)
	require.Equal(t, want, changed)

	require.Equal(t, `{"stock_records":[`+
		`{"id":1,"quantity":0},`+
		`{"id":2,"quantity":1},`+
		`{"id":3,"quantity":-1},`+
		`{"id":4,"quantity":9007199254740993},`+
		`{"id":5,"quantity":-9007199254740993},`+
		`{"id":9007199254740993,"quantity":9223372036854775807},`+
		`{"id":9223372036854775807,"quantity":-9223372036854775808}]}`, server.seen()[0].body)
	require.Equal(t, `{"stock_records":[`+
		`{"id":1,"quantity_change":0},`+
		`{"id":2,"quantity_change":1},`+
		`{"id":3,"quantity_change":-1},`+
		`{"id":4,"quantity_change":9007199254740993},`+
		`{"id":5,"quantity_change":-9007199254740993},`+
		`{"id":9007199254740993,"quantity_change":9223372036854775807},`+
		`{"id":9223372036854775807,"quantity_change":-9223372036854775808}]}`, server.seen()[1].body)
}

// TestWireSKUs: a SKU arrives as the shop wrote it.
func TestWireSKUs(t *testing.T) {
	skus := []string{
		"shirt blue m", " leading and trailing ", "a&b", "a=b", "a/b", "é", "a+b", "100%", "%20", "%zz",
		`"quoted"`, `it's`, "a?b", "a#b", "a;b", `back\slash`, "日本語", "a,b", "[x]", "tab\there", "sku=", "💚", "a\x00b", "bad\xffutf8",
	}
	server := newWireServer(t, func(int, wireRequest) wireResponse { return wireResponse{200, "[]"} })
	client := server.client(t, "/api/v1/")
	for _, sku := range skus {
		_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{sku}, LocationID: "at " + sku})
		require.NoError(t, err, "%q", sku)
	}
	_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: skus})
	require.NoError(t, err)

	requests := server.seen()
	require.Len(t, requests, len(skus)+1)
	for i, sku := range skus {
		require.Equal(t, url.Values{"sku": {sku}, "location_id": {"at " + sku}}, requests[i].query(t))
	}
	require.Equal(t, url.Values{"sku": skus}, requests[len(skus)].query(t))
	for _, request := range requests {
		for _, b := range []byte(request.target()) {
			require.Truef(t, 0x21 <= b && b <= 0x7e, "byte %#x in the request line", b)
		}
	}
}

// splitServer responds with one record for each SKU of the request.
func splitServer(t *testing.T) *wireServer {
	return newWireServer(t, func(_ int, r wireRequest) wireResponse {
		_, raw, _ := strings.Cut(r.target(), "?")
		values, err := url.ParseQuery(raw)
		if err != nil {
			return wireResponse{400, err.Error()}
		}
		var records []string
		for i, sku := range values["sku"] {
			location, _ := json.Marshal(values.Get("location_id"))
			records = append(records, fmt.Sprintf(`{"id":%d,"sku":%q,"location_id":%s,"quantity":0}`, i+1, sku, location))
		}
		return wireResponse{200, "[" + strings.Join(records, ",") + "]"}
	})
}

// longestLine is in bytes, with the line break: servers differ in whether they
// count it.
const longestLine = 4000

func TestWireListSplits(t *testing.T) {
	// SKUs of all lengths, with bytes that are one or three on the wire.
	var mixed []string
	for i := range 900 {
		mixed = append(mixed, fmt.Sprintf("sku %d/%s", i, strings.Repeat("xé", i%40)))
	}
	small := make([]string, 2000)
	for i := range small {
		small[i] = "s" + strconv.Itoa(i)
	}
	tests := []struct {
		name     string
		skus     []string
		location string
		path     string
	}{
		{"mixed", mixed, "", "/api/v1/"},
		{"mixed at a location", mixed, "warehouse-1", "/api/v1/"},
		{"small", small, "", "/api/v1/"},
		{"long location", mixed[:100], strings.Repeat("ort ", 700), "/api/v1/"},
		{"long location of escaped bytes", mixed[:60], strings.Repeat("ö", 550), "/api/v1/"},
		{"long base path", small, "warehouse-1", "/" + strings.Repeat("a%2Fb", 300) + "/api/v1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := splitServer(t)
			// Each SKU twice and more, near and far.
			asked := append(append([]string{tt.skus[0]}, tt.skus...), tt.skus[len(tt.skus)/2], tt.skus[0])
			records, err := server.client(t, tt.path).Stock.List(t.Context(), oakra.StockListParams{SKUs: asked, LocationID: tt.location})
			require.NoError(t, err)

			var arrived []string
			requests := server.seen()
			total := 0
			for i, request := range requests {
				require.LessOrEqual(t, len(request.line()), longestLine)
				require.Equal(t, tt.location, request.query(t).Get("location_id"))
				skus := request.query(t)["sku"]
				require.NotEmpty(t, skus)
				arrived = append(arrived, skus...)
				total += len(request.line())
				if i > 0 {
					// If there were room for it, the SKU would be in the batch before.
					room := longestLine - len(requests[i-1].line())
					require.Greater(t, len("&sku=")+len(url.QueryEscape(skus[0])), room-2)
				}
			}
			require.Greater(t, len(requests), 1)
			require.Equal(t, tt.skus, arrived, "each SKU once, in the order given")
			var got []string
			for _, record := range records {
				got = append(got, record.SKU)
			}
			require.Equal(t, tt.skus, got, "the records in the order of the batches")
		})
	}
}

// TestWireLongestSKU finds the longest SKU that is sent: its line fits, and with
// one byte more nothing is sent.
func TestWireLongestSKU(t *testing.T) {
	for _, tt := range []struct{ name, unit, location string }{
		{"plain", "x", ""},
		{"escaped", "é", ""},
		{"with a location", "x", "warehouse-1"},
		{"with a long location", "x", strings.Repeat("w", 3800)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newWireServer(t, func(int, wireRequest) wireResponse { return wireResponse{200, "[]"} })
			client := server.client(t, "/api/v1/")
			list := func(sku string) error {
				_, err := client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{sku}, LocationID: tt.location})
				return err
			}
			require.NoError(t, list("x"))
			room := longestLine - len(server.seen()[0].line())
			unit := len(url.QueryEscape(tt.unit))

			// Two bytes under the limit must fit whichever way it is counted.
			fitting := "x" + strings.Repeat(tt.unit, (room-2)/unit)
			require.NoError(t, list(fitting))
			require.LessOrEqual(t, len(server.seen()[1].line()), longestLine)

			err := list(fitting + strings.Repeat(tt.unit, 2/unit+1))
			require.ErrorIs(t, err, oakra.ErrInvalidRequest)
			require.Equal(t, oakra.OutcomeNotApplied, oakra.OutcomeOf(err))
			require.Len(t, server.seen(), 2, "nothing of the SKU that is too long was sent")

			// Beside others it gets a request of its own. If it is too long, nothing is
			// sent at all.
			_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a", fitting, "b"}, LocationID: tt.location})
			require.NoError(t, err)
			require.Len(t, server.seen(), 5)
			_, err = client.Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a", fitting + "xxx"}, LocationID: tt.location})
			require.ErrorIs(t, err, oakra.ErrInvalidRequest)
			require.Len(t, server.seen(), 5)
		})
	}
}

// TestWireBasePath: the base URL's path is sent as it was written.
func TestWireBasePath(t *testing.T) {
	for _, row := range []struct{ path, want string }{
		{"", "/stock/stock-records/?sku=a"},
		{"/", "/stock/stock-records/?sku=a"},
		{"/api/v1", "/api/v1/stock/stock-records/?sku=a"},
		{"/api/v1/", "/api/v1/stock/stock-records/?sku=a"},
		{"/shop%2Fnorth/api/v1/", "/shop%2Fnorth/api/v1/stock/stock-records/?sku=a"},
		{"/shop%2Fnorth/api/v1", "/shop%2Fnorth/api/v1/stock/stock-records/?sku=a"},
		{"/shop%2F", "/shop%2F/stock/stock-records/?sku=a"},
		{"/caf%C3%A9/100%25/a%20", "/caf%C3%A9/100%25/a%20/stock/stock-records/?sku=a"},
	} {
		t.Run(strconv.Quote(row.path), func(t *testing.T) {
			server := newWireServer(t, func(int, wireRequest) wireResponse { return wireResponse{200, "[]"} })
			_, err := server.client(t, row.path).Stock.List(t.Context(), oakra.StockListParams{SKUs: []string{"a"}})
			require.NoError(t, err)
			require.Equal(t, row.want, server.seen()[0].target())
		})
	}
}

// TestWireRefusesToSend: what the reference alone shows to be wrong is never sent.
func TestWireRefusesToSend(t *testing.T) {
	server := newWireServer(t, func(int, wireRequest) wireResponse { return wireResponse{200, "[]"} })
	client := server.client(t, "/api/v1/")
	list := func(skus ...string) func() ([]oakra.StockRecord, error) {
		return func() ([]oakra.StockRecord, error) {
			return client.Stock.List(t.Context(), oakra.StockListParams{SKUs: skus})
		}
	}
	update := func(updates ...oakra.StockUpdate) func() ([]oakra.StockRecord, error) {
		return func() ([]oakra.StockRecord, error) { return client.Stock.Update(t.Context(), updates) }
	}
	change := func(changes ...oakra.StockChange) func() ([]oakra.StockRecord, error) {
		return func() ([]oakra.StockRecord, error) { return client.Stock.Change(t.Context(), changes) }
	}
	for _, tt := range []struct {
		name string
		op   string
		call func() ([]oakra.StockRecord, error)
	}{
		{"list nothing", "stock.list", list()},
		{"list an empty SKU", "stock.list", list("")},
		{"list a blank SKU", "stock.list", list("a", " \t ")},
		{"update nothing", "stock.update", update()},
		{"update id 0", "stock.update", update(oakra.StockUpdate{Quantity: 5})},
		{"update id -1", "stock.update", update(oakra.StockUpdate{ID: 1}, oakra.StockUpdate{ID: -1})},
		{"update an id twice", "stock.update", update(oakra.StockUpdate{ID: 2}, oakra.StockUpdate{ID: 1}, oakra.StockUpdate{ID: 2})},
		{"change nothing", "stock.change", change()},
		{"change id 0", "stock.change", change(oakra.StockChange{QuantityChange: 5})},
		{"change an id twice", "stock.change", change(oakra.StockChange{ID: 7}, oakra.StockChange{ID: 7})},
		{"change an id far apart", "stock.change", change(oakra.StockChange{ID: 7}, oakra.StockChange{ID: 9}, oakra.StockChange{ID: 8}, oakra.StockChange{ID: 7})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			records, err := tt.call()
			require.Nil(t, records)
			require.ErrorIs(t, err, oakra.ErrInvalidRequest)
			var e *oakra.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, tt.op, e.Op)
			require.Equal(t, oakra.OutcomeNotApplied, e.Outcome)
			require.Zero(t, e.Attempts)
			require.Zero(t, e.StatusCode)
			require.NotEmpty(t, e.Message)
			require.False(t, oakra.Retryable(err), "it would be refused again")
		})
	}
	require.Empty(t, server.seen())
}
