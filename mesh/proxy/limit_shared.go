package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Tokens keeps rates that the whole mesh shares. The asks of one call are answered in
// their order.
type Tokens interface {
	Tokens(ctx context.Context, asks []mesh.TokenAsk) ([]mesh.TokenGrant, error)
}

const (
	// askEvery gathers what is asked about. It is also the least time between two
	// answers about a bucket.
	askEvery = 10 * time.Millisecond
	// askAgain is how long after a failure nobody is asked.
	askAgain = 500 * time.Millisecond
	// silentFor is after how long without an answer it is as if there were none to come.
	silentFor = 250 * time.Millisecond
	// leasedFor is how long what was leased may be used, but no longer than the rate takes
	// for a quarter of the burst, though until two answers later: what is leased and lies
	// comes on top of all that the rate allows meanwhile. What is left is given back.
	leasedFor = time.Second
	// reclaimEvery is how often it is looked for.
	reclaimEvery = 50 * time.Millisecond
	// mostAsks bounds one call.
	mostAsks = 512
)

// sharedLimits admits requests by rates that all data planes share, and never waits for
// whoever keeps these. Each data plane may admit an even part of the rate and its burst
// at any time, which it tells a moment later, and leases what it needs beyond: as much as
// is left of the rate of all. So in the long run no more are admitted than the rate
// allows, and at once no more than the burst, a quarter of it (or 20 ms of the rate) and
// the others' parts of it, whatever is asked where. While nobody answers, or nothing is left, there is still one's own part.
type sharedLimits struct {
	tokens  Tokens // nil: nobody is there
	metrics *metrics
	wake    chan struct{} // capacity 1: queued grew

	mu      sync.Mutex // guards what follows; nothing is called under it
	buckets map[sharedKey]*sharedBucket
	keys    map[string]int // how many of buckets a rule has
	leasing map[*sharedBucket]bool
	queued  []*sharedBucket
	asked   time.Time // when the call under way began; zero if there is none
	failed  time.Time // when nobody answered; zero if somebody did since
	sweeps  time.Time // not before then
}

// sharedKey is a rule and the digest of a key's value, which strangers may choose.
type sharedKey struct {
	rule  string
	value [16]byte
}

// name is what the bucket is called elsewhere.
func (k sharedKey) name() string { return k.rule + ":" + hex.EncodeToString(k.value[:]) }

type sharedBucket struct {
	key      sharedKey
	limit    *rateLimit // as it was last asked by
	planes   int        // among how many it was shared then
	full     time.Time  // when its own part would be at rest (GCRA)
	leased   uint32     // requests that may be admitted beyond
	until    time.Time  // until then
	none     time.Time  // until then there is nothing to lease
	spent    uint32     // of its own part, not told yet
	returned uint32     // of what was leased, not told yet
	demand   uint32     // requests since it was last asked about
	queued   bool
	used     time.Time
}

func newSharedLimits(tokens Tokens, m *metrics) *sharedLimits {
	return &sharedLimits{
		tokens: tokens, metrics: m, wake: make(chan struct{}, 1),
		buckets: map[sharedKey]*sharedBucket{}, keys: map[string]int{}, leasing: map[*sharedBucket]bool{},
	}
}

// take admits a request, or says after what time to come again. planes is among how many
// the rate is shared.
func (s *sharedLimits) take(l *rateLimit, value string, planes int, now time.Time) (after time.Duration) {
	key := sharedKey{rule: l.rule}
	if value != "" {
		sum := sha256.Sum256([]byte(value))
		copy(key.value[:], sum[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket(key, now)
	b.limit, b.planes, b.used = l, planes, now
	b.demand = min(b.demand+1, l.most())
	if b.leased > 0 && now.Before(b.until) {
		b.leased--
		// It is of the own part first: that is for who gets no lease.
		interval, burst := b.part(planes)
		b.full = earlier(later(b.full, now).Add(interval), now.Add(burst))
		if b.leased < b.demand {
			s.queue(b)
		}
		return 0
	}
	s.queue(b)
	if s.silent(now) {
		s.metrics.sharedAlone.Inc()
	}
	after = b.alone(planes, now)
	switch {
	case after == 0:
		b.spent = min(b.spent+1, l.most())
	case now.Before(b.none):
		after = min(after, b.none.Sub(now))
	}
	return after
}

// silent reports whether nobody answers.
func (s *sharedLimits) silent(now time.Time) bool {
	return s.tokens == nil || !s.failed.IsZero() || !s.asked.IsZero() && now.Sub(s.asked) > silentFor
}

// most is the burst in requests.
func (l *rateLimit) most() uint32 { return uint32(l.burst / l.interval) }

// lasts is how long what was leased of l may be used.
func (l *rateLimit) lasts() time.Duration { return max(min(leasedFor, l.burst/4), 2*askEvery) }

// part is the even part of the rate: the time between two requests, and the burst, which
// is of so many fewer requests as each of them lasts longer.
func (b *sharedBucket) part(planes int) (interval, burst time.Duration) {
	interval = b.limit.interval * time.Duration(planes)
	return interval, max(b.limit.burst, interval)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.After(b) {
		return b
	}
	return a
}

// alone admits by the bucket's part of the rate.
func (b *sharedBucket) alone(planes int, now time.Time) time.Duration {
	interval, burst := b.part(planes)
	b.full = earlier(b.full, now.Add(burst)) // the limit may have been raised since
	next := later(b.full, now).Add(interval)
	if early := next.Add(-burst).Sub(now); early > 0 {
		return early
	}
	b.full = next
	return 0
}

// bucket returns that of a key, which it makes if need be. As for rates of this data
// plane alone, a rule whose keys take too much room has the rest share one.
func (s *sharedLimits) bucket(key sharedKey, now time.Time) *sharedBucket {
	b := s.buckets[key]
	if b == nil && len(s.buckets) >= mostBuckets {
		if s.sweep(now); len(s.buckets) >= mostBuckets && s.keys[key.rule] >= mostBuckets/max(len(s.keys), 1) {
			key.value = [16]byte{}
			b = s.buckets[key]
		}
	}
	if b == nil {
		b = &sharedBucket{key: key}
		s.buckets[key] = b
		s.keys[key.rule]++
	}
	return b
}

// sweep forgets buckets that are full again, and so as if never seen: strangers may choose
// what they are for. It looks once a second at most.
func (s *sharedLimits) sweep(now time.Time) {
	if now.Before(s.sweeps) {
		return
	}
	s.sweeps = now.Add(time.Second)
	maps.DeleteFunc(s.buckets, func(key sharedKey, b *sharedBucket) bool {
		if b.queued || b.leased > 0 || b.full.After(now) || now.Sub(b.used) < leasedFor {
			return false
		}
		if s.keys[key.rule]--; s.keys[key.rule] == 0 {
			delete(s.keys, key.rule)
		}
		return true
	})
}

// queue has b told and asked about. mu is held.
func (s *sharedLimits) queue(b *sharedBucket) {
	if b.queued || s.tokens == nil {
		return
	}
	b.queued = true
	s.queued = append(s.queued, b)
	s.rouse()
}

// rouse wakes run.
func (s *sharedLimits) rouse() {
	select {
	case s.wake <- struct{}{}:
	default: // it wakes already
	}
}

// run asks until ctx ends.
func (s *sharedLimits) run(ctx context.Context) {
	reclaims := time.NewTicker(reclaimEvery)
	defer reclaims.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-reclaims.C:
			s.reclaim(now)
			continue
		case <-s.wake:
		}
		pause := askEvery
		if !s.ask(ctx) {
			pause = askAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// reclaim has what was leased and not used in time given back.
func (s *sharedLimits) reclaim(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.leasing {
		if now.Before(b.until) {
			continue
		}
		delete(s.leasing, b)
		if b.leased > 0 {
			b.returned += b.leased
			b.leased = 0
			s.queue(b)
		}
	}
}

// ask tells and asks about what is queued, and reports whether that was answered.
func (s *sharedLimits) ask(ctx context.Context) bool {
	batch, asks := s.begin(time.Now())
	if len(batch) == 0 {
		return true
	}
	grants, err := s.tokens.Tokens(ctx, asks)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.asked = time.Time{}
	for _, b := range batch {
		b.queued = false
	}
	if err != nil || len(grants) != len(batch) {
		s.failed = now
		s.metrics.sharedFailures.Inc()
		for i, b := range batch {
			// It may not have been heard, and is told again, as long as it matters: when
			// the own part is full again, so is this of that of all. But what was given
			// back may have been heard, and is not given twice.
			if b.spent = min(b.spent+asks[i].Spent, b.limit.most()); !b.full.After(now) {
				b.spent = 0
			}
			if b.spent > 0 {
				s.queue(b)
			}
		}
		return false
	}
	s.failed = time.Time{}
	for i, b := range batch {
		if b.none = now.Add(grants[i].Wait); grants[i].Granted > 0 {
			b.leased += min(grants[i].Granted, asks[i].Want)
			b.until = now.Add(b.limit.lasts())
			s.leasing[b] = true
		}
		if b.spent > 0 {
			s.queue(b)
		}
	}
	return true
}

// begin takes from the queue what is told and asked about now.
func (s *sharedLimits) begin(now time.Time) ([]*sharedBucket, []mesh.TokenAsk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queued[:min(len(s.queued), mostAsks)]
	if s.queued = s.queued[len(batch):]; len(s.queued) == 0 {
		s.queued = nil
	} else {
		s.rouse()
	}
	asks := make([]mesh.TokenAsk, len(batch))
	for i, b := range batch {
		// Twice what came since: so much more may come until the next answer.
		want := min(2*b.demand, b.limit.most())
		asks[i] = mesh.TokenAsk{
			Bucket: b.key.name(), Interval: b.limit.interval, Burst: b.limit.most(),
			Spent: b.spent, Returned: b.returned, Want: want - min(want, b.leased), Planes: uint32(b.planes),
		}
		b.spent, b.returned, b.demand = 0, 0, 0
	}
	if len(batch) > 0 {
		s.asked = now
	}
	return batch, asks
}
