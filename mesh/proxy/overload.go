package proxy

import (
	"context"
	"math"
	"runtime"
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
	// A burst is over before it is measured. So what is let in takes room for all
	// that it may come to hold.
	room  atomic.Int64 // bytes up to shedAt beyond what an idle process uses; 0 is no limit
	taken atomic.Int64 // of room
}

// What is let in is taken to hold, in bytes. Connections are not counted: those that
// idle would keep requests out for as long as they stay, and what they hold is measured.
const (
	// exchangeBytes is a request without a body: its goroutine, and a window of the
	// response's body.
	exchangeBytes = 48 << 10
	// streamedBytes is a body that streams besides: a window of it and what is copied.
	streamedBytes = 24<<10 + copyBytes
)

// weigh returns how much x, whose head is known, may come to hold.
func (x *exchange) weigh() int64 {
	n := int64(exchangeBytes)
	for i := range x.in.fields {
		n += 2 * int64(len(x.in.fields[i].Name)+len(x.in.fields[i].Value)) // here and on its way out
	}
	kept := min(int64(x.s.e.opt.Limits.ReplayBytes), 1<<30)
	switch length := x.in.length; {
	case length == 0:
	case length > 0 && length <= gatherBytes:
		n += 3 * length // in a window and in a buffer of up to twice its length
	case length < 0:
		n += streamedBytes + kept
	case length <= kept:
		n += streamedBytes + length
	default:
		n += streamedBytes
	}
	return n
}

// admit takes room for x and reports whether there is enough. There is for what is
// alone: nobody is refused for ever.
func (o *overload) admit(x *exchange) bool {
	if o.pressure.Load() >= shedAt {
		return false
	}
	room := o.room.Load()
	if room == 0 {
		return true
	}
	cost := x.weigh()
	if taken := o.taken.Add(cost); taken > room && taken != cost {
		o.taken.Add(-cost)
		return false
	}
	x.cost = cost
	return true
}

// Levels of pressure, in percent.
const (
	closeAt = 80
	shedAt  = 85
)

// weighEvery is how often the memory is measured.
const weighEvery = 20 * time.Millisecond

// collectAfter is how old a collection may be while memory is short: who refuses
// everything makes no garbage, and would wait long for the next one.
const collectAfter = 500 * time.Millisecond

// shedding reports whether no request at all would be let in now.
func (o *overload) shedding() bool {
	room, taken := o.room.Load(), o.taken.Load()
	return o.pressure.Load() >= shedAt || room > 0 && taken > 0 && taken+exchangeBytes > room
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
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	last := len(sample) - 1
	used := func() uint64 {
		runtimemetrics.Read(sample)
		var sum uint64
		for _, s := range sample[:last] {
			sum += s.Value.Uint64()
		}
		return sum
	}
	cycles, since := uint64(0), time.Now()
	o.room.Store(max(limit/100*shedAt-int64(used()), 1))
	for {
		select {
		case <-ctx.Done():
			o.pressure.Store(0)
			return
		case now := <-tick.C:
			o.pressure.Store(int32(min(100*used()/uint64(max(limit, 1)), 1000)))
			if n := sample[last].Value.Uint64(); n != cycles {
				cycles, since = n, now
			}
			if o.closing() && now.Sub(since) >= collectAfter {
				runtime.GC()
				since = now
			}
		}
	}
}
