package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// connectError is a connection that could not be made: nothing of the request
// was sent. Its code says whose fault it is.
type connectError struct {
	code string // CodeUnreachable, CodeIdentity or CodeNoCertificate
	err  error
}

// Error implements error.
func (e *connectError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *connectError) Unwrap() error { return e.err }

// peerKey is everything that makes connections to an endpoint differ: as whom
// we call, which service on which node must answer, and where.
type peerKey struct {
	caller  *identity.Source
	service string
	node    string
	address string // a literal: "10.3.0.7:15006"
}

// peers holds the connections to other sidecars, by peerKey.
type peers struct {
	mesh        string
	trustDomain string
	limits      Limits
	// allowed is asked before each dial whether the instances of a node may be
	// reached at an address.
	allowed func(node string, addr netip.Addr) bool

	// mu guards what follows, and the counters of each peer. Nothing is
	// called under it that blocks.
	mu     sync.Mutex
	byKey  map[peerKey]*peer
	closed bool
}

// peer is the connections to one endpoint as one caller. Two transports: HTTP/2
// is preferred, and a WebSocket needs a connection that speaks only HTTP/1.1.
type peer struct {
	preferred *http.Transport
	http1     *http.Transport
	conns     *connSet
	users     int  // exchanges and tunnels that hold it; guarded by peers.mu
	retired   bool // the endpoint left: close once nobody holds it; likewise
}

// acquire returns the peer for key, which release gives back.
func (ps *peers) acquire(key peerKey) (*peer, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byKey[key]
	if p == nil {
		if ps.closed {
			return nil, &connectError{CodeUnreachable, errors.New("the proxy is closed")}
		}
		var err error
		if p, err = ps.newPeer(key); err != nil {
			return nil, &connectError{CodeUnreachable, err}
		}
		ps.byKey[key] = p
	}
	p.users++
	return p, nil
}

func (ps *peers) release(p *peer) {
	ps.mu.Lock()
	p.users--
	last := p.users == 0 && p.retired
	ps.mu.Unlock()
	if last {
		p.close()
	}
}

// keep retires every peer whose key is no longer wanted. Exchanges under way
// finish on their connections.
func (ps *peers) keep(wanted func(peerKey) bool) {
	var idle []*peer
	ps.mu.Lock()
	for key, p := range ps.byKey {
		if wanted(key) {
			continue
		}
		delete(ps.byKey, key)
		p.retired = true
		if p.users == 0 {
			idle = append(idle, p)
		}
	}
	ps.mu.Unlock()
	for _, p := range idle {
		p.close()
	}
}

// close retires every peer and makes no new one.
func (ps *peers) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.keep(func(peerKey) bool { return false })
}

func (p *peer) close() {
	p.preferred.CloseIdleConnections()
	p.http1.CloseIdleConnections()
	p.conns.close()
}

// newPeer makes the transports for key. It dials nothing yet.
func (ps *peers) newPeer(key peerKey) (*peer, error) {
	want, err := mesh.ServiceID(ps.trustDomain, key.service, key.node)
	if err != nil {
		return nil, err
	}
	p := &peer{conns: &connSet{open: map[net.Conn]struct{}{}}}
	serverName := identity.ServerName(key.service, key.node, ps.mesh)
	p.preferred = ps.transport(p.conns, key, identity.ClientConfig(key.caller, want, serverName))
	p.http1 = ps.transport(p.conns, key, identity.ClientConfig(key.caller, want, serverName, identity.ProtocolHTTP1))
	return p, nil
}

func (ps *peers) transport(conns *connSet, key peerKey, config *tls.Config) *http.Transport {
	t := newTransport(ps.limits)
	t.Protocols.SetHTTP2(true)
	t.DialTLSContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return ps.dial(ctx, network, conns, key, config)
	}
	return t
}

// dial connects and finishes the handshake, so that every failure up to here is
// known to have sent nothing.
func (ps *peers) dial(ctx context.Context, network string, conns *connSet, key peerKey, config *tls.Config) (net.Conn, error) {
	if _, err := key.caller.Certificate(); err != nil {
		return nil, &connectError{CodeNoCertificate, err}
	}
	addr, err := netip.ParseAddrPort(key.address)
	if err != nil {
		return nil, &connectError{CodeAddress, fmt.Errorf("%.60q is not an IP address and port: names are never looked up", key.address)}
	}
	if !ps.allowed(key.node, addr.Addr()) {
		return nil, &connectError{CodeAddress, fmt.Errorf("%s is not in the dialCidrs of the mesh or of node %s", addr.Addr(), key.node)}
	}
	raw, err := conns.dial(ctx, network, key.address, ps.limits.ConnectTimeout)
	if err != nil {
		return nil, &connectError{CodeUnreachable, err}
	}
	ctx, cancel := context.WithTimeout(ctx, ps.limits.HandshakeTimeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		code := CodeUnreachable
		if kind := mesh.KindOf(err); kind == mesh.Denied || kind == mesh.Unauthentic {
			code = CodeIdentity
		}
		// The handshake failed; how closing went cannot matter any more.
		_ = raw.Close()
		return nil, &connectError{code, err}
	}
	return conn, nil
}

// newTransport returns a transport that adds nothing to a request: no proxy of
// the environment, no compression, no redirects. It speaks HTTP/1.1.
func newTransport(l Limits) *http.Transport {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    l.UpstreamConns,
		IdleConnTimeout:        l.UpstreamIdle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: int64(l.HeaderBytes) * 2,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
		HTTP2:                  MeshLimits().http2(), // also from an edge: it is shared by many clients
	}
}

// connSet knows the open connections of a peer, so that they can be closed when
// its transports would still keep them for a later request.
type connSet struct {
	// mu guards what follows. Nothing is called under it.
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// trackedConn leaves its connSet when it is closed.
type trackedConn struct {
	*net.TCPConn
	set *connSet
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.set.mu.Lock()
	delete(c.set.open, c)
	c.set.mu.Unlock()
	return c.TCPConn.Close()
}

func (s *connSet) dial(ctx context.Context, network, address string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, fmt.Errorf("%s is not reached over TCP", address)
	}
	c := &trackedConn{tcp, s}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.open[c] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return c, nil
}

func (s *connSet) close() {
	s.mu.Lock()
	s.closed = true
	open := make([]net.Conn, 0, len(s.open))
	for c := range s.open {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		// Nobody uses it; its pool learns of the end by reading.
		_ = c.Close()
	}
}
