package proxy

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Each connection ends at its time, none that was removed, and none twice.
func TestLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ls := newLifetimes()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); ls.run(ctx) }()
		begin := time.Now()
		var ended []time.Duration
		add := func(in time.Duration) *lifetime {
			return ls.add(begin.Add(in), func() { ended = append(ended, time.Since(begin)) })
		}
		add(time.Hour)
		gone := add(10 * time.Minute)
		add(20 * time.Minute)
		if never := ls.add(time.Time{}, func() { t.Error("what has no end ended") }); never != nil {
			t.Error("what has no end has a lifetime")
		}
		ls.remove(nil)
		time.Sleep(5 * time.Minute)
		ls.remove(gone)
		add(-time.Minute)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if want := []time.Duration{5 * time.Minute, 20 * time.Minute, time.Hour}; !slices.Equal(ended, want) {
			t.Errorf("ended after %v, want %v", ended, want)
		}
		if len(ls.all) != 0 || !ls.next.IsZero() {
			t.Errorf("%d are left", len(ls.all))
		}
		cancel()
		<-done
	})
}

// A machine that was suspended ends what has run out as soon as it looks at the clock.
func TestLifetimesAreOfTheWallClock(t *testing.T) {
	ls := newLifetimes()
	over := 0
	ls.add(time.Now().Add(time.Hour), func() { over++ })
	later := ls.due(time.Now())
	if over != 0 || later.IsZero() {
		t.Fatal("it ended an hour early")
	}
	if next := ls.due(time.Now().Add(2 * time.Hour)); over != 1 || !next.IsZero() {
		t.Errorf("ended %d times", over)
	}
}

// Who dialled ends first, spread over a tenth of what is left, and never after the
// certificate.
func TestEndEarly(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		left, least, most time.Duration // of what is left, and how long before the end
	}{
		{24 * time.Hour, 72 * time.Minute, 216 * time.Minute},
		{20 * time.Second, time.Second, 3 * time.Second},
		{3 * time.Second, time.Second, time.Second},
		{time.Second, 500 * time.Millisecond, 500 * time.Millisecond},
	} {
		seen := map[time.Duration]bool{}
		for range 50 {
			until := now.Add(tt.left)
			ahead := until.Sub(endEarly(now, until))
			seen[ahead] = true
			if ahead < tt.least || ahead > tt.most {
				t.Errorf("of %v, %v before the end, want %v to %v", tt.left, ahead, tt.least, tt.most)
			}
		}
		if tt.least < tt.most && len(seen) < 10 {
			t.Errorf("of %v, only %d moments", tt.left, len(seen))
		}
	}
	if !endEarly(now, time.Time{}).IsZero() {
		t.Error("what has no end ends early")
	}
}
