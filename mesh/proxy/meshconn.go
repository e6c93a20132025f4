package proxy

import (
	"crypto/tls"
	"net"
	"syscall"
)

// meshConn is a TLS connection to a peer.
type meshConn struct {
	*tls.Conn
	raw net.Conn
}

// tcp returns the connection below.
func (c *meshConn) tcp() syscall.Conn {
	tcp, _ := c.raw.(syscall.Conn)
	return tcp
}
