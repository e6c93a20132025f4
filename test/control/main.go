// Command control takes the checks that tests keep out of the code, one at a
// time, and sees whether a test fails then. A test that passes without what it
// is about holds nothing.
//
//	control [-short] [-run regexp] [-j n]
//
// The changed file is laid over the real one while the package is built: nothing
// in the tree is written. A control is caught if a test fails, and broken if the
// change does not compile, no test has its name, or the time is up: that says
// nothing about the check. It prints one line a control and exits 0 only if all
// are caught. It finds no checks by itself: what is not in its tables is not
// tried.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // from now on a signal has its default effect
	}()
	os.Exit(run(ctx, tables(), os.Args[1:], os.Stdout, os.Stderr))
}

// run tries the controls of all that args choose and returns the exit code: 1 if
// any was not caught, 2 if the command line is wrong.
func run(ctx context.Context, all []table, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("control", flag.ContinueOnError)
	flags.SetOutput(stderr)
	short := flags.Bool("short", false, "one control of each table")
	pattern := flags.String("run", "", "only controls whose `<table>: <promise>` this regular expression matches")
	at := flags.Int("j", 2, "controls at a time")
	root := flags.String("root", ".", "the module's root")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	wanted, err := regexp.Compile(*pattern)
	switch {
	case err != nil:
	case flags.NArg() > 0 || *at < 1:
		err = errors.New("usage: control [-short] [-run regexp] [-j n]")
	}
	var chosen []trial
	if err == nil {
		if chosen = choose(all, wanted, *short); len(chosen) == 0 {
			err = fmt.Errorf("no control is called %s", *pattern)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, err) //nolint:errcheck // nowhere else to say it
		return 2
	}
	dir, err := os.MkdirTemp("", "control")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		b := &bench{root: *root, dir: dir}
		if err = b.unchanged(ctx, chosen); err == nil {
			return b.report(ctx, chosen, *at, stdout)
		}
	}
	fmt.Fprintf(stderr, "control: %v\n", err) //nolint:errcheck // as above
	return 1
}

// trial is a control of a table.
type trial struct {
	table
	control
}

func (t trial) name() string { return t.table.name + ": " + t.promise }

// choose returns the controls that wanted matches, in the order of the tables.
func choose(all []table, wanted *regexp.Regexp, short bool) []trial {
	var chosen []trial
	for _, t := range all {
		n := len(chosen)
		for _, c := range t.controls {
			if next := (trial{t, c}); wanted.MatchString(next.name()) {
				chosen = append(chosen, next)
			}
		}
		if short {
			chosen = chosen[:min(n+1, len(chosen))]
		}
	}
	return slices.Clip(chosen)
}

// report tries all, n at a time, prints a line for each in their order and a sum,
// and returns the exit code.
func (b *bench) report(ctx context.Context, all []trial, n int, out io.Writer) int {
	began := time.Now()
	results := make([]chan result, len(all))
	turns := make(chan struct{}, n)
	for i := range all {
		results[i] = make(chan result, 1)
	}
	go func() {
		for i, t := range all {
			turns <- struct{}{} // in their order: the lines come as they are ready
			go func() {
				results[i] <- b.try(ctx, t)
				<-turns
			}()
		}
	}()
	count := map[outcome]int{}
	var failed error
	for i, t := range all {
		r := <-results[i]
		count[r.outcome]++
		_, err := fmt.Fprintf(out, "%-8s  %s  (%s)\n", r.outcome, t.name(), r.why)
		failed = errors.Join(failed, err)
	}
	_, err := fmt.Fprintf(out, "controls=%d caught=%d survived=%d broken=%d seconds=%.0f\n",
		len(all), count[caught], count[survived], count[broken], time.Since(began).Seconds())
	if errors.Join(failed, err) != nil || count[caught] < len(all) {
		return 1
	}
	return 0
}
