package thrift

import (
	"context"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

func TestTrimmer(t *testing.T) {
	var tr trimmer
	for i, step := range []struct {
		cores float64
		bytes uint64
		want  bool
	}{
		{0.5, 8 << 20, false},          // under load
		{0.01, 8 << 20, false},         // just after it
		{0.01, 8 << 20, true},          // when it is calm
		{0.01, 8<<20 + 1<<20, false},   // too little since
		{0.01, 8<<20 + worth, true},    // enough
		{0.2, 64 << 20, false},         // the next burst
		{0.01, 64 << 20, false},        // a moment of calm
		{calm, 64 << 20, false},        // and on it goes
		{0.01, 64 << 20, false},        // the end
		{calm - 0.001, 64 << 20, true}, // of it
		{0, 64 << 20, false},           // nothing since
	} {
		if got := tr.due(step.cores, step.bytes); got != step.want {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
}

// What a burst left is given back to the system once it is calm.
func TestMemoryIsGivenBack(t *testing.T) {
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		burst[i][0] = 1
	}
	burst = nil
	_ = burst
	before := forced()
	synctest.Test(t, func(t *testing.T) { // where time costs nothing, and so no CPU is used in it
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			memory(ctx)
		}()
		time.Sleep((calmLooks + 1) * lookEvery)
		synctest.Wait()
		cancel()
		<-ended
	})
	if n := forced() - before; n < collections {
		t.Errorf("%d collections were asked for, want %d", n, collections)
	}
}

// forced returns how many collections were asked for.
func forced() uint64 {
	sample := []metrics.Sample{{Name: "/gc/cycles/forced:gc-cycles"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
