package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/xid"

	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// door is a handler whose connections the engine serves itself. By net/http it
// serves HTTP/2 alone.
type door interface {
	http.Handler
	// enter returns who takes the requests of a connection, and what it tells of
	// its caller. state is nil in clear text.
	enter(state *tls.ConnectionState, remote string) (*server, callerInfo, bool)
}

var _, _ door = (*server)(nil), (*inbound)(nil)

// enter implements door.
func (s *server) enter(state *tls.ConnectionState, remote string) (*server, callerInfo, bool) {
	return s, callerOf(state, remote), true
}

// callerOf returns what a connection tells of its caller but for who that is.
func callerOf(state *tls.ConnectionState, remote string) callerInfo {
	ip, _, err := net.SplitHostPort(remote)
	if err != nil {
		ip = ""
	}
	return callerInfo{remote: ip, secure: state != nil}
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.e.handlers.Add(1)
	defer s.e.handlers.Done()
	s.serveHTTP(w, r, callerOf(r.TLS, r.RemoteAddr))
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

// enter implements door. The handshake refuses whoever has no identity and
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
	info.clientCert = newClientCert(s.local.ID().String(), peer.String(), state.PeerCertificates[0].Raw).String()
	return s, info, true
}

// ServeHTTP implements http.Handler.
func (in *inbound) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, info, ok := in.enter(r.TLS, r.RemoteAddr)
	if !ok {
		head, body := problem(&Refusal{http.StatusMisdirectedRequest, CodeUnknownService, "no service here has this server name"}, xid.New().String())
		maps.Copy(w.Header(), toHTTP(head.fields))
		w.WriteHeader(head.status)
		_, _ = w.Write(body) // the client may have left
		return
	}
	s.e.handlers.Add(1)
	defer s.e.handlers.Done()
	s.serveHTTP(w, r, info)
}

// leaveGrace is how long connections that wait for a request stay open when a
// listener drains: who is about to send one is told by its response to go.
const leaveGrace = 250 * time.Millisecond

// listener accepts connections and serves them: HTTP/1.1 by the engine's own
// codec, HTTP/2 of peers as mesh links, and of everybody else by net/http.
type listener struct {
	e       *Engine
	site    Site
	door    door
	leaving atomic.Bool
	left    chan struct{} // closed when leaving
	slots   chan struct{} // one for each connection that may be open
	web     *webSite      // serves the connections of handed
	handed  *handed
	all     sync.WaitGroup // connections

	// mu guards what follows. Nothing is called under it that blocks.
	mu    sync.Mutex
	open  map[*h1Client]struct{}
	links map[*link.Conn]struct{}
	cut   bool
}

func newListener(ctx context.Context, e *Engine, s Site, d door) *listener {
	l := &listener{
		e: e, site: s, door: d, left: make(chan struct{}), slots: make(chan struct{}, e.opt.Limits.Connections),
		open: map[*h1Client]struct{}{}, links: map[*link.Conn]struct{}{},
	}
	if _, mesh := d.(*inbound); s.TLS != nil && !mesh {
		l.handed = &handed{conns: make(chan net.Conn), done: make(chan struct{}), addr: s.Listener.Addr()}
		l.web = newWebSite(ctx, e, Site{Listener: l.handed, Handler: d, TLS: s.TLS})
		l.web.srv.TLSConfig = nil // the handshake is over when it gets a connection
	}
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
	if l.web != nil {
		l.all.Go(func() { _ = l.web.serve() }) // its listener is ours and does not fail
	}
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
	if l.site.TLS == nil {
		return l.serveHTTP1(raw, raw, raw, nil)
	}
	watched := &watchedConn{TCPConn: raw, closed: make(chan struct{})}
	secure := newMeshConn(watched)
	secure.Conn = tls.Server(secure.under, l.site.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), l.e.opt.Limits.HandshakeTimeout)
	err := secure.HandshakeContext(ctx)
	cancel()
	if err != nil {
		l.e.metrics.listener.Inc()
		l.e.opt.Log.Debug().Err(err).Msg("connection failed")
		_ = raw.Close()
		return false
	}
	state := secure.ConnectionState()
	switch {
	case state.NegotiatedProtocol != identity.ProtocolH2:
		return l.serveHTTP1(raw, secure, secure, &state)
	case l.web == nil:
		return l.serveLink(secure, &state)
	case l.handed.give(secure.Conn):
		<-watched.closed // it counts as one of the listener's until then
	}
	return false
}

// serveLink begins to serve a link and reports whether there is one.
func (l *listener) serveLink(conn *meshConn, state *tls.ConnectionState) bool {
	s, info, ok := l.door.enter(state, conn.RemoteAddr().String())
	clear(state.PeerCertificates) // several KiB, and nobody asks for them again
	if !ok {
		_ = conn.Close() // as above
		return false
	}
	conn.gather()
	limits := &l.e.opt.Limits
	bounds := limits.link(limits.IdleTimeout)
	bounds.Handle = func(stream *link.Stream) { s.serveLink(stream, &info) }
	bounds.Ended = l.linkEnded
	l.all.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := link.Server(conn, bounds)
	l.links[c] = struct{}{}
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
	l.mu.Lock()
	delete(l.links, c)
	l.mu.Unlock()
	l.release()
	l.all.Done()
}

func (l *listener) serveHTTP1(raw *net.TCPConn, conn halfCloser, deadlines deadliner, state *tls.ConnectionState) (goesOn bool) {
	s, info, ok := l.door.enter(state, raw.RemoteAddr().String())
	if state != nil {
		clear(state.PeerCertificates) // as in serveLink
	}
	if !ok {
		_ = raw.Close()
		return false
	}
	c := newH1Client(s, conn, deadlines, info, &l.leaving)
	c.raw = raw
	if !l.enter(c) {
		_ = raw.Close()
		return false
	}
	return l.attend(c)
}

// attend serves c until it ends or is quiet.
func (l *listener) attend(c *h1Client) (goesOn bool) {
	if c.serve() {
		l.all.Go(func() {
			c.await()
			l.all.Go(func() {
				if !l.attend(c) {
					l.release()
				}
			})
		})
		return true
	}
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	return false
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
	web := make(chan bool, 1)
	go func() {
		defer close(ended)
		if l.web != nil {
			cut, _ := l.web.drain(ctx) // Close of a listener that is ours
			web <- cut
		}
		l.all.Wait()
	}()
	grace := time.NewTimer(leaveGrace)
	defer grace.Stop()
	select {
	case <-ended:
		return l.web != nil && <-web, err
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
		<-ended
	}
	if l.web != nil {
		cut = <-web || cut
	}
	return cut, err
}

// handed is a listener of connections whose handshake is over.
type handed struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// give hands conn to whoever accepts. It reports false, and closes conn, if
// nobody does any more.
func (h *handed) give(conn *tls.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.done:
		_ = conn.Close() // how closing went cannot matter to anybody
		return false
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }

// watchedConn says when it is closed.
type watchedConn struct {
	*net.TCPConn
	closed chan struct{}
	once   sync.Once
}

// Close implements net.Conn.
func (c *watchedConn) Close() error {
	defer c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}
