package proxy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// hundredPolicies are 100 policies of one service: 20 that deny, 80 that allow a caller each its methods and
// paths.
func hundredPolicies() []mesh.Object {
	var out []mesh.Object
	for i := range 20 {
		out = append(out, ordersPolicy(fmt.Sprintf("deny-%02d", i), mesh.Deny, mesh.PolicyRule{
			To: []mesh.PolicyTo{{Paths: []string{fmt.Sprintf("/internal-%d/**", i), fmt.Sprintf("/v1/{tenant}/secret-%d", i)}}},
		}))
	}
	for i := range 80 {
		out = append(out, ordersPolicy(fmt.Sprintf("allow-%02d", i), mesh.Allow, mesh.PolicyRule{
			From: []mesh.PolicyFrom{{Identities: []string{fmt.Sprintf("/svc/caller-%d", i), fmt.Sprintf("/svc/other-%d", i)}}},
			To:   []mesh.PolicyTo{{Methods: []string{"GET", "HEAD"}, Paths: []string{"/orders/{id}", "/orders"}}},
		}))
	}
	return out
}

// BenchmarkPolicies100 is what 100 policies of a service cost a request: one that the last of them allows,
// and one by a caller whom most of them could be about.
func BenchmarkPolicies100(b *testing.B) {
	cfg := configOf(hundredPolicies()...)
	table := mustCompile(b, cfg)
	same := configOf()
	for i := range 100 { // all about one caller, who differs in paths
		p := ordersPolicy(fmt.Sprintf("allow-%02d", i), mesh.Allow, mesh.PolicyRule{
			From: []mesh.PolicyFrom{{Identities: []string{"/svc/telemetry"}}},
			To:   []mesh.PolicyTo{{Paths: []string{fmt.Sprintf("/v1/things-%d/{id}", i)}}},
		})
		same.Policies[p.ID()] = p
	}
	sameTable := mustCompile(b, same)
	for name, run := range map[string]struct {
		table *Table
		r     Request
		want  string
	}{
		"last":    {table, Request{Method: "GET", Path: "/orders/7", Peer: peerOf(b, "/svc/caller-79/n/edge7")}, ""},
		"denied":  {table, Request{Method: "GET", Path: "/internal-19/x", Peer: peerOf(b, "/svc/caller-79/n/edge7")}, CodeDenied},
		"by path": {sameTable, Request{Method: "GET", Path: "/v1/things-99/7", Peer: peerOf(b, telemetryOnEdge7)}, ""},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d := Decide(run.table, Face{Kind: Inbound, Service: "orders"}, &run.r, 0)
				if (d.Refusal == nil) != (run.want == "") {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
}

// What could match is all that does: with and without the index, the same is decided by the same policy.
func TestPolicyIndexDecidesAsAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 7))
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	some := func(of ...string) (out []string) {
		for range rnd.IntN(3) {
			out = append(out, one(of...))
		}
		return out
	}
	identities := []string{"/svc/a", "/svc/b", "/svc/a/n/n1", "/svc/*", "/gateway/g", "/node/n1", "spiffe://other.local/svc/a/n/*", "spiffe://hedgerow.local/*/a/n/n1", "spiffe://hedgerow.local/x"}
	paths := []string{"/", "/a", "/a/", "/a/b", "/a/b/c/d/e", "/a/b/c/d/e/f", "/a/{x}", "/a/{x}/c", "/{x}/b", "/**", "/a/**", "/a/b/**", "/A/b", "/a/b/c/d/{x}"}
	peers := []string{anonymous, "/svc/a/n/n1", "/svc/b/n/n2", "/svc/c/n/n1", "/gateway/g", "/node/n1", "/x", "spiffe://other.local/svc/a/n/n1"}
	targets := []string{"/", "/a", "/a/", "/A", "/a/b", "/a/B", "/a/b/c", "/a/b/c/d/e", "/a/b/c/d/e/", "/a/b/c/d/e/f", "/b", "/z/b", "/a;x=1", "/a;x=1/b", "*"}
	decided := map[string]int{}
	for range 300 {
		var objects []mesh.Object
		for i := range fewPolicies + rnd.IntN(150) {
			p := ordersPolicy(fmt.Sprintf("p-%03d", i), one(mesh.Allow, mesh.Deny, mesh.Allow), mesh.PolicyRule{})
			for range 1 + rnd.IntN(2) {
				var rule mesh.PolicyRule
				if from := (mesh.PolicyFrom{Identities: some(identities...), NotIdentities: some(identities...)}); len(from.Identities)+len(from.NotIdentities) > 0 {
					rule.From = append(rule.From, from)
				}
				if to := (mesh.PolicyTo{Paths: some(paths...), NotPaths: some(paths...), Methods: some("PUT", "DELETE"), IgnoreCase: rnd.IntN(4) == 0}); len(to.Paths)+len(to.NotPaths)+len(to.Methods) > 0 {
					rule.To = append(rule.To, to)
				}
				if p.Action == mesh.Deny && (len(rule.From) == 0 || len(rule.To) == 0 || len(rule.To[0].Paths) == 0) {
					continue // or it would deny nearly everything
				}
				p.Rules = append(p.Rules, rule)
			}
			if len(p.Rules) > 1 {
				p.Rules = p.Rules[1:] // the first is everything
			} else if p.Action == mesh.Deny {
				continue
			}
			objects = append(objects, p)
		}
		set := mustCompile(t, configOf(objects...)).servicePolicies["orders"]
		plain := &policySet{deny: policyList{all: set.deny.all}, allow: policyList{all: set.allow.all}}
		for range 50 {
			r := Request{Method: one("GET", "PUT"), Path: one(targets...), Peer: peerOf(t, one(peers...)), TCP: rnd.IntN(10) == 0}
			c := call{Request: &r, path: r.Path}
			if hasParameters(r.Path) {
				c.other = withoutParameters(r.Path)
			}
			got, want := set.decide(&c, false, ReasonDefault), plain.decide(&c, false, ReasonDefault)
			if got.Decision != want.Decision || got.Policy != want.Policy || got.Reason != want.Reason {
				t.Fatalf("%+v\nis decided %+v by the index and %+v without", r, got, want)
			}
			decided[got.Reason]++
		}
	}
	for _, reason := range []string{ReasonAllowMatched, ReasonDenyMatched, ReasonNoAllowMatched} {
		if decided[reason] < 100 {
			t.Errorf("%s only %d times: %v", reason, decided[reason], decided)
		}
	}
}
