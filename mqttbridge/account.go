package mqttbridge

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Stats are the counts of messages that a rule matches, read at one moment:
// Received + Recovered = Delivered + sum(Dead) + sum(Refused) + sum(Dropped) + Spooled + InFlight.
type Stats struct {
	Received  uint64
	Recovered uint64            // found in the spool at the start, or replayed from its dead letters
	Delivered uint64            // the service answered 2xx
	Dead      map[string]uint64 // made a dead letter, by reason
	Refused   map[string]uint64 // QoS 1 and 2, by reason: not delivered, and the sender was not told that it was
	Dropped   map[string]uint64 // QoS 0, by reason
	InFlight  uint64            // neither on disk nor done with
	Spooled   uint64            // on disk, and not delivered
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

// store counts that a message which was received is on disk.
func (a *account) store() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.InFlight--
	a.s.Spooled++
}

// recover counts a message on disk that was not received in this process.
func (a *account) recover() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Recovered++
	a.s.Spooled++
}

// deliverStored counts the delivery of a message on disk.
func (a *account) deliverStored() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Spooled--
	a.s.Delivered++
}

// buryStored counts that a message on disk is a dead letter now.
func (a *account) buryStored(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.s.Spooled--
	count(&a.s.Dead, reason)
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
	s.Refused, s.Dropped, s.Dead = maps.Clone(s.Refused), maps.Clone(s.Dropped), maps.Clone(s.Dead)
	return s
}

func count(m *map[string]uint64, reason string) {
	if *m == nil {
		*m = map[string]uint64{}
	}
	(*m)[reason]++
}

// desc describes one series of what Collect sends.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("hedgerow_bridge_messages_"+name, help, labels, nil)
}

// series are the message counters of one moment. Those with outcomes have one each.
type series struct {
	desc     *prometheus.Desc
	kind     prometheus.ValueType
	value    func(Stats) uint64
	outcomes func(Stats) map[string]uint64
}

func allSeries() []series {
	return []series{
		{desc("received_total", "Messages that a topic rule matches."), prometheus.CounterValue, func(s Stats) uint64 { return s.Received }, nil},
		{desc("recovered_total", "Messages found in the spool at the start, or replayed from its dead letters."), prometheus.CounterValue, func(s Stats) uint64 { return s.Recovered }, nil},
		{desc("delivered_total", "Messages that the service accepted with a 2xx."), prometheus.CounterValue, func(s Stats) uint64 { return s.Delivered }, nil},
		{desc("unrouted_total", "Messages that no topic rule matches."), prometheus.CounterValue, func(s Stats) uint64 { return s.Unrouted }, nil},
		{desc("duplicates_total", "Repeated messages that joined one already waiting."), prometheus.CounterValue, func(s Stats) uint64 { return s.Duplicates }, nil},
		{desc("refused_total", "Messages of QoS 1 and 2 that were not taken, by reason.", "reason"), prometheus.CounterValue, nil, func(s Stats) map[string]uint64 { return s.Refused }},
		{desc("dropped_total", "Messages of QoS 0 that were not delivered, by reason.", "reason"), prometheus.CounterValue, nil, func(s Stats) map[string]uint64 { return s.Dropped }},
		{desc("dead_total", "Messages that were made dead letters, by reason.", "reason"), prometheus.CounterValue, nil, func(s Stats) map[string]uint64 { return s.Dead }},
		{desc("spooled", "Messages on disk that are not delivered yet."), prometheus.GaugeValue, func(s Stats) uint64 { return s.Spooled }, nil},
		{desc("inflight", "Messages that are neither on disk nor done with."), prometheus.GaugeValue, func(s Stats) uint64 { return s.InFlight }, nil},
	}
}

// Describe sends the descriptions of the message counters.
func (a *account) Describe(ch chan<- *prometheus.Desc) {
	for _, one := range allSeries() {
		ch <- one.desc
	}
}

// Collect sends the message counters of one moment.
func (a *account) Collect(ch chan<- prometheus.Metric) {
	s := a.stats()
	for _, one := range allSeries() {
		if one.outcomes == nil {
			ch <- prometheus.MustNewConstMetric(one.desc, one.kind, float64(one.value(s)))
			continue
		}
		outcomes := one.outcomes(s)
		for _, reason := range slices.Sorted(maps.Keys(outcomes)) {
			ch <- prometheus.MustNewConstMetric(one.desc, one.kind, float64(outcomes[reason]), reason)
		}
	}
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
