package identity

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// The Rotator's timing.
const (
	checkEvery   = time.Second      // how often wall clock and schedule are compared
	probeEvery   = 2 * time.Second  // how often an issuer that failed is asked whether it is back
	probeTimeout = time.Second      // so that a silent issuer does not hold up the schedule
	issueTimeout = 15 * time.Second // one attempt, queueing for a login included
	retryFirst   = 5 * time.Second  // the first retry; it doubles with each
	retryMost    = 5 * time.Minute
	jitter       = 0.1 // of each wait, either way, so that a fleet spreads out
)

// Rotator keeps the certificate of one Source fresh.
type Rotator struct {
	source *Source
	issuer Issuer
	log    zerolog.Logger
	now    func() time.Time

	// Owned by Run.
	next      time.Time // when to issue; wall clock
	nextProbe time.Time
	failures  int  // since the last success
	down      bool // the last probe failed

	lastErr atomic.Pointer[error] // of the last attempt, for Ready
}

// NewRotator returns a Rotator that works while Run runs.
func NewRotator(source *Source, issuer Issuer, log zerolog.Logger) *Rotator {
	return &Rotator{
		source: source,
		issuer: issuer,
		log:    log.With().Stringer("identity", source.ID()).Logger(),
		now:    time.Now,
	}
}

// Run gets the first certificate at once and renews it at a third of the time
// from its receipt to its NotAfter, give or take a tenth. After a failure the
// old certificate serves on until it expires, and Run tries again after 5 s,
// doubling to 5 min, and at once when a Prober says that it is back. It
// compares wall clock times every second, because the timers of a suspended
// machine do not advance. It returns nil when ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		if r.due(ctx) {
			r.attempt(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Ready returns nil while the Source has a valid certificate, and otherwise an
// error that says why not.
func (r *Rotator) Ready() error {
	_, err := r.source.Certificate()
	if err == nil {
		return nil
	}
	if last := r.lastErr.Load(); last != nil {
		return mesh.Errorf("identity.Ready", r.source.ID().String(), mesh.Unavailable, "%v; the last attempt: %w", err, *last)
	}
	return err
}

// due reports whether to ask the issuer now.
func (r *Rotator) due(ctx context.Context) bool {
	now := r.now().Round(0) // without the monotonic reading, which stops in suspension
	if !now.Before(r.next) {
		return true
	}
	prober, ok := r.issuer.(Prober)
	if !ok || r.failures == 0 || now.Before(r.nextProbe) {
		return false
	}
	r.nextProbe = now.Add(probeEvery)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	wasDown := r.down
	r.down = prober.Probe(ctx) != nil
	// Only the change counts: an issuer that is up and refuses us must not
	// be asked every two seconds.
	return wasDown && !r.down
}

// attempt asks the issuer once and sets the time of the next attempt.
func (r *Rotator) attempt(ctx context.Context) {
	err := r.issue(ctx)
	if ctx.Err() != nil {
		return // shutting down is not a failure
	}
	now := r.now().Round(0)
	if err != nil {
		r.failed(err, now)
		return
	}
	// From the receipt, not from NotBefore: issuers backdate that.
	r.failures, r.down = 0, false
	r.lastErr.Store(nil)
	notAfter := r.source.Current().Certificate.Leaf.NotAfter
	r.next = now.Add(spread(notAfter.Sub(now) / 3))
	r.source.metrics.renewals.WithLabelValues(r.source.ID().String()).Inc()
	r.log.Info().Time("not_after", notAfter).Time("renew_at", r.next).Msg("certificate issued")
}

// issue gets one certificate for a key of its own and puts it to use.
func (r *Rotator) issue(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	key, request, err := NewRequest(r.source.ID())
	if err != nil {
		return err
	}
	issued, err := r.issuer.Issue(ctx, request)
	if err != nil {
		return err
	}
	return r.source.Swap(key, issued)
}

// failed is the one place that every failure to renew passes: it schedules the
// retry, counts, and logs with the time left. It logs as an error once there is
// no certificate, or less than half of its life left.
func (r *Rotator) failed(err error, now time.Time) {
	wait := spread(min(retryFirst<<min(r.failures, 16), retryMost))
	r.failures++
	r.next = now.Add(wait)
	r.lastErr.Store(&err)
	r.source.metrics.failures.WithLabelValues(r.source.ID().String(), mesh.KindOf(err).String()).Inc()

	level, left := zerolog.ErrorLevel, time.Duration(0)
	if c := r.source.Current(); c != nil {
		end := c.Certificate.Leaf.NotAfter
		left = max(0, end.Sub(now))
		if left > end.Sub(c.Received)/2 {
			level = zerolog.WarnLevel
		}
	}
	e := r.log.WithLevel(level).Err(err).Stringer("time_left", left.Round(time.Second)).Stringer("retry_in", wait.Round(time.Second)).Int("attempt", r.failures)
	if hint := mesh.HintOf(err); hint != "" {
		e = e.Str("hint", hint)
	}
	e.Msg("certificate not renewed")
}

// spread returns d give or take a tenth.
func spread(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*rand.Float64()))
}
