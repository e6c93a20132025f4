// Package broker is the embedded MQTT broker: mochi-mqtt with a hook that
// delivers messages to mesh services before they are acknowledged.
//
// A PUBLISH of QoS 1 or 2 whose topic a rule matches is acknowledged after the
// service's 2xx, then fanned out to subscribers as usual; until then its
// device, and no other, waits. If the service does not accept it in time, or
// refuses it, an MQTT 5 client gets the acknowledgement with a reason code and
// an MQTT 3.1.1 client, which has no such code, is disconnected without one.
// Other messages are ordinary broker traffic.
//
// It has no device credentials yet: all clients are refused, but for anonymous
// ones from loopback where Config.AnonymousLoopback admits them. It keeps no
// state across a restart, and it decides nothing about rules or retries.
//
// Invariant: no PUBACK or PUBREC with success is sent for a message that a rule
// matches before Deliver has returned nil for it.
package broker

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

// Limits of every client and of the broker.
const (
	DefaultAddress = "127.0.0.1:1883"
	DefaultWait    = 30 * time.Second
	DefaultClients = 1000

	maxPacket        = 256 << 10 // bytes
	maxInFlight      = 64        // unacknowledged messages each way
	maxLevels        = 16        // of a topic
	maxTopic         = 1024      // bytes
	maxClientID      = 128       // bytes
	maxKeepAlive     = 300       // seconds; longer and absent ones are shortened to it
	maxSubscriptions = 100       // per session
	maxRetained      = 1024      // topics with a retained message
	maxSessionExpiry = 3600      // seconds that a session outlives its connection
	connectTimeout   = 5 * time.Second
	writeTimeout     = 10 * time.Second
	drainTimeout     = 5 * time.Second
	readAhead        = 16 << 10 // bytes read from a device while it waits
)

// A Deliverer takes messages to services. *mqttbridge.Bridge is the one.
type Deliverer interface {
	// Deliver returns nil after the service's 2xx, mqttbridge.ErrUnrouted if
	// no rule matches, else a *mqttbridge.Refusal.
	Deliver(ctx context.Context, m mqttbridge.Message) error
	// Offer takes a message of QoS 0 without blocking.
	Offer(m mqttbridge.Message) bool
	// Ready is closed when there are rules to match.
	Ready() <-chan struct{}
	// Suspended reports whether nobody may have a session now; changed is closed
	// when that is no longer so.
	Suspended() (now bool, changed <-chan struct{})
}

var _ Deliverer = (*mqttbridge.Bridge)(nil)

// Config configures a Broker. Deliverer and Registerer are required.
type Config struct {
	Address string // default 127.0.0.1:1883; port 0 takes a free one
	// AnonymousLoopback admits clients without credentials that connect from
	// loopback. It is refused on any other address.
	AnonymousLoopback bool
	// Wait is how long a device may wait for a service before its message is
	// refused. Devices give up by themselves after their keep-alive, so much
	// longer is useless.
	Wait time.Duration // default 30s
	// MaxClients bounds connections, and sessions kept for absent clients.
	MaxClients int // default 1000
	Deliverer  Deliverer
	Log        zerolog.Logger
	Registerer prometheus.Registerer
}

// Broker is the embedded broker. It is bound after New and serves in Run.
type Broker struct {
	cfg      Config
	listener *listener
	server   *mqtt.Server
	hook     *hook
	ran      atomic.Bool
}

// New binds the address and returns the broker, which accepts once Run runs.
func New(cfg Config) (*Broker, error) {
	if cfg.Deliverer == nil || cfg.Registerer == nil {
		return nil, mesh.Errorf("broker.New", cfg.Address, mesh.Invalid, "a Deliverer and a Registerer are needed")
	}
	if cfg.Address == "" {
		cfg.Address = DefaultAddress
	}
	if cfg.Wait <= 0 {
		cfg.Wait = DefaultWait
	}
	if cfg.MaxClients <= 0 {
		cfg.MaxClients = DefaultClients
	}
	bound, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, mesh.Errorf("broker.New", cfg.Address, mesh.Unavailable, "%w", err).
			WithHint("choose another address, or stop the broker that has it")
	}
	// The address that was bound decides, not what its name looked like.
	if cfg.AnonymousLoopback && !loopback(bound.Addr()) {
		_ = bound.Close()
		return nil, mesh.Errorf("broker.New", cfg.Address, mesh.Invalid, "anonymous clients are admitted on loopback only").
			WithHint("bind 127.0.0.1, or do not admit anonymous clients")
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		_ = bound.Close()
		return nil, fmt.Errorf("broker.New: %w", err)
	}
	b := &Broker{cfg: cfg, listener: newListener(bound, cfg.MaxClients, m, cfg.Log)}
	b.server = mqtt.New(&mqtt.Options{
		Capabilities:           capabilities(cfg),
		Logger:                 newLogger(cfg.Log, m),
		SysTopicResendInterval: math.MaxInt32, // nobody may read $SYS
	})
	b.hook = newHook(cfg, b.server, m)
	b.listener.forget = b.hook.forget
	if err := b.server.AddHook(b.hook, nil); err != nil {
		_ = bound.Close()
		return nil, fmt.Errorf("broker.New: %w", err)
	}
	if err := b.server.AddListener(b.listener); err != nil {
		_ = bound.Close()
		return nil, fmt.Errorf("broker.New: %w", err)
	}
	return b, nil
}

// capabilities are what the broker grants and, to MQTT 5 clients, announces.
func capabilities(cfg Config) *mqtt.Capabilities {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClients = int64(cfg.MaxClients)
	c.MaximumClientWritesPending = 2 * maxInFlight
	c.MaximumSessionExpiryInterval = maxSessionExpiry
	c.MaximumMessageExpiryInterval = maxSessionExpiry
	c.MaximumPacketSize = maxPacket
	c.ReceiveMaximum = maxInFlight
	c.MaximumInflight = maxInFlight
	c.TopicAliasMaximum = 0  // an alias would pass the topic checks unseen
	c.SharedSubAvailable = 0 // the choice of a subscriber knows no health
	// An acknowledgement must not repeat the publisher's properties.
	c.Compatibilities.NoInheritedPropertiesOnAck = true
	return c
}

// Addr returns the bound address.
func (b *Broker) Addr() net.Addr { return b.listener.net.Addr() }

// Run serves until ctx ends, first waiting for the Deliverer's rules, because
// without them every message would be acknowledged unseen. At the end
// it lets deliveries under way finish and acknowledges them; what still waits
// for its service stays unacknowledged, so devices send it again. Then it
// disconnects everybody and closes the address. It runs once.
func (b *Broker) Run(ctx context.Context) error {
	if b.ran.Swap(true) {
		return mesh.Errorf("broker.Run", b.cfg.Address, mesh.Internal, "Run was called before")
	}
	select {
	case <-b.cfg.Deliverer.Ready():
	case <-ctx.Done():
		return b.listener.net.Close()
	}
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("broker.Run: %w", err)
	}
	b.cfg.Log.Info().Stringer("address", b.Addr()).Msg("MQTT broker listening")
	b.suspend(ctx)
	b.hook.drain(drainTimeout)
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("broker.Run: %w", err)
	}
	return nil
}

// suspend cuts everybody, and admits nobody, while that is asked for, until ctx ends.
func (b *Broker) suspend(ctx context.Context) {
	for {
		now, changed := b.cfg.Deliverer.Suspended()
		b.listener.suspend(now)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

var _ listeners.Listener = (*listener)(nil)
