package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// outcome is what a control showed.
type outcome string

const (
	caught   outcome = "caught"   // a test failed
	survived outcome = "SURVIVED" // none did
	broken   outcome = "BROKEN"   // nothing was shown
)

// result is an outcome, with the test that failed or what went wrong.
type result struct {
	outcome outcome
	why     string
}

// Bounds of a program's run. Tests that pass are quick: what takes so long hangs.
const (
	buildTime     = 5 * time.Minute
	unchangedTime = 5 * time.Minute
	controlTime   = time.Minute
	hangTime      = 20 * time.Second // where hanging is a failure
)

// bench builds and runs test programs.
type bench struct {
	root string // of the module
	dir  string // for what is built
}

// unchanged reports tests that fail though nothing was taken out: their failing
// would show nothing.
func (b *bench) unchanged(ctx context.Context, all []trial) error {
	tests := map[string][]string{} // by folder
	for _, t := range all {
		if !slices.Contains(tests[t.dir], t.tests) {
			tests[t.dir] = append(tests[t.dir], t.tests)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(tests)) {
		scratch, err := os.MkdirTemp(b.dir, "unchanged")
		if err != nil {
			return err
		}
		program := filepath.Join(scratch, "test")
		if out, err := b.build(ctx, dir, program, ""); err != nil {
			return fmt.Errorf("%s does not compile: %w: %s", dir, err, tail(out))
		}
		out, err := b.test(ctx, dir, program, strings.Join(tests[dir], "|"), unchangedTime)
		if err != nil {
			return fmt.Errorf("%s fails as it is: %w: %s", dir, err, tail(out))
		}
	}
	return nil
}

// try takes the check of t out and runs its tests.
func (b *bench) try(ctx context.Context, t trial) result {
	scratch, err := os.MkdirTemp(b.dir, "control")
	if err != nil {
		return result{broken, err.Error()}
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	overlay, err := b.overlay(scratch, t)
	if err != nil {
		return result{broken, err.Error()}
	}
	program := filepath.Join(scratch, "test")
	if out, err := b.build(ctx, t.dir, program, overlay); err != nil && ctx.Err() == nil {
		return result{broken, "does not compile: " + tail(out)}
	}
	bound := controlTime
	if t.hangs {
		bound = hangTime
	}
	out, err := b.test(ctx, t.dir, program, t.tests, bound)
	if ctx.Err() != nil {
		return result{broken, "interrupted"}
	}
	return judge(out, err, t.hangs)
}

// overlay writes the changed file, and what tells the go command of it.
func (b *bench) overlay(scratch string, t trial) (string, error) {
	path, err := filepath.Abs(filepath.Join(b.root, t.dir, t.file))
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	changed, err := t.apply(string(source))
	if err != nil {
		return "", err
	}
	to := filepath.Join(scratch, filepath.Base(t.file))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: to}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(scratch, "overlay.json")
	return overlay, errors.Join(os.WriteFile(to, []byte(changed), 0o600), os.WriteFile(overlay, list, 0o600))
}

// build makes the test program of a package. Apart from running it, so that what
// does not compile is not taken for a test that fails.
func (b *bench) build(ctx context.Context, dir, program, overlay string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	args := []string{"test", "-c", "-ldflags=-s -w", "-o", program} // nobody debugs it: linking is half as long
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./"+filepath.ToSlash(dir))...)
	cmd.Dir = b.root
	return output(cmd)
}

// test runs a test program as go test does.
func (b *bench) test(ctx context.Context, dir, program, tests string, bound time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, bound+10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.run", "^("+tests+")$", "-test.failfast", "-test.paniconexit0", "-test.timeout", bound.String())
	cmd.Dir = filepath.Join(b.root, dir)
	return output(cmd)
}

// output runs cmd with what it starts in a group of their own, which ends with it.
func output(cmd *exec.Cmd) (string, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// What a test program prints.
const (
	noTests  = "testing: warning: no tests to run"
	timedOut = "panic: test timed out after"
)

var (
	failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: (.+) \([0-9.]+s\)$`)
	crash      = regexp.MustCompile(`(?m)^(panic|fatal error): .*$`)
)

// judge says what the output of a test program with err as its end shows.
func judge(out string, err error, hangs bool) result {
	switch tests := failedTest.FindAllStringSubmatch(out, -1); {
	case err == nil && strings.Contains(out, noTests):
		return result{broken, "no test has that name"}
	case err == nil:
		return result{survived, "every test passes"}
	case strings.Contains(out, timedOut) && hangs:
		return result{caught, "a test hangs"}
	case strings.Contains(out, timedOut):
		return result{broken, "the time is up"}
	case len(tests) > 0:
		return result{caught, tests[len(tests)-1][1]} // the last is the innermost
	case crash.MatchString(out):
		return result{caught, crash.FindString(out)}
	}
	return result{broken, err.Error() + ": " + tail(out)}
}

// tail returns the end of what a program printed, in one line.
func tail(out string) string {
	lines := strings.Fields(out)
	const most = 60
	return strings.Join(lines[max(len(lines)-most, 0):], " ")
}
