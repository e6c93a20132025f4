package nodes

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of wrong proofs from one address, and of reports about one token: one every
// six seconds, ten at once. Of more addresses than are kept, all others share one.
const (
	reportEvery = 6 * time.Second
	reportBurst = 10
	maxRemotes  = 4096
)

// limiter bounds how often addresses may ask.
type limiter struct {
	mu      sync.Mutex
	remotes map[string]time.Time // when its bucket is full again; guarded by mu
}

func newLimiter() *limiter { return &limiter{remotes: map[string]time.Time{}} }

// withoutPort returns an address without its port, which does not count.
func withoutPort(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}

// spent reports whether allow would be false, and counts nothing.
func (l *limiter) spent(remote string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	full, known := l.remotes[withoutPort(remote)]
	if !known && len(l.remotes) >= maxRemotes {
		full = l.remotes[""]
	}
	return time.Until(full) > (reportBurst-1)*reportEvery
}

// allow counts one, and reports whether there was room for it.
func (l *limiter) allow(remote string) bool {
	remote = withoutPort(remote)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	full, known := l.remotes[remote]
	if !known && len(l.remotes) >= maxRemotes {
		for name, full := range l.remotes {
			if !now.Before(full) {
				delete(l.remotes, name)
			}
		}
		if len(l.remotes) >= maxRemotes {
			remote = ""
			full = l.remotes[remote]
		}
	}
	if full.Before(now) {
		full = now
	}
	full = full.Add(reportEvery)
	if full.Sub(now) > reportBurst*reportEvery {
		return false
	}
	l.remotes[remote] = full
	return true
}

type metrics struct {
	failures *prometheus.CounterVec
	waiting  prometheus.Gauge
	reports  *prometheus.CounterVec
	alarms   *prometheus.CounterVec
	standing prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_nodes_vault_failures_total",
			Help: "Calls about nodes and their tokens that failed, by what was to be done and kind of error. They are repeated.",
		}, []string{"what", "kind"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_nodes_waiting",
			Help: "Nodes for which Vault does not yet allow, or still allows, something else than the configuration says.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_nodes_join_reports_total",
			Help: "Reports of hosts about join tokens: enrolled, refused, unproven (none of ours), limited (too many).",
		}, []string{"outcome"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_nodes_join_alarms_total",
			Help: "Times that a join token may have come into other hands, by reason. Alarm on any.",
		}, []string{"reason"}),
		standing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_nodes_join_alarms",
			Help: "Nodes whose newest join token may have come into other hands.",
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.failures, m.waiting, m.reports, m.alarms, m.standing} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
