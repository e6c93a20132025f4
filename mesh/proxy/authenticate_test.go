package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// issuer signs tokens.
type issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
	id  string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, key, "k1"}
}

func (i *issuer) jwks() string {
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.id, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	return string(raw)
}

// token returns one for a quarter of an hour, with these claims besides.
func (i *issuer) token(claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": "https://id.test", "aud": "shop", "sub": "alice", "exp": time.Now().Add(15 * time.Minute).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	payload, err := json.Marshal(all)
	if err != nil {
		i.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.id}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// authenticator returns one of the issuer at a target.
func (i *issuer) authenticator(id string, target mesh.AuthenticatorTarget) *mesh.Authenticator {
	return &mesh.Authenticator{
		Meta: mesh.Meta{Name: "authenticators/" + id}, Targets: []mesh.AuthenticatorTarget{target},
		JWT: &mesh.AuthenticatorJWT{
			Issuer: "https://id.test", Audiences: []string{"shop"}, JWKS: i.jwks(),
			ForwardClaims: []mesh.ForwardClaim{{Claim: "sub", Header: "x-user"}, {Claim: "groups", Header: "X-Groups"}},
		},
	}
}

// The API keys of the tests.
const (
	billingKey = "billing-0123456789abcdef"
	shortKey   = "short"
)

func apiKeys(id string, target mesh.AuthenticatorTarget) *mesh.Authenticator {
	hash := func(key string) string {
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	return &mesh.Authenticator{
		Meta: mesh.Meta{Name: "authenticators/" + id}, Targets: []mesh.AuthenticatorTarget{target},
		APIKey: &mesh.AuthenticatorAPIKey{
			Keys:          []mesh.APIKey{{Name: "billing", SHA256: hash(billingKey)}, {Name: "small", SHA256: hash(shortKey)}},
			ForwardClaims: []mesh.ForwardClaim{{Claim: "sub", Header: "x-client"}},
		},
	}
}

// attempt is a request, and what becomes of it.
type attempt struct {
	name   string
	path   string      // /x if empty
	header http.Header // as it is sent: names in these spellings
	status int
	reason string // in the decision record
	by     string // likewise: the authenticator
	user   string // X-User at the workload
	client string // X-Client
	groups string
}

func fields(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i+1 < len(pairs); i += 2 {
		h[pairs[i]] = append(h[pairs[i]], pairs[i+1])
	}
	return h
}

// try makes the attempts at en.
func try(t *testing.T, en *entry, last *atomic.Pointer[seen], attempts []attempt) {
	t.Helper()
	for _, r := range attempts {
		t.Run(r.name, func(t *testing.T) {
			path := r.path
			if path == "" {
				path = "/x"
			}
			req := en.request(t, http.MethodGet, path, nil)
			for name, values := range r.header {
				req.Header[name] = values
			}
			last.Store(nil)
			a := en.do(t, req)
			if a.StatusCode != r.status {
				t.Fatalf("got %d %s, want %d", a.StatusCode, a.body, r.status)
			}
			got := last.Load()
			if r.status == 200 {
				if got == nil {
					t.Fatal("the workload got nothing")
				}
				for name, want := range map[string]string{"X-User": r.user, "X-Client": r.client, "X-Groups": r.groups} {
					if have := strings.Join(got.header[name], "|"); have != want {
						t.Errorf("the workload got %s: %q, want %q", name, have, want)
					}
				}
				for name, values := range got.header {
					if strings.Contains(strings.Join(values, " "), "spoofed") {
						t.Errorf("the workload got %s: %q", name, values)
					}
				}
				return
			}
			if got != nil {
				t.Error("the workload got the request")
			}
			code := map[int]string{401: proxy.CodeUnauthenticated, 403: proxy.CodeDenied, 503: proxy.CodeAuthUnavailable}[r.status]
			wantProblem(t, a, r.status, code)
			challenge := a.Header.Get("WWW-Authenticate")
			if (r.status == 401) != (challenge != "") || strings.Contains(challenge, "error") != (r.status == 401 && r.reason != proxy.ReasonCredentialMissing && strings.Contains(challenge, "Bearer")) {
				t.Errorf("WWW-Authenticate is %q", challenge)
			}
			var rec proxy.Record
			decisions(t, en, "/decisions/"+a.Header.Get("Hedgerow-Decision"), &rec)
			if r.status == 403 {
				if rec.Authorization == nil || rec.Authorization.Reason != r.reason {
					t.Errorf("the record is %+v", rec.Authorization)
				}
				return
			}
			if rec.Authentication == nil || rec.Authentication.Reason != r.reason || rec.Authentication.Authenticator != r.by || rec.Authentication.Detail == "" {
				t.Errorf("the record is %+v, want %s by %q", rec.Authentication, r.reason, r.by)
			}
			if r.reason != "" && strings.Contains(a.body+fmt.Sprint(a.Header), r.reason) {
				t.Errorf("the caller is told why: %s %v", a.body, a.Header)
			}
		})
	}
}

func TestTokensAtAGateway(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", nil)
		i, stranger := newIssuer(t), newIssuer(t)
		w.put(i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"}))
		en := w.gateway(m)
		w.publish()
		good := i.token(map[string]any{"groups": []string{"a", "b"}})
		try(t, en, &last, []attempt{
			{name: "a token", header: fields("Authorization", "Bearer "+good), status: 200, user: "alice", groups: "a,b"},
			{name: "the same again", header: fields("Authorization", "Bearer "+good), status: 200, user: "alice", groups: "a,b"},
			{name: "in other letters", header: fields("authorization", "bEARER   "+good), status: 200, user: "alice", groups: "a,b"},
			{name: "what it forwards cannot be sent", header: fields("Authorization", "Bearer "+i.token(nil), "X-User", "spoofed", "x_user", "spoofed", "X.User", "spoofed", "X-Groups", "spoofed", "x-GROUPS", "spoofed"),
				status: 200, user: "alice"},
			{name: "a claim that no header can carry", header: fields("Authorization", "Bearer "+i.token(map[string]any{"sub": "a\r\nx-admin: 1"})), status: 200},
			{name: "none", status: 401, reason: proxy.ReasonCredentialMissing},
			{name: "none, for a route that is not there", path: "/nowhere", header: fields("Host", "nobody.test"), status: 401, reason: proxy.ReasonCredentialMissing},
			{name: "another scheme", header: fields("Authorization", "Basic YTpi"), status: 401, reason: proxy.ReasonCredentialMissing},
			{name: "a scheme alone", header: fields("Authorization", "Bearer"), status: 401, reason: proxy.ReasonCredentialMissing},
			{name: "two", header: fields("Authorization", "Bearer "+good, "Authorization", "Bearer "+i.token(map[string]any{"sub": "bob"})), status: 401, reason: proxy.ReasonCredentialRepeated},
			{name: "the same twice", header: fields("Authorization", "Bearer "+good, "authorization", "Bearer "+good), status: 401, reason: proxy.ReasonCredentialRepeated},
			{name: "two in one field", header: fields("Authorization", "Bearer "+good+", Bearer "+good), status: 401, reason: "TOKEN_MALFORMED", by: "shop"},
			{name: "in the query", path: "/x?access_token=" + good, status: 401, reason: proxy.ReasonCredentialMissing},
			{name: "expired", header: fields("Authorization", "Bearer "+i.token(map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})), status: 401, reason: "TOKEN_EXPIRED", by: "shop"},
			{name: "for others", header: fields("Authorization", "Bearer "+i.token(map[string]any{"aud": "bank"})), status: 401, reason: "TOKEN_AUDIENCE", by: "shop"},
			{name: "by others", header: fields("Authorization", "Bearer "+i.token(map[string]any{"iss": "https://evil.test"})), status: 401, reason: "TOKEN_ISSUER", by: "shop"},
			{name: "signed by others", header: fields("Authorization", "Bearer "+stranger.token(nil)), status: 401, reason: "TOKEN_SIGNATURE", by: "shop"},
			{name: "a client's own name", header: fields("X-User", "alice"), status: 401, reason: proxy.ReasonCredentialMissing},
		})
		if n := counted(t, en.registry, "hedgerow_authenticator_credentials_total", map[string]string{"authenticator": "shop", "outcome": "ACCEPTED"}); n != 5 {
			t.Errorf("%v accepted", n)
		}
		if n := counted(t, en.registry, "hedgerow_authenticator_credentials_total", map[string]string{"authenticator": "shop", "outcome": "TOKEN_EXPIRED"}); n != 1 {
			t.Errorf("%v expired", n)
		}
		if logs := w.logs.String(); strings.Contains(logs, good[len(good)-20:]) || !strings.Contains(logs, "TOKEN_EXPIRED") {
			t.Error("the log has a token, or not why one was refused")
		}
	})
}

// What a client sends after its body cannot become a header that tells of claims.
func TestForwardedClaimsAreNoTrailers(t *testing.T) {
	w := newWorld(t)
	i := newIssuer(t)
	trailers := make(chan http.Header, 1)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer.Clone()
	}), nil)
	w.route("orders", nil)
	w.put(i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"}))
	en := w.gateway(overH1)
	w.publish()
	reply := raw(t, en.addr, "POST /x HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer "+i.token(nil)+"\r\nTrailer: X-User, X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"+
		"3\r\nabc\r\n0\r\nX-User: root\r\nx_user: root\r\nX-Sum: 1\r\n\r\n")
	if statusOf(t, reply) != 200 {
		t.Fatal(reply)
	}
	if got := <-trailers; got.Get("X-Sum") != "1" || strings.Contains(fmt.Sprint(got), "root") {
		t.Errorf("the workload got trailers %v", got)
	}
}

// Of several authenticators one has to be satisfied, of several targets each.
func TestSeveralAuthenticators(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	backend := []mesh.Backend{{Service: "orders"}}
	route := func(id, prefix string) {
		w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"shop.test"},
			Rules: []mesh.RouteRule{{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: prefix}}}, Backends: backend}}})
	}
	route("shop", "/x")
	route("either", "/either")
	route("both", "/both")
	route("maybe", "/maybe")
	i, other := newIssuer(t), newIssuer(t)
	w.put(i.authenticator("either-token", mesh.AuthenticatorTarget{Route: "either"}))
	w.put(apiKeys("either-key", mesh.AuthenticatorTarget{Route: "either"}))
	second := other.authenticator("either-other", mesh.AuthenticatorTarget{Route: "either"})
	second.JWT.Issuer, second.JWT.Audiences = "https://other.test", nil
	w.put(second)
	bank := i.authenticator("either-bank", mesh.AuthenticatorTarget{Route: "either"})
	bank.JWT.Audiences = []string{"bank"}
	w.put(bank)
	maybe := i.authenticator("maybe", mesh.AuthenticatorTarget{Route: "maybe"})
	maybe.Optional = true
	w.put(maybe)
	w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/maybe"}, Target: &mesh.PolicyTarget{Route: "maybe"}, Action: mesh.Deny,
		Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Paths: []string{"/maybe/members/**"}}}, When: `!("sub" in auth.claims)`}}})
	w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/both"}, Target: &mesh.PolicyTarget{Route: "both"}, Action: mesh.Allow,
		Rules: []mesh.PolicyRule{{From: []mesh.PolicyFrom{{Claims: []mesh.PolicyClaim{{Name: "sub", Values: []string{"billing"}}}}}}}})
	w.put(apiKeys("both", mesh.AuthenticatorTarget{Route: "both"}))
	en := w.gateway(overH1)
	w.publish()
	token, bearer := i.token(nil), "Bearer "
	try(t, en, &last, []attempt{
		{name: "a route that asks nothing", status: 200},
		{name: "a token", path: "/either", header: fields("Authorization", bearer+token), status: 200, user: "alice"},
		{name: "a key", path: "/either", header: fields("X-Api-Key", billingKey), status: 200, client: "billing"},
		{name: "a token by the other issuer", path: "/either", header: fields("Authorization", bearer+other.token(map[string]any{"iss": "https://other.test", "sub": "bob"})), status: 200, user: "bob"},
		{name: "a token for the other audience", path: "/either", header: fields("Authorization", bearer+i.token(map[string]any{"aud": "bank"})), status: 200, user: "alice"},
		{name: "nothing", path: "/either", status: 401, reason: proxy.ReasonCredentialMissing},
		{name: "a key of nobody", path: "/either", header: fields("X-Api-Key", billingKey+"x"), status: 401, reason: proxy.ReasonKeyNotKnown, by: "either-key"},
		{name: "a key's hash", path: "/either", header: fields("X-Api-Key", apiKeys("", mesh.AuthenticatorTarget{}).APIKey.Keys[0].SHA256), status: 401, reason: proxy.ReasonKeyNotKnown, by: "either-key"},
		{name: "a key that is too short to count", path: "/either", header: fields("X-Api-Key", shortKey), status: 401, reason: proxy.ReasonKeyNotKnown, by: "either-key"},
		{name: "a token and a key", path: "/either", header: fields("Authorization", bearer+token, "X-Api-Key", billingKey), status: 401, reason: proxy.ReasonCredentialRepeated},
		{name: "a bad token and a key", path: "/either", header: fields("Authorization", bearer+"x", "X-Api-Key", billingKey), status: 401, reason: proxy.ReasonCredentialRepeated},
		{name: "headers of claims, where nothing is asked", header: fields("X-User", "spoofed", "X-Client", "spoofed"), status: 200},
		{name: "the claim of a policy", path: "/both", header: fields("X-Api-Key", billingKey), status: 200, client: "billing"},
		{name: "optional, with a token", path: "/maybe", header: fields("Authorization", bearer+token), status: 200, user: "alice"},
		{name: "optional, without", path: "/maybe", status: 200},
		{name: "optional, with a bad one", path: "/maybe", header: fields("Authorization", bearer+"x"), status: 401, reason: "TOKEN_MALFORMED", by: "maybe"},
		{name: "optional, where a policy wants a member", path: "/maybe/members/1", status: 403, reason: "DENY_MATCHED"},
		{name: "optional, by a member", path: "/maybe/members/1", header: fields("Authorization", bearer+token), status: 200, user: "alice"},
	})
}

// Policies ask for claims, by lists and by conditions; a denial says which policy came nearest.
func TestPoliciesByClaims(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	i := newIssuer(t)
	w.put(i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"}))
	allow := func(id, path string, rule mesh.PolicyRule) {
		rule.To = []mesh.PolicyTo{{Paths: []string{path}}}
		w.put(&mesh.Policy{Meta: mesh.Meta{Name: "policies/" + id}, Target: &mesh.PolicyTarget{Gateway: "edge"}, Action: mesh.Allow, Rules: []mesh.PolicyRule{rule}})
	}
	allow("admins", "/admin", mesh.PolicyRule{From: []mesh.PolicyFrom{{Claims: []mesh.PolicyClaim{{Name: "groups", Values: []string{"admins", "root"}}, {Name: "tenant", Values: []string{"7"}}}}}})
	allow("readers", "/read", mesh.PolicyRule{From: []mesh.PolicyFrom{{Claims: []mesh.PolicyClaim{{Name: "scope", Values: []string{"orders:read"}}}}}})
	allow("nested", "/nested", mesh.PolicyRule{When: `auth.authenticator == "shop" && "auditor" in auth.claims.realm.roles && auth.claims.level >= 3`})
	en := w.gateway(overH1)
	w.publish()
	with := func(claims map[string]any) http.Header {
		return fields("Authorization", "Bearer "+i.token(claims))
	}
	try(t, en, &last, []attempt{
		{name: "both claims", path: "/admin", header: with(map[string]any{"groups": []string{"x", "admins"}, "tenant": 7}), status: 200, user: "alice", groups: "x,admins"},
		{name: "one of them", path: "/admin", header: with(map[string]any{"groups": "admins"}), status: 403, reason: "NO_ALLOW_MATCHED"},
		{name: "the other", path: "/admin", header: with(map[string]any{"tenant": 7}), status: 403, reason: "NO_ALLOW_MATCHED"},
		{name: "in a list of lists", path: "/admin", header: with(map[string]any{"groups": []any{[]string{"admins"}}, "tenant": 7}), status: 403, reason: "NO_ALLOW_MATCHED"},
		{name: "a scope", path: "/read", header: with(map[string]any{"scope": "openid orders:read"}), status: 200, user: "alice"},
		{name: "a scope that begins alike", path: "/read", header: with(map[string]any{"scope": "orders:readwrite"}), status: 403, reason: "NO_ALLOW_MATCHED"},
		{name: "a condition", path: "/nested", header: with(map[string]any{"realm": map[string]any{"roles": []string{"auditor"}}, "level": 3}), status: 200, user: "alice"},
		{name: "a condition that is false", path: "/nested", header: with(map[string]any{"realm": map[string]any{"roles": []string{"auditor"}}, "level": 2}), status: 403, reason: "NO_ALLOW_MATCHED"},
		{name: "a condition without a value", path: "/nested", header: with(nil), status: 403, reason: "NO_ALLOW_MATCHED"},
	})
	r := en.request(t, http.MethodGet, "/admin", nil)
	r.Header = with(map[string]any{"groups": "admins"})
	a := en.do(t, r)
	var rec proxy.Record
	decisions(t, en, "/decisions/"+a.Header.Get("Hedgerow-Decision"), &rec)
	if len(rec.Authorization.NearMisses) != 1 || rec.Authorization.NearMisses[0] != (proxy.RecordNearMiss{Policy: "policies/admins", Failed: "from.claims"}) {
		t.Errorf("the near misses are %+v", rec.Authorization.NearMisses)
	}
	if rec.Authentication == nil || rec.Authentication.Subject != "alice" || rec.Authentication.Authenticator != "shop" {
		t.Errorf("the record says of the caller %+v", rec.Authentication)
	}
	if strings.Contains(a.body, "admins") || strings.Contains(a.body, "claims") {
		t.Errorf("the caller is told %s", a.body)
	}
}

// A sidecar asks for credentials too, whoever calls; what its callers say of themselves does not count.
func TestTokensAtASidecar(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	i := newIssuer(t)
	a := i.authenticator("orders", mesh.AuthenticatorTarget{Service: "orders"})
	a.JWT.FromHeaders = []mesh.TokenHeader{{Name: "x-token"}}
	w.put(a)
	e, reg := w.engine(proxy.MeshLimits())
	caller := w.source("/svc/web/n/n9")
	n := w.run(e, reg, e.Outbound(func() (*identity.Source, *proxy.Refusal) { return caller, nil }), nil, time.Second)
	w.publish()
	en := &entry{node: n, url: "http://" + n.addr, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(en.client.CloseIdleConnections)
	status := func(h http.Header) (int, *seen) {
		last.Store(nil)
		r := en.request(t, http.MethodGet, "/x", nil)
		r.Host, r.Header = "orders.mesh", h
		return en.do(t, r).StatusCode, last.Load()
	}
	if got, _ := status(fields()); got != 401 {
		t.Errorf("without a token: %d", got)
	}
	if got, _ := status(fields("X-Token", "x")); got != 401 {
		t.Errorf("with a bad token: %d", got)
	}
	got, at := status(fields("X-Token", i.token(nil), "X-User", "spoofed", "x_user", "spoofed", "X-Groups", "spoofed"))
	if got != 200 || at.header.Get("X-User") != "alice" || strings.Contains(fmt.Sprint(at.header), "spoofed") {
		t.Errorf("with a token: %d %+v", got, at)
	}
}

// What is not understood lets nobody through.
func TestAuthenticatorsFailClosed(t *testing.T) {
	i := newIssuer(t)
	valid := func(change func(map[string]any)) string {
		raw, err := json.Marshal(i.authenticator("shop", mesh.AuthenticatorTarget{Route: "shop"}))
		if err != nil {
			t.Fatal(err)
		}
		var o map[string]any
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatal(err)
		}
		change(o)
		if raw, err = json.Marshal(o); err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, r := range []struct {
		name, record string
		status       int
		everywhere   bool
	}{
		{"good", valid(func(map[string]any) {}), 401, false},
		{"a field of a newer version", valid(func(o map[string]any) { o["more"] = 1 }), 503, false},
		{"no kind", valid(func(o map[string]any) { delete(o, "jwt") }), 503, false},
		{"keys that are none", valid(func(o map[string]any) { o["jwt"].(map[string]any)["jwks"] = `{"keys":[{"kty":"oct","k":"AAAA"}]}` }), 503, false},
		{"no JSON", `{`, 503, true},
		{"a target of a newer version", valid(func(o map[string]any) { o["targets"] = append(o["targets"].([]any), map[string]any{"host": "a"}) }), 503, true},
		{"targets of another shape", valid(func(o map[string]any) { o["targets"] = "all" }), 503, true},
		{"no targets", valid(func(o map[string]any) { delete(o, "targets") }), 503, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t)
			var last atomic.Pointer[seen]
			w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
			w.route("orders", nil)
			backend := []mesh.Backend{{Service: "orders"}}
			w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/other"}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"shop.test"},
				Rules: []mesh.RouteRule{{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: "/other"}}}, Backends: backend}}})
			decoded, _ := mesh.DecodeRecords(mesh.Head{}, mesh.Records{"authenticators/shop": []byte(r.record)})
			w.config.Authenticators = decoded.Authenticators
			en := w.gateway(overH1)
			w.publish()
			if a := en.get(t, "/x"); a.StatusCode != r.status {
				t.Errorf("got %d %s, want %d", a.StatusCode, a.body, r.status)
			}
			want := 200
			if r.everywhere {
				want = 503
			}
			if a := en.get(t, "/other"); a.StatusCode != want {
				t.Errorf("the other route: got %d %s, want %d", a.StatusCode, a.body, want)
			}
		})
	}
}

// The keys of an issuer are fetched over TLS, from where the mesh may dial; before they are there nobody
// gets in, and nobody waits. The next start needs no issuer.
func TestKeysAreFetched(t *testing.T) {
	w := newWorld(t)
	i := newIssuer(t)
	var away atomic.Bool
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if away.Load() {
			http.Error(rw, "away", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(rw, i.jwks())
	}))
	t.Cleanup(srv.Close)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	a := i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"})
	a.JWT.JWKS, a.JWT.JWKSURI = "", srv.URL
	a.JWT.JWKSCAPem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	w.put(a)
	status := func(en *entry) int {
		r := en.request(t, http.MethodGet, "/x", nil)
		r.Header.Set("Authorization", "Bearer "+i.token(nil))
		return en.do(t, r).StatusCode
	}
	away.Store(true)
	dir := t.TempDir()
	kept := func(o *proxy.Options) { o.KeysDir = dir }
	first := w.gateway(overH1, kept)
	w.publish()
	if got := status(first); got != 503 {
		t.Errorf("before there are keys: %d", got)
	}
	eventually(t, "a failure is counted", func() bool {
		return counted(t, first.registry, "hedgerow_authenticator_key_fetches_total", map[string]string{"outcome": "failed"}) > 0
	})
	away.Store(false)
	eventually(t, "the keys are fetched a second after they were not", func() bool { return status(first) == 200 })
	w.publish() // another revision, the same keys
	if got := status(first); got != 200 {
		t.Errorf("after another revision: %d", got)
	}
	first.stop()
	away.Store(true)
	second := w.gateway(overH1, kept)
	w.publish()
	if got := status(second); got != 200 {
		t.Errorf("with the keys of the run before: %d", got)
	}
	w.config.Defaults = &mesh.Defaults{Authorization: mesh.Allow} // nowhere may be dialled
	third := w.gateway(overH1)
	away.Store(false)
	w.publish()
	eventually(t, "the fetch is refused", func() bool {
		return counted(t, third.registry, "hedgerow_authenticator_key_fetches_total", map[string]string{"outcome": "failed"}) > 0
	})
	if !strings.Contains(w.logs.String(), "not in the dialCidrs") {
		t.Error("the log does not say why")
	}
}

// Callers by gRPC get a status of gRPC, and WebSockets are asked before they begin.
func TestTokensOfOtherProtocols(t *testing.T) {
	w := newWorld(t)
	i := newIssuer(t)
	var ended atomic.Int32
	w.sidecar("orders", "n1", w.workload(wsEcho(&ended)), nil)
	w.route("orders", nil)
	w.put(i.authenticator("shop", mesh.AuthenticatorTarget{Gateway: "edge"}))
	en := w.gateway(overH2)
	w.publish()
	r := en.request(t, http.MethodPost, "/pkg.Service/Method", strings.NewReader("\x00\x00\x00\x00\x00"))
	r.Header.Set("Content-Type", "application/grpc")
	r.Header.Set("Te", "trailers")
	a := en.do(t, r)
	status := a.Header.Get("Grpc-Status") + a.Trailer.Get("Grpc-Status")
	if a.StatusCode != 200 || status != "16" {
		t.Errorf("a call without a token gets %d, grpc-status %q", a.StatusCode, status)
	}
	if _, resp, err := dialWS(t, en); err == nil || resp == nil || resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("a WebSocket without a token gets %v %v", resp, err)
	}
	token := i.token(nil)
	conn, _, err := dialWS(t, en, fields("Authorization", "Bearer "+token))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the workload learns of the end", func() bool { return ended.Load() == 1 })
}
