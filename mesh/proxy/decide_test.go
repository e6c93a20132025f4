package proxy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func meshRoute(id, host string, matches ...mesh.RouteMatch) *mesh.Route {
	r := routeOf(id, host, matches...)
	r.Targets = []string{mesh.TargetMesh}
	return r
}

func TestHostsInsideTheMesh(t *testing.T) {
	refined := meshRoute("refined", "orders.mesh", prefixPath("/orders"))
	both := routeOf("both", "web.mesh")
	both.Targets = []string{mesh.TargetGateway, mesh.TargetMesh}
	both.Gateways = []string{"north"}
	objects := []mesh.Object{refined, both, meshRoute("any", "*.mesh", prefixPath("/any")), routeOf("edge", "edge.mesh")}
	for _, tt := range []struct {
		name string
		face Face
		host string
		path string
		want string
	}{
		{"every service answers without a route", Face{Kind: Outbound}, "telemetry.mesh", "/x", "built-in telemetry"},
		{"a service's own host stands before wildcards", Face{Kind: Outbound}, "telemetry.mesh", "/any", "built-in telemetry"},
		{"a wildcard takes hosts of no service", Face{Kind: Outbound}, "nothing.mesh", "/any", "any"},
		{"unknown service", Face{Kind: Outbound}, "nothing.mesh", "/x", "no_route"},
		{"name below a service", Face{Kind: Outbound}, "a.telemetry.mesh", "/x", "no_route"},
		{"bare service name", Face{Kind: Outbound}, "telemetry", "/x", "no_route"},
		{"a route refines the host", Face{Kind: Outbound}, "orders.mesh", "/orders/7", "refined"},
		{"what a refined host's routes decline has no route", Face{Kind: Outbound}, "orders.mesh", "/admin", "no_route"},
		{"which gateways serve it is nothing inside the mesh", Face{Kind: Outbound}, "web.mesh", "/", "both"},
		{"a route for the gateway is not served inside", Face{Kind: Outbound}, "edge.mesh", "/", "no_route"},
		{"a route of both targets at its gateway", Face{Kind: Gateway, Gateway: "north"}, "web.mesh", "/", "both"},
		{"a route of both targets at another gateway", Face{Kind: Gateway, Gateway: "south"}, "web.mesh", "/", "no_route"},
		{"the gateway serves only what routes name", Face{Kind: Gateway}, "telemetry.mesh", "/", "no_route"},
		{"a route for the mesh is not served at the gateway", Face{Kind: Gateway}, "orders.mesh", "/orders", "no_route"},
		{"the inbound goes by service, never by host", Face{Kind: Inbound, Service: "orders"}, "telemetry.mesh", "/x", "workload orders"},
		{"a face that does not exist", Face{Kind: 9}, "telemetry.mesh", "/x", "no_route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := configOf(objects...)
			cfg.Defaults.Authorization = mesh.Allow
			d := Decide(mustCompile(t, cfg), tt.face, &Request{Method: "GET", Host: tt.host, Path: tt.path}, 0.5)
			if got := outcome(d); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestNoRouteIs404(t *testing.T) {
	d := Decide(mustCompile(t, configOf()), Face{Kind: Gateway}, &Request{Method: "GET", Host: "a.b", Path: "/"}, 0)
	if d.Refusal == nil || d.Refusal.Status != http.StatusNotFound || d.Refusal.Code != CodeNoRoute || d.Authorization.Decision != "" {
		t.Errorf("decision %+v", d)
	}
}

func TestPathParametersThatWouldChangeTheRouteAre400(t *testing.T) {
	objects := []mesh.Object{
		routeOf("root", "example.com"), routeOf("admin", "example.com", prefixPath("/admin")),
		routeOf("template", "example.com", templatePath("/users/{id}/files")),
	}
	sizes(t, func(t *testing.T, more []mesh.Object) {
		table := mustCompile(t, configOf(append(slices.Clone(more), objects...)...))
		for path, want := range map[string]string{
			"/admin;a=b":         "bad_request",
			"/admin%3Ba=b":       "bad_request",
			"/x;v=1":             "root",
			"/users/7;a=b/files": "template",
			"/users/7/files;a":   "bad_request",
			"/admin/x;a=b":       "admin",
		} {
			d := Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: "example.com", Path: path}, 0)
			if got := outcome(d); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
			if d.Refusal != nil && d.Refusal.Status != http.StatusBadRequest {
				t.Errorf("%s: status %d", path, d.Refusal.Status)
			}
		}
	})
}

func split(weights ...uint32) *mesh.Route {
	r := routeOf("split", "example.com")
	r.Rules[0].Backends = nil
	for i, w := range weights {
		r.Rules[0].Backends = append(r.Rules[0].Backends, mesh.Backend{Service: "orders", Subset: fmt.Sprintf("v%d", i+1), Weight: &w})
	}
	return r
}

func TestWeightedSplit(t *testing.T) {
	r := &Request{Method: "GET", Host: "example.com", Path: "/"}
	for _, tt := range []struct {
		name    string
		weights []uint32
		draw    float64
		want    string
	}{
		{"one backend", []uint32{1}, 0.99, "v1"},
		{"the first share begins at 0", []uint32{90, 10}, 0, "v1"},
		{"the first share ends before its weight", []uint32{90, 10}, 0.8999, "v1"},
		{"the second share begins there", []uint32{90, 10}, 0.9, "v2"},
		{"the last share ends before 1", []uint32{90, 10}, math.Nextafter(1, 0), "v2"},
		{"weight 0 sends nothing, first", []uint32{0, 100}, 0, "v2"},
		{"weight 0 sends nothing, last", []uint32{100, 0}, math.Nextafter(1, 0), "v1"},
		{"a draw of 1 is the last share", []uint32{1, 1}, 1, "v2"},
		{"a huge draw is the last share", []uint32{1, 1}, math.Inf(1), "v2"},
		{"a negative draw is the first share", []uint32{1, 1}, -1, "v1"},
		{"a draw that is no number is the first share", []uint32{1, 1}, math.NaN(), "v1"},
		{"all weights 0", []uint32{0, 0}, 0.5, "no_healthy_endpoint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decide(mustCompile(t, configOf(split(tt.weights...))), Face{Kind: Gateway}, r, tt.draw)
			got := d.Subset
			if d.Refusal != nil {
				got = d.Refusal.Code
				if d.Refusal.Status != http.StatusServiceUnavailable {
					t.Errorf("status %d, want 503", d.Refusal.Status)
				}
			}
			if got != tt.want {
				t.Errorf("draw %v goes to %s, want %s", tt.draw, got, tt.want)
			}
		})
	}
}

func TestSplitFollowsTheWeights(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	r := &Request{Method: "GET", Host: "example.com", Path: "/"}
	for _, tt := range []struct {
		weights   []uint32
		low, high int // of v1, in 1,000
	}{
		{[]uint32{50, 50}, 450, 550}, {[]uint32{90, 10}, 870, 930}, {[]uint32{1, 0}, 1000, 1000}, {[]uint32{1_000_000, 1}, 998, 1000},
	} {
		table := mustCompile(t, configOf(split(tt.weights...)))
		v1 := 0
		for range 1000 {
			if d := Decide(table, Face{Kind: Gateway}, r, rnd.Float64()); d.Subset == "v1" {
				v1++
			}
		}
		if v1 < tt.low || v1 > tt.high {
			t.Errorf("weights %v: %d of 1,000 to v1, want %d to %d", tt.weights, v1, tt.low, tt.high)
		}
	}
}

// busyTable is a table with n more routes, policies of every target, and a
// request that passes them all.
func busyTable(tb testing.TB, n int) (*Table, *Request) {
	route := routeOf("demo", "demo.example.com", mesh.RouteMatch{
		Path: &mesh.PathMatch{Template: "/v1/devices/{device}/telemetry"}, Methods: []string{"GET"},
		Headers: []mesh.ValueMatch{{Name: "x-canary", Exact: "1"}}, QueryParams: []mesh.ValueMatch{{Name: "v", Exact: "a b"}},
	})
	inMesh := meshRoute("inside", "orders.mesh", prefixPath("/v1"))
	objects := append(fillers(n), route, inMesh)
	for _, target := range []mesh.PolicyTarget{{Service: "orders"}, {Route: "demo"}, {Route: "inside"}, {Gateway: "demo"}} {
		name := "policies/" + target.Service + target.Route + target.Gateway
		objects = append(objects,
			&mesh.Policy{Meta: mesh.Meta{Name: name + "-allow"}, Target: &target, Action: mesh.Allow, Rules: []mesh.PolicyRule{{
				From: []mesh.PolicyFrom{{Identities: []string{"/gateway/other", "/svc/telemetry"}, Nodes: []string{"edge7"}}},
				To:   []mesh.PolicyTo{{Methods: []string{"GET"}, Paths: []string{"/v1/devices/{device}/telemetry", "/v1/**"}, NotPaths: []string{"/v1/admin"}}},
			}}},
			&mesh.Policy{Meta: mesh.Meta{Name: name + "-deny"}, Target: &target, Action: mesh.Deny, Rules: []mesh.PolicyRule{{
				To: []mesh.PolicyTo{{Paths: []string{"/v1/admin/**"}}},
			}}})
	}
	peer, err := mesh.ServiceID(testTrustDomain, "telemetry", "edge7")
	if err != nil {
		tb.Fatal(err)
	}
	return mustCompile(tb, configOf(objects...)), &Request{
		Method: "GET", Path: "/v1/devices/d1/telemetry", RawQuery: "x=1&v=a+b", Fields: header.List{{Name: "X-Canary", Value: "1"}}, Peer: peer,
	}
}

// faces are the faces with the host to ask for there.
var faces = map[string]struct {
	face Face
	host string
}{
	"gateway":  {Face{Kind: Gateway, Gateway: "demo"}, "demo.example.com"},
	"outbound": {Face{Kind: Outbound}, "orders.mesh"},
	"built-in": {Face{Kind: Outbound}, "telemetry.mesh"},
	"inbound":  {Face{Kind: Inbound, Service: "orders"}, "orders.mesh"},
}

func TestDecideAllocatesNothingOnAForward(t *testing.T) {
	table, request := busyTable(t, 1000)
	for name, at := range faces {
		t.Run(name, func(t *testing.T) {
			r := *request
			r.Host = at.host
			var d Decision
			if n := testing.AllocsPerRun(200, func() { d = Decide(table, at.face, &r, 0.5) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
			if d.Refusal != nil {
				t.Errorf("refused: %+v, %+v", d.Refusal, d.Authorization)
			}
		})
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		table, request := busyTable(b, n)
		for _, name := range []string{"gateway", "outbound", "inbound"} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				r := *request
				r.Host = faces[name].host
				b.ReportAllocs()
				for b.Loop() {
					if d := Decide(table, faces[name].face, &r, 0.5); d.Refusal != nil {
						b.Fatal(d.Refusal)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("no route/%d", n), func(b *testing.B) {
			r := *request
			r.Host = "unknown.example.net"
			b.ReportAllocs()
			for b.Loop() {
				Decide(table, Face{Kind: Gateway}, &r, 0.5)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		cfg := configOf(fillers(n)...)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Compile(cfg, testTrustDomain)
			}
		})
	}
}
