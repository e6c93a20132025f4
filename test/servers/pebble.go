package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// PebbleServer is a running ACME server (RFC 8555) that finds every hostname at
// 127.0.0.1. Its accounts, orders and CA are new whenever it starts.
type PebbleServer struct {
	*server
	// Directory is its URL; it stays over restarts.
	Directory string
	// CAFile is the CA to trust for Directory, not for what it issues.
	CAFile string

	cfg        PebbleConfig
	dns        *server
	bin        string
	files      TLSFiles
	management int // port
	client     *http.Client
}

// PebbleConfig says where a PebbleServer looks for proofs, and how long its
// certificates live.
type PebbleConfig struct {
	TLSPort  int // TLS-ALPN-01, in place of 443
	HTTPPort int // HTTP-01, in place of 80
	Life     time.Duration
}

const pebbleModule = "github.com/letsencrypt/pebble/v2/cmd/"

// Pebble builds the programs of test/acmed if need be, starts them and waits until
// they serve. They are ended with the test.
func Pebble(t testing.TB, cfg PebbleConfig) *PebbleServer {
	t.Helper()
	bin := buildModule(t, "acmed", pebbleModule+"pebble", pebbleModule+"pebble-challtestsrv")
	management := FreePorts(t, 2)
	dns := newServer(t, "pebble-challtestsrv")
	dns.start = func() (string, []string, error) {
		return filepath.Join(bin, "pebble-challtestsrv"), []string{
			"-dnsserver", dns.address(), "-management", fmt.Sprintf("127.0.0.1:%d", management[0]),
			"-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "",
		}, nil
	}
	dns.probe = dns.dialProbe
	dns.launch()
	p := &PebbleServer{server: newServer(t, "pebble"), cfg: cfg, dns: dns, bin: bin, files: LoopbackTLS(t), management: management[1]}
	p.CAFile = p.files.CAFile
	pem, err := os.ReadFile(p.CAFile)
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("read the CA of Pebble from %s: %v", p.CAFile, err)
	}
	p.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
	}}
	p.env = []string{"PEBBLE_VA_NOSLEEP=1"} // it would wait up to 15 s before it looks
	p.start = p.command
	p.probe = func(ctx context.Context) error {
		if _, err := p.get(ctx, p.Directory); err != nil {
			return err
		}
		_, err := p.get(ctx, p.rootURL())
		return err
	}
	p.launch()
	return p
}

// Restart starts a server that has ended, on the port it had. It has forgotten
// everything.
func (p *PebbleServer) Restart() {
	p.t.Helper()
	p.Stop()
	p.relaunch()
}

// Roots returns the CA of what it issues, from this start to the next.
func (p *PebbleServer) Roots() *x509.CertPool {
	p.t.Helper()
	text, err := p.get(context.Background(), p.rootURL())
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		p.t.Fatalf("read the root of Pebble's certificates: %v", err)
	}
	return pool
}

func (p *PebbleServer) rootURL() string {
	return fmt.Sprintf("https://127.0.0.1:%d/roots/0", p.management)
}

func (p *PebbleServer) command() (string, []string, error) {
	p.Directory = "https://" + p.address() + "/dir"
	life := max(p.cfg.Life, time.Second)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": p.address(), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", p.management),
		"certificate": p.files.CertFile, "privateKey": p.files.KeyFile, "httpPort": p.cfg.HTTPPort, "tlsPort": p.cfg.TLSPort,
		"keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "the test's", "validityPeriod": int(life / time.Second)}},
	}})
	if err != nil {
		return "", nil, err
	}
	file := writeSecret(p.t, filepath.Join(p.dir, "pebble.json"), string(config))
	return filepath.Join(p.bin, "pebble"), []string{"-config", file, "-strict", "-dnsserver", p.dns.address()}, nil
}

func (p *PebbleServer) get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("pebble: %s: %s", url, res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxAnswer))
}
