package role

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/gateway"
	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// GatewayCommand returns `gateway`.
func GatewayCommand() *cobra.Command {
	cfg := DefaultGateway()
	return Command("gateway", "Let traffic from outside into the mesh, by the routes that target it",
		`Gateway listens for HTTP from outside the mesh and forwards what the routes that
target GATEWAY name, over mTLS, as /gateway/<id>.`,
		&cfg, (*Gateway).Validate, func(ctx context.Context, cfg *Gateway) error { return RunGateway(ctx, cfg, Deps{}) })
}

// RunGateway runs a gateway until ctx ends.
func RunGateway(ctx context.Context, cfg *Gateway, deps Deps) error {
	p, err := newPlane(&cfg.Base, &cfg.Vault, cfg.Node, mesh.RoleGateway, deps)
	if err != nil {
		return err
	}
	id, err := mesh.GatewayID(cfg.TrustDomain, cfg.ID)
	if err != nil {
		return p.abandon(err)
	}
	gc := gateway.Config{ID: cfg.ID, Admin: cfg.Admin.Address, Drain: cfg.Drain}
	for i := range cfg.Listeners {
		listener, errs := cfg.Listeners[i].listener(i)
		if len(errs) > 0 {
			return p.abandon(errors.Join(errs...))
		}
		gc.Listeners = append(gc.Listeners, listener)
	}
	if err := signers(cfg.Listeners, gc.Listeners, p.issuer); err != nil {
		return p.abandon(err)
	}
	g, err := gateway.New(gc, gateway.Options{
		Mesh: cfg.Mesh, TrustDomain: cfg.TrustDomain, Node: cfg.Node, Source: p.source(id),
		Log: p.log, Registerer: p.reg, Gatherer: p.reg, Limits: cfg.Limits, Name: p.name, Observe: p.observe, DataDir: cfg.DataDir,
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
	p.face = g
	return p.run(ctx, deps)
}
