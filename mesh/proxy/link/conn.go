package link

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Conn is one end of a link. Its methods may be called from any goroutine.
//
// Locks are taken in the order mu, Stream.mu, table.mu. Of the caller's,
// only the callback of OnAbort is called under one, and at times under mu too.
type Conn struct {
	conn   net.Conn
	cfg    Config
	client bool
	done   chan struct{} // closed when err is set
	read   chan struct{} // closed when the reader has ended

	flusher interface{ Flush() error } // conn, if it gathers writes; else nil
	waiter  interface{ Wait() error }  // conn, if it can wait for bytes with less stack than Read; else nil

	rd      reader // belongs to the reader
	streams table
	open    atomic.Int32 // streams opened here that are not closed

	// mu guards what follows: everything that is about sending, and the state of
	// the link.
	mu  sync.Mutex
	err error

	out     *buffer   // frames to send, in order; nil if there are none
	control []byte    // frames to send before them
	owed    int       // bytes of out that the peer provoked
	ring    ring      // streams with DATA that may be sent
	writing bool      // a goroutine is sending
	batches uint64    // batches begun
	space   sync.Cond // out was taken, or writing or err changed
	enc     encoder

	nextID      uint32
	window      int64 // what the peer lets this side send on the link
	peerWindow  int64 // its SETTINGS_INITIAL_WINDOW_SIZE
	peerStreams int32 // its SETTINGS_MAX_CONCURRENT_STREAMS
	peerReverse bool  // it takes reverse streams

	draining   bool // no new streams from here
	goAway     bool // the peer sent GOAWAY
	goAwayCode http2.ErrCode
	said       goAwayState
	finish     bool // close in order when all is sent

	clock clock
}

// goAwayState is how far the link's own GOAWAY is (RFC 9113 section 6.8).
type goAwayState uint8

const (
	notSaid   goAwayState = iota
	announced             // with the highest id; streams under way may still come
	final                 // with the last id; what is above is ignored
)

// Client makes conn a link whose other end is a Server. It takes conn over.
func Client(conn net.Conn, cfg Config) *Conn {
	c := newConn(conn, cfg, true)
	c.nextID = 1
	c.out.b = append(c.out.b, http2.ClientPreface...)
	settings := []http2.Setting{{ID: http2.SettingEnablePush, Val: 0}}
	if c.cfg.Reverse {
		settings = append(settings, http2.Setting{ID: settingReverse, Val: 1})
	}
	c.out.b = c.greet(c.out.b, settings)
	go c.start()
	return c
}

// Server makes conn a link whose other end is a Client, or any client of HTTP/2
// that knows that it speaks to one. It takes conn over.
func Server(conn net.Conn, cfg Config) *Conn {
	c := newConn(conn, cfg, false)
	c.nextID = 2
	c.rd.preface = len(http2.ClientPreface)
	var settings []http2.Setting
	if c.cfg.ExtendedConnect {
		settings = append(settings, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	}
	c.out.b = c.greet(c.out.b, settings)
	go c.start()
	return c
}

func newConn(conn net.Conn, cfg Config, client bool) *Conn {
	c := &Conn{
		conn: conn, cfg: cfg.withDefaults(), client: client,
		done: make(chan struct{}), read: make(chan struct{}),
		out:    getBuffer(smallBytes),
		window: initialWindow, peerWindow: initialWindow,
		// RFC 9113 section 6.5.2 recommends no smaller value, so none is assumed.
		peerStreams: 100,
	}
	c.streams.window = initialWindow
	c.space.L = &c.mu
	c.flusher, _ = conn.(interface{ Flush() error })
	c.waiter, _ = conn.(interface{ Wait() error })
	c.streams.wake.L = &c.streams.mu
	c.initReader()
	c.startClock()
	return c
}

// greet appends SETTINGS, and the credit that makes the link's receive window
// large enough for all streams at once: a stream that nobody reads must not stop
// the others.
func (c *Conn) greet(b []byte, settings []http2.Setting) []byte {
	settings = append(settings,
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.cfg.MaxStreams)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.cfg.FirstWindow)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.cfg.HeaderBytes)})
	b = appendSettings(b, settings...)
	c.rd.windowSize = int(min(max(int64(c.cfg.MaxStreams)*int64(c.cfg.StreamWindow), initialWindow), maxWindow))
	c.rd.window = c.rd.windowSize
	if n := c.rd.windowSize - initialWindow; n > 0 {
		b = appendWindowUpdate(b, 0, n)
	}
	return b
}

// accepts reports whether the peer may open streams.
func (c *Conn) accepts() bool { return !c.client || c.cfg.Reverse }

// Done is closed when the link has ended, in order or not. Streams have failed or
// are about to.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the link has ended: ErrClosed, a *ConnError, or an error of the
// connection. It is nil before Done.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Available reports whether Open would be tried now.
func (c *Conn) Available() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unavailable() == nil
}

// unavailable says why no stream can be opened. mu is held.
func (c *Conn) unavailable() error {
	switch {
	case c.err != nil:
		return c.err
	case c.draining, c.goAway, c.finish, c.nextID > maxWindow:
		return ErrUnavailable
	case !c.client && !c.peerReverse:
		return ErrUnavailable
	case c.open.Load() >= c.peerStreams:
		return ErrUnavailable
	}
	return nil
}

// Streams is the number of streams that were opened here and are not closed.
func (c *Conn) Streams() int { return int(c.open.Load()) }

// Open starts a request. body follows the header section in the same batch if the
// peer's windows allow it; what they do not is copied and follows later. end says
// that nothing comes after body.
//
// It returns ErrUnavailable if the link takes no new stream, and the link's error
// if it has ended; nothing was sent then.
func (c *Conn) Open(head *Head, body []byte, end bool) (*Stream, error) {
	c.mu.Lock()
	for c.err == nil && c.queued() > maxQueued {
		c.space.Wait()
	}
	if err := c.unavailable(); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	s := c.streams.take(c)
	s.mu.Lock() // the reader may still look at what s was before
	s.id, s.local = c.nextID, true
	s.headRequest = head.Method == "HEAD"
	c.streams.insert(s)
	s.mu.Unlock()
	s.window = c.peerWindow
	c.nextID += 2
	c.open.Add(1)
	c.arm()

	start := c.startHeaders()
	c.out.b = c.enc.request(c.out.b, head)
	c.out.b = closeHeaders(c.out.b, start, s.id, end && len(body) == 0)
	switch {
	case len(body) == 0:
		if end {
			s.advance(sentEnd)
		}
	case c.fits(s, body):
		c.sendNow(s, body, end)
	default:
		s.tail = getBuffer(len(body))
		s.tail.b = append(s.tail.b, body...)
		s.pending, s.pendingEnd = s.tail.b, end
		c.ring.push(s)
	}
	c.lead(nil)
	c.mu.Unlock()
	return s, nil
}

// Drain lets no new stream begin on either side, lets those under way end, and
// closes the link then. The peer is told first that it may open no more, and a
// round trip later which was the last (RFC 9113 section 6.8).
func (c *Conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
}

// drain is Drain. mu is held.
func (c *Conn) drain() {
	if c.err != nil || c.draining {
		return
	}
	c.draining = true
	if c.accepts() && c.said == notSaid {
		c.said = announced
		c.queue(goAway(maxWindow, http2.ErrCodeNo))
		c.sendPing(drainPing)
		c.clock.drained = time.Now()
		c.arm()
	}
	c.finishIfDone()
	c.kick()
}

// sayFinal tells the peer which of its streams was the last. mu is held.
func (c *Conn) sayFinal() {
	c.said = final
	c.queue(goAway(c.streams.freeze(), http2.ErrCodeNo))
	c.finishIfDone()
	c.kick()
}

// finishIfDone begins the end of a link that has nothing left to do and may get
// nothing more. mu is held.
func (c *Conn) finishIfDone() {
	ending := c.draining && (c.said == final || !c.accepts()) || c.goAway && c.client
	if ending && !c.finish && c.err == nil && c.streams.len() == 0 {
		c.finish = true
		c.streams.freeze() // what arrives from now on is not acted on
		c.kick()
	}
}

// Close ends the link at once. Every stream fails.
func (c *Conn) Close() error {
	c.fail(ErrClosed, nil)
	if err := c.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close link: %w", err)
	}
	return nil
}

// lingerTimeout is how long a link that was ended with GOAWAY still takes bytes:
// closing a socket with unread bytes makes the kernel take the GOAWAY back.
const lingerTimeout = 500 * time.Millisecond

// fail ends the link once. goAway is the frame to take leave with; nil closes the
// connection at once.
func (c *Conn) fail(err error, goAway []byte) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.done)
	c.clock.timer.Stop()
	c.control, c.ring = nil, ring{}
	putBuffer(c.out)
	c.out = nil
	streams := c.streams.shut()
	for _, s := range streams {
		s.failSending(err)
	}
	c.space.Broadcast()
	c.mu.Unlock()
	for _, s := range streams {
		s.abort(err)
	}
	if goAway == nil {
		_ = c.conn.Close() // what it was for is over
	}
	go c.end(goAway)
}

// end takes leave with goAway, if there is one, and tells the owner when nothing of
// the link runs any more.
func (c *Conn) end(goAway []byte) {
	if goAway != nil {
		_ = c.conn.SetWriteDeadline(time.Now().Add(lingerTimeout)) // an error shows in Write
	}
	c.mu.Lock()
	for c.writing {
		c.space.Wait()
	}
	c.mu.Unlock()
	if goAway != nil {
		c.farewell(goAway)
	}
	<-c.read
	c.streams.await()
	if c.cfg.Ended != nil {
		c.cfg.Ended(c)
	}
}

// farewell sends the last frame, waits a moment for the peer to read it, and closes
// the connection.
func (c *Conn) farewell(goAway []byte) {
	if err := c.send(goAway); err == nil {
		if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // the connection is closed below either way
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(lingerTimeout)) // an error shows in Read
		<-c.read
	}
	_ = c.conn.Close() // what it was for is over
}

// violation ends the link because the peer broke the protocol.
func (c *Conn) violation(err *ConnError) {
	c.fail(err, goAway(c.streams.last(), err.Code))
}
