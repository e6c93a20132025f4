package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// limited is a gateway in front of an echo under limits that change makes.
func limited(t *testing.T, change func(*proxy.Limits)) *entry {
	t.Helper()
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	l := proxy.EdgeLimits()
	change(&l)
	en := w.gatewayWith(overH1, l, 2*time.Second)
	w.publish()
	return en
}

// dial opens a connection that ends with the test and is never waited for long.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func say(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Fatal(err)
	}
}

// rest reads until the other side closes.
func rest(t *testing.T, conn net.Conn) string {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("not closed: %v after %q", err, got)
	}
	return string(got)
}

const plainGet = "GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n"

func TestSlowHeaderIsAnswered408(t *testing.T) {
	en := limited(t, func(l *proxy.Limits) { l.HeaderTimeout = 1200 * time.Millisecond })
	conn := dial(t, en.addr)
	begin := time.Now()
	sender := make(chan struct{})
	go func() { // sending on buys no time
		defer close(sender)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for _, err := io.WriteString(conn, "GET /a HTTP/1.1\r\nX: "); err == nil; _, err = io.WriteString(conn, "a") {
			<-tick.C
		}
	}()
	got := rest(t, conn)
	if statusOf(t, got) != 408 || !strings.Contains(got, `"client_timeout"`) {
		t.Errorf("got %q", got)
	}
	if took := time.Since(begin); took < time.Second || took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	_ = conn.Close()
	<-sender
}

// Each header has its time: that of a client that pipelines in halves too.
func TestEachHeaderHasItsTime(t *testing.T) {
	en := limited(t, func(l *proxy.Limits) { l.HeaderTimeout = 700 * time.Millisecond })
	conn := dial(t, en.addr)
	replies := bufio.NewReader(conn)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	const half = len(plainGet) / 2
	say(t, conn, plainGet[:half])
	for i := range 8 {
		<-tick.C
		say(t, conn, plainGet[half:]+plainGet[:half])
		resp, err := http.ReadResponse(replies, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("request %d got %v, %v", i, resp, err)
		}
		_ = read(t, resp)
	}
}

func TestIdleConnectionIsClosed(t *testing.T) {
	en := limited(t, func(l *proxy.Limits) { l.IdleTimeout = 200 * time.Millisecond })
	for name, before := range map[string]string{"that never asked": "", "after a request": plainGet} {
		conn := dial(t, en.addr)
		say(t, conn, before)
		if got := rest(t, conn); (before == "") != (got == "") || strings.Contains(got, "408") {
			t.Errorf("a connection %s got %q", name, got)
		}
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	en := limited(t, func(l *proxy.Limits) { l.Connections = 1 })
	first, second := dial(t, en.addr), dial(t, en.addr)
	ask := func(conn net.Conn) {
		t.Helper()
		say(t, conn, plainGet)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("got %v, %v", resp, err)
		}
	}
	ask(first)
	if err := second.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	say(t, second, plainGet)
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("a second connection is served beside the first")
	}
	_ = first.Close()
	if err := second.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(second), nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("after the first has gone the second got %v, %v", resp, err)
	}
}

func TestBodiesAreLimited(t *testing.T) {
	en := limited(t, func(l *proxy.Limits) { l.BodyBytes = 10 })
	for body, want := range map[string]int{"0123456789": 200, "0123456789a": 413} {
		a := en.do(t, en.request(t, http.MethodPost, "/", strings.NewReader(body)))
		if a.StatusCode != want {
			t.Errorf("a length of %d got %d", len(body), a.StatusCode)
		}
		a = en.do(t, en.request(t, http.MethodPost, "/", io.MultiReader(strings.NewReader(body)))) // in chunks
		if a.StatusCode != want {
			t.Errorf("chunks of %d got %d %s", len(body), a.StatusCode, a.body)
		}
	}
}

func TestHTTP10(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(http.StatusEarlyHints) // which HTTP/1.0 does not know
		if r.URL.Path == "/stream" {          // of unknown length, and too long to be known at once
			_, _ = io.WriteString(rw, strings.Repeat("\r\n", 64<<10))
		}
		_, _ = io.WriteString(rw, "hello")
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	for _, tt := range []struct{ name, request, want string }{
		{"closes after the response", "GET /a HTTP/1.0\r\nHost: shop.test\r\n\r\n", "Connection: close\r\n"},
		{"and where that ends the body", "GET /stream HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n", "Connection: close\r\n"},
		{"unless it is asked to stay", "GET /a HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\nGET /a HTTP/1.0\r\nHost: shop.test\r\n\r\n", "Connection: keep-alive\r\n"},
	} {
		conn := dial(t, en.addr)
		say(t, conn, tt.request)
		got := rest(t, conn)
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\nhello") || !strings.Contains(got, tt.want) || strings.Contains(got, "chunked") {
			t.Errorf("%s: got %q", tt.name, got)
		}
		if n := strings.Count(got, "hello"); n != strings.Count(tt.request, "GET") {
			t.Errorf("%s: %d responses", tt.name, n)
		}
	}
}

func TestInformationalResponsesAreHandedOn(t *testing.T) {
	rec, en := recorded(t, overH1, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nHedgerow-Device: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	got := raw(t, en.addr, plainGet)
	if want := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := strings.Count(rec.bytes.String(), "HTTP/1.1"); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// A connection that comes to rest while the listener drains does not hold it up.
func TestDrainDoesNotWaitForSilence(t *testing.T) {
	en := limited(t, func(*proxy.Limits) {})
	quiet, polite := dial(t, en.addr), dial(t, en.addr)
	say(t, polite, plainGet)
	if _, err := http.ReadResponse(bufio.NewReader(polite), nil); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	en.stop()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the drain took %v of 2 s", took)
	}
	if got := rest(t, quiet); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestRoundTripOfAnEarlyAnswer(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(rw).EnableFullDuplex() // or net/http waits for the body
		rw.WriteHeader(http.StatusTeapot)
	}), nil)
	e, reg := w.engine(proxy.MeshLimits())
	w.runSite(e, reg, proxy.Site{Handler: http.NotFoundHandler()}, time.Second)
	rt := e.RoundTripper(w.source("/svc/mqtt-bridge/n/b"))
	w.publish()
	pr, pw := io.Pipe() // never ends by itself
	defer func() { _ = pw.Close() }()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://orders.mesh/", pr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan int, 1)
	go func() {
		resp, err := rt.RoundTrip(r)
		if err != nil {
			ended <- 0
			return
		}
		_ = resp.Body.Close()
		ended <- resp.StatusCode
	}()
	select {
	case status := <-ended:
		if status != http.StatusTeapot {
			t.Errorf("got %d", status)
		}
	case <-time.After(5 * time.Second):
		t.Error("waits for a body that nobody wants")
	}
	if n := counted(t, reg, "hedgerow_requests_in_flight", nil); n != 0 {
		t.Errorf("%v requests in flight", n)
	}
}

// A peer that switches protocols without being asked.
func TestRoundTripThatIsSwitched(t *testing.T) {
	w := newWorld(t)
	e, reg := w.engine(proxy.MeshLimits(), pooled)
	_, config, err := e.Inbound(proxy.Workload{Service: "orders", Node: "n1", Address: "127.0.0.1:1", Source: w.source("/svc/orders/n/n1")})
	if err != nil {
		t.Fatal(err)
	}
	peer := w.runSite(e, reg, proxy.Site{TLS: config, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = conn.Close()
	})}, time.Second)
	w.register("orders", "n1", peer.addr, nil)
	client := &http.Client{Transport: e.RoundTripper(w.source("/svc/mqtt-bridge/n/b"))}
	w.publish()
	wantProblem(t, getFrom(t, client, "http://orders.mesh/"), 502, "bad_upgrade")
}
