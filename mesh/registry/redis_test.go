package registry_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// What only a real Redis can do.

func TestAStoppedRedisIsNoticedAndOutlived(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	c, l := open(t, s.Addr), newRevisions()
	l.publish(t, c, world())
	register(t, s.Addr, "n1", "127.0.0.1:1001")
	w := watch(t, s.Addr, registry.WatcherOptions{}, "orders")
	eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
	before := w.Snapshot()

	if err := syscall.Kill(s.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, "noticed", func() bool { return !w.Status().Connected })
	t.Logf("half-open connection noticed after %v", took)
	if took > 10*time.Second {
		t.Errorf("noticed after %v, want 10 s at most", took)
	}
	// Longer than a lease: the key expires the moment Redis runs again.
	throughout(t, registry.LeaseTTL, "the snapshot stands", func() bool { return w.Snapshot() == before })
	if err := syscall.Kill(s.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	took = eventually(t, "connected again", func() bool { return w.Status().Connected })
	t.Logf("connected again after %v", took)
	throughout(t, 3*time.Second, "the instance stays", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
}

func TestAKilledRedisTakesNothingAway(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	c, l := open(t, s.Addr), newRevisions()
	l.publish(t, c, world())
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
	register(t, s.Addr, "n1", "127.0.0.1:1001")
	w := watch(t, s.Addr, registry.WatcherOptions{}, "orders")
	eventually(t, "the instance", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
	before := w.Snapshot()

	s.Kill()
	throughout(t, registry.LeaseTTL+2*time.Second, "the snapshot stands while Redis is away", func() bool { return w.Snapshot() == before })
	s.Restart(true)
	took := eventually(t, "connected again", func() bool { return w.Status().Connected })
	t.Logf("connected %v after Redis came back", took)
	change, base, all := l.commit(route(1))
	if _, err := c.Publish(t.Context(), change, base, all); err != nil {
		t.Fatal(err)
	}
	took = eventually(t, "a change", func() bool { return w.revision() == 2 })
	t.Logf("a change arrived after %v", took)
	if took > 2*time.Second {
		t.Errorf("a change took %v to arrive", took)
	}
	throughout(t, registry.LeaseTTL+2*time.Second, "the instance stays", func() bool { return w.addresses("orders") == "127.0.0.1:1001" })
}

// TestOneClientReregistersAtOnce is how a process uses the package: what its
// watcher notices makes its lease look.
func TestOneClientReregistersAtOnce(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	c, l := open(t, s.Addr), newRevisions()
	l.publish(t, c, world())
	w := registry.NewWatcher(c.Client, nodes.Bundle, registry.WatcherOptions{})
	running(t, w.Run)
	lease, err := registry.NewLease(c.Client, "n1", mesh.RoleSidecar, nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	running(t, lease.Run)
	r := raw(t, s.Addr)
	exists := func() bool { return r.Exists(t.Context(), prefix+"inst:n1/SIDECAR").Val() == 1 }
	eventually(t, "registered", exists)
	eventually(t, "watching", func() bool { return w.Status().Connected })
	s.Restart(true)
	took := eventually(t, "registered again", exists)
	t.Logf("registered again %v after the restart", took)
	if took > 3*time.Second {
		t.Errorf("registered again after %v", took)
	}
}

func TestAFullRedisRefusesAllOrNothing(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t)
	c, l := open(t, s.Addr), newRevisions()
	l.publish(t, c, world())
	r := raw(t, s.Addr)
	if err := r.ConfigSet(t.Context(), "maxmemory", "1mb").Err(); err != nil {
		t.Fatal(err)
	}
	before := &revisions{head: l.head, records: l.records}
	change, base, all := l.commit(route(1))
	if _, err := c.Publish(t.Context(), change, base, all); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("Publish to a full Redis: %v", err)
	}
	if err := r.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil { // a full one queues no MULTI
		t.Fatal(err)
	}
	expectStored(t, c, s.Addr, before)
	if got, err := c.Publish(t.Context(), change, base, all); err != nil || got != registry.Published {
		t.Errorf("Publish again: %v, %v", got, err)
	}
	expectStored(t, c, s.Addr, l)
}

func TestPasswordFile(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t, servers.RedisPassword("s3cret"))
	c := openConfig(t, registry.Config{Addresses: []string{s.Addr}, Mesh: "test", PasswordFile: s.PasswordFile})
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("with the password: %v", err)
	}
	err := open(t, s.Addr).Ping(t.Context())
	if mesh.KindOf(err) != mesh.Unavailable || mesh.HintOf(err) == "" {
		t.Errorf("without the password: %v", err)
	}
	file := filepath.Join(t.TempDir(), "password")
	cfg := registry.Config{Addresses: []string{s.Addr}, Mesh: "test", PasswordFile: file}
	_, err = registry.Open(cfg, trusted.Verifier(), zerolog.Nop(), prometheus.NewRegistry())
	if mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), file) {
		t.Errorf("with a password file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	later := openConfig(t, cfg)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := later.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("with a password file that is gone: %v", err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	files := servers.LoopbackTLS(t)
	port := servers.FreePorts(t, 1)[0]
	servers.Redis(t,
		servers.RedisSetting("tls-port", fmt.Sprint(port)),
		servers.RedisSetting("tls-cert-file", files.CertFile),
		servers.RedisSetting("tls-key-file", files.KeyFile),
		servers.RedisSetting("tls-ca-cert-file", files.CAFile),
		servers.RedisSetting("tls-auth-clients", "yes"))
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	c := openConfig(t, registry.Config{Addresses: []string{addr}, Mesh: "test", TLS: registry.TLS{
		CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile,
	}})
	l := newRevisions()
	l.publish(t, c, world())
	w := registry.NewWatcher(c.Client, nodes.Bundle, registry.WatcherOptions{})
	running(t, w.Run)
	eventually(t, "a snapshot over TLS", func() bool { return w.Snapshot() != nil })

	pem, err := os.ReadFile(files.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots}); err != nil {
		t.Errorf("the server is not what the test thinks: %v", err)
	} else {
		_ = conn.Close()
	}
	for name, cfg := range map[string]registry.TLS{
		"without a client certificate": {CAFile: files.CAFile},
		"with the system's roots":      {Enabled: true, CertFile: files.CertFile, KeyFile: files.KeyFile},
		"with another server name":     {CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile, ServerName: "other"},
	} {
		c := openConfig(t, registry.Config{Addresses: []string{addr}, Mesh: "test", TLS: cfg})
		if err := c.Ping(t.Context()); mesh.KindOf(err) != mesh.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	s := servers.Redis(t, servers.RedisSetting("cluster-enabled", "yes"))
	r := raw(t, s.Addr)
	if err := r.ClusterAddSlotsRange(t.Context(), 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster's state", func() bool { return strings.Contains(r.ClusterInfo(t.Context()).Val(), "cluster_state:ok") })
	// Two addresses make it a cluster; both may be the same server.
	c := openConfig(t, registry.Config{Addresses: []string{s.Addr, s.Addr}, Mesh: "test"})
	l := newRevisions()
	l.publish(t, c, world())
	lease, err := registry.NewLease(c.Client, "n1", mesh.RoleSidecar, nodes.Node("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Update(offers("127.0.0.1:1001")); err != nil {
		t.Fatal(err)
	}
	running(t, lease.Run)
	w := registry.NewWatcher(c.Client, nodes.Bundle, registry.WatcherOptions{All: true})
	running(t, w.Run)
	eventually(t, "the instance", func() bool { s := w.Snapshot(); return s != nil && len(s.Instances["orders"]) == 1 })
	l.publish(t, c, route(1))
	eventually(t, "a change", func() bool { return w.Snapshot().Config.Head.Revision == 2 })
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
	answered(t, c.Client)
}

func toAny(s []string) []any {
	out := make([]any, len(s))
	for i := range s {
		out[i] = s[i]
	}
	return out
}
