package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

// TestSilenceDoesNotAgeInstances is the rule that removes instances, on the
// clock of the bubble.
func TestSilenceDoesNotAgeInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.publishWorld(t)
		raw := b.document(t, 1)
		b.put(t, raw)
		w := b.watch(t)
		w.await(t, "registered", time.Second, 1)

		b.redis.Del(b.key)
		w.await(t, "its key is gone for less than a TTL", LeaseTTL-time.Second, 1)
		b.put(t, raw)
		w.await(t, "it came back", 10*time.Second, 1)
		b.redis.Del(b.key)
		w.await(t, "gone again: counted anew", LeaseTTL-time.Second, 1)
		b.redis.SetError("LOADING Redis is loading the dataset in memory")
		w.await(t, "Redis does not answer for an hour", time.Hour, 1)
		if w.Status().Connected {
			t.Error("the status says connected")
		}
		b.redis.SetError("")
		w.await(t, "Redis answers again: counted anew", LeaseTTL-time.Second, 1)
		b.redis.FlushAll()
		w.await(t, "Redis lost its head too: what it lacks says nothing", time.Hour, 1)
		b.publishWorld(t)
		w.await(t, "Redis is itself again, and has lacked the key for less than a TTL", LeaseTTL-time.Second, 1)
		w.await(t, "and now for a whole one", 2*jitterMax, 0)
	})
}

// What nobody signed who may takes nothing away, nor does it keep what its process left.
func TestWhatIsRefusedTakesNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.publishWorld(t)
		b.put(t, b.document(t, 1))
		w := b.watch(t)
		w.await(t, "registered", time.Second, 1)
		b.put(t, "nonsense")
		w.await(t, "something else is in its place", documentLife+skewTolerated-2*time.Second, 1)
		w.await(t, "and what was there has long ended", LeaseTTL+2*jitterMax, 0)
	})
}

// Who owns Redis keeps no process there longer than what it wrote last is good for.
func TestADocumentThatIsKeptThereEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.publishWorld(t)
		b.put(t, b.document(t, 1))
		w := b.watch(t)
		w.await(t, "registered", time.Second, 1)
		w.await(t, "good yet", documentLife+skewTolerated-2*time.Second, 1)
		w.await(t, "ended", LeaseTTL+2*jitterMax, 0)
		if n := w.refused(t, rejectExpired); n != 2 { // when it ended, and when it was looked at anew
			t.Errorf("counted %v times", n)
		}
	})
}

// A process that is gone does not come back by what it wrote before.
func TestADocumentOfAProcessThatIsGoneIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.publishWorld(t)
		first := b.document(t, 1)
		b.put(t, first)
		w := b.watch(t)
		w.await(t, "registered", time.Second, 1)
		b.put(t, b.document(t, 0))
		w.await(t, "it left", 2*jitterMax, 0)
		b.redis.Del(b.key)
		w.await(t, "its key is gone", LeaseTTL+2*jitterMax, 0)
		b.put(t, first)
		w.await(t, "what it wrote before is there", time.Minute, 0)
		if w.refused(t, rejectReplayed) == 0 {
			t.Error("not counted")
		}
		b.put(t, b.document(t, 1))
		w.await(t, "it is back", 2*jitterMax, 1)
	})
}

// Documents wait for roots to verify them by.
func TestDocumentsWaitForRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		b.publishWorld(t)
		b.put(t, b.document(t, 1))
		var bundle atomic.Pointer[identity.Bundle]
		w := b.watchBy(t, bundle.Load)
		time.Sleep(time.Minute)
		if w.Snapshot() != nil || w.refused(t, rejectUntrusted) != 0 {
			t.Errorf("snapshot %v without roots", w.Snapshot())
		}
		bundle.Store(signers.NewNodes().Bundle())
		w.await(t, "other roots", time.Second, 0)
		bundle.Store(b.nodes.Bundle())
		w.await(t, "its roots", 2*jitterMax, 1)
	})
}

// A new certificate signs at once: who reads later could not verify what the old one did.
func TestLeaseIsRewrittenForANewCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t)
		by := &renewed{}
		by.Store(b.nodes.Node("n1"))
		l, err := NewLease(b.Client, "n1", mesh.RoleSidecar, by)
		if err != nil {
			t.Fatal(err)
		}
		b.run(t, l.Run)
		first := b.stored(t)
		time.Sleep(heartbeatEvery * 2)
		synctest.Wait()
		if got := b.stored(t); got.Seq != first.Seq {
			t.Error("written again by the same certificate")
		}
		by.Store(b.nodes.Node("n1"))
		time.Sleep(heartbeatEvery * 6 / 5)
		synctest.Wait()
		if got := b.stored(t); got.Seq == first.Seq {
			t.Error("not written again")
		}
	})
}

// renewed is a certificate that changes.
type renewed struct {
	atomic.Pointer[signers.Certificate]
}

func (r *renewed) Certificate() (*tls.Certificate, error) { return r.Load().Certificate() }

// publishWorld publishes a mesh of one service on one node.
func (b bubble) publishWorld(t *testing.T) {
	t.Helper()
	records := mesh.Records{
		"defaults/mesh":   []byte(`{"dialCidrs":["127.0.0.0/8"],"authorization":"DENY"}`),
		"services/orders": []byte(`{"protocol":"HTTP"}`),
		"nodes/n1":        []byte(`{"roles":["SIDECAR"],"services":["orders"]}`),
	}
	head := b.signers.Sign(mesh.Head{Epoch: 1, Revision: 1, Digest: records.Digest()})
	if _, err := b.Publish(t.Context(), mesh.Change{Head: head, Puts: records}, mesh.Head{}, records); err != nil {
		t.Fatal(err)
	}
}

// document is what the sidecar of n1 writes now.
func (b bubble) document(t *testing.T, instances int) string {
	t.Helper()
	d := document{Node: "n1", Role: mesh.RoleSidecar, Seq: time.Now().UnixMilli(), NotAfter: time.Now().Add(documentLife)}
	for i := range instances {
		d.Instances = append(d.Instances, mesh.Instance{Meta: mesh.Meta{Name: fmt.Sprintf("instances/n1-%d", i+1)}, Service: "orders", Address: "127.0.0.1:1"})
	}
	return string(signed(t, &d, b.nodes.Node("n1")))
}

// put writes the sidecar's key, without an end.
func (b bubble) put(t *testing.T, value string) {
	t.Helper()
	if err := b.redis.Set(b.key, value); err != nil {
		t.Fatal(err)
	}
}

// run runs a part until the test ends.
func (b bubble) run(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

// bubbleWatcher is a Watcher that runs in a bubble.
type bubbleWatcher struct {
	*Watcher
}

func (b bubble) watch(t *testing.T) bubbleWatcher {
	t.Helper()
	return b.watchBy(t, b.nodes.Bundle)
}

func (b bubble) watchBy(t *testing.T, bundle func() *identity.Bundle) bubbleWatcher {
	t.Helper()
	w := NewWatcher(b.Client, bundle, WatcherOptions{All: true})
	b.run(t, w.Run)
	return bubbleWatcher{w}
}

// await lets time pass, after which there are so many instances.
func (w bubbleWatcher) await(t *testing.T, what string, d time.Duration, want int) {
	t.Helper()
	<-time.After(d) // of the bubble
	synctest.Wait()
	if got := len(w.Snapshot().Instances["orders"]); got != want {
		t.Fatalf("%s: %d instances, want %d", what, got, want)
	}
}

// refused is how often something was refused for a reason.
func (w bubbleWatcher) refused(t *testing.T, reason string) float64 {
	t.Helper()
	return testutil.ToFloat64(w.client.metrics.rejects.WithLabelValues(reason))
}
