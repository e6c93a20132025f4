package proxy

import (
	"crypto/tls"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// standing are the connections to and from peers of the mesh that are open, whatever runs
// over them: links, pooled HTTP/1.1, WebSockets, TCP. Handshakes ask who is denied;
// so that no request has to, the connections of who is denied later are cut here, once.
type standing struct {
	denies *identity.Denies
	cut    prometheus.Counter

	// mu guards what follows. Nothing is called under it.
	mu   sync.Mutex
	with map[*gathered]identity.Peer
}

func newStanding(denies *identity.Denies, cut prometheus.Counter) *standing {
	if denies == nil {
		denies = &identity.Denies{}
	}
	return &standing{denies: denies, cut: cut, with: map[*gathered]identity.Peer{}}
}

// enter takes a connection in whose handshake is complete, until it is closed. One that is
// denied is closed here: it may have become so since the handshake, and after deny has
// looked who is there.
func (s *standing) enter(c *meshConn, state *tls.ConnectionState) error {
	peer, err := identity.PeerOf(state)
	if err != nil {
		return err
	}
	c.under.left = func() { s.leave(c.under) }
	s.mu.Lock()
	s.with[c.under] = peer
	s.mu.Unlock()
	if err := s.denies.Check(peer.ID, peer.NotBefore); err != nil {
		s.cut.Inc()
		_ = c.Close() // how closing went cannot matter to anybody
		return err
	}
	return nil
}

func (s *standing) leave(c *gathered) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.with, c)
}

// deny makes next what is denied, and cuts the connections that it denies. Each who uses
// one finds out by reading or writing, and closes it.
func (s *standing) deny(next *mesh.Denies) {
	if !s.denies.Set(next) {
		return
	}
	var denied []*gathered
	s.mu.Lock()
	for c, peer := range s.with {
		if next.Refuses(peer.ID, peer.NotBefore) {
			denied = append(denied, c)
		}
	}
	s.mu.Unlock()
	for _, c := range denied {
		s.cut.Inc()
		c.breakOff()
	}
}

// breakOff ends the connection below, whoever uses it, without a word: what is incomplete
// looks incomplete, and nothing that waits to be sent still is.
func (g *gathered) breakOff() {
	if tcp, ok := g.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // or it is closed already
	}
	_ = g.Conn.Close()
}
