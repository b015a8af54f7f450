package oakratest

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/oakra/oakra-go"
)

const maxRequestLine = 4094 // gunicorn's default, without the line's end

// handle checks a request and does what it asks for.
func (s *Server) handle(x *exchange) *response {
	if x.line > maxRequestLine {
		resp := page(http.StatusBadRequest, fmt.Sprintf("Request Line is too large (%d > %d)", x.line, maxRequestLine))
		resp.header.Set("Connection", "close")
		return resp
	}
	path, below := strings.CutPrefix(x.Path, basePath)
	method, known := x.dialect.lookUp(path)
	if !below || !known {
		if _, known := x.dialect.lookUp(path + "/"); below && known {
			resp := page(http.StatusMovedPermanently, "")
			to, query, asks := strings.Cut(x.uri, "?")
			if to += "/"; asks {
				to += "?" + query
			}
			resp.header.Set("Location", to)
			return resp
		}
		return x.dialect.UnknownPath.respond(x)
	}
	if x.denied != "" {
		resp := detail(http.StatusUnauthorized, x.denied)
		resp.header.Set("WWW-Authenticate", `Bearer realm="api"`)
		return resp
	}
	if v := x.Header.Get("X-Oakra-Api-Version"); v != oakra.APIVersion {
		return detail(http.StatusBadRequest, fmt.Sprintf("Invalid version %q in the X-OAKRA-API-VERSION header.", v))
	}
	if x.Method != method {
		resp := detail(http.StatusMethodNotAllowed, fmt.Sprintf("Method %q not allowed.", x.Method))
		resp.header.Set("Allow", method)
		return resp
	}
	if x.op == opList {
		return s.list(x)
	}
	if media, _, _ := mime.ParseMediaType(x.Header.Get("Content-Type")); media != "application/json" {
		return detail(http.StatusUnsupportedMediaType, fmt.Sprintf("Unsupported media type %q in request.", x.Header.Get("Content-Type")))
	}
	switch x.op {
	case opCancel:
		return s.cancel(x)
	case opInit:
		return s.initiate(x)
	}
	return s.write(x)
}

func (s *Server) list(x *exchange) *response {
	skus := slices.Clone(x.Query["sku"])
	if len(skus) == 0 {
		return reject(map[string][]string{"sku": {"This field is required."}})
	}
	slices.Sort(skus)
	skus = slices.Compact(skus)
	if strings.TrimSpace(skus[0]) == "" {
		return reject(map[string][]string{"sku": {"This field may not be blank."}})
	}
	location := ""
	if all := x.Query["location_id"]; len(all) > 0 {
		location = all[len(all)-1]
	}

	s.mu.Lock()
	records := make([]oakra.StockRecord, 0, len(skus))
	for _, sku := range skus {
		for _, r := range s.bySKU[sku] {
			if location == "" || r.LocationID == location {
				records = append(records, r.shown())
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(records, byID)
	return x.withStock(records)
}
