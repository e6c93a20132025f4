package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRedisAway kills Redis for 30 s, twice as long as a lease lasts, under
// load, and brings it back empty. No request may fail; afterwards a route
// change must arrive within two seconds.
func TestRedisAway(t *testing.T) {
	const (
		rate    = 100
		seconds = 30
	)
	s := startStack(t)
	vars, _ := startMesh(t, s)
	url := "http://" + vars["GATEWAY"] + "/orders/7"
	until(t, 10*time.Second, func() error {
		return get(t.Context(), http.DefaultClient, url, "demo.localhost", `"version":"v1"`)
	})

	// Who registers later than Redis goes comes only when it is back.
	until(t, 10*time.Second, func() error {
		return get(t.Context(), http.DefaultClient, "http://"+vars["GATEWAYADMIN"]+"/endpoints", "localhost", `instances/orders-v2-`)
	})

	s.redis.Kill()
	r := openLoop(t.Context(), url, "demo.localhost", `"version":"v1"`, rate*seconds, rate)
	t.Logf("Redis away for %d s: %v", seconds, r)
	if r.failed != 0 || r.sent != rate*seconds {
		t.Errorf("%v, want sent=%d failed=0", r, rate*seconds)
	}
	s.redis.Restart(true)
	fmt.Println(r) // the line that the promise is read from

	// Redis is empty. The control plane fills it again, data planes register
	// again, and what is written from now on arrives.
	until(t, 15*time.Second, func() error { return ready("http://" + vars["CONTROL"] + "/readyz") })
	canary := `name: routes/demo
targets: [GATEWAY]
hostnames: [demo.localhost]
rules:
  - backends: [{service: orders, subset: v2}]
`
	if err := os.WriteFile(filepath.Join(vars["WORK"], "canary.yaml"), []byte(canary), 0o600); err != nil {
		t.Fatal(err)
	}
	hedgerow(t, vars["WORK"], vars, "apply", "-f", "canary.yaml")
	written := time.Now()
	until(t, 2*time.Second, func() error {
		return get(t.Context(), http.DefaultClient, url, "demo.localhost", `"version":"v2"`)
	})
	t.Logf("the route change arrived after %v", time.Since(written).Round(time.Millisecond))
	// And nobody is removed as the new leases take over.
	r = openLoop(t.Context(), url, "demo.localhost", `"version":"v2"`, 5*rate, rate)
	if r.failed != 0 {
		t.Errorf("after Redis came back: %v", r)
	}
}

// TestStartWithRedisAway restarts data planes while Redis is away:
// they start from the snapshot on their disk.
func TestStartWithRedisAway(t *testing.T) {
	s := startStack(t)
	vars, planes := startMesh(t, s)
	url := "http://" + vars["GATEWAY"] + "/orders/7"
	served := func() error {
		return get(t.Context(), http.DefaultClient, url, "demo.localhost", `"version":"v1"`)
	}
	until(t, 10*time.Second, served)
	// Instances reach the disk with the next poll.
	until(t, 10*time.Second, func() error {
		return contains(filepath.Join(vars["WORK"], "gateway", "snapshot-gateway.json"), `"node":"orders-v1"`)
	})
	s.redis.Kill()
	for _, name := range []string{"orders-v1", "gateway"} {
		if err := planes[name].stop(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	start(t, vars["WORK"], "hedgerow", "sidecar", "--config", "orders-v1.yaml")
	start(t, vars["WORK"], "hedgerow", "gateway", "--config", "gateway.yaml")
	began := time.Now()
	until(t, 3*time.Second, served)
	t.Logf("serving %v after the start", time.Since(began).Round(time.Millisecond))
	for _, admin := range []string{"ADMIN1", "GATEWAYADMIN"} {
		if err := get(t.Context(), http.DefaultClient, "http://"+vars[admin]+"/ready", "", `"stale":true`); err != nil {
			t.Errorf("/ready does not say that the configuration is stale: %v", err)
		}
	}
	s.redis.Restart(true)
	until(t, 15*time.Second, func() error {
		return get(t.Context(), http.DefaultClient, "http://"+vars["GATEWAYADMIN"]+"/ready", "", `"ready":true,"revision":1}`)
	})
}

// TestStartWithEverythingAway restarts data planes while Redis, Vault and the control plane are
// all away: they have their configuration, their instances and their identities on disk.
func TestStartWithEverythingAway(t *testing.T) {
	s := startStack(t)
	vars, planes := startMesh(t, s)
	url := "http://" + vars["GATEWAY"] + "/orders/7"
	served := func() error {
		return get(t.Context(), http.DefaultClient, url, "demo.localhost", `"version":"v1"`)
	}
	until(t, 10*time.Second, served)
	until(t, 10*time.Second, func() error {
		return contains(filepath.Join(vars["WORK"], "gateway", "snapshot-gateway.json"), `"node":"orders-v1"`)
	})
	for _, file := range []string{"gateway/identity/gateway_demo.json", "orders-v1/identity/svc_orders_n_orders-v1.json"} {
		if info, err := os.Stat(filepath.Join(vars["WORK"], file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", file, info, err)
		}
	}
	s.redis.Kill()
	s.vault.Kill()
	for _, name := range []string{"control", "orders-v1", "gateway"} {
		if err := planes[name].stop(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	start(t, vars["WORK"], "hedgerow", "sidecar", "--config", "orders-v1.yaml")
	start(t, vars["WORK"], "hedgerow", "gateway", "--config", "gateway.yaml")
	began := time.Now()
	until(t, 3*time.Second, served)
	t.Logf("serving %v after the start", time.Since(began).Round(time.Millisecond))
	if r := openLoop(t.Context(), url, "demo.localhost", `"version":"v1"`, 300, 100); r.failed != 0 {
		t.Errorf("with nobody there: %v", r)
	}
	if err := get(t.Context(), http.DefaultClient, "http://"+vars["GATEWAYADMIN"]+"/ready", "", `"stale":true`); err != nil {
		t.Errorf("/ready does not say that the configuration is stale: %v", err)
	}
}

// contains reports why the file does not hold part.
func contains(name, part string) error {
	b, err := os.ReadFile(name)
	if err == nil && !strings.Contains(string(b), part) {
		err = fmt.Errorf("%s does not hold %s", name, part)
	}
	return err
}
