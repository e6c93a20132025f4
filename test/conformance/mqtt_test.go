package conformance

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// Versions of MQTT, as CONNECT has them.
const (
	mqtt311 = 4
	mqtt5   = 5
)

// mqttMost is how long a client may take for all of its conversation.
const mqttMost = 30 * time.Second

// deviceObjects is a bridge whose messages are requests to a service.
const deviceObjects = `
name: defaults/mesh
dialCidrs: [127.0.0.0/8]
---
name: services/telemetry
---
name: services/mqtt-bridge
---
name: nodes/callee
roles: [SIDECAR]
services: [telemetry]
---
name: nodes/edge
roles: [BRIDGE]
services: [mqtt-bridge]
---
name: policies/telemetry
target: {service: telemetry}
action: ALLOW
rules: [{from: [{identities: [/svc/mqtt-bridge]}]}]
---
name: topicRules/telemetry
filter: devices/{device}/telemetry
device: "{device}"
to: {service: telemetry, path: "/v1/devices/{device}/telemetry"}
`

// recorder is the service: it notes what each device said.
type recorder struct {
	mu   sync.Mutex
	said map[string][]string // by path
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said[req.URL.Path] = append(r.said[req.URL.Path], string(body))
}

func (r *recorder) of(device string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said["/v1/devices/"+device+"/telemetry"])
}

// conversation is what a client does with a broker: as device it says three messages, which
// become requests, and three on echo/<device>, to which it subscribes; it retains one on state/<device>
// and subscribes to that afterwards. Everything is of one quality of service.
type conversation struct {
	broker string // "127.0.0.1:port"
	device string
	qos    byte
}

// spoken are the three messages.
func spoken() []string { return []string{"one", "two", "three"} }

func (c conversation) echo() string      { return "echo/" + c.device }
func (c conversation) state() string     { return "state/" + c.device }
func (c conversation) telemetry() string { return "devices/" + c.device + "/telemetry" }

// heard reports what is wrong with what came back: the echoes in order, then the state, retained.
func (c conversation) heard(topics, payloads []string, retained []bool) error {
	wantTopics := []string{c.echo(), c.echo(), c.echo(), c.state()}
	if !slices.Equal(topics, wantTopics) || !slices.Equal(payloads, append(spoken(), "on")) || !slices.Equal(retained, []bool{false, false, false, true}) {
		return fmt.Errorf("heard %q on %q, retained %v", payloads, topics, retained)
	}
	return nil
}

// TestMQTTClients has other people's clients talk to the broker of a bridge, in each version and
// quality of service that they know.
func TestMQTTClients(t *testing.T) {
	seen := &recorder{said: map[string][]string{}}
	workload := httptest.NewServer(seen)
	t.Cleanup(workload.Close)
	m := rig.New(t, rig.Options{
		Binaries: programs(t), Objects: deviceObjects,
		Nodes: []servers.PKINode{rig.SidecarNode("callee", "telemetry"), rig.SidecarNode("edge", "mqtt-bridge")},
	})
	m.Sidecar(rig.Sidecar{Node: "callee", Service: "telemetry", Workload: workload.Listener.Addr().String()})
	bridge := m.Bridge(rig.Bridge{Node: "edge"})
	script := func(program string, args ...string) func(*testing.T, conversation, int) {
		return func(t *testing.T, c conversation, version int) {
			host, port, err := net.SplitHostPort(c.broker)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(command(t, mqttMost, "", program, append(args, host, port, c.device, fmt.Sprint(version), fmt.Sprint(c.qos))...))
		}
	}
	clients := []struct {
		name     string
		versions []int
		talk     func(*testing.T, conversation, int)
	}{
		{"paho.mqtt.golang", []int{mqtt311}, talkPaho3},
		{"paho.golang", []int{mqtt5}, talkPaho5},
		{"mqtt.js", []int{mqtt311, mqtt5}, script("node", "testdata/mqtt.mjs", nodeModules(t))},
		{"python paho", []int{mqtt311, mqtt5}, script("/usr/bin/python3", "testdata/mqtt.py")},
		{"mosquitto", []int{mqtt311, mqtt5}, talkMosquitto},
	}
	for i, client := range clients {
		for _, version := range client.versions {
			for qos := range byte(3) {
				t.Run(fmt.Sprintf("%s, version %d, QoS %d", client.name, version, qos), func(t *testing.T) {
					c := conversation{broker: bridge.MQTT, device: fmt.Sprintf("d%d-%d-%d", i, version, qos), qos: qos}
					client.talk(t, c, version)
					bridge.Until(mqttMost, "has brought everything to the service", func(context.Context) error {
						if got := seen.of(c.device); !slices.Equal(got, spoken()) {
							return fmt.Errorf("the service got %q", got)
						}
						return nil
					})
				})
			}
		}
	}
}

// talkPaho3 is Eclipse's client for Go of MQTT 3.1.1.
func talkPaho3(t *testing.T, c conversation, _ int) {
	heard := make(chan mqtt.Message, 16)
	listen := func(_ mqtt.Client, m mqtt.Message) { heard <- m }
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + c.broker).SetClientID(c.device).SetProtocolVersion(mqtt311).SetOrderMatters(true))
	done := func(token mqtt.Token) {
		t.Helper()
		if !token.WaitTimeout(mqttMost) || token.Error() != nil {
			t.Fatalf("in time: %v", token.Error())
		}
	}
	done(client.Connect())
	defer client.Disconnect(250)
	done(client.Subscribe(c.echo(), c.qos, listen))
	for _, text := range spoken() {
		done(client.Publish(c.telemetry(), c.qos, false, text))
		done(client.Publish(c.echo(), c.qos, false, text))
	}
	var topics, payloads []string
	var retained []bool
	next := func() {
		t.Helper()
		select {
		case m := <-heard:
			topics, payloads, retained = append(topics, m.Topic()), append(payloads, string(m.Payload())), append(retained, m.Retained())
		case <-time.After(mqttMost):
			t.Fatalf("heard only %q", payloads)
		}
	}
	for range spoken() {
		next()
	}
	done(client.Publish(c.state(), c.qos, true, "on"))
	done(client.Subscribe(c.state(), c.qos, listen))
	next()
	if err := c.heard(topics, payloads, retained); err != nil {
		t.Error(err)
	}
	done(client.Unsubscribe(c.echo(), c.state()))
}

// talkPaho5 is Eclipse's client for Go of MQTT 5.
func talkPaho5(t *testing.T, c conversation, _ int) {
	ctx, cancel := context.WithTimeout(t.Context(), mqttMost)
	defer cancel()
	heard := make(chan *paho.Publish, 16)
	server := &url.URL{Scheme: "mqtt", Host: c.broker}
	client, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, KeepAlive: 20, CleanStartOnInitialConnection: true,
		ClientConfig: paho.ClientConfig{ClientID: c.device, OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			heard <- p.Packet
			return true, nil
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.AwaitConnection(ctx))
	subscribe := func(topic string) {
		t.Helper()
		_, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: c.qos}}})
		must(err)
	}
	publish := func(topic, text string, retain bool) {
		t.Helper()
		_, err := client.Publish(ctx, &paho.Publish{Topic: topic, QoS: c.qos, Retain: retain, Payload: []byte(text)})
		must(err)
	}
	subscribe(c.echo())
	for _, text := range spoken() {
		publish(c.telemetry(), text, false)
		publish(c.echo(), text, false)
	}
	var topics, payloads []string
	var retained []bool
	next := func() {
		t.Helper()
		select {
		case m := <-heard:
			topics, payloads, retained = append(topics, m.Topic), append(payloads, string(m.Payload)), append(retained, m.Retain)
		case <-ctx.Done():
			t.Fatalf("heard only %q", payloads)
		}
	}
	for range spoken() {
		next()
	}
	publish(c.state(), "on", true)
	subscribe(c.state())
	next()
	if err := c.heard(topics, payloads, retained); err != nil {
		t.Error(err)
	}
	_, err = client.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{c.echo(), c.state()}})
	must(err)
	must(client.Disconnect(ctx))
}

// talkMosquitto is mosquitto_pub and mosquitto_sub.
func talkMosquitto(t *testing.T, c conversation, version int) {
	host, port, err := net.SplitHostPort(c.broker)
	if err != nil {
		t.Fatal(err)
	}
	common := func(topic string) []string {
		return []string{"-h", host, "-p", port, "-V", map[int]string{mqtt311: "mqttv311", mqtt5: "mqttv5"}[version], "-q", fmt.Sprint(c.qos), "-t", topic}
	}
	publish := func(topic, text string, more ...string) {
		t.Helper()
		command(t, mqttMost, "", "mosquitto_pub", append(append(common(topic), "-m", text), more...)...)
	}
	var heard bytes.Buffer
	// A pipe has it hold back its lines otherwise.
	listener := exec.CommandContext(t.Context(), "stdbuf", append(append([]string{"-oL", "mosquitto_sub"}, common(c.echo())...), "-C", "3", "-W", "20", "-d")...)
	lines, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	subscribed, done := make(chan struct{}), make(chan error, 1)
	go func() {
		scanner := bufio.NewScanner(lines)
		for scanner.Scan() {
			switch line := scanner.Text(); {
			case strings.HasPrefix(line, "Subscribed"):
				close(subscribed)
			case !strings.HasPrefix(line, "Client "):
				fmt.Fprintln(&heard, line)
			}
		}
		done <- errors.Join(scanner.Err(), listener.Wait())
	}()
	select {
	case <-subscribed:
	case err := <-done:
		t.Fatalf("mosquitto_sub ended: %v", err)
	}
	for _, text := range spoken() {
		publish(c.telemetry(), text)
		publish(c.echo(), text)
	}
	if err := <-done; err != nil || heard.String() != "one\ntwo\nthree\n" {
		t.Errorf("heard %q, %v", heard.String(), err)
	}
	publish(c.state(), "on", "-r")
	if got := command(t, mqttMost, "", "mosquitto_sub", append(common(c.state()), "-C", "1", "-W", "20", "-F", "%r %p")...); strings.TrimSpace(got) != "1 on" {
		t.Errorf("retained: %q", got)
	}
}
