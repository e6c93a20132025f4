package controlapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// scope is a part of all objects: those of its collections, all if there are none, that
// carry all of its labels.
type scope struct {
	collections []mesh.Collection
	labels      mesh.Labels
}

func (s scope) has(of mesh.Collection, labels mesh.Labels) bool {
	return (len(s.collections) == 0 || slices.Contains(s.collections, of)) && carries(labels, s.labels)
}

// carries reports whether labels has every one of wanted.
func carries(labels, wanted mesh.Labels) bool {
	for k, v := range wanted {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// describeScopes says which objects are meant: "routes with team=shop, or services".
func describeScopes(scopes []scope) string {
	parts := make([]string, 0, len(scopes))
	for _, s := range scopes {
		of := "objects"
		if len(s.collections) > 0 {
			var names []string
			for _, c := range s.collections {
				names = append(names, string(c))
			}
			of = strings.Join(names, " and ")
		}
		if len(s.labels) > 0 {
			var labels []string
			for _, k := range slices.Sorted(maps.Keys(s.labels)) {
				labels = append(labels, k+"="+s.labels[k])
			}
			of += " with " + strings.Join(labels, " and ")
		}
		parts = append(parts, of)
	}
	return strings.Join(parts, ", or ")
}

// mayHave reports whether p may read an object with these labels; whether it may write
// it, is a matter of its role too.
func (p principal) mayHave(name string, labels mesh.Labels) bool {
	return len(p.scopes) == 0 || len(p.scopesOf(name, labels)) > 0
}

// scopesOf returns those of p's scopes that have the object.
func (p principal) scopesOf(name string, labels mesh.Labels) []scope {
	of, _, _ := strings.Cut(name, "/")
	var out []scope
	for _, s := range p.scopes {
		if s.has(mesh.Collection(of), labels) {
			out = append(out, s)
		}
	}
	return out
}

// reads reports why p may not read the object called name, which has labels.
func (p principal) reads(name string, labels mesh.Labels) error {
	if p.mayHave(name, labels) {
		return nil
	}
	return p.outside(name, "is none of them")
}

func (p principal) outside(name, why string) *mesh.Error {
	return mesh.Errorf("controlapi.scope", name, mesh.Denied, "%s is limited to %s, and this %s", p.name, describeScopes(p.scopes), why).
		WithHint("use credentials whose scopes have it")
}

// writes reports why p may not write edits: its role is too low for one, or one is
// outside of its scopes as it is stored, or as it would be.
func (p principal) writes(s *state, edits []edit) error {
	for _, e := range edits {
		of, _, _ := strings.Cut(e.name, "/")
		if needs := writerOf(mesh.Collection(of)); p.role < needs {
			return mesh.Errorf("controlapi.scope", e.name, mesh.Denied, "%s has the role %s, and to write it needs the role %s", p.name, p.role, needs).
				WithHint("use other credentials, or have an admin give these the role")
		}
		if len(p.scopes) > 0 && mesh.Collection(of).Private() {
			return p.outside(e.name, "could give more")
		}
		if stored := s.header(e.name); stored != nil && !p.mayHave(e.name, stored.Labels) {
			return p.outside(e.name, "is stored and none of them")
		}
		if e.object == nil {
			if s.records[e.name] == nil && !p.mayHave(e.name, nil) {
				return p.outside(e.name, "is none of them")
			}
			continue
		}
		if !p.mayHave(e.name, e.object.Header().Labels) {
			return p.outside(e.name, "would be none of them")
		}
	}
	return nil
}

// refersTo reports why p may not write edits, which lead to config, for what they refer
// to. Who is limited by labels may bring together only what carries them: a policy
// opens what it targets, a node is whoever its services are.
func (p principal) refersTo(edits []edit, config *mesh.Config) error {
	if len(p.scopes) == 0 {
		return nil
	}
	for _, e := range edits {
		if e.object == nil {
			continue
		}
		scopes := p.scopesOf(e.name, e.object.Header().Labels)
		if slices.ContainsFunc(scopes, func(s scope) bool { return len(s.labels) == 0 }) {
			continue
		}
		own := labelled(config, scopes)
		found := mesh.Violations(own.CheckReferences(e.object))
		found = append(found, beyondLabels(e.object, own)...)
		if len(found) == 0 {
			continue
		}
		var fields []string
		for _, v := range found {
			fields = append(fields, e.field+v.Field)
		}
		return p.outside(e.name, fmt.Sprintf("refers to others in %s", strings.Join(fields, ", ")))
	}
	return nil
}

// beyondLabels names the fields of o that reach what no label says whose it is: gateways,
// which carry none, the bridges, which speak for all devices, and host names of the mesh,
// which are those of services.
func beyondLabels(o mesh.Object, own *mesh.Config) (v mesh.Violations) {
	switch o := o.(type) {
	case *mesh.Route:
		for i, h := range o.Hostnames {
			if service, inside := strings.CutSuffix(h, ".mesh"); inside && own.Services[service] == nil {
				v.Add(fmt.Sprintf("hostnames[%d]", i), "", "it is the name of a service of others")
			}
		}
	case *mesh.Policy:
		if o.Target != nil && o.Target.Gateway != "" {
			v.Add("target.gateway", "", "gateways carry no labels")
		}
	case *mesh.Authenticator:
		for i, t := range o.Targets {
			if t.Gateway != "" {
				v.Add(fmt.Sprintf("targets[%d].gateway", i), "", "gateways carry no labels")
			}
		}
	case *mesh.Node:
		for i := range o.Gateways {
			v.Add(fmt.Sprintf("gateways[%d]", i), "", "gateways carry no labels")
		}
		for i, role := range o.Roles {
			if role == mesh.RoleBridge {
				v.Add(fmt.Sprintf("roles[%d]", i), "", "a bridge is the service %s", bridgeService)
			}
		}
		for i, service := range o.Services {
			if service == bridgeService {
				v.Add(fmt.Sprintf("services[%d]", i), "", "bridges are that")
			}
		}
	}
	return v
}

// labelled returns what of config carries the labels of one of scopes.
func labelled(config *mesh.Config, scopes []scope) *mesh.Config {
	out := mesh.NewConfig()
	for _, of := range mesh.Collections() {
		for _, o := range config.Objects(of) {
			if slices.ContainsFunc(scopes, func(s scope) bool { return carries(o.Header().Labels, s.labels) }) {
				out.Put(o)
			}
		}
	}
	return out
}
