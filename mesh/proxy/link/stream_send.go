package link

import (
	"errors"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

var (
	errReleased = errors.New("use stream: it was closed")
	errStopped  = errors.New("read stream: reading was stopped")
	errEnded    = errors.New("write stream: it was ended")
)

// Respond sends a response, on a stream that the peer opened. body follows the
// header section in the same batch as far as the peer's windows allow; Respond
// waits until all of it is taken. end says that nothing comes after it. Any number
// of informational heads, without body and end, may precede the final one.
func (s *Stream) Respond(head *Head, body []byte, end bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.awaitSpace(); err != nil {
		return err
	}
	start := c.startHeaders()
	c.out.b = c.enc.response(c.out.b, head)
	c.out.b = closeHeaders(c.out.b, start, s.id, end && len(body) == 0)
	switch {
	case len(body) == 0:
		if end {
			s.advance(sentEnd)
		}
	case c.fits(s, body):
		c.sendNow(s, body, end)
	default:
		_, err := s.write(body, end)
		return err
	}
	c.lead(nil)
	return nil
}

// Write sends a part of the body. It waits until the peer's windows and the other
// streams of the link let all of it go, and keeps nothing of p.
//
// The caller may find itself writing to the connection, for others too; Reset does
// not interrupt that, Config.WriteTimeout does.
func (s *Stream) Write(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.awaitSpace(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	return s.write(p, false)
}

// write sends p in turns with the other streams. Conn.mu is held.
func (s *Stream) write(p []byte, end bool) (int, error) {
	s.pending, s.pendingEnd = p, end
	s.c.ring.push(s)
	s.c.lead(s)
	for len(s.pending) > 0 && s.sendErr == nil {
		s.sendable.Wait()
	}
	n := len(p) - len(s.pending)
	s.pending = nil
	if n < len(p) {
		return n, s.sendErr
	}
	return n, nil
}

// awaitSpace waits until frames of the stream may be queued. Conn.mu is held.
func (s *Stream) awaitSpace() error {
	for {
		switch {
		case s.sendErr != nil:
			return s.sendErr
		case s.c.err != nil:
			return s.c.err
		case s.state.Load()&sentEnd != 0 || s.pendingEnd:
			return errEnded
		case s.tail != nil:
			s.sendable.Wait()
		case s.c.queued() > maxQueued:
			s.c.space.Wait()
		default:
			return nil
		}
	}
}

// End sends END_STREAM, with trailers if there are any.
func (s *Stream) End(trailers header.List) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.tail != nil && len(trailers) == 0 && s.sendErr == nil && !s.pendingEnd {
		s.pendingEnd = true
		return nil
	}
	if err := s.awaitSpace(); err != nil {
		return err
	}
	if len(trailers) == 0 {
		c.sendNow(s, nil, true)
	} else {
		start := c.startHeaders()
		c.out.b = c.enc.trailers(c.out.b, trailers)
		c.out.b = closeHeaders(c.out.b, start, s.id, true)
		s.advance(sentEnd)
	}
	c.lead(nil)
	return nil
}

// Reset ends the stream with RST_STREAM if it is not closed, and makes everything
// that waits on it return a *StreamError. It may be called from any goroutine as
// long as the stream has its owner.
func (s *Stream) Reset(code http2.ErrCode) {
	s.reset(&StreamError{Code: code})
}

func (s *Stream) reset(err *StreamError) {
	c := s.c
	c.mu.Lock()
	if s.id == 0 {
		c.mu.Unlock()
		return
	}
	s.resetSending(err.Code, err)
	c.kick()
	s.mu.Lock()
	s.failReceiving(err)
	s.mu.Unlock()
	c.mu.Unlock()
}

// resetSending queues RST_STREAM behind what was sent on the stream. Conn.mu is
// held.
func (s *Stream) resetSending(code http2.ErrCode, err error) {
	s.failSending(err)
	if s.advance(wasReset) && s.c.err == nil {
		s.c.needOut(frameHeaderBytes + 4)
		s.c.out.b = appendReset(s.c.out.b, s.id, code)
		if !s.local {
			s.c.owed += resetBytes // who opens streams may make us reset them
		}
	}
}

// failSending makes every further call that sends fail. Conn.mu is held.
func (s *Stream) failSending(err error) {
	if s.sendErr != nil {
		return
	}
	s.sendErr = err
	s.c.ring.remove(s)
	s.dropTail()
	s.sendable.Broadcast()
	s.c.space.Broadcast()
}

// dropTail gives the copy of Open's body back. Conn.mu is held.
func (s *Stream) dropTail() {
	if s.tail == nil {
		return
	}
	putBuffer(s.tail)
	s.tail, s.pending, s.pendingEnd = nil, nil, false
}
