package oakra

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// body is what a write sends. The memory of a long one is reused for later writes, once
// the call and the transport of every attempt are done with it: a transport may read a
// body until it closes it, even after it has returned a response.
type body struct {
	json   []byte
	ids    []int64 // ids of the items, in their order
	pooled bool
	users  atomic.Int32 // number of users of a pooled one
}

// The lengths of pooled bodies, which have about 1,600 to 25,000 items.
const (
	minPooled = 64 << 10
	maxPooled = 1 << 20
)

var bodies = sync.Pool{New: func() any { return &body{pooled: true} }}

// newBody returns an empty body with room for the given number of items. The caller
// must release it.
func newBody(items int) *body {
	const itemSize = len(`{"id":1234567,"quantity_change":-1234},`)
	length := len(`{"stock_records":[]}`) + items*itemSize
	b := new(body)
	if minPooled <= length && length <= maxPooled {
		b = bodies.Get().(*body)
		b.users.Store(1)
	}
	b.json = slices.Grow(b.json[:0], length)
	b.ids = slices.Grow(b.ids[:0], items)
	return b
}

// add appends an item. member is what comes between its numbers, such as
// `,"quantity":`.
func (b *body) add(id int64, member string, n int64) {
	if len(b.ids) == 0 {
		b.json = append(b.json, `{"stock_records":[{"id":`...)
	} else {
		b.json = append(b.json, `},{"id":`...)
	}
	b.ids = append(b.ids, id)
	b.json = appendInt(b.json, id)
	b.json = append(b.json, member...)
	b.json = appendInt(b.json, n)
}

// emptyList returns the body of a write that changes nothing.
func emptyList() *body { return &body{json: []byte(`{"stock_records":[]}`)} }

func (b *body) end() { b.json = append(b.json, `}]}`...) }

// appendInt is [strconv.AppendInt] in decimal. It writes the digits where they belong,
// since copying a few bytes that were just written would take most of the time.
func appendInt(b []byte, n int64) []byte {
	u := uint64(n)
	if n < 0 {
		b, u = append(b, '-'), -u
	}
	digits := 1
	for rest := u; rest >= 10; rest /= 10 {
		digits++
	}
	end := len(b) + digits
	b = slices.Grow(b, digits)[:end]
	for i := end - 1; i >= end-digits; i-- {
		b[i] = '0' + byte(u%10)
		u /= 10
	}
	return b
}

func (b *body) release() {
	if b.pooled && b.users.Add(-1) == 0 {
		bodies.Put(b)
	}
}

// open returns a reader for one attempt.
func (b *body) open() io.ReadCloser {
	if !b.pooled {
		// net/http knows this type, and sends it in one packet with the header.
		return io.NopCloser(bytes.NewReader(b.json))
	}
	b.users.Add(1)
	return &bodyReader{body: b}
}

// bodyReader reads a pooled body for one attempt. Read and Close may be called
// concurrently.
type bodyReader struct {
	mu   sync.Mutex
	body *body // nil once it is closed
	at   int
}

// Read implements [io.Reader].
func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.body == nil:
		return 0, http.ErrBodyReadAfterClose
	case r.at == len(r.body.json):
		return 0, io.EOF
	}
	n := copy(p, r.body.json[r.at:])
	r.at += n
	return n, nil
}

// Close implements [io.Closer].
func (r *bodyReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.body != nil {
		r.body.release()
		r.body = nil
	}
	return nil
}

// lateBody is the body of an Update that is sent again after an unknown outcome. Once
// sending it might undo a newer number, it refuses to be read, whatever the transport
// waited for before.
type lateBody struct {
	io.ReadCloser
	since time.Time // start of the attempt of unknown outcome
	begun atomic.Bool
}

// Read implements [io.Reader].
func (b *lateBody) Read(p []byte) (int, error) {
	if !b.begun.Load() && updateAge(b.since) > maxUpdateAge {
		return 0, errTooLate
	}
	b.begun.Store(true)
	return b.ReadCloser.Read(p)
}

// updateAge returns how long ago t was, by the wall clock or the monotonic clock,
// whichever says more: the monotonic clock stands still while the machine sleeps.
func updateAge(t time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(t), now.Round(0).Sub(t.Round(0)))
}
