// Package threads gives a process as many threads that run Go code as its load
// needs: one while that is enough, more as it is not.
//
// Goroutines that hand work to each other across threads pay for it with system
// calls and idle spinning, which at low load is a large part of what a proxy
// costs. It sets runtime.GOMAXPROCS and nothing else: no affinity, no priority,
// no memory limit. A GOMAXPROCS that the environment sets stays.
package threads

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

// Bounds of the governor, in cores that the process uses.
const (
	every = 100 * time.Millisecond
	// busy is the share of its threads that a process uses when it gets one more.
	busy = 0.8
	// enough is the share of one thread less that it may use to lose one.
	enough = 0.6
	// calmFor is how long it must have been enough.
	calmFor = 3 * time.Second
)

// Run governs until ctx ends, and gives all threads back then.
func Run(ctx context.Context) error {
	if os.Getenv("GOMAXPROCS") != "" {
		<-ctx.Done()
		return nil
	}
	g := governor{most: runtime.GOMAXPROCS(0), threads: 1}
	runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(g.most)
	tick := time.NewTicker(every)
	defer tick.Stop()
	used, at := cpuTime(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			next := cpuTime()
			before := g.threads
			g.look(float64(next-used)/float64(now.Sub(at)), now.Sub(at))
			if g.threads != before {
				runtime.GOMAXPROCS(g.threads)
			}
			used, at = next, now
		}
	}
}

// governor decides how many threads there are.
type governor struct {
	most, threads int
	calm          time.Duration // for how long fewer would have been enough
}

// look takes how many cores were used for a while.
func (g *governor) look(cores float64, while time.Duration) {
	switch {
	case cores >= busy*float64(g.threads):
		g.threads, g.calm = min(g.threads+1, g.most), 0
	case g.threads > 1 && cores < enough*float64(g.threads-1):
		if g.calm += while; g.calm >= calmFor {
			g.threads, g.calm = g.threads-1, 0
		}
	default:
		g.calm = 0
	}
}

// cpuTime is what this process has used of all cores.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0 // it does not fail for oneself
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
