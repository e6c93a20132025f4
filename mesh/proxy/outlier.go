package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Defaults of outlier detection: Envoy's, but that a service of a few instances may
// lose one, and never more than half of them.
const (
	defaultServerErrors    = 5
	defaultConnectFailures = 3
	defaultEjectInterval   = 10 * time.Second
	defaultEjection        = 30 * time.Second
	longestEjection        = 5 * time.Minute
	defaultMostEjected     = 50 // percent
)

// ejections is what the outliers of one service have in common.
type ejections struct {
	count atomic.Int32 // endpoints in out

	mu    sync.Mutex // guards what follows
	rules outlierRules
	most  int                          // endpoints at a time
	out   map[*endpointState]time.Time // those that are ejected, and until when
}

// outlierRules is a compiled mesh.OutlierDetection.
type outlierRules struct {
	serverErrors, connectFailures uint32
	interval, ejection            time.Duration
}

// outlier is what one endpoint did wrong lately.
type outlier struct {
	until           atomic.Int64  // when it comes back, in nanoseconds since 1970; 0 if it never left
	serverErrors    atomic.Uint32 // in a row
	connectFailures atomic.Uint32
	// What follows is guarded by ejections.mu.
	times int  // that it was ejected, less one for each interval since
	gone  bool // the service has it no more: requests to it may still be under way
}

// ejected reports whether the endpoint is out at now.
func (o *outlier) ejected(now int64) bool { return o.until.Load() > now }

// configure takes the rules of a service with n instances.
func (j *ejections) configure(o *mesh.OutlierDetection, n int) {
	rules := outlierRules{defaultServerErrors, defaultConnectFailures, defaultEjectInterval, defaultEjection}
	percent := uint32(defaultMostEjected)
	if o != nil {
		rules.interval, rules.ejection = o.Interval.Or(rules.interval), o.BaseEjectionTime.Or(rules.ejection)
		for _, given := range []struct {
			value uint32
			to    *uint32
		}{{o.ConsecutiveServerErrors, &rules.serverErrors}, {o.ConsecutiveConnectFailures, &rules.connectFailures}, {o.MaxEjectionPercent, &percent}} {
			if given.value != 0 {
				*given.to = given.value
			}
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rules = rules
	j.most = max(n*int(percent)/100, 1)
	if j.out == nil {
		j.out = map[*endpointState]time.Time{}
	}
}

// any reports whether an endpoint is ejected, or was until just now.
func (j *ejections) any() bool { return j.count.Load() > 0 }

// good takes a response that is no server error.
func (j *ejections) good(e *Endpoint) {
	if e.outlier.serverErrors.Load() != 0 {
		e.outlier.serverErrors.Store(0)
	}
	if e.outlier.connectFailures.Load() != 0 {
		e.outlier.connectFailures.Store(0)
	}
}

// serverError takes a response with status 5xx, or none where one was due, and
// reports whether e was ejected for it.
func (j *ejections) serverError(e *Endpoint, now time.Time) bool {
	e.outlier.connectFailures.Store(0)
	n := e.outlier.serverErrors.Add(1)
	j.mu.Lock()
	defer j.mu.Unlock()
	return n >= j.rules.serverErrors && j.eject(e, now)
}

// connectFailure takes a connection that could not be made, and reports whether e
// was ejected for it.
func (j *ejections) connectFailure(e *Endpoint, now time.Time) bool {
	n := e.outlier.connectFailures.Add(1)
	j.mu.Lock()
	defer j.mu.Unlock()
	return n >= j.rules.connectFailures && j.eject(e, now)
}

// eject takes e out, unless too many are. mu is held.
func (j *ejections) eject(e *Endpoint, now time.Time) bool {
	j.look(now)
	if _, already := j.out[e.endpointState]; already || e.outlier.gone || len(j.out) >= j.most {
		return false
	}
	o := &e.outlier
	if back := o.until.Load(); back > 0 && j.rules.interval > 0 {
		o.times = max(o.times-int(now.Sub(time.Unix(0, back))/j.rules.interval), 0)
	}
	o.times++
	until := now.Add(min(j.rules.ejection*time.Duration(o.times), max(longestEjection, j.rules.ejection)))
	o.serverErrors.Store(0)
	o.connectFailures.Store(0)
	o.until.Store(until.UnixNano())
	e.usable.Store(until.UnixNano()) // it starts slowly then
	j.out[e.endpointState] = until
	j.count.Store(int32(len(j.out)))
	return true
}

// look lets those come back whose time is up. mu is held.
func (j *ejections) look(now time.Time) {
	for e, until := range j.out {
		if !until.After(now) {
			delete(j.out, e)
		}
	}
	j.count.Store(int32(len(j.out)))
}

// refresh is look, for who has seen that any is true.
func (j *ejections) refresh(now time.Time) {
	if !j.mu.TryLock() {
		return // somebody else looks
	}
	defer j.mu.Unlock()
	j.look(now)
}

// forget drops an endpoint that left.
func (j *ejections) forget(e *Endpoint) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.outlier.gone = true
	delete(j.out, e.endpointState)
	j.count.Store(int32(len(j.out)))
}
