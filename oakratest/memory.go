package oakratest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memoryListener accepts the connections that its dial method makes. They need no
// network. All waiting is on channels and condition variables, as a bubble of
// testing/synctest requires.
type memoryListener struct {
	addr   net.Addr
	dialed chan net.Conn
	closed chan struct{}
	close  sync.Once
}

var _ net.Listener = (*memoryListener)(nil)

func newMemoryListener(addr net.Addr) *memoryListener {
	return &memoryListener{addr: addr, dialed: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements [net.Listener].
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.dialed:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *memoryListener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *memoryListener) Addr() net.Addr { return l.addr }

// dial connects to the listener. Its errors are those of a dial over TCP.
func (l *memoryListener) dial(ctx context.Context) (net.Conn, error) {
	toServer, toClient := newStream(), newStream()
	server := &memoryConn{in: toServer, out: toClient, addr: l.addr}
	client := &memoryConn{in: toClient, out: toServer, addr: l.addr}
	select {
	case l.dialed <- server:
		return client, nil
	case <-l.closed:
		return nil, refused(l.addr)
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: l.addr.Network(), Addr: l.addr, Err: ctx.Err()}
	}
}

// refused returns the error of dialing a port where nobody listens.
func refused(addr net.Addr) error {
	return &net.OpError{Op: "dial", Net: addr.Network(), Addr: addr, Err: os.NewSyscallError(syscallName("connect"), errRefused)}
}

// memoryConn is one end of a connection in memory. It behaves as a TCP connection
// does, except that a write never waits for the reader.
type memoryConn struct {
	in, out *stream
	addr    net.Addr // address of the server, at both ends
}

var _ net.Conn = (*memoryConn)(nil)

// Read implements [net.Conn].
func (c *memoryConn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write implements [net.Conn].
func (c *memoryConn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

func (c *memoryConn) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		err = os.NewSyscallError(syscallName(op), number)
	}
	return &net.OpError{Op: op, Net: c.addr.Network(), Source: c.addr, Addr: c.addr, Err: err}
}

// Close implements [net.Conn]. The other end can still read what was written.
func (c *memoryConn) Close() error {
	c.in.stopReading(nil)
	c.out.stopWriting(io.EOF)
	return nil
}

// reset closes the connection as a TCP reset does.
func (c *memoryConn) reset() {
	c.in.stopReading(errReset)
	c.out.stopWriting(errReset)
}

// LocalAddr implements [net.Conn].
func (c *memoryConn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr implements [net.Conn].
func (c *memoryConn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline implements [net.Conn].
func (c *memoryConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements [net.Conn].
func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	return nil
}

// SetWriteDeadline implements [net.Conn].
func (c *memoryConn) SetWriteDeadline(t time.Time) error {
	c.out.setWriteDeadline(t)
	return nil
}

// stream is one direction of a connection in memory.
type stream struct {
	mu            sync.Mutex
	changed       sync.Cond // what read waits for
	unread        bytes.Buffer
	closed        error // error of a read after unread; nil while the writer may write
	unreadable    bool  // whether the reader has closed
	broken        error // error of a write; nil until it shows that the reader has closed
	readDeadline  time.Time
	writeDeadline time.Time
	timer         *time.Timer // wakes read at its deadline
}

func newStream() *stream {
	s := new(stream)
	s.changed.L = &s.mu
	return s
}

func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.unreadable:
			return 0, net.ErrClosed
		case len(b) == 0:
			return 0, nil
		case past(s.readDeadline):
			return 0, os.ErrDeadlineExceeded
		case s.unread.Len() > 0:
			return s.unread.Read(b)
		case s.closed != nil:
			return 0, s.closed
		}
		s.changed.Wait()
	}
}

func (s *stream) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed != nil:
		return 0, net.ErrClosed
	case past(s.writeDeadline):
		return 0, os.ErrDeadlineExceeded
	case s.broken != nil:
		return 0, s.broken
	case s.unreadable: // TCP, too, learns of it from the response to a first packet
		s.broken = errBroken
		return len(b), nil
	}
	s.changed.Broadcast()
	return s.unread.Write(b)
}

// stopReading closes the reader's end; the writer gets err, if any, at once.
func (s *stream) stopReading(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreadable {
		return
	}
	s.unreadable, s.broken = true, err
	s.unread = bytes.Buffer{}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.changed.Broadcast()
}

// stopWriting closes the writer's end; the reader gets err after what is unread.
func (s *stream) stopWriting(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed == nil {
		s.closed = err
		s.changed.Broadcast()
	}
}

func (s *stream) setReadDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readDeadline = t
	switch {
	case past(t):
		s.changed.Broadcast()
	case t.IsZero() && s.timer != nil:
		s.timer.Stop()
	case t.IsZero():
	case s.timer == nil:
		s.timer = time.AfterFunc(time.Until(t), s.wake)
	default:
		s.timer.Reset(time.Until(t))
	}
}

func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

func (s *stream) setWriteDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeDeadline = t
}

// past reports whether a deadline is over. The zero time is no deadline.
func past(deadline time.Time) bool {
	return !deadline.IsZero() && !time.Now().Before(deadline)
}
