package identity

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Metrics are the series of package identity. All Sources of a process share
// one; the label identity tells them apart.
type Metrics struct {
	renewals *prometheus.CounterVec
	failures *prometheus.CounterVec
	notAfter *prometheus.GaugeVec
	left     *prometheus.GaugeVec
	overdue  *prometheus.GaugeVec
	refused  *prometheus.CounterVec
	unkept   *prometheus.CounterVec
	checks   *prometheus.CounterVec
	roots    *prometheus.GaugeVec
	bundles  *prometheus.CounterVec
	clock    *prometheus.GaugeVec
	graced   *prometheus.CounterVec
}

// NewMetrics registers the series with reg. It fails if they are there already.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hedgerow_identity_" + name, Help: help}, append([]string{"identity"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hedgerow_identity_" + name, Help: help}, []string{"identity"})
	}
	m := &Metrics{
		renewals: counter("renewals_total", "Certificates that were issued and put to use."),
		failures: counter("renewal_failures_total", "Attempts to get a certificate that failed, by kind of error.", "kind"),
		notAfter: gauge("not_after_seconds", "Unix time after which the current certificate is refused."),
		left:     gauge("time_left_seconds", "Time until the current certificate is refused; 0 afterwards, and without one."),
		overdue:  gauge("overdue", "1 while half or more of the current certificate's life is over, or there is none: it should have been renewed long ago."),
		refused:  counter("refused_handshakes_total", "Peers refused in the handshake: their certificate is not trusted, or proves another identity than the one dialled (wrong_peer: suspect the registry), or is of a node in quarantine (quarantined).", "side", "reason"),
		unkept:   counter("unkept_total", "Certificates that are in use and could not be written to disk: a restart while the issuer is away would have none."),
		checks:   counter("self_checks_total", "Handshakes with this process's own inbound after a renewal, by result: failed is that it presents another certificate than the current one, or cannot be reached.", "result"),
		roots:    gauge("bundle_roots", "Trust roots by which peers are verified: one, and more while the CA changes."),
		bundles:  counter("bundle_refreshes_total", "Reads of the trust roots between renewals, by result: same, changed or failed.", "result"),
		graced:   counter("graced_handshakes_total", "Peers of this site that were taken though their certificate had expired, as defaults.identityGrace allows.", "side"),
		clock:    gauge("clock_behind", "1 while this machine's clock is before a time that has certainly passed, so that no certificate is used."),
	}
	for _, c := range []prometheus.Collector{m.renewals, m.failures, m.notAfter, m.left, m.overdue, m.refused, m.unkept, m.checks, m.roots, m.bundles, m.clock, m.graced} {
		if err := reg.Register(c); err != nil {
			return nil, mesh.Errorf("identity.NewMetrics", "hedgerow_identity", mesh.Internal, "%w", err)
		}
	}
	return m, nil
}
