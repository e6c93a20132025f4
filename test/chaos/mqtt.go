package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hedgerow-mesh/hedgerow/test/chaos/devices"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

// mqttActs are the rows of what devices were told is safe.
func mqttActs() []act {
	return []act{
		{"mqtt-images", "F32", "power cuts", playImages},
		{"mqtt-images", "F32", "power cuts without syncs", playUnsynced},
		{"mqtt-images", "F30", "power cuts after syncs that failed", playFailedSyncs},
		{"mqtt-kill", "F31", "SIGKILL of a bridge", playBridgeKill},
		{"mqtt-kill", "F31", "SIGKILL of a bridge that acknowledges too soon", playHasty},
		{"mqtt-full", "F29", "a bridge's disk is full", playFull},
		{"mqtt-eio", "F30", "a bridge's disk fails", playFailingDisk},
		{"mqtt-down", "F33", "the service behind a bridge is away", playAway},
		{"mqtt-broker", "M1", "restarts of an external broker", playBrokerRestart},
		{"mqtt-partition", "F35", "a bridge is cut off from its broker", playPartition},
	}
}

// settleMost is how long a bridge may take to deliver what it has.
const settleMost = 3 * time.Minute

// ledger of devices: what each was told is safe, by number.
type deposits struct {
	mu     sync.Mutex
	acked  map[int][]bool
	count  int
	last   time.Time
	widest time.Duration // the longest time without one, since watched
}

func newDeposits() *deposits { return &deposits{acked: map[int][]bool{}} }

func (d *deposits) add(device, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.acked[device]
	for len(all) <= n {
		all = append(all, false)
	}
	if !all[n] {
		all[n] = true
		d.count++
	}
	d.acked[device] = all
	now := time.Now()
	if !d.last.IsZero() {
		d.widest = max(d.widest, now.Sub(d.last))
	}
	d.last = now
}

// watch begins to look for the longest time without an acknowledgement.
func (d *deposits) watch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.widest = time.Now(), 0
}

func (d *deposits) gap() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.widest
}

func (d *deposits) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}

// receiver is the service: what it answered 2xx, and how often.
type receiver struct {
	address string
	away    atomic.Bool // it answers 503

	seed maphash.Seed
	mu   sync.Mutex
	got  map[int][]uint64 // by device and number: of the message id that came first; 0 is none
	high map[int]int      // the highest number of a device
	// again are deliveries whose message id was seen, resent those of a message that came by another
	// id: the device has sent it twice. unordered are first deliveries after a later number.
	count, again, resent, unordered, nonsense int
}

func newReceiver(t *stage.T) *receiver {
	t.Helper()
	r := &receiver{seed: maphash.MakeSeed(), got: map[int][]uint64{}, high: map[int]int{}}
	srv := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(srv.Close)
	r.address = srv.Listener.Addr().String()
	return r
}

func (r *receiver) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 64<<10))
	if r.away.Load() || err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	r.take(string(body), maphash.String(r.seed, req.Header.Get("Hedgerow-Message-Id"))|1)
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) take(text string, id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	device, n, err := devices.Parse(text)
	if err != nil || n < 0 || n > 1<<24 || strings.Trim(strings.TrimPrefix(text, devices.Text(device, n)), " x") != "" {
		r.nonsense++
		return
	}
	all := r.got[device]
	for len(all) <= n {
		all = append(all, 0)
	}
	r.got[device] = all
	switch all[n] {
	case 0:
		all[n] = id
		r.count++
		if high, ok := r.high[device]; ok && n < high {
			r.unordered++
		}
		r.high[device] = max(r.high[device], n)
	case id:
		r.again++
	default:
		r.resent++
	}
}

// counts are the figures of one moment.
func (r *receiver) counts() (distinct, again, resent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count, r.again, r.resent
}

// missing returns how many of what devices were told is safe did not come, and which of each
// device.
func (r *receiver) missing(d *deposits) (n int, which []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for device, all := range d.acked {
		got := r.got[device]
		var numbers []int
		for i, acked := range all {
			if acked && (i >= len(got) || got[i] == 0) {
				numbers = append(numbers, i)
			}
		}
		if n += len(numbers); len(numbers) > 0 {
			which = append(which, fmt.Sprintf("of device %d, of %d: %.200s", device, len(all), fmt.Sprint(numbers)))
		}
	}
	return n, which
}

// fields is a mesh of a service that devices send to, and of a bridge.
type fields struct {
	t        *stage.T
	rig      *rig.Mesh
	to       *receiver
	deposits *deposits
	bridge   *rig.Plane
}

// newFields starts the mesh but for the bridge, on the node edge.
func newFields(t *stage.T, s settings) *fields {
	t.Helper()
	f := &fields{t: t, to: newReceiver(t), deposits: newDeposits()}
	objects := []string{
		`{name: defaults/mesh, authorization: ALLOW, dialCidrs: ["127.0.0.0/8"]}`,
		`{name: services/telemetry}`, `{name: services/mqtt-bridge}`,
		`{name: nodes/telemetry, roles: [SIDECAR], services: [telemetry]}`, `{name: nodes/edge, roles: [BRIDGE], services: [mqtt-bridge]}`,
		`{name: topicRules/telemetry, filter: "devices/{device}/telemetry", device: "{device}", to: {service: telemetry, path: "/v1/devices/{device}/telemetry"}, retry: {backoff: {base: "0.1s", max: "2s"}}}`,
	}
	f.rig = rig.New(t, rig.Options{
		Binaries: s.binaries, Objects: strings.Join(objects, "\n---\n") + "\n",
		Nodes: []servers.PKINode{rig.SidecarNode("telemetry", "telemetry"), rig.SidecarNode("edge", "mqtt-bridge")},
	})
	f.rig.Sidecar(rig.Sidecar{Node: "telemetry", Service: "telemetry", Workload: f.to.address})
	return f
}

// fleet returns n devices from first on that publish to broker.
func (f *fields) fleet(broker string, first, n int) devices.Fleet {
	return devices.Fleet{Broker: broker, First: first, Count: n, Acked: f.deposits.add}
}

// begin has devices of all libraries publish, each many of each.
func (f *fields) begin(broker string, each int) (stop func()) {
	f.t.Helper()
	var stops []func() error
	for i, l := range devices.Libraries() {
		one, err := l.Start(f.t.Context(), f.fleet(broker, 100*i, each))
		if err != nil {
			f.t.Fatalf("devices of %s: %v", l.Name, err)
		}
		stops = append(stops, one)
		f.t.Cleanup(func() { _ = one() })
	}
	return func() {
		failed := make([]error, len(stops))
		var all sync.WaitGroup
		for i, one := range stops {
			all.Go(func() { failed[i] = one() })
		}
		all.Wait()
		if err := errors.Join(failed...); err != nil {
			f.t.Errorf("devices: %v", err)
		}
	}
}

// until waits until is returns true, and says how long that took.
func (f *fields) until(limit time.Duration, what string, is func() bool) time.Duration {
	f.t.Helper()
	began := time.Now()
	f.bridge.Until(limit, what, func(context.Context) error {
		if !is() {
			return fmt.Errorf("%d are acknowledged", f.deposits.total())
		}
		return nil
	})
	return time.Since(began)
}

// sum reads the bridge's account: what its invariant is off by, and what it has still to do.
func (f *fields) sum(ctx context.Context) (off, waits int, err error) {
	page, err := f.bridge.Admin.Metrics(ctx)
	if err != nil {
		return 0, 0, err
	}
	of := func(name string) int { return int(page.Sum("hedgerow_bridge_messages_" + name)) }
	spooled, inflight := of("spooled"), of("inflight")
	off = of("received_total") + of("recovered_total") - of("delivered_total") - of("dead_total") - of("refused_total") - of("dropped_total") - spooled - inflight
	return off, spooled + inflight, nil
}

// off returns what the bridge's account is off by now.
func (f *fields) off() int {
	f.t.Helper()
	off, _, err := f.sum(f.t.Context())
	if err != nil {
		f.t.Fatalf("the bridge's account: %v", err)
	}
	return off
}

// settle waits until the bridge has delivered everything, and adds what became of it to r.
func (f *fields) settle(r *row) {
	f.t.Helper()
	f.bridge.Until(settleMost, "has delivered everything", func(ctx context.Context) error {
		_, waits, err := f.sum(ctx)
		if err == nil && waits > 0 {
			err = fmt.Errorf("%d messages wait", waits)
		}
		return err
	})
	r.note("acknowledged", f.deposits.total())
	lost, which := f.to.missing(f.deposits)
	r.zero("lost", lost)
	r.blame("lost", which...)
	r.zero("account_off_by", f.off())
	_, again, resent := f.to.counts()
	r.note("delivered_again", again)
	r.note("sent_again_by_devices", resent)
	r.zero("nonsense", f.to.nonsense)
}
