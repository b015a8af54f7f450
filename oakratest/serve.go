package oakratest

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/oakra/oakra-go"
)

// serve handles a request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil { // the client went away
		s.reset(w)
		return
	}
	x, fault := s.arrive(r, body)
	if a := s.answer(x, fault); a != nil {
		s.send(w, x, a, fault.Kind == CutBody)
	} else {
		s.reset(w)
	}
}

// answer does what a request asks for and what a fault does to it. It returns nil
// if the connection is to be reset.
func (s *Server) answer(x *exchange, fault Fault) *answer {
	if fault.Kind == ApplyLate {
		s.active.Go(func() {
			if s.sleep(fault.Delay) {
				s.handle(x)
			}
		})
		return nil
	}
	if !s.sleep(fault.Delay) {
		return nil
	}
	switch fault.Kind {
	case Refuse, ResetBefore:
		return nil
	case Respond:
		return fault.answer()
	}
	a := s.handle(x)
	if !s.sleep(s.latency(len(a.records))) {
		return nil
	}
	switch fault.Kind {
	case ResetAfter:
		return nil
	case RespondAfter:
		return fault.answer()
	case OmitRecord:
		a.records = a.records[:max(0, len(a.records)-1)]
	}
	if a.records != nil {
		a.body = x.dialect.encode(x.Op, a.records)
	}
	return a
}

// reset ends the connection with a TCP reset.
func (s *Server) reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer s.active.Done() // net/http has forgotten the connection
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// send enters the status in the ledger and sends the answer, all of it or the
// header and half of the body.
func (s *Server) send(w http.ResponseWriter, x *exchange, a *answer, cut bool) {
	s.mu.Lock()
	x.Status = a.status
	s.mu.Unlock()

	header := w.Header()
	maps.Copy(header, a.header)
	flush := http.NewResponseController(w).Flush
	if header.Get("Content-Length") == "" && !x.dialect.Chunked {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if x.dialect.Chunked {
		_ = flush() // or net/http counts the length of a short body
	}
	if cut {
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = flush()
		panic(http.ErrAbortHandler) // ends the connection without a reset, which could overtake the header
	}
	_, _ = w.Write(a.body)
}

// answer is what the server says: records, or if they are nil a body.
type answer struct {
	status  int
	header  http.Header
	records []oakra.StockRecord
	body    []byte
}

func (f *Fault) answer() *answer {
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
	return &answer{status: f.Status, header: header, body: []byte(f.Body)}
}

func ok(records []oakra.StockRecord) *answer {
	return &answer{status: http.StatusOK, header: jsonHeader(), records: records}
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// refuse is an error in the manner of Django REST.
func refuse(status int, errors any) *answer {
	body, err := json.Marshal(errors)
	if err != nil {
		panic(err)
	}
	return &answer{status: status, header: jsonHeader(), body: body}
}

func detail(status int, text string) *answer {
	return refuse(status, map[string]string{"detail": text})
}

// page is an error from before the API, in HTML.
func page(status int, text string) *answer {
	return &answer{
		status: status,
		header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		body: fmt.Appendf(nil, "<!doctype html>\n<html lang=\"en\"><head><title>%s</title></head><body><h1>%[1]s</h1><p>%s</p></body></html>\n",
			http.StatusText(status), html.EscapeString(text)),
	}
}

const maxRequestLine = 4094 // gunicorn's, without the line's end

// handle checks a request and does what it asks for.
func (s *Server) handle(x *exchange) *answer {
	if x.line > maxRequestLine {
		a := page(http.StatusBadRequest, fmt.Sprintf("Request Line is too large (%d > %d)", x.line, maxRequestLine))
		a.header.Set("Connection", "close")
		return a
	}
	path, below := strings.CutPrefix(x.Path, basePath)
	method, known := x.dialect.lookUp(path)
	if !below || !known {
		if _, known := x.dialect.lookUp(path + "/"); below && known {
			a := page(http.StatusMovedPermanently, "")
			to, query, asks := strings.Cut(x.uri, "?")
			if to += "/"; asks {
				to += "?" + query
			}
			a.header.Set("Location", to)
			return a
		}
		return page(http.StatusNotFound, "The requested resource was not found on this server.")
	}
	if x.denied != "" {
		a := detail(http.StatusUnauthorized, x.denied)
		a.header.Set("WWW-Authenticate", `Bearer realm="api"`)
		return a
	}
	if v := x.Header.Get("X-Oakra-Api-Version"); v != oakra.APIVersion {
		return detail(http.StatusBadRequest, fmt.Sprintf("Invalid version %q in the X-OAKRA-API-VERSION header.", v))
	}
	if x.Method != method {
		a := detail(http.StatusMethodNotAllowed, fmt.Sprintf("Method %q not allowed.", x.Method))
		a.header.Set("Allow", method)
		return a
	}
	if x.Op == opList {
		return s.list(x)
	}
	if media, _, _ := mime.ParseMediaType(x.Header.Get("Content-Type")); media != "application/json" {
		return detail(http.StatusUnsupportedMediaType, fmt.Sprintf("Unsupported media type %q in request.", x.Header.Get("Content-Type")))
	}
	return s.write(x)
}

func (s *Server) list(x *exchange) *answer {
	skus := slices.Clone(x.Query["sku"])
	if len(skus) == 0 {
		return refuse(http.StatusBadRequest, map[string][]string{"sku": {"This field is required."}})
	}
	slices.Sort(skus)
	skus = slices.Compact(skus)
	if strings.TrimSpace(skus[0]) == "" {
		return refuse(http.StatusBadRequest, map[string][]string{"sku": {"This field may not be blank."}})
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
				records = append(records, r.StockRecord)
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(records, byID)
	return ok(records)
}

// write applies an update or a change, all of it or nothing.
func (s *Server) write(x *exchange) *answer {
	field := "quantity"
	if x.Op == opChange {
		field = "quantity_change"
	}
	items, problems, refusal := readItems(x.Body, field)
	if refusal != nil {
		return refuse(http.StatusBadRequest, refusal)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	unknown := false
	named := make([]*record, len(items))
	for i := range items {
		item := &items[i] // whose n becomes the new quantity
		r := s.byID[item.id]
		named[i] = r
		switch {
		case problems[i] != nil:
		case r == nil && x.dialect.UnknownIDNotFound:
			unknown = true
		case r == nil:
			problems.add(i, "id", fmt.Sprintf("Invalid pk \"%d\" - object does not exist.", item.id))
		case r.named == x.Request:
			problems.add(i, "id", "This id is given twice.")
		default:
			r.named = x.Request
			if x.Op == opChange {
				sum := r.Quantity + item.n
				if (sum > r.Quantity) != (item.n > 0) {
					problems.add(i, field, outOfRange)
				}
				item.n = sum
			}
		}
	}
	switch {
	case len(problems) > 0:
		return refuse(http.StatusBadRequest, map[string]any{"stock_records": problems.list(len(items))})
	case unknown:
		return detail(http.StatusNotFound, "Not found.")
	}

	x.Applied = make([]Applied, len(items))
	records := make([]oakra.StockRecord, len(items))
	for i, item := range items {
		r := named[i]
		x.Applied[i] = Applied{ID: r.ID, From: r.Quantity, To: item.n}
		r.Quantity = item.n
		records[i] = r.StockRecord
	}
	return ok(records)
}
