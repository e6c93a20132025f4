package mqttbridge

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// connect runs the external face of b until the test ends or stop is called.
func connect(t *testing.T, b *Bridge, cfg ExternalConfig) (stop func()) {
	t.Helper()
	e, err := NewExternal(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	poll(t, "connected", e.Connected)
	return stop
}

// poll waits until ok, or fails after a long while.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(5 * time.Millisecond); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 20s", what)
		}
	}
}

// publish sends at QoS 1 and fails the test if that fails.
func publish(t *testing.T, addr, topic, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := Publish(ctx, PublishOptions{Address: addr, Topic: topic, Payload: []byte(payload), QoS: 1}); err != nil {
		t.Fatalf("%v (%s)", err, mesh.HintOf(err))
	}
}

// subscribed publishes until the subscription of the bridge brings something,
// because SUBACK of a first connection comes after Connected.
func subscribed(t *testing.T, addr string, s *service, topic string) {
	t.Helper()
	poll(t, "subscribed", func() bool {
		publish(t, addr, topic, "hello")
		return len(s.all()) > 0
	})
}

// session takes over the kept session of the bridge and returns what the
// broker still has for it, up to a message that is published now.
func session(t *testing.T, addr, clientID, lastTopic string) []string {
	t.Helper()
	got := make(chan mqtt.Message, 100)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(clientID).SetCleanSession(false).
		SetAutoReconnect(false).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	token := client.Connect()
	if token.Wait(); token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer client.Disconnect(250)
	if connected, _ := token.(*mqtt.ConnectToken); !connected.SessionPresent() {
		t.Fatal("the broker kept no session")
	}
	publish(t, addr, lastTopic, "last")
	var payloads []string
	for {
		select {
		case m := <-got:
			if string(m.Payload()) == "last" {
				return payloads
			}
			if !slices.Contains(payloads, string(m.Payload())) {
				payloads = append(payloads, string(m.Payload()))
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the last message did not come")
		}
	}
}

func TestExternalAcknowledgesOnlyAfterA2xx(t *testing.T) {
	broker := servers.Mosquitto(t)
	w := newWire(t, broker.Addr)
	var early atomic.Int32
	s := newService(func(n int, r received) int {
		if n <= 4 {
			early.Add(w.pubacks.Load())
		}
		if n < 4 {
			return []int{503, 500, 429}[n-1]
		}
		return 201
	})
	b := start(t, s, telemetry(fast))
	connect(t, b, ExternalConfig{Address: w.addr})
	// Retained: the subscription brings it, whenever it is made.
	message := PublishOptions{Address: broker.Addr, Topic: topic, Payload: []byte(`{"t":21.5}`), QoS: 1, Retain: true}
	if err := Publish(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	requests := s.await(t, 4)
	poll(t, "acknowledged", func() bool { return w.pubacks.Load() > 0 })
	if early.Load() != 0 {
		t.Error("acknowledged while the service still failed")
	}
	id := requests[0].Header.Get(HeaderMessageID)
	for _, r := range requests[:4] {
		if r.Header.Get(HeaderMessageID) != id || r.Body != `{"t":21.5}` || r.URL != "http://telemetry.mesh/v1/devices/d1/telemetry" || r.Header.Get(HeaderDevice) != "d1" {
			t.Errorf("request %+v, first id %s", r, id)
		}
	}
	checkSum(t, b)
}

func TestExternalConnectionCutMidDelivery(t *testing.T) {
	broker := servers.Mosquitto(t)
	w := newWire(t, broker.Addr)
	var healthy atomic.Bool
	s := newService(func(int, received) int {
		if healthy.Load() {
			return 204
		}
		return 503
	})
	b := start(t, s, telemetry(fast))
	stop := connect(t, b, ExternalConfig{Address: w.addr, ClientID: "b"})
	subscribed(t, broker.Addr, s, topic)
	before := w.connects.Load()
	w.cut()
	poll(t, "connected again", func() bool { return w.connects.Load() > before })
	poll(t, "the repeated message joined the waiting one", func() bool { return b.Stats().Duplicates > 0 })
	if w.pubacks.Load() != 0 {
		t.Error("acknowledged before the service accepted it")
	}
	healthy.Store(true)
	poll(t, "delivered", func() bool { s := b.Stats(); return s.Delivered > 0 && s.InFlight == 0 })
	poll(t, "acknowledged", func() bool { return uint64(w.pubacks.Load()) >= b.Stats().Delivered })
	stop()
	if left := session(t, broker.Addr, "b", topic); len(left) != 0 {
		t.Errorf("the broker still had %q", left)
	}
	checkSum(t, b)
}

func TestExternalLeavesToTheBrokerWhatItCouldNotDeliver(t *testing.T) {
	broker := servers.Mosquitto(t)
	s := newService(func(_ int, r received) int {
		if strings.Contains(r.URL, "poison") {
			return 422
		}
		return 204
	})
	b := start(t, s, telemetry(fast))
	stop := connect(t, b, ExternalConfig{Address: broker.Addr, ClientID: "b"})
	subscribed(t, broker.Addr, s, "devices/good/telemetry")
	publish(t, broker.Addr, "devices/poison/telemetry", "bad")
	publish(t, broker.Addr, "devices/poison/telemetry", "behind")
	poll(t, "tried again and again", func() bool {
		n := 0
		for _, r := range s.all() {
			if r.Body == "bad" {
				n++
			}
		}
		return n > 3
	})
	publish(t, broker.Addr, "devices/good/telemetry", "good") // only the poisoned topic waits
	poll(t, "delivered", func() bool {
		return slices.ContainsFunc(s.all(), func(r received) bool { return r.Body == "good" })
	})
	poll(t, "settled", func() bool { return b.Stats().InFlight == 2 })
	stop()
	if s := checkSum(t, b); s.Refused[ReasonSenderGone] != 2 {
		t.Errorf("%+v, want the two given back", s)
	}
	if left := session(t, broker.Addr, "b", topic); !slices.Equal(left, []string{"bad", "behind"}) {
		t.Errorf("the broker still had %q", left)
	}
}

func TestExternalAcknowledgesWhatIsNobodys(t *testing.T) {
	broker := servers.Mosquitto(t)
	s := newService(nil)
	wide := telemetry(fast, func(r *mesh.TopicRule) { r.Name, r.Filter = "topicRules/wide", "all/{device}/x/#" })
	b := start(t, s, telemetry(fast), wide)
	stop := connect(t, b, ExternalConfig{Address: broker.Addr, ClientID: "b"})
	subscribed(t, broker.Addr, s, topic)
	for _, bad := range []string{"devices/../telemetry", "devices//telemetry", "devices/a\\b/telemetry"} {
		publish(t, broker.Addr, bad, "bad")
	}
	poll(t, "refused", func() bool { return b.Stats().Refused[ReasonBadCapture] == 3 })
	b.Update(snapshot(telemetry(fast))) // the rule goes; what comes before the UNSUBSCRIBE is nobody's
	publish(t, broker.Addr, "all/d1/x/y", "late")
	stop()
	if left := session(t, broker.Addr, "b", topic); len(left) != 0 {
		t.Errorf("the broker still had %q", left)
	}
	checkSum(t, b)
}

func TestRulesAreReloadedWithoutLoss(t *testing.T) {
	broker := servers.Mosquitto(t)
	s := newService(nil)
	b := start(t, s, telemetry(fast))
	connect(t, b, ExternalConfig{Address: broker.Addr})
	subscribed(t, broker.Addr, s, topic)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + broker.Addr))
	if token := client.Connect(); token.Wait() && token.Error() != nil {
		t.Fatal(token.Error())
	}
	defer client.Disconnect(250)
	// The same topics under a narrow and a wide filter, in turn.
	wide := telemetry(fast, func(r *mesh.TopicRule) { r.Filter, r.To.Path = "devices/{device}/#", "/wide/{device}" })
	const messages = 600
	for i := range messages {
		if i%50 == 25 {
			b.Update(snapshot(wide))
		} else if i%50 == 0 {
			b.Update(snapshot(telemetry(fast)))
		}
		token := client.Publish(fmt.Sprintf("devices/d%d/telemetry", i%7), 1, false, fmt.Sprint("m", i))
		if token.Wait(); token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	seen := map[string]bool{}
	poll(t, "all delivered", func() bool {
		for _, r := range s.all() {
			if strings.HasPrefix(r.Body, "m") {
				seen[r.Body] = true
			}
		}
		return len(seen) == messages
	})
	checkSum(t, b)
}

func TestExternalOutlivesItsBroker(t *testing.T) {
	broker := servers.Mosquitto(t, servers.MosquittoPersistence())
	s := newService(nil)
	b := start(t, s, telemetry(fast))
	connect(t, b, ExternalConfig{Address: broker.Addr})
	subscribed(t, broker.Addr, s, topic)
	broker.Restart()
	publish(t, broker.Addr, topic, "after") // kept by the session if the bridge is not back yet
	poll(t, "delivered after the restart", func() bool {
		return slices.ContainsFunc(s.all(), func(r received) bool { return r.Body == "after" })
	})
}

func TestExternalWaitsForRulesBeforeItConnects(t *testing.T) {
	w := newWire(t, servers.Mosquitto(t).Addr)
	b, err := New(Options{RoundTripper: newService(nil), Node: "n", Log: zerolog.Nop(), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewExternal(b, ExternalConfig{Address: w.addr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	select {
	case err := <-done:
		t.Fatalf("Run ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if w.connects.Load() != 0 {
		t.Error("connected without rules: messages would be acknowledged as nobody's")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExternalWithTLSAndPassword(t *testing.T) {
	files := servers.LoopbackTLS(t)
	broker := servers.Mosquitto(t, servers.MosquittoTLS(files, files.CAFile), servers.MosquittoUsers(map[string]string{"bridge": "secret", "dev": "pw"}))
	secret := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tls := TLSOptions{CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile}
	s := newService(nil)
	b := start(t, s, telemetry(fast))
	connect(t, b, ExternalConfig{Address: "mqtts://" + broker.Addr, Username: "bridge", PasswordFile: secret("bridge", "secret\n"), TLS: tls})
	good := PublishOptions{Address: broker.Addr, Topic: topic, Payload: []byte("x"), QoS: 1, Username: "dev", PasswordFile: secret("dev", "pw"), TLS: tls}
	poll(t, "delivered", func() bool {
		if err := Publish(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		return len(s.all()) > 0
	})
	for _, test := range []struct {
		name string
		edit func(*PublishOptions)
		kind mesh.Kind
	}{
		{"a wrong password", func(o *PublishOptions) { o.PasswordFile = secret("wrong", "no") }, mesh.Denied},
		{"no client certificate", func(o *PublishOptions) { o.TLS.CertFile, o.TLS.KeyFile = "", "" }, mesh.Unavailable},
		{"a CA that did not sign the broker", func(o *PublishOptions) { o.TLS.CAFile = servers.LoopbackTLS(t).CAFile }, mesh.Unavailable},
		{"plain TCP", func(o *PublishOptions) { o.TLS = TLSOptions{} }, mesh.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := good
			test.edit(&o)
			err := Publish(t.Context(), o)
			if err == nil || mesh.KindOf(err) != test.kind || mesh.HintOf(err) == "" {
				t.Errorf("%v (%s), want kind %s and a hint", err, mesh.HintOf(err), test.kind)
			}
		})
	}
}

func TestPublishSaysWhatIsWrong(t *testing.T) {
	dead := httptest.NewServer(http.NotFoundHandler())
	nobody := strings.TrimPrefix(dead.URL, "http://")
	dead.Close()
	for _, test := range []struct {
		name string
		o    PublishOptions
		kind mesh.Kind
		text string
	}{
		{"nobody listens", PublishOptions{Address: nobody, Topic: "a"}, mesh.Unavailable, "refused"},
		{"a wildcard", PublishOptions{Address: nobody, Topic: "a/+"}, mesh.Invalid, "wildcards"},
		{"no topic", PublishOptions{Address: nobody}, mesh.Invalid, "a topic has"},
		{"NUL", PublishOptions{Address: nobody, Topic: "a\x00"}, mesh.Invalid, "NUL"},
		{"QoS 3", PublishOptions{Address: nobody, Topic: "a", QoS: 3}, mesh.Invalid, "QoS 3"},
		{"another scheme", PublishOptions{Address: "http://" + nobody, Topic: "a"}, mesh.Invalid, "scheme"},
		{"a path", PublishOptions{Address: nobody + "/x", Topic: "a"}, mesh.Invalid, "nothing else"},
		{"no address", PublishOptions{Topic: "a"}, mesh.Invalid, "nothing else"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Publish(t.Context(), test.o)
			if err == nil || mesh.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, want kind %s with %q", err, test.kind, test.text)
			}
		})
	}
}

func TestServerAddresses(t *testing.T) {
	for _, test := range []struct {
		in, hostPort string
		tls, wantTLS bool
	}{
		{"broker", "broker:1883", false, false},
		{"broker", "broker:8883", true, true},
		{"mqtts://broker", "broker:8883", false, true},
		{"tcp://10.0.0.1:1884/", "10.0.0.1:1884", false, false},
		{"[::1]:1883", "[::1]:1883", false, false},
	} {
		s, err := parseServer(test.in, test.tls)
		if err != nil || s.hostPort != test.hostPort || s.tls != test.wantTLS {
			t.Errorf("%s: %+v, %v", test.in, s, err)
		}
	}
}

// childBroker, in the environment, makes the test binary a bridge of its own
// that delivers to childService, to be killed.
const (
	childBroker  = "HEDGEROW_TEST_BRIDGE_BROKER"
	childService = "HEDGEROW_TEST_BRIDGE_SERVICE"
)

func runChild(broker string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	target, err := url.Parse(os.Getenv(childService))
	if err != nil {
		return 1
	}
	b, err := New(Options{
		Node: "child", Log: zerolog.Nop(), Registerer: prometheus.NewRegistry(),
		RoundTripper: roundTripper(func(r *http.Request) (*http.Response, error) {
			r.URL.Host = target.Host
			return http.DefaultTransport.RoundTrip(r)
		}),
	})
	if err != nil {
		return 1
	}
	e, err := NewExternal(b, ExternalConfig{Address: broker, ClientID: "child"})
	if err != nil {
		return 1
	}
	b.Update(snapshot(telemetry(fast)))
	done := make(chan error, 2)
	go func() { done <- b.Run(ctx) }()
	go func() { done <- e.Run(ctx) }()
	if err := <-done; err != nil {
		return 1
	}
	if err := <-done; err != nil {
		return 1
	}
	return 0
}

func TestAKilledBridgeGetsTheMessageAgain(t *testing.T) {
	broker := servers.Mosquitto(t)
	s := newService(nil)
	var healthy atomic.Bool
	s.answer = func(int, received) int {
		if healthy.Load() {
			return 200
		}
		return 503
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, err := s.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(resp.StatusCode)
	}))
	defer web.Close()
	child := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childBroker+"="+broker.Addr, childService+"="+web.URL)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	first := child()
	subscribed(t, broker.Addr, s, topic)
	publish(t, broker.Addr, topic, "precious")
	poll(t, "being delivered", func() bool { return len(s.all()) > 3 })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // it was killed
	healthy.Store(true)
	before := len(s.all())
	second := child()
	poll(t, "delivered after the kill", func() bool {
		return slices.ContainsFunc(s.all()[before:], func(r received) bool { return r.Body == "precious" })
	})
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second bridge: %v", err)
	}
	if left := session(t, broker.Addr, "child", topic); len(left) != 0 {
		t.Errorf("the broker still had %q", left)
	}
}

// A bridge whose node is in quarantine leaves its broker, and comes back when the node is
// released.
func TestExternalLeavesWhileItsNodeIsInQuarantine(t *testing.T) {
	broker := servers.Mosquitto(t)
	s := newService(func(int, received) int { return 200 })
	b := start(t, s, telemetry())
	e, err := NewExternal(b, ExternalConfig{Address: broker.Addr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	subscribed(t, broker.Addr, s, "devices/d1/telemetry")
	quarantine := func(node string) *mesh.Snapshot {
		snapshot := snapshot(telemetry())
		snapshot.Denies = mesh.NewDenies(map[string]*mesh.Quarantine{node: {}})
		return snapshot
	}
	b.Update(quarantine("another"))
	arrived := func(body string) bool {
		return slices.ContainsFunc(s.all(), func(r received) bool { return r.Body == body })
	}
	publish(t, broker.Addr, "devices/d1/telemetry", "still")
	poll(t, "delivered, as others are in quarantine", func() bool { return arrived("still") })
	began := time.Now()
	b.Update(quarantine(b.opts.Node))
	poll(t, "gone", func() bool { return !e.Connected() })
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it left after %v", took)
	}
	publish(t, broker.Addr, "devices/d1/telemetry", "meanwhile")
	hold := time.NewTimer(time.Second) // longer than it waits before it connects again
	<-hold.C
	if e.Connected() || arrived("meanwhile") {
		t.Error("it takes messages in quarantine")
	}
	b.Update(snapshot(telemetry()))
	poll(t, "back", e.Connected)
	poll(t, "delivered, what the broker kept", func() bool { return arrived("meanwhile") })
}
