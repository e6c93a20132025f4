package controlapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/controlapi/auditlog"
	"github.com/hedgerow-mesh/hedgerow/controlapi/nodes"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	hedgerowv1 "github.com/hedgerow-mesh/hedgerow/openapi/hedgerow/v1"
)

// fakeVault is a Vault and a store of joins, in memory.
type fakeVault struct {
	mu      sync.Mutex
	err     error
	granted map[string][]string
	joins   map[string]nodes.Join
	made    int
}

func (v *fakeVault) locked(f func()) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		f()
	}
	return v.err
}

func (v *fakeVault) Put(_ context.Context, g nodes.Grant) error {
	return v.locked(func() { v.granted[g.Node] = g.IDs })
}

func (v *fakeVault) Withdraw(_ context.Context, node string) error {
	return v.locked(func() { delete(v.granted, node) })
}

func (v *fakeVault) Nodes(context.Context) ([]string, error) { return nil, v.locked(func() {}) }

func (v *fakeVault) Invite(_ context.Context, node, _ string) (inv nodes.Invitation, err error) {
	err = v.locked(func() {
		v.made++
		inv = nodes.Invitation{Token: fmt.Sprintf("token-%d", v.made), Accessor: "a", RoleID: "role-" + node, Expires: time.Now().Add(15 * time.Minute)}
	})
	return inv, err
}

func (v *fakeVault) Unused(context.Context, string) (bool, error) { return true, v.locked(func() {}) }

func (v *fakeVault) Joins(context.Context) (out []nodes.Join, err error) {
	err = v.locked(func() {
		for _, j := range v.joins {
			out = append(out, j)
		}
	})
	return out, err
}

func (v *fakeVault) SaveJoin(_ context.Context, j nodes.Join) error {
	return v.locked(func() { v.joins[j.Node] = j })
}

func (v *fakeVault) DeleteJoin(_ context.Context, node string) error {
	return v.locked(func() { delete(v.joins, node) })
}

// withVault is an API with a Vault and the node edge7.
func withVault(t *testing.T, edit ...func(*Options)) (*api, *fakeVault) {
	t.Helper()
	v := &fakeVault{granted: map[string][]string{}, joins: map[string]nodes.Join{}}
	a := newAPI(t, append(edit, func(o *Options) {
		o.Trust, o.Joins, o.TrustDomain = v, v, "hedgerow.local"
		o.Join = &hedgerowv1.JoinFile{
			Mesh: "default", TrustDomain: "hedgerow.local", ConfigurationRoots: "ROOTS",
			Vault: &hedgerowv1.JoinFile_Vault{Addresses: []string{"https://v"}, CaPem: "VAULT-CA"},
			Redis: &hedgerowv1.JoinFile_Redis{Addresses: []string{"r:1"}}, ControlPlane: &hedgerowv1.JoinFile_ControlPlane{Url: "https://c"},
		}
	})...)
	a.must("PUT", "/v1/services/orders", `{}`)
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["SIDECAR","BRIDGE","GATEWAY"],"services":["orders"],"gateways":["demo"]}`)
	return a, v
}

func proofOf(token any) string {
	sum := sha256.Sum256([]byte(fmt.Sprint(token)))
	return hex.EncodeToString(sum[:])
}

func TestJoin(t *testing.T) {
	a, v := withVault(t)
	if got := a.must("GET", "/v1/nodes/edge7", ""); got.json["state"] != "PENDING" {
		t.Errorf("before: %s", got.body)
	}
	got := a.must("POST", "/v1/nodes/edge7:join", `{}`)
	if got.json["token"] != "token-1" || got.json["node"] != "edge7" || got.json["vault"].(map[string]any)["roleId"] != "role-edge7" || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v %s", got.header, got.body)
	}
	for _, want := range []string{"ROOTS", "VAULT-CA", `"addresses":["r:1"]`, `"url":"https://c"`, `"expireTime":`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("no %s in %s", want, got.body)
		}
	}
	want := "spiffe://hedgerow.local/gateway/demo spiffe://hedgerow.local/svc/mqtt-bridge/n/edge7 spiffe://hedgerow.local/svc/orders/n/edge7"
	if got := strings.Join(v.granted["edge7"], " "); got != want {
		t.Errorf("Vault allows %q, want %q", got, want)
	}
	for name, raw := range a.log.records { // which every node reads
		if strings.Contains(string(raw), "token-1") || strings.Contains(string(raw), proofOf("token-1")) {
			t.Errorf("%s has the token: %s", name, raw)
		}
	}
	if got := a.must("GET", "/v1/nodes/edge7", ""); got.json["state"] != "JOINING" {
		t.Errorf("while it is out: %s", got.body)
	}
	a.must("POST", "/v1/nodes/edge7:reportJoin", `{"proof":"`+proofOf("token-1")+`","outcome":"ENROLLED"}`)
	if got := a.must("GET", "/v1/nodes/edge7", ""); got.json["state"] != "ENROLLED" || got.json["joinAlarm"] != nil {
		t.Errorf("after a report: %s", got.body)
	}
}

func TestReportJoinNeedsTheProofAlone(t *testing.T) {
	a, _ := withVault(t, known())
	token := a.must("POST", "/v1/nodes/edge7:join", `{}`, as(testToken)...).json["token"]
	nobody := []string{"Authorization", "", "Content-Type", "application/json"}
	for _, tt := range []struct {
		name, path, body string
		headers          []string
		status           int
	}{
		{"a guess", "edge7", `{"proof":"` + proofOf("guess") + `"}`, nobody, 401},
		{"another node", "edge8", `{"proof":"` + proofOf(token) + `"}`, nobody, 401},
		{"the token itself", "edge7", fmt.Sprintf(`{"proof":%q}`, token), nobody, 422},
		{"nothing", "edge7", `{}`, nobody, 422},
		{"a form", "edge7", `{"proof":"` + proofOf(token) + `"}`, []string{"Authorization", "", "Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"an unknown field", "edge7", `{"prof":"x"}`, nobody, 400},
		{"a parameter", "edge7?validateOnly=true", `{}`, nobody, 400},
		{"the proof", "edge7", `{"proof":"` + strings.ToUpper(proofOf(token)) + `","outcome":"REFUSED"}`, nobody, 200},
	} {
		id, query, _ := strings.Cut(tt.path, "?")
		if query != "" {
			query = "?" + query
		}
		got := a.do("POST", "/v1/nodes/"+id+":reportJoin"+query, tt.body, tt.headers...)
		if got.status != tt.status {
			t.Errorf("%s: %d %s, want %d", tt.name, got.status, got.body, tt.status)
		}
	}
	alarm, _ := a.must("GET", "/v1/nodes/edge7", "", as(testToken)...).json["joinAlarm"].(map[string]any)
	if alarm["reason"] != "REFUSED" || alarm["time"] == nil {
		t.Errorf("the alarm: %v", alarm)
	}
	a.must("POST", "/v1/nodes/edge7:join", `{}`, as(testToken)...)
	if got := a.must("GET", "/v1/nodes/edge7", "", as(testToken)...); got.json["joinAlarm"] != nil {
		t.Errorf("it outlives the next token: %s", got.body)
	}
}

func TestJoinIsRefused(t *testing.T) {
	a, v := withVault(t)
	if got := a.do("POST", "/v1/nodes/none:join", `{}`); got.status != 404 {
		t.Errorf("a node that is not there: %d %s", got.status, got.body)
	}
	if got := a.do("POST", "/v1/nodes/edge7:join?validateOnly=true", `{}`); got.status != 400 || v.made != 0 {
		t.Errorf("a dry run: %d %s", got.status, got.body)
	}
	v.err = errors.New("sealed")
	if got := a.do("POST", "/v1/nodes/edge7:join", `{}`); got.status != 503 {
		t.Errorf("while Vault is away: %d %s", got.status, got.body)
	}
	if got := a.must("GET", "/v1/nodes/edge7", ""); !strings.Contains(fmt.Sprint(got.json["trustError"]), "sealed") {
		t.Errorf("and it does not show: %s", got.body)
	}
	without := newAPI(t)
	without.must("PUT", "/v1/nodes/edge7", `{"roles":["SIDECAR"]}`)
	if got := without.do("POST", "/v1/nodes/edge7:join", `{}`); got.status != 409 || !strings.Contains(got.body, "no Vault") {
		t.Errorf("without Vault: %d %s", got.status, got.body)
	}
	if got := without.do("POST", "/v1/nodes/edge7:reportJoin", `{"proof":"`+proofOf("x")+`"}`); got.status != 401 {
		t.Errorf("a report without Vault: %d %s", got.status, got.body)
	}
}

// A write wakes what keeps Vault equal to the configuration.
func TestVaultFollowsWrites(t *testing.T) {
	a, v := withVault(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.server.RunNodes(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	granted := func(want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			var got string
			_ = v.locked(func() { got = fmt.Sprint(v.granted["edge8"]) })
			if got == want {
				return
			}
			select {
			case <-deadline:
				t.Fatalf("Vault allows %s, want %s", got, want)
			case <-tick.C:
			}
		}
	}
	a.must("PUT", "/v1/nodes/edge8", `{"roles":["SIDECAR"],"services":["orders"]}`)
	granted("[spiffe://hedgerow.local/svc/orders/n/edge8]")
	a.must("PUT", "/v1/nodes/edge8", `{"roles":["SIDECAR"]}`)
	granted("[]")
	a.must("DELETE", "/v1/nodes/edge8", "")
	granted("[]")
}

// Nobody is a node again by a certificate of before it was shut out, or was deleted.
func TestSinceWhenANodeIsItself(t *testing.T) {
	c := new(clock)
	a, _ := withVault(t, func(o *Options) { o.Now = c.now })
	since := func() time.Time {
		grants, _ := a.server.service.grants()
		return grants["edge7"].Since
	}
	made := since()
	if made.IsZero() || time.Since(made).Abs() > time.Minute {
		t.Errorf("at first since %v", made)
	}
	a.must("PUT", "/v1/nodes/edge7", `{"roles":["SIDECAR"],"services":["orders"]}`)
	if got := since(); !got.Equal(made) {
		t.Errorf("another one by a change: since %v, not %v", got, made)
	}
	c.ahead.Add(int64(time.Hour))
	a.must("POST", "/v1/nodes/edge7:quarantine", `{}`)
	a.must("POST", "/v1/nodes/edge7:release", ``)
	released := since()
	if q := a.stored("edge7"); !released.Equal(*q.ReleaseTime) || released.Sub(made) < time.Hour {
		t.Errorf("released at %v, and since %v", q.ReleaseTime, released)
	}
	c.ahead.Add(int64(time.Hour))
	object := `{"roles":["SIDECAR"],"services":["orders"]}`
	a.must("DELETE", "/v1/nodes/edge7", "")
	a.must("PUT", "/v1/nodes/edge7", object)
	if got := since(); got.Sub(released) < time.Hour {
		t.Errorf("made anew, and since %v", got)
	}
	c.ahead.Add(int64(mesh.LongestLife + mesh.ClockSkew + time.Minute))
	if got := since(); !got.IsZero() {
		t.Errorf("since %v when no certificate of before is left", got)
	}
}

// Who makes a token could be the node by it.
func TestJoinTokensAreAudited(t *testing.T) {
	audit, entries := audited(t)
	a, v := withVault(t, audit)
	token, _ := a.must("POST", "/v1/nodes/edge7:join", `{}`).json["token"].(string)
	all := entries()
	e := all[len(all)-1]
	if token == "" || e.Outcome != auditlog.Accepted || e.Call != "JoinNode" || !slices.Equal(e.Objects, []string{"nodes/edge7"}) || e.Who == "" || e.From == "" {
		t.Errorf("%+v of token %q", e, token)
	}
	if raw, err := json.Marshal(all); err != nil || strings.Contains(string(raw), token) {
		t.Errorf("the token is in the audit log: %s %v", raw, err)
	}
	a.server.writer.audit.log = fullAudit{}
	made := v.made
	if got := a.do("POST", "/v1/nodes/edge7:join", `{}`); got.status != 503 || v.made != made {
		t.Errorf("one that nobody can account for: %d %s", got.status, got.body)
	}
}

// fullAudit is an audit log on a disk without room.
type fullAudit struct{}

func (fullAudit) Append(auditlog.Entry, bool) error {
	return mesh.Errorf("auditlog.Append", "", mesh.Unavailable, "no space left on device")
}
