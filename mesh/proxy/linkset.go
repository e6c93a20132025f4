package proxy

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// linkSet knows the links that were made from here, so that they can be waited for.
type linkSet struct {
	open    prometheus.Gauge // connections
	lives   *lifetimes
	closing context.Context //nolint:containedctx // of links in the making: who waits for one may leave, and others stay
	abandon context.CancelFunc
	all     sync.WaitGroup // links, also those in the making

	// mu guards what follows. Nothing is called under it that blocks.
	mu     sync.Mutex
	linked map[*link.Conn]*lifetime // which may be nil
	closed bool
}

func newLinkSet(open prometheus.Gauge, lives *lifetimes) *linkSet {
	s := &linkSet{open: open, lives: lives, linked: map[*link.Conn]*lifetime{}}
	s.closing, s.abandon = context.WithCancel(context.Background())
	return s
}

// begin says that a link is being made, unless no more may be; end or made follow.
func (s *linkSet) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.all.Add(1)
	return true
}

// failed says that the link was not made.
func (s *linkSet) failed() { s.all.Done() }

// client makes a link over conn, which takes no new streams from a time on; the zero Time
// is never. forget is called when it has ended.
func (s *linkSet) client(conn net.Conn, bounds link.Config, until time.Time, forget func(*link.Conn)) *link.Conn {
	bounds.Ended = func(c *link.Conn) {
		forget(c)
		s.mu.Lock()
		life := s.linked[c]
		delete(s.linked, c)
		s.mu.Unlock()
		s.lives.remove(life)
		s.open.Dec()
		s.all.Done()
	}
	bounds.HeaderBytes, bounds.HeaderFields = 2*bounds.HeaderBytes, 2*bounds.HeaderFields // a response may say more than a request
	s.open.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	made := link.Client(conn, bounds)
	s.linked[made] = s.lives.add(until, made.Drain)
	return made
}

// close gives up links in the making, and lets no new ones be made.
func (s *linkSet) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.abandon()
}

// await waits, after close, until every link has ended. When done is closed it cuts
// those that are left.
func (s *linkSet) await(done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.all.Wait()
	}()
	select {
	case <-ended:
		return
	case <-done:
	}
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.linked))
	s.mu.Unlock()
	for _, c := range left {
		_ = c.Close() // how closing went cannot matter any more
	}
	<-ended
}
