package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program under test. Its output is shown if the test fails.
type process struct {
	name string
	cmd  *exec.Cmd
	out  syncBuffer
	done chan struct{}
	err  error // valid when done is closed
}

// start runs a program of ours in dir until the test ends; then it is
// interrupted and must exit 0.
func start(t *testing.T, dir, program string, args ...string) *process {
	t.Helper()
	p := &process{name: program + " " + strings.Join(args, " "), done: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(binaries, program), args...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", p.name, p.out.String())
		}
	})
	return p
}

// stop interrupts the process and reports how it ended, if not with exit code 0.
func (p *process) stop() error {
	// An error means that it has ended already, which Wait's error tells.
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
		return p.err
	case <-time.After(40 * time.Second):
		return errors.Join(errors.New("still running 40 s after SIGINT"), p.cmd.Process.Kill())
	}
}

// startMesh runs the whole mesh of testdata/mesh as separate processes and
// returns when it serves: the addresses, and the data planes by the name of
// their files.
func startMesh(t *testing.T, s *stack) (map[string]string, map[string]*process) {
	t.Helper()
	dir := t.TempDir()
	vars := s.variables(dir)
	if err := s.writeFiles(dir, vars); err != nil {
		t.Fatal(err)
	}
	start(t, dir, "hedgerow", "workload", "orders", "--version", "v1", "--address", vars["ORDERS1"])
	start(t, dir, "hedgerow", "workload", "orders", "--version", "v2", "--address", vars["ORDERS2"])
	start(t, dir, "hedgerow", "workload", "telemetry", "--address", vars["TELEMETRY"])
	control := start(t, dir, "hedgerow", "control", "--config", "control.yaml")
	until(t, 20*time.Second, func() error { return ready("http://" + vars["CONTROL"] + "/readyz") })
	hedgerow(t, dir, vars, "apply", "-f", "mesh.yaml")
	planes := map[string]*process{
		"control":   control,
		"orders-v1": start(t, dir, "hedgerow", "sidecar", "--config", "orders-v1.yaml"),
		"orders-v2": start(t, dir, "hedgerow", "sidecar", "--config", "orders-v2.yaml"),
		"telemetry": start(t, dir, "hedgerow-edge", "sidecar", "--config", "telemetry.yaml"),
		"gateway":   start(t, dir, "hedgerow", "gateway", "--config", "gateway.yaml"),
		"bridge":    start(t, dir, "hedgerow-edge", "bridge", "--config", "bridge.yaml"),
	}
	for _, admin := range []string{"ADMIN1", "ADMIN2", "ADMIN3", "GATEWAYADMIN", "BRIDGEADMIN"} {
		until(t, 20*time.Second, func() error { return ready("http://" + vars[admin] + "/ready") })
	}
	return vars, planes
}

// hedgerow runs a client verb, which must succeed, and returns its output.
func hedgerow(t *testing.T, dir string, vars map[string]string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(binaries, "hedgerow"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HEDGEROW_SERVER=http://"+vars["CONTROL"], "HEDGEROW_TOKEN_FILE="+vars["WORK"]+"/control/admin.token")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("hedgerow %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ready reports why the process behind url is not ready.
func ready(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("%s: %d %s", url, resp.StatusCode, body)
	}
	return nil
}

// until polls check until it returns nil, for at most limit.
func until(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", limit, err)
		}
		<-tick.C
	}
}

// syncBuffer is a bytes.Buffer for several writers.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
