package proxy

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// CodeRateLimited is that of a request over the rate that its route admits. 429.
const CodeRateLimited = "rate_limited"

// mostBuckets bounds how many keys are counted at a time, but that each rule has an
// even share of them whatever the others use: there are never twice as many. Each costs
// about 64 bytes.
const mostBuckets = 1 << 16

// rateLimit is a compiled mesh.RateLimit: GCRA, as in ITU-T I.371, which admits
// requests evenly and a burst at once.
type rateLimit struct {
	rule     string        // that it is of
	interval time.Duration // between two requests at the rate
	burst    time.Duration // how far ahead of it requests may be
	key      *mesh.HashKey // nil: all share one
	shared   bool          // by all data planes
	// atGateway and inMesh are where its route is in force.
	atGateway, inMesh bool
}

func compileRateLimit(rule string, r *mesh.RateLimit) *rateLimit {
	interval := max(r.Per.Or(time.Second)/time.Duration(r.Requests), 1)
	burst := r.Burst
	if burst == 0 {
		burst = r.Requests
	}
	return &rateLimit{rule: rule, interval: interval, burst: interval * time.Duration(burst), key: r.Key, shared: r.Scope == mesh.ScopeMesh}
}

// limitedError says when a request would be admitted.
type limitedError struct{ after time.Duration }

// Error implements error.
func (e *limitedError) Error() string { return fmt.Sprintf("over the rate limit for %v", e.after) }

// admit refuses x if it comes too early.
func (l *rateLimit) admit(x *exchange) *failure {
	if l == nil {
		return nil
	}
	value := ""
	if l.key != nil {
		value, _ = hashValue(l.key, &x.request) // those without share one
	}
	var after time.Duration
	if l.shared {
		after = x.s.e.shared.take(l, value, x.s.e.state.Load().enforcers(l), time.Now())
	} else {
		after = x.s.e.limits.take(l, value, time.Now())
	}
	if after == 0 {
		return nil
	}
	return &failure{Refusal{http.StatusTooManyRequests, CodeRateLimited, "the route admits no more requests just now"}, failedLimit, &limitedError{after}}
}

// rateLimits counts requests by rule and key, for as long as that matters.
type rateLimits struct {
	seed   maphash.Seed
	epoch  time.Time
	mu     sync.Mutex
	taken  map[bucket]time.Duration // when each would be at its rate again, since epoch
	keys   map[string]int           // how many of taken a rule has
	sweeps time.Duration            // not before then
}

// bucket is one rate: of a rule and a key's value.
type bucket struct {
	rule  string
	value uint64
}

func newRateLimits() *rateLimits {
	return &rateLimits{seed: maphash.MakeSeed(), epoch: time.Now(), taken: map[bucket]time.Duration{}, keys: map[string]int{}}
}

// take admits a request, or says after what time it would be. When more keys than
// mostBuckets are in use, new ones of a rule that has its share of them or more share
// what those without a key do.
func (r *rateLimits) take(l *rateLimit, value string, now time.Time) (after time.Duration) {
	at := now.Sub(r.epoch)
	b := bucket{rule: l.rule}
	if value != "" {
		b.value = maphash.String(r.seed, value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last, known := r.taken[b]
	if !known && len(r.taken) >= mostBuckets {
		if r.sweep(at); len(r.taken) >= mostBuckets && r.keys[b.rule] >= mostBuckets/max(len(r.keys), 1) {
			b.value = 0
			last, known = r.taken[b]
		}
	}
	if most := at + l.burst; last > most { // the limit was raised since: nobody owes more than it admits
		last = most
		r.taken[b] = last
	}
	next := max(last, at) + l.interval
	if early := next - l.burst - at; early > 0 {
		return early
	}
	r.taken[b] = next
	if !known {
		r.keys[b.rule]++
	}
	return 0
}

// sweep forgets those that are at their rate: they are as if never seen. It looks
// once a second at most. mu is held.
func (r *rateLimits) sweep(at time.Duration) {
	if at < r.sweeps {
		return
	}
	r.sweeps = at + time.Second
	maps.DeleteFunc(r.taken, func(b bucket, next time.Duration) bool {
		if next > at {
			return false
		}
		if r.keys[b.rule]--; r.keys[b.rule] == 0 {
			delete(r.keys, b.rule)
		}
		return true
	})
}
