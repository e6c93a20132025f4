package proxy

// SetPressure makes the engine believe that percent of its memory is in use.
func (e *Engine) SetPressure(percent int32) { e.overload.pressure.Store(percent) }

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
