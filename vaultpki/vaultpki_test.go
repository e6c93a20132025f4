package vaultpki

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

func TestConfig(t *testing.T) {
	good := Config{
		Access: Access{Addresses: []string{"https://10.0.0.6:8200"}, AppRole: AppRole{RoleIDFile: "a", SecretIDFile: "b"}},
		Mount:  "pki_mesh", Role: "edge7",
	}
	byCert := func(c *Config) { c.AppRole, c.Certificate = AppRole{}, Certificate{CertFile: "a", KeyFile: "b"} }
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // "" if it is good
	}{
		{"https", func(*Config) {}, ""},
		{"http on 127.0.0.1", func(c *Config) { c.Addresses = []string{"http://127.0.0.1:8200"} }, ""},
		{"http on ::1", func(c *Config) { c.Addresses = []string{"http://[::1]:8200"} }, ""},
		{"http on localhost", func(c *Config) { c.Addresses = []string{"http://localhost:8200"} }, ""},
		{"a mount of two segments", func(c *Config) { c.Mount = "site-3/pki" }, ""},
		{"http elsewhere", func(c *Config) { c.Addresses = []string{"http://10.0.0.6:8200"} }, "use https"},
		{"http on a name that begins with localhost", func(c *Config) { c.Addresses = []string{"http://localhost.evil:8200"} }, "use https"},
		{"http on a name that begins with 127", func(c *Config) { c.Addresses = []string{"http://127.0.0.1.evil:8200"} }, "use https"},
		{"an empty address", func(c *Config) { c.Addresses = []string{""} }, "address:"},
		{"no address", func(c *Config) { c.Addresses = nil }, "addresses: 0 of them"},
		{"an address without a scheme", func(c *Config) { c.Addresses = []string{"127.0.0.1:8200"} }, `"127.0.0.1:8200" is not an https URL`},
		{"addresses without end", func(c *Config) { c.Addresses = make([]string, 17) }, "addresses: 17 of them"},
		{"two addresses, the second over plain http", func(c *Config) { c.Addresses = append(c.Addresses, "http://10.0.0.7:8200") }, "use https"},
		{"a certificate", byCert, ""},
		{"a certificate that a function has", func(c *Config) {
			c.AppRole, c.Certificate = AppRole{}, Certificate{Current: func() (*tls.Certificate, error) { return nil, nil }}
		}, ""},
		{"a certificate without a key", func(c *Config) { byCert(c); c.Certificate.KeyFile = "" }, "go together"},
		{"a certificate over plain http", func(c *Config) { byCert(c); c.Addresses = []string{"http://127.0.0.1:8200"} }, "over https only"},
		{"a certificate and an AppRole", func(c *Config) { c.Certificate = Certificate{CertFile: "a", KeyFile: "b"} }, "one login is needed, there are 2"},
		{"no login", func(c *Config) { c.AppRole = AppRole{} }, "one login is needed, there are 0"},
		{"no scheme", func(c *Config) { c.Addresses = []string{"10.0.0.6:8200"} }, "address:"},
		{"a unix socket", func(c *Config) { c.Addresses = []string{"unix:///run/vault.sock"} }, "address:"},
		{"a path", func(c *Config) { c.Addresses = []string{"https://a/v1"} }, "scheme, host and port"},
		{"a user", func(c *Config) { c.Addresses = []string{"https://u:secret@a"} }, "scheme, host and port"},
		{"a query", func(c *Config) { c.Addresses = []string{"https://a?x=y"} }, "scheme, host and port"},
		{"no mount", func(c *Config) { c.Mount = "" }, "mount:"},
		{"a mount that climbs", func(c *Config) { c.Mount = "../sys" }, "mount:"},
		{"a mount with a slash too many", func(c *Config) { c.Mount = "pki/" }, "mount:"},
		{"a role that climbs", func(c *Config) { c.Role = "../../issue/x" }, "role:"},
		{"a role of dots", func(c *Config) { c.Role = ".." }, "role:"},
		{"a role with a query", func(c *Config) { c.Role = "a?b" }, "role:"},
		{"no role_id", func(c *Config) { c.AppRole.RoleIDFile = "" }, "appRole.roleIdFile"},
		{"no secret_id", func(c *Config) { c.AppRole.SecretIDFile = "" }, "appRole.secretIdFile"},
		{"a negative timeout", func(c *Config) { c.Timeout = -1 }, "timeout:"},
		{"a CA file that is not there", func(c *Config) { c.CAFile = "/nonexistent/ca.pem" }, "caFile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good
			tt.change(&cfg)
			_, err := New(cfg, zerolog.Nop(), prometheus.NewRegistry())
			if tt.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.want != "" {
				checkError(t, err, mesh.Invalid, tt.want, false)
			}
			if err != nil && strings.Contains(err.Error(), "secret@") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
	err := (&Config{}).Validate()
	for _, want := range []string{"address", "mount", "role", "roleIdFile", "certFile"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("of an empty Config, %q is not reported", want)
		}
	}
}

func TestIssue(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	for range 3 {
		issued, err := issue(t, c, ordersID)
		if err != nil {
			t.Fatal(err)
		}
		if len(issued.Chain) != 1 || len(issued.Bundle.Roots()) != 1 {
			t.Errorf("a chain of %d and %d roots", len(issued.Chain), len(issued.Bundle.Roots()))
		}
	}
	if f.count("login") != 1 || f.count("sign") != 3 || f.count("renew") != 0 {
		t.Errorf("calls %v, want one login and three signatures", f.calls)
	}
	if n := testutil.ToFloat64(c.metrics.requests.WithLabelValues("sign", "ok")); n != 3 {
		t.Errorf("%v signatures counted", n)
	}
}

func TestEnvironmentIsIgnored(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_ADDR": "https://elsewhere.invalid", "VAULT_TOKEN": "stray", "VAULT_NAMESPACE": "stray",
		"VAULT_HEADERS": `{"X-Stray":"1"}`, "VAULT_SKIP_VERIFY": "true",
	} {
		t.Setenv(name, value)
	}
	f := newFake(t)
	var seen http.Header
	inner := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/login") {
			seen = r.Header.Clone()
		}
		inner.ServeHTTP(w, r)
	})
	if _, err := issue(t, newClient(t, f.config(t)), ordersID); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"X-Vault-Token", "X-Vault-Namespace", "X-Stray"} {
		if seen.Get(name) != "" {
			t.Errorf("%s: %s was sent", name, seen.Get(name))
		}
	}
}

func TestTokenLife(t *testing.T) {
	for _, tt := range []struct {
		name             string
		spoil            func(f *fake, c *Client)
		logins, renewals int
	}{
		{"a fresh token is used again", func(*fake, *Client) {}, 1, 0},
		{"past half of its life it is renewed", func(_ *fake, c *Client) { age(c, 31*time.Minute) }, 1, 1},
		{"an expired one is replaced", func(_ *fake, c *Client) { age(c, time.Hour) }, 2, 0},
		{"one that cannot be renewed is replaced", func(f *fake, c *Client) {
			age(c, 31*time.Minute)
			f.revoke()
		}, 2, 1},
		{"a revoked one is replaced after its refusal", func(f *fake, _ *Client) { f.revoke() }, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			c := newClient(t, f.config(t))
			if _, err := issue(t, c, ordersID); err != nil {
				t.Fatal(err)
			}
			tt.spoil(f, c)
			if _, err := issue(t, c, ordersID); err != nil {
				t.Fatal(err)
			}
			if f.count("login") != tt.logins || f.count("renew") != tt.renewals {
				t.Errorf("%d logins and %d renewals, want %d and %d", f.count("login"), f.count("renew"), tt.logins, tt.renewals)
			}
		})
	}
}

// age makes the current session older.
func age(c *Client, by time.Duration) {
	s := *c.session.Load()
	s.renewAt, s.expires = s.renewAt.Add(-by), s.expires.Add(-by)
	c.session.Store(&s)
}

func TestATokenWithoutEndIsKept(t *testing.T) {
	f := newFake(t)
	f.lease = 0
	c := newClient(t, f.config(t))
	for range 2 {
		if _, err := issue(t, c, ordersID); err != nil {
			t.Fatal(err)
		}
	}
	if f.count("login") != 1 || f.count("renew") != 0 {
		t.Errorf("calls %v", f.calls)
	}
}

func TestManyCallersMakeOneLogin(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	together := func() {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				if _, err := issue(t, c, ordersID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	together()
	if n := f.count("login"); n != 1 {
		t.Errorf("%d logins at the start", n)
	}
	f.revoke()
	together()
	if n := f.count("login"); n != 2 {
		t.Errorf("%d logins after one revocation, want 2", n)
	}
}

func TestRefusals(t *testing.T) {
	at := func(operation string, status int, words ...string) func(string, http.ResponseWriter) bool {
		return func(op string, w http.ResponseWriter) bool {
			if op == operation {
				refuse(w, status, words...)
			}
			return op == operation
		}
	}
	raw := func(operation, body string) func(string, http.ResponseWriter) bool {
		return func(op string, w http.ResponseWriter) bool {
			if op == operation {
				_, _ = w.Write([]byte(body))
			}
			return op == operation
		}
	}
	for _, tt := range []struct {
		name   string
		answer func(string, http.ResponseWriter) bool
		kind   mesh.Kind
		words  string
		hint   bool
	}{
		{"sealed at login", at("login", 503, "Vault is sealed"), mesh.Unavailable, "vaultpki.Login edge7: Vault is sealed", true},
		{"sealed at sign", at("sign", 503, "Vault is sealed"), mesh.Unavailable, "Vault is sealed", true},
		{"a wrong secret_id", at("login", 400, "invalid role or secret ID"), mesh.Unauthentic, "invalid role or secret ID", true},
		{"a policy that does not allow the role", at("sign", 403, "1 error occurred:\n\t* permission denied\n\n"), mesh.Denied, "1 error occurred: * permission denied", true},
		{"an identity the role does not allow", at("sign", 400, "URI Subject Alternative Names were provided which are not allowed by this role"), mesh.Denied, ordersID + ": URI Subject", true},
		{"a token that Vault does not know", at("sign", 403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"), mesh.Denied, "invalid token", true},
		{"a server of https", at("sign", 400, "Client sent an HTTP request to an HTTPS server."), mesh.Unavailable, "HTTPS server", true},
		{"an unknown role", at("sign", 400, "unknown role: edge7"), mesh.NotFound, "unknown role", true},
		{"an unknown mount", at("sign", 404, "no handler for route"), mesh.NotFound, "no handler", true},
		{"a bad CSR", at("sign", 400, "the CSR is bad"), mesh.Invalid, "the CSR is bad", false},
		{"too many requests", at("sign", 429, "rate limit"), mesh.Unavailable, "rate limit", false},
		{"a standby that does not forward", at("sign", 473), mesh.Unavailable, "", false},
		{"an internal error without words", at("sign", 500), mesh.Unavailable, "Internal Server Error", false},
		{"HTML from something in between", func(op string, w http.ResponseWriter) bool {
			w.WriteHeader(502)
			_, _ = w.Write([]byte("<html>\n<body>bad gateway\n"))
			return true
		}, mesh.Unavailable, "bad gateway", false},
		{"issuers that cannot be listed", at("issuers", 500, "storage is away"), mesh.Unavailable, "vaultpki.ReadIssuers edge7: storage is away", false},
		{"an issuer that cannot be read", at("issuer", 404), mesh.Unavailable, "issuer", false},
		{"no token in the answer", raw("login", `{"auth":{}}`), mesh.Unavailable, "holds no token", false},
		{"an empty answer to login", raw("login", ``), mesh.Unavailable, "", false},
		{"an answer that is not JSON", raw("sign", `{{`), mesh.Unavailable, "", true},
		{"no certificate", raw("sign", `{"data":{}}`), mesh.Unavailable, "0 certificates", false},
		{"a certificate that is none", raw("sign", `{"data":{"certificate":"x","ca_chain":["y"]}}`), mesh.Unavailable, "certificate: not PEM", false},
		{"a certificate that is a number", raw("sign", `{"data":{"certificate":7}}`), mesh.Unavailable, "neither a string nor a list", false},
		{"a chain of numbers", raw("sign", `{"data":{"ca_chain":[7]}}`), mesh.Unavailable, "not a list of strings", false},
		{"no issuers", raw("issuers", `{"data":{"keys":[]}}`), mesh.Unavailable, "0 issuers", false},
		{"issuers without end", raw("issuers", `{"data":{"keys":[`+strings.Repeat(`"1",`, 40)+`"1"]}}`), mesh.Unavailable, "41 issuers", false},
		{"an issuer without certificate", raw("issuer", `{"data":{"certificate":"-"}}`), mesh.Unavailable, "not PEM", false},
		{"an answer without end", raw("sign", `{"data":"`+strings.Repeat("x", 2<<20)), mesh.Unavailable, "too large", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.answer = tt.answer
			_, err := issue(t, newClient(t, f.config(t)), ordersID)
			checkError(t, err, tt.kind, tt.words, tt.hint)
			if f.count("login") > 2 || f.count("sign") > 2 {
				t.Errorf("calls %v: one failure made a storm", f.calls)
			}
		})
	}
}

func TestSecretFiles(t *testing.T) {
	f := newFake(t)
	cfg := f.config(t)
	c := newClient(t, cfg)
	for _, file := range []string{cfg.AppRole.RoleIDFile, cfg.AppRole.SecretIDFile} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		_, err = issue(t, c, ordersID)
		checkError(t, err, mesh.Unauthentic, "no such file", true)
		if err := os.WriteFile(file, []byte(" \n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = issue(t, c, ordersID)
		checkError(t, err, mesh.Unauthentic, "is empty", true)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Files put right later are read at the next attempt.
	if _, err := issue(t, c, ordersID); err != nil {
		t.Error(err)
	}
}

func TestUnreachable(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	f.Close()
	_, err := issue(t, c, ordersID)
	checkError(t, err, mesh.Unavailable, "connection refused", true)
	checkError(t, c.Probe(t.Context()), mesh.Unavailable, "connection refused", true)
}

func TestSilentVaultTimesOut(t *testing.T) {
	release := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer silent.Close()
	defer close(release)
	cfg := newFake(t).config(t)
	cfg.Addresses, cfg.Timeout = []string{silent.URL}, 50*time.Millisecond
	begin := time.Now()
	_, err := issue(t, newClient(t, cfg), ordersID)
	checkError(t, err, mesh.Unavailable, "", true)
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// Who waits for another's login heeds its own context.
func TestWaitingForALoginIsCancelled(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	c.loginSlot <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, request, err := identity.NewRequest(mustParse(t, ordersID))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Issue(ctx, request)
	checkError(t, err, mesh.Unavailable, "deadline exceeded", true)
}

func mustParse(t *testing.T, s string) mesh.ID {
	t.Helper()
	id, err := mesh.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A redirect must not carry the token to where others can read it.
func TestRedirectToPlainHTTPIsRefused(t *testing.T) {
	f := newFake(t)
	f.answer = func(op string, w http.ResponseWriter) bool {
		if op == "sign" {
			w.Header().Set("Location", "http://vault.example.invalid/v1/pki_mesh/sign/edge7")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
		return op == "sign"
	}
	_, err := issue(t, newClient(t, f.config(t)), ordersID)
	checkError(t, err, mesh.Unavailable, "plain http to vault.example.invalid", true)
}

func TestProbe(t *testing.T) {
	f := newFake(t)
	c := newClient(t, f.config(t))
	for body, words := range map[string]string{
		`{"initialized":true,"sealed":false,"standby":true}`:   "",
		`{"initialized":true,"sealed":true,"standby":true}`:    "Vault is sealed",
		`{"initialized":false,"sealed":true,"standby":true}`:   "not initialized",
		`{"errors":["storage is away"]}`:                       "not initialized",
		`{`:                                                    "unexpected EOF",
		`{"initialized":true,"sealed":false,"standby":false} `: "",
	} {
		f.answer = func(_ string, w http.ResponseWriter) bool {
			_, _ = w.Write([]byte(body))
			return true
		}
		err := c.Probe(t.Context())
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words) || mesh.KindOf(err) != mesh.Unavailable) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// FuzzSigned feeds the reader of Vault's answer to sign.
func FuzzSigned(f *testing.F) {
	f.Add([]byte(`{"certificate":"x","ca_chain":["y"],"issuing_ca":"z"}`))
	f.Add([]byte(`{"certificate":["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]}`))
	f.Add([]byte(`{"ca_chain":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var secret struct{ Data map[string]any }
		if json.Unmarshal(data, &secret.Data) != nil {
			return
		}
		chain, roots, err := parseSigned(secretOf(secret.Data))
		if err == nil && (len(chain) == 0 || len(roots) == 0) {
			t.Fatalf("%d certificates, %d roots and no error", len(chain), len(roots))
		}
	})
}

// What Vault answers is a signature of the key that was delegated to, or none.
func TestSignerVerifies(t *testing.T) {
	f := newFake(t)
	f.answer = func(op string, w http.ResponseWriter) bool {
		if op == "transit" {
			reply(w, map[string]any{"data": map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))}})
		}
		return op == "transit"
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &Signer{v: newClient(t, f.config(t)).Vault, version: 1, public: public}
	_, _, err = s.Sign(t.Context(), []byte("head"))
	checkError(t, err, mesh.Unavailable, "not the key's signature", false)
}
