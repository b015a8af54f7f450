package oakra

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/oakra/oakra-go/internal/stockjson"
)

const (
	maxBody      = 64 << 20    // of a 2xx, after decompression
	maxErrorBody = 64 << 10    // kept of any other response
	errorBodyFor = time.Second // longest wait for that; the status has decided already
)

// decoder reads the body of a 2xx, and keeps what it reads for the caller.
type decoder interface {
	// decode returns nil if the body is all that it should be.
	decode(c *call, response *http.Response) *Error
}

// read reads a response, and returns nil if it reports success.
func (c *call) read(response *http.Response, cancel context.CancelFunc) *Error {
	if response.StatusCode/100 == 2 && response.StatusCode != http.StatusAccepted && c.decoder != nil {
		return c.decoder.decode(c, response)
	}
	return c.readError(response, cancel)
}

// stockRecords decodes the records of a response. Those of the ids have to be there.
type stockRecords struct {
	ids     []int64
	records []StockRecord
}

func (s *stockRecords) decode(c *call, response *http.Response) *Error {
	d := stockjson.NewDecoder(response.Body, maxBody)
	defer d.Close()
	records, err := decode(d, response.ContentLength)
	if err != nil {
		e := c.newError(bodyRow(d.Began(), d.Cut()))
		e.StatusCode = response.StatusCode
		e.Err = fmt.Errorf("%w: %w", ErrBadResponse, c.keys.seen.err(c.withContext(err)))
		c.setBody(e, bytes.Clone(d.Head()), !d.Began())
		return e
	}
	if missing := missingIDs(s.ids, records); len(missing) > 0 {
		e := c.newError(bodyRow(false, false))
		e.StatusCode, e.Err = response.StatusCode, ErrBadResponse
		e.MissingIDs, e.Records = missing, records
		c.setBody(e, bytes.Clone(d.Head()), !d.Began())
		return e
	}
	s.records = records
	return nil
}

// readError reads a response of any other status.
func (c *call) readError(response *http.Response, cancel context.CancelFunc) *Error {
	var text []byte
	if body := response.Body; response.StatusCode != http.StatusSwitchingProtocols { // whose body is the connection
		timer := time.AfterFunc(errorBodyFor, func() {
			cancel()
			body.Close() // for one that ignores the context
		})
		// A little more than is kept, lest a key is cut in two at the end.
		text, _ = io.ReadAll(io.LimitReader(body, maxErrorBody+1024))
		timer.Stop()
	}

	e := c.newError(statusRow(response.StatusCode))
	e.StatusCode = response.StatusCode
	e.RetryAfter = parseRetryAfter(response.Header.Get("Retry-After"), time.Now())
	c.setBody(e, text, true)
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

// setBody puts the body on the error and, where it can hold one, reads the
// server's message from it.
func (c *call) setBody(e *Error, body []byte, message bool) {
	e.Body = c.keys.seen.body(body)
	if message {
		e.json = e.readMessage(e.Body) || looksLikeJSON(e.Body)
		c.keys.seen.message(e)
	}
	if len(e.Body) > maxErrorBody {
		e.Body = e.Body[:maxErrorBody:maxErrorBody]
	}
}

// looksLikeJSON is for a body of which only the beginning was read.
func looksLikeJSON(body []byte) bool {
	body = bytes.TrimLeft(body, " \t\r\n")
	return len(body) >= maxErrorBody && (body[0] == '{' || body[0] == '[')
}

// redirectTarget returns where a redirect points, without query or user.
func (c *call) redirectTarget(response *http.Response) string {
	to, err := url.Parse(response.Header.Get("Location"))
	if err != nil || *to == (url.URL{}) {
		return ""
	}
	to = c.route.url.ResolveReference(to)
	twice, _ := url.PathUnescape(to.Path)
	for _, text := range []string{to.Host, to.Path, twice} {
		if c.keys.seen.in(text) {
			return "an address with the app key in it"
		}
	}
	const longest = 200
	text := (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String()
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
			records = slices.Grow(records, more(n, d.Offset(), length))
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
)

// expected guesses how many records to make room for at first.
func expected(length int64) int {
	if length <= 0 {
		return 8
	}
	return int(min(length/minRecord, sample)) + 1
}

// more guesses how many records are to come, from the size of those that have
// been: a slice that grows step by step costs twice the memory.
func more(have int, offset, length int64) int {
	left := max(0, min(length, maxBody)-offset)
	return int(float64(left)/float64(offset)*float64(have)*1.02) + 1
}

// missingIDs returns which of the ids have no record. Servers answer in the
// order of the request, where no map is needed.
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
