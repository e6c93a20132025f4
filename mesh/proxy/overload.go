package proxy

import (
	"context"
	"math"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
	"time"
)

// overload watches the memory of the process against its limit (GOMEMLIMIT, or
// debug.SetMemoryLimit): beyond 80 % connections are not kept, beyond 85 % new
// requests are refused, so that those under way are finished and nobody is
// killed. Without a limit it does nothing.
type overload struct {
	pressure atomic.Int32 // percent of the limit that is in use
}

// Levels of pressure, in percent.
const (
	closeAt = 80
	shedAt  = 85
)

// weighEvery is how often the memory is measured.
const weighEvery = 100 * time.Millisecond

func (o *overload) shedding() bool { return o.pressure.Load() >= shedAt }
func (o *overload) closing() bool  { return o.pressure.Load() >= closeAt }

// run measures until ctx ends.
func (o *overload) run(ctx context.Context) {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return
	}
	tick := time.NewTicker(weighEvery)
	defer tick.Stop()
	// What the limit bounds is what the runtime has mapped. Garbage is in it,
	// which the collector takes away as the limit comes near; so what is
	// weighed is what it found alive, what was made since, and stacks.
	sample := []runtimemetrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"},
	}
	for {
		select {
		case <-ctx.Done():
			o.pressure.Store(0)
			return
		case <-tick.C:
			runtimemetrics.Read(sample)
			var used uint64
			for _, s := range sample {
				used += s.Value.Uint64()
			}
			o.pressure.Store(int32(min(100*used/uint64(max(limit, 1)), 1000)))
		}
	}
}
