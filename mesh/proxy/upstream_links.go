package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/link"
)

// mostLinks is how many links to one peer take streams at a time; as many again may
// be full or on their way out. busyLink is how many streams make another worth its
// handshake.
const (
	mostLinks = 4
	busyLink  = 256
)

// links are the mesh links to one endpoint. One carries the streams of many
// clients; others are added as it becomes busy, and close when they are idle.
type links struct {
	scheme string // of the requests
	// dial makes a link, and calls forget when it has ended.
	dial func(forget func(*link.Conn)) (*link.Conn, error)

	// mu guards what follows. Nothing is called under it that blocks.
	mu      sync.Mutex
	conns   []*link.Conn
	dialing *dialing
	closed  bool
}

// dialing is a link in the making, which several may wait for.
type dialing struct {
	done chan struct{}
	err  error // once done is closed
}

var errLinkEnds = errors.New("links to the endpoint end as soon as they are made")

var errLinksFull = errors.New("every link to the endpoint carries as many streams as it may")

// get returns a link that takes streams. Who finds none waits for one; who finds
// a busy one uses it while another is made.
func (l *links) get(x *exchange) (*link.Conn, error) {
	for waited := 0; ; waited++ {
		l.mu.Lock()
		conn, another := l.best()
		var wait *dialing
		switch {
		case l.closed:
			l.mu.Unlock()
			return nil, &connectError{CodeUnreachable, errProxyClosed}
		case conn == nil && waited > mostStale:
			l.mu.Unlock()
			return nil, &connectError{CodeUnreachable, errLinkEnds}
		case another && l.dialing == nil:
			l.dialing = &dialing{done: make(chan struct{})}
			go l.add(l.dialing)
		}
		wait = l.dialing
		l.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		if wait == nil {
			return nil, &connectError{CodeUnreachable, errLinksFull}
		}
		if err := x.waitFor(wait); err != nil {
			return nil, err
		}
	}
}

// waitFor waits for a link in the making.
func (x *exchange) waitFor(d *dialing) error {
	if x.breaker != nil {
		if !x.breaker.wait() {
			return errOverflow
		}
		defer x.breaker.pending.Add(-1)
	}
	ctx := x.context()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// best returns the link with the fewest streams among those that take more, or
// nil, and whether there should be another. mu is held.
func (l *links) best() (conn *link.Conn, another bool) {
	usable, leaving := 0, 0
	for _, c := range l.conns {
		if !c.Available() {
			if c.Err() == nil {
				leaving++ // or full; who has ended will be forgotten in a moment
			}
			continue
		}
		usable++
		if conn == nil || c.Streams() < conn.Streams() {
			conn = c
		}
	}
	return conn, conn == nil && usable+leaving < 2*mostLinks || conn != nil && usable < mostLinks && conn.Streams() >= busyLink
}

// add makes a link.
func (l *links) add(d *dialing) {
	c, err := l.dial(l.forget)
	l.mu.Lock()
	l.dialing = nil
	switch {
	case err != nil:
		d.err = err
	case l.closed:
		d.err = errors.Join(&connectError{CodeUnreachable, errProxyClosed}, c.Close())
	case c.Err() == nil: // or forget has been here before
		l.conns = append(l.conns, c)
	}
	l.mu.Unlock()
	close(d.done)
}

// forget drops a link that has ended.
func (l *links) forget(ended *link.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = slices.DeleteFunc(l.conns, func(c *link.Conn) bool { return c == ended })
}

// close lets the streams under way end, and the links with them.
func (l *links) close() {
	l.mu.Lock()
	l.closed = true
	conns := append([]*link.Conn(nil), l.conns...)
	l.mu.Unlock()
	for _, c := range conns {
		c.Drain()
	}
}
