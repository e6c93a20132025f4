package mesh

import (
	"slices"
	"strings"
	"time"
)

// maxAttempts bounds tries after the first.
const maxAttempts = 10

// maxTimeout bounds the durations of a route: longer is surely a mistake.
const maxTimeout = 24 * time.Hour

func (r *Route) normalize() {
	for i := range r.Rules {
		for j := range r.Rules[i].Backends {
			if b := &r.Rules[i].Backends[j]; b.Weight == nil {
				one := uint32(1)
				b.Weight = &one
			}
		}
	}
}

func (r *Route) validate(v *Violations) {
	if len(r.Targets) == 0 {
		v.Add("targets", "use [\"GATEWAY\"] for traffic from outside, [\"MESH\"] for traffic between services", "a route needs a target")
	}
	for i, t := range r.Targets {
		v.oneOf(at("targets", i), t, []string{TargetGateway, TargetMesh})
	}
	for i, g := range r.Gateways {
		if !ValidID(g) {
			v.Add(at("gateways", i), "", "%q is not a gateway id", g)
		}
	}
	if len(r.Hostnames) == 0 {
		v.Add("hostnames", "e.g. [\"shop.example\"] or [\"*\"]", "a route needs a hostname")
	}
	for i, h := range r.Hostnames {
		checkHostname(at("hostnames", i), h, v)
		if slices.Contains(r.Targets, TargetMesh) && !strings.HasSuffix(h, ".mesh") {
			v.Add(at("hostnames", i), "e.g. \"orders.mesh\"", "inside the mesh services answer at <service>.mesh, %q does not end so", h)
		}
	}
	if len(r.Rules) == 0 {
		v.Add("rules", "", "a route needs a rule")
	}
	names := map[string]bool{}
	for i := range r.Rules {
		field := at("rules", i)
		if n := r.Rules[i].Name; n != "" {
			if !ValidID(n) {
				v.Add(field+".name", "", "%q is not a name of 1 to 63 characters a-z, 0-9 and '-'", n)
			} else if names[n] {
				v.Add(field+".name", "", "%q is there twice", n)
			}
			names[n] = true
		}
		r.Rules[i].validate(field, v)
	}
}

func checkHostname(field, h string, v *Violations) {
	name := h
	if h == "*" {
		return
	}
	if rest, ok := strings.CutPrefix(h, "*."); ok {
		name = rest
	}
	if len(h) > 253 {
		v.Add(field, "", "a hostname has at most 253 characters")
		return
	}
	for label := range strings.SplitSeq(name, ".") {
		if !ValidID(label) {
			v.Add(field, "lower case, no port, and a '*' only as the whole first label", "%q is not a hostname", h)
			return
		}
	}
}

func (r *RouteRule) validate(field string, v *Violations) {
	checkDuration(field+".idleTimeout", r.IdleTimeout, 0, maxTimeout, v)
	if r.Affinity != nil {
		r.Affinity.validate(field+".affinity", v)
	}
	checkDuration(field+".timeout", r.Timeout, 0, maxTimeout, v)
	for i := range r.Matches {
		r.Matches[i].validate(at(field+".matches", i), v)
	}
	for i, b := range r.Backends {
		f := at(field+".backends", i)
		if !ValidID(b.Service) {
			v.Add(f+".service", "", "%q is not a service id", b.Service)
		}
		if b.Subset != "" && !ValidID(b.Subset) {
			v.Add(f+".subset", "", "%q is not a subset name", b.Subset)
		}
		if b.Weight != nil && *b.Weight > 1_000_000 {
			v.Add(f+".weight", "", "%d is over 1000000", *b.Weight)
		}
	}
	r.validateFilters(field, v)
	if r.Retry != nil {
		r.Retry.validate(field+".retry", v)
	}
}

func (m *RouteMatch) validate(field string, v *Violations) {
	if p := m.Path; p != nil {
		set := 0
		for _, s := range []string{p.Exact, p.Prefix, p.Template, p.Regex} {
			if s != "" {
				set++
			}
		}
		if set != 1 {
			v.Add(field+".path", "e.g. {\"prefix\": \"/orders\"}", "exactly one of exact, prefix, template and regex is needed")
		}
		if p.Exact != "" {
			checkPlainPath(field+".path.exact", p.Exact, v)
		}
		if p.Prefix != "" {
			checkPlainPath(field+".path.prefix", p.Prefix, v)
		}
		if p.Template != "" {
			checkTemplate(field+".path.template", p.Template, v)
		}
		if p.Regex != "" {
			checkRegex(field+".path.regex", p.Regex, v)
		}
	}
	checkMethods(field+".methods", m.Methods, v)
	for i, h := range m.Headers {
		f := at(field+".headers", i)
		if !token(h.Name) {
			v.Add(f+".name", "", "%q is not a header name", h.Name)
		}
		h.validate(f, v)
	}
	for i, q := range m.QueryParams {
		f := at(field+".queryParams", i)
		if q.Name == "" || !printable(q.Name) {
			v.Add(f+".name", "", "%q is not a parameter name", q.Name)
		}
		q.validate(f, v)
	}
}

func (m *ValueMatch) validate(field string, v *Violations) {
	set := 0
	for _, s := range []string{m.Exact, m.Prefix, m.Regex} {
		if s != "" {
			set++
		}
	}
	if set > 1 {
		v.Add(field, "none of them asks only that it is there", "at most one of exact, prefix and regex is allowed")
	}
	if m.Regex != "" {
		checkRegex(field+".regex", m.Regex, v)
	}
}

func (r *Retry) validate(field string, v *Violations) {
	checkPercent(field+".budgetPercent", r.BudgetPercent, v)
	if r.Attempts > maxAttempts {
		v.Add(field+".attempts", "", "%d is over %d", r.Attempts, maxAttempts)
	}
	for i, on := range r.On {
		v.oneOf(at(field+".on", i), on, []string{OnConnectFailure, OnReset, OnGatewayError, OnTooManyRequests})
	}
	if r.Attempts > 0 && len(r.On) == 0 {
		v.Add(field+".on", "e.g. [\"CONNECT_FAILURE\"]", "say which failures are tried again")
	}
	checkDuration(field+".hedgeAfter", r.HedgeAfter, time.Millisecond, maxTimeout, v)
	if r.HedgeAfter != nil && r.Attempts == 0 {
		v.Add(field+".attempts", "e.g. 1", "a hedged request is tried again while the first try goes on, and counts as one")
	}
	checkDuration(field+".perTryTimeout", r.PerTryTimeout, time.Millisecond, maxTimeout, v)
	if r.Backoff != nil {
		r.Backoff.validate(field+".backoff", v)
	}
}

func (b *Backoff) validate(field string, v *Violations) {
	checkDuration(field+".base", b.Base, time.Millisecond, maxTimeout, v)
	checkDuration(field+".max", b.Max, time.Millisecond, maxTimeout, v)
	if b.Base != nil && b.Max != nil && *b.Base > *b.Max {
		v.Add(field+".max", "", "max is shorter than base")
	}
}

func checkDuration(field string, d *Duration, low, high time.Duration, v *Violations) {
	if d != nil && (time.Duration(*d) < low || time.Duration(*d) > high) {
		v.Add(field, "", "%v is not between %v and %v", time.Duration(*d), low, high)
	}
}
