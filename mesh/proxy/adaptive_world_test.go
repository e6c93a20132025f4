package proxy_test

import (
	"net/http"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// What a sidecar refuses for its workload's sake is no reason to take that out; what has
// ended makes room again.
func TestAdaptiveConcurrencyAtASidecar(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		begun, end := make(chan struct{}), make(chan struct{})
		w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}, AdaptiveConcurrency: &mesh.AdaptiveConcurrency{MinConcurrency: 1, MaxConcurrency: 1}})
		w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				begun <- struct{}{}
				<-end
			}
		}), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		done := make(chan int)
		go func() {
			resp, err := en.client.Do(en.request(t, http.MethodGet, "/long", nil))
			if err != nil {
				t.Error(err)
				close(done)
				return
			}
			_ = resp.Body.Close()
			done <- resp.StatusCode
		}()
		<-begun
		for range 10 {
			a := en.get(t, "/")
			wantProblem(t, a, http.StatusServiceUnavailable, "concurrency_limited")
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		if n := counted(t, en.registry, "hedgerow_ejections_total", nil); n != 0 {
			t.Errorf("%v ejections", n)
		}
		close(end)
		if status := <-done; status != http.StatusOK {
			t.Errorf("got %d", status)
		}
		if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
			t.Errorf("got %d after that", a.StatusCode)
		}
		w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/orders"}})
		w.publish()
		if a := en.get(t, "/"); a.StatusCode != http.StatusOK {
			t.Errorf("got %d without a limit", a.StatusCode)
		}
	})
}
