package registry_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// registered is a running Lease.
type registered struct {
	*registry.Lease
	stop func()
}

// register runs the lease of a sidecar that offers orders at addresses.
func register(t *testing.T, addr, node string, addresses ...string) registered {
	t.Helper()
	l, err := registry.NewLease(open(t, addr).Client, node, mesh.RoleSidecar, nodes.Node(node))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Update(offers(addresses...)); err != nil {
		t.Fatal(err)
	}
	return registered{l, running(t, l.Run)}
}

func offers(addresses ...string) []mesh.Instance {
	var out []mesh.Instance
	for _, a := range addresses {
		out = append(out, mesh.Instance{Service: "orders", Address: a})
	}
	return out
}

func TestLeaseWritesTheDocumentOfTheContract(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		r := raw(t, b.addr)
		lease := register(t, b.addr, "n1", "127.0.0.1:1001")
		lease.Applied(mesh.Head{Epoch: 1, Revision: 7})
		lease.Rejected(8, "no such subset")
		var envelope struct {
			Document struct {
				Node, Role string
				Seq        int64
				NotAfter   time.Time
				Instances  []mesh.Instance
				Applied    struct{ Epoch, Revision uint32 }
				Rejected   struct {
					Revision uint32
					Reason   string
				}
			}
			Certificates [][]byte
			Signature    []byte
		}
		eventually(t, "the document with the rejection", func() bool {
			raw, err := r.Get(t.Context(), prefix+"inst:n1/SIDECAR").Bytes()
			return err == nil && json.Unmarshal(raw, &envelope) == nil && envelope.Document.Rejected.Revision == 8
		})
		d := envelope.Document
		if d.Node != "n1" || d.Role != "SIDECAR" || d.Applied.Revision != 7 || d.Rejected.Reason != "no such subset" || len(envelope.Certificates) != 1 || len(envelope.Signature) == 0 {
			t.Errorf("envelope %+v", envelope)
		}
		if len(d.Instances) != 1 || d.Instances[0].Name != "instances/n1-1" || d.Instances[0].Health != mesh.Healthy || d.Instances[0].Weight != 1 {
			t.Errorf("instances %+v", d.Instances)
		}
		if left := time.Until(d.NotAfter); left < 9*time.Minute || left > 11*time.Minute {
			t.Errorf("not valid after %v from now, want 10 min", left)
		}
		if ttl := r.PTTL(t.Context(), prefix+"inst:n1/SIDECAR").Val(); ttl <= 0 || ttl > registry.LeaseTTL {
			t.Errorf("the key's TTL is %v", ttl)
		}
		eventually(t, "the state says so too", func() bool {
			s := lease.State()
			return s.Registered && !s.LastBeat.IsZero() && s.Err == nil
		})
	})
}

func TestLeaseRefusesWhatOthersWould(t *testing.T) {
	c := open(t, "127.0.0.1:1")
	for _, tc := range [][2]string{{"N1", "SIDECAR"}, {"", "SIDECAR"}, {"n*", "SIDECAR"}, {"n1", "CONTROL"}, {"n1", ""}} {
		if _, err := registry.NewLease(c.Client, tc[0], tc[1], nodes.Node("n1")); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("NewLease(%q, %q): %v", tc[0], tc[1], err)
		}
	}
	l, err := registry.NewLease(c.Client, "n1", mesh.RoleSidecar, nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Update(make([]mesh.Instance, 65)); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("65 instances: %v", err)
	}
	if err := l.Update([]mesh.Instance{{Meta: mesh.Meta{Labels: mesh.Labels{"a": "b\n"}}}}); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("a label with a line break: %v", err)
	}
}

func TestInstancesFollowTheirLeases(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		objects := world()
		objects["nodes/n2"] = map[string]any{"roles": []string{"SIDECAR"}, "services": []string{"orders"}}
		l.publish(t, c, objects)
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "a snapshot without instances", func() bool { return w.Snapshot() != nil })
		if list, ok := w.Snapshot().Instances["orders"]; !ok || len(list) != 0 {
			t.Errorf("orders is watched and has no instance: %v, %v", list, ok)
		}

		second := register(t, b.addr, "n2", "127.0.0.1:2001")
		eventually(t, "the first instance", func() bool { return w.addresses("orders") == "127.0.0.1:2001" })
		first := register(t, b.addr, "n1", "127.0.0.1:1001", "127.0.0.1:1002")
		took := eventually(t, "all instances, by name", func() bool { return w.addresses("orders") == "127.0.0.1:1001 127.0.0.1:1002 127.0.0.1:2001" })
		t.Logf("registered to seen: %v", took)

		config, seen := w.Snapshot().Config, w.count()
		if err := first.Update(offers("127.0.0.1:1003")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the update", func() bool { return w.addresses("orders") == "127.0.0.1:1003 127.0.0.1:2001" })
		if w.Snapshot().Config != config {
			t.Error("the Config was replaced though it did not change")
		}
		first.Applied(mesh.Head{Epoch: 1, Revision: 1}) // of no concern to others
		second.stop()
		took = eventually(t, "the withdrawal", func() bool { return w.addresses("orders") == "127.0.0.1:1003" })
		t.Logf("withdrawn to seen: %v", took)
		if took > 3*time.Second {
			t.Errorf("a withdrawal took %v", took)
		}
		if n := w.count() - seen; n != 2 {
			t.Errorf("%d snapshots for two changes of instances", n)
		}
	})
}

func TestNeedFetchesAtOnce(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		register(t, b.addr, "n1", "127.0.0.1:1001")
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "a snapshot", func() bool { return w.Snapshot() != nil })
		if _, ok := w.Snapshot().Instances["orders"]; ok {
			t.Error("a service that nobody needs is watched")
		}
		w.Need("orders", "Not An Id")
		took := eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
		t.Logf("needed to seen: %v", took)
		if took > 3*time.Second {
			t.Errorf("it took %v, as long as a poll", took)
		}
	})
}

func TestConfigurationDecidesWhoMayOffer(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		register(t, b.addr, "n1", "127.0.0.1:1001", "10.0.0.1:1001")
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "the instance that may be dialled", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
		if w.client.rejects(t, "address") == 0 {
			t.Error("the address outside the dial list was not counted")
		}
		l.publish(t, c, map[string]any{"nodes/n1": map[string]any{"roles": []string{"SIDECAR"}}})
		eventually(t, "the node lost its entitlement", func() bool { return w.addresses("orders") == "" })
		l.publish(t, c, map[string]any{"nodes/n1": map[string]any{"roles": []string{"SIDECAR"}, "services": []string{"orders"}, "dialCidrs": []string{"127.0.0.9/32"}}})
		eventually(t, "applied", func() bool { return w.revision() == 3 })
		if got := w.addresses("orders"); got != "" {
			t.Errorf("outside the node's own dial list: %s", got)
		}
	})
}

func TestReports(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		lease := register(t, b.addr, "n1", "127.0.0.1:1001")
		lease.Applied(l.head)
		w := watch(t, b.addr, registry.WatcherOptions{All: true})
		eventually(t, "the report", func() bool { return len(w.Reports()) == 1 && w.Reports()[0].AppliedRevision == 1 })
		r := w.Reports()[0]
		if r.Node != "n1" || r.Role != "SIDECAR" || r.AppliedEpoch != 1 || time.Since(r.LastSeen) > time.Minute || r.RejectedRevision != 0 {
			t.Errorf("report %+v", r)
		}
		if len(r.Instances) != 1 || r.Instances[0].LeaseExpireTime == nil || time.Until(*r.Instances[0].LeaseExpireTime) > registry.LeaseTTL {
			t.Errorf("instances %+v", r.Instances)
		}
		if w.addresses("orders") != "127.0.0.1:1001" {
			t.Error("All does not watch every service")
		}
		lease.Rejected(2, "why")
		took := eventually(t, "the rejection", func() bool { return w.Reports()[0].RejectedRevision == 2 && w.Reports()[0].RejectedReason == "why" })
		t.Logf("rejected to seen: %v", took)
	})
}

func TestRedisRestartedEmptyLosesNobody(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		register(t, b.addr, "n1", "127.0.0.1:1001")
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
		before := w.Snapshot()
		r := raw(t, b.addr)
		for range 3 {
			b.restartEmpty()
			began := time.Now()
			eventually(t, "registered and published again", func() bool {
				return r.Exists(t.Context(), prefix+"inst:n1/SIDECAR", prefix+"head").Val() == 2
			})
			t.Logf("full again after %v", time.Since(began))
		}
		eventually(t, "connected", func() bool { return w.Status().Connected })
		throughout(t, 2*time.Second, "the snapshot stands", func() bool { return w.Snapshot() == before })
	})
}

func TestInstanceGoesOnlyAfterAWholeTTLWithoutItsKey(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		r := raw(t, b.addr)
		register(t, b.addr, "n1", "127.0.0.1:1001")
		eventually(t, "registered", func() bool { return r.Exists(t.Context(), prefix+"inst:n1/SIDECAR").Val() == 1 })

		// A second node, whose key was written once and nobody prolongs.
		l.publish(t, c, map[string]any{"nodes/n2": map[string]any{"roles": []string{"SIDECAR"}, "services": []string{"orders"}}})
		began := time.Now() // the TTL runs from the poll that last saw the key, which is soon after
		r.Set(t.Context(), prefix+"inst:n2/SIDECAR", registry.Document(t, "n2", nodes.Node("n2"), offered("n2", "127.0.0.1:2001")), time.Minute)
		w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
		eventually(t, "both instances", func() bool { return w.addresses("orders") == "127.0.0.1:1001 127.0.0.1:2001" })

		r.Del(t.Context(), prefix+"inst:n2/SIDECAR")
		eventually(t, "the lost one is gone", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
		took := time.Since(began)
		t.Logf("gone after %v", took)
		if took < registry.LeaseTTL {
			t.Errorf("gone after %v, sooner than its TTL", took)
		}
	})
}

// offered is an instance of orders as a document of node has it.
func offered(node, address string) mesh.Instance {
	return mesh.Instance{Meta: mesh.Meta{Name: "instances/" + node + "-1"}, Service: "orders", Node: node, Address: address}
}
