package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// CodeAskUnavailable is for a service that decides about requests and did not answer, or failed. 503.
const CodeAskUnavailable = "authorization_unavailable"

// Reasons of refusals by a service that was asked.
const (
	ReasonAskDenied      = "FORWARD_AUTH_DENIED"
	ReasonAskUnavailable = "FORWARD_AUTH_UNAVAILABLE"
)

// Bounds of asking another service.
const (
	defaultAskTimeout = 500 * time.Millisecond
	mostAskedBytes    = 64 << 10 // of an answer
)

// Headers by which a service learns what it is asked about (Traefik's ForwardAuth), beside those of any
// request from a gateway.
const (
	forwardedMethod = "X-Forwarded-Method"
	forwardedURI    = "X-Forwarded-Uri"
)

// forwardAuth is a compiled mesh.ForwardAuth.
type forwardAuth struct {
	name    string
	service string
	path    string
	send    []string // headers of the request
	take    []string // headers of the answer
	open    bool
	rule    *Rule
	as      *authenticator // in records

	allowed, denied, failed, opened atomic.Uint64
}

func newForwardAuth(source *mesh.Authenticator) *forwardAuth {
	f := source.ForwardAuth
	out := &forwardAuth{
		name: source.ID(), service: f.Service, path: f.Path, send: f.RequestHeaders, take: f.ResponseHeaders, open: f.FailOpen,
		rule: &Rule{Timeout: defaultAskTimeout, Retry: RetryPolicy{
			Attempts: 1, OnConnectFailure: true, OnReset: true, Budget: defaultBudget, BackoffBase: DefaultBackoffBase, BackoffMax: DefaultBackoffMax,
		}},
		as: &authenticator{name: source.ID()},
	}
	if out.path == "" {
		out.path = "/"
	}
	if len(out.send) == 0 {
		out.send = []string{"Authorization", "Cookie"}
	}
	if f.Timeout != nil {
		out.rule.Timeout = time.Duration(*f.Timeout)
	}
	return out
}

// consult asks everybody who has to agree to x. It returns the answer that the caller gets instead, or
// why there is none; both are nil if x goes on.
func (s *server) consult(x *exchange) (answer, *failure) {
	for _, a := range x.decision.asks {
		v := a.ask(s, x)
		switch {
		case v.status >= 200 && v.status < 300:
			a.allowed.Add(1)
			for _, name := range a.take {
				if value, ok := v.fields.Get(name); ok {
					x.out.fields = x.out.fields.Set(name, value)
				}
			}
			x.out.fields = slices.Grow(x.out.fields, 3) // as outgoing leaves it
		case v.status >= 300 && v.status < 500:
			a.denied.Add(1)
			return s.deniedBy(x, a, &v)
		case a.open:
			a.opened.Add(1)
		default:
			a.failed.Add(1)
			if x.givenUp() != nil {
				return nil, x.classify(v.err)
			}
			err := fmt.Errorf("%s: service %s answered %d: %w", a.name, a.service, v.status, v.err)
			x.decision.proof.by, x.decision.proof.rejected = a.as, &jwt.Rejected{Reason: ReasonAskUnavailable, Detail: err.Error()}
			return nil, &failure{Refusal{http.StatusServiceUnavailable, CodeAskUnavailable, "whether the request is allowed cannot be told now"}, failedDenied, err}
		}
	}
	return nil, nil
}

// deniedBy gives the answer of a service that was asked to the caller of x, as it is. A caller by gRPC
// gets its status.
func (s *server) deniedBy(x *exchange, a *forwardAuth, v *verdict) (answer, *failure) {
	detail := fmt.Sprintf("service %s answered %d", a.service, v.status)
	x.decision.proof.by, x.decision.proof.rejected = a.as, &jwt.Rejected{Reason: ReasonAskDenied, Detail: detail}
	refusal := Refusal{v.status, CodeDenied, "the request is not allowed"}
	if x.grpc {
		if refusal.Status != http.StatusUnauthorized {
			refusal.Status = http.StatusForbidden
		}
		return nil, &failure{refusal, failedDenied, nil}
	}
	s.report(x, &refusal, nil)
	out := &ownAnswer{status: v.status, fields: v.fields, text: v.body}
	if x.in.method == http.MethodHead {
		out.fields = out.fields.Add("Content-Length", strconv.Itoa(len(out.text)))
		out.text = nil
	}
	if err := out.head(&x.resp); err != nil {
		return nil, x.classify(err)
	}
	return out, nil
}

// verdict is what a service that was asked answered; its status is 0 if it did not.
type verdict struct {
	status int
	fields header.List
	body   []byte
	err    error
}

// errTooMuch is an answer that is too long to be given on.
var errTooMuch = fmt.Errorf("its answer is longer than %d bytes", mostAskedBytes)

// ask asks about x, in its name.
func (a *forwardAuth) ask(s *server, x *exchange) verdict {
	m := &mirrored{} // it is nobody's request either
	c := &m.exchange
	c.reset(s, client{m, m, m})
	c.parent = x.context()
	c.caller, c.began = x.caller, time.Now()
	c.decision = Decision{Service: a.service, Rule: a.rule}
	c.request = Request{Method: http.MethodGet, Path: a.path, Remote: x.request.Remote}
	c.in.method, c.isWhole = http.MethodGet, true
	c.out = outgoing{method: http.MethodGet, target: a.path, host: a.service + meshDomain, fields: a.about(x)}
	c.request.Fields = c.out.fields
	stop := c.onDone(c.parent)
	defer stop()
	c.watch.start(c, a.rule.Timeout, 0, nil)
	defer c.watch.release()
	defer c.finish()
	got, failed := s.forwarder.forward(c)
	if failed != nil {
		return verdict{err: failed}
	}
	defer got.close()
	defer c.attach(nil)
	v := verdict{status: c.resp.status, fields: cleanResponse(nil, c.resp.fields, true).Clone()}
	if v.body, v.err = readAll(got.body()); v.err != nil {
		return verdict{err: v.err}
	}
	return v
}

// about returns the fields of a request that asks about x.
func (a *forwardAuth) about(x *exchange) header.List {
	uri := x.request.Path
	if x.request.RawQuery != "" {
		uri += "?" + escapeQuery(x.request.RawQuery)
	}
	out := make(header.List, 0, len(a.send)+8)
	out = append(out, header.Field{Name: forwardedMethod, Value: x.request.Method}, header.Field{Name: forwardedURI, Value: uri})
	for _, name := range []string{forwardedFor, forwardedProto, forwardedHost} {
		if value, ok := x.out.fields.Get(name); ok {
			out = out.Add(name, value)
		}
	}
	for _, name := range a.send {
		for _, f := range x.request.Fields {
			if header.Equal(f.Name, name) {
				out = append(out, f)
			}
		}
	}
	return slices.Grow(out, 3) // for what a transport adds
}

// readAll returns a body of a length that may be kept.
func readAll(body answerBody) ([]byte, error) {
	if whole, ok := body.complete(); ok {
		if len(whole) > mostAskedBytes {
			return nil, errTooMuch
		}
		return slices.Clone(whole), nil
	}
	var out []byte
	for {
		p, err := body.next()
		if len(out)+len(p) > mostAskedBytes {
			return nil, errTooMuch
		}
		out = append(out, p...)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
