package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Bounds on one reply. The library allocates what a length in the reply says
// before it reads the bytes, so lengths are checked on the way in.
const (
	maxReplyBulk     = maxRecordBytes + 1<<10
	maxReplyElements = 4 * maxRecords
	maxReplyBytes    = maxConfigBytes + 16<<20
)

// errReply is in the chain of the error of a read that met a reply beyond the
// bounds. The connection is of no more use; Redis may well be.
var errReply = errors.New("a reply beyond the bounds")

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialer connects, over TLS if cfg is not nil, and guards what is read.
func dialer(cfg *tls.Config) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: dialTimeout}
		if cfg == nil {
			conn, err := d.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &guardedConn{Conn: conn}, nil
		}
		// tls.Dialer takes the server's name from addr when cfg has none,
		// which is right for each server of a Cluster.
		conn, err := (&tls.Dialer{NetDialer: &d, Config: cfg}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &guardedConn{Conn: conn}, nil
	}
}

// guardedConn is a connection to Redis whose replies are bounded. A reply
// beyond a bound fails the read, and with it the connection.
type guardedConn struct {
	net.Conn
	guard replyGuard
}

// Read reads and checks. Bytes that announce too much are not handed out.
func (c *guardedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.guard.scan(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// Write begins a new request, so the count of the reply begins anew.
func (c *guardedConn) Write(p []byte) (int, error) {
	c.guard.elements, c.guard.bytes = 0, 0
	return c.Conn.Write(p)
}

// SyscallConn lets the library see that an idle connection was closed by Redis
// before it sends a request on it.
func (c *guardedConn) SyscallConn() (syscall.RawConn, error) {
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, fmt.Errorf("no raw access to a %T", c.Conn)
}

// replyGuard follows the framing of RESP2 (redis.io/docs/reference/protocol-spec)
// over any split into reads, without keeping bytes.
type replyGuard struct {
	skip     int  // bytes of a bulk string, CRLF included, still to come
	kind     byte // the type byte of the line being read; 0 at its start
	length   int  // the number read so far on a "$" or "*" line
	negative bool // "-1": a nil, which has no bytes
	elements int
	bytes    int
}

// scan follows p and reports the first length beyond the bounds.
func (g *replyGuard) scan(p []byte) error {
	if g.bytes += len(p); g.bytes > maxReplyBytes {
		return fmt.Errorf("%w: over %d bytes", errReply, maxReplyBytes)
	}
	for i := 0; i < len(p); {
		if g.skip > 0 {
			n := min(g.skip, len(p)-i)
			g.skip -= n
			i += n
			continue
		}
		if err := g.line(p[i]); err != nil {
			return err
		}
		i++
	}
	return nil
}

// line takes one byte of a line.
func (g *replyGuard) line(b byte) error {
	switch {
	case g.kind == 0:
		g.kind, g.length, g.negative = b, 0, false
	case b == '\n':
		return g.endLine()
	case g.counted() && b == '-':
		g.negative = true
	case g.counted() && b >= '0' && b <= '9':
		if g.length = g.length*10 + int(b-'0'); g.length > maxReplyBytes {
			return fmt.Errorf("%w: %d or more announced", errReply, g.length)
		}
	}
	return nil
}

// counted reports whether the line announces a length: of bytes (RESP3's "="
// and "!" too) or of elements.
func (g *replyGuard) counted() bool {
	switch g.kind {
	case '$', '=', '!', '*', '%', '~', '>', '|':
		return true
	}
	return false
}

func (g *replyGuard) endLine() error {
	kind := g.kind
	g.kind = 0
	if g.negative {
		return nil
	}
	switch kind {
	case '$', '=', '!':
		if g.length > maxReplyBulk {
			return fmt.Errorf("%w: a value of %d bytes, at most %d are read", errReply, g.length, maxReplyBulk)
		}
		g.skip = g.length + len("\r\n")
	case '*', '~', '>':
		g.elements += g.length
	case '%', '|': // pairs
		g.elements += 2 * g.length
	}
	if g.elements > maxReplyElements {
		return fmt.Errorf("%w: over %d elements", errReply, maxReplyElements)
	}
	return nil
}
