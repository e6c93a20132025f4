package controlapi

import (
	"encoding/json"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestInstancesAndNodesShowWhatWasReported(t *testing.T) {
	lease := time.Date(2026, 1, 2, 3, 4, 20, 0, time.UTC)
	seen := lease.Add(-15 * time.Second)
	instance := func(name, node string) *mesh.Instance {
		return &mesh.Instance{Meta: mesh.Meta{Name: "instances/" + name, Labels: mesh.Labels{"version": "v1"}}, Service: "orders", Node: node, Address: "127.0.0.1:41233", Weight: 1, Health: mesh.Healthy, LeaseExpireTime: &lease}
	}
	a := newAPI(t, func(o *Options) {
		o.Observed = fakeObserved{
			{Node: "orders-v1", Role: "BRIDGE", AppliedRevision: 2, LastSeen: seen},
			{Node: "orders-v1", Role: "SIDECAR", AppliedRevision: 1, LastSeen: seen.Add(-time.Second), Instances: []*mesh.Instance{instance("orders-v1-2", "orders-v1"), instance("orders-v1-1", "orders-v1")}},
		}
	})
	a.must("PUT", "/v1/nodes/orders-v1", `{"roles":["SIDECAR","BRIDGE"]}`)
	a.must("PUT", "/v1/nodes/silent", `{"roles":["SIDECAR"]}`)
	const want = `{"name":"instances/orders-v1-1","labels":{"version":"v1"},"service":"orders","node":"orders-v1","address":"127.0.0.1:41233","weight":1,"health":"HEALTHY","leaseExpireTime":"2026-01-02T03:04:20Z"}`
	if got := a.must("GET", "/v1/instances/orders-v1-1", ""); got.body != want+"\n" {
		t.Errorf("%s\nwant %s", got.body, want)
	}
	if got := a.must("GET", "/v1/instances?pageSize=1", ""); !strings.HasPrefix(got.body, `{"instances":[`+want+`],"nextPageToken":"`) || got.json["nextPageToken"] == "" {
		t.Error(got.body)
	}
	if got := a.do("GET", "/v1/instances/other", ""); got.status != 404 {
		t.Errorf("%d", got.status)
	}
	if got := a.do("PUT", "/v1/instances/x", "{}"); got.status != 405 || got.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%d %v", got.status, got.header)
	}
	node := a.must("GET", "/v1/nodes/orders-v1", "")
	if node.json["state"] != "ENROLLED" || node.json["appliedRevision"] != 1.0 || node.json["lastSeenTime"] != "2026-01-02T03:04:05Z" {
		t.Error(node.body)
	}
	if got := a.must("GET", "/v1/nodes", ""); !strings.Contains(got.body, `"roles":["SIDECAR"],"state":"PENDING"`) {
		t.Error(got.body)
	}
}

func TestDefaultsExistBeforeTheyAreStored(t *testing.T) {
	a := newAPI(t)
	if got := a.must("GET", "/v1/defaults/mesh", ""); got.body != `{"name":"defaults/mesh","authorization":"DENY"}`+"\n" || got.header.Get("ETag") != "" {
		t.Errorf("%s %v", got.body, got.header)
	}
	a.must("PUT", "/v1/defaults/mesh", `{"dialCidrs":["127.0.0.0/8"]}`)
	if got := a.must("GET", "/v1/defaults/mesh", ""); got.json["etag"] != "1" || got.json["authorization"] != "DENY" {
		t.Error(got.body)
	}
	for _, path := range []string{"/v1/defaults/other", "/v1/defaults"} {
		if got := a.do("GET", path, ""); got.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, got.status)
		}
	}
	if got := a.do("DELETE", "/v1/defaults/mesh", ""); got.status != 405 || got.header.Get("Allow") != "GET, HEAD, PUT" {
		t.Errorf("%d %v", got.status, got.header)
	}
}

// The documented examples are objects that this version takes, of every kind,
// and every kind has all four methods.
func TestEveryKindByItsExample(t *testing.T) {
	raw, err := os.ReadFile("../openapi/internal/document/examples.json")
	if err != nil {
		t.Fatal(err)
	}
	var examples map[string]json.RawMessage
	if err := json.Unmarshal(raw, &examples); err != nil {
		t.Fatal(err)
	}
	// Tokens expire.
	a := newAPI(t, func(o *Options) { o.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) } })
	a.must("POST", "/v1:apply", `{"objects":[{"name":"services/telemetry"},{"name":"services/mqtt-bridge"}]}`)
	order := []string{"Defaults", "Service", "Route", "Policy", "Authenticator", "TopicRule", "Node", "Token"}
	if len(order) != len(examples) || len(order) != len(mesh.Collections()) {
		t.Fatalf("%d examples", len(examples))
	}
	var names []string
	for _, kind := range order {
		var m mesh.Meta
		if err := json.Unmarshal(examples[kind], &m); err != nil {
			t.Fatal(err)
		}
		names = append(names, m.Name)
		put := a.must("PUT", "/v1/"+m.Name, string(examples[kind]))
		if kind == "Token" { // what is answered once
			put = a.must("PUT", "/v1/"+m.Name, string(examples[kind]))
		}
		if got := a.must("GET", "/v1/"+m.Name, ""); got.body != put.body || got.json["name"] != m.Name {
			t.Errorf("%s\nwas stored, and this is answered\n%s", put.body, got.body)
		}
		collection, _, _ := strings.Cut(m.Name, "/")
		if kind == "Defaults" {
			continue
		}
		if got := a.must("GET", "/v1/"+collection, ""); !strings.Contains(got.body, strings.TrimSpace(put.body)) {
			t.Errorf("the list lacks %s: %s", m.Name, got.body)
		}
	}
	slices.Reverse(names)
	for _, name := range names {
		if name != "defaults/mesh" {
			a.must("DELETE", "/v1/"+name, "")
		}
	}
	for name := range a.log.records {
		if name != "defaults/mesh" && name != "services/telemetry" && name != "services/mqtt-bridge" {
			t.Errorf("%s is left", name)
		}
	}
}
