package proxy_test

import (
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// wantOverloaded wants a to be what new requests get while memory is short. Those
// whose header was not read get no body.
func wantOverloaded(t *testing.T, a answer, read bool) {
	t.Helper()
	switch {
	case read:
		wantProblem(t, a, 503, "overloaded")
	case a.StatusCode != 503 || a.body != "":
		t.Errorf("got %d %q, want 503 without a body", a.StatusCode, a.body)
	}
	if a.Header.Get("Retry-After") == "" || read && a.Header.Get("Hedgerow-Decision") == "" {
		t.Errorf("a 503 without Retry-After or decision: %v", a.Header)
	}
}

func TestMemoryPressure(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		for _, tt := range []struct {
			percent int32
			status  int
			closes  bool
		}{{79, 200, false}, {80, 200, true}, {84, 200, true}, {85, 503, true}, {0, 200, false}} {
			en.engine.SetPressure(tt.percent)
			a := en.get(t, "/")
			if a.StatusCode != tt.status || m == overH1 && a.Close != tt.closes {
				t.Errorf("at %d %% got %d, closes: %v", tt.percent, a.StatusCode, a.Close)
			}
			if tt.status == 503 {
				wantOverloaded(t, a, m == overH1)
			}
		}
		if n := counted(t, en.registry, "hedgerow_requests_shed_total", nil); n != 1 {
			t.Errorf("hedgerow_requests_shed_total is %v, want 1", n)
		}
	})
}

func TestMemoryIsMeasured(t *testing.T) {
	before := debug.SetMemoryLimit(1 << 20) // less than any process has
	defer debug.SetMemoryLimit(before)
	en := limited(t, func(*proxy.Limits) {})
	eventually(t, "requests are refused", func() bool { return en.get(t, "/").StatusCode == 503 })
}

// What a burst left behind is collected, though nothing makes new garbage.
func TestGarbageIsNoPressure(t *testing.T) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := debug.SetMemoryLimit(int64(m.HeapAlloc+m.StackSys+m.OtherSys) + 400<<20)
	defer debug.SetMemoryLimit(before)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	en := limited(t, func(*proxy.Limits) {})
	eventually(t, "the memory is measured", func() bool { return en.engine.Room() > 0 })
	garbage := make([]byte, 350<<20) // the limit itself makes nobody collect yet
	eventually(t, "requests are refused", func() bool { return en.get(t, "/").StatusCode == 503 })
	runtime.KeepAlive(garbage)
	eventually(t, "requests are served", func() bool { return en.get(t, "/").StatusCode == 200 })
}

// What is let in takes room, by what it may come to hold, and gives it back.
func TestRoom(t *testing.T) {
	const exchange, fields, stay = 48 << 10, 4 << 10, 3
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		arrived, leave := make(chan struct{}), make(chan struct{})
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/stay" {
				arrived <- struct{}{}
				<-leave
			}
		}), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		en.engine.SetRoom(1 << 30)
		var all sync.WaitGroup
		letGo := sync.OnceFunc(func() { close(leave) })
		t.Cleanup(letGo)
		for range stay {
			all.Go(func() {
				if a := en.get(t, "/stay"); a.StatusCode != 200 {
					t.Errorf("one that was let in got %d", a.StatusCode)
				}
			})
			<-arrived
		}
		settled := func(requests int64) func() bool {
			least := requests * exchange
			return func() bool { return en.engine.Taken() >= least && en.engine.Taken() <= least+requests*fields }
		}
		eventually(t, "what is under way takes room", settled(stay))
		under := en.engine.Taken()
		post := func(length int) *http.Request {
			return en.request(t, http.MethodPost, "/", strings.NewReader(strings.Repeat("x", length)))
		}
		large := en.request(t, http.MethodGet, "/", nil)
		large.Header.Set("X-Large", strings.Repeat("x", 16<<10))
		streamed := en.request(t, http.MethodPost, "/", io.MultiReader(strings.NewReader("x")))
		for _, tt := range []struct {
			name    string
			request *http.Request
			room    int64
			status  int
		}{
			{"room for none", en.request(t, http.MethodGet, "/", nil), exchange - 1, 503},
			{"room for one", en.request(t, http.MethodGet, "/", nil), exchange + fields, 200},
			{"a large header", large, exchange + fields, 503},
			{"a large header, and room for it", large, exchange + fields + 32<<10, 200},
			{"a short body", post(4 << 10), exchange + fields, 503},
			{"a short body, and room for it", post(4 << 10), exchange + fields + 12<<10, 200},
			{"a body that is kept", post(64 << 10), exchange + fields + 119<<10 - fields, 503},
			{"a body that is kept, and room for it", post(64 << 10), exchange + fields + 120<<10, 200},
			{"a body of half that", post(32 << 10), exchange + fields + 88<<10, 200},
			{"a body of unknown length", streamed, exchange + fields + 119<<10 - fields, 503},
			{"a body that is not kept", post(65 << 10), exchange + fields + 56<<10, 200},
		} {
			eventually(t, "the room is free", settled(stay))
			en.engine.SetRoom(under + tt.room)
			a := en.do(t, tt.request)
			if a.StatusCode != tt.status {
				t.Errorf("%s: got %d, want %d", tt.name, a.StatusCode, tt.status)
			} else if tt.status == 503 {
				wantOverloaded(t, a, m == overH1 || tt.room >= exchange)
			}
		}
		en.engine.SetRoom(1 << 30)
		letGo()
		all.Wait()
		eventually(t, "all of the room is free", func() bool { return en.engine.Taken() == 0 })
		en.engine.SetRoom(1)
		if a := en.get(t, "/"); a.StatusCode != 200 {
			t.Errorf("the only request got %d", a.StatusCode)
		}
	})
}

// Connections that say nothing keep no requests out.
func TestIdleConnectionsTakeNoRoom(t *testing.T) {
	en := limited(t, func(*proxy.Limits) {})
	en.engine.SetRoom(64 << 10)
	for range 50 {
		dial(t, en.addr)
	}
	eventually(t, "a request is served", func() bool { return en.get(t, "/").StatusCode == 200 })
}
