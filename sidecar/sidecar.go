// Package sidecar stands beside workloads: its inbound takes requests of mesh
// peers over mTLS and hands the authorized ones to the workload, its outbound
// takes the workload's own calls to <service>.mesh into the mesh with the
// workload's identity.
//
// Decisions and forwarding are mesh/proxy's. The sidecar does not register
// itself, fetch configuration or renew certificates: whoever runs it does, with
// Instances and Update.
//
// A workload is reached by nobody whose certificate was not verified, and is
// told who calls by a header that only this package's inbound sets.
package sidecar

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
)

// Options is what a sidecar is given by the process that runs it.
type Options struct {
	Mesh        string
	TrustDomain string
	// Sources has the identity /svc/<service>/n/<node> of every configured
	// service, by service.
	Sources    map[string]*identity.Source
	Log        zerolog.Logger
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer // for /metrics
	Limits     proxy.Limits        // proxy.MeshLimits if zero
	Name       string              // of this process in decision records
	Observe    proxy.Observe
	KeysDir    string // as proxy.Options has it
	// Changed is given the instances to register: after the first check of the
	// workloads and whenever one changed. It must not block. May be nil.
	Changed func([]*mesh.Instance)
	// Need, Denies, Tokens, Compiled and Freshness are those of proxy.Options and
	// proxy.AdminOptions. Each may be nil.
	Need      func(service string)
	Denies    *identity.Denies
	Tokens    proxy.Tokens
	Compiled  func(head mesh.Head, errs []error)
	Freshness func() (age time.Duration, stale bool)
}

// Sidecar is one sidecar process. It answers 503 until the first Update.
type Sidecar struct {
	engine    *proxy.Engine
	admin     proxy.AdminOptions
	plan      proxy.Plan
	health    *health
	upstreams []string
	need      func(service string)
}

// New binds the listeners; what connects waits until Run. Whoever does not call
// Run calls Close.
func New(cfg Config, opt Options) (*Sidecar, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sidecar{upstreams: cfg.Upstreams, need: opt.Need, plan: proxy.Plan{Drain: cfg.Drain}}
	if s.plan.Drain == 0 {
		s.plan.Drain = defaultDrain
	}
	workloads := make([]proxy.Workload, len(cfg.Services))
	for i, local := range cfg.Services {
		src := opt.Sources[local.Service]
		if src == nil {
			return nil, mesh.Errorf("sidecar.New", "services/"+local.Service, mesh.Invalid, "has no identity")
		}
		workloads[i] = proxy.Workload{Service: local.Service, Node: cfg.Node, Address: local.Address, Source: src}
		s.admin.Sources = append(s.admin.Sources, src)
	}
	s.admin.Gatherer, s.admin.Freshness = opt.Gatherer, opt.Freshness
	if opt.Limits == (proxy.Limits{}) {
		opt.Limits = proxy.MeshLimits()
	}
	var err error
	s.engine, err = proxy.New(proxy.Options{
		Mesh: opt.Mesh, TrustDomain: opt.TrustDomain, Node: cfg.Node, Name: opt.Name, Limits: opt.Limits, Observe: opt.Observe, KeysDir: opt.KeysDir,
		Log: opt.Log, Registerer: opt.Registerer, Need: opt.Need, Denies: opt.Denies, Tokens: opt.Tokens, Compiled: opt.Compiled,
	})
	if err != nil {
		return nil, err
	}
	if err := s.listen(cfg, workloads, opt.Log); err != nil {
		return nil, err
	}
	advertise, err := advertised(cfg.Inbound, s.InboundAddr())
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.health = newHealth(cfg, advertise, opt.Changed)
	return s, nil
}

// listen binds every listener and says what answers there.
func (s *Sidecar) listen(cfg Config, workloads []proxy.Workload, log zerolog.Logger) error {
	inbound, inboundTLS, err := s.engine.Inbound(workloads...)
	if err != nil {
		return err
	}
	addresses := []string{cfg.Admin, cfg.Inbound.Address}
	var doors []proxy.Door
	outbound := func(address string, caller proxy.CallerOf) {
		if address != "" {
			addresses = append(addresses, address)
			doors = append(doors, s.engine.Outbound(caller))
		}
	}
	outbound(cfg.Outbound, callerOf(workloads))
	for i, local := range cfg.Services {
		outbound(local.Outbound, callerOf(workloads[i:i+1]))
	}
	for _, t := range cfg.TCP {
		as := workloads[:1]
		for i := range workloads {
			if workloads[i].Service == t.As {
				as = workloads[i : i+1]
			}
		}
		addresses = append(addresses, t.Address)
		doors = append(doors, s.engine.TCP(t.Service, callerOf(as)))
	}
	listeners, err := proxy.ListenAll(addresses...)
	if err != nil {
		return err
	}
	s.plan.Admin = proxy.Site{Listener: listeners[0], Handler: s.engine.Admin(s.admin)}
	in := []proxy.Site{{Listener: listeners[1], Door: inbound, TLS: inboundTLS}}
	var out []proxy.Site
	for i, door := range doors {
		l := listeners[i+2]
		if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			log.Warn().Stringer("listener", l.Addr()).Msg("an outbound listener beyond loopback lets other hosts call as this workload")
		}
		out = append(out, proxy.Site{Listener: l, Door: door})
	}
	s.plan.Stages = [][]proxy.Site{in, out}
	return nil
}

// callerOf returns who calls at a listener that the workloads share.
func callerOf(workloads []proxy.Workload) proxy.CallerOf {
	if len(workloads) == 1 {
		src := workloads[0].Source
		return func() (*identity.Source, *proxy.Refusal) { return src, nil }
	}
	refusal := &proxy.Refusal{
		Status: http.StatusForbidden, Code: proxy.CodeAmbiguousCaller,
		Detail: "several services share this listener; give each an outbound listener of its own",
	}
	return func() (*identity.Source, *proxy.Refusal) { return nil, refusal }
}

// advertised returns the address that peers dial.
func advertised(in Inbound, bound net.Addr) (string, error) {
	if in.Advertise != "" {
		return in.Advertise, nil
	}
	a, err := netip.ParseAddrPort(bound.String())
	if err != nil || a.Addr().IsUnspecified() {
		return "", mesh.Errorf("sidecar.New", "inbound", mesh.Invalid, "%s is no address that peers could dial", bound).
			WithHint("set inbound.advertise to this host's address and the port")
	}
	return a.String(), nil
}

// Update makes snap the snapshot that requests are decided by.
func (s *Sidecar) Update(snap *mesh.Snapshot) {
	s.engine.Update(snap)
	s.health.update(snap.Config)
}

// Instances returns what is to be registered, with the health of this moment.
// The caller must not change them.
func (s *Sidecar) Instances() []*mesh.Instance { return s.health.list() }

// Ready reports whether a configuration and valid certificates are loaded.
func (s *Sidecar) Ready() bool { return s.engine.Ready(s.admin) }

// InboundAddr returns where the inbound is bound.
func (s *Sidecar) InboundAddr() net.Addr { return s.plan.Stages[0][0].Listener.Addr() }

// OutboundAddrs returns where the outbound listeners are bound: the shared one,
// if there is one, then those of single services, then those of TCP, in the order of
// the configuration.
func (s *Sidecar) OutboundAddrs() []net.Addr {
	var out []net.Addr
	for _, site := range s.plan.Stages[1] {
		out = append(out, site.Listener.Addr())
	}
	return out
}

// AdminAddr returns where the admin port is bound.
func (s *Sidecar) AdminAddr() net.Addr { return s.plan.Admin.Listener.Addr() }

// Run serves and checks the workloads until ctx ends or a listener fails, then
// drains: first the inbound, then the outbound, which the workload may need to
// finish. When it returns, every goroutine of the sidecar has ended and every
// listener is closed.
func (s *Sidecar) Run(ctx context.Context) error {
	if s.need != nil {
		for _, upstream := range s.upstreams {
			s.need(upstream)
		}
	}
	checks, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.health.run(checks)
	}()
	err := s.engine.Run(ctx, s.plan)
	stop()
	<-ended
	return err
}

// Close releases the listeners of a sidecar that was never run.
func (s *Sidecar) Close() error { return s.engine.Discard(s.plan) }
