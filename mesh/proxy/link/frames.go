package link

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

func protocolError(reason string) *ConnError {
	return &ConnError{Code: http2.ErrCodeProtocol, Reason: reason}
}

func frameSizeError(reason string) *ConnError {
	return &ConnError{Code: http2.ErrCodeFrameSize, Reason: reason}
}

// frame handles one frame. It is called by the reader, as is everything in this
// file.
func (c *Conn) frame(h frameHeader, p []byte) *ConnError {
	r := &c.rd
	if !r.greeted && h.kind != http2.FrameSettings {
		return protocolError("the first frame is not SETTINGS")
	}
	if r.block.id != 0 && (h.kind != http2.FrameContinuation || h.id != r.block.id) {
		return protocolError("a header block is interrupted")
	}
	switch h.kind {
	case http2.FrameData:
		return c.data(h, p)
	case http2.FrameHeaders:
		return c.headers(h, p)
	case http2.FrameContinuation:
		return c.continuation(h, p)
	case http2.FrameRSTStream:
		return c.rstStream(h, p)
	case http2.FrameSettings:
		return c.settings(h, p)
	case http2.FramePushPromise:
		return protocolError("PUSH_PROMISE, which was not allowed")
	case http2.FramePing:
		return c.ping(h, p)
	case http2.FrameGoAway:
		return c.goAwayFrame(h, p)
	case http2.FrameWindowUpdate:
		return c.windowUpdate(h, p)
	case http2.FramePriority:
		if h.id == 0 {
			return protocolError("PRIORITY without a stream")
		}
		if len(p) != 5 {
			return frameSizeError("PRIORITY")
		}
		if dependsOnItself(h.id, p) {
			return protocolError("a stream that depends on itself")
		}
	}
	return c.didNothing() // RFC 9113 section 5.5
}

// isLocal reports whether id is for streams that this side opens.
func (c *Conn) isLocal(id uint32) bool { return (id%2 == 1) == c.client }

// unpad removes the padding of a frame.
func unpad(h frameHeader, p []byte) ([]byte, bool) {
	const padded = http2.FlagDataPadded // in HEADERS too
	if !h.flags.Has(padded) {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

func (c *Conn) data(h frameHeader, p []byte) *ConnError {
	r := &c.rd
	if h.id == 0 {
		return protocolError("DATA without a stream")
	}
	// What arrives is in a stream's buffer, whose own window bounds it, or gone. So
	// the link's window is given back as it is used; it bounds nothing that is kept,
	// and is never less than a frame.
	r.window -= len(p)
	if n := r.windowSize - r.window; n >= r.windowSize/2 {
		r.control = appendWindowUpdate(r.control, 0, n)
		r.window = r.windowSize
	}
	total := len(p)
	p, ok := unpad(h, p)
	if !ok {
		return protocolError("more padding than DATA")
	}
	s, idle := c.streams.find(h.id, c.isLocal(h.id))
	if idle {
		return protocolError("DATA on an idle stream")
	}
	if !c.isLocal(h.id) {
		switch over, skipped := c.over(s, h.id); {
		case skipped:
			return errSkipped
		case over != 0 && s == nil || over&peerReset != 0:
			r.control = appendReset(r.control, h.id, http2.ErrCodeStreamClosed)
			return c.didNothing()
		}
	}
	end := h.flags.Has(http2.FlagDataEndStream)
	if s == nil && total >= smallCredit { // of a stream that was refused or reset: its sender works as hard
		return nil
	}
	if s == nil {
		return c.didNothing()
	}
	if len(p) == 0 && !end {
		if err := c.didNothing(); err != nil {
			return err
		}
	} else {
		c.didSomething()
	}
	credit, wake, err := s.takeData(h.id, p, total, end)
	if err != nil {
		c.streamError(s, h.id, err)
		return nil
	}
	if credit > 0 {
		r.control = appendWindowUpdate(r.control, h.id, credit)
	}
	c.wake(s, wake, end)
	return nil
}

// wake wakes the owner of s, at once if nothing more will come for it.
func (c *Conn) wake(s *Stream, waiting, end bool) {
	switch {
	case !waiting:
	case end:
		s.arrived.Broadcast()
	default:
		c.rd.wakes = append(c.rd.wakes, s)
	}
}

// streamError resets a stream that the peer broke.
func (c *Conn) streamError(s *Stream, id uint32, err *StreamError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.id != id {
		return
	}
	s.resetSending(err.Code, err)
	s.mu.Lock()
	s.failReceiving(err)
	s.abortLocked(err)
	s.mu.Unlock()
	c.kick()
}

func (c *Conn) headers(h frameHeader, p []byte) *ConnError {
	if h.id == 0 {
		return protocolError("HEADERS without a stream")
	}
	p, ok := unpad(h, p)
	if !ok {
		return protocolError("more padding than HEADERS")
	}
	if h.flags.Has(http2.FlagHeadersPriority) {
		if len(p) < 5 {
			return frameSizeError("HEADERS")
		}
		if dependsOnItself(h.id, p) {
			return protocolError("a stream that depends on itself")
		}
		p = p[5:]
	}
	end := h.flags.Has(http2.FlagHeadersEndStream)
	if c.isLocal(h.id) {
		s, idle := c.streams.find(h.id, true)
		if idle {
			return protocolError("HEADERS on an idle stream")
		}
		if err := c.beginLate(s, h.id, end); err != nil {
			return err
		}
	} else {
		if !c.accepts() {
			return protocolError("a stream of the server, which was not allowed")
		}
		if err := c.beginPeer(h.id, end); err != nil {
			return err
		}
	}
	return c.fragment(h, p)
}

// dependsOnItself reports whether the priority in p, which is only looked at for this,
// is of the stream itself (RFC 7540 section 5.3.1).
func dependsOnItself(id uint32, p []byte) bool { return binary.BigEndian.Uint32(p)&maxWindow == id }

// errSkipped is for streams that are opened out of order (RFC 9113 section 5.1.1).
var errSkipped = protocolError("a stream that a later one closed") //nolint:gochecknoglobals // a constant

// over returns how the peer itself has ended its stream id, as bits; s is the stream, or
// nil if it is closed. What comes on one then is an error of the stream, mostly (section
// 5.1): what resets may overtake what was sent before.
func (c *Conn) over(s *Stream, id uint32) (state uint32, skipped bool) {
	if s == nil {
		return c.streams.past(id)
	}
	return s.state.Load() & (receivedEnd | peerReset), false
}

// beginPeer begins a header block on a stream of the peer.
func (c *Conn) beginPeer(id uint32, end bool) *ConnError {
	r := &c.rd
	slots := c.cfg.MaxStreams
	if c.cfg.Handle == nil {
		slots = 0
	}
	switch c.streams.arrive(id, slots) {
	case taken:
		r.block.begin(request, id, end)
		if c.cfg.Refuse == nil {
			break
		}
		if r.block.answer = c.cfg.Refuse(); r.block.answer != nil {
			r.block.kind = unwanted
		}
	case refused:
		r.control = appendReset(r.control, id, http2.ErrCodeRefusedStream)
		r.block.begin(discarded, id, end)
	case ignored:
		r.block.begin(discarded, id, end)
	case late:
		s, _ := c.streams.find(id, false)
		switch over, skipped := c.over(s, id); {
		case skipped:
			return errSkipped
		case over&peerReset != 0:
			r.control = appendReset(r.control, id, http2.ErrCodeStreamClosed)
		case over != 0 && s == nil:
			return &ConnError{Code: http2.ErrCodeStreamClosed, Reason: "HEADERS on a stream that the peer has ended"}
		}
		return c.beginLate(s, id, end)
	}
	c.didSomething()
	return nil
}

// beginLate begins a header block on a stream that was opened before; s is nil if
// it is closed.
func (c *Conn) beginLate(s *Stream, id uint32, end bool) *ConnError {
	kind := s.expects(id)
	c.rd.block.begin(kind, id, end)
	if kind == discarded {
		return c.didNothing()
	}
	return nil
}

// Bounds of a header block as it comes, as multiples of what it may decode to. Both
// are far from what an honest peer needs.
const (
	blockBytes  = 4
	blockFrames = 64
)

func (c *Conn) continuation(h frameHeader, p []byte) *ConnError {
	if c.rd.block.id == 0 {
		return protocolError("CONTINUATION without HEADERS")
	}
	return c.fragment(h, p)
}

// fragment decodes a part of a header block. Blocks that nobody wants are decoded
// too: they change the table that later ones refer to (RFC 9113 section 4.3).
func (c *Conn) fragment(h frameHeader, p []byte) *ConnError {
	r := &c.rd
	b := &r.block
	b.frames++
	b.bytes += len(p)
	if b.frames > blockFrames || b.bytes > blockBytes*c.cfg.HeaderBytes+maxFrameBytes {
		return &ConnError{Code: http2.ErrCodeEnhanceYourCalm, Reason: "a header block without end"}
	}
	r.dec.SetEmitEnabled(b.wants())
	if _, err := r.dec.Write(p); err != nil {
		return &ConnError{Code: http2.ErrCodeCompression, Reason: "a header block that does not decode"}
	}
	if !h.flags.Has(http2.FlagHeadersEndHeaders) {
		return nil
	}
	if err := r.dec.Close(); err != nil {
		return &ConnError{Code: http2.ErrCodeCompression, Reason: "a header block that is cut short"}
	}
	b.finish()
	id := b.id
	b.id = 0
	switch b.kind {
	case request:
		return c.request(id)
	case unwanted:
		return c.refuse(id, b.end, b.answer)
	case response, trailers:
		c.section(id)
	}
	return nil
}

// request begins a stream of the peer.
func (c *Conn) request(id uint32) *ConnError {
	r := &c.rd
	b := &r.block
	if b.bad != "" {
		r.control = appendReset(r.control, id, http2.ErrCodeProtocol)
		return nil
	}
	if b.tooLarge {
		return c.refuse(id, b.end, &Head{Status: 431}) // RFC 6585 section 5
	}
	s := c.streams.take(c)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil
	}
	s.mu.Lock()
	s.id, s.local = id, false
	s.takeRequest(b)
	c.streams.insert(s)
	s.mu.Unlock()
	s.window = c.peerWindow
	c.arm()
	err := c.flooded()
	c.mu.Unlock()
	if err != nil {
		r.arrived = append(r.arrived, s) // to be let go
		return err
	}
	if b.end {
		c.dispatch(s)
	} else {
		r.arrived = append(r.arrived, s)
	}
	return nil
}

// refuse answers a request that becomes no stream. What follows of it is ignored.
func (c *Conn) refuse(id uint32, end bool, answer *Head) *ConnError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil
	}
	before := c.queued()
	start := c.startHeaders()
	c.out.b = c.enc.response(c.out.b, answer)
	c.out.b = closeHeaders(c.out.b, start, id, true)
	if !end {
		c.out.b = appendReset(c.out.b, id, http2.ErrCodeNo)
	}
	c.owed += c.queued() - before
	c.kick()
	return c.flooded()
}

// section takes a response or trailers.
func (c *Conn) section(id uint32) {
	b := &c.rd.block
	s, _ := c.streams.find(id, c.isLocal(id))
	if s == nil {
		return
	}
	waiting, err := s.takeSection(id, b)
	if err != nil {
		c.streamError(s, id, err)
		return
	}
	c.didSomething()
	c.wake(s, waiting, b.end)
}

func (c *Conn) rstStream(h frameHeader, p []byte) *ConnError {
	if h.id == 0 {
		return protocolError("RST_STREAM without a stream")
	}
	if len(p) != 4 {
		return frameSizeError("RST_STREAM")
	}
	s, idle := c.streams.find(h.id, c.isLocal(h.id))
	if idle {
		return protocolError("RST_STREAM on an idle stream")
	}
	if s == nil || s.state.Load()&wasReset != 0 {
		return c.didNothing()
	}
	c.stop(s, h.id, &StreamError{Code: http2.ErrCode(binary.BigEndian.Uint32(p)), Remote: true})
	return nil
}

// stop ends a stream that the peer gave up.
func (c *Conn) stop(s *Stream, id uint32, err *StreamError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.id != id {
		return
	}
	s.failSending(err)
	s.advance(wasReset | peerReset)
	s.abort(err)
}

func (c *Conn) ping(h frameHeader, p []byte) *ConnError {
	if h.id != 0 {
		return protocolError("PING on a stream")
	}
	if len(p) != 8 {
		return frameSizeError("PING")
	}
	payload := binary.BigEndian.Uint64(p)
	if !h.flags.Has(http2.FlagPingAck) {
		c.rd.control = appendPing(c.rd.control, http2.FlagPingAck, payload)
		return c.didNothing()
	}
	if payload == drainPing {
		c.mu.Lock()
		if c.said == announced && c.err == nil {
			c.sayFinal()
		}
		c.mu.Unlock()
	}
	return c.didNothing()
}

func (c *Conn) goAwayFrame(h frameHeader, p []byte) *ConnError {
	if h.id != 0 {
		return protocolError("GOAWAY on a stream")
	}
	if len(p) < 8 {
		return frameSizeError("GOAWAY")
	}
	last := binary.BigEndian.Uint32(p) & maxWindow
	code := http2.ErrCode(binary.BigEndian.Uint32(p[4:]))
	c.mu.Lock()
	c.goAway, c.goAwayCode = true, code
	c.mu.Unlock()
	for _, s := range c.streams.all() {
		if id := s.number(); c.isLocal(id) && id > last {
			c.stop(s, id, &StreamError{Code: http2.ErrCodeRefusedStream, Remote: true, unprocessed: true})
		}
	}
	c.mu.Lock()
	c.finishIfDone()
	c.mu.Unlock()
	return c.didNothing()
}
