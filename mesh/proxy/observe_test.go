package proxy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// decisions asks the admin handler of an entry.
func decisions(t *testing.T, en *entry, path string, out any) int {
	t.Helper()
	h := en.engine.Admin(proxy.AdminOptions{Gatherer: en.registry})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), out); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return w.Code
}

func TestDenialsLeaveARecord(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", func(r *mesh.RouteRule) { r.Name = "all" })
		w.put(&mesh.Policy{
			Meta: mesh.Meta{Name: "policies/read"}, Target: &mesh.PolicyTarget{Route: "shop"}, Action: mesh.Allow,
			Rules: []mesh.PolicyRule{{To: []mesh.PolicyTo{{Methods: []string{"GET"}, Paths: []string{"/x"}}}}},
		})
		en := w.gateway(m, func(o *proxy.Options) { o.Name = "gateway/edge" })
		w.publish()
		a := en.do(t, en.request(t, http.MethodPost, "/x", nil))
		wantProblem(t, a, 403, proxy.CodeDenied)
		id := a.Header.Get("Hedgerow-Decision")
		var rec proxy.Record
		if status := decisions(t, en, "/decisions/"+id, &rec); status != 200 {
			t.Fatalf("no record %s: %d", id, status)
		}
		auth := rec.Authorization
		if rec.At != "gateway/edge/gateway" || rec.Status != 403 || rec.Code != "denied" || rec.Method != "POST" || rec.Path != "/x" || rec.Route.Rule != "all" ||
			auth == nil || auth.Reason != "NO_ALLOW_MATCHED" || len(auth.NearMisses) != 1 || auth.NearMisses[0] != (proxy.RecordNearMiss{Policy: "policies/read", Failed: "to.methods"}) {
			t.Errorf("the record is %+v with %+v", rec, auth)
		}
		var list struct{ Decisions []proxy.Record }
		if decisions(t, en, "/decisions?code=denied", &list); len(list.Decisions) != 1 {
			t.Errorf("%d records of denials", len(list.Decisions))
		}
		if decisions(t, en, "/decisions?status=200", &list); len(list.Decisions) != 0 {
			t.Errorf("%d records of what was forwarded, which nobody asked for", len(list.Decisions))
		}
		if status := decisions(t, en, "/decisions/none", &rec); status != 404 {
			t.Errorf("a record that is not there is answered %d", status)
		}
	})
}

func TestForwardedRequestsLeaveASample(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), mesh.Labels{"version": "v1"})
	w.sidecar("orders", "n2", w.workload(echo(&last)), mesh.Labels{"version": "v2"})
	w.config.Services["orders"].Subsets = []mesh.Subset{{Name: "v1", Labels: mesh.Labels{"version": "v1"}}}
	w.route("orders", func(r *mesh.RouteRule) { r.Backends[0].Subset = "v1" })
	en := w.gateway(overH1, func(o *proxy.Options) { o.Observe = proxy.Observe{Records: 1, Access: 1} })
	w.publish()
	if a := en.get(t, "/x"); a.StatusCode != 200 {
		t.Fatalf("got %d", a.StatusCode)
	}
	var list struct{ Decisions []proxy.Record }
	eventually(t, "the record is there", func() bool {
		decisions(t, en, "/decisions?service=orders", &list)
		return len(list.Decisions) == 1
	})
	rec := list.Decisions[0]
	if rec.Status != 200 || rec.Backend.Subset != "v1" || len(rec.Tries) != 1 || len(rec.Endpoints) != 2 || !rec.Endpoints[0].Eligible || rec.Endpoints[1].Reason != "SUBSET" {
		t.Errorf("the record is %+v", rec)
	}
	if logged := w.logs.String(); !strings.Contains(logged, `"path":"/x"`) || !strings.Contains(logged, `"instance":"instances/n1-0"`) {
		t.Errorf("the log has no such request: %s", logged)
	}
}

// spans collects what is exported.
type spans struct {
	mu   sync.Mutex
	list []*proxy.Span
}

func (s *spans) export(span *proxy.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, span)
}

func (s *spans) all() []*proxy.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*proxy.Span(nil), s.list...)
}

func TestTraces(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, tt := range []struct {
		name, sent string
		sample     float64
		exported   bool
		continued  bool
	}{
		{"one that a caller samples", parent, 0, true, true},
		{"one that a caller does not", strings.TrimSuffix(parent, "1") + "0", 1, false, true},
		{"one that begins here", "", 1, true, false},
		{"one that begins here and is not sampled", "", 0, false, false},
		{"one whose parent is malformed", "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 1, true, false},
		{"one of no trace", "00-00000000000000000000000000000000-b7ad6b7169203331-01", 0, false, false},
		{"one of a later version", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", 0, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modes(t, func(t *testing.T, m mode) {
				w := newWorld(t)
				var last atomic.Pointer[seen]
				w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
				w.route("orders", nil)
				got := &spans{}
				en := w.gateway(m, func(o *proxy.Options) { o.Observe.Tracing = proxy.Tracing{Sample: tt.sample, Export: got.export} })
				w.publish()
				r := en.request(t, http.MethodGet, "/x", nil)
				if tt.sent != "" {
					r.Header.Set("traceparent", tt.sent)
					r.Header.Set("tracestate", "a=b")
				}
				if a := en.do(t, r); a.StatusCode != 200 {
					t.Fatalf("got %d", a.StatusCode)
				}
				onward := last.Load().header.Get("Traceparent")
				if len(onward) != 55 || onward[:3] != "00-" || onward == tt.sent || strings.HasSuffix(onward, "-01") != tt.exported {
					t.Errorf("the workload got %q", onward)
				}
				if continued := strings.Contains(tt.sent, onward[3:35]); continued != tt.continued {
					t.Errorf("continued %v: %q", continued, onward)
				}
				if state := last.Load().header.Get("Tracestate"); (state == "a=b") != tt.continued {
					t.Errorf("tracestate %q", state)
				}
				if !tt.exported {
					if n := len(got.all()); n != 0 {
						t.Errorf("%d spans were exported", n)
					}
					return
				}
				eventually(t, "the span is exported", func() bool { return len(got.all()) == 1 })
				span := got.all()[0]
				if span.Trace.String() != onward[3:35] || span.ID.String() != onward[36:52] || span.Status != 200 || span.Service != "orders" || span.End.Before(span.Start) {
					t.Errorf("the span is %+v", span)
				}
				if tt.continued && span.Parent.String() != "b7ad6b7169203331" {
					t.Errorf("its parent is %v", span.Parent)
				}
			})
		})
	}
}

// Without a collector nobody's trace is touched.
func TestTracesArePassedOn(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	r := en.request(t, http.MethodGet, "/", nil)
	r.Header.Set("traceparent", parent)
	en.do(t, r)
	if got := last.Load().header.Get("Traceparent"); got != parent {
		t.Errorf("the workload got %q", got)
	}
}

// Requests are counted by route and by caller, for as long as there are these.
func TestRequestsByRouteAndPeer(t *testing.T) {
	w := newWorld(t)
	side := w.sidecar("orders", "n1", w.workload(func(http.ResponseWriter, *http.Request) {}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	e, _ := w.engine(proxy.MeshLimits())
	w.nodes = append(w.nodes, &node{engine: e, stop: e.Close})
	web := &http.Client{Transport: e.RoundTripper(w.source("/svc/web/n/n9"))}
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/web"}})
	ask := func() {
		t.Helper()
		if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
			t.Fatalf("got %d", a.StatusCode)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders.mesh/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	byRoute := func() float64 {
		return counted(t, en.registry, "hedgerow_route_requests_total", map[string]string{"face": "gateway", "route": "routes/shop", "code_class": "2xx"})
	}
	byPeer := func(peer string) float64 {
		return counted(t, side.registry, "hedgerow_peer_requests_total", map[string]string{"service": "orders", "peer": peer, "code_class": "2xx"})
	}
	w.publish()
	for n := range 3 {
		ask()
		eventually(t, "both are counted", func() bool {
			return byRoute() == float64(n+1) && byPeer("/gateway/edge") == float64(n+1) && byPeer("/svc/web") == float64(n+1)
		})
	}
	service, route := w.config.Services["web"], w.config.Routes["shop"]
	delete(w.config.Services, "web")
	delete(w.config.Routes, "shop")
	w.publish()
	if byRoute() != 0 || byPeer("/svc/web") != 0 || byPeer("/gateway/edge") != 3 {
		t.Errorf("the series of what is gone are there: %v, %v; the gateway's: %v", byRoute(), byPeer("/svc/web"), byPeer("/gateway/edge"))
	}
	w.put(service)
	w.put(route)
	w.publish()
	ask()
	eventually(t, "they are counted anew", func() bool { return byRoute() == 1 && byPeer("/svc/web") == 1 })
}
