package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const testTrustDomain = "hedgerow.local"

// configOf returns a configuration of the objects, with the services orders
// (subsets v1 and v2), telemetry and web.
func configOf(objects ...mesh.Object) *mesh.Config {
	cfg := mesh.NewConfig()
	for _, id := range []string{"telemetry", "web"} {
		cfg.Put(&mesh.Service{Meta: mesh.Meta{Name: "services/" + id}, Protocol: mesh.ProtocolHTTP})
	}
	cfg.Put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolHTTP, Subsets: []mesh.Subset{
		{Name: "v1", Labels: mesh.Labels{"version": "v1"}},
		{Name: "v2", Labels: mesh.Labels{"version": "v2"}},
	}})
	for _, o := range objects {
		mesh.Normalize(o)
		cfg.Put(o)
	}
	return cfg
}

// mustCompile compiles a configuration in which everything is valid.
func mustCompile(t testing.TB, cfg *mesh.Config) *Table {
	t.Helper()
	table, errs := Compile(cfg, testTrustDomain)
	for _, err := range errs {
		t.Fatal(err)
	}
	return table
}

// routeOf returns a route for the gateway with one rule, named as the route is,
// for each match.
func routeOf(id, host string, matches ...mesh.RouteMatch) *mesh.Route {
	return &mesh.Route{
		Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{host},
		Rules: []mesh.RouteRule{{Name: id, Matches: matches, Backends: backendsOf("web")}},
	}
}

func backendsOf(service string) []mesh.Backend { return []mesh.Backend{{Service: service}} }

func exactPath(p string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.PathMatch{Exact: p}}
}
func prefixPath(p string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.PathMatch{Prefix: p}}
}
func regexPath(p string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.PathMatch{Regex: p}}
}

func templatePath(p string) mesh.RouteMatch {
	return mesh.RouteMatch{Path: &mesh.PathMatch{Template: p}}
}

// fillers returns n routes on other paths and other hosts, so that a table is
// large and what it decides about example.com is not.
func fillers(n int) []mesh.Object {
	out := make([]mesh.Object, 0, n)
	for i := range n {
		id := fmt.Sprintf("filler-%d", i)
		host := []string{"shop.example.com", id + ".example.org", "*." + id + ".example.net"}[i%3]
		match := []mesh.RouteMatch{
			exactPath("/filler/" + id), prefixPath("/filler/" + id + "/more"), templatePath("/filler/{x}/" + id),
		}[i/3%3]
		out = append(out, routeOf(id, host, match))
	}
	return out
}

// sizes runs a test with a small table and with one of 10,000 more routes.
func sizes(t *testing.T, test func(t *testing.T, more []mesh.Object)) {
	for _, n := range []int{0, 10_000} {
		more := fillers(n)
		t.Run(fmt.Sprintf("%d more routes", n), func(t *testing.T) { test(t, more) })
	}
}

// outcome says in one word what became of a request: the rule, or the code.
func outcome(d Decision) string {
	switch {
	case d.Refusal != nil:
		return d.Refusal.Code
	case d.Route == nil && d.Rule != nil:
		return "built-in " + d.Service
	case d.Rule != nil:
		return d.Rule.Name
	}
	return "workload " + d.Service
}

func TestCompileLeavesOutWhatIsInvalidAndReportsIt(t *testing.T) {
	regex := routeOf("regex", "a.example", mesh.RouteMatch{Path: &mesh.PathMatch{Regex: "/("}})
	template := routeOf("template", "b.example", templatePath("/{"))
	noPath := routeOf("no-path", "c.example", mesh.RouteMatch{Path: &mesh.PathMatch{}})
	good := routeOf("good", "d.example")
	table, errs := Compile(configOf(regex, template, noPath, good), testTrustDomain)
	if len(errs) != 3 {
		t.Errorf("errors %v, want one for each invalid route", errs)
	}
	for i, id := range []string{"no-path", "regex", "template"} {
		if i < len(errs) && (!strings.Contains(errs[i].Error(), "routes/"+id) || strings.Contains(errs[i].Error(), "\n")) {
			t.Errorf("error %d is %q, want it to name %s on one line", i, errs[i], id)
		}
	}
	for host, want := range map[string]string{"a.example": "no_route", "b.example": "no_route", "c.example": "no_route", "d.example": "good"} {
		if got := outcome(Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: host, Path: "/x"}, 0)); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}

func TestCompileReportsBackendsThatDoNotExistAndKeepsTheirShare(t *testing.T) {
	route := routeOf("r", "a.example")
	route.Rules[0].Backends = []mesh.Backend{{Service: "orders", Subset: "v9"}, {Service: "ordrs"}}
	table, errs := Compile(configOf(route), testTrustDomain)
	if len(errs) != 2 || mesh.KindOf(errs[0]) != mesh.NotFound || mesh.KindOf(errs[1]) != mesh.NotFound {
		t.Fatalf("errors %v, want two of kind not found", errs)
	}
	d := Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: "a.example", Path: "/"}, 0.75)
	if d.Refusal != nil || d.Service != "ordrs" {
		t.Errorf("decision %+v, want the missing service: Pick then finds no endpoint", d)
	}
}

func TestRuleCompilesWithDefaults(t *testing.T) {
	plain := routeOf("plain", "a.example")
	full := routeOf("full", "b.example")
	full.Rules[0].Timeout = mesh.Seconds(2.5)
	full.Rules[0].Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnConnectFailure, mesh.OnGatewayError}, PerTryTimeout: mesh.Seconds(1), Backoff: &mesh.Backoff{Max: mesh.Seconds(0.01)}}
	full.Rules[0].Filters = []mesh.Filter{
		{RequestHeaders: &mesh.HeaderOps{Remove: []string{"x-a"}}},
		{ResponseHeaders: &mesh.HeaderOps{Remove: []string{"x-b"}}},
		{RequestHeaders: &mesh.HeaderOps{Remove: []string{"x-c"}}},
	}
	forever := routeOf("forever", "c.example")
	forever.Rules[0].Timeout = mesh.Seconds(0)
	table := mustCompile(t, configOf(plain, full, forever))
	rule := func(host string) *Rule {
		return Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: host, Path: "/"}, 0).Rule
	}
	if r := rule("a.example"); r.Timeout != 15*time.Second || r.Retry != (RetryPolicy{}) {
		t.Errorf("a rule that says nothing has timeout %v, retry %+v", r.Timeout, r.Retry)
	}
	if r := rule("c.example"); r.Timeout != 0 {
		t.Errorf("timeout 0s is %v, want none", r.Timeout)
	}
	r := rule("b.example")
	want := RetryPolicy{Attempts: 1, OnConnectFailure: true, OnGatewayError: true, PerTryTimeout: time.Second, Budget: 20, BackoffBase: 10 * time.Millisecond, BackoffMax: 10 * time.Millisecond}
	if r.Timeout != 2500*time.Millisecond || r.Retry != want {
		t.Errorf("timeout %v, retry %+v, want %+v", r.Timeout, r.Retry, want)
	}
	if len(r.requestHeaders) != 2 || r.requestHeaders[1].Remove[0] != "x-c" || len(r.responseHeaders) != 1 {
		t.Errorf("header operations %+v and %+v, want the filters in order", r.requestHeaders, r.responseHeaders)
	}
}
