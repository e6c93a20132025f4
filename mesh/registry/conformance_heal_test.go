package registry_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// TestForgedDocumentDoesNotStay: as long as documents are not signed, whoever
// writes to Redis can put one in another's place. Once it stops, the process's
// own document must come back by itself, although the forged one has a later
// seq.
func TestForgedDocumentDoesNotStay(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		lease, err := registry.NewLease(c.Client, "n1", mesh.RoleSidecar)
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Update([]mesh.Instance{{Service: "orders", Address: "127.0.0.1:9001"}}); err != nil {
			t.Fatal(err)
		}
		running(t, lease.Run)
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:9001" })

		now := time.Now()
		forged := fmt.Sprintf(`{"document":{"node":"n1","role":"SIDECAR","seq":%d,"notAfter":%q,"instances":[{"name":"instances/n1-1","service":"orders","address":"127.0.0.1:6666"}]}}`,
			now.Add(4*time.Minute).UnixMilli(), now.Add(9*time.Minute).UTC().Format(time.RFC3339))
		redis := raw(t, b.addr)
		hints := fmt.Sprintf("%sev:%d", prefix, sha256.Sum256([]byte("n1"))[0]%64)
		eventually(t, "the forged instance", func() bool {
			// The process mends its key with each heartbeat: forge until it is seen.
			if err := redis.Set(t.Context(), prefix+"inst:n1/SIDECAR", forged, 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := redis.Do(t.Context(), "XADD", hints, "MAXLEN", "10", "*", "node", "n1").Err(); err != nil {
				t.Fatal(err)
			}
			return w.addresses("orders") == "127.0.0.1:6666"
		})
		took := eventuallyWithin(t, time.Minute, "the instance again", func() bool { return w.addresses("orders") == "127.0.0.1:9001" })
		t.Logf("it came back after %v", took.Round(time.Millisecond))
	})
}

// TestOversizedValuesAreMended: whoever writes to Redis can write much. What
// has no business there is read in part only, and replaced.
func TestOversizedValuesAreMended(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		redis := raw(t, b.addr)
		huge := strings.Repeat("x", 20<<20)
		for what, damage := range map[string]func() error{
			"head":             func() error { return redis.Set(t.Context(), prefix+"head", huge, 0).Err() },
			"a record more":    func() error { return redis.HSet(t.Context(), prefix+"config", "services/x", huge).Err() },
			"a record changed": func() error { return redis.HSet(t.Context(), prefix+"config", "services/orders", huge).Err() },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			eventuallyWithin(t, 90*time.Second, "whole again after "+what, func() bool {
				head, _, err := c.Read(t.Context())
				return err == nil && head.Digest == l.head.Digest
			})
		}
		if w.revision() != 1 || len(w.Snapshot().Config.Services) != 1 {
			t.Errorf("revision %d with %d services", w.revision(), len(w.Snapshot().Config.Services))
		}
	})
}
