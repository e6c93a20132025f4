package rig

import (
	"encoding/json"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/proc"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
	"github.com/hedgerow-mesh/hedgerow/vaultpki"
)

// Plane is a data plane that is ready.
type Plane struct {
	*Process
	Admin    proc.Admin
	Inbound  string // of a sidecar: where peers come in, "127.0.0.1:port"
	Outbound string // of a sidecar: where its workload calls out
	Public   string // of a gateway: its listener
	MQTT     string // of a bridge: its own broker's address, if it has one
}

// Again starts a plane that has ended once more, at the same addresses, and returns when it
// is ready.
func (p *Plane) Again() {
	p.t.Helper()
	p.Process = Start(p.t, p.how)
	p.Until(readyMost, "is ready", p.Admin.Ready)
}

// Sidecar says what a sidecar is. Its node is one of Options.Nodes and of the
// objects.
type Sidecar struct {
	Node     string
	Service  string
	Workload string   // "127.0.0.1:port"
	Watch    []string // services that are watched from the start
	// TCP is where the workload connects to services of protocol TCP, by service.
	TCP map[string]string
	// Binaries is where its program is; that of Options if "".
	Binaries string
	Env      []string // "NAME=value", beside the environment of this process
}

// config is what is written into a configuration file. JSON is YAML.
type config map[string]any

// Sidecar starts a sidecar, of the program hedgerow-edge, and returns when it
// is ready.
func (m *Mesh) Sidecar(s Sidecar) *Plane {
	m.t.Helper()
	p := &Plane{Inbound: m.Address(), Outbound: m.Address(), Admin: proc.Admin{Address: m.Address()}}
	c := m.base(s.Node)
	c["inbound"] = config{"address": p.Inbound}
	c["outbound"] = config{"address": p.Outbound}
	c["admin"] = config{"address": p.Admin.Address}
	c["services"] = []config{{"service": s.Service, "address": s.Workload}}
	c["upstreams"] = s.Watch
	var tcp []config
	for service, address := range s.TCP {
		tcp = append(tcp, config{"service": service, "address": address})
	}
	if len(tcp) > 0 {
		c["tcp"] = tcp
	}
	p.Process = m.startFrom(s.Binaries, s.Env, s.Node, "hedgerow-edge", "sidecar", c)
	p.Until(readyMost, "is ready", p.Admin.Ready)
	return p
}

// Bridge says what a bridge is. Its node is one of Options.Nodes and of the objects.
type Bridge struct {
	Node   string
	Broker string // "127.0.0.1:port"; "" is a broker of its own, for anonymous clients
	// DataDir is where it keeps messages; a directory of the mesh if "".
	DataDir string
	// Binaries is where its program is; that of Options if "".
	Binaries string
	// Under is a program, with arguments, that becomes the bridge: it is told the command.
	Under []string
}

// Bridge starts a bridge, of the program hedgerow-edge, and returns when it is ready.
func (m *Mesh) Bridge(b Bridge) *Plane {
	m.t.Helper()
	p := &Plane{Admin: proc.Admin{Address: m.Address()}}
	c := m.base(b.Node)
	if b.DataDir == "" {
		b.DataDir = filepath.Join(m.Dir, b.Node+"-bridge")
	}
	c["dataDir"] = b.DataDir
	c["mqtt"] = config{"address": b.Broker}
	if b.Broker == "" {
		p.MQTT = m.Address()
		c["mqtt"] = config{"embedded": config{"address": p.MQTT, "anonymous": true}}
	}
	c["admin"] = config{"address": p.Admin.Address}
	how := m.command(b.Binaries, b.Node+"-bridge", "hedgerow-edge", "bridge", c)
	if len(b.Under) > 0 {
		how.Args = append(append(slices.Clone(b.Under[1:]), how.Program), how.Args...)
		how.Program = b.Under[0]
	}
	p.Process = Start(m.t, how)
	p.Until(readyMost, "is ready", p.Admin.Ready)
	return p
}

// Gateway says what a gateway is. Its node is one of Options.Nodes and of the
// objects.
type Gateway struct {
	Node, ID string
	// TLS is what its listener serves; the zero value is clear text.
	TLS servers.TLSFiles
}

// Gateway starts a gateway and returns when it is ready.
func (m *Mesh) Gateway(g Gateway) *Plane {
	m.t.Helper()
	p := &Plane{Public: m.Address(), Admin: proc.Admin{Address: m.Address()}}
	listener := config{"address": p.Public}
	if g.TLS.CertFile != "" {
		listener["tls"] = config{"certFile": g.TLS.CertFile, "keyFile": g.TLS.KeyFile}
	}
	c := m.base(g.Node)
	c["id"] = g.ID
	c["listeners"] = []config{listener}
	c["admin"] = config{"address": p.Admin.Address}
	p.Process = m.start(g.Node, "hedgerow", "gateway", c)
	p.Until(readyMost, "is ready", p.Admin.Ready)
	return p
}

// base is what every data plane is told.
func (m *Mesh) base(node string) config {
	login := m.login(node)
	return config{
		"node":    node,
		"dataDir": filepath.Join(m.Dir, node),
		"trust":   config{"rootsFile": m.RootsFile()},
		"redis":   m.nodeRedis(node),
		"vault": config{
			"address": m.Vault.Address, "role": login.Role,
			"appRole": config{"roleIdFile": login.RoleIDFile, "secretIdFile": login.SecretIDFile},
		},
	}
}

// RootsFile returns where the control plane has the public root keys of the configuration.
func (m *Mesh) RootsFile() string { return filepath.Join(m.Dir, "control", "root", "roots.pem") }

// Verifier returns one that believes the control plane's root.
func (m *Mesh) Verifier() *signing.Verifier {
	m.t.Helper()
	roots, err := signing.ReadPublicKeys(m.RootsFile())
	if err != nil {
		m.t.Fatal(err)
	}
	v, err := signing.NewVerifier(Name, roots...)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

// login is how a node of Options.Nodes logs in to Vault.
func (m *Mesh) login(node string) servers.AppRole {
	m.t.Helper()
	login, ok := m.PKI.Nodes[node]
	if !ok {
		m.t.Fatalf("node %s is not in Options.Nodes", node)
	}
	return login
}

// start writes a configuration file and starts a program with it.
func (m *Mesh) start(name, program, verb string, c config) *Process {
	m.t.Helper()
	return m.startFrom("", nil, name, program, verb, c)
}

// startFrom is start of a program in another directory than that of Options, unless it is "",
// and in an environment.
func (m *Mesh) startFrom(binaries string, env []string, name, program, verb string, c config) *Process {
	m.t.Helper()
	how := m.command(binaries, name, program, verb, c)
	how.Env = env
	return Start(m.t, how)
}

// command writes a configuration file and returns how a program is started with it.
func (m *Mesh) command(binaries, name, program, verb string, c config) Command {
	m.t.Helper()
	if binaries == "" {
		binaries = m.opt.Binaries
	}
	text, err := json.Marshal(c)
	if err != nil {
		m.t.Fatal(err)
	}
	file := m.write(name+".yaml", string(text))
	return Command{Name: name, Dir: m.Dir, Program: filepath.Join(binaries, program), Args: []string{verb, "--config", file}}
}

// Identity has Vault sign a certificate for service on node, for a client that
// goes to a sidecar's inbound without a sidecar of its own.
func (m *Mesh) Identity(node, service string) *identity.Source {
	m.t.Helper()
	id, err := mesh.ServiceID(TrustDomain, service, node)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.Certify(node, id)[0]
}

// Certify has Vault sign certificates for ids, which the login of a node of Options.Nodes
// may have.
func (m *Mesh) Certify(node string, ids ...mesh.ID) []*identity.Source {
	m.t.Helper()
	login := m.login(node)
	registerer := prometheus.NewRegistry()
	vault, err := vaultpki.New(vaultpki.Config{
		Access: vaultpki.Access{
			Addresses: []string{m.Vault.Address},
			AppRole:   vaultpki.AppRole{RoleIDFile: login.RoleIDFile, SecretIDFile: login.SecretIDFile},
		},
		Mount: m.PKI.Mount, Role: login.Role,
	}, zerolog.Nop(), registerer)
	if err != nil {
		m.t.Fatal(err)
	}
	metrics, err := identity.NewMetrics(registerer)
	if err != nil {
		m.t.Fatal(err)
	}
	sources := make([]*identity.Source, len(ids))
	for i, id := range ids {
		key, request, err := identity.NewRequest(id)
		if err != nil {
			m.t.Fatal(err)
		}
		issued, err := vault.Issue(m.t.Context(), request)
		if err != nil {
			m.t.Fatal(err)
		}
		sources[i] = identity.NewSource(id, metrics)
		if err := sources[i].Swap(key, issued); err != nil {
			m.t.Fatal(err)
		}
	}
	return sources
}
