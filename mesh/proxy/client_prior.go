package proxy

import (
	"net"
	"time"
)

// yield returns the connection of a client that speaks HTTP/2 as it was before
// anything was read.
func (c *h1Client) yield() (net.Conn, error) {
	c.x.watch.release()
	early := c.r.Tunnel()
	c.r.Release()
	return &replayed{Conn: c.raw, early: early}, c.raw.SetDeadline(time.Time{})
}

// replayed is a connection of which something was read before.
type replayed struct {
	net.Conn
	early []byte
}

// Read implements net.Conn.
func (c *replayed) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	c.early = c.early[n:]
	return n, nil
}
