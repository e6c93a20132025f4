package proxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// server decides and forwards what enters at one face, over whichever protocol.
type server struct {
	e         *Engine
	face      Face
	forwarder forwarder
	caller    CallerOf                                     // nil at an Inbound
	local     *identity.Source                             // whom an Inbound speaks for
	trust     trust                                        // in the caller's headers; an Inbound asks the peer
	hops      Hops                                         // in front of a Gateway
	toHTTPS   *Rule                                        // of what comes to a Gateway in clear text; nil if it is served
	proof     func(token string) (text string, known bool) // as Edge has it; may be nil
	plain     bool                                         // no WebSockets
	counters  *faceMetrics
}

// CallerOf says which local identity a listener's requests are sent as, or why
// that cannot be known.
type CallerOf func() (*identity.Source, *Refusal)

// forwarder carries out a decision to forward. It is the seam behind which the
// way requests travel may be exchanged: what is above has decided, what is
// below decides nothing but which endpoint, and whether to try another.
type forwarder interface {
	// forward sends x and returns the response once its final head is in
	// x.resp.
	forward(x *exchange) (answer, *failure)
}

// serve handles the request in x.in from its decision to the end of its
// response. It reports whether the client got all of the response; if not, the
// connection or stream must be broken off, so that what is incomplete looks
// incomplete.
func (s *server) serve(x *exchange) (complete bool) {
	s.begin(x)
	status := s.exchange(x)
	s.end(x, status)
	return status != 0
}

// begin counts a request that is under way.
func (s *server) begin(x *exchange) {
	x.began = time.Now()
	s.counters.inFlight.Inc()
}

// end ends x and counts it by the status that its client got; 0 is that it did
// not get all.
func (s *server) end(x *exchange, status int) {
	if x.decision.Rule != nil && len(x.decision.Rule.mirrors) > 0 {
		s.mirror(x)
	}
	x.finish()
	s.e.overload.taken.Add(-x.cost)
	s.counters.inFlight.Dec()
	s.observe(x, status)
}

// exchange returns the status that the client got, or 0 if it did not get all of
// the response.
func (s *server) exchange(x *exchange) int {
	a, failed := s.open(x)
	if failed != nil {
		return s.fail(x, failed)
	}
	status := s.respond(x, a)
	if status != 0 {
		x.lastBytes()
	}
	x.attach(nil)
	a.close()
	return status
}

// open decides about x and brings the response: its final head is in x.resp. x
// is watched from here on.
func (s *server) open(x *exchange) (answer, *failure) {
	if refusal := s.prepare(x); refusal != nil {
		x.watch.start(x, s.e.opt.Limits.WriteTimeout, 0, nil)
		return nil, &failure{Refusal: *refusal}
	}
	x.takeBody()
	var look func() bool
	if c, ok := x.client.asker.(interface{ looker() func() bool }); ok {
		look = c.looker()
	}
	timeout, idle := x.timeouts()
	x.watch.start(x, timeout, idle, look)
	if c, ok := x.client.asker.(interface{ left() bool }); ok && c.left() { // while there was nothing to cut
		x.watch.cut(errClientGone)
	}
	if len(x.decision.asks) > 0 {
		if a, failed := s.consult(x); a != nil || failed != nil {
			return a, failed
		}
	}
	if rule := x.decision.Rule; rule != nil {
		if failed := rule.filterRequest(x); failed != nil {
			return nil, failed
		}
		if a := x.reply(); a != nil {
			return a, x.classifyOwn(a.head(&x.resp))
		}
	}
	if err := x.gather(); err != nil {
		return nil, x.classify(err)
	}
	return s.forwarder.forward(x)
}

// finish ends what x has under way: nobody reads the client's body any more when
// it returns.
func (x *exchange) finish() {
	x.watch.stop()
	if x.body.close() { // an upload still waits for the client
		x.client.interruptRead()
	}
	x.uploads.Wait()
	if x.small != nil {
		x.body.forget()
		x.s.e.short.put(x.small)
		x.small, x.whole = nil, nil
	}
	x.over()
}

// timeouts returns how long the whole exchange may take, and for how long nothing may
// move in it; 0 is no bound. What has a bound as a whole needs no other, unless the
// rule sets one.
func (x *exchange) timeouts() (whole, idle time.Duration) {
	rule := x.decision.Rule
	if rule != nil && (rule.timed || !x.grpc) {
		whole = rule.Timeout
	} // at an Inbound the caller's proxy has the say
	if x.deadline > 0 && (whole == 0 || x.deadline < whole) {
		whole, x.hurried = x.deadline, true
	}
	switch {
	case rule != nil && rule.IdleTimeout > 0:
		idle = rule.IdleTimeout
	case whole == 0:
		idle = x.s.e.opt.Limits.StreamIdle
	}
	return whole, idle
}

// takeBody takes over the client's body.
func (x *exchange) takeBody() {
	if x.in.length == 0 {
		x.isWhole = true
		return
	}
	if whole, ok := x.client.asker.(interface{ whole() ([]byte, bool) }); ok {
		if x.whole, x.isWhole = whole.whole(); x.isWhole {
			x.out.length = int64(len(x.whole))
			return
		}
	}
	l := &x.s.e.opt.Limits
	x.body = newBodySource(x.client, x.in.length, l.ReplayBytes, l.BodyBytes, x.watch.touch)
}

// prepare screens the request, decides about it, and fills in x but for its body.
func (s *server) prepare(x *exchange) *Refusal {
	if !s.e.overload.admit(x) {
		s.e.metrics.shed.Inc()
		return &Refusal{http.StatusServiceUnavailable, CodeOverloaded, "the proxy is short of memory"}
	}
	target, refusal := s.screen(&x.in)
	if refusal != nil {
		return refusal
	}
	if x.in.asks && !s.plain {
		if x.wish, refusal = parseUpgrade(&x.in); refusal != nil {
			return refusal
		}
	}
	terms := termsOf(&x.in, s.face.Kind)
	x.grpc, x.deadline = terms.grpc, terms.deadline
	if terms.timed && terms.deadline == 0 {
		return &Refusal{http.StatusGatewayTimeout, CodeTimeout, "the time for the request has passed"}
	}
	peer, believed, refusal := s.peer(x)
	if refusal != nil {
		return refusal
	}
	if x.out.fields, refusal = cleanRequest(x.out.fields[:0], x.in.fields, believed); refusal != nil {
		return refusal
	}
	rawPath, query, _ := strings.Cut(target, "?")
	host, err := CanonicalHost(x.in.host)
	if err != nil {
		return &Refusal{http.StatusBadRequest, CodeBadRequest, "the request names no valid host"}
	}
	path, err := CanonicalPath(rawPath)
	if err != nil {
		path, x.request.DecodedPath, err = canonicalKeeping(rawPath)
	}
	if err != nil {
		return &Refusal{http.StatusBadRequest, CodeBadRequest, "the request path has no single meaning"}
	}
	remote := x.in.remote
	if s.face.Kind == Gateway {
		x.out.fields, remote = s.hops.setForwarded(x.out.fields, &x.in)
	}
	x.request = Request{Method: x.in.method, Host: host, Path: path, DecodedPath: x.request.DecodedPath, RawQuery: query, Fields: x.out.fields, Remote: remote, Peer: peer}
	if rule := s.proves(&x.request); rule != nil {
		x.out.target, x.decision.Rule = target, rule
		return nil
	}
	state := s.e.state.Load()
	if state == nil {
		return &Refusal{http.StatusServiceUnavailable, CodeNotReady, "no configuration is loaded yet"}
	}
	x.out.target = target
	if escaped := escapeQuery(target[len(rawPath):]); path != rawPath || escaped != target[len(rawPath):] {
		x.out.target = path + escaped
	}
	if proto, _ := x.out.fields.Get(forwardedProto); s.toHTTPS != nil && proto != "https" {
		x.decision.Rule = s.toHTTPS
		return nil
	}
	x.draw = rand.Float64()
	x.decision = Decide(state.table, s.face, &x.request, x.draw)
	x.decision.Authorization.count()
	if x.decision.fields != nil {
		x.request.Fields, x.out.fields, x.decision.fields = x.decision.fields, x.decision.fields, nil
	}
	if x.decision.Refusal != nil {
		return x.decision.Refusal
	}
	s.outgoing(x)
	return nil
}

// proves returns the rule that answers r with a proof that its host is served here,
// or nil. It needs no configuration: a certificate may be wanted before there is one.
func (s *server) proves(r *Request) *Rule {
	if s.proof == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return nil
	}
	token, ok := strings.CutPrefix(r.Path, ProofPrefix)
	if !ok {
		return nil
	}
	text, known := s.proof(token)
	if !known {
		return nil
	}
	rule := &Rule{Timeout: DefaultTimeout}
	rule.respond = &mesh.Respond{Status: http.StatusOK, Body: text}
	return rule
}

// screen refuses what is never looked at further, and returns the request
// target as path and query.
func (s *server) screen(in *incoming) (target string, refusal *Refusal) {
	l := &s.e.opt.Limits
	switch {
	case in.method == http.MethodConnect:
		return "", &Refusal{http.StatusMethodNotAllowed, CodeMethod, "this proxy opens no tunnels"}
	case in.method == http.MethodTrace:
		return "", &Refusal{http.StatusMethodNotAllowed, CodeMethod, "this proxy does not show what it adds to a request"}
	case len(in.target) > l.TargetBytes:
		return "", &Refusal{http.StatusRequestURITooLong, CodeTooLarge, "the request target is too long"}
	case len(in.fields) > l.HeaderCount:
		return "", &Refusal{http.StatusRequestHeaderFieldsTooLarge, CodeTooLarge, "the request has too many header fields"}
	case in.length > l.BodyBytes && l.BodyBytes > 0:
		return "", &Refusal{http.StatusRequestEntityTooLarge, CodeTooLarge, "the request body is too long"}
	}
	target, ok := originForm(in.target)
	if !ok {
		return "", &Refusal{http.StatusBadRequest, CodeBadRequest, "the request target is not an absolute path or http URL without a fragment"}
	}
	return target, nil
}

// originForm returns path and query of a request target. Of the absolute form
// (RFC 9112 section 3.2.2) the authority became the host, as that section asks.
// There is no path in the authority and asterisk forms.
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
	at := strings.IndexAny(rest, "/?")
	if at < 0 {
		at = len(rest)
	}
	switch {
	case strings.Contains(rest[:at], "@"): // user information, RFC 9110 section 4.2.4
		return "", false
	case at == len(rest):
		return "/", true
	case rest[at] == '?':
		return "/" + rest[at:], true
	default:
		return rest[at:], true
	}
}

// escapeQuery escapes what no URI has: bytes beyond ASCII. Everything else stays
// as it was written.
func escapeQuery(query string) string {
	for i := range len(query) {
		if query[i] >= 0x80 {
			out := []byte(query[:i])
			for _, c := range []byte(query[i:]) {
				if c < 0x80 {
					out = append(out, c)
				} else {
					out = append(out, '%', upperHex[c>>4], upperHex[c&15])
				}
			}
			return string(out)
		}
	}
	return query
}

// peer returns who sends x, and which of its headers are believed.
func (s *server) peer(x *exchange) (mesh.ID, trust, *Refusal) {
	switch s.face.Kind {
	case Inbound:
		id := x.in.peer // verified in the handshake
		if id == (mesh.ID{}) {
			return mesh.ID{}, trust{}, &Refusal{http.StatusForbidden, CodeDenied, "the peer has no identity"}
		}
		if x.in.graced && !s.e.graces(s.face.Service) {
			return mesh.ID{}, trust{}, expiredPeer()
		}
		_, gateway := id.Gateway()
		service, _, _ := id.Service()
		return id, trust{forwarded: gateway, own: service == bridgeService}, nil
	case Outbound:
		src, refusal := s.caller()
		if refusal != nil {
			return mesh.ID{}, trust{}, refusal
		}
		x.caller = src
		return src.ID(), s.trust, nil
	default:
		src, refusal := s.caller()
		x.caller = src
		return mesh.ID{}, trust{}, refusal
	}
}

// bridgeService is the service whose Hedgerow-* headers are believed: they are
// set by our own code, from what an MQTT broker authenticated.
const bridgeService = "mqtt-bridge"

// outgoing completes the request that is sent.
func (s *server) outgoing(x *exchange) {
	l := x.out.fields
	x.out.host = x.in.host
	if rule := x.decision.Rule; rule != nil {
		x.rewrite(rule.rewrite)
		if len(rule.requestHeaders) > 0 { // what is asked about the request is asked of what came
			l = applyHeaderOps(append(x.altered[:0], l...), rule.requestHeaders)
			x.altered = l[:0]
		}
	}
	if s.local != nil {
		l = l.Set(clientCertHeader, x.in.clientCert)
	}
	if te, ok := x.in.fields.Get("TE"); ok && header.HasToken(te, "trailers") {
		l = l.Add("TE", "trailers")
	}
	l = x.traced.begin(&s.e.opt.Observe.Tracing, l)
	x.out.fields = slices.Grow(l, 3) // a transport may add the length, and the time that is left
	x.out.method, x.out.length = x.in.method, x.in.length
}

// rewrite changes where x is sent.
func (x *exchange) rewrite(r *mesh.Rewrite) {
	if r == nil {
		return
	}
	if r.Hostname != "" {
		x.out.host = r.Hostname
	}
	if path := replacePath(x.request.Path, x.decision.prefix, r.ReplacePath, r.ReplacePathPrefix); path != x.request.Path {
		_, query, asks := strings.Cut(x.out.target, "?")
		x.out.target = path
		if asks {
			x.out.target += "?" + query
		}
	}
}

// respond gives the response in x.resp and a to the client and returns its
// status, or 0 if the client did not get all of it.
func (s *server) respond(x *exchange, a answer) int {
	if x.body.clientError() != nil { // whatever the endpoint made of the rest
		return s.fail(x, x.classify(errNotReplayable))
	}
	if x.resp.status == http.StatusSwitchingProtocols || x.wish.wanted() && !x.in.http1 && x.resp.status/100 == 2 {
		return s.tunnel(x, a) // a CONNECT takes 2xx for it too (RFC 8441 section 5)
	}
	if !x.watch.begin() {
		return s.fail(x, &failure{Refusal{http.StatusGatewayTimeout, CodeTimeout, "the service did not answer in time"}, failedTimeout, errTimeout})
	}
	x.sent = s.responseHead(x)
	body := a.body()
	if rule := x.decision.Rule; rule != nil && rule.compress != nil {
		var done func()
		if body, done = x.compress(rule.compress, body); done != nil {
			defer done()
		}
	}
	if first, whole := body.complete(); whole {
		if x.client.begin(&x.sent, first, true) != nil {
			return 0
		}
		return x.sent.status
	}
	if err := copyBody(x, body); err != nil {
		var read *readError
		if errors.As(err, &read) && x.givenUp() == nil {
			s.e.metrics.failures.WithLabelValues(x.decision.Service, "truncated").Inc()
		}
		return 0
	}
	return x.sent.status
}

// responseHead returns the head that the client gets for x.resp.
func (s *server) responseHead(x *exchange) responseHead {
	head := x.resp
	head.fields = cleanResponse(x.respKept[:0], x.resp.fields, s.local != nil || x.leaves())
	if rule := x.decision.Rule; rule != nil {
		head.fields = applyHeaderOps(head.fields, rule.responseHeaders)
		if rule.cors != nil && x.decision.preflight == "" {
			head.fields = rule.cors.apply(head.fields, &x.request)
		}
	}
	// What has no body may tell the length that another would have: HEAD and
	// 304 (RFC 9110 section 8.6), but not 204.
	if x.out.method == http.MethodHead && head.status >= 200 && head.status != http.StatusNoContent || head.status == http.StatusNotModified {
		if length, ok := x.resp.fields.Get("Content-Length"); ok {
			head.fields = head.fields.Add("Content-Length", length)
		}
	}
	head.fields = slices.Grow(head.fields, 1) // a client may add the length
	x.respKept = head.fields[:0]
	return head
}

// readError is an error of reading the upstream's response body.
type readError struct{ error }

// Unwrap returns the cause.
func (e *readError) Unwrap() error { return e.error }

// copyBody gives the head in x.sent and body to the client as they come: somebody may
// be waiting for each piece.
func copyBody(x *exchange, body answerBody) error {
	if err := x.client.begin(&x.sent, nil, false); err != nil {
		return err
	}
	for {
		p, err := body.next()
		if len(p) > 0 {
			x.watch.touch()
			if err := x.client.write(p); err != nil {
				return err
			}
			x.watch.touch()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return &readError{err}
		}
	}
	trailers := body.trailers()
	if len(trailers) > 0 {
		trailers = cleanTrailer(nil, trailers)
	}
	return x.client.end(trailers)
}
