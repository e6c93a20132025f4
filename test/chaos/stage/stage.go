// Package stage starts the mesh on which faults are played, on test/rig: a
// caller's sidecar, three sidecars of one service, and where a row asks for them
// a gateway and a service that breaks off.
//
// It injects no fault and measures nothing. It is no test framework either: T
// has what test/servers needs, and no more.
//
// Invariant: when Run returns, every process that its function started has
// ended, and every directory is gone.
package stage

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // for mesh.yaml
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/workload"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// apiMost is how long the control plane may take for one request.
const apiMost = 30 * time.Second

// Instances is how many sidecars the service has.
const Instances = 3

// shop is what each of its instances is: one program that speaks HTTP/1.1, and gRPC.
var shop = []string{"shop", "shop-rpc"}

// Hosts of the services. What is gRPC at Shop's goes to the service shop-rpc.
const (
	Shop   = "shop.mesh"
	Broken = "broken.mesh"
)

//go:embed mesh.yaml
var objects string

// Options say what a row needs.
type Options struct {
	Binaries string        // the directory with hedgerow and hedgerow-edge
	TTL      time.Duration // of certificates; Vault's role's 24 h if 0
	Gateway  bool
	Broken   bool // a service that breaks off, behind a sidecar of its own
	Users    bool // everybody logs in to Redis as a user of their own
}

// Mesh is a mesh that serves.
type Mesh struct {
	Caller  *Plane
	Shop    []*Plane // the Instances sidecars
	Gateway *Plane   // nil unless asked for
	// Breaker is the workload of the service Broken; nil unless asked for.
	Breaker *workload.BrokenServer

	t        *T
	served   []*workload.Server
	opt      Options
	rig      *rig.Mesh
	publicCA *x509.CertPool // of the gateway's certificate
	api      http.Client
}

// New starts a mesh and returns when requests of the caller, and of the gateway
// if there is one, reach every instance. It ends with the row.
func New(t *T, opt Options) *Mesh {
	t.Helper()
	m := &Mesh{t: t, opt: opt, api: http.Client{Timeout: apiMost}}
	nodes := []servers.PKINode{rig.SidecarNode("caller", "client"), rig.SidecarNode("broken", "broken"), rig.GatewayNode("edge", "edge")}
	for i := range Instances {
		nodes = append(nodes, rig.SidecarNode(instance(i), shop...))
	}
	m.rig = rig.New(t, rig.Options{Binaries: opt.Binaries, Objects: objects, Nodes: nodes, Users: opt.Users})
	if opt.TTL > 0 {
		for _, node := range nodes {
			m.shorten(servers.PKIMount + "/roles/" + node.Name)
		}
	}
	m.Caller = m.sidecar("caller", m.serve("client"), ", upstreams: [shop, shop-rpc, broken]", "client")
	for i := range Instances {
		m.Shop = append(m.Shop, m.sidecar(instance(i), m.serve(instance(i)), "", shop...))
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
		p.launch(Limits{})
	}
	for _, p := range all {
		p.ready()
	}
	m.Reached(m.Out())
	m.called(m.Out())
	if opt.Gateway {
		m.Reached(m.Edge())
		m.called(m.Edge())
	}
	return m
}

// called waits until calls of gRPC are answered by every instance.
func (m *Mesh) called(target load.Target) {
	m.t.Helper()
	seen := map[string]bool{}
	m.Caller.Until(readyMost, "runs and calls at "+target.Address+" reach every instance", func(ctx context.Context) error {
		by, err := load.Call(ctx, target)
		if err != nil {
			return err
		}
		if seen[by] = true; len(seen) < Instances {
			return fmt.Errorf("only %d of %d have answered", len(seen), Instances)
		}
		return nil
	})
}

// instance names the i-th instance of the service, its node and its workload.
func instance(i int) string { return fmt.Sprintf("shop-%d", i+1) }

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

// ReachedAt waits until one of target's requests is answered by the i-th instance. Others may
// have more under way for long, as WebSockets are, and be passed by.
func (m *Mesh) ReachedAt(target load.Target, i int) {
	m.t.Helper()
	m.poll(target, "/echo", "reaches "+instance(i), func(resp *http.Response) error {
		if by := resp.Header.Get(workload.InstanceHeader); by != instance(i) {
			return fmt.Errorf("%s has answered", by)
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
	m.Caller.Until(readyMost, "runs and "+target.Address+" "+what, func(ctx context.Context) error {
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
func (m *Mesh) serve(name string) string {
	m.t.Helper()
	w, err := workload.Serve(name)
	if err != nil {
		m.t.Fatalf("start the workload %s: %v", name, err)
	}
	m.t.Cleanup(func() {
		if err := w.Close(); err != nil {
			m.t.Errorf("end the workload %s: %v", name, err)
		}
	})
	m.served = append(m.served, w)
	return w.Addr
}

// Received returns how many requests the workloads got in all.
func (m *Mesh) Received() int {
	n := 0
	for _, w := range m.served {
		n += w.Received()
	}
	return n
}

// Write sends one request to the control plane's API and fails unless it is answered
// with 200. It may be called by several goroutines.
func (m *Mesh) Write(ctx context.Context, method, path string, body any) error {
	token, err := os.ReadFile(m.rig.TokenFile)
	if err != nil {
		return err
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, m.rig.API+path, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := m.api.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %.300s", method, path, resp.StatusCode, answer)
	}
	return err
}

// Vault is what signs the mesh's certificates.
func (m *Mesh) Vault() *servers.VaultServer { return m.rig.Vault }

// Sidecars are the caller's and the service's.
func (m *Mesh) Sidecars() []*Plane { return append([]*Plane{m.Caller}, m.Shop...) }

// Control is the control plane's process.
func (m *Mesh) Control() *rig.Process { return m.rig.Control }

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
	return m.sidecar("broken", m.Breaker.Addr, "", "broken")
}

// shorten makes a PKI role sign for Options.TTL, and leaves the rest of it.
func (m *Mesh) shorten(path string) {
	m.t.Helper()
	answer, err := m.rig.Vault.Request(m.t.Context(), http.MethodGet, path, nil)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	role, _ := answer["data"].(map[string]any)
	role["ttl"], role["max_ttl"] = m.opt.TTL.String(), m.opt.TTL.String()
	if _, err := m.rig.Vault.Request(m.t.Context(), http.MethodPost, path, role); err != nil {
		m.t.Fatalf("%v", err)
	}
}

// sidecar prepares the sidecar of a workload, which is all of services; more is what else its
// configuration has.
func (m *Mesh) sidecar(node, address, more string, services ...string) *Plane {
	m.t.Helper()
	in, out, admin := m.rig.Address(), m.rig.Address(), m.rig.Address()
	var of []string
	for _, service := range services {
		of = append(of, fmt.Sprintf("{service: %s, address: %q}", service, address))
	}
	p := m.plane(node, "hedgerow-edge", "sidecar", fmt.Sprintf(
		"inbound: {address: %q}, outbound: {address: %q}, admin: {address: %q}, services: [%s]%s",
		in, out, admin, strings.Join(of, ", "), more))
	p.Inbound, p.Outbound, p.Admin = in, out, proc.Admin{Address: admin}
	return p
}

// gateway prepares the gateway, with a listener in clear text and one over TLS.
func (m *Mesh) gateway() *Plane {
	m.t.Helper()
	public := servers.LoopbackTLS(m.t)
	m.publicCA = x509.NewCertPool()
	if pem, err := os.ReadFile(public.CAFile); err != nil || !m.publicCA.AppendCertsFromPEM(pem) {
		m.t.Fatalf("read the CA of the gateway's certificate: %v", err)
	}
	clear, secure, admin := m.rig.Address(), m.rig.Address(), m.rig.Address()
	p := m.plane("edge", "hedgerow", "gateway", fmt.Sprintf(
		"id: edge, listeners: [{address: %q}, {address: %q, tls: {certFile: %q, keyFile: %q}}], admin: {address: %q}",
		clear, secure, public.CertFile, public.KeyFile, admin))
	p.Public, p.Secure, p.Admin = clear, secure, proc.Admin{Address: admin}
	return p
}

// plane writes the configuration of a data plane and returns it, not started:
// unlike rig's, it may be started more than once, and under limits.
func (m *Mesh) plane(node, program, verb, config string) *Plane {
	m.t.Helper()
	login := m.rig.PKI.Nodes[node]
	text := fmt.Sprintf("{node: %s, dataDir: %q, trust: {rootsFile: %q}, redis: %s, vault: {address: %q, role: %s, appRole: {roleIdFile: %q, secretIdFile: %q}}, %s}\n",
		node, filepath.Join(m.rig.Dir, node), m.rig.RootsFile(), m.rig.NodeRedis(node), m.rig.Vault.Address, login.Role, login.RoleIDFile, login.SecretIDFile, config)
	file := filepath.Join(m.rig.Dir, node+".yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return &Plane{t: m.t, command: rig.Command{
		Name: node, Dir: m.rig.Dir, Program: filepath.Join(m.opt.Binaries, program), Args: []string{verb, "--config", file},
	}}
}
