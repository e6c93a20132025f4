package proxy_test

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// outbound starts the outbound of the service web and returns a client of it.
func (w *world) outbound() *entry {
	w.t.Helper()
	e, reg := w.engine(proxy.MeshLimits())
	src := w.source("/svc/web/n/n9")
	n := w.run(e, reg, e.Outbound(func() (*identity.Source, *proxy.Refusal) { return src, nil }), nil, time.Second)
	transport := &http.Transport{DisableCompression: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &entry{n, "http://" + n.addr, &http.Client{Transport: transport}}
}

func TestDeadlinesShrink(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sent  string
		route float64 // seconds; 0 is none
		want  int     // milliseconds, at most; 0 is none
	}{
		{"the route's", "", 10, 10_000},
		{"the caller's", "3000", 10, 3000},
		{"the route's, if the caller has more", "60000", 10, 10_000},
		{"the caller's alone", "3000", 0, 3000},
		{"none", "", 0, 0},
		{"none, if nobody can read it", "soon", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var last atomic.Pointer[seen]
			w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
			w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/orders"}, Targets: []string{mesh.TargetMesh}, Hostnames: []string{"orders.mesh"}, Rules: []mesh.RouteRule{{
				Backends: []mesh.Backend{{Service: "orders"}}, Timeout: mesh.Seconds(tt.route),
			}}})
			en := w.outbound()
			w.publish()
			r := en.request(t, http.MethodGet, "/", nil)
			r.Host = "orders.mesh"
			if tt.sent != "" {
				r.Header.Set("Hedgerow-Deadline", tt.sent)
			}
			if a := en.do(t, r); a.StatusCode != 200 {
				t.Fatalf("got %d %s", a.StatusCode, a.body)
			}
			got := last.Load().header.Get("Hedgerow-Deadline")
			n, _ := strconv.Atoi(got)
			if tt.want == 0 && got != "" || tt.want > 0 && (n > tt.want || n < tt.want-2000) {
				t.Errorf("the workload was told %q, want about %d", got, tt.want)
			}
		})
	}
}

func TestDeadWorkIsNotStarted(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	en := w.outbound()
	w.publish()
	r := en.request(t, http.MethodGet, "/", nil)
	r.Host = "orders.mesh"
	r.Header.Set("Hedgerow-Deadline", "0")
	wantProblem(t, en.do(t, r), 504, proxy.CodeTimeout)
	if last.Load() != nil {
		t.Error("the workload saw it")
	}
}

// The callee's sidecar gives up when the caller does.
func TestDeadlineHoldsAtTheCallee(t *testing.T) {
	w := newWorld(t)
	ended := make(chan time.Duration, 1)
	callee := w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
		start := time.Now()
		<-r.Context().Done()
		ended <- time.Since(start)
	}), nil)
	en := w.outbound()
	w.publish()
	r := en.request(t, http.MethodGet, "/", nil)
	r.Host = "orders.mesh"
	r.Header.Set("Hedgerow-Deadline", "300")
	wantProblem(t, en.do(t, r), 504, proxy.CodeTimeout)
	select {
	case took := <-ended:
		if took > 2*time.Second {
			t.Errorf("the workload was given up after %v", took)
		}
	case <-time.After(5 * time.Second):
		t.Error("the workload was not given up")
	}
	eventually(t, "nothing is under way", func() bool { return counted(t, callee.registry, "hedgerow_requests_in_flight", nil) == 0 })
}

// Nobody has an instance taken out by giving it no time.
func TestCallersInAHurryEjectNobody(t *testing.T) {
	for name, tt := range map[string]struct {
		deadline string
		timeout  float64
		ejected  float64
	}{
		"the caller's time":       {"40", 10, 0},
		"the caller's time alone": {"40", 0, 0},
		"the route's time":        {"60000", 0.04, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			hangs := w.workload(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			w.sidecar("orders", "n1", hangs, nil)
			w.sidecar("orders", "n2", hangs, nil)
			w.put(&mesh.Route{Meta: mesh.Meta{Name: "routes/orders"}, Targets: []string{mesh.TargetMesh}, Hostnames: []string{"orders.mesh"}, Rules: []mesh.RouteRule{{
				Backends: []mesh.Backend{{Service: "orders"}}, Timeout: mesh.Seconds(tt.timeout),
			}}})
			en := w.outbound()
			w.publish()
			for range 20 {
				r := en.request(t, http.MethodGet, "/", nil)
				r.Host = "orders.mesh"
				r.Header.Set("Hedgerow-Deadline", tt.deadline)
				wantProblem(t, en.do(t, r), 504, proxy.CodeTimeout)
			}
			if n := counted(t, en.registry, "hedgerow_ejections_total", map[string]string{"service": "orders"}); n != tt.ejected {
				t.Errorf("%v were ejected, want %v", n, tt.ejected)
			}
		})
	}
}

// Strangers have no say in it.
func TestDeadlineOfAStrangerIsNotHeard(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	r := en.request(t, http.MethodGet, "/", nil)
	r.Header.Set("Hedgerow-Deadline", "0")
	if a := en.do(t, r); a.StatusCode != 200 {
		t.Errorf("got %d", a.StatusCode)
	}
}
