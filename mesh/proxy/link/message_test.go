package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

// with returns a whole GET request with further fields, as name, value pairs.
func with(pairs ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", "x.example", ":path", "/"}, pairs...)
}

// pseudo returns a request whose pseudo field name has the value.
func pseudo(name, value string) []string {
	pairs := with()
	pairs[slices.Index(pairs, name)+1] = value
	return pairs
}

// TestRequestHeads holds RFC 9113 sections 8.2 and 8.3 for requests.
func TestRequestHeads(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		pairs []string
		good  bool
	}{
		{"plain", with(), true},
		{"no authority", []string{":method", "GET", ":scheme", "http", ":path", "/"}, true},
		{"Host alone", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "x.example"}, true},
		{"Host as authority", with("host", "X.example"), true},
		{"te trailers", with("te", "trailers"), true},
		{"OPTIONS *", []string{":method", "OPTIONS", ":scheme", "http", ":path", "*"}, true},
		{"bytes beyond ASCII", with("x", "sch\xf6n"), true},
		{"tab within a value", with("x", "a\tb"), true},
		{"empty value", with("x", ""), true},
		{"Content-Length 0", with("content-length", "0"), true},

		{"no method", []string{":scheme", "http", ":path", "/"}, false},
		{"no scheme", []string{":method", "GET", ":path", "/"}, false},
		{"no path", []string{":method", "GET", ":scheme", "http"}, false},
		{"empty path", pseudo(":path", ""), false},
		{"path without slash", pseudo(":path", "x"), false},
		{"path *", pseudo(":path", "*"), false},
		{"path with space", pseudo(":path", "/a b"), false},
		{"path with fragment", pseudo(":path", "/a#b"), false},
		{"path with line end", pseudo(":path", "/a\r\nb"), false},
		{"path with DEL", pseudo(":path", "/a\x7f"), false},
		{"method that is no token", pseudo(":method", "GE T"), false},
		{"empty method", pseudo(":method", ""), false},
		{"scheme with a colon", pseudo(":scheme", "http:"), false},
		{"scheme that begins with a digit", pseudo(":scheme", "1http"), false},
		{"empty scheme", pseudo(":scheme", ""), false},
		{"authority with user", pseudo(":authority", "a@x.example"), false},
		{"authority with path", pseudo(":authority", "x.example/"), false},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "x.example:1"}, true},
		{"CONNECT with all", pseudo(":method", "CONNECT"), false},
		{"extended CONNECT", append([]string{":protocol", "websocket"}, with()...), false},
		{"unknown pseudo field", append([]string{":x", "y"}, with()...), false},
		{"status in a request", append([]string{":status", "200"}, with()...), false},
		{"two paths", append([]string{":path", "/"}, with()...), false},
		{"pseudo field after a regular one", []string{":method", "GET", ":scheme", "http", "x", "y", ":path", "/"}, false},
		{"pseudo field after Host", []string{":method", "GET", ":scheme", "http", "host", "x.example", ":path", "/"}, false},
		{"upper-case name", with("X", "y"), false},
		{"upper-case known name", with("User-agent", "y"), false},
		{"empty name", with("", "y"), false},
		{"name with a space", with("x ", "y"), false},
		{"name with a colon", with("x:", "y"), false},
		{"name beyond ASCII", with("x\xe9", "y"), false},
		{"connection", with("connection", "close"), false},
		{"keep-alive", with("keep-alive", "1"), false},
		{"proxy-connection", with("proxy-connection", "close"), false},
		{"transfer-encoding", with("transfer-encoding", "chunked"), false},
		{"upgrade", with("upgrade", "x"), false},
		{"te gzip", with("te", "gzip"), false},
		{"other Host", with("host", "y.example"), false},
		{"two Hosts", with("host", "x.example", "host", "x.example"), false},
		{"CR", with("x", "a\rb"), false},
		{"LF", with("x", "a\nb"), false},
		{"NUL", with("x", "a\x00b"), false},
		{"space before", with("x", " a"), false},
		{"space behind", with("x", "a "), false},
		{"tab behind", with("x", "a\t"), false},
		{"Content-Length not a number", with("content-length", "+0"), false},
		{"Content-Length empty", with("content-length", ""), false},
		{"Content-Length too long", with("content-length", "0000000000000000000"), false},
		{"two Content-Lengths", with("content-length", "0", "content-length", "0"), false},
		{"Content-Length without content", with("content-length", "1"), false},
	}
	handled := make(chan string, len(tests))
	p, _ := rawClient(t, Config{Handle: func(s *Stream) {
		handled <- s.Request().Path
		ok(s, "ok")
	}})
	p.settled()
	for i, test := range tests {
		id := uint32(2*i + 1)
		p.headers(id, true, test.pairs...)
		p.flush()
		if test.good {
			p.await(fmt.Sprintf("HEADERS %d :status=200", id))
			<-handled
			continue
		}
		p.sync()
		if !p.has(fmt.Sprintf("RST %d PROTOCOL_ERROR", id)) {
			t.Errorf("%s: no PROTOCOL_ERROR, but %s", test.name, shorten(p.drainLines()))
		}
		select {
		case <-handled:
			t.Errorf("%s: it was handled", test.name)
		default:
		}
	}
}

// TestReceivedHead checks what a handler is shown.
func TestReceivedHead(t *testing.T) {
	t.Parallel()
	p, _ := rawClient(t, Config{Handle: func(s *Stream) {
		r := s.Request()
		ok(s, fmt.Sprintf("%s %s %s %s %q %d", r.Method, r.Scheme, r.Authority, r.Path, r.Fields, s.Length()))
	}})
	p.request(1, false, "PUT", "/a?b", "host", "x.example", "cookie", "a=1", "x-mIxed", "no")
	p.headers(3, false, ":method", "PUT", ":scheme", "https", ":path", "/a?b", "host", "h.example",
		"cookie", "a=1", "user-agent", "u", "cookie", "b=2", "x-own-name", "1", "cookie", "c=3", "content-length", "12", "x-own-name", "2")
	_ = p.WriteData(3, true, make([]byte, 12))
	p.flush()
	want := `PUT https h.example /a?b [{"Cookie" "a=1; b=2; c=3"} {"User-Agent" "u"} {"X-Own-Name" "1"} {"Content-Length" "12"} {"X-Own-Name" "2"}] 12`
	p.await(fmt.Sprintf("DATA 3 %d END", len(want)))
	if !p.has("RST 1 PROTOCOL_ERROR") {
		t.Error("a name in upper case was taken")
	}
}

// TestSentHead checks what is left out of a head, and how names are spelled.
func TestSentHead(t *testing.T) {
	t.Parallel()
	p, c := rawServer(t, Config{})
	h := get("/")
	h.Fields = header.List{
		{Name: "Connection", Value: "x"}, {Name: "Keep-Alive", Value: "x"}, {Name: "Proxy-Connection", Value: "x"},
		{Name: "Transfer-Encoding", Value: "x"}, {Name: "Upgrade", Value: "x"}, {Name: "Host", Value: "x"},
		{Name: "TE", Value: "gzip"}, {Name: "Bad Name", Value: "x"}, {Name: ":path", Value: "x"}, {Name: "", Value: "x"},
		{Name: "TE", Value: "trailers"}, {Name: "X-OWN", Value: "1"}, {Name: "uSER-Agent", Value: "u"},
	}
	p.flush()
	if _, err := c.Open(h, nil, true); err != nil {
		t.Fatalf("open: %v", err)
	}
	got := p.await("HEADERS 1")
	want := "HEADERS 1 :method=GET :scheme=http :authority=orders.example :path=/ te=trailers x-own=1 user-agent=u END"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// responses are what a client of ours gets as answer to a GET (HEAD where the name
// says so), and what becomes of it: an error's text, or "" for a clean end.
var responses = []struct {
	name string
	send func(p *raw)
	want string
}{
	{"whole", func(p *raw) {
		p.headers(1, false, ":status", "200")
		_ = p.WriteData(1, true, []byte("x"))
	}, ""},
	{"HEAD with Content-Length", func(p *raw) { p.headers(1, true, ":status", "200", "content-length", "5") }, ""},
	{"304 with Content-Length", func(p *raw) { p.headers(1, true, ":status", "304", "content-length", "5") }, ""},
	{"16 informational", func(p *raw) {
		repeat(16, func(p *raw) { p.headers(1, false, ":status", "103") })(p)
		p.headers(1, true, ":status", "200")
	}, ""},
	{"WINDOW_UPDATE, PRIORITY and an unknown frame before", func(p *raw) {
		_ = p.WriteWindowUpdate(1, 5)
		_ = p.WritePriority(1, http2.PriorityParam{StreamDep: 3})
		_ = p.WriteRawFrame(0xfa, 0xff, 1, []byte("x"))
		p.headers(1, true, ":status", "200")
	}, ""},
	{"no status", func(p *raw) { p.headers(1, true, "x", "y") }, "PROTOCOL_ERROR"},
	{"two statuses", func(p *raw) { p.headers(1, true, ":status", "200", ":status", "200") }, "PROTOCOL_ERROR"},
	{"status 99", func(p *raw) { p.headers(1, true, ":status", "099") }, "PROTOCOL_ERROR"},
	{"status of 4 digits", func(p *raw) { p.headers(1, true, ":status", "2000") }, "PROTOCOL_ERROR"},
	{"status 101", func(p *raw) { p.headers(1, false, ":status", "101") }, "PROTOCOL_ERROR"},
	{"a request's field", func(p *raw) { p.headers(1, true, ":status", "200", ":path", "/") }, "PROTOCOL_ERROR"},
	{"connection", func(p *raw) { p.headers(1, true, ":status", "200", "connection", "close") }, "PROTOCOL_ERROR"},
	{"informational that ends", func(p *raw) { p.headers(1, true, ":status", "103") }, "PROTOCOL_ERROR"},
	{"informational after final", func(p *raw) {
		p.headers(1, false, ":status", "200")
		p.headers(1, false, ":status", "103")
	}, "PROTOCOL_ERROR"},
	{"DATA before the head", func(p *raw) { _ = p.WriteData(1, true, []byte("x")) }, "PROTOCOL_ERROR"},
	{"DATA between informational and final", func(p *raw) {
		p.headers(1, false, ":status", "103")
		_ = p.WriteData(1, true, []byte("x"))
	}, "PROTOCOL_ERROR"},
	{"content to HEAD", func(p *raw) {
		p.headers(1, false, ":status", "200", "content-length", "1")
		_ = p.WriteData(1, true, []byte("x"))
	}, "PROTOCOL_ERROR"},
	{"content with 204", func(p *raw) {
		p.headers(1, false, ":status", "204")
		_ = p.WriteData(1, true, []byte("x"))
	}, "PROTOCOL_ERROR"},
	{"Content-Length without content", func(p *raw) { p.headers(1, true, ":status", "200", "content-length", "1") }, "PROTOCOL_ERROR"},
	{"less than Content-Length", func(p *raw) {
		p.headers(1, false, ":status", "200", "content-length", "2")
		_ = p.WriteData(1, true, []byte("x"))
	}, "PROTOCOL_ERROR"},
	{"more than Content-Length", func(p *raw) {
		p.headers(1, false, ":status", "200", "content-length", "1")
		_ = p.WriteData(1, false, []byte("xy"))
	}, "PROTOCOL_ERROR"},
	{"too large", func(p *raw) { p.headers(1, true, ":status", "200", "x", strings.Repeat("y", 8<<10)) }, "ENHANCE_YOUR_CALM"},
	{"reset within the body", func(p *raw) {
		p.headers(1, false, ":status", "200")
		_ = p.WriteData(1, false, []byte("x"))
		_ = p.WriteRSTStream(1, http2.ErrCodeInternal)
	}, "reset by peer: INTERNAL_ERROR"},
	{"reset without error within the body", func(p *raw) {
		p.headers(1, false, ":status", "200")
		_ = p.WriteRSTStream(1, http2.ErrCodeNo)
	}, "reset by peer: NO_ERROR"},
	{"end of the connection within the body", func(p *raw) {
		p.headers(1, false, ":status", "200")
		p.flush()
		_ = p.conn.(*net.TCPConn).CloseWrite() // to close with unread bytes would be a reset
	}, "unexpected EOF"},
	{"a stream of the server", func(p *raw) { p.request(2, true, "GET", "/") }, "link closed: PROTOCOL_ERROR"},
	{"a response to nothing", func(p *raw) { p.headers(3, true, ":status", "200") }, "link closed: PROTOCOL_ERROR"},
	{"push", func(p *raw) {
		_ = p.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
	}, "link closed: PROTOCOL_ERROR"},
	{"SETTINGS_ENABLE_PUSH from a server", func(p *raw) {
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1})
	}, "link closed: PROTOCOL_ERROR"},
	{"HEADERS after a local reset, without end", func(p *raw) {
		p.headers(1, false, ":status", "0")
		repeat(30_000, func(p *raw) { p.headers(1, false, ":status", "200") })(p)
	}, "PROTOCOL_ERROR"},
}

func TestResponses(t *testing.T) {
	t.Parallel()
	for _, test := range responses {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, c := rawServer(t, Config{HeaderBytes: 8 << 10})
			p.flush()
			h := get("/")
			if strings.Contains(test.name, "HEAD ") || strings.HasSuffix(test.name, "HEAD") {
				h.Method = "HEAD"
			}
			s, err := c.Open(h, nil, true)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			defer s.Close()
			p.await("HEADERS 1")
			test.send(p)
			p.flush()
			within(t, "the answer", func() { _, _, _, err = answer(s) })
			switch {
			case test.want == "" && err != nil:
				t.Errorf("got error %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got error %v, want %s", err, test.want)
			}
			if err != nil && errors.Is(err, io.EOF) {
				t.Error("the error looks like a clean end")
			}
			if strings.HasSuffix(test.name, "without end") {
				p.await("GOAWAY 0 ENHANCE_YOUR_CALM")
			} else if strings.HasPrefix(test.want, "link") {
				p.await("GOAWAY 0 PROTOCOL_ERROR")
			}
		})
	}
}
