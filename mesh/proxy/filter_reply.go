package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// ownAnswer is a response that the rule itself gives.
type ownAnswer struct {
	status int
	fields header.List
	text   []byte
}

var _ answer = (*ownAnswer)(nil)

// head implements answer.
func (a *ownAnswer) head(out *responseHead) error {
	*out = responseHead{status: a.status, fields: a.fields, length: int64(len(a.text))}
	return nil
}

func (a *ownAnswer) body() answerBody                    { return a }
func (a *ownAnswer) complete() ([]byte, bool)            { return a.text, true }
func (a *ownAnswer) next() ([]byte, error)               { return nil, errDone }
func (a *ownAnswer) trailers() header.List               { return nil }
func (a *ownAnswer) interrupt()                          {}
func (a *ownAnswer) close()                              {}
func (a *ownAnswer) tunnel() (halfCloser, []byte, error) { return nil, nil, errDone }

// classifyOwn says what err of a response of our own means: there is none.
func (x *exchange) classifyOwn(err error) *failure {
	if err == nil {
		return nil
	}
	return x.classify(err)
}

// reply returns the response that the rule of x gives by itself, or nil.
func (x *exchange) reply() answer {
	if x.decision.preflight != "" {
		return &ownAnswer{status: http.StatusNoContent, fields: x.decision.Rule.cors.answerPreflight(&x.request, x.decision.preflight)}
	}
	rule := x.decision.Rule
	switch {
	case rule == nil:
		return nil
	case rule.redirect != nil:
		status := given(rule.redirect.Status, http.StatusFound)
		return &ownAnswer{status: status, fields: header.List{{Name: "Location", Value: x.location(rule.redirect)}}}
	case rule.respond != nil:
		a := &ownAnswer{status: int(rule.respond.Status), text: []byte(rule.respond.Body)}
		if len(a.text) > 0 {
			a.fields = a.fields.Add("Content-Type", "text/plain; charset=utf-8")
		}
		if x.in.method == http.MethodHead {
			a.fields = a.fields.Add("Content-Length", strconv.Itoa(len(a.text)))
			a.text = nil
		}
		return a
	}
	return nil
}

// location returns where a redirect leads. As in the Gateway API, a scheme without a
// port means that scheme's own, and what is absent is the request's.
func (x *exchange) location(r *mesh.Redirect) string {
	scheme, _ := x.out.fields.Get(forwardedProto) // as the gateway has it, by hops that it trusts
	if scheme == "" {
		scheme = "http"
	}
	host := x.in.host
	if told, ok := x.out.fields.Get(forwardedHost); ok {
		host = told
	}
	port := ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host, port = host[:i], host[i+1:]
	}
	if r.Scheme != "" {
		scheme, port = r.Scheme, ""
	}
	if r.Hostname != "" {
		host = r.Hostname
	}
	if r.Port != 0 {
		port = strconv.Itoa(int(r.Port))
	}
	if port != "" && (scheme == "http" && port != "80" || scheme == "https" && port != "443") {
		host += ":" + port
	}
	_, query, asks := strings.Cut(x.out.target, "?")
	location := scheme + "://" + host + replacePath(x.request.Path, x.decision.prefix, r.ReplacePath, r.ReplacePathPrefix)
	if asks {
		location += "?" + query
	}
	return location
}
