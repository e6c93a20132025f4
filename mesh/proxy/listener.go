package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// callerInfo is what a connection tells of whoever made it, whatever it asks for.
type callerInfo struct {
	remote     string
	secure     bool
	peer       mesh.ID
	clientCert string
	until      time.Time // when the certificates of the connection end; zero if it has none
	graced     bool      // one of them has ended already
}

// Door is where requests come in: Engine.Gateway, Outbound or Inbound.
type Door interface {
	// enter returns who takes the requests of a connection, and what it tells of
	// its caller, who is at the IP address remote. state is nil in clear text.
	enter(state *tls.ConnectionState, remote string) (*server, callerInfo, bool)
}

var _, _ Door = (*server)(nil), (*inbound)(nil)

// enter implements Door.
func (s *server) enter(state *tls.ConnectionState, remote string) (*server, callerInfo, bool) {
	return s, callerOf(state, remote), true
}

// callerOf returns what a connection tells of its caller but for who that is.
func callerOf(state *tls.ConnectionState, remote string) callerInfo {
	return callerInfo{remote: remote, secure: state != nil}
}

// addressOf returns the IP address that conn was made from.
func addressOf(conn net.Conn) string {
	ip, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return ""
	}
	return ip
}

// inbound hands a request to the server of the workload that its connection
// was made to.
type inbound struct {
	byName  map[string]*server // by server name (SNI)
	sources map[string]*identity.Source
}

// source is the pick of identity.ServerConfig.
func (in *inbound) source(serverName string) (*identity.Source, error) {
	if s := in.sources[serverName]; s != nil {
		return s, nil
	}
	return nil, identity.ErrUnknownServerName
}

// enter implements Door. The handshake refuses whoever has no identity and
// unknown names. That it did is not assumed here.
func (in *inbound) enter(state *tls.ConnectionState, remote string) (*server, callerInfo, bool) {
	if state == nil {
		return nil, callerInfo{}, false
	}
	s := in.byName[state.ServerName]
	peer, err := identity.PeerID(state)
	if s == nil || err != nil {
		return nil, callerInfo{}, false
	}
	info := callerOf(state, remote)
	info.peer = peer
	now := time.Now().Round(0)
	if info.until = certifiedUntil(state, s.local.Current()); now.After(info.until) {
		info.graced, info.until = true, now.Add(graceLife)
	}
	info.clientCert = newClientCert(s.local.ID().String(), peer.String(), state.PeerCertificates[0].Raw).String()
	return s, info, true
}

// leaveGrace is how long connections that wait for a request stay open when a
// listener drains: who is about to send one is told by its response to go.
const leaveGrace = 250 * time.Millisecond

// listener accepts connections and serves them: HTTP/1.1 by the codec of h1, HTTP/2
// by that of link.
type listener struct {
	e       *Engine
	site    Site
	door    Door
	leaving atomic.Bool
	left    chan struct{}  // closed when leaving
	slots   chan struct{}  // one for each connection that may be open
	all     sync.WaitGroup // serve, and connections

	// mu guards what follows. Nothing is called under it that blocks.
	mu    sync.Mutex
	open  map[*h1Client]struct{}
	links map[*link.Conn]*lifetime // which may be nil
	cut   bool
}

func newListener(e *Engine, s Site) *listener {
	l := &listener{
		e: e, site: s, door: s.Door, left: make(chan struct{}), slots: make(chan struct{}, e.opt.Limits.Connections),
		open: map[*h1Client]struct{}{}, links: map[*link.Conn]*lifetime{},
	}
	l.all.Add(1) // serve, which ends it: a connection may come while drain waits for the others
	return l
}

// Pauses of a listener that cannot accept: for want of file descriptors, mostly.
const (
	firstPause = 5 * time.Millisecond
	mostPause  = 200 * time.Millisecond
)

// serve implements running.
func (l *listener) serve() error {
	defer l.all.Wait()
	defer l.all.Done()
	pause := firstPause
	for {
		if !l.slot() {
			return nil
		}
		conn, err := l.site.Listener.Accept()
		if err != nil {
			l.release()
			var temporary interface{ Temporary() bool }
			switch {
			case l.leaving.Load():
				return nil
			case !errors.As(err, &temporary) || !temporary.Temporary():
				return err
			}
			l.e.metrics.listener.Inc()
			select {
			case <-time.After(pause):
			case <-l.left:
				return nil
			}
			pause = min(2*pause, mostPause)
			continue
		}
		pause = firstPause
		l.all.Go(func() { l.serveConn(conn) })
	}
}

// slot waits until another connection may be open, here and in the whole engine.
func (l *listener) slot() bool {
	select {
	case l.slots <- struct{}{}:
	case <-l.left:
		return false
	}
	select {
	case l.e.slots <- struct{}{}:
		return true
	case <-l.left:
		<-l.slots
		return false
	}
}

func (l *listener) release() {
	<-l.slots
	<-l.e.slots
}

// unsentBytes is how much the kernel holds of what is written to a client before it
// is sent. Left to itself it is megabytes of each answer that is read slowly, which no
// limit of this process counts.
const unsentBytes = 128 << 10

// boundUnsent sets unsentBytes. It is not inherited from a listener of Multipath TCP.
// A kernel that cannot only holds more.
func boundUnsent(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return // it is closed, which shows soon
	}
	_ = raw.Control(func(fd uintptr) { // as above
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentBytes)
	})
}

// serveConn serves one connection to its end, or until it goes on without the stack
// that was needed so far: as a link, or when it is quiet. The connection's place is
// free when it has ended.
func (l *listener) serveConn(accepted net.Conn) {
	if !l.greet(accepted) {
		l.release()
	}
}

// greet is serveConn. It reports whether the connection goes on.
func (l *listener) greet(accepted net.Conn) (goesOn bool) {
	raw, ok := accepted.(*net.TCPConn)
	if !ok {
		_ = accepted.Close() // listeners are TCP's; how closing went cannot matter to anybody
		return false
	}
	boundUnsent(raw)
	from := addressOf(raw)
	if announced := l.site.ProxyProtocol; announced != nil {
		var err error
		if from, err = announced.client(raw, from, l.e.opt.Limits.HeaderTimeout); err != nil {
			l.broken(raw, err)
			return false
		}
	}
	if tcp, ok := l.door.(*tcpDoor); ok {
		tcp.serve(raw)
		return false
	}
	if l.site.TLS == nil {
		return l.serveHTTP1(raw, raw, raw, nil, from)
	}
	secure := newMeshConn(raw)
	secure.Conn = tls.Server(secure.under, l.site.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), l.e.opt.Limits.HandshakeTimeout)
	err := secure.HandshakeContext(ctx)
	cancel()
	if err != nil {
		l.broken(raw, err)
		return false
	}
	state := secure.ConnectionState()
	if in, ok := l.door.(*inbound); ok {
		if err := l.e.standing.enter(secure, &state); err != nil {
			l.broken(secure, err)
			return false
		}
		if state.NegotiatedProtocol == identity.ProtocolTCP {
			in.serveTCP(secure, &state, from)
			return false
		}
	}
	switch state.NegotiatedProtocol {
	case identity.ProtocolH2:
		secure.gather()
		return l.serveLink(secure, &state, from)
	case identity.ProtocolHTTP1, "":
		return l.serveHTTP1(raw, secure, secure, &state, from)
	}
	// The handshake was all of it: acme-tls/1 (RFC 8737 section 4).
	_ = secure.Close() // as above
	return false
}

// broken counts and closes a connection that did not begin as it has to.
func (l *listener) broken(conn net.Conn, err error) {
	l.e.metrics.listener.Inc()
	l.e.opt.Log.Debug().Err(err).Msg("connection failed")
	_ = conn.Close()
}

// serveLink begins to serve a link and reports whether there is one.
func (l *listener) serveLink(conn net.Conn, state *tls.ConnectionState, from string) bool {
	s, info, ok := l.door.enter(state, from)
	if state != nil {
		clear(state.PeerCertificates) // several KiB, and nobody asks for them again
	}
	if !ok {
		_ = conn.Close() // as above
		return false
	}
	limits := &l.e.opt.Limits
	bounds := limits.link(limits.IdleTimeout)
	bounds.Handle = func(stream *link.Stream) { s.serveLink(stream, &info) }
	bounds.Refuse = s.turnAway
	bounds.ExtendedConnect = s.local == nil && !s.plain
	bounds.Ended = l.linkEnded
	l.all.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := link.Server(conn, bounds)
	l.links[c] = l.e.lives.add(info.until, c.Drain)
	switch {
	case l.cut:
		_ = c.Close() // as above
	case l.leaving.Load():
		go c.Drain()
	}
	return true
}

// linkEnded frees the place of a link.
func (l *listener) linkEnded(c *link.Conn) {
	var broken *link.ConnError
	if errors.As(c.Err(), &broken) && !broken.Remote {
		l.e.metrics.listener.Inc()
		l.e.opt.Log.Debug().Err(broken).Msg("connection failed")
	}
	l.mu.Lock()
	life := l.links[c]
	delete(l.links, c)
	l.mu.Unlock()
	l.e.lives.remove(life)
	l.release()
	l.all.Done()
}

func (l *listener) serveHTTP1(raw *net.TCPConn, conn halfCloser, deadlines deadliner, state *tls.ConnectionState, from string) (goesOn bool) {
	s, info, ok := l.door.enter(state, from)
	if state != nil {
		clear(state.PeerCertificates) // as in serveLink
	}
	if !ok {
		_ = conn.Close() // as above
		return false
	}
	c := newH1Client(s, conn, deadlines, info, &l.leaving)
	c.raw = raw
	if !l.enter(c) {
		_ = conn.Close() // as above
		return false
	}
	c.life = l.e.lives.add(info.until, c.expire)
	return l.attend(c)
}

// attend serves c until it ends or is quiet.
func (l *listener) attend(c *h1Client) (goesOn bool) {
	if !c.serve() {
		l.forget(c)
		if !c.http2 {
			return false
		}
		conn, err := c.yield()
		if err != nil {
			_ = conn.Close() // as above
			return false
		}
		return l.serveLink(conn, nil, c.info.remote) // in clear text, by prior knowledge
	}
	l.all.Go(func() {
		if !c.await() {
			l.forget(c)
			l.release()
			return
		}
		l.all.Go(func() {
			if !l.attend(c) {
				l.release()
			}
		})
	})
	return true
}

func (l *listener) forget(c *h1Client) {
	l.e.lives.remove(c.life)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

func (l *listener) enter(c *h1Client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return false
	}
	l.open[c] = struct{}{}
	return true
}

func (l *listener) clients() []*h1Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*h1Client, 0, len(l.open))
	for c := range l.open {
		out = append(out, c)
	}
	return out
}

// peers returns the links.
func (l *listener) peers() []*link.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.links))
}

// drain implements running.
func (l *listener) drain(ctx context.Context) (bool, error) {
	l.leaving.Store(true)
	close(l.left)
	err := l.site.Listener.Close()
	for _, c := range l.peers() {
		c.Drain()
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.all.Wait()
	}()
	grace := time.NewTimer(leaveGrace)
	defer grace.Stop()
	select {
	case <-ended:
		return false, err
	case <-grace.C:
	case <-ctx.Done():
	}
	for _, c := range l.clients() {
		if c.idle.Load() {
			c.interruptRead()
		}
	}
	cut := false
	select {
	case <-ended:
	case <-ctx.Done():
		l.mu.Lock()
		l.cut = true
		l.mu.Unlock()
		for _, c := range l.clients() {
			cut = !c.gone.Load() || cut
			c.cutOff()
		}
		for _, c := range l.peers() {
			cut = true
			_ = c.Close() // as above
		}
		l.e.tunnels.cutAll() // the time of all is up
		<-ended
	}
	return cut, err
}
