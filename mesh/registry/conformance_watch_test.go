package registry_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// watching is a running Watcher and all that it said.
type watching struct {
	*registry.Watcher
	client client
	stop   func()

	mu        sync.Mutex
	snapshots []*mesh.Snapshot
	rejected  []string
}

func watch(t *testing.T, addr string, opts registry.WatcherOptions, need ...string) *watching {
	t.Helper()
	w := &watching{client: open(t, addr)}
	opts.OnSnapshot = func(s *mesh.Snapshot) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.snapshots = append(w.snapshots, s)
	}
	opts.OnReject = func(revision uint32, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.rejected = append(w.rejected, fmt.Sprintf("%d: %v", revision, err))
	}
	w.Watcher = registry.NewWatcher(w.client.Client, nodes.Bundle, opts)
	w.Need(need...)
	w.stop = running(t, w.Run)
	return w
}

func (w *watching) revision() uint32 {
	if s := w.Snapshot(); s != nil {
		return s.Config.Head.Revision
	}
	return 0
}

func (w *watching) addresses(service string) string {
	s := w.Snapshot()
	if s == nil {
		return ""
	}
	var out []string
	for _, in := range s.Instances[service] {
		out = append(out, in.Address)
	}
	return strings.Join(out, " ")
}

func (w *watching) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.snapshots)
}

// expectNoStepBack fails if any snapshot was older than the one before.
func (w *watching) expectNoStepBack(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.snapshots); i++ {
		if w.snapshots[i].Config.Head.Before(w.snapshots[i-1].Config.Head) {
			t.Errorf("revision %d after %d", w.snapshots[i].Config.Head.Revision, w.snapshots[i-1].Config.Head.Revision)
		}
	}
}

func TestWatchFollowsChanges(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		w := watch(t, b.addr, registry.WatcherOptions{})
		early := watch(t, b.addr, registry.WatcherOptions{}) // before anything was published
		throughout(t, 200*time.Millisecond, "no snapshot of an empty Redis", func() bool { return w.Snapshot() == nil })

		l.publish(t, c, world())
		eventually(t, "the first revision", func() bool { return w.revision() == 1 && early.revision() == 1 })
		var slowest time.Duration
		for i := range 20 {
			l.publish(t, c, route(i))
			slowest = max(slowest, eventually(t, "the next revision", func() bool { return w.revision() == l.head.Revision }))
		}
		t.Logf("the slowest of 20 changes arrived after %v", slowest)
		if slowest > 2*time.Second {
			t.Errorf("a change took %v to arrive", slowest)
		}
		if got := w.Snapshot().Config.Routes["demo"].Labels["v"]; got != "19" {
			t.Errorf("route v = %q, want 19", got)
		}
		l.publish(t, c, map[string]any{"routes/demo": nil})
		eventually(t, "the deletion", func() bool { return w.revision() == l.head.Revision })
		if len(w.Snapshot().Config.Routes) != 0 {
			t.Error("the deleted route is still there")
		}
		late := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "a late watcher", func() bool { return late.revision() == l.head.Revision })
		if w.Status().Head.Digest != l.head.Digest || !w.Status().Connected || w.Status().SyncedAt.IsZero() {
			t.Errorf("status %+v", w.Status())
		}
		w.expectNoStepBack(t)
	})
}

func TestWatchReadsEverythingAfterALargeChangeOrAGap(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })

		many := map[string]any{}
		for i := range 500 {
			many[fmt.Sprintf("services/s%d", i)] = map[string]any{"protocol": "HTTP"}
		}
		l.publish(t, c, many)
		eventually(t, "a change that its entry does not carry", func() bool { return w.revision() == 2 })
		if n := len(w.Snapshot().Config.Services); n != 501 {
			t.Errorf("%d services, want 501", n)
		}

		l.commit(route(1)) // logged, and never published by itself
		l.publish(t, c, route(2))
		eventually(t, "what follows a gap", func() bool { return w.revision() == 4 })
		w.expectNoStepBack(t)
	})
}

// TestWatchAfterATrimmedStream is a process that was away while more changes
// passed than the stream keeps.
func TestWatchAfterATrimmedStream(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })
		raw(t, b.addr).Del(t.Context(), prefix+"changes") // so that the next are not seen one by one
		for i := range 10 {
			l.commit(route(i))
		}
		l.publish(t, c, route(10))
		took := eventually(t, "the newest revision", func() bool { return w.revision() == l.head.Revision })
		t.Logf("converged after %v", took)
		w.expectNoStepBack(t)
	})
}

func TestWatchSkipsBadRecordsAndReportsThem(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the first revision", func() bool { return w.revision() == 1 })
		l.publish(t, c, map[string]any{
			"services/bad": map[string]any{"protocol": "SMOKE"},
			"nonsense":     1,
			"services/new": map[string]any{"protocol": "HTTP"},
		})
		eventually(t, "the revision with bad records", func() bool { return w.revision() == 2 })
		services := w.Snapshot().Config.Services
		if services["new"] == nil || services["orders"] == nil || services["bad"] != nil {
			t.Errorf("services %v; want new and orders, not bad", services)
		}
		if n := w.client.rejects(t, "record"); n != 2 {
			t.Errorf("%v records counted as refused, want 2", n)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.rejected) != 1 || !strings.HasPrefix(w.rejected[0], "2: ") {
			t.Errorf("OnReject got %q", w.rejected)
		}
	})
}

// forge makes head and config what an attacker who took Redis over might.
func forge(t *testing.T, r *redis.Client, head mesh.Head, records mesh.Records) {
	t.Helper()
	b, err := json.Marshal(head)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		p.Set(t.Context(), prefix+"head", b, 0)
		p.Del(t.Context(), prefix+"config")
		for name, record := range records {
			p.HSet(t.Context(), prefix+"config", name, record)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// forgery is something in Redis that must not be applied, and the reason that is counted.
type forgery struct {
	name, reason string
	forge        func(t *testing.T, r *redis.Client, applied mesh.Head)
}

// signedForgeries are signed by who may: what a Redis can replay, or a control plane of a log that forked.
func signedForgeries(evil mesh.Records) []forgery {
	return []forgery{
		{"an older head", "older", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, trusted.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision - 1, Digest: evil.Digest()}), evil)
		}},
		{"an older epoch", "wrong_epoch", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, trusted.Sign(mesh.Head{Epoch: h.Epoch - 1, Revision: h.Revision + 9, Digest: evil.Digest()}), evil)
		}},
		{"an epoch of the signer's own", "wrong_epoch", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, trusted.Sign(mesh.Head{Epoch: h.Epoch + 1, Revision: h.Revision, Digest: evil.Digest()}), evil)
		}},
		{"a fork", "fork", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, trusted.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision, Digest: evil.Digest()}), evil)
		}},
		{"records that are not the head's", "digest", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, trusted.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: strings.Repeat("ab", 32)}), evil)
		}},
	}
}

// strangersForgeries are signed by nobody who may.
func strangersForgeries(evil mesh.Records) []forgery {
	return []forgery{
		{"a head without a signature", "unsigned", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: evil.Digest()}, evil)
		}},
		{"a head with the signature of another", "bad_signature", func(t *testing.T, r *redis.Client, h mesh.Head) {
			h.Revision, h.Digest = h.Revision+1, evil.Digest()
			forge(t, r, h, evil)
		}},
		{"a head with another time than was signed", "bad_signature", func(t *testing.T, r *redis.Client, h mesh.Head) {
			h.Time = h.Time.Add(time.Hour)
			forge(t, r, h, evil)
		}},
		{"a head for another mesh", "bad_signature", func(t *testing.T, r *redis.Client, h mesh.Head) {
			other := *trusted
			other.Mesh = "other"
			forge(t, r, other.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: evil.Digest()}), evil)
		}},
		{"a head by a key of the attacker's", "unknown_key", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forge(t, r, signers.New("test").Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: evil.Digest()}), evil)
		}},
		{"a head by the attacker's key under the name of ours", "bad_signature", func(t *testing.T, r *redis.Client, h mesh.Head) {
			forged := signers.New("test").Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: evil.Digest()})
			forged.KeyID = h.KeyID
			forge(t, r, forged, evil)
		}},
		{"keys by a root of the attacker's", "bad_keys", func(t *testing.T, r *redis.Client, h mesh.Head) {
			own := signers.New("test")
			r.Set(t.Context(), prefix+"keys", own.Set, 0)
			forge(t, r, own.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: evil.Digest()}), evil)
		}},
		{"keys of 1 MiB", "bad_keys", func(t *testing.T, r *redis.Client, _ mesh.Head) {
			r.Set(t.Context(), prefix+"keys", strings.Repeat("k", 1<<20), 0)
		}},
		{"the keys of before", "older_keys", func(t *testing.T, r *redis.Client, _ mesh.Head) {
			first, err := signing.FirstKeys(trusted.Root, "test", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			r.Set(t.Context(), prefix+"keys", first, 0)
		}},
	}
}

// malformedForgeries are none of ours.
func malformedForgeries(evil mesh.Records) []forgery {
	return []forgery{
		{"a head that is no JSON", "malformed", func(t *testing.T, r *redis.Client, _ mesh.Head) {
			r.Set(t.Context(), prefix+"head", "{", 0)
		}},
		{"a head of 64 KiB", "malformed", func(t *testing.T, r *redis.Client, _ mesh.Head) {
			r.Set(t.Context(), prefix+"head", strings.Repeat(" ", 64<<10), 0)
		}},
		{"a change that is not what its head says", "digest", func(t *testing.T, r *redis.Client, h mesh.Head) {
			head, err := json.Marshal(trusted.Sign(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: strings.Repeat("ab", 32)}))
			if err != nil {
				t.Fatal(err)
			}
			r.XAdd(t.Context(), &redis.XAddArgs{
				Stream: prefix + "changes", ID: fmt.Sprintf("%d-0", h.Revision+1),
				Values: []any{"head", head, "put:defaults/mesh", evil["defaults/mesh"]},
			})
		}},
		{"a change that nobody signed", "unsigned", func(t *testing.T, r *redis.Client, h mesh.Head) {
			records := maps.Clone(evil)
			head, err := json.Marshal(mesh.Head{Epoch: h.Epoch, Revision: h.Revision + 1, Digest: records.Digest()})
			if err != nil {
				t.Fatal(err)
			}
			r.XAdd(t.Context(), &redis.XAddArgs{
				Stream: prefix + "changes", ID: fmt.Sprintf("%d-0", h.Revision+1),
				Values: []any{"head", head, "put:defaults/mesh", evil["defaults/mesh"]},
			})
		}},
		{"a change without a head", "malformed", func(t *testing.T, r *redis.Client, h mesh.Head) {
			r.XAdd(t.Context(), &redis.XAddArgs{
				Stream: prefix + "changes", ID: fmt.Sprintf("%d-0", h.Revision+1), Values: []any{"put:defaults/mesh", evil["defaults/mesh"]},
			})
		}},
		{"a change with a huge id", "malformed", func(t *testing.T, r *redis.Client, _ mesh.Head) {
			r.XAdd(t.Context(), &redis.XAddArgs{Stream: prefix + "changes", ID: "18446744073709551615-0", Values: []string{"head", "{}"}})
		}},
	}
}

func TestWatchRefuses(t *testing.T) {
	evil := mesh.Records{"defaults/mesh": []byte(`{"authorization":"ALLOW"}`)}
	for _, tc := range slices.Concat(signedForgeries(evil), strangersForgeries(evil), malformedForgeries(evil)) {
		t.Run(tc.name, func(t *testing.T) {
			conform(t, func(t *testing.T, b backend) {
				c, l := open(t, b.addr), newRevisions()
				l.publish(t, c, world())
				l.publish(t, c, route(1))
				w := watch(t, b.addr, registry.WatcherOptions{})
				eventually(t, "the real revision", func() bool { return w.revision() == 2 })
				before := w.Snapshot()

				tc.forge(t, raw(t, b.addr), l.head)
				eventually(t, "counted as refused", func() bool { return w.Snapshot() != before || w.client.rejects(t, tc.reason) > 0 })
				if w.Snapshot() != before {
					t.Fatalf("applied %+v", w.Snapshot().Config.Head)
				}

				// The real control plane sets it right, and is followed again.
				rep := registry.NewRepublisher(c.Client, l.source)
				running(t, rep.Run)
				eventually(t, "set right", func() bool {
					_, _, err := c.Read(t.Context())
					return err == nil && rep.State().Published || mesh.KindOf(rep.State().Err) == mesh.Conflict
				})
				if mesh.KindOf(rep.State().Err) == mesh.Conflict {
					if tc.reason != "digest" && tc.reason != "fork" {
						t.Errorf("what nobody signed who may is not overwritten: %v", rep.State().Err)
					}
					return // another control plane's: not ours to overwrite
				}
				l.commit(route(2))
				rep.Kick()
				eventually(t, "the next revision", func() bool { return w.revision() == 3 })
				w.expectNoStepBack(t)
			})
		})
	}
}

func TestWatchKeepsItsConfigurationWhenRedisIsEmptyOrAway(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		l.publish(t, c, route(1))
		w := watch(t, b.addr, registry.WatcherOptions{})
		eventually(t, "the configuration", func() bool { return w.revision() == 2 })
		before := w.Snapshot()

		raw(t, b.addr).FlushAll(t.Context())
		throughout(t, time.Second, "the snapshot stands", func() bool { return w.Snapshot() == before })
		b.stop()
		eventually(t, "noticed", func() bool { return !w.Status().Connected })
		throughout(t, 500*time.Millisecond, "the snapshot stands", func() bool { return w.Snapshot() == before })

		b.restartEmpty()
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		eventually(t, "connected", func() bool { return w.Status().Connected })
		eventually(t, "published again", func() bool { _, err := c.Head(t.Context()); return err == nil })
		change, base, all := l.commit(route(2))
		if _, err := c.Publish(t.Context(), change, base, all); err != nil {
			t.Fatal(err)
		}
		took := eventually(t, "a change after the outage", func() bool { return w.revision() == 3 })
		t.Logf("a change after the outage arrived after %v", took)
		if w.Snapshot().Config.Services["orders"] == nil {
			t.Error("the service is gone")
		}
	})
}

func TestWatchSurvivesHostileKeys(t *testing.T) {
	ctx := t.Context()
	big := strings.Repeat("x", 4<<20)
	cases := []struct {
		name  string
		spoil func(r *redis.Client)
	}{
		{"a document of 4 MiB", func(r *redis.Client) { r.Set(ctx, prefix+"inst:n2/SIDECAR", big, 0) }},
		{"a document of the wrong type", func(r *redis.Client) { r.LPush(ctx, prefix+"inst:n2/SIDECAR", "x") }},
		{"a hint of 4 MiB", func(r *redis.Client) {
			for i := range 64 {
				r.XAdd(ctx, &redis.XAddArgs{Stream: fmt.Sprintf("%sev:%d", prefix, i), Values: []string{"x", big}})
			}
		}},
		{"hints of the wrong type", func(r *redis.Client) {
			for i := range 64 {
				r.Set(ctx, fmt.Sprintf("%sev:%d", prefix, i), "x", 0)
			}
		}},
		{"hints with the last id there is", func(r *redis.Client) {
			for i := range 64 {
				r.XAdd(ctx, &redis.XAddArgs{Stream: fmt.Sprintf("%sev:%d", prefix, i), ID: "18446744073709551615-18446744073709551615", Values: []string{"x", "y"}})
			}
		}},
	}
	for _, tc := range cases {
		for _, when := range []string{"before the watcher starts", "while it watches"} {
			t.Run(tc.name+" "+when, func(t *testing.T) {
				conform(t, func(t *testing.T, b backend) {
					c, l := open(t, b.addr), newRevisions()
					objects := world()
					objects["nodes/n2"] = map[string]any{"roles": []string{"SIDECAR"}, "services": []string{"orders"}}
					l.publish(t, c, objects)
					register(t, b.addr, "n1", "127.0.0.1:1001")
					if when == "before the watcher starts" {
						tc.spoil(raw(t, b.addr))
					}
					w := watch(t, b.addr, registry.WatcherOptions{}, "orders")
					eventually(t, "the other node's instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
					if when == "while it watches" {
						tc.spoil(raw(t, b.addr))
					}
					for i := range 3 {
						l.publish(t, c, route(i))
						eventually(t, "a change", func() bool { return w.revision() == l.head.Revision })
					}
					if got := w.addresses("orders"); got != "127.0.0.1:1001" {
						t.Errorf("instances %q", got)
					}
				})
			})
		}
	}
}
