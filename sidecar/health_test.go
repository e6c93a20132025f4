package sidecar

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestHealthFollowsTheWorkload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		var reports []string
		cfg := Config{Node: "n1", Services: []Service{{Service: "orders", Address: "127.0.0.1:1"}}}
		h := newHealth(cfg, "127.0.0.1:15006", func(i []*mesh.Instance) { reports = append(reports, i[0].Health) })
		h.probe = func(context.Context, string, *checkRules) error {
			if up.Load() {
				return nil
			}
			return errors.New("refused")
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			h.run(ctx)
			close(done)
		}()
		// Each step is two checks long, and steps meet no check's instant.
		step := func(healthy bool) {
			up.Store(healthy)
			time.Sleep(2*healthInterval - time.Millisecond)
			synctest.Wait()
		}
		step(false)
		step(true)
		up.Store(false) // one failure among successes is nothing
		time.Sleep(healthInterval)
		step(true)
		step(false)
		step(false)
		step(true)
		cancel()
		<-done
		want := []string{mesh.Unhealthy, mesh.Healthy, mesh.Unhealthy, mesh.Healthy}
		if !slices.Equal(reports, want) {
			t.Errorf("reported %v, want %v", reports, want)
		}
	})
}

func TestInstancesGivenAwayDoNotChange(t *testing.T) {
	cfg := Config{Node: "n1", Services: []Service{{Service: "orders", Address: "127.0.0.1:1"}}}
	h := newHealth(cfg, "127.0.0.1:15006", nil)
	before := h.list()
	if !h.take(0, &h.rules[0], true, true) {
		t.Error("the first success changes nothing")
	}
	if before[0].Health != mesh.Unhealthy || h.list()[0].Health != mesh.Healthy {
		t.Errorf("before %s, now %s", before[0].Health, h.list()[0].Health)
	}
}

func TestHealthFollowsTheRulesOfItsService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []string
		reports := func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(all)
		}
		var checks atomic.Int32
		var up atomic.Bool
		up.Store(true)
		cfg := Config{Node: "n1", Services: []Service{{Service: "orders", Address: "127.0.0.1:1"}}}
		h := newHealth(cfg, "127.0.0.1:15006", func(i []*mesh.Instance) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, i[0].Health)
		})
		h.probe = func(_ context.Context, _ string, rules *checkRules) error {
			checks.Add(1)
			if rules.path == "/healthz" && !up.Load() {
				return errors.New("ill")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			h.run(ctx)
			close(done)
		}()
		time.Sleep(time.Millisecond)
		config := mesh.NewConfig()
		config.Services["orders"] = &mesh.Service{Health: &mesh.Health{Path: "/healthz", Interval: mesh.Seconds(10), UnhealthyAfter: 3, HealthyAfter: 2}}
		up.Store(false)
		h.update(config) // and one is made at once
		synctest.Wait()
		before := checks.Load()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if n := checks.Load(); n != before {
			t.Errorf("%d checks within the interval", n-before)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := reports(); len(got) != 1 {
			t.Errorf("reported %v after two failures, want the first alone", got)
		}
		time.Sleep(5 * time.Second)
		up.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := reports(); !slices.Equal(got, []string{mesh.Healthy, mesh.Unhealthy}) {
			t.Errorf("reported %v after three failures and a success", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := reports(); !slices.Equal(got, []string{mesh.Healthy, mesh.Unhealthy, mesh.Healthy}) {
			t.Errorf("reported %v after two successes", got)
		}
		cancel()
		<-done
	})
}

func TestProbe(t *testing.T) {
	for _, protocol := range []string{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolGRPC} {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/ok":
			case "/moved":
				http.Redirect(w, r, "/ok", http.StatusFound)
			case "/slow":
				<-r.Context().Done()
			default:
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP1(protocol == mesh.ProtocolHTTP)
		srv.Config.Protocols.SetUnencryptedHTTP2(protocol != mesh.ProtocolHTTP)
		srv.Start()
		address := srv.Listener.Addr().String()
		for path, want := range map[string]bool{"": true, "/ok": true, "/moved": true, "/ill": false, "/slow": false} {
			err := probe(t.Context(), address, &checkRules{protocol: protocol, path: path, timeout: 200 * time.Millisecond})
			if (err == nil) != want {
				t.Errorf("%s %q: %v", protocol, path, err)
			}
		}
		srv.Close()
		if err := probe(t.Context(), address, &checkRules{timeout: time.Second}); err == nil {
			t.Errorf("%s: nobody listens and it is healthy", protocol)
		}
	}
}
