package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Source holds the current certificate and trust bundle of one identity.
// Handshakes read it; a Rotator swaps it. The swap touches no open connection:
// only handshakes that begin afterwards use the new pair.
type Source struct {
	id       mesh.ID
	metrics  *Metrics
	clock    *Clock
	current  atomic.Pointer[Credential]
	accept   *tls.Config // of every handshake as a server: it asks for what is current
	file     string      // where what is current is kept; "" is nowhere
	deferred bool        // it is still to be read; KeepIn's, then the Rotator's
	unkept   atomic.Pointer[error]
	failed   atomic.Pointer[error] // of the last attempt to renew
	onWire   atomic.Pointer[error] // of the last self check
	grace    atomic.Pointer[Grace] // nil is none
	denies   *Denies               // nil refuses nobody
}

// Credential is a certificate and the bundle that came with it. It is immutable.
type Credential struct {
	Certificate *tls.Certificate // Leaf is set
	Bundle      *Bundle
	Received    time.Time

	chain []*x509.Certificate
}

// NewSource returns a Source for id that has no certificate yet. Its clock is the
// machine's, which is taken to be right, unless it is told to use another.
func NewSource(id mesh.ID, metrics *Metrics) *Source {
	s := &Source{id: id, metrics: metrics, clock: NewClock(time.Time{}, nil)}
	s.accept = s.serverConfig()
	return s
}

// UseClock has s tell the time by c: while c is wrong, s has no certificate to present and
// trusts nobody's. Call it before s is used, and before KeepIn.
func (s *Source) UseClock(c *Clock) { s.clock = c }

// ID returns whose source it is.
func (s *Source) ID() mesh.ID { return s.id }

// Current returns what the source holds, or nil before the first Swap. It may
// have expired: Certificate refuses that.
func (s *Source) Current() *Credential { return s.current.Load() }

// Bundle returns the trust bundle of now, or nil before the first Swap.
func (s *Source) Bundle() *Bundle {
	if c := s.current.Load(); c != nil {
		return c.Bundle
	}
	return nil
}

// Certificate returns the certificate to present in a handshake. Without one,
// after its NotAfter, or while the clock is wrong, it returns an error of kind
// Unavailable.
func (s *Source) Certificate() (*tls.Certificate, error) {
	const op, hint = "identity.Certificate", "see the log and hedgerow_identity_renewal_failures_total for why it is not issued"
	if err := s.clock.Check(); err != nil {
		return nil, err
	}
	c := s.current.Load()
	if c == nil {
		return nil, mesh.Errorf(op, s.id.String(), mesh.Unavailable, "none was issued yet").WithHint(hint)
	}
	if end := c.Certificate.Leaf.NotAfter; s.clock.Now().After(end) {
		return nil, mesh.Errorf(op, s.id.String(), mesh.Unavailable, "it expired at %s", end.UTC().Format(time.RFC3339)).WithHint(hint)
	}
	return c.Certificate, nil
}

// Ready returns nil while there is a certificate to present, in grace at least, or else
// why there is none and why the last attempt to get one failed.
func (s *Source) Ready() error {
	_, err := s.Lenient()
	if last := s.failed.Load(); err != nil && last != nil {
		return mesh.Errorf("identity.Ready", "", mesh.Unavailable, "%v; the last attempt: %w", err, *last)
	}
	return err
}

// Degraded returns what is wrong with an identity that is usable still: it is overdue to
// be renewed, is not kept on disk, or is not what this process presents.
func (s *Source) Degraded() []error {
	var errs []error
	now := s.clock.Now()
	if c := s.current.Load(); c != nil && c.overdue(now) && !now.After(c.Certificate.Leaf.NotAfter) {
		reason := "no attempt has failed: see the log"
		if last := s.failed.Load(); last != nil {
			reason = (*last).Error()
		}
		errs = append(errs, mesh.Errorf("identity.Renew", s.id.String(), mesh.Unavailable, "overdue, with %v left: %s",
			c.Certificate.Leaf.NotAfter.Sub(now).Round(time.Second), reason))
	}
	if until, ok := s.InGrace(); ok {
		_, err := s.Certificate()
		errs = append(errs, mesh.Errorf("identity.Grace", s.id.String(), mesh.Unavailable, "in grace until %s, for some routes only: %w", until.UTC().Format(time.RFC3339), err))
	}
	if err := s.Unkept(); err != nil {
		errs = append(errs, mesh.Errorf("identity.Keep", s.id.String(), mesh.Unavailable, "not written to disk: %w", err))
	}
	if err := s.onWire.Load(); err != nil && *err != nil {
		errs = append(errs, *err)
	}
	return errs
}

// overdue reports whether half of the life is over that began with the receipt.
func (c *Credential) overdue(now time.Time) bool {
	end := c.Certificate.Leaf.NotAfter
	return !now.Before(c.Received.Add(end.Sub(c.Received) / 2))
}

// Checked notes what became of a self check: nil, or that this process presents another
// certificate than it should.
func (s *Source) Checked(err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	s.metrics.checks.WithLabelValues(s.id.String(), result).Inc()
	s.onWire.Store(&err)
}

// Swap makes the chain, whose leaf certifies key, and the bundle current. It
// first verifies that a peer would accept them as s.ID on either side of a
// connection; if not, what was there stays. What cannot be kept on disk is in use all the
// same, and counted.
func (s *Source) Swap(key *ecdsa.PrivateKey, issued Issued) error {
	now := s.clock.Now()
	if err := s.put(key, issued, now, now); err != nil {
		return err
	}
	s.store()
	return nil
}

// Trust has peers verified against b from now on. It reports whether b has other roots
// than before. If the own certificate does not chain to b nothing changes, which is an
// error of kind Conflict: that has to be renewed first.
func (s *Source) Trust(b *Bundle) (changed bool, err error) {
	const op = "identity.Trust"
	was := s.current.Load()
	if was == nil {
		return false, mesh.Errorf(op, s.id.String(), mesh.Unavailable, "there is no certificate yet")
	}
	if was.Bundle.equal(b) {
		return false, nil
	}
	at := s.clock.Now()
	if end := was.Certificate.Leaf.NotAfter; at.After(end) {
		at = end
	}
	if err := s.verifyOwn(was.chain, b, at); err != nil {
		return false, mesh.Errorf(op, s.id.String(), mesh.Conflict, "the certificate in use: %w", err)
	}
	next := *was
	next.Bundle = b
	if !s.current.CompareAndSwap(was, &next) {
		return false, nil // which came with a bundle of its own
	}
	s.metrics.roots.WithLabelValues(s.id.String()).Set(float64(len(b.roots)))
	s.store()
	return true, nil
}

// store keeps what is current on disk, if it is to be kept.
func (s *Source) store() {
	if err := s.keep(s.current.Load()); err != nil {
		s.metrics.unkept.WithLabelValues(s.id.String()).Inc()
		s.unkept.Store(&err)
		return
	}
	s.unkept.Store(nil)
}

// Unkept returns why the credential in use could not be written to disk; nil if it was, or is
// not to be.
func (s *Source) Unkept() error {
	if err := s.unkept.Load(); err != nil {
		return *err
	}
	return nil
}

// verifyOwn reports why peers that trust b would not take chain for s.ID at a time. A
// service both serves and dials with one certificate, so it must be good for both: a role
// without server_flag fails here and not at peers. A node is nobody's peer.
func (s *Source) verifyOwn(chain []*x509.Certificate, b *Bundle, at time.Time) error {
	if node, ok := s.id.Node(); ok {
		name, err := VerifyNode(chain, b, at)
		if err == nil && name != node {
			err = mesh.Errorf(opVerify, s.id.String(), mesh.Invalid, "it is for the node %s", name)
		}
		return err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		id, err := VerifySVID(chain, b, usage, at)
		if err != nil {
			return err
		}
		if id != s.id {
			return mesh.Errorf(opVerify, s.id.String(), mesh.Invalid, "it is for %s", id)
		}
	}
	return nil
}

// put is Swap of what was received at a time, verified as of another, and without keeping
// it.
func (s *Source) put(key *ecdsa.PrivateKey, issued Issued, received, at time.Time) error {
	const op = "identity.Swap"
	refuse := func(format string, args ...any) error {
		return mesh.Errorf(op, s.id.String(), mesh.Invalid, "the issuer's answer is refused: "+format, args...)
	}
	if len(issued.Chain) == 0 || issued.Bundle == nil {
		return refuse("it lacks a certificate or the trust bundle")
	}
	if err := s.verifyOwn(issued.Chain, issued.Bundle, at); err != nil {
		return refuse("%w", err)
	}
	leaf := issued.Chain[0]
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return refuse("it certifies another key")
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	// One pointer for both: no handshake sees a certificate of one issuer
	// with the bundle of before.
	s.current.Store(&Credential{Certificate: cert, Bundle: issued.Bundle, Received: received, chain: slices.Clone(issued.Chain)})
	id := s.id.String()
	s.metrics.notAfter.WithLabelValues(id).Set(float64(leaf.NotAfter.Unix()))
	s.metrics.roots.WithLabelValues(id).Set(float64(len(issued.Bundle.roots)))
	s.measure()
	return nil
}

// measure brings the series that change with time up to date.
func (s *Source) measure() (overdue bool) {
	left, overdue, now := time.Duration(0), true, s.clock.Now()
	if c := s.current.Load(); c != nil {
		left, overdue = max(0, c.Certificate.Leaf.NotAfter.Sub(now)), c.overdue(now)
	}
	id := s.id.String()
	s.metrics.left.WithLabelValues(id).Set(left.Seconds())
	s.metrics.overdue.WithLabelValues(id).Set(boolean(overdue))
	s.metrics.clock.WithLabelValues(id).Set(boolean(s.clock.Check() != nil))
	return overdue
}

// boolean returns b as a gauge has it.
func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
