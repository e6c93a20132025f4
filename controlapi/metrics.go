package controlapi

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests    *prometheus.CounterVec // face, status
	revision    prometheus.Gauge
	unreadable  prometheus.Gauge
	unpublished prometheus.Counter
	unsigned    prometheus.Counter
	races       prometheus.Counter
	unfollowed  prometheus.Counter
	panics      prometheus.Counter
	unaudited   prometheus.Counter
	unwithdrawn *prometheus.CounterVec // access
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_requests_total",
			Help: "Requests answered, by face (rest, grpc) and HTTP status; gRPC answers count under the status that REST would have.",
		}, []string{"face", "status"}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_controlapi_revision",
			Help: "The newest stored revision.",
		}),
		unreadable: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hedgerow_controlapi_unreadable_objects",
			Help: "Stored objects that this version does not accept. They are kept, and written anew by a PUT.",
		}),
		unpublished: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_unpublished_total",
			Help: "Revisions that were stored and could not be published at once.",
		}),
		unsigned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_unsigned_total",
			Help: "Times that a head could not be signed: a write was refused, or data planes were not told that nothing is newer.",
		}),
		races: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_races_total",
			Help: "Tries to write that came after another control plane's, and were decided again on what it had written.",
		}),
		unfollowed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_follow_failures_total",
			Help: "Times that it could not be seen whether another control plane has written.",
		}),
		unaudited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_unaudited_total",
			Help: "Entries that the audit log did not take: of a write, which was refused for it, or of what was refused anyway.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hedgerow_controlapi_panics_total",
			Help: "Requests that ended in a panic. Any is a defect.",
		}),
	}
	m.unwithdrawn = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hedgerow_controlapi_withdrawal_failures_total",
		Help: "Attempts to withdraw the access of a quarantined node that failed, by where. Each is tried again.",
	}, []string{"access"})
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.revision, m.unreadable, m.unpublished, m.unsigned, m.races, m.unfollowed, m.panics, m.unaudited, m.unwithdrawn} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
