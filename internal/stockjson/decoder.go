// Package stockjson decodes the responses of a stock API: an array of stock
// records, or an object whose member stock_records is that array. It reads the
// body as a stream and is strict: a record that lacks a member, has one of the
// wrong kind, or has text that is not Unicode, is an error and never a value that
// the server did not send. A byte order mark before the JSON is ignored.
package stockjson

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

const (
	windowSize = 128 << 10
	headSize   = 64 << 10
	maxValue   = 2 << 20 // windowSize doubled a few times
	maxDepth   = 10000   // as in encoding/json
	maxBlock   = 16 << 10
	maxShared  = 128 // the longest location_id that is shared between records

	byteOrderMark = "\uFEFF"
)

// ErrTooLarge means that the body is over the limit, or one value in it is
// over 2 MiB.
var ErrTooLarge = errors.New("body over its limit, or one value in it over 2 MiB")

// Record is one record of the response.
type Record struct {
	ID         int64  `json:"id"`
	LocationID string `json:"location_id"`
	SKU        string `json:"sku"`
	Quantity   int64  `json:"quantity"`
}

// scratch is what a Decoder borrows. The locations outlive the response, since the next
// one usually has the same. They come first, which saves the garbage collector from
// scanning the window.
type scratch struct {
	locations [1 << 7][4]string // sets by hash, the most recent first
	window    [windowSize]byte
}

var (
	pool  = sync.Pool{New: func() any { return new(scratch) }}
	heads = sync.Pool{New: func() any { return new([headSize]byte) }}
)

// state is how far the decoder is in the body.
type state uint8

const (
	blank   state = iota // only white space so far, perhaps after a byte order mark
	before               // in the top-level object, before its records
	records              // in the array of records
	after                // in the top-level object, after its records
	whole                // after the top-level value
	over                 // failed, cleanly ended or closed
)

// Decoder reads the records of one body.
type Decoder struct {
	r       io.Reader
	limit   int64
	readErr error // why nothing more can be read

	// The window is buf, of which buf[pos:end] is unread; base is the offset of buf[0]
	// in the body. The window is in scratch or, if a value does not fit, in a larger
	// buffer.
	buf      []byte
	pos, end int
	base     int64
	scratch  *scratch
	head     *[headSize]byte // start of the body, once the window has moved on

	state  state
	object bool // whether the top-level value is an object
	cut    bool
	misses uint32 // number of calls of next, for a test
	err    error

	nextPage string

	count  int             // number of records so far
	skus   strings.Builder // the block the next SKU is appended to
	length int             // length of that block
}

// NewDecoder returns a Decoder of the body r, of which it reads at most limit
// bytes. It borrows its window from a pool: Close must be called.
func NewDecoder(r io.Reader, limit int64) *Decoder {
	return &Decoder{r: r, limit: limit, scratch: pool.Get().(*scratch)}
}

// Close gives the window back. It does not close the reader.
func (d *Decoder) Close() {
	d.base, d.pos, d.end = d.Offset(), 0, 0
	d.state, d.buf = over, nil
	if d.scratch != nil {
		pool.Put(d.scratch)
		d.scratch = nil
	}
	if d.head != nil {
		heads.Put(d.head)
		d.head = nil
	}
}

// Err says why Next returned false. It is nil if the body is one complete value with
// only white space after it, and was read up to io.EOF. An error in a record names it:
// by its number, counted from 1, and by its SKU and id if they can be read, before or
// after the error.
func (d *Decoder) Err() error { return d.err }

// Count returns how many records Next has returned. Each of them was read
// completely, and all its members are valid.
func (d *Decoder) Count() int { return d.count }

// NextPage returns the text of the member next of the top-level object, with which the
// server says that there are more records than these. It is empty if there is no such
// member or it is not a string. The member may come after the records: call NextPage
// after Next has returned false.
func (d *Decoder) NextPage() string { return d.nextPage }

// Cut reports whether the cause of Err is that the body ended too soon: the reader
// failed, or io.EOF came inside the value. A blank body is not cut, and neither is one
// whose compression is corrupt.
func (d *Decoder) Cut() bool { return d.cut }

// Offset returns how many bytes of the body were consumed.
func (d *Decoder) Offset() int64 { return d.base + int64(d.pos) }

// Head returns the bytes read so far from the start of the body, at most 64 KiB. They
// are valid until Close.
func (d *Decoder) Head() []byte {
	if d.head != nil {
		return d.head[:]
	}
	return d.buf[:min(d.end, headSize)]
}

// Next reads the next record into r and reports whether there was one. If not, r is
// left unchanged. The strings of r may be kept.
func (d *Decoder) Next(r *Record) bool {
	if d.state == blank {
		d.open()
	}
	if d.state != records {
		return false
	}
	if b := d.buf[d.pos:d.end]; d.count == 0 || len(b) > 0 && b[0] == ',' {
		i := space(b, min(d.count, 1)) // the first record has no comma
		if n := d.fast(b[i:], r); n > 0 {
			d.pos += i + n
			d.count++
			return true
		}
	}
	return d.next(r)
}

// open reads up to the first record.
func (d *Decoder) open() {
	for d.end < len(byteOrderMark) && strings.HasPrefix(byteOrderMark, string(d.buf[:d.end])) {
		if !d.fill() {
			d.ended()
			return
		}
	}
	if bytes.HasPrefix(d.buf[:d.end], []byte(byteOrderMark)) {
		d.pos = len(byteOrderMark)
	}
	switch d.peek() {
	case '[':
		d.pos++
		d.state = records
	case '{':
		d.pos++
		d.object, d.state = true, before
		if !d.members(true) {
			d.fail(`object without "stock_records"`)
		}
	default:
		d.want("an array or an object")
	}
}

// members reads members of the top-level object, up to the first record (then
// it returns true) or to the end of the object.
func (d *Decoder) members(first bool) bool {
	for ; ; first = false {
		c := d.peek()
		if c == '}' {
			d.pos++
			return false
		}
		if !first {
			if c != ',' {
				return d.want("a comma or the end of the object")
			}
			d.pos++
			c = d.peek()
		}
		if c != '"' {
			return d.want("a key")
		}
		key := d.value()
		if key == nil {
			return false
		}
		if !json.Valid(key) {
			return d.invalid(key)
		}
		name, wrong := text(key)
		if wrong != "" {
			return d.fail("%s: key %s at byte %d %s", d.where(), show(key), d.Offset(), wrong)
		}
		found, page := string(name) == "stock_records", string(name) == "next"
		if found && d.state == after {
			return d.fail(`"stock_records" twice, again at byte %d`, d.Offset())
		}
		d.pos += len(key)
		if d.peek() != ':' {
			return d.want("a colon")
		}
		d.pos++
		switch c = d.peek(); {
		case found && c == '[':
			d.pos++
			d.state = records
			return true
		case found && d.state != over:
			return d.want(`an array as "stock_records"`)
		case c == ',' || c == '}' || c == ']':
			return d.want("a value")
		}
		v := d.value()
		if v == nil {
			return false
		}
		if !json.Valid(v) {
			return d.invalid(v)
		}
		if page && v[0] == '"' {
			next, wrong := text(v)
			if wrong != "" {
				return d.fail("%s: next: %s at byte %d %s", d.where(), show(v), d.Offset(), wrong)
			}
			if len(next) > 0 {
				d.nextPage = string(next)
			}
		}
		d.pos += len(v)
	}
}

// next does what Next does where the fast path cannot go on: at the end of the window
// or of the array, and at anything unusual.
func (d *Decoder) next(r *Record) bool {
	d.misses++
	c := d.peek()
	if c == ']' {
		d.pos++
		d.finish()
		return false
	}
	if d.count > 0 {
		if c != ',' {
			return d.want("a comma or the end of the array")
		}
		d.pos++
		c = d.peek()
	}
	if c != '{' {
		return d.want("an object")
	}
	b := d.value()
	if b == nil || d.fast(b, r) == 0 && !d.slow(b, r) {
		return false
	}
	d.pos += len(b)
	d.count++
	return true
}

// finish reads what follows the array of records.
func (d *Decoder) finish() {
	if d.object {
		d.state = after
		if d.members(false); d.state == over {
			return
		}
	}
	d.state = whole
	if d.peek(); d.pos < d.end {
		d.want("the end of the body")
	}
	d.state = over
}

// peek returns the next byte that is not white space and leaves it unread. At the end
// of the body it fails and returns 0, which equals no byte that a caller compares it
// with.
func (d *Decoder) peek() byte {
	for {
		d.pos += space(d.buf[d.pos:d.end], 0)
		if d.pos < d.end {
			return d.buf[d.pos]
		}
		if !d.fill() {
			d.ended()
			return 0
		}
	}
}

// value returns the next value and leaves it unread; nil if it failed. Its
// syntax is not checked yet.
func (d *Decoder) value() []byte {
	e := extent{left: maxDepth - 1}
	if d.object && d.state == records {
		e.left--
	}
	for !e.scan(d.buf[d.pos:d.end]) {
		if e.left < 0 {
			d.fail("%s: nested too deeply at byte %d", d.where(), d.Offset()+int64(e.n))
			return nil
		}
		if d.fill() {
			continue
		}
		// A body that was broken before it ended is not cut. Since the value may be a
		// number, which could go on, the check puts it into an array.
		part := d.buf[d.pos:d.end]
		array := io.MultiReader(strings.NewReader("["), bytes.NewReader(part))
		var syntax *json.SyntaxError
		if !errors.Is(d.readErr, ErrTooLarge) && errors.As(json.NewDecoder(array).Decode(new(json.RawMessage)), &syntax) {
			d.invalid(part)
		} else {
			d.ended()
		}
		return nil
	}
	return d.buf[d.pos : d.pos+e.n]
}

// fill reads more of the body into the window, after what is unread. It returns false
// if there is no more, and then readErr says why.
func (d *Decoder) fill() bool {
	if d.readErr != nil {
		return false
	}
	if d.buf == nil {
		d.buf = d.scratch.window[:]
	}
	if d.end == len(d.buf) && !d.room() {
		return false
	}
	free := d.buf[d.end:]
	left := max(d.limit-d.base-int64(d.end), 0)
	if left < int64(len(free)) {
		free = free[:left+1] // one byte more shows if the body is over the limit
	}
	for range 100 {
		n, err := d.r.Read(free)
		if int64(n) > left {
			n, err = int(left), ErrTooLarge
		}
		d.end += n
		d.readErr = err
		if n > 0 || err != nil {
			return n > 0
		}
	}
	d.readErr = io.ErrNoProgress
	return false
}

// room makes room in a full window, by dropping what is read or by growing.
func (d *Decoder) room() bool {
	if d.head == nil {
		d.head = heads.Get().(*[headSize]byte)
		copy(d.head[:], d.buf)
	}
	rest := d.buf[d.pos:d.end]
	switch len(rest) {
	case maxValue:
		d.readErr = ErrTooLarge
		return false
	case len(d.buf):
		d.buf = make([]byte, 2*len(d.buf))
	}
	d.base += int64(d.pos)
	d.pos, d.end = 0, copy(d.buf, rest)
	return true
}

// location returns b as a string, if possible one that was returned before.
func (d *Decoder) location(b []byte) string {
	if len(b) > maxShared {
		return string(b)
	}
	sets := &d.scratch.locations
	set := &sets[hash(b)>>57]
	for _, s := range set {
		if s == string(b) {
			return s
		}
	}
	s := string(b)
	copy(set[1:], set[:])
	set[0] = s
	return s
}

// hash returns a hash of b, good enough for a cache, in its high bits.
func hash(b []byte) uint64 {
	const k = 0x9e3779b97f4a7c15
	h := uint64(len(b))
	if len(b) < 8 {
		for _, c := range b {
			h = (h<<8 | uint64(c))
		}
		return h * k
	}
	for ; len(b) > 8; b = b[min(8, len(b)-8):] {
		h = (h ^ binary.LittleEndian.Uint64(b)) * k
		h ^= h >> 32
	}
	return (h ^ binary.LittleEndian.Uint64(b)) * k
}

// sku returns b as a string, cut from a block that it shares with its
// neighbours. The blocks start small, for small responses.
func (d *Decoder) sku(b []byte) string {
	if len(b) > maxBlock/16 {
		return string(b)
	}
	if d.skus.Len()+len(b) > d.length {
		d.length = max(32, len(b), min(4*d.length, maxBlock))
		d.skus.Reset()
		d.skus.Grow(d.length)
	}
	d.skus.Write(b)
	s := d.skus.String()
	return s[len(s)-len(b):]
}

// ended fails because the body ended, unless it may end here.
func (d *Decoder) ended() {
	if d.readErr == io.EOF { //nolint:errorlint // an error that wraps io.EOF is not the end of a body
		if d.state != whole {
			d.cut = d.state != blank
			d.fail("body ended after %d bytes, %s: %w", d.base+int64(d.end), d.where(), io.ErrUnexpectedEOF)
		}
		return
	}
	var corrupt flate.CorruptInputError
	d.cut = !errors.Is(d.readErr, ErrTooLarge) && !errors.Is(d.readErr, gzip.ErrHeader) &&
		!errors.Is(d.readErr, gzip.ErrChecksum) && !errors.As(d.readErr, &corrupt)
	d.fail("reading stopped after %d bytes, %s: %w", d.base+int64(d.end), d.where(), d.readErr)
}

// want fails because the next bytes are not what.
func (d *Decoder) want(what string) bool {
	return d.fail("%s: %s at byte %d, want %s", d.where(), excerpt(d.buf[d.pos:d.end]), d.Offset(), what)
}

// invalid fails because b, the next bytes, is not valid JSON.
func (d *Decoder) invalid(b []byte) bool {
	at := 0
	err := json.Unmarshal(b, new(json.RawMessage))
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = max(int(syntax.Offset)-1, 0)
	}
	return d.fail("%s: %s at byte %d: %w", d.where(), excerpt(b[at:]), d.Offset()+int64(at), err)
}

// fail sets the error, if it is the first, and returns false.
func (d *Decoder) fail(format string, args ...any) bool {
	if d.state != over {
		d.err, d.state = fmt.Errorf(format, args...), over
	}
	return false
}

// where returns how far the decoder is, for an error.
func (d *Decoder) where() string {
	switch {
	case d.state == records && d.pos < d.end:
		return "inside " + d.record()
	case d.state == records:
		return fmt.Sprintf("after %d records", d.count)
	}
	return [...]string{blank: "at the start", before: "before the records",
		after: "after the records", whole: "after the value", over: ""}[d.state]
}
