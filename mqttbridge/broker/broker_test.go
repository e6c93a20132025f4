package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

const topic = "devices/d1/telemetry"

// publisher publishes one message with one client and returns when it is
// acknowledged.
type publisher struct {
	name    string
	publish func(ctx context.Context, addr, topic, payload string, qos byte) error
}

func mosquittoPub(version string) publisher {
	return publisher{"mosquitto_pub " + version, func(ctx context.Context, addr, topic, payload string, qos byte) error {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(ctx, "mosquitto_pub", "-V", version, "-h", host, "-p", port,
			"-q", fmt.Sprint(qos), "-t", topic, "-m", payload).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}}
}

func publishers() []publisher {
	return []publisher{
		{"paho 3.1.1", func(ctx context.Context, addr, topic, payload string, qos byte) error {
			return mqttbridge.Publish(ctx, mqttbridge.PublishOptions{Address: addr, Topic: topic, Payload: []byte(payload), QoS: qos})
		}},
		mosquittoPub("mqttv311"),
		mosquittoPub("mqttv5"),
	}
}

func TestAcknowledgedOnlyAfterA2xx(t *testing.T) {
	for _, p := range publishers() {
		for qos := byte(1); qos <= 2; qos++ {
			t.Run(fmt.Sprintf("%s QoS %d", p.name, qos), func(t *testing.T) {
				w := start(t)
				w.set(503)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				result := make(chan error, 1)
				go func() { result <- p.publish(ctx, w.addr, topic, "x", qos) }()
				poll(t, "tried several times", func() bool { return len(w.seen()) > 3 })
				select {
				case err := <-result:
					t.Fatalf("acknowledged while the service fails (%v)", err)
				default:
				}
				w.set(201)
				if err := <-result; err != nil {
					t.Fatal(err)
				}
				if s := w.bridge.Stats(); s.Received != 1 || s.Delivered != 1 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

func TestRefusedMessages(t *testing.T) {
	for _, test := range []struct {
		name, topic string
		status      int
		code        byte
	}{
		{"the mesh denies it", topic, 403, packets.ErrNotAuthorized.Code},
		{"the service does not like it", topic, 422, packets.ErrImplementationSpecificError.Code},
		{"the service is away too long", topic, 503, packets.ErrQuotaExceeded.Code},
		{"the topic can be no path", "devices/../telemetry", 204, packets.ErrTopicNameInvalid.Code},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, func(c *Config) { c.Wait = 100 * time.Millisecond })
			w.set(test.status)
			five := connected(t, w.addr, 5, "five")
			five.send(publication(test.topic, "x", 1, 7))
			if ack := five.must(packets.Puback); ack.ReasonCode != test.code || ack.PacketID != 7 {
				t.Errorf("MQTT 5, QoS 1: PUBACK %d with %#x, want %#x", ack.PacketID, ack.ReasonCode, test.code)
			}
			five.send(publication(test.topic, "x", 2, 8))
			if ack := five.must(packets.Pubrec); ack.ReasonCode != test.code || ack.PacketID != 8 {
				t.Errorf("MQTT 5, QoS 2: PUBREC %d with %#x, want %#x", ack.PacketID, ack.ReasonCode, test.code)
			}
			w.set(204)
			five.send(publication(topic, "fine", 1, 9)) // the connection is still good
			if ack := five.must(packets.Puback); ack.ReasonCode != 0 {
				t.Errorf("PUBACK %#x", ack.ReasonCode)
			}
			w.set(test.status)
			four := connected(t, w.addr, 4, "four")
			four.send(publication(test.topic, "x", 1, 7))
			four.mustClose()
		})
	}
}

func TestNothingOvertakesARefusedMessage(t *testing.T) {
	w := start(t)
	w.set(422)
	c := connected(t, w.addr, 4, "d1")
	c.send(publication(topic, "first", 1, 1), publication(topic, "second", 1, 2))
	c.mustClose()
	if got := w.seen(); !slices.Equal(got, []string{"first"}) {
		t.Errorf("the service saw %q", got)
	}
}

func TestADeviceThatWaitsHoldsUpNobodyElse(t *testing.T) {
	w := start(t)
	w.hang = make(chan struct{})
	stuck := connected(t, w.addr, 4, "stuck")
	stuck.send(publication(topic, "x", 1, 1))
	poll(t, "waiting", func() bool { return len(w.seen()) == 1 })
	other := connected(t, w.addr, 4, "other")
	other.send(publication("elsewhere", "x", 1, 1))
	other.must(packets.Puback)
	close(w.hang)
	stuck.must(packets.Puback)
}

func TestWaitingOutlastsTheKeepAlive(t *testing.T) {
	w := start(t)
	w.hang = make(chan struct{})
	c := connected(t, w.addr, 4, "d1", func(pk *packets.Packet) { pk.Connect.Keepalive = 1 })
	c.send(publication(topic, "x", 1, 1))
	time.AfterFunc(2*time.Second, func() { close(w.hang) }) // 1.5 keep-alives are 1.5 s
	c.must(packets.Puback)
	c.send(publication(topic, "y", 1, 2))
	c.must(packets.Puback)
}

func TestADeviceThatLeavesIsNoticed(t *testing.T) {
	w := start(t)
	w.set(503)
	c := connected(t, w.addr, 4, "d1")
	c.send(publication(topic, "x", 1, 1))
	poll(t, "waiting", func() bool { return len(w.seen()) > 1 })
	_ = c.c.Close()
	poll(t, "given up", func() bool { return w.bridge.Stats().Refused[mqttbridge.ReasonSenderGone] == 1 })
}

func TestADeviceThatComesBackJoinsItsMessage(t *testing.T) {
	w := start(t)
	w.hang = make(chan struct{})
	session := func(pk *packets.Packet) { pk.Connect.Clean = false }
	first := connected(t, w.addr, 4, "d1", session)
	first.send(publication(topic, "x", 1, 1))
	poll(t, "waiting", func() bool { return len(w.seen()) == 1 })
	second := connected(t, w.addr, 4, "d1", session) // takes the session over
	for pk, err := first.receive(); err == nil; pk, err = first.receive() {
		if pk.FixedHeader.Type == packets.Puback {
			t.Fatal("acknowledged what was not delivered")
		}
	}
	dup := publication(topic, "x", 1, 1)
	dup.FixedHeader.Dup = true
	second.send(dup)
	poll(t, "joined", func() bool { return w.bridge.Stats().Duplicates == 1 })
	close(w.hang)
	second.must(packets.Puback)
	if got := w.seen(); len(got) != 1 {
		t.Errorf("the service saw %q", got)
	}
}

func TestFanOutFollowsTheDelivery(t *testing.T) {
	w := start(t)
	sub := connected(t, w.addr, 5, "sub")
	for i, filter := range []string{"devices/+/telemetry", "elsewhere"} {
		sub.send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: uint16(i + 1),
			Filters: packets.Subscriptions{{Filter: filter, Qos: 1}},
		})
		sub.must(packets.Suback)
	}
	pub := connected(t, w.addr, 4, "pub")
	for i, to := range []string{topic, "elsewhere"} {
		pub.send(publication(to, "x", 1, uint16(i+1)))
		pub.must(packets.Puback)
		if got := sub.must(packets.Publish); got.TopicName != to {
			t.Errorf("%s came, want %s", got.TopicName, to)
		}
	}
	if s := w.bridge.Stats(); s.Delivered != 1 || s.Unrouted != 1 {
		t.Errorf("%+v", s)
	}
	w.set(422)
	pub5 := connected(t, w.addr, 5, "pub5")
	pub5.send(publication(topic, "refused", 1, 1), publication("elsewhere", "next", 1, 2))
	if got := sub.must(packets.Publish); string(got.Payload) != "next" {
		t.Errorf("%s: %q came, want nothing that was refused", got.TopicName, got.Payload)
	}
}

func TestQoS0AndWills(t *testing.T) {
	w := start(t)
	c := connected(t, w.addr, 4, "d1", func(pk *packets.Packet) {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload = true, topic, []byte("will")
	})
	c.send(publication(topic, "zero", 0, 0))
	poll(t, "delivered", func() bool { return slices.Contains(w.seen(), "zero") })
	_ = c.c.Close() // without DISCONNECT
	poll(t, "delivered", func() bool { return slices.Contains(w.seen(), "will") })
}

func TestShutdown(t *testing.T) {
	w := start(t)
	w.hang = make(chan struct{})
	under := connected(t, w.addr, 4, "under-way")
	under.send(publication(topic, "x", 1, 1))
	poll(t, "under way", func() bool { return len(w.seen()) == 1 })
	time.AfterFunc(200*time.Millisecond, func() { close(w.hang) })
	w.stop()
	under.must(packets.Puback) // what was under way is finished

	w = start(t)
	w.set(503)
	waiting := connected(t, w.addr, 4, "waiting")
	waiting.send(publication(topic, "x", 1, 1))
	idle := dialRaw(t, w.addr, 4) // never sends CONNECT
	poll(t, "waiting", func() bool { return len(w.seen()) > 1 })
	begin := time.Now()
	w.stop()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	for pk, err := waiting.receive(); err == nil; pk, err = waiting.receive() {
		if pk.FixedHeader.Type == packets.Puback {
			t.Error("acknowledged what was not delivered")
		}
	}
	idle.mustClose()
}

func TestRulesFirst(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := &service{status: 204}
	bridge, err := mqttbridge.New(mqttbridge.Options{RoundTripper: s, Node: "n", Log: zerolog.Nop(), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Address: "127.0.0.1:0", AnonymousLoopback: true, Deliverer: bridge, Log: zerolog.Nop(), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	c := dialRaw(t, b.Addr().String(), 4) // the kernel accepts; nobody answers
	answered := make(chan packets.Packet)
	go func() { answered <- c.connect("d1") }()
	select {
	case <-answered:
		t.Fatal("a client was admitted before there were rules")
	case <-time.After(100 * time.Millisecond):
	}
	bridge.Update(snapshot())
	if ack := <-answered; ack.ReasonCode != 0 {
		t.Errorf("CONNACK %#x", ack.ReasonCode)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := b.Run(t.Context()); err == nil {
		t.Error("Run ran twice")
	}
}

func TestNewRefusesAnonymousClientsBeyondLoopback(t *testing.T) {
	bridge, err := mqttbridge.New(mqttbridge.Options{RoundTripper: &service{}, Node: "n", Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0"} {
		_, err := New(Config{Address: address, AnonymousLoopback: true, Deliverer: bridge, Registerer: prometheus.NewRegistry()})
		if mesh.KindOf(err) != mesh.Invalid || mesh.HintOf(err) == "" {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := New(Config{}); mesh.KindOf(err) != mesh.Invalid {
		t.Errorf("without a Deliverer: %v", err)
	}
}

func TestPublishSaysThatTheServiceDidNotAccept(t *testing.T) {
	w := start(t)
	w.set(422)
	err := mqttbridge.Publish(t.Context(), mqttbridge.PublishOptions{Address: w.addr, Topic: topic, Payload: []byte("x"), QoS: 1})
	if mesh.KindOf(err) != mesh.Unavailable || mesh.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	w.set(503)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = mqttbridge.Publish(ctx, mqttbridge.PublishOptions{Address: w.addr, Topic: topic, Payload: []byte("x"), QoS: 1})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// While its node is in quarantine the broker cuts every session and admits nobody.
func TestQuarantineCutsEverySession(t *testing.T) {
	w := start(t)
	var devices []*raw
	for i := range 3 {
		devices = append(devices, connected(t, w.addr, 4, fmt.Sprintf("d%d", i)))
	}
	denied := snapshot()
	denied.Denies = mesh.NewDenies(map[string]*mesh.Quarantine{"edge7": {}})
	w.bridge.Update(denied)
	for _, d := range devices {
		d.mustClose()
	}
	poll(t, "no sessions", func() bool { return w.broker.listener.count() == 0 })
	publish := publishers()[0].publish
	if err := publish(t.Context(), w.addr, topic, "in quarantine", 1); err == nil {
		t.Error("a device was admitted")
	}
	w.bridge.Update(snapshot())
	poll(t, "admitted again", func() bool { return publish(t.Context(), w.addr, topic, "released", 1) == nil })
	if seen := w.seen(); slices.Contains(seen, "in quarantine") || !slices.Contains(seen, "released") {
		t.Errorf("delivered: %q", seen)
	}
}
