package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// bubble is a Client on a Redis inside a synctest bubble: no socket, and the
// bubble's clock on both sides.
type bubble struct {
	*Client
	redis   *miniredis.Miniredis
	signers *signers.Signers
	nodes   *signers.Nodes
	key     string // of the lease
}

func newBubble(t *testing.T) bubble {
	t.Helper()
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	metrics, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return m.Dial() }
	trusted := signers.New("test")
	c := newClient(Config{Addresses: []string{"in:1"}, Mesh: "test"}, trusted.Verifier(), dial, zerolog.Nop(), metrics)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		m.Close()
		synctest.Wait()
	})
	return bubble{Client: c, redis: m, signers: trusted, nodes: signers.NewNodes(), key: c.keys.instance("n1", mesh.RoleSidecar)}
}

// lease runs a lease until the test ends.
func (b bubble) lease(t *testing.T) *Lease {
	t.Helper()
	l, err := NewLease(b.Client, "n1", mesh.RoleSidecar, b.nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return l
}

func (b bubble) stored(t *testing.T) document {
	t.Helper()
	raw, err := b.redis.Get(b.key)
	if err != nil {
		t.Fatalf("the document: %v", err)
	}
	var e envelope
	var d document
	if err := errors.Join(json.Unmarshal([]byte(raw), &e), json.Unmarshal(e.Document, &d)); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLeaseBeatsWellWithinItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.lease(t)
		for range 600 {
			time.Sleep(time.Second)
			synctest.Wait()
			if left := b.redis.TTL(b.key); left < LeaseTTL-heartbeatEvery*6/5-time.Second {
				t.Fatalf("only %v left of the lease", left)
			}
		}
	})
}

func TestLeaseIsRewrittenBeforeItsDocumentEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.lease(t)
		first := b.stored(t)
		time.Sleep(rewriteEvery - 2*time.Second)
		synctest.Wait()
		if got := b.stored(t); got.Seq != first.Seq {
			t.Error("written again before its time")
		}
		time.Sleep(heartbeatEvery*6/5 + 3*time.Second)
		synctest.Wait()
		got := b.stored(t)
		if got.Seq <= first.Seq || !got.NotAfter.After(first.NotAfter) {
			t.Errorf("not written again: %+v, was %+v", got, first)
		}
	})
}

func TestLeaseComesBackWithinABeatOfBeingLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.lease(t)
		for range 20 {
			b.redis.FlushAll()
			time.Sleep(heartbeatEvery * 6 / 5)
			synctest.Wait()
			if !b.redis.Exists(b.key) {
				t.Fatal("not registered again within a heartbeat")
			}
		}
	})
}

func TestLeaseIsWrittenWholeAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		l := b.lease(t)
		first := b.stored(t)
		b.redis.SetError("READONLY You can't write against a read only replica.")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := l.State(); s.Registered || mesh.KindOf(s.Err) != mesh.Unavailable {
			t.Errorf("state %+v while Redis refuses", s)
		}
		b.redis.SetError("")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		// A replica that was promoted may hold an older document: prolonging
		// that would keep it.
		if got := b.stored(t); got.Seq <= first.Seq {
			t.Error("not written again after Redis failed")
		}
		if s := l.State(); !s.Registered || s.Err != nil {
			t.Errorf("state %+v", s)
		}
	})
}

func TestLeaseWithdrawsWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		l, err := NewLease(b.Client, "n1", mesh.RoleSidecar, b.nodes.Node("n1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Update([]mesh.Instance{{Service: "orders", Address: "127.0.0.1:1"}}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		synctest.Wait()
		if n := len(b.stored(t).Instances); n != 1 {
			t.Fatalf("%d instances registered", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(b.stored(t).Instances); n != 0 {
			t.Errorf("%d instances still registered", n)
		}
		if l.State().Registered {
			t.Error("the state says registered")
		}
		time.Sleep(LeaseTTL + time.Second)
		if b.redis.Exists(b.key) {
			t.Error("the farewell does not expire")
		}
	})
}

func TestLeaseEndsInTimeWithoutRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		l, err := NewLease(b.Client, "n1", mesh.RoleSidecar, b.nodes.Node("n1"))
		if err != nil {
			t.Fatal(err)
		}
		b.redis.SetError("LOADING Redis is loading the dataset in memory")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > releaseTimeout {
			t.Errorf("it took %v", took)
		}
	})
}

func TestOutageBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m, err := newMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		logged := &lines{}
		o := outage{part: "test", log: zerolog.New(logged), failed: m.errors}
		began := time.Now()
		attempts := map[time.Duration]int{}
		for time.Since(began) < 10*time.Minute {
			d := o.fail(errors.New("away"))
			limit := time.Second + time.Millisecond
			if share := time.Since(began) / outageShare; share > limit {
				limit = share + time.Millisecond
			}
			if d <= 0 || d > min(limit, backoffMax+time.Millisecond) {
				t.Fatalf("a wait of %v after %v", d, time.Since(began))
			}
			attempts[time.Since(began).Truncate(5*time.Minute)]++
			time.Sleep(d)
		}
		// In its last five minutes an outage of ten costs a try every five
		// seconds on average.
		if n := attempts[5*time.Minute]; n < 30 || n > 120 {
			t.Errorf("%d tries in the last five minutes", n)
		}
		if logged.n < 15 || logged.n > 21 {
			t.Errorf("%d lines logged in ten minutes, want one in 30 s", logged.n)
		}
		o.ok()
		if d := o.fail(errors.New("away")); d > backoffMin+time.Millisecond {
			t.Errorf("the first wait of a new outage is %v", d)
		}
	})
}

type lines struct{ n int }

func (l *lines) Write(p []byte) (int, error) { l.n++; return len(p), nil }

const jitterMax = pollEvery * 6 / 5
