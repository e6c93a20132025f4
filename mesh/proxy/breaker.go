package proxy

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// CodeOverflow is that of a request to a service that has as many as its circuit
// breaker allows. 503.
const CodeOverflow = "circuit_overflow"

// errOverflow is the cause of CodeOverflow.
var errOverflow = errors.New("the circuit breaker of the service admits no more")

// Defaults of a circuit breaker: Envoy's, but for retries, which a budget bounds.
const (
	defaultMostConnections = 1024
	defaultMostRequests    = 1024
	defaultMostPending     = 1024
)

// breaker bounds what this proxy has under way to one service.
type breaker struct {
	mostConnections, mostRequests, mostPending, mostRetries atomic.Int64 // 0 is no bound
	connections, requests, pending, retries                 atomic.Int64
}

// configure takes the bounds of a service.
func (b *breaker) configure(c *mesh.CircuitBreaker) {
	if c == nil {
		c = &mesh.CircuitBreaker{}
	}
	b.mostConnections.Store(int64(given(c.MaxConnections, defaultMostConnections)))
	b.mostRequests.Store(int64(given(c.MaxRequests, defaultMostRequests)))
	b.mostPending.Store(int64(given(c.MaxPending, defaultMostPending)))
	b.mostRetries.Store(int64(c.MaxRetries))
}

// enter counts one more in n, unless there are most.
func enter(n, most *atomic.Int64) bool {
	bound := most.Load()
	if n.Add(1) <= bound || bound == 0 {
		return true
	}
	n.Add(-1)
	return false
}

// Who got true from one of these takes 1 off its counter at the end.
func (b *breaker) connection() bool { return enter(&b.connections, &b.mostConnections) }
func (b *breaker) request() bool    { return enter(&b.requests, &b.mostRequests) }
func (b *breaker) wait() bool       { return enter(&b.pending, &b.mostPending) }
func (b *breaker) retry() bool      { return enter(&b.retries, &b.mostRetries) }

// Bounds of retries: a share of the requests of the last seconds, or so many a second
// if that is more.
const (
	defaultBudget = 20 // percent
	budgetSeconds = 10
	budgetFloor   = 3 // retries a second
)

// retryBudget counts the requests and retries to one service in the last seconds, so
// that retries never add more than a share to the load of a service that fails
// (Finagle's RetryBudget).
type retryBudget struct {
	mu    sync.Mutex
	slots [budgetSeconds]budgetSlot
}

// budgetSlot is one second.
type budgetSlot struct {
	second            int64 // since 1970
	requests, retries int
}

// slot returns that of now. mu is held.
func (b *retryBudget) slot(now time.Time) *budgetSlot {
	second := now.Unix()
	s := &b.slots[second%budgetSeconds]
	if s.second != second {
		*s = budgetSlot{second: second}
	}
	return s
}

// request counts one that may be tried again.
func (b *retryBudget) request(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slot(now).requests++
}

// retry counts one, if percent of the requests leave room for it.
func (b *retryBudget) retry(now time.Time, percent int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	current := b.slot(now)
	requests, retries := 0, 0
	for i := range b.slots {
		if now.Unix()-b.slots[i].second < budgetSeconds {
			requests += b.slots[i].requests
			retries += b.slots[i].retries
		}
	}
	if retries >= max(requests*percent/100, budgetFloor*budgetSeconds) {
		return false
	}
	current.retries++
	return true
}
