package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

func TestListenerRedirectsToHTTPS(t *testing.T) {
	s := newSite(t)
	g, _ := s.gateway(gateway.Listener{Address: "127.0.0.1:0", HTTPSPort: 8443})
	run(t, g.Run)
	g.Update(s.snap)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for path, want := range map[string]string{"/a/b?c=d": "https://demo.localhost:8443/a/b?c=d", "/none": "https://demo.localhost:8443/none"} {
		resp, _ := get(t, tr, "http://"+g.Addrs()[0].String()+path, "demo.localhost")
		if resp.StatusCode != http.StatusPermanentRedirect || resp.Header.Get("Location") != want {
			t.Errorf("%s: %d to %q, want %q", path, resp.StatusCode, resp.Header.Get("Location"), want)
		}
	}
}

// A client gets the certificate of the name that it asks for.
func TestCertificatesByName(t *testing.T) {
	s := newSite(t)
	first, _ := writeCert(t, t.TempDir(), "first") // for 127.0.0.1 alone
	named := servers.LoopbackTLS(t)                // and for localhost
	first.Certificates = []gateway.CertPair{{CertFile: named.CertFile, KeyFile: named.KeyFile}}
	g, _ := s.gateway(first)
	run(t, g.Run)
	for name, want := range map[string]string{"localhost": "localhost", "elsewhere.test": ""} {
		conn, err := tls.Dial("tcp", g.Addrs()[0].String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		_ = conn.Close()
		if err := leaf.VerifyHostname("localhost"); (err == nil) != (want != "") {
			t.Errorf("%s got the certificate of %v %v", name, leaf.DNSNames, leaf.IPAddresses)
		}
	}
}

func TestClientsNeedACertificate(t *testing.T) {
	s := newSite(t)
	public := servers.LoopbackTLS(t) // serves a client too
	g, _ := s.gateway(gateway.Listener{Address: "127.0.0.1:0", CertFile: public.CertFile, KeyFile: public.KeyFile, ClientCAFile: public.CAFile})
	run(t, g.Run)
	g.Update(s.snap)
	pem, err := os.ReadFile(public.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(public.CertFile, public.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	stranger := servers.LoopbackTLS(t)
	foreign, err := tls.LoadX509KeyPair(stranger.CertFile, stranger.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		certs []tls.Certificate
		ok    bool
	}{"with one": {[]tls.Certificate{pair}, true}, "without": {nil, false}, "with another CA's": {[]tls.Certificate{foreign}, false}} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: tt.certs}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.Addrs()[0].String()+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "demo.localhost"
		resp, err := tr.RoundTrip(r)
		if err == nil {
			_ = resp.Body.Close()
		}
		tr.CloseIdleConnections()
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListenersThatMakeNoSense(t *testing.T) {
	acme := acmecert.Config{Directory: "https://acme.example/dir", Hostnames: []string{"shop.example"}, AcceptTerms: true}
	for name, l := range map[string]gateway.Listener{
		"client CAs without TLS":    {ClientCAFile: "ca.pem"},
		"certificates without TLS":  {Certificates: []gateway.CertPair{{CertFile: "a", KeyFile: "b"}}},
		"a certificate without key": {CertFile: "a", KeyFile: "b", Certificates: []gateway.CertPair{{CertFile: "a"}}},
		"TLS that redirects":        {CertFile: "a", KeyFile: "b", HTTPSPort: 443},
		"no port":                   {HTTPSPort: 70_000},
		"ACME that redirects":       {ACME: &acme, HTTPSPort: 443},
		"ACME without its terms":    {ACME: &acmecert.Config{Directory: acme.Directory, Hostnames: acme.Hostnames}},
		"nobody who signs":          {Signed: &gateway.Signed{Hostnames: []string{"shop.example"}}},
	} {
		l.Address = "127.0.0.1:0"
		cfg := gateway.Config{ID: "demo", Listeners: []gateway.Listener{l}}
		if cfg.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// Listeners may share an ACME server, and hostnames, but not contradict each other.
func TestListenersThatShareACME(t *testing.T) {
	of := func(directory, email string, names ...string) gateway.Listener {
		return gateway.Listener{Address: "127.0.0.1:0", ACME: &acmecert.Config{Directory: "https://" + directory, Email: email, Hostnames: names, AcceptTerms: true}}
	}
	for want, listeners := range map[string][]gateway.Listener{
		"":                                     {of("a.example/dir", "", "shop.example"), of("a.example/dir", "", "shop.example", "www.shop.example"), of("b.example/dir", "", "other.example")},
		"listeners[1].tls.acme: email and":     {of("a.example/dir", "", "shop.example"), of("a.example/dir", "ops@shop.example", "www.shop.example")},
		"listeners[1].tls.acme.hostnames[1]: ": {of("a.example/dir", "", "shop.example"), of("b.example/dir", "", "other.example", "shop.example")},
	} {
		cfg := gateway.Config{ID: "demo", Listeners: listeners}
		err := cfg.Validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q is wanted: %v", want, err)
		}
	}
}
