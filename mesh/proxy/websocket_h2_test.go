package proxy_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/net/http2"
)

// overStreams sends CONNECT with a protocol over HTTP/2 and returns the answer and where
// to write.
func overStreams(t *testing.T, en *entry, protocol, version string) (*http.Response, *io.PipeWriter) {
	t.Helper()
	inner, _ := en.client.Transport.(*http.Transport)
	transport := &http2.Transport{TLSClientConfig: inner.TLSClientConfig.Clone()} //nolint:staticcheck // net/http's has no extended CONNECT
	t.Cleanup(transport.CloseIdleConnections)                                     //nolint:staticcheck // as above
	body, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	r := en.request(t, http.MethodConnect, "/chat", body)
	r.Header[":protocol"] = []string{protocol}
	r.Header.Set("Sec-WebSocket-Version", version)
	resp, err := transport.RoundTrip(r) //nolint:staticcheck // as above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, w
}

// A WebSocket comes over a stream of HTTP/2 (RFC 8441) and goes on as any other.
func TestWebSocketOverHTTP2(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		var upgrader websocket.Upgrader
		conn, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, append([]byte(r.URL.Path+" "), message...)) != nil {
				return
			}
		}
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH2)
	w.publish()
	resp, to := overStreams(t, en, "websocket", "13")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Sec-WebSocket-Accept") != "" {
		t.Fatalf("answered %d with %v", resp.StatusCode, resp.Header)
	}
	for range 3 {
		if _, err := to.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}); err != nil { // a masked text frame
			t.Fatal(err)
		}
		got := make([]byte, 2+len("/chat hi"))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got[2:]) != "/chat hi" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	_ = to.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, resp.Body)
	}()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the stream does not end when the client has")
	}
}

func TestConnectOfAnotherProtocolIsRefused(t *testing.T) {
	rec, en := recorded(t, overH2, "")
	for _, tt := range []struct {
		protocol, version string
		status            int
	}{{"connect-udp", "13", 405}, {"h2c", "13", 405}, {"websocket", "8", 400}} {
		resp, _ := overStreams(t, en, tt.protocol, tt.version)
		if resp.StatusCode != tt.status {
			t.Errorf("%s %s: %d, want %d", tt.protocol, tt.version, resp.StatusCode, tt.status)
		}
	}
	if got := rec.bytes.String(); got != "" {
		t.Errorf("the workload got %q", got)
	}
}

// Whoever asks by CONNECT takes 2xx for a tunnel (RFC 8441 section 5). A service that
// answers a WebSocket's handshake as any GET has opened none.
func TestWebSocketOverHTTP2ThatIsNone(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "just a page")
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH2)
	w.publish()
	resp, _ := overStreams(t, en, "websocket", "13")
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("answered %d", resp.StatusCode)
	}
}
