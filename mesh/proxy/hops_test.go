package proxy_test

import (
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// The client of a gateway is whom the trusted proxies name, and nobody else's word.
func TestTrustedHops(t *testing.T) {
	local, elsewhere := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	none, one, two := proxy.Hops{}, proxy.Hops{Count: 1}, proxy.Hops{Count: 2}
	most := proxy.Hops{Count: proxy.MostHops}
	const peer = "127.0.0.1"
	type told struct{ from, proto, host string }
	ours := func(from string) told { return told{from, "", "shop.test"} } // proto: that of the connection
	rows := []struct {
		name  string
		hops  proxy.Hops
		field string // "Name: value" lines
		want  told
	}{
		{"nothing is believed by default", none, "X-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: ftp\nX-Forwarded-Host: evil.test", ours(peer)},
		{"who the proxy was reached by", one, "X-Forwarded-For: 192.0.2.7", ours("192.0.2.7, " + peer)},
		{"what the client claims is not handed on", one, "X-Forwarded-For: 9.9.9.9, 192.0.2.7", ours("192.0.2.7, " + peer)},
		{"nor in a field before", one, "X-Forwarded-For: 9.9.9.9\nX-Forwarded-For: 192.0.2.7", ours("192.0.2.7, " + peer)},
		{"two proxies", two, "X-Forwarded-For: 9.9.9.9,192.0.2.7 ,\t198.51.100.3", ours("192.0.2.7, 198.51.100.3, " + peer)},
		{"two proxies, two fields", two, "X-Forwarded-For: 9.9.9.9, 192.0.2.7\nx-forwarded-for: 198.51.100.3", ours("192.0.2.7, 198.51.100.3, " + peer)},
		{"fewer than there are proxies", two, "X-Forwarded-For: 192.0.2.7", ours(peer)},
		{"fewer, and more is told", two, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: ftp\nX-Forwarded-Host: evil.test", ours(peer)},
		{"no address, and more is told", one, "X-Forwarded-For: unknown\nX-Forwarded-Proto: http\nX-Forwarded-Host: evil.test", ours(peer)},
		{"none at all", one, "", ours(peer)},
		{"a port", one, "X-Forwarded-For: 192.0.2.7:4711", ours("192.0.2.7, " + peer)},
		{"IPv6", one, "X-Forwarded-For: 2001:DB8:0::7", ours("2001:db8::7, " + peer)},
		{"IPv6 in brackets", one, "X-Forwarded-For: [2001:db8::7]", ours("2001:db8::7, " + peer)},
		{"IPv6 in brackets with a port", one, "X-Forwarded-For: [2001:db8::7]:443", ours("2001:db8::7, " + peer)},
		{"IPv4 in IPv6", one, "X-Forwarded-For: ::ffff:192.0.2.7", ours("192.0.2.7, " + peer)},
		{"a zone", one, "X-Forwarded-For: fe80::1%eth0", ours(peer)},
		{"no address", one, "X-Forwarded-For: 192.0.2.7, unknown", ours(peer)},
		{"an empty entry", one, "X-Forwarded-For: 192.0.2.7,", ours(peer)},
		{"half a bracket", one, "X-Forwarded-For: [2001:db8::7", ours(peer)},
		{"garbage left of what counts", one, "X-Forwarded-For: <script>, , 192.0.2.7", ours("192.0.2.7, " + peer)},
		{"another spelling", one, "X_Forwarded_For: 192.0.2.7", ours(peer)},
		{"many entries", one, "X-Forwarded-For: " + strings.Repeat("9.9.9.9,", 2000) + "192.0.2.7", ours("192.0.2.7, " + peer)},
		{"as many hops as there may be", most, "X-Forwarded-For: " + strings.Repeat("192.0.2.7, ", 40) + "192.0.2.8", ours(strings.Repeat("192.0.2.7, ", 15) + "192.0.2.8, " + peer)},
		{"from a trusted proxy", proxy.Hops{Count: 1, Proxies: local}, "X-Forwarded-For: 192.0.2.7", ours("192.0.2.7, " + peer)},
		{"from a stranger", proxy.Hops{Count: 1, Proxies: elsewhere}, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: ftp\nX-Forwarded-Host: evil.test", ours(peer)},
		{"scheme and host", one, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: HTTPS\nX-Forwarded-Host: Shop.example:8443", told{"192.0.2.7, " + peer, "https", "Shop.example:8443"}},
		{"in clear before the proxy", one, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: http", told{"192.0.2.7, " + peer, "http", "shop.test"}},
		{"no scheme", one, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: gopher", ours("192.0.2.7, " + peer)},
		{"two schemes", one, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Proto: http\nX-Forwarded-Proto: http", ours("192.0.2.7, " + peer)},
		{"no host", one, "X-Forwarded-For: 192.0.2.7\nX-Forwarded-Host: a/b", ours("192.0.2.7, " + peer)},
		{"what else proxies say", one, "X-Forwarded-For: 192.0.2.7\nForwarded: for=9.9.9.9\nX-Real-IP: 9.9.9.9\nX-Forwarded-Port: 1\nX-Forwarded-Client-Cert: evil", ours("192.0.2.7, " + peer)},
	}
	modes(t, func(t *testing.T, m mode) {
		w := newWorld(t)
		var last atomic.Pointer[seen]
		w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
		w.route("orders", nil)
		gateways := map[int]*entry{}
		for i, row := range rows {
			gateways[i] = w.gatewayBehind(row.hops, m, proxy.EdgeLimits(), time.Second)
		}
		w.publish()
		proto := map[mode]string{overH1: "http", overH2: "https"}[m]
		for i, row := range rows {
			r := gateways[i].request(t, http.MethodGet, "/", nil)
			for line := range strings.Lines(row.field) {
				name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
				if http.CanonicalHeaderKey(name) == "X-Forwarded-For" {
					name = "X-Forwarded-For"
				}
				r.Header[name] = append(r.Header[name], value)
			}
			if a := gateways[i].do(t, r); a.StatusCode != http.StatusOK {
				t.Errorf("%s: got %d %s", row.name, a.StatusCode, a.body)
				continue
			}
			want := row.want
			if want.proto == "" {
				want.proto = proto
			}
			h := last.Load().header
			for name, value := range map[string]string{"X-Forwarded-For": want.from, "X-Forwarded-Proto": want.proto, "X-Forwarded-Host": want.host} {
				if got := h[name]; len(got) != 1 || got[0] != value {
					t.Errorf("%s: %s is %q, want %q once", row.name, name, got, value)
				}
			}
			for _, name := range []string{"Forwarded", "X-Real-Ip", "X-Forwarded-Port", "X_forwarded_for"} {
				if got := h[name]; got != nil {
					t.Errorf("%s: the workload got %s: %q", row.name, name, got)
				}
			}
		}
	})
}
