package proxy

import (
	"errors"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// httpClient is a client that net/http serves: HTTP/2.
type httpClient struct {
	w  http.ResponseWriter
	r  *http.Request
	rc *http.ResponseController
}

var _ = client{(*httpClient)(nil), (*httpClient)(nil), (*httpClient)(nil)}

// serveHTTP handles one request of net/http's server.
func (s *server) serveHTTP(w http.ResponseWriter, r *http.Request, info callerInfo) {
	x, _ := s.e.exchanges.Get().(*exchange)
	if x == nil {
		x = &exchange{}
	}
	c := &httpClient{w, r, http.NewResponseController(w)}
	// net/http's own deadlines give way to the exchange's watch.
	_ = c.rc.SetWriteDeadline(time.Time{})
	x.reset(s, client{c, c, c})
	x.parent = r.Context()
	x.in = incoming{
		method: r.Method, target: r.RequestURI, host: r.Host, fields: fromHTTP(x.in.fields[:0], r.Header), length: r.ContentLength,
		secure: info.secure, remote: info.remote, peer: info.peer, clientCert: info.clientCert,
	}
	if r.Body == nil || r.Body == http.NoBody {
		x.in.length = 0
	}
	stop := x.onDone(r.Context())
	complete := s.serve(x)
	stop()
	s.e.exchanges.Put(x)
	if !complete {
		panic(http.ErrAbortHandler) // to return would be to say that it is complete
	}
}

// Read is a client's.
func (c *httpClient) Read(p []byte) (int, error) { return c.r.Body.Read(p) }

func (c *httpClient) bodyTrailers() header.List { return fromHTTP(nil, c.r.Trailer) }

// inform is a client's.
func (c *httpClient) inform(head *responseHead) error {
	if head.status == http.StatusContinue {
		return nil // net/http says it when the body is read
	}
	h := c.w.Header()
	maps.Copy(h, toHTTP(head.fields))
	c.w.WriteHeader(head.status)
	clear(h)
	return nil
}

// begin is a client's.
func (c *httpClient) begin(head *responseHead, first []byte, end bool) error {
	h := c.w.Header()
	clear(h)
	maps.Copy(h, toHTTP(head.fields))
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http guesses one
	}
	bodyless := c.r.Method == http.MethodHead || head.status == http.StatusNoContent || head.status == http.StatusNotModified
	switch {
	case bodyless:
	case end:
		h.Set("Content-Length", strconv.Itoa(len(first)))
	case head.length >= 0:
		h.Set("Content-Length", strconv.FormatInt(head.length, 10))
	}
	c.w.WriteHeader(head.status)
	switch {
	case end && (bodyless || len(first) == 0):
		return nil // it leaves with the end of the stream, in one frame
	case bodyless || len(first) == 0:
		return c.rc.Flush()
	}
	return c.write(first)
}

// write is a client's.
func (c *httpClient) write(p []byte) error {
	if _, err := c.w.Write(p); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) { // which a HEAD's is
		return err
	}
	return c.rc.Flush()
}

// end is a client's.
func (c *httpClient) end(trailers header.List) error {
	for name, values := range toHTTP(trailers) {
		c.w.Header()[http.TrailerPrefix+name] = values
	}
	return nil
}

// hijack is a client's.
func (c *httpClient) hijack(header.List) (halfCloser, []byte, error) {
	return nil, nil, errors.New("a stream of HTTP/2 cannot be hijacked")
}

// interruptRead is a client's.
func (c *httpClient) interruptRead() { _ = c.rc.SetReadDeadline(longAgo) }

// interruptWrite is a client's.
func (c *httpClient) interruptWrite() { _ = c.rc.SetWriteDeadline(longAgo) }
