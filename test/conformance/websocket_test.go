package conformance

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// serveHTTP answers requests at address until the test ends: WebSockets with what they
// send, others with their body.
func serveHTTP(t *testing.T, address string) {
	t.Helper()
	var upgrader websocket.Upgrader
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			_, _ = io.Copy(w, r.Body)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil || conn.WriteMessage(kind, message) != nil {
				return
			}
		}
	})}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-ended
	})
}

func TestWebSocketClients(t *testing.T) {
	workload, _ := address(t)
	serveHTTP(t, workload)
	s := newSite(t, "web", "HTTP", workload, "")
	for _, way := range []struct{ name, url, host, ca string }{
		{"through a gateway and a sidecar", "wss://localhost:" + port(t, s.gateway.Public) + "/echo", "localhost", s.tls.CAFile},
		{"through two sidecars", "ws://" + s.caller.Outbound + "/echo", "web.mesh", ""},
	} {
		t.Run(way.name, func(t *testing.T) {
			for _, client := range [][]string{{"/usr/bin/python3", "testdata/websocket.py"}, {"node", "testdata/websocket.mjs", nodeModules(t)}} {
				t.Log(command(t, time.Minute, "", client[0], append(client[1:], way.url, way.host, way.ca)...))
			}
		})
	}
}

// nodeModules returns where .ci/deps puts packages of npm.
func nodeModules(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "hedgerow-test", "node", "node_modules")
}
