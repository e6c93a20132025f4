package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
)

// expectStored fails unless Redis holds exactly the log's newest revision, with
// the layout that the contract names.
func expectStored(t *testing.T, c client, addr string, l *revisions) {
	t.Helper()
	head, records, err := c.Read(t.Context())
	if err != nil {
		t.Fatalf("Read: %v", err)
	}
	if head.Revision != l.head.Revision || head.Digest != l.head.Digest {
		t.Errorf("Redis holds revision %d %.8s, want %d %.8s", head.Revision, head.Digest, l.head.Revision, l.head.Digest)
	}
	if !maps.EqualFunc(records, l.records, bytes.Equal) {
		t.Errorf("Redis holds %d records, want %d equal ones", len(records), len(l.records))
	}
	last, err := raw(t, addr).XRevRangeN(t.Context(), prefix+"changes", "+", "-", 1).Result()
	if err != nil || len(last) != 1 {
		t.Fatalf("XREVRANGE changes: %v, %v", last, err)
	}
	if want := fmt.Sprintf("%d-0", l.head.Revision); last[0].ID != want {
		t.Errorf("the last change has id %s, want %s", last[0].ID, want)
	}
}

func TestPublish(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		if _, err := c.Head(t.Context()); mesh.KindOf(err) != mesh.NotFound {
			t.Errorf("Head of an empty Redis: %v", err)
		}
		l.publish(t, c, world())
		expectStored(t, c, b.addr, l)
		l.publish(t, c, route(1))
		l.publish(t, c, route(2))
		expectStored(t, c, b.addr, l)
		l.publish(t, c, map[string]any{"routes/demo": nil, "services/other": map[string]any{"protocol": "HTTP"}})
		expectStored(t, c, b.addr, l)
		if n := raw(t, b.addr).XLen(t.Context(), prefix+"changes").Val(); n != 4 {
			t.Errorf("changes has %d entries, want 4", n)
		}
	})
}

func TestPublishAgainChangesNothing(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		change, base, all := l.commit(world())
		for i, want := range []registry.Outcome{registry.Published, registry.AlreadyPublished, registry.AlreadyPublished} {
			if got, err := c.Publish(t.Context(), change, base, all); err != nil || got != want {
				t.Errorf("try %d: %v, %v; want %v", i, got, err, want)
			}
		}
		expectStored(t, c, b.addr, l)
	})
}

func TestPublishOverWhatRedisHolds(t *testing.T) {
	ctx := t.Context()
	cases := []struct {
		name  string
		spoil func(t *testing.T, c client, l *revisions, r *redis.Client)
	}{
		{"nothing", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.FlushAll(ctx) }},
		{"an older head than the base", func(t *testing.T, _ client, l *revisions, _ *redis.Client) { l.commit(route(7)) }},
		{"no head", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.Del(ctx, prefix+"head") }},
		{"a head that is no JSON", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.Set(ctx, prefix+"head", "{", 0) }},
		{"a head with a revision of any size", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			r.Set(ctx, prefix+"head", `{"epoch":1,"revision":1e300,"digest":"x"}`, 0)
		}},
		{"a head of the wrong type", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			r.Del(ctx, prefix+"head")
			r.LPush(ctx, prefix+"head", "x")
		}},
		{"a config of the wrong type", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.Set(ctx, prefix+"config", "x", 0) }},
		{"a config that lost a record", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			r.HDel(ctx, prefix+"config", "services/orders")
		}},
		{"a config with a record too many", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			r.HSet(ctx, prefix+"config", "services/evil", "{}")
		}},
		{"changes of the wrong type", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.Set(ctx, prefix+"changes", "x", 0) }},
		{"changes with a forged huge id", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			r.XAdd(ctx, &redis.XAddArgs{Stream: prefix + "changes", ID: "18446744073709551615-18446744073709551615", Values: []string{"a", "b"}})
		}},
		{"changes with a forged huge id that was deleted", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) {
			id := r.XAdd(ctx, &redis.XAddArgs{Stream: prefix + "changes", ID: "18446744073709551615-0", Values: []string{"a", "b"}}).Val()
			r.XDel(ctx, prefix+"changes", id)
		}},
		{"no changes", func(_ *testing.T, _ client, _ *revisions, r *redis.Client) { r.Del(ctx, prefix+"changes") }},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			conform(t, func(t *testing.T, b backend) {
				c, l := open(t, b.addr), newRevisions()
				l.publish(t, c, world())
				l.publish(t, c, route(1))
				tc.spoil(t, c, l, raw(t, b.addr))
				l.publish(t, c, route(2))
				expectStored(t, c, b.addr, l)
			})
		})
	}
}

func TestPublishLeavesANewerRevisionAlone(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l, behind := open(t, b.addr), newRevisions(), newRevisions()
		l.publish(t, c, world())
		l.publish(t, c, route(1))
		change, base, all := behind.commit(world())
		if got, err := c.Publish(t.Context(), change, base, all); err != nil || got != registry.Newer {
			t.Errorf("an older revision: %v, %v; want newer", got, err)
		}
		change, base, all = behind.commit(route(9)) // the same revision with other content
		if got, err := c.Publish(t.Context(), change, base, all); err != nil || got != registry.Newer {
			t.Errorf("another revision of that number: %v, %v; want newer", got, err)
		}
		expectStored(t, c, b.addr, l)
	})
}

func TestPublishRaceHasOneWinner(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		const writers = 8
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range writers {
			rival := &revisions{head: l.head, records: l.records}
			change, base, all := rival.commit(route(i))
			wg.Go(func() {
				got, err := c.Publish(t.Context(), change, base, all)
				switch {
				case err != nil:
					t.Errorf("Publish: %v", err)
				case got == registry.Published:
					won.Add(1)
				case got != registry.Newer:
					t.Errorf("a loser was told %v", got)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of %d writers published revision 2, want 1", won.Load(), writers)
		}
		if _, _, err := c.Read(t.Context()); err != nil {
			t.Errorf("what is left is not one revision: %v", err)
		}
	})
}

func TestPublishManyAndLargeChanges(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		many := map[string]any{}
		for i := range 3000 {
			many[fmt.Sprintf("services/s%d", i)] = map[string]any{"protocol": "HTTP"}
		}
		l.publish(t, c, many)
		expectStored(t, c, b.addr, l)
		l.publish(t, c, map[string]any{"services/s1": map[string]any{"labels": map[string]string{"x": strings.Repeat("x", 200<<10)}}})
		expectStored(t, c, b.addr, l)
		for i := range many {
			many[i] = nil
		}
		l.publish(t, c, many)
		expectStored(t, c, b.addr, l)

		change, base, all := l.commit(map[string]any{"services/big": strings.Repeat("x", 2<<20)})
		if _, err := c.Publish(t.Context(), change, base, all); mesh.KindOf(err) != mesh.Invalid {
			t.Errorf("a record of 2 MiB: %v", err)
		}
	})
}

func TestChangesAreBounded(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		for i := range 300 {
			l.publish(t, c, route(i))
		}
		if n := raw(t, b.addr).XLen(t.Context(), prefix+"changes").Val(); n != 256 {
			t.Errorf("changes has %d entries, want 256", n)
		}
		expectStored(t, c, b.addr, l)
	})
}

func TestReadRefusesWhatTheHeadDoesNotDescribe(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		raw(t, b.addr).HSet(t.Context(), prefix+"config", "services/orders", `{"protocol":"HTTP2"}`)
		if _, _, err := c.Read(t.Context()); mesh.KindOf(err) != mesh.Malformed {
			t.Errorf("Read: %v", err)
		}
	})
}

func TestRepublisher(t *testing.T) {
	ctx := t.Context()
	cases := []struct {
		name  string
		spoil func(b backend, r *redis.Client)
	}{
		{"restarted empty", func(b backend, _ *redis.Client) { b.restartEmpty() }},
		{"flushed", func(_ backend, r *redis.Client) { r.FlushAll(ctx) }},
		{"lost its head", func(_ backend, r *redis.Client) { r.Del(ctx, prefix+"head") }},
		{"lost its config", func(_ backend, r *redis.Client) { r.Del(ctx, prefix+"config") }},
		{"lost its changes", func(_ backend, r *redis.Client) { r.Del(ctx, prefix+"changes") }},
		{"has a forged change", func(_ backend, r *redis.Client) {
			r.XAdd(ctx, &redis.XAddArgs{Stream: prefix + "changes", ID: "4294967294-0", Values: []string{"head", "{}"}})
		}},
		{"is behind", func(_ backend, r *redis.Client) {
			older, err := json.Marshal(mesh.Head{Epoch: 1, Revision: 1, Digest: strings.Repeat("0", 64)})
			if err != nil {
				panic(err)
			}
			r.Set(ctx, prefix+"head", older, 0)
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			conform(t, func(t *testing.T, b backend) {
				c, l := open(t, b.addr), newRevisions()
				l.commit(world())
				l.commit(route(1))
				rep := registry.NewRepublisher(c.Client, l.source)
				running(t, rep.Run)
				eventually(t, "the log's revision in Redis", func() bool { return rep.State().Published })
				expectStored(t, c, b.addr, l)

				tc.spoil(b, raw(t, b.addr))
				took := eventually(t, "published again", func() bool {
					head, records, err := c.Read(t.Context())
					n := raw(t, b.addr).XRevRangeN(ctx, prefix+"changes", "+", "-", 1).Val()
					return err == nil && head.Digest == l.head.Digest && len(records) == len(l.records) && len(n) == 1 && n[0].ID == "2-0"
				})
				t.Logf("published again after %v", took)
				expectStored(t, c, b.addr, l)
			})
		})
	}
}

func TestRepublisherWithoutRedis(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stop()
		c, l := open(t, b.addr), newRevisions()
		l.commit(world())
		rep := registry.NewRepublisher(c.Client, l.source)
		running(t, rep.Run)
		eventually(t, "state says that Redis is away", func() bool {
			s := rep.State()
			return !s.Published && mesh.KindOf(s.Err) == mesh.Unavailable
		})
		b.restartEmpty()
		took := eventually(t, "published", func() bool { return rep.State().Published })
		t.Logf("published %v after Redis came back", took)
		expectStored(t, c, b.addr, l)
	})
}

func TestRepublisherDoesNotOverwriteAnotherLog(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, other := open(t, b.addr), newRevisions()
		other.publish(t, c, world())
		other.publish(t, c, route(1))
		for name, l := range map[string]*revisions{"empty": newRevisions(), "shorter": newRevisions()} {
			if name == "shorter" {
				l.commit(world())
			}
			rep := registry.NewRepublisher(c.Client, l.source)
			stop := running(t, rep.Run)
			eventually(t, name+" log: state says conflict", func() bool { return mesh.KindOf(rep.State().Err) == mesh.Conflict })
			if rep.State().Published {
				t.Errorf("%s log: published", name)
			}
			stop()
		}
		expectStored(t, c, b.addr, other)
	})
}
