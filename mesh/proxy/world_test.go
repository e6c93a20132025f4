package proxy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

const (
	testDomain = "hedgerow.test"
	testMesh   = "default"
)

// world is a mesh on real sockets: a CA, engines behind listeners, workloads,
// and the configuration that publish hands to every engine.
type world struct {
	t          testing.TB
	ca         *localca.CA
	metrics    *identity.Metrics
	identities *prometheus.Registry // where they are
	config     *mesh.Config
	instances  map[string][]*mesh.Instance
	nodes      []*node
	logs       *syncBuffer
}

// node is one running engine.
type node struct {
	engine   *proxy.Engine
	registry *prometheus.Registry
	addr     string // of its first listener
	stop     func()
	ended    chan error
}

// syncBuffer is a bytes.Buffer for concurrent writers.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	ca, err := localca.Open(filepath.Join(t.TempDir(), "ca"), localca.Config{TrustDomain: testDomain})
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	m, err := identity.NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, metrics: m, identities: reg, config: mesh.NewConfig(), instances: map[string][]*mesh.Instance{}, logs: &syncBuffer{}}
	w.config.Defaults.DialCidrs = []string{"127.0.0.0/8"}
	w.config.Defaults.Authorization = mesh.Allow
	t.Cleanup(w.stop)
	return w
}

// stop stops every engine, those that call before those that are called.
func (w *world) stop() {
	for _, n := range slices.Backward(w.nodes) {
		n.stop()
	}
}

// source returns the identity spiffe://hedgerow.test<path>.
func (w *world) source(path string) *identity.Source {
	w.t.Helper()
	id, err := mesh.ParseID("spiffe://" + testDomain + path)
	if err != nil {
		w.t.Fatal(err)
	}
	src := identity.NewSource(id, w.metrics)
	w.rotate(src)
	return src
}

// rotate gives src a new key and leaf.
func (w *world) rotate(src *identity.Source) {
	w.t.Helper()
	key, req, err := identity.NewRequest(src.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	issued, err := w.ca.Issue(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := src.Swap(key, issued); err != nil {
		w.t.Fatal(err)
	}
}

// option changes the options of an engine.
type option func(*proxy.Options)

// How other proxies are reached: by pooled HTTP/1.1 connections, by links, or as
// the default has it. Where a test does not say, it is by links.
func pooled(o *proxy.Options) { o.Limits.PooledRequests = 1 << 30 }
func linked(o *proxy.Options) { o.Limits.PooledRequests = 0 }
func either(o *proxy.Options) { o.Limits.PooledRequests = proxy.MeshLimits().PooledRequests }

func (w *world) engine(l proxy.Limits, options ...option) (*proxy.Engine, *prometheus.Registry) {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	opt := proxy.Options{Mesh: testMesh, TrustDomain: testDomain, Limits: l, Log: zerolog.New(w.logs), Registerer: reg}
	linked(&opt)
	for _, o := range options {
		o(&opt)
	}
	e, err := proxy.New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	return e, reg
}

// run serves h at a free port until the test ends or n.stop.
func (w *world) run(e *proxy.Engine, reg *prometheus.Registry, d proxy.Door, config *tls.Config, drain time.Duration) *node {
	w.t.Helper()
	return w.runSite(e, reg, proxy.Site{Door: d, TLS: config}, drain)
}

// runSite is run for anything that can be served.
func (w *world) runSite(e *proxy.Engine, reg *prometheus.Registry, site proxy.Site, drain time.Duration) *node {
	w.t.Helper()
	listeners, err := proxy.ListenAll("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	site.Listener = listeners[0]
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{engine: e, registry: reg, addr: listeners[0].Addr().String(), ended: make(chan error, 1)}
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-n.ended; err != nil {
				w.t.Errorf("Run: %v", err)
			}
		})
	}
	go func() {
		n.ended <- e.Run(ctx, proxy.Plan{
			Stages: [][]proxy.Site{{site}},
			Admin:  proxy.Site{Listener: listeners[1], Handler: e.Admin(proxy.AdminOptions{Gatherer: reg})},
			Drain:  drain,
		})
	}()
	w.nodes = append(w.nodes, n)
	return n
}

// sidecar starts an inbound for service on node and registers an instance.
func (w *world) sidecar(service, nodeID, workload string, labels mesh.Labels) *node {
	w.t.Helper()
	e, reg := w.engine(proxy.MeshLimits())
	h, config, err := e.Inbound(proxy.Workload{Service: service, Node: nodeID, Address: workload, Source: w.source("/svc/" + service + "/n/" + nodeID)})
	if err != nil {
		w.t.Fatal(err)
	}
	n := w.run(e, reg, h, config, 5*time.Second)
	w.register(service, nodeID, n.addr, labels)
	return n
}

// register adds an instance, and its service if that is new.
func (w *world) register(service, nodeID, addr string, labels mesh.Labels) {
	if w.config.Services[service] == nil {
		w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/" + service}, Protocol: mesh.ProtocolHTTP})
	}
	w.instances[service] = append(w.instances[service], &mesh.Instance{
		Meta:    mesh.Meta{Name: fmt.Sprintf("instances/%s-%d", nodeID, len(w.instances[service])), Labels: labels},
		Service: service, Node: nodeID, Address: addr, Weight: 1, Health: mesh.Healthy,
	})
}

// put adds an object to the configuration.
func (w *world) put(o mesh.Object) {
	w.t.Helper()
	mesh.Normalize(o)
	if err := mesh.Validate(o); err != nil {
		w.t.Fatal(err)
	}
	w.config.Put(o)
}

// route adds a route of host shop.test to service at the gateway.
func (w *world) route(service string, change func(*mesh.RouteRule)) {
	w.t.Helper()
	rule := mesh.RouteRule{Backends: []mesh.Backend{{Service: service}}}
	if change != nil {
		change(&rule)
	}
	w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/shop"}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"shop.test"}, Rules: []mesh.RouteRule{rule}})
}

// publish gives every engine a new snapshot of the configuration.
func (w *world) publish() {
	config := *w.config
	config.Head.Revision++
	w.config = &config
	instances := map[string][]*mesh.Instance{}
	for k, v := range w.instances {
		instances[k] = append([]*mesh.Instance(nil), v...)
	}
	for _, n := range w.nodes {
		n.engine.Update(&mesh.Snapshot{Config: w.config, Instances: instances})
	}
}

// mode is how a test's client speaks to a gateway.
type mode string

const (
	overH1 mode = "h1"
	overH2 mode = "h2"
)

// modes runs f over HTTP/1.1 and over HTTP/2.
func modes(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range []mode{overH1, overH2} {
		t.Run(string(m), func(t *testing.T) { f(t, m) })
	}
}

// entry is a gateway and a client of it.
type entry struct {
	*node
	url    string
	client *http.Client
}

// gateway starts the gateway "edge" and returns it with a client in mode m.
func (w *world) gateway(m mode, options ...option) *entry {
	w.t.Helper()
	return w.gatewayWith(m, proxy.EdgeLimits(), 5*time.Second, options...)
}

func (w *world) gatewayWith(m mode, l proxy.Limits, drain time.Duration, options ...option) *entry {
	w.t.Helper()
	return w.gatewayBehind(proxy.Hops{}, m, l, drain, options...)
}

func (w *world) gatewayBehind(hops proxy.Hops, m mode, l proxy.Limits, drain time.Duration, options ...option) *entry {
	w.t.Helper()
	e, reg := w.engine(l, options...)
	var config *tls.Config
	scheme := "http"
	transport := &http.Transport{DisableCompression: true}
	if m == overH2 {
		scheme = "https"
		cert, pool := publicCert(w.t)
		config = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		transport.ForceAttemptHTTP2 = true
	}
	n := w.run(e, reg, e.Gateway("edge", w.source("/gateway/edge"), proxy.Edge{Hops: hops}), config, drain)
	w.t.Cleanup(transport.CloseIdleConnections)
	return &entry{n, scheme + "://" + n.addr, &http.Client{Transport: transport}}
}

// publicCert returns httptest's certificate for 127.0.0.1.
func publicCert(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS()
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	return srv.TLS.Certificates[0], pool
}

// request builds a request for shop.test.
func (en *entry) request(t *testing.T, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, en.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "shop.test"
	return r
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body string
}

func (en *entry) do(t *testing.T, r *http.Request) answer {
	t.Helper()
	resp, err := en.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, resp)
}

func read(t *testing.T, resp *http.Response) answer {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return answer{resp, string(body)}
}

func (en *entry) get(t *testing.T, path string) answer {
	t.Helper()
	return en.do(t, en.request(t, http.MethodGet, path, nil))
}

// wantProblem checks that a is an answer of our own with status and code.
func wantProblem(t *testing.T, a answer, status int, code string) {
	t.Helper()
	var p struct{ Code, Decision string }
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatalf("status %d, body %q is no problem+json: %v", a.StatusCode, a.body, err)
	}
	if a.StatusCode != status || p.Code != code || a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %s %q, want %d %s", a.StatusCode, p.Code, a.Header.Get("Content-Type"), status, code)
	}
	if id := a.Header.Get("Hedgerow-Decision"); id == "" || id != p.Decision {
		t.Errorf("Hedgerow-Decision %q, in the body %q", id, p.Decision)
	}
}

// workload starts a workload and returns its address.
func (w *world) workload(h http.HandlerFunc) string {
	w.t.Helper()
	srv := httptest.NewServer(h)
	w.t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// recorder is a raw TCP workload that remembers every byte and answers each
// connection with reply once something came.
type recorder struct {
	addr  string
	bytes syncBuffer
}

func (w *world) recorder(reply string) *recorder {
	w.t.Helper()
	rec := &recorder{}
	rec.addr = accepting(w.t, func(conn net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			_, _ = rec.bytes.Write(buf[:n])
			if reply == "" {
				return
			}
			if _, err := io.WriteString(conn, reply); err != nil {
				return
			}
		}
	})
	return rec
}

// accepting gives each connection to an address to serve. When the test ends it
// closes them all and waits for every serve.
func accepting(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
				defer func() { _ = conn.Close() }()
				defer stop()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		end()
		conns.Wait()
	})
	return l.Addr().String()
}

// recorded starts a sidecar beside a recorder that answers with reply, and a
// gateway that routes to it.
func recorded(t *testing.T, m mode, reply string, options ...option) (*recorder, *entry) {
	t.Helper()
	w := newWorld(t)
	rec := w.recorder(reply)
	w.sidecar("orders", "n1", rec.addr, nil)
	w.route("orders", nil)
	en := w.gateway(m, options...)
	w.publish()
	return rec, en
}

// deadAddr returns an address where nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually polls until ok or 5 s have passed.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// counted returns the sum of the series of a metric in reg.
func counted(t *testing.T, reg *prometheus.Registry, name string, labels map[string]string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if want, ok := labels[l.GetName()]; ok && want != l.GetValue() {
					continue series
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}
