package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const (
	// endMost is how long a program may take to end: the longest drain, and a
	// little for the rest.
	endMost = 35 * time.Second
	// readyMost is how long a program may take to serve, on a loaded machine.
	readyMost = 30 * time.Second
	// outputLimit is how much of a program's output is shown, in bytes.
	outputLimit = 4 << 10
)

// Command is a program to start.
type Command struct {
	Name    string // for messages; no two of one directory are the same
	Dir     string // where it runs, and prints into Name.log
	Program string // a path, or a name to be found in PATH
	Args    []string
	Env     []string // "NAME=value", beside the environment of this process
}

// Process is a program that was started. Its methods belong to the goroutine
// that runs the test.
type Process struct {
	Name string

	t     testing.TB
	how   Command
	cmd   *exec.Cmd
	log   string        // the file that it prints into
	asked bool          // to end
	done  chan struct{} // closed when it has been reaped
	err   error         // how it ended; valid once done is closed
}

// Start starts a program. When the test ends it is told to, with SIGTERM; one
// that ended before without being asked fails the test. The kernel kills it if
// this process dies.
func Start(t testing.TB, c Command) *Process {
	t.Helper()
	p := &Process{Name: c.Name, t: t, how: c, log: filepath.Join(c.Dir, c.Name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatalf("start %s: %v", c.Name, err)
	}
	p.cmd = exec.Command(c.Program, c.Args...)
	p.cmd.Dir = c.Dir
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = p.cmd.Start()
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatalf("start %s: %v", c.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.end)
	return p
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Stop tells it to end, as systemd would, and waits. The error says how it
// ended if not with exit code 0; after 35 s it is killed, which is an error.
func (p *Process) Stop() error {
	p.asked = true
	// An error means that it has ended already, which p.err tells.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return p.err
	case <-time.After(endMost):
		err := fmt.Errorf("%s still ran %v after SIGTERM and was killed", p.Name, endMost)
		return errors.Join(err, p.Kill())
	}
}

// Kill ends it at once, as a crash would, and waits. One that has ended is fine.
func (p *Process) Kill() error {
	p.asked = true
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	<-p.done
	return nil
}

// end is the test's end: how the process ends is not what was tested, but that
// it lived until now, and ends in time, is.
func (p *Process) end() {
	p.t.Helper()
	switch {
	case p.Running():
		var exit *exec.ExitError
		if err := p.Stop(); err != nil && !errors.As(err, &exit) {
			p.t.Errorf("%v; its output:\n%s", err, p.Output())
		}
	case !p.asked:
		p.t.Errorf("%v", p.ended())
	}
}

// ended says how a process that should run has ended.
func (p *Process) ended() error {
	return fmt.Errorf("%s ended by itself: %w; its output:\n%s", p.Name, p.err, p.Output())
}

// Output is the last of what it printed.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-outputLimit):])
}

// Until polls check, at least once, until it returns nil. If that takes longer
// than limit, or p ends meanwhile, the test fails there. what says what is
// waited for.
func (p *Process) Until(limit time.Duration, what string, check func(context.Context) error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error // that is not the end of the wait itself
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-p.done:
			p.t.Fatalf("%v", p.ended())
		case <-ctx.Done():
			p.t.Fatalf("waited %v until %s %s: %v; its output:\n%s", limit, p.Name, what, last, p.Output())
		case <-tick.C:
		}
	}
}
