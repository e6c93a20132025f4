package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed" // for mesh.yaml
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/bench/call"
	"github.com/hedgerow-mesh/hedgerow/test/bench/loop"
	"github.com/hedgerow-mesh/hedgerow/test/bench/peers"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/load"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// host is the host of the service that everybody asks for.
const host = "shop.mesh"

// callHost is that of the service that is called by gRPC.
const callHost = "calls.mesh"

// methodUnary stands for a call of gRPC among the methods.
const methodUnary = "UNARY"

// answerMost is how long a chain may take until its first answer.
const answerMost = 30 * time.Second

//go:embed mesh.yaml
var objects string

// What the workload is asked for, and answers.
var (
	get  = loop.Request{Method: "GET", Path: "/orders/7", Want: []byte(`{"ok":true,"msg":"hello from the backend service","n":12345}`)}
	post = loop.Request{Method: "POST", Path: "/orders", Body: []byte(strings.Repeat("0123456789abcdef", 256)), Want: []byte(`{"stored":true}`)}
)

// callsEach is how many callers share a connection.
const callsEach = 8

// callMessage is what each call says and gets back.
var callMessage = []byte(strings.Repeat("0123456789abcdef", 8))

// unary is a call of gRPC.
func unary() loop.Request {
	return loop.Request{Method: methodUnary, Body: callMessage, Want: callMessage, Dial: call.Dialer(callsEach)}
}

// world is what one bench runs in.
type world struct {
	settings
	t        *stage.T
	progress io.Writer
	profiled map[string]bool // by label

	mesh *rig.Mesh
	tls  servers.TLSFiles // of the peers, and of the gateway's listener
}

// programs are those that are measured, ours first: the ratios are ours by
// theirs.
var programs = words{"hedgerow", "haproxy", "nginx"}

// system is one way to the workload, ours or a peer's.
type system struct {
	program   string // one of programs
	name      string // it, or more than it if there are several ways
	target    load.Target
	processes []*rig.Process // that its cost is the cost of
	planes    []*rig.Plane   // ours: the same processes
}

func (s *system) pids() []int {
	var pids []int
	for _, p := range s.processes {
		pids = append(pids, p.Pid())
	}
	return pids
}

// open starts Redis, Vault and the control plane.
func (w *world) open() {
	w.mesh = rig.New(w.t, rig.Options{
		Binaries: w.binaries,
		Objects:  objects,
		Nodes: []servers.PKINode{
			w.fleetLogin(), rig.SidecarNode("caller", "client"), rig.SidecarNode("callee", "shop"), rig.SidecarNode("callee-2", "shop"), rig.SidecarNode("callee-3", "calls"), rig.GatewayNode("edge", "edge"),
		},
	})
	w.tls = servers.LoopbackTLS(w.t)
}

// workload starts the workload of small answers and returns its address.
func (w *world) workload() string {
	address := w.mesh.Address()
	peers.Workload(w.t, w.mesh.Dir, peers.Answers{Listen: address, Get: string(get.Want), Post: string(post.Want)})
	return address
}

// ours returns the system of our planes, the first of which is reached at
// target.
func ours(target load.Target, planes ...*rig.Plane) *system {
	s := &system{program: "hedgerow", name: "hedgerow", target: target, planes: planes}
	for _, p := range planes {
		s.processes = append(s.processes, p.Process)
	}
	return s
}

// chains returns the ways through two hops to a workload: ours, HAProxy's and
// nginx's, as far as they were asked for.
func (w *world) chains(workload string) []*system {
	callee := w.mesh.Sidecar(rig.Sidecar{Node: "callee", Service: "shop", Workload: workload})
	caller := w.mesh.Sidecar(rig.Sidecar{Node: "caller", Service: "client", Workload: workload, Watch: []string{"shop"}})
	systems := []*system{ours(load.Target{Address: caller.Outbound, Host: host}, caller, callee)}
	for _, program := range w.peers() {
		systems = append(systems, w.peer(program, program, w.twoHops(workload, false)))
	}
	return systems
}

// peers are the peers that were asked for.
func (w *world) peers() []string {
	var all []string
	for _, program := range programs[1:] {
		if slices.Contains(w.only, program) {
			all = append(all, program)
		}
	}
	return all
}

// oneHop is a listener that goes straight to the next addresses, in clear text.
func (w *world) oneHop(secure, mutual bool, next ...string) []peers.Hop {
	return []peers.Hop{{Name: "edge", Listen: w.mesh.Address(), Next: next, Secure: secure, Mutual: mutual}}
}

// twoHops is a listener beside the caller, and one beside the callee that takes
// mutual TLS.
func (w *world) twoHops(workload string, secure bool) []peers.Hop {
	between := w.mesh.Address()
	return []peers.Hop{
		{Name: "out", Listen: w.mesh.Address(), Next: []string{between}, Secure: secure, Encrypts: true},
		{Name: "in", Listen: between, Next: []string{workload}, Secure: true, Mutual: true},
	}
}

// peer starts a peer: a process for each hop, as if each were on its own
// machine.
func (w *world) peer(program, name string, hops []peers.Hop) *system {
	start := peers.HAProxy
	if program == "nginx" {
		start = peers.NGINX
	}
	s := &system{program: program, name: name, target: load.Target{Address: hops[0].Listen, Host: host}}
	if hops[0].Secure {
		s.target.TLS = w.publicTLS()
	}
	for _, hop := range hops {
		_, port, _ := strings.Cut(hop.Listen, ":")
		s.processes = append(s.processes, start(w.t, peers.Config{Dir: w.mesh.Dir, Name: program + "-" + port, TLS: w.tls, Hops: []peers.Hop{hop}}))
	}
	return s
}

// publicTLS is what a client of a listener over TLS needs.
func (w *world) publicTLS() *tls.Config {
	w.t.Helper()
	roots := x509.NewCertPool()
	if pem, err := os.ReadFile(w.tls.CAFile); err != nil || !roots.AppendCertsFromPEM(pem) {
		w.t.Fatalf("read the CA of the listeners: %v", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "localhost", NextProtos: []string{"http/1.1"}}
}

// mutualTLS is what a client of a peer's second hop needs.
func (w *world) mutualTLS() *tls.Config {
	w.t.Helper()
	config := w.publicTLS()
	pair, err := tls.LoadX509KeyPair(w.tls.CertFile, w.tls.KeyFile)
	if err != nil {
		w.t.Fatalf("read the certificate of the peers: %v", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config
}

// reach waits until each system answers the request.
func (w *world) reach(systems []*system, request loop.Request) {
	w.t.Helper()
	for _, s := range systems {
		s.processes[0].Until(answerMost, "answers", func(ctx context.Context) error { return ask(ctx, s.target, request) })
	}
}

// ask sends one request on a connection of its own.
func ask(ctx context.Context, target load.Target, request loop.Request) error {
	c, err := request.Connect(ctx, target)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	return c.Exchange()
}

// say tells whoever waits how far the run is.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.progress, format+"\n", args...) //nolint:errcheck // progress is only for who watches
}
