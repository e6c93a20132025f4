package proxy

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/rs/xid"
)

// roundTripper makes a server's decisions and forwarding available to a client
// in this process. It keeps http.RoundTripper's contract, but that it returns
// answers of our own as responses.
type roundTripper struct {
	s *server
}

var _ http.RoundTripper = (*roundTripper)(nil)

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	s := t.s
	x := &exchange{id: xid.New().String()}
	face := faceName(s.face.Kind)
	s.e.metrics.inFlight.WithLabelValues(face).Inc()
	finish := func(status int) {
		s.e.metrics.inFlight.WithLabelValues(face).Dec()
		s.e.metrics.requests.WithLabelValues(face, x.decision.Service, codeClass(status)).Inc()
		if r.Body != nil {
			// The contract asks for it; the body was read or is not wanted.
			_ = r.Body.Close()
		}
	}
	view := *r
	if view.Host == "" {
		view.Host = r.URL.Host
	}
	if view.ContentLength == 0 && view.Body != nil && view.Body != http.NoBody {
		view.ContentLength = -1 // a client says 0 for unknown
	}
	if refusal := s.prepare(x, &view); refusal != nil {
		s.report(x, refusal, nil)
		finish(refusal.Status)
		return problemResponse(r, refusal, x.id), nil
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	x.setBody(&view, s.e.opt.Limits.ReplayBytes)
	x.watch = newWatch(nil, x.body, x.timeout(), s.e.opt.Limits, cancel)
	up, err := s.forwarder.forward(ctx, x)
	if err != nil {
		x.watch.stop()
		cancel(errDone)
		f := asFailure(err)
		if f.kind == failedGone {
			finish(0)
			return nil, f
		}
		s.report(x, &f.Refusal, f.err)
		finish(f.Status)
		return problemResponse(r, &f.Refusal, x.id), nil
	}
	cleanResponse(up.resp.Header, false)
	applyHeaderOps(up.resp.Header, x.decision.Rule.ResponseHeaders)
	resp := *up.resp
	resp.Request = r
	resp.Body = &responseBody{ReadCloser: up.resp.Body, watch: x.watch, done: func() {
		x.watch.stop()
		up.done()
		cancel(errDone)
		finish(resp.StatusCode)
	}}
	return &resp, nil
}

// responseBody ends the exchange when it is closed.
type responseBody struct {
	io.ReadCloser
	watch *watch
	done  func()
	once  sync.Once
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.watch.touch()
	return n, err
}

// Close implements io.Closer.
func (b *responseBody) Close() error {
	b.once.Do(b.done)
	return nil
}
