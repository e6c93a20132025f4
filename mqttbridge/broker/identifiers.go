package broker

import (
	"math"
	"sync/atomic"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Client and server assign packet identifiers independently (MQTT 5, section 2.2.1). The
// library keeps both in one map: a SUBSCRIBE with the identifier of a message that is on its
// way to the client would be refused, and a PUBLISH would have that message forgotten. What
// comes in with such an identifier is processed under another one, and acknowledged under its
// own. Not so a PUBLISH of QoS 2, whose state lasts longer than one packet.

// renumber gives a packet of the client an identifier that no message to it has.
func (c *conn) renumber(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c.renumbered.came, c.renumbered.goes = 0, 0
	switch pk.FixedHeader.Type {
	case packets.Subscribe, packets.Unsubscribe:
	case packets.Publish:
		if pk.FixedHeader.Qos != 1 {
			return pk
		}
	default:
		return pk
	}
	sent, taken := cl.State.Inflight.Get(pk.PacketID)
	if !taken || sent.FixedHeader.Type == packets.Pubrec { // or what the client has sent itself
		return pk
	}
	for id := uint16(math.MaxUint16); id > 0; id-- {
		if _, taken := cl.State.Inflight.Get(id); !taken {
			c.renumbered.came, c.renumbered.goes = pk.PacketID, id
			pk.PacketID = id
			break
		}
	}
	return pk
}

// settle gives a PUBLISH of QoS 1 that was delivered the identifier 0, which no message has:
// while its service took its time, one to the client may have got the identifier that was free.
func (c *conn) settle(pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Qos == 1 {
		c.renumbered.came, c.renumbered.goes = c.cameAs(pk.PacketID), 0
		pk.PacketID = 0
	}
	return pk
}

// unsettled forgets an acknowledgement that could not be written. The library keeps it for when
// the client is back, which would take it for that of another message: the client sends again
// what was not acknowledged.
func (h *hook) unsettled(cl *mqtt.Client, c *conn, err error) {
	if err != nil && c.renumbered.came != 0 && cl.State.Inflight.Delete(c.renumbered.goes) {
		atomic.AddInt64(&h.server.Info.Inflight, -1)
	}
}

// cameAs returns the identifier with which what is processed under id came.
func (c *conn) cameAs(id uint16) uint16 {
	if c.renumbered.came != 0 && id == c.renumbered.goes {
		return c.renumbered.came
	}
	return id
}
