package broker

import (
	"io"
	"testing"

	mqtt "github.com/mochi-mqtt/server/v2"
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

// While a service takes its time over what a device sent, a command may go to the device under the
// identifier that the device chose.
func TestACommandMayTakeTheIdentifierOfWhatIsDelivered(t *testing.T) {
	for _, version := range []byte{4, 5} {
		hang := make(chan struct{})
		w := start(t)
		w.mu.Lock()
		w.hang = hang
		w.mu.Unlock()
		lasting := func(pk *packets.Packet) {
			pk.Connect.Clean = false
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 600, version == 5
		}
		device := connected(t, w.addr, version, "device", lasting)
		device.send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 9,
			Filters: packets.Subscriptions{{Filter: "commands/device", Qos: 1}},
		})
		device.must(packets.Suback)
		device.send(publication("devices/device/telemetry", "x", 1, 1)) // the broker numbers from 1 too
		poll(t, "waiting", func() bool { return len(w.seen()) == 1 })
		other := connected(t, w.addr, version, "other")
		other.send(publication("commands/device", "open", 1, 7))
		other.must(packets.Puback)
		command := device.must(packets.Publish) // which stays unacknowledged
		if command.PacketID != 1 {
			t.Fatalf("version %d: the command has identifier %d: the test is void", version, command.PacketID)
		}
		close(hang)
		if ack := device.must(packets.Puback); ack.PacketID != 1 || ack.ReasonCode != 0 {
			t.Errorf("version %d: PUBACK %d %#x", version, ack.PacketID, ack.ReasonCode)
		}
		_ = device.c.Close()
		again := connected(t, w.addr, version, "device", lasting)
		if pk := again.must(packets.Publish); string(pk.Payload) != "open" || pk.PacketID != 1 || !pk.FixedHeader.Dup {
			t.Errorf("version %d: after it connected again it got %q", version, pk.Payload)
		}
	}
}

// An acknowledgement that could not be written is not one of another message when the client is back.
func TestAnAcknowledgementThatWasNotWrittenIsForgotten(t *testing.T) {
	h := newHook(Config{}, mqtt.New(nil), nil)
	c := &conn{}
	cl := h.server.NewClient(nil, "", "device", false)
	cl.Net.Conn = c
	pk := c.renumber(cl, packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 5})
	pk = c.settle(pk)
	ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID}
	if got := h.OnPacketEncode(cl, ack); pk.PacketID != 0 || got.PacketID != 5 {
		t.Errorf("processed as %d, acknowledged as %d", pk.PacketID, got.PacketID)
	}
	cl.State.Inflight.Set(ack)
	h.OnPacketProcessed(cl, pk, io.ErrClosedPipe)
	if left := cl.State.Inflight.Len(); left != 0 {
		t.Errorf("%d are left", left)
	}
}
