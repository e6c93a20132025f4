// Package stage starts the mesh on which faults are played: a real Redis and
// Vault, the control plane, a caller's sidecar, three sidecars of one service,
// and where a row asks for them a gateway and a service that breaks off. Each
// of ours is a process of the built programs, configured as an operator would.
//
// It injects no fault and measures nothing. It is no test framework either: T
// has what test/servers needs, and no more.
//
// Invariant: when Run returns, every process that its function started has
// ended, and every directory is gone.
package stage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // for mesh.yaml
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/workload"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// Instances is how many sidecars the service has.
const Instances = 3

// Hosts of the services.
const (
	Shop   = "shop.mesh"
	Broken = "broken.mesh"
)

//go:embed mesh.yaml
var objects []byte

// Options say what a row needs.
type Options struct {
	Binaries string        // the directory with hedgerow and hedgerow-edge
	TTL      time.Duration // of certificates; Vault's role's 24 h if 0
	Gateway  bool
	Broken   bool // a service that breaks off, behind a sidecar of its own
}

// Mesh is a mesh that serves.
type Mesh struct {
	Caller  *Plane
	Shop    []*Plane // the Instances sidecars
	Gateway *Plane   // nil unless asked for
	// Breaker is the workload of the service Broken; nil unless asked for.
	Breaker *workload.BrokenServer

	t        *T
	opt      Options
	dir      string
	ports    []int // that nobody has been told yet
	redis    string
	vault    *servers.VaultServer
	pki      servers.PKI
	public   servers.TLSFiles
	publicCA *x509.CertPool
}

// New starts a mesh and returns when requests of the caller, and of the gateway
// if there is one, reach every instance. It ends with the row.
func New(t *T, opt Options) *Mesh {
	t.Helper()
	// All at once, or one that is not bound yet might come twice.
	m := &Mesh{t: t, opt: opt, dir: t.TempDir(), ports: servers.FreePorts(t, mostPorts)}
	m.redis = servers.Redis(t).Addr
	m.setUpVault()
	m.startControl()
	m.Caller = m.sidecar("caller", "client", m.serve("client"), ", upstreams: [shop, broken]")
	for i := range Instances {
		name := fmt.Sprintf("shop-%d", i+1)
		m.Shop = append(m.Shop, m.sidecar(name, "shop", m.serve(name), ""))
	}
	all := append([]*Plane{m.Caller}, m.Shop...)
	if opt.Gateway {
		m.Gateway = m.gateway()
		all = append(all, m.Gateway)
	}
	if opt.Broken {
		all = append(all, m.broken())
	}
	for _, p := range all {
		p.Start(Limits{})
	}
	for _, p := range all {
		p.Ready()
	}
	m.Reached(m.Out())
	if opt.Gateway {
		m.Reached(m.Edge())
	}
	return m
}

// Out is the caller's way to the service: through two sidecars.
func (m *Mesh) Out() load.Target { return load.Target{Address: m.Caller.Outbound, Host: Shop} }

// Edge is the way of strangers: through the gateway, in clear text.
func (m *Mesh) Edge() load.Target { return load.Target{Address: m.Gateway.Public, Host: Shop} }

// SecureEdge is the same over TLS, by HTTP/1.1 or HTTP/2.
func (m *Mesh) SecureEdge(http2 bool) load.Target {
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.publicCA, ServerName: "localhost"}
	return load.Target{Address: m.Gateway.Secure, Host: Shop, TLS: config, HTTP2: http2}
}

// Reached waits until target's requests are answered by every instance.
func (m *Mesh) Reached(target load.Target) {
	m.t.Helper()
	seen := map[string]bool{}
	m.poll(target, "/echo", "reaches every instance", func(resp *http.Response) error {
		seen[resp.Header.Get(workload.InstanceHeader)] = true
		if len(seen) < Instances {
			return fmt.Errorf("only %d of %d have answered", len(seen), Instances)
		}
		return nil
	})
}

// Answers waits until path is answered 200 at target.
func (m *Mesh) Answers(target load.Target, path string) {
	m.t.Helper()
	m.poll(target, path, "answers "+path, func(*http.Response) error { return nil })
}

// poll asks for path until a 200 contents check.
func (m *Mesh) poll(target load.Target, path, what string, check func(*http.Response) error) {
	m.t.Helper()
	client := target.Client(5*time.Second, 1)
	defer client.CloseIdleConnections()
	m.t.Until(30*time.Second, target.Address+" "+what, func(ctx context.Context) error {
		req, err := target.Request(ctx, http.MethodGet, path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return check(resp)
	})
}

// serve starts a workload and returns its address.
func (m *Mesh) serve(instance string) string {
	m.t.Helper()
	w, err := workload.Serve(instance)
	if err != nil {
		m.t.Fatalf("start the workload %s: %v", instance, err)
	}
	m.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			m.t.Errorf("end the workload %s: %v", instance, err)
		}
	})
	return w.Addr
}

func (m *Mesh) broken() *Plane {
	m.t.Helper()
	var err error
	if m.Breaker, err = workload.ServeBroken(); err != nil {
		m.t.Fatalf("start the workload that breaks off: %v", err)
	}
	m.t.Cleanup(func() {
		if err := m.Breaker.Close(); err != nil {
			m.t.Errorf("end the workload that breaks off: %v", err)
		}
	})
	return m.sidecar("broken", "broken", m.Breaker.Addr, "")
}

// setUpVault starts Vault with a role for every node of mesh.yaml.
func (m *Mesh) setUpVault() {
	m.t.Helper()
	m.vault = servers.Vault(m.t)
	nodes := []servers.PKINode{
		{Name: "caller", IDs: []string{"spiffe://hedgerow.local/svc/client/n/caller"}},
		{Name: "broken", IDs: []string{"spiffe://hedgerow.local/svc/broken/n/broken"}},
		{Name: "edge", IDs: []string{"spiffe://hedgerow.local/gateway/edge"}},
	}
	for i := range Instances {
		name := fmt.Sprintf("shop-%d", i+1)
		nodes = append(nodes, servers.PKINode{Name: name, IDs: []string{"spiffe://hedgerow.local/svc/shop/n/" + name}})
	}
	m.pki = m.vault.SetUpPKI("hedgerow.local", nodes...)
	if m.opt.TTL == 0 {
		return
	}
	for _, node := range nodes {
		m.shorten(servers.PKIMount + "/roles/" + node.Name)
	}
}

// shorten makes a PKI role sign for Options.TTL, and leaves the rest of it.
func (m *Mesh) shorten(path string) {
	m.t.Helper()
	answer, err := m.vault.Request(m.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	role, _ := answer["data"].(map[string]any)
	role["ttl"], role["max_ttl"] = m.opt.TTL.String(), m.opt.TTL.String()
	if _, err := m.vault.Request(m.t.Context(), http.MethodPost, path, role); err != nil {
		m.t.Fatalf("%v", err)
	}
}

// startControl starts the control plane and gives it the mesh's objects.
func (m *Mesh) startControl() {
	m.t.Helper()
	address := m.address()
	p := m.plane("control", "hedgerow", "control", fmt.Sprintf("{address: %q, dataDir: %q, redis: {addresses: [%q]}}",
		address, filepath.Join(m.dir, "control"), m.redis))
	p.Start(Limits{})
	apply := filepath.Join(m.dir, "mesh.yaml")
	if err := os.WriteFile(apply, objects, 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.t.Until(30*time.Second, "the control plane takes the mesh's objects", func(ctx context.Context) error {
		if !p.Running() {
			return p.ended()
		}
		cmd := exec.CommandContext(ctx, filepath.Join(m.opt.Binaries, "hedgerow"), "apply", "-f", apply,
			"--server", "http://"+address, "--token-file", filepath.Join(m.dir, "control", "admin.token"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// sidecar prepares the sidecar of one service; more is what else its
// configuration has.
func (m *Mesh) sidecar(node, service, address, more string) *Plane {
	m.t.Helper()
	in, out, admin := m.address(), m.address(), m.address()
	p := m.plane(node, "hedgerow-edge", "sidecar", fmt.Sprintf(
		"{%s, inbound: {address: %q}, outbound: {address: %q}, admin: {address: %q}, services: [{service: %s, address: %q}]%s}",
		m.base(node), in, out, admin, service, address, more))
	p.Inbound, p.Outbound, p.Admin = in, out, proc.Admin{Address: admin}
	return p
}

// gateway prepares the gateway, with a listener in clear text and one over TLS.
func (m *Mesh) gateway() *Plane {
	m.t.Helper()
	m.public = servers.LoopbackTLS(m.t)
	m.publicCA = x509.NewCertPool()
	if pem, err := os.ReadFile(m.public.CAFile); err != nil || !m.publicCA.AppendCertsFromPEM(pem) {
		m.t.Fatalf("read the CA of the gateway's certificate: %v", err)
	}
	public, secure, admin := m.address(), m.address(), m.address()
	p := m.plane("edge", "hedgerow", "gateway", fmt.Sprintf(
		"{%s, id: edge, listeners: [{address: %q}, {address: %q, tls: {certFile: %q, keyFile: %q}}], admin: {address: %q}}",
		m.base("edge"), public, secure, m.public.CertFile, m.public.KeyFile, admin))
	p.Public, p.Secure, p.Admin = public, secure, proc.Admin{Address: admin}
	return p
}

// base is what every data plane is told.
func (m *Mesh) base(node string) string {
	login := m.pki.Nodes[node]
	return fmt.Sprintf("node: %s, dataDir: %q, redis: {addresses: [%q]}, vault: {address: %q, role: %s, appRole: {roleIdFile: %q, secretIdFile: %q}}",
		node, filepath.Join(m.dir, node), m.redis, m.vault.Address, login.Role, login.RoleIDFile, login.SecretIDFile)
}

// plane writes the configuration of a process and returns it, not started.
func (m *Mesh) plane(name, program, verb, config string) *Plane {
	m.t.Helper()
	file := filepath.Join(m.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(config+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
	p := &Plane{Name: name, t: m.t, dir: m.dir, log: filepath.Join(m.dir, name+".log"), args: []string{filepath.Join(m.opt.Binaries, program), verb, "--config", file}}
	m.t.Cleanup(p.close)
	return p
}

// mostPorts is how many ports the processes of a mesh with everything listen at:
// one of the control plane, three of each sidecar and of the gateway.
const mostPorts = 1 + 3*(1+Instances+1+1)

// address returns a loopback address that nobody listens at.
func (m *Mesh) address() string {
	port := m.ports[0]
	m.ports = m.ports[1:]
	return "127.0.0.1:" + strconv.Itoa(port)
}
