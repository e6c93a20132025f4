package proxy

import (
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// linkClient is a peer's stream on a mesh link, and the request on it.
type linkClient struct {
	s        *link.Stream
	x        exchange
	head     link.Head // of the response: here, so that it costs no allocation
	digits   [20]byte  // of a length
	bodyless bool      // what the response has no body for
	aborted  func()    // c.gone
	isGone   atomic.Bool
	leaving  sync.WaitGroup
}

var _ = client{(*linkClient)(nil), (*linkClient)(nil), (*linkClient)(nil)}

// serveLink handles the request on a stream.
func (s *server) serveLink(stream *link.Stream, info *callerInfo) {
	c, _ := s.e.linkClients.Get().(*linkClient)
	if c == nil {
		c = &linkClient{}
		c.aborted = c.gone
	}
	c.s = stream
	x := &c.x
	x.reset(s, client{c, c, c})
	req := stream.Request()
	x.in = incoming{
		method: req.Method, target: req.Path, host: req.Authority, fields: req.Fields, length: stream.Length(),
		secure: info.secure, remote: info.remote, peer: info.peer, clientCert: info.clientCert, graced: info.graced,
	}
	c.bodyless = req.Method == http.MethodHead
	if req.Method == http.MethodConnect && req.Protocol == "websocket" {
		x.in.method, x.in.asks, x.in.length = http.MethodGet, true, 0 // as it would be over HTTP/1.1
	}
	c.isGone.Store(false)
	stream.OnAbort(c.aborted)
	complete := s.serve(x)
	stream.OnAbort(nil)
	c.leaving.Wait()
	if !complete {
		stream.Reset(http2.ErrCodeInternal) // to return would be to say that it is complete
	}
	c.s = nil
	x.in, x.client = incoming{}, client{}
	s.e.linkClients.Put(c)
}

// gone ends the exchange because the peer does not wait for it any more. It must
// not block, nor end the exchange itself: the stream is locked.
func (c *linkClient) gone() {
	c.isGone.Store(true)
	c.leaving.Go(func() { c.x.watch.cut(errClientGone) })
}

// left reports whether the peer does not wait any more.
func (c *linkClient) left() bool { return c.isGone.Load() }

// Read is a client's.
func (c *linkClient) Read(p []byte) (int, error) { return c.s.Read(p) }

// whole returns the body if it has arrived already.
func (c *linkClient) whole() ([]byte, bool) { return c.s.Complete() }

func (c *linkClient) bodyTrailers() header.List { return c.s.Trailers() }

// inform is a client's.
func (c *linkClient) inform(head *responseHead) error {
	c.head = link.Head{Status: head.status, Fields: head.fields}
	return c.s.Respond(&c.head, nil, false)
}

// begin is a client's.
func (c *linkClient) begin(head *responseHead, first []byte, end bool) error {
	c.head = link.Head{Status: head.status, Fields: head.fields}
	c.bodyless = c.bodyless || head.status == http.StatusNoContent || head.status == http.StatusNotModified
	length := head.length
	if end {
		length = int64(len(first))
	}
	switch {
	case c.bodyless:
		first = nil
	case length >= 0:
		c.head.Fields = c.head.Fields.Add("Content-Length", header.View(strconv.AppendInt(c.digits[:0], length, 10)))
	}
	return c.s.Respond(&c.head, first, end)
}

// write is a client's.
func (c *linkClient) write(p []byte) error {
	if c.bodyless {
		return nil
	}
	_, err := c.s.Write(p)
	return err
}

// end is a client's.
func (c *linkClient) end(trailers header.List) error { return c.s.End(trailers) }

// hijack is a client's: the stream goes on as the tunnel (RFC 8441 section 5).
func (c *linkClient) hijack(fields header.List) (halfCloser, []byte, error) {
	c.head = link.Head{Status: http.StatusOK, Fields: fields.Del("Sec-WebSocket-Accept")}
	if err := c.s.Respond(&c.head, nil, false); err != nil {
		return nil, nil, err
	}
	return &streamConn{c.s}, nil, nil
}

// streamConn is a stream as one side of a tunnel.
type streamConn struct{ *link.Stream }

// CloseWrite ends what is sent.
func (s *streamConn) CloseWrite() error { return s.End(nil) }

// Close ends the stream, whoever uses it.
func (s *streamConn) Close() error {
	s.Reset(http2.ErrCodeCancel)
	return nil
}

// interruptRead is a client's.
func (c *linkClient) interruptRead() { c.s.StopReading() }

// interruptWrite is a client's.
func (c *linkClient) interruptWrite() { c.s.Reset(http2.ErrCodeCancel) }
