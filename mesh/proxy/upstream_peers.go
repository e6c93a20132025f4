package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// peerKey is everything that makes connections to an endpoint differ: as whom
// we call, which service on which node must answer, and where.
type peerKey struct {
	caller  *identity.Source
	service string
	node    string
	address string // a literal: "10.3.0.7:15006"
	// external is nil for a sidecar. Otherwise there is no caller and no node, and
	// the address may be a name.
	external *mesh.External
	// grace is of the connections that carry routes of defaults.identityGrace, and no
	// others: a certificate that has expired will do for them.
	grace bool
}

// peers holds the connections to other sidecars, by peerKey.
type peers struct {
	mesh        string
	trustDomain string
	limits      Limits
	open        prometheus.Gauge // connections
	lives       *lifetimes
	// allowed is asked before each dial whether the instances of a node may be
	// reached at an address.
	allowed func(node string, addr netip.Addr) bool
	outside func(addr netip.Addr) bool // likewise, of an external service

	made     *linkSet
	standing *standing

	// mu guards what follows, and the counters of each peer. Nothing is
	// called under it that blocks.
	mu     sync.Mutex
	byKey  map[peerKey]*peer
	closed bool
}

// newPeers makes a set of peers; open counts their connections.
func newPeers(opt *Options, open prometheus.Gauge, lives *lifetimes, standing *standing, allowed func(string, netip.Addr) bool, outside func(netip.Addr) bool) *peers {
	return &peers{
		mesh: opt.Mesh, trustDomain: opt.TrustDomain, limits: opt.Limits, open: open, lives: lives, allowed: allowed, outside: outside,
		made: newLinkSet(open, lives), standing: standing, byKey: map[peerKey]*peer{},
	}
}

// peer is the connections to one endpoint as one caller: links, and a pool of
// HTTP/1.1 ones for what a link does not carry.
type peer struct {
	links   links
	http1   *connPool
	users   int  // exchanges that hold it; guarded by peers.mu
	retired bool // the endpoint left: close once nobody holds it; likewise
}

// acquire returns the peer for key, which release gives back, and how many hold it
// now.
func (ps *peers) acquire(key peerKey) (*peer, int, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byKey[key]
	if p == nil {
		if ps.closed {
			return nil, 0, &connectError{CodeUnreachable, errProxyClosed}
		}
		var err error
		if p, err = ps.newPeer(key); err != nil {
			return nil, 0, &connectError{CodeUnreachable, err}
		}
		ps.byKey[key] = p
	}
	p.users++
	return p, p.users, nil
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

// close retires every peer and makes no new one, nor a link.
func (ps *peers) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.made.close()
	ps.keep(func(peerKey) bool { return false })
}

func (p *peer) close() {
	p.links.close()
	p.http1.close()
}

// newPeer makes the peer for key. It dials nothing yet.
func (ps *peers) newPeer(key peerKey) (*peer, error) {
	if key.external != nil {
		return ps.newExternalPeer(key.external)
	}
	want, err := mesh.ServiceID(ps.trustDomain, key.service, key.node)
	if err != nil {
		return nil, err
	}
	p := &peer{links: links{scheme: "https"}}
	serverName := identity.ServerName(key.service, key.node, ps.mesh)
	configure := identity.ClientConfig
	if key.grace {
		configure = identity.LenientConfig
	}
	overH2 := configure(key.caller, want, serverName, identity.ProtocolH2)
	p.links.dial = func(forget func(*link.Conn)) (*link.Conn, error) {
		return ps.dialLink(func(ctx context.Context) (net.Conn, error) { return ps.dial(ctx, key, overH2) }, forget)
	}
	overHTTP1 := configure(key.caller, want, serverName, identity.ProtocolHTTP1)
	p.http1 = newPool(ps.limits, ps.open, ps.lives, func(ctx context.Context) (net.Conn, error) { return ps.dial(ctx, key, overHTTP1) })
	return p, nil
}

// dialLink makes a link. It has no caller's context: who waits for it may leave,
// and others stay.
func (ps *peers) dialLink(dial func(context.Context) (net.Conn, error), forget func(*link.Conn)) (made *link.Conn, err error) {
	if !ps.made.begin() {
		return nil, &connectError{CodeUnreachable, errProxyClosed}
	}
	defer func() {
		if made == nil {
			ps.made.failed()
		}
	}()
	ctx, cancel := context.WithTimeout(ps.made.closing, ps.limits.ConnectTimeout+ps.limits.HandshakeTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	var until time.Time
	if over, ok := conn.(*meshConn); ok {
		until = over.until
		if got := over.ConnectionState().NegotiatedProtocol; got != identity.ProtocolH2 {
			_ = conn.Close() // how closing went cannot matter any more
			return nil, &connectError{CodeUnreachable, fmt.Errorf("the peer chose protocol %q, not h2", got)}
		}
		over.gather()
	}
	return ps.made.client(conn, ps.limits.link(ps.limits.UpstreamIdle), until, forget), nil
}

// dial connects and finishes the handshake, so that every failure up to here is
// known to have sent nothing.
func (ps *peers) dial(ctx context.Context, key peerKey, config *tls.Config) (*meshConn, error) {
	certificate := key.caller.Certificate
	if key.grace {
		certificate = key.caller.Lenient
	}
	if _, err := certificate(); err != nil {
		return nil, &connectError{CodeNoCertificate, err}
	}
	addr, err := netip.ParseAddrPort(key.address)
	if err != nil {
		return nil, &connectError{CodeAddress, fmt.Errorf("%.60q is not an IP address and port: names are never looked up", key.address)}
	}
	if !ps.allowed(key.node, addr.Addr()) {
		return nil, &connectError{CodeAddress, fmt.Errorf("%s is not in the dialCidrs of the mesh or of node %s", addr.Addr(), key.node)}
	}
	d := net.Dialer{Timeout: ps.limits.ConnectTimeout}
	raw, err := d.DialContext(ctx, "tcp", key.address)
	if err != nil {
		return nil, &connectError{CodeUnreachable, err}
	}
	own := key.caller.Current() // before the handshake: what is presented ends no sooner
	conn, err := ps.handshake(ctx, raw, config)
	if err != nil {
		return nil, err
	}
	state := conn.ConnectionState()
	if err := ps.standing.enter(conn, &state); err != nil {
		return nil, &connectError{CodeIdentity, err}
	}
	now, until := time.Now().Round(0), certifiedUntil(&state, own)
	if conn.until = endEarly(now, until); key.grace && now.After(until) {
		conn.until = now.Add(graceLife - clientsFirst)
	}
	return conn, nil
}

// handshake begins TLS over raw, which it closes if that fails.
func (ps *peers) handshake(ctx context.Context, raw net.Conn, config *tls.Config) (*meshConn, error) {
	ctx, cancel := context.WithTimeout(ctx, ps.limits.HandshakeTimeout)
	defer cancel()
	conn := newMeshConn(raw)
	conn.Conn = tls.Client(conn.under, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		code := CodeUnreachable
		var unverified *tls.CertificateVerificationError
		if kind := mesh.KindOf(err); kind == mesh.Denied || kind == mesh.Unauthentic || errors.As(err, &unverified) {
			code = CodeIdentity
		}
		// The handshake failed; how closing went cannot matter any more.
		_ = raw.Close()
		return nil, &connectError{code, err}
	}
	return conn, nil
}
