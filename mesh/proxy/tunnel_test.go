package proxy_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// wsEcho is a workload that echoes WebSocket messages.
func wsEcho(ended *atomic.Int32) http.HandlerFunc {
	up := websocket.Upgrader{Subprotocols: []string{"chat"}}
	return func(w http.ResponseWriter, r *http.Request) {
		conn, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ended.Add(1)
		defer func() { _ = conn.Close() }()
		for {
			kind, msg, err := conn.ReadMessage()
			if err != nil {
				return
			}
			if conn.WriteMessage(kind, msg) != nil {
				return
			}
		}
	}
}

// dialWS opens a WebSocket through the gateway, with these fields besides.
func dialWS(t *testing.T, en *entry, fields ...http.Header) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"chat"}, HandshakeTimeout: 5 * time.Second}
	if tr, ok := en.client.Transport.(*http.Transport); ok && tr.TLSClientConfig != nil {
		d.TLSClientConfig = tr.TLSClientConfig.Clone()
		d.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	url := strings.Replace(en.url, "http", "ws", 1) + "/chat"
	h := http.Header{"Host": {"shop.test"}}
	for _, more := range fields {
		maps.Copy(h, more)
	}
	return d.DialContext(t.Context(), url, h)
}

func TestWebSocket(t *testing.T) {
	modes(t, func(t *testing.T, m mode) { // in clear text, and over TLS
		w := newWorld(t)
		var ended atomic.Int32
		w.sidecar("orders", "n1", w.workload(wsEcho(&ended)), nil)
		w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(0.2) })
		en := w.gateway(m)
		w.publish()
		conn, resp, err := dialWS(t, en)
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != "chat" {
			t.Errorf("subprotocol %q", got)
		}
		begin := time.Now()
		for time.Since(begin) < 400*time.Millisecond { // beyond the route's timeout
			if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, msg, err := conn.ReadMessage(); err != nil || string(msg) != "hello" {
				t.Fatalf("got %q, %v", msg, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the workload learns of the end", func() bool { return ended.Load() == 1 })
		eventually(t, "the tunnel is over", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 0 })
	})
}

// What is told of a WebSocket at its end is of its own request, though the room that
// this was read into has long been another's; and nobody gets a copy of it.
func TestWebSocketIsRememberedRightly(t *testing.T) {
	w := newWorld(t)
	var ended atomic.Int32
	var mirrored atomic.Int32
	w.sidecar("orders", "n1", w.workload(wsEcho(&ended)), nil)
	w.put(&mesh.Service{Meta: mesh.Meta{Name: "services/shadow"}, Protocol: mesh.ProtocolHTTP})
	w.sidecar("shadow", "n2", w.workload(func(http.ResponseWriter, *http.Request) { mirrored.Add(1) }), nil)
	w.route("orders", func(r *mesh.RouteRule) { r.Filters = []mesh.Filter{{Mirror: &mesh.Mirror{Service: "shadow"}}} })
	var exported spans
	en := w.gateway(overH1, func(o *proxy.Options) {
		o.Observe = proxy.Observe{Records: 1, Access: 1, Tracing: proxy.Tracing{Sample: 1, Export: exported.export}}
	})
	w.publish()
	conn, _, err := dialWS(t, en)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // whose heads are read into what the WebSocket's was
		r := en.request(t, http.MethodGet, "/"+strings.Repeat("z", 200), nil)
		r.Close = true
		en.do(t, r)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	var list struct{ Decisions []proxy.Record }
	eventually(t, "a record of it", func() bool {
		decisions(t, en, "/decisions?status=101", &list)
		return len(list.Decisions) == 1
	})
	if rec := list.Decisions[0]; rec.Path != "/chat" || rec.Host != "shop.test" || rec.Method != http.MethodGet {
		t.Errorf("the record is of %s %s%s", rec.Method, rec.Host, rec.Path)
	}
	eventually(t, "a span of it", func() bool {
		for _, s := range exported.all() {
			if s.Status == http.StatusSwitchingProtocols {
				return s.Path == "/chat" && s.Host == "shop.test"
			}
		}
		return false
	})
	eventually(t, "the others' copies", func() bool { return mirrored.Load() == 20 })
	if n := counted(t, en.registry, "hedgerow_mirrored_requests_total", nil); n != 20 {
		t.Errorf("%v copies are counted, want those of the 20 requests alone", n)
	}
}

func TestWebSocketThatIsNotAccepted(t *testing.T) {
	for _, tt := range []struct {
		name, reply string
		status      int
	}{
		{"200 instead", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", 200},
		{"403 instead", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403},
		{"101 without Sec-WebSocket-Accept", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 502},
		{"101 with a wrong Sec-WebSocket-Accept", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: c29tZXRoaW5nIGVsc2U=\r\n\r\n", 502},
		{"101 to h2c", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec, en := recorded(t, overH1, tt.reply)
			reply := raw(t, en.addr, "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\nGET /second HTTP/1.1\r\nHost: other.test\r\n\r\n")
			if got := statusOf(t, reply); got != tt.status {
				t.Errorf("got %s", reply)
			}
			if got := rec.bytes.String(); strings.Contains(got, "second") {
				t.Errorf("the workload got %q", got)
			}
		})
	}
}

func TestSwitchingWithoutBeingAsked(t *testing.T) {
	_, en := recorded(t, overH1, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
	wantProblem(t, en.get(t, "/"), 502, "bad_upgrade")
}

func TestDrain(t *testing.T) {
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		release := make(chan struct{})
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
			<-release
			_, _ = io.WriteString(rw, "done")
		}), nil)
		w.route("orders", nil)
		en := w.gateway(m)
		w.publish()
		got := make(chan answer, 1)
		go func() { got <- en.get(t, "/") }()
		eventually(t, "a request is under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 1 })
		stopped := make(chan struct{})
		go func() {
			en.stop()
			close(stopped)
		}()
		eventually(t, "nothing is accepted any more", func() bool {
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + en.addr)
			if err == nil {
				_ = resp.Body.Close()
			}
			return err != nil
		})
		select {
		case <-stopped:
			t.Error("Run returned before the request was answered")
		default:
		}
		close(release)
		if a := <-got; a.StatusCode != 200 || a.body != "done" {
			t.Errorf("the request under way got %d %q", a.StatusCode, a.body)
		}
		<-stopped
	})
}

func TestDrainCutsWhatOutlivesIt(t *testing.T) {
	w := newWorld(t)
	var ended atomic.Int32
	hold, release := context.WithCancel(t.Context())
	defer release()
	echo := wsEcho(&ended)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chat" {
			echo(rw, r)
			return
		}
		select {
		case <-r.Context().Done():
		case <-hold.Done():
		}
	}), nil)
	w.route("orders", nil)
	en := w.gatewayWith(overH1, proxy.EdgeLimits(), 200*time.Millisecond)
	w.publish()
	conn, _, err := dialWS(t, en)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	failed := make(chan error, 1)
	go func() {
		resp, err := en.client.Do(en.request(t, "GET", "/held", nil))
		if err == nil {
			_ = resp.Body.Close()
		}
		failed <- err
	}()
	eventually(t, "both are under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 2 })
	begin := time.Now()
	en.stop()
	if took := time.Since(begin); took < 150*time.Millisecond || took > 3*time.Second {
		t.Errorf("the drain took %v", took)
	}
	if err := <-failed; err == nil {
		t.Error("the request that outlived the drain was answered")
	}
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the WebSocket outlived the drain")
	}
}
