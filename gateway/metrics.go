package gateway

import (
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// acmeDir is where ACME's files are, below the data directory.
func acmeDir(dataDir string) string { return filepath.Join(dataDir, "acme") }

// certMetrics are the series about public certificates. Their labels are what the
// configuration names, so that strangers make none.
type certMetrics struct {
	of       *publicCerts
	notAfter *prometheus.Desc
	renewals *prometheus.CounterVec
	failures *prometheus.CounterVec
}

var _ prometheus.Collector = (*certMetrics)(nil)

func newCertMetrics(of *publicCerts) *certMetrics {
	return &certMetrics{
		of: of,
		notAfter: prometheus.NewDesc("hedgerow_gateway_certificate_not_after_seconds",
			"Unix time at which a certificate that a listener serves ends. source is file, acme or vault; name the file, or the first hostname.",
			[]string{"listener", "source", "name"}, nil),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_gateway_certificate_renewals_total",
			Help: "Public certificates that were issued and put to use.",
		}, []string{"source", "name"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_gateway_certificate_failures_total",
			Help: "Attempts to get a public certificate that failed, by kind of error.",
		}, []string{"source", "name", "kind"}),
	}
}

// count counts an attempt to get a certificate; err is nil if it succeeded.
func (m *certMetrics) count(source, name string, err error) {
	if err != nil {
		m.failures.WithLabelValues(source, name, mesh.KindOf(err).String()).Inc()
		return
	}
	m.renewals.WithLabelValues(source, name).Inc()
}

// Describe implements prometheus.Collector.
func (m *certMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.notAfter
	m.renewals.Describe(out)
	m.failures.Describe(out)
}

// Collect implements prometheus.Collector. It looks at what is served now, so that no
// series outlives its certificate.
func (m *certMetrics) Collect(out chan<- prometheus.Metric) {
	m.renewals.Collect(out)
	m.failures.Collect(out)
	type series struct{ listener, source, name string }
	seen := map[series]bool{}
	send := func(s series, end float64) {
		if !seen[s] { // the same file twice is one series, or nothing could be scraped
			seen[s] = true
			out <- prometheus.MustNewConstMetric(m.notAfter, prometheus.GaugeValue, end, s.listener, s.source, s.name)
		}
	}
	for _, c := range m.of.listeners {
		if c == nil {
			continue
		}
		for _, f := range c.files {
			send(series{c.address, fromFile, f.cert}, float64(f.current().Leaf.NotAfter.Unix()))
		}
		for _, i := range c.issued {
			if cert := i.Current(); cert != nil {
				send(series{c.address, i.source, i.Name()}, float64(cert.Leaf.NotAfter.Unix()))
			}
		}
	}
}
