package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/gateway/acmecert"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const shop = "shop.example"

// edge is a gateway whose certificates are issued, with what was counted of it.
type edge struct {
	*gateway.Gateway
	reg  *prometheus.Registry
	stop func()
}

// start runs a gateway that serves demo.localhost and keeps its files in dir.
func (s *site) start(dir string, listeners ...gateway.Listener) edge {
	s.t.Helper()
	reg := prometheus.NewRegistry()
	g, err := gateway.New(gateway.Config{ID: "demo", Listeners: listeners, Admin: "127.0.0.1:0", Drain: 5 * time.Second}, gateway.Options{
		Mesh: "default", TrustDomain: domain, Source: s.source("/gateway/demo"), Log: zerolog.Nop(), Registerer: reg, Gatherer: reg, DataDir: dir,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if s.snap != nil {
		g.Update(s.snap)
	}
	return edge{g, reg, run(s.t, g.Run)}
}

// leaf returns the certificate that the i-th listener gives to a client that asks for
// name, or why it gives none.
func (e edge) leaf(i int, name string, alpn ...string) (*x509.Certificate, error) {
	conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: alpn}}).Dial("tcp", e.Addrs()[i].String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// count returns what is counted by a metric of certificates.
func (e edge) count(t *testing.T, metric string, labels ...string) float64 {
	t.Helper()
	families, err := e.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != "hedgerow_gateway_certificate_"+metric {
			continue
		}
		for _, m := range f.GetMetric() {
			if text := m.String(); func() bool {
				for _, l := range labels {
					if !strings.Contains(text, `"`+l+`"`) {
						return false
					}
				}
				return true
			}() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// await polls until ok, for a loaded machine and a server that makes one wait.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		case <-tick.C:
		}
	}
}

// awaitLeaf waits until the i-th listener has a certificate for name.
func (e edge) awaitLeaf(t *testing.T, i int, name string) *x509.Certificate {
	t.Helper()
	var leaf *x509.Certificate
	await(t, "a certificate for "+name, func() (ok bool) {
		var err error
		leaf, err = e.leaf(i, name)
		return err == nil
	})
	return leaf
}

// at returns a loopback address that is free, and its port.
func at(t *testing.T) (address string, port int) {
	t.Helper()
	port = servers.FreePorts(t, 1)[0]
	return fmt.Sprintf("127.0.0.1:%d", port), port
}

func acmeAt(p *servers.PebbleServer, names ...string) *acmecert.Config {
	return &acmecert.Config{Directory: p.Directory, CAFile: p.CAFile, Email: "ops@shop.example", Hostnames: names, AcceptTerms: true}
}

func verify(t *testing.T, leaf *x509.Certificate, name string) {
	t.Helper()
	if err := leaf.VerifyHostname(name); err != nil {
		t.Error(err)
	}
	if !strings.Contains(leaf.Issuer.CommonName, "Pebble") {
		t.Errorf("issued by %s", leaf.Issuer)
	}
}

// A certificate is there before any client asks; another start needs no server.
func TestACMEByTLSALPN(t *testing.T) {
	s := newSite(t)
	address, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: port, HTTPPort: 1, Life: time.Hour})
	roots := p.Roots()
	dir := t.TempDir()
	listener := gateway.Listener{Address: address, ACME: acmeAt(p, shop, "www.shop.example")}
	e := s.start(dir, listener, gateway.Listener{Address: "127.0.0.1:0", ACME: acmeAt(p, shop)})
	await(t, "both certificates", func() bool { return e.count(t, "renewals_total", "acme") == 2 })
	leaf := e.awaitLeaf(t, 0, shop)
	verify(t, leaf, shop)
	if shared, err := e.leaf(1, shop); err != nil || shared.SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("at another listener: %v, %v", shared, err)
	}
	if _, err := e.leaf(1, "www.shop.example"); err == nil {
		t.Error("a listener has the certificate of a name that is another's")
	}
	if end := e.count(t, "not_after_seconds", shop, e.Addrs()[0].String()); end != float64(leaf.NotAfter.Unix()) {
		t.Errorf("the metric says that it ends at %v, not %v", end, leaf.NotAfter.Unix())
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: shop}}
	defer tr.CloseIdleConnections()
	if resp, body := get(t, tr, "https://"+address+"/x", "demo.localhost"); resp.StatusCode != 200 {
		t.Errorf("a client that trusts the server's root: %d %s", resp.StatusCode, body)
	}
	e.stop()

	private(t, dir)
	p.Stop()
	again := s.start(dir, listener)
	kept, err := again.leaf(0, shop)
	if err != nil || kept.SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("after a restart without the server: %v, %v", kept, err)
	}
	if got := lacking(t, again); got != "" {
		t.Errorf("lacks %s", got)
	}
	if n := again.count(t, "failures_total") + again.count(t, "renewals_total"); n != 0 {
		t.Errorf("it asked %v times", n)
	}
}

// private checks that nobody else can read what is below dir.
func private(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(dir, "acme"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); d.IsDir() && mode != 0o700 || !d.IsDir() && mode != 0o600 {
			t.Errorf("%s has mode %v", path, mode)
		}
		if !d.IsDir() {
			files++
		}
		return nil
	})
	if err != nil || files != 3 { // the account and two certificates
		t.Errorf("%d files are kept, %v", files, err)
	}
}

// lacking returns what /ready says is degraded.
func lacking(t *testing.T, e edge) string {
	t.Helper()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, body := get(t, tr, "http://"+e.AdminAddr().String()+"/ready", "")
	if resp.StatusCode != 200 {
		t.Errorf("/ready: %d %s", resp.StatusCode, body)
	}
	_, after, _ := strings.Cut(body, `"degraded":`)
	return after
}

// Where nobody can reach the listener by TLS, one in clear text proves the name, even
// if it redirects everything else.
func TestACMEByHTTP(t *testing.T) {
	s := newSite(t)
	clear, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: 1, HTTPPort: port, Life: time.Hour})
	snap := s.snap
	s.snap = nil // as while Redis is away
	e := s.start(t.TempDir(), gateway.Listener{Address: "127.0.0.1:0", ACME: acmeAt(p, shop)}, gateway.Listener{Address: clear, HTTPSPort: 8443})
	verify(t, e.awaitLeaf(t, 0, shop), shop)
	e.Update(snap)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, _ := get(t, tr, "http://"+clear+"/.well-known/acme-challenge/unknown", "demo.localhost")
	if resp.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("an unknown token is answered %d, not like other requests", resp.StatusCode)
	}
}

// Who proves a name has no certificate of a client to show, though all others need
// one. acme-tls/1 is offered to nobody while there is nothing to prove, and a name that is
// not to be proved has no certificate.
func TestACMEProvesNothingElse(t *testing.T) {
	s := newSite(t)
	address, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: port, HTTPPort: 1, Life: time.Hour})
	e := s.start(t.TempDir(), gateway.Listener{Address: address, ACME: acmeAt(p, shop), ClientCAFile: servers.LoopbackTLS(t).CAFile})
	e.awaitLeaf(t, 0, shop)
	for name, alpn := range map[string]string{shop: "acme-tls/1", "other.example": "h2", "": "h2"} {
		if leaf, err := e.leaf(0, name, alpn); err == nil {
			t.Errorf("%q by %s: a certificate for %v", name, alpn, leaf.DNSNames)
		}
	}
}

// With the server away the gateway starts, and everything serves but the name.
func TestACMEServerAway(t *testing.T) {
	s := newSite(t)
	address, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: port, HTTPPort: 1, Life: time.Hour})
	p.Stop()
	files, pool := writeCert(t, t.TempDir(), "file")
	files.Address, files.ACME = address, acmeAt(p, shop)
	e := s.start(t.TempDir(), files, gateway.Listener{Address: "127.0.0.1:0"})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer tr.CloseIdleConnections()
	if resp, body := get(t, tr, "https://"+address+"/x", "demo.localhost"); resp.StatusCode != 200 {
		t.Errorf("by the certificate of a file: %d %s", resp.StatusCode, body)
	}
	if resp, _ := get(t, tr, "http://"+e.Addrs()[1].String()+"/x", "demo.localhost"); resp.StatusCode != 200 {
		t.Errorf("in clear text: %d", resp.StatusCode)
	}
	_, err := e.leaf(0, shop)
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a handshake for the name that has none: %v", err)
	}
	await(t, "a failure is counted", func() bool { return e.count(t, "failures_total", "acme", shop, "unavailable") > 0 })
	if got := lacking(t, e); !strings.Contains(got, shop) {
		t.Errorf("/ready says %q", got)
	}
	p.Restart()
	verify(t, e.awaitLeaf(t, 0, shop), shop)
	if got := lacking(t, e); got != "" {
		t.Errorf("/ready still says %q", got)
	}
}

// Who asks all the while notices nothing of a renewal, and new connections get the new
// certificate.
func TestACMERenewsWithoutACut(t *testing.T) {
	s := newSite(t)
	address, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: port, HTTPPort: 1, Life: 20 * time.Second})
	e := s.start(t.TempDir(), gateway.Listener{Address: address, ACME: acmeAt(p, shop)})
	first := e.awaitLeaf(t, 0, shop)
	asked := s.askAllTheWhile(address, shop)
	await(t, "a new certificate", func() bool {
		leaf, err := e.leaf(0, shop)
		if err != nil {
			t.Fatalf("a new connection: %v", err)
		}
		return leaf.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if n, failed := asked(); n == 0 || failed != nil {
		t.Errorf("of %d requests over one connection: %v", n, failed)
	}
}

// askAllTheWhile sends one request after the other over one connection until the
// returned function is called, which says how many there were, and the first error.
func (s *site) askAllTheWhile(address, name string) (stop func() (int, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	dials, n := 0, 0
	failed := make(chan error, 1)
	tr := &http.Transport{TLSClientConfig: &tls.Config{ServerName: name, InsecureSkipVerify: true}, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}
	go func() {
		defer close(failed)
		for ctx.Err() == nil {
			r, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, "https://"+address+"/x", nil)
			if err == nil {
				r.Host = "demo.localhost"
				var resp *http.Response
				if resp, err = tr.RoundTrip(r); err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != 200 {
						err = errors.New(resp.Status)
					}
				}
			}
			n++
			if err == nil && dials != 1 {
				err = fmt.Errorf("%d connections", dials)
			}
			if err != nil {
				failed <- err
				return
			}
		}
	}()
	return func() (int, error) {
		cancel()
		err := <-failed
		tr.CloseIdleConnections()
		return n, err
	}
}

// What is kept of no use is ordered again.
func TestACMEOrdersAgainWhatIsBroken(t *testing.T) {
	s := newSite(t)
	address, port := at(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: port, HTTPPort: 1, Life: time.Hour})
	dir := t.TempDir()
	listener := gateway.Listener{Address: address, ACME: acmeAt(p, shop)}
	e := s.start(dir, listener)
	first := e.awaitLeaf(t, 0, shop)
	e.stop()
	kept, err := filepath.Glob(filepath.Join(dir, "acme", "*", shop+".pem"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("%v, %v", kept, err)
	}
	if err := os.WriteFile(kept[0], []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if leaf := s.start(dir, listener).awaitLeaf(t, 0, shop); leaf.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("it is that of before")
	}
}

// A name that does not lead here is refused by the server, and every way that was tried
// is named.
func TestACMECannotBeProved(t *testing.T) {
	s := newSite(t)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: 1, HTTPPort: 1, Life: time.Hour})
	e := s.start(t.TempDir(), gateway.Listener{Address: "127.0.0.1:0", ACME: acmeAt(p, shop)}, gateway.Listener{Address: "127.0.0.1:0"})
	await(t, "a refusal is counted", func() bool { return e.count(t, "failures_total", "acme", shop, "denied") == 1 })
	got := lacking(t, e)
	for _, want := range []string{shop, "tls-alpn-01: ", "http-01: ", "connection refused"} {
		if !strings.Contains(strings.ToLower(got), want) {
			t.Errorf("/ready does not say %q: %s", want, got)
		}
	}
}
