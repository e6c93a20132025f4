package proxy_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// shortLife is that of certificates here: the least that a loaded machine is done with a
// handshake in.
const shortLife = 4 * time.Second

// renew gives src a leaf that lives for ttl, or as long as the CA likes if that is 0.
func (w *world) renew(src *identity.Source, ttl time.Duration) time.Time {
	w.t.Helper()
	key, req, err := identity.NewRequest(src.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	req.TTL = ttl
	issued, err := w.ca.Issue(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := src.Swap(key, issued); err != nil {
		w.t.Fatal(err)
	}
	return issued.Chain[0].NotAfter
}

// sidecarAs is sidecar with an identity of the caller's.
func (w *world) sidecarAs(src *identity.Source, workload string) *node {
	w.t.Helper()
	service, id, _ := src.ID().Service()
	e, reg := w.engine(proxy.MeshLimits())
	h, config, err := e.Inbound(proxy.Workload{Service: service, Node: id, Address: workload, Source: src})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.run(e, reg, h, config, 5*time.Second)
}

// relay counts the connections that go through it to an address.
func (w *world) relay(to string, count *atomic.Int32) string {
	return accepting(w.t, func(conn net.Conn) {
		count.Add(1)
		up, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(up, conn); _ = up.Close() })
		both.Go(func() { _, _ = io.Copy(conn, up); _ = conn.Close() })
		both.Wait()
	})
}

// A connection is left before the first of its certificates ends: requests go on over
// another, and none fails. WebSockets stay.
func TestConnectionsEndBeforeTheirCertificates(t *testing.T) {
	for _, tt := range []struct {
		name  string
		short string // whose certificate is about to end
		way   option
	}{
		{"the caller's, over links", "caller", linked}, {"the callee's, over links", "callee", linked},
		{"the caller's, over pooled connections", "caller", pooled}, {"the callee's, over pooled connections", "callee", pooled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			var ended atomic.Int32
			echo := wsEcho(&ended)
			caller, callee := w.source("/gateway/edge"), w.source("/svc/orders/n/n1")
			to := w.sidecarAs(callee, w.workload(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/chat" {
					echo(rw, r)
				}
			}))
			var conns atomic.Int32
			w.register("orders", "n1", w.relay(to.addr, &conns), nil)
			w.route("orders", nil)
			e, reg := w.engine(proxy.EdgeLimits(), tt.way)
			n := w.run(e, reg, e.Gateway("edge", caller, proxy.Edge{}), nil, 5*time.Second)
			en := &entry{n, "http://" + n.addr, &http.Client{Transport: &http.Transport{}}}
			t.Cleanup(en.client.CloseIdleConnections)
			w.publish()
			short := caller
			if tt.short == "callee" {
				short = callee
			}
			end := w.renew(short, shortLife)
			ws, _, err := dialWS(t, en)
			if err != nil {
				t.Fatal(err)
			}
			if got := en.get(t, "/"); got.StatusCode != http.StatusOK {
				t.Fatalf("status %d", got.StatusCode)
			}
			w.renew(short, 0)
			before := conns.Load()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			var moved time.Time
			for ; ; <-tick.C {
				if got := en.get(t, "/"); got.StatusCode != http.StatusOK {
					t.Fatalf("status %d: %s", got.StatusCode, got.body)
				}
				if moved.IsZero() && conns.Load() > before {
					moved = time.Now()
					if moved.After(end) {
						t.Errorf("moved %v after the certificate's end", moved.Sub(end))
					}
				}
				if time.Now().After(end.Add(time.Second)) {
					break
				}
			}
			if got := conns.Load() - before; got != 1 {
				t.Errorf("%d new connections, want one", got)
			}
			if err := ws.WriteMessage(websocket.TextMessage, []byte("still")); err != nil {
				t.Fatal(err)
			}
			if _, msg, err := ws.ReadMessage(); err != nil || string(msg) != "still" {
				t.Errorf("the WebSocket: %q, %v", msg, err)
			}
			if err := ws.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A peer that keeps its connection beyond the end of its certificate is served nothing
// more. What was under way is finished.
func TestAPeerWhoseCertificateEnds(t *testing.T) {
	w := newWorld(t)
	slow := make(chan struct{})
	to := w.sidecarAs(w.source("/svc/orders/n/n1"), w.workload(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-slow
		}
	}))
	w.register("orders", "n1", to.addr, nil)
	w.publish()
	caller := w.source("/svc/client/n/n2")
	end := w.renew(caller, shortLife)
	dial := func(alpn string) *tls.Conn {
		t.Helper()
		want, err := mesh.ParseID("spiffe://" + testDomain + "/svc/orders/n/n1")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", to.addr, identity.ClientConfig(caller, want, identity.ServerName("orders", "n1", testMesh), alpn))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(end.Add(4 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	ask := func(conn net.Conn, path string) {
		t.Helper()
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: orders.mesh\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	idle, busy, link := dial(identity.ProtocolHTTP1), dial(identity.ProtocolHTTP1), dial(identity.ProtocolH2)
	ask(idle, "/")
	idleReader := bufio.NewReader(idle)
	if resp, err := http.ReadResponse(idleReader, nil); err != nil || resp.StatusCode != http.StatusOK || resp.Close {
		t.Fatalf("before the end: %v, %v", resp, err)
	}
	ask(busy, "/slow")
	framer := http2.NewFramer(link, link)
	if _, err := io.WriteString(link, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if _, err := idleReader.ReadByte(); !errors.Is(err, io.EOF) || time.Now().Before(end) {
		t.Errorf("an idle connection: %v, %v before the end", err, time.Until(end))
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("a link ends without GOAWAY: %v", err)
		}
		if _, ok := frame.(*http2.GoAwayFrame); ok {
			break
		}
	}
	close(slow)
	resp, err := http.ReadResponse(bufio.NewReader(busy), nil)
	if err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("what was under way: %v, %v; it is the last: %v", resp, err, err == nil && resp.Close)
	}
	if _, err := caller.Certificate(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("the certificate has not ended: %v", err)
	}
}

// The inbound presents what was issued, which the process looks at itself after each
// renewal; and finds out if it does not.
func TestSelfCheck(t *testing.T) {
	for _, tt := range []struct {
		name string
		// tamper makes the inbound present something else, as it does now.
		tamper func(w *world, src *identity.Source, config *tls.Config) *tls.Config
		want   string // in what is degraded
	}{
		{"as issued", func(_ *world, _ *identity.Source, c *tls.Config) *tls.Config { return c }, ""},
		{"the leaf of before", func(w *world, src *identity.Source, _ *tls.Config) *tls.Config {
			old, err := src.Certificate()
			if err != nil {
				w.t.Fatal(err)
			}
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*old}, NextProtos: []string{"http/1.1"}, ClientAuth: tls.RequireAnyClientCert}
		}, "the one that was issued"},
		{"somebody else's", func(w *world, _ *identity.Source, _ *tls.Config) *tls.Config {
			other, err := w.source("/svc/carts/n/n1").Certificate()
			if err != nil {
				w.t.Fatal(err)
			}
			return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*other}, NextProtos: []string{"http/1.1"}, ClientAuth: tls.RequireAnyClientCert}
		}, "the peer at this address is"},
		{"it takes nobody's", func(_ *world, _ *identity.Source, c *tls.Config) *tls.Config {
			inner := c.GetConfigForClient
			c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				config, err := inner(hello)
				if err == nil {
					config = config.Clone()
					config.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
				}
				return config, err
			}
			return c
		}, "presented, but not taken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			src := w.source("/svc/orders/n/n1")
			e, reg := w.engine(proxy.MeshLimits())
			door, config, err := e.Inbound(proxy.Workload{Service: "orders", Node: "n1", Address: "127.0.0.1:1", Source: src})
			if err != nil {
				t.Fatal(err)
			}
			config = tt.tamper(w, src, config)
			w.rotate(src)
			w.run(e, reg, door, config, time.Second)
			if tt.want == "" {
				eventually(t, "the check is made", func() bool { return checks(t, w, "ok") >= 1 })
				w.rotate(src)
				eventually(t, "it is made after a renewal", func() bool { return checks(t, w, "ok") >= 2 })
				if got := src.Degraded(); len(got) != 0 || checks(t, w, "failed") != 0 {
					t.Errorf("degraded: %v", got)
				}
				return
			}
			eventually(t, "it is found out", func() bool { return len(src.Degraded()) > 0 })
			if got := src.Degraded()[0].Error(); !strings.Contains(got, tt.want) || checks(t, w, "failed") == 0 {
				t.Errorf("degraded: %s", got)
			}
			if !strings.Contains(w.logs.String(), "self check failed") {
				t.Errorf("log %s", w.logs.String())
			}
		})
	}
}

func checks(t *testing.T, w *world, result string) float64 {
	t.Helper()
	return counted(t, w.identities, "hedgerow_identity_self_checks_total", map[string]string{"result": result})
}
