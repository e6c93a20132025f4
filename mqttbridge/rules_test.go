package mqttbridge

import (
	"maps"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func filterRule(name, filter string) *mesh.TopicRule {
	return telemetry(func(r *mesh.TopicRule) {
		r.Name, r.Filter, r.Device = "topicRules/"+name, filter, ""
		r.To.Path = "/" + name
	})
}

func tableOf(t testing.TB, rules ...*mesh.TopicRule) *table {
	t.Helper()
	next, _ := compile(snapshot(rules...).Config, newTable())
	return next
}

func TestMatch(t *testing.T) {
	rules := map[string]string{
		"exact": "a/b/c", "one": "a/+/c", "capture": "x/{id}/y", "rest": "a/#", "deep": "x/{id}/{part}/#", "top": "{tenant}/in",
	}
	var all []*mesh.TopicRule
	for name, filter := range rules {
		all = append(all, filterRule(name, filter))
	}
	table := tableOf(t, all...)
	for _, test := range []struct {
		name, topic, rule string
		captures          map[string]string
	}{
		{"a literal wins over a wildcard", "a/b/c", "exact", nil},
		{"one level", "a/x/c", "one", nil},
		{"one level may be empty", "a//c", "one", nil},
		{"one level is not two", "a/x/y/c", "rest", nil},
		{"the rest may be nothing", "a", "rest", nil},
		{"the rest may be an empty level", "a/", "rest", nil},
		{"a capture", "x/7/y", "capture", map[string]string{"id": "7"}},
		{"two captures and the rest", "x/7/8/9/10", "deep", map[string]string{"id": "7", "part": "8"}},
		{"a literal after a capture wins over a second capture", "x/7/y/z", "deep", map[string]string{"id": "7", "part": "y"}},
		{"a capture as first level", "acme/in", "top", map[string]string{"tenant": "acme"}},
		{"the broker's own topics match nothing", "$SYS/in", "", nil},
		{"case matters", "A/b/c", "", nil},
		{"a leading slash is a level", "/a/b/c", "", nil},
		{"shorter than any filter", "x", "", nil},
		{"the empty topic", "", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, captures, err := table.match(test.topic)
			got := ""
			if r != nil {
				got = strings.TrimPrefix(r.name, "topicRules/")
			}
			if err != nil || got != test.rule {
				t.Fatalf("match(%q) = %q, %v, want %q", test.topic, got, err, test.rule)
			}
			if len(captures)+len(test.captures) > 0 && !maps.Equal(captures, test.captures) {
				t.Errorf("captures %v, want %v", captures, test.captures)
			}
		})
	}
}

func TestCapturesThatCannotBeOneSegment(t *testing.T) {
	table := tableOf(t, telemetry())
	for _, test := range []struct {
		name, level, reason string
	}{
		{"plain", "d1", ""},
		{"a MAC address", "aa:bb:cc:dd:ee:ff", ""},
		{"what would be a query", "?x=1", ""},
		{"what would be a host", "@host", ""},
		{"a lone percent sign", "50%", ""},
		{"a space is no device", "a b", ReasonBadDevice},
		{"other scripts are no device", "gerät", ReasonBadDevice},
		{"a comma would be two devices", "a,b", ReasonBadDevice},
		{"longer than a device id", strings.Repeat("a", 129), ReasonBadDevice},
		{"empty", "", ReasonBadCapture},
		{"the segment itself", ".", ReasonBadCapture},
		{"the segment above", "..", ReasonBadCapture},
		{"an escaped slash", "..%2f..", ReasonBadCapture},
		{"an escaped dot", "%2e%2e", ReasonBadCapture},
		{"a backslash", `..\..`, ReasonBadCapture},
		{"parameters", "d1;admin", ReasonBadCapture},
		{"CRLF", "a\r\nX: y", ReasonBadCapture},
		{"NUL", "a\x00b", ReasonBadCapture},
		{"not UTF-8", "a\xffb", ReasonBadCapture},
		{"longer than a segment may be", strings.Repeat("a", 257), ReasonBadCapture},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _, err := table.match("devices/" + test.level + "/telemetry")
			if r == nil {
				t.Fatal("no rule")
			}
			reason := ""
			if err != nil {
				reason = asRefusal(err).Reason
			}
			if reason != test.reason {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
		})
	}
}

func TestSubscriptions(t *testing.T) {
	zero := uint32(0)
	qos0 := func(r *mesh.TopicRule) *mesh.TopicRule { r.QoS = &zero; return r }
	for _, test := range []struct {
		name  string
		rules []*mesh.TopicRule
		want  map[string]byte
	}{
		{"captures become single-level wildcards", []*mesh.TopicRule{telemetry()}, map[string]byte{"devices/+/telemetry": 1}},
		{"a filter that another covers is left out", []*mesh.TopicRule{filterRule("a", "x/#"), filterRule("b", "x/{y}/z")}, map[string]byte{"x/#": 1}},
		{"the wide one takes the higher QoS", []*mesh.TopicRule{qos0(filterRule("a", "x/#")), filterRule("b", "x/y")}, map[string]byte{"x/#": 1}},
		{"through a chain too", []*mesh.TopicRule{qos0(filterRule("a", "x/#")), qos0(filterRule("b", "x/+")), filterRule("c", "x/y")}, map[string]byte{"x/#": 1}},
		{"equal filters are one", []*mesh.TopicRule{qos0(filterRule("a", "x/+")), filterRule("b", "x/{y}")}, map[string]byte{"x/+": 1}},
		{"overlap without cover keeps both", []*mesh.TopicRule{filterRule("a", "x/+"), filterRule("b", "+/y")}, map[string]byte{"x/+": 1, "+/y": 1}},
		{"a parent is covered by its rest", []*mesh.TopicRule{filterRule("a", "x/#"), filterRule("b", "x")}, map[string]byte{"x/#": 1}},
		{"no rules, no filters", nil, map[string]byte{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := tableOf(t, test.rules...).filters; !maps.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestRulesThatCannotBeCompiledAreHeldNotLeftOut(t *testing.T) {
	for name, edit := range map[string]func(*mesh.TopicRule){
		"an expression is not ignored":      func(r *mesh.TopicRule) { r.When = "true" },
		"a path with an unknown capture":    func(r *mesh.TopicRule) { r.To.Path = "/{nobody}" },
		"no destination":                    func(r *mesh.TopicRule) { r.To = nil },
		"a downlink is not taken as uplink": func(r *mesh.TopicRule) { r.Direction = mesh.Downlink },
	} {
		t.Run(name, func(t *testing.T) {
			r, _, _ := tableOf(t, telemetry(edit)).match("devices/d1/telemetry")
			if r == nil || r.err == nil {
				t.Fatalf("rule %+v, want one with an error", r)
			}
		})
	}
	broken := tableOf(t, telemetry(func(r *mesh.TopicRule) { r.Filter = "a/#/b" }))
	if len(broken.rules) != 1 || broken.rules[0].err == nil {
		t.Errorf("a filter that cannot be read is not reported: %+v", broken.rules)
	}
}

func TestRulesOfOneShape(t *testing.T) {
	table := tableOf(t, filterRule("b", "x/+"), filterRule("a", "x/{y}"))
	r, _, _ := table.match("x/1")
	if r.name != "topicRules/a" {
		t.Errorf("%s matches, want the first by name", r.name)
	}
	if len(table.shadowed) != 1 || table.shadowed[0] != "topicRules/b" {
		t.Errorf("shadowed %v", table.shadowed)
	}
}

func TestUnchangedRulesKeepTheTable(t *testing.T) {
	first := tableOf(t, telemetry())
	if again, changed := compile(snapshot(telemetry()).Config, first); changed || again != first {
		t.Error("equal rules made a new table")
	}
	next, changed := compile(snapshot(telemetry(), filterRule("b", "x")).Config, first)
	if !changed || next.rules[1] != first.rules[0] {
		t.Error("an unchanged rule was compiled again, or a new one went unseen")
	}
	if fewer, changed := compile(snapshot().Config, first); !changed || len(fewer.filters) != 0 {
		t.Error("a removed rule went unseen")
	}
}

// matches is MQTT 3.1.1 section 4.7 written down once more, level by level.
func matches(filter, topic []string) bool {
	switch {
	case len(filter) == 0:
		return len(topic) == 0
	case filter[0] == "#":
		return true
	case len(topic) == 0:
		return false
	case filter[0] != "+" && !isCapture(filter[0]) && filter[0] != topic[0]:
		return false
	}
	return matches(filter[1:], topic[1:])
}

func FuzzMatch(f *testing.F) {
	f.Add("a/{x}/#", "a/+/c", "a/b/c")
	f.Add("#", "+/+", "a")
	f.Add("{a}/{b}", "a/#", "/")
	f.Fuzz(func(t *testing.T, one, two, topic string) {
		rules := []*mesh.TopicRule{filterRule("one", one), filterRule("two", two)}
		var levels [][]string
		for _, r := range rules {
			if _, err := mesh.TopicCaptures(r.Filter); err == nil {
				levels = append(levels, strings.Split(r.Filter, "/"))
			}
		}
		want := false
		split := strings.Split(topic, "/")
		for _, l := range levels {
			want = want || topic != "" && topic[0] != '$' && matches(l, split)
		}
		table := tableOf(t, rules...)
		r, captures, err := table.match(topic)
		if (r != nil) != want {
			t.Fatalf("match(%q) with %q and %q: found %v, want %v", topic, one, two, r != nil, want)
		}
		if r != nil && err == nil {
			if !matches(r.levels, split) {
				t.Errorf("%q found for %q", r.levels, topic)
			}
			for name, i := range r.captures {
				if captures[name] != split[i] || captures[name] == "" {
					t.Errorf("capture %s is %q, level %q", name, captures[name], split[i])
				}
			}
		}
		// Whatever a rule matches, a subscription brings.
		if want {
			brought := false
			for filter := range table.filters {
				brought = brought || matches(strings.Split(filter, "/"), split)
			}
			if !brought {
				t.Errorf("no subscription of %v brings %q", table.filters, topic)
			}
		}
	})
}
