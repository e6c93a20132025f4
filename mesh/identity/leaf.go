package identity

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The pace at which the trust roots are read between renewals: of a leaf's life a tenth, so
// that a new root is known long before anybody's leaf has to be renewed, and the bounds of
// that.
const (
	bundleShare   = 0.1
	bundleMost    = 5 * time.Minute
	bundleLeast   = time.Second
	bundleTimeout = 5 * time.Second
)

// sayAgain is how often what lasts is logged again.
const sayAgain = time.Minute

// leaf is the certificate of a Source, from an Issuer.
type leaf struct {
	source *Source
	issuer Issuer
	roots  Bundler // nil if the issuer is none
	log    zerolog.Logger

	// Owned by the Rotator's Run.
	nextBundle time.Time
	unread     bool      // the last read of the roots failed
	said       time.Time // when the clock was called wrong last
	overdue    bool
}

var (
	_ Renewable = (*leaf)(nil)
	_ tender    = (*leaf)(nil)
)

func newLeaf(source *Source, issuer Issuer, log zerolog.Logger) *leaf {
	l := &leaf{source: source, issuer: issuer, log: log}
	l.roots, _ = issuer.(Bundler)
	return l
}

// Renew implements Renewable: one certificate for a key of its own.
func (l *leaf) Renew(ctx context.Context) error {
	key, request, err := NewRequest(l.source.ID())
	if err != nil {
		return err
	}
	issued, err := l.issuer.Issue(ctx, request)
	if err != nil {
		return err
	}
	if err := l.source.Swap(key, issued); err != nil {
		return err
	}
	l.nextBundle = l.source.clock.Now().Add(l.bundleWait())
	if err := l.source.Unkept(); err != nil {
		l.log.Warn().Err(err).Msg("certificate not written to disk: a restart while the issuer is away would have none")
	}
	return nil
}

// Life implements Renewable.
func (l *leaf) Life() (from, until time.Time) {
	c := l.source.Current()
	if c == nil {
		return time.Time{}, time.Time{}
	}
	return c.Received, c.Certificate.Leaf.NotAfter
}

// count counts an attempt.
func (l *leaf) count(err error) {
	id := l.source.ID().String()
	if err != nil {
		l.source.failed.Store(&err)
		l.source.metrics.failures.WithLabelValues(id, mesh.KindOf(err).String()).Inc()
		return
	}
	l.source.failed.Store(nil)
	l.source.metrics.renewals.WithLabelValues(id).Inc()
}

// Ready implements Renewable.
func (l *leaf) Ready() error {
	_, err := l.source.Lenient()
	return err
}

// tend implements tender: it looks at the clock, at how much of the certificate's life is
// left, and for roots that are new.
func (l *leaf) tend(ctx context.Context) (due bool, err error) {
	overdue, now := l.source.measure(), l.source.clock.Now()
	if err := l.source.clock.Check(); err != nil {
		if now.Sub(l.said).Abs() >= sayAgain {
			l.said = now
			l.log.Error().Err(err).Str("hint", mesh.HintOf(err)).Msg("the clock is wrong: no certificate is used, and nobody's is trusted")
		}
		return false, err
	}
	if !l.said.IsZero() {
		l.said = time.Time{}
		l.log.Info().Msg("the clock is right again")
	}
	if l.source.deferred {
		if err := l.source.takeKept(); err != nil {
			l.log.Warn().Err(err).Str("hint", mesh.HintOf(err)).Msg("no identity of an earlier run")
		}
	}
	if c := l.source.Current(); overdue && !l.overdue && c != nil {
		l.log.Error().Stringer("time_left", max(0, c.Certificate.Leaf.NotAfter.Sub(now)).Round(time.Second)).
			Msg("certificate overdue: half of its life is over and it is not renewed")
	}
	l.overdue = overdue
	return l.readRoots(ctx, now), nil
}

// bundleWait is how long to wait until the roots are read again.
func (l *leaf) bundleWait() time.Duration {
	from, until := l.Life()
	return spread(min(max(time.Duration(float64(until.Sub(from))*bundleShare), bundleLeast), bundleMost))
}

// readRoots reads the trust roots when it is time to, and reports whether the certificate
// has to be renewed before they can be used.
func (l *leaf) readRoots(ctx context.Context, now time.Time) (due bool) {
	// What is planned for later than ever is planned was by a clock that was ahead.
	early := now.Before(l.nextBundle) && l.nextBundle.Sub(now) <= 2*bundleMost
	if l.roots == nil || l.source.Current() == nil || early {
		return false
	}
	// An issuer that is away has no roots either. To wait for it here would hold up the
	// renewal, which brings them.
	if last := l.source.failed.Load(); last != nil && mesh.KindOf(*last) == mesh.Unavailable {
		return false
	}
	wait := l.bundleWait()
	if l.nextBundle.IsZero() { // the one that is there was just read, from disk at the oldest
		l.nextBundle = now.Add(wait / 2)
		return false
	}
	l.nextBundle = now.Add(wait)
	ctx, cancel := context.WithTimeout(ctx, bundleTimeout)
	defer cancel()
	bundle, err := l.roots.Bundle(ctx, l.source.ID().TrustDomain())
	changed := false
	if err == nil {
		changed, err = l.source.Trust(bundle)
	}
	result := "same"
	switch {
	case err != nil:
		result = "failed"
		if !l.unread { // while the issuer is away, that renewal fails is said often enough
			l.log.Warn().Err(err).Msg("trust roots not read; those that are known stay")
		}
	case changed:
		result = "changed"
		l.log.Info().Int("roots", len(bundle.roots)).Msg("trust roots changed")
	}
	l.unread = err != nil
	l.source.metrics.bundles.WithLabelValues(l.source.ID().String(), result).Inc()
	return mesh.KindOf(err) == mesh.Conflict
}
