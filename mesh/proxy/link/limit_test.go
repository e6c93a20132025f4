package link

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// TestFullHouse keeps as many streams open as the server allows, all the time. A
// stream leaves its place when its handler returns, which may be after the client
// knows the answer: then the next is refused, in a way that it can be sent again.
func TestFullHouse(t *testing.T) {
	t.Parallel()
	const slots, each = 32, 200
	c, _ := links(t, tcpPair, Config{}, Config{MaxStreams: slots, Handle: sixty})
	if err := roundTrip(c, typical(0)); err != nil { // SETTINGS have come
		t.Fatalf("get: %v", err)
	}
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range slots {
		wg.Go(func() {
			for range each {
				err := roundTrip(c, typical(0))
				var e *StreamError
				switch {
				case errors.As(err, &e) && e.Replayable():
					refused.Add(1)
				case err != nil:
					t.Errorf("get: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n > slots*each/5 {
		t.Errorf("%d of %d were refused", n, slots*each)
	}
}
