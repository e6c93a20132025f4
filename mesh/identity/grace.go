package identity

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Grace is for how long after its end a certificate of this site still makes a peer. It is
// for a site whose issuer is away longer than certificates live; what it may be used for is
// not decided here.
type Grace struct {
	Window time.Duration
	// Near reports whether a peer is of the same site. It is asked of others alone.
	Near func(peer mesh.ID) bool
}

// SetGrace has handshakes that are lenient use g; nil is none.
func (s *Source) SetGrace(g *Grace) { s.grace.Store(g) }

// InGrace returns until when the certificate may be presented that has expired; ok is
// false if it has not, or may not.
func (s *Source) InGrace() (until time.Time, ok bool) {
	c, g := s.current.Load(), s.grace.Load()
	if c == nil || g == nil || s.clock.Check() != nil {
		return time.Time{}, false
	}
	end, now := c.Certificate.Leaf.NotAfter, s.clock.Now()
	until = end.Add(g.Window)
	return until, now.After(end) && !now.After(until)
}

// Lenient is Certificate, but that one in grace will do.
func (s *Source) Lenient() (*tls.Certificate, error) {
	cert, err := s.Certificate()
	if err == nil {
		return cert, nil
	}
	if _, ok := s.InGrace(); ok {
		return s.current.Load().Certificate, nil
	}
	return nil, err
}

// LenientConfig is ClientConfig for connections that only carry what grace is for: each
// side's certificate may have expired within the Grace of src.
func LenientConfig(src *Source, want mesh.ID, serverName string, alpn ...string) *tls.Config {
	return clientConfig(src, want, serverName, true, alpn...)
}

// graced verifies a peer as of the end of its certificate, if that is in grace.
func (s *Source) graced(certs []*x509.Certificate, b *Bundle, usage x509.ExtKeyUsage, side string) (mesh.ID, bool) {
	g := s.grace.Load()
	if g == nil || len(certs) == 0 {
		return mesh.ID{}, false
	}
	end, now := certs[0].NotAfter, s.clock.Now()
	if !now.After(end) || now.After(end.Add(g.Window)) {
		return mesh.ID{}, false
	}
	id, err := VerifySVID(certs, b, usage, end)
	if err != nil || id != s.id && !g.Near(id) {
		return mesh.ID{}, false
	}
	s.metrics.graced.WithLabelValues(s.id.String(), side).Inc()
	return id, true
}
