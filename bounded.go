package oakra

import (
	"context"
	"io"
	"sync"
	"time"
)

// bounded is the body of a response from a transport that is not net/http's. Such a
// body may ignore its context and even Close. bounded gives up reading and closing when
// the context ends.
type bounded struct {
	ctx   context.Context
	body  io.ReadCloser
	stuck bool // whether a Read that was given up goes on
}

// boundedBuffers holds buffers for reading. The caller's buffer would not do, since a
// Read that was given up may still write to it.
var boundedBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Read implements [io.Reader].
func (b *bounded) Read(p []byte) (int, error) {
	if b.stuck {
		return 0, b.ctx.Err()
	}
	type result struct {
		n     int
		err   error
		panic *workerPanic
	}
	done, buffer := make(chan result, 1), boundedBuffers.Get().(*[32 << 10]byte)
	size := min(len(p), len(buffer))
	go func() {
		var r result
		r.panic = catch(func() { r.n, r.err = b.body.Read(buffer[:size]) })
		done <- r
	}()
	var r result
	select {
	case r = <-done:
	case <-b.ctx.Done():
		timer := time.NewTimer(boundedGrace)
		defer timer.Stop()
		select {
		case r = <-done:
		case <-timer.C:
			b.stuck = true
			return 0, b.ctx.Err()
		}
	}
	if r.panic != nil {
		panic(r.panic)
	}
	copy(p, buffer[:r.n])
	boundedBuffers.Put(buffer)
	return r.n, r.err
}

// boundedGrace is how long a Read may take once its context has ended: what has arrived
// is worth reading, since it says whether a write was applied.
const boundedGrace = 50 * time.Millisecond

// Close implements [io.Closer]. It may wait for a Read that was given up, or for the
// rest of the body.
func (b *bounded) Close() error {
	done := make(chan *workerPanic, 1)
	go func() { done <- catch(func() { b.body.Close() }) }()
	select {
	case p := <-done:
		if p != nil {
			panic(p)
		}
	case <-b.ctx.Done():
	}
	return nil
}
