package proxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// roundTripper makes a server's decisions and forwarding available to a client
// in this process. It keeps http.RoundTripper's contract, but that it returns
// answers of our own as responses.
type roundTripper struct {
	s *server
}

var _ http.RoundTripper = (*roundTripper)(nil)

// errNotHere is for what a client in this process never needs: it takes the
// response instead of being sent it.
var errNotHere = errors.New("not for a client in this process")

// inProcess is the client's side of a round trip.
type inProcess struct {
	r *http.Request
}

var _ = client{(*inProcess)(nil), (*inProcess)(nil), (*inProcess)(nil)}

func (c *inProcess) Read(p []byte) (int, error)                     { return c.r.Body.Read(p) }
func (c *inProcess) bodyTrailers() header.List                      { return fromHTTP(c.r.Trailer) }
func (c *inProcess) inform(*responseHead) error                     { return nil }
func (c *inProcess) begin(*responseHead, []byte, bool) error        { return errNotHere }
func (c *inProcess) write([]byte) error                             { return errNotHere }
func (c *inProcess) end(header.List) error                          { return errNotHere }
func (c *inProcess) hijack(header.List) (halfCloser, []byte, error) { return nil, nil, errNotHere }
func (c *inProcess) interruptWrite()                                {}

// interruptRead is a client's. Closing is how a reader of a request's body is
// woken; a body may be closed twice.
func (c *inProcess) interruptRead() {
	if c.r.Body != nil {
		_ = c.r.Body.Close() // what that says, nobody asks
	}
}

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	s := t.s
	x := &exchange{}
	c := &inProcess{r}
	x.reset(s, client{c, c, c})
	x.parent = r.Context()
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	x.in = incoming{method: r.Method, target: r.URL.RequestURI(), host: host, fields: fromHTTP(r.Header), length: r.ContentLength}
	if x.in.method == "" {
		x.in.method = http.MethodGet
	}
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		x.in.length = 0
	case r.ContentLength == 0:
		x.in.length = -1 // a client says 0 for unknown
	}
	s.begin(x)
	stop := x.onDone(r.Context())
	finish := func(status int) {
		stop()
		s.end(x, status)
		c.interruptRead() // the contract asks for it: the body was read or is not wanted
	}
	a, failed := s.open(x)
	if failed == nil && x.resp.status == http.StatusSwitchingProtocols {
		x.attach(nil)
		a.close()
		failed = &failure{Refusal{http.StatusBadGateway, CodeBadUpgrade, "the service switched protocols"}, failedUpgrade, x.wish.accepted(&x.resp)}
	}
	if failed != nil {
		if failed.kind == failedGone {
			finish(0)
			return nil, failed
		}
		s.report(x, &failed.Refusal, failed.err)
		finish(failed.Status)
		head, body := failed.problem(x)
		return newResponse(r, head, io.NopCloser(bytes.NewReader(body))), nil
	}
	x.watch.begin()
	head := s.responseHead(x)
	return newResponse(r, &head, &responseBody{x: x, body: a.body(), done: func() {
		x.attach(nil)
		a.close()
		finish(head.status)
	}}), nil
}

// newResponse returns the response to r with head and body.
func newResponse(r *http.Request, head *responseHead, body io.ReadCloser) *http.Response {
	return &http.Response{
		Status: strconv.Itoa(head.status) + " " + http.StatusText(head.status), StatusCode: head.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: toHTTP(head.fields), ContentLength: head.length, Request: r, Body: body,
	}
}

// responseBody reads an answer, and ends the exchange when it is closed.
type responseBody struct {
	x    *exchange
	body answerBody
	rest []byte
	err  error
	done func()
	once sync.Once
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 && b.err == nil {
		if whole, ok := b.body.complete(); ok {
			b.rest, b.err = whole, io.EOF
			break
		}
		b.rest, b.err = b.body.next()
		b.x.watch.touch()
	}
	if len(b.rest) == 0 {
		return 0, b.err
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (b *responseBody) Close() error {
	b.once.Do(b.done)
	return nil
}
