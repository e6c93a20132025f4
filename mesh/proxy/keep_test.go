package proxy

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/h1"
)

// answeredConn adds a connection to p on which bytes arrived, and reads a response
// to a GET of them.
func answeredConn(t *testing.T, p *connPool, bytes string) *upConn {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	c, err := p.add(near)
	if err != nil {
		t.Fatal(err)
	}
	c.r, c.method = h1.NewReader(io.MultiReader(strings.NewReader(bytes), near), p.read), "GET"
	var head responseHead
	if err := c.head(&head); err != nil {
		t.Fatal(err)
	}
	return c
}

func testPool(most int) *connPool {
	l := MeshLimits()
	l.UpstreamConns = most
	return newPool(l, prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"}), newLifetimes(), nil)
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// A connection carries another request only if the one before ended in every way:
// what is left of it would be taken for the next one's response.
func TestConnectionsThatAreNotKept(t *testing.T) {
	nothing := func(*connPool, *upConn) {}
	read := func(_ *connPool, c *upConn) { _, _ = c.complete() }
	for _, tt := range []struct {
		name, bytes string
		before      func(*connPool, *upConn)
		kept        int
	}{
		{"an answer that was read", okAnswer, read, 1},
		{"a body that was not read", okAnswer, nothing, 0},
		{"a body that did not come", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", nothing, 0},
		{"bytes behind the answer", okAnswer + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", read, 0},
		{"one byte behind an answer without a body", "HTTP/1.1 204 No Content\r\n\r\nH", nothing, 0},
		{"an answer without a body", "HTTP/1.1 204 No Content\r\n\r\n", nothing, 1},
		{"an answer that says close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", read, 0},
		{"an answer of HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", read, 0},
		{"a request's body that was not sent", okAnswer, func(p *connPool, c *upConn) { read(p, c); c.up = &h1Upload{} }, 0},
		{"an interrupt", okAnswer, func(p *connPool, c *upConn) { read(p, c); c.interrupt() }, 0},
		{"an error of writing", okAnswer, func(p *connPool, c *upConn) { read(p, c); c.broken = true }, 0},
		{"a pool that is closed", okAnswer, func(p *connPool, c *upConn) { read(p, c); p.close() }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := testPool(2)
			defer p.close()
			c := answeredConn(t, p, tt.bytes)
			tt.before(p, c)
			c.close()
			if got := len(p.waiting); got != tt.kept {
				t.Errorf("%d connections wait, want %d", got, tt.kept)
			}
			if err := c.conn.SetDeadline(time.Time{}); (err == nil) != (tt.kept > 0) { // a pipe says so
				t.Errorf("kept: %d; the connection: %v", tt.kept, err)
			}
		})
	}
}

func TestConnectionsThatWaitAreBounded(t *testing.T) {
	p := testPool(2)
	defer p.close()
	var all []*upConn
	for range 3 {
		c := answeredConn(t, p, okAnswer)
		_, _ = c.complete()
		all = append(all, c)
	}
	for _, c := range all {
		c.close()
	}
	if got := len(p.waiting); got != 2 {
		t.Errorf("%d connections wait, want 2", got)
	}
}

// Connections that waited may have died together.
func TestFreshTryTakesNoConnectionThatWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(8)
		wait := func() {
			var all []*upConn
			for range 2 {
				c := answeredConn(t, p, okAnswer)
				_, _ = c.complete()
				all = append(all, c)
			}
			for _, c := range all {
				c.close()
			}
		}
		wait()
		if c := p.take(false); c == nil {
			t.Error("a connection that waits is not used")
		} else {
			p.discard(c)
		}
		if c := p.take(true); c != nil || len(p.waiting) > 0 {
			t.Errorf("a fresh try gets %v, %d wait", c, len(p.waiting))
		}
		wait()
		time.Sleep(2 * restless) // of a pipe nobody can tell whether it is alive
		if c := p.take(false); c != nil {
			t.Error("a connection that waited long is used without a look")
		}
		p.close()
	})
}

// Only a connection that carried a request before may be stale.
func TestOnlyAUsedConnectionIsStale(t *testing.T) {
	for _, tt := range []struct{ used, cut, stale bool }{{true, false, true}, {false, false, false}, {true, true, false}} {
		c := &upConn{used: tt.used}
		c.cut.Store(tt.cut)
		var stale *staleError
		if err := c.stale(io.EOF); errors.As(err, &stale) != tt.stale || !errors.Is(err, io.EOF) || !c.broken {
			t.Errorf("used: %v, cut: %v: %v", tt.used, tt.cut, err)
		}
	}
}
