package oakratest

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"

	"github.com/oakra/oakra-go"
)

// response is what the server sends: records, or a body if they are nil.
type response struct {
	status  int
	header  http.Header
	records []oakra.StockRecord
	body    []byte
}

func (f *Fault) response() *response {
	header := f.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "text/html; charset=utf-8")
		if json.Valid([]byte(f.Body)) {
			header.Set("Content-Type", "application/json")
		}
	}
	return &response{status: f.Status, header: header, body: []byte(f.Body)}
}

func ok(records []oakra.StockRecord) *response {
	return &response{status: http.StatusOK, header: jsonHeader(), records: records}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// reject returns an error in the manner of Django REST.
func reject(status int, errors any) *response {
	body, err := json.Marshal(errors)
	if err != nil {
		panic(err)
	}
	return &response{status: status, header: jsonHeader(), body: body}
}

func detail(status int, text string) *response {
	return reject(status, map[string]string{"detail": text})
}

// page returns an HTML page, as a server in front of the API sends it.
func page(status int, text string) *response {
	return &response{
		status: status,
		header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		body: fmt.Appendf(nil, "<!doctype html>\n<html lang=\"en\"><head><title>%s</title></head><body><h1>%[1]s</h1><p>%s</p></body></html>\n",
			http.StatusText(status), html.EscapeString(text)),
	}
}
