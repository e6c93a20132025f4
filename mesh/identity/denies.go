package identity

import (
	"crypto/tls"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Denies is whose certificates a process refuses now: all of its Sources heed one. Its
// methods may be called from any goroutine.
type Denies struct{ current atomic.Pointer[mesh.Denies] }

// Set replaces what is refused, from the next handshake on. It reports whether that is
// something else than before.
func (d *Denies) Set(next *mesh.Denies) (changed bool) {
	return !next.Equal(d.current.Swap(next))
}

// Node reports whether the node is shut out whatever certificate it has.
func (d *Denies) Node(id string) bool { return d != nil && d.current.Load().Node(id) }

// Check returns an error of kind Denied if a certificate of id that is valid from
// notBefore on is refused.
func (d *Denies) Check(id mesh.ID, notBefore time.Time) error {
	if d == nil || !d.current.Load().Refuses(id, notBefore) {
		return nil
	}
	return &mesh.Error{Op: opVerify, Name: id.String(), Kind: mesh.Denied, Err: errQuarantined}
}

// errQuarantined is in the chain of what Denies.Check returns.
var errQuarantined = errors.New("its node is quarantined, or was when the certificate was issued")

// Quarantined reports whether err is about a peer that Denies refuses.
func Quarantined(err error) bool { return errors.Is(err, errQuarantined) }

// Peer is the other side of a connection of the mesh.
type Peer struct {
	ID        mesh.ID
	NotBefore time.Time // of its certificate
}

// PeerOf is PeerID with what Denies asks besides.
func PeerOf(state *tls.ConnectionState) (Peer, error) {
	id, err := PeerID(state)
	if err != nil {
		return Peer{}, err
	}
	return Peer{id, state.PeerCertificates[0].NotBefore}, nil
}

// Heed has every handshake of s refuse what d does. It is called before s is used.
func (s *Source) Heed(d *Denies) { s.denies = d }

// Heed has n be renewed when what it signs would be refused by its certificate's age. It is
// called before n is used.
func (n *Node) Heed(d *Denies) { n.denies = d }

// renewFrom implements refusable.
func (l *leaf) renewFrom() time.Time {
	return l.source.denies.renewFrom(l.source.id, l.source.current.Load())
}

// renewFrom implements refusable.
func (r *nodeRenewal) renewFrom() time.Time {
	c, err := r.Current()
	if err != nil {
		return time.Time{}
	}
	return r.denies.renewFrom(r.id, c)
}

// renewFrom returns from when on a certificate of id may be issued that peers do not refuse;
// zero if they do not refuse c. They never take any again while the node is shut out, so
// that it is not asked for then.
func (d *Denies) renewFrom(id mesh.ID, c *Credential) time.Time {
	if c == nil || d == nil {
		return time.Time{}
	}
	leaf := c.Certificate.Leaf
	from, ok := d.current.Load().From(id)
	if !ok || !leaf.NotBefore.Before(from) {
		return time.Time{}
	}
	// Its issuer dates back by this, and will again.
	return from.Add(max(c.Received.Sub(leaf.NotBefore), 0))
}
