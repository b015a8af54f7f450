package oakra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/oakra/oakra-go/internal/stockjson"
)

const (
	maxBody      = 64 << 20    // bytes of a 2xx, after decompression
	maxErrorBody = 64 << 10    // kept of any other response
	errorBodyFor = time.Second // longest wait for it, since the status has decided already
)

// decoder reads the body of a 2xx, and keeps what it reads for the caller.
type decoder interface {
	// decode returns nil if the response is all that it should be.
	decode(c *call, response *http.Response) *Error
}

// read reads a response to its end, and returns nil if it reports success. ctx is the
// attempt's.
func (c *call) read(ctx context.Context, cancel context.CancelFunc, response *http.Response) *Error {
	body := response.Body
	if body == nil {
		body = http.NoBody
	}
	if !c.client.heeds && !inMemory(body) {
		body = newBounded(ctx, body)
	}
	response.Body = body
	defer body.Close()
	defer func() { response.Body = http.NoBody }()
	var e *Error
	if response.StatusCode/100 == 2 && response.StatusCode != http.StatusAccepted && c.decoder != nil {
		e = c.decoder.decode(c, response)
	} else {
		e = c.readError(response, body, cancel)
	}
	if e != nil {
		e.Header = response.Header
		c.keys.seen.redact(e)
		e.Body = e.Body[:min(len(e.Body), maxErrorBody):min(len(e.Body), maxErrorBody)]
	}
	return e
}

// stockRecords decodes the records of a response.
type stockRecords struct {
	ids        []int64  // ids of a write: each has to be there
	skus       []string // SKUs of a List: no others may be there, unless it is nil
	locationID string   // location of a List: no other may be there, unless it is empty
	records    []StockRecord
}

func (s *stockRecords) decode(c *call, response *http.Response) *Error {
	if c.effect == reads {
		if err := notWhole(response.Header); err != nil {
			return c.badResponse(response, bodyRow(false, errors.Is(err, errCached)), err) // another read may be fresh
		}
	}
	d := stockjson.NewDecoder(response.Body, maxBody)
	defer d.Close()
	records, err := decode(d, response.ContentLength)
	multi := response.StatusCode == http.StatusMultiStatus
	if err != nil {
		r := bodyRow(len(records) > 0, d.Cut())
		if multi { // whatever it holds
			r = row{OutcomeUnknown, none}
		}
		e := c.badResponse(response, r, c.withContext(err))
		e.cut = d.Cut()
		if multi && c.effect != reads {
			e.Records = records
		}
		e.setBody(bytes.Clone(d.Head()), len(records) == 0)
		return e
	}
	missing := missingIDs(s.ids, records)
	switch {
	case multi:
		err = errMultiStatus
	case len(missing) > 0:
	case c.effect == reads && d.NextPage() != "":
		err = errPages
	case c.effect == reads:
		err = s.checkAsked(records)
	}
	if err != nil || len(missing) > 0 {
		e := c.badResponse(response, bodyRow(false, false), err)
		e.setBody(bytes.Clone(d.Head()), len(records) == 0)
		if c.effect != reads {
			e.MissingIDs, e.Records = missing, records
		}
		return e
	}
	s.records = records
	return nil
}

var (
	errCached      = errors.New("the response is a cache's, and not the service's own")
	errPages       = errors.New("the list has further pages, which this client does not know how to read")
	errMultiStatus = errors.New("207 Multi-Status does not say what was applied")
)

// notWhole returns why the header of a response to a List shows that it cannot be
// believed: a cache may have kept it (RFC 9111, section 5.1), or it is one page of
// several (RFC 8288).
func notWhole(header http.Header) error {
	if age := header.Get("Age"); age != "" && strings.Trim(age, "0 ") != "" {
		return fmt.Errorf("%w: its Age is %.20q", errCached, age)
	}
	for _, link := range header["Link"] {
		for _, parameter := range strings.Split(link, ";") {
			name, value, _ := strings.Cut(strings.SplitN(parameter, ",", 2)[0], "=")
			if strings.EqualFold(strings.TrimSpace(name), "rel") && slices.ContainsFunc(strings.Fields(strings.Trim(strings.TrimSpace(value), `"`)),
				func(rel string) bool { return strings.EqualFold(rel, "next") }) {
				return errPages
			}
		}
	}
	return nil
}

// checkAsked returns an error that names the first record that was not requested.
// A server may compare SKUs without regard to case.
func (s *stockRecords) checkAsked(records []StockRecord) error {
	if s.skus == nil {
		return nil
	}
	var asked map[string]struct{}
	last := 0 // index in skus of the previous record's SKU
	for i := range records {
		r := &records[i]
		if s.locationID != "" && r.LocationID != s.locationID && !strings.EqualFold(r.LocationID, s.locationID) {
			return fmt.Errorf("record %d, SKU %.40q, is at location %.40q, and %.40q was requested", i+1, r.SKU, r.LocationID, s.locationID)
		}
		if r.SKU == s.skus[last] {
			continue
		}
		if last+1 < len(s.skus) && r.SKU == s.skus[last+1] {
			last++
			continue
		}
		if asked == nil {
			asked = make(map[string]struct{}, len(s.skus))
			for _, sku := range s.skus {
				asked[foldCase(sku)] = struct{}{}
			}
		}
		if _, ok := asked[foldCase(r.SKU)]; !ok {
			return fmt.Errorf("record %d has SKU %.40q, which was not requested", i+1, r.SKU)
		}
	}
	return nil
}

// foldCase returns the same text for all that [strings.EqualFold] takes for equal.
func foldCase(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
			least = min(least, other)
		}
		return least
	}, s)
}

// badResponse returns the error of a 2xx that cannot be taken for a success.
func (c *call) badResponse(response *http.Response, r row, problem error) *Error {
	e := c.newError(r)
	e.StatusCode, e.Err = response.StatusCode, ErrBadResponse
	if problem != nil {
		e.Err = fmt.Errorf("%w: %w", ErrBadResponse, problem)
	}
	return e
}

// readError reads a response of any other status.
func (c *call) readError(response *http.Response, body io.ReadCloser, cancel context.CancelFunc) *Error {
	var text []byte
	var cut error
	if response.StatusCode != http.StatusSwitchingProtocols { // whose body is the connection
		timer := time.AfterFunc(errorBodyFor, cancel)
		// A little more than is kept, lest a key is cut in two at the end.
		text, cut = io.ReadAll(io.LimitReader(body, maxErrorBody+1024))
		timer.Stop()
	}

	e := c.newError(statusRow(response.StatusCode))
	e.StatusCode = response.StatusCode
	e.RetryAfter, e.note = retryAfter(response.Header, time.Now())
	e.cut = cut != nil
	e.setBody(text, true)
	switch e.StatusCode / 100 {
	case 2:
		e.Err = ErrBadResponse
	case 3:
		if to := c.redirectTarget(response); to != "" {
			e.Message = strings.TrimPrefix(e.Message+"; it points to "+to+", which is not followed", "; ")
		}
	}
	return e
}

// redirectTarget returns where a redirect points, without query or user.
func (c *call) redirectTarget(response *http.Response) string {
	to, err := url.Parse(response.Header.Get("Location"))
	if err != nil || *to == (url.URL{}) {
		return ""
	}
	to = c.route.url.ResolveReference(to)
	text := (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String()
	// A key may be escaped there, also twice.
	for plain, n := text, 0; n < 3; n++ {
		if c.keys.seen.text(plain) != plain {
			return "an address with the app key in it"
		}
		if plain, err = url.PathUnescape(plain); err != nil {
			break
		}
	}
	const longest = 200
	return text[:min(len(text), longest)]
}

// decode reads all records of a response whose body has length bytes, or -1 if
// that is not known.
func decode(d *stockjson.Decoder, length int64) ([]StockRecord, error) {
	var full [][]StockRecord // before records, if the length is not known
	records := make([]StockRecord, 0, expected(length))
	for {
		n := len(records)
		switch {
		case n < cap(records):
		case length > 0:
			records = slices.Grow(records, min(more(n, d.Offset(), length), mostGrowth*n))
		default:
			full, records = append(full, records), make([]StockRecord, 0, min(2*n, maxChunk))
			n = 0
		}
		if records = records[:n+1]; !d.Next((*stockjson.Record)(&records[n])) {
			records = records[:n]
			break
		}
	}
	if full != nil {
		records = slices.Concat(append(full, records)...)
	}
	return records, d.Err()
}

const (
	minRecord = 64   // bytes, of a short one
	sample    = 256  // records, to learn their size from
	maxChunk  = 4096 // records

	// mostGrowth bounds what the length alone makes room for, since it may be a lie:
	// this many times the records received so far.
	mostGrowth = 8
)

// expected guesses how many records to make room for at first.
func expected(length int64) int {
	if length <= 0 {
		return 8
	}
	return int(min(length/minRecord, sample)) + 1
}

// more guesses how many records will follow, from the size of those received: a slice
// that grows step by step costs twice the memory.
func more(have int, offset, length int64) int {
	left := max(0, min(length, maxBody)-offset)
	return int(float64(left)/float64(offset)*float64(have)*1.02) + 1
}

// missingIDs returns which of the ids have no record. Servers respond in the order
// of the request, and then no map is needed.
func missingIDs(ids []int64, records []StockRecord) []int64 {
	for len(ids) > 0 && len(records) > 0 && ids[0] == records[0].ID {
		ids, records = ids[1:], records[1:]
	}
	if len(ids) == 0 {
		return nil
	}
	here := make(map[int64]struct{}, len(records))
	for i := range records {
		here[records[i].ID] = struct{}{}
	}
	var missing []int64
	for _, id := range ids {
		if _, ok := here[id]; !ok {
			missing = append(missing, id)
		}
	}
	return missing
}
