package client

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// creation answers PUTs of tokens and returns the last one.
func creation(t *testing.T, status int, answer string) *mesh.Token {
	t.Helper()
	got := new(mesh.Token)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(raw, got) != nil {
			t.Errorf("%v: %s", err, raw)
		}
		if r.Method != http.MethodPut || r.URL.Path != "/v1/tokens/ci" || r.Header.Get("If-None-Match") != "*" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "application/json")
		if status != http.StatusOK {
			w.Header().Set("Content-Type", "application/problem+json")
		}
		w.WriteHeader(status)
		if _, err := io.WriteString(w, answer); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	t.Setenv("HEDGEROW_SERVER", srv.URL)
	t.Setenv("HEDGEROW_TOKEN", token)
	return got
}

const created = `{"name":"tokens/ci","secret":"hgt_new"}`

func TestTokenCreate(t *testing.T) {
	t.Run("prints the secret alone", func(t *testing.T) {
		got := creation(t, 200, created)
		hedgerow(t, "", "token", "create", "ci", "--role", "editor", "--scope", "routes,policies,team=shop", "--scope", "nodes", "--scope", "a=b", "--label", "by=ci", "--expires-in", "1h").
			want(t, "hgt_new\n", "", 0)
		if left := time.Until(*got.ExpireTime); left < 59*time.Minute || left > time.Hour {
			t.Errorf("it expires in %v", left)
		}
		if got.Name != "tokens/ci" || got.Role != mesh.RoleEditor || got.Labels["by"] != "ci" || len(got.Scopes) != 3 {
			t.Errorf("%+v", got)
		}
		if s := got.Scopes[0]; !slices.Equal(s.Collections, []string{"routes", "policies"}) || s.Labels["team"] != "shop" || describeScope(s) != "routes,policies,team=shop" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("into a file of its owner's", func(t *testing.T) {
		creation(t, 200, created)
		file := filepath.Join(t.TempDir(), "ci.token")
		hedgerow(t, "", "token", "create", "ci", "--out", file).want(t, "", "", 0)
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v %v", info, err)
		}
		if raw, err := os.ReadFile(file); err != nil || string(raw) != "hgt_new\n" {
			t.Errorf("%q %v", raw, err)
		}
		if r := hedgerow(t, "", "token", "create", "ci", "--out", file); r.code == 0 || !strings.Contains(r.stderr, "file exists") {
			t.Errorf("a file that is there: %d %s", r.code, r.stderr)
		}
	})
	t.Run("refused, it leaves no file", func(t *testing.T) {
		creation(t, 412, `{"status":412,"code":"stale","detail":"x"}`)
		file := filepath.Join(t.TempDir(), "ci.token")
		hedgerow(t, "", "token", "create", "ci", "--out", file).want(t, "",
			"hedgerow: token create ci: there is such a token already (412 stale)\nhedgerow: hint: take another id, or revoke that one first\n", exitFailed)
		if _, err := os.Stat(file); err == nil {
			t.Error("the file is there")
		}
	})
	t.Run("an answer without a secret is none", func(t *testing.T) {
		creation(t, 200, `{"name":"tokens/ci"}`)
		if r := hedgerow(t, "", "token", "create", "ci"); r.code != exitFailed || !strings.Contains(r.stderr, "no secret") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a label that is none", func(t *testing.T) {
		if r := hedgerow(t, "", "token", "create", "ci", "--label", "x"); r.code != exitUsage {
			t.Errorf("%+v", r)
		}
	})
	t.Run("an id that is none", func(t *testing.T) {
		if r := hedgerow(t, "", "token", "create", "../x"); r.code != exitUsage {
			t.Errorf("%+v", r)
		}
	})
}

func TestTokenListAndRevoke(t *testing.T) {
	control(t, exchange{
		method: "GET", uri: "/v1/tokens?pageSize=500", status: 200,
		answer: `{"tokens":[{"name":"tokens/ci","role":"EDITOR","scopes":[{"collections":["routes"],"labels":{"team":"shop"}},{"labels":{"a":"b"}}],"expireTime":"2026-07-01T00:00:00Z","revision":7}],"nextPageToken":""}`,
	})
	hedgerow(t, "", "token", "list").want(t, `
NAME        ROLE     SCOPES                 EXPIRES                REVISION
tokens/ci   EDITOR   routes,team=shop a=b   2026-07-01T00:00:00Z   7
`, "", 0)
	control(t, exchange{method: "DELETE", uri: "/v1/tokens/ci", status: 200, answer: `{}`})
	hedgerow(t, "", "token", "revoke", "ci").want(t, "tokens/ci deleted\n", "", 0)
	if r := hedgerow(t, "", "token", "revoke", "../nodes/a"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
}
