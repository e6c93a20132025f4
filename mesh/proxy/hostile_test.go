package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw sends bytes to addr and returns everything that comes back until the
// other side closes or says no more.
func raw(t *testing.T, addr, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	var reply []byte
	for silence := 5 * time.Second; ; silence = 300 * time.Millisecond {
		if err := conn.SetReadDeadline(time.Now().Add(silence)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		reply = append(reply, buf[:n]...)
		if err != nil {
			return string(reply)
		}
	}
}

func statusOf(t *testing.T, reply string) int {
	t.Helper()
	fields := strings.Fields(reply)
	if len(fields) < 2 {
		t.Fatalf("no response: %q", reply)
	}
	status, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatalf("no response: %q", reply)
	}
	return status
}

const smuggled = "GET /smuggled HTTP/1.1\r\nHost: shop.test\r\n\r\n"

func TestHostileHTTP1(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request string
		status  int
		unseen  bool // the workload gets nothing at all
	}{
		{"CONNECT with what looks like a body", "CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n" + smuggled, 405, true},
		{"CONNECT to a path", "CONNECT /x HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled, 405, true},
		{"transfer coding that is not chunked", "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, true},
		{"two differing lengths", "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, true},
		{"Transfer_Encoding", "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", 400, true},
		{"Content_Length", "POST / HTTP/1.1\r\nHost: shop.test\r\nContent_Length: 5\r\n\r\n", 400, true},
		{"Content_Length of what follows", "POST / HTTP/1.1\r\nHost: shop.test\r\nContent_Length: " + strconv.Itoa(len(smuggled)) + "\r\n\r\n" + smuggled, 400, true},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, true},
		{"two hosts", "GET / HTTP/1.1\r\nHost: shop.test\r\nHost: other.test\r\n\r\n", 400, true},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, true},
		{"user information in the host", "GET / HTTP/1.1\r\nHost: a@shop.test\r\n\r\n", 400, true},
		{"user information in the target", "GET http://a:b@shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, true},
		{"another scheme in the target", "GET ftp://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, true},
		{"an asterisk", "OPTIONS * HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, true},
		{"a fragment in the query", "GET /?a#b HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400, true},
		{"the authority of the target wins over Host", "GET http://shop.test/x HTTP/1.1\r\nHost: other.test\r\n\r\n", 200, false},
		{"the authority of the target is no host of ours", "GET http://other.test/x HTTP/1.1\r\nHost: shop.test\r\n\r\n", 404, true},
		{"a header of 100 KiB", "GET / HTTP/1.1\r\nHost: shop.test\r\nX: " + strings.Repeat("a", 100<<10) + "\r\n\r\n", 431, true},
		{"a target of 20 KiB", "GET /" + strings.Repeat("a", 20<<10) + " HTTP/1.1\r\nHost: shop.test\r\n\r\n", 414, true},
		{"WebSocket with a body", "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 3\r\n\r\nabc", 400, true},
		{"WebSocket with a bad key", "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n", 400, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			reply := raw(t, en.addr, tt.request)
			if got := statusOf(t, reply); got != tt.status {
				t.Errorf("got %d, want %d: %s", got, tt.status, reply)
			}
			if n := strings.Count(reply, "HTTP/1.1 "); n != 1 {
				t.Errorf("%d responses: %s", n, reply)
			}
			if got := rec.bytes.String(); (got == "") != tt.unseen || strings.Contains(got, "smuggled") {
				t.Errorf("the workload got %q", got)
			}
		})
	}
}

func TestMalformedBodyIsTheClientsFault(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	for _, chunk := range []string{"-1\r\na\r\n", "0x1\r\na\r\n", "1_0\r\na\r\n", "fffffffffffffffff\r\na\r\n", "1\r\nab\r\n0\r\n\r\n"} {
		reply := raw(t, en.addr, "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n"+chunk+smuggled)
		if got := statusOf(t, reply); got != 400 || strings.Count(reply, "HTTP/1.1 ") != 1 || !strings.Contains(reply, "Connection: close") {
			t.Errorf("%q: got %s", chunk, reply)
		}
	}
	if n := counted(t, en.registry, "hedgerow_upstream_failures_total", nil); n != 0 {
		t.Errorf("%v failures are counted against the upstream", n)
	}
}

// A body that breaks off after some of it was sent breaks off at the workload too,
// which waits for the rest.
func TestBodyThatBreaksOffLate(t *testing.T) {
	for _, option := range []option{pooled, linked} {
		w := newWorld(t)
		began, ended := make(chan struct{}), make(chan error, 1)
		w.sidecar("orders", "n1", w.workload(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
			close(began)
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		}), nil)
		w.route("orders", nil)
		en := w.gateway(overH1, option)
		w.publish()
		conn := dial(t, en.addr)
		say(t, conn, "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		<-began
		say(t, conn, "-1\r\n")
		if reply := rest(t, conn); !strings.HasPrefix(reply, "HTTP/1.1 400 ") {
			t.Errorf("got %q", reply)
		}
		if err := <-ended; err == nil {
			t.Error("the workload took a part for all")
		}
	}
}

func TestOneResponsePerRequest(t *testing.T) {
	for _, tt := range []struct{ name, request, upstream, want string }{
		{"HEAD with a body", "HEAD /a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/", "Content-Length: 5\r\n"},
		{"304 with a body", "GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "304"},
		{"304 that tells a length", "GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304 Not Modified"},
		{"204 that tells a length", "GET /a HTTP/1.1\r\nHost: shop.test\r\n\r\n", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "204 No Content"},
		{"GET with a body and a second request behind it", "GET /a HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\nGET GET /none HTTP/1.1\r\nHost: other.test\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, en := recorded(t, overH1, tt.upstream)
			reply := raw(t, en.addr, tt.request)
			if got, want := strings.Count(reply, "HTTP/1.1 "), strings.Count(tt.request, " HTTP/1.1"); got != want || !strings.Contains(reply, tt.want) {
				t.Errorf("%d responses, want %d: %q", got, want, reply)
			}
			if n := strings.Count(reply, "Content-Length"); n > strings.Count(reply, "HTTP/1.1 ") || strings.Contains(tt.want, "204") && n > 0 {
				t.Errorf("%d lengths: %q", n, reply)
			}
		})
	}
}

func TestOtherUpgradesAreDropped(t *testing.T) {
	rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	for _, upgrade := range []string{"h2c", "TLS/1.0", "h2c, websocket", "websocket, h2c"} {
		reply := raw(t, en.addr, "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n")
		if got := statusOf(t, reply); got != 200 {
			t.Errorf("%s: got %s", upgrade, reply)
		}
	}
	if got := strings.ToLower(rec.bytes.String()); strings.Contains(got, "upgrade") || strings.Contains(got, "http2-settings") {
		t.Errorf("the workload got %q", got)
	}
}

// h2conn is an HTTP/2 connection on which a test writes any frame.
type h2conn struct {
	t      *testing.T
	conn   *tls.Conn
	framer *http2.Framer
	block  bytes.Buffer
}

func dialH2(t *testing.T, addr string) *h2conn {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &h2conn{t: t, conn: conn, framer: http2.NewFramer(conn, bufio.NewReader(conn))}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return c
}

// request sends a stream with the header fields, name and value in turn, and body.
func (c *h2conn) request(stream uint32, body string, fields ...string) {
	c.t.Helper()
	c.headers(stream, body == "", fields...)
	if body == "" {
		return
	}
	if err := c.framer.WriteData(stream, true, []byte(body)); err != nil {
		c.t.Fatal(err)
	}
}

// headers sends a header section, name and value in turn.
func (c *h2conn) headers(stream uint32, end bool, fields ...string) {
	c.t.Helper()
	c.block.Reset()
	enc := hpack.NewEncoder(&c.block)
	for i := 0; i < len(fields); i += 2 {
		if err := enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: end})
	if err != nil {
		c.t.Fatal(err)
	}
}

// outcome returns the status of a stream, or "reset", "goaway", "closed".
func (c *h2conn) outcome(stream uint32) string {
	c.t.Helper()
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

func TestHostileHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name   string
		body   string
		fields []string
		want   []string
	}{
		{"CONNECT with a body", smuggled, []string{":method", "CONNECT", ":authority", "shop.test"}, []string{"405"}},
		{"extended CONNECT", smuggled, []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/", ":authority", "shop.test"}, []string{"405", "reset", "400", "501"}},
		{"extended CONNECT to another protocol", smuggled, []string{":method", "CONNECT", ":protocol", "connect-ip", ":scheme", "https", ":path", "/", ":authority", "shop.test"}, []string{"405", "reset", "400", "501"}},
		{"connection header", "", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test", "connection", "x"}, []string{"reset", "400"}},
		{"TE other than trailers", "", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test", "te", "gzip"}, []string{"reset", "400"}},
		{"upper-case name", "", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test", "X-A", "1"}, []string{"reset", "400"}},
		{"line break in a value", "", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test", "x-a", "1\r\nx-b: 2"}, []string{"reset", "400"}},
		{"space in the path", "", []string{":method", "GET", ":scheme", "https", ":path", "/a b", ":authority", "shop.test"}, []string{"reset", "400"}},
		{"no authority", "", []string{":method", "GET", ":scheme", "https", ":path", "/"}, []string{"400", "reset"}},
		{"a header field of 15 KiB", "", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test", "x", strings.Repeat("a", 15<<10)}, []string{"200"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rec, en := recorded(t, overH2, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			c := dialH2(t, en.addr)
			c.request(1, tt.body, tt.fields...)
			got := c.outcome(1)
			found := false
			for _, want := range tt.want {
				found = found || got == want
			}
			if !found {
				t.Errorf("got %s, want one of %v", got, tt.want)
			}
			if got := rec.bytes.String(); strings.Contains(got, "smuggled") || got != "" && tt.want[0] != "200" {
				t.Errorf("the workload got %q", got)
			}
		})
	}
}

func TestHeaderListsAreBounded(t *testing.T) {
	rec, en := recorded(t, overH2, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	c := dialH2(t, en.addr)
	enc := hpack.NewEncoder(&c.block)
	fields := []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "shop.test"}
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndStream: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // 200 KiB; the server may hang up on the way
		c.block.Reset()
		_ = enc.WriteField(hpack.HeaderField{Name: "x-" + strconv.Itoa(i), Value: strings.Repeat("\x7f", 10<<10)})
		if err := c.framer.WriteContinuation(1, i == 19, c.block.Bytes()); err != nil {
			break
		}
	}
	if got := c.outcome(1); got == "200" {
		t.Error("was answered 200")
	}
	if got := rec.bytes.String(); got != "" {
		t.Errorf("the workload got %d bytes", len(got))
	}
}

func TestInboundRefusesWhoIsNoPeer(t *testing.T) {
	w := newWorld(t)
	rec := w.recorder("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	n := w.sidecar("orders", "n1", rec.addr, nil)
	w.publish()
	t.Run("plain HTTP", func(t *testing.T) {
		if reply := raw(t, n.addr, "GET / HTTP/1.1\r\nHost: orders.mesh\r\n\r\n"); strings.Contains(reply, " 200 ") {
			t.Errorf("got %q", reply)
		}
	})
	for _, tt := range []struct {
		name   string
		config *tls.Config
	}{
		{"no certificate", &tls.Config{InsecureSkipVerify: true, ServerName: "orders.n1.default", NextProtos: []string{"http/1.1"}}},
		{"another server name", &tls.Config{InsecureSkipVerify: true, ServerName: "carts.n1.default", NextProtos: []string{"http/1.1"}}},
		{"TLS 1.2", &tls.Config{InsecureSkipVerify: true, ServerName: "orders.n1.default", MaxVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", n.addr, tt.config)
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: orders.mesh\r\n\r\n"); err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("was answered")
			}
		})
	}
	if got := rec.bytes.String(); got != "" {
		t.Errorf("the workload got %q", got)
	}
	if got := counted(t, n.registry, "hedgerow_listener_errors_total", nil); got < 3 {
		t.Errorf("hedgerow_listener_errors_total is %v", got)
	}
}
