package proxy_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	rec := w.recorder("")
	w.register("orders", "n1", deadAddr(t), nil)
	w.register("far", "n2", "192.0.2.1:15006", nil)
	w.register("named", "n3", "localhost:15006", nil)
	w.sidecar("real", "n4", rec.addr, nil)
	w.register("forged", "n5", w.instances["real"][0].Address, nil)
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/empty"}, Protocol: mesh.ProtocolHTTP})
	rules := []mesh.RouteRule{}
	for _, s := range []string{"orders", "far", "named", "forged", "empty"} {
		rules = append(rules, mesh.RouteRule{Matches: []mesh.RouteMatch{{Path: &mesh.PathMatch{Prefix: "/" + s}}}, Backends: []mesh.Backend{{Service: s}}})
	}
	w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/shop"}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"shop.test"}, Rules: rules})
	en := w.gateway(overH1)

	wantProblem(t, en.get(t, "/orders"), 503, "not_ready")
	w.publish()
	for _, tt := range []struct {
		name, path string
		status     int
		code       string
	}{
		{"no route", "/nothing", 404, "no_route"},
		{"a service without instances", "/empty", 503, "no_healthy_endpoint"},
		{"an instance that is down", "/orders", 503, "endpoint_unreachable"},
		{"an address outside dialCidrs", "/far", 503, "endpoint_address"},
		{"a name where an address belongs", "/named", 503, "endpoint_address"},
		{"an instance of somebody else", "/forged", 503, "endpoint_unreachable"},
		{"a path of two readings", "/orders/%2fadmin", 400, "bad_request"},
		{"a path that is too long", "/" + strings.Repeat("a", 8<<10), 414, "too_large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			wantProblem(t, en.get(t, tt.path), tt.status, tt.code)
			if took := time.Since(start); took > 900*time.Millisecond {
				t.Errorf("the answer took %v", took)
			}
		})
	}
	t.Run("too many header fields", func(t *testing.T) {
		r := en.request(t, http.MethodGet, "/orders", nil)
		for i := range 120 {
			r.Header.Set(fmt.Sprintf("X-%d", i), "1")
		}
		wantProblem(t, en.do(t, r), 431, "too_large")
	})
	t.Run("an unknown host", func(t *testing.T) {
		r := en.request(t, http.MethodGet, "/orders", nil)
		r.Host = "other.test"
		wantProblem(t, en.do(t, r), 404, "no_route")
	})
	if got := rec.bytes.String(); got != "" {
		t.Errorf("a workload got %q", got)
	}
}

func TestAnEndpointMustProveItsIdentity(t *testing.T) {
	w := newWorld(t)
	rec := w.recorder("")
	l, err := tls.Listen("tcp", "127.0.0.1:0", identity.ServerConfig(func(string) (*identity.Source, error) { return w.source("/svc/evil/n/n1"), nil }))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { _, _ = rec.bytes.Write([]byte("request")) })}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	w.register("orders", "n1", l.Addr().String(), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	wantProblem(t, en.get(t, "/"), 503, "endpoint_identity")
	if rec.bytes.String() != "" {
		t.Error("the impostor got the request")
	}
}

func TestWorkloadThatIsDown(t *testing.T) {
	w := newWorld(t)
	in := w.sidecar("orders", "n1", deadAddr(t), nil)
	reset := w.recorder("")
	w.sidecar("carts", "n2", reset.addr, nil)
	e, reg := w.engine(proxy.MeshLimits())
	w.runSite(e, reg, proxy.Site{Handler: http.NotFoundHandler()}, time.Second)
	rt := &http.Client{Transport: e.RoundTripper(w.source("/svc/web/n/n9"))}
	w.publish()
	wantProblem(t, getFrom(t, rt, "http://orders.mesh/"), 503, "workload_unreachable")
	wantProblem(t, getFrom(t, rt, "http://carts.mesh/"), 502, "workload_reset")
	if n := counted(t, in.registry, "hedgerow_upstream_failures_total", map[string]string{"kind": "connect"}); n != 1 {
		t.Errorf("hedgerow_upstream_failures_total is %v, want 1", n)
	}
}

func TestWhatTheEdgeLetsInPassesTheMesh(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		path := "/" + strings.Repeat("\xc3\xa9", 3<<10) // escaped, it grows to three times as much
		r := en.request(t, http.MethodGet, "/", nil)
		r.URL.Opaque = path
		for i := range 90 {
			r.Header.Set(fmt.Sprintf("X-%d", i), strings.Repeat("v", 230))
		}
		if a := en.do(t, r); a.StatusCode != 200 || len(last.Load().uri) != 1+6*(3<<10) {
			t.Errorf("got %d %.200s", a.StatusCode, a.body)
		}
	})
}

func TestExpectContinue(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		accept := echo(&last)
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/refuse" {
				rw.WriteHeader(http.StatusForbidden)
				return
			}
			accept(rw, r)
		}), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		en.client.Transport.(*http.Transport).ExpectContinueTimeout = 5 * time.Second
		w.publish()
		for path, want := range map[string]int{"/accept": 200, "/refuse": 403} {
			r := en.request(t, http.MethodPost, path, strings.NewReader("body"))
			r.Header.Set("Expect", "100-continue")
			begin := time.Now()
			if a := en.do(t, r); a.StatusCode != want {
				t.Errorf("%s: got %d %s", path, a.StatusCode, a.body)
			}
			if took := time.Since(begin); took > 900*time.Millisecond {
				t.Errorf("%s took %v: nobody said 100", path, took)
			}
		}
		if got := last.Load(); got == nil || got.body != "body" {
			t.Errorf("the workload got %+v", got)
		}
	})
}
