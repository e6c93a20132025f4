package proxy

import (
	"log"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// metrics are the series of an Engine. Their labels are bounded: services are
// those of the configuration, and their series go when they go.
type metrics struct {
	requests *prometheus.CounterVec
	routed   *prometheus.CounterVec
	called   *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	refusals *prometheus.CounterVec
	retries  *prometheus.CounterVec
	failures *prometheus.CounterVec
	mirrored *prometheus.CounterVec
	// keyFetches counts fetches of the keys of issuers, by outcome.
	keyFetches *prometheus.CounterVec
	// of rate limits of scope MESH
	sharedAlone, sharedFailures prometheus.Counter

	unretried *prometheus.CounterVec
	ejections *prometheus.CounterVec
	tcpConns  *prometheus.CounterVec
	tcpOpen   *prometheus.GaugeVec
	tcpBytes  *prometheus.CounterVec

	listener prometheus.Counter
	compile  prometheus.Gauge
	revision prometheus.Gauge
	shed     prometheus.Counter
	conns    prometheus.Gauge
	cut      prometheus.Counter

	mu    sync.Mutex // guards faces
	faces []*faceMetrics
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		requests: counter("hedgerow_requests_total", "Requests by the class of the answer's status; aborted ones had none or not all of it.", "face", "service", "code_class"),
		routed:   counter("hedgerow_route_requests_total", "Requests by the route that took them, and the class of the answer's status.", "face", "route", "code_class"),
		called:   counter("hedgerow_peer_requests_total", "Requests to a workload by who sent them, and the class of the answer's status.", "service", "peer", "code_class"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "hedgerow_request_duration_seconds", Help: "From the request's head to the end of its response.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"face", "service"}),
		inFlight:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hedgerow_requests_in_flight", Help: "Requests that are being handled, WebSockets included."}, []string{"face"}),
		refusals:       counter("hedgerow_refusals_total", "Answers that the proxy gave itself, by their code.", "face", "service", "code"),
		retries:        counter("hedgerow_retries_total", "Tries after the first, by what went before.", "service", "reason"),
		failures:       counter("hedgerow_upstream_failures_total", "Tries that brought no response, by kind.", "service", "kind"),
		keyFetches:     counter("hedgerow_authenticator_key_fetches_total", "Fetches of the keys of issuers, by outcome: fetched or failed.", "outcome"),
		mirrored:       counter("hedgerow_mirrored_requests_total", "Copies of requests for a mirror, by what became of them: answered, failed, or not sent because of their body or an overload.", "service", "outcome"),
		unretried:      counter("hedgerow_retries_over_budget_total", "Tries that were not made because of the retry budget.", "service"),
		ejections:      counter("hedgerow_ejections_total", "Endpoints that were taken out because they failed.", "service"),
		tcpConns:       counter("hedgerow_tcp_connections_total", "Connections of services of protocol TCP, by what became of them: open, or the code of the refusal.", "face", "service", "outcome"),
		tcpOpen:        prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hedgerow_tcp_connections", Help: "Open connections of services of protocol TCP."}, []string{"face", "service"}),
		tcpBytes:       counter("hedgerow_tcp_bytes_total", "Bytes of such connections.", "face", "service", "direction"),
		sharedAlone:    prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_rate_limit_alone_total", Help: "Requests that met a rate limit of scope MESH while Redis did not answer, and were admitted or not by this data plane's part of the rate."}),
		sharedFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_rate_limit_failures_total", Help: "Calls to Redis about rate limits of scope MESH that failed."}),
		listener:       prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_listener_errors_total", Help: "Connections that their client broke: failed handshakes, malformed headers, violations of HTTP/2."}),
		compile:        prometheus.NewGauge(prometheus.GaugeOpts{Name: "hedgerow_config_errors", Help: "Objects of the current configuration that did not compile."}),
		shed:           prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_requests_shed_total", Help: "Requests that were refused because the proxy was short of memory."}),
		conns:          prometheus.NewGauge(prometheus.GaugeOpts{Name: "hedgerow_upstream_connections", Help: "Open connections to other sidecars, pooled ones and links, and to workloads; WebSockets apart."}),
		cut:            prometheus.NewCounter(prometheus.CounterOpts{Name: "hedgerow_connections_cut_total", Help: "Connections that were cut because their peer's node was quarantined."}),
		revision:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "hedgerow_config_revision", Help: "Revision of the configuration that decides now."}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.routed, m.called, m.duration, m.inFlight, m.refusals, m.retries, m.failures, m.mirrored, m.keyFetches, m.unretried, m.ejections, m.tcpConns, m.tcpOpen, m.tcpBytes, m.listener, m.sharedAlone, m.sharedFailures, m.compile, m.revision, m.shed, m.conns, m.cut} {
		if err := reg.Register(c); err != nil {
			return nil, mesh.Errorf("proxy.New", "metrics", mesh.Internal, "%w", err)
		}
	}
	return m, nil
}

// faceMetrics are the series that every request at one face touches. Those of a
// service are looked up once, and then read without a lock.
type faceMetrics struct {
	m         *metrics
	face      string
	inFlight  prometheus.Gauge
	mu        sync.Mutex // held to replace byService
	byService atomic.Pointer[map[string]*classCounters]
	routes    *seriesBy // nil at an Inbound
	peers     *seriesBy // nil at others
}

// classCounters are the series of one service.
type classCounters struct {
	byClass
	duration prometheus.Observer
}

func (m *metrics) at(face Face) *faceMetrics {
	name := faceName(face.Kind)
	f := &faceMetrics{m: m, face: name, inFlight: m.inFlight.WithLabelValues(name)}
	if face.Kind == Inbound {
		f.peers = newSeriesBy(m.called, face.Service, mostPeers)
	} else {
		f.routes = newSeriesBy(m.routed, name, 0)
	}
	f.byService.Store(&map[string]*classCounters{})
	m.mu.Lock()
	m.faces = append(m.faces, f)
	m.mu.Unlock()
	return f
}

// count counts a request that was answered with status; 0 is aborted.
func (f *faceMetrics) count(service string, status int) { f.of(service).count(status) }

// of returns the series of a service.
func (f *faceMetrics) of(service string) *classCounters {
	if c := (*f.byService.Load())[service]; c != nil {
		return c
	}
	return f.add(service)
}

func (f *faceMetrics) add(service string) *classCounters {
	service = strings.Clone(service)
	f.mu.Lock()
	defer f.mu.Unlock()
	next := maps.Clone(*f.byService.Load())
	c := next[service]
	if c == nil {
		c = &classCounters{duration: f.m.duration.WithLabelValues(f.face, service)}
		for class := range c.byClass {
			c.byClass[class] = f.m.requests.WithLabelValues(f.face, service, codeClass(class*100))
		}
		next[service] = c
		f.byService.Store(&next)
	}
	return c
}

func (f *faceMetrics) forget(service string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := maps.Clone(*f.byService.Load())
	delete(next, service)
	f.byService.Store(&next)
}

// forget deletes the series of a service that is not configured any more.
func (m *metrics) forget(service string) {
	m.mu.Lock()
	faces := m.faces
	m.mu.Unlock()
	for _, f := range faces {
		f.forget(service)
	}
	labels := prometheus.Labels{"service": service}
	m.requests.DeletePartialMatch(labels)
	m.duration.DeletePartialMatch(labels)
	m.refusals.DeletePartialMatch(labels)
	m.retries.DeletePartialMatch(labels)
	m.failures.DeletePartialMatch(labels)
	m.mirrored.DeletePartialMatch(labels)
	m.unretried.DeletePartialMatch(labels)
	m.ejections.DeletePartialMatch(labels)
	m.tcpConns.DeletePartialMatch(labels)
	m.tcpOpen.DeletePartialMatch(labels)
	m.tcpBytes.DeletePartialMatch(labels)
}

// failed counts a try that brought no response, but for what the client did.
func (m *metrics) failed(service string, f *failure) {
	if f.kind != failedClient && f.kind != failedGone && f.kind != failedDenied {
		m.failures.WithLabelValues(service, string(f.kind)).Inc()
	}
}

// codeClass returns "2xx" of 200, and "aborted" of 0.
func codeClass(status int) string {
	if status < 100 || status > 599 {
		return "aborted"
	}
	return strconv.Itoa(status/100) + "xx"
}

// faceName is the value of the label face.
func faceName(k FaceKind) string {
	switch k {
	case Gateway:
		return "gateway"
	case Outbound:
		return "outbound"
	default:
		return "inbound"
	}
}

// serverErrors takes what http.Server complains about: anybody may cause it, so
// it is counted, and logged at debug.
type serverErrors struct {
	count prometheus.Counter
	log   zerolog.Logger
}

// Write implements io.Writer.
func (e serverErrors) Write(p []byte) (int, error) {
	e.count.Inc()
	e.log.Debug().Bytes("error", p).Msg("connection failed")
	return len(p), nil
}

// serverLog returns the ErrorLog for the servers that serve this engine.
func (m *metrics) serverLog(l zerolog.Logger) *log.Logger {
	return log.New(serverErrors{m.listener, l}, "", 0)
}
