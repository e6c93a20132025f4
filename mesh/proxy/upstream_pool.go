package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/h1"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// connPool is HTTP/1.1 connections to one address: to a workload, or over TLS to a
// sidecar. The one that was used last is used next, so that those that are not
// needed become old and are closed.
type connPool struct {
	dial  func(ctx context.Context) (net.Conn, error)
	idle  time.Duration // closes a connection that waited for so long
	most  int           // connections that wait
	read  h1.Limits
	open  prometheus.Gauge // connections, of all pools
	lives *lifetimes

	// mu guards what follows. Nothing is called under it that blocks.
	mu      sync.Mutex
	waiting []*upConn // the last was used last
	closed  bool
	reaper  *time.Timer
}

// The pool's housekeeping: a connection that waited for restless is looked at
// before it is used again, and holds no buffers.
const (
	restless  = time.Second
	reapEvery = 5 * time.Second
)

func newPool(l Limits, open prometheus.Gauge, lives *lifetimes, dial func(ctx context.Context) (net.Conn, error)) *connPool {
	return &connPool{
		dial: dial, idle: l.UpstreamIdle, most: l.UpstreamConns, open: open, lives: lives,
		read: h1.Limits{HeadBytes: 2 * l.HeaderBytes, TargetBytes: l.TargetBytes, Fields: 2 * l.HeaderCount},
	}
}

var _ transport = (*connPool)(nil)

// send implements transport.
func (p *connPool) send(x *exchange, fresh bool) (answer, error) {
	c := p.take(fresh)
	if c == nil {
		conn, err := p.connect(x)
		if err != nil {
			return nil, err
		}
		if c, err = p.add(conn); err != nil {
			return nil, err
		}
	}
	if err := c.begin(x); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// connect makes a connection for x, unless too many wait for one.
func (p *connPool) connect(x *exchange) (net.Conn, error) {
	if x.breaker != nil {
		if !x.breaker.wait() {
			return nil, errOverflow
		}
		defer x.breaker.pending.Add(-1)
	}
	return p.dial(x.context())
}

// take returns a connection that waits, or nil. If fresh, those that wait are
// not to be trusted: they are closed.
func (p *connPool) take(fresh bool) *upConn {
	for {
		p.mu.Lock()
		n := len(p.waiting)
		if n == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.waiting[n-1]
		p.waiting[n-1] = nil
		p.waiting = p.waiting[:n-1]
		p.mu.Unlock()
		if waited := time.Since(c.since); !fresh && !c.over.Load() && (waited < restless || waited < p.idle && c.alive()) {
			return c
		}
		p.discard(c)
	}
}

// add makes a connection one of the pool's.
func (p *connPool) add(conn net.Conn) (*upConn, error) {
	c := &upConn{p: p, conn: conn, r: h1.NewReader(conn, p.read), w: h1.NewWriter(conn)}
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, errors.Join(&connectError{CodeUnreachable, errProxyClosed}, conn.Close())
	}
	p.open.Inc()
	if over, ok := conn.(*meshConn); ok {
		c.life = p.lives.add(over.until, c.expire)
	}
	return c, nil
}

// put gives a connection back that may carry another request.
func (p *connPool) put(c *upConn) {
	c.since, c.used = time.Now(), true
	p.mu.Lock()
	keep := !p.closed && len(p.waiting) < p.most && !c.over.Load()
	if keep {
		p.waiting = append(p.waiting, c)
		if p.reaper == nil {
			p.reaper = time.AfterFunc(reapEvery, p.reap)
		}
	}
	p.mu.Unlock()
	if !keep {
		p.discard(c)
	}
}

// reap closes what waited too long, and takes the buffers of what waits.
func (p *connPool) reap() {
	now := time.Now()
	p.mu.Lock()
	var closing []*upConn
	p.waiting = slices.DeleteFunc(p.waiting, func(c *upConn) bool {
		old := now.Sub(c.since) >= p.idle || c.over.Load()
		if old {
			closing = append(closing, c)
		}
		return old
	})
	for _, c := range p.waiting {
		if now.Sub(c.since) >= restless {
			c.r.Release()
			c.w.Release()
		}
	}
	if len(p.waiting) > 0 && !p.closed {
		p.reaper.Reset(reapEvery)
	} else {
		p.reaper = nil
	}
	p.mu.Unlock()
	for _, c := range closing {
		p.discard(c)
	}
}

// discard closes a connection. How closing went cannot matter to anybody.
func (p *connPool) discard(c *upConn) {
	p.open.Dec()
	p.lives.remove(c.life)
	_ = c.conn.Close()
}

// close closes what waits; what is in use is closed when it comes back.
func (p *connPool) close() {
	p.mu.Lock()
	p.closed = true
	waiting := p.waiting
	p.waiting = nil
	if p.reaper != nil {
		p.reaper.Stop()
	}
	p.mu.Unlock()
	for _, c := range waiting {
		p.discard(c)
	}
}

// upConn is one HTTP/1.1 connection of a pool, and the response on it.
type upConn struct {
	p     *connPool
	conn  net.Conn
	r     *h1.Reader
	w     *h1.Writer
	resp  h1.Response
	used  bool      // it carried a request before
	since time.Time // when it began to wait

	method string
	up     *h1Upload // nil if the request went at once
	broken bool
	cut    atomic.Bool // interrupted: its deadlines are in the past
	gone   bool        // another protocol's now
	over   atomic.Bool // its certificates are about to end: no more requests
	life   *lifetime   // nil if it has none
}

// expire is the end of a connection's life. If it waits it is closed when it is looked at
// next, in seconds.
func (c *upConn) expire() { c.over.Store(true) }

var _ answer = (*upConn)(nil)

// alive reports whether the other side has neither closed the connection nor
// sent anything, which nobody asked for. It does not block.
func (c *upConn) alive() bool {
	var sys syscall.Conn
	switch conn := c.conn.(type) {
	case *meshConn:
		sys = conn.tcp()
	case syscall.Conn:
		sys = conn
	}
	if sys == nil || c.r.Buffered() > 0 {
		return false
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && quiet
}

// begin sends the request, or its head if the body is still to come.
func (c *upConn) begin(x *exchange) error {
	out := &x.out
	c.method, c.up = out.method, nil
	w := c.w
	w.StartRequest(out.method, out.target, out.host)
	te := false
	for i := range out.fields {
		w.Field(out.fields[i].Name, out.fields[i].Value)
		te = te || header.Equal(out.fields[i].Name, "TE")
	}
	switch {
	case x.wish.wanted():
		w.Field("Connection", "Upgrade")
		w.Field("Upgrade", "websocket")
	case te:
		w.Field("Connection", "TE") // RFC 9110 section 10.1.4
	}
	if !x.isWhole {
		framing := h1.Chunked
		if out.length > 0 {
			framing = h1.Length
		}
		w.EndHead(framing, out.length)
		if err := w.Flush(); err != nil {
			return c.stale(err)
		}
		c.up = &h1Upload{w: w, conn: c.conn}
		return x.upload(c.up)
	}
	framing := h1.NoBody
	if len(x.whole) > 0 || sendsLength(out.method) {
		framing = h1.Length
	}
	w.EndHead(framing, int64(len(x.whole)))
	if framing == h1.Length {
		if _, err := w.Write(x.whole); err != nil {
			return err
		}
		if err := w.End(nil); err != nil {
			return err
		}
	}
	// An error of writing may have an answer before it; and whoever closed a
	// connection that waited shows at reading too.
	c.broken = w.Flush() != nil
	return nil
}

// sendsLength reports whether a request of method says that it has no body (RFC
// 9110 section 8.6).
func sendsLength(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return false
	}
	return true
}

// stale says that err came before anything of a response did.
func (c *upConn) stale(err error) error {
	c.broken = true
	if c.used && !c.cut.Load() {
		return &staleError{false, err}
	}
	return err
}

// head implements answer.
func (c *upConn) head(out *responseHead) error {
	if err := c.r.ReadResponse(&c.resp, c.method); err != nil {
		var malformed *h1.Error
		nothing := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
		c.broken = true
		if nothing && !errors.As(err, &malformed) && c.r.Buffered() == 0 {
			return c.stale(fmt.Errorf("the connection ended before a response: %w", err))
		}
		return err
	}
	r := &c.resp
	*out = responseHead{status: r.Status, reason: r.Reason, fields: r.Fields}
	switch r.Framing {
	case h1.Length:
		out.length = r.Length
	case h1.Chunked, h1.UntilClose:
		out.length = -1
	}
	return nil
}

func (c *upConn) next() ([]byte, error)    { return c.r.Next() }
func (c *upConn) complete() ([]byte, bool) { return c.r.Complete() }
func (c *upConn) trailers() header.List    { return c.r.Trailers() }

// body implements answer.
func (c *upConn) body() answerBody { return c }

// interrupt implements answer.
func (c *upConn) interrupt() {
	c.cut.Store(true)
	_ = c.conn.SetDeadline(longAgo) // or it is closed already
}

// tunnel implements answer.
func (c *upConn) tunnel() (halfCloser, []byte, error) {
	conn, ok := c.conn.(halfCloser)
	if !ok {
		return nil, nil, errors.New("the connection cannot be half closed")
	}
	c.gone = true
	c.p.open.Dec()
	c.p.lives.remove(c.life)
	return conn, c.r.Tunnel(), nil
}

// close implements answer.
func (c *upConn) close() {
	if c.gone {
		return
	}
	sent := c.up.close()
	if c.broken || !sent || c.cut.Load() || !c.resp.KeepAlive || !c.r.Ended() || c.r.Buffered() > 0 {
		c.p.discard(c)
		return
	}
	c.p.put(c)
}

// h1Upload is the sink of a request's body.
type h1Upload struct {
	w    *h1.Writer
	conn net.Conn
	sent atomic.Bool
}

func (u *h1Upload) write(p []byte) error {
	if _, err := u.w.Write(p); err != nil {
		return err
	}
	return u.w.Flush()
}

func (u *h1Upload) end(trailers header.List) error {
	if err := u.w.End(trailers); err != nil {
		return err
	}
	if err := u.w.Flush(); err != nil {
		return err
	}
	u.sent.Store(true)
	return nil
}

// breakOff closes the connection: only so is an incomplete body told from all.
func (u *h1Upload) breakOff() { _ = u.conn.Close() }

// close reports whether all of the body was sent.
func (u *h1Upload) close() bool { return u == nil || u.sent.Load() }
