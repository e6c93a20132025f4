package proxy_test

import (
	"crypto/tls"
	"io"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
)

// Even a peer of the mesh reaches a service only by its name: the name settles
// whose policies decide.
func TestPeerMustNameAServiceThatIsHere(t *testing.T) {
	w := newWorld(t)
	rec := w.recorder("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	n := w.sidecar("orders", "n1", rec.addr, nil)
	w.publish()
	orders, err := mesh.ServiceID(testDomain, "orders", "n1")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"orders.n1.default": true, "carts.n1.default": false, "orders.n2.default": false, "orders.n1.other": false, "": false} {
		config := identity.ClientConfig(w.source("/svc/web/n/n9"), orders, name, identity.ProtocolHTTP1)
		conn, err := tls.Dial("tcp", n.addr, config)
		if (err == nil) != want {
			t.Errorf("%q: the handshake says %v", name, err)
		}
		if err != nil {
			continue
		}
		_, _ = io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: orders.mesh\r\nConnection: close\r\n\r\n")
		if got, _ := io.ReadAll(conn); strings.Contains(string(got), " 200 ") != want {
			t.Errorf("%q: got %q", name, got)
		}
		_ = conn.Close()
	}
	if got := strings.Count(rec.bytes.String(), "HTTP/1.1"); got != 1 {
		t.Errorf("the workload got %d requests", got)
	}
}
