package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/devices"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// drainLeast is how many messages a second a bridge must deliver once its service is back.
const drainLeast = 5000

// playAway has devices publish while the service is away, and looks how it all comes afterwards.
func playAway(t *stage.T, r *row, s settings) {
	const fleet = 100
	each := pick(s, 10_000, 200)
	f := newFields(t, s)
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge"})
	f.to.away.Store(true)
	began := time.Now()
	stop, err := devices.Planned(t.Context(), f.fleet(f.bridge.MQTT, 0, fleet), devices.Plan{AtOnce: 1, Most: each, Size: 200})
	if err != nil {
		t.Fatalf("devices: %v", err)
	}
	t.Cleanup(func() { _ = stop() })
	f.until(20*time.Minute, "has acknowledged everything", func() bool { return f.deposits.total() >= fleet*each })
	r.note("acknowledged_per_second", int(float64(fleet*each)/time.Since(began).Seconds()))
	if err := f.bridge.Stop(); err != nil {
		t.Errorf("%v", err)
	}
	began = time.Now()
	f.bridge.Again()
	r.note("starts_in", short(time.Since(began)))
	if early, _, _ := f.to.counts(); early > 0 {
		t.Errorf("%d came while the service was away", early)
	}
	f.to.away.Store(false)
	took := f.until(20*time.Minute, "has delivered everything", func() bool { n, _, _ := f.to.counts(); return n >= fleet*each })
	rate := int(float64(fleet*each) / took.Seconds())
	r.limit("delivered_per_second", fmt.Sprint(rate), fmt.Sprintf(">=%d", drainLeast), rate >= drainLeast || s.short)
	r.zero("out_of_order", f.to.unordered)
	if err := stop(); err != nil {
		t.Errorf("devices: %v", err)
	}
	f.settle(r)
}

// playBrokerRestart restarts Mosquitto while devices publish by it.
func playBrokerRestart(t *stage.T, r *row, s settings) {
	f := newFields(t, s)
	broker := servers.Mosquitto(t, servers.MosquittoPersistence(), servers.MosquittoSetting("max_queued_messages", "0"))
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge", Broker: broker.Addr})
	stop := f.begin(broker.Addr, 2)
	restarts := pick(s, 10, 2)
	for range restarts {
		f.arrives()
		t.Pause(pick(s, 3*time.Second, time.Second))
		broker.Restart()
	}
	f.arrives()
	stop()
	r.note("restarts", restarts)
	f.drained()
	f.settle(r)
}

// playPartition cuts a bridge off from its broker, for a while each time.
func playPartition(t *stage.T, r *row, s settings) {
	const again = 15 * time.Second
	f := newFields(t, s)
	broker := servers.Mosquitto(t, servers.MosquittoPersistence(), servers.MosquittoSetting("max_queued_messages", "0"))
	way := newStrait(t, broker.Addr)
	f.bridge = f.rig.Bridge(rig.Bridge{Node: "edge", Broker: way.addr})
	stop := f.begin(broker.Addr, 2)
	cuts := pick(s, 5, 2)
	var longest time.Duration
	for range cuts {
		f.arrives()
		t.Pause(time.Second)
		way.set(false)
		t.Pause(pick(s, 20*time.Second, 3*time.Second))
		way.set(true)
		longest = max(longest, f.arrives())
	}
	stop()
	r.note("cuts", cuts)
	r.atMost("delivers_again_after", longest, again)
	f.drained()
	f.settle(r)
}

// arrives waits until the service gets something new, and says how long that took.
func (f *fields) arrives() time.Duration {
	f.t.Helper()
	before, _, _ := f.to.counts()
	return f.until(time.Minute, "delivers", func() bool { n, _, _ := f.to.counts(); return n > before })
}

// drained waits until what the broker had for the bridge has come, which the bridge's account
// does not know of.
func (f *fields) drained() {
	f.t.Helper()
	f.until(settleMost, "has delivered everything", func() bool { n, _ := f.to.missing(f.deposits); return n == 0 })
}

// strait is a way to a broker that can be shut.
type strait struct {
	addr string

	mu    sync.Mutex
	open  bool
	conns map[net.Conn]bool
}

func newStrait(t *stage.T, broker string) *strait {
	t.Helper()
	w := &strait{open: true, conns: map[net.Conn]bool{}}
	w.addr = listen(t, func(client net.Conn) {
		upstream, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		defer upstream.Close()
		if !w.enter(client, upstream) {
			return
		}
		defer w.leave(client, upstream)
		go func() {
			_, _ = io.Copy(client, upstream) // its end shows below
			_ = client.Close()
		}()
		_, _ = io.Copy(upstream, client)
	})
	return w
}

func (w *strait) enter(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		w.conns[c] = true
	}
	return w.open
}

func (w *strait) leave(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		delete(w.conns, c)
	}
}

// set opens it, or shuts it and cuts what is on its way.
func (w *strait) set(open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = open
	for c := range w.conns {
		if !open {
			_ = c.Close()
		}
	}
}
