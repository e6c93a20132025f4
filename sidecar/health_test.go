package sidecar

import (
	"context"
	"errors"
	"slices"
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
		h.dial = func(context.Context, string) error {
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
	h.dial = func(context.Context, string) error { return nil }
	before := h.list()
	if !h.check(t.Context()) {
		t.Error("the first success changes nothing")
	}
	if before[0].Health != mesh.Unhealthy || h.list()[0].Health != mesh.Healthy {
		t.Errorf("before %s, now %s", before[0].Health, h.list()[0].Health)
	}
}
