package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Transfers is a closed loop of responses that each take a while, so that some
// are under way at any time.
type Transfers struct {
	stop context.CancelFunc
	all  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	finished int
	broken   []string
}

// OpenTransfers keeps n responses of the given length under way until Finish.
// Each begins anew when the last has ended; each uses a connection of its own.
func OpenTransfers(ctx context.Context, target Target, n int, length time.Duration) *Transfers {
	begin, stop := context.WithCancel(ctx)
	t := &Transfers{stop: stop}
	lines := max(1, int(length/tickEvery))
	path := fmt.Sprintf("/ticks?n=%d&every=%v", lines, tickEvery)
	for range n {
		t.all.Go(func() {
			client := target.Client(0, 0)
			for begin.Err() == nil {
				// With ctx: what has begun when the loop stops is finished.
				err := readTicks(ctx, client, target, path, lines)
				t.add(err)
				if err != nil { // a port that refuses must not be stormed
					select {
					case <-begin.Done():
					case <-time.After(tickEvery):
					}
				}
			}
		})
	}
	return t
}

func (t *Transfers) add(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.broken = append(t.broken, err.Error())
		return
	}
	t.finished++
}

// Stop begins nothing more. What is under way goes on.
func (t *Transfers) Stop() { t.stop() }

// Finish begins nothing more, waits for what is under way, and returns how many
// transfers were whole and what was wrong with the others.
func (t *Transfers) Finish() (finished int, broken []string) {
	t.stop()
	t.all.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished, t.broken
}
