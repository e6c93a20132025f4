package link

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2"
)

// settings applies the peer's SETTINGS, or its acknowledgement of ours.
func (c *Conn) settings(h frameHeader, p []byte) *ConnError {
	if h.id != 0 {
		return protocolError("SETTINGS on a stream")
	}
	if h.flags.Has(http2.FlagSettingsAck) {
		if len(p) != 0 {
			return frameSizeError("SETTINGS")
		}
		if !c.rd.greeted {
			return protocolError("the first frame acknowledges SETTINGS")
		}
		return c.settingsTaken()
	}
	if len(p)%6 != 0 {
		return frameSizeError("SETTINGS")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil
	}
	first := !c.rd.greeted
	c.rd.greeted, c.clock.greeted = true, true
	if first {
		c.peerStreams = maxWindow // RFC 9113 section 6.5.2: no limit unless it says so
	}
	window := c.peerWindow
	for ; len(p) > 0; p = p[6:] {
		id, value := http2.SettingID(binary.BigEndian.Uint16(p)), binary.BigEndian.Uint32(p[2:])
		switch id {
		case http2.SettingHeaderTableSize:
			c.enc.setLimit(value)
		case http2.SettingEnablePush:
			if value > 1 || value == 1 && c.client {
				return protocolError("SETTINGS_ENABLE_PUSH")
			}
		case http2.SettingMaxConcurrentStreams:
			c.peerStreams = int32(min(value, maxWindow))
		case http2.SettingInitialWindowSize:
			if value > maxWindow {
				return &ConnError{Code: http2.ErrCodeFlowControl, Reason: "SETTINGS_INITIAL_WINDOW_SIZE"}
			}
			window = int64(value)
		case http2.SettingMaxFrameSize:
			if value < maxFrameBytes || value > 1<<24-1 {
				return protocolError("SETTINGS_MAX_FRAME_SIZE")
			}
		case settingReverse:
			c.peerReverse = value == 1
		}
	}
	if err := c.resizeWindows(window); err != nil {
		return err
	}
	// In order with what was sent by the old settings.
	c.needOut(frameHeaderBytes)
	before := len(c.out.b)
	c.out.b = appendSettingsAck(c.out.b)
	c.owed += len(c.out.b) - before
	c.kick()
	if err := c.flooded(); err != nil || first {
		return err
	}
	return c.didNothing()
}

// resizeWindows follows SETTINGS_INITIAL_WINDOW_SIZE, which changes the windows of
// the streams there are; they may become negative (RFC 9113 section 6.9.2). mu is
// held.
func (c *Conn) resizeWindows(window int64) *ConnError {
	by := window - c.peerWindow
	c.peerWindow = window
	if by == 0 {
		return nil
	}
	for _, s := range c.streams.all() {
		if s.window += by; s.window > maxWindow {
			return &ConnError{Code: http2.ErrCodeFlowControl, Reason: "a window beyond 2^31-1"}
		}
		s.maySend()
	}
	return nil
}

// settingsTaken is called when the peer has taken this side's SETTINGS: from now on
// the windows of streams are what they say.
func (c *Conn) settingsTaken() *ConnError {
	t := &c.streams
	c.mu.Lock() // no stream comes or goes meanwhile
	defer c.mu.Unlock()
	t.mu.Lock()
	by := int64(c.cfg.FirstWindow) - t.window
	t.window += by
	t.mu.Unlock()
	if by == 0 {
		return c.didNothing()
	}
	for _, s := range t.all() {
		s.mu.Lock()
		s.recvWindow += by
		s.mu.Unlock()
	}
	return nil
}

// smallCredit is what no peer needs to give by itself.
const smallCredit = 256

func (c *Conn) windowUpdate(h frameHeader, p []byte) *ConnError {
	if len(p) != 4 {
		return frameSizeError("WINDOW_UPDATE")
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if h.id == 0 {
		return c.linkCredit(n)
	}
	s, idle := c.streams.find(h.id, c.isLocal(h.id))
	if idle {
		return protocolError("WINDOW_UPDATE on an idle stream")
	}
	if s == nil {
		return c.didNothing()
	}
	c.mu.Lock()
	window := s.window + n
	if s.id == h.id && n > 0 && window <= maxWindow {
		s.window = window
		s.maySend()
		c.kick()
	}
	c.mu.Unlock()
	switch {
	case n == 0:
		c.streamError(s, h.id, &StreamError{Code: http2.ErrCodeProtocol, Reason: "a WINDOW_UPDATE of 0"})
	case window > maxWindow:
		c.streamError(s, h.id, &StreamError{Code: http2.ErrCodeFlowControl, Reason: "a window beyond 2^31-1"})
	case n < smallCredit:
		return c.didNothing()
	}
	return nil
}

// linkCredit takes a WINDOW_UPDATE of the link.
func (c *Conn) linkCredit(n int64) *ConnError {
	if n == 0 {
		return protocolError("a WINDOW_UPDATE of 0")
	}
	c.mu.Lock()
	c.window += n
	over := c.window > maxWindow
	c.kick()
	c.mu.Unlock()
	if over {
		return &ConnError{Code: http2.ErrCodeFlowControl, Reason: "a window beyond 2^31-1"}
	}
	if n < smallCredit {
		return c.didNothing()
	}
	return nil
}

// maySend puts s among those that send, if it has something to send. Conn.mu is
// held.
func (s *Stream) maySend() {
	if s.window > 0 && len(s.pending) > 0 {
		s.c.ring.push(s)
	}
}

// giveCredit lets the peer send n bytes more on a stream.
func (c *Conn) giveCredit(id uint32, n int) {
	c.mu.Lock()
	if c.err == nil {
		c.control = appendWindowUpdate(c.control, id, n)
		c.lead(nil)
	}
	c.mu.Unlock()
}

// growAfter is how long an owner must have kept up with a body before its window
// grows. Much is taken at once by whoever has buffers of its own to fill.
const growAfter = time.Second

// grow gives a body whose owner waits for it the larger window. Who is held up for long
// and then takes much at once, as the kernel does for a slow client, begins anew. mu is
// held.
func (s *Stream) grow() {
	now := time.Now()
	pause := now.Sub(s.credited)
	s.credited = now
	switch {
	case pause >= growAfter: // or it is the first
		s.since = now
	case s.keptUp && now.Sub(s.since) >= growAfter:
		s.grown = true
		s.credit += s.c.cfg.StreamWindow - s.c.cfg.FirstWindow
	}
	s.keptUp = false
}

// creditDue returns what the peer should be told that it may send, which it then
// may: half a window at a time. mu is held.
func (s *Stream) creditDue() int {
	cfg := &s.c.cfg
	if s.recvErr != nil || s.state.Load()&receivedEnd != 0 {
		return 0
	}
	window := cfg.FirstWindow
	if s.grown {
		window = cfg.StreamWindow
	}
	if s.credit < (window+1)/2 {
		return 0
	}
	if !s.grown && cfg.StreamWindow > cfg.FirstWindow {
		s.grow()
	}
	n := s.credit
	s.credit = 0
	s.recvWindow += int64(n)
	return n
}
