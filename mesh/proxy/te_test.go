package proxy_test

import (
	"strings"
	"testing"
)

// Who sends TE over HTTP/1.1 says so in Connection too (RFC 9110 section 10.1.4), whatever
// the mesh adds behind it.
func TestTEIsOfTheConnection(t *testing.T) {
	rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if got := raw(t, en.addr, "GET /a HTTP/1.1\r\nHost: shop.test\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n"); statusOf(t, got) != 200 {
		t.Fatalf("got %q", got)
	}
	got := rec.bytes.String()
	if strings.Contains(got, "\r\nTE: trailers\r\n") != strings.Contains(got, "\r\nConnection: TE\r\n") || !strings.Contains(got, "TE: trailers") {
		t.Errorf("the workload got %q", got)
	}
}
