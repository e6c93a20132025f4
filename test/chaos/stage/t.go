package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// T is what one row of the fault table runs under: it gives back what the row
// started, and keeps what went wrong. It is a testing.TB of a program that is
// no test, as far as test/servers uses one; a method that is not defined here
// must not be called.
type T struct {
	testing.TB

	name string
	ctx  context.Context

	mu       sync.Mutex // guards what follows
	cleanups []func()
	failures []string
}

// Run runs f in a goroutine of its own and returns what went wrong in it. When
// it returns, all that f started through its T has ended, the last first,
// whether f returned, failed or ctx ended.
func Run(ctx context.Context, name string, f func(*T)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := &T{name: name, ctx: ctx}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer t.clean()
		defer cancel()
		f(t)
	}()
	<-done
	var errs []error
	for _, failure := range t.failures {
		errs = append(errs, errors.New(failure))
	}
	return errors.Join(errs...)
}

// clean runs the cleanups, the last registered first, each even if one before
// it has failed for good.
func (t *T) clean() {
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		last := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			last()
		}()
		<-done
	}
}

// Cleanup runs f when the row ends.
func (t *T) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Context ends when the row is to be given up, or has ended. Cleanups run after
// that.
func (t *T) Context() context.Context { return t.ctx }

// Name is the row's.
func (t *T) Name() string { return t.name }

// Helper does nothing.
func (t *T) Helper() {}

// Errorf notes a failure.
func (t *T) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, fmt.Sprintf(format, args...))
}

// Error notes a failure.
func (t *T) Error(args ...any) { t.Errorf("%s", fmt.Sprint(args...)) }

// Fatalf notes a failure and ends the goroutine.
func (t *T) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal notes a failure and ends the goroutine.
func (t *T) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

// Failed reports whether something went wrong.
func (t *T) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failures) > 0
}

// Logf drops what it is given: the servers' last words. A server that does not
// start says why in its failure.
func (*T) Logf(string, ...any) {}

// TempDir makes a directory that goes with the row.
func (t *T) TempDir() string {
	dir, err := os.MkdirTemp("", "hedgerow-chaos-")
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
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
