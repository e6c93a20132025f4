package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

func (s *Service) normalize() {
	if s.Protocol == "" {
		s.Protocol = ProtocolHTTP
	}
}

func (s *Service) validate(v *Violations) {
	v.oneOf("protocol", s.Protocol, []string{ProtocolHTTP, ProtocolHTTP2, ProtocolGRPC, ProtocolTCP})
	if s.External != nil {
		s.validateExternal(v)
	}
	if h := s.Health; h != nil {
		if h.Path != "" {
			checkPlainPath("health.path", h.Path, v)
		}
		checkDuration("health.interval", h.Interval, 100*time.Millisecond, maxTimeout, v)
		checkDuration("health.timeout", h.Timeout, time.Millisecond, maxTimeout, v)
	}
	v.unsupported(s.Activation != nil, "activation")
	if s.Protocol == ProtocolTCP && s.LoadBalancing != nil && s.LoadBalancing.Hash != nil {
		v.Add("loadBalancing.hash", "leave it out", "a connection has no requests to hash")
	}
	if s.LoadBalancing != nil {
		s.LoadBalancing.validate("loadBalancing", v)
	}
	if a := s.AdaptiveConcurrency; a != nil {
		a.validate("adaptiveConcurrency", v)
		if s.Protocol == ProtocolTCP {
			v.Add("adaptiveConcurrency", "use circuitBreaker.maxConnections", "a connection has no requests that could wait")
		}
	}
	if o := s.OutlierDetection; o != nil {
		checkDuration("outlierDetection.interval", o.Interval, time.Millisecond, maxTimeout, v)
		checkDuration("outlierDetection.baseEjectionTime", o.BaseEjectionTime, time.Millisecond, maxTimeout, v)
		checkPercent("outlierDetection.maxEjectionPercent", o.MaxEjectionPercent, v)
	}
	if c := s.CircuitBreaker; c != nil {
		if c.MaxConnections != 0 && s.Protocol != ProtocolTCP {
			v.Add("circuitBreaker.maxConnections", "use maxRequests", "it is for services of protocol TCP: requests share a few links")
		}
	}
	seen := map[string]bool{}
	for i, sub := range s.Subsets {
		field := at("subsets", i)
		switch {
		case !ValidID(sub.Name):
			v.Add(field+".name", "", "%q is not a name of 1 to 63 characters a-z, 0-9 and '-'", sub.Name)
		case seen[sub.Name]:
			v.Add(field+".name", "", "%q is there twice", sub.Name)
		}
		seen[sub.Name] = true
		if len(sub.Labels) == 0 {
			v.Add(field+".labels", "say which instances belong to the subset, e.g. {\"version\": \"v1\"}", "a subset needs labels")
		}
		checkLabels(field+".labels", sub.Labels, v)
	}
}

func (a *AdaptiveConcurrency) validate(field string, v *Violations) {
	const most = 1_000_000
	if a.MinConcurrency > most || a.MaxConcurrency > most {
		v.Add(field+".maxConcurrency", "", "is over %d", most)
	}
	if a.MaxConcurrency != 0 && a.MinConcurrency > a.MaxConcurrency {
		v.Add(field+".minConcurrency", "", "%d is over maxConcurrency", a.MinConcurrency)
	}
	if a.BufferPercent > 1000 {
		v.Add(field+".bufferPercent", "e.g. 25", "%d is over 1000", a.BufferPercent)
	}
	checkDuration(field+".measureEvery", a.MeasureEvery, time.Second, maxTimeout, v)
}

func (l *LoadBalancing) validate(field string, v *Violations) {
	policies := []string{LeastRequest, PeakEWMA, RoundRobin, Random, RingHash, Maglev}
	if l.Policy != "" {
		v.oneOf(field+".policy", l.Policy, policies)
	}
	hashes := l.Policy == RingHash || l.Policy == Maglev
	switch {
	case hashes && l.Hash == nil:
		v.Add(field+".hash", "e.g. {\"header\": \"x-user\"}", "%s needs to know what to hash", l.Policy)
	case !hashes && l.Hash != nil:
		v.Add(field+".hash", "use RING_HASH or MAGLEV", "only these policies look at a hash")
	case l.Hash != nil:
		l.Hash.validate(field+".hash", v)
	}
	checkDuration(field+".slowStart", l.SlowStart, time.Millisecond, maxTimeout, v)
	if prefs := l.Locality; prefs != nil {
		if prefs.Mode != "" {
			v.oneOf(field+".locality.mode", prefs.Mode, []string{LocalityPrefer, LocalityAny, LocalityStrict})
		}
		checkPercent(field+".locality.overflowPercent", prefs.OverflowPercent, v)
	}
}

func (p *Policy) normalize() {}

func (p *Policy) validate(v *Violations) {
	v.oneOf("action", p.Action, []string{Allow, Deny, Audit})
	targets := 0
	if p.Target != nil {
		for _, t := range [][2]string{{"service", p.Target.Service}, {"route", p.Target.Route}, {"gateway", p.Target.Gateway}} {
			if t[1] == "" {
				continue
			}
			targets++
			if !ValidID(t[1]) {
				v.Add("target."+t[0], "", "%q is not an id", t[1])
			}
		}
	}
	if targets != 1 {
		v.Add("target", "e.g. {\"service\": \"orders\"}", "exactly one of service, route and gateway is needed")
	}
	if len(p.Rules) == 0 {
		v.Add("rules", "[{}] matches everything", "a policy needs a rule")
	}
	for i := range p.Rules {
		p.Rules[i].validate(at("rules", i), v)
	}
}

func (r *PolicyRule) validate(field string, v *Violations) {
	if len(r.When) > maxWhenBytes {
		v.Add(field+".when", "", "%d bytes, at most %d are allowed", len(r.When), maxWhenBytes)
	}
	for i := range r.From {
		f, from := at(field+".from", i), &r.From[i]
		checkCIDRs(f+".ipBlocks", from.IPBlocks, v)
		checkDevices(f+".devices", from.Devices, v)
		checkClaims(f+".claims", from.Claims, v)
		checkIdentities(f+".identities", from.Identities, v)
		checkIdentities(f+".notIdentities", from.NotIdentities, v)
		for j, node := range from.Nodes {
			if !ValidID(node) {
				v.Add(at(f+".nodes", j), "", "%q is not a node id", node)
			}
		}
		if len(from.Identities)+len(from.NotIdentities)+len(from.Nodes)+len(from.IPBlocks)+len(from.Devices)+len(from.Claims) == 0 {
			v.Add(f, "leave from out to mean anyone", "an entry of from needs a field")
		}
	}
	for i := range r.To {
		f, to := at(field+".to", i), &r.To[i]
		checkMethods(f+".methods", to.Methods, v)
		for j, p := range to.Paths {
			checkPolicyPath(at(f+".paths", j), p, v)
		}
		for j, p := range to.NotPaths {
			checkPolicyPath(at(f+".notPaths", j), p, v)
		}
		if len(to.Methods)+len(to.Paths)+len(to.NotPaths) == 0 && !to.IgnoreCase {
			v.Add(f, "leave to out to mean everything", "an entry of to needs a field")
		}
	}
}

// maxWhenBytes bounds a condition.
const maxWhenBytes = 4 << 10

// checkDevices checks the devices that a policy names: ids as bridges send them, or "*" for any.
func checkDevices(field string, devices []string, v *Violations) {
	for i, d := range devices {
		if d == "*" {
			continue
		}
		if d == "" || len(d) > 255 || strings.ContainsAny(d, "*,") || strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r > '~' }) {
			v.Add(at(field, i), "an id, e.g. \"d1\", or \"*\" for any", "%.60q is not a device of 1 to 255 printable ASCII characters without ',' and '*'", d)
		}
	}
}

// checkClaims checks what a policy asks of a caller's claims.
func checkClaims(field string, claims []PolicyClaim, v *Violations) {
	for i, claim := range claims {
		checkText(at(field, i)+".name", claim.Name, v)
		if len(claim.Values) == 0 {
			v.Add(at(field, i)+".values", "e.g. [\"admin\"]", "a value is needed")
		}
		for j, value := range claim.Values {
			checkText(at(at(field, i)+".values", j), value, v)
		}
	}
}

// checkIdentities checks identity patterns against any trust domain: which one
// is ours is known where policies are compiled.
func checkIdentities(field string, patterns []string, v *Violations) {
	for i, p := range patterns {
		if _, err := ParseIDPattern(p, "any.invalid"); err != nil {
			if cause := errors.Unwrap(err); cause != nil {
				err = cause
			}
			v.Add(at(field, i), "e.g. \"/svc/orders\", \"/gateway/demo\" or \"spiffe://<trust domain>/svc/*/n/*\"", "%q: %v", p, err)
		}
	}
}

func checkMethods(field string, methods []string, v *Violations) {
	for i, m := range methods {
		if !token(m) {
			v.Add(at(field, i), "e.g. \"GET\"", "%q is not an HTTP method", m)
		} else if m != strings.ToUpper(m) {
			v.Add(at(field, i), fmt.Sprintf("write %q", strings.ToUpper(m)), "%q: methods are case-sensitive and upper case", m)
		}
	}
}

func (n *Node) normalize() {}

func (n *Node) validate(v *Violations) {
	if len(n.Roles) == 0 {
		v.Add("roles", "e.g. [\"SIDECAR\"]", "a node needs a role")
	}
	for i, r := range n.Roles {
		v.oneOf(at("roles", i), r, []string{RoleSidecar, RoleBridge, RoleGateway})
	}
	for i, s := range n.Services {
		if !ValidID(s) {
			v.Add(at("services", i), "", "%q is not a service id", s)
		}
	}
	for i, g := range n.Gateways {
		if !ValidID(g) {
			v.Add(at("gateways", i), "", "%q is not a gateway id", g)
		}
	}
	if region, zone, zoned := strings.Cut(n.Locality, "/"); n.Locality != "" && (!ValidID(region) || zoned && !ValidID(zone)) {
		v.Add("locality", "e.g. \"eu/site-3\"", "%q is no region, or region and zone", n.Locality)
	}
	checkCIDRs("dialCidrs", n.DialCidrs, v)
}

// MaxIdentityGrace is the longest IdentityGrace.Window.
const MaxIdentityGrace = 7 * 24 * time.Hour

func (d *Defaults) normalize() {
	if d.Authorization == "" {
		d.Authorization = Deny
	}
}

func (d *Defaults) validate(v *Violations) {
	v.oneOf("authorization", d.Authorization, []string{Deny, Allow})
	checkCIDRs("dialCidrs", d.DialCidrs, v)
	if g := d.IdentityGrace; g != nil {
		if window := g.Window.Or(0); window < 0 || window > MaxIdentityGrace {
			v.Add("identityGrace.window", "e.g. \"86400s\"", "%v is not between 0 and 7 days", window)
		}
		if g.Window.Or(0) > 0 && len(g.Routes) == 0 {
			v.Add("identityGrace.routes", "name the routes that a site cannot do without", "a window holds for the routes that are listed, and none is")
		}
		for i, id := range g.Routes {
			if !ValidID(id) {
				v.Add(at("identityGrace.routes", i), "", "%q is not the id of a route", id)
			}
		}
	}
}

func checkCIDRs(field string, cidrs []string, v *Violations) {
	for i, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		switch {
		case err != nil:
			v.Add(at(field, i), "e.g. \"10.3.0.0/16\" or \"10.3.0.7/32\"", "%q is not an address block", c)
		case p != p.Masked():
			v.Add(at(field, i), fmt.Sprintf("write %q", p.Masked()), "%q has bits set behind the prefix", c)
		}
	}
}

// token reports whether s is an RFC 9110 token.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}
