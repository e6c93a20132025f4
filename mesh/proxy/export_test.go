package proxy

// OpenConns returns the number of connections to other sidecars.
func (e *Engine) OpenConns() int {
	e.peers.mu.Lock()
	defer e.peers.mu.Unlock()
	n := 0
	for _, p := range e.peers.byKey {
		p.conns.mu.Lock()
		n += len(p.conns.open)
		p.conns.mu.Unlock()
	}
	return n
}
