package vaultpki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// nodeCert has a certificate of the node signed and writes it and its key to files.
func nodeCert(t *testing.T, v *servers.VaultServer, path, node string, to Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri := &url.URL{Scheme: "spiffe", Host: td, Path: "/node/" + node}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: node}, URIs: []*url.URL{uri}}, key)
	if err != nil {
		t.Fatal(err)
	}
	signed := must(t, v, http.MethodPost, path, map[string]any{"csr": encodeCSR(csr), "common_name": node, "uri_sans": uri.String(), "exclude_cn_from_sans": true})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		to.CertFile: signed["certificate"].(string),
		to.KeyFile:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// certConfig is realConfig, where the node logs in with a certificate of pki_mesh.
func certConfig(t *testing.T, v *servers.VaultServer) Config {
	t.Helper()
	cfg := realConfig(v)
	cfg.AppRole = AppRole{}
	dir := t.TempDir()
	cfg.Certificate = Certificate{CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node.key")}
	must(t, v, http.MethodPost, "pki_mesh/roles/login", map[string]any{
		"allowed_domains": "edge7,edge9", "allow_bare_domains": true, "allowed_uri_sans": "spiffe://" + td + "/node/*", "key_type": "ec", "key_bits": 256, "max_ttl": "24h",
	})
	ca := must(t, v, http.MethodGet, "pki_mesh/cert/ca", nil)["certificate"]
	must(t, v, http.MethodPost, "sys/auth/cert", map[string]any{"type": "cert"})
	must(t, v, http.MethodPost, "auth/cert/certs/edge7", map[string]any{
		"certificate": ca, "allowed_common_names": "edge7", "token_policies": "mesh-edge7", "token_ttl": "1h",
	})
	nodeCert(t, v, "pki_mesh/sign/login", "edge7", cfg.Certificate)
	return cfg
}

// F14: a revoked token is replaced within five seconds, by the certificate.
func TestRealVaultLoginByCertificate(t *testing.T) {
	v := servers.Vault(t, servers.VaultTLS(servers.LoopbackTLS(t)))
	cfg := certConfig(t, v)
	c := newClient(t, cfg)
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

	t.Run("past half of its life another is got, with the certificate that is there now", func(t *testing.T) {
		old := c.session.Load()
		nodeCert(t, v, "pki_mesh/sign/login", "edge7", cfg.Certificate)
		age(c, 61*time.Minute)
		if _, err := issue(t, c, ordersID); err != nil {
			t.Fatal(err)
		}
		if now := c.session.Load(); now.client.Token() == old.client.Token() {
			t.Error("the token is the one of before")
		}
	})

	t.Run("a certificate of another node", func(t *testing.T) {
		other := cfg
		dir := t.TempDir()
		other.Certificate = Certificate{CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node.key")}
		nodeCert(t, v, "pki_mesh/sign/login", "edge9", other.Certificate)
		_, err := issue(t, newClient(t, other), ordersID)
		checkError(t, err, mesh.Unauthentic, "vaultpki.Login edge7: ", true)
	})

	t.Run("a certificate of another CA", func(t *testing.T) {
		other := cfg
		files := servers.LoopbackTLS(t)
		other.Certificate = Certificate{CertFile: files.CertFile, KeyFile: files.KeyFile}
		_, err := issue(t, newClient(t, other), ordersID)
		checkError(t, err, mesh.Unauthentic, "vaultpki.Login edge7: ", true)
	})

	t.Run("a service's certificate, which has no common name", func(t *testing.T) {
		must(t, v, http.MethodPost, "pki_mesh/roles/nameless", map[string]any{"allowed_uri_sans": "spiffe://*", "require_cn": false, "use_csr_common_name": false, "key_type": "ec", "key_bits": 256, "allow_any_name": true, "enforce_hostnames": false})
		other := cfg
		dir := t.TempDir()
		other.Certificate = Certificate{CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node.key")}
		nodeCert(t, v, "pki_mesh/sign/nameless", "", other.Certificate)
		_, err := issue(t, newClient(t, other), ordersID)
		checkError(t, err, mesh.Unauthentic, "no common name", true)
	})

	t.Run("no certificate", func(t *testing.T) {
		other := cfg
		other.Certificate.KeyFile = "/nonexistent"
		_, err := issue(t, newClient(t, other), ordersID)
		checkError(t, err, mesh.Unauthentic, "no such file", true)
	})
}

// While one node of the Vault is gone, another one serves, and the token is good there.
func TestRealVaultSecondAddress(t *testing.T) {
	v := servers.Vault(t)
	cfg := realConfig(v)
	gone := "http://127.0.0.1:" + strconv.Itoa(servers.FreePorts(t, 1)[0])
	cfg.Addresses = []string{gone, v.Address}
	c := newClient(t, cfg)
	if _, err := issue(t, c, ordersID); err != nil {
		t.Fatal(err)
	}
	if err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	v.Seal()
	checkError(t, c.Probe(t.Context()), mesh.Unavailable, "Vault is sealed", true)
}
