package mqttbridge

import (
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// maxCapture bounds one captured level, so that a path stays below the mesh's
// 8 KiB and a device id fits a header.
const maxCapture = 256

// table is what the topic rules of one Snapshot compile to. It never changes,
// but for replaced, which is closed when it is no longer the current one.
type table struct {
	root     *node
	rules    []*rule         // by name
	shadowed []string        // names of rules that another one hides entirely
	filters  map[string]byte // MQTT filters to subscribe to, with their QoS
	replaced chan struct{}
}

// node is one level of the filter tree. Children are tried in the order
// literal, any, rest, so the rule found first is the most specific one from
// the left: every message has one rule.
type node struct {
	literal map[string]*node
	any     *node // a {capture} or '+'
	here    *rule // the filter ends at this level
	rest    *rule // '#'
}

// rule is a compiled mesh.TopicRule.
type rule struct {
	name        string
	source      *mesh.TopicRule
	levels      []string       // of the filter: "devices", "{device}", "#"; nil if it cannot be read
	captures    map[string]int // name to level
	path        mesh.PathTemplate
	device      string // the capture that names the device; "" if none
	backoffBase time.Duration
	backoffMax  time.Duration
	// err says why no request can be built. The rule still matches, and its
	// messages wait: were it left out, they would be acknowledged unseen.
	err error
}

func newTable() *table {
	return &table{root: &node{}, filters: map[string]byte{}, replaced: make(chan struct{})}
}

// compile builds the table of c. Rules that did not change since old are the
// same *rule; changed is false if that holds for all of them.
func compile(c *mesh.Config, old *table) (next *table, changed bool) {
	before := make(map[string]*rule, len(old.rules))
	for _, r := range old.rules {
		before[r.name] = r
	}
	next = newTable()
	for _, id := range slices.Sorted(maps.Keys(c.TopicRules)) {
		source := c.TopicRules[id]
		r := before[source.Name]
		if r == nil || !reflect.DeepEqual(r.source, source) {
			r, changed = newRule(source), true
		}
		if r.levels != nil && !next.root.insert(r) {
			next.shadowed = append(next.shadowed, r.name)
		}
		next.rules = append(next.rules, r)
	}
	if !changed && len(next.rules) == len(old.rules) {
		return old, false
	}
	next.filters = subscriptions(next.rules)
	return next, true
}

func newRule(source *mesh.TopicRule) *rule {
	r := &rule{name: source.Name, source: source, captures: map[string]int{}}
	if _, err := mesh.TopicCaptures(source.Filter); err != nil {
		r.err = err
		return r
	}
	r.levels = strings.Split(source.Filter, "/")
	for i, l := range r.levels {
		if isCapture(l) {
			r.captures[l[1:len(l)-1]] = i
		}
	}
	r.device = strings.Trim(source.Device, "{}")
	r.backoffBase, r.backoffMax = defaultBackoffBase, defaultBackoffMax
	if source.Retry != nil && source.Retry.Backoff != nil {
		r.backoffBase = source.Retry.Backoff.Base.Or(defaultBackoffBase)
		r.backoffMax = max(source.Retry.Backoff.Max.Or(defaultBackoffMax), r.backoffBase)
	}
	// The control plane validates too. What it lets through and this version
	// cannot do (an expression, a spool) must not be ignored here.
	if r.err = mesh.Validate(source); r.err == nil {
		r.path, r.err = mesh.ParsePathTemplate(source.To.Path)
	}
	return r
}

// insert adds r. Of two rules whose filters match the same topics level by
// level the one that comes first is used; insert reports false for the other.
func (n *node) insert(r *rule) bool {
	at := &n.here
	for _, l := range r.levels {
		if l == "#" {
			at = &n.rest
			break
		}
		n = n.child(l)
		at = &n.here
	}
	if *at != nil {
		return false
	}
	*at = r
	return true
}

func (n *node) child(level string) *node {
	if level == "+" || isCapture(level) {
		if n.any == nil {
			n.any = &node{}
		}
		return n.any
	}
	c := n.literal[level]
	if c == nil {
		if n.literal == nil {
			n.literal = map[string]*node{}
		}
		c = &node{}
		n.literal[level] = c
	}
	return c
}

// find returns the most specific rule for the levels of a topic, or nil. The
// filter "a/#" matches "a" too (MQTT 3.1.1, 4.7.1.2).
func (n *node) find(levels []string) *rule {
	if len(levels) == 0 {
		if n.here != nil {
			return n.here
		}
		return n.rest
	}
	if c := n.literal[levels[0]]; c != nil {
		if r := c.find(levels[1:]); r != nil {
			return r
		}
	}
	if n.any != nil {
		if r := n.any.find(levels[1:]); r != nil {
			return r
		}
	}
	return n.rest
}

// match returns the rule for a topic and the values of its captures. No rule
// matches topics that begin with '$'. A nil rule means that the message is not
// ours; a rule with an error, that the topic can never become a request.
func (t *table) match(topic string) (*rule, map[string]string, error) {
	if topic == "" || topic[0] == '$' {
		return nil, nil, nil
	}
	levels := strings.Split(topic, "/")
	r := t.root.find(levels)
	if r == nil {
		return nil, nil, nil
	}
	captures := make(map[string]string, len(r.captures))
	for name, i := range r.captures {
		if !captureFits(levels[i]) {
			return r, nil, &Refusal{Reason: ReasonBadCapture}
		}
		captures[name] = levels[i]
	}
	if r.device != "" && !deviceFits(captures[r.device]) {
		return r, nil, &Refusal{Reason: ReasonBadDevice}
	}
	return r, captures, nil
}

// captureFits reports whether a level can stand as one path segment that every
// hop reads alike. The mesh answers 400 to paths that can be read in two ways
// (dot segments, escaped slashes and escapes, control characters), so such a
// message could never arrive; parameters are refused because servers differ in
// when they cut them off.
func captureFits(level string) bool {
	if level == "" || len(level) > maxCapture || strings.ContainsRune(level, ';') {
		return false
	}
	canonical, err := proxy.CanonicalPath("/" + url.PathEscape(level))
	if err != nil {
		return false
	}
	same, err := url.PathUnescape(canonical)
	return err == nil && same == "/"+level
}

// deviceFits reports whether a device id can stand in a header and in a policy
// as one word: visible ASCII without the characters that separate or quote.
func deviceFits(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; c <= 0x20 || c >= 0x7f || c == ',' || c == '"' {
			return false
		}
	}
	return true
}

func isCapture(level string) bool { return strings.HasPrefix(level, "{") }

// subscriptions returns the filters that together cover all rules, without
// those that another covers: a broker may send a message once for every
// matching subscription.
func subscriptions(rules []*rule) map[string]byte {
	all := map[string]byte{}
	for _, r := range rules {
		if r.levels == nil {
			continue
		}
		plain := make([]string, len(r.levels))
		for i, l := range r.levels {
			if isCapture(l) {
				l = "+"
			}
			plain[i] = l
		}
		qos := byte(1)
		if r.source.QoS != nil {
			qos = byte(min(*r.source.QoS, 2))
		}
		filter := strings.Join(plain, "/")
		all[filter] = max(all[filter], qos)
	}
	out := maps.Clone(all)
	for _, narrow := range slices.Sorted(maps.Keys(all)) {
		for wide := range all {
			if wide != narrow && covers(strings.Split(wide, "/"), strings.Split(narrow, "/")) {
				delete(out, narrow)
				if _, kept := out[wide]; kept {
					out[wide] = max(out[wide], all[narrow])
				}
			}
		}
	}
	return out
}

// covers reports whether every topic that narrow matches is matched by wide.
func covers(wide, narrow []string) bool {
	for i, l := range wide {
		switch {
		case l == "#":
			return true
		case i >= len(narrow) || narrow[i] == "#":
			return false
		case l != "+" && l != narrow[i]:
			return false
		}
	}
	return len(wide) == len(narrow)
}
