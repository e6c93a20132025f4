package proxy

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// CodeConcurrency is that of a request that came when the workload had as many under way
// as it answers without making them wait for each other. 503.
const CodeConcurrency = "concurrency_limited"

// errConcurrency is the cause of CodeConcurrency.
var errConcurrency = errors.New("the workload has as many requests under way as it answers in time")

// Defaults and bounds of adaptive concurrency: those of Envoy's adaptive_concurrency
// filter, but for what adaptive says.
const (
	defaultLeastConcurrency = 3
	defaultMostConcurrency  = 1000
	defaultLatencyBuffer    = 25 // percent
	defaultMeasureEvery     = time.Minute

	firstConcurrency  = 20                     // before anything is known
	adaptEvery        = 100 * time.Millisecond // the limit changes
	leastAdaptSamples = 5                      // in which it does
	measureSamples    = 50                     // of the latency without load
	leastMeasured     = 10                     // of which as many have to come
	measureMost       = time.Second            // for them
	measureAgain      = 10 * time.Second       // after how long, while too few have come
	mostSamples       = 256                    // that are kept of a window
)

// adaptive bounds the requests that a workload has under way at how many it answers
// before they wait for each other, which shows in their latency: the gradient controller
// of Envoy's adaptive_concurrency filter, after Netflix's concurrency-limits. Every
// adaptEvery the limit becomes
//
//	limit * latency without load * (1 + buffer) / latency now + sqrt(limit)
//
// by the medians, where the factor is at least 0.5 and at most 2. The latency without
// load is that of requests which began while no more than the least were under way. If
// there were none for a while, for a moment no more are let in; others wait meanwhile,
// where Envoy refuses them. The limit does not grow while it is not used.
type adaptive struct {
	rules    atomic.Pointer[adaptiveRules] // nil: there is no limit
	inFlight atomic.Int64
	limit    atomic.Int64

	mu       sync.Mutex // guards what follows; nothing is called under it
	now      samples    // of this window
	ends     time.Time  // of this window, at the earliest
	peak     int64      // requests under way in it
	free     samples    // of the latency without load, since the last one was taken
	freely   time.Duration
	measured time.Time     // when freely was
	calm     chan struct{} // closed when no more measuring goes on; nil if none does
	before   int64         // the limit, while measuring goes on
	waiting  int64         // for calm
}

// adaptiveRules is a compiled mesh.AdaptiveConcurrency.
type adaptiveRules struct {
	least, most int64
	buffer      float64
	every       time.Duration
}

// samples is a random choice of up to mostSamples of what was added.
type samples struct {
	kept [mostSamples]time.Duration
	n    int // that were added
}

func (s *samples) add(d time.Duration) {
	if s.n++; s.n <= len(s.kept) {
		s.kept[s.n-1] = d
	} else if i := rand.IntN(s.n); i < len(s.kept) {
		s.kept[i] = d
	}
}

// median returns the median, and forgets all.
func (s *samples) median() time.Duration {
	kept := s.kept[:min(s.n, len(s.kept))]
	s.n = 0
	if len(kept) == 0 {
		return 0
	}
	slices.Sort(kept)
	return kept[len(kept)/2]
}

// configure takes the rules of a service; nil is no limit.
func (a *adaptive) configure(c *mesh.AdaptiveConcurrency) {
	if c == nil {
		a.rules.Store(nil)
		return
	}
	next := &adaptiveRules{
		least: int64(given(c.MinConcurrency, defaultLeastConcurrency)), most: int64(given(c.MaxConcurrency, defaultMostConcurrency)),
		buffer: float64(given(c.BufferPercent, defaultLatencyBuffer)) / 100, every: c.MeasureEvery.Or(defaultMeasureEvery),
	}
	if old := a.rules.Load(); old != nil && *old == *next {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit.Store(max(min(firstConcurrency, next.most), next.least))
	a.before = a.limit.Load()
	a.now, a.free, a.freely, a.peak = samples{}, samples{}, 0, 0
	a.rules.Store(next)
}

// admitted is a request that was let in.
type admitted struct {
	a     *adaptive
	began time.Time
	free  bool // no more than the least were under way
}

// waiter is a request that may have to wait. Its context is asked for only then.
type waiter interface{ context() context.Context }

// admit lets w in, or refuses it with errConcurrency; or its context ends. The zero
// result is of a workload without a limit.
func (a *adaptive) admit(w waiter) (admitted, error) {
	rules := a.rules.Load()
	if rules == nil {
		return admitted{}, nil
	}
	for {
		n := a.inFlight.Add(1)
		if n <= a.limit.Load() {
			return admitted{a, time.Now(), n <= rules.least}, nil
		}
		a.inFlight.Add(-1)
		calm, ok := a.wait()
		if !ok {
			return admitted{}, errConcurrency
		}
		if calm == nil {
			continue // it has just become so
		}
		ctx := w.context()
		var err error
		select {
		case <-calm:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		a.mu.Lock()
		a.waiting--
		a.mu.Unlock()
		if err != nil {
			return admitted{}, err
		}
	}
}

// wait returns for what a request may wait, if it may: while measuring goes on there is
// room that is not used. A nil channel is that it has to ask again.
func (a *adaptive) wait() (calm chan struct{}, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.calm == nil:
		return nil, a.inFlight.Load() < a.limit.Load()
	case a.waiting >= a.before:
		return nil, false
	}
	a.waiting++
	return a.calm, true
}

// done ends what admit began. answered is whether the workload did, as it does when all
// is well: what it breaks off or refuses at once says nothing about its latency.
func (m admitted) done(answered bool) {
	a := m.a
	if a == nil {
		return
	}
	n := a.inFlight.Add(-1) + 1
	rules := a.rules.Load()
	if rules == nil || !answered {
		return
	}
	now := time.Now()
	took := now.Sub(m.began)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.peak = max(a.peak, n)
	if m.free {
		if a.free.add(took); a.free.n >= measureSamples || a.freely == 0 && a.calm == nil && a.free.n >= leastMeasured {
			a.learn(now)
		}
	}
	if a.calm != nil { // those that wait are not at work
		return
	}
	a.now.add(took)
	if now.Before(a.ends) || a.now.n < leastAdaptSamples {
		return
	}
	a.adapt(rules)
	a.ends = now.Add(adaptEvery)
	every := rules.every
	if a.freely == 0 {
		every = min(every, measureAgain)
	}
	if n > rules.least && now.Sub(a.measured) > jittered(every) {
		a.measure(rules)
	}
}

// jittered is d and up to 15 % more, so that instances do not measure together.
func jittered(d time.Duration) time.Duration { return d + rand.N(d*15/100+1) }

// adapt sets the limit by the latency of the window that has ended. mu is held.
func (a *adaptive) adapt(rules *adaptiveRules) {
	took, peak := a.now.median(), a.peak
	a.peak = 0
	if a.freely == 0 || took <= 0 {
		return
	}
	limit := float64(a.limit.Load())
	gradient := min(max(float64(a.freely)*(1+rules.buffer)/float64(took), 0.5), 2)
	next := gradient*limit + math.Sqrt(limit)
	if next > limit && float64(peak) < limit/2 {
		return
	}
	a.limit.Store(min(max(int64(next), rules.least), rules.most))
}

// measure lets no more than the least in until enough is known. mu is held.
func (a *adaptive) measure(rules *adaptiveRules) {
	a.before, a.calm = a.limit.Load(), make(chan struct{})
	a.limit.Store(rules.least)
	calm := a.calm
	time.AfterFunc(measureMost, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.calm == calm {
			a.learn(time.Now())
		}
	})
}

// learn takes the latency without load, and ends measuring. mu is held.
func (a *adaptive) learn(now time.Time) {
	if a.free.n >= leastMeasured {
		a.freely = a.free.median()
	}
	a.measured = now
	if a.calm == nil {
		return
	}
	a.limit.Store(a.before)
	close(a.calm)
	a.calm = nil
	a.now.n, a.ends = 0, now.Add(adaptEvery)
}

// limited is the failure of a request that admit did not let in.
func (x *exchange) limited(err error) *failure {
	if !errors.Is(err, errConcurrency) {
		return x.classify(err)
	}
	return &failure{Refusal{http.StatusServiceUnavailable, CodeConcurrency, "the service has as many requests under way as it answers in time"}, failedOverflow, err}
}
