package thrift

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// When memory is given back.
const (
	// lookEvery is how often a process looks.
	lookEvery = 2 * time.Second
	// calmLooks is how often in a row it must have been calm: connections give
	// their buffers back in the first seconds.
	calmLooks = 2
	// collections are made to give it back.
	collections = 4
	// calm is the share of a core below which it is.
	calm = 0.03
	// worth is how many bytes must have been allocated since the last time.
	worth = 2 << 20
)

// gcPercent is GOGC where the environment sets none. Forwarding allocates next to
// nothing, so that a small heap costs few collections; and what is collected early
// leaves fewer holes between what stays.
const gcPercent = 50

// memory gives back what a burst left until ctx ends.
func memory(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var t trimmer
	used, at := cpuTime(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			next := cpuTime()
			if t.due(float64(next-used)/float64(now.Sub(at)), allocated()) {
				// Pools keep what is in them over one collection, and each
				// halves the stacks that are too large.
				for range collections - 1 {
					runtime.GC()
				}
				debug.FreeOSMemory()
				next = cpuTime() // its own cost is no load
			}
			used, at = next, now
		}
	}
}

// trimmer decides when.
type trimmer struct {
	seen  uint64 // bytes allocated until the last time
	quiet int    // calm looks since there was load
}

// due takes how many cores were used of late, and how many bytes were allocated
// ever.
func (t *trimmer) due(cores float64, bytes uint64) bool {
	if cores >= calm {
		t.quiet = 0
		return false
	}
	t.quiet++
	if t.quiet < calmLooks || bytes-t.seen < worth {
		return false
	}
	t.seen = bytes
	return true
}

// allocated returns how many bytes this process has allocated ever.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
