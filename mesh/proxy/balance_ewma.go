package proxy

import (
	"math"
	"sync"
	"time"
)

// Constants of Linkerd's peak EWMA (linkerd2-proxy, linkerd/app/core).
const (
	ewmaDecay = 10 * time.Second
	ewmaStart = 30 * time.Millisecond
)

// peakEWMA is a moving average of latencies in seconds that a higher one replaces at
// once, so that an endpoint that slows down is left soon and found again slowly. It
// decays by itself: who is avoided is tried again.
type peakEWMA struct {
	mu    sync.Mutex
	value float64
	time  int64 // of value, in nanoseconds since 1970; 0 if nothing was measured
}

// observe takes a latency that was measured at now.
func (p *peakEWMA) observe(latency time.Duration, now int64) {
	sample := latency.Seconds()
	p.mu.Lock()
	defer p.mu.Unlock()
	decayed := p.decayed(now)
	switch age := now - p.time; {
	case p.time == 0 || sample > decayed:
		p.value = sample
	default:
		alpha := 1 - math.Exp(-float64(max(age, 0))/float64(ewmaDecay))
		p.value = p.value*(1-alpha) + sample*alpha
	}
	p.time = now
}

// at returns the average as it is at now.
func (p *peakEWMA) at(now int64) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.decayed(now)
}

// decayed is at with mu held.
func (p *peakEWMA) decayed(now int64) float64 {
	if p.time == 0 {
		return ewmaStart.Seconds()
	}
	return p.value * math.Exp(-float64(max(now-p.time, 0))/float64(ewmaDecay))
}
