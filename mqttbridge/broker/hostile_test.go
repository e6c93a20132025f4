package broker

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestHostileNames(t *testing.T) {
	w := start(t)
	for _, id := range []string{"#", "+", "a/b", "../", "..", "$SYS", "a\x01b", "a\\b", strings.Repeat("x", 129), strings.Repeat("x", 65000)} {
		for version, code := range map[byte]byte{4: 2, 5: 0x85} {
			c := dialRaw(t, w.addr, version)
			if ack := c.connect(id); ack.ReasonCode != code {
				t.Errorf("client id %.20q, version %d: %#x, want %#x", id, version, ack.ReasonCode, code)
			}
			c.mustClose()
		}
	}
	for _, username := range []string{"#", "a/b", "$SYS", strings.Repeat("x", 129), "somebody"} {
		for version, code := range map[byte]byte{4: 5, 5: 0x86} {
			c := dialRaw(t, w.addr, version)
			ack := c.connect("d1", func(pk *packets.Packet) {
				pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(username)
			})
			if ack.ReasonCode != code {
				t.Errorf("username %.20q, version %d: %#x, want %#x", username, version, ack.ReasonCode, code)
			}
			c.mustClose()
		}
	}
	for _, id := range []string{"a\x00b", "a\xffb"} { // not even a string of MQTT
		c := dialRaw(t, w.addr, 4)
		c.send(connectPacket(id))
		c.mustClose()
	}
}

func connectPacket(id string) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Connect},
		Connect:     packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: id},
	}
}

func TestEverybodyIsRefusedUnlessAnonymousClientsAreAdmitted(t *testing.T) {
	w := start(t, func(c *Config) { c.AnonymousLoopback = false })
	for version, code := range map[byte]byte{4: 5, 5: 0x86} {
		c := dialRaw(t, w.addr, version)
		if ack := c.connect("d1"); ack.ReasonCode != code {
			t.Errorf("version %d: %#x, want %#x", version, ack.ReasonCode, code)
		}
		c.mustClose()
	}
}

func TestHostileTopics(t *testing.T) {
	w := start(t)
	for _, test := range []struct {
		name, topic string
		code        byte // of DISCONNECT; 0: closed without one
	}{
		{"the broker's own", "$SYS/broker/uptime", 0x90},
		{"another tree of the broker", "$share/g/a", 0x90},
		{"a wildcard", "a/+/b", 0x82},
		{"all", "#", 0x82},
		{"empty", "", 0x82},
		{"65,535 levels", strings.Repeat("/", 65535), 0x90},
		{"17 levels", strings.Repeat("a/", 16) + "a", 0x90},
		{"too long", strings.Repeat("a", 1025), 0x90},
		{"NUL", "a\x00b", 0},
		{"not UTF-8", "a\xffb", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			for qos := byte(0); qos <= 2; qos++ {
				five := connected(t, w.addr, 5, "five")
				five.send(publication(test.topic, "x", qos, uint16(min(qos, 1))))
				if test.code != 0 {
					if pk := five.must(packets.Disconnect); pk.ReasonCode != test.code {
						t.Errorf("DISCONNECT %#x, want %#x", pk.ReasonCode, test.code)
					}
				}
				five.mustClose()
				four := connected(t, w.addr, 4, "four")
				four.send(publication(test.topic, "x", qos, uint16(min(qos, 1))))
				four.mustClose()
			}
		})
	}
	if s := w.bridge.Stats(); s.Received+s.Unrouted != 0 {
		t.Errorf("%+v, want nothing of it to reach the bridge", s)
	}
}

func TestSubscriptionsThatReadEverything(t *testing.T) {
	w := start(t)
	spy := connected(t, w.addr, 5, "spy")
	for i, filter := range []string{"#", "+/+", "+", "$share/g/#", "$share/g/a", "$SYS/#", "a/#/b", "a/b#", strings.Repeat("a/", 16) + "#"} {
		spy.send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: uint16(i + 1),
			Filters: packets.Subscriptions{{Filter: filter, Qos: 1}},
		})
		ack := spy.must(packets.Suback)
		if len(ack.ReasonCodes) != 1 || ack.ReasonCodes[0] != 0x87 && ack.ReasonCodes[0] != 0x8f {
			t.Errorf("%q: SUBACK %#x", filter, ack.ReasonCodes)
		}
	}
	pub := connected(t, w.addr, 4, "pub")
	pub.send(publication("a/b", "secret", 1, 1))
	pub.must(packets.Puback)
	spy.send(packets.Packet{ // an answer after the message would have come
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 99,
		Filters: packets.Subscriptions{{Filter: "c/#", Qos: 1}},
	})
	if ack := spy.must(packets.Suback); ack.ReasonCodes[0] != 1 {
		t.Errorf("an ordinary filter: SUBACK %#x", ack.ReasonCodes)
	}
	var many packets.Subscriptions
	for range maxSubscriptions + 1 {
		many = append(many, packets.Subscription{Filter: "c/d"})
	}
	spy.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 100, Filters: many})
	if pk := spy.must(packets.Disconnect); pk.ReasonCode != 0x97 {
		t.Errorf("too many filters: DISCONNECT %#x", pk.ReasonCode)
	}
}

func TestLimits(t *testing.T) {
	w := start(t)
	t.Run("a packet over 256 KiB ends the connection unread", func(t *testing.T) {
		c := connected(t, w.addr, 4, "d1")
		c.raw([]byte{0x30, 0x80, 0x80, 0x80, 0x01}) // 2 MiB to come
		c.mustClose()
	})
	t.Run("a CONNECT of 256 MiB too", func(t *testing.T) {
		c := dialRaw(t, w.addr, 4)
		c.raw([]byte{0x10, 0xff, 0xff, 0xff, 0x7f})
		c.mustClose()
	})
	t.Run("something else before CONNECT", func(t *testing.T) {
		c := dialRaw(t, w.addr, 4)
		c.send(publication("a", "x", 0, 0))
		c.mustClose()
	})
	t.Run("a second CONNECT", func(t *testing.T) {
		c := connected(t, w.addr, 5, "d1")
		c.send(connectPacket("d1"))
		if pk := c.must(packets.Disconnect); pk.ReasonCode != 0x82 {
			t.Errorf("%#x", pk.ReasonCode)
		}
	})
	t.Run("a topic alias", func(t *testing.T) {
		c := connected(t, w.addr, 5, "d1")
		pk := publication("a", "x", 0, 0)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 1, true
		c.send(pk)
		if pk := c.must(packets.Disconnect); pk.ReasonCode != 0x94 {
			t.Errorf("%#x", pk.ReasonCode)
		}
	})
	t.Run("more than 64 messages of QoS 2 without PUBREL", func(t *testing.T) {
		c := connected(t, w.addr, 5, "d1")
		for id := uint16(1); ; id++ {
			c.send(publication("a", "x", 2, id))
			pk, err := c.receive()
			if err != nil {
				t.Fatal(err)
			}
			if pk.FixedHeader.Type == packets.Disconnect {
				if pk.ReasonCode != 0x93 || id != maxInFlight+1 {
					t.Errorf("DISCONNECT %#x at message %d", pk.ReasonCode, id)
				}
				return
			}
		}
	})
	t.Run("limits are announced", func(t *testing.T) {
		c := dialRaw(t, w.addr, 5)
		p := c.connect("d1", func(pk *packets.Packet) { pk.Connect.Keepalive = 3600 }).Properties
		if p.ServerKeepAlive != maxKeepAlive || p.MaximumPacketSize != maxPacket || p.ReceiveMaximum != maxInFlight || p.TopicAliasMaximum != 0 || !p.SharedSubAvailableFlag {
			t.Errorf("CONNACK %+v", p)
		}
	})
	t.Run("a will to the broker's own topics", func(t *testing.T) {
		c := dialRaw(t, w.addr, 5)
		ack := c.connect("d1", func(pk *packets.Packet) {
			pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, "$SYS/x", []byte("x")
		})
		if ack.ReasonCode != 0x86 {
			t.Errorf("%#x", ack.ReasonCode)
		}
	})
}

func TestRetainedMessagesAreBounded(t *testing.T) {
	w := start(t)
	c := connected(t, w.addr, 4, "d1")
	for i := range maxRetained + 10 {
		pk := publication("r/"+strings.Repeat("x", i%1000)+string(rune('a'+i/1000)), "x", 1, uint16(i+1))
		pk.FixedHeader.Retain = true
		c.send(pk)
		c.must(packets.Puback)
	}
	if n := w.broker.server.Topics.Retained.Len(); n != maxRetained {
		t.Errorf("%d retained, want %d", n, maxRetained)
	}
}

func TestClientsAreBounded(t *testing.T) {
	w := start(t, func(c *Config) { c.MaxClients = 2 })
	kept := func(pk *packets.Packet) { pk.Connect.Clean = false }
	_ = connected(t, w.addr, 4, "a", kept).c.Close()
	connected(t, w.addr, 4, "b", kept)
	poll(t, "noticed", func() bool { return w.broker.listener.count() == 1 })
	c := dialRaw(t, w.addr, 4)
	if ack := c.connect("c"); ack.ReasonCode != 3 { // two sessions are kept
		t.Errorf("CONNACK %#x", ack.ReasonCode)
	}
	poll(t, "noticed", func() bool { return w.broker.listener.count() == 1 })
	connected(t, w.addr, 4, "a", kept) // its session is one of them
	dialRaw(t, w.addr, 4).mustClose()  // and two connections are open
}

func TestSilentClientsAreCutAfterFiveSeconds(t *testing.T) {
	w := start(t)
	begin := time.Now()
	silent := dialRaw(t, w.addr, 4)
	slow := dialRaw(t, w.addr, 4)
	slow.raw([]byte{0x10, 0x20, 0x00}) // the beginning of a CONNECT
	silent.mustClose()
	slow.mustClose()
	if took := time.Since(begin); took < 4*time.Second || took > 10*time.Second {
		t.Errorf("took %v, want 5s", took)
	}
}

// count returns how many connections there are.
func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// raw sends bytes.
func (c *raw) raw(b []byte) {
	c.t.Helper()
	if _, err := c.c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func TestAPacketThatTheLibraryPanicsOnEndsItsConnectionOnly(t *testing.T) {
	w := start(t)
	other := connected(t, w.addr, 4, "other")
	c := connected(t, w.addr, 5, "hostile")
	c.raw([]byte("\x82\t20\x00\x00\x00\x01\x00\x01b")) // SUBSCRIBE to "b" without options
	c.mustClose()
	other.send(publication(topic, "x", 1, 1))
	other.must(packets.Puback)
	poll(t, "forgotten", func() bool { return w.broker.server.Clients.Len() == 1 })
	if n := testutil.ToFloat64(w.broker.listener.metrics.connections.WithLabelValues("panicked")); n != 1 {
		t.Errorf("%v panics counted; if the library was mended, the recover may go", n)
	}
}

// Whatever follows a CONNECT, the broker ends that connection, keeps nothing
// of it, and serves the next one.
func FuzzPackets(f *testing.F) {
	for _, pk := range []packets.Packet{
		publication("a/b", "x", 1, 1), publication("devices/d/telemetry", "x", 2, 2),
		{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "a/#"}}},
		connectPacket("x"),
	} {
		for _, version := range []byte{4, 5} {
			pk.ProtocolVersion = version
			f.Add(version == 5, encode(f, pk))
		}
	}
	f.Add(true, []byte{0xe0, 0x02, 0x00, 0x00})
	f.Add(false, bytes.Repeat([]byte{0xc0, 0x00}, 100))
	w := start(f)
	poll(f, "serving", func() bool { // in memory from here on: a fuzzer uses up the ports
		return dialRaw(f, w.addr, 4).connect("first").ReasonCode == 0
	})
	f.Fuzz(func(t *testing.T, five bool, b []byte) {
		pk := connectPacket("fuzz")
		pk.ProtocolVersion = 4
		if five {
			pk.ProtocolVersion = 5
		}
		device, far := net.Pipe()
		done := make(chan struct{}, 1)
		c := &conn{Conn: local{far}}
		if w.broker.listener.add(c) != "" {
			t.Fatal("no room for a connection")
		}
		go w.broker.listener.serve(w.broker.server.EstablishConnection, c)
		go func() {
			_, _ = io.Copy(io.Discard, device)
			done <- struct{}{}
		}()
		if _, err := device.Write(encode(t, pk)); err != nil {
			t.Fatal(err)
		}
		_, _ = device.Write(b)
		_ = device.Close()
		<-done
		poll(t, "forgotten", func() bool {
			_, there := w.broker.server.Clients.Get("fuzz")
			return !there && w.broker.listener.count() <= 1
		})
	})
}

// local is a connection in memory that looks like one over loopback.
type local struct{ net.Conn }

func (local) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
