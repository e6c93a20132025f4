package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// Forty clients ask for more than they read; all share one connection between
// the proxies. It must have room for another one's answer.
func TestSlowReadersStopNobodyElse(t *testing.T) {
	const slow = 40
	piece := strings.Repeat("x", 64<<10)
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		pieces := 1
		if r.URL.Path == "/large" {
			pieces = 1000 // more than sockets hold
		}
		for range pieces {
			if _, err := io.WriteString(rw, piece); err != nil {
				return
			}
		}
	}), nil)
	w.route("orders", func(r *mesh.RouteRule) { r.Timeout = mesh.Seconds(60) })
	en := w.gateway(overH1)
	w.publish()
	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		return errors.Join(err, set)
	}}
	for range slow {
		conn, err := small.Dial("tcp", en.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: shop.test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil { // it is under way
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		a := en.do(t, en.request(t, http.MethodGet, "/small", nil).WithContext(ctx))
		cancel()
		if a.StatusCode != http.StatusOK {
			t.Fatalf("got %d %s", a.StatusCode, a.body)
		}
	}
}
