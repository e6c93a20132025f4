package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// quarantined is the record of a quarantine since now.
func quarantined(at time.Time) map[string]any {
	return map[string]any{"time": at.UTC(), "certificatesFrom": at.UTC()}
}

func shutOut(w *watching, node string) bool {
	s := w.Snapshot()
	return s != nil && s.Denies.Node(node)
}

// A node in quarantine is denied, and what it registers is dropped, from the change on; a
// process that starts with Redis away knows of it, and no Redis brings the node back.
func TestAQuarantinedNodeIsDeniedAndDropped(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		file := filepath.Join(t.TempDir(), "snapshot.json")
		w := watch(t, b.addr, registry.WatcherOptions{File: file}, "orders")
		all := watch(t, b.addr, registry.WatcherOptions{All: true})
		thief := register(t, b.addr, "n1", "127.0.0.1:1001")
		eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
		before := w.Snapshot().Denies
		l.publish(t, c, route(1))
		eventually(t, "another change", func() bool { return w.revision() == 2 })
		if w.Snapshot().Denies != before {
			t.Error("a change that denies nobody made other denies")
		}

		at := time.Now()
		l.publish(t, c, map[string]any{"quarantines/n1": quarantined(at)})
		took := eventually(t, "the quarantine", func() bool { return shutOut(w, "n1") && shutOut(all, "n1") })
		if took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		if got := w.addresses("orders"); got != "" {
			t.Errorf("the snapshot that shuts the node out has its instances: %s", got)
		}
		if err := thief.Update(offers("127.0.0.1:1001", "127.0.0.1:1002")); err != nil {
			t.Fatal(err)
		}
		throughout(t, 500*time.Millisecond, "its new registration is nobody's", func() bool {
			return w.addresses("orders") == "" && all.addresses("orders") == ""
		})
		l.publish(t, c, map[string]any{"nodes/n1": nil}) // denies outlive the node
		eventually(t, "the deletion", func() bool { return w.revision() == 4 })
		if !shutOut(w, "n1") {
			t.Error("the node was let in by deleting it")
		}
		eventually(t, "the file with the quarantine", func() bool {
			raw, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(raw), "quarantines/n1")
		})
		w.stop()
		b.stop()
		restarted := watch(t, b.addr, registry.WatcherOptions{File: file}, "orders")
		eventually(t, "the deny list of the disk", func() bool { return shutOut(restarted, "n1") })
	})
}

// What the roots deny needs no revision: nobody has to be able to sign one. It is kept on disk, and
// Redis cannot take it away.
func TestRootsShutANodeOut(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		trust := trusted.Verifier()
		c, l := openTrusting(t, b.addr, trust), newRevisions()
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		l.commit(world())
		file := filepath.Join(t.TempDir(), "snapshot.json")
		w := watch(t, b.addr, registry.WatcherOptions{File: file}, "orders")
		register(t, b.addr, "n1", "127.0.0.1:1001")
		eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })

		set, err := signing.Deny(trusted.Root, trusted.Roots(), trusted.Set, "n1", []string{"public"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		learn(t, trust, set)
		eventually(t, "the roots' word", func() bool { return shutOut(w, "n1") && w.addresses("orders") == "" })
		gateway, err := mesh.GatewayID("hedgerow.local", "public")
		if err != nil {
			t.Fatal(err)
		}
		if denies := w.Snapshot().Denies; !denies.Refuses(gateway, time.Now().Add(-time.Minute)) || denies.Refuses(gateway, time.Now().Add(time.Minute)) {
			t.Error("of the gateway's certificates not exactly the older ones are refused")
		}
		if w.revision() != 1 {
			t.Errorf("it needed revision %d", w.revision())
		}
		if err := raw(t, b.addr).Set(t.Context(), prefix+"keys", trusted.Set, 0).Err(); err != nil {
			t.Fatal(err)
		}
		throughout(t, 300*time.Millisecond, "it stays", func() bool { return shutOut(w, "n1") })
		w.stop()
		b.stop()
		restarted := watch(t, b.addr, registry.WatcherOptions{File: file}, "orders")
		eventually(t, "the roots' word, of the disk", func() bool { return shutOut(restarted, "n1") })
	})
}

// A Redis that lacks the quarantine, or an older one, lets nobody in.
func TestRedisCannotLiftAQuarantine(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{File: filepath.Join(t.TempDir(), "snapshot.json")}, "orders")
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })
		r := raw(t, b.addr)
		head := r.Get(t.Context(), prefix+"head").Val()
		l.publish(t, c, map[string]any{"quarantines/n1": quarantined(time.Now())})
		eventually(t, "the quarantine", func() bool { return shutOut(w, "n1") })
		if err := r.HDel(t.Context(), prefix+"config", "quarantines/n1").Err(); err != nil {
			t.Fatal(err)
		}
		if err := r.Set(t.Context(), prefix+"head", head, 0).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the refusal", func() bool { return w.client.rejects(t, "older") > 0 })
		if !shutOut(w, "n1") || w.revision() != 2 {
			t.Error("a Redis that went back let the node in")
		}
	})
}

// What a process carried out is reported soon, once with the same time, and told apart from
// an earlier quarantine of the node.
func TestLeaseReportsQuarantines(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{All: true})
		lease := register(t, b.addr, "n1", "127.0.0.1:1001")
		lease.Broker(registry.BrokerEmbedded)
		eventually(t, "the report", func() bool { return len(w.Reports()) == 1 })
		at := time.Now().UTC().Truncate(time.Millisecond)
		list := map[string]*mesh.Quarantine{"n2": {Time: &at}, "n3": {Time: &at, ReleaseTime: &at}}
		lease.Contained(list)
		contained := func() []registry.Contained { return w.Reports()[0].Contained }
		took := eventually(t, "what it carried out", func() bool { return len(contained()) == 1 })
		if took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
		first := contained()[0]
		if first.Node != "n2" || !first.Since.Equal(at) || first.Time.Before(at) || w.Reports()[0].Broker != registry.BrokerEmbedded {
			t.Errorf("%+v, broker %q", first, w.Reports()[0].Broker)
		}
		lease.Contained(list)
		again := at.Add(time.Minute)
		lease.Contained(map[string]*mesh.Quarantine{"n2": {Time: &at}, "n4": {Time: &again}})
		eventually(t, "another", func() bool { return len(contained()) == 2 })
		if got := contained(); got[0].Node != "n4" || got[1] != first {
			t.Errorf("%+v, before %+v", got, first)
		}
		lease.Contained(map[string]*mesh.Quarantine{"n2": {Time: &again}})
		eventually(t, "a later quarantine of the node", func() bool { return len(contained()) == 1 && contained()[0].Since.Equal(again) })
		many := map[string]*mesh.Quarantine{}
		for i := range 200 {
			since := at.Add(time.Duration(i) * time.Second)
			many["node-"+strings.Repeat("x", 50)+string(rune('a'+i/26))+string(rune('a'+i%26))] = &mesh.Quarantine{Time: &since}
		}
		lease.Contained(many)
		eventually(t, "the newest of many", func() bool { return len(contained()) == 64 && contained()[0].Since.Equal(at.Add(199*time.Second)) })
	})
}

// A control plane learns what the roots say from its file, before it reads it in Redis: its own
// snapshots follow all the same.
func TestRootsShutANodeOutOfSnapshotsOfWhoLearnedItFirst(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		trust := trusted.Verifier()
		c, l := openTrusting(t, b.addr, trust), newRevisions()
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		l.commit(world())
		own := &watching{client: c, Watcher: registry.NewWatcher(c.Client, nodes.Bundle, registry.WatcherOptions{All: true})}
		running(t, own.Run)
		eventually(t, "the configuration", func() bool { return own.revision() == 1 })
		set, err := signing.Deny(trusted.Root, trusted.Roots(), trusted.Set, "n1", nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		learn(t, trust, set)
		eventually(t, "the roots' word", func() bool { return shutOut(own, "n1") })
		if set, err = signing.Allow(trusted.Root, trusted.Roots(), set, "n1", time.Now()); err != nil {
			t.Fatal(err)
		}
		learn(t, trust, set)
		eventually(t, "that it is taken back", func() bool { return !shutOut(own, "n1") })
	})
}
