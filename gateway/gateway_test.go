package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

const domain = "hedgerow.test"

// site is a gateway with one service behind it.
type site struct {
	t    *testing.T
	ca   *localca.CA
	ids  *identity.Metrics
	snap *mesh.Snapshot
}

func newSite(t *testing.T) *site {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	ca, err := localca.Open(filepath.Join(t.TempDir(), "ca"), localca.Config{TrustDomain: domain})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, ca: ca, ids: ids}
	workload := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.Header.Get("X-Forwarded-Proto")+" "+r.URL.Path)
	}))
	t.Cleanup(workload.Close)
	addr := s.inbound(workload.Listener.Addr().String())
	c := mesh.NewConfig()
	c.Defaults = &mesh.Defaults{Meta: c.Defaults.Meta, Authorization: mesh.Allow, DialCidrs: []string{"127.0.0.0/8"}}
	c.Services["orders"] = &mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, Protocol: mesh.ProtocolHTTP}
	route := func(id, host string, gateways ...string) {
		r := &mesh.Route{Meta: mesh.Meta{Name: "routes/" + id}, Targets: []string{mesh.TargetGateway}, Gateways: gateways, Hostnames: []string{host},
			Rules: []mesh.RouteRule{{Backends: []mesh.Backend{{Service: "orders"}}}}}
		mesh.Normalize(r)
		c.Routes[id] = r
	}
	route("demo", "demo.localhost", "demo")
	route("other", "other.localhost", "other")
	s.snap = &mesh.Snapshot{Config: c, Instances: map[string][]*mesh.Instance{"orders": {{
		Meta: mesh.Meta{Name: "instances/n1-1"}, Service: "orders", Node: "n1", Address: addr, Health: mesh.Healthy,
	}}}}
	return s
}

func (s *site) source(path string) *identity.Source {
	s.t.Helper()
	id, err := mesh.ParseID("spiffe://" + domain + path)
	if err != nil {
		s.t.Fatal(err)
	}
	key, req, err := identity.NewRequest(id)
	if err != nil {
		s.t.Fatal(err)
	}
	issued, err := s.ca.Issue(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	src := identity.NewSource(id, s.ids)
	if err := src.Swap(key, issued); err != nil {
		s.t.Fatal(err)
	}
	return src
}

// inbound stands beside the workload as a sidecar does.
func (s *site) inbound(workload string) string {
	s.t.Helper()
	e, err := proxy.New(proxy.Options{Mesh: "default", TrustDomain: domain, Limits: proxy.MeshLimits(), Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		s.t.Fatal(err)
	}
	c := mesh.NewConfig()
	c.Defaults.Authorization = mesh.Allow
	e.Update(&mesh.Snapshot{Config: c})
	h, config, err := e.Inbound(proxy.Workload{Service: "orders", Node: "n1", Address: workload, Source: s.source("/svc/orders/n/n1")})
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := proxy.ListenAll("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	run(s.t, func(ctx context.Context) error {
		return e.Run(ctx, proxy.Plan{Stages: [][]proxy.Site{{{Listener: l[0], Door: h, TLS: config}}}, Admin: proxy.Site{Listener: l[1], Handler: http.NotFoundHandler()}, Drain: time.Second})
	})
	return l[0].Addr().String()
}

// run runs f until the test ends or the returned function is called.
func run(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func (s *site) gateway(listeners ...gateway.Listener) (*gateway.Gateway, *prometheus.Registry) {
	s.t.Helper()
	reg := prometheus.NewRegistry()
	g, err := gateway.New(gateway.Config{ID: "demo", Listeners: listeners, Admin: "127.0.0.1:0", Drain: 5 * time.Second}, gateway.Options{
		Mesh: "default", TrustDomain: domain, Source: s.source("/gateway/demo"), Log: zerolog.Nop(), Registerer: reg, Gatherer: reg,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return g, reg
}

// writeCert writes a new self-signed certificate for 127.0.0.1 and returns the
// pool that trusts it.
func writeCert(t *testing.T, dir, name string) (gateway.Listener, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l := gateway.Listener{Address: "127.0.0.1:0", CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
	for file, block := range map[string]*pem.Block{l.CertFile: {Type: "CERTIFICATE", Bytes: der}, l.KeyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return l, pool
}

// get asks url for host over tr.
func get(t *testing.T, tr *http.Transport, url, host string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestListeners(t *testing.T) {
	s := newSite(t)
	secure, pool := writeCert(t, t.TempDir(), "a")
	g, _ := s.gateway(gateway.Listener{Address: "127.0.0.1:0"}, secure)
	run(t, g.Run)
	plain, tlsAddr := "http://"+g.Addrs()[0].String(), "https://"+g.Addrs()[1].String()
	h1 := &http.Transport{}
	h2 := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	h1tls := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, NextProtos: []string{"http/1.1"}}}
	t.Cleanup(func() {
		for _, tr := range []*http.Transport{h1, h2, h2c, h1tls} {
			tr.CloseIdleConnections()
		}
	})
	if resp, body := get(t, h1, plain+"/x", "demo.localhost"); resp.StatusCode != 503 || !strings.Contains(body, "not_ready") || g.Ready() {
		t.Errorf("before a configuration: %d %s", resp.StatusCode, body)
	}
	g.Update(s.snap)
	if !g.Ready() {
		t.Error("not ready")
	}
	for _, tt := range []struct {
		name   string
		tr     *http.Transport
		url    string
		proto  string
		scheme string
	}{
		{"HTTP/1.1 in clear text", h1, plain, "HTTP/1.1", "http"},
		{"HTTP/2 in clear text, by prior knowledge", h2c, plain, "HTTP/2.0", "http"},
		{"HTTP/2 over TLS", h2, tlsAddr, "HTTP/2.0", "https"},
		{"HTTP/1.1 over TLS", h1tls, tlsAddr, "HTTP/1.1", "https"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, body := get(t, tt.tr, tt.url+"/orders/7", "demo.localhost")
			if resp.StatusCode != 200 || resp.Proto != tt.proto || body != "HTTP/1.1 "+tt.scheme+" /orders/7" {
				t.Errorf("got %d over %s: %s", resp.StatusCode, resp.Proto, body)
			}
			if resp, body := get(t, tt.tr, tt.url+"/", "other.localhost"); resp.StatusCode != 404 || !strings.Contains(body, "no_route") {
				t.Errorf("a route of another gateway: %d %s", resp.StatusCode, body)
			}
			if resp, body := get(t, tt.tr, tt.url+"/", "orders.mesh"); resp.StatusCode != 404 {
				t.Errorf("a service without a route: %d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestAdmin(t *testing.T) {
	s := newSite(t)
	g, _ := s.gateway(gateway.Listener{Address: "127.0.0.1:0"})
	run(t, g.Run)
	g.Update(s.snap)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	base := "http://" + g.AdminAddr().String()
	for path, want := range map[string]string{"/ready": `"ready":true`, "/endpoints": "instances/n1-1", "/certs": "spiffe://hedgerow.test/gateway/demo", "/metrics": "hedgerow_requests_in_flight"} {
		if path == "/metrics" {
			get(t, tr, "http://"+g.Addrs()[0].String()+"/x", "demo.localhost")
		}
		if resp, body := get(t, tr, base+path, ""); resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200s", path, resp.StatusCode, body)
		}
	}
}

func TestConfigIsRefused(t *testing.T) {
	s := newSite(t)
	src := s.source("/gateway/demo")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name string
		cfg  gateway.Config
		want string
		kind mesh.Kind
	}{
		{"no id", gateway.Config{Admin: "127.0.0.1:0", Listeners: []gateway.Listener{{Address: "127.0.0.1:0"}}}, "id:", mesh.Invalid},
		{"no listener", gateway.Config{ID: "demo", Admin: "127.0.0.1:0"}, "listeners:", mesh.Invalid},
		{"half a certificate", gateway.Config{ID: "demo", Admin: "127.0.0.1:0", Listeners: []gateway.Listener{{Address: "127.0.0.1:0", CertFile: "x"}}}, "go together", mesh.Invalid},
		{"no such certificate", gateway.Config{ID: "demo", Admin: "127.0.0.1:0", Listeners: []gateway.Listener{{Address: "127.0.0.1:0", CertFile: "/none", KeyFile: "/none"}}}, "certificate of the listener", mesh.Invalid},
		{"an address that is taken", gateway.Config{ID: "demo", Admin: "127.0.0.1:0", Listeners: []gateway.Listener{{Address: taken.Addr().String()}}}, "address already in use", mesh.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			_, err := gateway.New(tt.cfg, gateway.Options{Mesh: "default", TrustDomain: domain, Source: src, Log: zerolog.Nop(), Registerer: reg, Gatherer: reg})
			if err == nil || !strings.Contains(err.Error(), tt.want) || mesh.KindOf(err) != tt.kind {
				t.Errorf("got %v", err)
			}
		})
	}
	g, _ := s.gateway(gateway.Listener{Address: "127.0.0.1:0"})
	if err := g.Close(); err != nil {
		t.Errorf("Close without Run: %v", err)
	}
}
