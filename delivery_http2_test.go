package oakra_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/oakra/oakra-go"
)

// TestDeliveryHTTP2 checks that net/http does not send an HTTP/2 write again by
// itself, as it would if the request had a GetBody.
func TestDeliveryHTTP2(t *testing.T) {
	const (
		frameReset  = 3
		frameGoAway = 7

		protocolError = 1
		internalError = 2
		refusedStream = 7
		cancelStream  = 8
	)
	reset := func(code byte) func(stream uint32) []byte {
		return func(stream uint32) []byte { return h2Frame(frameReset, 0, stream, []byte{0, 0, 0, code}) }
	}
	for _, row := range []struct {
		name  string
		after func(stream uint32) []byte // frame after a whole request
	}{
		{"RST_STREAM REFUSED_STREAM", reset(refusedStream)},
		{"RST_STREAM PROTOCOL_ERROR", reset(protocolError)},
		{"RST_STREAM INTERNAL_ERROR", reset(internalError)},
		{"RST_STREAM CANCEL", reset(cancelStream)},
		{"GOAWAY, this one not done", func(uint32) []byte { return h2Frame(frameGoAway, 0, 0, make([]byte, 8)) }},
		{"GOAWAY with an error", func(uint32) []byte { return h2Frame(frameGoAway, 0, 0, []byte{0, 0, 0, 0, 0, 0, 0, protocolError}) }},
		{"end", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, op := range []deliveryOp{deliverUpdate, deliverChange} {
				t.Run(op.name, func(t *testing.T) {
					var arrived atomic.Int64
					base, pool := newH2Server(t, func(stream uint32) []byte {
						arrived.Add(1)
						if row.after == nil {
							return nil
						}
						return row.after(stream)
					})
					client := oakra.KeepRoutes(rawClientOn(t, base, h2Transport(t, pool)))
					records, err := op.call(t.Context(), client)
					broken := verdict{outcome: unknown, resent: listAndUpdate}
					broken.check(t, op, records, err, broken.attempts(op))
					assert.NotContains(t, err.Error(), "GetBody", "advice to whoever builds the request")
					assert.EqualValues(t, broken.attempts(op), arrived.Load(), "how often the request arrived")
				})
			}
		})
	}

	// net/http needs no GetBody to send a List again, and would send it for ever.
	t.Run("list", func(t *testing.T) {
		for _, code := range []byte{protocolError, refusedStream} {
			var arrived atomic.Int64
			base, pool := newH2Server(t, func(stream uint32) []byte {
				arrived.Add(1)
				return reset(code)(stream)
			})
			_, err := deliverList.call(t.Context(), rawClientOn(t, base, h2Transport(t, pool), oakra.WithRetryPolicy(rawPolicy(1))))
			require.Error(t, err)
			require.LessOrEqual(t, arrived.Load(), int64(5), "one attempt")
			require.True(t, oakra.Retryable(err))
			require.NotErrorIs(t, err, context.Canceled, "the caller has not")
		}
	})

	t.Run("aborted handler", func(t *testing.T) {
		for _, row := range []struct {
			name    string
			respond func(w http.ResponseWriter)
			verdict verdict
		}{
			{"before the response", func(http.ResponseWriter) {}, verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}},
			{"after a 103", func(w http.ResponseWriter) { w.WriteHeader(103) },
				verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList}},
			{"in the records", func(w http.ResponseWriter) {
				io.WriteString(w, "["+firstRecord)
				w.(http.Flusher).Flush()
			}, verdict{outcome: applied, resent: onlyList, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}},
			{"before the records", func(w http.ResponseWriter) {
				w.(http.Flusher).Flush()
			}, verdict{outcome: unknown, resent: listAndUpdate, retryable: onlyList, status: 200, is: oakra.ErrBadResponse}},
			{"in a refusal", func(w http.ResponseWriter) {
				w.WriteHeader(409)
				w.(http.Flusher).Flush()
			}, verdict{outcome: notApplied, status: 409, is: oakra.ErrConflict}},
		} {
			t.Run(row.name, func(t *testing.T) {
				eachOp(t, func(t *testing.T, op deliveryOp) {
					var arrived atomic.Int64
					server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						assert.Equal(t, 2, r.ProtoMajor)
						io.Copy(io.Discard, r.Body)
						arrived.Add(1)
						row.respond(w)
						panic(http.ErrAbortHandler)
					}))
					server.EnableHTTP2 = true
					server, pool := startTLS(t, server)
					client := oakra.KeepRoutes(rawClientOn(t, server.URL+"/api/v1/", h2Transport(t, pool)))
					records, err := op.call(t.Context(), client)
					attempts := row.verdict.attempts(op)
					row.verdict.check(t, op, records, err, attempts)
					assert.EqualValues(t, attempts, arrived.Load())
				})
			})
		}
	})
}

// h2Transport returns a transport that speaks HTTP/2 only, as a caller may bring;
// DefaultTransport speaks HTTP/1.1.
func h2Transport(t *testing.T, pool *x509.CertPool) *http.Transport {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// h2Frame returns an HTTP/2 frame (RFC 9113, section 4.1).
func h2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	return append([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags,
		byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}, payload...)
}

// newH2Server speaks as much HTTP/2 as it needs to respond to whole requests
// with a frame that net/http's server would not send. A nil frame ends the
// connection.
func newH2Server(t *testing.T, respond func(stream uint32) []byte) (baseURL string, pool *x509.CertPool) {
	// Only the certificate of this server is needed.
	other, pool := newTLSServer(t, func(http.ResponseWriter, *http.Request) {})
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: other.TLS.Certificates,
		NextProtos:   []string{"h2"},
	})
	require.NoError(t, err)
	serve := func(conn net.Conn) {
		defer conn.Close()
		defer context.AfterFunc(t.Context(), func() { conn.Close() })() // the client may keep it
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(conn, preface); err != nil {
			return
		}
		const data, headers, settings, endOfStream, ack = 0, 1, 4, 1, 1
		conn.Write(h2Frame(settings, 0, 0, nil))
		for {
			head := make([]byte, 9)
			if _, err := io.ReadFull(conn, head); err != nil {
				return
			}
			payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
			if _, err := io.ReadFull(conn, payload); err != nil {
				return
			}
			kind, flags := head[3], head[4]
			stream := uint32(head[5])<<24 | uint32(head[6])<<16 | uint32(head[7])<<8 | uint32(head[8])
			switch {
			case kind == settings && flags&ack == 0:
				conn.Write(h2Frame(settings, ack, 0, nil))
			case (kind == data || kind == headers) && flags&endOfStream != 0:
				frame := respond(stream)
				if frame == nil {
					return
				}
				conn.Write(frame)
			}
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return "https://" + listener.Addr().String() + "/api/v1/", pool
}
