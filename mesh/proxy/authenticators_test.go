package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Authenticators of other routes cost a request nothing but a look at the names of its headers; and
// a key that is known costs no more than the headers that tell of it.
func TestAuthenticatorsElsewhereAllocateNothing(t *testing.T) {
	const key = "a-key-of-0123456789abcdef"
	sum := sha256.Sum256([]byte(key))
	cfg := configOf()
	cfg.Services["orders"] = &mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolHTTP}
	for _, id := range []string{"open", "closed"} {
		cfg.Put(&mesh.Route{Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{id + ".test"},
			Rules: []mesh.RouteRule{{Backends: []mesh.Backend{{Service: "orders"}}}}})
	}
	cfg.Put(&mesh.Authenticator{Meta: mesh.Meta{Name: "authenticators/a"}, Targets: []mesh.AuthenticatorTarget{{Route: "closed"}}, APIKey: &mesh.AuthenticatorAPIKey{
		Keys: []mesh.APIKey{{Name: "a", SHA256: hex.EncodeToString(sum[:])}}, ForwardClaims: []mesh.ForwardClaim{{Claim: "sub", Header: "x-client"}},
	}})
	for _, o := range cfg.Routes {
		mesh.Normalize(o)
	}
	table := mustCompile(t, cfg)
	_, request := busyTable(t, 10)
	for host, most := range map[string]float64{"open.test": 0, "closed.test": 4} {
		r := *request
		r.Host = host
		r.Fields = append(r.Fields[:len(r.Fields):len(r.Fields)], r.Fields[0])
		r.Fields[1].Name, r.Fields[1].Value = "X-Api-Key", key
		var d Decision
		if n := testing.AllocsPerRun(200, func() { d = Decide(table, Face{Kind: Gateway, Gateway: "demo"}, &r, 0.5) }); n > most {
			t.Errorf("%s: %v allocations, want %v", host, n, most)
		}
		if d.Refusal != nil {
			t.Errorf("%s is refused: %+v", host, d.Refusal)
		}
	}
}
