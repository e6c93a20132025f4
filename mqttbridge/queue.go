package mqttbridge

import (
	"sync"
	"time"
)

// queue is the order in which spooled messages are delivered: those of one key one after
// another, keys in turn. It holds numbers and not messages, so a million of them that wait
// for a service are a few dozen megabytes. A key whose first message has to wait holds up
// no other key.
type queue struct {
	// mu guards what follows. Nothing is called under it.
	mu     sync.Mutex
	more   *sync.Cond
	lines  map[lineKey]*line
	ready  []*line // which have a message to deliver now; the first is next
	woken  uint64  // counts calls of wake
	closed bool
}

// lineKey is what order is kept for. number is 0, or that of the message if its rule
// keeps none.
type lineKey struct {
	laneKey
	number uint64
}

// line is the messages of one key, the oldest first. It is in ready, or its first message
// is being delivered, or its timer runs.
type line struct {
	key     lineKey
	seqs    []uint64
	attempt int // how often the first was tried
	timer   *time.Timer
	paused  uint64 // counts pauses, so that a timer that comes late is known
	waiting bool   // its timer runs
	woken   uint64 // queue.woken when its first message was taken
}

func newQueue() *queue {
	q := &queue{lines: map[lineKey]*line{}}
	q.more = sync.NewCond(&q.mu)
	return q
}

// add puts a message at the end of its key's line. Calls are in order of seq.
func (q *queue) add(key lineKey, seq uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[key]
	if l == nil {
		l = &line{key: key}
		q.lines[key] = l
		q.readyLocked(l)
	}
	l.seqs = append(l.seqs, seq)
}

// has reports whether messages of key wait.
func (q *queue) has(key laneKey) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[lineKey{laneKey: key}] != nil
}

// next returns a line whose first message is to be delivered, its number, and how often
// it was tried. It waits for one, and returns nil when the queue is closed. The caller
// calls finish or retry next.
func (q *queue) next() (l *line, seq uint64, attempt int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.more.Wait()
	}
	if q.closed {
		return nil, 0, 0
	}
	l = q.ready[0]
	l.woken = q.woken
	q.ready[0] = nil
	if q.ready = q.ready[1:]; len(q.ready) == 0 {
		q.ready = nil // its array has grown at one end only
	}
	return l, l.seqs[0], l.attempt
}

// finish takes the first message off l.
func (q *queue) finish(l *line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.seqs, l.attempt = l.seqs[1:], 0
	if len(l.seqs) == 0 {
		delete(q.lines, l.key)
		return
	}
	q.readyLocked(l)
}

// retry leaves the first message where it is, and its line alone until delay has passed
// or wake is called.
func (q *queue) retry(l *line, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	l.attempt++
	if l.woken != q.woken { // while it was being tried
		q.readyLocked(l)
		return
	}
	l.waiting = true
	l.paused++
	pause := l.paused
	l.timer = time.AfterFunc(delay, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if l.waiting && l.paused == pause {
			q.readyLocked(l)
		}
	})
}

// wake has every line that waits try again now, and those that are being tried
// after that.
func (q *queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.woken++
	for _, l := range q.lines {
		if l.waiting {
			l.timer.Stop()
			q.readyLocked(l)
		}
	}
}

// readyLocked puts l at the end of those that are ready. q.mu must be held.
func (q *queue) readyLocked(l *line) {
	l.waiting, l.timer = false, nil
	if !q.closed {
		q.ready = append(q.ready, l)
		q.more.Signal()
	}
}

// close ends every next, and all timers.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, l := range q.lines {
		if l.waiting {
			l.timer.Stop()
		}
	}
	q.more.Broadcast()
}
