package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// refuse answers with f, reports it and returns the status, or 0 if the client
// did not get the answer.
func (s *server) refuse(x *exchange, f *failure) int {
	s.report(x, &f.Refusal, f.err)
	// Where a request ends whose body broke off, a CONNECT, or what somebody
	// before us may have framed by a misspelled field, is not known: nothing
	// may follow it.
	if c, ok := x.client.responder.(interface{ last() }); ok && (f.kind == failedClient || f.Status == http.StatusBadRequest || x.in.method == http.MethodConnect) {
		c.last()
	}
	head, body := f.problem(x)
	x.watch.answer(s.e.opt.Limits.WriteTimeout)
	if x.client.begin(head, body, true) != nil {
		return 0
	}
	return f.Status
}

// problem returns the answer that says f to the caller.
func (f *failure) problem(x *exchange) (*responseHead, []byte) {
	var head *responseHead
	var body []byte
	if x.grpc {
		head = grpcProblem(&f.Refusal, x.id())
	} else {
		head, body = problem(&f.Refusal, x.id())
	}
	if f.Code == CodeOverloaded || f.Code == CodeConcurrency {
		head.fields = head.fields.Add(overloadHeader, f.Code)
	}
	if x.grpc {
		return head, nil
	}
	if f.Status == http.StatusUnauthorized && x.decision.challenge != "" {
		head.fields = head.fields.Set("WWW-Authenticate", x.decision.challenge)
	}
	var limited *limitedError
	if errors.As(f.err, &limited) {
		head.fields = head.fields.Set("Retry-After", strconv.Itoa(int((limited.after+time.Second-1)/time.Second)))
	}
	return head, body
}

// fail answers for a response that did not come, and returns the status; 0 if
// there is nobody to answer.
func (s *server) fail(x *exchange, f *failure) int {
	if f.kind == failedGone {
		return 0
	}
	return s.refuse(x, f)
}

// turnAway refuses a request over HTTP/2 whose header nobody has decoded, if there is
// no room for any. Whether its answer may have a body is not known. It is counted and not
// logged: a log that stands still must not hold up who reads the connection.
func (s *server) turnAway() *link.Head {
	if !s.e.overload.shedding() {
		return nil
	}
	s.e.metrics.shed.Inc()
	s.e.metrics.refusals.WithLabelValues(faceName(s.face.Kind), "", CodeOverloaded).Inc()
	s.counters.count("", http.StatusServiceUnavailable)
	return &link.Head{Status: http.StatusServiceUnavailable, Fields: header.List{
		{Name: "Cache-Control", Value: "no-store"},
		{Name: "Retry-After", Value: retryAfter},
		{Name: overloadHeader, Value: CodeOverloaded},
	}}
}

// report counts and logs an answer of our own. Denials and failures are logged
// under the id that the caller got; their number of lines a second is bounded.
func (s *server) report(x *exchange, refusal *Refusal, cause error) {
	if x.code = refusal.Code; cause != nil {
		x.failedBy = cause.Error()
	}
	if x.began.IsZero() { // it was never a request
		x.began = time.Now()
	}
	if refusal.Code != CodeOverloaded { // a record is memory
		s.e.records.add(s.record(x, refusal.Status, time.Since(x.began)))
	}
	s.e.metrics.refusals.WithLabelValues(faceName(s.face.Kind), x.decision.Service, refusal.Code).Inc()
	event := s.e.denials.Info()
	if refusal.Status >= 500 {
		event = s.e.denials.Warn()
	}
	auth := x.decision.Authorization
	if by, subject, reason, detail := x.decision.authentication(); by+reason != "" {
		event.Str("authenticator", by).Str("subject", subject).Str("authentication", reason).Str("detail", detail)
	}
	event.Str("decision_id", x.id()).Str("face", faceName(s.face.Kind)).Int("status", refusal.Status).Str("code", refusal.Code).
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
