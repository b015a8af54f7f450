package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/oakra/oakra-go"
)

const (
	opList   = "List"
	opUpdate = "Update"
	opChange = "Change"
)

// listedSKU is the SKU of all records, because a client rejects records that it did not
// request.
const listedSKU = "shirt-blue-123"

// serverRecords returns the records that the server responds with, whatever is
// requested.
func serverRecords(n int) []oakra.StockRecord {
	records := make([]oakra.StockRecord, n)
	for i := range records {
		id := int64(i + 1)
		records[i] = oakra.StockRecord{
			ID:         id,
			LocationID: fmt.Sprintf("warehouse-%d", 1+i%5),
			SKU:        listedSKU,
			Quantity:   100 + id%900,
		}
	}
	return records
}

// bodies holds the bodies of responses in the form of the API reference's examples: an
// array for a list, and an object for a write.
type bodies struct{ list, write []byte }

func newBodies(n int) bodies {
	records := serverRecords(n)
	list, err := json.Marshal(records)
	if err != nil {
		panic(err) // a struct of strings and integers
	}
	write, err := json.Marshal(written{records})
	if err != nil {
		panic(err)
	}
	return bodies{list, write}
}

func (b bodies) to(method string) []byte {
	if method == http.MethodGet {
		return b.list
	}
	return b.write
}

// memory is a transport that responds from memory. It shares only the bytes of the
// bodies, and takes no locks.
type memory struct {
	bodies bodies
	length bool // whether the response has a Content-Length
}

func (m memory) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body != nil {
		_, err := io.Copy(io.Discard, request.Body)
		if err2 := request.Body.Close(); err == nil {
			err = err2
		}
		if err != nil {
			return nil, err
		}
	}
	body := m.bodies.to(request.Method)
	response := &http.Response{
		Status:        "200 OK",
		StatusCode:    http.StatusOK,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: -1,
		Request:       request,
	}
	if m.length {
		response.ContentLength = int64(len(body))
		response.Header["Content-Length"] = []string{strconv.Itoa(len(body))}
	} else {
		response.TransferEncoding = []string{"chunked"}
	}
	return response, nil
}

// newHandler returns the handler of the server. Its base URLs are
//
//	/records/N/        with N records in each response
//	/chunked/N/        the same without Content-Length
//	/bulk/             with the records that were sent, late
func newHandler(sizes []int) http.Handler {
	mux := http.NewServeMux()
	for _, n := range sizes {
		b := newBodies(n)
		mux.HandleFunc(fmt.Sprintf("/records/%d/", n), func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			body := b.to(r.Method)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			_, _ = w.Write(body)
		})
		mux.HandleFunc(fmt.Sprintf("/chunked/%d/", n), func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", "application/json")
			w.(http.Flusher).Flush()
			_, _ = w.Write(b.to(r.Method))
		})
	}
	mux.HandleFunc("/bulk/", serveBulk)
	return mux
}

// The time that the server of the bulk run takes for one request and for each record.
const (
	bulkLatency   = 20 * time.Millisecond
	bulkPerRecord = 20 * time.Microsecond
)

// serveBulk responds to an update with the records that it names. It responds after the
// latency of a real server, in which its own work is included.
func serveBulk(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var update updateBody
	if err := json.Unmarshal(body, &update); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	response := append(make([]byte, 0, 100*len(update.StockRecords)+100), `{"stock_records":[`...)
	for i, u := range update.StockRecords {
		if i > 0 {
			response = append(response, ',')
		}
		response = fmt.Appendf(response, `{"id":%d,"location_id":"warehouse-%d","sku":"shirt-blue-%d","quantity":%d}`,
			u.ID, 1+u.ID%5, u.ID, u.Quantity)
	}
	response = append(response, "]}"...)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(response)))
	time.Sleep(bulkLatency + time.Duration(len(update.StockRecords))*bulkPerRecord - time.Since(start))
	_, _ = w.Write(response)
}

// startServer starts a server on a free port of the loopback interface. The function
// stop waits for the requests that it is handling.
func startServer(handler http.Handler) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }()
	return "http://" + l.Addr().String(), func() { _ = server.Shutdown(context.Background()) }, nil
}
