package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// endpointCollector counts the endpoints of each service as they are when it is asked,
// so that no series outlives its service.
type endpointCollector struct {
	e    *Engine
	desc *prometheus.Desc
}

var _ prometheus.Collector = (*endpointCollector)(nil)

func newEndpointCollector(e *Engine) *endpointCollector {
	return &endpointCollector{e, prometheus.NewDesc("hedgerow_endpoints", "Endpoints that this proxy knows, by what it may do with them: healthy, unhealthy by their own sidecar, or ejected because they failed here.", []string{"service", "state"}, nil)}
}

// Describe implements prometheus.Collector.
func (c *endpointCollector) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c *endpointCollector) Collect(out chan<- prometheus.Metric) {
	s := c.e.state.Load()
	if s == nil {
		return
	}
	now := time.Now().UnixNano()
	for service, set := range s.endpoints.sets {
		healthy, unhealthy, ejected := 0, 0, 0
		for _, e := range set.All() {
			switch {
			case !e.Healthy:
				unhealthy++
			case e.outlier.ejected(now):
				ejected++
			default:
				healthy++
			}
		}
		for _, m := range []struct {
			state string
			n     int
		}{{"healthy", healthy}, {"unhealthy", unhealthy}, {"ejected", ejected}} {
			out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(m.n), service, m.state)
		}
	}
}
