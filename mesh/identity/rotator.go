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

// Renewable is a certificate that a Rotator keeps fresh, whoever issues it.
type Renewable interface {
	// Renew gets the next certificate and puts it to use. If it fails, the one
	// in use stays.
	Renew(ctx context.Context) error
	// Life returns from when the life of the certificate in use counts, which is
	// its receipt, and when it ends. Both are zero while there is none.
	Life() (from, until time.Time)
	// Ready returns nil while there is a valid certificate, or why there is none.
	Ready() error
}

// A tender is a Renewable with more to look after than its renewal. It is asked every
// second: due asks for renewal at once, and while there is an error nothing is renewed.
type tender interface {
	tend(ctx context.Context) (due bool, err error)
}

// A refusable is a Renewable that peers may refuse because of when it was issued. renewFrom
// returns from when on another may be issued that they take; zero if they take this one.
type refusable interface{ renewFrom() time.Time }

// Pace is when a Rotator renews and when it tries again.
type Pace struct {
	// Share is how much of its life, 0 to 1, a certificate has behind it when it
	// is renewed, give or take a tenth.
	Share float64
	// Timeout bounds one attempt.
	Timeout time.Duration
	// Retry returns how long to wait after the failure err; n have failed before
	// it since the last success. It is spread by a tenth, too.
	Retry func(n int, err error) time.Duration
}

// LeafPace is the pace of an issuer in the same house: renewal at a third of a
// certificate's life, attempts of 15 s, waits from 5 s, doubling, to 5 min.
func LeafPace() Pace {
	return Pace{Share: 1.0 / 3, Timeout: issueTimeout, Retry: func(n int, _ error) time.Duration {
		return min(retryFirst<<min(n, 16), retryMost)
	}}
}

// Rotator keeps one certificate fresh.
type Rotator struct {
	of     Renewable
	count  func(err error) // counts an attempt; nil is a success
	prober Prober          // nil if nobody can tell
	pace   Pace
	log    zerolog.Logger
	now    func() time.Time

	// Owned by Run.
	next      time.Time // when to issue; wall clock
	nextProbe time.Time
	// nextRefused is before when it is not issued anew because peers refuse what there is:
	// the issuer's clock may be behind.
	nextRefused time.Time
	looked      time.Time // at the clock last
	failures    int       // since the last success
	down        bool      // the last probe failed
	held        bool      // by the tender

	lastErr atomic.Pointer[error] // of the last attempt, for Ready
}

// NewRotator returns a Rotator of the certificate in source, at the LeafPace,
// that works while Run runs.
func NewRotator(source *Source, issuer Issuer, log zerolog.Logger) *Rotator {
	log = log.With().Stringer("identity", source.ID()).Logger()
	l := newLeaf(source, issuer, log)
	r := NewRotatorOf(l, LeafPace(), l.count, log)
	r.prober, _ = issuer.(Prober)
	r.now = source.clock.Now
	return r
}

// NewRotatorOf returns a Rotator of a certificate of any kind, whose log says
// which. count is called for each attempt, with nil if it succeeded. If the
// Renewable is a Prober too, it is asked as an Issuer is.
func NewRotatorOf(of Renewable, pace Pace, count func(err error), log zerolog.Logger) *Rotator {
	r := &Rotator{of: of, pace: pace, count: count, log: log, now: time.Now}
	r.prober, _ = of.(Prober)
	return r
}

// Run gets the first certificate at once, unless there is one already, and
// renews it when the Pace's share of the time from its receipt to its NotAfter
// is over. After a failure the old certificate serves on until it expires, and
// Run tries again when the Pace says, and at once when a Prober says that it is
// back. It compares wall clock times every second, because the timers of a
// suspended machine do not advance. It returns nil when ctx ends.
func (r *Rotator) Run(ctx context.Context) error {
	if from, until := r.of.Life(); !until.IsZero() {
		r.schedule(from, until)
	}
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		r.follow()
		if r.tended(ctx) && r.due(ctx) {
			r.attempt(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// follow moves what was planned with a clock that was put back: one that was ahead may
// have planned for a time after the end of the certificate.
func (r *Rotator) follow() {
	now := r.now().Round(0)
	if back := r.looked.Sub(now); back > 0 {
		for _, at := range []*time.Time{&r.next, &r.nextProbe, &r.nextRefused} {
			*at = at.Add(-back)
		}
	}
	r.looked = now
}

// Ready returns nil while there is a valid certificate, and otherwise an error
// that says why not.
func (r *Rotator) Ready() error {
	err := r.of.Ready()
	if err == nil {
		return nil
	}
	if last := r.lastErr.Load(); last != nil {
		return mesh.Errorf("identity.Ready", "", mesh.Unavailable, "%v; the last attempt: %w", err, *last)
	}
	return err
}

// tended asks the tender, if there is one, and reports whether anything may be renewed.
func (r *Rotator) tended(ctx context.Context) bool {
	t, ok := r.of.(tender)
	if !ok {
		return true
	}
	due, err := t.tend(ctx)
	switch {
	case err != nil:
		r.held = true
		r.lastErr.Store(&err)
		return false
	case r.held: // what was planned was by another clock
		r.held, r.failures, r.next = false, 0, time.Time{}
		r.lastErr.Store(nil)
		if from, until := r.of.Life(); !until.IsZero() {
			r.schedule(from, until)
		}
	case due && r.failures == 0: // else it waits its turn
		r.next = time.Time{}
	}
	return true
}

// due reports whether to ask the issuer now.
func (r *Rotator) due(ctx context.Context) bool {
	now := r.now().Round(0) // without the monotonic reading, which stops in suspension
	if !now.Before(r.next) || r.refused(now) {
		return true
	}
	if r.prober == nil || r.failures == 0 || now.Before(r.nextProbe) {
		return false
	}
	r.nextProbe = now.Add(probeEvery)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	wasDown := r.down
	r.down = r.prober.Probe(ctx) != nil
	// Only the change counts: an issuer that is up and refuses us must not
	// be asked every two seconds.
	return wasDown && !r.down
}

// refused reports whether peers refuse the certificate, and one that is issued now would
// be taken.
func (r *Rotator) refused(now time.Time) bool {
	of, ok := r.of.(refusable)
	if !ok || r.failures > 0 || now.Before(r.nextRefused) {
		return false
	}
	from := of.renewFrom()
	if from.IsZero() || now.Before(from) {
		return false
	}
	r.nextRefused = now.Add(retryFirst)
	return true
}

// attempt asks the issuer once and sets the time of the next attempt.
func (r *Rotator) attempt(ctx context.Context) {
	err := r.renew(ctx)
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
	_, until := r.of.Life()
	r.schedule(now, until)
	r.count(nil)
	r.log.Info().Time("not_after", until).Time("renew_at", r.next).Msg("certificate issued")
}

// schedule sets the time of the next attempt by the life of a certificate.
func (r *Rotator) schedule(from, until time.Time) {
	r.next = from.Add(spread(time.Duration(float64(until.Sub(from)) * r.pace.Share)))
}

// renew makes one attempt.
func (r *Rotator) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.pace.Timeout)
	defer cancel()
	return r.of.Renew(ctx)
}

// failed is the one place that every failure to renew passes: it schedules the
// retry, counts, and logs with the time left. It logs as an error once there is
// no certificate, or a quarter of the time is over in which it should have been
// renewed; of a leaf that is when half of its life is.
func (r *Rotator) failed(err error, now time.Time) {
	wait := spread(r.pace.Retry(r.failures, err))
	r.failures++
	r.next = now.Add(wait)
	r.lastErr.Store(&err)
	r.count(err)

	level, left := zerolog.ErrorLevel, time.Duration(0)
	if from, until := r.of.Life(); !until.IsZero() {
		left = max(0, until.Sub(now))
		if float64(left) > float64(until.Sub(from))*(1-r.pace.Share)*3/4 {
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
