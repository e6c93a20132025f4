package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

// hook is where the broker asks us. The library calls it on the goroutine that
// reads from the client, so a method that blocks holds back that client alone.
//
// What it relies on, read in the library's processPublish: OnPublish runs
// before the acknowledgement is written, which is written before the fan-out;
// packets.ErrRejectPacket is the only error that withholds an acknowledgement,
// because for MQTT 3.1.1 any other is ignored and the message acknowledged;
// and a Code as error answers QoS 2 with PUBACK. So refusals are written here
// and ErrRejectPacket is all that is returned.
type hook struct {
	mqtt.HookBase
	cfg     Config
	server  *mqtt.Server
	metrics *metrics
	log     zerolog.Logger
	ctx     context.Context // ends when the broker does
	cancel  context.CancelFunc

	// mu guards closing and orders busy.Add before Wait. busy counts messages
	// between their arrival and the end of writing their acknowledgement.
	mu      sync.Mutex
	closing bool
	busy    sync.WaitGroup
}

var _ mqtt.Hook = (*hook)(nil)

func newHook(cfg Config, server *mqtt.Server, m *metrics) *hook {
	h := &hook{cfg: cfg, server: server, metrics: m, log: sampled(cfg.Log)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// drain takes no more messages, has nothing tried again, and waits, at most
// for limit, until those that are being delivered are acknowledged.
func (h *hook) drain(limit time.Duration) {
	h.mu.Lock()
	h.closing = true
	h.mu.Unlock()
	h.cancel()
	idle := make(chan struct{})
	go func() { // ends at the latest when Run has closed all connections
		h.busy.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-time.After(limit):
	}
}

// enter counts a message of c, unless the broker is closing.
func (h *hook) enter(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closing {
		h.busy.Add(1)
		c.busy = true
	}
	return !h.closing
}

// ID names the hook in the library's log.
func (h *hook) ID() string { return "hedgerow" }

// Provides lists the methods below.
func (h *hook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnPacketEncode,
		mqtt.OnPacketProcessed, mqtt.OnPublish, mqtt.OnWill, mqtt.OnWillSent:
		return true
	}
	return false
}

// OnConnect refuses hostile names and shortens the keep-alive. The library
// closes without a CONNACK if it returns an error, so it sends one itself.
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	code := packets.CodeSuccess
	_, known := h.server.Clients.Get(cl.ID)
	switch {
	case pk.Connect.ClientIdentifier != "" && !validName(pk.Connect.ClientIdentifier):
		code = packets.ErrClientIdentifierNotValid
	case pk.Connect.UsernameFlag && !validName(string(pk.Connect.Username)):
		code = packets.ErrBadUsernameOrPassword
	case pk.Connect.WillFlag && !validTopic(pk.Connect.WillTopic):
		code = packets.ErrBadUsernameOrPassword // of the codes that 3.1.1 has, the nearest
	case !known && h.server.Clients.Len() >= h.cfg.MaxClients:
		code = packets.ErrServerUnavailable
	}
	if code != packets.CodeSuccess {
		h.metrics.connections.WithLabelValues("refused").Inc()
		_ = h.server.SendConnack(cl, code, false, nil) // it is closed next in any case
		return code
	}
	if cl.State.Keepalive == 0 || cl.State.Keepalive > maxKeepAlive {
		cl.State.Keepalive = maxKeepAlive
		cl.State.ServerKeepalive = true // tells MQTT 5 clients
	}
	return nil
}

// OnConnectAuthenticate admits anonymous clients from loopback, if they are
// admitted at all. Credentials are refused because nobody could verify them.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, pk packets.Packet) bool {
	ok := h.cfg.AnonymousLoopback && !pk.Connect.UsernameFlag && !pk.Connect.PasswordFlag &&
		cl.Net.Conn != nil && loopback(cl.Net.Conn.RemoteAddr())
	if ok {
		h.metrics.connections.WithLabelValues("accepted").Inc()
	} else {
		h.metrics.connections.WithLabelValues("refused").Inc()
		h.log.Warn().Str("client_id", cl.ID).Str("remote", cl.Net.Remote).Msg("MQTT client refused")
	}
	return ok
}

// OnACLCheck decides which topics a client may write to and which filters it
// may read.
func (h *hook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	if write {
		return validTopic(topic)
	}
	return validFilter(topic)
}

// OnPacketRead ends connections that break a limit before the packet is
// processed. An error other than ErrRejectPacket would be ignored.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if c, ok := cl.Net.Conn.(*conn); ok && c.condemned.Load() {
		return pk, packets.ErrRejectPacket
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if h.ctx.Err() != nil {
			return pk, packets.ErrRejectPacket // not ours any more; the device sends it again
		}
		// Wildcards and empty topics are the library's to refuse, with 0x82.
		if pk.TopicName != "" && !wildcard(pk.TopicName) && !validTopic(pk.TopicName) {
			return pk, h.disconnect(cl, packets.ErrTopicNameInvalid, "topic")
		}
	case packets.Subscribe:
		if cl.State.Subscriptions.Len()+len(pk.Filters) > maxSubscriptions {
			return pk, h.disconnect(cl, packets.ErrQuotaExceeded, "subscriptions")
		}
	}
	if c, ok := cl.Net.Conn.(*conn); ok {
		pk = c.renumber(cl, pk)
	}
	return pk, nil
}

// disconnect ends the connection of a client that broke a limit, with a reason
// if its protocol has one.
func (h *hook) disconnect(cl *mqtt.Client, code packets.Code, limit string) error {
	h.metrics.limits.WithLabelValues(limit).Inc()
	if cl.Properties.ProtocolVersion == 5 {
		_ = h.server.DisconnectClient(cl, code)
	}
	return packets.ErrRejectPacket
}

// OnPacketEncode announces limits that the library has no option for, and acknowledges under
// the identifier that came.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	switch pk.FixedHeader.Type {
	case packets.Suback, packets.Unsuback, packets.Puback:
		if c, ok := cl.Net.Conn.(*conn); ok {
			pk.PacketID = c.cameAs(pk.PacketID)
		}
	}
	if pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == packets.CodeSuccess.Code {
		pk.Properties.MaximumPacketSize = maxPacket
		pk.Properties.SharedSubAvailable, pk.Properties.SharedSubAvailableFlag = 0, true
	}
	return pk
}

// OnPublish delivers the message. It returns nil when the message may be
// acknowledged and fanned out, and ErrRejectPacket when it may not.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Retain && !h.mayRetain(pk.TopicName) {
		pk.FixedHeader.Retain = false
	}
	m := mqttbridge.Message{
		Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos,
		Client: cl.ID, PacketID: pk.PacketID, Duplicate: pk.FixedHeader.Dup,
		Told: cl.Properties.ProtocolVersion >= 5,
	}
	if m.QoS == 0 {
		h.cfg.Deliverer.Offer(m)
		return pk, nil
	}
	c, ok := cl.Net.Conn.(*conn)
	if !ok || !h.enter(c) {
		return pk, packets.ErrRejectPacket // it stays the device's
	}
	m.PacketID = c.cameAs(m.PacketID)
	err := h.deliver(c, m)
	if err == nil || errors.Is(err, mqttbridge.ErrUnrouted) {
		return c.settle(pk), nil
	}
	return pk, h.refuse(cl, pk, err)
}

// deliver waits for the outcome, as long as the client is there and at most
// Config.Wait.
func (h *hook) deliver(c *conn, m mqttbridge.Message) error {
	ctx, cancel := context.WithTimeout(h.ctx, h.cfg.Wait)
	defer cancel()
	defer c.watch(cancel)()
	return h.cfg.Deliverer.Deliver(ctx, m)
}

// OnPacketProcessed follows OnPublish when the acknowledgement is written.
func (h *hook) OnPacketProcessed(cl *mqtt.Client, _ packets.Packet, err error) {
	c, ok := cl.Net.Conn.(*conn)
	if !ok {
		return
	}
	h.unsettled(cl, c, err)
	if c.busy {
		c.busy = false
		h.busy.Done()
	}
}

// forget does for a connection on which the library panicked what the library
// would have done at its end: without it the session would stay.
func (h *hook) forget(c *conn) {
	if c.busy {
		c.busy = false
		h.busy.Done()
	}
	for _, cl := range h.server.Clients.GetAll() {
		if cl.Net.Conn == c {
			cl.ClearInflights()
			h.server.UnsubscribeClient(cl)
			h.server.Clients.Delete(cl.ID)
		}
	}
}

// refuse tells the client that the message was not accepted, without
// acknowledging it: an MQTT 5 client by the reason code of the acknowledgement,
// an older one by the end of the connection.
func (h *hook) refuse(cl *mqtt.Client, pk packets.Packet, err error) error {
	refusal, ok := errors.AsType[*mqttbridge.Refusal](err)
	if !ok {
		refusal = &mqttbridge.Refusal{Reason: mqttbridge.ReasonNetwork}
	}
	if h.ctx.Err() != nil || refusal.Reason == mqttbridge.ReasonSenderGone || refusal.Reason == mqttbridge.ReasonShutdown {
		return packets.ErrRejectPacket // it keeps the message and sends it again
	}
	h.log.Warn().Str("client_id", cl.ID).Str("reason", refusal.Reason).Msg("message refused")
	if cl.Properties.ProtocolVersion < 5 {
		if c, ok := cl.Net.Conn.(*conn); ok {
			c.condemn()
		}
		return packets.ErrRejectPacket
	}
	ack := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Puback},
		PacketID:    pk.PacketID,
		ReasonCode:  reasonCode(refusal).Code,
		Properties:  packets.Properties{ReasonString: refusal.Error()},
	}
	if pk.FixedHeader.Qos == 2 {
		ack.FixedHeader.Type = packets.Pubrec
	}
	_ = cl.WritePacket(ack) // if it fails the connection is broken, and nothing was acknowledged
	return packets.ErrRejectPacket
}

// reasonCode returns what MQTT 5 calls the refusal (section 3.4.2.1).
func reasonCode(r *mqttbridge.Refusal) packets.Code {
	switch {
	case r.Reason == mqttbridge.ReasonBadCapture || r.Reason == mqttbridge.ReasonBadDevice:
		return packets.ErrTopicNameInvalid
	case r.Status == 401 || r.Status == 403:
		return packets.ErrNotAuthorized
	case r.Permanent() || r.Reason == mqttbridge.ReasonBadRule:
		return packets.ErrImplementationSpecificError
	default:
		return packets.ErrQuotaExceeded // try again later
	}
}

// OnWill keeps the will of a client from adding retained topics without limit.
func (h *hook) OnWill(_ *mqtt.Client, will mqtt.Will) (mqtt.Will, error) {
	will.Retain = will.Retain && h.mayRetain(will.TopicName)
	return will, nil
}

// OnWillSent delivers a will as QoS 0: nobody waits for it.
func (h *hook) OnWillSent(cl *mqtt.Client, pk packets.Packet) {
	h.cfg.Deliverer.Offer(mqttbridge.Message{Topic: pk.TopicName, Payload: pk.Payload, Client: cl.ID})
}

// mayRetain reports whether the topic may keep a message: it has one already,
// or there is room.
func (h *hook) mayRetain(topic string) bool {
	retained := h.server.Topics.Retained
	if _, ok := retained.Get(topic); ok || retained.Len() < maxRetained {
		return true
	}
	h.metrics.limits.WithLabelValues("retained").Inc()
	return false
}
