package proxy

import (
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// TestUnreadablePolicyClosesEveryService: a record that is not even JSON, or whose target
// is nothing that is known here, may be a DENY of any service.
func TestUnreadablePolicyClosesEveryService(t *testing.T) {
	for name, record := range map[string]string{
		"half a record":               `{"target`,
		"a target of another shape":   `{"target":"orders","action":"DENY"}`,
		"a target of a later kind":    `{"target":{"everything":true},"action":"DENY"}`,
		"a target that names nothing": `{"target":{},"action":"ALLOW","rules":[{}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			cfg, errs := mesh.DecodeRecords(mesh.Head{}, mesh.Records{
				"services/orders":    []byte(`{"protocol":"HTTP"}`),
				"policies/open":      []byte(`{"target":{"service":"orders"},"action":"ALLOW","rules":[{}]}`),
				"policies/scrambled": []byte(record),
			})
			if len(errs) != 1 {
				t.Fatalf("errors %v", errs)
			}
			table, errs := Compile(cfg, "hedgerow.local")
			if len(errs) != 1 {
				t.Errorf("Compile reported %v", errs)
			}
			d := Decide(table, Face{Kind: Inbound, Service: "orders"}, &Request{Method: "GET", Host: "orders.mesh", Path: "/"}, 0)
			if d.Refusal == nil || d.Refusal.Code != CodeDenied || d.Authorization.Policy != "policies/scrambled" {
				t.Errorf("decided %+v, %+v", d.Refusal, d.Authorization)
			}
		})
	}
}
