package arch

import (
	"os/exec"
	"strings"
	"testing"
)

// link says what a program or package must not depend on, however far away.
type link struct {
	of     string // folder of the program or package
	never  string // import path, with what is below it
	reason string
}

var links = []link{
	{"cmd/hedgerow-edge", "github.com/grpc-ecosystem/grpc-gateway", "the small binary serves no REST"},
	{"cmd/hedgerow-edge", "github.com/go-chi/chi", "the small binary serves no REST"},
	{"cmd/hedgerow-edge", module + "/controlapi", "an edge node must not carry a control plane or its console"},
	{"cmd/hedgerow-edge", module + "/openapi", "an edge node must not carry a control plane or its console"},
	{"cmd/hedgerow-edge", "github.com/alicebob/miniredis", "the embedded registry is for `hedgerow up`"},
	{"cmd/hedgerow-edge", "testing", "test code must not ship"},
	{"cmd/hedgerow", "testing", "test code must not ship"},
	{"cmd/hedgerow", module + "/test", "test code must not ship"},
	{"cmd/hedgerow", "github.com/hashicorp/vault/vault", "Vault itself is under the Business Source License: built for tests, never linked"},
	{"mesh/proxy", "github.com/redis/go-redis", "the request path reads a table, never Redis"},
	{"mesh/proxy", "github.com/hashicorp/vault/api", "the request path reads a certificate, never Vault"},
}

// TestLinks asks the go command what is linked.
func TestLinks(t *testing.T) {
	deps := map[string][]string{}
	for _, l := range links {
		if deps[l.of] == nil {
			cmd := exec.Command("go", "list", "-deps", "./"+l.of)
			cmd.Dir = "../.."
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("go list -deps ./%s: %v", l.of, err)
			}
			deps[l.of] = strings.Fields(string(out))
		}
		for _, dep := range linked(deps[l.of], l.never) {
			t.Errorf("%s depends on %s, which it must not because %s\n\tgo mod why or go list -deps shows the way", l.of, dep, l.reason)
		}
	}
}

// linked returns the packages among deps that are never, or below it.
func linked(deps []string, never string) []string {
	var found []string
	for _, dep := range deps {
		if under(dep, never) {
			found = append(found, dep)
		}
	}
	return found
}

func TestLinkedFindsPackagesAndWhatIsBelowThem(t *testing.T) {
	deps := []string{"fmt", "testing", "github.com/go-chi/chi/v5", "github.com/go-chi/chirp", module + "/controlapi/revlog"}
	for never, want := range map[string]int{"testing": 1, "github.com/go-chi/chi": 1, module + "/controlapi": 1, module + "/openapi": 0} {
		if got := linked(deps, never); len(got) != want {
			t.Errorf("linked(%s) = %q, want %d", never, got, want)
		}
	}
}
