package proxy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// call is what policies look at.
type call struct {
	*Request
	path string
	// other is how else the workload may read the path: without its segment
	// parameters, or with its escaped slashes decoded; "" if there is no other
	// way. A DENY matches if it matches either and an ALLOW only if it matches
	// both.
	other string
	proof proof // of who calls, as the authenticators of the target found, or of the gateway
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
		if failed, _ := r.from[i].fails(c); failed == 0 {
			from = true
			break
		}
	}
	if !from {
		return false
	}
	if c.TCP { // it has no operation: a DENY of any matches it, an ALLOW of one does not
		return deny || len(r.to) == 0 && r.when == nil
	}
	to := len(r.to) == 0
	for i := range r.to {
		if failed, _ := r.to[i].fails(c.Method, path, deny); failed == 0 {
			to = true
			break
		}
	}
	return to && (r.when == nil || r.when.holds(c, path, deny))
}

// fails counts the fields that do not match the caller and names the last.
// An anonymous caller is none of any identities and on none of any nodes.
func (f *policyFrom) fails(c *call) (failed int, field string) {
	if len(f.identities) > 0 && !matchesAny(f.identities, c.Peer) {
		failed, field = failed+1, "from.identities"
	}
	if matchesAny(f.notIdentities, c.Peer) {
		failed, field = failed+1, "from.notIdentities"
	}
	if len(f.nodes) > 0 && !f.onNode(c.Peer) {
		failed, field = failed+1, "from.nodes"
	}
	if len(f.blocks) > 0 && !f.inBlock(c.Remote) {
		failed, field = failed+1, "from.ipBlocks"
	}
	if len(f.devices) > 0 && !f.ofDevice(deviceOf(c.Request, f.trustDomain)) {
		failed, field = failed+1, "from.devices"
	}
	if !hasClaims(c.proof.claims, f.claims) {
		failed, field = failed+1, "from.claims"
	}
	return failed, field
}

// hasClaims reports whether each of the claims has one of the values that are wanted. An anonymous
// caller has none.
func hasClaims(has *jwt.Claims, want []mesh.PolicyClaim) bool {
	for i := range want {
		if !has.Has(want[i].Name, want[i].Values) {
			return false
		}
	}
	return true
}

// inBlock reports whether the address remote is in one of the blocks. What is no address
// is in none.
func (f *policyFrom) inBlock(remote string) bool {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return false
	}
	addr = addr.Unmap().WithZone("")
	for _, block := range f.blocks {
		if block.Contains(addr) {
			return true
		}
	}
	return false
}

// ofDevice reports whether device is one of the list, of which "*" is any.
func (f *policyFrom) ofDevice(device string) bool {
	if device == "" {
		return false
	}
	for _, want := range f.devices {
		if want == "*" || want == device {
			return true
		}
	}
	return false
}

// deviceOf returns the device that r is a message of. Anybody but a bridge of the trust domain
// who says so is not believed, whatever became of the header on the way.
func deviceOf(r *Request, trustDomain string) string {
	if service, _, ok := r.Peer.Service(); !ok || service != bridgeService || r.Peer.TrustDomain() != trustDomain {
		return ""
	}
	return only(r.Fields, deviceHeader)
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
	node := nodeOf(peer)
	return node != "" && slices.Contains(f.nodes, node)
}

// nodeOf returns the node that an identity names, "" if none.
func nodeOf(peer mesh.ID) string {
	if _, node, ok := peer.Service(); ok {
		return node
	}
	node, _ := peer.Node()
	return node
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

// nearMisses names the ALLOW policies that would have matched but for one field. It looks for
// maxNearMisses of them, and at as many conditions: whoever is denied must not choose what
// that costs.
func (s *policySet) nearMisses(c *call) []NearMiss {
	var out []NearMiss
	conditions := maxNearMisses
	for _, p := range s.allow.all {
		field := p.nearMiss(c, c.path, &conditions)
		if field == "" && c.other != "" {
			field = p.nearMiss(c, c.other, &conditions)
		}
		if field == "" {
			continue
		}
		if out = append(out, NearMiss{Policy: p.name, Failed: field}); len(out) == maxNearMisses {
			break
		}
	}
	return out
}

// nearMiss names the one field that kept a rule from matching, or "". It takes off
// conditions what it looks at; those beyond are taken not to match.
func (p *policy) nearMiss(c *call, path string, conditions *int) string {
	for i := range p.rules {
		r := &p.rules[i]
		from, fromField := closest(r.from, func(f *policyFrom) (int, string) { return f.fails(c) })
		to, toField := closest(r.to, func(t *policyTo) (int, string) { return t.fails(c.Method, path, false) })
		if from+to > 1 {
			continue
		}
		when, whenField := 0, ""
		if r.when != nil {
			if *conditions == 0 {
				continue
			}
			*conditions--
			if is, _ := r.when.value(c, path); !is {
				when, whenField = 1, "when"
			}
		}
		if from+to+when == 1 {
			return fromField + toField + whenField // two of them are ""
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
	fold     bool     // case does not matter
	literal  string   // the whole path, if segments is nil
	segments []string // "" is any one segment; never nil if the pattern is no literal
	rest     bool     // anything may follow, nothing too: "/a/**" is "/a" and all below
}

// compilePathPattern compiles a pattern that has been validated.
func compilePathPattern(p string, fold bool) pathPattern {
	base, rest := strings.CutSuffix(p, "/**")
	if !rest && !strings.Contains(p, "{") {
		return pathPattern{literal: p, fold: fold}
	}
	out := pathPattern{segments: []string{}, rest: rest, fold: fold}
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
			return p.same(strings.TrimSuffix(path, "/"), strings.TrimSuffix(p.literal, "/"))
		}
		return p.same(path, p.literal)
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
		if segment == "" || want != "" && !p.same(want, segment) {
			return false
		}
	}
	return p.rest || remaining == "" || ignoreSlash && remaining == "/"
}

// same compares two pieces of a path.
func (p *pathPattern) same(a, b string) bool {
	return a == b || p.fold && strings.EqualFold(a, b)
}
