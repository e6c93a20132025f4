package controlapi

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Rates of requests.
const (
	perCaller = 50 // a second, and twice that at once
	// strangersShare is how often an address may fail to authenticate, of what a caller may
	// do, before it hears only that it is too often.
	strangersShare = 0.1
	// maxBuckets bounds the memory that callers take.
	maxBuckets = 10_000
)

// bucket is a token bucket.
type bucket struct {
	left float64
	at   time.Time // when left was; zero is full
}

// take takes one token, of which perSecond are put in up to burst.
func (b *bucket) take(now time.Time, perSecond, burst float64) bool {
	if b.at.IsZero() {
		b.left = burst
	} else if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.left = min(burst, b.left+passed*perSecond)
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// limiter keeps callers to their rates.
type limiter struct {
	now       func() time.Time
	perCaller float64
	mu        sync.Mutex
	callers   map[string]*bucket
	strangers map[string]*bucket
}

func newLimiter(now func() time.Time, perSecond float64) *limiter {
	if perSecond <= 0 {
		perSecond = perCaller
	}
	return &limiter{now: now, perCaller: perSecond, callers: map[string]*bucket{}, strangers: map[string]*bucket{}}
}

// check returns c, with an error if it calls too often. Strangers are counted by address,
// and only when they fail: who shares an address with one is not kept out.
func (l *limiter) check(c caller) caller {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.err == nil {
		if !take(l.callers, c.name, l.now(), l.perCaller) {
			c.err = &refusal{codeRateLimited, fmt.Sprintf("%s sends more than %v requests a second; wait a second", c.name, l.perCaller)}
		}
		return c
	}
	host, _, err := net.SplitHostPort(c.remote)
	if err != nil {
		host = c.remote
	}
	if mesh.KindOf(c.err) == mesh.Unauthentic && !take(l.strangers, host, l.now(), strangersShare*l.perCaller) {
		c.err = &refusal{codeRateLimited, "too many requests from this address were not authenticated; wait a second"}
	}
	return c
}

func take(of map[string]*bucket, name string, now time.Time, perSecond float64) bool {
	b := of[name]
	if b == nil {
		if len(of) >= maxBuckets {
			for other, b := range of { // those that are full again
				if now.Sub(b.at) > 2*time.Second {
					delete(of, other)
				}
			}
		}
		if len(of) >= maxBuckets {
			return false
		}
		b = new(bucket)
		of[name] = b
	}
	return b.take(now, perSecond, 2*perSecond)
}
