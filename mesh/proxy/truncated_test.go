package proxy_test

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
)

// HTTP/1.0 knows no chunks: its body lasts until the connection ends, so that
// only a reset tells a part from all.
func TestResponseUntilCloseLooksTruncated(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", closing(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	conn := dial(t, en.addr)
	say(t, conn, "GET /a HTTP/1.0\r\nHost: shop.test\r\n\r\n")
	got, err := io.ReadAll(conn)
	if strings.Contains(string(got), " 200 ") && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %q, %v", got, err)
	}
}
