package role

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/cmd/internal/thrift"
	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy/otlp"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
)

// Deps are parts that a role uses instead of making its own. `hedgerow up`
// gives them; the zero value is a role on its own.
type Deps struct {
	Issuer identity.Issuer // nil: the Vault of the configuration
	// Ready is called once when the role serves. May be nil.
	Ready func()
}

// leaveGrace is how long after leaving the registry a role still accepts: its
// peers need a moment to notice that it is gone.
const leaveGrace = 500 * time.Millisecond

// staleAfter is the age from which configuration is called stale: Redis
// confirms it every half minute.
const staleAfter = 45 * time.Second

// face is the part of a role that serves: sidecar.Sidecar, gateway.Gateway and,
// for a bridge, an engine without public listeners.
type face interface {
	Update(s *mesh.Snapshot)
	// Ready reports whether configuration and certificates are there.
	Ready() bool
	// Run serves until ctx ends, then drains.
	Run(ctx context.Context) error
}

// plane is what sidecar, gateway and bridge have in common: identity and
// registry.
type plane struct {
	log     zerolog.Logger
	reg     *prometheus.Registry
	base    *Base
	node    string
	name    string // "sidecar/edge7"
	issuer  identity.Issuer
	ids     *identity.Metrics
	clock   *identity.Clock
	denies  *identity.Denies
	client  *registry.Client
	watcher *registry.Watcher
	lease   *registry.Lease
	face    face // set by the role before run
	group   *Group
	sources []*identity.Source
	rotors  []*identity.Rotator
	observe proxy.Observe
	spans   *otlp.Exporter       // nil if there is no collector
	use     func(*mesh.Snapshot) // a role's own use of snapshots; may be nil
	refused uint32               // the last revision that was; the watcher's goroutine's

	own      *identity.Node // of a host that has enrolled
	password *redisPassword // likewise, if it is in Vault; may be nil

	unregistered prometheus.Counter
}

// keysDir is where the process keeps the keys of issuers: each role its own, as several of one node
// share a data directory.
func (p *plane) keysDir() string {
	role, _, _ := strings.Cut(p.name, "/")
	return filepath.Join(p.base.DataDir, "issuers-"+role)
}

// newPlane builds the parts; nothing runs yet. role is one of mesh.RoleSidecar,
// RoleGateway and RoleBridge.
func newPlane(base *Base, vault *Vault, node, role string, deps Deps) (*plane, error) {
	log, err := NewLog(os.Stderr, base.Log.Level)
	if err != nil {
		return nil, err
	}
	log = log.With().Str("node", node).Str("role", role).Logger()
	if err := os.MkdirAll(base.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --dataDir", err)
	}
	if err := base.Observe.Validate(); err != nil {
		return nil, err
	}
	p := &plane{log: log, base: base, node: node, reg: prometheus.NewRegistry(), denies: &identity.Denies{}, issuer: deps.Issuer, group: NewGroup(log)}
	p.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.unregistered = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hedgerow_role_registrations_refused_total",
		Help: "Instances that could not be registered because others would refuse them.",
	})
	p.reg.MustRegister(p.unregistered)
	if p.ids, err = identity.NewMetrics(p.reg); err != nil {
		return nil, err
	}
	p.name = strings.ToLower(role) + "/" + node
	p.observe = proxy.Observe{Access: base.Observe.AccessLog, Records: base.Observe.Decisions}
	if traces := base.Observe.Traces; traces.Endpoint != "" {
		if p.spans, err = otlp.New(otlp.Config{Endpoint: traces.Endpoint, Name: p.name, Node: node}, log, p.reg); err != nil {
			return nil, err
		}
		p.observe.Tracing = proxy.Tracing{Sample: traces.Sample, Export: p.spans.Export}
	}
	if p.issuer == nil {
		if err := p.openIssuer(base, vault, node); err != nil {
			return nil, err
		}
	}
	trust, err := openTrust(base)
	if err != nil {
		return nil, err
	}
	if p.client, err = registry.Open(base.Redis, trust, log, p.reg); err != nil {
		return nil, err
	}
	p.clock = identity.NewClock(builtAt(), func() time.Time {
		if p.watcher == nil { // it is made with the first source, which asks for the time
			return time.Time{}
		}
		return p.watcher.Status().Head.Time
	})
	id, err := mesh.NodeID(base.TrustDomain, node)
	if err != nil {
		return nil, p.abandon(err)
	}
	self := p.self(id)
	if p.lease, err = registry.NewLease(p.client, node, role, self); err != nil {
		return nil, p.abandon(err)
	}
	p.watcher = registry.NewWatcher(p.client, self.Bundle, registry.WatcherOptions{
		File:       filepath.Join(base.DataDir, "snapshot-"+strings.ToLower(role)+".json"),
		OnSnapshot: p.snapshot, OnReject: p.rejected,
	})
	return p, nil
}

// openTrust reads whose configuration is taken.
func openTrust(base *Base) (*signing.Verifier, error) {
	roots, err := signing.ReadPublicKeys(base.Trust.RootsFile)
	if err != nil {
		return nil, fmt.Errorf("trust.rootsFile: %w", err)
	}
	return signing.NewVerifier(base.Mesh, roots...)
}

// abandon closes what newPlane opened, after err.
func (p *plane) abandon(err error) error {
	return errors.Join(err, p.client.Close())
}

// snapshot hands a new snapshot on. Like rejected and compiled it runs in the
// watcher's goroutine.
func (p *plane) snapshot(s *mesh.Snapshot) {
	grace := proxy.GraceOf(s.Config, p.node)
	for _, src := range p.sources {
		src.SetGrace(grace)
	}
	p.face.Update(s)
	if p.use != nil {
		p.use(s)
	}
	p.lease.Contained(s.Config.Quarantines)
}

// rejected tells the control plane, through the lease, that a configuration was
// refused, in whole or in part.
func (p *plane) rejected(revision uint32, err error) {
	p.refused = revision
	p.lease.Rejected(revision, err.Error())
}

// compiled tells it what became of one that was not.
func (p *plane) compiled(head mesh.Head, errs []error) {
	if len(errs) > 0 {
		p.rejected(head.Revision, fmt.Errorf("%d objects are not in force: %w", len(errs), errs[0]))
		return
	}
	if p.refused != head.Revision || head.Revision == 0 {
		p.lease.Applied(head)
	}
}

// source makes the holder of one identity's certificate, which run keeps fresh.
func (p *plane) source(id mesh.ID) *identity.Source {
	s := identity.NewSource(id, p.ids)
	s.UseClock(p.clock)
	s.Heed(p.denies)
	// What cannot be read from there is asked for again, as at the first start.
	if err := s.KeepIn(filepath.Join(p.base.DataDir, "identity")); err != nil {
		p.log.Warn().Err(err).Str("hint", mesh.HintOf(err)).Msg("no identity of an earlier run")
	}
	p.sources = append(p.sources, s)
	p.rotors = append(p.rotors, identity.NewRotator(s, p.issuer, p.log))
	return s
}

// freshness says how old the configuration may be.
func (p *plane) freshness() (age time.Duration, stale bool) {
	s := p.watcher.Status()
	if s.SyncedAt.IsZero() {
		return 0, !s.Connected
	}
	age = time.Since(s.SyncedAt)
	return age, !s.Connected || age > staleAfter || registry.Withheld(s.Head, time.Now())
}

// namedPart is something that a role runs besides what every role has.
type namedPart struct {
	name string
	run  func(context.Context) error
}

// run starts what every role has and then parts in their order, waits until
// the role is ready, and enters the registry last. It returns when ctx has
// ended or a part has failed, and everything has ended in reverse order.
func (p *plane) run(ctx context.Context, deps Deps, parts ...namedPart) error {
	p.group.Go("registry client", func(ctx context.Context) error {
		<-ctx.Done()
		return p.client.Close()
	})
	for _, r := range p.rotors {
		p.group.Go("certificate", r.Run)
	}
	if p.password != nil {
		p.group.Go("redis password", func(ctx context.Context) error {
			return p.password.run(ctx, func() bool { return p.watcher.Status().Connected })
		})
	}
	p.group.Go("registry watch", p.watcher.Run)
	if p.spans != nil { // which ends after who fills it
		p.group.Go("spans", p.spans.Run)
	}
	p.group.Go("proxy", p.face.Run)
	if deps.Issuer == nil { // with others in one process it has no say
		p.group.Go("thrift", thrift.Run)
	}
	for _, part := range parts {
		p.group.Go(part.name, part.run)
	}
	if p.waitReady(ctx) {
		// Started last, so that it ends first: peers stop sending, and only
		// then does anything stop accepting.
		p.group.Go("registration", func(ctx context.Context) error {
			err := p.lease.Run(ctx)
			sleep(context.WithoutCancel(ctx), leaveGrace)
			return err
		})
		p.log.Info().Msg("serving")
		if deps.Ready != nil {
			deps.Ready()
		}
		p.group.Wait(ctx)
		p.log.Info().Msg("draining")
	}
	return p.group.Stop()
}

// waitReady waits for the first configuration and every certificate and
// reports whether they came before ctx ended or a part failed. It says every
// ten seconds what is missing.
func (p *plane) waitReady(ctx context.Context) bool {
	check := time.NewTicker(20 * time.Millisecond)
	defer check.Stop()
	said := time.Now()
	for {
		missing := p.missing()
		if missing == "" {
			return true
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			p.log.Warn().Str("missing", missing).Msg("not serving yet")
		}
		select {
		case <-ctx.Done():
			return false
		case <-p.group.Failed():
			return false
		case <-check.C:
		}
	}
}

// missing says what the role still waits for, "" if nothing.
func (p *plane) missing() string {
	for _, r := range p.rotors {
		if err := r.Ready(); err != nil {
			return err.Error()
		}
	}
	if !p.face.Ready() {
		return "configuration: the registry has none yet, or is away"
	}
	return ""
}
