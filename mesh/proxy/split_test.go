package proxy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// splitTable has one rule that sends percent of the requests to web.
func splitTable(t *testing.T, percent uint32, affinity *mesh.HashKey) *Table {
	t.Helper()
	rest := 100 - percent
	r := routeOf("r", "example.com")
	r.Rules[0].Affinity = affinity
	r.Rules[0].Backends = []mesh.Backend{{Service: "orders", Weight: &rest}, {Service: "web", Weight: &percent}}
	return mustCompile(t, configOf(r))
}

// fair fails if got of n is not the share that is due: beyond the 99.9 % quantile of
// chi-square with one degree of freedom.
func fair(t *testing.T, got, n int, percent uint32) {
	t.Helper()
	due := float64(n) * float64(percent) / 100
	d := float64(got) - due
	if chi := d*d/due + d*d/(float64(n)-due); chi > 10.83 {
		t.Errorf("%d %% got %d of %d: chi-square %.1f, at most 10.83", percent, got, n, chi)
	}
}

func TestSplitsAreFair(t *testing.T) {
	const n = 100_000
	rnd := rand.New(rand.NewPCG(11, 12))
	for _, percent := range []uint32{1, 5, 10, 33, 50} {
		table, got := splitTable(t, percent, nil), 0
		for range n {
			if Decide(table, Face{Kind: Gateway}, &Request{Method: "GET", Host: "example.com", Path: "/"}, rnd.Float64()).Service == "web" {
				got++
			}
		}
		fair(t, got, n, percent)
	}
}

// A share that grows keeps whom it had, and those that it gets are a fair share.
func TestStickySplitsOnlyAddMembers(t *testing.T) {
	const n = 100_000
	members := map[int]bool{}
	for _, percent := range []uint32{5, 10, 50} {
		table, got := splitTable(t, percent, &mesh.HashKey{Header: "x-user"}), 0
		for user := range n {
			r := &Request{Method: "GET", Host: "example.com", Path: "/", Fields: header.List{{Name: "X-User", Value: fmt.Sprintf("user-%d", user)}}}
			in := Decide(table, Face{Kind: Gateway}, r, rand.Float64()).Service == "web"
			if members[user] && !in {
				t.Fatalf("user %d moved back when the share grew to %d %%", user, percent)
			}
			if in {
				members[user] = true
				got++
			}
		}
		fair(t, got, n, percent)
	}
}
