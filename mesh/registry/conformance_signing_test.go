package registry_test

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// publishAs commits what s signs, of the given epoch.
func publishAs(t *testing.T, l *revisions, s *signers.Signers, epoch uint32, objects map[string]any) (head mesh.Head) {
	t.Helper()
	l.commit(objects)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head.Epoch = epoch
	l.head = s.Sign(l.head)
	return l.head
}

// another is a second key of the same roots, and the keys with both.
func another(t *testing.T) (second *signers.Signers, set []byte) {
	t.Helper()
	key, err := signing.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if set, err = signing.Delegate(trusted.Root, trusted.Roots(), trusted.Set, key.Public(), time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	return &signers.Signers{Mesh: "test", Root: trusted.Root, Signer: key, Set: set}, set
}

// learn has the control plane's client know keys.
func learn(t *testing.T, v *signing.Verifier, set []byte) {
	t.Helper()
	if _, err := v.Learn(set); err != nil {
		t.Fatal(err)
	}
}

// A control plane that signs with another key is followed, and one whose key was revoked is not.
func TestKeysChangeAndAreRevoked(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		trust := trusted.Verifier()
		c, l := openTrusting(t, b.addr, trust), newRevisions()
		rep := registry.NewRepublisher(c.Client, l.source)
		running(t, rep.Run)
		l.commit(world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })

		second, set := another(t)
		learn(t, trust, set)
		publishAs(t, l, second, 1, route(1))
		rep.Kick()
		eventually(t, "the revision of the second key", func() bool { return w.revision() == 2 })

		// The first is revoked: what it signs is not applied, newer or not.
		set, err := signing.Revoke(trusted.Root, trusted.Roots(), set, trusted.Signer.ID(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		learn(t, trust, set)
		rep.Kick()
		eventually(t, "the keys in Redis", func() bool {
			return raw(t, b.addr).Get(t.Context(), prefix+"keys").Val() == string(set)
		})
		evil := mesh.Records{"defaults/mesh": []byte(`{"authorization":"ALLOW"}`)}
		before := w.Snapshot()
		eventually(t, "the stolen key's revision is counted", func() bool {
			forge(t, raw(t, b.addr), trusted.Sign(mesh.Head{Epoch: 1, Revision: 9, Digest: evil.Digest()}), evil)
			return w.client.rejects(t, "revoked_key") > 0
		})
		if w.Snapshot() != before {
			t.Errorf("applied %+v", w.Snapshot().Config.Head)
		}
		eventually(t, "set right", func() bool { return rep.State().Published })
		publishAs(t, l, second, 1, route(2))
		rep.Kick()
		eventually(t, "the next revision", func() bool { return w.revision() == 3 })
	})
}

// After the roots raised the epoch, nodes go back to what the control plane has, over a later revision
// that a stolen key had signed; and never again to the epoch before.
func TestAnEpochOfTheRootsGoesOverLaterRevisions(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		trust := trusted.Verifier()
		c, l := openTrusting(t, b.addr, trust), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		evil := mesh.Records{"defaults/mesh": []byte(`{"authorization":"ALLOW"}`)}
		stolen := trusted.Sign(mesh.Head{Epoch: 1, Revision: 1000, Digest: evil.Digest(), Time: time.Now()})
		forge(t, raw(t, b.addr), stolen, evil)
		eventually(t, "what the stolen key signed", func() bool { return w.revision() == 1000 })

		set, err := signing.BumpEpoch(trusted.Root, trusted.Roots(), trusted.Set, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		learn(t, trust, set)
		publishAs(t, l, trusted, 2, route(1))
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		eventually(t, "the control plane's revision", func() bool { return w.revision() == 2 })

		before := w.client.rejects(t, "wrong_epoch")
		eventually(t, "the epoch before is refused", func() bool {
			stolen.Revision++
			forge(t, raw(t, b.addr), trusted.Sign(stolen), evil)
			return w.client.rejects(t, "wrong_epoch") > before
		})
		if w.revision() != 2 {
			t.Errorf("applied revision %d", w.revision())
		}
	})
}

// An expired key's configuration is served on, from Redis and from disk, and nothing newer is applied.
func TestAnExpiredKeyIsServedOnAndNotFollowed(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		file := filepath.Join(t.TempDir(), "snapshot.json")
		first := watch(t, b.addr, registry.WatcherOptions{File: file})
		eventually(t, "the first revision", func() bool { return first.revision() == 1 })
		first.stop()

		later := func() time.Time { return time.Now().Add(signing.MaxKeyLife + time.Hour) }
		w := watch(t, b.addr, registry.WatcherOptions{File: file, Now: later})
		eventually(t, "the revision on disk", func() bool { return w.revision() == 1 })
		eventually(t, "Redis confirms it", func() bool { return !w.Status().SyncedAt.IsZero() })
		l.publish(t, c, route(1))
		eventually(t, "the newer one is counted", func() bool { return w.client.rejects(t, "expired_key") > 0 })
		if w.revision() != 1 {
			t.Errorf("applied revision %d", w.revision())
		}
		// Who has nothing yet gets nothing: nobody can say whether it is the newest.
		fresh := watch(t, b.addr, registry.WatcherOptions{Now: later})
		eventually(t, "refused by a fresh one", func() bool { return fresh.client.rejects(t, "expired_key") > 0 })
		if fresh.Snapshot() != nil {
			t.Error("a fresh watcher took it")
		}
	})
}

// What was applied is remembered although the snapshot was lost with the disk's last seconds.
func TestNothingOlderIsAppliedAfterARestart(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		old := l.publish(t, c, world())
		oldRecords := l.records
		l.publish(t, c, route(1))
		file := filepath.Join(t.TempDir(), "snapshot.json")
		first := watch(t, b.addr, registry.WatcherOptions{File: file})
		eventually(t, "the second revision", func() bool { return first.revision() == 2 })
		first.stop()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(strings.TrimSuffix(file, ".json") + ".floor.json")
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the floor's file: %v, %v", info, err)
		}

		// As it was signed, and as it was changed: a replay of everything.
		entry, err := json.Marshal(old)
		if err != nil {
			t.Fatal(err)
		}
		r := raw(t, b.addr)
		r.Del(t.Context(), prefix+"changes")
		values := []any{"head", entry}
		for name, record := range oldRecords {
			values = append(values, "put:"+name, record)
		}
		r.XAdd(t.Context(), &redis.XAddArgs{Stream: prefix + "changes", ID: "1-0", Values: values})
		forge(t, r, old, oldRecords)
		w := watch(t, b.addr, registry.WatcherOptions{File: file})
		eventually(t, "the older one is counted, as head and as change", func() bool { return w.client.rejects(t, "older") > 1 })
		throughout(t, 300*time.Millisecond, "nothing is applied", func() bool { return w.Snapshot() == nil })
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		eventually(t, "the second revision again", func() bool { return w.revision() == 2 })
	})
}

// A head that is signed again is no other revision; its time says how fresh it is.
func TestAHeadIsSignedAgain(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		rep := registry.NewRepublisher(c.Client, l.source)
		running(t, rep.Run)
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the revision", func() bool { return w.revision() == 1 })
		before := w.Snapshot()
		later := time.Now().Add(time.Minute).UTC().Truncate(time.Millisecond)
		l.mu.Lock()
		l.head.Time = later
		l.head = trusted.Sign(l.head)
		l.mu.Unlock()
		rep.Kick()
		eventually(t, "its time", func() bool { return w.Status().Head.Time.Equal(later) })
		if w.Snapshot() != before {
			t.Error("it made another snapshot")
		}
	})
}

// What is on disk is not believed without the roots that it was signed under.
func TestASnapshotOnDiskIsVerified(t *testing.T) {
	file, addr, _ := savedWorld(t)
	other := signers.New("test")
	w := registry.NewWatcher(openTrusting(t, addr, other.Verifier()).Client, nodes.Bundle, registry.WatcherOptions{File: file})
	stop := running(t, w.Run)
	throughout(t, 300*time.Millisecond, "nothing is applied", func() bool { return w.Snapshot() == nil })
	stop()
}

// Who finds a head finds the keys that explain it, though no Republisher has been there yet.
func TestKeysAreThereBeforeAHead(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		v, err := signing.NewVerifier("test", trusted.Roots()...)
		if err != nil {
			t.Fatal(err)
		}
		n := openTrusting(t, b.addr, v)
		w := registry.NewWatcher(n.Client, nodes.Bundle, registry.WatcherOptions{})
		running(t, w.Run)
		took := eventually(t, "the configuration", func() bool { return w.Snapshot() != nil })
		if took > 2*time.Second || n.rejects(t, "unknown_key") != 0 {
			t.Errorf("it took %v, with %v heads by unknown keys", took, n.rejects(t, "unknown_key"))
		}
	})
}

// A change that a write published while the Republisher looked stays a change: nodes need not read
// everything.
func TestRepublishingLeavesAChangeThatWasPublished(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		head := l.publish(t, c, route(1))
		r := raw(t, b.addr)
		before := r.XRange(t.Context(), prefix+"changes", "-", "+").Val()
		if got, err := registry.RepublishOld(t.Context(), c.Client, head, l.records); err != nil || got != registry.AlreadyPublished {
			t.Fatalf("%v, %v", got, err)
		}
		if after := r.XRange(t.Context(), prefix+"changes", "-", "+").Val(); len(after) != len(before) || after[1].Values["whole"] != nil {
			t.Errorf("changes were %v and are %v", before, after)
		}
	})
}

// Who owns Redis may try to leave a policy out by a name that has the bytes of two records.
func TestRecordsInOneAreNotTwo(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		objects := world()
		objects["policies/shut"] = map[string]any{"target": map[string]any{"service": "orders"}, "action": "DENY"}
		head := l.publish(t, c, objects)
		merged := maps.Clone(l.records)
		before, hidden := "nodes/n1", "policies/shut"
		sum := sha256.Sum256(merged[before])
		merged[before+"\x00"+string(sum[:])+hidden] = merged[hidden]
		delete(merged, before)
		delete(merged, hidden)
		r := raw(t, b.addr)
		r.Del(t.Context(), prefix+"changes")
		forge(t, r, head, merged)

		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "counted as refused", func() bool { return w.Snapshot() != nil || w.client.rejects(t, "digest") > 0 })
		if s := w.Snapshot(); s != nil {
			t.Fatalf("applied with policies %v", s.Config.Policies)
		}
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		eventually(t, "set right", func() bool { return w.revision() == 1 })
		if w.Snapshot().Config.Policies["shut"] == nil {
			t.Error("the policy is left out")
		}
	})
}
