package proxy

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"time"
)

// copyBytes is the size of a copy buffer: what one response holds in memory
// besides the windows of its connections.
const copyBytes = 32 << 10

// respond gives up's response to the client and returns its status, or 0 if
// the client did not get all of it. It panics with http.ErrAbortHandler where
// the connection or stream must be broken off, so that what is incomplete looks
// incomplete.
func (s *server) respond(w http.ResponseWriter, r *http.Request, x *exchange, up *upstream) int {
	resp := up.resp
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return s.tunnel(w, r, x, resp)
	}
	if !x.watch.start() {
		return s.fail(w, r, x, &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, errTimeout})
	}
	s.writeHeader(w, x, resp)
	streaming := resp.ContentLength < 0
	if err := s.copyBody(w, x, resp.Body, streaming); err != nil {
		var read *readError
		if errors.As(err, &read) {
			s.e.metrics.failures.WithLabelValues(x.decision.Service, "truncated").Inc()
		}
		panic(http.ErrAbortHandler)
	}
	cleanTrailer(resp.Trailer)
	for name, values := range resp.Trailer {
		for _, value := range values {
			w.Header().Add(http.TrailerPrefix+name, value)
		}
	}
	return resp.StatusCode
}

// writeHeader writes the response's header.
func (s *server) writeHeader(w http.ResponseWriter, x *exchange, resp *http.Response) {
	cleanResponse(resp.Header, s.local != nil)
	cleanTrailer(resp.Trailer)
	if rule := x.decision.Rule; rule != nil {
		applyHeaderOps(resp.Header, rule.ResponseHeaders)
	}
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http guesses one
	}
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	w.WriteHeader(resp.StatusCode)
}

// readError is an error of reading the upstream's response body.
type readError struct{ error }

// Unwrap returns the cause.
func (e *readError) Unwrap() error { return e.error }

// copyBody copies the response's body. A body of unknown length is passed on
// as it comes: somebody may be waiting for each piece.
func (s *server) copyBody(w http.ResponseWriter, x *exchange, body io.Reader, streaming bool) error {
	flush := func() error { return nil }
	if streaming {
		flush = http.NewResponseController(w).Flush
		if err := flush(); err != nil {
			return err
		}
	}
	pooled, _ := s.e.buffers.Get().(*[copyBytes]byte)
	if pooled == nil {
		pooled = new([copyBytes]byte)
	}
	defer s.e.buffers.Put(pooled)
	buf := pooled[:]
	for {
		n, err := body.Read(buf)
		if n > 0 {
			x.watch.touch()
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &readError{err}
		}
	}
}

// tunnel joins the client's connection and the upstream's if the upstream
// accepted the WebSocket handshake, until both are done.
func (s *server) tunnel(w http.ResponseWriter, r *http.Request, x *exchange, resp *http.Response) int {
	upstream, ok := resp.Body.(io.ReadWriteCloser)
	err := errors.New("101 that nobody asked for")
	if ok && x.upgrade != nil {
		err = x.upgrade.accepted(resp)
	}
	if err != nil {
		f := &failure{Refusal{http.StatusBadGateway, CodeBadUpgrade, "the service did not accept the WebSocket"}, failedUpgrade, err}
		s.e.metrics.failed(x.decision.Service, f)
		return s.fail(w, r, x, f)
	}
	if !x.watch.start() {
		return s.fail(w, r, x, &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, errTimeout})
	}
	x.watch.stop()
	cleanResponse(resp.Header, s.local != nil)
	if rule := x.decision.Rule; rule != nil {
		applyHeaderOps(resp.Header, rule.ResponseHeaders)
	}
	setUpgrade(resp.Header)
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return s.fail(w, r, x, &failure{Refusal{http.StatusInternalServerError, "internal", "the connection cannot be upgraded"}, failedUpgrade, err})
	}
	t := &tunnel{client: client, upstream: upstream, idle: s.e.opt.Limits.TunnelIdle}
	err = errors.Join(
		client.SetWriteDeadline(time.Now().Add(s.e.opt.Limits.WriteTimeout)),
		writeSwitch(buffered.Writer, resp.Header),
		client.SetWriteDeadline(time.Time{}),
	)
	if err != nil { // the client left while we asked
		t.cut()
		return 0
	}
	s.e.tunnels.run(t, buffered.Reader)
	return http.StatusSwitchingProtocols
}

// writeSwitch writes the header of a 101.
func writeSwitch(w *bufio.Writer, h http.Header) error {
	if _, err := w.WriteString("HTTP/1.1 101 Switching Protocols\r\n"); err != nil {
		return err
	}
	if err := h.Write(w); err != nil {
		return err
	}
	if _, err := w.WriteString("\r\n"); err != nil {
		return err
	}
	return w.Flush()
}
