package registry

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

const (
	backoffMin = 100 * time.Millisecond
	backoffMax = 10 * time.Second

	// backoffShort caps the wait in a short outage and outageShare its growth
	// in a longer one: 30 s away means a retry every second at most, five
	// minutes away one in ten seconds. So a restart of Redis is noticed within a
	// second, and a whole fleet that lost it for long returns spread out.
	backoffShort = time.Second
	outageShare  = 30

	// outageLogEvery bounds the log while Redis is away.
	outageLogEvery = 30 * time.Second
)

// outage follows one loop's failures against Redis: how long to wait, when to
// say so. It belongs to one goroutine.
type outage struct {
	part   string // of the program, for log and metric
	log    zerolog.Logger
	failed *prometheus.CounterVec

	since    time.Time // of the first failure in a row; zero while all is well
	attempts int
	logged   time.Time
}

// fail records a failure and returns how long to wait before the next try:
// full jitter under a cap that grows with the attempts and the outage.
func (o *outage) fail(err error) time.Duration {
	now := time.Now()
	o.failed.WithLabelValues(o.part).Inc()
	if o.attempts == 0 {
		o.since = now
	}
	if now.Sub(o.logged) >= outageLogEvery {
		o.logged = now
		o.log.Warn().Err(err).Str("loop", o.part).Dur("away", now.Sub(o.since)).Msg("Redis does not answer as it should, the last good state stands")
	}
	limit := backoffShort
	if o.attempts < 4 {
		limit = backoffMin << o.attempts
	}
	limit = min(max(limit, now.Sub(o.since)/outageShare), backoffMax)
	o.attempts++
	return rand.N(limit) + time.Millisecond
}

// ok records a success.
func (o *outage) ok() {
	if o.attempts == 0 {
		return
	}
	if now := time.Now(); now.Sub(o.logged) >= outageLogEvery || o.logged.After(o.since.Add(-time.Nanosecond)) {
		o.log.Info().Str("loop", o.part).Dur("away", now.Sub(o.since)).Msg("Redis answers again")
	}
	o.attempts, o.since = 0, time.Time{}
}

// jitter returns d +-20 %, so that a fleet started together does not beat
// together.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5)
}

// wait waits for d, for a value from one of wake, or for ctx's end, which it reports.
func wait(ctx context.Context, d time.Duration, wake ...<-chan struct{}) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var first, second <-chan struct{}
	if len(wake) > 0 {
		first = wake[0]
	}
	if len(wake) > 1 {
		second = wake[1]
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	case <-first:
	case <-second:
	}
	return nil
}

// alarm tells the loops of a Client that one of them lost Redis, so that the
// others look at once instead of at their next beat.
type alarm struct {
	mu sync.Mutex
	ch chan struct{} // closed and replaced by ring; guarded by mu
}

func newAlarm() *alarm { return &alarm{ch: make(chan struct{})} }

// rung returns a channel that the next ring closes.
func (a *alarm) rung() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ch
}

func (a *alarm) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.ch)
	a.ch = make(chan struct{})
}
