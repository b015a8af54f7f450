package oakratest

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"

	"github.com/oakra/oakra-go"
)

// response is what the server sends: n records, which encode writes, or if that is nil
// the body.
type response struct {
	status int
	header http.Header
	n      int
	encode func(n int) []byte // the body of the first n records
	body   []byte
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

func ok(n int, encode func(n int) []byte) *response {
	return &response{status: http.StatusOK, header: jsonHeader(), n: n, encode: encode}
}

// withStock returns a response that shows stock records.
func (x *exchange) withStock(records []oakra.StockRecord) *response {
	return ok(len(records), func(n int) []byte { return x.dialect.encode(x.op, records[:n]) })
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// inJSON returns a response whose body is v.
func inJSON(status int, v any) *response {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &response{status: status, header: jsonHeader(), body: body}
}

// reject returns errors in the manner of Django REST.
func reject(errors any) *response { return inJSON(http.StatusBadRequest, errors) }

// detail returns an error in the manner of Django REST that is not about a field.
func detail(status int, text string) *response {
	return inJSON(status, map[string]string{"detail": text})
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
