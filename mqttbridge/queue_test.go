package mqttbridge

import (
	"testing"
	"time"
)

func TestAWakeWhileAMessageIsTriedIsNotLost(t *testing.T) {
	q := newQueue()
	defer q.close()
	q.add(lineKey{laneKey: laneKey{"d1", "t"}}, 1)
	l, _, _ := q.next()
	q.wake()
	q.retry(l, time.Hour)
	again := make(chan uint64, 1)
	go func() {
		_, seq, _ := q.next()
		again <- seq
	}()
	select {
	case seq := <-again:
		if seq != 1 {
			t.Errorf("%d is next", seq)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the hour")
	}
}
