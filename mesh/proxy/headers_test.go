package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/header"
)

func TestCleanRequest(t *testing.T) {
	for _, tt := range []struct {
		name    string
		trust   trust
		in      header.List
		want    string // names that remain
		refused bool
	}{
		{"ordinary fields stay", trust{}, header.List{{Name: "Accept", Value: "*/*"}, {Name: "Authorization", Value: "x"}, {Name: "X_Custom", Value: "1"}}, "Accept Authorization X_Custom", false},
		{"fields of the connection", trust{}, header.List{{Name: "Connection", Value: "keep-alive"}, {Name: "Keep-Alive", Value: "5"}, {Name: "Te", Value: "gzip"}, {Name: "Trailer", Value: "X"}, {Name: "Proxy-Authorization", Value: "x"}, {Name: "Proxy-Connection", Value: "x"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Http2-Settings", Value: "x"}, {Name: "Transfer-Encoding", Value: "chunked"}}, "", false},
		{"fields that Connection names", trust{}, header.List{{Name: "Connection", Value: "x-a, X-B,"}, {Name: "Connection", Value: " x-c "}, {Name: "X-A", Value: "1"}, {Name: "X-B", Value: "1"}, {Name: "X-C", Value: "1"}, {Name: "X-D", Value: "1"}}, "X-D", false},
		{"identity headers of a stranger", trust{}, header.List{{Name: "Forwarded", Value: "x"}, {Name: "X-Forwarded-For", Value: "x"}, {Name: "X-Forwarded-Client-Cert", Value: "x"}, {Name: "X-Real-Ip", Value: "x"}, {Name: "Hedgerow-Device", Value: "x"}, {Name: "X-Forwarded-Anything", Value: "x"}}, "", false},
		{"identity headers in CGI spelling", trust{forwarded: true, own: true}, header.List{{Name: "X_forwarded_for", Value: "x"}, {Name: "X-Forwarded_for", Value: "x"}, {Name: "Hedgerow_device", Value: "x"}, {Name: "X_real_ip", Value: "x"}}, "", false},
		{"a gateway's", trust{forwarded: true}, header.List{{Name: "X-Forwarded-For", Value: "1.2.3.4"}, {Name: "X-Forwarded-Host", Value: "a"}, {Name: "X-Forwarded-Proto", Value: "http"}, {Name: "X-Forwarded-Client-Cert", Value: "x"}, {Name: "Hedgerow-Device", Value: "x"}, {Name: "X-Real-Ip", Value: "x"}}, "X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto", false},
		{"a gateway's, twice", trust{forwarded: true}, header.List{{Name: "X-Forwarded-For", Value: "1.2.3.4"}, {Name: "X-Forwarded-For", Value: "5.6.7.8"}}, "", false},
		{"the bridge's", trust{own: true}, header.List{{Name: "Hedgerow-Device", Value: "d1"}, {Name: "X-Forwarded-For", Value: "x"}}, "Hedgerow-Device", false},
		{"method overrides", trust{forwarded: true, own: true}, header.List{{Name: "X-Http-Method-Override", Value: "DELETE"}, {Name: "X-Http-Method", Value: "PUT"}, {Name: "X-Method-Override", Value: "PUT"}}, "", false},
		{"Transfer_Encoding", trust{}, header.List{{Name: "Transfer_encoding", Value: "chunked"}}, "", true},
		{"Content_Length", trust{}, header.List{{Name: "Content_length", Value: "5"}}, "", true},
		{"Host twice", trust{}, header.List{{Name: "Host", Value: "b"}}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fields, refusal := cleanRequest(nil, tt.in, tt.trust)
			if (refusal != nil) != tt.refused {
				t.Fatalf("refused: %v", refusal)
			}
			var got []string
			for _, f := range fields {
				got = append(got, f.Name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("remains %q, want %q", strings.Join(got, " "), tt.want)
			}
		})
	}
}

func TestParseUpgrade(t *testing.T) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	handshake := func(change func(*incoming)) *incoming {
		in := &incoming{method: "GET", http1: true, minor: 1, asks: true, fields: header.List{
			{Name: "Connection", Value: "keep-alive, Upgrade"}, {Name: "upgrade", Value: "WebSocket"}, {Name: "Sec-WebSocket-Version", Value: "13"}, {Name: "Sec-WebSocket-Key", Value: key}}}
		if change != nil {
			change(in)
		}
		return in
	}
	for _, tt := range []struct {
		name    string
		change  func(*incoming)
		key     string
		refused bool
	}{
		{"a handshake", nil, key, false},
		{"over HTTP/1.0", func(in *incoming) { in.minor = 0 }, "", false},
		{"another protocol", func(in *incoming) { in.fields[1].Value = "h2c" }, "", false},
		{"two protocols", func(in *incoming) { in.fields[1].Value = "websocket, h2c" }, "", false},
		{"twice", func(in *incoming) { in.fields = in.fields.Add("Upgrade", "h2c") }, "", false},
		{"POST", func(in *incoming) { in.method = "POST" }, "", true},
		{"a body", func(in *incoming) { in.length = 3 }, "", true},
		{"version 8", func(in *incoming) { in.fields[2].Value = "8" }, "", true},
		{"no key", func(in *incoming) { in.fields = in.fields.Del("Sec-WebSocket-Key") }, "", true},
		{"two keys", func(in *incoming) { in.fields = in.fields.Add("Sec-WebSocket-Key", key) }, "", true},
		{"a short key", func(in *incoming) { in.fields[3].Value = "AAAA" }, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, refusal := parseUpgrade(handshake(tt.change))
			if got.key != tt.key || (refusal != nil) != tt.refused {
				t.Errorf("got %q, %v", got.key, refusal)
			}
		})
	}
}

func TestUpgradeIsAccepted(t *testing.T) {
	u := upgrade{key: "dGhlIHNhbXBsZSBub25jZQ=="} // RFC 6455 section 1.3
	head := &responseHead{status: http.StatusSwitchingProtocols, fields: header.List{{Name: "Connection", Value: "Upgrade"}, {Name: "Upgrade", Value: "websocket"}, {Name: "Sec-WebSocket-Accept", Value: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}}}
	if err := u.accepted(head); err != nil {
		t.Error(err)
	}
	head.fields = head.fields.Set("Sec-WebSocket-Accept", "x")
	if u.accepted(head) == nil {
		t.Error("a wrong answer is accepted")
	}
	head.fields, head.status = head.fields.Set("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), http.StatusOK
	if u.accepted(head) == nil {
		t.Error("200 is accepted")
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
		fields, refusal := cleanRequest(nil, header.List{{Name: "Connection", Value: connection}, {Name: name, Value: value}}, trust{})
		if refusal != nil {
			return
		}
		for _, f := range fields {
			folded := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(f.Name))
			if folded == "forwarded" || folded == "x-real-ip" || strings.HasPrefix(folded, "x-forwarded-") || strings.HasPrefix(folded, "hedgerow-") ||
				folded == "connection" || folded == "transfer-encoding" || folded == "content-length" {
				t.Errorf("%q remains of %q", f.Name, name)
			}
		}
	})
}
