package thrift

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

func TestGovernor(t *testing.T) {
	type step struct {
		cores float64
		times int
		want  int
	}
	for name, steps := range map[string][]step{
		"little load stays on one":         {{0.5, 100, 1}},
		"one that is full gets another":    {{0.9, 1, 2}, {1.7, 1, 3}, {2.5, 1, 4}},
		"there is an end":                  {{4, 10, 4}},
		"a moment's calm changes nothing":  {{0.9, 1, 2}, {0.1, 29, 2}, {0.7, 1, 2}, {0.1, 29, 2}},
		"calm takes one at a time":         {{4, 3, 4}, {0.1, 30, 3}, {0.1, 29, 3}, {0.1, 1, 2}, {0.1, 30, 1}, {0, 1000, 1}},
		"what one alone could not carry":   {{0.9, 1, 2}, {0.7, 1000, 2}},
		"the load rises while it was calm": {{0.9, 1, 2}, {0.1, 29, 2}, {1.7, 1, 3}, {0.1, 29, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			g := governor{most: 4, threads: 1}
			for i, s := range steps {
				for range s.times {
					g.look(s.cores, every)
				}
				if g.threads != s.want {
					t.Fatalf("step %d: %d threads, want %d", i, g.threads, s.want)
				}
			}
		})
	}
}

func TestThreads(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	t.Setenv("GOMAXPROCS", "")
	go func() {
		defer close(ended)
		threads(ctx)
	}()
	wait := func(what string, ok func() bool) {
		deadline := time.After(5 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("not within 5 s: %s", what)
			}
		}
	}
	wait("one thread", func() bool { return runtime.GOMAXPROCS(0) == 1 })
	var stop atomic.Bool
	go func() {
		for n := 0; ; n++ {
			if n%1000 == 0 && stop.Load() {
				return
			}
		}
	}()
	wait("another thread under load", func() bool { return runtime.GOMAXPROCS(0) > 1 })
	stop.Store(true)
	cancel()
	<-ended
	if n := runtime.GOMAXPROCS(0); n != 4 {
		t.Errorf("%d threads afterwards, want 4", n)
	}
}

func TestEnvironmentDecides(t *testing.T) {
	before := runtime.GOMAXPROCS(3)
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "3")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	threads(ctx)
	if n := runtime.GOMAXPROCS(0); n != 3 {
		t.Errorf("%d threads, want the 3 of the environment", n)
	}
}
