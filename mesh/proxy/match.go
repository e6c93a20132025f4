package proxy

import (
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// candidate is one match of one rule. Its path is where it stands in a site.
type candidate struct {
	route   *compiledRoute
	rule    *Rule
	methods []string
	headers []valueMatch
	query   []valueMatch
	order   [2]int         // rule and match within the route
	regex   *regexp.Regexp // of the path; nil if its place says it all
	prefix  int            // how long a prefix it matches; 0 if it matches otherwise
}

// valueMatch asks for a header or query parameter: that it has one value, or one
// that begins so, or one that regex matches, or else that it is there. The name of
// a header is in canonical case.
type valueMatch struct {
	name   string
	exact  string
	prefix string
	regex  *regexp.Regexp
}

func newValueMatch(name string, m *mesh.ValueMatch) (valueMatch, error) {
	out := valueMatch{name: name, exact: m.Exact, prefix: m.Prefix}
	if m.Regex == "" {
		return out, nil
	}
	var err error
	out.regex, err = mesh.CompileRegex(m.Regex)
	return out, err
}

// any reports whether any value will do.
func (m *valueMatch) any() bool { return m.exact == "" && m.prefix == "" && m.regex == nil }

// accepts reports whether a value, decoded, is what is asked for.
func (m *valueMatch) accepts(value string) bool {
	switch {
	case m.exact != "":
		return value == m.exact
	case m.regex != nil:
		return m.regex.MatchString(value)
	}
	return strings.HasPrefix(value, m.prefix)
}

func newCandidate(route *compiledRoute, rule *Rule, match mesh.RouteMatch, order [2]int) (*candidate, error) {
	c := &candidate{route: route, rule: rule, methods: match.Methods, order: order}
	for i := range match.Headers {
		h, err := newValueMatch(textproto.CanonicalMIMEHeaderKey(match.Headers[i].Name), &match.Headers[i])
		if err != nil {
			return nil, err
		}
		c.headers = append(c.headers, h)
	}
	for i := range match.QueryParams {
		q, err := newValueMatch(match.QueryParams[i].Name, &match.QueryParams[i])
		if err != nil {
			return nil, err
		}
		c.query = append(c.query, q)
	}
	if match.Path == nil {
		return c, nil
	}
	c.prefix = len(strings.TrimSuffix(match.Path.Prefix, "/"))
	if match.Path.Regex != "" {
		var err error
		if c.regex, err = mesh.CompileRegex(match.Path.Regex); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// matches reports whether everything but the host and path matches. Methods are
// compared as they are: "get" is not GET (RFC 9110 section 9.1). What asks whether
// another origin may send a request stands for that request.
func (c *candidate) matches(face Face, r *Request) bool {
	if !c.route.servedBy(face) {
		return false
	}
	if len(c.methods) > 0 && !slices.Contains(c.methods, r.Method) {
		if method, ok := preflight(r); !ok || c.rule.cors == nil || !slices.Contains(c.methods, method) {
			return false
		}
	}
	for i := range c.headers {
		if !c.headers[i].matchHeader(r) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].matchQuery(r.RawQuery) {
			return false
		}
	}
	return true
}

// matchHeader compares a field that comes once. A repeated field is present and
// has no one value, so it equals nothing.
func (m *valueMatch) matchHeader(r *Request) bool {
	if m.name == "Host" { // which is no field of the list
		return m.accepts(r.Host)
	}
	value, ok := r.Fields.Get(m.name)
	return ok && (m.any() || r.Fields.Count(m.name) == 1 && m.accepts(value))
}

// matchQuery compares the first parameter of the name, decoded as a form
// (x-www-form-urlencoded). It allocates only for what a regular expression or a
// prefix is to match.
func (m *valueMatch) matchQuery(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if equalDecoded(name, m.name) {
			if m.exact != "" || m.any() {
				return m.any() || equalDecoded(value, m.exact)
			}
			plain, err := url.QueryUnescape(value)
			return err == nil && m.accepts(plain)
		}
	}
	return false
}

// equalDecoded reports whether raw, form-decoded, is plain. What has a broken
// escape equals nothing.
func equalDecoded(raw, plain string) bool {
	at := 0
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch c {
		case '+':
			c = ' '
		case '%':
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return false
			}
			c = unhex(raw[i+1])<<4 | unhex(raw[i+2])
			i += 2
		}
		if at >= len(plain) || plain[at] != c {
			return false
		}
		at++
	}
	return at == len(plain)
}

// site holds the candidates of one hostname by path: exact paths in a map,
// prefixes and templates in a tree of segments, and regular expressions in another
// by the whole segments that they begin with. Lists are in order of precedence once
// sorted.
type site struct {
	exact   map[string][]*candidate
	tree    node
	regexes *node // nil if there are none
}

// node is a position in the tree: everything that has the same segments before
// it. "*" below stands for a capture of one segment.
type node struct {
	literal map[string]*node
	capture *node
	whole   []*candidate // a template that ends here, and so must the path
	prefix  []*candidate // a prefix, or a template with the rest: anything may follow
	regex   []*candidate // what begins here and must match the whole path
	deepest int          // the depth of the deepest candidates here or below
}

// add files c under its path; an absent path is the prefix "/". The path has
// been validated.
func (s *site) add(path *mesh.PathMatch, c *candidate) {
	switch {
	case path == nil:
		s.tree.prefix = append(s.tree.prefix, c)
	case path.Exact != "":
		s.exact[path.Exact] = append(s.exact[path.Exact], c)
	case c.regex != nil:
		s.addRegex(path.Regex, c)
	case path.Prefix != "":
		n := &s.tree
		depth := strings.Count(strings.TrimSuffix(path.Prefix, "/"), "/")
		rest := strings.TrimSuffix(path.Prefix, "/") // "/a/" and "/a" are the same prefix
		for rest != "" {
			var segment string
			segment, rest = cutSegment(rest)
			n.deepest = max(n.deepest, depth)
			n = n.child(segment, false)
		}
		n.deepest = max(n.deepest, depth)
		n.prefix = append(n.prefix, c)
	default:
		template, err := mesh.ParsePathTemplate(path.Template)
		if err != nil {
			return // validated before
		}
		s.tree.addTemplate(template.Segments, c)
	}
}

// addRegex files c under the segments with which everything begins that it matches.
func (s *site) addRegex(expr string, c *candidate) {
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
			n = n.child(segment, false)
		}
	}
	n.regex = append(n.regex, c)
}

func (n *node) addTemplate(segments []mesh.TemplateSegment, c *candidate) {
	rest := len(segments) > 0 && segments[len(segments)-1].Rest
	if rest {
		segments = segments[:len(segments)-1]
	}
	for _, segment := range segments {
		n.deepest = max(n.deepest, len(segments))
		n = n.child(segment.Literal, segment.Capture != "")
	}
	n.deepest = max(n.deepest, len(segments))
	if rest {
		n.prefix = append(n.prefix, c)
	} else {
		n.whole = append(n.whole, c)
	}
}

// child returns the node below n for a segment, which it makes if need be.
func (n *node) child(literal string, capture bool) *node {
	if capture {
		if n.capture == nil {
			n.capture = &node{}
		}
		return n.capture
	}
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	if n.literal[literal] == nil {
		n.literal[literal] = &node{}
	}
	return n.literal[literal]
}

// sort brings every list into the order of precedence.
func (s *site) sort() {
	for _, list := range s.exact {
		slices.SortFunc(list, compareCandidates)
	}
	s.tree.sort()
	if s.regexes != nil {
		s.regexes.sort()
	}
}

func (n *node) sort() {
	slices.SortFunc(n.whole, compareCandidates)
	slices.SortFunc(n.prefix, compareCandidates)
	slices.SortFunc(n.regex, compareCandidates)
	for _, child := range n.literal {
		child.sort()
	}
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
	if c := firstMatch(s.exact[path], face, r); c != nil {
		return c
	}
	if !strings.HasPrefix(path, "/") {
		return nil
	}
	best := found{depth: -1}
	rest := path
	if path == "/" {
		rest = "" // no segments; "/a/" has two, the last of them empty
	}
	if s.regexes != nil {
		if c := s.regexes.findRegex(face, r, path, rest); c != nil {
			return c
		}
	}
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
		if child := n.literal[segment]; child != nil {
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
		if child := n.literal[segment]; child != nil {
			if c := child.findRegex(face, r, path, after); c != nil {
				return c
			}
		}
	}
	for _, c := range n.regex {
		if c.matches(face, r) && c.regex.MatchString(path) {
			return c
		}
	}
	return nil
}

func firstMatch(list []*candidate, face Face, r *Request) *candidate {
	for _, c := range list {
		if c.matches(face, r) {
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
