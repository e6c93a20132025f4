package proxy_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestTriesAreCounted(t *testing.T) {
	w := newWorld(t)
	var hits atomic.Int32
	for _, node := range []string{"n1", "n2"} {
		w.sidecar("orders", node, w.workload(func(rw http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			rw.WriteHeader(http.StatusServiceUnavailable)
		}), nil)
	}
	w.route("orders", func(r *mesh.RouteRule) {
		retryOn(mesh.OnGatewayError)(r)
		r.Timeout = mesh.Seconds(1)
	})
	en := w.gateway(overH1)
	w.publish()
	if a := en.get(t, "/"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d %s", a.StatusCode, a.body)
	}
	if n := hits.Load(); n != 2 {
		t.Errorf("%d tries, want 2", n)
	}
	if n := counted(t, en.registry, "hedgerow_retries_total", nil); n != 1 {
		t.Errorf("hedgerow_retries_total is %v, want 1", n)
	}
}
