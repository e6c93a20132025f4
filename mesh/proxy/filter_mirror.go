package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Bounds of mirroring.
const (
	mostMirrored   = 128              // requests at a time; more are left out, and counted
	mirrorTimeout  = 15 * time.Second // of one
	mirroredAnswer = 1 << 20          // bytes that are read of an answer, so that its connection can be kept
)

// mirror is a service that gets copies of a rule's requests.
type mirror struct {
	service string
	share   float64
}

// mirrors are the copies under way.
type mirrors struct {
	slots   chan struct{}
	sending sync.WaitGroup
	//nolint:containedctx // of no caller: it ends with the engine
	ctx  context.Context
	stop context.CancelFunc
}

func newMirrors() *mirrors {
	m := &mirrors{slots: make(chan struct{}, mostMirrored)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return m
}

// close gives up what is under way.
func (m *mirrors) close() {
	m.stop()
	m.sending.Wait()
}

// mirror sends copies of x, whose exchange is over, to the mirrors of its rule. A
// request whose body was not read to its end, or was too long to be kept, cannot be
// sent again.
func (s *server) mirror(x *exchange) {
	if len(x.tried) == 0 || x.wish.wanted() { // it was sent nowhere, or is no request that ends
		return
	}
	for i := range x.decision.Rule.mirrors {
		m := &x.decision.Rule.mirrors[i]
		if another(x.draw, drawMirror+uint64(i)<<8) >= m.share {
			continue
		}
		body, ok := x.sentBody()
		switch {
		case !ok:
			s.e.metrics.mirrored.WithLabelValues(m.service, "body").Inc()
		case !s.sendMirrored(x, m.service, body):
			s.e.metrics.mirrored.WithLabelValues(m.service, "overload").Inc()
		}
	}
}

// sentBody returns a copy of the request's body if all of it is known.
func (x *exchange) sentBody() ([]byte, bool) {
	if x.isWhole {
		return bytes.Clone(x.whole), true
	}
	return x.body.copy()
}

// sendMirrored sends a copy of x to service, unless too many are under way.
func (s *server) sendMirrored(x *exchange, service string, body []byte) bool {
	select {
	case s.e.mirrors.slots <- struct{}{}:
	default:
		return false
	}
	m := &mirrored{}
	c := &m.exchange
	c.reset(s, client{m, m, m})
	c.parent = s.e.mirrors.ctx
	c.caller = x.caller
	c.decision = Decision{Service: service, Rule: &Rule{Timeout: mirrorTimeout}}
	c.request.Peer, c.request.Remote = x.request.Peer, strings.Clone(x.request.Remote)
	c.began = time.Now()
	c.in.method = strings.Clone(x.out.method)
	c.out = outgoing{
		method: c.in.method, target: strings.Clone(x.out.target), host: strings.Clone(x.out.host),
		fields: x.out.fields.Clone().Del("Content-Length"), length: int64(len(body)),
	}
	c.whole, c.isWhole = body, true
	s.e.mirrors.sending.Go(func() {
		defer func() { <-s.e.mirrors.slots }()
		outcome := "answered"
		if err := m.send(); err != nil {
			outcome = "failed"
		}
		s.e.metrics.mirrored.WithLabelValues(service, outcome).Inc()
	})
	return true
}

// mirrored is a copy of a request, and its client: nobody.
type mirrored struct {
	exchange
}

var _ = client{(*mirrored)(nil), (*mirrored)(nil), (*mirrored)(nil)}

func (m *mirrored) Read([]byte) (int, error)                       { return 0, io.EOF }
func (m *mirrored) bodyTrailers() header.List                      { return nil }
func (m *mirrored) inform(*responseHead) error                     { return nil }
func (m *mirrored) begin(*responseHead, []byte, bool) error        { return errNotHere }
func (m *mirrored) write([]byte) error                             { return errNotHere }
func (m *mirrored) end(header.List) error                          { return errNotHere }
func (m *mirrored) hijack(header.List) (halfCloser, []byte, error) { return nil, nil, errNotHere }
func (m *mirrored) interruptRead()                                 {}
func (m *mirrored) interruptWrite()                                {}

// send sends the copy and reads its answer.
func (m *mirrored) send() error {
	x := &m.exchange
	stop := x.onDone(x.parent)
	defer stop()
	x.watch.start(x, mirrorTimeout, 0, nil)
	defer x.watch.release()
	defer x.finish()
	a, failed := x.s.forwarder.forward(x)
	if failed != nil {
		return failed
	}
	defer a.close()
	defer x.attach(nil)
	body := a.body()
	if _, whole := body.complete(); whole {
		return nil
	}
	for n := 0; n < mirroredAnswer; {
		p, err := body.next()
		n += len(p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
