package mqttbridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

const (
	connectTimeout   = 10 * time.Second
	keepAlive        = 30 * time.Second
	reconnectBase    = 500 * time.Millisecond
	reconnectMax     = 10 * time.Second
	resubscribeEvery = time.Minute // filters that the broker refused
)

// ExternalConfig says which broker to take messages from.
type ExternalConfig struct {
	Address string // see Publish
	// ClientID names the session that the broker keeps while the bridge is
	// away. It must be the bridge's alone and stay the same.
	ClientID     string // default "hedgerow-bridge-<node>"
	Username     string
	PasswordFile string // read at every connection
	TLS          TLSOptions
}

// External takes messages from a broker outside the mesh: an MQTT 3.1.1 client
// with a kept session (clean session false) and manual acknowledgement.
//
// A message of QoS 1 is acknowledged after the service's 2xx and not before.
// While the service fails it is tried again here, because a broker sends an
// unacknowledged message again only at the next connection (MQTT 3.1.1, 4.4).
// A message that the service refuses for good (4xx, 3xx) is kept
// unacknowledged and tried again at the rule's slowest pace: there is nowhere
// to put it, and acknowledging would lose it. Only its own topic waits for it,
// but it holds one of the broker's in-flight places for this client
// (Mosquitto's max_inflight_messages, 20 if not set), so acknowledgements are
// sent as deliveries end and not in the order of arrival.
//
// Acknowledged without delivery are only messages that no rule matches and
// messages whose captured levels can never become a path (see Refusal): kept,
// they would let any publisher use up the broker's in-flight places.
type External struct {
	bridge *Bridge
	cfg    ExternalConfig
	server server
	up     atomic.Bool
	// mu guards closing and orders inFlight.Add before Wait. inFlight counts
	// messages handed to the bridge.
	mu       sync.Mutex
	closing  bool
	inFlight sync.WaitGroup
	// subscribed is what the broker's session holds, as far as this process
	// knows. Only Run's goroutine uses it.
	subscribed map[string]byte
	sessions   *prometheus.CounterVec // connections by result
	refused    prometheus.Counter     // subscriptions
}

// NewExternal returns the face for the broker of cfg, not connected yet.
func NewExternal(b *Bridge, cfg ExternalConfig) (*External, error) {
	s, err := parseServer(cfg.Address, cfg.TLS.used())
	if err != nil {
		return nil, err
	}
	if _, err := cfg.TLS.config(s.hostPort); err != nil {
		return nil, err
	}
	if _, err := readPassword(cfg.PasswordFile); err != nil {
		return nil, err
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "hedgerow-bridge-" + b.opts.Node
	}
	e := &External{bridge: b, cfg: cfg, server: s, subscribed: map[string]byte{}}
	e.sessions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hedgerow_bridge_broker_connections_total",
		Help: "Connections to the external broker, by result.",
	}, []string{"result"})
	e.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hedgerow_bridge_broker_subscriptions_refused_total",
		Help: "Subscriptions that the external broker refused.",
	})
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hedgerow_bridge_broker_connected",
		Help: "1 while connected to the external broker.",
	}, func() float64 {
		if e.up.Load() {
			return 1
		}
		return 0
	})
	for _, c := range []prometheus.Collector{e.sessions, e.refused, connected} {
		if err := b.opts.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("mqttbridge.NewExternal: %w", err)
		}
	}
	return e, nil
}

// Connected reports whether the broker is connected now.
func (e *External) Connected() bool { return e.up.Load() }

// Run connects, with backoff, whenever there is no connection, until ctx ends.
// It waits for the bridge's first rules before it connects at all. At the end
// it lets attempts under way finish, acknowledges those that succeed, and
// leaves the rest to the broker, whose session sends them again.
func (e *External) Run(ctx context.Context) error {
	select {
	case <-e.bridge.Ready():
	case <-ctx.Done():
		return nil
	}
	for failures := 0; e.bridge.allowed(ctx); failures++ {
		start := time.Now()
		err := e.session(ctx)
		e.up.Store(false)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errSuspended) {
			continue
		}
		if time.Since(start) > reconnectMax {
			failures = 0
		}
		delay := backoff(reconnectBase, reconnectMax, failures)
		e.bridge.log.Warn().Err(err).Str("broker", e.server.hostPort).Str("hint", mesh.HintOf(err)).
			Dur("retry_in", delay).Msg("no connection to the MQTT broker")
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	e.drain()
	return nil
}

// drain takes no more messages and waits for those under way.
func (e *External) drain() {
	e.mu.Lock()
	e.closing = true
	e.mu.Unlock()
	e.inFlight.Wait()
}

// enter counts one more message, unless the face is closing.
func (e *External) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closing {
		e.inFlight.Add(1)
	}
	return !e.closing
}

// session is one connection, from dial to loss or the end of ctx. A client
// object of the library lives as long as its connection: reconnecting here and
// not in the library tells whether the broker kept the session.
func (e *External) session(ctx context.Context) error {
	password, err := readPassword(e.cfg.PasswordFile)
	if err != nil {
		return err
	}
	var conn *watchedConn
	abort := func() bool { return true }       // ends the handshake with ctx
	connCtx, cancel := context.WithCancel(ctx) // ends with the connection: nobody can be acknowledged then
	defer cancel()
	opts := mqtt.NewClientOptions().
		AddBroker("tcp://" + e.server.hostPort).
		SetClientID(e.cfg.ClientID).SetCleanSession(false).SetProtocolVersion(4).
		SetUsername(e.cfg.Username).SetPassword(password).
		SetAutoReconnect(false).SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).SetKeepAlive(keepAlive).SetWriteTimeout(connectTimeout).
		SetOrderMatters(true).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { e.receive(ctx, connCtx, m) }).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			c, err := dial(ctx, e.server, e.cfg.TLS, connectTimeout)
			if err != nil {
				return nil, err
			}
			conn = c
			go func(lost <-chan struct{}) { <-lost; cancel() }(conn.lost)
			abort = context.AfterFunc(ctx, func() { _ = conn.Close() })
			return conn, nil
		})
	client := mqtt.NewClient(opts)
	token, _ := client.Connect().(*mqtt.ConnectToken)
	<-token.Done() // bounded by the dial's and the handshake's timeouts
	abort()
	if err := token.Error(); err != nil {
		e.sessions.WithLabelValues("failed").Inc()
		return connectError(e.server.hostPort, err)
	}
	e.sessions.WithLabelValues("connected").Inc()
	e.up.Store(true)
	if !token.SessionPresent() {
		clear(e.subscribed)
	}
	e.bridge.opts.Log.Info().Str("broker", e.server.hostPort).Bool("session_present", token.SessionPresent()).Msg("connected to the MQTT broker")
	err = e.serve(ctx, client, conn.lost)
	client.Disconnect(250)
	return err
}

// errSuspended ends a session because the node is in quarantine.
var errSuspended = errors.New("the node is in quarantine")

// serve keeps the subscriptions equal to the rules until the connection is
// lost or ctx ends. In the latter case it waits for messages under way, so
// that those which succeed are still acknowledged.
func (e *External) serve(ctx context.Context, client mqtt.Client, lost <-chan struct{}) error {
	for {
		suspended, resumed := e.bridge.Suspended()
		if suspended {
			return errSuspended
		}
		t := e.bridge.table.Load()
		if err := e.subscribe(client, t.filters, lost); err != nil {
			return err
		}
		again := time.NewTimer(resubscribeEvery)
		select {
		case <-t.replaced:
		case <-resumed: // or the contrary
		case <-again.C:
		case <-lost:
			again.Stop()
			return mesh.Errorf("mqttbridge.External", e.server.hostPort, mesh.Unavailable, "connection lost")
		case <-ctx.Done():
			again.Stop()
			e.drain()
			return nil
		}
		again.Stop()
	}
}

// receive hands one message to the bridge. The library calls it in order; it
// returns when there is room for the message, so a bridge that is full stops
// the reading. If that lasts, the keep-alive ends the connection, and the
// broker sends again what was not acknowledged.
func (e *External) receive(ctx, connCtx context.Context, m mqtt.Message) {
	msg := Message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), PacketID: m.MessageID(), Duplicate: m.Duplicate()}
	if msg.QoS == 0 {
		e.bridge.Offer(msg)
		return
	}
	it, err := e.bridge.item(ctx, msg)
	if err != nil {
		m.Ack() // unrouted, or never deliverable: see External
		return
	}
	if !e.enter() {
		return // it stays the broker's
	}
	done := func(err error) {
		defer e.inFlight.Done()
		if err == nil {
			m.Ack()
		}
	}
	if e.bridge.spools(it) {
		e.bridge.account.receive()
		e.bridge.keep(connCtx, it, done)
		return
	}
	it.done = []func(error){done}
	if e.bridge.admit(connCtx, it) != nil {
		e.inFlight.Done()
	}
}
