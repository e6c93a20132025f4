package proxy

// OpenConns returns the number of connections to other sidecars.
func (e *Engine) OpenConns() int { return e.peers.open() }
