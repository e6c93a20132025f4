package proxy

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Sizes of the hash policies. How many points of a ring an endpoint has does not
// depend on how many others there are, so that their keys stay when others come. A
// table has a prime number of places, 100 for each endpoint or more (Maglev, section
// 5.3).
const (
	ringPoints  = 160     // of an endpoint of the least weight, as Ketama has them
	ringMost    = 1 << 17 // points in all
	maglevSmall = 16381
	maglevLarge = 65537
	maglevEach  = 100 // places for an endpoint, or the larger table
)

// loadBound is how much more than its share an endpoint may have in flight before a
// key's requests go on to the next one (consistent hashing with bounded loads, Mirrokni
// and others 2016; Envoy's hash_balance_factor 150).
const loadBound = 1.5

// hashIndex finds the endpoints for a key, as places in the list that it was made of.
// It is immutable.
type hashIndex interface {
	// start returns where the walk for a key begins, and at the place at each step
	// of a walk of len steps: first that of the endpoint for the key, then of those
	// that stand in for it. Some come more than once.
	start(key uint64) int
	at(step int) int
	len() int
}

// hashed picks by the key of the lot, of those candidates whose load is not over
// their bound.
func (c *chooser) hashed(candidates []*Endpoint) *Endpoint {
	weights, busy := 0.0, 1.0 // with this one
	for _, e := range candidates {
		if c.usable(e) {
			weights += c.weight(e)
			busy += float64(e.InFlight())
		}
	}
	var first *Endpoint
	index := c.pool.hash
	start := index.start(c.lot.Key)
	for i := range index.len() {
		e := c.pool.all[index.at(start+i)]
		if e == first || !c.stands(e) || !c.usable(e) {
			continue
		}
		if float64(e.InFlight())+1 <= math.Ceil(loadBound*busy*c.weight(e)/weights) {
			return e
		}
		if first == nil {
			first = e
		}
	}
	return first
}

// ring is a hash ring: each endpoint stands at points in proportion to its weight, and
// a key belongs to the next one (Karger and others 1997; Ketama).
type ring struct {
	points []ringPoint // sorted by hash
}

type ringPoint struct {
	hash  uint64
	place int32
}

func newRing(endpoints []*Endpoint) *ring {
	total, unit := uint64(0), uint64(0)
	for _, e := range endpoints {
		total += uint64(e.Weight)
		unit = gcd(unit, uint64(e.Weight))
	}
	each := ringPoints / float64(max(unit, 1)) // for one of weight
	if all := each * float64(total); all > ringMost {
		each *= ringMost / all
	}
	r := &ring{points: make([]ringPoint, 0, int(each*float64(total))+len(endpoints))}
	for place, e := range endpoints {
		share := max(int(math.Round(each*float64(e.Weight))), 1)
		name := e.name()
		for i := range share {
			r.points = append(r.points, ringPoint{hashOf(name + "#" + strconv.Itoa(i)), int32(place)})
		}
	}
	slices.SortFunc(r.points, func(a, b ringPoint) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.place, b.place)) })
	return r
}

// gcd returns the greatest common divisor; that of 0 and n is n.
func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// name is what an endpoint is hashed by: an instance keeps its keys when it moves.
func (e *Endpoint) name() string { return e.Instance }

// start implements hashIndex.
func (r *ring) start(key uint64) int {
	at, _ := slices.BinarySearchFunc(r.points, key, func(p ringPoint, key uint64) int { return cmp.Compare(p.hash, key) })
	return at
}

func (r *ring) at(step int) int { return int(r.points[step%len(r.points)].place) }
func (r *ring) len() int        { return len(r.points) }

// maglev is a lookup table in which each endpoint has places in proportion to its
// weight, and keeps nearly all of them when others come and go (Eisenbud and others,
// NSDI 2016, section 3.4).
type maglev struct {
	places []int32
}

func newMaglev(endpoints []*Endpoint) *maglev {
	size := maglevSmall
	if len(endpoints)*maglevEach > size {
		size = maglevLarge
	}
	m := &maglev{places: make([]int32, size)}
	if len(endpoints) == 0 {
		m.places = nil
		return m
	}
	for i := range m.places {
		m.places[i] = -1
	}
	type turn struct {
		place    int32
		name     string
		at, skip uint64
		weight   float64
		deserves float64
	}
	turns := make([]turn, len(endpoints))
	heaviest := 0.0
	for i, e := range endpoints {
		name := e.name()
		turns[i] = turn{
			place: int32(i), weight: float64(e.Weight), name: name,
			at: hashOf(name) % uint64(size), skip: mix(xxhash.Sum64String(name+"#skip"))%uint64(size-1) + 1,
		}
		heaviest = max(heaviest, turns[i].weight)
	}
	// In an order of their own, so that it does not matter how they are listed.
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(a.name, b.name) })
	for left := size; left > 0; {
		for i := range turns {
			t := &turns[i]
			if t.deserves += t.weight / heaviest; t.deserves < 1 {
				continue
			}
			t.deserves--
			for m.places[t.at] >= 0 {
				t.at = (t.at + t.skip) % uint64(size)
			}
			m.places[t.at] = t.place
			if left--; left == 0 {
				break
			}
		}
	}
	return m
}

func (m *maglev) start(key uint64) int { return below(key, len(m.places)) }
func (m *maglev) at(step int) int      { return int(m.places[step%len(m.places)]) }
func (m *maglev) len() int             { return len(m.places) }
