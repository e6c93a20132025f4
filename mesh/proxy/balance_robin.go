package proxy

import "sync"

// roundRobin gives each endpoint its turns in proportion to its weight, spread as
// evenly as may be: nginx's smooth weighted round robin.
type roundRobin struct {
	mu     sync.Mutex
	credit map[*endpointState]float64
}

// next returns whose turn it is among candidates; nil if none is usable any more.
func (r *roundRobin) next(c *chooser, candidates []*Endpoint) *Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.credit) > 2*len(c.pool.all) { // most have left
		clear(r.credit)
	}
	var best *Endpoint
	most, total := 0.0, 0.0
	for _, e := range candidates {
		if c.selective() && !c.usable(e) {
			continue
		}
		w := c.weight(e)
		total += w
		credit := r.credit[e.endpointState] + w
		r.credit[e.endpointState] = credit
		if best == nil || credit > most {
			best, most = e, credit
		}
	}
	if best != nil {
		r.credit[best.endpointState] = most - total
	}
	return best
}
