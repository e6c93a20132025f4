package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// authnCollector tells what became of credentials, as it is in the table of now: no series outlives its
// authenticator. One that changes begins at 0.
type authnCollector struct {
	e                         *Engine
	credentials, asked, keyed *prometheus.Desc
}

var _ prometheus.Collector = (*authnCollector)(nil)

func newAuthnCollector(e *Engine) *authnCollector {
	return &authnCollector{
		e:           e,
		credentials: prometheus.NewDesc("hedgerow_authenticator_credentials_total", "Credentials that were verified, by outcome: ACCEPTED, or why not.", []string{"authenticator", "outcome"}, nil),
		asked:       prometheus.NewDesc("hedgerow_forward_auth_total", "Requests that another service was asked about, by outcome: allowed, denied, failed, or failed_open.", []string{"authenticator", "outcome"}, nil),
		keyed:       prometheus.NewDesc("hedgerow_authenticator_keys_age_seconds", "Time since the keys of the issuer were fetched; there is no series until they were.", []string{"authenticator"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *authnCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.credentials
	out <- c.asked
	out <- c.keyed
}

// Collect implements prometheus.Collector.
func (c *authnCollector) Collect(out chan<- prometheus.Metric) {
	s := c.e.state.Load()
	if s == nil {
		return
	}
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for id, compiled := range s.table.authenticators {
		if a := compiled.accept; a != nil {
			for outcome, n := range a.outcomes {
				if n := n.Load(); n > 0 {
					counter(c.credentials, n, id, outcome)
				}
			}
			if a.jwt != nil {
				if at := a.jwt.Keyring().Fetched(); !at.IsZero() {
					out <- prometheus.MustNewConstMetric(c.keyed, prometheus.GaugeValue, time.Since(at).Seconds(), id)
				}
			}
		}
		if f := compiled.asks; f != nil {
			counter(c.asked, f.allowed.Load(), id, "allowed")
			counter(c.asked, f.denied.Load(), id, "denied")
			counter(c.asked, f.failed.Load(), id, "failed")
			counter(c.asked, f.opened.Load(), id, "failed_open")
		}
	}
}
