package main

import (
	"context"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// runTool runs a program to its end and returns its output. A program that is
// not installed, that fails, or that takes longer than limit is an error.
func runTool(ctx context.Context, limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: run test/chaos/deps", name)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w; the end of its output:\n%s", name, err, last(out, 2000))
	}
	return string(out), nil
}

// last returns the last n bytes of text.
func last(text []byte, n int) []byte { return text[max(0, len(text)-n):] }
