// Package rig starts a mesh of real processes on loopback: Redis, Vault, the
// control plane, and the sidecars and gateways that are asked for, each of ours
// the built program with a configuration file as an operator would write it.
//
// It builds no program, starts no workload and sends no requests to services.
// Like test/servers it fails the test instead of returning errors, and works
// for whatever is a testing.TB.
//
// Invariant: what was started here has ended before the test has, whatever way
// the test ends.
package rig

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// TrustDomain and Name are every mesh's here, and the programs' defaults.
const (
	TrustDomain = "hedgerow.local"
	Name        = "default"
)

// ports is how many addresses a mesh has to give away.
const ports = 256

// Options say what a mesh is.
type Options struct {
	Binaries string // the directory with hedgerow and hedgerow-edge
	// Objects is what `hedgerow apply` gets at the start: services, nodes,
	// routes, policies.
	Objects string
	// Users has everybody log in to Redis as a user of their own: the control plane as the
	// two that it has, data planes as the one that it makes for their node.
	Users bool
	// Nodes are those that may log in to Vault; see SidecarNode, GatewayNode.
	Nodes []servers.PKINode
}

// SidecarNode is a node whose sidecar may be the services.
func SidecarNode(name string, services ...string) servers.PKINode {
	node := servers.PKINode{Name: name}
	for _, service := range services {
		node.IDs = append(node.IDs, fmt.Sprintf("spiffe://%s/svc/%s/n/%s", TrustDomain, service, name))
	}
	return node
}

// GatewayNode is a node that may be the gateway id.
func GatewayNode(name, id string) servers.PKINode {
	return servers.PKINode{Name: name, IDs: []string{fmt.Sprintf("spiffe://%s/gateway/%s", TrustDomain, id)}}
}

// Mesh is a mesh whose control plane serves. Its methods belong to the
// goroutine that runs the test.
type Mesh struct {
	Redis     *servers.RedisServer
	Vault     *servers.VaultServer
	PKI       servers.PKI
	Control   *Process
	API       string // the control plane's, "http://127.0.0.1:port"
	TokenFile string // holds its admin token
	Dir       string // of every process's files; gone after the test

	t     testing.TB
	opt   Options
	ports []int // that nobody has been told yet
}

// New starts Redis, Vault and the control plane, and applies the objects.
func New(t testing.TB, opt Options) *Mesh {
	t.Helper()
	var err error
	if opt.Binaries, err = filepath.Abs(opt.Binaries); err != nil {
		t.Fatal(err)
	}
	m := &Mesh{t: t, opt: opt, Dir: t.TempDir(), Vault: servers.Vault(t)}
	m.startRedis()
	m.PKI = m.Vault.SetUpPKI(TrustDomain, opt.Nodes...)
	// All at once, or one that is not bound yet might come twice.
	m.ports = servers.FreePorts(t, ports)

	address := m.Address()
	m.API, m.TokenFile = "http://"+address, filepath.Join(m.Dir, "control", "admin.token")
	m.Control = m.start("control", "hedgerow", "control", config{
		"address": address,
		"dataDir": filepath.Join(m.Dir, "control"),
		"redis":   m.controlRedis(),
		"trust":   config{"caFile": m.write("ca.pem", m.PKI.RootPEM)},
		"access":  config{"requestsPerSecond": 1000}, // a test is one caller
	})
	m.Apply(opt.Objects)
	return m
}

// Address returns a loopback address, "127.0.0.1:port", that nobody listens at
// and that it never returns again.
func (m *Mesh) Address() string {
	m.t.Helper()
	if len(m.ports) == 0 {
		m.t.Fatalf("a mesh has no more than %d ports", ports)
	}
	port := m.ports[0]
	m.ports = m.ports[1:]
	return "127.0.0.1:" + strconv.Itoa(port)
}

// Apply stores objects, YAML documents separated by ---, as `hedgerow apply`.
// It waits for a control plane that starts.
func (m *Mesh) Apply(objects string) {
	m.t.Helper()
	file := m.write("objects.yaml", objects)
	m.Control.Until(readyMost, "takes the objects", func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, filepath.Join(m.opt.Binaries, "hedgerow"), "apply", "-f", file, "--server", m.API, "--token-file", m.TokenFile)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("hedgerow apply: %w: %s", err, out)
		}
		return nil
	})
}

// write writes a file and returns its path.
func (m *Mesh) write(name, text string) string {
	m.t.Helper()
	file := filepath.Join(m.Dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return file
}
