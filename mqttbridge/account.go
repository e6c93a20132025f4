package mqttbridge

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are the counts of messages that a rule matches, read at one moment:
// Received = Delivered + sum(Refused) + sum(Dropped) + InFlight.
type Stats struct {
	Received  uint64
	Delivered uint64            // the service answered 2xx
	Refused   map[string]uint64 // QoS 1 and 2, by reason: not delivered, and the sender was not told that it was
	Dropped   map[string]uint64 // QoS 0, by reason
	InFlight  uint64
	// Unrouted are messages that no rule matches, Duplicates those that joined
	// a message already counted. Neither is in Received.
	Unrouted   uint64
	Duplicates uint64
}

// account keeps Stats. All counters are one collector read under one lock, so
// that the sum holds in every scrape.
type account struct {
	mu sync.Mutex // guards s; nothing is called under it
	s  Stats
}

var _ prometheus.Collector = (*account)(nil)

func (a *account) receive() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Received++
	a.s.InFlight++
}

// finish counts the outcome of one received message.
func (a *account) finish(qos byte, refusal *Refusal) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.InFlight--
	switch {
	case refusal == nil:
		a.s.Delivered++
	case qos == 0:
		count(&a.s.Dropped, refusal.Reason)
	default:
		count(&a.s.Refused, refusal.Reason)
	}
}

func (a *account) unroutedMessage() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Unrouted++
}

func (a *account) duplicate() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Duplicates++
}

func (a *account) stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.s
	s.Refused, s.Dropped = maps.Clone(s.Refused), maps.Clone(s.Dropped)
	return s
}

func count(m *map[string]uint64, reason string) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	(*m)[reason]++
}

// The descriptions of what Collect sends.
func (a *account) descs() (received, delivered, refused, dropped, inFlight, unrouted, duplicates *prometheus.Desc) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hedgerow_bridge_messages_"+name, help, labels, nil)
	}
	return d("received_total", "Messages that a topic rule matches."),
		d("delivered_total", "Messages that the service accepted with a 2xx."),
		d("refused_total", "Messages of QoS 1 and 2 that were not delivered, by reason.", "reason"),
		d("dropped_total", "Messages of QoS 0 that were not delivered, by reason.", "reason"),
		d("inflight", "Messages that wait or are being delivered."),
		d("unrouted_total", "Messages that no topic rule matches."),
		d("duplicates_total", "Repeated messages that joined one already waiting.")
}

// Describe sends the descriptions of the message counters.
func (a *account) Describe(ch chan<- *prometheus.Desc) {
	received, delivered, refused, dropped, inFlight, unrouted, duplicates := a.descs()
	for _, d := range []*prometheus.Desc{received, delivered, refused, dropped, inFlight, unrouted, duplicates} {
		ch <- d
	}
}

// Collect sends the message counters of one moment.
func (a *account) Collect(ch chan<- prometheus.Metric) {
	s := a.stats()
	received, delivered, refused, dropped, inFlight, unrouted, duplicates := a.descs()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	counter(received, s.Received)
	counter(delivered, s.Delivered)
	counter(unrouted, s.Unrouted)
	counter(duplicates, s.Duplicates)
	for _, reason := range slices.Sorted(maps.Keys(s.Refused)) {
		counter(refused, s.Refused[reason], reason)
	}
	for _, reason := range slices.Sorted(maps.Keys(s.Dropped)) {
		counter(dropped, s.Dropped[reason], reason)
	}
	ch <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(s.InFlight))
}

// metrics are the other series of a Bridge.
type metrics struct {
	attempts *prometheus.CounterVec // by result: "accepted" or a reason
	duration prometheus.Histogram
	rules    *prometheus.GaugeVec // by state: active, held, shadowed
}

func (m *metrics) register(reg prometheus.Registerer, a *account) error {
	m.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hedgerow_bridge_attempts_total",
		Help: "Requests made to deliver messages, by result.",
	}, []string{"result"})
	m.duration = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "hedgerow_bridge_attempt_duration_seconds",
		Help:    "How long one attempt to deliver a message took.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	m.rules = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hedgerow_bridge_rules",
		Help: "Topic rules by state: active, held (cannot be compiled), shadowed (never used).",
	}, []string{"state"})
	for _, c := range []prometheus.Collector{a, m.attempts, m.duration, m.rules} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}
