package identity

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// movedClock is a clock that is as far ahead as its atomic says, behind if that is
// negative.
func movedClock(built time.Time, newest func() time.Time) (*Clock, *atomic.Int64) {
	var by atomic.Int64
	c := NewClock(built, newest)
	c.wall = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
	return c, &by
}

func TestClockFloor(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d) }
	for _, tt := range []struct {
		name          string
		built, newest time.Time
		want          string // in the error; "" if the clock can be right
	}{
		{"nobody knows anything", time.Time{}, time.Time{}, ""},
		{"built and signed in the past", at(-time.Hour), at(-time.Minute), ""},
		{"the signer's clock is 4 minutes ahead", at(-time.Hour), at(4 * time.Minute), ""},
		{"signed in an hour", at(-time.Hour), at(time.Hour), "the newest configuration was signed"},
		{"built in an hour", at(time.Hour), at(-time.Hour), "this program was built"},
		{"built in an hour, nothing signed", at(time.Hour), time.Time{}, "this program was built"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := NewClock(tt.built, func() time.Time { return tt.newest }).Check()
			checkRefusal(t, "Check", err, tt.want)
			if err != nil && (mesh.KindOf(err) != mesh.Unavailable || !strings.Contains(mesh.HintOf(err), "NTP")) {
				t.Errorf("kind %v, hint %q", mesh.KindOf(err), mesh.HintOf(err))
			}
		})
	}
}

// The floor is what the newest configuration says now: a signer whose clock was ahead, and
// was put right, shuts nobody out.
func TestClockFloorSinksAgain(t *testing.T) {
	newest := time.Now().Add(24 * time.Hour)
	c := NewClock(time.Time{}, func() time.Time { return newest })
	if c.Check() == nil {
		t.Fatal("a clock a day behind the signer's is right")
	}
	newest = time.Now()
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}

// While the clock is wrong there is no mTLS, in either direction; then there is, without a
// restart.
func TestHandshakesNeedAClock(t *testing.T) {
	root := newRoot(t, "root")
	orders, caller := sourceOf(t, root, ordersID), sourceOf(t, root, telemID)
	clock, by := movedClock(time.Now().Add(-time.Hour), nil)
	for _, tt := range []struct {
		name    string
		clockOf *Source
	}{{"of the server", orders}, {"of the client", caller}} {
		t.Run(tt.name, func(t *testing.T) {
			tt.clockOf.UseClock(clock)
			defer tt.clockOf.UseClock(NewClock(time.Time{}, nil))
			try := func() (server, client error) {
				return handshake(t, serverFor(orders), ClientConfig(caller, orders.ID(), "orders.edge7.default"))
			}
			by.Store(int64(-20 * 365 * 24 * time.Hour))
			server, client := try()
			if server == nil || client == nil {
				t.Fatalf("server %v, client %v", server, client)
			}
			own := server
			if tt.clockOf == caller {
				own = client
			}
			checkRefusal(t, tt.name, own, "the clock shows")
			checkRefusal(t, "Ready", tt.clockOf.Ready(), "the clock shows")
			by.Store(0)
			if server, client := try(); server != nil || client != nil {
				t.Errorf("the clock is right: server %v, client %v", server, client)
			}
		})
	}
}

// A clock that is up to five minutes off does no harm: leaves are backdated, and renewed
// long before their end.
func TestSkewedClocks(t *testing.T) {
	root := newRoot(t, "root")
	for _, skew := range []time.Duration{-clockSkew, -time.Minute, 0, time.Minute, clockSkew} {
		orders, caller := NewSource(mustID(t, ordersID), newMetrics(t)), NewSource(mustID(t, telemID), newMetrics(t))
		clock, by := movedClock(time.Now().Add(-time.Hour), func() time.Time { return time.Now().Add(-time.Second) })
		by.Store(int64(skew))
		orders.UseClock(clock)
		for _, src := range []*Source{orders, caller} {
			template := leafTemplate(t, src.ID().String())
			template.NotBefore, template.NotAfter = time.Now().Add(-clockSkew), time.Now().Add(24*time.Hour)
			leaf := root.sign(t, template)
			if err := src.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, root.cert)}); err != nil {
				t.Errorf("%v off: %v", skew, err)
			}
		}
		if server, client := handshake(t, serverFor(orders), ClientConfig(caller, orders.ID(), "orders.edge7.default")); server != nil || client != nil {
			t.Errorf("%v off, as a server: %v, %v", skew, server, client)
		}
		if server, client := handshake(t, serverFor(caller), ClientConfig(orders, caller.ID(), "telemetry.edge8.default")); server != nil || client != nil {
			t.Errorf("%v off, as a client: %v, %v", skew, server, client)
		}
	}
}

// A machine that boots in 1970 asks nobody for certificates, says why, and has those of its
// last run once its clock is right, though its issuer is away.
func TestRotatorWaitsForTheClock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	root := newRoot(t, "root")
	issue(t, keeping(t, dir), root, nil)
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, time.Hour)
		from.set(errSealed)
		var log lines
		clock, by := movedClock(time.Now().Add(-time.Hour), nil)
		by.Store(int64(-time.Until(time.Unix(0, 0).UTC()).Abs()))
		src := NewSource(mustID(t, ordersID), newMetrics(t))
		src.UseClock(clock)
		if err := src.KeepIn(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		r := NewRotator(src, from, zerolog.New(&log))
		start(t, r)
		time.Sleep(time.Second)
		synctest.Wait()
		checkRefusal(t, "Ready", r.Ready(), "the clock shows 19")
		if !strings.Contains(log.String(), "the clock is wrong") || len(from.times()) != 0 || testutil.ToFloat64(src.metrics.clock.WithLabelValues(ordersID)) != 1 {
			t.Errorf("asked %d times, log %s", len(from.times()), log.String())
		}
		time.Sleep(10 * time.Minute)
		if n := strings.Count(log.String(), "the clock is wrong"); n < 9 || n > 11 {
			t.Errorf("said %d times in ten minutes", n)
		}
		from.set(nil)
		by.Store(0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := r.Ready(); err != nil || len(from.times()) != 1 || testutil.ToFloat64(src.metrics.clock.WithLabelValues(ordersID)) != 0 {
			t.Errorf("the clock is right: %v, asked %d times", err, len(from.times()))
		}
	})
	clock, by := movedClock(time.Now().Add(-time.Hour), nil)
	by.Store(int64(-24 * time.Hour))
	src := NewSource(mustID(t, ordersID), newMetrics(t))
	src.UseClock(clock)
	if err := src.KeepIn(dir); err != nil || src.Current() != nil {
		t.Fatalf("what is on disk was read by a wrong clock: %v", err)
	}
	l := newLeaf(src, nil, zerolog.Nop())
	if _, err := l.tend(context.Background()); err == nil {
		t.Error("the clock is a day behind, and right")
	}
	by.Store(0)
	if _, err := l.tend(context.Background()); err != nil || src.Ready() != nil {
		t.Errorf("what is on disk was not taken: %v, %v", err, src.Ready())
	}
}

// A clock that was far ahead for a while, as one that was never set, has the issuer's
// answers refused. What was planned by it must not wait until that time comes.
func TestRotatorWhenTheClockWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &bundling{issuer: newIssuer(t, 24*time.Hour)}
		from.tell(nil, from.root.cert)
		clock, ahead := movedClock(time.Time{}, nil)
		src := NewSource(mustID(t, ordersID), newMetrics(t))
		src.UseClock(clock)
		var log lines
		start(t, NewRotator(src, from, zerolog.New(&log)))
		time.Sleep(time.Hour)
		first := src.Current()
		ahead.Store(int64(30 * 24 * time.Hour))
		time.Sleep(10 * time.Minute)
		if _, err := src.Certificate(); err == nil || src.Current() != first {
			t.Fatal("the clock was not ahead of the issuer's")
		}
		ahead.Store(0)
		time.Sleep(10 * time.Minute)
		if src.Current() == first {
			t.Errorf("ten minutes after the clock was put right nothing is renewed; log %s", log.String())
		}
		time.Sleep(time.Hour)
		ahead.Store(int64(2 * time.Hour)) // by which certificates are still good
		time.Sleep(10 * time.Minute)
		ahead.Store(0)
		from.mu.Lock()
		reads := from.reads
		from.mu.Unlock()
		time.Sleep(30 * time.Minute)
		from.mu.Lock()
		defer from.mu.Unlock()
		if from.reads == reads {
			t.Error("in half an hour after that no roots were read")
		}
	})
}
