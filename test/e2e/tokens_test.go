package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const tokenObjects = `
name: defaults/mesh
dialCidrs: ["127.0.0.0/8"]
---
name: services/bank
external: {address: localhost, port: %s}
---
name: nodes/edge
roles: [GATEWAY]
gateways: [edge]
---
name: routes/bank
targets: [GATEWAY]
hostnames: [bank.test]
rules: [{backends: [{service: bank}]}]
---
name: policies/bank
target: {service: bank}
action: ALLOW
rules: [{from: [{identities: [/gateway/edge]}]}]
---
name: policies/members
target: {route: bank}
action: ALLOW
rules: [{from: [{claims: [{name: groups, values: [members]}]}]}]
---
name: authenticators/bank
targets: [{gateway: edge}]
jwt:
  issuer: https://id.test
  audiences: [bank]
  jwksUri: %s
  jwksCaPem: |
%s
  forwardClaims: [{claim: sub, header: x-user}]
`

// A gateway lets in whom an issuer vouches for, by keys that it fetches over TLS; and after a restart
// too, while the issuer is away.
func TestTokensOfAnIssuer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256"}}})
	if err != nil {
		t.Fatal(err)
	}
	var fetches atomic.Int64
	issuer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(jwks)
	}))
	defer issuer.Close()
	bank := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "hello "+r.Header.Get("X-User"))
	}))
	defer bank.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}))
	_, port, _ := strings.Cut(strings.TrimPrefix(bank.URL, "http://"), ":")
	m := rig.New(t, rig.Options{
		Binaries: binaries,
		Objects:  fmt.Sprintf(tokenObjects, port, issuer.URL, "    "+strings.ReplaceAll(strings.TrimSpace(ca), "\n", "\n    ")),
		Nodes:    []servers.PKINode{rig.GatewayNode("edge", "edge")},
	})
	token := func(group string) string {
		claims, err := json.Marshal(map[string]any{"iss": "https://id.test", "aud": "bank", "sub": "alice", "groups": []string{group}, "exp": time.Now().Add(time.Hour).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		out, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	member, stranger := token("members"), token("others")
	ask := func(ctx context.Context, edge *rig.Plane, token string) (int, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+edge.Public+"/balance", nil)
		if err != nil {
			return 0, "", err
		}
		req.Host = "bank.test"
		req.Header.Set("X-User", "root")
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		c := &http.Client{Timeout: 5 * time.Second}
		defer c.CloseIdleConnections()
		resp, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	check := func(edge *rig.Plane) {
		t.Helper()
		edge.Until(30*time.Second, "lets a member in", func(ctx context.Context) error {
			status, body, err := ask(ctx, edge, member)
			if err == nil && body != "hello alice" {
				err = fmt.Errorf("%d %s", status, body)
			}
			return err
		})
		for name, r := range map[string]struct {
			token string
			want  int
		}{"nobody": {"", 401}, "a token that was changed": {member[:len(member)-8] + "AAAAAAAA", 401}, "no member": {stranger, 403}} {
			if status, body, err := ask(t.Context(), edge, r.token); err != nil || status != r.want {
				t.Errorf("%s: %d %s %v, want %d", name, status, body, err, r.want)
			}
		}
	}
	edge := m.Gateway(rig.Gateway{Node: "edge", ID: "edge"})
	check(edge)
	if err := edge.Stop(); err != nil {
		t.Fatal(err)
	}
	issuer.Close()
	was := fetches.Load()
	check(m.Gateway(rig.Gateway{Node: "edge", ID: "edge"}))
	if fetches.Load() != was || was == 0 {
		t.Errorf("%d fetches, then %d", was, fetches.Load())
	}
}
