package proxy_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// What proves a hostname is answered before a configuration is there and before the
// redirect to HTTPS; all else under that path is a request like any other.
func TestProofs(t *testing.T) {
	w := newWorld(t)
	e, reg := w.engine(proxy.EdgeLimits())
	tokens := map[string]string{"known": "known.thumbprint"}
	door := e.Gateway("edge", w.source("/gateway/edge"), proxy.Edge{HTTPSPort: 443, Proof: func(token string) (string, bool) {
		text, ok := tokens[token]
		return text, ok
	}})
	n := w.runSite(e, reg, proxy.Site{Door: door}, time.Second)
	client := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	ask := func(method, path string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+n.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "shop.test"
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	const path = "/.well-known/acme-challenge/"
	proved := func(when string) {
		t.Helper()
		if status, body := ask(http.MethodGet, path+"known"); status != 200 || body != "known.thumbprint" {
			t.Errorf("%s: %d %q", when, status, body)
		}
	}
	proved("without a configuration")
	if status, body := ask(http.MethodGet, path+"other"); status != 503 || !strings.Contains(body, "not_ready") {
		t.Errorf("an unknown token without a configuration: %d %s", status, body)
	}
	w.route("orders", nil)
	w.publish()
	proved("with one")
	for name, ask := range map[string]func() (int, string){
		"an unknown token": func() (int, string) { return ask(http.MethodGet, path+"other") },
		"no token":         func() (int, string) { return ask(http.MethodGet, path) },
		"another method":   func() (int, string) { return ask(http.MethodPost, path+"known") },
		"another path":     func() (int, string) { return ask(http.MethodGet, "/known") },
	} {
		if status, body := ask(); status != http.StatusPermanentRedirect {
			t.Errorf("%s: %d %s, want the redirect", name, status, body)
		}
	}
}

// A connection whose handshake agreed on a protocol that nobody here speaks was for the
// handshake alone: no request is read from it.
func TestProtocolsThatNobodySpeaks(t *testing.T) {
	w := newWorld(t)
	w.sidecar("orders", "n1", w.workload(func(http.ResponseWriter, *http.Request) {}), nil)
	w.route("orders", nil)
	e, reg := w.engine(proxy.EdgeLimits())
	cert, pool := publicCert(t)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"acme-tls/1", "http/1.1"}}
	n := w.runSite(e, reg, proxy.Site{Door: e.Gateway("edge", w.source("/gateway/edge"), proxy.Edge{}), TLS: config}, time.Second)
	w.publish()
	for alpn, served := range map[string]bool{"http/1.1": true, "acme-tls/1": false} {
		conn, err := tls.Dial("tcp", n.addr, &tls.Config{RootCAs: pool, NextProtos: []string{alpn}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		if strings.HasPrefix(string(got), "HTTP/1.1 200") != served {
			t.Errorf("%s: %q", alpn, got)
		}
	}
}
