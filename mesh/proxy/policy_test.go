package proxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func policyOf(id, action string, target mesh.PolicyTarget, rules ...mesh.PolicyRule) *mesh.Policy {
	return &mesh.Policy{Meta: mesh.Meta{Name: "policies/" + id}, Target: &target, Action: action, Rules: rules}
}

// ordersPolicy returns a policy of the service orders.
func ordersPolicy(id, action string, rules ...mesh.PolicyRule) *mesh.Policy {
	return policyOf(id, action, mesh.PolicyTarget{Service: "orders"}, rules...)
}

func fromOf(f mesh.PolicyFrom) mesh.PolicyRule { return mesh.PolicyRule{From: []mesh.PolicyFrom{f}} }
func toOf(t mesh.PolicyTo) mesh.PolicyRule     { return mesh.PolicyRule{To: []mesh.PolicyTo{t}} }

// peerOf returns the identity of a path in our trust domain, or of a whole URI.
func peerOf(t testing.TB, path string) mesh.ID {
	t.Helper()
	if path == anonymous {
		return mesh.ID{}
	}
	uri := path
	if strings.HasPrefix(path, "/") {
		uri = "spiffe://" + testTrustDomain + path
	}
	id, err := mesh.ParseID(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

const (
	telemetryOnEdge7 = "/svc/telemetry/n/edge7"
	gatewayDemo      = "/gateway/demo"
	anonymous        = ""
)

// authorize says what an inbound of orders decides under the policies.
func authorize(t testing.TB, byDefault string, r Request, policies ...mesh.Object) Decision {
	t.Helper()
	cfg := configOf(policies...)
	cfg.Defaults.Authorization = byDefault
	return Decide(mustCompile(t, cfg), Face{Kind: Inbound, Service: "orders"}, &r, 0)
}

func TestPolicyRules(t *testing.T) {
	identities := func(s ...string) mesh.PolicyRule { return fromOf(mesh.PolicyFrom{Identities: s}) }
	paths := func(s ...string) mesh.PolicyRule { return toOf(mesh.PolicyTo{Paths: s}) }
	for _, tt := range []struct {
		name         string
		rule         mesh.PolicyRule
		peer, method string
		path         string
		allow, deny  bool // whether an ALLOW and a DENY with the rule match
	}{
		{"empty rule is everyone and everything", mesh.PolicyRule{}, telemetryOnEdge7, "GET", "/x", true, true},
		{"empty rule is anonymous too", mesh.PolicyRule{}, anonymous, "GET", "/x", true, true},

		{"identity of any node", identities("/svc/telemetry"), telemetryOnEdge7, "GET", "/x", true, true},
		{"identity of one node", identities("/svc/telemetry/n/edge7"), telemetryOnEdge7, "GET", "/x", true, true},
		{"identity of another node", identities("/svc/telemetry/n/edge8"), telemetryOnEdge7, "GET", "/x", false, false},
		{"identity is no prefix", identities("/svc/tele"), telemetryOnEdge7, "GET", "/x", false, false},
		{"identity with a star", identities("/svc/*"), telemetryOnEdge7, "GET", "/x", true, true},
		{"identity in full", identities("spiffe://hedgerow.local/svc/telemetry/n/*"), telemetryOnEdge7, "GET", "/x", true, true},
		{"identity of another trust domain", identities("spiffe://other.local/svc/telemetry/n/*"), telemetryOnEdge7, "GET", "/x", false, false},
		{"identities are ORed", identities("/gateway/demo", "/svc/telemetry"), telemetryOnEdge7, "GET", "/x", true, true},
		{"anonymous is no identity", identities("/svc/*", "/gateway/*"), anonymous, "GET", "/x", false, false},
		{"notIdentities", fromOf(mesh.PolicyFrom{NotIdentities: []string{"/svc/telemetry"}}), telemetryOnEdge7, "GET", "/x", false, false},
		{"notIdentities of others", fromOf(mesh.PolicyFrom{NotIdentities: []string{"/svc/web"}}), telemetryOnEdge7, "GET", "/x", true, true},
		{"notIdentities and anonymous", fromOf(mesh.PolicyFrom{NotIdentities: []string{"/svc/web"}}), anonymous, "GET", "/x", true, true},
		{"identities but notIdentities", fromOf(mesh.PolicyFrom{Identities: []string{"/svc/*"}, NotIdentities: []string{"/svc/telemetry"}}), telemetryOnEdge7, "GET", "/x", false, false},
		{"node of a service", fromOf(mesh.PolicyFrom{Nodes: []string{"edge7"}}), telemetryOnEdge7, "GET", "/x", true, true},
		{"node itself", fromOf(mesh.PolicyFrom{Nodes: []string{"edge7"}}), "/node/edge7", "GET", "/x", true, true},
		{"another node", fromOf(mesh.PolicyFrom{Nodes: []string{"edge8"}}), telemetryOnEdge7, "GET", "/x", false, false},
		{"node of that name in another trust domain", fromOf(mesh.PolicyFrom{Nodes: []string{"edge7"}}), "spiffe://other.local/node/edge7", "GET", "/x", false, false},
		{"a gateway is on no node", fromOf(mesh.PolicyFrom{Nodes: []string{"demo"}}), gatewayDemo, "GET", "/x", false, false},
		{"anonymous is on no node", fromOf(mesh.PolicyFrom{Nodes: []string{"edge7"}}), anonymous, "GET", "/x", false, false},
		{"fields of an entry are ANDed", fromOf(mesh.PolicyFrom{Identities: []string{"/svc/telemetry"}, Nodes: []string{"edge8"}}), telemetryOnEdge7, "GET", "/x", false, false},
		{"entries of from are ORed", mesh.PolicyRule{From: []mesh.PolicyFrom{{Nodes: []string{"edge8"}}, {Identities: []string{"/svc/telemetry"}}}}, telemetryOnEdge7, "GET", "/x", true, true},

		{"method", toOf(mesh.PolicyTo{Methods: []string{"GET", "HEAD"}}), anonymous, "HEAD", "/x", true, true},
		{"other method", toOf(mesh.PolicyTo{Methods: []string{"GET"}}), anonymous, "POST", "/x", false, false},
		{"lower-case method is another", toOf(mesh.PolicyTo{Methods: []string{"GET"}}), anonymous, "get", "/x", false, false},
		{"exact path", paths("/orders"), anonymous, "GET", "/orders", true, true},
		{"exact path is no prefix", paths("/orders"), anonymous, "GET", "/orders/7", false, false},
		{"exact path minds case", paths("/orders"), anonymous, "GET", "/ORDERS", false, false},
		{"a DENY ignores one final slash", paths("/orders"), anonymous, "GET", "/orders/", false, true},
		{"a DENY ignores its own final slash", paths("/orders/"), anonymous, "GET", "/orders", false, true},
		{"a DENY of a template ignores one final slash", paths("/orders/{id}"), anonymous, "GET", "/orders/7/", false, true},
		{"the root", paths("/"), anonymous, "GET", "/", true, true},
		{"the root is nothing else", paths("/"), anonymous, "GET", "/x", false, false},
		{"one segment", paths("/orders/{id}"), anonymous, "GET", "/orders/7", true, true},
		{"one segment is not two", paths("/orders/{id}"), anonymous, "GET", "/orders/7/items", false, false},
		{"one segment is not none", paths("/orders/{id}"), anonymous, "GET", "/orders", false, false},
		{"one segment is not empty", paths("/orders/{id}"), anonymous, "GET", "/orders/", false, false},
		{"one segment in the middle", paths("/v1/devices/{device}/telemetry"), anonymous, "POST", "/v1/devices/d1/telemetry", true, true},
		{"an encoded character is part of a segment", paths("/orders/{id}"), anonymous, "GET", "/orders/a%20b", true, true},
		{"the rest", paths("/orders/**"), anonymous, "GET", "/orders/7/items", true, true},
		{"the rest of nothing", paths("/orders/**"), anonymous, "GET", "/orders", true, true},
		{"the rest of a slash", paths("/orders/**"), anonymous, "GET", "/orders/", true, true},
		{"the rest begins at a segment", paths("/orders/**"), anonymous, "GET", "/orders-admin", false, false},
		{"the rest of everything", paths("/**"), anonymous, "GET", "/", true, true},
		{"the rest after one segment", paths("/{tenant}/public/**"), anonymous, "GET", "/acme/public/a/b", true, true},
		{"paths are ORed", paths("/a", "/b"), anonymous, "GET", "/b", true, true},
		{"notPaths", toOf(mesh.PolicyTo{NotPaths: []string{"/admin"}}), anonymous, "GET", "/admin", false, false},
		{"notPaths of others", toOf(mesh.PolicyTo{NotPaths: []string{"/admin"}}), anonymous, "GET", "/x", true, true},
		{"an ALLOW's notPaths ignore one final slash, a DENY's do not", toOf(mesh.PolicyTo{NotPaths: []string{"/admin"}}), anonymous, "GET", "/admin/", false, true},
		{"paths but notPaths", toOf(mesh.PolicyTo{Paths: []string{"/**"}, NotPaths: []string{"/admin/**"}}), anonymous, "GET", "/admin/x", false, false},
		{"entries of to are ORed", mesh.PolicyRule{To: []mesh.PolicyTo{{Methods: []string{"PUT"}}, {Paths: []string{"/x"}}}}, anonymous, "GET", "/x", true, true},
		{"from and to are ANDed", mesh.PolicyRule{From: []mesh.PolicyFrom{{Nodes: []string{"edge7"}}}, To: []mesh.PolicyTo{{Methods: []string{"PUT"}}}}, telemetryOnEdge7, "GET", "/x", false, false},

		{"parameters: a DENY matches without them, an ALLOW needs both", paths("/admin"), anonymous, "GET", "/admin;a=b", false, true},
		{"escaped parameters: the same", paths("/admin"), anonymous, "GET", "/admin%3Ba=b", false, true},
		{"parameters: an ALLOW that matches both", paths("/orders/{id}"), anonymous, "GET", "/orders/7;a=b", true, true},
		{"parameters do not get past an ALLOW's notPaths", toOf(mesh.PolicyTo{Paths: []string{"/**"}, NotPaths: []string{"/admin"}}), anonymous, "GET", "/admin;a=b", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Method: tt.method, Host: "orders.mesh", Path: tt.path, Peer: peerOf(t, tt.peer)}
			if got := authorize(t, mesh.Deny, r, ordersPolicy("p", mesh.Allow, tt.rule)).Refusal == nil; got != tt.allow {
				t.Errorf("as an ALLOW it matches: %v, want %v", got, tt.allow)
			}
			if got := authorize(t, mesh.Allow, r, ordersPolicy("p", mesh.Deny, tt.rule)).Refusal != nil; got != tt.deny {
				t.Errorf("as a DENY it matches: %v, want %v", got, tt.deny)
			}
		})
	}
}

func TestPolicyOrder(t *testing.T) {
	all := mesh.PolicyRule{}
	none := toOf(mesh.PolicyTo{Paths: []string{"/other"}})
	other := policyOf("other", mesh.Allow, mesh.PolicyTarget{Service: "web"}, all)
	for _, tt := range []struct {
		name      string
		byDefault string
		policies  []mesh.Object
		want      Authorization
	}{
		{"no policy, default DENY", mesh.Deny, nil, Authorization{Decision: mesh.Deny, Reason: ReasonDefault}},
		{"no policy, default ALLOW", mesh.Allow, nil, Authorization{Decision: mesh.Allow, Reason: ReasonDefault}},
		{"no policy, no default", "", nil, Authorization{Decision: mesh.Deny, Reason: ReasonDefault}},
		{"a policy of another service is none", mesh.Deny, []mesh.Object{other}, Authorization{Decision: mesh.Deny, Reason: ReasonDefault}},
		{"an ALLOW matches", mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Allow, none), ordersPolicy("b", mesh.Allow, all)}, Authorization{Decision: mesh.Allow, Policy: "policies/b", Reason: ReasonAllowMatched}},
		{"any rule of an ALLOW", mesh.Deny, []mesh.Object{ordersPolicy("a", mesh.Allow, none, all)}, Authorization{Decision: mesh.Allow, Policy: "policies/a", Reason: ReasonAllowMatched}},
		{"a DENY before an ALLOW", mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Allow, all), ordersPolicy("z", mesh.Deny, all)}, Authorization{Decision: mesh.Deny, Policy: "policies/z", Reason: ReasonDenyMatched}},
		{"a DENY that does not match leaves it to the default", mesh.Allow, []mesh.Object{ordersPolicy("z", mesh.Deny, none)}, Authorization{Decision: mesh.Allow, Reason: ReasonDefault}},
		{"with an ALLOW the default is not asked", mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Allow, none)}, Authorization{Decision: mesh.Deny, Reason: ReasonNoAllowMatched}},
		{"an AUDIT decides nothing", mesh.Allow, []mesh.Object{ordersPolicy("a", mesh.Audit, all)}, Authorization{Decision: mesh.Allow, Reason: ReasonDefault}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := configOf(tt.policies...)
			cfg.Defaults.Authorization = tt.byDefault
			table, _ := Compile(cfg, testTrustDomain)
			d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: "GET", Path: "/x"}, 0)
			got := d.Authorization
			got.NearMisses = nil
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("authorization %+v, want %+v", got, tt.want)
			}
			if denied := d.Refusal != nil; denied != (tt.want.Decision == mesh.Deny) {
				t.Errorf("refusal %+v", d.Refusal)
			}
			if d.Refusal != nil && (d.Refusal.Status != http.StatusForbidden || d.Refusal.Code != CodeDenied || strings.Contains(d.Refusal.Detail, "policies/")) {
				t.Errorf("refusal %+v, want 403 denied that names no policy", d.Refusal)
			}
		})
	}
}

func TestPoliciesFailClosed(t *testing.T) {
	all := mesh.PolicyRule{}
	unsupported := mesh.PolicyRule{When: "nope("}
	misspelt := fromOf(mesh.PolicyFrom{Identities: []string{"/service/web"}})
	allow := ordersPolicy("allow", mesh.Allow, all)
	for _, tt := range []struct {
		name     string
		policies []mesh.Object
		want     string // the reason
	}{
		{"an invalid ALLOW allows nothing and counts as one", []mesh.Object{ordersPolicy("p", mesh.Allow, all, unsupported)}, ReasonNoAllowMatched},
		{"an ALLOW of a misspelt identity too", []mesh.Object{ordersPolicy("p", mesh.Allow, misspelt)}, ReasonNoAllowMatched},
		{"an ALLOW without rules too", []mesh.Object{ordersPolicy("p", mesh.Allow)}, ReasonNoAllowMatched},
		{"an invalid ALLOW does not take a valid one with it", []mesh.Object{ordersPolicy("p", mesh.Allow, unsupported), allow}, ReasonAllowMatched},
		{"an invalid DENY denies everything", []mesh.Object{ordersPolicy("p", mesh.Deny, unsupported), allow}, ReasonInvalidPolicy},
		{"a DENY of a misspelt identity too", []mesh.Object{ordersPolicy("p", mesh.Deny, misspelt), allow}, ReasonInvalidPolicy},
		{"a policy of unknown action too", []mesh.Object{ordersPolicy("p", "DENNY", all), allow}, ReasonInvalidPolicy},
		{"an invalid DENY of several targets denies at each", []mesh.Object{policyOf("p", mesh.Deny, mesh.PolicyTarget{Service: "orders", Route: "r"}, all), allow}, ReasonInvalidPolicy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := configOf(tt.policies...)
			cfg.Defaults.Authorization = mesh.Allow
			table, errs := Compile(cfg, testTrustDomain)
			if len(errs) != 1 || !strings.Contains(errs[0].Error(), "policies/p") {
				t.Errorf("errors %v, want one that names policies/p", errs)
			}
			d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: "GET", Path: "/x"}, 0)
			if d.Authorization.Reason != tt.want || (d.Refusal == nil) != (tt.want == ReasonAllowMatched) {
				t.Errorf("authorization %+v, refusal %+v, want %s", d.Authorization, d.Refusal, tt.want)
			}
			// Others are not touched.
			if d := Decide(table, Face{Kind: Inbound, Service: "web"}, &Request{Method: "GET", Path: "/x"}, 0); d.Refusal != nil {
				t.Errorf("another service: %+v", d.Authorization)
			}
		})
	}
	t.Run("a trust domain that is none closes what names identities", func(t *testing.T) {
		cfg := configOf(ordersPolicy("p", mesh.Deny, fromOf(mesh.PolicyFrom{Identities: []string{"/svc/web"}})))
		cfg.Defaults.Authorization = mesh.Allow
		table, errs := Compile(cfg, "NOT A DOMAIN")
		d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: "GET", Path: "/x"}, 0)
		if len(errs) != 1 || d.Authorization.Reason != ReasonInvalidPolicy {
			t.Errorf("errors %v, authorization %+v", errs, d.Authorization)
		}
	})
	for name, target := range map[string]*mesh.PolicyTarget{
		"a policy without a target closes everything":                nil,
		"a policy whose target is none known here closes everything": {},
	} {
		t.Run(name, func(t *testing.T) {
			p := ordersPolicy("p", mesh.Deny, all)
			p.Target = target
			cfg := configOf(p)
			cfg.Defaults.Authorization = mesh.Allow
			table, errs := Compile(cfg, testTrustDomain)
			d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: "GET", Path: "/x"}, 0)
			if len(errs) != 1 || d.Authorization.Reason != ReasonInvalidPolicy {
				t.Errorf("errors %v, authorization %+v", errs, d.Authorization)
			}
		})
	}
}

func TestNearMisses(t *testing.T) {
	read := mesh.PolicyRule{
		From: []mesh.PolicyFrom{{Identities: []string{"/gateway/demo"}}},
		To:   []mesh.PolicyTo{{Methods: []string{"GET"}, Paths: []string{"/orders/{id}"}}},
	}
	onNode := mesh.PolicyRule{From: []mesh.PolicyFrom{{Identities: []string{"/svc/telemetry"}, Nodes: []string{"edge8"}}}}
	notHim := fromOf(mesh.PolicyFrom{NotIdentities: []string{"/svc/telemetry"}})
	butAdmin := mesh.PolicyRule{From: read.From, To: []mesh.PolicyTo{{Paths: []string{"/**"}, NotPaths: []string{"/admin"}}}}
	for _, tt := range []struct {
		name               string
		rules              []mesh.PolicyRule
		peer, method, path string
		want               string
	}{
		{"the identity", []mesh.PolicyRule{read}, telemetryOnEdge7, "GET", "/orders/7", "from.identities"},
		{"anonymous", []mesh.PolicyRule{read}, anonymous, "GET", "/orders/7", "from.identities"},
		{"the method", []mesh.PolicyRule{read}, gatewayDemo, "PUT", "/orders/7", "to.methods"},
		{"the path", []mesh.PolicyRule{read}, gatewayDemo, "GET", "/orders", "to.paths"},
		{"the node", []mesh.PolicyRule{onNode}, telemetryOnEdge7, "GET", "/x", "from.nodes"},
		{"an excluded identity", []mesh.PolicyRule{notHim}, telemetryOnEdge7, "GET", "/x", "from.notIdentities"},
		{"an excluded path", []mesh.PolicyRule{butAdmin}, gatewayDemo, "GET", "/admin", "to.notPaths"},
		{"two fields are no near miss", []mesh.PolicyRule{read}, telemetryOnEdge7, "PUT", "/orders/7", ""},
		{"the nearest rule", []mesh.PolicyRule{read, onNode}, telemetryOnEdge7, "PUT", "/x", "from.nodes"},
		{"a path that matches only with its parameters", []mesh.PolicyRule{butAdmin}, gatewayDemo, "GET", "/admin;a", "to.notPaths"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Method: tt.method, Path: tt.path, Peer: peerOf(t, tt.peer)}
			d := authorize(t, mesh.Deny, r, ordersPolicy("orders-read", mesh.Allow, tt.rules...))
			var want []NearMiss
			if tt.want != "" {
				want = []NearMiss{{Policy: "policies/orders-read", Failed: tt.want}}
			}
			if d.Refusal == nil || !slices.Equal(d.Authorization.NearMisses, want) {
				t.Errorf("near misses %+v, want %+v", d.Authorization.NearMisses, want)
			}
		})
	}
	t.Run("bounded", func(t *testing.T) {
		var many []mesh.Object
		for i := range 100 {
			many = append(many, ordersPolicy(fmt.Sprintf("p%d", i), mesh.Allow, read))
		}
		d := authorize(t, mesh.Deny, Request{Method: "GET", Path: "/orders/7"}, many...)
		if n := len(d.Authorization.NearMisses); n != maxNearMisses {
			t.Errorf("%d near misses, want %d", n, maxNearMisses)
		}
	})
}

func TestPoliciesOfGatewaysAndRoutes(t *testing.T) {
	onGateway := mesh.PolicyTarget{Gateway: "demo"}
	onRoute := mesh.PolicyTarget{Route: "shop"}
	admin := toOf(mesh.PolicyTo{Paths: []string{"/admin"}})
	anyone := mesh.PolicyRule{}
	service := policyOf("service", mesh.Deny, mesh.PolicyTarget{Service: "web"}, anyone)
	shop := routeOf("shop", "web.mesh", prefixPath("/"))
	shop.Targets = []string{mesh.TargetGateway, mesh.TargetMesh}
	demo, other := Face{Kind: Gateway, Gateway: "demo"}, Face{Kind: Gateway, Gateway: "other"}
	outbound := Face{Kind: Outbound, Gateway: "demo"} // whose Gateway means nothing
	for _, tt := range []struct {
		name     string
		policies []mesh.Object
		face     Face
		host     string
		path     string
		want     string // the code, or "shop"
		reason   string
	}{
		{"without policies no policy is consulted", nil, demo, "web.mesh", "/x", "shop", ""},
		{"the mesh default is not for gateways", nil, demo, "web.mesh", "/admin", "shop", ""},
		{"service policies are the destination's", []mesh.Object{service}, demo, "web.mesh", "/x", "shop", ""},
		{"service policies are the destination's, from inside", []mesh.Object{service}, outbound, "web.mesh", "/x", "shop", ""},
		{"a gateway's DENY", []mesh.Object{policyOf("p", mesh.Deny, onGateway, admin)}, demo, "web.mesh", "/admin", "denied", ReasonDenyMatched},
		{"a gateway's DENY comes before no_route", []mesh.Object{policyOf("p", mesh.Deny, onGateway, admin)}, demo, "none.mesh", "/admin", "denied", ReasonDenyMatched},
		{"a gateway's DENY of another path", []mesh.Object{policyOf("p", mesh.Deny, onGateway, admin)}, demo, "web.mesh", "/x", "shop", ReasonNoDenyMatched},
		{"another gateway", []mesh.Object{policyOf("p", mesh.Deny, onGateway, admin)}, other, "web.mesh", "/admin", "shop", ""},
		{"a gateway's policy is nothing to an outbound", []mesh.Object{policyOf("p", mesh.Deny, onGateway, admin)}, outbound, "web.mesh", "/admin", "shop", ""},
		{"a gateway's ALLOW", []mesh.Object{policyOf("p", mesh.Allow, onGateway, admin)}, demo, "web.mesh", "/admin", "shop", ReasonAllowMatched},
		{"a gateway's ALLOW that does not match", []mesh.Object{policyOf("p", mesh.Allow, onGateway, admin)}, demo, "web.mesh", "/x", "denied", ReasonNoAllowMatched},
		{"a route's DENY at the gateway", []mesh.Object{policyOf("p", mesh.Deny, onRoute, admin)}, demo, "web.mesh", "/admin", "denied", ReasonDenyMatched},
		{"a route's DENY at the outbound", []mesh.Object{policyOf("p", mesh.Deny, onRoute, admin)}, outbound, "web.mesh", "/admin", "denied", ReasonDenyMatched},
		{"a route's ALLOW", []mesh.Object{policyOf("p", mesh.Allow, onRoute, admin)}, outbound, "web.mesh", "/admin", "shop", ReasonAllowMatched},
		{"a route's ALLOW that does not match", []mesh.Object{policyOf("p", mesh.Allow, onRoute, admin)}, outbound, "web.mesh", "/x", "denied", ReasonNoAllowMatched},
		{"a gateway's ALLOW is no pass for the route", []mesh.Object{policyOf("p", mesh.Allow, onGateway, anyone), policyOf("q", mesh.Deny, onRoute, admin)}, demo, "web.mesh", "/admin", "denied", ReasonDenyMatched},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := mustCompile(t, configOf(append(slices.Clone(tt.policies), shop)...))
			d := Decide(table, tt.face, &Request{Method: "GET", Host: tt.host, Path: tt.path}, 0)
			if got := outcome(d); got != tt.want || d.Authorization.Reason != tt.reason {
				t.Errorf("%s by %+v, want %s by %q", got, d.Authorization, tt.want, tt.reason)
			}
		})
	}
}

// TestHostilePaths is the table of raw paths against "/admin is denied": what
// the caller answers, at a gateway among few and many routes and at an inbound.
func TestHostilePaths(t *testing.T) {
	cases := []struct{ raw, want string }{
		{"/admin", "403"}, {"/a/../admin", "403"}, {"//admin", "403"}, {"/%61dmin", "403"}, {"/admin/", "403"}, {"/admin/.", "403"},
		{"/./admin", "403"}, {"/%2e/admin", "403"}, {"/a/%2e%2e/admin", "403"}, {"/../admin", "403"}, {"/admin/x/..", "403"}, {"///admin//", "403"},
		{"/%2fadmin", "400"}, {"/%5cadmin", "400"}, {`/\admin`, "400"}, {"/x%2f..%2fadmin", "400"}, {"/%252e/admin", "400"}, {"/%2561dmin", "400"},
		{"/%c1%a1dmin", "400"}, {"/admin%00", "400"}, {"/%zzadmin", "400"}, {"/x/..;/admin", "400"}, {"/;a/admin", "400"}, {"/admin#x", "400"},
		{"/admin;a=b", "403"}, {"/admin;", "403"}, {"/admin%3ba=b", "403"},
		{"/ADMIN", "200"}, {"/administrator", "200"}, {"/x/admin", "200"}, {"/x;a=b", "200"}, {"/orders/7", "200"},
	}
	deny := toOf(mesh.PolicyTo{Paths: []string{"/admin"}})
	answer := func(table *Table, face Face, raw string) string {
		path, err := CanonicalPath(raw)
		if err != nil {
			return "400"
		}
		d := Decide(table, face, &Request{Method: "GET", Host: "shop.example.com", Path: path}, 0)
		if d.Refusal != nil {
			return fmt.Sprint(d.Refusal.Status)
		}
		return "200"
	}
	sizes(t, func(t *testing.T, more []mesh.Object) {
		cfg := configOf(append(slices.Clone(more),
			routeOf("shop", "shop.example.com"),
			policyOf("gateway", mesh.Deny, mesh.PolicyTarget{Gateway: "g"}, deny),
			policyOf("route", mesh.Deny, mesh.PolicyTarget{Route: "shop"}, deny),
			policyOf("service", mesh.Deny, mesh.PolicyTarget{Service: "web"}, deny))...)
		cfg.Defaults.Authorization = mesh.Allow
		table := mustCompile(t, cfg)
		for name, face := range map[string]Face{
			"gateway policy": {Kind: Gateway, Gateway: "g"}, "route policy": {Kind: Gateway, Gateway: "other"}, "service policy": {Kind: Inbound, Service: "web"},
		} {
			for _, tt := range cases {
				if got := answer(table, face, tt.raw); got != tt.want {
					t.Errorf("%s, %s: %s, want %s", name, tt.raw, got, tt.want)
				}
			}
		}
	})
}
