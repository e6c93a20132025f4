package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Source holds the current certificate and trust bundle of one identity.
// Handshakes read it; a Rotator swaps it. The swap touches no open connection:
// only handshakes that begin afterwards use the new pair.
type Source struct {
	id      mesh.ID
	metrics *Metrics
	current atomic.Pointer[Credential]
	accept  *tls.Config // of every handshake as a server: it asks for what is current
	file    string      // where what is current is kept; "" is nowhere
	unkept  atomic.Pointer[error]
}

// Credential is a certificate and the bundle that came with it. It is immutable.
type Credential struct {
	Certificate *tls.Certificate // Leaf is set
	Bundle      *Bundle
	Received    time.Time
}

// NewSource returns a Source for id that has no certificate yet.
func NewSource(id mesh.ID, metrics *Metrics) *Source {
	s := &Source{id: id, metrics: metrics}
	s.accept = s.serverConfig()
	return s
}

// ID returns whose source it is.
func (s *Source) ID() mesh.ID { return s.id }

// Current returns what the source holds, or nil before the first Swap. It may
// have expired: Certificate refuses that.
func (s *Source) Current() *Credential { return s.current.Load() }

// Certificate returns the certificate to present in a handshake. Without one,
// or after its NotAfter, it returns an error of kind Unavailable.
func (s *Source) Certificate() (*tls.Certificate, error) {
	const op, hint = "identity.Certificate", "see the log and hedgerow_identity_renewal_failures_total for why it is not issued"
	c := s.current.Load()
	if c == nil {
		return nil, mesh.Errorf(op, s.id.String(), mesh.Unavailable, "none was issued yet").WithHint(hint)
	}
	if end := c.Certificate.Leaf.NotAfter; time.Now().After(end) {
		return nil, mesh.Errorf(op, s.id.String(), mesh.Unavailable, "it expired at %s", end.UTC().Format(time.RFC3339)).WithHint(hint)
	}
	return c.Certificate, nil
}

// Swap makes the chain, whose leaf certifies key, and the bundle current. It
// first verifies that a peer would accept them as s.ID on either side of a
// connection; if not, what was there stays. What cannot be kept on disk is in use all the
// same, and counted.
func (s *Source) Swap(key *ecdsa.PrivateKey, issued Issued) error {
	now := time.Now()
	if err := s.put(key, issued, now); err != nil {
		return err
	}
	if err := s.keep(key, issued, now); err != nil {
		s.metrics.unkept.WithLabelValues(s.id.String()).Inc()
		s.unkept.Store(&err)
		return nil
	}
	s.unkept.Store(nil)
	return nil
}

// Unkept returns why the credential in use could not be written to disk; nil if it was, or is
// not to be.
func (s *Source) Unkept() error {
	if err := s.unkept.Load(); err != nil {
		return *err
	}
	return nil
}

// put is Swap of what was received at a time, and without keeping it.
func (s *Source) put(key *ecdsa.PrivateKey, issued Issued, received time.Time) error {
	const op = "identity.Swap"
	refuse := func(format string, args ...any) error {
		return mesh.Errorf(op, s.id.String(), mesh.Invalid, "the issuer's answer is refused: "+format, args...)
	}
	if len(issued.Chain) == 0 || issued.Bundle == nil {
		return refuse("it lacks a certificate or the trust bundle")
	}
	// A service both serves and dials with one certificate, so it must be
	// good for both: a role without server_flag fails here and not at peers.
	now, leaf := time.Now(), issued.Chain[0]
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		id, err := VerifySVID(issued.Chain, issued.Bundle, usage, now)
		if err != nil {
			return refuse("%w", err)
		}
		if id != s.id {
			return refuse("it is for %s", id)
		}
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return refuse("it certifies another key")
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	// One pointer for both: no handshake sees a certificate of one issuer
	// with the bundle of before.
	s.current.Store(&Credential{Certificate: cert, Bundle: issued.Bundle, Received: received})
	s.metrics.notAfter.WithLabelValues(s.id.String()).Set(float64(leaf.NotAfter.Unix()))
	return nil
}

// Metrics are the series of package identity. All Sources of a process share
// one; the label identity tells them apart.
type Metrics struct {
	renewals *prometheus.CounterVec
	failures *prometheus.CounterVec
	notAfter *prometheus.GaugeVec
	refused  *prometheus.CounterVec
	unkept   *prometheus.CounterVec
}

// NewMetrics registers the series with reg. It fails if they are there already.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_identity_renewals_total",
			Help: "Certificates that were issued and put to use.",
		}, []string{"identity"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_identity_renewal_failures_total",
			Help: "Attempts to get a certificate that failed, by kind of error.",
		}, []string{"identity", "kind"}),
		notAfter: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hedgerow_identity_not_after_seconds",
			Help: "Unix time after which the current certificate is refused.",
		}, []string{"identity"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_identity_refused_handshakes_total",
			Help: "Peers refused in the handshake: their certificate is not trusted, or proves another identity than the one dialled (wrong_peer: suspect the registry).",
		}, []string{"identity", "side", "reason"}),
	}
	m.unkept = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hedgerow_identity_unkept_total",
		Help: "Certificates that are in use and could not be written to disk: a restart while the issuer is away would have none.",
	}, []string{"identity"})
	for _, c := range []prometheus.Collector{m.renewals, m.failures, m.notAfter, m.refused, m.unkept} {
		if err := reg.Register(c); err != nil {
			return nil, mesh.Errorf("identity.NewMetrics", "hedgerow_identity", mesh.Internal, "%w", err)
		}
	}
	return m, nil
}
