package main

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// steady asks for what is open, all the time: attacks must not disturb it.
type steady struct {
	mu            sync.Mutex // held while it asks, and while it is paused
	asked, failed int        // guarded by mu

	end context.CancelFunc
	all sync.WaitGroup
}

func startSteady(t *stage.T, outbound string) *steady {
	ctx, end := context.WithCancel(t.Context())
	s := &steady{end: end}
	client := &http.Client{Transport: &http.Transport{}, Timeout: askMost}
	s.all.Go(func() {
		defer client.CloseIdleConnections()
		tick := time.NewTicker(attackEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.ask(ctx, client, outbound)
			}
		}
	})
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *steady) ask(ctx context.Context, client *http.Client, outbound string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, err := ask(ctx, client, outbound, "/")
	if ctx.Err() != nil {
		return
	}
	if s.asked++; err != nil || status != http.StatusOK {
		s.failed++
	}
}

// pause returns when nothing is asked any more.
func (s *steady) pause() { s.mu.Lock() }

func (s *steady) resume() { s.mu.Unlock() }

// stop ends it and returns how often was asked, and how often in vain.
func (s *steady) stop() (asked, failed int) {
	s.end()
	s.all.Wait()
	return s.asked, s.failed
}

func (o *owner) stopTraffic() (asked, failed int) { return o.traffic.stop() }
