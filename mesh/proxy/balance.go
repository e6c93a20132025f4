package proxy

import (
	"errors"
	"math/bits"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// ErrNoEndpoint is returned by Pick when no endpoint may take the request: the
// service or subset has none, or every usable one is excluded. Every endpoint
// was considered, so picking again with the same arguments is of no use: the
// proxy answers 503 no_healthy_endpoint or, if it excluded some, may allow them
// again.
var ErrNoEndpoint = errors.New("no healthy endpoint")

// defaultOverflow is the share of near endpoints that has to be healthy, so that none
// of their traffic goes further: Envoy's overprovisioning factor of 1.4, inverted.
const defaultOverflow = 0.72

// slowStartLeast is the share of its weight with which an endpoint starts (Envoy's
// min_weight_percent).
const slowStartLeast = 0.1

// balancing is a compiled mesh.LoadBalancing.
type balancing struct {
	policy    string
	key       *mesh.HashKey
	slowStart time.Duration // 0 is none
	local     bool          // prefer what is near
	strict    bool          // and use nothing else
	overflow  float64       // in (0,1]
}

// compileBalancing compiles l, which may be nil. Where our own locality is not known,
// nothing is near.
func compileBalancing(l *mesh.LoadBalancing, known bool) balancing {
	out := balancing{policy: mesh.LeastRequest, local: known, overflow: defaultOverflow}
	if l == nil {
		return out
	}
	if l.Policy != "" {
		out.policy = l.Policy
	}
	out.key, out.slowStart = l.Hash, l.SlowStart.Or(0)
	if prefs := l.Locality; prefs != nil {
		out.local = known && prefs.Mode != mesh.LocalityAny
		out.strict = known && prefs.Mode == mesh.LocalityStrict
		if prefs.OverflowPercent != 0 {
			out.overflow = float64(prefs.OverflowPercent) / 100
		}
	}
	return out
}

// prepare completes a pool. What costs more than a list is taken over from prev, if
// the endpoints are the same.
func (b *balancing) prepare(p *pool, prev *EndpointSet, subset string) {
	if !b.local {
		p.tiers = [distances]tier{elsewhere: {p.healthy, len(p.all)}}
	}
	if b.policy != mesh.RingHash && b.policy != mesh.Maglev {
		return
	}
	if before := prev.pool(subset); before != nil && prev.balancing.policy == b.policy && before.same(p) {
		p.hash = before.hash
		return
	}
	if b.policy == mesh.Maglev {
		p.hash = newMaglev(p.all)
	} else {
		p.hash = newRing(p.all)
	}
}

// Lot is by what one pick is decided: 64 random bits, and the hash of the part of the
// request that the service's policy looks at.
type Lot struct {
	Draw  uint64
	Key   uint64
	Keyed bool // there is such a part
}

// Pick chooses an endpoint of set for one request by the policy of its service. The
// default is least request: of two distinct endpoints drawn uniformly, the one with
// fewer requests in flight for its weight (Envoy LEAST_REQUEST, choice_count 2); of
// two as busy, one at random in proportion to their weights.
//
// subset "" is the whole service. Endpoints that are unhealthy or ejected as outliers
// are skipped unless all are: when every one looks ill, the check is likelier to be
// wrong than all of them (Envoy's panic, at 0 and not at 50 %: of three instances two
// may really be down). So are those that asked for no more requests, unless there are
// no others. Near ones come first, where localities are known. Those in
// exclude, compared by EndpointKey, are never returned; a retry passes the endpoints
// that it tried. Pick counts nothing: the caller calls Acquire and Release on the
// result. It does not allocate.
func Pick(set *EndpointSet, subset string, exclude []*Endpoint, lot Lot) (*Endpoint, error) {
	p := set.pool(subset)
	if p == nil {
		return nil, ErrNoEndpoint
	}
	c := chooser{set: set, subset: subset, pool: p, exclude: exclude, lot: lot}
	if ejections, shun := set.ejections.any(), set.shun.Load(); ejections || shun > 0 || set.balancing.slowStart > 0 {
		now := time.Now()
		set.ejections.refresh(now)
		c.now, c.ejections = now.UnixNano(), set.ejections.any()
		c.shuns = c.now < shun
	}
	e := c.near()
	if e == nil && c.shuns { // those that asked for no more are better than none
		c.shuns = false
		e = c.near()
	}
	if e != nil {
		return e, nil
	}
	if c.able() { // all were tried
		return nil, ErrNoEndpoint
	}
	c.ejections, c.panics = false, true
	if e = c.choose(p.all, anywhere); e != nil {
		return e, nil
	}
	return nil, ErrNoEndpoint
}

// chooser is one pick.
type chooser struct {
	set       *EndpointSet
	subset    string
	pool      *pool
	exclude   []*Endpoint
	lot       Lot
	now       int64 // 0 if nobody asks
	ejections bool  // some endpoints are ejected
	shuns     bool  // some asked for no more requests
	panics    bool  // none is usable, so all are
	at        int   // the distance of the candidates, or anywhere
}

// anywhere is the distance of candidates that may be at any.
const anywhere = -1

// stands reports whether e is among the candidates.
func (c *chooser) stands(e *Endpoint) bool {
	return (e.Healthy || c.panics) && (c.at == anywhere || c.at == e.distance)
}

// able reports whether an endpoint of the pool is neither unhealthy nor ejected.
func (c *chooser) able() bool {
	for _, e := range c.pool.healthy {
		if !c.ejections || !e.outlier.ejected(c.now) {
			return true
		}
	}
	return false
}

// near chooses among the nearest endpoints that have room for their share.
func (c *chooser) near() *Endpoint {
	strict := c.set.balancing.strict
	draw := unit(mix(c.lot.Draw + 3))
	for i := range c.pool.tiers {
		t := &c.pool.tiers[i]
		if t.of == 0 {
			continue
		}
		share := float64(len(t.healthy)) / (float64(t.of) * c.set.balancing.overflow)
		last := strict || i == elsewhere
		if !last && draw >= share {
			draw = unit(mix(c.lot.Draw + 4 + uint64(i)))
			continue
		}
		at := i
		if !c.set.balancing.local {
			at = anywhere
		}
		if e := c.choose(t.healthy, at); e != nil {
			return e
		}
		if strict {
			return nil
		}
	}
	if strict {
		return nil
	}
	// What was passed over may still have one.
	return c.choose(c.pool.healthy, anywhere)
}

// choose picks one of candidates, which are at a distance, by the policy; nil if none
// may be used. What may be becomes less meanwhile, where others eject endpoints.
func (c *chooser) choose(candidates []*Endpoint, at int) *Endpoint {
	c.at = at
	n := len(candidates)
	if c.selective() {
		n = 0
		for _, e := range candidates {
			if c.usable(e) {
				n++
			}
		}
	}
	switch {
	case n == 0:
		return nil
	case n == 1:
		return c.nth(candidates, 0)
	}
	switch c.set.balancing.policy {
	case mesh.RoundRobin:
		return c.set.robin(c.subset).next(c, candidates)
	case mesh.Random:
		return c.random(candidates)
	case mesh.RingHash, mesh.Maglev:
		if c.lot.Keyed {
			return c.hashed(candidates)
		}
		return c.random(candidates)
	}
	first := below(c.lot.Draw, n)
	second := below(mix(c.lot.Draw+1), n-1)
	if second >= first {
		second++ // skips first, so that the two are distinct and as likely as any
	}
	return c.better(c.nth(candidates, first), c.nth(candidates, second))
}

// selective reports whether some candidates may have to be skipped.
func (c *chooser) selective() bool { return len(c.exclude) > 0 || c.ejections || c.shuns }

// usable reports whether a candidate may be picked.
func (c *chooser) usable(e *Endpoint) bool {
	return !excluded(e, c.exclude) && (!c.ejections || !e.outlier.ejected(c.now)) && (!c.shuns || e.avoid.Load() <= c.now)
}

// nth returns the i-th of candidates that is usable; the last one where there are not
// as many any more, and nil if there is none.
func (c *chooser) nth(candidates []*Endpoint, i int) *Endpoint {
	if !c.selective() {
		return candidates[i]
	}
	var last *Endpoint
	for _, e := range candidates {
		if !c.usable(e) {
			continue
		}
		last = e
		if i == 0 {
			break
		}
		i--
	}
	return last
}

// weight returns what e weighs now: less than it will while it starts slowly.
func (c *chooser) weight(e *Endpoint) float64 {
	w := float64(e.Weight)
	if window := c.set.balancing.slowStart; window > 0 {
		if since := e.endpointState.usable.Load(); since > 0 && c.now-since < int64(window) {
			w *= max(slowStartLeast, float64(c.now-since)/float64(window))
		}
	}
	return w
}

// better returns which of two endpoints costs less for its weight, or one at random
// in proportion to the weights if they cost the same. Either may be nil.
func (c *chooser) better(a, b *Endpoint) *Endpoint {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	weightA, weightB := c.weight(a), c.weight(b)
	costA, costB := c.cost(a)*weightB, c.cost(b)*weightA
	switch {
	case costA < costB:
		return a
	case costB < costA:
		return b
	case unit(mix(c.lot.Draw+2))*(weightA+weightB) < weightA:
		return a
	}
	return b
}

// cost returns what one more request costs at e: by the number that it has, and for
// PEAK_EWMA by how long it takes.
func (c *chooser) cost(e *Endpoint) float64 {
	busy := float64(e.InFlight())
	if c.set.balancing.policy != mesh.PeakEWMA {
		return busy
	}
	if c.now == 0 {
		c.now = time.Now().UnixNano()
	}
	return e.latency.at(c.now) * (busy + 1)
}

// random picks in proportion to the weights.
func (c *chooser) random(candidates []*Endpoint) *Endpoint {
	total := 0.0
	for _, e := range candidates {
		if !c.selective() || c.usable(e) {
			total += c.weight(e)
		}
	}
	point := unit(c.lot.Draw) * total
	var last *Endpoint
	for _, e := range candidates {
		if c.selective() && !c.usable(e) {
			continue
		}
		last = e
		if point -= c.weight(e); point < 0 {
			break
		}
	}
	return last
}

func excluded(e *Endpoint, exclude []*Endpoint) bool {
	for _, x := range exclude {
		if x.EndpointKey == e.EndpointKey {
			return true
		}
	}
	return false
}

// below maps 64 random bits to [0,n) evenly (Lemire's multiplication; the bias
// is under n/2^64). n is positive.
func below(random uint64, n int) int {
	high, _ := bits.Mul64(random, uint64(n))
	return int(high)
}

// unit maps 64 random bits to [0,1).
func unit(random uint64) float64 { return float64(random>>11) / (1 << 53) }

// mix derives further random bits from a draw (splitmix64, Steele and others
// 2014), so that one draw decides a whole pick.
func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
