package registry_test

import (
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// ask is one ask about a bucket, answered.
func ask(t *testing.T, c *registry.Client, a mesh.TokenAsk) mesh.TokenGrant {
	t.Helper()
	grants, err := c.Tokens(t.Context(), []mesh.TokenAsk{a})
	if err != nil {
		t.Fatal(err)
	}
	return grants[0]
}

// answered waits until the control plane has loaded what Tokens needs.
func answered(t *testing.T, c *registry.Client) {
	t.Helper()
	eventually(t, "rates are answered", func() bool {
		_, err := c.Tokens(t.Context(), []mesh.TokenAsk{{Bucket: "probe", Interval: time.Second, Burst: 1}})
		return err == nil
	})
}

// Exactly the burst is free at once, then one at each interval; what was admitted too
// much is made up for.
func TestTokens(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		answered(t, c.Client)
		about := func(d, want time.Duration) bool { return d > want-10*time.Second && d <= want }
		a := mesh.TokenAsk{Bucket: "routes/a/0:ann", Interval: time.Hour, Burst: 5}
		for _, step := range []struct {
			spent, returned, want, leased uint32
			wait                          time.Duration
		}{
			{0, 0, 0, 0, 0}, {2, 0, 0, 0, 0}, {0, 0, 2, 2, 0}, {0, 0, 2, 1, time.Hour}, {0, 0, 1, 0, time.Hour}, {0, 2, 3, 2, time.Hour},
			{1, 0, 1, 0, 2 * time.Hour}, {1000, 0, 1, 0, 6 * time.Hour}, {0, 1000, 7, 5, time.Hour},
		} {
			a.Spent, a.Returned, a.Want = step.spent, step.returned, step.want
			if g := ask(t, c.Client, a); g.Granted != step.leased || step.wait == 0 && g.Wait != 0 || step.wait > 0 && !about(g.Wait, step.wait) {
				t.Fatalf("%+v: %+v", step, g)
			}
		}
		fast := mesh.TokenAsk{Bucket: "routes/b/0:", Interval: 100 * time.Millisecond, Burst: 2, Spent: 2, Want: 1}
		if g := ask(t, c.Client, fast); g.Granted != 0 || g.Wait <= 0 || g.Wait > 100*time.Millisecond {
			t.Errorf("leased %d, more in %v", g.Granted, g.Wait)
		}
		fast.Spent = 0
		eventually(t, "there is one again", func() bool { return ask(t, c.Client, fast).Granted == 1 })
		a.Spent, a.Returned, a.Want = 0, 0, 1
		many, err := c.Tokens(t.Context(), []mesh.TokenAsk{a, {Bucket: "routes/c/0:", Interval: 333 * time.Nanosecond, Burst: 4e9, Want: 4e9}})
		if err != nil || len(many) != 2 || many[0].Granted != 0 || many[1].Granted != 4e9 {
			t.Errorf("several at once: %+v, %v", many, err)
		}
	})
}

// What anybody may have put into Redis is as if nothing was there.
func TestTokensOfADamagedBucket(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		answered(t, c.Client)
		r := raw(t, b.addr)
		for name, err := range map[string]error{
			"list": r.RPush(t.Context(), prefix+"rl:list", "x").Err(), "text": r.Set(t.Context(), prefix+"rl:text", "x", 0).Err(),
			"nan": r.Set(t.Context(), prefix+"rl:nan", "nan", 0).Err(), "old": r.Set(t.Context(), prefix+"rl:old", "-1e300", 0).Err(),
		} {
			if err != nil {
				t.Fatal(err)
			}
			a := mesh.TokenAsk{Bucket: name, Interval: time.Hour, Burst: 5, Spent: 1, Want: 5}
			if g := ask(t, c.Client, a); g.Granted != 4 {
				t.Errorf("%s: %+v", name, g)
			}
		}
		if err := r.Set(t.Context(), prefix+"rl:far", "1e300", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if g, err := c.Tokens(t.Context(), []mesh.TokenAsk{{Bucket: "far", Interval: time.Hour, Burst: 5, Spent: 1, Want: 1}}); err != nil || g[0].Wait > 6*time.Hour {
			t.Errorf("a far future: %+v, %v", g, err)
		}
	})
}

// Functions that are lost while everything else is there are brought again.
func TestTokensAfterTheFunctionsAreLost(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		answered(t, c.Client)
		raw(t, b.addr).FunctionFlush(t.Context()) // which the embedded registry does not know
		answered(t, c.Client)
	})
}

// Who comes back empty gets the functions again.
func TestTokensAfterARestart(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		c, l := open(t, b.addr), newRevisions()
		l.publish(t, c, world())
		running(t, registry.NewRepublisher(c.Client, l.source).Run)
		answered(t, c.Client)
		b.restartEmpty()
		answered(t, c.Client)
		b.stop()
		if _, err := c.Tokens(t.Context(), []mesh.TokenAsk{{Bucket: "a", Interval: time.Second, Burst: 1}}); mesh.KindOf(err) != mesh.Unavailable {
			t.Errorf("with Redis away: %v", err)
		}
	})
}

// A Redis that once knew no functions is not taken for one for ever: its nodes may have no right to
// run scripts.
func TestTokensAfterAnUpgrade(t *testing.T) {
	s := servers.Redis(t)
	c, l := open(t, s.Addr), newRevisions()
	l.publish(t, c, world())
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
	answered(t, c.Client)
	registry.KnowNoFunctions(c.Client)
	if err := raw(t, s.Addr).Do(t.Context(), "ACL", "SETUSER", "default", "-eval").Err(); err != nil {
		t.Fatal(err)
	}
	answered(t, c.Client)
}
