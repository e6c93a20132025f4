package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rs/xid"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// server decides and forwards what enters at one face.
type server struct {
	e         *Engine
	face      Face
	forwarder forwarder
	caller    func(*http.Request) (*identity.Source, *Refusal) // nil at an Inbound
	local     *identity.Source                                 // whom an Inbound speaks for
	trust     trust                                            // in the caller's headers; an Inbound asks the peer
	plain     bool                                             // no WebSockets
}

var _ http.Handler = (*server)(nil)

// inbound hands a request to the server of the workload that its connection
// was made to.
type inbound struct {
	byName  map[string]*server // by server name (SNI)
	sources map[string]*identity.Source
}

var _ http.Handler = (*inbound)(nil)

// source is the pick of identity.ServerConfig.
func (in *inbound) source(serverName string) (*identity.Source, error) {
	if s := in.sources[serverName]; s != nil {
		return s, nil
	}
	return nil, identity.ErrUnknownServerName
}

// ServeHTTP implements http.Handler.
func (in *inbound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil {
		if s := in.byName[r.TLS.ServerName]; s != nil {
			s.ServeHTTP(w, r)
			return
		}
	}
	// The handshake refuses these. That it did is not assumed here.
	_ = writeProblem(w, &Refusal{http.StatusMisdirectedRequest, CodeUnknownService, "no service here has this server name"}, xid.New().String(), false)
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.e.handlers.Add(1)
	defer s.e.handlers.Done()
	x := &exchange{id: xid.New().String(), local: s.local != nil}
	status := 0 // aborted, unless something is answered
	face := faceName(s.face.Kind)
	s.e.metrics.inFlight.WithLabelValues(face).Inc()
	defer func() {
		s.e.metrics.inFlight.WithLabelValues(face).Dec()
		s.e.metrics.requests.WithLabelValues(face, x.decision.Service, codeClass(status)).Inc()
	}()
	if refusal := s.prepare(x, r); refusal != nil {
		status = s.refuse(w, r, x, &failure{Refusal: *refusal})
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(errDone)
	x.setBody(r, s.e.opt.Limits.ReplayBytes)
	rc := http.NewResponseController(w)
	if x.body != nil && r.ProtoMajor == 1 {
		// Or the server reads the rest of the body before it lets a response
		// begin. A writer that cannot do otherwise does that still.
		_ = rc.EnableFullDuplex()
	}
	x.watch = newWatch(rc, x.body, x.timeout(), s.e.opt.Limits, cancel)
	defer x.watch.stop()
	up, err := s.forwarder.forward(ctx, x)
	if err != nil {
		status = s.fail(w, r, x, err)
		return
	}
	defer up.done()
	status = s.respond(w, r, x, up)
}

// timeout returns how long the whole exchange may take; 0 is no bound.
func (x *exchange) timeout() time.Duration {
	if x.decision.Rule != nil {
		return x.decision.Rule.Timeout
	}
	return 0 // at an Inbound the caller's proxy has the say
}

// prepare screens r, decides about it, and fills in x but for its body. It
// leaves r as it is.
func (s *server) prepare(x *exchange, r *http.Request) *Refusal {
	target, refusal := s.screen(r)
	if refusal != nil {
		return refusal
	}
	if !s.plain {
		if x.upgrade, refusal = parseUpgrade(r); refusal != nil {
			return refusal
		}
	}
	peer, believed, refusal := s.peer(x, r)
	if refusal != nil {
		return refusal
	}
	header := r.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	trailers := hasToken(header["Te"], "trailers")
	if refusal := cleanRequest(header, believed); refusal != nil {
		return refusal
	}
	rawPath, query, _ := strings.Cut(target, "?")
	host, err := CanonicalHost(r.Host)
	if err != nil {
		return &Refusal{http.StatusBadRequest, CodeBadRequest, "the request names no valid host"}
	}
	path, err := CanonicalPath(rawPath)
	if err != nil {
		return &Refusal{http.StatusBadRequest, CodeBadRequest, "the request path has no single meaning"}
	}
	if s.face.Kind == Gateway {
		setForwarded(header, r)
	}
	x.request = Request{Method: r.Method, Host: host, Path: path, RawQuery: query, Header: header, Peer: peer}
	state := s.e.state.Load()
	if state == nil {
		return &Refusal{http.StatusServiceUnavailable, CodeNotReady, "no configuration is loaded yet"}
	}
	x.decision = Decide(state.table, s.face, &x.request, rand.Float64())
	if x.decision.Refusal != nil {
		return x.decision.Refusal
	}
	x.target = path + target[len(rawPath):]
	s.outgoing(x, r, header, trailers)
	return nil
}

// screen refuses what is never looked at further, and returns the request
// target as path and query.
func (s *server) screen(r *http.Request) (target string, refusal *Refusal) {
	bad := func(detail string) (string, *Refusal) {
		return "", &Refusal{http.StatusBadRequest, CodeBadRequest, detail}
	}
	l := s.e.opt.Limits
	target = r.RequestURI
	if target == "" { // not from a server: a RoundTripper's
		target = r.URL.RequestURI()
	}
	switch {
	case r.Method == http.MethodConnect:
		return "", &Refusal{http.StatusMethodNotAllowed, CodeMethod, "this proxy opens no tunnels"}
	case len(target) > l.TargetBytes:
		return "", &Refusal{http.StatusRequestURITooLong, CodeTooLarge, "the request target is too long"}
	case countFields(r.Header) > l.HeaderCount:
		return "", &Refusal{http.StatusRequestHeaderFieldsTooLarge, CodeTooLarge, "the request has too many header fields"}
	case r.URL.User != nil:
		return bad("the request target has user information")
	}
	target, ok := originForm(target)
	if !ok {
		return bad("the request target is not an absolute path or http URL without a fragment")
	}
	return target, nil
}

// originForm returns path and query of a request target. Of the absolute form
// (RFC 9112 section 3.2.2) net/http made the authority the Host, as that
// section asks. There is no path in the authority and asterisk forms.
func originForm(target string) (string, bool) {
	if strings.ContainsAny(target, "# ") {
		return "", false
	}
	if strings.HasPrefix(target, "/") {
		return target, true
	}
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", false
	}
	switch i := strings.IndexAny(rest, "/?"); {
	case i < 0:
		return "/", true
	case rest[i] == '?':
		return "/" + rest[i:], true
	default:
		return rest[i:], true
	}
}

// peer returns who sends r, and which of its headers are believed.
func (s *server) peer(x *exchange, r *http.Request) (mesh.ID, trust, *Refusal) {
	switch s.face.Kind {
	case Inbound:
		id, err := identity.PeerID(r.TLS)
		if err != nil {
			return mesh.ID{}, trust{}, &Refusal{http.StatusForbidden, CodeDenied, "the peer has no identity"}
		}
		_, gateway := id.Gateway()
		service, _, _ := id.Service()
		return id, trust{forwarded: gateway, own: service == bridgeService}, nil
	case Outbound:
		src, refusal := s.caller(r)
		if refusal != nil {
			return mesh.ID{}, trust{}, refusal
		}
		x.caller = src
		return src.ID(), s.trust, nil
	default:
		src, refusal := s.caller(r)
		x.caller = src
		return mesh.ID{}, trust{}, refusal
	}
}

// bridgeService is the service whose Hedgerow-* headers are believed: they are
// set by our own code, from what an MQTT broker authenticated.
const bridgeService = "mqtt-bridge"

// outgoing builds the request that is sent, from r and its cleaned header.
func (s *server) outgoing(x *exchange, r *http.Request, header http.Header, trailers bool) {
	if rule := x.decision.Rule; rule != nil {
		applyHeaderOps(header, rule.RequestHeaders)
	}
	if s.local != nil {
		setClientCert(header, s.local.ID(), x.request.Peer, r.TLS)
	}
	if x.upgrade != nil {
		setUpgrade(header)
	}
	if trailers {
		header.Set("Te", "trailers")
	}
	if _, ok := header["User-Agent"]; !ok {
		header["User-Agent"] = []string{""} // or net/http names itself
	}
	x.out = &http.Request{
		Method:        r.Method,
		Host:          r.Host,
		Header:        header,
		ContentLength: r.ContentLength,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
	}
	if len(r.Trailer) > 0 {
		x.out.Trailer = r.Trailer.Clone()
		cleanTrailer(x.out.Trailer)
	}
}

// setForwarded says where a request reached the mesh.
func setForwarded(h http.Header, r *http.Request) {
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	if client, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h.Set("X-Forwarded-For", client)
	}
	h.Set("X-Forwarded-Proto", proto)
	h.Set("X-Forwarded-Host", r.Host)
}

// setClientCert tells the workload who called.
func setClientCert(h http.Header, by, peer mesh.ID, state *tls.ConnectionState) {
	h.Set(clientCertHeader, newClientCert(by.String(), peer.String(), state.PeerCertificates[0].Raw).String())
}

// setBody takes over r's body.
func (x *exchange) setBody(r *http.Request, limit int) {
	x.body = newBodySource(r.Body, r.ContentLength, limit, func() {
		for name := range x.out.Trailer {
			x.out.Trailer[name] = r.Trailer[name]
		}
	}, func() { x.watch.touch() })
	if x.body == nil {
		x.out.ContentLength = 0
	}
}

// refuse answers with f, reports it and returns the status.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, x *exchange, f *failure) int {
	s.report(x, &f.Refusal, f.err)
	// Where a request ends whose body broke off, a CONNECT, or what somebody
	// before us may have framed by a misspelled field, is not known: nothing
	// may follow it.
	final := r.ProtoMajor == 1 && (f.kind == failedClient || f.Status == http.StatusBadRequest || r.Method == http.MethodConnect)
	if err := writeProblem(w, &f.Refusal, x.id, final); err != nil {
		panic(http.ErrAbortHandler)
	}
	return f.Status
}

// fail answers for a response that did not come, and returns the status. It
// panics with http.ErrAbortHandler if there is nobody to answer: to return
// without an answer would be to say 200.
func (s *server) fail(w http.ResponseWriter, r *http.Request, x *exchange, err error) int {
	f := asFailure(err)
	if f.kind == failedGone {
		panic(http.ErrAbortHandler)
	}
	return s.refuse(w, r, x, f)
}

// asFailure returns what a forwarder returned as its error.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{Refusal{http.StatusInternalServerError, "internal", "the proxy failed"}, failedReset, err}
}

// report counts and logs an answer of our own. Denials and failures are logged
// under the id that the caller got; their number of lines a second is bounded.
func (s *server) report(x *exchange, refusal *Refusal, cause error) {
	s.e.metrics.refusals.WithLabelValues(faceName(s.face.Kind), x.decision.Service, refusal.Code).Inc()
	event := s.e.denials.Info()
	if refusal.Status >= 500 {
		event = s.e.denials.Warn()
	}
	auth := x.decision.Authorization
	event.Str("decision_id", x.id).Str("face", faceName(s.face.Kind)).Int("status", refusal.Status).Str("code", refusal.Code).
		Str("service", x.decision.Service).Str("method", x.request.Method).Str("host", x.request.Host).Str("path", x.request.Path).
		Str("peer_id", x.request.Peer.String())
	if x.decision.Route != nil {
		event.Str("route", x.decision.Route.Name)
	}
	if auth.Decision != "" {
		near := make([]string, 0, len(auth.NearMisses))
		for _, m := range auth.NearMisses {
			near = append(near, m.Policy+" "+m.Failed)
		}
		event.Str("policy", auth.Policy).Str("reason", auth.Reason).Strs("near_misses", near)
	}
	event.Err(cause).Msg("request refused")
}
