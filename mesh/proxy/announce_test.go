package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// announced starts a gateway behind load balancers that connect from the blocks.
func announced(t *testing.T, secure bool, from ...string) (*entry, *atomic.Pointer[seen]) {
	t.Helper()
	w := newWorld(t)
	var last atomic.Pointer[seen]
	w.sidecar("orders", "n1", w.workload(echo(&last)), nil)
	w.route("orders", nil)
	l := proxy.EdgeLimits()
	l.HeaderTimeout = time.Second
	e, reg := w.engine(l)
	p := &proxy.Announcer{}
	for _, block := range from {
		p.From = append(p.From, netip.MustParsePrefix(block))
	}
	src := w.source("/gateway/edge")
	site := proxy.Site{Door: e.Gateway("edge", src, proxy.Edge{}), ProxyProtocol: p}
	en := &entry{client: &http.Client{}}
	if secure {
		cert, pool := publicCert(t)
		site.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
		en.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	}
	en.node = w.runSite(e, reg, site, time.Second)
	w.publish()
	return en, &last
}

const v2 = "0d0a0d0a000d0a515549540a"

func unhexed(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// The client is whom a load balancer announces by the PROXY protocol, and what follows
// the header is the request, whatever came with it in one packet.
func TestProxyProtocol(t *testing.T) {
	en, last := announced(t, false, "127.0.0.0/8")
	const request = "GET /x HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n"
	for name, tt := range map[string]struct {
		header string
		want   string // the client; "" is refused
	}{
		"version 1":                     {"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", "192.0.2.7"},
		"version 1, IPv6":               {"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"},
		"version 1, unknown":            {"PROXY UNKNOWN\r\n", "127.0.0.1"},
		"version 1, unknown and more":   {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1"},
		"version 2":                     {unhexed(v2 + "21" + "11" + "000c" + "c0000207" + "c6336401" + "1267" + "01bb"), "192.0.2.7"},
		"version 2, TLVs":               {unhexed(v2 + "21" + "11" + "0013" + "c0000207" + "c6336401" + "1267" + "01bb" + "04" + "0004" + "00000000"), "192.0.2.7"},
		"version 2, IPv4 in IPv6":       {unhexed(v2 + "21" + "21" + "0024" + "00000000000000000000ffffc0000207" + "00000000000000000000ffffc6336401" + "1267" + "01bb"), "192.0.2.7"},
		"version 2, of the balancer":    {unhexed(v2 + "20" + "00" + "0000"), "127.0.0.1"},
		"none":                          {"", ""},
		"another version":               {unhexed(v2 + "31" + "11" + "000c" + "c0000207" + "c6336401" + "1267" + "01bb"), ""},
		"an address that is none":       {"PROXY TCP4 192.0.2.777 198.51.100.1 4711 443\r\n", ""},
		"endless":                       {"PROXY TCP4 " + strings.Repeat("1", 5000), ""},
		"a length beyond what is taken": {unhexed(v2+"21"+"11"+"ffff") + strings.Repeat("x", 5000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			last.Store(nil)
			conn, err := net.Dial("tcp", en.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(conn, tt.header+request); err != nil && tt.want != "" {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if tt.want == "" {
				if err == nil {
					t.Fatalf("answered %d", resp.StatusCode)
				}
				return
			}
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("got %v, %v", resp, err)
			}
			if got := last.Load().header.Values("X-Forwarded-For"); len(got) != 1 || got[0] != tt.want {
				t.Errorf("the workload is told %q, want %s", got, tt.want)
			}
		})
	}
}

// TLS and HTTP/2 begin behind the header.
func TestProxyProtocolBeforeTLS(t *testing.T) {
	en, last := announced(t, true, "127.0.0.0/8")
	transport := en.client.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			_, err = fmt.Fprintf(conn, "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n")
		}
		return conn, err
	}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+en.addr+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "shop.test"
	a := en.do(t, r)
	if got := last.Load(); a.StatusCode != 200 || a.ProtoMajor != 2 || got.header.Get("X-Forwarded-For") != "192.0.2.7" {
		t.Errorf("%d by HTTP/%d for %v", a.StatusCode, a.ProtoMajor, got)
	}
}

// Strangers announce nobody, and nobody waits for a header without end.
func TestProxyProtocolOfStrangers(t *testing.T) {
	for name, tt := range map[string]struct{ from, sent string }{
		"a stranger": {"192.0.2.0/24", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET / HTTP/1.1\r\nHost: shop.test\r\n\r\n"},
		"a slow one": {"127.0.0.0/8", "PROXY TCP4 192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			en, last := announced(t, false, tt.from)
			conn, err := net.Dial("tcp", en.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, tt.sent)
			got, err := io.ReadAll(conn)
			if len(got) > 0 || err != nil && strings.Contains(err.Error(), "timeout") || last.Load() != nil {
				t.Errorf("got %q, %v; the workload %v", got, err, last.Load())
			}
			if counted(t, en.registry, "hedgerow_listener_errors_total", nil) != 1 {
				t.Error("it is not counted")
			}
		})
	}
}
