package proxy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// A table that takes over what has not changed decides as one that is compiled anew,
// whatever the changes were.
func TestNextDecidesAsCompile(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	records := mesh.Records{}
	put := func(o mesh.Object) {
		mesh.Normalize(o)
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		records[o.Header().Name] = raw
	}
	config, kept := mesh.NewConfig(), &Table{}
	was := mesh.Records{}
	for revision := range uint32(200) {
		for range 1 + rnd.IntN(4) {
			changeOne(rnd, records, put)
		}
		head := mesh.Head{Epoch: 1, Revision: revision + 1}
		next, nextErrs := config.Next(head, was, records)
		fresh, freshErrs := mesh.DecodeRecords(head, records)
		if a, b := fmt.Sprint(nextErrs), fmt.Sprint(freshErrs); a != b {
			t.Fatalf("decoding reports %s, want %s", a, b)
		}
		table, errs := kept.Next(next, "hedgerow.local")
		want, wantErrs := Compile(fresh, "hedgerow.local")
		if a, b := fmt.Sprint(errs), fmt.Sprint(wantErrs); a != b {
			t.Fatalf("compiling reports %s, want %s", a, b)
		}
		for _, face := range []Face{{Kind: Gateway, Gateway: "edge"}, {Kind: Outbound}, {Kind: Inbound, Service: "s1"}} {
			for range 50 {
				r := &Request{Method: []string{"GET", "POST"}[rnd.IntN(2)], Host: fmt.Sprintf("h%d.test", rnd.IntN(3)), Path: fmt.Sprintf("/p%d/x", rnd.IntN(3)), RawQuery: "a=1"}
				if face.Kind == Outbound && rnd.IntN(2) == 0 {
					r.Host = fmt.Sprintf("s%d.mesh", rnd.IntN(4))
				}
				if got, want := summaryOf(Decide(table, face, r, 0.5)), summaryOf(Decide(want, face, r, 0.5)); got != want {
					t.Fatalf("revision %d, %+v: %s %s%s is decided %s, want %s", revision, face, r.Method, r.Host, r.Path, got, want)
				}
			}
		}
		config, kept = next, table
		was = mesh.Records{}
		for name, raw := range records {
			was[name] = slices.Clone(raw)
		}
	}
}

// changeOne puts or deletes a random object, some of them broken.
func changeOne(rnd *rand.Rand, records mesh.Records, put func(mesh.Object)) {
	n := rnd.IntN(4)
	switch kind := rnd.IntN(8); kind {
	case 0:
		put(&mesh.Service{Meta: mesh.Meta{Name: fmt.Sprintf("services/s%d", n)}, Protocol: []string{mesh.ProtocolHTTP, mesh.ProtocolTCP}[rnd.IntN(2)]})
	case 1:
		delete(records, fmt.Sprintf("services/s%d", n))
	case 2:
		delete(records, fmt.Sprintf("routes/r%d", n))
	case 3:
		put(&mesh.Policy{
			Meta: mesh.Meta{Name: fmt.Sprintf("policies/p%d", n)}, Action: []string{mesh.Allow, mesh.Deny}[rnd.IntN(2)],
			Target: []*mesh.PolicyTarget{{Service: "s1"}, {Route: "r1"}, {Gateway: "edge"}}[rnd.IntN(3)],
			Rules:  []mesh.PolicyRule{{To: []mesh.PolicyTo{{Methods: []string{"GET"}, Paths: []string{fmt.Sprintf("/p%d/**", rnd.IntN(3))}}}}},
		})
	case 4:
		records[fmt.Sprintf("policies/p%d", n)] = []byte(`{"name":"policies/p` + fmt.Sprint(n) + `","target":{"service":"s1"},"action":"ALLOW","rules":[{"from":[{"identities":["::"]}]}]}`)
	case 5:
		records[fmt.Sprintf("routes/r%d", n)] = []byte(`{"name":"routes/r` + fmt.Sprint(n) + `","targets":["NOWHERE"]}`)
	default:
		put(&mesh.Route{
			Meta: mesh.Meta{Name: fmt.Sprintf("routes/r%d", n)}, Targets: [][]string{{mesh.TargetGateway}, {mesh.TargetMesh}, {mesh.TargetGateway, mesh.TargetMesh}}[rnd.IntN(3)],
			Hostnames: []string{[]string{"h0.test", "h1.test", "*.test", "s2.mesh"}[rnd.IntN(4)]},
			Rules: []mesh.RouteRule{{
				Matches:          []mesh.RouteMatch{{Path: []*mesh.PathMatch{{Prefix: fmt.Sprintf("/p%d", rnd.IntN(3))}, {Exact: fmt.Sprintf("/p%d/x", rnd.IntN(3))}, {Template: "/{a}/x"}, {Regex: "/p[01]/.*"}}[rnd.IntN(4)]}},
				Backends:         []mesh.Backend{{Service: fmt.Sprintf("s%d", rnd.IntN(4))}},
				KeepEncodedSlash: rnd.IntN(2) == 0,
			}},
		})
	}
}

// summaryOf says all of a decision that does not depend on where objects lie.
func summaryOf(d Decision) string {
	route, rule := "", ""
	if d.Route != nil {
		route = d.Route.Name
	}
	if d.Rule != nil {
		rule = fmt.Sprintf("%+v %d", d.Rule.backends, d.prefix)
	}
	refusal := ""
	if d.Refusal != nil {
		refusal = d.Refusal.Code
	}
	return fmt.Sprintf("%s %s %s %s %s %+v", route, rule, refusal, d.Service, d.Subset, d.Authorization)
}

// What did not change is not compiled again, and what is gone is not kept.
func TestNextKeepsWhatIsTheSame(t *testing.T) {
	route := func(id string) *mesh.Route {
		return &mesh.Route{Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{id + ".test"}, Rules: []mesh.RouteRule{{Backends: []mesh.Backend{{Service: "orders"}}}}}
	}
	first := configOf()
	first.Put(route("a"))
	first.Put(route("b"))
	a, _ := Compile(first, "hedgerow.local")
	second := configOf()
	second.Routes["a"] = first.Routes["a"]
	second.Put(route("c"))
	b, _ := a.Next(second, "hedgerow.local")
	if b.routes["a"] != a.routes["a"] || b.routes["b"] != nil || b.routes["c"] == nil {
		t.Errorf("routes %v after %v", b.routes, a.routes)
	}
	second.Routes["a"] = route("a")
	if c, _ := b.Next(second, "hedgerow.local"); c.routes["a"] == a.routes["a"] {
		t.Error("a route that was written again is the old one")
	}
}

// A route that is not valid takes no host from the service that has it by itself.
func TestInvalidRouteTakesNoHost(t *testing.T) {
	config := configOf()
	config.Put(&mesh.Route{Meta: mesh.Meta{Name: "routes/bad"}, Targets: []string{mesh.TargetMesh}, Hostnames: []string{"orders.mesh"}})
	table, errs := Compile(config, "hedgerow.local")
	if len(errs) == 0 {
		t.Fatal("the route is valid")
	}
	if d := Decide(table, Face{Kind: Outbound}, &Request{Method: "GET", Host: "orders.mesh", Path: "/"}, 0); d.Service != "orders" {
		t.Errorf("decided %+v", d)
	}
}

// benchmarkTable is of n routes, ten of a hostname.
func benchmarkTable(n int) (*mesh.Config, *Table) {
	config := configOf()
	for i := range n {
		config.Put(&mesh.Route{
			Meta: mesh.Meta{Name: fmt.Sprintf("routes/r%d", i)}, Targets: []string{mesh.TargetGateway, mesh.TargetMesh}, Hostnames: []string{fmt.Sprintf("h%d.mesh", i/10)},
			Rules: []mesh.RouteRule{{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: fmt.Sprintf("/p%d", i%10)}}}, Backends: []mesh.Backend{{Service: "orders"}}}},
		})
	}
	table, _ := Compile(config, "hedgerow.local")
	return config, table
}

func BenchmarkNext(b *testing.B) {
	config, table := benchmarkTable(10_000)
	b.ReportAllocs()
	for b.Loop() {
		table.Next(config, "hedgerow.local")
	}
}
