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
	// A burst is over before it is measured. So each request under way counts
	// as what one with a body that streams comes to need.
	spare    atomic.Int64 // bytes up to shedAt beyond what an idle process uses; 0 is no limit
	inFlight atomic.Int64
}

// requestBytes is what one request under way is taken to need at most: buffers
// and windows of the connections on both sides.
const requestBytes = 128 << 10

// Levels of pressure, in percent.
const (
	closeAt = 80
	shedAt  = 85
)

// weighEvery is how often the memory is measured.
const weighEvery = 20 * time.Millisecond

// shedding reports whether a new request is to be refused.
func (o *overload) shedding() bool {
	spare := o.spare.Load()
	return o.pressure.Load() >= shedAt || spare > 0 && o.inFlight.Load()*requestBytes > spare
}

// closing reports whether connections are not to be kept.
func (o *overload) closing() bool { return o.pressure.Load() >= closeAt }

// run measures until ctx ends.
func (o *overload) run(ctx context.Context) {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return
	}
	tick := time.NewTicker(weighEvery)
	defer tick.Stop()
	// What was alive at the last collection tells of a burst when it is too
	// late. So objects are weighed that may be garbage by now: as the limit
	// comes near, the collector runs often enough for that to be little.
	sample := []runtimemetrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
		{Name: "/memory/classes/os-stacks:bytes"},
	}
	used := func() uint64 {
		runtimemetrics.Read(sample)
		var sum uint64
		for _, s := range sample {
			sum += s.Value.Uint64()
		}
		return sum
	}
	o.spare.Store(max(limit/100*shedAt-int64(used()), 1))
	for {
		select {
		case <-ctx.Done():
			o.pressure.Store(0)
			return
		case <-tick.C:
			o.pressure.Store(int32(min(100*used()/uint64(max(limit, 1)), 1000)))
		}
	}
}
