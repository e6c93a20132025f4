package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
	"github.com/hedgerow-mesh/hedgerow/test/bench/stream"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
)

// inWorld runs f in a world without a mesh and returns what went wrong.
func inWorld(t *testing.T, s settings, f func(*world)) error {
	t.Helper()
	return stage.Run(t.Context(), t.Name(), func(row *stage.T) { f(&world{t: row, settings: s, progress: io.Discard}) })
}

// sleeper is a process that does nothing.
func sleeper(w *world, name string) *rig.Process {
	return rig.Start(w.t, rig.Command{Name: name, Dir: w.t.TempDir(), Program: "sleep", Args: []string{"300"}})
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		all  []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 9, 2}, 3}} {
		if got := median(tt.all); got != tt.want {
			t.Errorf("the median of %v is %v, want %v", tt.all, got, tt.want)
		}
	}
}

// TestRatio: a ratio is of the same round, so that a slow moment of the machine
// is in both of its sides.
func TestRatio(t *testing.T) {
	self := func(v float64) float64 { return v }
	if got := ratio([]float64{10, 100, 30}, []float64{20, 200, 10}, self); got != 0.5 {
		t.Errorf("got %v, want 0.5", got)
	}
}

func TestSteady(t *testing.T) {
	systems := []*system{{program: "hedgerow", name: "hedgerow"}, {program: "haproxy", name: "haproxy-plain"}, {program: "nginx", name: "nginx"}}
	self := func(v float64) float64 { return v }
	wild := []float64{1, 9}
	if err := steady("GET", systems, [][]float64{wild, {14, 10, 13}, wild}, self); err != nil {
		t.Errorf("40 %%, and what is no reference: %v", err)
	}
	err := steady("GET", systems, [][]float64{{1, 1}, {10, 14.1}, {1, 1}}, self)
	if err == nil || err.Error() != "GET: haproxy-plain cost 10.0 in one round and 14.1 in another, 41.0 % more; at most 40 % are allowed" {
		t.Errorf("41 %%: %v", err)
	}
}

func TestRounds(t *testing.T) {
	systems := []*system{{name: "a"}, {name: "b"}, {name: "c"}}
	var order []string
	away := errors.New("away")
	err := inWorld(t, settings{repeat: 3}, func(w *world) {
		samples, err := rounds(w, "GET", systems, func(s *system) (string, error) {
			order = append(order, s.name)
			return fmt.Sprint(s.name, len(order)), nil
		})
		if want := [][]string{{"a1", "a6", "a8"}, {"b2", "b4", "b9"}, {"c3", "c5", "c7"}}; err != nil || !slices.EqualFunc(samples, want, slices.Equal) {
			w.t.Errorf("got %v, %v, want %v", samples, err, want)
		}
		if _, err := rounds(w, "GET", systems, func(*system) (int, error) { return 0, away }); !errors.Is(err, away) || !strings.HasPrefix(err.Error(), "GET: ") {
			w.t.Errorf("got %v", err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	if got := strings.Join(order, ""); got != "abcbcacab" {
		t.Errorf("measured %s: who begins must change", got)
	}
}

// TestMeasure takes a sleeping process for the proxy.
func TestMeasure(t *testing.T) {
	var bad atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if bad.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(get.Want) // the client that left notices itself
	}))
	defer s.Close()
	err := inWorld(t, settings{duration: 100 * time.Millisecond}, func(w *world) {
		a, b := sleeper(w, "a"), sleeper(w, "b")
		proxy := &system{name: "a proxy", target: load.Target{Address: s.Listener.Addr().String(), Host: host}, processes: []*rig.Process{a, b}}
		got, err := w.measure(proxy, "GET-2", loop.Plan{Request: get, Connections: 2})
		if err != nil || got.Requests == 0 || len(got.parts) != 2 {
			w.t.Fatalf("got %+v, %v", got, err)
		}
		// It sleeps: more than a tenth of the time were somebody else's.
		if got.Cost > w.duration/10 || got.Cost != got.parts[0]+got.parts[1] || got.rssMiB() <= 0 {
			w.t.Errorf("got %+v", got)
		}
		bad.Store(true)
		if _, err := w.measure(proxy, "GET-2", loop.Plan{Request: get, Connections: 2}); err == nil || !strings.Contains(err.Error(), "a proxy answered 0 requests well and 2 not") || !strings.Contains(err.Error(), "503") {
			w.t.Errorf("bad answers: %v", err)
		}
		if err := b.Kill(); err != nil {
			w.t.Error(err)
		}
		bad.Store(false)
		if _, err := w.measure(proxy, "GET-2", loop.Plan{Request: get, Connections: 2}); err == nil {
			w.t.Error("a process that has ended was measured")
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSample(t *testing.T) {
	s := sample{Report: loop.Report{Requests: 4, Cost: 400 * time.Microsecond, P50: time.Millisecond, P99: 2 * time.Millisecond, Late: time.Millisecond / 2}, parts: []time.Duration{100 * time.Microsecond}, rss: 3 << 20}
	for name, got := range map[string][2]float64{
		"micros": {s.micros(), 100}, "first": {s.first(), 25}, "p50": {s.p50(), 1}, "p99": {s.p99(), 2}, "late": {s.late(), 0.5}, "rss": {s.rssMiB(), 3},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %v, want %v", name, got[0], got[1])
		}
	}
}

func TestProfile(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.String() != "/debug/pprof/profile?seconds=2" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "a profile") // the client that left notices itself
	}))
	defer s.Close()
	dir := t.TempDir()
	err := inWorld(t, settings{profiles: dir, duration: 2 * time.Second}, func(w *world) {
		p := &rig.Plane{Process: sleeper(w, "caller"), Admin: proc.Admin{Address: s.Listener.Addr().String()}}
		chain := ours(load.Target{}, p)
		for range 2 {
			if err := w.profile(chain, "GET-32", 0)(); err != nil {
				w.t.Error(err)
			}
		}
		if text, err := os.ReadFile(filepath.Join(dir, "GET-32-caller.pprof")); err != nil || string(text) != "a profile" || asked.Load() != 1 {
			w.t.Errorf("got %q, %v after %d requests", text, err, asked.Load())
		}
		if err := w.profile(&system{name: "a peer"}, "GET-8", 0)(); err != nil || asked.Load() != 1 {
			w.t.Errorf("a peer has a profile: %v", err)
		}
		w.duration = time.Second
		if err := w.profile(chain, "GET-1", 0)(); err == nil || !strings.Contains(err.Error(), "404") {
			w.t.Errorf("no such profile: %v", err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTransfer(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := inWorld(t, settings{duration: 10 * time.Millisecond, size: 1 << 20}, func(w *world) {
		srv := httptest.NewServer(nil)
		address := srv.Listener.Addr().String()
		srv.Close()
		served := make(chan error, 1)
		go func() { served <- stream.Serve(ctx, address) }()
		defer func() {
			cancel()
			if err := <-served; err != nil {
				w.t.Error(err)
			}
		}()
		p := sleeper(w, "proxy")
		s := &system{name: "a proxy", target: load.Target{Address: address}, processes: []*rig.Process{p, p}}
		p.Until(answerMost, "serves", func(ctx context.Context) error { return stream.Down(ctx, s.target, 1) })
		got, err := w.transfer(s, way{"down", stream.Down})
		if err != nil || got.bytes != 1<<20 || got.took <= 0 || got.before <= 0 || got.peak < got.before || got.after <= 0 {
			w.t.Errorf("got %+v, %v", got, err)
		}
		broken := errors.New("broken")
		if _, err := w.transfer(s, way{"up", func(context.Context, load.Target, int64) error { return broken }}); !errors.Is(err, broken) {
			w.t.Errorf("got %v", err)
		}
	})
	if err != nil {
		t.Error(err)
	}
	half := transfer{bytes: 512 << 20, took: 2 * time.Second, cost: 4 * time.Second, before: 1 << 20, peak: 5 << 20, after: 2 << 20}
	if a, b, c := half.mibPerSecond(), half.gibPerCPU(), half.cpuPerGiB(); a != 256 || b != 0.125 || c != 8 {
		t.Errorf("got %v MiB/s, %v GiB per CPU second, %v CPU seconds per GiB", a, b, c)
	}
	if a, b, c := streamRSS([]transfer{half, {before: 9 << 20, peak: 3 << 20, after: 4 << 20}}); a != 1 || b != 5 || c != 4 {
		t.Errorf("got %v before, %v at the worst and %v after", a, b, c)
	}
}

// TestHolder: connections are kept, each has had its answer, and what holds too
// few is noticed.
func TestHolder(t *testing.T) {
	var opened atomic.Int64
	var bad atomic.Bool
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if bad.Load() {
			_, _ = io.WriteString(w, "another body") // as below
			return
		}
		_, _ = w.Write(get.Want) // the client that left notices itself
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	err := inWorld(t, settings{}, func(w *world) {
		h := &holder{process: sleeper(w, "proxy"), target: load.Target{Address: s.Listener.Addr().String(), Host: host}}
		for _, n := range []int{20, 20, 30} {
			if err := h.grow(w.t.Context(), n); err != nil || opened.Load() != int64(n) || len(h.open) != n {
				w.t.Errorf("%d connections of %d, %d clients, %v", opened.Load(), n, len(h.open), err)
			}
		}
		for _, c := range h.open {
			if err := fetch(w.t.Context(), c, h.target); err != nil {
				w.t.Error(err)
			}
		}
		if opened.Load() != 30 {
			w.t.Errorf("%d connections after a second request on each of 30", opened.Load())
		}
		if rss, err := h.look(3); err != nil || rss <= 0 {
			w.t.Errorf("a process with its three standard files: %d, %v", rss, err)
		}
		if _, err := h.look(30); err == nil || !strings.Contains(err.Error(), "cannot hold 30 connections") {
			w.t.Errorf("a process without connections: %v", err)
		}
		bad.Store(true)
		if err := h.grow(w.t.Context(), 31); err == nil || !strings.Contains(err.Error(), "another body") {
			w.t.Errorf("a bad answer: %v", err)
		}
		for _, c := range h.open {
			c.CloseIdleConnections()
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFleetAddress(t *testing.T) {
	seen := map[string]bool{}
	for n := range 60_000 {
		address := fleetAddress(n)
		if seen[address] {
			t.Fatalf("%s comes twice", address)
		}
		seen[address] = true
	}
	if got := fleetAddress(65536 + 258); got != "127.2.1.2:15006" {
		t.Errorf("got %s", got)
	}
}
