package link

import (
	"encoding/binary"
	"runtime"

	"golang.org/x/net/http2"
)

const (
	// batchLimit is where a batch takes no more DATA.
	batchLimit = 64 << 10
	// maxQueued is what may wait for the connection before writers wait too.
	maxQueued = 256 << 10
	// maxControl bounds the answers that a peer may provoke without reading them.
	maxControl = 128 << 10
)

// ring is a queue of streams that take turns. A stream is in it at most once.
type ring struct{ first, last *Stream }

func (r *ring) push(s *Stream) {
	if s.queued {
		return
	}
	s.queued, s.next = true, nil
	if r.last == nil {
		r.first = s
	} else {
		r.last.next = s
	}
	r.last = s
}

func (r *ring) pop() *Stream {
	s := r.first
	r.first = s.next
	if r.first == nil {
		r.last = nil
	}
	s.queued, s.next = false, nil
	return s
}

// remove takes s out, wherever it stands.
func (r *ring) remove(s *Stream) {
	if !s.queued {
		return
	}
	var kept ring
	for r.first != nil {
		if other := r.pop(); other != s {
			kept.push(other)
		}
	}
	*r = kept
}

// queued is what waits in order. mu is held, here and below.
func (c *Conn) queued() int {
	if c.out == nil {
		return 0
	}
	return len(c.out.b)
}

// queue appends frames in order.
func (c *Conn) queue(frames []byte) {
	if c.err != nil {
		return
	}
	c.needOut(len(frames))
	c.out.b = append(c.out.b, frames...)
}

// usualHead is the room that most header sections need.
const usualHead = 1 << 10

// needOut makes out ready for n bytes of frames, by a buffer of a size that can be given
// back. What needs more grows all the same.
func (c *Conn) needOut(n int) {
	switch {
	case c.out == nil:
		c.out = getBuffer(max(n, smallBytes))
	case len(c.out.b)+n > cap(c.out.b):
		larger := getBuffer(len(c.out.b) + n)
		larger.b = append(larger.b, c.out.b...)
		putBuffer(c.out)
		c.out = larger
	}
}

// startHeaders makes room for a HEADERS frame and returns where it begins.
func (c *Conn) startHeaders() int {
	c.needOut(frameHeaderBytes + usualHead)
	start := len(c.out.b)
	c.out.b = append(c.out.b, make([]byte, frameHeaderBytes)...)
	return start
}

// fits reports whether body may be sent as one frame with the header section.
func (c *Conn) fits(s *Stream, body []byte) bool {
	n := int64(len(body))
	return n <= maxFrameBytes && n <= s.window && n <= c.window && c.queued() < batchLimit
}

// sendNow appends a DATA frame that fits.
func (c *Conn) sendNow(s *Stream, p []byte, end bool) {
	c.needOut(frameHeaderBytes + len(p))
	c.window -= int64(len(p))
	s.window -= int64(len(p))
	c.out.b = appendData(c.out.b, s.id, p, end)
	if end {
		s.advance(sentEnd)
	}
}

// work reports whether there is something that can be sent now.
func (c *Conn) work() bool {
	return c.err == nil && (c.out != nil || len(c.control) > 0 || c.ring.first != nil && c.window > 0)
}

// lead sends what is queued, if no other goroutine does: the caller becomes the
// one that writes. After one batch, and once own has nothing left that may be sent,
// another goroutine takes over if more came meanwhile: nobody works for others for
// long.
func (c *Conn) lead(own *Stream) {
	if c.writing {
		return
	}
	if !c.work() {
		c.closeIfFinished()
		return
	}
	c.writing = true
	for {
		c.writeBatch()
		if !c.work() {
			c.stopWriting()
			return
		}
		if own == nil || !own.queued {
			go c.flush()
			return
		}
	}
}

// kick has what is queued sent by another goroutine.
func (c *Conn) kick() {
	if !c.writing && (c.work() || c.finish) {
		c.writing = true
		go c.flush()
	}
}

// flush sends until there is nothing left. writing is already set. mu is not held.
func (c *Conn) flush() {
	c.mu.Lock()
	for c.work() {
		c.writeBatch()
	}
	c.stopWriting()
	c.mu.Unlock()
}

func (c *Conn) stopWriting() {
	c.writing = false
	if c.err != nil {
		c.space.Broadcast()
	}
	c.closeIfFinished()
}

// closeIfFinished ends a link in order whose last frame is on its way.
func (c *Conn) closeIfFinished() {
	if !c.finish || c.err != nil {
		return
	}
	last := goAway(c.streams.last(), http2.ErrCodeNo)
	c.mu.Unlock()
	c.fail(ErrClosed, last)
	c.mu.Lock()
}

// letOthersIn is the size of a batch below which the one who writes lets the
// goroutines that are ready run first: a system call costs more than the frames of
// many streams.
const letOthersIn = 2 << 10

// writeBatch sends one batch. mu is released meanwhile.
func (c *Conn) writeBatch() {
	if c.queued() < letOthersIn && c.streams.busy() {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	b := c.collect()
	if b == nil {
		return
	}
	c.batches++
	c.space.Broadcast()
	c.mu.Unlock()
	err := c.send(b.b)
	putBuffer(b)
	if err != nil {
		c.fail(err, nil)
	}
	c.mu.Lock()
}

// send writes frames to the connection. mu is not held.
func (c *Conn) send(frames []byte) error {
	if _, err := c.conn.Write(frames); err != nil {
		return err
	}
	if c.flusher != nil {
		return c.flusher.Flush()
	}
	return nil
}

// collect takes what the next batch has: control frames, frames in order, and then
// DATA of the streams in turn, one frame each.
func (c *Conn) collect() *buffer {
	b := c.out
	c.out, c.owed = nil, 0
	if len(c.control) > 0 && c.batches > 0 { // SETTINGS, which are in the first batch, precede all
		first := getBuffer(len(c.control) + smallBytes)
		first.b = append(first.b, c.control...)
		c.control = c.control[:0]
		if b != nil {
			first.b = append(first.b, b.b...)
			putBuffer(b)
		}
		b = first
	}
	b = c.roomForTurns(b)
	// One turn at least: else header sections alone could fill every batch.
	for turns := 0; c.ring.first != nil && c.window > 0 && (turns == 0 || len(b.b) <= largeBytes-maxFrameBytes-frameHeaderBytes); turns++ {
		b.b = c.turn(c.ring.pop(), b.b)
	}
	if b != nil && len(b.b) == 0 {
		putBuffer(b)
		return nil
	}
	return b
}

// roomForTurns returns b, or a buffer with the same frames, that has room for the
// DATA that may follow, so that it need not grow.
func (c *Conn) roomForTurns(b *buffer) *buffer {
	if c.ring.first == nil || c.window <= 0 {
		return b
	}
	have, need := 0, 0
	if b != nil {
		have = len(b.b)
	}
	for s := c.ring.first; s != nil && have+need < largeBytes; s = s.next {
		n := int(max(min(int64(len(s.pending)), s.window, c.window, largeBytes), 0))
		need += n + frameHeaderBytes*(1+n/maxFrameBytes)
	}
	if have < largeBytes {
		need = min(need, largeBytes-have)
	}
	if b != nil && have+need <= cap(b.b) {
		return b
	}
	larger := getBuffer(have + need)
	if b != nil {
		larger.b = append(larger.b, b.b...)
		putBuffer(b)
	}
	return larger
}

// turn appends one DATA frame of s, which takes its place at the end of the ring
// if it has more that it may send.
func (c *Conn) turn(s *Stream, b []byte) []byte {
	n := int(min(int64(len(s.pending)), maxFrameBytes, s.window, c.window))
	if n <= 0 && !(len(s.pending) == 0 && s.pendingEnd) {
		return b
	}
	end := s.pendingEnd && n == len(s.pending)
	b = appendData(b, s.id, s.pending[:n], end)
	s.window -= int64(n)
	c.window -= int64(n)
	s.pending = s.pending[n:]
	switch {
	case len(s.pending) > 0:
		if s.window > 0 {
			c.ring.push(s)
		}
		return b
	case end:
		s.pendingEnd = false
		s.advance(sentEnd)
	}
	s.dropTail()
	s.sendable.Broadcast()
	return b
}

// answer queues control frames that the peer's frames made necessary. It fails if
// the peer does not read them.
func (c *Conn) answer(frames []byte) *ConnError {
	if c.err != nil {
		return nil
	}
	c.control = append(c.control, frames...)
	return c.flooded()
}

// flooded judges the answers that wait.
func (c *Conn) flooded() *ConnError {
	if len(c.control)+c.owed > maxControl {
		return &ConnError{Code: http2.ErrCodeEnhanceYourCalm, Reason: "the peer does not read the answers it provokes"}
	}
	return nil
}

// sendPing queues a PING. Its payload says what it is for.
func (c *Conn) sendPing(payload uint64) {
	c.control = appendPing(c.control, 0, payload)
	c.clock.pinged()
}

// Payloads of PING frames.
var (
	alivePing = binary.BigEndian.Uint64([]byte("hr-alive"))
	drainPing = binary.BigEndian.Uint64([]byte("hr-drain"))
)
