package proxy_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostileBytes are requests that must be refused with the connection closed
// behind the answer, while the workload sees nothing of them. The tables of
// package h1 have all spellings; these are one of each kind over the whole way.
func hostileBytes() map[string]struct {
	in     string
	status int
} {
	type row = struct {
		in     string
		status int
	}
	get := func(lines string) string { return "GET /a HTTP/1.1\r\nHost: shop.test\r\n" + lines + "\r\n" }
	post := func(lines, body string) string {
		return "POST /a HTTP/1.1\r\nHost: shop.test\r\n" + lines + "\r\n" + body
	}
	return map[string]row{
		"length and chunks":             {post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
		"two lengths that agree":        {post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), 400},
		"a list of lengths":             {post("Content-Length: 5, 6\r\n", "abcdef"), 400},
		"a length with a sign":          {post("Content-Length: +5\r\n", "abcde"), 400},
		"a hexadecimal length":          {post("Content-Length: 0x5\r\n", "abcde"), 400},
		"a length beyond 64 bits":       {post("Content-Length: 18446744073709551617\r\n", "a"), 400},
		"an unknown coding":             {post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501},
		"chunked, identity":             {post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), 400},
		"chunked twice":                 {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400},
		"a vertical tab before chunked": {post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), 400},
		"a folded coding":               {post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), 400},
		"Transfer_Encoding":             {post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400},
		"Transfer.Encoding":             {post("Transfer.Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), 400},
		"a coding in HTTP/1.0":          {"POST /a HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"LF as a line's end":            {"GET /a HTTP/1.1\nHost: shop.test\n\n", 400},
		"CR in a value":                 {get("X: a\rb\r\n"), 400},
		"NUL in a value":                {get("X: a\x00b\r\n"), 400},
		"a space before the colon":      {get("Transfer-Encoding : chunked\r\n"), 400},
		"a name that is no token":       {get("X(: 1\r\n"), 400},
		"folding":                       {get("X: 1\r\n 2\r\n"), 400},
		"no Host":                       {"GET /a HTTP/1.1\r\n\r\n", 400},
		"two Hosts":                     {"GET /a HTTP/1.1\r\nHost: shop.test\r\nHost: shop.test\r\n\r\n", 400},
		"user information in Host":      {"GET /a HTTP/1.1\r\nHost: u@shop.test\r\n\r\n", 400},
		"HTTP/1.2":                      {"GET /a HTTP/1.2\r\nHost: shop.test\r\n\r\n", 505},
		"CONNECT":                       {"CONNECT shop.test:80 HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", 405},
		"a fragment":                    {"GET /a#b HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400},
		"a target of 100 KiB":           {"GET /" + strings.Repeat("a", 100<<10) + " HTTP/1.1\r\nHost: shop.test\r\n\r\n", 414},
		"a field of 100 KiB":            {get("X: " + strings.Repeat("a", 100<<10) + "\r\n"), 431},
		"10,000 fields":                 {get(strings.Repeat("X: 1\r\n", 10000)), 431},
		"two empty lines in front":      {"\r\n\r\n" + get(""), 400},
		"a body longer than the edge's": {post("Content-Length: 16777217\r\n", "a"), 413},
		"a path with two readings":      {"GET /a/%2fadmin HTTP/1.1\r\nHost: shop.test\r\n\r\n", 400},
	}
}

func TestHostileBytesAreUnseen(t *testing.T) {
	rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	const first = "GET /first HTTP/1.1\r\nHost: shop.test\r\n\r\n"
	for name, tt := range hostileBytes() {
		t.Run(name, func(t *testing.T) {
			before := rec.bytes.String()
			// Over keep-alive: a good request in front, what looks like one behind.
			reply := raw(t, en.addr, first+tt.in+smuggled)
			answers := strings.SplitAfter(reply, "\r\n\r\nok")
			if len(answers) != 2 || statusOf(t, answers[0]) != 200 {
				t.Fatalf("the request in front: %.300q", reply)
			}
			if got := statusOf(t, answers[1]); got != tt.status {
				t.Errorf("got %d, want %d: %.300s", got, tt.status, answers[1])
			}
			if strings.Count(reply, "HTTP/1.1 ") != 2 || !strings.Contains(answers[1], "Connection: close\r\n") {
				t.Errorf("not the last answer: %.300s", answers[1])
			}
			if got := strings.TrimPrefix(rec.bytes.String(), before); strings.Count(got, "HTTP/1.1\r\n") != 1 || strings.Contains(got, "smuggled") {
				t.Errorf("the workload got %q", got)
			}
		})
	}
	if n := counted(t, en.registry, "hedgerow_upstream_failures_total", nil); n != 0 {
		t.Errorf("%v failures are counted against the upstream", n)
	}
}

// Malformed chunks are found when a part of the body is on its way: the workload
// sees a request that breaks off, and nothing behind it.
func TestHostileChunksBreakOff(t *testing.T) {
	w := newWorld(t)
	var got syncBuffer
	w.sidecar("orders", "n1", accepting(t, func(conn net.Conn) { _, _ = io.Copy(&got, conn) }), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	for _, chunks := range []string{
		"-1\r\na\r\n", "0x1\r\na\r\n", "1_0\r\na\r\n", " 1\r\na\r\n", "1 \r\na\r\n", "fffffffffffffffff\r\na\r\n",
		"1\r\nab\r\n", "1\na\r\n", "1\r\na\n", "1;" + strings.Repeat("x", 64<<10) + "\r\na\r\n",
	} {
		reply := raw(t, en.addr, "POST /a HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks+"0\r\n\r\n"+smuggled)
		if statusOf(t, reply) != 400 || strings.Count(reply, "HTTP/1.1 ") != 1 || !strings.Contains(reply, "Connection: close\r\n") {
			t.Errorf("%.40q: got %s", chunks, reply)
		}
	}
	if s := got.String(); strings.Contains(s, "smuggled") || strings.Contains(s, "0\r\n\r\n") {
		t.Errorf("the workload got %q", s)
	}
	if n := counted(t, en.registry, "hedgerow_upstream_failures_total", nil); n != 0 {
		t.Errorf("%v failures are counted against the upstream", n)
	}
}

// The order of header fields is kept all the way, and their case from one HTTP/1.1
// hop to the next. HTTP/2 knows lower case only: after a link names are canonical.
func TestHeaderOrderAndCaseAreKept(t *testing.T) {
	for name, tt := range map[string]struct {
		options   []option
		got, sent string
	}{
		"pooled": {[]option{pooled}, "\r\nx-ONE: 1\r\nX-two: 2\r\nx-One: 3\r\n", "\r\nx-RESP: 1\r\nX-a: 2\r\nx-A: 3\r\n"},
		"link":   {[]option{linked}, "\r\nX-One: 1\r\nX-Two: 2\r\nX-One: 3\r\n", "\r\nX-Resp: 1\r\nX-A: 2\r\nX-A: 3\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			rec, en := recorded(t, overH1, "HTTP/1.1 200 OK\r\nx-RESP: 1\r\nContent-Length: 2\r\nX-a: 2\r\nx-A: 3\r\n\r\nok", tt.options...)
			reply := raw(t, en.addr, "GET /a HTTP/1.1\r\nx-ONE: 1\r\nHost: shop.test\r\nX-two: 2\r\nx-One: 3\r\nConnection: close\r\n\r\n")
			if got := rec.bytes.String(); !strings.Contains(got, tt.got) {
				t.Errorf("the workload got %q", got)
			}
			if !strings.Contains(reply, tt.sent) {
				t.Errorf("the client got %q", reply)
			}
		})
	}
}

// A connection that waited in a pool and died is not the client's business, if
// the request may be sent twice.
func TestStalePooledConnections(t *testing.T) {
	var got syncBuffer
	// Answers one request on each connection, and closes it at the next.
	workload := accepting(t, func(conn net.Conn) {
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		_, _ = got.Write(buf[:n])
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		n, _ = conn.Read(buf)
		_, _ = got.Write(bytes.ReplaceAll(buf[:n], []byte("POST"), []byte("LOST POST")))
	})
	w := newWorld(t)
	w.sidecar("orders", "n1", workload, nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	for i := range 6 {
		if a := en.get(t, "/"+strconv.Itoa(i)); a.StatusCode != 200 {
			t.Errorf("GET %d got %d %s", i, a.StatusCode, a.body)
		}
	}
	a := en.do(t, en.request(t, http.MethodPost, "/post", strings.NewReader("x")))
	if n := strings.Count(got.String(), "POST /post"); n != 1 {
		t.Errorf("the POST was sent %d times", n)
	}
	if lost := strings.Contains(got.String(), "LOST POST"); lost != (a.StatusCode == 502) {
		t.Errorf("the POST got %d, lost: %v", a.StatusCode, lost)
	}
}

// A client that leaves is noticed while it waits, and its request given up.
func TestClientThatLeavesIsNoticed(t *testing.T) {
	w := newWorld(t)
	left := make(chan struct{})
	w.sidecar("orders", "n1", w.workload(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(left)
	}), nil)
	w.route("orders", nil)
	en := w.gateway(overH1)
	w.publish()
	conn, err := net.Dial("tcp", en.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request is under way", func() bool { return counted(t, en.registry, "hedgerow_requests_in_flight", nil) == 1 })
	_ = conn.Close()
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("the workload works on for nobody")
	}
}
