package thrift

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"
)

// Bounds of the governor, in cores that the process uses.
const (
	// every is how often it looks.
	every = 100 * time.Millisecond
	// busy is the share of its threads that a process uses when it gets one more.
	busy = 0.8
	// enough is the share of one thread less that it may use to lose one.
	enough = 0.6
	// calmFor is how long it must have been enough.
	calmFor = 3 * time.Second
)

// threads governs how many threads run Go code until ctx ends, and gives all back
// then.
func threads(ctx context.Context) {
	if os.Getenv("GOMAXPROCS") != "" {
		<-ctx.Done()
		return
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
			return
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
