package broker

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The identifiers of what a client sends and of what is sent to it have nothing to do with
// each other: a device that numbers from 1, as the broker does, loses nothing.
func TestPacketIdentifiersOfBothDirectionsAreApart(t *testing.T) {
	for _, version := range []byte{4, 5} {
		w := start(t)
		lasting := func(pk *packets.Packet) {
			pk.Connect.Clean = false
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 600, version == 5
		}
		device := connected(t, w.addr, version, "device", lasting)
		subscribe := func(filter string, id uint16) {
			t.Helper()
			device.send(packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: id,
				Filters: packets.Subscriptions{{Filter: filter, Qos: 1}},
			})
			if ack := device.must(packets.Suback); ack.PacketID != id || ack.ReasonCodes[0] != 1 {
				t.Errorf("version %d: SUBACK %d %#x for %d", version, ack.PacketID, ack.ReasonCodes, id)
			}
		}
		subscribe("commands/device", 9)
		other := connected(t, w.addr, version, "other")
		other.send(publication("commands/device", "open", 1, 1))
		other.must(packets.Puback)
		command := device.must(packets.Publish) // which stays unacknowledged
		if string(command.Payload) != "open" {
			t.Fatalf("version %d: got %q", version, command.Payload)
		}

		subscribe("more/device", command.PacketID)
		device.send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: command.PacketID,
			Filters: packets.Subscriptions{{Filter: "more/device"}},
		})
		if ack := device.must(packets.Unsuback); ack.PacketID != command.PacketID || version == 5 && ack.ReasonCodes[0] != 0 {
			t.Errorf("version %d: UNSUBACK %d %#x", version, ack.PacketID, ack.ReasonCodes)
		}
		device.send(publication("free/topic", "x", 1, command.PacketID))
		if ack := device.must(packets.Puback); ack.PacketID != command.PacketID || ack.ReasonCode != 0 {
			t.Errorf("version %d: PUBACK %d %#x", version, ack.PacketID, ack.ReasonCode)
		}
		_ = device.c.Close()
		again := connected(t, w.addr, version, "device", lasting)
		if pk := again.must(packets.Publish); string(pk.Payload) != "open" || pk.PacketID != command.PacketID || !pk.FixedHeader.Dup {
			t.Errorf("version %d: after it connected again it got %q", version, pk.Payload)
		}
	}
}
