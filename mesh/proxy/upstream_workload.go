package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Workload is a program that a sidecar stands beside.
type Workload struct {
	Service string
	Node    string
	Address string           // where it listens, a literal: "127.0.0.1:9001"
	Source  *identity.Source // the service's identity on this node
}

// workload is the plain connections to a Workload: HTTP/1.1, or HTTP/2 with
// prior knowledge where the service's protocol says so.
type workload struct {
	Workload
	http1 *connPool
	http2 *overHTTP2
}

func newWorkload(w Workload, l Limits, open prometheus.Gauge) (*workload, error) {
	if _, err := netip.ParseAddrPort(w.Address); err != nil {
		return nil, fmt.Errorf("the workload address %.60q of %s is not an IP address and port", w.Address, w.Service)
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		d := net.Dialer{Timeout: l.ConnectTimeout}
		conn, err := d.DialContext(ctx, "tcp", w.Address)
		if err != nil {
			return nil, &connectError{CodeWorkloadUnreachable, err}
		}
		return conn, nil
	}
	return &workload{Workload: w, http1: newPool(l, open, dial), http2: newOverHTTP2(l, w.Address, dial)}, nil
}

func (w *workload) close() {
	w.http1.close()
	w.http2.close()
}

// toWorkload is the forwarder of an Inbound.
type toWorkload struct {
	workload *workload
	e        *Engine
}

var _ forwarder = (*toWorkload)(nil)

// forward implements forwarder. A workload is tried once: another instance is
// the caller's to try.
func (f *toWorkload) forward(x *exchange) (answer, *failure) {
	var t transport = f.workload.http1
	if !x.wish.wanted() && f.e.protocol(f.workload.Service) == mesh.ProtocolHTTP2 {
		t = f.workload.http2
	}
	a, failed := x.try(t, 0)
	if failed != nil {
		f.e.metrics.failed(f.workload.Service, failed)
	}
	return a, failed
}

// overHTTP2 sends requests to a workload over HTTP/2 in clear text, with the
// standard library's transport.
type overHTTP2 struct {
	address   string
	transport *http.Transport
}

func newOverHTTP2(l Limits, address string, dial func(ctx context.Context) (net.Conn, error)) *overHTTP2 {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &overHTTP2{address: address, transport: &http.Transport{
		Protocols:              &protocols,
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression:     true,
		IdleConnTimeout:        l.UpstreamIdle,
		MaxResponseHeaderBytes: int64(l.HeaderBytes) * 2,
		HTTP2:                  l.http2(),
	}}
}

func (t *overHTTP2) close() { t.transport.CloseIdleConnections() }

// send implements transport.
func (t *overHTTP2) send(x *exchange, _ bool) (answer, error) {
	ctx, cancel := context.WithCancelCause(x.context())
	req := (&http.Request{
		Method: x.out.method, Host: strings.Clone(x.out.host), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL:           &url.URL{Scheme: "http", Host: t.address, Opaque: strings.Clone(x.out.target)},
		Header:        toHTTP(x.out.fields),
		ContentLength: x.out.length,
	}).WithContext(ctx)
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{""} // or net/http names itself
	}
	switch {
	case x.isWhole && len(x.whole) > 0: // cloned: it may be read when x is over
		req.Body = io.NopCloser(bytes.NewReader(bytes.Clone(x.whole)))
	case !x.isWhole:
		body, ok := x.body.open()
		if !ok {
			cancel(errDone)
			return nil, errNotReplayable
		}
		req.Body = withTrailers(body, req, x)
	}
	return &http2Answer{t: t, req: req, cancel: cancel}, nil
}

// withTrailers fills req's trailers when body ends.
func withTrailers(body io.ReadCloser, req *http.Request, x *exchange) io.ReadCloser {
	req.Trailer = http.Header{}
	for _, f := range x.in.fields {
		if !header.Equal(f.Name, "Trailer") {
			continue
		}
		for name := range strings.SplitSeq(f.Value, ",") {
			if name = strings.Clone(header.Trim(name)); classify(name) == ordinary {
				req.Trailer[http.CanonicalHeaderKey(name)] = nil
			}
		}
	}
	return &trailing{ReadCloser: body, end: func() {
		for _, f := range cleanTrailer(nil, x.client.bodyTrailers()) {
			if _, ok := req.Trailer[http.CanonicalHeaderKey(f.Name)]; ok {
				req.Trailer.Add(f.Name, strings.Clone(f.Value))
			}
		}
	}}
}

// trailing calls end when its reader is at its end.
type trailing struct {
	io.ReadCloser
	end func()
}

// Read implements io.Reader.
func (t *trailing) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) && t.end != nil {
		t.end()
		t.end = nil
	}
	return n, err
}

// http2Answer is a response of net/http's transport.
type http2Answer struct {
	t      *overHTTP2
	req    *http.Request
	cancel context.CancelCauseFunc
	resp   *http.Response
	buf    []byte
}

var _ answer = (*http2Answer)(nil)

// head implements answer.
func (a *http2Answer) head(out *responseHead) error {
	resp, err := a.t.transport.RoundTrip(a.req) //nolint:bodyclose // close does
	if err != nil {
		return err
	}
	a.resp = resp
	*out = responseHead{status: resp.StatusCode, fields: fromHTTP(resp.Header), length: resp.ContentLength}
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified || a.req.Method == http.MethodHead {
		out.length = 0
	}
	return nil
}

// next implements answerBody.
func (a *http2Answer) next() ([]byte, error) {
	if a.buf == nil {
		a.buf = make([]byte, copyBytes)
	}
	n, err := a.resp.Body.Read(a.buf)
	return a.buf[:n], err
}

// complete implements answerBody.
func (a *http2Answer) complete() ([]byte, bool) {
	none := a.resp.ContentLength == 0 || a.req.Method == http.MethodHead || a.resp.StatusCode == http.StatusNotModified
	return nil, none && len(a.resp.Trailer) == 0
}

// trailers implements answerBody.
func (a *http2Answer) trailers() header.List { return fromHTTP(a.resp.Trailer) }

// tunnel implements answer: there is no 101 in HTTP/2.
func (a *http2Answer) tunnel() (halfCloser, []byte, error) { return nil, nil, io.ErrUnexpectedEOF }

// body implements answer.
func (a *http2Answer) body() answerBody { return a }

// interrupt implements answer.
func (a *http2Answer) interrupt() { a.cancel(errDone) }

// close implements answer.
func (a *http2Answer) close() {
	a.cancel(errDone) // first, because Close waits for the request's body
	if a.resp != nil {
		_ = a.resp.Body.Close() // whether the rest of it was fine, nobody asks
	}
}

// toHTTP returns l as net/http has it. The result holds no views.
func toHTTP(l header.List) http.Header {
	h := make(http.Header, len(l))
	for _, f := range l {
		h.Add(strings.Clone(f.Name), strings.Clone(f.Value))
	}
	return h
}

// fromHTTP returns the fields of h.
func fromHTTP(h http.Header) header.List {
	dst := make(header.List, 0, len(h))
	for name, values := range h {
		for _, value := range values {
			dst = append(dst, header.Field{Name: name, Value: value})
		}
	}
	return dst
}
