package link

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// reader is what the goroutine that reads has for itself.
type reader struct {
	buf      *buffer // nil while the link is quiet
	from, to int     // what of buf is there
	busy     bool    // the last read filled it: more is there
	first    [quietBytes]byte
	nothing  [1]byte // an HPACK field of the static table

	preface            int  // bytes of the client's preface that are to come
	greeted            bool // SETTINGS came
	window, windowSize int  // what the peer may still send on the link, and the most of it
	dec                *hpack.Decoder
	block              block

	control []byte    // answers to what was read
	wakes   []*Stream // whose owner waits for what was read
	arrived []*Stream // to be handled
	useless int       // frames lately that did nothing
	since   time.Time // when they were counted from
}

const (
	// quietBytes are read of what wakes a quiet link up.
	quietBytes = 256
	// maxUseless is how many frames that do nothing may come in a second.
	maxUseless = 10_000
	// lingerBytes are thrown away at most after the link has failed.
	lingerBytes = 4 << 20
)

func (c *Conn) initReader() {
	r := &c.rd
	r.block.maxBytes, r.block.maxFields = c.cfg.HeaderBytes, c.cfg.HeaderFields
	r.block.connect = c.cfg.ExtendedConnect
	r.nothing[0] = indexed | 2
	r.dec = hpack.NewDecoder(tableBytes, r.block.field)
}

// receive reads until the link ends, or is quiet and somebody else waits for it:
// the stack that a request needed should not stay. readable says that it was
// waited.
func (c *Conn) receive(readable bool) {
	for !c.ended() {
		if c.rd.buf == nil && c.waiter != nil && !readable {
			go c.await()
			return
		}
		readable = false
		if err := c.fill(); err != nil {
			c.fail(c.readError(err), nil)
			break
		}
		if err := c.process(); err != nil {
			c.violation(err)
			break
		}
	}
	c.discard()
	close(c.read)
}

// await waits for something to read. An error shows again when it is read.
func (c *Conn) await() {
	_ = c.waiter.Wait()
	go c.receive(true)
}

// start greets the peer and begins to read. It does not await the first bytes: a
// TLS handshake may have read them already.
func (c *Conn) start() {
	c.mu.Lock()
	c.kick()
	c.mu.Unlock()
	c.receive(true)
}

func (c *Conn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// readError is what the link ends with when the connection does. It is never
// io.EOF, which would look like the end of a body.
func (c *Conn) readError(err error) error {
	c.mu.Lock()
	goAway, code := c.goAway, c.goAwayCode
	c.mu.Unlock()
	if goAway {
		return &ConnError{Code: code, Remote: true}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read link: %w", err)
}

// fill reads once, or finds that the link should become quiet.
func (c *Conn) fill() error {
	r := &c.rd
	var n int
	var err error
	if r.buf == nil {
		if n, err = c.conn.Read(r.first[:]); n > 0 {
			r.buf = getBuffer(smallBytes)
			r.from, r.to = 0, copy(r.buf.b[:n], r.first[:n])
			c.mu.Lock()
			c.clock.quiet = false
			c.arm()
			c.mu.Unlock()
		}
	} else {
		room := r.room()
		if n, err = c.conn.Read(room); n > 0 {
			r.to += n
			r.busy = n == len(room)
		}
	}
	if n > 0 {
		c.clock.reads.Add(1)
		return nil // an error comes again
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && c.quiet() {
		return nil
	}
	return err
}

// room returns the free end of the buffer. A small buffer gives way to a large one
// when it was filled or a frame does not fit.
func (r *reader) room() []byte {
	if r.busy && cap(r.buf.b) < readBytes {
		larger := getBuffer(readBytes)
		r.from, r.to = 0, copy(larger.b[:cap(larger.b)], r.buf.b[r.from:r.to])
		putBuffer(r.buf)
		r.buf = larger
	}
	b := r.buf.b[:cap(r.buf.b)]
	if r.from == r.to {
		r.from, r.to = 0, 0
	} else if len(b)-r.from < frameHeaderBytes+maxFrameBytes {
		r.from, r.to = 0, copy(b, b[r.from:r.to])
	}
	return b[r.to:]
}

// quiet is called when the reader was interrupted. It reports whether that was to
// give the buffer back; then it has done so, unless a frame has begun.
func (c *Conn) quiet() bool {
	r := &c.rd
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || !c.clock.interrupted {
		return false
	}
	c.clock.interrupted = false
	_ = c.conn.SetReadDeadline(time.Time{}) // an error shows in Read
	if r.buf == nil || r.from < r.to || r.block.id != 0 {
		return true
	}
	putBuffer(r.buf)
	r.buf, r.control, r.wakes, r.arrived = nil, nil, nil, nil
	r.block.rest()
	// The decoder still points to the last block; this is one without effect.
	r.dec.SetEmitEnabled(false)
	_, _ = r.dec.Write(r.nothing[:])
	_ = r.dec.Close()
	c.clock.quiet = true
	return true
}

// process handles every whole frame that is in the buffer, and then wakes those
// who wait for them: once for all of a message that came together.
func (c *Conn) process() *ConnError {
	r := &c.rd
	for r.buf != nil {
		b := r.buf.b[r.from:r.to]
		if r.preface > 0 {
			n := min(r.preface, len(b))
			begin := len(http2.ClientPreface) - r.preface
			if string(b[:n]) != http2.ClientPreface[begin:begin+n] {
				return &ConnError{Code: http2.ErrCodeProtocol, Reason: "no client preface"}
			}
			r.preface -= n
			r.from += n
			if r.preface > 0 {
				break
			}
			continue
		}
		if len(b) < frameHeaderBytes {
			break
		}
		h := parseFrameHeader(b)
		if h.length > maxFrameBytes {
			return &ConnError{Code: http2.ErrCodeFrameSize, Reason: "a frame that is too long"}
		}
		end := frameHeaderBytes + h.length
		if len(b) < end {
			break
		}
		r.from += end
		if err := c.frame(h, b[frameHeaderBytes:end]); err != nil {
			return err
		}
	}
	return c.settle()
}

// settle does what the frames of a batch made necessary.
func (c *Conn) settle() *ConnError {
	r := &c.rd
	for i, s := range r.arrived {
		r.arrived[i] = nil
		c.dispatch(s)
	}
	r.arrived = r.arrived[:0]
	for i, s := range r.wakes {
		r.wakes[i] = nil
		s.arrived.Broadcast()
	}
	r.wakes = r.wakes[:0]
	if len(r.control) == 0 {
		return nil
	}
	c.mu.Lock()
	err := c.answer(r.control)
	c.kick()
	c.mu.Unlock()
	r.control = r.control[:0]
	return err
}

// discard takes what still comes after the link has failed, so that the peer can
// read why.
func (c *Conn) discard() {
	r := &c.rd
	for _, s := range r.arrived {
		s.close(s.id)
	}
	if r.buf == nil {
		r.buf = getBuffer(readBytes)
	}
	for left := lingerBytes; left > 0; {
		n, err := c.conn.Read(r.buf.b[:cap(r.buf.b)])
		left -= n
		if err != nil {
			break
		}
	}
	putBuffer(r.buf)
	r.buf = nil
}

// didNothing counts a frame that cost the peer little and did nothing. A burst of
// them is normal, a flood is not.
func (c *Conn) didNothing() *ConnError {
	r := &c.rd
	r.useless++
	if r.useless <= maxUseless {
		return nil
	}
	now := time.Now()
	if now.Sub(r.since) < time.Second {
		return &ConnError{Code: http2.ErrCodeEnhanceYourCalm, Reason: "a flood of frames that do nothing"}
	}
	r.useless, r.since = 0, now
	return nil
}

// didSomething counts against them.
func (c *Conn) didSomething() {
	if c.rd.useless > 0 {
		c.rd.useless--
	}
}
