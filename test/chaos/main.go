// Command chaos plays the rows of the fault table on real processes, and
// prints one line a row: what was measured against what is allowed.
//
//	chaos [flags] all | f12 | f13 | f14 | f15 | f16 | f17 | f18 | f19 | f21 | f22 | f23 | f24 | retries | f25 | f26 | f27 | f28 | quarantine | owner | thief | slow |
//		mqtt-images | mqtt-kill | mqtt-full | mqtt-eio | mqtt-down | mqtt-broker | mqtt-partition
//
// It builds nothing and installs nothing: `make chaos-proxy` and test/chaos/deps
// do. It skips nothing: a tool that is missing fails its row. It ends every
// process that it started, also on Ctrl-C, and exits 0 only if every row passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/powercut"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

func main() {
	if code, writer := powercut.Child(); writer {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // from now on a signal has its default effect
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// settings is what the command line says.
type settings struct {
	short    bool
	rate     int
	binaries string
}

// pick returns full, or brief in the short form.
func pick[V any](s settings, full, brief V) V {
	if s.short {
		return brief
	}
	return full
}

// act is one row: it plays its fault under t and adds what it measures to r.
type act struct {
	name, id, title string
	play            func(t *stage.T, r *row, s settings)
}

// acts are the rows by the name of their subcommand, in the order of the table.
// One subcommand may have several.
func acts() []act {
	return slices.Concat([]act{
		{"f12", "F12", "Vault sealed", playSealed},
		{"f13", "F13", "Vault down past expiry", playExpiry},
		{"f14", "F14", "tokens revoked", playRevoked},
		{"f15", "F15", "leaf rotation under load", playRotation},
		{"f16", "F16", "the CA changes", playNewCA},
		{"f17", "F17", "clocks that are wrong", playClock},
		{"f18", "F18", "SIGKILL of a callee's sidecar", playKill},
		{"f19", "F19", "SIGTERM of a callee's sidecar", playCalleeDrain},
		{"f19", "F19", "SIGTERM of a gateway", playGatewayDrain},
		{"f21", "F21", "many routes and many changes", playManyChanges},
		{"f22", "F22", "an instance is killed", playCrash},
		{"f23", "F23", "an instance hangs", playHang},
		{"f24", "F24", "no instance is left", playAllDown},
		{"retries", "48", "retries of a service that fails", playAmplification},
		{"f25", "F25", "workload breaks off", playBreaks},
		{"f26", "F26", "slow readers", playSlowReaders},
		{"f27", "F27", "file descriptors used up at an outbound", playOutboundFiles},
		{"f27", "F27", "file descriptors used up at an inbound", playInboundFiles},
		{"f28", "F28", "memory pressure at a gateway", playMemory},
		{"quarantine", "Q", "quarantine under load", playQuarantine},
		{"quarantine", "Q", "quarantine without its check", playUnchecked},
		{"owner", "3d", "an attacker owns Redis", playOwner},
		{"thief", "3d", "a thief has every file of a node", playThief},
	}, slowActs(), mqttActs())
}

// run plays the rows that args name and returns the exit code: 1 if any failed,
// 2 if the command line is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var s settings
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&s.short, "short", false, "a few seconds a row instead of the full length")
	flags.IntVar(&s.rate, "rate", 500, "requests a second of the load")
	flags.StringVar(&s.binaries, "binaries", "bin", "directory with hedgerow and hedgerow-edge")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	chosen, err := choose(acts(), flags.Args())
	if err != nil || s.rate < 1 || s.rate > 5000 {
		fmt.Fprintln(stderr, errors.Join(err, errors.New("usage: chaos [flags] all | f12 | f13 | f14 | f15 | f16 | f17 | f18 | f19 | f21 | f22 | f23 | f24 | retries | f25 | f26 | f27 | f28 | quarantine | owner | thief | slow | mqtt-images | mqtt-kill | mqtt-full | mqtt-eio | mqtt-down | mqtt-broker | mqtt-partition; -rate is 1 to 5000"))) //nolint:errcheck // nowhere else to say it
		return 2
	}
	if s.binaries, err = programs(s.binaries); err != nil {
		fmt.Fprintf(stderr, "chaos: %v: run `make build`\n", err) //nolint:errcheck // as above
		return 2
	}
	failed := 0
	for _, a := range chosen {
		r := &row{id: a.id, title: a.title}
		began := time.Now()
		if err := stage.Run(ctx, a.name, func(t *stage.T) { a.play(t, r, s) }); err != nil {
			r.failures = append(r.failures, err.Error())
		}
		if ctx.Err() != nil {
			fmt.Fprintf(stderr, "chaos: interrupted in %s\n", a.id) //nolint:errcheck // as above
			return 1
		}
		r.note("took", time.Since(began).Round(time.Second))
		if err := r.print(stdout); err != nil || !r.passed() {
			failed++
		}
	}
	if failed > 0 {
		fmt.Fprintf(stderr, "chaos: %d of %d rows failed\n", failed, len(chosen)) //nolint:errcheck // as above
		return 1
	}
	return 0
}

// programs returns the absolute path of a directory with the built programs: the
// processes run in directories of their own.
func programs(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"hedgerow", "hedgerow-edge"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// choose returns the rows that names ask for, in the order of the table.
func choose(all []act, names []string) ([]act, error) {
	if len(names) == 0 {
		return nil, errors.New("which rows?")
	}
	var chosen []act
	known := map[string]bool{"all": true}
	for _, a := range all {
		known[a.name] = true
		if slices.Contains(names, a.name) || slices.Contains(names, "all") {
			chosen = append(chosen, a)
		}
	}
	var unknown []string
	for _, n := range names {
		if !known[n] {
			unknown = append(unknown, n)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no row is called %s", strings.Join(unknown, ", "))
	}
	return chosen, nil
}
