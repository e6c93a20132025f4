// Package powercut cuts the power of a spool's disk, without a disk: strace
// records each call by which a real writer changes the file and has it synced, and
// what it is told in between. From any moment of that it makes what a disk might be
// left with: all that was synced, and of the rest any sectors. A spool is opened on
// each such image and held against what the writer was told.
//
// What it believes of a disk: it keeps what fdatasync returned for, it writes a
// sector of 512 bytes whole or not at all, and in between anything in any order. A
// sync that failed leaves anything too, and is not made up for later. It knows one
// file; a call that it does not know is an error.
package powercut

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// fileName is the spool's file.
const fileName = "spool.db"

// variable has a program be the writer. Its value is the number of messages and the spool's directory.
const variable = "HEDGEROW_POWERCUT_WRITER"

// Child is the writer, if this process was started as one. Programs that call Record call
// it first.
func Child() (code int, writer bool) {
	told := os.Getenv(variable)
	if told == "" {
		return 0, false
	}
	count, dir, _ := strings.Cut(told, " ")
	n, err := strconv.Atoi(count)
	if err == nil {
		err = write(dir, n)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// Fault is what is done to the writer's syncs: an expression of strace's --inject.
type Fault string

// Faults of syncs.
const (
	None    Fault = ""
	Skipped Fault = "fdatasync,fsync:retval=0"       // they do nothing, and say that they did
	Failing Fault = "fdatasync:error=EIO:when=25+23" // some fail, in each thread
)

// Trace is what a writer did.
type Trace struct{ events []event }

// Record has a writer keep n messages in dir, which is on a disk that has a fault, and
// returns what it did. It runs this program again, which calls Child.
func Record(ctx context.Context, dir string, n int, fault Fault) (*Trace, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "trace")
	kept := filepath.Join(dir, "spool")
	args := []string{
		"-f", "-qq", "-y", "-xx", "-s", "67108864", "--seccomp-bpf", "-o", out,
		"-e", "trace=write,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fdatasync,fsync,sync_file_range,msync,rename,renameat,renameat2,unlink,unlinkat",
	}
	if fault != None {
		args = append(args, "-e", "inject="+string(fault))
	}
	cmd := exec.CommandContext(ctx, "strace", append(args, self)...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", variable, n, kept))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var failed strings.Builder
	cmd.Stderr = &failed
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errors.New("strace is not installed: run `make deps`")
		}
		return nil, fmt.Errorf("the writer under strace: %w: %.2000s", err, failed.String())
	}
	f, err := os.Open(out)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was read
	events, err := read(f, filepath.Join(kept, fileName))
	if err != nil {
		return nil, err
	}
	t := &Trace{events}
	if len(events) == 0 || events[len(events)-1].mark != finished {
		return nil, fmt.Errorf("the trace of %d events does not end with the writer's end", len(events))
	}
	return t, nil
}

// Count returns how many syncs there were, and how many failed.
func (t *Trace) Count() (syncs, failed int) {
	for _, e := range t.events {
		switch e.kind {
		case synced:
			syncs++
		case unsynced:
			failed++
		case written, resized, entered, remembered:
		}
	}
	return syncs, failed
}

// Report is what spools make of images.
type Report struct {
	Images   int
	Promised int // acknowledged messages, over all images
	Lost     int // images in which such a one is missing
	Garbage  int // in which one is not what was written, or one is back that must not be
	Refused  int // on which a spool does not open, or takes nothing
	Aside    int // that were taken for damaged
	Returned int // the most deliveries that came again in one
	Wrong    []string
}

// Images makes n images of moments of t below dir, each from a number that follows from seed, and tries them.
func (t *Trace) Images(ctx context.Context, dir string, n int, seed uint64) (Report, error) {
	var r Report
	moments := t.moments()
	for i := range n {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		chance := rand.New(rand.NewPCG(seed, uint64(i)))
		at := moments[chance.IntN(len(moments))]
		image, p, err := t.cut(at, chance)
		if err != nil {
			return r, err
		}
		where, err := place(dir, image)
		if err != nil {
			return r, err
		}
		v := judge(where, p)
		if err := os.RemoveAll(where); err != nil {
			return r, err
		}
		r.add(v, p, fmt.Sprintf("seed %d, image %d, cut after %d of %d", seed, i, at, len(t.events)))
	}
	return r, nil
}

// moments returns after how many events the power may fail: each, and those that follow a
// sync that failed many times, for there are few of them.
func (t *Trace) moments() []int {
	const after, times = 8, 60
	var all []int
	since := after
	for i, e := range t.events {
		switch e.kind {
		case unsynced:
			since = 0
		case written, resized, synced, entered:
			since++
		case remembered:
		}
		all = append(all, i+1)
		for n := 1; n < times && since < after; n++ {
			all = append(all, i+1)
		}
	}
	return all
}

// cut returns what the disk has if the power fails after at events, and what was promised by then.
func (t *Trace) cut(at int, chance *rand.Rand) ([]byte, *promised, error) {
	d := &disk{chance: chance}
	p := newPromised()
	for _, e := range t.events[:at] {
		d.take(e)
		if e.kind == remembered {
			if err := p.hear(e.mark); err != nil {
				return nil, nil, err
			}
		}
	}
	return d.cut(), p, nil
}

func (r *Report) add(v verdict, p *promised, name string) {
	count := func(n *int, is bool) {
		if is {
			*n++
		}
	}
	r.Images++
	r.Promised += len(p.kept)
	count(&r.Lost, len(v.lost) > 0)
	count(&r.Garbage, len(v.garbage) > 0)
	count(&r.Refused, v.refused != nil)
	count(&r.Aside, v.aside)
	r.Returned = max(r.Returned, v.returned)
	if v.bad() && len(r.Wrong) < 5 {
		r.Wrong = append(r.Wrong, fmt.Sprintf("%s: %v", name, v))
	}
}
