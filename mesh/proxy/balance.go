package proxy

import (
	"errors"
	"math/bits"
)

// ErrNoEndpoint is returned by Pick when no endpoint may take the request: the
// service or subset has none, or every usable one is excluded. Every endpoint
// was considered, so picking again with the same arguments is of no use: the
// proxy answers 503 no_healthy_endpoint or, if it excluded some, may allow them
// again.
var ErrNoEndpoint = errors.New("no healthy endpoint")

// Pick chooses an endpoint of set for one request by least request: of two
// distinct endpoints drawn uniformly, the one with fewer requests in flight for
// its weight (Envoy LEAST_REQUEST, choice_count 2); of two as busy, one at
// random in proportion to their weights. draw is 64 random bits.
//
// subset "" is the whole service. Unhealthy endpoints are skipped unless all
// are. Those in exclude, compared by EndpointKey, are never returned; a retry
// passes the endpoints that it tried. Pick counts nothing: the caller calls
// Acquire and Release on the result. It does not allocate.
func Pick(set *EndpointSet, subset string, exclude []*Endpoint, draw uint64) (*Endpoint, error) {
	candidates := set.pool(subset).usable()
	n := len(candidates)
	for _, e := range candidates {
		if len(exclude) > 0 && excluded(e, exclude) {
			n--
		}
	}
	if n == 0 {
		return nil, ErrNoEndpoint
	}
	first := below(draw, n)
	a := nth(candidates, exclude, first)
	if n == 1 {
		return a, nil
	}
	second := below(mix(draw+1), n-1)
	if second >= first {
		second++ // skips first, so that the two are distinct and as likely as any
	}
	return lessLoaded(a, nth(candidates, exclude, second), mix(draw+2)), nil
}

// lessLoaded compares requests in flight for weight, without dividing.
func lessLoaded(a, b *Endpoint, draw uint64) *Endpoint {
	busyA := a.InFlight() * int64(b.Weight)
	busyB := b.InFlight() * int64(a.Weight)
	switch {
	case busyA < busyB:
		return a
	case busyB < busyA:
		return b
	case below(draw, int(a.Weight)+int(b.Weight)) < int(a.Weight):
		return a
	}
	return b
}

// nth returns the i-th of candidates that is not excluded.
func nth(candidates, exclude []*Endpoint, i int) *Endpoint {
	if len(exclude) == 0 {
		return candidates[i]
	}
	for _, e := range candidates {
		if excluded(e, exclude) {
			continue
		}
		if i == 0 {
			return e
		}
		i--
	}
	return nil // i is below the number that is not excluded
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

// mix derives further random bits from a draw (splitmix64, Steele and others
// 2014), so that one draw decides a whole pick.
func mix(x uint64) uint64 {
	x *= 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
