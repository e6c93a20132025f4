package proxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

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
	deny  []*policy
	allow []*policy
}

// policy is a compiled mesh.Policy. One that is invalid has no rules: a DENY
// then matches everything and an ALLOW nothing, while it counts as one.
type policy struct {
	name    string
	invalid bool
	rules   []policyRule
}

type policyRule struct {
	from []policyFrom // empty is anyone
	to   []policyTo   // empty is everything
}

type policyFrom struct {
	trustDomain   string
	identities    []mesh.IDPattern
	notIdentities []mesh.IDPattern
	nodes         []string
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

// over returns s, but that sets which are the same in old are those of old.
func (s setsByTarget) over(old setsByTarget) setsByTarget {
	for id, set := range s {
		if was := old[id]; was != nil && slices.Equal(was.deny, set.deny) && slices.Equal(was.allow, set.allow) {
			s[id] = was
		}
	}
	return s
}

// compilePolicies compiles every policy and fails closed: an invalid ALLOW still
// counts as an ALLOW policy of its target, an invalid DENY (or one of unknown
// action) denies everything there, and one that names no target denies every
// service: nobody can tell what it protects. Each invalid one is reported.
func (t *Table) compilePolicies(old *Table, cfg *mesh.Config, trustDomain string) (policySets, []error) {
	sets := policySets{setsByTarget{}, setsByTarget{}, setsByTarget{}}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(cfg.Policies)) {
		source := cfg.Policies[id]
		p := old.policies[id]
		if p == nil || p.source != source {
			p = &compiledPolicy{source: source}
			p.policy, p.err = compilePolicy(source, trustDomain)
		}
		t.policies[id] = p
		compiled := p.policy
		if p.err != nil {
			errs = append(errs, fmt.Errorf("proxy.Compile: policy fails closed: %w", p.err))
		}
		switch {
		case source.Action == mesh.Audit: // never decides
		case source.Target != nil:
			sets.file(source, compiled)
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
		if source.Action == mesh.Allow {
			set.allow = append(set.allow, p)
		} else {
			set.deny = append(set.deny, p)
		}
	}
}

// compilePolicy always returns a policy; with an error it is an invalid one.
func compilePolicy(source *mesh.Policy, trustDomain string) (*policy, error) {
	out := &policy{name: source.Name}
	if err := mesh.Validate(source); err != nil {
		out.invalid = true
		return out, err
	}
	for i := range source.Rules {
		rule, err := compilePolicyRule(&source.Rules[i], trustDomain)
		if err != nil {
			return &policy{name: source.Name, invalid: true}, fmt.Errorf("%s rules[%d]: %w", source.Name, i, err)
		}
		out.rules = append(out.rules, rule)
	}
	return out, nil
}

func compilePolicyRule(source *mesh.PolicyRule, trustDomain string) (policyRule, error) {
	var out policyRule
	for i := range source.From {
		f := &source.From[i]
		from := policyFrom{trustDomain: trustDomain, nodes: f.Nodes}
		var err error
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
			to.paths = append(to.paths, compilePathPattern(p))
		}
		for _, p := range t.NotPaths {
			to.notPaths = append(to.notPaths, compilePathPattern(p))
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

// call is what policies look at.
type call struct {
	method string
	peer   mesh.ID
	path   string
	tcp    bool // a connection: a DENY of any operation matches it, an ALLOW of one does not
	// other is how else the workload may read the path: without its segment
	// parameters, or with its escaped slashes decoded; "" if there is no other
	// way. A DENY matches if it matches either and an ALLOW only if it matches
	// both.
	other string
}

// decide says whether c may pass, and by which policy. byDefault decides if the
// target has no ALLOW policy and no DENY matches; reason is then the reason.
func (s *policySet) decide(c *call, byDefault bool, reason string) Authorization {
	if s == nil {
		return defaultAuthorization(byDefault, reason)
	}
	for _, p := range s.deny {
		if p.invalid {
			return Authorization{Decision: mesh.Deny, Policy: p.name, Reason: ReasonInvalidPolicy}
		}
		if p.matches(c, c.path, true) || c.other != "" && p.matches(c, c.other, true) {
			return Authorization{Decision: mesh.Deny, Policy: p.name, Reason: ReasonDenyMatched}
		}
	}
	if len(s.allow) == 0 {
		return defaultAuthorization(byDefault, reason)
	}
	for _, p := range s.allow {
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

// matches reports whether a rule matches c at path. What ends in a refusal is
// read generously and what ends in a permission strictly: the paths of a DENY
// and the notPaths of an ALLOW ignore one final slash, the others do not.
func (p *policy) matches(c *call, path string, deny bool) bool {
	for i := range p.rules {
		if p.rules[i].matches(c, path, deny) {
			return true
		}
	}
	return false
}

func (r *policyRule) matches(c *call, path string, deny bool) bool {
	from := len(r.from) == 0
	for i := range r.from {
		if failed, _ := r.from[i].fails(c.peer); failed == 0 {
			from = true
			break
		}
	}
	if !from {
		return false
	}
	if c.tcp {
		return deny || len(r.to) == 0
	}
	for i := range r.to {
		if failed, _ := r.to[i].fails(c.method, path, deny); failed == 0 {
			return true
		}
	}
	return len(r.to) == 0
}

// fails counts the fields that do not match the caller and names the last.
// An anonymous caller is none of any identities and on none of any nodes.
func (f *policyFrom) fails(peer mesh.ID) (failed int, field string) {
	if len(f.identities) > 0 && !matchesAny(f.identities, peer) {
		failed, field = failed+1, "from.identities"
	}
	if matchesAny(f.notIdentities, peer) {
		failed, field = failed+1, "from.notIdentities"
	}
	if len(f.nodes) > 0 && !f.onNode(peer) {
		failed, field = failed+1, "from.nodes"
	}
	return failed, field
}

func matchesAny(patterns []mesh.IDPattern, peer mesh.ID) bool {
	for i := range patterns {
		if patterns[i].Match(peer) {
			return true
		}
	}
	return false
}

func (f *policyFrom) onNode(peer mesh.ID) bool {
	if peer.TrustDomain() != f.trustDomain {
		return false
	}
	_, node, ok := peer.Service()
	if !ok {
		node, ok = peer.Node()
	}
	return ok && slices.Contains(f.nodes, node)
}

// fails counts the fields that do not match the operation and names the last.
func (t *policyTo) fails(method, path string, deny bool) (failed int, field string) {
	if len(t.methods) > 0 && !slices.Contains(t.methods, method) {
		failed, field = failed+1, "to.methods"
	}
	if len(t.paths) > 0 && !matchesPath(t.paths, path, deny) {
		failed, field = failed+1, "to.paths"
	}
	if matchesPath(t.notPaths, path, !deny) {
		failed, field = failed+1, "to.notPaths"
	}
	return failed, field
}

func matchesPath(patterns []pathPattern, path string, ignoreSlash bool) bool {
	for i := range patterns {
		if patterns[i].match(path, ignoreSlash) {
			return true
		}
	}
	return false
}

// nearMisses names the ALLOW policies that would have matched but for one field.
func (s *policySet) nearMisses(c *call) []NearMiss {
	var out []NearMiss
	for _, p := range s.allow {
		field := p.nearMiss(c, c.path)
		if field == "" && c.other != "" {
			field = p.nearMiss(c, c.other)
		}
		if field != "" && len(out) < maxNearMisses {
			out = append(out, NearMiss{Policy: p.name, Failed: field})
		}
	}
	return out
}

// nearMiss names the one field that kept a rule from matching, or "".
func (p *policy) nearMiss(c *call, path string) string {
	for i := range p.rules {
		from, fromField := closest(p.rules[i].from, func(f *policyFrom) (int, string) { return f.fails(c.peer) })
		to, toField := closest(p.rules[i].to, func(t *policyTo) (int, string) { return t.fails(c.method, path, false) })
		if from+to == 1 {
			return fromField + toField // one of them is ""
		}
	}
	return ""
}

// closest returns the least number of failed fields among entries; 0 if none.
func closest[T any](entries []T, fails func(*T) (int, string)) (failed int, field string) {
	for i := range entries {
		if n, f := fails(&entries[i]); i == 0 || n < failed {
			failed, field = n, f
		}
	}
	return failed, field
}

// pathPattern is a path of a policy: "/a", "/a/{x}" or "/a/**".
type pathPattern struct {
	literal  string   // the whole path, if segments is nil
	segments []string // "" is any one segment; never nil if the pattern is no literal
	rest     bool     // anything may follow, nothing too: "/a/**" is "/a" and all below
}

// compilePathPattern compiles a pattern that has been validated.
func compilePathPattern(p string) pathPattern {
	base, rest := strings.CutSuffix(p, "/**")
	if !rest && !strings.Contains(p, "{") {
		return pathPattern{literal: p}
	}
	out := pathPattern{segments: []string{}, rest: rest}
	for base = strings.TrimSuffix(base, "/"); base != ""; {
		var segment string
		segment, base = cutSegment(base)
		if strings.HasPrefix(segment, "{") {
			segment = ""
		}
		out.segments = append(out.segments, segment)
	}
	return out
}

// match reports whether the pattern matches a canonical path.
func (p *pathPattern) match(path string, ignoreSlash bool) bool {
	if p.segments == nil {
		if ignoreSlash {
			return strings.TrimSuffix(path, "/") == strings.TrimSuffix(p.literal, "/")
		}
		return path == p.literal
	}
	if !strings.HasPrefix(path, "/") {
		return false
	}
	remaining := path
	if path == "/" {
		remaining = ""
	}
	for _, want := range p.segments {
		if remaining == "" {
			return false
		}
		var segment string
		segment, remaining = cutSegment(remaining)
		if segment == "" || want != "" && want != segment {
			return false
		}
	}
	return p.rest || remaining == "" || ignoreSlash && remaining == "/"
}
