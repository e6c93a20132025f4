package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// bundling is an issuer that tells its roots.
type bundling struct {
	*issuer

	mu    sync.Mutex
	roots []*x509.Certificate
	err   error
	reads int
}

var _ Bundler = (*bundling)(nil)

func (b *bundling) Bundle(context.Context, string) (*Bundle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	if b.err != nil {
		return nil, b.err
	}
	return NewBundle(td, b.roots...)
}

func (b *bundling) tell(err error, roots ...*x509.Certificate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.roots = err, roots
}

// A new root is trusted within minutes, long before the renewal of the own certificate,
// which it leaves alone.
func TestRootsAreReadBetweenRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &bundling{issuer: newIssuer(t, 24*time.Hour)}
		next := newIssuer(t, 0).root
		from.tell(nil, from.root.cert)
		var log lines
		_, src := rotate(t, from, &log)
		synctest.Wait()
		first := src.Current()
		time.Sleep(time.Hour)
		synctest.Wait()
		if src.Current() != first {
			t.Error("the same roots are another credential")
		}
		if from.reads < 9 || from.reads > 14 {
			t.Errorf("read %d times in an hour, want every 5 minutes", from.reads)
		}
		from.tell(nil, from.root.cert, next.cert)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if now := src.Current(); len(now.Bundle.Roots()) != 2 || now.Certificate != first.Certificate || !now.Received.Equal(first.Received) {
			t.Errorf("%d roots", len(now.Bundle.Roots()))
		}
		caller := NewSource(mustID(t, telemID), newMetrics(t))
		template := leafTemplate(t, telemID)
		template.NotBefore, template.NotAfter = time.Now(), time.Now().Add(time.Hour)
		leaf := next.sign(t, template)
		if err := caller.Swap(leaf.key, Issued{Chain: []*x509.Certificate{leaf.cert}, Bundle: mustBundle(t, from.root.cert, next.cert)}); err != nil {
			t.Fatal(err)
		}
		if _, err := VerifySVID([]*x509.Certificate{leaf.cert}, src.Current().Bundle, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
			t.Errorf("a leaf of the new root: %v", err)
		}
		if n := testutil.ToFloat64(src.metrics.bundles.WithLabelValues(ordersID, "changed")); n != 1 {
			t.Errorf("counted %v changes", n)
		}
		if n := testutil.ToFloat64(src.metrics.roots.WithLabelValues(ordersID)); n != 2 {
			t.Errorf("the gauge says %v roots", n)
		}
	})
}

// Roots that cannot be read stay, and that is said once.
func TestRootsStayWhileNobodyTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &bundling{issuer: newIssuer(t, 24*time.Hour)}
		from.tell(errSealed)
		var log lines
		_, src := rotate(t, from, &log)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(src.Current().Bundle.Roots()) != 1 || strings.Count(log.String(), "trust roots not read") != 1 {
			t.Errorf("log %s", log.String())
		}
		if n := testutil.ToFloat64(src.metrics.bundles.WithLabelValues(ordersID, "failed")); n < 9 {
			t.Errorf("counted %v failures", n)
		}
	})
}

// While the issuer is away nothing waits for its roots, least of all the renewal.
func TestRootsAreNotReadOfAnIssuerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &bundling{issuer: newIssuer(t, 30*time.Second)}
		from.tell(nil, from.root.cert)
		_, src := rotate(t, from, new(lines))
		synctest.Wait()
		from.set(errSealed)
		time.Sleep(15 * time.Second) // a renewal has failed
		synctest.Wait()
		from.mu.Lock()
		before := from.reads
		from.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if from.reads != before {
			t.Errorf("read %d times", from.reads-before)
		}
		from.set(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if from.reads == before || src.Ready() != nil {
			t.Errorf("not read any more: %v", src.Ready())
		}
	})
}

// Who removes the old root too early has the certificates below it renewed at once: the own
// one is never without a root.
func TestARootThatLeavesRenewsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := &bundling{issuer: newIssuer(t, 24*time.Hour)}
		old, next := from.root, newIssuer(t, 0).root
		from.tell(nil, old.cert)
		var log lines
		r, src := rotate(t, from, &log)
		synctest.Wait()
		first := src.Current()
		from.issuer.mu.Lock()
		from.issuer.root, from.issuer.err = next, errSealed
		from.issuer.mu.Unlock()
		from.tell(nil, next.cert)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if src.Current() != first || r.Ready() != nil {
			t.Fatalf("the certificate in use was left without its root: %v", r.Ready())
		}
		if n := len(from.times()); n < 2 || n > 10 {
			t.Errorf("asked %d times for one below the new root", n)
		}
		from.set(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if roots := src.Current().Bundle.Roots(); len(roots) != 1 || !roots[0].Equal(next.cert) || r.Ready() != nil {
			t.Errorf("%d roots, %v", len(roots), r.Ready())
		}
	})
}

func TestTrustRefuses(t *testing.T) {
	one, two := newRoot(t, "one"), newRoot(t, "two")
	src := sourceOf(t, one, ordersID)
	before := src.Current()
	if changed, err := src.Trust(mustBundle(t, two.cert)); changed || mesh.KindOf(err) != mesh.Conflict {
		t.Errorf("a bundle without the own root: %t, %v", changed, err)
	}
	if changed, err := src.Trust(mustBundle(t, one.cert)); changed || err != nil || src.Current() != before {
		t.Errorf("the same bundle: %t, %v", changed, err)
	}
	if changed, err := src.Trust(mustBundle(t, two.cert, one.cert)); !changed || err != nil {
		t.Errorf("one more root: %t, %v", changed, err)
	}
	if changed, err := src.Trust(mustBundle(t, one.cert, two.cert)); changed || err != nil {
		t.Errorf("the same roots the other way round: %t, %v", changed, err)
	}
	empty := NewSource(mustID(t, ordersID), newMetrics(t))
	if _, err := empty.Trust(mustBundle(t, one.cert)); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("without a certificate: %v", err)
	}
}

// Roots that changed are those of the next run, too.
func TestTrustIsKept(t *testing.T) {
	dir := t.TempDir()
	one, two := newRoot(t, "one"), newRoot(t, "two")
	src := keeping(t, dir)
	issue(t, src, one, nil)
	if _, err := src.Trust(mustBundle(t, one.cert, two.cert)); err != nil {
		t.Fatal(err)
	}
	later, err := again(t, dir, ordersID)
	if err != nil || len(later.Current().Bundle.Roots()) != 2 {
		t.Errorf("%v", err)
	}
}

// Half of its life is a certificate's alarm, by metric, log and /ready, with the time left.
func TestOverdueIsAnAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		var log lines
		_, src := rotate(t, from, &log)
		synctest.Wait()
		from.set(errSealed)
		overdue := func() float64 { return testutil.ToFloat64(src.metrics.overdue.WithLabelValues(ordersID)) }
		time.Sleep(12*time.Hour - time.Minute)
		synctest.Wait()
		if overdue() != 0 || len(src.Degraded()) != 0 || strings.Contains(log.String(), "certificate overdue") {
			t.Errorf("an alarm before half of its life: %v", src.Degraded())
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if overdue() != 1 || !regexp.MustCompile(`"time_left":"(12h0m0s|11h59m5\ds)","message":"certificate overdue`).MatchString(log.String()) {
			t.Errorf("no alarm after half of its life: %v", overdue())
		}
		if got := src.Degraded(); len(got) != 1 || !strings.Contains(got[0].Error(), "overdue, with 11h5") || !strings.Contains(got[0].Error(), "Vault is sealed") {
			t.Errorf("degraded: %v", got)
		}
		if left := testutil.ToFloat64(src.metrics.left.WithLabelValues(ordersID)); left < 11.9*3600 || left > 12*3600 {
			t.Errorf("%v s left", left)
		}
		from.set(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if overdue() != 0 || len(src.Degraded()) != 0 || strings.Count(log.String(), "certificate overdue") != 1 {
			t.Errorf("renewed: %v", src.Degraded())
		}
	})
}

func TestAFailedSelfCheckShows(t *testing.T) {
	src := sourceOf(t, newRoot(t, "root"), ordersID)
	if got := src.Degraded(); len(got) != 0 {
		t.Fatalf("degraded: %v", got)
	}
	src.Checked(errors.New("another leaf"))
	if got := src.Degraded(); len(got) != 1 || got[0].Error() != "another leaf" {
		t.Errorf("degraded: %v", got)
	}
	src.Checked(nil)
	if got := src.Degraded(); len(got) != 0 {
		t.Errorf("degraded: %v", got)
	}
	for result, want := range map[string]float64{"ok": 1, "failed": 1} {
		if n := testutil.ToFloat64(src.metrics.checks.WithLabelValues(ordersID, result)); n != want {
			t.Errorf("%s counted %v times", result, n)
		}
	}
}
