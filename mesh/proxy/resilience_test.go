package proxy_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// An instance that nobody reaches costs no request, and after three nothing at all.
func TestDeadEndpointIsTakenOut(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.sidecar("orders", "n2", w.workload(echo(&last)), nil)
		w.register("orders", "n3", deadAddr(t), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		failed := 0
		for range 200 {
			if a := en.get(t, "/"); a.StatusCode != 200 {
				failed++
			}
		}
		if failed != 0 {
			t.Errorf("%d of 200 requests failed: nothing of them was sent, and others were there", failed)
		}
		for state, want := range map[string]float64{"healthy": 2, "ejected": 1, "unhealthy": 0} {
			if n := counted(t, en.registry, "hedgerow_endpoints", map[string]string{"service": "orders", "state": state}); n != want {
				t.Errorf("%v endpoints are %s, want %v", n, state, want)
			}
		}
		if n := counted(t, en.registry, "hedgerow_upstream_failures_total", map[string]string{"kind": "connect"}); n != 3 {
			t.Errorf("%v connections were tried, want 3", n)
		}
		if n := counted(t, en.registry, "hedgerow_ejections_total", map[string]string{"service": "orders"}); n != 1 {
			t.Errorf("%v ejections are counted", n)
		}
	})
}

// Retries do not multiply the load of a service that fails.
func TestRetriesStayInTheirBudget(t *testing.T) {
	w := newWorld(t)
	var got atomic.Int64
	fails := w.workload(func(rw http.ResponseWriter, _ *http.Request) {
		got.Add(1)
		rw.WriteHeader(http.StatusServiceUnavailable)
	})
	w.sidecar("orders", "n1", fails, nil)
	w.sidecar("orders", "n2", fails, nil)
	w.route("orders", func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 3, On: []string{mesh.OnGatewayError}, Backoff: &mesh.Backoff{Base: mesh.Seconds(0.001), Max: mesh.Seconds(0.001)}}
	})
	en := w.gateway(overH1)
	w.publish()
	const n = 600
	for range n {
		if a := en.get(t, "/"); a.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("got %d", a.StatusCode)
		}
	}
	if total := got.Load(); total > n*120/100 || total < n*115/100 {
		t.Errorf("%d requests became %d tries, want a fifth more", n, total)
	}
	if counted(t, en.registry, "hedgerow_retries_over_budget_total", map[string]string{"service": "orders"}) == 0 {
		t.Error("what was not tried again is not counted")
	}
}

func TestCircuitBreakerBoundsRequests(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		release := make(chan struct{})
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = io.WriteString(rw, "late")
		}), nil)
		w.config.Services["orders"].CircuitBreaker = &mesh.CircuitBreaker{MaxRequests: 2}
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		answers := make(chan answer, 2)
		for range 2 {
			r := en.request(t, http.MethodGet, "/", nil)
			go func() { answers <- en.do(t, r) }()
		}
		eventually(t, "two are under way", func() bool {
			return counted(t, en.registry, "hedgerow_requests_in_flight", map[string]string{"face": "gateway"}) == 2
		})
		var third answer
		eventually(t, "a third is refused", func() bool {
			r := en.request(t, http.MethodGet, "/", nil)
			r.Header.Set("X", strings.Repeat("x", 10))
			third = en.do(t, r)
			return true
		})
		wantProblem(t, third, 503, proxy.CodeOverflow)
		if third.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		close(release)
		for range 2 {
			if a := <-answers; a.StatusCode != 200 || a.body != "late" {
				t.Errorf("got %d %q", a.StatusCode, a.body)
			}
		}
		if a := en.get(t, "/"); a.StatusCode != 200 {
			t.Errorf("got %d when the others had ended", a.StatusCode)
		}
	})
}

// An instance that answers 429 is left alone for as long as it asks.
func TestTooManyRequestsTurnsTrafficAway(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	var refused atomic.Int64
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.sidecar("orders", "n2", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
		refused.Add(1)
		rw.Header().Set("Retry-After", strconv.Itoa(60))
		rw.WriteHeader(http.StatusTooManyRequests)
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	for range 100 {
		en.get(t, "/")
	}
	if n := refused.Load(); n != 1 {
		t.Errorf("it got %d of 100 requests, want the one that it refused", n)
	}
}

func TestPerTryTimeoutsEject(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.sidecar("orders", "n2", w.workload(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), nil)
	w.route("orders", func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnGatewayError}, PerTryTimeout: mesh.Seconds(0.05)}
	})
	en := w.gateway(overH1)
	w.publish()
	slow := 0
	for range 60 {
		start := time.Now()
		if a := en.get(t, "/"); a.StatusCode != 200 {
			t.Fatalf("got %d %s", a.StatusCode, a.body)
		}
		if time.Since(start) > 50*time.Millisecond {
			slow++
		}
	}
	if slow < 5 || slow > 8 {
		t.Errorf("%d of 60 requests waited for the one that hangs, want about 5", slow)
	}
}

// A retry is of another instance while there is one.
func TestRetriesGoElsewhere(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.sidecar("orders", "n2", w.workload(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusServiceUnavailable) }), nil)
	w.config.Services["orders"].OutlierDetection = &mesh.OutlierDetection{ConsecutiveServerErrors: 1000}
	w.route("orders", func(r *mesh.RouteRule) {
		retryOn(mesh.OnGatewayError)(r)
		r.Retry.BudgetPercent = 100
	})
	en := w.gateway(overH1)
	w.publish()
	for i := range 60 {
		if a := en.get(t, "/"); a.StatusCode != 200 {
			t.Fatalf("request %d got %d: the retry went where the first try was", i, a.StatusCode)
		}
	}
}
