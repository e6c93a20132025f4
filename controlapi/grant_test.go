package controlapi

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/jwt"
)

// authority signs client certificates.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, a.cert = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, time.Hour)
	return a
}

func (a *authority) sign(template *x509.Certificate, life time.Duration) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(life)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

// client returns a certificate for uris and the common name.
func (a *authority) client(cn string, uris ...string) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	key, cert := a.sign(template, time.Hour)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// withCertificates has the API serve TLS, and take certificates of a by grants.
func withCertificates(t *testing.T, a *authority, grants ...CertificateGrant) func(*Options) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	key, cert := a.sign(&x509.Certificate{DNSNames: []string{"localhost"}}, time.Hour)
	return func(o *Options) {
		o.TLS = &tls.Config{
			MinVersion: tls.VersionTLS12, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, SessionTicketsDisabled: true,
			Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}},
		}
		o.Certificates, o.TrustDomain = grants, "hedgerow.local"
	}
}

// over sends a request on a TLS connection of its own, with cert if there is one, and
// returns the status, 0 if the handshake was refused.
func (a *api) over(ca *authority, cert *tls.Certificate, method, path, body string, headers ...string) int {
	a.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}
	config.RootCAs.AddCert(ca.cert)
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(a.t.Context(), method, "https://"+a.addr+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return 0
	}
	if err := resp.Body.Close(); err != nil {
		a.t.Error(err)
	}
	return resp.StatusCode
}

func TestClientCertificates(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	var c clock
	a := newAPI(t, withCertificates(t, ca,
		CertificateGrant{ID: "/op/alice", Role: "admin"},
		CertificateGrant{ID: "/op/*", Role: "viewer", Scopes: []mesh.Scope{{Collections: []string{"services"}}}},
		CertificateGrant{Subject: "CN=carol", Role: "editor"},
	), func(o *Options) { o.Now = c.now })
	const read, write, node = "GET /v1/services", "PUT /v1/services/s", "GET /v1/nodes/n"
	for _, tt := range []struct {
		name string
		cert tls.Certificate
		do   string
		want int
	}{
		{"an identity", ca.client("", "spiffe://hedgerow.local/op/alice"), write, 200},
		{"a pattern of identities", ca.client("", "spiffe://hedgerow.local/op/bob"), read, 200},
		{"its role", ca.client("", "spiffe://hedgerow.local/op/bob"), write, 403},
		{"its scopes", ca.client("", "spiffe://hedgerow.local/op/bob"), node, 403},
		{"a subject", ca.client("carol"), write, 200},
		{"another subject", ca.client("carola"), read, 401},
		{"nobody", ca.client("", ""), read, 401},
		{"of another trust domain", ca.client("", "spiffe://evil.local/op/alice"), read, 401},
		{"a deeper path", ca.client("", "spiffe://hedgerow.local/op/alice/x"), read, 401},
		{"a path that climbs", ca.client("", "spiffe://hedgerow.local/svc/../op/alice"), read, 401},
		{"two identities", ca.client("", "spiffe://hedgerow.local/op/alice", "spiffe://hedgerow.local/op/bob"), read, 401},
		{"a workload", ca.client("", "spiffe://hedgerow.local/svc/op/n/alice"), read, 401},
		{"a node whose name is a subject's", ca.client("carol", "spiffe://hedgerow.local/node/carol"), read, 401},
		{"by another CA", other.client("", "spiffe://hedgerow.local/op/alice"), read, 0},
	} {
		method, path, _ := strings.Cut(tt.do, " ")
		if got := a.over(ca, &tt.cert, method, path, "{}"); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
	alice := ca.client("", "spiffe://hedgerow.local/op/alice")
	if got := a.over(ca, &alice, "GET", "/v1/services", "", "Authorization", "Bearer wrong-token-0123456789"); got != 401 {
		t.Errorf("a wrong token beside a certificate: %d", got)
	}
	if got := a.over(ca, &alice, "PUT", "/v1/services/s", "{}", "Content-Type", "text/plain"); got != 415 {
		t.Errorf("what a form could send: %d", got)
	}
	if got := a.over(ca, nil, "GET", "/v1/services", "", "Authorization", "Bearer "+testToken); got != 200 {
		t.Errorf("a token without a certificate: %d", got)
	}
	if last := a.log.changes[0]; last.Actor != "spiffe://hedgerow.local/op/alice" {
		t.Errorf("the log names %q", last.Actor)
	}
	c.ahead.Store(int64(2 * time.Hour))
	if got := a.over(ca, &alice, "GET", "/v1/services", ""); got != 401 {
		t.Errorf("a certificate that expired after the handshake: %d", got)
	}
}

func TestGrantsThatAreRefused(t *testing.T) {
	for name, g := range map[string]CertificateGrant{
		"of nobody":        {Role: "admin"},
		"of two":           {ID: "/op/a", Subject: "CN=a", Role: "admin"},
		"of no role":       {ID: "/op/a"},
		"of another role":  {ID: "/op/a", Role: "root"},
		"for tokens":       {ID: "/op/a", Role: "admin", Scopes: []mesh.Scope{{Collections: []string{"tokens"}}}},
		"of workloads":     {ID: "/svc/orders", Role: "admin"},
		"of anybody":       {ID: "/*", Role: "admin"},
		"of other domains": {ID: "spiffe://evil/op/a", Role: "admin"},
	} {
		if _, err := certificateGrants([]CertificateGrant{g}, "hedgerow.local"); err == nil || !strings.Contains(err.Error(), "certificates[0]") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]*OIDC{
		"none":             {},
		"without a claim":  {Grants: []ClaimGrant{{Value: "x", Role: "viewer"}}},
		"of every value":   {Grants: []ClaimGrant{{Claim: "x", Role: "viewer"}}},
		"without a role":   {Grants: []ClaimGrant{{Claim: "x", Value: "y"}}},
		"of an empty role": {Grants: []ClaimGrant{{Claim: "x", Value: "y", Role: " "}}},
	} {
		if _, err := claimGrants(o); err == nil || !strings.Contains(err.Error(), "oidc.grants") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// issuer signs tokens.
type issuer struct {
	t   *testing.T
	key *rsa.PrivateKey
}

const issuerURL = "https://id.test"

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, key}
}

func (i *issuer) keyring() *jwt.Keyring {
	i.t.Helper()
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "k", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	keys, err := jwt.ParseKeySet(raw)
	if err != nil {
		i.t.Fatal(err)
	}
	return jwt.Fixed(keys)
}

func (i *issuer) sign(header, claims string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	sum := sha256.Sum256([]byte(input))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, 5, sum[:]) // crypto.SHA256
	if err != nil {
		i.t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// hmacSigned is what a verifier takes that lets the token choose the algorithm.
func (i *issuer) hmacSigned(claims string) string {
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		i.t.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"k"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(input))
	return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Row 42 of the hostile inputs, at the server; package jwt has the whole table.
func TestBearerTokensOfOIDC(t *testing.T) {
	var asked atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer trap.Close()
	i := newIssuer(t)
	a := newAPI(t, func(o *Options) {
		o.OIDC = &OIDC{Verifier: jwt.NewVerifier(jwt.Rules{Issuer: issuerURL, Audiences: []string{"mesh"}}, i.keyring()), Grants: []ClaimGrant{
			{Claim: "groups", Value: "ops", Role: "admin"},
			{Claim: "groups", Value: "shop", Role: "editor", Scopes: []mesh.Scope{{Labels: mesh.Labels{"team": "shop"}}}},
		}}
	})
	const header = `{"alg":"RS256","kid":"k"}`
	exp := time.Now().Add(time.Hour).Unix()
	claims := func(groups string) string {
		return fmt.Sprintf(`{"iss":%q,"aud":"mesh","sub":"alice","groups":[%q],"exp":%d}`, issuerURL, groups, exp)
	}
	none := func(alg string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"`+alg+`","kid":"k"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims("ops"))) + "."
	}
	ops := i.sign(header, claims("ops"))
	for _, tt := range []struct {
		name, token, do, body string
		want                  int
	}{
		{"a group's role", ops, "PUT /v1/services/s", `{}`, 200},
		{"an admin's", ops, "GET /v1/tokens", "", 200},
		{"a group's scopes", i.sign(header, claims("shop")), "PUT /v1/services/s2", shopService, 200},
		{"beyond its scopes", i.sign(header, claims("shop")), "PUT /v1/services/s2", bankService, 403},
		{"of no group", i.sign(header, claims("none")), "GET /v1/services", "", 403},
		{"alg none", none("none"), "GET /v1/services", "", 401},
		{"alg none and a signature", none("NONE") + "AAAA", "GET /v1/services", "", 401},
		{"HS256 with the public key", i.hmacSigned(claims("ops")), "GET /v1/services", "", 401},
		{"kid is a path", i.sign(`{"alg":"RS256","kid":"../../dev/null"}`, claims("ops")), "GET /v1/services", "", 401},
		{"kid is SQL", i.sign(`{"alg":"RS256","kid":"x' OR 1=1 --"}`, claims("ops")), "GET /v1/services", "", 401},
		{"kid is a URL", i.sign(`{"alg":"RS256","kid":"`+trap.URL+`"}`, claims("ops")), "GET /v1/services", "", 401},
		{"another's key at jku", newIssuer(t).sign(`{"alg":"RS256","kid":"k","jku":"`+trap.URL+`"}`, claims("ops")), "GET /v1/services", "", 401},
		{"another's key at x5u", newIssuer(t).sign(`{"alg":"RS256","kid":"k","x5u":"`+trap.URL+`"}`, claims("ops")), "GET /v1/services", "", 401},
		{"a wrong audience", i.sign(header, strings.Replace(claims("ops"), `"mesh"`, `"shop"`, 1)), "GET /v1/services", "", 401},
		{"a wrong issuer", i.sign(header, strings.Replace(claims("ops"), issuerURL, issuerURL+"/", 1)), "GET /v1/services", "", 401},
		{"not yet", i.sign(header, strings.Replace(claims("ops"), `"exp"`, fmt.Sprintf(`"nbf":%d,"exp"`, exp-60), 1)), "GET /v1/services", "", 401},
		{"expired", i.sign(header, strings.Replace(claims("ops"), fmt.Sprint(exp), "1", 1)), "GET /v1/services", "", 401},
		{"for ever", i.sign(header, strings.Replace(claims("ops"), fmt.Sprintf(`,"exp":%d`, exp), "", 1)), "GET /v1/services", "", 401},
		{"huge", i.sign(header, strings.Replace(claims("ops"), "alice", strings.Repeat("a", 40<<10), 1)), "GET /v1/services", "", 401},
		{"duplicate claims", i.sign(header, strings.Replace(claims("none"), `"groups"`, `"groups":["ops"],"groups"`, 1)), "GET /v1/services", "", 401},
		{"changed", ops[:len(ops)-4] + "AAAA", "GET /v1/services", "", 401},
		{"of nobody", i.sign(header, strings.Replace(claims("ops"), `"sub":"alice",`, "", 1)), "GET /v1/services", "", 401},
		{"whose name is lines", i.sign(header, strings.Replace(claims("ops"), `alice`, `a\nactor=root`, 1)), "GET /v1/services", "", 401},
	} {
		method, path, _ := strings.Cut(tt.do, " ")
		if got := a.do(method, path, tt.body, as(tt.token)...); got.status != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, got.status, got.body, tt.want)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("tokens had %d requests made", n)
	}
	if a.log.changes[0].Actor != "oidc:alice" {
		t.Errorf("the log names %q", a.log.changes[0].Actor)
	}
}
