package proxy

import (
	"regexp"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// site holds the candidates of one hostname by path: exact paths, prefixes and templates
// in a tree of segments, and regular expressions in another by the whole segments that
// they begin with. Lists are in order of precedence once sorted.
//
// Lists hold values and not pointers: what a lookup among many routes costs is how often
// it reads memory that is in no cache.
type site struct {
	of      []filed
	tree    node
	exact   branches // whole paths
	regexes *node    // nil if there are none
}

// node is a position in the tree: everything that has the same segments before
// it.
type node struct {
	below   branches    // for segments that are spelled out
	capture *node       // for any one segment; nil if there is none
	deepest int         // the depth of the deepest candidates here or below
	whole   []candidate // a path or template that ends here, and so must the request's
	prefix  []candidate // a prefix, or a template with the rest: anything may follow
	regex   []candidate // what begins here and must match the whole path
}

// branches finds nodes by name.
type branches map[string]*node

// node returns the node called name, which it makes if need be.
func (b *branches) node(name string) *node {
	if *b == nil {
		*b = branches{}
	}
	n := (*b)[name]
	if n == nil {
		n = &node{}
		(*b)[name] = n
	}
	return n
}

// captured returns the node below n for a capture, which it makes if need be.
func (n *node) captured() *node {
	if n.capture == nil {
		n.capture = &node{}
	}
	return n.capture
}

// filed is a route of a hostname, and the policies and authenticators that have it as their target.
type filed struct {
	route    *compiledRoute
	policies *policySet
	guard    *guard
}

func newSite(of []filed) *site {
	s := &site{of: of}
	for _, f := range of {
		for i := range f.route.matches {
			m := f.route.matches[i] // a copy, which is ours
			m.candidate.policies, m.candidate.guard = f.policies, f.guard
			s.add(&m)
		}
	}
	s.sort()
	return s
}

// add files a candidate under its path, which has been validated.
func (s *site) add(m *compiledMatch) {
	path, c := m.path, m.candidate
	switch {
	case path == nil:
		s.tree.prefix = append(s.tree.prefix, c)
	case path.Exact != "":
		n := s.exact.node(path.Exact)
		n.whole = append(n.whole, c)
	case c.regex != nil:
		s.addRegex(path.Regex, c)
	case path.Prefix != "":
		prefix := strings.TrimSuffix(path.Prefix, "/") // "/a/" and "/a" are the same prefix
		n := &s.tree
		depth := strings.Count(prefix, "/")
		for rest := prefix; rest != ""; {
			var segment string
			segment, rest = cutSegment(rest)
			n.deepest = max(n.deepest, depth)
			n = n.below.node(segment)
		}
		n.deepest = max(n.deepest, depth)
		n.prefix = append(n.prefix, c)
	default:
		s.addTemplate(m.template, c)
	}
}

// addRegex files c under the segments with which everything begins that it matches.
func (s *site) addRegex(expr string, c candidate) {
	literal := ""
	if unanchored, err := regexp.Compile(strings.TrimPrefix(expr, "^")); err == nil {
		literal, _ = unanchored.LiteralPrefix()
	}
	if s.regexes == nil {
		s.regexes = &node{}
	}
	n := s.regexes
	if strings.HasPrefix(literal, "/") {
		for rest := literal[:strings.LastIndexByte(literal, '/')]; rest != ""; {
			var segment string
			segment, rest = cutSegment(rest)
			n = n.below.node(segment)
		}
	}
	n.regex = append(n.regex, c)
}

func (s *site) addTemplate(segments []mesh.TemplateSegment, c candidate) {
	rest := len(segments) > 0 && segments[len(segments)-1].Rest
	if rest {
		segments = segments[:len(segments)-1]
	}
	n := &s.tree
	for _, segment := range segments {
		n.deepest = max(n.deepest, len(segments))
		if segment.Capture != "" {
			n = n.captured()
		} else {
			n = n.below.node(segment.Literal)
		}
	}
	n.deepest = max(n.deepest, len(segments))
	if rest {
		n.prefix = append(n.prefix, c)
	} else {
		n.whole = append(n.whole, c)
	}
}

// sort brings every list into the order of precedence.
func (s *site) sort() {
	s.exact.sort()
	s.tree.sort()
	if s.regexes != nil {
		s.regexes.sort()
	}
}

func (b branches) sort() {
	for _, n := range b {
		n.sort()
	}
}

func (n *node) sort() {
	slices.SortFunc(n.whole, compareCandidates)
	slices.SortFunc(n.prefix, compareCandidates)
	slices.SortFunc(n.regex, compareCandidates)
	n.below.sort()
	if n.capture != nil {
		n.capture.sort()
	}
}

// find returns the candidate that takes precedence among those that match r at
// path, or nil: an exact path before any other; then the regular expression that
// begins with the most literal segments (Envoy Gateway's order); then the pattern
// that spells out the most segments; of two as long, the one whose first difference
// is a literal against a capture; of one pattern, the whole path against a rest.
func (s *site) find(face Face, r *Request, path string) *candidate {
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	if n := s.exact[path]; n != nil {
		if c := firstMatch(n.whole, face, r); c != nil {
			return c
		}
	}
	rest := path
	if path == "/" {
		rest = "" // no segments; "/a/" has two, the last of them empty
	}
	if s.regexes != nil {
		if c := s.regexes.findRegex(face, r, path, rest); c != nil {
			return c
		}
	}
	best := found{depth: -1}
	s.tree.find(face, r, rest, 0, &best)
	return best.candidate
}

// found is the best candidate so far and the number of segments it spells out.
type found struct {
	candidate *candidate
	depth     int
}

// find looks for a candidate with more segments than best, in n and below, for
// the segments in rest. It goes down literals first, so a tie stays with them,
// and skips what is not deep enough, so it visits at most the nodes whose
// patterns the path fits.
func (n *node) find(face Face, r *Request, rest string, depth int, best *found) {
	if n.deepest <= best.depth {
		return
	}
	if rest != "" {
		segment, after := cutSegment(rest)
		if child := n.below[segment]; child != nil {
			child.find(face, r, after, depth+1, best)
		}
		if n.capture != nil && segment != "" {
			n.capture.find(face, r, after, depth+1, best)
		}
	}
	if depth <= best.depth {
		return
	}
	var c *candidate
	if rest == "" {
		c = firstMatch(n.whole, face, r)
	}
	if c == nil {
		c = firstMatch(n.prefix, face, r)
	}
	if c != nil {
		best.candidate, best.depth = c, depth
	}
}

// findRegex returns the first candidate below n, the deepest first, whose expression
// matches path. rest is what of path is below n.
func (n *node) findRegex(face Face, r *Request, path, rest string) *candidate {
	if rest != "" {
		segment, after := cutSegment(rest)
		if child := n.below[segment]; child != nil {
			if c := child.findRegex(face, r, path, after); c != nil {
				return c
			}
		}
	}
	for i := range n.regex {
		if c := &n.regex[i]; c.matches(face, r) && c.regex.MatchString(path) {
			return c
		}
	}
	return nil
}

func firstMatch(list []candidate, face Face, r *Request) *candidate {
	for i := range list {
		if c := &list[i]; c.matches(face, r) {
			return c
		}
	}
	return nil
}

// cutSegment splits "/a/b" into "a" and "/b". p begins with a slash.
func cutSegment(p string) (segment, rest string) {
	p = p[1:]
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i], p[i:]
	}
	return p, ""
}
