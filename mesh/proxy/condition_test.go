package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func when(expression string) mesh.PolicyRule { return mesh.PolicyRule{When: expression} }

// aMessage is a request that the bridge sends for the device d1.
func aMessage(t *testing.T) Request {
	return Request{
		Method: "POST", Host: "orders.mesh", Path: "/v1/devices/d1/telemetry", RawQuery: "a=1&a=2&b=%20x", Remote: "10.3.0.7",
		Peer: peerOf(t, "/svc/mqtt-bridge/n/edge7"),
		Fields: header.List{{Name: deviceHeader, Value: "d1"}, {Name: "X-Tenant", Value: "acme"},
			{Name: "Accept", Value: "a"}, {Name: "accept", Value: "b"}},
	}
}

// TestConditions asks whether a condition lets an ALLOW match, and a DENY.
func TestConditions(t *testing.T) {
	for _, tt := range []struct {
		when        string
		allow, deny bool
	}{
		{`true`, true, true},
		{`false`, false, false},
		{`request.method == 'POST'`, true, true},
		{`request.host == 'orders.mesh' && request.path.startsWith('/v1/')`, true, true},
		{`request.path.matches('^/v1/devices/[^/]+/telemetry$')`, true, true},
		{`request.path.matches('^/v1/devices/d2/')`, false, false},
		{`'x-tenant' in request.headers`, true, true},
		{`!('x-debug' in request.headers)`, true, true},
		{`request.headers['x-tenant'] == 'acme'`, true, true},
		{`request.headers['accept'] == 'a, b'`, true, true},
		{`request.query['a'] == ['1', '2'] && request.query['b'][0] == ' x'`, true, true},
		{`request.time > timestamp('2020-01-01T00:00:00Z')`, true, true},
		{`peer.identity == 'spiffe://hedgerow.local/svc/mqtt-bridge/n/edge7'`, true, true},
		{`peer.service == 'mqtt-bridge' && peer.node == 'edge7'`, true, true},
		{`source.ip == '10.3.0.7'`, true, true},
		{`device == 'd1'`, true, true},
		{`device.startsWith('line-')`, false, false},
		// What has no value is read against the caller: so that neither kind lets anybody through.
		{`request.headers['x-debug'] == 'on'`, false, true},
		{`request.query['none'][0] == 'x'`, false, true},
		{`1 / int(request.query['b'][0]) > 0`, false, true},
		{`!(request.headers['x-debug'] == 'on')`, false, true},
		{`request.method == 'POST' || request.headers['x-debug'] == 'on'`, true, true},
	} {
		t.Run(tt.when, func(t *testing.T) {
			r := aMessage(t)
			if got := authorize(t, mesh.Deny, r, ordersPolicy("p", mesh.Allow, when(tt.when))).Refusal == nil; got != tt.allow {
				t.Errorf("as an ALLOW it matches: %v, want %v", got, tt.allow)
			}
			if got := authorize(t, mesh.Allow, r, ordersPolicy("p", mesh.Deny, when(tt.when))).Refusal != nil; got != tt.deny {
				t.Errorf("as a DENY it matches: %v, want %v", got, tt.deny)
			}
		})
	}
}

func TestConditionsThatAreRefused(t *testing.T) {
	for name, tt := range map[string]struct{ when, want string }{
		"not CEL":                  {`request.method =`, "Syntax error"},
		"no such name":             {`request.body == 'x'`, "undeclared reference"},
		"of another type":          {`request.method == 7`, "no matching overload"},
		"no condition":             {`request.method`, "true or false"},
		"a pattern that is none":   {`request.path.matches('(')`, "invalid matches argument"},
		"a pattern of the callers": {`request.path.matches(request.headers['x'])`, "is not written down"},
		"too much to look at":      {`request.headers.all(a, request.headers.all(b, request.headers[a] != request.headers[b]))`, "may cost"},
		"a pattern of many states": {`request.path.matches('^(/[^/]{1,60}){1,16}$')`, "instructions"},
		"a pattern without end":    {`request.path.matches('` + strings.Repeat("a", 2000) + `')`, "2000 bytes"},
		"too deep":                 {strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100), "recursion"},
		"a time that is none":      {`request.time > timestamp('yesterday')`, "invalid timestamp"},
	} {
		t.Run(name, func(t *testing.T) {
			p := ordersPolicy("p", mesh.Allow, mesh.PolicyRule{}, when(tt.when))
			err := CheckConditions(p)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "rules[1].when") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q of rules[1].when in one line", err, tt.want)
			}
			// A proxy that gets it all the same lets nobody in by it.
			cfg := configOf(p)
			cfg.Defaults.Authorization = mesh.Allow
			table, errs := Compile(cfg, testTrustDomain)
			r := aMessage(t)
			if d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &r, 0); len(errs) != 1 || d.Refusal == nil {
				t.Errorf("errors %v, refusal %v", errs, d.Refusal)
			}
		})
	}
	if err := CheckConditions(ordersPolicy("p", mesh.Allow, when(`request.headers.exists(h, request.headers[h] == 'x')`))); err != nil {
		t.Errorf("one look at each header: %v", err)
	}
}

// What the workload may read in a query, or another mesh's bridge says of a device, is not taken
// for what is not there.
func TestConditionsOnOddRequests(t *testing.T) {
	for name, tt := range map[string]struct {
		when, query, peer, remote string
		allow, deny               bool
	}{
		"a value with a broken escape":        {when: `'debug' in request.query`, query: "debug=%zz", deny: true},
		"a name with a broken escape":         {when: `'debug' in request.query`, query: "a=1&debu%6=1", deny: true},
		"a semicolon, which some split at":    {when: `'debug' in request.query`, query: "a=1;debug=1", deny: true},
		"not without it":                      {when: `!('debug' in request.query)`, query: "a=1;debug=1", deny: true},
		"who does not ask is not concerned":   {when: `request.method == 'GET'`, query: "debug=%zz", allow: true, deny: true},
		"another mesh's bridge has no device": {when: `device == 'd1'`, peer: "spiffe://other.local/svc/mqtt-bridge/n/edge7"},
		"an address with a zone":              {when: `source.ip == 'fe80::1'`, remote: "fe80::1%eth0", allow: true, deny: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Request{Method: "GET", Path: "/x", RawQuery: tt.query, Remote: tt.remote, Fields: header.List{{Name: deviceHeader, Value: "d1"}}}
			if tt.peer != "" {
				r.Peer = peerOf(t, tt.peer)
			}
			if got := authorize(t, mesh.Deny, r, ordersPolicy("p", mesh.Allow, when(tt.when))).Refusal == nil; got != tt.allow {
				t.Errorf("as an ALLOW it matches: %v, want %v", got, tt.allow)
			}
			if got := authorize(t, mesh.Allow, r, ordersPolicy("p", mesh.Deny, when(tt.when))).Refusal != nil; got != tt.deny {
				t.Errorf("as a DENY it matches: %v, want %v", got, tt.deny)
			}
		})
	}
}

// A denial looks at few conditions, however many policies have one, and what it finds out for the
// operator is no failure of theirs.
func TestNearMissesCostLittle(t *testing.T) {
	c := &call{Request: &Request{Method: "GET", Path: "/x", Peer: peerOf(t, telemetryOnEdge7)}, path: "/x"}
	setOf := func(n int, condition string) *policySet {
		var objects []mesh.Object
		for i := range n {
			objects = append(objects, ordersPolicy(fmt.Sprintf("p%03d", i), mesh.Allow, mesh.PolicyRule{
				From: []mesh.PolicyFrom{{Identities: []string{"/gateway/demo"}}}, When: condition,
			}))
		}
		return mustCompile(t, configOf(objects...)).servicePolicies["orders"]
	}
	cost := func(n int) float64 {
		set := setOf(n, `request.headers['x'] == 'y'`)
		allocated := testing.AllocsPerRun(10, func() {
			if d := set.decide(c, false, ReasonDefault); d.Reason != ReasonNoAllowMatched || len(d.NearMisses) != 0 {
				t.Errorf("decided %+v", d)
			}
		})
		for _, p := range set.allow.all {
			if n := p.rules[0].when.failed.Load(); n != 0 {
				t.Errorf("%s counts %d failures", p.name, n)
			}
		}
		return allocated
	}
	if few, many := cost(maxNearMisses), cost(20*maxNearMisses); many > few*1.5 {
		t.Errorf("%d conditions cost %v allocations, %d cost %v", maxNearMisses, few, 20*maxNearMisses, many)
	}
	if d := setOf(10*maxNearMisses, "").decide(c, false, ReasonDefault); len(d.NearMisses) != maxNearMisses {
		t.Errorf("%d near misses", len(d.NearMisses))
	}
}

// A connection has no request that a condition could be about.
func TestConditionsOfConnections(t *testing.T) {
	r := Request{TCP: true, Peer: peerOf(t, telemetryOnEdge7), Remote: "10.3.0.7"}
	cfg := func(action, byDefault string) Decision {
		c := configOf(ordersPolicy("p", action, when("true")))
		c.Services["orders"] = &mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolTCP}
		c.Defaults.Authorization = byDefault
		return Decide(mustCompile(t, c), Face{Kind: Inbound, Service: "orders"}, &r, 0)
	}
	if cfg(mesh.Allow, mesh.Deny).Refusal == nil {
		t.Error("an ALLOW with a condition lets connections in")
	}
	if cfg(mesh.Deny, mesh.Allow).Refusal == nil {
		t.Error("a DENY with a condition lets connections in")
	}
}

func TestPolicyCallers(t *testing.T) {
	blocks := func(s ...string) mesh.PolicyRule { return fromOf(mesh.PolicyFrom{IPBlocks: s}) }
	devices := func(s ...string) mesh.PolicyRule { return fromOf(mesh.PolicyFrom{Devices: s}) }
	folded := func(paths ...string) mesh.PolicyRule {
		return toOf(mesh.PolicyTo{Paths: paths, IgnoreCase: true})
	}
	bridge, message := "/svc/mqtt-bridge/n/edge7", header.List{{Name: deviceHeader, Value: "d1"}}
	for _, tt := range []struct {
		name string
		rule mesh.PolicyRule
		r    Request
		peer string
		want bool
	}{
		{"in the block", blocks("10.3.0.0/16"), Request{Remote: "10.3.0.7"}, anonymous, true},
		{"in another block", blocks("10.4.0.0/16", "10.3.0.7/32"), Request{Remote: "10.3.0.7"}, anonymous, true},
		{"in no block", blocks("10.4.0.0/16"), Request{Remote: "10.3.0.7"}, anonymous, false},
		{"an address of IPv6", blocks("2001:db8::/32"), Request{Remote: "2001:db8::1"}, anonymous, true},
		{"one of IPv4 written as IPv6", blocks("10.0.0.0/8"), Request{Remote: "::ffff:10.3.0.7"}, anonymous, true},
		{"with a zone", blocks("fe80::/10"), Request{Remote: "fe80::1%eth0"}, anonymous, true},
		{"no address at all", blocks("0.0.0.0/0", "::/0"), Request{}, anonymous, false},
		{"what is no address", blocks("0.0.0.0/0"), Request{Remote: "10.3.0.7.evil"}, anonymous, false},

		{"the device", devices("d1"), Request{Fields: message}, bridge, true},
		{"any device", devices("*"), Request{Fields: message}, bridge, true},
		{"another device", devices("d2", "d"), Request{Fields: message}, bridge, false},
		{"no device", devices("*"), Request{}, bridge, false},
		{"an empty device", devices("*"), Request{Fields: header.List{{Name: deviceHeader}}}, bridge, false},
		{"two devices", devices("d1", "*"), Request{Fields: append(message, message...)}, bridge, false},
		{"a device that a service claims", devices("*"), Request{Fields: message}, telemetryOnEdge7, false},
		{"a device that a stranger claims", devices("*"), Request{Fields: message}, anonymous, false},
		{"a device that another mesh's bridge claims", devices("*"), Request{Fields: message}, "spiffe://other.local/svc/mqtt-bridge/n/edge7", false},
		{"a device that a gateway claims", devices("*"), Request{Fields: message}, gatewayDemo, false},

		{"a path in other letters", folded("/admin"), Request{Path: "/ADMIN"}, anonymous, true},
		{"a template in other letters", folded("/Admin/{x}/log"), Request{Path: "/aDMIN/7/LOG"}, anonymous, true},
		{"the rest in other letters", folded("/admin/**"), Request{Path: "/Admin/x"}, anonymous, true},
		{"another path in other letters", folded("/admin"), Request{Path: "/ADMINS"}, anonymous, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.r
			r.Method, r.Peer = "GET", peerOf(t, tt.peer)
			if r.Path == "" {
				r.Path = "/x"
			}
			for action, byDefault := range map[string]string{mesh.Allow: mesh.Deny, mesh.Deny: mesh.Allow} {
				if got := authorize(t, byDefault, r, ordersPolicy("p", action, tt.rule)).Authorization.Policy != ""; got != tt.want {
					t.Errorf("as %s it matches: %v, want %v", action, got, tt.want)
				}
			}
		})
	}
	r := Request{Method: "GET", Path: "/x", Remote: "10.3.0.7", Peer: peerOf(t, bridge)}
	for field, rule := range map[string]mesh.PolicyRule{"from.ipBlocks": blocks("10.4.0.0/16"), "from.devices": devices("*"), "when": when("false")} {
		near := authorize(t, mesh.Deny, r, ordersPolicy("p", mesh.Allow, rule)).Authorization.NearMisses
		if len(near) != 1 || near[0].Failed != field {
			t.Errorf("near misses %+v, want %s", near, field)
		}
	}
}

// An AUDIT policy decides nothing, and counts what it would change as an ALLOW.
func TestAuditPolicies(t *testing.T) {
	get := toOf(mesh.PolicyTo{Methods: []string{"GET"}})
	all := mesh.PolicyRule{}
	for name, tt := range map[string]struct {
		byDefault string
		policies  []mesh.Object
		method    string
		allowed   bool
		would     string
	}{
		"matched, and nothing else allows":     {mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Audit, get)}, "GET", false, mesh.Allow},
		"not matched, and nothing else allows": {mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Audit, get)}, "PUT", false, ""},
		"matched, and allowed by default":      {mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Audit, get)}, "GET", true, ""},
		"not matched, and allowed by default":  {mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Audit, get)}, "PUT", true, mesh.Deny},
		"not matched, but another is":          {mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Audit, get), ordersPolicy("b", mesh.Audit, all)}, "PUT", true, ""},
		"not matched, and allowed by a policy": {mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Audit, get), ordersPolicy("b", mesh.Allow, all)}, "PUT", true, ""},
		"matched, and no ALLOW is":             {mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Audit, all), ordersPolicy("b", mesh.Allow, get)}, "PUT", false, mesh.Allow},
		"matched, and denied":                  {mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Audit, all), ordersPolicy("b", mesh.Deny, all)}, "GET", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := authorize(t, tt.byDefault, Request{Method: tt.method, Path: "/x"}, tt.policies...)
			if got := d.Refusal == nil; got != tt.allowed || d.Authorization.Would != tt.would {
				t.Errorf("allowed %v, would %q; want %v and %q", got, d.Authorization.Would, tt.allowed, tt.would)
			}
			if a := d.Authorization.audited; tt.would != "" && (a == nil || a.name != "policies/a") {
				t.Errorf("audited %+v", a)
			}
		})
	}
}

// What the audit counts, and conditions without a value, are metrics of the policies that there are.
func TestPolicyMetrics(t *testing.T) {
	cfg := configOf(ordersPolicy("a", mesh.Audit, mesh.PolicyRule{}), ordersPolicy("b", mesh.Allow, when(`request.headers['x'] == '1'`)))
	table := mustCompile(t, cfg)
	e := &Engine{}
	e.state.Store(&state{config: cfg, table: table})
	reg := prometheus.NewRegistry()
	reg.MustRegister(newPolicyCollector(e))
	for range 3 {
		d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: http.MethodGet, Path: "/x"}, 0)
		d.Authorization.count()
	}
	series := func() map[string]float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = m.GetCounter().GetValue()
			}
		}
		return out
	}
	got := series()
	if got["hedgerow_policy_audits_total a allow"] != 3 || got["hedgerow_policy_audits_total a deny"] != 0 || got["hedgerow_policy_condition_failures_total b"] < 3 {
		t.Errorf("%v", got)
	}
	delete(cfg.Policies, "a")
	e.state.Store(&state{config: cfg, table: mustCompile(t, cfg)})
	if got := series(); len(got) != 1 {
		t.Errorf("after the policy is gone: %v", got)
	}
}
