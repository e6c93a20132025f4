package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
)

// drainMost is how long a data plane may take to end: the longest drain, and a
// little for the rest.
const drainMost = 35 * time.Second

// outputLimit is how much of a process's output is shown, in bytes.
const outputLimit = 4 << 10

// Limits is what a process is started under. The zero value is no limits.
type Limits struct {
	Files int      // file descriptors, hard and soft
	Group string   // the cgroup.procs file to enter
	Env   []string // "NAME=value", beside the environment of this process
}

// command returns program under the limits: they are set by a shell, which then
// becomes the program, so that the process has its id.
func (l Limits) command(program string, args ...string) *exec.Cmd {
	var script []string
	if l.Group != "" {
		script = append(script, fmt.Sprintf("echo $$ > %q", l.Group))
	}
	if l.Files > 0 {
		script = append(script, fmt.Sprintf("ulimit -n %d", l.Files))
	}
	script = append(script, `exec "$0" "$@"`)
	cmd := exec.Command("/bin/sh", append([]string{"-c", strings.Join(script, " && "), program}, args...)...)
	cmd.Env = append(os.Environ(), l.Env...)
	return cmd
}

// Plane is a process of ours: a sidecar, a gateway, the control plane. Its
// methods belong to one goroutine.
type Plane struct {
	Name     string
	Admin    proc.Admin
	Inbound  string // where peers come in, "127.0.0.1:port"
	Outbound string // where the workload calls out
	Public   string // of a gateway: in clear text
	Secure   string // of a gateway: over TLS

	t    *T
	args []string // program and arguments
	dir  string
	log  string // the file that it prints into
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; valid once done is closed
}

// Start starts the process under limits; Ready says when it serves. It ends
// with the row.
func (p *Plane) Start(limits Limits) {
	p.t.Helper()
	p.cmd = limits.command(p.args[0], p.args[1:]...)
	p.cmd.Dir = p.dir
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = p.cmd.Start()
	if err := errors.Join(err, out.Close()); err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	cmd, done := p.cmd, make(chan struct{})
	p.done = done
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
}

// Ready waits until /ready answers 200.
func (p *Plane) Ready() {
	p.t.Helper()
	p.t.Until(30*time.Second, p.Name+" is ready", func(ctx context.Context) error {
		if !p.Running() {
			return p.ended()
		}
		return p.Admin.Ready(ctx)
	})
}

// ended says how a process that should run has ended.
func (p *Plane) ended() error {
	return fmt.Errorf("%s ended: %w; its output:\n%s", p.Name, p.err, p.Output())
}

// Pid is the id of the process that was started last.
func (p *Plane) Pid() int { return p.cmd.Process.Pid }

// Running reports whether it has not ended.
func (p *Plane) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Terminate asks the process to end, as systemd would.
func (p *Plane) Terminate() error { return p.cmd.Process.Signal(syscall.SIGTERM) }

// Wait waits until the process has ended and reports how, if not with exit code
// 0. After drainMost it is killed, which is an error.
func (p *Plane) Wait() error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(drainMost):
		return errors.Join(fmt.Errorf("still running %v after SIGTERM", drainMost), p.cmd.Process.Kill())
	}
}

// Kill ends the process at once and waits for it. One that has ended is fine.
func (p *Plane) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// Output is the last of what the process printed.
func (p *Plane) Output() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-outputLimit):])
}

// close ends the process, if it still runs. It was asked for by nobody but the
// end of the row: how it ends is not what the row measures, but that it ends is.
func (p *Plane) close() {
	if p.done == nil || !p.Running() {
		return
	}
	if err := p.Terminate(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("end %s: %v", p.Name, err)
	}
	select {
	case <-p.done:
	case <-time.After(drainMost):
		p.t.Errorf("%s did not end within %v of SIGTERM and was killed", p.Name, drainMost)
		_ = p.cmd.Process.Kill() // an error means that it has ended
		<-p.done
	}
}

// Until polls check until it returns nil, and ends the row if that takes longer
// than limit. what says what is waited for.
func (t *T) Until(limit time.Duration, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v until %s: %v", limit, what, err)
		case <-tick.C:
		}
	}
}

// Pause waits for d, or ends the row if it is given up meanwhile.
func (t *T) Pause(d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatalf("given up: %v", context.Cause(t.Context()))
	}
}
