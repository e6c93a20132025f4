package sidecar_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity/localca"
	"github.com/hedgerow-mesh/hedgerow/sidecar"
)

const domain = "hedgerow.test"

// fleet is sidecars that share a CA and a configuration.
type fleet struct {
	t       *testing.T
	ca      *localca.CA
	metrics *identity.Metrics
	config  *mesh.Config
	running []*running
}

// running is one sidecar.
type running struct {
	*sidecar.Sidecar
	changed chan []*mesh.Instance
	stop    func()
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	ca, err := localca.Open(filepath.Join(t.TempDir(), "ca"), localca.Config{TrustDomain: domain})
	if err != nil {
		t.Fatal(err)
	}
	m, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, ca: ca, metrics: m, config: mesh.NewConfig()}
	f.config.Defaults.DialCidrs = []string{"127.0.0.0/8"}
	return f
}

func (f *fleet) source(service, node string) *identity.Source {
	f.t.Helper()
	id, err := mesh.ServiceID(domain, service, node)
	if err != nil {
		f.t.Fatal(err)
	}
	key, req, err := identity.NewRequest(id)
	if err != nil {
		f.t.Fatal(err)
	}
	issued, err := f.ca.Issue(f.t.Context(), req)
	if err != nil {
		f.t.Fatal(err)
	}
	src := identity.NewSource(id, f.metrics)
	if err := src.Swap(key, issued); err != nil {
		f.t.Fatal(err)
	}
	return src
}

// start runs a sidecar of node beside services, with every port free.
func (f *fleet) start(node string, services ...sidecar.Service) *running {
	f.t.Helper()
	reg := prometheus.NewRegistry()
	r := &running{changed: make(chan []*mesh.Instance, 16)}
	opt := sidecar.Options{
		Mesh: "default", TrustDomain: domain, Sources: map[string]*identity.Source{},
		Log: zerolog.Nop(), Registerer: reg, Gatherer: reg,
		Changed: func(i []*mesh.Instance) { r.changed <- i },
	}
	for _, s := range services {
		opt.Sources[s.Service] = f.source(s.Service, node)
		f.config.Services[s.Service] = &mesh.Service{Meta: mesh.Meta{Name: "services/" + s.Service}, Protocol: mesh.ProtocolHTTP}
	}
	s, err := sidecar.New(sidecar.Config{
		Node: node, Inbound: sidecar.Inbound{Address: "127.0.0.1:0"}, Outbound: "127.0.0.1:0", Admin: "127.0.0.1:0",
		Services: services, Drain: 5 * time.Second,
	}, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Sidecar = s
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				f.t.Errorf("Run: %v", err)
			}
		})
	}
	f.t.Cleanup(r.stop)
	f.running = append(f.running, r)
	return r
}

// publish gives every sidecar the configuration, changed by change, and the
// instances of all of them.
func (f *fleet) publish(change func(*mesh.Config)) {
	next := *f.config
	next.Head.Revision++
	next.Policies = map[string]*mesh.Policy{}
	if change != nil {
		change(&next)
	}
	f.config = &next
	instances := map[string][]*mesh.Instance{}
	for _, r := range f.running {
		for _, i := range r.Instances() {
			instances[i.Service] = append(instances[i.Service], i)
		}
	}
	for _, r := range f.running {
		r.Update(&mesh.Snapshot{Config: f.config, Instances: instances})
	}
}

// workload answers with its name and what it got.
func (f *fleet) workload(name string) string {
	f.t.Helper()
	up := websocket.Upgrader{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			conn, err := up.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			if kind, msg, err := conn.ReadMessage(); err == nil {
				_ = conn.WriteMessage(kind, append([]byte(name+" "), msg...))
			}
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"name": name, "host": r.Host, "path": r.URL.Path, "xfcc": r.Header.Get("X-Forwarded-Client-Cert")})
	}))
	f.t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// call asks the outbound at addr for host and path.
func call(t *testing.T, addr net.Addr, host, path string) (status int, body map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func allow(id, service string, from ...string) func(*mesh.Config) {
	return func(c *mesh.Config) {
		c.Policies[id] = &mesh.Policy{Meta: mesh.Meta{Name: "policies/" + id}, Target: &mesh.PolicyTarget{Service: service}, Action: mesh.Allow,
			Rules: []mesh.PolicyRule{{From: []mesh.PolicyFrom{{Identities: from}}}}}
	}
}

func TestChainOfTwoSidecars(t *testing.T) {
	f := newFleet(t)
	orders := f.start("n1", sidecar.Service{Service: "orders", Address: f.workload("orders"), Labels: map[string]string{"version": "v1"}})
	telemetry := f.start("n2", sidecar.Service{Service: "telemetry", Address: f.workload("telemetry")})
	out := telemetry.OutboundAddrs()[0]

	if status, body := call(t, out, "orders.mesh", "/orders/7"); status != 503 || body["code"] != "not_ready" {
		t.Errorf("before a configuration: %d %v", status, body)
	}
	f.publish(nil)
	if status, body := call(t, out, "orders.mesh", "/orders/7"); status != 403 || body["code"] != "denied" {
		t.Errorf("without a policy: %d %v", status, body)
	}
	f.publish(allow("p", "orders", "/svc/telemetry"))
	status, body := call(t, out, "orders.mesh", "/orders/7")
	if status != 200 || body["name"] != "orders" || body["host"] != "orders.mesh" || body["path"] != "/orders/7" {
		t.Errorf("with a policy: %d %v", status, body)
	}
	xfcc, _ := body["xfcc"].(string)
	if !strings.HasPrefix(xfcc, "By=spiffe://hedgerow.test/svc/orders/n/n1;Hash=") || !strings.HasSuffix(xfcc, ";URI=spiffe://hedgerow.test/svc/telemetry/n/n2") {
		t.Errorf("the workload sees the caller as %q", xfcc)
	}
	f.publish(allow("p", "orders", "/svc/somebody-else"))
	if status, _ := call(t, out, "orders.mesh", "/orders/7"); status != 403 {
		t.Errorf("with a policy for another: %d", status)
	}
	instance := orders.Instances()[0]
	if instance.Name != "instances/n1-1" || instance.Address != orders.InboundAddr().String() || instance.Labels["version"] != "v1" || instance.Node != "n1" || instance.Weight != 1 {
		t.Errorf("the instance to register is %+v", instance)
	}
}

func TestOutbound(t *testing.T) {
	f := newFleet(t)
	f.start("n1", sidecar.Service{Service: "orders", Address: f.workload("orders")})
	web := f.start("n2", sidecar.Service{Service: "web", Address: f.workload("web")})
	f.publish(allow("p", "orders", "/svc/web"))
	out := web.OutboundAddrs()[0]
	t.Run("a host that is no service", func(t *testing.T) {
		for _, host := range []string{"example.com", "nothing.mesh", "orders"} {
			if status, body := call(t, out, host, "/"); status != 404 || body["code"] != "no_route" {
				t.Errorf("%s: %d %v", host, status, body)
			}
		}
	})
	t.Run("every spelling of a host", func(t *testing.T) {
		for _, host := range []string{"orders.mesh", "Orders.Mesh.", "orders.mesh:80"} {
			if status, body := call(t, out, host, "/"); status != 200 {
				t.Errorf("%s: %d %v", host, status, body)
			}
		}
	})
	t.Run("as a proxy", func(t *testing.T) {
		tr := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: out.String()})}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get("http://orders.mesh/orders/7")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), `"host":"orders.mesh"`) {
			t.Errorf("got %d %s, %v", resp.StatusCode, body, err)
		}
	})
	t.Run("CONNECT", func(t *testing.T) {
		conn, err := net.Dial("tcp", out.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "CONNECT orders.mesh:80 HTTP/1.1\r\nHost: orders.mesh:80\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 405 {
			t.Errorf("got %d", resp.StatusCode)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+out.String()+"/chat", http.Header{"Host": {"orders.mesh"}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, msg, err := conn.ReadMessage(); err != nil || string(msg) != "orders hello" {
			t.Errorf("got %q, %v", msg, err)
		}
	})
}

func TestSeveralServicesOnANode(t *testing.T) {
	f := newFleet(t)
	f.start("n1", sidecar.Service{Service: "orders", Address: f.workload("orders")})
	two := f.start("n2",
		sidecar.Service{Service: "web", Address: f.workload("web"), Outbound: "127.0.0.1:0"},
		sidecar.Service{Service: "carts", Address: f.workload("carts"), Outbound: "127.0.0.1:0"})
	f.publish(allow("p", "orders", "/svc/web"))
	out := two.OutboundAddrs()
	if status, body := call(t, out[0], "orders.mesh", "/"); status != 403 || body["code"] != "ambiguous_caller" {
		t.Errorf("at the shared listener: %d %v", status, body)
	}
	if status, _ := call(t, out[1], "orders.mesh", "/"); status != 200 {
		t.Errorf("as web: %d", status)
	}
	if status, body := call(t, out[2], "orders.mesh", "/"); status != 403 || body["code"] != "denied" {
		t.Errorf("as carts: %d %v", status, body)
	}
	f.publish(func(c *mesh.Config) {
		allow("web", "web", "/svc/orders")(c)
		allow("carts", "carts", "/svc/orders")(c)
	})
	for _, service := range []string{"web", "carts"} { // SNI, not Host, chooses the workload
		if status, body := call(t, f.running[0].OutboundAddrs()[0], service+".mesh", "/"); status != 200 || body["name"] != service {
			t.Errorf("%s: %d %v", service, status, body)
		}
	}
}

func TestHealthIsReported(t *testing.T) {
	f := newFleet(t)
	r := f.start("n1", sidecar.Service{Service: "orders", Address: f.workload("orders")})
	select {
	case instances := <-r.changed:
		if len(instances) != 1 || instances[0].Health != mesh.Healthy {
			t.Errorf("got %+v", instances)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("nothing is reported after the first check")
	}
}

func TestAdminPort(t *testing.T) {
	f := newFleet(t)
	r := f.start("n1", sidecar.Service{Service: "orders", Address: f.workload("orders")})
	if r.Ready() {
		t.Error("ready without a configuration")
	}
	f.publish(nil)
	if !r.Ready() {
		t.Error("not ready")
	}
	if status, body := call(t, r.AdminAddr(), "127.0.0.1", "/ready"); status != 200 || body["ready"] != true {
		t.Errorf("got %d %v", status, body)
	}
}

func TestConfigIsRefused(t *testing.T) {
	good := func() sidecar.Config {
		return sidecar.Config{Node: "n1", Inbound: sidecar.Inbound{Address: "127.0.0.1:0"}, Outbound: "127.0.0.1:0", Admin: "127.0.0.1:0",
			Services: []sidecar.Service{{Service: "orders", Address: "127.0.0.1:9001"}}}
	}
	f := newFleet(t)
	for _, tt := range []struct {
		name   string
		change func(*sidecar.Config)
		want   string
	}{
		{"no node", func(c *sidecar.Config) { c.Node = "" }, "node:"},
		{"no service", func(c *sidecar.Config) { c.Services = nil }, "services: at least one"},
		{"a service twice", func(c *sidecar.Config) { c.Services = append(c.Services, c.Services[0]) }, "services[1].service: \"orders\" is there twice"},
		{"a workload by name", func(c *sidecar.Config) { c.Services[0].Address = "localhost:9001" }, "services[0].address"},
		{"advertise without an address", func(c *sidecar.Config) { c.Inbound.Advertise = "0.0.0.0:15006" }, "inbound.advertise"},
		{"nothing to advertise", func(c *sidecar.Config) { c.Inbound.Address = "0.0.0.0:0" }, "no address that peers could dial"},
		{"an upstream that is no id", func(c *sidecar.Config) { c.Upstreams = []string{"A B"} }, "upstreams[0]"},
		{"a service without identity", func(c *sidecar.Config) { c.Services[0].Service = "carts" }, "has no identity"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := good()
			tt.change(&cfg)
			reg := prometheus.NewRegistry()
			_, err := sidecar.New(cfg, sidecar.Options{Mesh: "default", TrustDomain: domain, Log: zerolog.Nop(), Registerer: reg, Gatherer: reg,
				Sources: map[string]*identity.Source{"orders": f.source("orders", "n1")}})
			if err == nil || !strings.Contains(err.Error(), tt.want) || mesh.KindOf(err) != mesh.Invalid {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("what was bound is released", func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s, err := sidecar.New(good(), sidecar.Options{Mesh: "default", TrustDomain: domain, Log: zerolog.Nop(), Registerer: reg, Gatherer: reg,
			Sources: map[string]*identity.Source{"orders": f.source("orders", "n1")}})
		if err != nil {
			t.Fatal(err)
		}
		addr := s.InboundAddr().String()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	})
}
