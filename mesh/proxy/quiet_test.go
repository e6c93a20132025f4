package proxy_test

import (
	"bufio"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// A connection that waits for long gives up its stack and its buffers. It is served
// when it asks again, closed when its time is over, and not waited for by a drain.
func TestQuietConnections(t *testing.T) {
	const idle = 3 * time.Second // 2 s of it with a stack
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	limits := proxy.EdgeLimits()
	limits.IdleTimeout = idle
	clear, secure := w.gatewayWith(overH1, limits, 5*time.Second), w.gatewayWith(overH2, limits, 5*time.Second)
	w.publish()
	ask := func(conn net.Conn) {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		say(t, conn, plainGet)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("got %v, %v", resp, err)
		}
	}
	overTLS := func() net.Conn {
		conn, err := tls.Dial("tcp", secure.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	begin := time.Now()
	forgotten, again := []net.Conn{dial(t, clear.addr), overTLS()}, []net.Conn{dial(t, clear.addr), overTLS()}
	for i := range again {
		ask(forgotten[i])
		ask(again[i])
	}
	<-time.After(idle - 500*time.Millisecond)
	for _, conn := range again {
		ask(conn)
		ask(conn)
	}
	for _, conn := range forgotten {
		if got := rest(t, conn); got != "" {
			t.Errorf("a connection that waited for too long got %q", got)
		}
		if took := time.Since(begin); took < idle-time.Second || took > idle+1500*time.Millisecond {
			t.Errorf("it was closed after %v, not %v", took, idle)
		}
	}
	<-time.After(2200*time.Millisecond - time.Since(begin.Add(idle-500*time.Millisecond))) // again is quiet again
	stopping := time.Now()
	clear.stop()
	secure.stop()
	if took := time.Since(stopping); took > 2*time.Second {
		t.Errorf("to drain took %v", took)
	}
	for _, conn := range again {
		if got := rest(t, conn); got != "" {
			t.Errorf("a connection that was drained got %q", got)
		}
	}
}
