package registry_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry/embedded"
)

// savedWorld leaves the snapshot of a world with one instance in a file, and
// Redis away.
func savedWorld(t *testing.T) (file, deadAddr string, head mesh.Head) {
	t.Helper()
	s, err := embedded.Start("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	file = filepath.Join(t.TempDir(), "snapshot.json")
	c, l := open(t, s.Addr()), newRevisions()
	head = l.publish(t, c, world())
	lease, err := registry.NewLease(c.Client, "n1", mesh.RoleSidecar, nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Update([]mesh.Instance{{Service: "orders", Address: "127.0.0.1:9001"}}); err != nil {
		t.Fatal(err)
	}
	stopLease := running(t, lease.Run)
	w := watch(t, s.Addr(), registry.WatcherOptions{File: file}, "orders")
	eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:9001" })
	eventually(t, "the file with the instance", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && bytes.Contains(b, []byte("\"node\":\"n1\""))
	})
	w.stop()
	s.Close()
	stopLease()
	return file, s.Addr(), head
}

func TestWatchStartsFromDiskWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	file, addr, head := savedWorld(t)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v, %v; want 0600", info.Mode(), err)
	}
	// A service that was learned from traffic is needed again, though this
	// process has not been asked for it yet.
	w := watch(t, addr, registry.WatcherOptions{File: file})
	took := eventually(t, "the saved snapshot", func() bool { return w.Snapshot() != nil })
	if took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := w.Snapshot().Config.Head; got.Revision != head.Revision || got.Digest != head.Digest {
		t.Errorf("started with %+v, saved was %+v", got, head)
	}
	if got := w.addresses("orders"); got != "127.0.0.1:9001" {
		t.Errorf("instances %q", got)
	}
	if st := w.Status(); st.Connected || !st.SyncedAt.IsZero() {
		t.Errorf("status %+v of a snapshot that Redis has not confirmed", st)
	}
}

func TestWatchRefusesADamagedFile(t *testing.T) {
	t.Parallel()
	file, addr, _ := savedWorld(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"cut short":       good[:len(good)/2],
		"another mesh's":  bytes.Replace(good, []byte("hedgerow:test"), []byte("hedgerow:prod"), 1),
		"another record":  bytes.Replace(good, []byte(`"services/orders":"`), []byte(`"services/orders":"IA==","services/x":"`), 1),
		"another digest":  bytes.Replace(good, []byte(`"digest":"`), []byte(`"digest":"00`), 1),
		"nothing in it":   {},
		"a revision of 0": []byte(`{"mesh":"{hedgerow:test}:","head":{"epoch":0,"revision":0}}`),
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "snapshot.json")
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			w := watch(t, addr, registry.WatcherOptions{File: file})
			eventually(t, "its rejection", func() bool { return w.client.rejects(t, "malformed") == 1 })
			if w.Snapshot() != nil {
				t.Errorf("it was applied: %+v", w.Snapshot().Config.Head)
			}
		})
	}
}

// A Redis that lost its data, or was given older ones, does not take back what
// the file holds.
func TestWatchKeepsTheFilesRevisionOverAnOlderRedis(t *testing.T) {
	t.Parallel()
	file, _, head := savedWorld(t)
	s, err := embedded.Start("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := watch(t, s.Addr(), registry.WatcherOptions{File: file})
	eventually(t, "the connection", func() bool { return w.Status().Connected })
	if w.revision() != head.Revision || w.addresses("orders") == "" {
		t.Errorf("revision %d, instances %q with an empty Redis", w.revision(), w.addresses("orders"))
	}
	// The control plane publishes a newer revision: it is followed.
	l := newRevisions()
	l.commit(world())
	next := l.publish(t, open(t, s.Addr()), route(1))
	eventually(t, "the newer revision", func() bool { return w.revision() == next.Revision })
}

// The last of many changes is on disk soon, though not each of them was written.
func TestManyChangesAreSaved(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		file := filepath.Join(t.TempDir(), "snapshot.json")
		w := watch(t, b.addr, registry.WatcherOptions{File: file})
		eventually(t, "a snapshot", func() bool { return w.Snapshot() != nil })
		for i := range uint32(100) {
			l.publish(t, c, route(int(i)))
		}
		eventually(t, "the last change", func() bool { return w.revision() == 101 })
		took := eventually(t, "the last change on disk", func() bool {
			saved, err := os.ReadFile(file)
			return err == nil && bytes.Contains(saved, []byte(`"revision":101,`))
		})
		// What docs and changelog promise: a restart may lack the last five seconds.
		if took > 5*time.Second {
			t.Errorf("it was on disk %v later", took)
		}
		if n := w.count(); n > 60 {
			t.Errorf("%d snapshots of 101 revisions that came at once", n)
		}
	})
}
