package proxy

import (
	"net/http"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Codes of the refusals of a decision.
const (
	CodeNoRoute    = "no_route"            // 404
	CodeDenied     = "denied"              // 403
	CodeNoEndpoint = "no_healthy_endpoint" // 503
	CodeBadRequest = "bad_request"         // 400
)

// Decide says what happens to r, which entered at face: it is forwarded to one
// backend, or refused. draw is a random number in [0,1); the same table, face,
// request and draw give the same decision. Decide does not allocate when the
// request is forwarded.
//
// At a Gateway and an Outbound a route decides, in the Gateway API's precedence:
// exact host, longest wildcard; exact path, longest prefix or template; a
// method; most headers; most query parameters; then the oldest route, its name,
// the order of its rules. At an Outbound every service also answers at
// <service>.mesh, to everything, until a route that targets MESH names exactly
// that host. Such a route refines the host: what none of its rules matches has
// no route, as with an HTTPRoute whose parent is a Service.
//
// Policies of the gateway and of the route decide there if there are any. At an
// Inbound there are no routes: the policies of face.Service decide, or else the
// mesh default.
func Decide(t *Table, face Face, r *Request, draw float64) Decision {
	c := call{Request: r, path: r.Path}
	switch {
	case r.DecodedPath != "" && hasParameters(r.Path):
		return Decision{Refusal: &Refusal{http.StatusBadRequest, CodeBadRequest, "a path with both parameters and escaped slashes has no single meaning"}}
	case r.DecodedPath != "":
		c.other = r.DecodedPath
	case hasParameters(r.Path):
		c.other = withoutParameters(r.Path)
	}
	switch face.Kind {
	case Inbound:
		if r.DecodedPath != "" && !t.keepsSlash[face.Service] {
			return Decision{Service: face.Service, Refusal: escapedSlash()}
		}
		if s := t.services[face.Service]; s != nil && (s.Protocol == mesh.ProtocolTCP) != r.TCP {
			return Decision{Service: face.Service, Refusal: noRoute()}
		}
		return t.decideInbound(face, &c)
	case Gateway:
		return t.decideRouted(t.gateway, face, &c, draw)
	case Outbound:
		return t.decideRouted(t.outbound, face, &c, draw)
	}
	return Decision{Refusal: noRoute()}
}

func (t *Table) decideInbound(face Face, c *call) Decision {
	d := Decision{Service: face.Service}
	if !d.authenticate(t.guards.everywhere, face, c) || !d.authenticate(t.guards.services[face.Service], face, c) {
		return d
	}
	d.Authorization = t.servicePolicies[face.Service].decide(c, t.allowByDefault, ReasonDefault)
	d.refuseDenied()
	return d
}

func (t *Table) decideRouted(index hostIndex, face Face, c *call, draw float64) Decision {
	var d Decision
	var policies *policySet // of the route
	if face.Kind == Gateway {
		d.strip(t.guards.identity, c)
	}
	r := c.Request
	won := t.lookup(index, face, r, c.path)
	if r.DecodedPath != "" && (won.rule == nil || !won.rule.keepsSlash) {
		d.Refusal = escapedSlash()
		return d
	}
	if c.other != "" && r.DecodedPath == "" && won != t.lookup(index, face, r, c.other) {
		d.Refusal = &Refusal{http.StatusBadRequest, CodeBadRequest, "the path parameters would change the route"}
		return d
	}
	d.Rule, d.prefix = won.rule, won.prefix
	if won.route != nil {
		d.Route, policies = won.route, won.policies
	}
	// Browsers ask without credentials whether they may ask, so that no policy
	// could tell who asks.
	if d.Rule != nil && d.Rule.cors != nil {
		if method, ok := preflight(r); ok {
			d.preflight = method
			return d
		}
	}
	// The gateway's authenticators and policies come first, so that a caller who may
	// not use it does not learn which routes exist.
	if !d.authenticate(t.guards.everywhere, face, c) || face.Kind == Gateway && !d.authenticate(t.guards.gateways[face.Gateway], face, c) {
		return d
	}
	if set := t.gatewayPolicies[face.Gateway]; set != nil && face.Kind == Gateway {
		d.Authorization = set.decide(c, true, ReasonNoDenyMatched)
		if d.refuseDenied() {
			return d
		}
	}
	if d.Rule == nil {
		d.Refusal = noRoute()
		return d
	}
	if !d.authenticate(won.guard, face, c) {
		return d
	}
	if policies != nil {
		d.Authorization = policies.decide(c, true, ReasonNoDenyMatched)
		if d.refuseDenied() {
			return d
		}
	}
	if d.Rule.answers() {
		return d
	}
	if d.Rule.affinity != nil {
		if value, ok := hashValue(d.Rule.affinity, c.Request); ok {
			draw = drawOf(value)
		}
	}
	b, ok := d.Rule.choose(draw)
	if !ok {
		d.Refusal = &Refusal{http.StatusServiceUnavailable, CodeNoEndpoint, "every backend of the rule has weight 0"}
		return d
	}
	d.Service, d.Subset, d.Draw = b.service, b.subset, draw
	return d
}

// winner is the rule that takes a request; its route is nil for the one that a
// service has by itself, and both are nil if there is none.
type winner struct {
	route    *mesh.Route
	policies *policySet
	guard    *guard
	rule     *Rule
	prefix   int // bytes of the path that matched as a prefix
}

func (t *Table) lookup(index hostIndex, face Face, r *Request, path string) winner {
	// The service's own rule is for its exact host, so it stands behind routes
	// of that host and before wildcards.
	if face.Kind == Outbound && index.exact[r.Host] == nil {
		if id, ok := strings.CutSuffix(r.Host, meshDomain); ok {
			if rule := t.builtin[id]; rule != nil {
				return winner{rule: rule}
			}
		}
	}
	if c := index.find(face, r, path); c != nil {
		return winner{c.route, c.policies, c.guard, c.rule, c.prefix}
	}
	return winner{}
}

// refuseDenied turns a denial into the refusal that the caller gets, which names
// no policy. It reports whether there is one.
func (d *Decision) refuseDenied() bool {
	if d.Authorization.Decision != mesh.Deny {
		return false
	}
	d.Refusal = &Refusal{http.StatusForbidden, CodeDenied, "no policy lets this caller do this"}
	return true
}

func escapedSlash() *Refusal {
	return &Refusal{http.StatusBadRequest, CodeBadRequest, "the request path has no single meaning: no rule takes escaped slashes there"}
}

func noRoute() *Refusal {
	return &Refusal{http.StatusNotFound, CodeNoRoute, "no route matches the request"}
}
