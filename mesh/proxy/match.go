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
	rule     *Rule
	route    *mesh.Route
	policies *policySet // of the route; nil if it has none
	guard    *guard     // likewise
	prefix   int        // how long a prefix of the path it matches; 0 if it matches otherwise
	gateways []string   // that serve the route; empty is all
	methods  []string
	headers  []valueMatch
	query    []valueMatch
	regex    *regexp.Regexp // of the path; nil if its place says it all
	order    [2]int         // rule and match within the route
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

func newCandidate(route *mesh.Route, rule *Rule, match mesh.RouteMatch, order [2]int) (candidate, error) {
	c := candidate{rule: rule, route: route, gateways: route.Gateways, methods: match.Methods, order: order}
	for i := range match.Headers {
		h, err := newValueMatch(textproto.CanonicalMIMEHeaderKey(match.Headers[i].Name), &match.Headers[i])
		if err != nil {
			return candidate{}, err
		}
		c.headers = append(c.headers, h)
	}
	for i := range match.QueryParams {
		q, err := newValueMatch(match.QueryParams[i].Name, &match.QueryParams[i])
		if err != nil {
			return candidate{}, err
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
			return candidate{}, err
		}
	}
	return c, nil
}

// servedBy reports whether the route is served at face. Which gateways it names
// is nothing to an Outbound.
func (c *candidate) servedBy(face Face) bool {
	return face.Kind != Gateway || len(c.gateways) == 0 || slices.Contains(c.gateways, face.Gateway)
}

// matches reports whether everything but the host and path matches. Methods are
// compared as they are: "get" is not GET (RFC 9110 section 9.1). What asks whether
// another origin may send a request stands for that request.
func (c *candidate) matches(face Face, r *Request) bool {
	if !c.servedBy(face) {
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
