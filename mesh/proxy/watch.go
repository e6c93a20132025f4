package proxy

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why an exchange is given up.
var (
	errTimeout    = errors.New("the route's timeout passed")
	errIdle       = errors.New("nothing moved for too long")
	errClientSlow = errors.New("the client sends its body too slowly")
	errTryTimeout = errors.New("the per-try timeout passed")
	errClientGone = errors.New("the client went away")
	errDrained    = errors.New("the proxy ends and the drain is over")
	errDone       = errors.New("the exchange is over")
)

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// lookAfter is how long an exchange lasts before the proxy looks whether the
// client is still there. Most are over before, and cost nothing.
const lookAfter = 200 * time.Millisecond

// watch ends an exchange that takes too long: as a whole if its rule has a
// timeout, else when nothing moved for a while. It uses one timer for all
// exchanges of an object and lets it run on from one to the next: what the hot
// path pays is the storing of a deadline.
type watch struct {
	x *exchange

	epoch    time.Time    // what durations count from: the first exchange
	deadline atomic.Int64 // since epoch
	// Of these too the body's goroutine asks, which may outlive what they are about.
	idle  atomic.Int64 // 0: the deadline is for the whole exchange
	until atomic.Int64 // the end of the whole exchange, since epoch; 0 is none

	// mu guards what follows. Only interrupts are called under it, which do
	// not block.
	mu      sync.Mutex
	timer   *time.Timer
	wakes   time.Duration // when the timer fires, since epoch; 0 if it does not
	looks   time.Duration // when to look after the client; 0 is not
	look    func() bool   // begins to look after the client, or says: not yet; nil if nobody can
	lookOn  bool          // look was called for this exchange
	on      bool          // an exchange is under way
	started bool          // the response is being written
	informs bool          // what comes before it is
	fired   bool
}

// now reads the monotonic clock.
func (w *watch) now() time.Duration { return time.Since(w.epoch) }

// start begins to watch an exchange that may take timeout as a whole, and idle
// without that anything moves; 0 is no bound. look is called if the exchange lasts
// longer than lookAfter, until it returns true.
func (w *watch) start(x *exchange, timeout, idle time.Duration, look func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.x == nil {
		w.x, w.epoch = x, time.Now()
	}
	now := w.now()
	w.on, w.started, w.informs, w.fired = true, false, false, false
	deadline, until := now+idle, time.Duration(0)
	if timeout > 0 {
		until = now + timeout
		if idle == 0 || deadline > until {
			deadline = until
		}
	}
	w.idle.Store(int64(idle))
	w.until.Store(int64(until))
	w.deadline.Store(int64(deadline))
	w.look, w.looks, w.lookOn = look, 0, false
	if look != nil {
		w.looks = now + lookAfter
	}
	w.arm(now)
}

// arm makes the timer fire in time. mu is held.
func (w *watch) arm(now time.Duration) {
	at := time.Duration(w.deadline.Load())
	if w.looks > 0 {
		at = min(at, w.looks)
	}
	if w.wakes > 0 && w.wakes <= at {
		return // it fires earlier, and looks again
	}
	w.wakes = max(at, 1)
	if w.timer == nil {
		w.timer = time.AfterFunc(at-now, w.tick)
		return
	}
	w.timer.Reset(at - now)
}

// touch says that something moved.
func (w *watch) touch() {
	if idle := w.idle.Load(); idle > 0 {
		deadline := int64(w.now()) + idle
		if until := w.until.Load(); until > 0 && deadline > until {
			deadline = until
		}
		w.deadline.Store(deadline)
	}
}

// tick looks what is due.
func (w *watch) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakes = 0
	if !w.on || w.fired {
		return
	}
	now := w.now()
	if int64(now) >= w.deadline.Load() {
		cause := errTimeout
		if until := w.until.Load(); until == 0 || int64(now) < until {
			cause = errIdle
		}
		w.fire(cause)
		return
	}
	if w.looks > 0 && now >= w.looks {
		w.looks = now + lookAfter
		if w.look() {
			w.looks, w.lookOn = 0, true
		}
	}
	w.arm(now)
}

// cut ends the exchange, if one is under way.
func (w *watch) cut(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on && !w.fired {
		w.fire(cause)
	}
}

// fire gives the exchange up. mu is held.
func (w *watch) fire(cause error) {
	w.fired = true
	if w.informs && !errors.Is(cause, errDrained) {
		cause = errClientGone // it does not read, which is not the endpoint's fault
	}
	reading := w.x.body.close()
	if reading && !errors.Is(cause, errClientGone) && !errors.Is(cause, errDrained) {
		cause = errClientSlow
	}
	w.x.abort(cause)
	if reading {
		w.x.client.interruptRead()
	}
	if w.started || w.informs || errors.Is(cause, errDrained) {
		w.x.client.interruptWrite()
	}
}

// begin says that the response begins. It reports false if the time was up
// before; then an answer of our own may still be written.
func (w *watch) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = !w.fired
	return w.started
}

// answer gives the client so long to take an answer of our own, also when the time of the
// exchange is up.
func (w *watch) answer(within time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	w.on, w.started, w.fired = true, true, false
	w.idle.Store(0)
	w.until.Store(int64(now + within))
	w.deadline.Store(int64(now + within))
	w.looks, w.look = 0, nil
	w.arm(now)
}

// inform says whether something is being written that comes before the response, which
// ends with the time like that. It reports false if the time is up.
func (w *watch) inform(on bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.informs = on
	return !w.fired
}

// stop ends the watch of this exchange.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on, w.looks, w.look = false, 0, nil
}

// looked reports whether look was called. It is asked after stop or begin.
func (w *watch) looked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	looked := w.lookOn
	w.lookOn = false
	return looked
}

// release stops the timer of a watch that is not needed any more.
func (w *watch) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.wakes = 0
	}
}
