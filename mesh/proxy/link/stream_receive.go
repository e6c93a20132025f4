package link

import (
	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// maxInformed is how many informational responses may wait for the owner.
const maxInformed = 16

// number returns the stream's id.
func (s *Stream) number() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// expects says what the next header block on the stream is. s may be nil.
func (s *Stream) expects(id uint32) blockKind {
	if s == nil {
		return discarded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.id != id || s.recvErr != nil:
		return discarded
	case s.local && !s.hasHead:
		return response
	}
	return trailers
}

// takeRequest takes the head of a new stream. mu is held.
func (s *Stream) takeRequest(b *block) {
	s.takeHead(b)
	if b.end {
		s.advance(receivedEnd)
	}
}

// takeHead takes the final head: the lists change places, so that none is copied.
func (s *Stream) takeHead(b *block) {
	fields := s.head.Fields[:0]
	s.head, s.hasHead = b.head, true
	s.head.Fields, b.fields = b.fields, fields
	s.length = b.length
	if b.end {
		s.length = 0
	}
}

// takeSection takes a response or trailers. It reports whether the owner waits.
func (s *Stream) takeSection(id uint32, b *block) (waiting bool, err *StreamError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.id != id || s.recvErr != nil:
		return false, nil
	case s.state.Load()&receivedEnd != 0:
		return false, &StreamError{Code: http2.ErrCodeStreamClosed, Reason: "a header section after the end"}
	case b.bad != "":
		return false, &StreamError{Code: http2.ErrCodeProtocol, Reason: b.bad}
	case b.tooLarge:
		return false, &StreamError{Code: http2.ErrCodeEnhanceYourCalm, Reason: "a header section that is too large"}
	case b.kind == trailers:
		s.trailers, b.fields = b.fields, nil
	case b.head.Status < 200:
		if len(s.informed) == maxInformed {
			return false, &StreamError{Code: http2.ErrCodeEnhanceYourCalm, Reason: "too many informational responses"}
		}
		h := b.head
		h.Fields = append(header.List(nil), b.fields...)
		s.informed = append(s.informed, h)
	default:
		s.takeHead(b)
		if s.headRequest || b.head.Status == 204 || b.head.Status == 304 {
			s.length = 0 // whatever the field says (RFC 9110 section 8.6)
		} else if b.end && b.length > 0 {
			return false, &StreamError{Code: http2.ErrCodeProtocol, Reason: "a Content-Length without content"}
		}
	}
	if b.end {
		if err := s.takeEnd(); err != nil {
			return false, err
		}
	}
	return s.waiting, nil
}

// takeEnd takes END_STREAM. mu is held.
func (s *Stream) takeEnd() *StreamError {
	if s.length >= 0 && s.received != s.length {
		return &StreamError{Code: http2.ErrCodeProtocol, Reason: "less content than Content-Length"}
	}
	s.advance(receivedEnd)
	return nil
}

// takeData takes a part of the body, of a frame of total bytes. It returns what
// the peer may send at once again, and whether the owner waits.
func (s *Stream) takeData(id uint32, p []byte, total int, end bool) (credit int, waiting bool, err *StreamError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != id || s.recvErr != nil {
		return 0, false, nil
	}
	s.recvWindow -= int64(total)
	s.received += int64(len(p))
	switch {
	case s.state.Load()&receivedEnd != 0:
		return 0, false, &StreamError{Code: http2.ErrCodeStreamClosed, Reason: "DATA after the end"}
	case s.recvWindow < 0 && total > 0: // it may be negative since our SETTINGS lowered it
		return 0, false, &StreamError{Code: http2.ErrCodeFlowControl, Reason: "more DATA than the stream's window"}
	case !s.hasHead:
		return 0, false, &StreamError{Code: http2.ErrCodeProtocol, Reason: "DATA before the head"}
	case s.length >= 0 && s.received > s.length:
		return 0, false, &StreamError{Code: http2.ErrCodeProtocol, Reason: "more content than Content-Length"}
	}
	s.store(p)
	if end {
		if err := s.takeEnd(); err != nil {
			return 0, false, err
		}
	}
	s.credit += total - len(p) // padding is taken as it comes
	if len(p) == 0 {
		credit = s.creditDue()
	}
	return credit, s.waiting, nil
}

// store appends p to what nobody took yet. mu is held.
func (s *Stream) store(p []byte) {
	most := s.chunk()
	for len(p) > 0 {
		n := len(s.in)
		if n == 0 || len(s.in[n-1].b) >= most {
			s.in = append(s.in, getBuffer(min(len(p), most)))
			n++
		}
		last := s.in[n-1]
		size := min(len(last.b)+len(p), most)
		if size > cap(last.b) {
			larger := getBuffer(min(max(size, 2*cap(last.b)), most))
			larger.b = append(larger.b, last.b...)
			putBuffer(last)
			s.in[n-1], last = larger, larger
		}
		take := size - len(last.b)
		last.b = append(last.b, p[:take]...)
		p = p[take:]
	}
}

// chunk is how much of the body one buffer holds. Small ones keep what is held for
// a slow owner close to what there is.
func (s *Stream) chunk() int {
	if s.grown {
		return readBytes
	}
	return batchBytes
}

// pop makes the first buffer that nobody took the view. mu is held.
func (s *Stream) pop() {
	putBuffer(s.view)
	s.view, s.off = s.in[0], 0
	n := copy(s.in, s.in[1:])
	s.in[n] = nil
	s.in = s.in[:n]
}

// dropBody gives back what nobody took. mu is held.
func (s *Stream) dropBody() {
	for i, b := range s.in {
		putBuffer(b)
		s.in[i] = nil
	}
	s.in = s.in[:0]
}
