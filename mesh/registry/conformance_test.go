package registry_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry"
	"github.com/hedgerow-mesh/hedgerow/mesh/registry/embedded"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
	"github.com/hedgerow-mesh/hedgerow/test/signers"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests wait far more than they compute: on a machine of two cores
	// two at a time would take minutes.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen; it fails after.
const patience = 30 * time.Second

// backend is one Redis under test.
type backend struct {
	addr         string
	restartEmpty func()
	stop         func()
}

// conform runs one test of the suite against every kind of Redis: all must
// keep the same promises.
func conform(t *testing.T, test func(t *testing.T, b backend)) {
	t.Helper()
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		s, err := embedded.Start("127.0.0.1:0", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		test(t, backend{addr: s.Addr(), stop: s.Close, restartEmpty: func() {
			if err := s.RestartEmpty(); err != nil {
				t.Error(err)
			}
		}})
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		s := servers.Redis(t)
		test(t, backend{addr: s.Addr, stop: s.Kill, restartEmpty: func() { s.Restart(true) }})
	})
}

// client is a registry.Client with its metrics.
type client struct {
	*registry.Client
	reg *prometheus.Registry
}

func open(t *testing.T, addr string) client {
	t.Helper()
	return openConfig(t, registry.Config{Addresses: []string{addr}, Mesh: "test"})
}

// openTrusting opens a client that believes whom trust does.
func openTrusting(t *testing.T, addr string, trust *signing.Verifier) client {
	t.Helper()
	return openAs(t, registry.Config{Addresses: []string{addr}, Mesh: "test"}, trust)
}

func openConfig(t *testing.T, cfg registry.Config) client {
	t.Helper()
	return openAs(t, cfg, trusted.Verifier())
}

func openAs(t *testing.T, cfg registry.Config, trust *signing.Verifier) client {
	t.Helper()
	reg := prometheus.NewRegistry()
	log := zerolog.Nop()
	if testing.Verbose() {
		log = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr}).With().Timestamp().Str("test", t.Name()).Logger()
	}
	c, err := registry.Open(cfg, trust, log, reg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return client{c, reg}
}

// rejects returns hedgerow_registry_rejects_total for reason.
func (c client) rejects(t *testing.T, reason string) float64 {
	t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "hedgerow_registry_rejects_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// raw is an attacker's, or an operator's, view of Redis.
func raw(t *testing.T, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr, DisableIdentity: true, MaxRetries: 5})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const prefix = "{hedgerow:test}:"

// trusted signs the configuration of every mesh here.
var trusted = signers.New("test")

// nodes has the certificates of the nodes of every mesh here.
var nodes = signers.NewNodes()

// revisions stands for the revision log of a control plane.
type revisions struct {
	mu      sync.Mutex
	head    mesh.Head
	records mesh.Records
}

func newRevisions() *revisions { return &revisions{records: mesh.Records{}} }

// commit makes the next revision: objects by name, nil to delete.
func (l *revisions) commit(objects map[string]any) (change mesh.Change, base mesh.Head, all mesh.Records) {
	l.mu.Lock()
	defer l.mu.Unlock()
	base = l.head
	change.Puts = mesh.Records{}
	for name, o := range objects {
		if o == nil {
			change.Deletes = append(change.Deletes, name)
			continue
		}
		b, err := json.Marshal(o)
		if err != nil {
			panic(err)
		}
		change.Puts[name] = b
	}
	records := maps.Clone(l.records)
	records.Apply(change)
	change.Head = trusted.Sign(mesh.Head{Epoch: 1, Revision: base.Revision + 1, Digest: records.Digest(), Time: time.Now().UTC()})
	l.head, l.records = change.Head, records
	return change, base, records
}

func (l *revisions) source(context.Context) (mesh.Head, mesh.Records, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, l.records, nil
}

// publish commits and publishes, and fails the test unless Redis took it. On a
// machine that is busy a call may run out of its time; it may be made again.
func (l *revisions) publish(t *testing.T, c client, objects map[string]any) mesh.Head {
	t.Helper()
	change, base, all := l.commit(objects)
	want := registry.Published
	for began := time.Now(); ; {
		got, err := c.Publish(t.Context(), change, base, all)
		if err == nil && (got == registry.Published || got == want) {
			return change.Head
		}
		if mesh.KindOf(err) != mesh.Unavailable || time.Since(began) > patience {
			t.Fatalf("Publish of revision %d: %v, %v", change.Head.Revision, got, err)
		}
		want = registry.AlreadyPublished // perhaps only the answer was late
	}
}

// world is a mesh of one service on one node.
func world() map[string]any {
	return map[string]any{
		"defaults/mesh":   map[string]any{"authorization": "DENY", "dialCidrs": []string{"127.0.0.0/8"}},
		"services/orders": map[string]any{"protocol": "HTTP"},
		"nodes/n1":        map[string]any{"roles": []string{"SIDECAR"}, "services": []string{"orders"}},
	}
}

// route is a revision's difference that is easy to see.
func route(version int) map[string]any {
	return map[string]any{"routes/demo": map[string]any{
		"targets":   []string{"GATEWAY"},
		"hostnames": []string{"demo.localhost"},
		"labels":    map[string]string{"v": fmt.Sprint(version)},
		"rules":     []any{map[string]any{"name": "all", "backends": []any{map[string]any{"service": "orders", "weight": 1}}}},
	}}
}

// running runs a part until the test ends, and checks that it ends well.
func running(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run did not return within 10 s of its context's end")
		}
	})
	t.Cleanup(stop)
	return stop
}

// eventually polls until ok, and fails the test if that takes too long. It
// returns how long it took.
func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	return eventuallyWithin(t, patience, what, ok)
}

// eventuallyWithin is eventually with another limit.
func eventuallyWithin(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
	return time.Since(began)
}

// throughout fails the test if ok is false at any look during d.
func throughout(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if !ok() {
			t.Fatalf("did not hold: %s", what)
		}
	}
}

func TestOpenReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := registry.Open(registry.Config{
		Addresses: []string{"nowhere"}, Mesh: "Not A Name", TLS: registry.TLS{CertFile: "x"},
	}, trusted.Verifier(), zerolog.Nop(), prometheus.NewRegistry())
	if mesh.KindOf(err) != mesh.Invalid {
		t.Fatalf("Open: %v", err)
	}
	for _, want := range []string{"redis.addresses[0]", "mesh:", "redis.tls"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestClientOfAnAbsentRedisSaysUnavailable(t *testing.T) {
	c := open(t, fmt.Sprintf("127.0.0.1:%d", servers.FreePorts(t, 1)[0]))
	if err := c.Ping(t.Context()); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("Ping: %v", err)
	}
	if _, err := c.Head(t.Context()); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("Head: %v", err)
	}
	l := newRevisions()
	change, base, all := l.commit(world())
	if _, err := c.Publish(t.Context(), change, base, all); mesh.KindOf(err) != mesh.Unavailable {
		t.Errorf("Publish: %v", err)
	}
}

func TestMetricsAreWellFormed(t *testing.T) {
	c := open(t, "127.0.0.1:1")
	problems, err := testutil.GatherAndLint(c.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}
