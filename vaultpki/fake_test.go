package vaultpki

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	td       = "hedgerow.local"
	ordersID = "spiffe://hedgerow.local/svc/orders/n/edge7"
)

// fake speaks Vault's wire shapes over a localca, to fail as no real Vault can
// be made to. The tests on the real one are in real_test.go.
type fake struct {
	*httptest.Server
	ca *localca.CA

	mu     sync.Mutex
	tokens map[string]bool // alive
	calls  map[string]int  // by operation
	lease  int             // of tokens, seconds
	// answer, if set, answers instead when it returns true.
	answer func(operation string, w http.ResponseWriter) bool
}

func newFake(t *testing.T) *fake {
	t.Helper()
	ca, err := localca.Open(t.TempDir(), localca.Config{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{ca: ca, tokens: map[string]bool{}, calls: map[string]int{}, lease: 3600}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) count(operation string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[operation]
}

// revoke ends every token.
func (f *fake) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	operation := map[string]string{
		"/v1/auth/approle/login":     "login",
		"/v1/auth/token/renew-self":  "renew",
		"/v1/pki_mesh/sign/edge7":    "sign",
		"/v1/pki_mesh/issuers":       "issuers",
		"/v1/pki_mesh/issuer/1/json": "issuer",
		"/v1/sys/health":             "health",
		"/v1/transit/sign/hedgerow":  "transit",
	}[r.URL.Path]
	f.calls[operation]++
	token := r.Header.Get("X-Vault-Token")
	if f.answer != nil && f.answer(operation, w) {
		return
	}
	if (operation == "sign" || operation == "renew") && !f.tokens[token] {
		refuse(w, 403, "permission denied")
		return
	}
	if token != "" && (operation == "issuers" || operation == "issuer" || operation == "login") {
		refuse(w, 500, "a token was sent to "+operation)
		return
	}
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Bundle().Roots()[0].Raw}))
	switch operation {
	case "login":
		token = fmt.Sprintf("token-%d", f.calls["login"])
		f.tokens[token] = true
		fallthrough
	case "renew":
		reply(w, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": f.lease, "renewable": true}})
	case "sign":
		leaf, err := f.sign(r)
		if err != nil {
			refuse(w, 400, err.Error())
			return
		}
		reply(w, map[string]any{"data": map[string]any{"certificate": leaf, "issuing_ca": root, "ca_chain": []string{root}}})
	case "issuers":
		reply(w, map[string]any{"data": map[string]any{"keys": []string{"1"}}})
	case "issuer":
		reply(w, map[string]any{"data": map[string]any{"certificate": root, "ca_chain": []string{root}}})
	case "health":
		reply(w, map[string]any{"initialized": true, "sealed": false, "standby": false})
	default:
		refuse(w, 404, "no handler for route "+r.URL.Path)
	}
}

func (f *fake) sign(r *http.Request) (string, error) {
	var body struct {
		CSR string `json:"csr"`
		ID  string `json:"uri_sans"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return "", err
	}
	id, err := mesh.ParseID(body.ID)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode([]byte(body.CSR))
	if block == nil {
		return "", fmt.Errorf("no CSR")
	}
	issued, err := f.ca.Issue(r.Context(), identity.Request{ID: id, CSR: block.Bytes})
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Chain[0].Raw})), nil
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, words ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": words})
}

func (f *fake) config(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"role-id": "role\n", "secret-id": "secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{
		// A loaded machine is slow; TestSilentVaultTimesOut sets its own.
		Access: Access{
			Timeout:   time.Minute,
			Addresses: []string{f.URL},
			AppRole:   AppRole{RoleIDFile: filepath.Join(dir, "role-id"), SecretIDFile: filepath.Join(dir, "secret-id")},
		},
		Mount: "pki_mesh", Role: "edge7",
	}
}

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issue asks for a certificate and proves that a Source would take it.
func issue(t *testing.T, c *Client, uri string) (identity.Issued, error) {
	t.Helper()
	id, err := mesh.ParseID(uri)
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := identity.NewRequest(id)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := c.Issue(t.Context(), request)
	if err != nil {
		return issued, err
	}
	metrics, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.NewSource(id, metrics).Swap(key, issued); err != nil {
		t.Fatalf("a Source refuses what was issued: %v", err)
	}
	return issued, nil
}

// checkError holds an error to kind, one line, words and the presence of a hint.
func checkError(t *testing.T, err error, kind mesh.Kind, words string, hint bool) {
	t.Helper()
	switch {
	case err == nil:
		t.Error("no error")
	case mesh.KindOf(err) != kind || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n"):
		t.Errorf("error %q of kind %v, want one line with %q of kind %v", err, mesh.KindOf(err), words, kind)
	case (mesh.HintOf(err) != "") != hint:
		t.Errorf("hint %q, want one: %v", mesh.HintOf(err), hint)
	}
}

func verify(t *testing.T, leaf []*x509.Certificate, bundle *identity.Bundle) {
	t.Helper()
	if _, err := identity.VerifySVID(leaf, bundle, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
		t.Errorf("refused: %v", err)
	}
}
