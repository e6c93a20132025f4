package proxy_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// hedging makes a mesh of two instances of orders, one of which is slow, whose route
// hedges after a while; left counts the requests that the slow one saw given up.
func hedging(t *testing.T, after float64, change func(*mesh.Retry)) (w *world, left, slowed *atomic.Int64) {
	t.Helper()
	w = newWorld(t)
	left, slowed = &atomic.Int64{}, &atomic.Int64{}
	w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		slowed.Add(1)
		select {
		case <-r.Context().Done():
			left.Add(1)
		case <-time.After(5 * time.Second):
		}
	}), nil)
	w.sidecar("orders", "n2", w.workload(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "fast "+string(body))
	}), nil)
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, LoadBalancing: &mesh.LoadBalancing{Policy: mesh.RoundRobin}})
	w.route("orders", func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnGatewayError}, HedgeAfter: mesh.Seconds(after), BudgetPercent: 100}
		if change != nil {
			change(r.Retry)
		}
	})
	return w, left, slowed
}

// A request is answered though its first instance is slow, and that one's work ends.
func TestHedging(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		for name, how := range map[string]option{"pooled": pooled, "linked": linked} {
			t.Run(name, func(t *testing.T) {
				// Long enough that no other request takes it, on a loaded machine too.
				w, left, slowed := hedging(t, 0.3, nil)
				en := w.gateway(m, how)
				w.publish()
				for i := range 6 {
					r := en.request(t, http.MethodPut, "/", strings.NewReader("body"))
					if a := en.do(t, r); a.StatusCode != http.StatusOK || a.body != "fast body" {
						t.Fatalf("%d: got %d %q", i, a.StatusCode, a.body)
					}
				}
				if slowed.Load() == 0 {
					t.Error("the slow instance was never asked")
				}
				eventually(t, "what was given up has ended", func() bool {
					return left.Load() == slowed.Load() && counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0
				})
				if n := counted(t, en.registry, "hedgerow_retries_total", map[string]string{"reason": "hedge"}); n != float64(slowed.Load()) {
					t.Errorf("%v hedges are counted, %d requests were slow", n, slowed.Load())
				}
				if n := counted(t, en.registry, "hedgerow_ejections_total", nil); n != 0 {
					t.Errorf("%v ejections", n)
				}
			})
		}
	})
}

// What may do harm when it is sent twice is not.
func TestHedgingOfWhatIsNotIdempotent(t *testing.T) {
	w, _, slowed := hedging(t, 0.01, func(r *mesh.Retry) { r.On = []string{mesh.OnConnectFailure} })
	en := w.gateway(overH1)
	w.publish()
	var all sync.WaitGroup
	ctx, leave := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer leave()
	for range 4 {
		all.Go(func() {
			resp, err := en.client.Do(en.request(t, http.MethodPost, "/", strings.NewReader("x")).WithContext(ctx))
			if err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	all.Wait()
	if n := counted(t, en.registry, "hedgerow_retries_total", nil); n != 0 || slowed.Load() != 2 {
		t.Errorf("%v hedges, %d requests were slow", n, slowed.Load())
	}
}

// A hedge is a retry to the budget and the circuit breaker.
func TestHedgingIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		budget  uint32
		breaker mesh.CircuitBreaker
		most    int64
	}{
		"by the budget":         {1, mesh.CircuitBreaker{}, 30}, // 3 a second, for 10 s
		"by the breaker":        {100, mesh.CircuitBreaker{MaxRetries: 3}, 3},
		"by requests under way": {100, mesh.CircuitBreaker{MaxRequests: 43}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var asked atomic.Int64
			end := make(chan struct{})
			for _, node := range []string{"n1", "n2"} {
				w.sidecar("orders", node, w.workload(func(http.ResponseWriter, *http.Request) {
					asked.Add(1)
					<-end
				}), nil)
			}
			w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, CircuitBreaker: &tt.breaker})
			w.route("orders", func(r *mesh.RouteRule) {
				r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnReset}, HedgeAfter: mesh.Seconds(0.5), BudgetPercent: tt.budget}
			})
			en := w.gateway(overH1)
			w.publish()
			const clients = 40 // which have all asked before the first hedge
			var all sync.WaitGroup
			for range clients {
				all.Go(func() {
					if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
						t.Errorf("got %d %s", a.StatusCode, a.body)
					}
				})
			}
			eventually(t, "all and some hedges are under way", func() bool { return asked.Load() > clients })
			<-time.After(200 * time.Millisecond) // in which the others could be
			if n := asked.Load() - clients; n > tt.most {
				t.Errorf("%d hedges", n)
			}
			close(end)
			all.Wait()
			if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
				t.Errorf("afterwards: %d", a.StatusCode)
			}
		})
	}
}

// Where all fail, the last failure is the answer; a bad answer waits for a better one.
func TestHedgingOfFailures(t *testing.T) {
	w := newWorld(t)
	var n atomic.Int64
	for _, node := range []string{"n1", "n2"} {
		w.sidecar("orders", node, w.workload(func(w http.ResponseWriter, r *http.Request) {
			first := n.Add(1)%2 == 1
			if first {
				<-time.After(100 * time.Millisecond)
			}
			if first == (r.URL.Path == "/late") || r.URL.Path == "/none" {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			if !first {
				<-time.After(100 * time.Millisecond)
			}
			_, _ = io.WriteString(w, "good")
		}), nil)
	}
	w.route("orders", func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnGatewayError}, HedgeAfter: mesh.Seconds(0.02), BudgetPercent: 100}
	})
	en := w.gateway(overH1)
	w.publish()
	for path, want := range map[string]int{"/early": 200, "/late": 200, "/none": 503} {
		n.Store(0)
		if a := en.get(t, path); a.StatusCode != want {
			t.Errorf("%s: got %d", path, a.StatusCode)
		}
		if n.Load() != 2 {
			t.Errorf("%s: %d tries, want 2", path, n.Load())
		}
	}
	eventually(t, "nothing is under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
}

// Whoever leaves ends both tries.
func TestHedgingForNobody(t *testing.T) {
	w := newWorld(t)
	var asked, left atomic.Int64
	for _, node := range []string{"n1", "n2"} {
		w.sidecar("orders", node, w.workload(func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-r.Context().Done()
			left.Add(1)
		}), nil)
	}
	w.route("orders", func(r *mesh.RouteRule) {
		r.Retry = &mesh.Retry{Attempts: 1, On: []string{mesh.OnReset}, HedgeAfter: mesh.Seconds(0.02)}
	})
	en := w.gateway(overH2)
	w.publish()
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := en.client.Do(en.request(t, http.MethodGet, "/", nil).WithContext(ctx)); err == nil {
			_ = resp.Body.Close()
			t.Errorf("got %d", resp.StatusCode)
		}
	}()
	eventually(t, "both are asked", func() bool { return asked.Load() == 2 })
	leave()
	<-done
	eventually(t, "both are left", func() bool { return left.Load() == 2 })
	eventually(t, "nothing is under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
}
