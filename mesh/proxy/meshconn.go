package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// meshConn is a TLS connection between proxies, or of a gateway's client. crypto/tls
// makes a system call for each record of 16 KiB; once gather was called, what is
// written leaves with Flush, in one.
type meshConn struct {
	*tls.Conn
	under  *gathered
	linked bool      // gather was called
	until  time.Time // when who dialled ends it; zero is never
}

// newMeshConn makes raw ready for TLS, which the caller puts over under as Conn.
func newMeshConn(raw net.Conn) *meshConn { return &meshConn{under: &gathered{Conn: raw}} }

// gather begins to hold back what is written. Only who flushes may ask for it.
func (c *meshConn) gather() {
	c.linked = true
	c.under.hold()
}

// recordBytes is the most that one record carries (RFC 8446 section 5.1).
const recordBytes = 16 << 10

// Write implements net.Conn. The records of what is long leave together.
func (c *meshConn) Write(p []byte) (int, error) {
	if len(p) <= recordBytes || c.linked {
		return c.Conn.Write(p)
	}
	c.under.hold()
	n, err := c.Conn.Write(p)
	if sent := c.under.release(); err == nil {
		err = sent
	}
	return n, err
}

// Flush sends what was held back.
func (c *meshConn) Flush() error { return c.under.flush() }

// CloseWrite ends what is sent. It waits for what is being written.
func (c *meshConn) CloseWrite() error {
	return errors.Join(c.under.release(), c.Conn.CloseWrite())
}

// Close ends the connection, whoever uses it. A link says by GOAWAY and CloseWrite
// that it ends; TLS would wait 5 s here for a peer that does not read.
func (c *meshConn) Close() error {
	if c.linked {
		return c.under.Close()
	}
	return c.Conn.Close()
}

// Wait waits until there is something to read, the other side has ended, or the read
// deadline has passed.
func (c *meshConn) Wait() error { return waitReadable(c.tcp()) }

// waitReadable waits until conn can be read. A goroutine that waits so, and not in
// TLS's Read, keeps a small stack.
func waitReadable(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	})
}

// tcp returns the connection below.
func (c *meshConn) tcp() syscall.Conn {
	tcp, _ := c.under.Conn.(syscall.Conn)
	return tcp
}

// gathered is a connection that holds writes back.
type gathered struct {
	net.Conn
	left func() // called when it is closed; may be nil

	// mu guards what follows. Writing blocks under it, which a deadline or
	// Close of the connection below ends.
	mu  sync.Mutex
	on  bool
	buf *[]byte // nil if nothing is held back
}

// gatheredBytes is when no more is held back: a batch of a link, as records.
const gatheredBytes = 72 << 10

// records are the buffers of all connections: those that have nothing to send
// hold none.
var records = sync.Pool{New: func() any { return new([]byte) }}

// hold begins to hold writes back.
func (g *gathered) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = true
}

// Close implements net.Conn.
func (g *gathered) Close() error {
	if g.left != nil {
		g.left()
	}
	return g.Conn.Close()
}

// Write implements net.Conn.
func (g *gathered) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on {
		return g.Conn.Write(p)
	}
	if g.buf == nil {
		g.buf, _ = records.Get().(*[]byte)
	}
	*g.buf = append(*g.buf, p...)
	if len(*g.buf) < gatheredBytes {
		return len(p), nil
	}
	if err := g.flushLocked(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (g *gathered) flush() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flushLocked()
}

func (g *gathered) flushLocked() error {
	if g.buf == nil {
		return nil
	}
	_, err := g.Conn.Write(*g.buf)
	*g.buf = (*g.buf)[:0]
	records.Put(g.buf)
	g.buf = nil
	return err
}

// release sends what was held back, and holds nothing back any more: crypto/tls
// forbids writing after the last record of its own.
func (g *gathered) release() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.on = false
	return g.flushLocked()
}
