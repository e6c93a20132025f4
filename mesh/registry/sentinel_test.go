package registry_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// startSentinel runs one Sentinel that watches the primary at addr as "main"
// and may fail over by itself.
func startSentinel(t *testing.T, addr string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir, own := t.TempDir(), servers.FreePorts(t, 1)[0]
	conf := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n", own, dir, host, port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", conf, "--sentinel")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	sentinel := fmt.Sprintf("127.0.0.1:%d", own)
	r := raw(t, sentinel)
	eventually(t, "the Sentinel answers", func() bool { return r.Ping(t.Context()).Err() == nil })
	return sentinel
}

// TestSentinelFailover kills the primary: the registry goes on at the replica,
// with what it had.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	primary, replica := servers.Redis(t), servers.Redis(t)
	host, port, err := net.SplitHostPort(primary.Addr)
	if err != nil {
		t.Fatal(err)
	}
	second := raw(t, replica.Addr)
	if err := second.Do(t.Context(), "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	sentinel := startSentinel(t, primary.Addr)
	c := openConfig(t, registry.Config{Addresses: []string{sentinel}, MasterName: "main", Mesh: "test"})
	l := newRevisions()
	l.publish(t, c, world())
	running(t, registry.NewRepublisher(c.Client, l.source).Run)
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
	has := func() bool { s := w.Snapshot(); return s != nil && len(s.Instances["orders"]) == 1 }
	eventually(t, "the instance", has)
	eventually(t, "the replica has the head", func() bool { return second.Exists(t.Context(), prefix+"head").Val() == 1 })
	eventually(t, "the Sentinel knows the replica", func() bool {
		replicas, err := raw(t, sentinel).Do(t.Context(), "SENTINEL", "REPLICAS", "main").Slice()
		return err == nil && len(replicas) == 1
	})

	primary.Kill()
	killed := time.Now()
	l.commit(route(1)) // logged while nobody takes it
	eventually(t, "the logged revision at the new primary", func() bool { return w.Snapshot().Config.Head.Revision == 2 })
	t.Logf("converged %v after the primary was killed", time.Since(killed))
	throughout(t, 2*time.Second, "the instance stays", has)
	expectStored(t, c, replica.Addr, l)
}
