package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// A refusal reaches its client though there is more that nobody reads: to close
// at once would reset the connection.
func TestRefusalIsReadToItsEnd(t *testing.T) {
	en := limited(t, func(*proxy.Limits) {})
	for name, request := range map[string]string{
		"a malformed request": "GET /a b HTTP/1.1\r\nHost: shop.test\r\n\r\n",
		"a body too long":     "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 16777217\r\n\r\n",
	} {
		conn := dial(t, en.addr)
		say(t, conn, request+strings.Repeat("x", 64<<10))
		if got := rest(t, conn); !strings.Contains(got, "Connection: close\r\n") || strings.Count(got, "HTTP/1.1 4") != 1 {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// What a client still sends of a request is waited for while the listener drains.
func TestDrainLetsAnUploadFinish(t *testing.T) {
	en := limited(t, func(*proxy.Limits) {})
	const pieces = 10
	upload, quiet := dial(t, en.addr), dial(t, en.addr)
	say(t, quiet, plainGet)
	if _, err := http.ReadResponse(bufio.NewReader(quiet), nil); err != nil {
		t.Fatal(err)
	}
	say(t, upload, "POST /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: "+strconv.Itoa(pieces)+"\r\n\r\n")
	eventually(t, "the upload is under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 1 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		en.stop()
	}()
	_, _ = io.Copy(io.Discard, quiet) // until the idle ones are closed
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range pieces {
		<-tick.C
		if _, err := io.WriteString(upload, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if got := rest(t, upload); statusOf(t, got) != 200 {
		t.Errorf("got %q", got)
	}
	<-stopped
}

// When Run returns nothing of the engine runs any more, its links included.
func TestRunEndsWithItsLinks(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1, linked)
	w.publish()
	if got := raw(t, en.addr, "GET /a HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"); statusOf(t, got) != 200 {
		t.Fatalf("got %q", got)
	}
	const open = "hedgerow_upstream_connections"
	if n := counted(t, en.registry, open, nil); n != 1 {
		t.Fatalf("%v connections", n)
	}
	en.stop()
	if n := counted(t, en.registry, open, nil); n != 0 {
		t.Errorf("%v connections are open", n)
	}
}

// Links that were idle for long close, and nothing of them is kept.
func TestIdleLinksAreForgotten(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	en := w.gateway(overH1, linked, func(o *proxy.Options) { o.Limits.UpstreamIdle = 100 * time.Millisecond })
	w.publish()
	if a := en.get(t, "/"); a.StatusCode != 200 {
		t.Fatalf("got %d %s", a.StatusCode, a.body)
	}
	eventually(t, "the link is closed", func() bool { return counted(t, en.registry, "hedgerow_upstream_connections", nil) == 0 })
	if n := en.engine.Links(); n != 0 {
		t.Errorf("%d links are kept", n)
	}
}

// A client of HTTP/2 that breaks it is counted.
func TestBrokenHTTP2IsCounted(t *testing.T) {
	w := newWorld(t)
	en := w.gateway(overH2)
	w.publish()
	conn, err := tls.Dial("tcp", en.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	say(t, conn, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is counted", func() bool { return counted(t, en.registry, "hedgerow_listener_errors_total", nil) == 1 })
}

// A client of HTTP/2 that resets its stream is noticed while it waits.
func TestStreamThatIsResetIsNoticed(t *testing.T) {
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			w := newWorld(t)
			begun, left := make(chan struct{}), make(chan struct{})
			w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
				close(begun)
				<-r.Context().Done()
				close(left)
			}), nil)
			w.route("orders", nil)
			en := w.gateway(overH2, way.options...)
			w.publish()
			conn := dialH2(t, en.addr)
			conn.request(1, "", ":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test")
			<-begun
			if err := conn.framer.WriteRSTStream(1, http2.ErrCodeCancel); err != nil {
				t.Fatal(err)
			}
			select {
			case <-left:
			case <-time.After(5 * time.Second):
				t.Error("the workload works on for nobody")
			}
		})
	}
}

// A new leaf is for new links. Those that are there, and what is under way on them,
// go on.
func TestLeafRotationCutsNoLink(t *testing.T) {
	w := newWorld(t)
	var last atomic.Pointer[seen]
	begun, goOn := make(chan struct{}), make(chan struct{})
	answer := func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			echo(&last)(rw, r)
			return
		}
		_, _ = io.WriteString(rw, "before ")
		_ = http.NewResponseController(rw).Flush()
		close(begun)
		<-goOn
		_, _ = io.WriteString(rw, "after")
	}
	w.sidecar("orders", "n1", w.workload(answer), nil)
	w.sidecar("carts", "n2", w.workload(answer), nil)
	e, reg := w.engine(proxy.MeshLimits())
	n := w.runSite(e, reg, proxy.Site{Handler: http.NotFoundHandler()}, time.Second)
	caller := w.source("/svc/web/n/n9")
	rt := &http.Client{Transport: e.RoundTripper(caller)}
	w.publish()
	// hash is that of the leaf that the last request came with.
	hash := func(url string) string {
		t.Helper()
		if a := getFrom(t, rt, url); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", url, a.StatusCode, a.body)
		}
		return strings.Split(last.Load().header.Get("X-Forwarded-Client-Cert"), ";")[1]
	}
	old := hash("http://orders.mesh/")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://orders.mesh/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := rt.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	w.rotate(caller)
	if got := hash("http://orders.mesh/"); got != old {
		t.Error("the link was made anew")
	}
	if got := hash("http://carts.mesh/"); got == old {
		t.Error("a new link came with the old leaf")
	}
	close(goOn)
	if got := read(t, stream); got.body != "before after" {
		t.Errorf("the stream was %q", got.body)
	}
	if got := counted(t, n.registry, "hedgerow_upstream_connections", nil); got != 2 {
		t.Errorf("%v connections", got)
	}
}
