package proxy

import (
	"net/http"
	"strings"
	"testing"
)

func TestCleanRequest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		trust   trust
		in      http.Header
		want    string // names that remain, sorted by http.Header.Write
		refused bool
	}{
		{"ordinary fields stay", trust{}, http.Header{"Accept": {"*/*"}, "Authorization": {"x"}, "X_Custom": {"1"}}, "Accept Authorization X_Custom", false},
		{"fields of the connection", trust{}, http.Header{"Connection": {"keep-alive"}, "Keep-Alive": {"5"}, "Te": {"gzip"}, "Trailer": {"X"}, "Proxy-Authorization": {"x"}, "Proxy-Connection": {"x"}, "Upgrade": {"h2c"}, "Http2-Settings": {"x"}, "Transfer-Encoding": {"chunked"}}, "", false},
		{"fields that Connection names", trust{}, http.Header{"Connection": {"x-a, X-B,", " x-c "}, "X-A": {"1"}, "X-B": {"1"}, "X-C": {"1"}, "X-D": {"1"}}, "X-D", false},
		{"identity headers of a stranger", trust{}, http.Header{"Forwarded": {"x"}, "X-Forwarded-For": {"x"}, "X-Forwarded-Client-Cert": {"x"}, "X-Real-Ip": {"x"}, "Hedgerow-Device": {"x"}, "X-Forwarded-Anything": {"x"}}, "", false},
		{"identity headers in CGI spelling", trust{forwarded: true, own: true}, http.Header{"X_forwarded_for": {"x"}, "X-Forwarded_for": {"x"}, "Hedgerow_device": {"x"}, "X_real_ip": {"x"}}, "", false},
		{"a gateway's", trust{forwarded: true}, http.Header{"X-Forwarded-For": {"1.2.3.4"}, "X-Forwarded-Host": {"a"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Client-Cert": {"x"}, "Hedgerow-Device": {"x"}, "X-Real-Ip": {"x"}}, "X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto", false},
		{"a gateway's, twice", trust{forwarded: true}, http.Header{"X-Forwarded-For": {"1.2.3.4", "5.6.7.8"}}, "", false},
		{"the bridge's", trust{own: true}, http.Header{"Hedgerow-Device": {"d1"}, "X-Forwarded-For": {"x"}}, "Hedgerow-Device", false},
		{"method overrides", trust{forwarded: true, own: true}, http.Header{"X-Http-Method-Override": {"DELETE"}, "X-Http-Method": {"PUT"}, "X-Method-Override": {"PUT"}}, "", false},
		{"Transfer_Encoding", trust{}, http.Header{"Transfer_encoding": {"chunked"}}, "", true},
		{"Content_Length", trust{}, http.Header{"Content_length": {"5"}}, "", true},
		{"Host twice", trust{}, http.Header{"Host": {"b"}}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			refusal := cleanRequest(tt.in, tt.trust)
			if (refusal != nil) != tt.refused {
				t.Fatalf("refused: %v", refusal)
			}
			if refusal != nil {
				return
			}
			var got []string
			var b strings.Builder
			if err := tt.in.Write(&b); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(b.String()) {
				name, _, _ := strings.Cut(line, ":")
				got = append(got, name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("remains %q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestParseUpgrade(t *testing.T) {
	base := func() *http.Request {
		return &http.Request{Method: "GET", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
			"Connection": {"keep-alive, Upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
		}}
	}
	for _, tt := range []struct {
		name    string
		change  func(*http.Request)
		upgrade bool
		refused bool
	}{
		{"a handshake", func(*http.Request) {}, true, false},
		{"not named by Connection", func(r *http.Request) { r.Header.Del("Connection") }, false, false},
		{"another protocol", func(r *http.Request) { r.Header.Set("Upgrade", "h2c") }, false, false},
		{"two protocols", func(r *http.Request) { r.Header.Add("Upgrade", "h2c") }, false, false},
		{"over HTTP/2", func(r *http.Request) { r.ProtoMajor = 2 }, false, false},
		{"over HTTP/1.0", func(r *http.Request) { r.ProtoMinor = 0 }, false, true},
		{"not a GET", func(r *http.Request) { r.Method = "POST" }, false, true},
		{"with a body", func(r *http.Request) { r.ContentLength = -1 }, false, true},
		{"another version", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") }, false, true},
		{"two keys", func(r *http.Request) { r.Header.Add("Sec-WebSocket-Key", "x") }, false, true},
		{"a short key", func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "AAAA") }, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := base()
			tt.change(r)
			u, refusal := parseUpgrade(r)
			if (u != nil) != tt.upgrade || (refusal != nil) != tt.refused {
				t.Errorf("got %v, %v", u, refusal)
			}
		})
	}
}

func TestUpgradeAccepted(t *testing.T) {
	u := &upgrade{key: "dGhlIHNhbXBsZSBub25jZQ=="} // RFC 6455 section 1.3
	resp := &http.Response{Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Accept": {"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}}}
	if err := u.accepted(resp); err != nil {
		t.Error(err)
	}
	resp.Header.Set("Sec-WebSocket-Accept", "x")
	if u.accepted(resp) == nil {
		t.Error("a wrong answer is accepted")
	}
}

func TestOriginForm(t *testing.T) {
	for _, tt := range []struct {
		target, want string
		ok           bool
	}{
		{"/a?b", "/a?b", true},
		{"//a", "//a", true},
		{"http://host/a?b", "/a?b", true},
		{"HTTP://host", "/", true},
		{"https://host?b=/c", "/?b=/c", true},
		{"*", "", false},
		{"host:80", "", false},
		{"ftp://host/", "", false},
		{"/a#b", "", false},
		{"/a b", "", false},
		{"", "", false},
	} {
		if got, ok := originForm(tt.target); got != tt.want || ok != tt.ok {
			t.Errorf("originForm(%q) = %q, %v; want %q, %v", tt.target, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzOriginForm(f *testing.F) {
	for _, s := range []string{"/a?b", "http://h/a", "http://h?x", "*", "/a#b", "://", "http://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		if got, ok := originForm(target); ok && (!strings.HasPrefix(got, "/") || strings.ContainsAny(got, "# ")) {
			t.Errorf("%q became %q", target, got)
		}
	})
}

func FuzzCleanRequest(f *testing.F) {
	f.Add("X-Forwarded-For", "1", "close, x-real-ip")
	f.Add("Hedgerow_Device", "d", "")
	f.Add("hedgerow-device", "d", "hedgerow-device")
	f.Fuzz(func(t *testing.T, name, value, connection string) {
		h := http.Header{"Connection": {connection}}
		h.Set(name, value)
		if cleanRequest(h, trust{}) != nil {
			return
		}
		for n := range h {
			if folded := foldName(n); identityHeader(folded) || folded == "connection" || folded == "transfer-encoding" || folded == "content-length" && n != "Content-Length" {
				t.Errorf("%q remains of %q", n, name)
			}
		}
	})
}
