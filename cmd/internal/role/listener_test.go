package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
	keys "github.com/hedgerow-mesh/hedgerow/test/signers"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

func TestIssuedCertificatesAreChecked(t *testing.T) {
	acme := func(change func(a *PublicACME)) PublicTLS {
		a := &PublicACME{Directory: "https://acme.example/dir", Email: "ops@shop.example", Hostnames: []string{"shop.example"}, AcceptTerms: true}
		change(a)
		return PublicTLS{ACME: a}
	}
	vault := func(change func(v *PublicVault)) PublicTLS {
		v := &PublicVault{Mount: "pki", Role: "gateway-edge", Hostnames: []string{"shop.example", "*.shop.example"}}
		change(v)
		return PublicTLS{Vault: v}
	}
	for want, config := range map[string]PublicTLS{
		"acme.directory: say which":             acme(func(a *PublicACME) { a.Directory = "" }),
		"acme.directory: \"http://a.example\"":  acme(func(a *PublicACME) { a.Directory = "http://a.example" }),
		"acme.email: \"ops\"":                   acme(func(a *PublicACME) { a.Email = "ops" }),
		"acme.acceptTerms: read the terms":      acme(func(a *PublicACME) { a.AcceptTerms = false }),
		"acme.hostnames: 0 names":               acme(func(a *PublicACME) { a.Hostnames = nil }),
		"acme.hostnames[1]: \"*.shop.example\"": acme(func(a *PublicACME) { a.Hostnames = []string{"shop.example", "*.shop.example"} }),
		"acme.hostnames[0]: \"Shop.example\"":   acme(func(a *PublicACME) { a.Hostnames = []string{"Shop.example"} }),
		"acme.hostnames[0]: \"10.0.0.1\"":       acme(func(a *PublicACME) { a.Hostnames = []string{"10.0.0.1"} }),
		"acme.hostnames[1]: a.b is there twice": acme(func(a *PublicACME) { a.Hostnames = []string{"a.b", "a.b"} }),
		"vault.mount: \"\"":                     vault(func(v *PublicVault) { v.Mount = "" }),
		"vault.role: \"a/b\"":                   vault(func(v *PublicVault) { v.Role = "a/b" }),
		"vault.hostnames: 0 names":              vault(func(v *PublicVault) { v.Hostnames = nil }),
		"vault.hostnames[0]: \"*.*.b\"":         vault(func(v *PublicVault) { v.Hostnames = []string{"*.*.b"} }),
		"vault.ttl: 1s is shorter":              vault(func(v *PublicVault) { v.TTL = time.Second }),
		"":                                      {ACME: acme(func(*PublicACME) {}).ACME, Vault: vault(func(*PublicVault) {}).Vault},
	} {
		g := DefaultGateway()
		g.Listeners = []PublicListener{{Address: "127.0.0.1:0", TLS: config}}
		err := g.Validate() // much is missing
		var got []string
		for line := range strings.SplitSeq(fmt.Sprint(err), "\n") {
			if rest, ok := strings.CutPrefix(line, "listeners[0].tls."); ok {
				got = append(got, rest)
			}
		}
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], want)) {
			t.Errorf("%q is wanted: %q", want, got)
		}
	}
}

// vaultEdge is a gateway whose listener has a certificate of Vault beside one in a file.
type vaultEdge struct {
	*gateway.Gateway
	vault *servers.VaultServer
	again []gateway.Listener // what it was started with
}

func newVaultEdge(t *testing.T, ttl time.Duration) *vaultEdge {
	t.Helper()
	v := servers.Vault(t)
	pki := v.SetUpPKI("hedgerow.test", servers.PKINode{Name: "gw", IDs: []string{"spiffe://hedgerow.test/gateway/demo"}})
	vaultMust(t, v, "sys/mounts/pki", map[string]any{"type": "pki"})
	vaultMust(t, v, "pki/root/generate/internal", map[string]any{"common_name": "edge", "key_type": "ec", "key_bits": 256, "not_before_duration": "1h", "ttl": "700h"})
	vaultMust(t, v, "pki/roles/gateway-edge", map[string]any{
		"allowed_domains": []string{"shop.example"}, "allow_bare_domains": true, "allow_subdomains": true,
		"key_type": "ec", "key_bits": 256, "max_ttl": "24h", "not_before_duration": "30s",
	})
	vaultMust(t, v, "sys/policies/acl/edge", map[string]any{"policy": `path "pki/sign/gateway-edge" { capabilities = ["update"] }`})
	vaultMust(t, v, "auth/approle/role/gw", map[string]any{"token_policies": []string{"mesh-gw", "edge"}})
	node := pki.Nodes["gw"]
	client, err := vaultpki.New(vaultpki.Config{
		Access: vaultpki.Access{
			Addresses: []string{v.Address}, Timeout: time.Minute,
			AppRole: vaultpki.AppRole{RoleIDFile: node.RoleIDFile, SecretIDFile: node.SecretIDFile},
		},
		Mount: pki.Mount, Role: node.Role,
	}, zerolog.Nop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	files := servers.LoopbackTLS(t)
	listeners := []PublicListener{{Address: "127.0.0.1:0", TLS: PublicTLS{
		CertFile: files.CertFile, KeyFile: files.KeyFile,
		Vault: &PublicVault{Mount: "pki", Role: "gateway-edge", Hostnames: []string{"shop.example", "*.shop.example"}, TTL: ttl},
	}}}
	l, errs := listeners[0].listener(0)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	out := []gateway.Listener{l}
	if err := signers(listeners, out, client); err != nil {
		t.Fatal(err)
	}
	e := &vaultEdge{vault: v, again: out}
	e.start(t, out)
	return e
}

// start runs the gateway, which answers by itself.
func (e *vaultEdge) start(t *testing.T, listeners []gateway.Listener) {
	t.Helper()
	ids, err := identity.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	id, err := mesh.GatewayID("hedgerow.test", "demo")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	e.Gateway, err = gateway.New(gateway.Config{ID: "demo", Listeners: listeners, Admin: "127.0.0.1:0", Drain: 5 * time.Second}, gateway.Options{
		Mesh: "default", TrustDomain: "hedgerow.test", Source: identity.NewSource(id, ids), Log: zerolog.Nop(), Registerer: reg, Gatherer: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := mesh.NewConfig()
	route := &mesh.Route{Meta: mesh.Meta{Name: "routes/x"}, Targets: []string{mesh.TargetGateway}, Hostnames: []string{"shop.example"},
		Rules: []mesh.RouteRule{{Filters: []mesh.Filter{{Respond: &mesh.Respond{Status: 200, Body: "here"}}}}}}
	mesh.Normalize(route)
	c.Routes["x"] = route
	e.Update(&mesh.Snapshot{Config: c})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func vaultMust(t *testing.T, v *servers.VaultServer, path string, body map[string]any) {
	t.Helper()
	if _, err := v.Request(t.Context(), http.MethodPost, path, body); err != nil {
		t.Fatal(err)
	}
}

// leaf returns the certificate that a client gets who asks for name.
func (e *vaultEdge) leaf(name string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", e.Addrs()[0].String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// await polls until ok.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
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

// The name of a client chooses between a file and Vault; a renewal is not noticed by who
// asks all the while.
func TestGatewayCertificateOfVault(t *testing.T) {
	e := newVaultEdge(t, 30*time.Second)
	var first *x509.Certificate
	await(t, "a certificate", func() (ok bool) {
		var err error
		first, err = e.leaf("shop.example")
		return err == nil
	})
	for name, want := range map[string]string{"shop.example": "edge", "www.shop.example": "edge", "localhost": "test servers", "a.b.shop.example": "test servers", "": "test servers"} {
		leaf, err := e.leaf(name)
		if err != nil || leaf.Issuer.CommonName != want {
			t.Errorf("%q: %v, %v, want one of %s", name, leaf, err, want)
		}
	}
	dials := 0
	tr := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{ServerName: "shop.example", InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}
	defer tr.CloseIdleConnections()
	requests := 0
	await(t, "a new certificate", func() bool {
		ask(t, tr, e.Addrs()[0].String())
		requests++
		leaf, err := e.leaf("shop.example")
		if err != nil {
			t.Fatalf("a new connection: %v", err)
		}
		return leaf.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	ask(t, tr, e.Addrs()[0].String())
	if dials != 1 {
		t.Errorf("%d requests took %d connections", requests, dials)
	}
}

// ask fails the test if a request is not answered.
func ask(t *testing.T, tr *http.Transport, address string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "shop.example"
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != 200 || string(body) != "here" {
		t.Fatalf("%d %s, %v", resp.StatusCode, body, err)
	}
}

// While Vault is sealed, the certificates of files serve and its names do not.
func TestGatewayWithoutItsVault(t *testing.T) {
	e := newVaultEdge(t, time.Hour)
	await(t, "a certificate", func() bool { _, err := e.leaf("shop.example"); return err == nil })
	e.vault.Seal()
	if _, err := e.leaf("shop.example"); err != nil {
		t.Errorf("what is signed does not serve on: %v", err)
	}
	again := &vaultEdge{vault: e.vault}
	again.start(t, e.again)
	if _, err := again.leaf("www.shop.example"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name that nobody has signed: %v", err)
	}
	if leaf, err := again.leaf("localhost"); err != nil || leaf.Issuer.CommonName != "test servers" {
		t.Errorf("the name of a file: %v", err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	ready := func() string {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+again.AdminAddr().String()+"/ready", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	await(t, "/ready says why", func() bool { return strings.Contains(ready(), "Vault is sealed") })
	e.vault.Unseal()
	await(t, "its certificate", func() bool { _, err := again.leaf("www.shop.example"); return err == nil })
	if got := ready(); strings.Contains(got, "degraded") {
		t.Errorf("/ready still says %s", got)
	}
}

// A gateway gets its certificates while Redis and Vault are away: it needs neither.
func TestGatewayCertificateOfACME(t *testing.T) {
	ports := servers.FreePorts(t, 3)
	p := servers.Pebble(t, servers.PebbleConfig{TLSPort: ports[0], HTTPPort: 1, Life: time.Hour})
	address, away := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	cfg := DefaultGateway()
	cfg.Node, cfg.ID, cfg.DataDir, cfg.Drain = "gw", "demo", t.TempDir(), time.Second
	cfg.Redis.Addresses = []string{away}
	cfg.Trust.RootsFile = filepath.Join(t.TempDir(), "roots.pem")
	public, err := signing.FormatPublicKeys(keys.New("default").Roots()...)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.WriteFile(cfg.Trust.RootsFile, public); err != nil {
		t.Fatal(err)
	}
	cfg.Vault = Vault{Mount: "pki_mesh", Role: "gw", VaultLogin: VaultLogin{Address: "http://" + away, AppRole: AppRole{RoleIDFile: "none", SecretIDFile: "none"}}}
	cfg.Admin.Address = fmt.Sprintf("127.0.0.1:%d", ports[2])
	cfg.Log.Level = "error"
	cfg.Listeners = []PublicListener{{Address: address, TLS: PublicTLS{ACME: &PublicACME{
		Directory: p.Directory, CAFile: p.CAFile, Hostnames: []string{"shop.example"}, AcceptTerms: true,
	}}}}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	roots := p.Roots()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- RunGateway(ctx, &cfg, Deps{}) }()
	await(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: "shop.example", RootCAs: roots})
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Where no Vault issues, nobody signs.
func TestGatewayWithoutAnyVault(t *testing.T) {
	listeners := []PublicListener{{Address: "127.0.0.1:0", TLS: PublicTLS{Vault: &PublicVault{Mount: "pki", Role: "edge", Hostnames: []string{"shop.example"}}}}}
	err := signers(listeners, make([]gateway.Listener, 1), nil)
	if mesh.KindOf(err) != mesh.Invalid || !strings.Contains(err.Error(), "listeners[0].tls.vault") || mesh.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}
