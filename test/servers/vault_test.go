package servers

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	ordersID  = "spiffe://test.mesh/svc/orders/n/orders-v1"
	gatewayID = "spiffe://test.mesh/gateway/edge"
)

// csr makes a request for the URI, DNS name and IP addresses, as PEM.
func csr(t *testing.T, template x509.CertificateRequest, uris ...string) string {
	t.Helper()
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// login exchanges the AppRole for a token.
func login(t *testing.T, v *VaultServer, role AppRole) string {
	t.Helper()
	answer, err := v.RequestAs(t.Context(), "", http.MethodPost, "auth/approle/login",
		map[string]any{"role_id": role.RoleID, "secret_id": role.SecretID})
	if err != nil {
		t.Fatal(err)
	}
	auth, _ := answer["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	if token == "" {
		t.Fatalf("login answered without a token: %v", answer)
	}
	return token
}

func sign(ctx context.Context, v *VaultServer, token, role, request, ttl string) (map[string]any, error) {
	return v.RequestAs(ctx, token, http.MethodPost, PKIMount+"/sign/"+role,
		map[string]any{"csr": request, "ttl": ttl})
}

// wantStatus fails unless err is Vault's answer with that status.
func wantStatus(t *testing.T, err error, status int) {
	t.Helper()
	var failure *VaultError
	if !errors.As(err, &failure) || failure.Status != status {
		t.Errorf("error = %v, want status %d", err, status)
	}
}

func TestVaultSignsForItsNodes(t *testing.T) {
	v := Vault(t)
	pki := v.SetUpPKI("test.mesh",
		PKINode{Name: "orders-v1", IDs: []string{ordersID}},
		PKINode{Name: "gateway", IDs: []string{gatewayID}})
	orders := pki.Nodes["orders-v1"]
	token := login(t, v, orders)

	t.Run("its own ID", func(t *testing.T) {
		answer, err := sign(t.Context(), v, token, orders.Role, csr(t, x509.CertificateRequest{}, ordersID), "24h")
		if err != nil {
			t.Fatal(err)
		}
		checkLeaf(t, pki.RootPEM, v.field(answer, "certificate"))
	})
	refused := []struct {
		name    string
		role    string
		request x509.CertificateRequest
		ids     []string
		status  int
	}{
		{"another node's ID is refused", "orders-v1", x509.CertificateRequest{}, []string{gatewayID}, http.StatusBadRequest},
		{"a foreign ID beside its own is refused", "orders-v1", x509.CertificateRequest{}, []string{ordersID, gatewayID}, http.StatusBadRequest},
		{"another node's role is refused", "gateway", x509.CertificateRequest{}, []string{gatewayID}, http.StatusForbidden},
		{"a DNS name is refused", "orders-v1", x509.CertificateRequest{DNSNames: []string{"orders.mesh"}}, []string{ordersID}, http.StatusBadRequest},
		{"localhost is refused", "orders-v1", x509.CertificateRequest{DNSNames: []string{"localhost"}}, []string{ordersID}, http.StatusBadRequest},
		{"an IP address is refused", "orders-v1", x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, []string{ordersID}, http.StatusBadRequest},
	}
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			_, err := sign(t.Context(), v, token, c.role, csr(t, c.request, c.ids...), "1h")
			wantStatus(t, err, c.status)
		})
	}
	t.Run("a node may read the CA and list issuers, not roles", func(t *testing.T) {
		for _, path := range []string{PKIMount + "/cert/ca", PKIMount + "/cert/ca_chain"} {
			if _, err := v.RequestAs(t.Context(), token, http.MethodGet, path, nil); err != nil {
				t.Error(err)
			}
		}
		if _, err := v.RequestAs(t.Context(), token, "LIST", PKIMount+"/issuers", nil); err != nil {
			t.Error(err)
		}
		_, err := v.RequestAs(t.Context(), token, "LIST", PKIMount+"/roles", nil)
		wantStatus(t, err, http.StatusForbidden)
	})
	t.Run("more nodes share the root", func(t *testing.T) {
		more := v.SetUpPKI("test.mesh", PKINode{Name: "bridge", IDs: []string{"spiffe://test.mesh/svc/mqtt-bridge/n/bridge"}})
		if more.RootPEM != pki.RootPEM {
			t.Error("a second SetUpPKI made another root")
		}
	})
}

// checkLeaf holds a signed certificate to what the mesh relies on.
func checkLeaf(t *testing.T, rootPEM, leafPEM string) {
	t.Helper()
	block, _ := pem.Decode([]byte(leafPEM))
	if block == nil {
		t.Fatalf("not PEM: %q", leafPEM)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != ordersID || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 {
		t.Errorf("names = %v %v %v, want the ID alone", leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
	if left := time.Until(leaf.NotAfter); left > 24*time.Hour || left < 23*time.Hour {
		t.Errorf("it ends in %v, want a day", left)
	}
	if age := time.Since(leaf.NotBefore); age < 4*time.Minute || age > 10*time.Minute {
		t.Errorf("it began %v ago, want five minutes", age)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(rootPEM))
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("verify for usage %v: %v", usage, err)
		}
	}
}

func TestVaultOutages(t *testing.T) {
	v := Vault(t)
	ctx := t.Context()
	if _, err := v.Request(ctx, http.MethodPost, "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	put := func() error {
		_, err := v.Request(ctx, http.MethodPost, "kv/data/k", map[string]any{"data": map[string]any{"a": "b"}})
		return err
	}
	// A new KV 2 mount upgrades itself in the background and refuses until then.
	s := &server{probe: func(context.Context) error { return put() }, proc: v.proc}
	if err := s.awaitReady(); err != nil {
		t.Fatal(err)
	}

	v.Seal()
	wantStatus(t, put(), http.StatusServiceUnavailable)
	v.Unseal()
	if err := put(); err != nil {
		t.Errorf("after unseal: %v", err)
	}

	address := v.Address
	v.Kill()
	if err := put(); err == nil {
		t.Error("a killed Vault answered")
	}
	v.Restart()
	if v.Address != address {
		t.Errorf("address after restart = %s, before %s", v.Address, address)
	}
	if _, err := v.Request(ctx, http.MethodGet, "kv/data/k", nil); err != nil {
		t.Errorf("data after kill and restart: %v", err)
	}
}

func TestVaultServesTLS(t *testing.T) {
	v := Vault(t, VaultTLS(LoopbackTLS(t)))
	if !strings.HasPrefix(v.Address, "https://127.0.0.1:") || v.CAFile == "" {
		t.Fatalf("address = %s, CA file %q", v.Address, v.CAFile)
	}
	if _, err := v.Request(t.Context(), http.MethodGet, "auth/token/lookup-self", nil); err != nil {
		t.Error(err)
	}
	_, err := v.RequestAs(t.Context(), "wrong", http.MethodGet, "auth/token/lookup-self", nil)
	wantStatus(t, err, http.StatusForbidden)
}

func TestTheBuildLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 5*pollEvery)
	defer cancel()
	if _, err := lock(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v, want a deadline", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	again, err := lock(t.Context(), path)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
