package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// Why an exchange is given up; the causes of its context.
var (
	errTimeout    = errors.New("the route's timeout passed")
	errIdle       = errors.New("nothing moved for too long")
	errClientSlow = errors.New("the client sends its body too slowly")
	errTryTimeout = errors.New("the per-try timeout passed")
	errDone       = errors.New("the exchange is over")
)

// watch ends an exchange that takes too long: as a whole if its rule has a
// timeout, else when nothing moved for a while. It owns the deadlines of the
// client's connection, because cancelling a context wakes nobody who waits for
// a client to send or to read.
type watch struct {
	cancel context.CancelCauseFunc
	idle   time.Duration // 0: the timer is for the whole exchange
	limit  time.Duration // to write an answer of our own
	body   *bodySource

	// mu guards what follows and orders the use of rc before the end of the
	// handler. Only rc and cancel are called under it.
	mu      sync.Mutex
	rc      *http.ResponseController // nil if there is no client connection
	timer   *time.Timer
	started bool // the response's header is being written
	done    bool
	fired   bool
}

// newWatch starts to watch. timeout is the rule's, 0 for none.
func newWatch(rc *http.ResponseController, body *bodySource, timeout time.Duration, l Limits, cancel context.CancelCauseFunc) *watch {
	w := &watch{cancel: cancel, limit: l.WriteTimeout, body: body, rc: rc}
	w.deadline(func(rc *http.ResponseController) error { return rc.SetWriteDeadline(time.Time{}) })
	w.mu.Lock() // the timer may fire at once
	defer w.mu.Unlock()
	if timeout > 0 {
		w.timer = time.AfterFunc(timeout, func() { w.fire(errTimeout) })
	} else {
		w.idle = l.StreamIdle
		w.timer = time.AfterFunc(w.idle, func() { w.fire(errIdle) })
	}
	return w
}

// deadline sets a deadline of the client's connection. A connection that has
// none to set was hijacked or is a test's; the context still ends the exchange.
func (w *watch) deadline(set func(*http.ResponseController) error) {
	if w.rc != nil {
		_ = set(w.rc)
	}
}

// touch says that something moved.
func (w *watch) touch() {
	if w.idle > 0 {
		w.timer.Reset(w.idle)
	}
}

func (w *watch) fire(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return
	}
	w.fired = true
	reading := w.body.close()
	if reading {
		cause = errClientSlow
	}
	w.cancel(cause)
	if reading {
		w.stopReading()
	}
	if w.started {
		w.deadline(func(rc *http.ResponseController) error { return rc.SetWriteDeadline(longAgo) })
	}
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// stopReading wakes whoever reads the client's body. It is for that only: on a
// connection whose request was read to its end, http.Server reads ahead, and a
// deadline would make it give up the requests to come.
func (w *watch) stopReading() {
	w.deadline(func(rc *http.ResponseController) error { return rc.SetReadDeadline(longAgo) })
}

// start says that the response begins. It reports false if the time was up
// before; then an answer of our own may still be written.
func (w *watch) start() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = !w.fired
	return w.started
}

// stop ends the watch before the handler returns. What is still to be written
// by then has a bounded time.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done {
		return
	}
	w.done = true
	w.timer.Stop()
	if w.started && w.fired {
		return
	}
	if w.body.close() { // a try that was given up still waits for the client
		w.stopReading()
	}
	w.deadline(func(rc *http.ResponseController) error { return rc.SetWriteDeadline(time.Now().Add(w.limit)) })
}
