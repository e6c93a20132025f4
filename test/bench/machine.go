package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hedgerow-mesh/hedgerow/test/bench/peers"
)

// machine is where, when and how a run was made.
type machine struct {
	run               string // "bench chain: 5 rounds, -duration 4s"
	date, kernel, cpu string
	cores             int
	programs          []string
}

// describe describes this machine; binaries is where our programs are.
func describe(ctx context.Context, binaries string) (machine, error) {
	m := machine{date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), cores: runtime.NumCPU(), cpu: "unknown CPU"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, fmt.Errorf("ask for the kernel: %w", err)
	}
	m.kernel = "Linux " + unix.ByteSliceToString(u.Release[:])
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(text), "model name"); ok {
			line, _, _ := strings.Cut(rest, "\n")
			m.cpu = strings.Trim(line, "\t :")
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(binaries, "hedgerow-edge"), "version").Output()
	if err != nil {
		return m, fmt.Errorf("hedgerow-edge version: %w", err)
	}
	versions, err := peers.Versions(ctx)
	m.programs = append(m.programs, versions...)
	m.programs = append(m.programs, strings.TrimSpace(string(out)))
	return m, err
}

func (m machine) text() string {
	return fmt.Sprintf("%s; %s; %d cores, %s\n%s\n%s\n", m.date, m.kernel, m.cores, m.cpu, strings.Join(m.programs, "; "), m.run)
}

// markdown is text with its ends of lines kept.
func (m machine) markdown() string {
	return strings.ReplaceAll(strings.TrimSpace(m.text()), "\n", "  \n") + "\n"
}
