package vaultpki

import (
	"bytes"
	"crypto/ed25519"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// setUp is a Vault that was bootstrapped, and a control plane's login there.
type setUp struct {
	*servers.VaultServer
	cfg     Bootstrap
	out     *bytes.Buffer
	root    *Vault
	control *Vault
}

func openVault(t *testing.T, access Access) *Vault {
	t.Helper()
	v, err := Open(access, "test", zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func newSetUp(t *testing.T) *setUp {
	t.Helper()
	v := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	dir := t.TempDir()
	token := filepath.Join(dir, "root-token")
	if err := os.WriteFile(token, []byte(v.RootToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &setUp{VaultServer: v, out: new(bytes.Buffer)}
	s.cfg = Bootstrap{Mesh: "default", TrustDomain: td, Credentials: filepath.Join(dir, "control"), Out: s.out}
	s.root = openVault(t, Access{Addresses: []string{v.Address}, CAFile: v.CAFile, TokenFile: token})
	return s
}

func (s *setUp) bootstrap(t *testing.T) int {
	t.Helper()
	s.out.Reset()
	writes, err := s.root.Bootstrap(t.Context(), s.cfg)
	if err != nil {
		t.Fatalf("%v after\n%s", err, s.out)
	}
	return writes
}

func (s *setUp) login(t *testing.T) {
	t.Helper()
	s.control = openVault(t, Access{Addresses: []string{s.Address}, CAFile: s.CAFile, AppRole: AppRole{
		RoleIDFile: filepath.Join(s.cfg.Credentials, "role-id"), SecretIDFile: filepath.Join(s.cfg.Credentials, "secret-id"),
	}})
}

// newMesh is a Vault that is ready for nodes.
func newMesh(t *testing.T) *setUp {
	t.Helper()
	s := newSetUp(t)
	s.bootstrap(t)
	s.login(t)
	return s
}

func TestRealVaultBootstrap(t *testing.T) {
	s := newSetUp(t)
	s.cfg.DryRun = true
	dry := s.bootstrap(t)
	said := s.out.String()
	if dry == 0 || !strings.Contains(said, "would write sys/mounts/pki_mesh") || !strings.Contains(said, "secret-id") {
		t.Errorf("a dry run says of %d writes:\n%s", dry, said)
	}
	if again := s.bootstrap(t); again != dry || s.out.String() != said {
		t.Errorf("the dry run wrote something: %d writes are left of %d", again, dry)
	}
	if _, err := os.Stat(s.cfg.Credentials); err == nil {
		t.Error("the dry run wrote credentials")
	}

	s.cfg.DryRun = false
	if writes := s.bootstrap(t); writes != dry {
		t.Errorf("%d writes, the dry run foretold %d:\n%s", writes, dry, s.out)
	}
	if writes := s.bootstrap(t); writes != 0 || s.out.Len() != 0 {
		t.Errorf("the second run writes %d times:\n%s", writes, s.out)
	}
	for _, name := range []string{"role-id", "secret-id"} {
		info, err := os.Stat(filepath.Join(s.cfg.Credentials, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, err)
		}
	}

	t.Run("what is missing is made", func(t *testing.T) {
		must(t, s.VaultServer, http.MethodDelete, "sys/policies/acl/hedgerow-node", nil)
		if err := os.Remove(filepath.Join(s.cfg.Credentials, "secret-id")); err != nil {
			t.Fatal(err)
		}
		if writes := s.bootstrap(t); writes != 2 {
			t.Errorf("%d writes:\n%s", writes, s.out)
		}
	})

	t.Run("another mesh is refused", func(t *testing.T) {
		other := s.cfg
		other.Mesh = "other"
		_, err := s.root.Bootstrap(t.Context(), other)
		checkError(t, err, mesh.Conflict, "is that of mesh default", true)
	})

	t.Run("the CAs sign leaves only, and end at one root", func(t *testing.T) {
		for _, mount := range []string{MountMesh, MountNode} {
			client, err := s.root.Client(mount, "any")
			if err != nil {
				t.Fatal(err)
			}
			keys, err := client.issuerKeys(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			signers := 0
			for _, key := range keys {
				chain, err := client.readIssuer(t.Context(), key)
				if err != nil {
					t.Fatal(err)
				}
				if ca := chain[0]; !selfSigned(ca) {
					signers++
					if !ca.MaxPathLenZero || len(ca.URIs) != 1 || ca.URIs[0].String() != "spiffe://"+td {
						t.Errorf("%s: path length %d, names %v", mount, ca.MaxPathLen, ca.URIs)
					}
				}
			}
			bundle, err := client.Bundle(t.Context(), td)
			if err != nil || signers != 1 || len(bundle.Roots()) != 1 {
				t.Errorf("%s: %d issuers that sign, %v", mount, signers, err)
			}
		}
	})
}

func TestRealVaultBootstrapRefuses(t *testing.T) {
	s := newSetUp(t)
	must(t, s.VaultServer, http.MethodPost, "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	_, err := s.root.Bootstrap(t.Context(), s.cfg)
	checkError(t, err, mesh.Conflict, "of type kv, version 1", true)
	for want, change := range map[string]func(*Bootstrap){
		"--mesh":         func(b *Bootstrap) { b.Mesh = "A mesh" },
		"--trust-domain": func(b *Bootstrap) { b.TrustDomain = "Upper" },
		"--credentials":  func(b *Bootstrap) { b.Credentials = "" },
	} {
		cfg := s.cfg
		change(&cfg)
		_, err := s.root.Bootstrap(t.Context(), cfg)
		checkError(t, err, mesh.Invalid, want, false)
	}
}

func TestRealVaultSigner(t *testing.T) {
	s := newMesh(t)
	signer, err := s.control.Signer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("hedgerow configuration 1")
	check := func() {
		t.Helper()
		signature, id, err := signer.Sign(t.Context(), message)
		if err != nil || id != signer.ID() || !ed25519.Verify(signer.Public(), message, signature) {
			t.Errorf("signed by %s, %v", id, err)
		}
	}
	check()
	// A rotated key is another key: the one that a root delegated to signs on.
	must(t, s.VaultServer, http.MethodPost, "transit/keys/hedgerow/rotate", nil)
	check()
	s.Seal()
	_, _, err = signer.Sign(t.Context(), message)
	checkError(t, err, mesh.Unavailable, "Vault is sealed", true)
	s.Unseal()
	check()
}
