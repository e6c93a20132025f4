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

// A trailer is no way around what was decided by the header (RFC 9110 section 6.5.1), over
// HTTP/2 no more than over HTTP/1.1.
func TestTrailersThatBelongInTheHeader(t *testing.T) {
	rec, en := recorded(t, overH2, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", linked)
	conn := dialH2(t, en.addr)
	conn.headers(1, false, ":method", "POST", ":scheme", "https", ":path", "/", ":authority", "shop.test")
	if err := conn.framer.WriteData(1, false, []byte("body")); err != nil {
		t.Fatal(err)
	}
	conn.headers(1, true, "cookie", "session=1", "authorization", "Bearer x", "content-type", "text/html", "expect", "100-continue", "x-sum", "7")
	eventually(t, "all of it came", func() bool { return strings.Contains(rec.bytes.String(), "X-Sum: 7\r\n\r\n") })
	got := strings.ToLower(rec.bytes.String())
	for _, name := range []string{"cookie", "authorization", "content-type", "expect"} {
		if strings.Contains(got, "\n"+name+":") {
			t.Errorf("the workload got %s in %q", name, got)
		}
	}
}
