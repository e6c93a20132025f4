package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// nextRoot is the common name of the root that a mesh changes to.
const nextRoot = "next root"

// playNewCA changes the CA under load as docs/identity.md tells an operator to: a new root
// and an intermediate of it beside the old ones, which every node learns of; then leaves
// by the new one; and after twice their life the old ones go.
func playNewCA(t *stage.T, r *row, s settings) {
	const ttl = 20 * time.Second
	m := stage.New(t, stage.Options{Binaries: s.binaries, TTL: ttl})
	streams := load.OpenStreams(t.Context(), m.Out(), streamsEach)
	run := load.Start(t.Context(), load.Plan{Target: m.Out(), Rate: s.rate})
	t.Pause(2 * time.Second)

	began := time.Now()
	issuer := addIssuer(t, m.Vault())
	awaitCerts(t, m.Sidecars(), "trusts the new root", func(c []string, _ string) bool {
		return len(c) == 2 && strings.Contains(strings.Join(c, " "), nextRoot)
	})
	learned := time.Since(began)
	early := issuedBy(t, m.Sidecars(), "next intermediate")

	vaultMust(t, m.Vault(), http.MethodPost, servers.PKIMount+"/config/issuers", map[string]any{"default": issuer})
	awaitCerts(t, m.Sidecars(), "has a leaf of the new CA", func(_ []string, by string) bool { return strings.Contains(by, "next intermediate") })
	t.Pause(pick(s, 2*ttl, 5*time.Second)) // the last leaf of the old one is gone long before
	vaultMust(t, m.Vault(), http.MethodDelete, servers.PKIMount+"/issuer/mesh-root", nil)
	awaitCerts(t, m.Sidecars(), "has forgotten the old root", func(c []string, _ string) bool { return len(c) == 1 && strings.Contains(c[0], nextRoot) })
	t.Pause(pick(s, ttl, 5*time.Second))

	report := run.Stop()
	cuts := streams.Close()
	refused := sumOf(t, m.Sidecars(), "hedgerow_identity_refused_handshakes_total")
	r.load(report)
	r.zero("streams_cut", len(cuts))
	r.blame("a stream was cut", cuts...)
	r.note("root_learned_after", short(learned))
	r.zero("leaves_of_the_new_ca_before_all_trusted_it", early)
	r.zero("handshakes_refused", int(refused))
	r.atLeast("leaves_of_the_new_ca", issuedBy(t, m.Sidecars(), "next intermediate"), len(m.Sidecars()))
}

// addIssuer makes a root, and below it an intermediate of the mesh's mount, which it
// returns. Nothing is signed by it yet.
func addIssuer(t *stage.T, v *servers.VaultServer) (issuer string) {
	t.Helper()
	vaultMust(t, v, http.MethodPost, "sys/mounts/pki_next", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	root := vaultMust(t, v, http.MethodPost, "pki_next/root/generate/internal", map[string]any{
		"common_name": nextRoot, "key_type": "ec", "key_bits": 256, "ttl": "87600h", "not_before_duration": "1h",
	})
	csr := vaultMust(t, v, http.MethodPost, servers.PKIMount+"/intermediate/generate/internal", map[string]any{"common_name": "next intermediate", "key_type": "ec", "key_bits": 256})
	signed := vaultMust(t, v, http.MethodPost, "pki_next/root/sign-intermediate", map[string]any{
		"csr": csr["csr"], "common_name": "next intermediate", "max_path_length": 0, "ttl": "43800h", "not_before_duration": "30m",
	})
	imported := vaultMust(t, v, http.MethodPost, servers.PKIMount+"/intermediate/set-signed", map[string]any{
		"certificate": fmt.Sprintf("%s\n%s", signed["certificate"], root["certificate"]),
	})
	keys, _ := imported["mapping"].(map[string]any)
	for id, key := range keys {
		if key != "" { // the root's is elsewhere
			issuer = id
		}
	}
	if issuer == "" {
		t.Fatalf("no issuer with a key was imported: %v", imported)
	}
	return issuer
}

// vaultMust asks Vault as root for what cannot fail.
func vaultMust(t *stage.T, v *servers.VaultServer, method, path string, body any) map[string]any {
	t.Helper()
	answer, err := v.Request(t.Context(), method, path, body)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// awaitCerts waits until ok says yes to the roots and the issuer of every process.
func awaitCerts(t *stage.T, planes []*stage.Plane, what string, ok func(roots []string, issuer string) bool) {
	t.Helper()
	for _, p := range planes {
		p.Until(time.Minute, what, func(ctx context.Context) error {
			certs, err := p.Admin.Certs(ctx)
			if err != nil {
				return err
			}
			for _, c := range certs {
				var roots []string
				for _, root := range c.Roots {
					roots = append(roots, root.Subject)
				}
				if !ok(roots, c.Issuer) {
					return fmt.Errorf("a leaf of %s, roots %q", c.Issuer, roots)
				}
			}
			return nil
		})
	}
}

// issuedBy counts the processes whose leaves an issuer has signed.
func issuedBy(t *stage.T, planes []*stage.Plane, issuer string) int {
	t.Helper()
	n := 0
	for _, p := range planes {
		certs, err := p.Admin.Certs(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		if len(certs) > 0 && strings.Contains(certs[0].Issuer, issuer) {
			n++
		}
	}
	return n
}
