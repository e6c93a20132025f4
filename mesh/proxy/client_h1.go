package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/h1"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// h1Client is a client's HTTP/1.1 connection, and the request on it.
type h1Client struct {
	s     *server
	conn  halfCloser
	raw   *net.TCPConn // below TLS
	info  callerInfo
	reads *timedReader
	r     *h1.Reader
	w     *h1.Writer
	req   h1.Request
	x     exchange
	look  func() bool // c.lookAfter
	looks sync.WaitGroup
	idle  atomic.Bool  // waits for a request
	quiet bool         // has waited for long
	final bool         // nothing may follow this response
	gone  atomic.Bool  // another protocol's now
	leave *atomic.Bool // the listener drains: responses are the last
	over  atomic.Bool  // likewise, as the peer's certificate has ended
	life  *lifetime    // nil if it has none
	head  bool         // the request is a HEAD
	known bool         // that the client speaks HTTP/1
	http2 bool         // it does not: what it sent is still to be read
}

var _ = client{(*h1Client)(nil), (*h1Client)(nil), (*h1Client)(nil)}

func newH1Client(s *server, conn halfCloser, deadlines deadliner, info callerInfo, leave *atomic.Bool) *h1Client {
	l := &s.e.opt.Limits
	c := &h1Client{s: s, conn: conn, info: info, leave: leave}
	c.reads = &timedReader{conn: conn, deadlines: deadlines, idle: l.IdleTimeout, head: l.HeaderTimeout}
	c.r = h1.NewReader(c.reads, h1.Limits{HeadBytes: l.HeaderBytes, TargetBytes: l.TargetBytes, Fields: l.HeaderCount})
	c.w = h1.NewWriter(conn)
	c.look = c.lookAfter
	return c
}

// serve handles requests until the connection ends, and closes it. It returns true
// if the connection is quiet: then await is to be called, from a goroutine that has
// not the stack of this one, and serve again if that returns true.
func (c *h1Client) serve() (quiet bool) {
	for c.next() {
	}
	switch {
	case c.quiet:
		return true
	case !c.http2:
		c.hangUp()
	}
	return false
}

// hangUp closes the connection after its last response.
func (c *h1Client) hangUp() {
	c.x.watch.release()
	if c.gone.Load() {
		return
	}
	c.linger()
	_ = c.conn.Close() // how closing went cannot matter to anybody
}

// next handles one request and reports whether another may follow.
func (c *h1Client) next() bool {
	c.idle.Store(true)
	if c.leave.Load() || c.over.Load() { // what began to wait too late to be told so
		c.reads.idle = leaveGrace
	}
	c.reads.phase(phaseIdle)
	if c.quiet { // something came: of a request, or of a record of one
		c.reads.phase(phaseHead)
	}
	err := c.r.Fill()
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.reads.interrupted() && !c.quiet && c.reads.idle > restlessFor {
		c.rest()
		return false
	}
	c.quiet = false
	c.idle.Store(false)
	if err != nil {
		return false // it left, was silent for too long, or the listener drains
	}
	c.reads.phase(phaseHead)
	if !c.known && !c.info.secure {
		c.known = true
		if c.http2, _ = c.r.Begins(http2.ClientPreface); c.http2 {
			return false
		}
	}
	c.x.reset(c.s, client{c, c, c})
	if err := c.r.ReadRequest(&c.req); err != nil {
		c.refuse(err)
		return false
	}
	c.reads.phase(phaseBody)
	c.fill()
	complete := c.s.serve(&c.x)
	c.endLook()
	switch {
	case c.gone.Load():
		return false
	case !complete:
		c.final = false
		c.abort()
		return false
	}
	if !c.r.Ended() {
		c.final = true
	}
	return !c.final && !c.reads.interrupted()
}

// rest makes the connection quiet: it gives back what only requests need.
func (c *h1Client) rest() {
	c.quiet = true
	c.w.Release()
	c.r.Release()
	c.req = h1.Request{} // its views would keep the buffer
	c.x.rest()
}

// await waits until a quiet connection has something to read, and then returns true.
// If it has been idle for too long, or was interrupted, await closes it.
func (c *h1Client) await() bool {
	c.reads.phase(phaseQuiet)
	err := c.reads.arm()
	if err == nil {
		err = waitReadable(c.raw)
	}
	if err != nil {
		c.hangUp()
	}
	return err == nil
}

// fill gives the exchange the request that was read.
func (c *h1Client) fill() {
	in := &c.x.in
	*in = incoming{
		method: c.req.Method, target: c.req.Target, host: c.req.Host, fields: c.req.Fields,
		http1: true, minor: c.req.Minor, asks: c.req.Upgrade,
		secure: c.info.secure, remote: c.info.remote, peer: c.info.peer, clientCert: c.info.clientCert, graced: c.info.graced,
	}
	switch c.req.Framing {
	case h1.Length:
		in.length = c.req.Length
	case h1.Chunked:
		in.length = -1
	}
	c.head = c.req.Method == http.MethodHead
	c.final = !c.req.KeepAlive
}

// refuse answers a request that could not be read.
func (c *h1Client) refuse(err error) {
	var malformed *h1.Error
	refusal := Refusal{Code: CodeBadRequest, Detail: "the request is malformed"}
	switch {
	case errors.As(err, &malformed):
		refusal.Status = malformed.Status
		switch malformed.Status {
		case http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
			refusal.Code, refusal.Detail = CodeTooLarge, "the request's target or header is too long"
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			refusal.Code, refusal.Detail = CodeUnsupported, "the transfer coding or the version of HTTP is not one this proxy speaks"
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		refusal = Refusal{http.StatusRequestTimeout, CodeClientTimeout, "the request's header took too long"}
	default: // it left in the middle
		c.s.e.metrics.listener.Inc()
		return
	}
	c.s.e.metrics.listener.Inc()
	c.final, c.head = true, false
	c.reads.phase(phaseBody)
	c.x.in = incoming{http1: true, minor: 1}
	c.x.watch.start(&c.x, c.s.e.opt.Limits.WriteTimeout, 0, nil)
	c.s.counters.count("", c.s.refuse(&c.x, &failure{Refusal: refusal, kind: failedClient, err: err}))
	c.x.finish()
}

// lookAfter begins to wait for what the client does while it waits for its
// response: an end of the connection ends the exchange. It returns false while
// the request's body is still being read.
func (c *h1Client) lookAfter() bool {
	if !c.x.body.ended() {
		return false
	}
	if c.r.Buffered() > 0 {
		return true // it has sent its next request, and so waits
	}
	c.looks.Go(func() {
		_ = waitReadable(c.raw) // an error shows again
		if err := c.r.Fill(); err != nil && !c.reads.interrupted() {
			c.x.watch.cut(errClientGone)
		}
	})
	return true
}

func (c *h1Client) looker() func() bool { return c.look }

// endLook ends lookAfter if it is under way.
func (c *h1Client) endLook() {
	if c.x.watch.looked() {
		c.reads.pause()
		c.looks.Wait()
		c.reads.resume()
	}
}

// Read is a client's.
func (c *h1Client) Read(p []byte) (int, error) { return c.r.Read(p) }

// whole returns the body if it has arrived already.
func (c *h1Client) whole() ([]byte, bool) { return c.r.Complete() }

func (c *h1Client) bodyTrailers() header.List { return c.r.Trailers() }

// last says that nothing may follow the response.
func (c *h1Client) last() { c.final = true }

// inform is a client's.
func (c *h1Client) inform(head *responseHead) error {
	c.w.StartResponse(head.status, head.reason)
	for i := range head.fields {
		c.w.Field(head.fields[i].Name, head.fields[i].Value)
	}
	c.w.EndHead(h1.NoBody, 0)
	return c.w.Flush()
}

// begin is a client's.
func (c *h1Client) begin(head *responseHead, first []byte, end bool) error {
	w := c.w
	w.StartResponse(head.status, head.reason)
	for i := range head.fields {
		w.Field(head.fields[i].Name, head.fields[i].Value)
	}
	framing := h1.Length
	switch {
	case c.head || head.status == http.StatusNoContent || head.status == http.StatusNotModified:
		framing = h1.NoBody
	case head.length < 0 && !end:
		framing = h1.Chunked
		if c.req.Minor == 0 {
			framing, c.final = h1.UntilClose, true
		}
	}
	length := head.length
	if end {
		length = int64(len(first))
	}
	// A body that nobody reads has no next request behind it.
	if c.x.uploaded == nil && !c.r.Ended() || c.leave.Load() || c.over.Load() || c.s.e.overload.closing() {
		c.final = true
	}
	switch {
	case c.final:
		w.Field("Connection", "close")
	case c.req.Minor == 0:
		w.Field("Connection", "keep-alive")
	}
	w.EndHead(framing, length)
	if framing != h1.NoBody {
		if _, err := w.Write(first); err != nil {
			return err
		}
		if end {
			if err := w.End(nil); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

// write is a client's.
func (c *h1Client) write(p []byte) error {
	if c.head {
		return nil
	}
	if _, err := c.w.Write(p); err != nil {
		return err
	}
	return c.w.Flush()
}

// end is a client's.
func (c *h1Client) end(trailers header.List) error {
	if err := c.w.End(trailers); err != nil {
		return err
	}
	return c.w.Flush()
}

// hijack is a client's.
func (c *h1Client) hijack(fields header.List) (halfCloser, []byte, error) {
	c.endLook()
	c.w.StartResponse(http.StatusSwitchingProtocols, "")
	for i := range fields {
		c.w.Field(fields[i].Name, fields[i].Value)
	}
	c.w.EndHead(h1.NoBody, 0)
	if err := c.reads.deadlines.SetWriteDeadline(time.Now().Add(c.s.e.opt.Limits.WriteTimeout)); err != nil {
		return nil, nil, err
	}
	if err := c.w.Flush(); err != nil {
		return nil, nil, err
	}
	c.gone.Store(true)
	early := c.r.Tunnel()
	c.r.Release()
	c.w.Release()
	return c.conn, early, c.reads.deadlines.SetDeadline(time.Time{})
}

// interruptRead is a client's.
func (c *h1Client) interruptRead() { c.reads.interrupt() }

// interruptWrite is a client's.
func (c *h1Client) interruptWrite() {
	_ = c.reads.deadlines.SetWriteDeadline(longAgo) // or it is closed already
}

// expire ends the connection with the certificates that it was made with: what is under
// way is the last.
func (c *h1Client) expire() {
	c.over.Store(true)
	if c.idle.Load() {
		c.interruptRead()
	}
}

// abort breaks the connection off without ending TLS, so that what is incomplete
// looks incomplete even where a body lasts until the end.
func (c *h1Client) abort() {
	_ = c.raw.SetLinger(0) // or it is closed already
	_ = c.raw.Close()
}

// cutOff ends the connection whatever it is doing.
func (c *h1Client) cutOff() {
	c.x.watch.cut(errDrained)
	c.interruptRead()
	c.interruptWrite()
}

// Bounds of linger.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// linger lets the client read the last response when it has still something to
// send: to close with unread bytes would reset the connection, and the response
// with it (RFC 9112 section 9.6).
func (c *h1Client) linger() {
	if !c.final || c.conn.CloseWrite() != nil {
		return
	}
	if c.reads.deadlines.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	buf := c.s.e.buffer()
	defer c.s.e.buffers.Put(buf)
	for n := 0; n < lingerBytes; {
		m, err := c.conn.Read(buf[:])
		if err != nil {
			return
		}
		n += m
	}
}

// deadliner is the part of a net.Conn that has deadlines.
type deadliner interface {
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Phases of a client's connection.
type readPhase uint8

const (
	phaseIdle  readPhase = iota // between requests
	phaseQuiet                  // likewise, for longer than restlessFor
	phaseHead                   // in a request's head
	phaseBody                   // in an exchange, which has its watch
)

// timedReader reads a client's connection under the deadline of the phase. A
// deadline is set only where a read has to go to the connection, and while a
// client is idle only once a second: what is there already costs none.
type timedReader struct {
	conn       io.Reader
	deadlines  deadliner
	idle, head time.Duration

	now   readPhase // the reading goroutine's, like the next
	begun bool      // and no deadline was set since

	// mu guards what follows.
	mu      sync.Mutex
	set     readPhase // whose deadline is set
	since   time.Time // when it was
	stopped bool      // every read fails
	paused  bool
}

// restlessFor is about how long a connection is idle before it is quiet.
const restlessFor = 2 * time.Second

// phase begins a phase.
func (t *timedReader) phase(p readPhase) { t.now, t.begun = p, true }

// Read implements io.Reader.
func (t *timedReader) Read(p []byte) (int, error) {
	if err := t.arm(); err != nil {
		return 0, err
	}
	return t.conn.Read(p)
}

func (t *timedReader) arm() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped || t.paused {
		return os.ErrDeadlineExceeded
	}
	first := t.since.IsZero()
	if !first && t.set == t.now && t.now != phaseIdle && !t.begun {
		return nil // a slow head does not buy time by sending on
	}
	t.begun = false
	now := time.Now()
	if !first && t.set == t.now && t.now == phaseIdle && now.Sub(t.since) < time.Second {
		return nil
	}
	t.set, t.since = t.now, now
	switch t.now {
	case phaseIdle:
		return t.deadlines.SetReadDeadline(now.Add(min(t.idle, restlessFor)))
	case phaseQuiet:
		return t.deadlines.SetReadDeadline(now.Add(max(t.idle-restlessFor, 0)))
	case phaseHead:
		return t.deadlines.SetReadDeadline(now.Add(t.head))
	}
	return t.deadlines.SetReadDeadline(time.Time{})
}

// interrupt makes this and every later read fail.
func (t *timedReader) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	_ = t.deadlines.SetReadDeadline(longAgo) // or it is closed already
}

func (t *timedReader) interrupted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped || t.paused
}

// pause makes reads fail until resume.
func (t *timedReader) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
	_ = t.deadlines.SetReadDeadline(longAgo)
}

func (t *timedReader) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused, t.since = false, time.Time{}
}
