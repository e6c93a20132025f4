package registry_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// TestForgedDocumentsAreRefused: whoever writes to Redis can put whatever they like in a
// document's place. None of it is taken, and what is there stays.
func TestForgedDocumentsAreRefused(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		objects := world()
		objects["nodes/n2"] = objects["nodes/n1"]
		l.publish(t, c, objects)
		register(t, b.addr, "n1", "127.0.0.1:9001")
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:9001" })

		evil := offered("n1", "127.0.0.1:6666")
		redis := raw(t, b.addr)
		for reason, forged := range map[string]string{
			"unsigned":     `{"document":{"node":"n1","role":"SIDECAR","seq":1,"notAfter":"` + time.Now().Add(time.Minute).UTC().Format(time.RFC3339) + `"}}`,
			"untrusted":    registry.Document(t, "n1", signers.NewNodes().Node("n1"), evil),
			"wrong_signer": registry.Document(t, "n1", nodes.Node("n2"), evil),
			"owner":        registry.Document(t, "n2", nodes.Node("n2"), offered("n2", "127.0.0.1:6666")),
			"malformed":    "{",
			"oversize":     strings.Repeat("x", 1<<20),
		} {
			seen := w.count()
			eventually(t, "counted as "+reason, func() bool {
				// The process mends its key with each heartbeat: forge until it is seen.
				if err := redis.Set(t.Context(), prefix+"inst:n1/SIDECAR", forged, 0).Err(); err != nil {
					t.Fatal(err)
				}
				hint(t, redis, "n1")
				return w.client.rejects(t, reason) > 0
			})
			if w.count() != seen {
				t.Errorf("%s made another snapshot, with %s", reason, w.addresses("orders"))
			}
		}
	})
}

// hint tells watchers that a document of node changed, as anybody may.
func hint(t *testing.T, r *redis.Client, node string) {
	t.Helper()
	stream := fmt.Sprintf("%sev:%d", prefix, sha256.Sum256([]byte(node))[0]%64)
	if err := r.XAdd(t.Context(), &redis.XAddArgs{Stream: stream, MaxLen: 10, Values: []string{"node", node}}).Err(); err != nil {
		t.Fatal(err)
	}
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
