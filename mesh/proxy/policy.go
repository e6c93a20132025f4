package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Values of Authorization.Reason.
const (
	ReasonDenyMatched    = "DENY_MATCHED"     // a DENY policy matched
	ReasonAllowMatched   = "ALLOW_MATCHED"    // an ALLOW policy matched
	ReasonNoAllowMatched = "NO_ALLOW_MATCHED" // ALLOW policies have the target, none matched
	ReasonNoDenyMatched  = "NO_DENY_MATCHED"  // only DENY policies have the target, none matched
	ReasonDefault        = "DEFAULT"          // the mesh default decided, at an Inbound
	ReasonInvalidPolicy  = "INVALID_POLICY"   // a DENY policy does not compile: everything is denied
)

// maxNearMisses bounds what one denial reports.
const maxNearMisses = 16

// policySet is the policies of one target, each list sorted by name. A nil set
// has none.
type policySet struct {
	deny  policyList
	allow policyList
	audit []*policy // which decide nothing
}

// policy is a compiled mesh.Policy. One that is invalid has no rules: a DENY
// then matches everything and an ALLOW nothing, while it counts as one.
type policy struct {
	name    string
	invalid bool
	rules   []policyRule
	audits  audits
}

// audits counts what an AUDIT policy would have changed.
type audits struct{ allow, deny atomic.Uint64 }

type policyRule struct {
	from []policyFrom // empty is anyone
	to   []policyTo   // empty is everything
	when *condition   // nil is always
}

type policyFrom struct {
	trustDomain   string
	identities    []mesh.IDPattern
	notIdentities []mesh.IDPattern
	nodes         []string
	blocks        []netip.Prefix
	devices       []string
	claims        []mesh.PolicyClaim // all of them
}

type policyTo struct {
	methods  []string
	paths    []pathPattern
	notPaths []pathPattern
}

// compiledPolicy is what of a policy depends on nothing else; with an error it is an
// invalid one.
type compiledPolicy struct {
	source *mesh.Policy
	policy *policy
	err    error
}

// policySets is every set of a configuration, by the id of its target.
type policySets struct {
	services, routes, gateways setsByTarget
}

// setsByTarget is sets by the id of the object that they are for.
type setsByTarget map[string]*policySet

// compilePolicies compiles every policy and fails closed: an invalid ALLOW still
// counts as an ALLOW policy of its target, an invalid DENY (or one of unknown
// action) denies everything there, and one that names no target denies every
// service: nobody can tell what it protects. Each invalid one is reported.
func (t *Table) compilePolicies(old *Table, cfg *mesh.Config, trustDomain string) (policySets, []error) {
	sets := policySets{setsByTarget{}, setsByTarget{}, setsByTarget{}}
	var errs []error
	var cs conditions
	for _, id := range slices.Sorted(maps.Keys(cfg.Policies)) {
		source := cfg.Policies[id]
		p := old.policies[id]
		if p == nil || p.source != source {
			p = &compiledPolicy{source: source}
			p.policy, p.err = cs.policy(source, trustDomain)
		}
		t.policies[id] = p
		compiled := p.policy
		if p.err != nil {
			errs = append(errs, fmt.Errorf("proxy.Compile: policy fails closed: %w", p.err))
		}
		switch t := source.Target; {
		case t != nil && (t.Service != "" || t.Route != "" || t.Gateway != ""):
			sets.file(source, compiled)
		case source.Action == mesh.Audit:
		default:
			for service := range cfg.Services {
				sets.file(&mesh.Policy{Target: &mesh.PolicyTarget{Service: service}, Action: mesh.Deny}, compiled)
			}
		}
	}
	return sets, errs
}

// file puts p under its target, or under all of them if an invalid one has several.
func (s policySets) file(source *mesh.Policy, p *policy) {
	for _, t := range []struct {
		sets setsByTarget
		id   string
	}{{s.services, source.Target.Service}, {s.routes, source.Target.Route}, {s.gateways, source.Target.Gateway}} {
		if t.id == "" {
			continue
		}
		set := t.sets[t.id]
		if set == nil {
			set = &policySet{}
			t.sets[t.id] = set
		}
		switch source.Action {
		case mesh.Allow:
			set.allow.all = append(set.allow.all, p)
		case mesh.Audit:
			if !p.invalid { // what it would change is not known
				set.audit = append(set.audit, p)
			}
		default:
			set.deny.all = append(set.deny.all, p)
		}
	}
}

// policy always returns a policy; with an error it is an invalid one.
func (cs *conditions) policy(source *mesh.Policy, trustDomain string) (*policy, error) {
	out := &policy{name: source.Name}
	if err := mesh.Validate(source); err != nil {
		out.invalid = true
		return out, err
	}
	for i := range source.Rules {
		rule, err := cs.rule(&source.Rules[i], trustDomain)
		if err != nil {
			return &policy{name: source.Name, invalid: true}, fmt.Errorf("%s rules[%d]: %w", source.Name, i, err)
		}
		out.rules = append(out.rules, rule)
	}
	return out, nil
}

func (cs *conditions) rule(source *mesh.PolicyRule, trustDomain string) (policyRule, error) {
	var out policyRule
	if source.When != "" {
		var err error
		if out.when, err = cs.compile(source.When); err != nil {
			return out, fmt.Errorf("when: %w", err)
		}
		out.when.trustDomain = trustDomain
	}
	for i := range source.From {
		f := &source.From[i]
		from := policyFrom{trustDomain: trustDomain, nodes: f.Nodes, devices: f.Devices, claims: f.Claims}
		var err error
		for _, block := range f.IPBlocks {
			p, err := netip.ParsePrefix(block)
			if err != nil {
				return out, err
			}
			from.blocks = append(from.blocks, p)
		}
		if from.identities, err = compileIdentities(f.Identities, trustDomain); err != nil {
			return out, err
		}
		if from.notIdentities, err = compileIdentities(f.NotIdentities, trustDomain); err != nil {
			return out, err
		}
		out.from = append(out.from, from)
	}
	for i := range source.To {
		t := &source.To[i]
		to := policyTo{methods: t.Methods}
		for _, p := range t.Paths {
			to.paths = append(to.paths, compilePathPattern(p, t.IgnoreCase))
		}
		for _, p := range t.NotPaths {
			to.notPaths = append(to.notPaths, compilePathPattern(p, t.IgnoreCase))
		}
		out.to = append(out.to, to)
	}
	return out, nil
}

func compileIdentities(patterns []string, trustDomain string) ([]mesh.IDPattern, error) {
	var out []mesh.IDPattern
	for _, s := range patterns {
		p, err := mesh.ParseIDPattern(s, trustDomain)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// decide says whether c may pass, and by which policy. byDefault decides if the
// target has no ALLOW policy and no DENY matches; reason is then the reason.
func (s *policySet) decide(c *call, byDefault bool, reason string) Authorization {
	if s == nil {
		return defaultAuthorization(byDefault, reason)
	}
	a := s.enforce(c, byDefault, reason)
	if len(s.audit) > 0 && a.Reason != ReasonDenyMatched && a.Reason != ReasonInvalidPolicy {
		a.audited, a.Would = s.shadow(c, &a)
	}
	return a
}

// shadow says what would be decided instead of a if the AUDIT policies of the target were ALLOW
// policies, and which of them is the reason; "" is the same.
func (s *policySet) shadow(c *call, a *Authorization) (audited *policy, would string) {
	for _, p := range s.audit {
		if p.matches(c, c.path, false) && (c.other == "" || p.matches(c, c.other, false)) {
			if a.Decision == mesh.Deny {
				return p, mesh.Allow
			}
			return nil, ""
		}
	}
	if a.Decision == mesh.Allow && a.Reason != ReasonAllowMatched {
		return s.audit[0], mesh.Deny
	}
	return nil, ""
}

// enforce is decide without the AUDIT policies.
func (s *policySet) enforce(c *call, byDefault bool, reason string) Authorization {
	denying := s.deny.candidates(c)
	for p := denying.next(); p != nil; p = denying.next() {
		if p.invalid {
			return Authorization{Decision: mesh.Deny, Policy: p.name, Reason: ReasonInvalidPolicy}
		}
		if p.matches(c, c.path, true) || c.other != "" && p.matches(c, c.other, true) {
			return Authorization{Decision: mesh.Deny, Policy: p.name, Reason: ReasonDenyMatched}
		}
	}
	if len(s.allow.all) == 0 {
		return defaultAuthorization(byDefault, reason)
	}
	allowing := s.allow.candidates(c)
	for p := allowing.next(); p != nil; p = allowing.next() {
		if p.matches(c, c.path, false) && (c.other == "" || p.matches(c, c.other, false)) {
			return Authorization{Decision: mesh.Allow, Policy: p.name, Reason: ReasonAllowMatched}
		}
	}
	return Authorization{Decision: mesh.Deny, Reason: ReasonNoAllowMatched, NearMisses: s.nearMisses(c)}
}

func defaultAuthorization(allow bool, reason string) Authorization {
	if allow {
		return Authorization{Decision: mesh.Allow, Reason: reason}
	}
	return Authorization{Decision: mesh.Deny, Reason: reason}
}
