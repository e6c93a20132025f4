package mesh

import (
	"fmt"
	"maps"
	"slices"
)

// CheckReferences reports every reference of o to something that c does not
// have. c is the whole configuration as it would be after the write.
func (c *Config) CheckReferences(o Object) []Violation {
	var v Violations
	switch o := o.(type) {
	case *Route:
		c.checkAskedRoute(o, &v)
		for i, rule := range o.Rules {
			for j, b := range rule.Backends {
				c.checkBackend(at(at("rules", i)+".backends", j), b, &v)
			}
			for j, f := range rule.Filters {
				if f.Mirror != nil {
					c.checkService(at(at("rules", i)+".filters", j)+".mirror.service", f.Mirror.Service, &v)
				}
			}
		}
	case *Policy:
		if o.Target != nil && o.Target.Service != "" {
			c.checkService("target.service", o.Target.Service, &v)
		}
		c.checkPolicyNodes(o, &v)
		if o.Target != nil && o.Target.Route != "" && c.Routes[o.Target.Route] == nil {
			v.Add("target.route", nearest(o.Target.Route, slices.Sorted(maps.Keys(c.Routes))), "route %q does not exist", o.Target.Route)
		}
	case *Authenticator:
		c.checkAuthenticator(o, &v)
	case *TopicRule:
		if o.To != nil {
			c.checkService("to.service", o.To.Service, &v)
		}
	case *Defaults:
		if o.IdentityGrace != nil {
			for i, id := range o.IdentityGrace.Routes {
				if c.Routes[id] == nil {
					v.Add(at("identityGrace.routes", i), nearest(id, slices.Sorted(maps.Keys(c.Routes))), "route %q does not exist", id)
				}
			}
		}
	case *Service:
		if o.External != nil {
			c.checkDialled("external.address", o.External.Address, &v)
		}
	case *Node:
		for i, s := range o.Services {
			c.checkService(at("services", i), s, &v)
		}
	}
	return v
}

// checkPolicyNodes refuses nodes that no caller's identity can name: those that
// do not exist, and gateways, which are known by their id and not by their node.
// A DENY that can never match would be taken for protection.
func (c *Config) checkPolicyNodes(p *Policy, v *Violations) {
	for i, rule := range p.Rules {
		for j, from := range rule.From {
			for k, id := range from.Nodes {
				field := at(at(at("rules", i)+".from", j)+".nodes", k)
				switch node := c.Nodes[id]; {
				case node == nil:
					v.Add(field, nearest(id, slices.Sorted(maps.Keys(c.Nodes))), "node %q does not exist", id)
				case slices.Contains(node.Roles, RoleGateway):
					v.Add(field, "name the gateway in identities, e.g. \"/gateway/demo\"", "node %q is a gateway's: its identity does not say the node", id)
				}
			}
		}
	}
}

// checkAuthenticator checks that those exist who would ask, and that they can.
func (c *Config) checkAuthenticator(a *Authenticator, v *Violations) {
	for i, t := range a.Targets {
		field := at("targets", i)
		if t.Service != "" {
			c.checkService(field+".service", t.Service, v)
			if s := c.Services[t.Service]; s != nil && (s.Protocol == ProtocolTCP || s.External != nil) {
				v.Add(field+".service", "name a route", "service %q has no sidecar that could ask for credentials of requests", t.Service)
			}
		}
		if t.Route == "" {
			continue
		}
		switch r := c.Routes[t.Route]; {
		case r == nil:
			v.Add(field+".route", nearest(t.Route, slices.Sorted(maps.Keys(c.Routes))), "route %q does not exist", t.Route)
		case a.ForwardAuth != nil && slices.Contains(r.Targets, TargetMesh):
			v.Add(field+".route", "make a route of its own for the gateway", "route %q is served inside the mesh too, and only gateways ask another service", t.Route)
		}
	}
	c.checkHeaders(a, v)
	if f := a.ForwardAuth; f != nil {
		c.checkService("forwardAuth.service", f.Service, v)
		if s := c.Services[f.Service]; s != nil && s.Protocol == ProtocolTCP {
			v.Add("forwardAuth.service", "", "service %q is of protocol TCP, and is asked by HTTP", f.Service)
		}
	}
}

// checkHeaders refuses that one authenticator takes from clients what another one needs.
func (c *Config) checkHeaders(a *Authenticator, v *Violations) {
	same := func(mine, others []namedHeader, format, other string) {
		for _, m := range mine {
			if slices.ContainsFunc(others, func(o namedHeader) bool { return sameHeader(o.name, m.name) }) {
				v.Add(m.field, "use another header", format, m.name, other)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.Authenticators)) {
		other := c.Authenticators[id]
		if id != a.ID() && other.losesTo(a) {
			same(a.sets(), other.reads(), "%q is what authenticator %q reads, and no client could send it any more", id)
		}
		if id != a.ID() && a.losesTo(other) {
			same(a.reads(), other.sets(), "%q is set by authenticator %q, so that no client can send it", id)
		}
	}
}

// checkAskedRoute refuses that a route is served where those cannot ask who have it as
// their target.
func (c *Config) checkAskedRoute(r *Route, v *Violations) {
	if !slices.Contains(r.Targets, TargetMesh) {
		return
	}
	for id, a := range c.Authenticators {
		if a.ForwardAuth != nil && slices.Contains(a.Targets, AuthenticatorTarget{Route: r.ID()}) {
			v.Add("targets", "make a route of its own for the mesh", "authenticator %q has only gateways ask about this route", id)
		}
	}
}

func (c *Config) checkBackend(field string, b Backend, v *Violations) {
	s := c.Services[b.Service]
	if s == nil {
		c.checkService(field+".service", b.Service, v)
		return
	}
	if s.Protocol == ProtocolTCP {
		v.Add(field+".service", "workloads reach it through the tcp listeners of their sidecar", "service %q is of protocol TCP, and routes are for HTTP", b.Service)
	}
	if b.Subset == "" || s.subset(b.Subset) != nil {
		return
	}
	var names []string
	for _, sub := range s.Subsets {
		names = append(names, sub.Name)
	}
	v.Add(field+".subset", nearest(b.Subset, names), "service %q has no subset %q", b.Service, b.Subset)
}

func (c *Config) checkService(field, id string, v *Violations) {
	if c.Services[id] == nil {
		v.Add(field, nearest(id, slices.Sorted(maps.Keys(c.Services))), "service %q does not exist", id)
	}
}

func (s *Service) subset(name string) *Subset {
	for i := range s.Subsets {
		if s.Subsets[i].Name == name {
			return &s.Subsets[i]
		}
	}
	return nil
}

// CheckAll reports the references that c breaks, by object name. The control
// plane calls it on the configuration that a write would leave.
func (c *Config) CheckAll() map[string][]Violation {
	out := map[string][]Violation{}
	for _, of := range Collections() {
		for _, o := range c.Objects(of) {
			if v := c.CheckReferences(o); len(v) > 0 {
				out[o.Header().Name] = v
			}
		}
	}
	return out
}

// ReferencesTo names the objects of c that refer to the object called name,
// each with the field: "routes/demo rules[0].backends[0].service".
func (c *Config) ReferencesTo(name string) []string {
	without := *c
	of, id, _ := cutName(name)
	switch of {
	case Services:
		without.Services = maps.Clone(c.Services)
		delete(without.Services, id)
	case Routes:
		without.Routes = maps.Clone(c.Routes)
		delete(without.Routes, id)
	case Nodes:
		without.Nodes = maps.Clone(c.Nodes)
		delete(without.Nodes, id)
	default:
		return nil
	}
	var out []string
	broken := without.CheckAll()
	for _, referrer := range slices.Sorted(maps.Keys(broken)) {
		for _, v := range broken[referrer] {
			out = append(out, fmt.Sprintf("%s %s", referrer, v.Field))
		}
	}
	return out
}
