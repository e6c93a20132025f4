package controlapi

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hedgerow-mesh/hedgerow/controlapi/revlog"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// clock is one that a test turns.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func in(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

// token creates a token and returns its secret.
func (a *api) token(id, role, scopes string) string {
	a.t.Helper()
	body := fmt.Sprintf(`{"role":%q,"scopes":%s,"expireTime":%q}`, role, scopes, in(time.Hour))
	secret, _ := a.must("PUT", "/v1/tokens/"+id, body).json["secret"].(string)
	if !strings.HasPrefix(secret, secretPrefix) || len(secret) < 40 {
		a.t.Fatalf("the secret is %q", secret)
	}
	return secret
}

func TestATokenMayDoWhatItsRoleAndScopesSay(t *testing.T) {
	a := newAPI(t)
	a.must("PUT", "/v1/services/shop", shopService)
	a.must("PUT", "/v1/services/bank", bankService)
	viewer, editor, admin := a.token("viewer", "VIEWER", `[]`), a.token("editor", "EDITOR", `[]`), a.token("admin", "ADMIN", `[]`)
	shop := a.token("shop", "EDITOR", `[{"collections":["services"],"labels":{"team":"shop"}},{"collections":["routes"]}]`)
	for _, c := range []struct {
		secret, method, path, body string
		status                     int
	}{
		{viewer, "GET", "/v1/services/shop", "", 200},
		{viewer, "PUT", "/v1/services/shop", shopService, 403},
		{viewer, "GET", "/v1/tokens/viewer", "", 403},
		{editor, "PUT", "/v1/services/shop", shopService, 200},
		{editor, "GET", "/v1/tokens", "", 403},
		{editor, "DELETE", "/v1/tokens/viewer", "", 403},
		{editor, "POST", "/v1:apply", `{"objects":[{"name":"tokens/editor","role":"ADMIN","expireTime":"` + in(time.Hour) + `"}]}`, 403},
		{admin, "GET", "/v1/tokens", "", 200},
		{admin, "PUT", "/v1/defaults/mesh", "{}", 200},
		{shop, "PUT", "/v1/services/shop", shopService, 200},
		{shop, "PUT", "/v1/services/bank", bankService, 403},
		{shop, "GET", "/v1/routes", "", 200},
		{shop, "GET", "/v1/nodes/x", "", 403},
	} {
		if got := a.do(c.method, c.path, c.body, as(c.secret)...); got.status != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, got.status, got.body, c.status)
		}
	}
	if last := a.log.changes[len(a.log.changes)-1]; last.Actor != "tokens/admin" {
		t.Errorf("the log names %q", last.Actor)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+editor)
	c := dialGRPC(t, a.addr, insecure.NewCredentials())
	if _, err := c.ListTokens(ctx, &hedgerowv1.ListTokensRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("gRPC: %v", err)
	}
}

// Who is limited could otherwise make a token that is not.
func TestTokensAreForAdminsWithoutScopes(t *testing.T) {
	a := newAPI(t, known(principal{name: "limited", role: admin, bearer: true, scopes: []scope{{labels: mesh.Labels{"a": "b"}}, {collections: []mesh.Collection{mesh.Tokens}}}}))
	a.token("ci", "EDITOR", `[]`)
	object := `"role":"ADMIN","labels":{"a":"b"},"expireTime":"` + in(time.Hour) + `"}`
	for _, r := range [][]string{
		{"GET", "/v1/tokens", ""},
		{"GET", "/v1/tokens/ci", ""},
		{"PUT", "/v1/tokens/ci", "{" + object},
		{"DELETE", "/v1/tokens/ci", ""},
		{"POST", "/v1:apply", `{"objects":[{"name":"tokens/ci",` + object + `]}`},
	} {
		if got := a.do(r[0], r[1], r[2], as("limited")...); got.status != 403 {
			t.Errorf("%s %s: %d %s", r[0], r[1], got.status, got.body)
		}
	}
}

func TestASecretIsAnsweredOnceAndStoredNowhere(t *testing.T) {
	a := newAPI(t)
	secret := a.token("ci", "VIEWER", `[]`)
	stored := a.must("GET", "/v1/tokens/ci", "", as(testToken)...)
	again := a.must("PUT", "/v1/tokens/ci", stored.body)
	wider := a.must("PUT", "/v1/tokens/ci", strings.Replace(stored.body, "VIEWER", "EDITOR", 1))
	forged := a.must("PUT", "/v1/tokens/ci", `{"expireTime":"`+in(time.Hour)+`","hash":"sha256:`+strings.Repeat("0", 64)+`","secret":"hgt_mine"}`)
	for name, got := range map[string]answer{
		"GET": stored, "the same": again, "another role": wider, "the list": a.must("GET", "/v1/tokens", ""), "a forged hash": forged,
		"a dry run": a.must("PUT", "/v1/tokens/dry?validateOnly=true", `{"expireTime":"`+in(time.Hour)+`"}`),
	} {
		if strings.Contains(got.body, secretPrefix) || strings.Contains(got.body, `"secret"`) || strings.Contains(got.body, "sha256:000") {
			t.Errorf("%s: %s", name, got.body)
		}
		if name == "a dry run" && strings.Contains(got.body, "sha256:") {
			t.Errorf("a dry run shows the hash of nothing: %s", got.body)
		}
	}
	if again.json["revision"] != stored.json["revision"] || wider.json["revision"] == stored.json["revision"] {
		t.Errorf("%s then %s", again.body, wider.body)
	}
	if got := a.do("GET", "/v1/services", "", as(secret)...); got.status != 200 {
		t.Errorf("the secret does not survive a change: %d %s", got.status, got.body)
	}
	log, err := json.Marshal(a.log.changes)
	if err != nil || strings.Contains(string(log), strings.TrimPrefix(secret, secretPrefix)) {
		t.Errorf("%v: the log holds the secret", err)
	}
}

func TestTokensAreRefusedAtOnce(t *testing.T) {
	var c clock
	a := newAPI(t, func(o *Options) { o.Now = c.now })
	try := func(name, secret string, want int) {
		t.Helper()
		if got := a.do("GET", "/v1/services", "", as(secret)...); got.status != want {
			t.Errorf("%s: %d %s, want %d", name, got.status, got.body, want)
		}
	}
	deleted, expires, other := a.token("deleted", "VIEWER", `[]`), a.token("expires", "VIEWER", `[]`), ""
	try("new", deleted, 200)
	try("new too", expires, 200)
	try("the hash", strings.Fields(a.must("GET", "/v1/tokens/deleted", "").body)[0], 401)
	hash, _ := a.must("GET", "/v1/tokens/deleted", "").json["hash"].(string)
	try("the hash as a secret", hash, 401)
	a.must("DELETE", "/v1/tokens/deleted", "")
	try("deleted", deleted, 401)
	other = a.token("deleted", "VIEWER", `[]`)
	try("deleted, and another of its name", deleted, 401)
	try("the other", other, 200)
	c.ahead.Store(int64(2 * time.Hour))
	try("expired", expires, 401)
	if got := a.do("GET", "/v1/services", "", as(expires)...); !strings.Contains(got.body, "tokens/expires: the bearer token has expired") {
		t.Error(got.body)
	}
	if got := a.must("GET", "/v1/tokens/expires", ""); got.json["lastUsedTime"] == nil || a.log.revision() != 4 {
		t.Errorf("revision %d, %s", a.log.revision(), got.body)
	}
}

func TestTokensThatAreRefused(t *testing.T) {
	a := newAPI(t)
	for name, c := range map[string]struct {
		body, field string
	}{
		"without an end":              {`{}`, "expireTime"},
		"that is over":                {`{"expireTime":"` + in(-time.Second) + `"}`, "expireTime"},
		"for years":                   {`{"expireTime":"` + in(401*24*time.Hour) + `"}`, "expireTime"},
		"of no role":                  {`{"role":"ROOT","expireTime":"` + in(time.Hour) + `"}`, "role"},
		"for no collection":           {`{"scopes":[{"collections":["rutes"]}],"expireTime":"` + in(time.Hour) + `"}`, "scopes[0].collections[0]"},
		"for tokens":                  {`{"scopes":[{"collections":["tokens"]}],"expireTime":"` + in(time.Hour) + `"}`, "scopes[0].collections[0]"},
		"with a scope of nothing":     {`{"scopes":[{}],"expireTime":"` + in(time.Hour) + `"}`, "scopes[0]"},
		"with more scopes than count": {`{"scopes":[` + strings.Repeat(`{"collections":["routes"]},`, 32) + `{"labels":{"a":"b"}}],"expireTime":"` + in(time.Hour) + `"}`, "scopes"},
	} {
		if got := a.do("PUT", "/v1/tokens/x", c.body); got.status != 422 || len(got.fields()) == 0 || got.fields()[0] != c.field {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	batch := a.do("POST", "/v1:apply", `{"objects":[{"name":"tokens/x","expireTime":"`+in(time.Hour)+`"}]}`)
	if batch.status != 422 || !strings.Contains(batch.body, "a request of its own") {
		t.Errorf("in a batch nobody would see the secret: %d %s", batch.status, batch.body)
	}
	if a.log.revision() != 0 {
		t.Error("something was stored")
	}
}

// What is private is decided and not told.
func TestPrivateObjectsAreNotPublished(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log.db")
	open := func(t *testing.T) func(*Options) {
		l, err := revlog.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		return func(o *Options) { o.Log = l }
	}
	var secret string
	t.Run("first run", func(t *testing.T) {
		a := newAPI(t, open(t))
		a.must("PUT", "/v1/services/a", `{}`)
		secret = a.token("ci", "VIEWER", `[]`)
		gone := a.token("gone", "VIEWER", `[]`)
		a.must("PUT", "/v1/services/b", `{}`)
		a.must("DELETE", "/v1/tokens/gone", "")
		raw, err := json.Marshal(a.publisher.published)
		if err != nil || strings.Contains(string(raw), "tokens/") || strings.Contains(string(raw), gone) {
			t.Errorf("%v: published %s", err, raw)
		}
		if n := len(a.publisher.published); n != 5 {
			t.Errorf("%d revisions were published, of 5", n)
		}
		head, records, err := a.server.Source(t.Context())
		if err != nil || len(records) != 2 || records.Digest() != head.Digest || head.Revision != 5 {
			t.Errorf("%v %v %v", head, records, err)
		}
	})
	t.Run("second run", func(t *testing.T) {
		a := newAPI(t, open(t))
		if got := a.do("GET", "/v1/services", "", as(secret)...); got.status != 200 {
			t.Errorf("after a restart: %d %s", got.status, got.body)
		}
		head, records, err := a.server.Source(t.Context())
		if err != nil || len(records) != 2 || records.Digest() != head.Digest {
			t.Errorf("%v %v %v", head, records, err)
		}
		a.must("PUT", "/v1/services/c", `{}`)
	})
}
