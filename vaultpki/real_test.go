package vaultpki

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

func secretOf(data map[string]any) *api.Secret { return &api.Secret{Data: data} }

// realConfig sets up the node edge7, which may run orders, on a real Vault.
func realConfig(v *servers.VaultServer) Config {
	pki := v.SetUpPKI(td, servers.PKINode{Name: "edge7", IDs: []string{ordersID}})
	node := pki.Nodes["edge7"]
	return Config{
		Access: Access{
			Timeout:   time.Minute, // a loaded machine is slow
			Addresses: []string{v.Address}, CAFile: v.CAFile,
			AppRole: AppRole{RoleIDFile: node.RoleIDFile, SecretIDFile: node.SecretIDFile},
		},
		Mount: pki.Mount, Role: node.Role,
	}
}

// must asks Vault as root.
func must(t *testing.T, v *servers.VaultServer, method, path string, body map[string]any) map[string]any {
	t.Helper()
	answer, err := v.Request(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

func TestRealVault(t *testing.T) {
	v := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	c := newClient(t, realConfig(v))

	t.Run("it signs", func(t *testing.T) {
		issued, err := issue(t, c, ordersID)
		if err != nil {
			t.Fatal(err)
		}
		leaf := issued.Chain[0]
		if len(issued.Chain) != 1 || len(issued.Bundle.Roots()) != 1 || leaf.Subject.CommonName != "" || len(leaf.DNSNames) != 0 {
			t.Errorf("a chain of %d, %d roots, leaf %v %v", len(issued.Chain), len(issued.Bundle.Roots()), leaf.Subject, leaf.DNSNames)
		}
		if life := time.Until(leaf.NotAfter); life < 23*time.Hour || life > 25*time.Hour {
			t.Errorf("the leaf lives %v", life)
		}
		if back := time.Since(leaf.NotBefore); back < 4*time.Minute || back > 7*time.Minute {
			t.Errorf("the leaf is valid since %v, want 5 min", back)
		}
	})

	t.Run("a lifetime asked for is granted", func(t *testing.T) {
		_, request, err := identity.NewRequest(mustParse(t, ordersID))
		if err != nil {
			t.Fatal(err)
		}
		request.TTL = 90 * time.Second
		issued, err := c.Issue(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if life := time.Until(issued.Chain[0].NotAfter); life < 80*time.Second || life > 91*time.Second {
			t.Errorf("the leaf lives %v", life)
		}
	})

}

func TestRealVaultRefuses(t *testing.T) {
	v := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	c := newClient(t, realConfig(v))

	t.Run("the role refuses an identity that is not the node's", func(t *testing.T) {
		_, err := issue(t, c, "spiffe://hedgerow.local/svc/admin/n/edge7")
		checkError(t, err, mesh.Denied, "not valid for this role", true)
	})

	t.Run("the policy refuses another node's role", func(t *testing.T) {
		v.SetUpPKI(td, servers.PKINode{Name: "edge9", IDs: []string{"spiffe://hedgerow.local/svc/orders/n/edge9"}})
		cfg := c.cfg
		cfg.Role = "edge9"
		_, err := issue(t, newClient(t, cfg), "spiffe://hedgerow.local/svc/orders/n/edge9")
		checkError(t, err, mesh.Denied, "permission denied", true)
	})

	t.Run("a mount that does not exist", func(t *testing.T) {
		cfg := c.cfg
		cfg.Mount = "pki_other"
		_, err := issue(t, newClient(t, cfg), ordersID)
		// Vault does not tell who may not know whether the mount exists.
		checkError(t, err, mesh.Denied, "permission denied", true)
	})

	t.Run("a wrong secret_id", func(t *testing.T) {
		cfg := c.cfg
		cfg.AppRole.SecretIDFile = cfg.AppRole.RoleIDFile
		_, err := issue(t, newClient(t, cfg), ordersID)
		checkError(t, err, mesh.Unauthentic, "vaultpki.Login edge7: invalid", true)
	})

	t.Run("a CA that is not pinned", func(t *testing.T) {
		cfg := c.cfg
		cfg.CAFile = servers.LoopbackTLS(t).CAFile
		_, err := issue(t, newClient(t, cfg), ordersID)
		checkError(t, err, mesh.Unavailable, "certificate signed by unknown authority", true)
	})
}

func TestRealVaultSession(t *testing.T) {
	v := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	c := newClient(t, realConfig(v))
	if _, err := issue(t, c, ordersID); err != nil {
		t.Fatal(err)
	}

	t.Run("a revoked token is replaced", func(t *testing.T) {
		old := c.session.Load()
		must(t, v, http.MethodPut, "auth/token/revoke", map[string]any{"token": old.client.Token()})
		begin := time.Now()
		if _, err := issue(t, c, ordersID); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 5*time.Second || c.session.Load() == old {
			t.Errorf("took %v", took)
		}
	})

	t.Run("a token past half of its life is renewed", func(t *testing.T) {
		old := c.session.Load()
		age(c, 31*time.Minute)
		if _, err := issue(t, c, ordersID); err != nil {
			t.Fatal(err)
		}
		now := c.session.Load()
		if now.client.Token() != old.client.Token() || !now.expires.After(time.Now().Add(50*time.Minute)) {
			t.Errorf("the token is another or ends at %v", now.expires)
		}
	})

	t.Run("sealed, and back", func(t *testing.T) {
		if err := c.Probe(t.Context()); err != nil {
			t.Fatalf("Probe before: %v", err)
		}
		v.Seal()
		_, err := issue(t, c, ordersID)
		checkError(t, err, mesh.Unavailable, "sealed", true)
		checkError(t, c.Probe(t.Context()), mesh.Unavailable, "Vault is sealed", true)
		v.Unseal()
		if err := c.Probe(t.Context()); err != nil {
			t.Errorf("Probe after: %v", err)
		}
		if _, err := issue(t, c, ordersID); err != nil {
			t.Errorf("after the unsealing: %v", err)
		}
	})
}

// Two issuers in the mount: peers with a leaf of the old and of the new one
// accept each other while both are there.
func TestRealVaultIssuerChange(t *testing.T) {
	v := servers.Vault(t)
	c := newClient(t, realConfig(v))
	before, err := issue(t, c, ordersID)
	if err != nil {
		t.Fatal(err)
	}
	made := must(t, v, http.MethodPost, "pki_mesh/root/generate/internal", map[string]any{
		"common_name": "next root", "issuer_name": "next", "key_type": "ec", "key_bits": 256, "ttl": "87600h", "not_before_duration": "1h",
	})
	young := must(t, v, http.MethodPost, "pki_mesh/root/generate/internal", map[string]any{
		"common_name": "young root", "key_type": "ec", "key_bits": 256, "ttl": "87600h",
	})
	must(t, v, http.MethodPost, "pki_mesh/roles/edge7", map[string]any{
		"allowed_uri_sans": []string{ordersID}, "require_cn": false, "key_type": "ec", "key_bits": 256, "not_before_duration": "5m", "issuer_ref": young["issuer_id"],
	})
	_, err = issue(t, c, ordersID)
	checkError(t, err, mesh.Unavailable, "before signer's notBefore", true)
	must(t, v, http.MethodDelete, "pki_mesh/issuer/"+young["issuer_id"].(string), nil)
	v.SetUpPKI(td, servers.PKINode{Name: "edge7", IDs: []string{ordersID}}) // the role as it was

	overlap, err := issue(t, c, ordersID)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(overlap.Bundle.Roots()); n != 2 {
		t.Fatalf("%d roots while two issuers are there", n)
	}
	unasked, err := c.Bundle(t.Context(), td) // who has nothing to renew
	if err != nil || len(unasked.Roots()) != 2 || unasked.TrustDomain() != td {
		t.Fatalf("the roots alone: %v", err)
	}
	must(t, v, http.MethodPost, "pki_mesh/config/issuers", map[string]any{"default": made["issuer_id"]})
	after, err := issue(t, c, ordersID)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, after.Chain, overlap.Bundle)  // those who renewed in the overlap accept the new
	verify(t, before.Chain, overlap.Bundle) // and the old
	verify(t, before.Chain, after.Bundle)
	if _, err := identity.VerifySVID(after.Chain, before.Bundle, x509.ExtKeyUsageServerAuth, time.Now()); err == nil {
		t.Error("the leaf is not of the new issuer")
	}
	must(t, v, http.MethodDelete, "pki_mesh/issuer/mesh-root", nil)
	last, err := issue(t, c, ordersID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.VerifySVID(before.Chain, last.Bundle, x509.ExtKeyUsageServerAuth, time.Now()); err == nil {
		t.Error("the removed root is trusted still")
	}
}

// The mount holds an intermediate and its root is elsewhere: the chain has the
// intermediate, the bundle the root.
func TestRealVaultIntermediate(t *testing.T) {
	v := servers.Vault(t)
	cfg := realConfig(v)
	must(t, v, http.MethodPost, "sys/mounts/pki_site", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	csr := must(t, v, http.MethodPost, "pki_site/intermediate/generate/internal", map[string]any{"common_name": "site 3", "key_type": "ec", "key_bits": 256})
	signed := must(t, v, http.MethodPost, "pki_mesh/root/sign-intermediate", map[string]any{"csr": csr["csr"], "common_name": "site 3", "ttl": "8760h", "format": "pem_bundle"})
	root := must(t, v, http.MethodGet, "pki_mesh/cert/ca", nil)["certificate"].(string)
	role := map[string]any{"allowed_uri_sans": []string{ordersID}, "require_cn": false, "key_type": "ec", "key_bits": 256, "max_ttl": "24h", "allow_any_name": false}
	must(t, v, http.MethodPost, "pki_site/roles/edge7", role)
	must(t, v, http.MethodPut, "sys/policies/acl/site", map[string]any{"policy": `path "pki_site/sign/edge7" { capabilities = ["update"] }`})
	must(t, v, http.MethodPost, "auth/approle/role/edge7", map[string]any{"token_policies": []string{"site"}})
	cfg.Mount = "pki_site"

	must(t, v, http.MethodPost, "pki_site/intermediate/set-signed", map[string]any{"certificate": signed["certificate"]})
	issued, err := issue(t, newClient(t, cfg), ordersID)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := identity.ParseCertificates([]byte(root))
	if err != nil {
		t.Fatal(err)
	}
	if len(issued.Chain) != 2 || len(issued.Bundle.Roots()) != 1 || !issued.Bundle.Roots()[0].Equal(roots[0]) {
		t.Errorf("a chain of %d; roots %v", len(issued.Chain), issued.Bundle.Roots()[0].Subject)
	}
	verify(t, issued.Chain, issued.Bundle)
}

// A Rotator that starts while Vault is sealed gets its certificate within 10 s
// of the unsealing.
func TestRealVaultRotatorAfterAnOutage(t *testing.T) {
	v := servers.Vault(t)
	c := newClient(t, realConfig(v))
	metrics, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	v.Seal()
	r := identity.NewRotator(identity.NewSource(mustParse(t, ordersID), metrics), c, zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	}()
	poll := func(what string, within time.Duration, ok func(err error) bool) {
		t.Helper()
		deadline := time.After(within)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for !ok(r.Ready()) {
			select {
			case <-deadline:
				t.Fatalf("%s: not within %v: %v", what, within, r.Ready())
			case <-tick.C:
			}
		}
	}
	poll("the reason of the outage", 10*time.Second, func(err error) bool { return mesh.HintOf(err) != "" && len(err.Error()) > 0 })
	checkError(t, r.Ready(), mesh.Unavailable, "yet", true)
	v.Unseal()
	poll("recovery", 10*time.Second, func(err error) bool { return err == nil })
}

// A role of another mount signs for public servers, whatever it says about names in
// requests, and refuses what it does not allow.
func TestRealVaultSignsServers(t *testing.T) {
	v := servers.Vault(t)
	c := newClient(t, realConfig(v))
	must(t, v, http.MethodPost, "sys/mounts/edge", map[string]any{"type": "pki"})
	must(t, v, http.MethodPost, "edge/root/generate/internal", map[string]any{"common_name": "edge", "key_type": "ec", "key_bits": 256, "not_before_duration": "1h"})
	allowed := map[string]any{"allowed_domains": []string{"shop.example"}, "allow_bare_domains": true, "allow_subdomains": true, "key_type": "ec", "key_bits": 256, "max_ttl": "24h"}
	must(t, v, http.MethodPost, "edge/roles/ordinary", allowed)
	allowed["use_csr_sans"], allowed["use_csr_common_name"], allowed["require_cn"] = false, false, false
	must(t, v, http.MethodPost, "edge/roles/blind", allowed)
	sign := func(role string, names ...string) ([]*x509.Certificate, error) {
		t.Helper()
		r, err := c.ServerRole("edge", role)
		if err != nil {
			t.Fatal(err)
		}
		_, request, err := identity.NewServerRequest(time.Hour, names...)
		if err != nil {
			t.Fatal(err)
		}
		return r.SignServer(t.Context(), request)
	}
	_, err := sign("ordinary", "shop.example")
	checkError(t, err, mesh.Denied, "permission denied", true)
	must(t, v, http.MethodPut, "sys/policies/acl/edge", map[string]any{"policy": `path "edge/sign/+" { capabilities = ["update"] }`})
	must(t, v, http.MethodPost, "auth/approle/role/edge7", map[string]any{"token_policies": []string{"mesh-edge7", "edge"}})

	long := "a-name.that-is-longer.than-any-common-name.may-be-by-its.standard.shop.example"
	for _, tt := range []struct {
		role  string
		names []string
	}{
		{"ordinary", []string{"shop.example", "*.shop.example"}},
		{"blind", []string{"shop.example", "*.shop.example"}},
		{"blind", []string{long}},
	} {
		chain, err := sign(tt.role, tt.names...)
		if err != nil {
			t.Errorf("%s, %v: %v", tt.role, tt.names, err)
			continue
		}
		leaf := chain[0]
		if life := time.Until(leaf.NotAfter); len(chain) != 1 || len(leaf.DNSNames) != len(tt.names) || life < 50*time.Minute || life > 61*time.Minute {
			t.Errorf("%s: a chain of %d for %v, which lives %v", tt.role, len(chain), leaf.DNSNames, life)
		}
	}
	_, err = sign("ordinary", "other.example")
	checkError(t, err, mesh.Denied, "not allowed by this role", true)
	if hint := mesh.HintOf(err); !strings.Contains(hint, "allowed_domains") {
		t.Errorf("the hint is %q", hint)
	}
	if _, err := c.ServerRole("edge/", "a/b"); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("a mount and a role that are none: %v", err)
	}
}
