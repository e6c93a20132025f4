package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// issuer is an Issuer that fails while err is set and notes when it was asked.
type issuer struct {
	root *pair
	ttl  time.Duration

	mu     sync.Mutex
	err    error
	hang   bool
	asked  []time.Time
	probes int
}

var (
	_ Issuer = (*issuer)(nil)
	_ Prober = (*probing)(nil)
)

func newIssuer(t *testing.T, ttl time.Duration) *issuer {
	t.Helper()
	template := caTemplate("root")
	template.NotBefore, template.NotAfter = time.Now(), time.Now().AddDate(10, 0, 0)
	return &issuer{root: (*pair)(nil).sign(t, template), ttl: ttl}
}

func (i *issuer) set(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

func (i *issuer) times() []time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]time.Time(nil), i.asked...)
}

func (i *issuer) Issue(ctx context.Context, r Request) (Issued, error) {
	i.mu.Lock()
	i.asked = append(i.asked, time.Now())
	err, hang := i.err, i.hang
	i.mu.Unlock()
	if hang {
		<-ctx.Done()
		return Issued{}, ctx.Err()
	}
	if err != nil {
		return Issued{}, err
	}
	key, err := r.Check()
	if err != nil {
		return Issued{}, err
	}
	csr, err := x509.ParseCertificateRequest(r.CSR)
	if err != nil {
		return Issued{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Second),
		NotAfter:     time.Now().Add(i.ttl),
		URIs:         csr.URIs,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, i.root.cert, key, i.root.key)
	if err != nil {
		return Issued{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, err
	}
	bundle, err := NewBundle(td, i.root.cert)
	return Issued{Chain: []*x509.Certificate{leaf}, Bundle: bundle}, err
}

// probing is an issuer that also tells whether it is up: the same as whether it issues.
type probing struct {
	*issuer
	up func() error
}

func (p probing) Probe(context.Context) error {
	p.mu.Lock()
	p.probes++
	err := p.err
	p.mu.Unlock()
	if p.up != nil {
		return p.up()
	}
	return err
}

// lines is a log that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what was written so far.
func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rotate starts a Rotator in the bubble; the cleanup proves that Run returns.
func rotate(t *testing.T, from Issuer, log *lines) (*Rotator, *Source) {
	t.Helper()
	return rotateHeeding(t, from, log, nil)
}

func rotateHeeding(t *testing.T, from Issuer, log *lines, denies *Denies) (*Rotator, *Source) {
	t.Helper()
	src := NewSource(mustID(t, ordersID), newMetrics(t))
	src.Heed(denies)
	r := NewRotator(src, from, zerolog.New(log))
	start(t, r)
	return r, src
}

func start(t *testing.T, r *Rotator) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

var errSealed = mesh.Errorf("sign", "orders", mesh.Unavailable, "Vault is sealed").WithHint("unseal it")

func TestRotatorRenewsAtAThirdOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		var log lines
		r, src := rotate(t, from, &log)
		synctest.Wait()
		if err := r.Ready(); err != nil {
			t.Fatalf("not ready at once: %v", err)
		}
		first := src.Current()
		time.Sleep(7*time.Hour + 11*time.Minute) // 0.9 of 8 h, less a minute
		if src.Current() != first {
			t.Fatal("renewed before a third of its life, less a tenth")
		}
		time.Sleep(98 * time.Minute) // 1.1 of 8 h, and a minute
		synctest.Wait()
		if src.Current() == first {
			t.Fatal("not renewed after a third of its life and a tenth")
		}
		if src.Current().Certificate.PrivateKey == first.Certificate.PrivateKey {
			t.Error("the key was used again")
		}
		time.Sleep(30 * 24 * time.Hour)
		synctest.Wait()
		if n := len(from.times()); n < 80 || n > 103 {
			t.Errorf("%d certificates in 30 days, want about 90", n)
		}
		if n := testutil.ToFloat64(src.metrics.renewals.WithLabelValues(ordersID)); int(n) != len(from.times()) {
			t.Errorf("%v renewals counted, %d made", n, len(from.times()))
		}
		if got, want := testutil.ToFloat64(src.metrics.notAfter.WithLabelValues(ordersID)), src.Current().Certificate.Leaf.NotAfter.Unix(); int64(got) != want {
			t.Errorf("not_after %v, want %d", got, want)
		}
	})
}

func TestRotatorsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		for range 20 {
			rotate(t, from, new(lines))
		}
		synctest.Wait()
		time.Sleep(9 * time.Hour)
		synctest.Wait()
		times := from.times()[20:]
		if len(times) != 20 || times[19].Sub(times[0]) < 30*time.Minute {
			t.Errorf("%d renewals within %v", len(times), times[len(times)-1].Sub(times[0]))
		}
	})
}

func TestRotatorRetriesTheFirstCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		from.set(errSealed)
		var log lines
		r, src := rotate(t, from, &log)
		begin := time.Now()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		err := r.Ready()
		if err == nil || !strings.Contains(err.Error(), "Vault is sealed") || mesh.HintOf(err) == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("Ready: %v", err)
		}
		want := []time.Duration{0, 5, 10, 20, 40, 80, 160, 300}
		times := from.times()
		last := begin
		for i, at := range times {
			wait := at.Sub(last)
			last = at
			wanted := want[min(i, len(want)-1)]
			if lo, hi := wanted*900*time.Millisecond, wanted*1100*time.Millisecond+2*time.Second; wait < lo || wait > hi {
				t.Errorf("attempt %d after %v, want %d s", i+1, wait, wanted)
			}
		}
		if n := testutil.ToFloat64(src.metrics.failures.WithLabelValues(ordersID, "unavailable")); int(n) != len(times) || n < 9 {
			t.Errorf("%v failures counted, %d made", n, len(times))
		}
		if !strings.Contains(log.String(), `"level":"error"`) || !strings.Contains(log.String(), `"hint":"unseal it"`) {
			t.Errorf("log %.300s", log.String())
		}
		from.set(nil)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if err := r.Ready(); err != nil {
			t.Errorf("not ready after recovery: %v", err)
		}
	})
}

// Sealed for 60 s with leaves of 120 s: the old one serves on, and the new one
// comes within seconds of the unsealing, though the backoff is longer by then.
func TestRotatorKeepsTheOldThroughAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 120*time.Second)
		var log lines
		r, src := rotate(t, probing{issuer: from}, &log)
		synctest.Wait()
		first := src.Current()
		from.set(errSealed)
		time.Sleep(100 * time.Second)
		synctest.Wait()
		if src.Current() != first || r.Ready() != nil {
			t.Fatalf("the old certificate does not serve on: %v", r.Ready())
		}
		if !strings.Contains(log.String(), `"level":"warn"`) || !strings.Contains(log.String(), `"level":"error"`) || !strings.Contains(log.String(), `"time_left":"`) {
			t.Errorf("want warnings, then errors past half of its life, with the time left:\n%s", log.String())
		}
		from.set(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if src.Current() == first {
			t.Error("not renewed within 3 s of the issuer's return")
		}
	})
}

// Past expiry it fails closed, says why, and recovers without a restart.
func TestRotatorPastExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 30*time.Second)
		var log lines
		r, src := rotate(t, probing{issuer: from}, &log)
		synctest.Wait()
		from.set(errSealed)
		time.Sleep(60 * time.Second)
		synctest.Wait()
		err := r.Ready()
		if err == nil || !strings.Contains(err.Error(), "expired at") || !strings.Contains(err.Error(), "Vault is sealed") {
			t.Errorf("Ready: %v", err)
		}
		if _, err := src.Certificate(); err == nil {
			t.Error("the expired certificate is presented")
		}
		from.set(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if err := r.Ready(); err != nil {
			t.Errorf("not ready 3 s after the issuer's return: %v", err)
		}
	})
}

// An issuer that is up and refuses is asked at the pace of the backoff.
func TestRotatorIsNotDrivenByAProbeThatStaysGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, time.Hour)
		from.set(mesh.Errorf("sign", "orders", mesh.Denied, "the role does not allow it"))
		var log lines
		_, src := rotate(t, probing{issuer: from, up: func() error { return nil }}, &log)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(from.times()); n > 9 {
			t.Errorf("asked %d times in 10 min", n)
		}
		from.mu.Lock()
		defer from.mu.Unlock()
		if from.probes < 250 || from.probes > 301 {
			t.Errorf("probed %d times in 10 min, want every 2 s", from.probes)
		}
		if n := testutil.ToFloat64(src.metrics.failures.WithLabelValues(ordersID, "denied")); n == 0 {
			t.Error("not counted by its kind")
		}
	})
}

// The wall clock jumps while the timers do not, as when a VM is resumed.
func TestRotatorNoticesASuspension(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, 24*time.Hour)
		src := NewSource(mustID(t, ordersID), newMetrics(t))
		r := NewRotator(src, from, zerolog.Nop())
		var mu sync.Mutex
		var slept time.Duration
		r.now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(slept)
		}
		start(t, r)
		synctest.Wait()
		first := src.Current()
		mu.Lock()
		slept = 12 * time.Hour
		mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if src.Current() == first {
			t.Error("not renewed after the wall clock passed the time")
		}
	})
}

func TestRotatorRefusesABadAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, -time.Minute) // expired when it arrives
		var log lines
		r, src := rotate(t, from, &log)
		synctest.Wait()
		if src.Current() != nil {
			t.Fatal("an expired certificate was put to use")
		}
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "the issuer's answer is refused") {
			t.Errorf("Ready: %v", err)
		}
	})
}

func TestRotatorGivesUpOnASilentIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, time.Hour)
		from.hang = true
		var log lines
		r, _ := rotate(t, from, &log)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if err := r.Ready(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Ready: %v", err)
		}
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if n := len(from.times()); n != 2 {
			t.Errorf("asked %d times in 42 s, want twice", n)
		}
	})
}

// Shutting down in the middle of an attempt is not a failure.
func TestRotatorEndsInAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newIssuer(t, time.Hour)
		from.hang = true
		src := NewSource(mustID(t, ordersID), newMetrics(t))
		var log lines
		r := NewRotator(src, from, zerolog.New(&log))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil || log.String() != "" {
			t.Errorf("Run returned %v and logged %q", err, log.String())
		}
	})
}
