package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// gate stands between a host and the servers that it asks. At one request it has the host
// die: before the server has got it, or when the answer is on its way.
type gate struct {
	vault, control http.Handler
	at             string // part of the path
	after          bool   // the server answers first
	die            atomic.Pointer[func()]
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	next := g.vault
	if strings.HasSuffix(r.URL.Path, ":reportJoin") {
		next = g.control
	}
	die := g.die.Load()
	if die == nil || !strings.Contains(r.URL.Path, g.at) {
		next.ServeHTTP(w, r)
		return
	}
	g.die.Store(nil)
	if g.after {
		next.ServeHTTP(httptest.NewRecorder(), r)
	}
	(*die)()
	panic(http.ErrAbortHandler) // to a host that is dead
}

// TestEnrolmentCrashes kills a host that enrols at every step, with SIGKILL, and runs it
// again. Only where the answer is lost that Vault gives once another token is needed.
func TestEnrolmentCrashes(t *testing.T) {
	r := newRealm(t)
	pair, roots := r.gateTLS(t)
	for _, tt := range []struct {
		name  string
		at    string
		after bool
		lost  bool // another token is needed
	}{
		{"before the token is looked at", "sys/wrapping/lookup", false, false},
		{"after the token was looked at", "sys/wrapping/lookup", true, false},
		{"before the token is unwrapped", "sys/wrapping/unwrap", false, false},
		{"after the token was unwrapped", "sys/wrapping/unwrap", true, true},
		{"before the login", "auth/approle/login", false, false},
		{"after the login", "auth/approle/login", true, true},
		{"before the certificate is signed", "pki_node/sign", false, false},
		{"after the certificate was signed", "pki_node/sign", true, false},
		{"before the roots are read", "pki_node/issuers", false, false},
		{"before the report", "reportJoin", false, false},
		{"after the report", "reportJoin", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := strings.ReplaceAll(tt.name, " ", "-")
			g := &gate{vault: proxyTo(t, r.vault.Address, roots), control: proxyTo(t, "http://"+r.vars["CONTROL"], nil), at: tt.at, after: tt.after}
			server := httptest.NewUnstartedServer(g)
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
			server.StartTLS()
			defer server.Close()
			file := r.through(server.URL)

			cmd := exec.Command(filepath.Join(binaries, "hedgerow-edge"), "enroll", "--token-file", file, "--data", filepath.Join(r.dir, data))
			died, started := make(chan struct{}), make(chan struct{})
			die := func() {
				defer close(died)
				<-started
				_ = cmd.Process.Kill() // it lives: it waits for this request
				_ = cmd.Wait()         // by the signal
			}
			g.die.Store(&die)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			close(started)
			select {
			case <-died:
			case <-time.After(30 * time.Second):
				t.Fatal("it did not come to that")
			}
			out, err := r.enroll(file, data)
			if tt.lost {
				if err == nil || !strings.Contains(out, "cut short") || !strings.Contains(out, "hedgerow node join edge7") {
					t.Fatalf("%v\n%s", err, out)
				}
				file = r.through(server.URL)
				out, err = r.enroll(file, data)
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := r.state("edge7", "ENROLLED", ""); err != nil {
				t.Error(err)
			}
			if err := r.issue("edge7", data, service("orders", "edge7")); err != nil {
				t.Error(err)
			}
		})
	}
}

// through makes a join file in which Vault and the control plane are at one address.
func (r *realm) through(address string) string {
	r.Helper()
	raw, err := os.ReadFile(r.join("edge7"))
	if err != nil {
		r.Fatal(err)
	}
	var j map[string]any
	if err := json.Unmarshal(raw, &j); err != nil {
		r.Fatal(err)
	}
	vault, _ := j["vault"].(map[string]any)
	vault["addresses"] = []string{address}
	j["controlPlane"] = map[string]any{"url": address, "caPem": vault["caPem"]}
	raw, err = json.Marshal(j)
	if err != nil {
		r.Fatal(err)
	}
	return r.write("through.json", string(raw))
}

// gateTLS is the certificate of the gate, which is Vault's own, and whom to trust as Vault.
func (r *realm) gateTLS(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	dir := filepath.Dir(r.vault.CAFile)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(r.vault.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return pair, roots
}

func proxyTo(t *testing.T, address string, roots *x509.CertPool) http.Handler {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}},
	}
}
