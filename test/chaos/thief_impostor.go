package main

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
)

// impostor serves at an address as whom it likes.
type impostor struct {
	addr string

	mu     sync.Mutex
	cert   *tls.Certificate
	conns  int    // that were made
	served int    // requests that were handed over
	said   string // of the last handshake that failed
}

// newImpostor serves at a free port of an IP address.
func newImpostor(t *stage.T, ip string, cert *tls.Certificate) *impostor {
	t.Helper()
	i := &impostor{cert: cert}
	inner, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	i.addr = inner.Addr().String()
	config := &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.conns++
		return i.cert, nil
	}}
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(i, "", 0),
		Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.served++
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(inner, config)) // until it is closed
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return i
}

// Write takes what the server logs: handshakes that failed.
func (i *impostor) Write(line []byte) (int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.said = strings.TrimSpace(string(line))
	return len(line), nil
}

// begin forgets what was, and serves by another certificate unless it is nil.
func (i *impostor) begin(cert *tls.Certificate) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conns, i.served, i.said = 0, 0, ""
	if cert != nil {
		i.cert = cert
	}
}

// saw returns how many connections and requests have come since, and why the last
// handshake failed.
func (i *impostor) saw() (conns, served int, said string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.conns, i.served, i.said
}

// impostorAs is what somebody serves by who is at the address of shop: nil is what the
// attempt says.
type impostorAs struct{ cert *tls.Certificate }

// impersonate serves where callers look for shop.
func (e *estate) impersonate(r *row, l *loot) {
	i := newImpostor(e.t, "127.0.0.1", l.leaf())
	attempts := e.impostorAttempts(l, i)
	assail(e.t, r, "impostor", 5, attempts, impostorAs{})
	vouch(e.t, r, "impostor", attempts, impostorAs{e.steal("shop").leaf()})
	e.forward.lead(e.planes["shop"].Inbound)
	e.reaches("shop")
}

func (e *estate) impostorAttempts(l *loot, i *impostor) []attempt[impostorAs] {
	const id = "/svc/shop/n/shop"
	ca, key := newAuthority(e.t)
	var all []attempt[impostorAs]
	for _, by := range []struct {
		what string
		cert *tls.Certificate
	}{
		{"its service's certificate", l.leaf()},
		{"the node's certificate", l.node},
		{"a certificate of a CA of its own", forgeCertificate(e.t, id, ca, key)},
		{"a certificate that its service has signed", forgeCertificate(e.t, id, l.leaf().Leaf, l.leaf().PrivateKey, l.leaf().Certificate[1:]...)},
		{"a certificate that the node has signed", forgeCertificate(e.t, id, l.node.Leaf, l.node.PrivateKey, l.node.Certificate[1:]...)},
		{"a certificate that nobody has signed", selfSigned(e.t, id)},
	} {
		all = append(all, attempt[impostorAs]{name: "serve as shop by " + by.what, why: noPeer, do: func(ctx context.Context, as impostorAs) verdict {
			cert := by.cert
			if as.cert != nil {
				cert = as.cert
			}
			return e.serveAsShop(ctx, i, cert)
		}})
	}
	return all
}

// serveAsShop leads callers of shop to the impostor and has one call.
func (e *estate) serveAsShop(ctx context.Context, i *impostor, cert *tls.Certificate) verdict {
	i.begin(cert)
	e.forward.lead(i.addr)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.call(ctx, e.planes["ledger"], "shop", "/public")
		conns, served, said := i.saw()
		switch {
		case served > 0:
			return verdict{done: true, answer: "it was handed a request"}
		case err == nil:
			return verdict{done: true, answer: "the caller was answered"}
		case conns > 0 && said != "":
			return verdict{answer: said}
		}
		select {
		case <-ctx.Done():
			return verdict{answer: "nobody came"}
		case <-tick.C:
		}
	}
}
