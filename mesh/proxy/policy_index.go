package proxy

import (
	"math/bits"
	"slices"
	"strings"
)

// policyList is policies of one target and action, sorted by name. Of many it knows which a request
// could match at all, by who calls and by how the path begins.
type policyList struct {
	all []*policy

	// By caller, "/svc/orders", and by prefix of paths, "/v1/things", the policies that name it, a bit
	// each in the order of all; and those that any could match. They are nil if there are few.
	byCaller, byPrefix map[string][]uint64
	anyCaller, anyPath []uint64
	trustDomain        string
}

// fewPolicies are looked at one by one, which is as quick.
const fewPolicies = 8

// index makes l find what could match.
func (l *policyList) index(trustDomain string) {
	if len(l.all) < fewPolicies {
		return
	}
	words := (len(l.all) + 63) / 64
	l.trustDomain = trustDomain
	l.byCaller, l.byPrefix = map[string][]uint64{}, map[string][]uint64{}
	l.anyCaller, l.anyPath = make([]uint64, words), make([]uint64, words)
	for i, p := range l.all {
		note(l.byCaller, l.anyCaller, i, p.callers)
		note(l.byPrefix, l.anyPath, i, p.prefixes)
	}
}

// note sets bit i of the keys that of returns, or of those that any could match.
func note(by map[string][]uint64, anyone []uint64, i int, of func() (keys []string, known bool)) {
	keys, known := of()
	if !known {
		anyone[i/64] |= 1 << (i % 64)
		return
	}
	for _, key := range keys {
		if by[key] == nil {
			by[key] = make([]uint64, len(anyone))
		}
		by[key][i/64] |= 1 << (i % 64)
	}
}

// callers returns the beginnings of the identities of all that p could match. They are not known
// if it could match others.
func (p *policy) callers() (keys []string, known bool) {
	if p.invalid {
		return nil, false
	}
	for i := range p.rules {
		if len(p.rules[i].from) == 0 {
			return nil, false
		}
		for j := range p.rules[i].from {
			from := &p.rules[i].from[j]
			if len(from.identities) == 0 {
				return nil, false
			}
			for _, pattern := range from.identities {
				key, ok := callerKey(pattern.String(), from.trustDomain)
				if !ok {
					return nil, false
				}
				keys = append(keys, key)
			}
		}
	}
	return keys, true
}

// callerKey returns "/svc/orders" of "spiffe://td/svc/orders/n/edge7", or of a pattern of such;
// it is not ok for another trust domain, and if one of the two segments may be any.
func callerKey(id, trustDomain string) (string, bool) {
	path, ok := strings.CutPrefix(id, "spiffe://"+trustDomain+"/")
	if !ok {
		return "", false
	}
	key := twoSegments("/" + path)
	return key, !strings.Contains(key, "*")
}

// twoSegments cuts "/svc/orders/n/edge7" to "/svc/orders".
func twoSegments(path string) string {
	at := 0
	for range 2 {
		next := strings.IndexByte(path[min(at+1, len(path)):], '/')
		if next < 0 {
			return path
		}
		at += 1 + next
	}
	return path[:at]
}

// prefixes returns the beginnings of all paths that p could match, likewise.
func (p *policy) prefixes() (keys []string, known bool) {
	if p.invalid {
		return nil, false
	}
	for i := range p.rules {
		if len(p.rules[i].to) == 0 {
			return nil, false
		}
		for j := range p.rules[i].to {
			paths := p.rules[i].to[j].paths
			if len(paths) == 0 {
				return nil, false
			}
			for k := range paths {
				if paths[k].fold {
					return nil, false
				}
				keys = append(keys, paths[k].prefix())
			}
		}
	}
	return keys, true
}

// prefixDepth is of how many segments a prefix is at most.
const prefixDepth = 4

// prefix returns what all paths that p matches begin with, "/v1/things", up to prefixDepth whole
// segments; "" if they may begin in any way.
func (p *pathPattern) prefix() string {
	literal := strings.TrimSuffix(p.literal, "/")
	if p.segments != nil {
		literal = ""
		for _, segment := range p.segments {
			if segment == "" {
				break
			}
			literal += "/" + segment
		}
	}
	at := 0
	for range prefixDepth {
		at = segmentEnd(literal, at)
	}
	return literal[:at]
}

// segmentEnd returns the end of the segment of path that begins, with its slash, at at.
func segmentEnd(path string, at int) int {
	if at == len(path) {
		return at
	}
	if next := strings.IndexByte(path[at+1:], '/'); next >= 0 {
		return at + 1 + next
	}
	return len(path)
}

// candidates goes through the policies that a request could match, in their order.
type candidates struct {
	l         *policyList
	caller    []uint64                  // those that name its caller
	prefixes  [prefixDepth + 1][]uint64 // and its path
	everyPath bool
	word      int
	left      uint64 // of the word before
}

// candidates returns those of c. A path that can be read in two ways could match by either, and a
// connection has none.
func (l *policyList) candidates(c *call) candidates {
	it := candidates{l: l}
	if l.anyCaller == nil {
		return it
	}
	if c.Peer.TrustDomain() == l.trustDomain {
		it.caller = l.byCaller[twoSegments(c.Peer.Path())]
	}
	if it.everyPath = c.TCP || c.other != "" || !strings.HasPrefix(c.path, "/"); it.everyPath {
		return it
	}
	it.prefixes[0] = l.byPrefix[""]
	for depth, at := 1, 0; depth <= prefixDepth && at < len(c.path); depth++ {
		at = segmentEnd(c.path, at)
		it.prefixes[depth] = l.byPrefix[c.path[:at]]
	}
	return it
}

// next returns the next one, or nil.
func (it *candidates) next() *policy {
	if it.l.anyCaller == nil {
		if it.word == len(it.l.all) {
			return nil
		}
		it.word++
		return it.l.all[it.word-1]
	}
	for it.left == 0 {
		if it.word == len(it.l.anyCaller) {
			return nil
		}
		it.left = it.those(it.word)
		it.word++
	}
	at := bits.TrailingZeros64(it.left)
	it.left &= it.left - 1
	return it.l.all[(it.word-1)*64+at]
}

// those returns the candidates in a word.
func (it *candidates) those(word int) uint64 {
	callers := it.l.anyCaller[word]
	if it.caller != nil {
		callers |= it.caller[word]
	}
	if it.everyPath {
		return callers
	}
	paths := it.l.anyPath[word]
	for _, set := range it.prefixes {
		if set != nil {
			paths |= set[word]
		}
	}
	return callers & paths
}

// over returns s, but that sets which are the same in old are those of old, and those which are
// not find what could match.
func (s setsByTarget) over(old setsByTarget, trustDomain string) setsByTarget {
	for id, set := range s {
		if was := old[id]; was != nil && slices.Equal(was.deny.all, set.deny.all) && slices.Equal(was.allow.all, set.allow.all) && slices.Equal(was.audit, set.audit) {
			s[id] = was
			continue
		}
		set.deny.index(trustDomain)
		set.allow.index(trustDomain)
	}
	return s
}
