package proxy

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Observe says what an Engine keeps and writes about requests beside its metrics.
type Observe struct {
	// Access is the share of the requests in [0,1] that are written to the log, one
	// line each. Answers of our own are always, within their bound a second.
	Access float64
	// Records is the share of the forwarded requests in [0,1] that leave a decision
	// record. Answers of our own always do.
	Records float64
	Tracing Tracing
}

// observe takes what became of x: its client got status, or 0 if not all of the
// response.
func (s *server) observe(x *exchange, status int) {
	duration := time.Since(x.began)
	c := s.counters.of(x.decision.Service)
	c.count(status)
	c.duration.Observe(duration.Seconds())
	switch {
	case s.counters.peers != nil:
		s.counters.peers.of(peerLabel(x.request.Peer)).count(status)
	case x.decision.Route != nil:
		s.counters.routes.of(x.decision.Route.Name).count(status)
	}
	o := &s.e.opt.Observe
	own := x.code != "" // whose record and line are there since before it was sent
	if !own && o.Records > 0 && rand.Float64() < o.Records {
		s.e.records.add(s.record(x, status, duration))
	}
	if !own && o.Access > 0 && rand.Float64() < o.Access {
		s.logAccess(x, status, duration)
	}
	if o.Tracing.Export != nil && x.traced.sampled {
		o.Tracing.Export(s.span(x, status, duration))
	}
}

// logAccess writes the line of a forwarded request.
func (s *server) logAccess(x *exchange, status int, duration time.Duration) {
	event := s.e.opt.Log.Info().Str("face", faceName(s.face.Kind)).Int("status", status).
		Str("service", x.decision.Service).Str("method", x.request.Method).Str("host", x.request.Host).Str("path", x.request.Path).
		Dur("duration_ms", duration)
	if x.decision.Route != nil {
		event.Str("route", x.decision.Route.Name)
	}
	if x.request.Peer != (mesh.ID{}) {
		event.Str("peer_id", x.request.Peer.String())
	}
	if n := len(x.tried); n > 0 {
		event.Str("instance", x.tried[n-1].Instance).Int("tries", n)
	}
	if x.traced.trace != (TraceID{}) {
		event.Str("trace_id", x.traced.trace.String())
	}
	event.Msg("request")
}

// span makes the span of x.
func (s *server) span(x *exchange, status int, duration time.Duration) *Span {
	state, _ := x.in.fields.Get(traceState)
	out := &Span{
		Trace: x.traced.trace, ID: x.traced.span, Parent: x.traced.parent, State: strings.Clone(state),
		Face: faceName(s.face.Kind), Start: x.began, End: x.began.Add(duration),
		Method: strings.Clone(x.request.Method), Host: strings.Clone(x.request.Host), Path: strings.Clone(x.request.Path),
		Service: x.decision.Service, Status: status, Code: x.code, Tries: len(x.tried),
	}
	if x.decision.Route != nil {
		out.Route = x.decision.Route.Name
		if rule := x.decision.Rule; rule != nil && rule.Name != "" {
			out.Route += "/" + rule.Name
		}
	}
	return out
}
