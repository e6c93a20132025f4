package broker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mqttbridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the mesh and the service behind it.
type service struct {
	mu     sync.Mutex
	status int           // guarded by mu
	hang   chan struct{} // guarded by mu; requests wait for it if it is not nil
	bodies []string      // guarded by mu
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.bodies = append(s.bodies, string(body))
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &http.Response{StatusCode: s.status, Header: http.Header{}, Body: http.NoBody}, nil
}

func (s *service) set(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *service) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.bodies...)
}

func snapshot() *mesh.Snapshot {
	one := uint32(1)
	c := mesh.NewConfig()
	c.Put(&mesh.TopicRule{
		Meta: mesh.Meta{Name: "topicRules/telemetry"}, Filter: "devices/{device}/telemetry", QoS: &one,
		Direction: mesh.Uplink, Device: "{device}", Encoding: mesh.EncodingRaw, Ordering: mesh.PerTopic, Ack: mesh.AckDelivered,
		To:    &mesh.TopicTo{Service: "telemetry", Method: "POST", Path: "/v1/devices/{device}/telemetry"},
		Retry: &mesh.TopicRetry{Backoff: &mesh.Backoff{Base: mesh.Seconds(0.005), Max: mesh.Seconds(0.02)}},
	})
	return &mesh.Snapshot{Config: c}
}

// world is a broker, its bridge and the service.
type world struct {
	*service
	bridge *mqttbridge.Bridge
	broker *Broker
	addr   string
	stop   func()
}

// start runs them until the test ends or stop is called.
func start(t testing.TB, edit ...func(*Config)) *world {
	t.Helper()
	w := &world{service: &service{status: 204}}
	reg := prometheus.NewRegistry()
	var err error
	w.bridge, err = mqttbridge.New(mqttbridge.Options{RoundTripper: w.service, Node: "edge7", Log: zerolog.Nop(), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Address: "127.0.0.1:0", AnonymousLoopback: true, Deliverer: w.bridge, Log: zerolog.Nop(), Registerer: reg}
	for _, e := range edit {
		e(&cfg)
	}
	if w.broker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.addr = w.broker.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.broker.Run(ctx) }()
	go func() { done <- w.bridge.Run(ctx) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Cleanup(w.stop)
	w.bridge.Update(snapshot())
	return w
}

// poll waits until ok, or fails after a long while.
func poll(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 20s", what)
		}
	}
}

// raw is a client that sends what it likes.
type raw struct {
	t       testing.TB
	c       net.Conn
	r       *bufio.Reader
	version byte
}

func dialRaw(t testing.TB, addr string, version byte) *raw {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return &raw{t: t, c: c, r: bufio.NewReader(c), version: version}
}

// connected is a raw client whose CONNECT was accepted.
func connected(t testing.TB, addr string, version byte, id string, edit ...func(*packets.Packet)) *raw {
	t.Helper()
	c := dialRaw(t, addr, version)
	if ack := c.connect(id, edit...); ack.ReasonCode != 0 {
		t.Fatalf("CONNACK %#x", ack.ReasonCode)
	}
	return c
}

func (c *raw) connect(id string, edit ...func(*packets.Packet)) packets.Packet {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: c.version}
	pk.Connect = packets.ConnectParams{ProtocolName: []byte("MQTT"), Clean: true, ClientIdentifier: id, Keepalive: 60}
	for _, e := range edit {
		e(&pk)
	}
	c.send(pk)
	return c.must(packets.Connack)
}

func encode(t testing.TB, pk packets.Packet) []byte {
	t.Helper()
	var buf bytes.Buffer
	var err error
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&buf)
	case packets.Publish:
		err = pk.PublishEncode(&buf)
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&buf)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&buf)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&buf)
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func (c *raw) send(pks ...packets.Packet) {
	c.t.Helper()
	var all []byte
	for _, pk := range pks {
		pk.ProtocolVersion = c.version
		all = append(all, encode(c.t, pk)...)
	}
	if _, err := c.c.Write(all); err != nil {
		c.t.Fatal(err)
	}
}

func publication(topic, payload string, qos byte, id uint16) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos},
		TopicName:   topic, Payload: []byte(payload), PacketID: id,
	}
}

// receive returns the next packet; an error if the broker closed.
func (c *raw) receive() (packets.Packet, error) {
	pk := packets.Packet{ProtocolVersion: c.version}
	first, err := c.r.ReadByte()
	if err != nil {
		return pk, err
	}
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(c.r); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(c.r, body); err != nil {
		return pk, err
	}
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	}
	return pk, err
}

// must returns the next packet, which is of the type.
func (c *raw) must(packetType byte) packets.Packet {
	c.t.Helper()
	pk, err := c.receive()
	if err != nil || pk.FixedHeader.Type != packetType {
		c.t.Fatalf("got %s, %v, want %s", packets.PacketNames[pk.FixedHeader.Type], err, packets.PacketNames[packetType])
	}
	return pk
}

// mustClose fails unless the broker closes without another word.
func (c *raw) mustClose() {
	c.t.Helper()
	if pk, err := c.receive(); err == nil {
		c.t.Fatalf("got %s %#x, want the connection closed", packets.PacketNames[pk.FixedHeader.Type], pk.ReasonCode)
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("the connection stays open")
	}
}
