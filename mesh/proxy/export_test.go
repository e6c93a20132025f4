package proxy

import "net/netip"

// SetPressure makes the engine believe that percent of its memory is in use.
func (e *Engine) SetPressure(percent int32) { e.overload.pressure.Store(percent) }

// SetRoom makes the engine believe that it has so many bytes for what is under way.
func (e *Engine) SetRoom(bytes int64) { e.overload.room.Store(bytes) }

// Room is how many it has.
func (e *Engine) Room() int64 { return e.overload.room.Load() }

// Taken is how many of them are taken.
func (e *Engine) Taken() int64 { return e.overload.taken.Load() }

// Links is how many links to endpoints the engine keeps.
func (e *Engine) Links() int {
	e.peers.mu.Lock()
	defer e.peers.mu.Unlock()
	n := 0
	for _, p := range e.peers.byKey {
		p.links.mu.Lock()
		n += len(p.links.conns)
		p.links.mu.Unlock()
	}
	return n
}

// MayBeOutside reports whether an external service may be at addr where the mesh lists
// no blocks.
func MayBeOutside(addr netip.Addr) bool { return dialList{}.outside(addr) }

// Counted is what the engine has under way, by what counts it.
func (e *Engine) Counted() map[string]int64 {
	out := map[string]int64{"memory": e.Taken(), "mirrors": int64(len(e.mirrors.slots))}
	e.peers.mu.Lock()
	for _, p := range e.peers.byKey {
		out["users of peers"] += int64(p.users)
	}
	e.peers.mu.Unlock()
	for _, w := range e.locals() {
		out["concurrency"] += w.adapt.inFlight.Load()
	}
	s := e.state.Load()
	if s == nil {
		return out
	}
	for _, set := range s.endpoints.sets {
		b := &set.breaker
		out["connections"] += b.connections.Load()
		out["requests"] += b.requests.Load()
		out["pending"] += b.pending.Load()
		out["retries"] += b.retries.Load()
		for _, endpoint := range set.All() {
			out["in flight"] += endpoint.InFlight()
		}
	}
	return out
}
