package proxy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// asking is a request that may wait.
type asking struct{ ctx context.Context }

func (a asking) context() context.Context { return a.ctx }

// worker is a workload that works on a few requests at a time, each for as long; others
// wait for their turn.
type worker struct {
	slots chan struct{}
	each  time.Duration
}

func newWorker(slots int, each time.Duration) *worker {
	return &worker{make(chan struct{}, slots), each}
}

func (w *worker) work() {
	w.slots <- struct{}{}
	<-time.After(w.each)
	<-w.slots
}

// pressed is what callers got from a worker.
type pressed struct {
	answered, refused, slow int64
}

// press has so many callers ask w, one request after another, for a time. slow is those
// that took longer than that.
func press(ctx context.Context, a *adaptive, w *worker, callers int, lasts, slow time.Duration) pressed {
	var answered, refused, late atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range callers {
		all.Go(func() {
			for time.Since(began) < lasts {
				from := time.Now()
				m, err := a.admit(asking{ctx})
				if err != nil {
					refused.Add(1)
					<-time.After(10 * time.Millisecond)
					continue
				}
				w.work()
				m.done(true)
				answered.Add(1)
				if time.Since(from) > slow {
					late.Add(1)
				}
			}
		})
	}
	all.Wait()
	return pressed{answered.Load(), refused.Load(), late.Load()}
}

func adaptiveOf(c mesh.AdaptiveConcurrency) *adaptive {
	a := &adaptive{}
	a.configure(&c)
	return a
}

// Under several times the load that a workload can take, those that are let in are
// answered about as fast as without load, and it works all the time.
func TestAdaptiveConcurrencyKeepsLatency(t *testing.T) {
	for _, slots := range []int{4, 16, 100} {
		synctest.Test(t, func(t *testing.T) {
			const each, lasts = 20 * time.Millisecond, 60 * time.Second
			w := newWorker(slots, each)
			a := adaptiveOf(mesh.AdaptiveConcurrency{})
			press(t.Context(), a, w, 1, 2*time.Second, each) // as it begins
			press(t.Context(), a, w, 5*slots, 5*time.Second, each)
			got := press(t.Context(), a, w, 5*slots, lasts, 3*each)
			if most := float64(slots) * float64(lasts/each); float64(got.answered) < 0.9*most {
				t.Errorf("%d slots: %d were answered, want 9 of 10 of %.0f", slots, got.answered, most)
			}
			if float64(got.slow) > 0.02*float64(got.answered) {
				t.Errorf("%d slots: %d of %d took three times as long as without load", slots, got.slow, got.answered)
			}
			if got.refused == 0 {
				t.Errorf("%d slots: nobody was refused", slots)
			}
			unlimited := press(t.Context(), &adaptive{}, w, 5*slots, 5*time.Second, 3*each)
			if unlimited.refused > 0 || 2*unlimited.slow < unlimited.answered {
				t.Errorf("without a limit: %+v", unlimited)
			}
		})
	}
}

// Load that the workload takes easily is not refused, from the first request on.
func TestAdaptiveConcurrencyLetsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(200, 10*time.Millisecond)
		a := adaptiveOf(mesh.AdaptiveConcurrency{})
		for _, callers := range []int{15, 1, 15, 40, 100, 150} {
			got := press(t.Context(), a, w, callers, 10*time.Second, time.Hour)
			if share := float64(got.refused) / float64(got.refused+got.answered); callers <= 15 && got.refused > 0 || share > 0.01 {
				t.Errorf("%d callers: %+v", callers, got)
			}
		}
	})
}

// What a workload became slower for is found out: the limit follows.
func TestAdaptiveConcurrencyMeasuresAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(20, 10*time.Millisecond)
		a := adaptiveOf(mesh.AdaptiveConcurrency{MeasureEvery: mesh.Seconds(5)})
		press(t.Context(), a, w, 60, 5*time.Second, time.Hour)
		w.each = 40 * time.Millisecond
		press(t.Context(), a, w, 60, 12*time.Second, time.Hour)
		got := press(t.Context(), a, w, 60, 20*time.Second, time.Hour)
		if most := 20 * int64(20*time.Second/w.each); got.answered < most*8/10 {
			t.Errorf("%d were answered, want 8 of 10 of %d; the limit is %d", got.answered, most, a.limit.Load())
		}
	})
}

// A workload that takes seconds to answer is measured too, and meanwhile it works.
func TestAdaptiveConcurrencyOfSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(100, 2*time.Second)
		a := adaptiveOf(mesh.AdaptiveConcurrency{})
		press(t.Context(), a, w, 60, 2*time.Minute, time.Hour)
		got := press(t.Context(), a, w, 60, time.Minute, time.Hour)
		if most := 60 * int64(time.Minute/w.each); got.answered < most*8/10 {
			t.Errorf("%d were answered, want 8 of 10 of %d; the limit is %d", got.answered, most, a.limit.Load())
		}
	})
}

// Who waits while the latency is measured may leave; more than the limit do not wait.
func TestAdaptiveConcurrencyWhileItMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := adaptiveOf(mesh.AdaptiveConcurrency{MaxConcurrency: 10})
		rules := a.rules.Load()
		a.mu.Lock()
		a.measure(rules)
		a.mu.Unlock()
		var under []admitted
		for range rules.least {
			m, err := a.admit(asking{t.Context()})
			if err != nil {
				t.Fatal(err)
			}
			under = append(under, m)
		}
		ctx, leave := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		var left, later, refused atomic.Int64
		var all sync.WaitGroup
		for i := range 15 {
			all.Go(func() {
				mine := t.Context()
				if i < 4 {
					mine = ctx
				}
				switch _, err := a.admit(asking{mine}); {
				case errors.Is(err, gone):
					left.Add(1)
				case errors.Is(err, errConcurrency):
					refused.Add(1)
				case err == nil:
					later.Add(1)
				}
			})
			synctest.Wait()
		}
		if refused.Load() != 5 {
			t.Errorf("%d were refused at once, want those over the limit of 10", refused.Load())
		}
		leave(gone)
		synctest.Wait()
		if left.Load() != 4 || later.Load() != 0 {
			t.Errorf("%d left and %d were let in, want 4 and 0", left.Load(), later.Load())
		}
		time.Sleep(measureMost)
		synctest.Wait()
		for _, m := range under {
			m.done(true)
		}
		all.Wait()
		if later.Load() != 6 || a.inFlight.Load() != 6 || a.waiting != 0 {
			t.Errorf("%d were let in, %d are under way and %d wait, want 6, 6 and 0", later.Load(), a.inFlight.Load(), a.waiting)
		}
	})
}

// Rules that stay keep what is known; without rules nothing is limited.
func TestAdaptiveConcurrencyIsConfigured(t *testing.T) {
	a := adaptiveOf(mesh.AdaptiveConcurrency{MinConcurrency: 2, MaxConcurrency: 8})
	if a.limit.Load() != 8 {
		t.Errorf("the limit is %d, want 8", a.limit.Load())
	}
	a.limit.Store(5)
	a.configure(&mesh.AdaptiveConcurrency{MinConcurrency: 2, MaxConcurrency: 8})
	if a.limit.Load() != 5 {
		t.Errorf("the limit is %d after the same rules, want 5", a.limit.Load())
	}
	a.configure(nil)
	for range 100 {
		if _, err := a.admit(asking{t.Context()}); err != nil {
			t.Fatal(err)
		}
	}
}
