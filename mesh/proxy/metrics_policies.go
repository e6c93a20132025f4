package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// policyCollector tells what AUDIT policies would have changed, and conditions that had no value, as
// they are in the table of now: no series outlives its policy. A policy that changes begins
// at 0.
type policyCollector struct {
	e              *Engine
	audits, failed *prometheus.Desc
}

var _ prometheus.Collector = (*policyCollector)(nil)

func newPolicyCollector(e *Engine) *policyCollector {
	return &policyCollector{
		e:      e,
		audits: prometheus.NewDesc("hedgerow_policy_audits_total", "Requests that would be decided the other way (allow or deny) if the AUDIT policy were an ALLOW policy.", []string{"policy", "would"}, nil),
		failed: prometheus.NewDesc("hedgerow_policy_condition_failures_total", "Times that a condition (when) of the policy had no value: it asked for what was not there, or cost too much.", []string{"policy"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *policyCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.audits
	out <- c.failed
}

// Collect implements prometheus.Collector.
func (c *policyCollector) Collect(out chan<- prometheus.Metric) {
	s := c.e.state.Load()
	if s == nil {
		return
	}
	counter := func(desc *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	for id, compiled := range s.table.policies {
		p := compiled.policy
		if compiled.source.Action == mesh.Audit {
			counter(c.audits, p.audits.allow.Load(), id, "allow")
			counter(c.audits, p.audits.deny.Load(), id, "deny")
		}
		failed, conditional := uint64(0), false
		for i := range p.rules {
			if w := p.rules[i].when; w != nil {
				failed, conditional = failed+w.failed.Load(), true
			}
		}
		if conditional {
			counter(c.failed, failed, id)
		}
	}
}
