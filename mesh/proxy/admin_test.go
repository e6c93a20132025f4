package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

func TestAdmin(t *testing.T) {
	w := newWorld(t)
	e, reg := w.engine(proxy.MeshLimits())
	defer e.Close()
	src := w.source("/svc/orders/n/n1")
	none := identity.NewSource(w.source("/svc/carts/n/n1").ID(), w.metrics)
	stale := false
	admin := e.Admin(proxy.AdminOptions{Gatherer: reg, Sources: []*identity.Source{src}, Freshness: func() (time.Duration, bool) { return 12345 * time.Millisecond, stale }})
	get := func(h http.Handler, path, host, remote string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Host, r.RemoteAddr = host, remote
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec
	}
	const local, far = "127.0.0.1:1", "192.0.2.1:1"
	ready := func(h http.Handler) (int, map[string]any) {
		rec := get(h, "/ready", "127.0.0.1:15000", local)
		var v map[string]any
		if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		return rec.Code, v
	}
	if code, v := ready(admin); code != 503 || v["ready"] != false || v["checks"] == nil {
		t.Errorf("without a configuration: %d %v", code, v)
	}
	w.register("orders", "n1", "127.0.0.1:9", nil)
	w.config.Head.Revision = 87
	e.Update(&mesh.Snapshot{Config: w.config, Instances: w.instances})
	if code, v := ready(admin); code != 200 || v["ready"] != true || v["revision"] != 87.0 || v["stale"] != nil {
		t.Errorf("with all: %d %v", code, v)
	}
	stale = true
	if code, v := ready(admin); code != 200 || v["stale"] != true || v["configAge"] != "12s" {
		t.Errorf("stale: %d %v", code, v)
	}
	without := e.Admin(proxy.AdminOptions{Gatherer: reg, Sources: []*identity.Source{src, none}})
	if code, v := ready(without); code != 503 || v["checks"] == nil {
		t.Errorf("without a certificate: %d %v", code, v)
	}
	for _, tt := range []struct{ path, host, remote, want string }{
		{"/config", "localhost:15000", local, `"revision":87`},
		{"/endpoints", "[::1]:15000", local, `"instance":"instances/n1-0"`},
		{"/certs", "127.0.0.1", far, `"identity":"spiffe://hedgerow.test/svc/orders/n/n1","serial"`},
		{"/metrics", "127.0.0.1", local, "hedgerow_config_revision 87"},
		{"/debug/pprof/", "127.0.0.1", local, "goroutine"},
		{"/debug/pprof/", "127.0.0.1", far, "only from this host"},
		{"/config", "evil.example", local, "ask by address"},
	} {
		if got := get(admin, tt.path, tt.host, tt.remote).Body.String(); !strings.Contains(got, tt.want) {
			t.Errorf("%s at %s from %s: %.300s", tt.path, tt.host, tt.remote, got)
		}
	}
}

func TestUpdateCompilesOnlyAnotherConfig(t *testing.T) {
	w := newWorld(t)
	var compiled atomic.Int32
	e, reg := w.engine(proxy.MeshLimits(), func(o *proxy.Options) {
		o.Compiled = func(mesh.Head, []error) { compiled.Add(1) }
	})
	defer e.Close()
	w.register("orders", "n1", "127.0.0.1:9", nil)
	e.Update(&mesh.Snapshot{Config: w.config})
	e.Update(&mesh.Snapshot{Config: w.config, Instances: w.instances})
	if n := compiled.Load(); n != 1 {
		t.Errorf("compiled %d times for one configuration", n)
	}
	next := *w.config
	next.Routes = map[string]*mesh.Route{"bad": {Meta: mesh.Meta{Name: "routes/bad"}}}
	e.Update(&mesh.Snapshot{Config: &next, Instances: w.instances})
	if n := compiled.Load(); n != 2 {
		t.Errorf("compiled %d times for two configurations", n)
	}
	if n := counted(t, reg, "hedgerow_config_errors", nil); n != 1 {
		t.Errorf("hedgerow_config_errors is %v", n)
	}
	if !strings.Contains(w.logs.String(), "routes/bad") {
		t.Error("the bad route is not in the log")
	}
}

func TestSeriesOfARemovedServiceGo(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	en.get(t, "/")
	next := mesh.NewConfig()
	en.engine.Update(&mesh.Snapshot{Config: next})
	if n := counted(t, en.registry, "hedgerow_requests_total", map[string]string{"service": "orders"}); n != 0 {
		t.Errorf("%v requests of a service that is gone", n)
	}
	wantProblem(t, en.get(t, "/"), 404, "no_route")
}
