package oakra

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

// bounded is the body of a response of a caller's own kind of transport, which may
// ignore its context and even Close. It gives up reading and closing when the context
// ends.
type bounded struct {
	ctx      context.Context
	body     io.ReadCloser
	requests chan int     // number of bytes to read next, or closeBody
	results  chan readEnd // one for each request
	buffer   *[32 << 10]byte
	gone     bool // the goroutine that reads is not waited for any more
}

// readEnd is how a Read or a Close of the body ended.
type readEnd struct {
	n     int
	err   error
	panic *workerPanic
}

const closeBody = -1

// boundedGrace is how long a Read may take once its context has ended: what is there
// already is worth reading, since it says whether a write was applied.
const boundedGrace = 50 * time.Millisecond

// boundedBuffers are for what is read, since a Read that was given up may still write.
var boundedBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// newBounded returns a body that has to be closed. Only one goroutine may use it.
func newBounded(ctx context.Context, body io.ReadCloser) *bounded {
	b := &bounded{
		ctx: ctx, body: body,
		requests: make(chan int, 1), results: make(chan readEnd, 1),
		buffer: boundedBuffers.Get().(*[32 << 10]byte),
	}
	go b.work()
	return b
}

// ofReader is the type of a body that [io.NopCloser] makes of bytes in memory.
var ofReader = reflect.TypeOf(io.NopCloser(new(bytes.Reader)))

// inMemory reports whether reading a body cannot wait, as of most mocks. Then it needs
// no goroutine of its own.
func inMemory(body io.ReadCloser) bool {
	if reflect.TypeOf(body) != ofReader {
		return body == http.NoBody
	}
	switch reflect.ValueOf(body).Field(0).Interface().(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader:
		return true
	}
	return false
}

// work reads and closes the body, as requested.
func (b *bounded) work() {
	for size := range b.requests {
		var end readEnd
		end.panic = catch(func() {
			if size == closeBody {
				end.err = b.body.Close()
			} else {
				end.n, end.err = b.body.Read(b.buffer[:size])
			}
		})
		b.results <- end
	}
}

// Read implements [io.Reader].
func (b *bounded) Read(p []byte) (int, error) {
	if b.gone {
		return 0, b.ctx.Err()
	}
	b.requests <- min(len(p), len(b.buffer))
	var end readEnd
	select {
	case end = <-b.results:
	case <-b.ctx.Done():
		timer := time.NewTimer(boundedGrace)
		defer timer.Stop()
		select {
		case end = <-b.results:
		case <-timer.C:
			b.leave()
			return 0, b.ctx.Err()
		}
	}
	if end.panic != nil {
		panic(end.panic)
	}
	copy(p, b.buffer[:end.n])
	return end.n, end.err
}

// leave ends the goroutine that reads, once it has done what was requested.
func (b *bounded) leave() {
	b.gone = true
	close(b.requests)
}

// Close implements [io.Closer]. It does not wait for a Read that was given up, nor,
// once the context has ended, for a transport that reads the rest of the body.
func (b *bounded) Close() error {
	if b.gone {
		go func() { _ = catch(func() { b.body.Close() }) }() // which may end the Read
		return nil
	}
	b.requests <- closeBody
	b.leave()
	select {
	case end := <-b.results:
		if end.panic != nil {
			panic(end.panic)
		}
		boundedBuffers.Put(b.buffer)
	case <-b.ctx.Done():
	}
	return nil
}
