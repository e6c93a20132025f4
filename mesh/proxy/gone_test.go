package proxy_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// A client of HTTP/2 may reset its stream while it is still being decided about, which
// takes its time where tokens are verified. What is sent for it all the same is given up
// at once, not when the route's timeout is over.
func TestStreamThatIsResetBeforeItsDecision(t *testing.T) {
	w := newWorld(t)
	left := make(chan struct{})
	w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(left)
	}), nil)
	deciding, reset := make(chan struct{}), make(chan struct{})
	src := w.source("/svc/web/n/n9")
	e, reg := w.engine(proxy.MeshLimits())
	n := w.run(e, reg, e.Outbound(func() (*identity.Source, *proxy.Refusal) {
		close(deciding)
		<-reset
		return src, nil
	}), nil, time.Second)
	w.publish()
	plain := dial(t, n.addr)
	say(t, plain, http2.ClientPreface)
	conn := &h2conn{t: t, framer: http2.NewFramer(plain, plain)}
	if err := conn.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	conn.request(1, "", ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "orders.mesh")
	<-deciding
	if err := conn.framer.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
		t.Fatal(err)
	}
	if err := conn.framer.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	for ponged := false; !ponged; { // and so the reset was read
		f, err := conn.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		_, ponged = f.(*http2.PingFrame)
	}
	<-time.After(50 * time.Millisecond) // for whoever is told of it; less would only prove less
	close(reset)
	eventually(t, "it is over", func() bool {
		return counted(t, reg, "hedgerow_requests_in_flight", map[string]string{"face": "outbound"}) == 0
	})
	select {
	case <-left:
	case <-time.After(time.Second): // or it was never sent
	}
}

// A client that leaves while it is told of what comes before the response is not the
// endpoint's failure: else it could have endpoints ejected.
func TestClientThatLeavesDuringEarlyHints(t *testing.T) {
	w := newWorld(t)
	begun, gone := make(chan struct{}), make(chan struct{})
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		close(begun)
		<-gone
		for range 8 {
			rw.WriteHeader(http.StatusEarlyHints)
		}
		<-r.Context().Done()
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1, pooled)
	w.publish()
	conn, err := net.Dial("tcp", en.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, plainGet); err != nil {
		t.Fatal(err)
	}
	<-begun
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset
	}
	_ = conn.Close()
	close(gone)
	eventually(t, "it is over", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
	if n := counted(t, en.registry, "hedgerow_upstream_failures_total", map[string]string{"kind": "reset"}); n != 0 {
		t.Errorf("%v failures of the endpoint", n)
	}
}

// A client that does not read what comes before the response holds nothing for longer than
// the route's timeout: not its exchange, nor its place among the requests of the service.
func TestClientThatDoesNotReadEarlyHints(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", accepting(t, func(conn net.Conn) {
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			return
		}
		hint := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("x", 16<<10) + "\r\n\r\n"
		for { // until nobody takes more
			if _, err := io.WriteString(conn, hint); err != nil {
				return
			}
		}
	}), nil)
	w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.3) })
	en := w.gateway(overH1, pooled)
	w.publish()
	conn := dial(t, en.addr)
	say(t, conn, plainGet)
	eventually(t, "it begins", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 1 })
	eventually(t, "it is over", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
	if n := counted(t, en.registry, "hedgerow_upstream_failures_total", nil); n != 0 {
		t.Errorf("%v failures of the endpoint", n)
	}
}

// A client that reads no refusals is closed after the time for an answer of the proxy
// itself.
func TestClientThatDoesNotReadRefusals(t *testing.T) {
	w := newWorld(t)
	l := proxy.EdgeLimits()
	l.WriteTimeout = 300 * time.Millisecond
	en := w.gatewayWith(overH1, l, time.Second)
	w.publish()
	conn := dial(t, en.addr)
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	requests := strings.Repeat("GET /nowhere HTTP/1.1\r\nHost: nobody.test\r\n\r\n", 1000)
	for {
		_, err := io.WriteString(conn, requests)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection stays")
		}
		if err != nil {
			return
		}
	}
}
