// Package servers starts the real servers that tests talk to: Redis,
// Mosquitto, Vault and the ACME server Pebble, each as a process of its own on a free loopback port
// with its own temporary directory.
//
// It is for tests only: no package of the product may import it, it fails the
// test instead of returning errors, and it does not fake any server. Its
// methods belong to the goroutine that runs the test.
//
// Invariant: a process started here has ended before its test has, whatever
// way the test ends; if the test binary is killed, the kernel kills the
// process with it.
package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// readyTimeout bounds the wait for a server to answer. It is long because
	// a loaded machine is slow, and costs nothing on one that is not.
	readyTimeout = 60 * time.Second
	// pollEvery is the pause between two looks at a server that starts.
	pollEvery = 10 * time.Millisecond
	// stopTimeout is how long a server may take to end by itself.
	stopTimeout = 10 * time.Second
	// outputLimit is how much of a server's output is kept, in bytes.
	outputLimit = 64 << 10
	// portTries is how many ports are tried before a start fails.
	portTries = 5
)

// server is one program on one port: started, ended and started again.
type server struct {
	t     testing.TB
	name  string
	dir   string // its own directory, gone after the test
	port  int
	env   []string // besides the test's own
	proc  *process
	start func() (binary string, args []string, err error) // uses port and dir
	probe func(ctx context.Context) error                  // nil once it serves
}

// newServer prepares a server; launch starts it.
func newServer(t testing.TB, name string) *server {
	t.Helper()
	s := &server{t: t, name: name, dir: t.TempDir()}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() && s.proc != nil {
			t.Logf("last output of %s:\n%s", s.name, s.proc.output.String())
		}
	})
	return s
}

// launch starts the server on a port of its own and waits until it serves.
func (s *server) launch() {
	s.t.Helper()
	var err error
	for range portTries {
		if s.port, err = freePort(s.t); err != nil {
			break
		}
		if err = s.run(); err == nil || !portTaken(err) {
			break
		}
	}
	if err != nil {
		s.t.Fatalf("start %s: %v", s.name, err)
	}
}

// relaunch starts a server that has ended, on the port it had.
func (s *server) relaunch() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatalf("start %s again on port %d: %v", s.name, s.port, err)
	}
}

// run starts the process and waits for the first answer.
func (s *server) run() error {
	binary, args, err := s.start()
	if err != nil {
		return err
	}
	if s.proc, err = startProcess(s.env, binary, args...); err != nil {
		return err
	}
	if err := s.awaitReady(); err != nil {
		s.Kill()
		return fmt.Errorf("%w; its output:\n%s", err, s.proc.output.String())
	}
	return nil
}

// awaitReady polls the probe until it succeeds, the process ends or time is up.
func (s *server) awaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := s.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.proc.done:
			return fmt.Errorf("it ended before it served: %w", errors.Join(s.proc.err, err))
		case <-ctx.Done():
			return fmt.Errorf("not ready after %v: %w", readyTimeout, err)
		case <-tick.C:
		}
	}
}

// Stop ends the server as its operator would, with SIGTERM, and waits for it.
// Stopping a server that has ended does nothing.
func (s *server) Stop() {
	s.t.Helper()
	if s.proc == nil {
		return
	}
	s.proc.signal(syscall.SIGTERM)
	select {
	case <-s.proc.done:
	case <-time.After(stopTimeout):
		s.Kill()
		s.t.Errorf("%s did not end within %v of SIGTERM and was killed", s.name, stopTimeout)
	}
}

// Kill ends the server with SIGKILL, as a crash would, and waits for it.
func (s *server) Kill() {
	if s.proc == nil {
		return
	}
	s.proc.signal(syscall.SIGKILL)
	<-s.proc.done
}

// Pid is the process id of the server that was started last.
func (s *server) Pid() int { return s.proc.cmd.Process.Pid }

func (s *server) address() string {
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(s.port))
}

// dialProbe succeeds once the server accepts a connection.
func (s *server) dialProbe(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address())
	if err != nil {
		return err
	}
	return conn.Close()
}

// process is a child and what it printed.
type process struct {
	cmd    *exec.Cmd
	output *tail
	done   chan struct{} // closed when the child has been reaped
	err    error         // how it ended; valid once done is closed
}

// startProcess starts a child that the kernel kills when this process dies.
func startProcess(env []string, binary string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(binary, args...), output: &tail{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// signal sends sig unless the child has ended; os.Process knows once it was
// reaped, so the signal cannot reach another process that got its id.
func (p *process) signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_, _ = fmt.Fprintf(p.output, "\n[signal %v: %v]\n", sig, err)
	}
}

// tail keeps the last outputLimit bytes written to it.
type tail struct {
	mu   sync.Mutex
	data []byte // guarded by mu; up to twice the limit, so that trimming is rare
}

// Write never fails.
func (o *tail) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data = append(o.data, b...)
	if len(o.data) > 2*outputLimit {
		o.data = append(o.data[:0], o.data[len(o.data)-outputLimit:]...)
	}
	return len(b), nil
}

// String returns what is kept.
func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.data[max(0, len(o.data)-outputLimit):])
}

// freePort finds a loopback port that nobody listens on, below the range that
// the kernel hands out. A client that keeps dialling a dead port inside that
// range can be given the very port as its source and so connect to itself, and
// any other client may sit on it when the server wants it back. Until the test
// ends no other test is given it, whichever process that is in: a server that
// was ended comes back there.
func freePort(t testing.TB) (int, error) {
	const span = 10_000
	low := 32768
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if _, err := fmt.Sscan(string(text), &low); err != nil {
			return 0, fmt.Errorf("read the ephemeral port range: %w", err)
		}
	}
	low = max(low, 2*span) // a range that starts lower overlaps: still works, less surely
	cache, err := os.UserCacheDir()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(cache, "hedgerow-test", "ports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	for range 200 {
		port := low - span + rand.IntN(span)
		mine, err := claim(t, filepath.Join(dir, strconv.Itoa(port)))
		if err != nil {
			return 0, err
		}
		if !mine {
			continue
		}
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, ln.Close()
		}
	}
	return 0, fmt.Errorf("no free port in %d..%d", low-span, low-1)
}

// claim reports whether nobody else has the file, and keeps it until the test ends. What
// ends without that, loses it.
func claim(t testing.TB, path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false, f.Close()
	}
	t.Cleanup(func() { _ = f.Close() })
	return true, nil
}

// portTaken reports whether a start failed because somebody took the port
// between the look and the use.
func portTaken(err error) bool {
	return strings.Contains(strings.ToLower(err.Error()), "address already in use")
}

// findBinary looks in PATH and where Debian puts servers, which the PATH of an
// ordinary user lacks.
func findBinary(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run `make deps`", name)
}
