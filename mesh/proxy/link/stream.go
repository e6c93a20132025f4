package link

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// Stream is one request and its response. It has one owner: who opened it, until
// Close, or Handle, until it returns. Reset alone may be called from any goroutine,
// and like everything else only while it has its owner.
//
// One goroutine may receive (Response, Next, Read, Complete, Trailers) while
// another sends (Respond, Write, End).
type Stream struct {
	c           *Conn
	local       bool // opened here
	headRequest bool // its method is HEAD: no body comes
	state       atomic.Uint32

	// mu guards what is received. The callback of OnAbort alone is called under it.
	mu         sync.Mutex
	id         uint32    // 0: not in use. Written under Conn.mu and mu, read under one of them
	arrived    sync.Cond // something was received, or recvErr was set
	waiting    bool      // somebody waits for that
	head       Head
	hasHead    bool
	informed   []Head // informational responses that nobody took yet
	trailers   header.List
	in         []*buffer // body that nobody took yet
	view       *buffer   // what Next gave out last
	off        int       // how much of view was taken
	length     int64
	received   int64     // of the body
	recvWindow int64     // what the peer may still send
	credited   time.Time // when credit was given last
	since      time.Time // from when on it was given without long pauses
	keptUp     bool      // the owner has waited for more since the last
	grown      bool      // the window is StreamWindow
	credit     int       // what was taken, and the peer may send again when it is told
	recvErr    error
	aborted    bool
	onAbort    func()

	// Conn.mu guards what is sent.
	sendable   sync.Cond // pending was taken, or sendErr was set
	sendErr    error
	window     int64
	pending    []byte  // DATA that waits; the caller's, who waits too, or tail's
	pendingEnd bool    // END_STREAM comes with the last of it
	tail       *buffer // the body that Open did not wait for
	queued     bool    // in the ring
	next       *Stream // in the ring
}

// Bits of a stream's state (RFC 9113 section 5.1).
const (
	sentEnd     = 1 << iota // half-closed (local)
	receivedEnd             // half-closed (remote)
	wasReset
	peerReset // by the other side
)

func isClosed(state uint32) bool {
	return state&wasReset != 0 || state&(sentEnd|receivedEnd) == sentEnd|receivedEnd
}

// advance adds bits to the state, and reports whether they closed the stream.
func (s *Stream) advance(bits uint32) bool {
	old := s.state.Or(bits)
	if isClosed(old) || !isClosed(old|bits) {
		return false
	}
	if s.local {
		s.c.open.Add(-1)
	}
	return true
}

func newStream(c *Conn) *Stream {
	s := &Stream{c: c, length: -1}
	s.arrived.L, s.sendable.L = &s.mu, &c.mu
	return s
}

// Request is the head that the peer sent. It is valid until Handle returns.
func (s *Stream) Request() *Head { return &s.head }

// Length is the Content-Length of the message that is received: -1 if it is
// unknown, 0 if there is no body. On the side that opened the stream it is known
// with the final response.
func (s *Stream) Length() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.length
}

// Response waits for the next head: each informational one in turn, and then the
// final one, again and again. It is valid until the next call if it was
// informational, and until Close if it was final.
func (s *Stream) Response() (*Head, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case len(s.informed) > 0:
			h := s.informed[0]
			s.informed = s.informed[1:]
			return &h, nil
		case s.hasHead:
			return &s.head, nil
		case s.recvErr != nil:
			return nil, s.recvErr
		}
		s.wait()
	}
}

// wait waits for something to arrive. mu is held.
func (s *Stream) wait() {
	s.waiting = true
	s.arrived.Wait()
	s.waiting = false
}

// Next returns the bytes of the body that are there, and waits for the first ones.
// They are valid until the next call, which lets the peer send as many again. It
// returns io.EOF at the end of the body, and an error if the body did not come to
// its end.
func (s *Stream) Next() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fill(); err != nil {
		return nil, err
	}
	p := s.view.b[s.off:]
	s.off = len(s.view.b)
	return p, nil
}

// Read is as io.Reader has it.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fill(); err != nil {
		return 0, err
	}
	n := copy(p, s.view.b[s.off:])
	s.off += n
	return n, nil
}

// fill waits until there is something in view that was not taken. mu is held.
func (s *Stream) fill() error {
	if s.view != nil && s.off < len(s.view.b) && s.recvErr == nil {
		return nil
	}
	if s.view != nil {
		s.credit += len(s.view.b)
		putBuffer(s.view)
		s.view, s.off = nil, 0
	}
	if n := s.creditDue(); n > 0 {
		id := s.id
		s.mu.Unlock()
		s.c.giveCredit(id, n)
		s.mu.Lock()
	}
	for {
		switch {
		case s.recvErr != nil:
			return s.recvErr
		case len(s.in) > 0:
			s.pop()
			return nil
		case s.state.Load()&receivedEnd != 0:
			return io.EOF
		}
		s.keptUp = true
		s.wait()
	}
}

// Complete returns what is left of the body if all of it has come, without waiting,
// in one piece, and no trailers, which must not be missed, came with it. It is valid until the
// next call of Next or Read, or Close.
func (s *Stream) Complete() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recvErr != nil || s.state.Load()&receivedEnd == 0 || len(s.trailers) > 0 {
		return nil, false
	}
	pieces := len(s.in)
	if s.view != nil && s.off < len(s.view.b) {
		pieces++
	}
	switch {
	case pieces > 1:
		return nil, false
	case len(s.in) > 0:
		s.pop()
	}
	if s.view == nil {
		return nil, true
	}
	p := s.view.b[s.off:]
	s.off = len(s.view.b)
	return p, true
}

// Trailers returns the trailer section, which is known at io.EOF. It is valid as
// long as the stream.
func (s *Stream) Trailers() header.List {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trailers
}

// StopReading makes everything that waits to receive on the stream return an error,
// now and later. The stream can still send. It may be called from any goroutine as
// long as the stream has its owner.
func (s *Stream) StopReading() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failReceiving(errStopped)
}

// OnAbort has f called once if the peer resets the stream or the link ends before
// Close, at once if that has happened. f is called with locks held: it must not
// block, and must not call methods of this or another link or stream. Nil takes an earlier f back: it is not called after that.
func (s *Stream) OnAbort(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f != nil && s.aborted {
		f()
		return
	}
	s.onAbort = f
}

// abort ends what is received from outside. What has come to its end stays. s.id
// was checked or cannot change.
func (s *Stream) abort(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abortLocked(err)
}

func (s *Stream) abortLocked(err error) {
	if s.state.Load()&receivedEnd == 0 {
		s.failReceiving(err)
	}
	if f := s.onAbort; f != nil {
		s.onAbort = nil
		f()
	}
	s.aborted = true
}

// failReceiving makes every further call that receives fail. mu is held.
func (s *Stream) failReceiving(err error) {
	if s.recvErr != nil {
		return
	}
	s.recvErr = err
	s.informed = nil
	s.dropBody()
	s.arrived.Broadcast()
}

// Close gives the stream up: it is reset if its messages have not come to their
// end, and must not be used any more. Who opened a stream must close it; for
// Handle it is done.
func (s *Stream) Close() { s.close(s.id) }

// close closes the stream if it still is the one of that id.
func (s *Stream) close(id uint32) {
	c := s.c
	c.mu.Lock()
	if s.id == 0 || s.id != id {
		c.mu.Unlock()
		return
	}
	if !isClosed(s.state.Load()) {
		code := http2.ErrCodeCancel
		switch {
		case s.local:
		case s.state.Load()&sentEnd != 0:
			code = http2.ErrCodeNo // RFC 9113 section 8.1
		default:
			code = http2.ErrCodeInternal
		}
		s.resetSending(code, errReleased)
		c.kick()
	}
	c.ring.remove(s)
	state := s.state.Load()
	s.mu.Lock()
	s.clear()
	s.mu.Unlock()
	c.streams.remove(id, s, state)
	c.finishIfDone()
	c.mu.Unlock()
}

// clear makes s ready to be used again. Conn.mu and mu are held.
func (s *Stream) clear() {
	s.id, s.headRequest = 0, false
	s.state.Store(0)
	fields := s.head.Fields[:0]
	clear(fields[:cap(fields)])
	s.head, s.hasHead = Head{Fields: fields}, false
	s.informed, s.trailers = nil, nil
	s.dropBody()
	putBuffer(s.view)
	s.view, s.off = nil, 0
	s.length, s.received, s.credit = -1, 0, 0
	s.credited, s.keptUp, s.grown = time.Time{}, false, false
	s.recvErr, s.aborted, s.onAbort = nil, false, nil
	s.sendErr, s.pending, s.pendingEnd = nil, nil, false
	s.dropTail()
}
