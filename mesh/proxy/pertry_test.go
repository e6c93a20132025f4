package proxy

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// headAfter is an answer whose head comes after some time.
type headAfter struct {
	answer
	after       time.Duration
	interrupted atomic.Bool
}

func (a *headAfter) head(out *responseHead) error {
	<-time.After(a.after)
	out.status = 200
	return nil
}

func (a *headAfter) interrupt() { a.interrupted.Store(true) }

// What came just in time is not broken off afterwards, and what did not is.
func TestPerTryTimeoutDecidesOnce(t *testing.T) {
	for range 500 {
		synctest.Test(t, func(t *testing.T) {
			x := &exchange{}
			a := &headAfter{after: time.Second}
			x.attach(a)
			err := x.await(a, time.Second)
			synctest.Wait()
			if cut := a.interrupted.Load(); cut != (err != nil) {
				t.Errorf("taken with %v, broken off: %v", err, cut)
			}
		})
		if t.Failed() {
			return
		}
	}
}
