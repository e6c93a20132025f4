package broker

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/rs/zerolog"
)

// listener accepts for the broker. The library's own gives up at the first
// failing accept, sets no deadline for CONNECT and does not know connections
// that never sent one.
type listener struct {
	net     net.Listener
	max     int
	metrics *metrics
	log     zerolog.Logger
	forget  func(*conn) // clears what the library keeps of a connection it failed on

	// mu guards conns, closed and away. Nothing is called under it.
	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
	away   bool           // nobody is admitted for now
	wg     sync.WaitGroup // the accept loop and one per connection
}

func newListener(l net.Listener, maxConns int, m *metrics, log zerolog.Logger) *listener {
	return &listener{net: l, max: maxConns, metrics: m, log: sampled(log), conns: map[*conn]struct{}{}}
}

func (l *listener) ID() string                { return "tcp" }
func (l *listener) Address() string           { return l.net.Addr().String() }
func (l *listener) Protocol() string          { return "tcp" }
func (l *listener) Init(_ *slog.Logger) error { return nil }

// Serve accepts until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	if !l.enter() {
		return
	}
	defer l.wg.Done()
	for {
		c, err := l.net.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of file descriptors: try again when some are free
			l.metrics.connections.WithLabelValues("accept_failed").Inc()
			time.Sleep(50 * time.Millisecond)
			continue
		}
		dc := &conn{Conn: c}
		if refused := l.add(dc); refused != "" {
			l.metrics.connections.WithLabelValues(refused).Inc()
			_ = c.Close()
			continue
		}
		_ = c.SetDeadline(time.Now().Add(connectTimeout)) // replaced once CONNECT has been read
		go l.serve(establish, dc)
	}
}

// serve runs one connection. A packet that makes the library panic (in v2.7.9
// an MQTT 5 SUBSCRIBE without its last byte does) ends that connection and no
// other, as in net/http.
func (l *listener) serve(establish listeners.EstablishFn, c *conn) {
	defer l.wg.Done()
	defer l.remove(c)
	defer func() {
		if p := recover(); p != nil {
			l.metrics.connections.WithLabelValues("panicked").Inc()
			l.forget(c)
			l.log.Error().Interface("panic", p).Bytes("stack", debug.Stack()).Msg("the MQTT library failed on a packet")
		}
	}()
	_ = establish(l.ID(), c) // why it ended is in the library's log
}

// Close ends the accept loop, tells the sessions by closeClients, cuts what is
// left and waits for all of it.
func (l *listener) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.net.Close()
	closeClients(l.ID())
	l.mu.Lock()
	left := make([]*conn, 0, len(l.conns))
	for c := range l.conns {
		left = append(left, c)
	}
	l.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
	l.wg.Wait()
}

// enter counts the accept loop, unless the listener is closed already.
func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.wg.Add(1)
	}
	return !l.closed
}

// suspend cuts every connection and admits none until it is called with false.
func (l *listener) suspend(on bool) {
	l.mu.Lock()
	l.away = on
	var left []*conn
	if on {
		left = slices.Collect(maps.Keys(l.conns))
	}
	l.mu.Unlock()
	for _, c := range left {
		_ = c.Close()
	}
}

// add counts c, unless there are too many or nobody is admitted now.
func (l *listener) add(c *conn) (refused string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.away:
		return "quarantined"
	case l.closed || len(l.conns) >= l.max:
		return "too_many"
	}
	l.conns[c] = struct{}{}
	l.wg.Add(1)
	return ""
}

func (l *listener) remove(c *conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// loopback reports whether a is an IP address of the loopback interface.
func loopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}
