package role

import (
	"context"
	"errors"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/identity"
	"github.com/hedgerow-mesh/hedgerow/mesh/proxy"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge/broker"
)

// bridgeService is the service whose identity every bridge has.
const bridgeService = "mqtt-bridge"

// BridgeCommand returns `bridge`.
func BridgeCommand() *cobra.Command {
	cfg := DefaultBridge()
	return Command("bridge", "Turn MQTT messages into requests to mesh services",
		`Bridge subscribes at an MQTT broker to the topics of the mesh's topic rules and
turns each message into a request to a service, as /svc/mqtt-bridge. A message of
QoS 1 is acknowledged when it is on disk below dataDir or, by choice of its topic
rule, when the service has answered 2xx.`,
		&cfg, (*Bridge).Validate, func(ctx context.Context, cfg *Bridge) error { return RunBridge(ctx, cfg, Deps{}) })
}

// RunBridge runs a bridge until ctx ends: at the embedded broker if cfg names
// one, else at the external one.
func RunBridge(ctx context.Context, cfg *Bridge, deps Deps) error {
	p, err := newPlane(&cfg.Base, &cfg.Vault, cfg.Node, mesh.RoleBridge, deps)
	if err != nil {
		return err
	}
	id, err := mesh.ServiceID(cfg.TrustDomain, bridgeService, cfg.Node)
	if err != nil {
		return p.abandon(err)
	}
	source := p.source(id)
	engine, err := newBridgeEngine(cfg, p, source)
	if err != nil {
		return p.abandon(err)
	}
	p.face = engine
	bridge, err := newBridge(cfg, p, engine.RoundTripper(source))
	if err != nil {
		return p.abandon(errors.Join(err, engine.close()))
	}
	engine.show(bridge)
	p.use = bridge.Update
	p.lease.Broker(registry.BrokerEmbedded)
	if cfg.MQTT.Embedded.Address == "" {
		p.lease.Broker(cfg.MQTT.Address)
	}
	feed, err := bridgeFeed(cfg, p, bridge)
	if err != nil {
		return p.abandon(errors.Join(err, engine.close()))
	}
	return p.run(ctx, deps, namedPart{"bridge", bridge.Run}, namedPart{"broker", feed})
}

func newBridge(cfg *Bridge, p *plane, transport http.RoundTripper) (*mqttbridge.Bridge, error) {
	kept, err := spoolOptions(cfg, p.log)
	if err != nil {
		return nil, err
	}
	return mqttbridge.New(mqttbridge.Options{
		RoundTripper: transport, Node: cfg.Node, Spool: kept, Clock: p.clock.Check, Log: p.log, Registerer: p.reg,
	})
}

// bridgeEngine is the face of a bridge: it forwards what the bridge sends, and
// listens at the admin port alone.
type bridgeEngine struct {
	*proxy.Engine
	options proxy.AdminOptions
	plan    proxy.Plan
}

func newBridgeEngine(cfg *Bridge, p *plane, source *identity.Source) (*bridgeEngine, error) {
	engine, err := proxy.New(proxy.Options{
		Mesh: cfg.Mesh, TrustDomain: cfg.TrustDomain, Node: cfg.Node, Name: p.name, Limits: cfg.Limits, Observe: p.observe, Log: p.log, Registerer: p.reg,
		KeysDir:  p.keysDir(),
		Need:     func(service string) { p.watcher.Need(service) },
		Denies:   p.denies,
		Tokens:   p.client,
		Compiled: p.compiled,
	})
	if err != nil {
		return nil, err
	}
	listeners, err := proxy.ListenAll(cfg.Admin.Address)
	if err != nil {
		return nil, err
	}
	b := &bridgeEngine{Engine: engine, options: proxy.AdminOptions{
		Gatherer: p.reg, Sources: []*identity.Source{source}, Freshness: p.freshness,
	}}
	b.plan = proxy.Plan{
		Admin: proxy.Site{Listener: listeners[0], Handler: engine.Admin(b.options)},
		Drain: cfg.Drain,
	}
	return b, nil
}

// show adds what the admin port has of the bridge.
func (b *bridgeEngine) show(bridge *mqttbridge.Bridge) {
	b.options.More = map[string]http.Handler{"/dead-letters": bridge.DeadLetters()}
	b.plan.Admin.Handler = b.Admin(b.options)
}

// Ready implements face.
func (b *bridgeEngine) Ready() bool { return b.Engine.Ready(b.options) }

// Run implements face.
func (b *bridgeEngine) Run(ctx context.Context) error { return b.Engine.Run(ctx, b.plan) }

// close releases the admin port of a bridge that is never run.
func (b *bridgeEngine) close() error { return b.Discard(b.plan) }

// bridgeFeed returns what feeds the bridge.
func bridgeFeed(cfg *Bridge, p *plane, bridge *mqttbridge.Bridge) (func(context.Context) error, error) {
	if cfg.MQTT.Embedded.Address != "" {
		b, err := broker.New(broker.Config{
			Address: cfg.MQTT.Embedded.Address, AnonymousLoopback: cfg.MQTT.Embedded.Anonymous, Deliverer: bridge, Log: p.log, Registerer: p.reg,
		})
		if err != nil {
			return nil, err
		}
		return b.Run, nil
	}
	e, err := mqttbridge.NewExternal(bridge, mqttbridge.ExternalConfig{
		Address: cfg.MQTT.Address, ClientID: cfg.MQTT.ClientID,
		Username: cfg.MQTT.Username, PasswordFile: cfg.MQTT.PasswordFile,
		TLS: mqttbridge.TLSOptions{CAFile: cfg.MQTT.TLS.CAFile, CertFile: cfg.MQTT.TLS.CertFile, KeyFile: cfg.MQTT.TLS.KeyFile},
	})
	if err != nil {
		return nil, err
	}
	return e.Run, nil
}
