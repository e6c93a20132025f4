package registry

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPaceRestsForATimesAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{times: 9, most: time.Second}
		if left := p.left(); left != 0 {
			t.Errorf("at first it is to wait for %v", left)
		}
		for took, want := range map[time.Duration]time.Duration{0: 0, 10 * time.Millisecond: 90 * time.Millisecond, time.Minute: time.Second} {
			began := time.Now()
			time.Sleep(took)
			if p.took(began); p.left() != want {
				t.Errorf("after %v it is to wait for %v, want %v", took, p.left(), want)
			}
			time.Sleep(want)
			if p.left() != 0 {
				t.Errorf("and then for %v", p.left())
			}
		}
	})
}
