package localca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

const td = "hedgerow.local"

func open(t *testing.T, dir string, cfg Config) *CA {
	t.Helper()
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = td
	}
	ca, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func orders(t *testing.T) mesh.ID {
	t.Helper()
	id, err := mesh.ServiceID(td, "orders", "orders-v1")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOpenCreatesThenLoads(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "ca")
	first := open(t, dir, Config{})
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, KeyFile): 0o600, filepath.Join(dir, CertFile): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
	again := open(t, dir, Config{})
	if !again.root.Equal(first.root) {
		t.Error("a second Open made a new root")
	}
	if years := time.Until(first.root.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("the root lives %.1f years", years)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind in the directory: %v", entries)
	}
	// What the first signed, the second's bundle verifies.
	_, request, err := identity.NewRequest(orders(t))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := first.Issue(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.VerifySVID(issued.Chain, again.Bundle(), x509.ExtKeyUsageServerAuth, time.Now()); err != nil || id != orders(t) {
		t.Errorf("verified as %v, %v", id, err)
	}
}

func TestOpenCompletesAnInterruptedCreation(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir, Config{})
	if err := os.Remove(filepath.Join(dir, CertFile)); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir, Config{}); !again.key.Equal(first.key) {
		t.Error("the key was replaced")
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir string)
		td    string
		want  string
	}{
		"another trust domain": {spoil: func(*testing.T, string) {}, td: "other.local", want: "not the CA of the trust domain other.local"},
		"no trust domain":      {spoil: func(*testing.T, string) {}, td: "", want: "the trust domain is empty"},
		"a key others can read": {spoil: func(t *testing.T, dir string) { chmod(t, dir, 0o644) },
			td: td, want: "chmod 0600"},
		"a missing key": {spoil: func(t *testing.T, dir string) { remove(t, dir, KeyFile) }, td: td, want: "ca.key is not"},
		"a key that is not its own": {spoil: func(t *testing.T, dir string) {
			remove(t, dir, KeyFile)
			if err := createKey(filepath.Join(dir, KeyFile)); err != nil {
				t.Fatal(err)
			}
		}, td: td, want: "do not belong together"},
		"an empty key":     {spoil: func(t *testing.T, dir string) { write(t, dir, KeyFile, "") }, td: td, want: "ca.key is not PEM"},
		"a truncated root": {spoil: func(t *testing.T, dir string) { write(t, dir, CertFile, "-----BEGIN CERT") }, td: td, want: "ca.pem: not PEM"},
		"an empty root":    {spoil: func(t *testing.T, dir string) { write(t, dir, CertFile, "") }, td: td, want: "holds no certificate"},
		"upper case":       {spoil: func(*testing.T, string) {}, td: "Hedgerow", want: "may not be in a trust domain"},
		"a file for a directory": {spoil: func(t *testing.T, dir string) {
			remove(t, dir, KeyFile)
			remove(t, dir, CertFile)
			if err := os.Remove(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, td: td, want: "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			open(t, dir, Config{})
			tt.spoil(t, dir)
			_, err := Open(dir, Config{TrustDomain: tt.td})
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
		})
	}
	if _, err := Open(t.TempDir(), Config{TrustDomain: td, LeafTTL: -1}); err == nil {
		t.Error("a negative lifetime is accepted")
	}
}

func chmod(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, KeyFile), mode); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExpiredRootIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir, Config{})
		time.Sleep(11 * 365 * 24 * time.Hour)
		if _, err := Open(dir, Config{TrustDomain: td}); err == nil || !strings.Contains(err.Error(), "its root expired") {
			t.Errorf("error %v", err)
		}
	})
}

func TestIssuedLeaf(t *testing.T) {
	ca := open(t, t.TempDir(), Config{})
	key, request, err := identity.NewRequest(orders(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		cfg       Config
		ttl, want time.Duration
	}{
		"the default is a day":            {Config{}, 0, 24 * time.Hour},
		"a request may ask for less":      {Config{}, time.Hour, time.Hour},
		"and not for more":                {Config{}, 48 * time.Hour, 24 * time.Hour},
		"the CA's lifetime is adjustable": {Config{LeafTTL: time.Minute}, 0, time.Minute},
		"never beyond the root's":         {Config{LeafTTL: 20 * 365 * 24 * time.Hour}, 0, time.Until(ca.root.NotAfter)},
	} {
		t.Run(name, func(t *testing.T) {
			request := request
			request.TTL = tt.ttl
			issued, err := open(t, t.TempDir(), tt.cfg).Issue(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			leaf := issued.Chain[0]
			if got := time.Until(leaf.NotAfter); got < tt.want-time.Minute || got > tt.want+time.Minute {
				t.Errorf("lives %v, want %v", got, tt.want)
			}
			if got := time.Since(leaf.NotBefore); got < 5*time.Minute || got > 6*time.Minute {
				t.Errorf("valid since %v, want 5 min", got)
			}
			if leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 || leaf.IsCA || len(leaf.Subject.Names) != 0 ||
				len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
				t.Errorf("leaf %+v", leaf)
			}
			if !key.PublicKey.Equal(leaf.PublicKey) || len(issued.Chain) != 1 {
				t.Error("it certifies another key, or brings the root along")
			}
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := open(t, t.TempDir(), Config{})
	want := orders(t)
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := &x509.CertificateRequest{URIs: []*url.URL{uri(want.String())}}
	csr := func(template *x509.CertificateRequest, key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	forged := csr(good, p256)
	forged[len(forged)-1] ^= 1
	foreign, err := mesh.ParseID("spiffe://other.local/svc/a/n/b")
	if err != nil {
		t.Fatal(err)
	}
	root, err := mesh.ParseID("spiffe://" + td)
	if err != nil {
		t.Fatal(err)
	}
	node, err := mesh.NodeID(td, "edge7")
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]identity.Request{
		"nothing":                   {ID: want},
		"garbage":                   {ID: want, CSR: []byte("garbage")},
		"a signature that is wrong": {ID: want, CSR: forged},
		"a URI not asked for":       {ID: want, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri("spiffe://" + td + "/svc/admin/n/x")}}, p256)},
		"two URIs":                  {ID: want, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri(want.String()), uri("spiffe://" + td + "/a")}}, p256)},
		"no URI":                    {ID: want, CSR: csr(&x509.CertificateRequest{}, p256)},
		"a DNS name besides":        {ID: want, CSR: csr(&x509.CertificateRequest{URIs: good.URIs, DNSNames: []string{"x.example"}}, p256)},
		"an IP address besides":     {ID: want, CSR: csr(&x509.CertificateRequest{URIs: good.URIs, IPAddresses: []net.IP{{127, 0, 0, 1}}}, p256)},
		"a common name":             {ID: want, CSR: csr(&x509.CertificateRequest{URIs: good.URIs, Subject: pkix.Name{CommonName: "x"}}, p256)},
		"a node without its name":   {ID: node, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri(node.String())}}, p256)},
		"another node's name":       {ID: node, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri(node.String())}, Subject: pkix.Name{CommonName: "edge9"}}, p256)},
		"a P-384 key":               {ID: want, CSR: csr(good, p384)},
		"an RSA key":                {ID: want, CSR: csr(good, rsaKey)},
		"a negative lifetime":       {ID: want, CSR: csr(good, p256), TTL: -1},
		"nobody":                    {CSR: csr(good, p256)},
		"another trust domain":      {ID: foreign, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri(foreign.String())}}, p256)},
		"the trust domain itself":   {ID: root, CSR: csr(&x509.CertificateRequest{URIs: []*url.URL{uri(root.String())}}, p256)},
	} {
		if issued, err := ca.Issue(t.Context(), request); err == nil || issued.Chain != nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: issued %v, error %v", name, issued.Chain, err)
		}
	}
	if _, err := ca.Issue(t.Context(), identity.Request{ID: want, CSR: csr(good, p256)}); err != nil {
		t.Errorf("the request they all vary is refused itself: %v", err)
	}
	_, request, err := identity.NewRequest(node)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := identity.VerifyNode(issued.Chain, issued.Bundle, time.Now()); err != nil || got != "edge7" {
		t.Errorf("a node's certificate is %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ca.Issue(ctx, identity.Request{ID: want, CSR: csr(good, p256)}); err == nil {
		t.Error("issued after the context ended")
	}
}
