package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hedgerow-mesh/hedgerow/mesh"
	"github.com/hedgerow-mesh/hedgerow/mesh/signing"
	"github.com/hedgerow-mesh/hedgerow/test/chaos/stage"
	"github.com/hedgerow-mesh/hedgerow/test/rig"
	"github.com/hedgerow-mesh/hedgerow/test/servers"
)

const (
	// attackEvery is how often an attack is written again: heartbeats overwrite it.
	attackEvery = 50 * time.Millisecond
	// attackLeast is how long one goes on: data planes look at Redis every 5 s, and read
	// everything within as much again.
	attackLeast = 12 * time.Second
	// attackMost is how long it may take until it is counted, or has succeeded without its check.
	attackMost = 40 * time.Second
	// mendedWithin is when the control plane, once it runs again, has set everything right:
	// it compares every half minute.
	mendedWithin = 40 * time.Second
	// askMost is how long one request may take.
	askMost = 5 * time.Second
)

// redisAttack is one thing that somebody with all rights in Redis does.
type redisAttack struct {
	name   string
	reason string // by which data planes count it
	check  string // without which it succeeds; see test/chaos/unchecked
	write  func(context.Context, *owner) error
	// restart has the callee begin anew meanwhile: what it knows is on its disk.
	restart bool
}

// playOwner has everything that could be done tried on data planes that check, and then each on
// data planes from which its check was taken out.
func playOwner(t *stage.T, r *row, s settings) {
	if _, err := exec.LookPath(filepath.Join(s.binaries, unchecked, "hedgerow-edge")); err != nil {
		t.Fatalf("the program without checks: %v; run test/chaos/unchecked", err)
	}
	o := newOwner(t, s.binaries)
	attacks := attacks()
	if s.short {
		attacks = slices.DeleteFunc(attacks, func(a redisAttack) bool { return !slices.Contains(shortAttacks(), a.name) })
	}
	applied, counted := 0, 0
	for _, a := range attacks {
		got := o.play(a)
		applied += got.applied
		if got.counted {
			counted++
		}
		r.blame(a.name, got.wrong...)
	}
	o.mended(r)
	asked, failed := o.stopTraffic()
	succeeded := 0
	for _, a := range attacks {
		if err := o.control(a, filepath.Join(s.binaries, unchecked)); err != nil {
			r.blame(a.name+", without its check", err.Error())
			continue
		}
		succeeded++
	}
	r.note("attacks", len(attacks))
	r.zero("applied", applied)
	r.equal("counted_by_reason", counted, len(attacks))
	r.atLeast("requests_meanwhile", asked, 1)
	r.zero("failed", failed)
	r.equal("succeeded_without_their_check", succeeded, len(attacks))
}

// shortAttacks are one of each kind.
func shortAttacks() []string {
	return []string{"unsigned head", "rollback", "document of another node"}
}

// owner has all rights in Redis, and what was there before. For attacks that only one check
// stands against he has a signature too, as if that check were the only one.
type owner struct {
	t           *stage.T
	rig         *rig.Mesh
	redis       *redis.Client
	client      http.Client
	front, shop *rig.Plane
	reachedAs   *workloads
	traps       *traps
	mine        mine

	signer *signing.Key // the control plane's
	stolen *signing.Key // one that was revoked
	// keysBefore is what the roots said before they revoked stolen.
	keysBefore string
	// past is everything in Redis before the path was closed, and now what is true.
	past, now held
	// pastDocument is what shop registered when it was elsewhere: where the traps are now.
	pastDocument string
	nodes        map[string]*signed // certificates of nodes: shop's, and edge7's, which the owner has

	traffic *steady
}

// held is what Redis holds of the configuration.
type held struct {
	head    string
	keys    string
	records mesh.Records
}

const (
	ownerObjects = `
name: defaults/mesh
dialCidrs: ["127.0.0.0/8"]
---
{name: services/front}
---
{name: services/shop}
---
{name: services/a}
---
{name: nodes/front, roles: [SIDECAR], services: [front]}
---
{name: nodes/shop, roles: [SIDECAR], services: [shop]}
---
{name: nodes/edge7, roles: [SIDECAR], services: [a]}
---
{name: policies/shop-front, target: {service: shop}, action: ALLOW, rules: [{from: [{identities: [/svc/front]}]}]}
`
	// closing is the policy that all attacks on the configuration want to be without.
	closing = "policies/shop-admin"
	closed  = `{name: policies/shop-admin, target: {service: shop}, action: DENY, rules: [{to: [{paths: ["/admin", "/admin/**"]}]}]}`
)

func newOwner(t *stage.T, binaries string) *owner {
	t.Helper()
	o := &owner{t: t, client: http.Client{Timeout: askMost}, reachedAs: newWorkloads(t), nodes: map[string]*signed{}}
	var err error
	o.mine, err = newMine()
	o.must(err)
	nodes := []servers.PKINode{rig.SidecarNode("front", "front"), rig.SidecarNode("shop", "shop"), rig.SidecarNode("edge7", "a")}
	o.rig = rig.New(t, rig.Options{Binaries: binaries, Objects: ownerObjects, Nodes: nodes})
	o.redis = redis.NewClient(&redis.Options{Addr: o.rig.Redis.Addr})
	t.Cleanup(func() { _ = o.redis.Close() })
	for _, node := range []string{"shop", "edge7"} {
		id, err := mesh.NodeID(rig.TrustDomain, node)
		o.must(err)
		cert, err := o.rig.Certify(node, id)[0].Certificate()
		o.must(err)
		o.nodes[node] = &signed{cert}
	}
	o.steal()

	// The world as it was: the path is open, and shop at an address that is somebody else's later.
	o.startFront("")
	o.startShop("")
	o.front.Until(attackMost, "reaches what is not closed yet", func(ctx context.Context) error { return o.open(ctx) })
	o.past = o.read()
	o.pastDocument = o.get("inst:shop/SIDECAR")
	o.must(o.shop.Stop())
	o.traps = newTraps(t, o.shop.Inbound)
	o.startShop("")
	o.rig.Apply(closed)
	o.front.Until(attackMost, "does not reach what was closed", func(ctx context.Context) error { return o.shut(ctx) })
	o.must(syscall.Kill(o.rig.Control.Pid(), syscall.SIGSTOP)) // or it would mend what is attacked
	t.Cleanup(func() { _ = syscall.Kill(o.rig.Control.Pid(), syscall.SIGCONT) })
	o.now = o.read()
	o.traffic = startSteady(t, o.front.Outbound)
	return o
}

// steal has a signing key that a root delegated to, and then revoked.
func (o *owner) steal() {
	o.t.Helper()
	dir := filepath.Join(o.rig.Dir, "control")
	root, err := signing.ReadKey(filepath.Join(dir, "root", "root.key"))
	o.must(err)
	o.signer, err = signing.ReadKey(filepath.Join(dir, "signing.key"))
	o.must(err)
	roots, err := signing.ReadPublicKeys(o.rig.RootsFile())
	o.must(err)
	o.stolen, err = signing.NewKey()
	o.must(err)
	file := filepath.Join(dir, "root", "keys.json")
	raw, err := os.ReadFile(file)
	o.must(err)
	before, err := signing.Delegate(root, roots, raw, o.stolen.Public(), time.Hour, time.Now())
	o.must(err)
	after, err := signing.Revoke(root, roots, before, o.stolen.ID(), time.Now())
	o.must(err)
	o.must(signing.WriteFile(file, after))
	o.keysBefore = string(before)
	o.rig.Control.Until(attackMost, "publishes that a key was revoked", func(context.Context) error {
		if o.get("keys") != string(after) {
			return errors.New("not yet")
		}
		return nil
	})
}

func (o *owner) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *owner) startFront(from string, env ...string) {
	o.t.Helper()
	o.front = o.rig.Sidecar(rig.Sidecar{Node: "front", Service: "front", Workload: o.reachedAs.address, Watch: []string{"shop", "a"}, Binaries: from, Env: env})
}

func (o *owner) startShop(from string, env ...string) {
	o.t.Helper()
	o.shop = o.rig.Sidecar(rig.Sidecar{Node: "shop", Service: "shop", Workload: o.reachedAs.address, Binaries: from, Env: env})
}

// key is the whole name of a key of the mesh.
func key(name string) string { return "{hedgerow:" + rig.Name + "}:" + name }

func (o *owner) get(name string) string {
	o.t.Helper()
	value, err := o.redis.Get(o.t.Context(), key(name)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		o.t.Fatal(err)
	}
	return value
}

// read returns what Redis holds of the configuration.
func (o *owner) read() held {
	o.t.Helper()
	config, err := o.redis.HGetAll(o.t.Context(), key("config")).Result()
	o.must(err)
	h := held{head: o.get("head"), keys: o.get("keys"), records: mesh.Records{}}
	for name, raw := range config {
		h.records[name] = []byte(raw)
	}
	return h
}

// hold makes h what Redis holds.
func (o *owner) hold(ctx context.Context, h held) error {
	_, err := o.redis.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, key("config"))
		for name, raw := range h.records {
			p.HSet(ctx, key("config"), name, raw)
		}
		p.Set(ctx, key("head"), h.head, 0)
		p.Set(ctx, key("keys"), h.keys, 0)
		return nil
	})
	return err
}

// restore makes everything true again, as far as Redis is concerned.
func (o *owner) restore() {
	o.t.Helper()
	o.must(o.redis.Del(o.t.Context(), key("changes")).Err())
	o.must(o.hold(o.t.Context(), o.now))
}

// outcome is what one attack did.
type outcome struct {
	applied int
	counted bool
	wrong   []string
}

// play has the data planes attacked until they have counted it, and for as long as it takes
// them to look twice.
func (o *owner) play(a redisAttack) (got outcome) {
	o.t.Helper()
	o.restore()
	before, err := o.rejects(a.reason)
	o.must(err)
	trapped := o.traps.caught.Load()
	stop := o.attack(a)
	if a.restart {
		o.restartShop(&got)
	}
	began := time.Now()
	for time.Since(began) < attackMost && (time.Since(began) < attackLeast || !got.counted) {
		o.t.Pause(2 * attackEvery)
		if err := o.open(o.t.Context()); err == nil {
			got.applied++
			got.wrong = append(got.wrong, "what is closed was reached")
			break
		}
		if now, err := o.rejects(a.reason); err == nil && now > before {
			got.counted = true
		}
	}
	if err := stop(); err != nil {
		got.wrong = append(got.wrong, err.Error())
	}
	if n := o.traps.caught.Load() - trapped; n > 0 {
		got.applied++
		got.wrong = append(got.wrong, fmt.Sprintf("%d connections were made to where only the attacker said that shop is", n))
	}
	if !got.counted {
		got.wrong = append(got.wrong, fmt.Sprintf("not counted as %q in %v", a.reason, time.Since(began)))
	}
	return got
}

// restartShop has the callee begin anew, and be ready, while it is attacked. Requests that
// meet it in between are nobody's.
func (o *owner) restartShop(got *outcome) {
	o.t.Helper()
	o.traffic.pause()
	defer o.traffic.resume()
	if err := o.shop.Stop(); err != nil {
		got.wrong = append(got.wrong, err.Error())
	}
	o.startShop("")
	o.front.Until(attackMost, "reaches shop after it began anew", func(ctx context.Context) error { return o.public(ctx) })
}

// attack writes until it is stopped, which returns the first error.
func (o *owner) attack(a redisAttack) (stop func() error) {
	ctx, end := context.WithCancel(o.t.Context())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(attackEvery)
		defer tick.Stop()
		for {
			if err := a.write(ctx, o); err != nil && ctx.Err() == nil {
				done <- fmt.Errorf("the attack: %w", err)
				return
			}
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return sync.OnceValue(func() error {
		end()
		return <-done
	})
}

// control has an attack made on data planes without its check: it has to succeed.
func (o *owner) control(a redisAttack, from string) error {
	o.t.Helper()
	if err := errors.Join(o.front.Stop(), o.shop.Stop()); err != nil {
		return err
	}
	for _, node := range []string{"front", "shop"} {
		if err := os.RemoveAll(filepath.Join(o.rig.Dir, node)); err != nil {
			return err
		}
	}
	o.restore()
	env := "WITHOUT_CHECK=" + a.check
	o.startFront(from, env)
	o.startShop(from, env)
	o.front.Until(attackMost, "reaches shop", func(ctx context.Context) error { return o.public(ctx) })
	if err := o.shut(o.t.Context()); err != nil {
		return fmt.Errorf("before the attack: %w", err)
	}
	trapped := o.traps.caught.Load()
	stop := o.attack(a)
	began := time.Now()
	for time.Since(began) < attackMost {
		o.t.Pause(2 * attackEvery)
		_ = o.public(o.t.Context()) // has front dial, wherever it thinks that shop is
		if o.open(o.t.Context()) == nil || o.traps.caught.Load() > trapped {
			return stop()
		}
	}
	return errors.Join(fmt.Errorf("it has not succeeded in %v", attackMost), stop())
}

// mended lets the control plane run again: it has to set right what the last attack left, and
// what it says next is applied.
func (o *owner) mended(r *row) {
	o.t.Helper()
	o.restore()
	o.must(attacks()[0].write(o.t.Context(), o))
	o.must(syscall.Kill(o.rig.Control.Pid(), syscall.SIGCONT))
	began := time.Now()
	o.rig.Control.Until(2*mendedWithin, "has set Redis right", func(context.Context) error {
		if got := o.read(); got.records.Digest() != o.now.records.Digest() || !strings.Contains(got.head, got.records.Digest()) {
			return errors.New("not yet")
		}
		return nil
	})
	r.atMost("mended_after", time.Since(began), mendedWithin)
	o.rig.Apply(`{name: policies/shop-later, target: {service: shop}, action: DENY, rules: [{to: [{paths: ["/later", "/later/**"]}]}]}`)
	o.front.Until(attackMost, "applies what comes after", func(ctx context.Context) error { return o.want(ctx, "/later", http.StatusForbidden) })
	o.must(syscall.Kill(o.rig.Control.Pid(), syscall.SIGSTOP))
	o.now = o.read()
}

// rejects is what both data planes have counted by a reason.
func (o *owner) rejects(reason string) (float64, error) {
	sum := 0.0
	for _, p := range []*rig.Plane{o.front, o.shop} {
		n, err := p.Admin.Sum(o.t.Context(), "hedgerow_registry_rejects_total", fmt.Sprintf(`reason=%q`, reason))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// open is nil if what is closed was reached, as its workload saw it.
func (o *owner) open(ctx context.Context) error {
	before := o.reachedAs.admin.Load()
	if err := o.want(ctx, "/admin", http.StatusOK); err != nil {
		return err
	}
	if o.reachedAs.admin.Load() == before {
		return errors.New("somebody else answered")
	}
	return nil
}

func (o *owner) shut(ctx context.Context) error { return o.want(ctx, "/admin", http.StatusForbidden) }

func (o *owner) public(ctx context.Context) error { return o.want(ctx, "/", http.StatusOK) }

// want asks shop, through two sidecars, and reports another status.
func (o *owner) want(ctx context.Context, path string, status int) error {
	got, err := ask(ctx, &o.client, o.front.Outbound, path)
	if err == nil && got != status {
		err = fmt.Errorf("%s is answered %d, not %d", path, got, status)
	}
	return err
}

// ask asks shop.mesh for path, by an outbound.
func ask(ctx context.Context, client *http.Client, outbound, path string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+outbound+path, nil)
	if err != nil {
		return 0, err
	}
	req.Host = "shop.mesh"
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// workloads is what is behind front's and shop's sidecars.
type workloads struct {
	address string
	admin   atomic.Int64 // requests for what is closed
}

func newWorkloads(t *stage.T) *workloads {
	t.Helper()
	w := &workloads{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/admin") {
			w.admin.Add(1)
		}
	}))
	t.Cleanup(server.Close)
	w.address = server.Listener.Addr().String()
	return w
}

// traps are addresses at which nobody of the mesh is. Who connects there was led there.
type traps struct {
	forged string
	caught atomic.Int64
}

// newTraps listens at an address of its own and at once, where shop was.
func newTraps(t *stage.T, once string) *traps {
	t.Helper()
	tr := &traps{}
	catch := func(net.Conn) { tr.caught.Add(1) }
	tr.forged = listen(t, catch)
	listenAt(t, once, catch)
	return tr
}
