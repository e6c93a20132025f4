package role

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/sidecar"
)

// SidecarCommand returns `sidecar`.
func SidecarCommand() *cobra.Command {
	cfg := DefaultSidecar()
	return Command("sidecar", "Stand beside a workload: mTLS in, mesh routing out",
		`Sidecar registers the services of this node, takes requests for them from mesh
peers over mTLS, and takes the workload's own calls to http://<service>.mesh
into the mesh with the workload's identity.`,
		&cfg, (*Sidecar).Validate, func(ctx context.Context, cfg *Sidecar) error { return RunSidecar(ctx, cfg, Deps{}) })
}

// RunSidecar runs a sidecar until ctx ends.
func RunSidecar(ctx context.Context, cfg *Sidecar, deps Deps) error {
	p, err := newPlane(&cfg.Base, &cfg.Vault, cfg.Node, mesh.RoleSidecar, deps)
	if err != nil {
		return err
	}
	sc := sidecar.Config{
		Node:      cfg.Node,
		Inbound:   sidecar.Inbound{Address: cfg.Inbound.Address, Advertise: cfg.Inbound.Advertise},
		Outbound:  cfg.Outbound.Address,
		Admin:     cfg.Admin.Address,
		Upstreams: cfg.Upstreams,
		Drain:     cfg.Drain,
	}
	sources := map[string]*identity.Source{}
	for _, l := range cfg.Services {
		sc.Services = append(sc.Services, sidecar.Service{Service: l.Service, Address: l.Address, Labels: l.Labels, Outbound: l.Outbound})
		id, err := mesh.ServiceID(cfg.TrustDomain, l.Service, cfg.Node)
		if err != nil {
			return p.abandon(err)
		}
		sources[l.Service] = p.source(id)
	}
	for _, t := range cfg.TCP {
		sc.TCP = append(sc.TCP, sidecar.TCPUpstream{Service: t.Service, Address: t.Address, As: t.As})
	}
	s, err := sidecar.New(sc, sidecar.Options{
		Mesh: cfg.Mesh, TrustDomain: cfg.TrustDomain, Sources: sources,
		Log: p.log, Registerer: p.reg, Gatherer: p.reg, Limits: cfg.Limits, Name: p.name, Observe: p.observe,
		Changed:   p.register,
		KeysDir:   p.keysDir(),
		Need:      func(service string) { p.watcher.Need(service) },
		Denies:    p.denies,
		Tokens:    p.client,
		Compiled:  p.compiled,
		Freshness: p.freshness,
	})
	if err != nil {
		return p.abandon(err)
	}
	p.face = s
	return p.run(ctx, deps)
}

// register says what the process offers from now on.
func (p *plane) register(instances []*mesh.Instance) {
	list := make([]mesh.Instance, len(instances))
	for i, in := range instances {
		list[i] = *in
	}
	if err := p.lease.Update(list); err != nil {
		p.unregistered.Inc()
		p.log.Error().Err(err).Msg("the instances are not registered")
	}
}
