package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vault is a Trust and a Store in memory, which may be away.
type vault struct {
	mu     sync.Mutex
	away   error
	nodes  map[string]Grant
	tokens map[string]time.Time // unused ones by accessor: when they end
	joins  map[string]Join
	puts   int
	made   int
}

func newVault() *vault {
	return &vault{nodes: map[string]Grant{}, tokens: map[string]time.Time{}, joins: map[string]Join{}}
}

func (v *vault) do(f func()) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away == nil {
		f()
	}
	return v.away
}

func (v *vault) leave(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = err
}

// use unwraps the token of an accessor.
func (v *vault) use(accessor string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.tokens, accessor)
}

// count returns how often a node was put.
func (v *vault) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.puts
}

func (v *vault) has() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for _, node := range slices.Sorted(maps.Keys(v.nodes)) {
		out = append(out, node+"="+strings.Join(v.nodes[node].IDs, ","))
	}
	return out
}

func (v *vault) Put(_ context.Context, g Grant) error {
	return v.do(func() { v.nodes[g.Node] = g; v.puts++ })
}

func (v *vault) Withdraw(_ context.Context, node string) error {
	return v.do(func() { delete(v.nodes, node) })
}

func (v *vault) Nodes(context.Context) (out []string, err error) {
	err = v.do(func() { out = slices.Collect(maps.Keys(v.nodes)) })
	return out, err
}

func (v *vault) Invite(_ context.Context, node, replaces string) (inv Invitation, err error) {
	err = v.do(func() {
		delete(v.tokens, replaces)
		v.made++
		inv = Invitation{Token: fmt.Sprintf("%s-%d", node, v.made), Accessor: fmt.Sprintf("a%d", v.made), RoleID: node, Expires: time.Now().Add(15 * time.Minute)}
		v.tokens[inv.Accessor] = inv.Expires
	})
	return inv, err
}

func (v *vault) Unused(_ context.Context, accessor string) (unused bool, err error) {
	err = v.do(func() {
		end, ok := v.tokens[accessor]
		unused = ok && time.Now().Before(end)
	})
	return unused, err
}

func (v *vault) Joins(context.Context) (out []Join, err error) {
	err = v.do(func() { out = slices.Collect(maps.Values(v.joins)) })
	return out, err
}

func (v *vault) SaveJoin(_ context.Context, j Join) error {
	return v.do(func() { v.joins[j.Node] = j })
}

func (v *vault) DeleteJoin(_ context.Context, node string) error {
	return v.do(func() { delete(v.joins, node) })
}

// plane is a control plane under test.
type plane struct {
	*Manager
	t     *testing.T
	vault *vault
	pass  func(time.Duration) // has time go by in the bubble

	mu     sync.Mutex
	wanted map[string]Grant
	known  bool
}

func newPlane(t *testing.T, v *vault, nodes ...string) *plane {
	t.Helper()
	p := &plane{t: t, vault: v, wanted: map[string]Grant{}, known: true}
	for _, node := range nodes {
		p.wanted[node] = grant(node)
	}
	m, err := New(Options{Trust: v, Store: v, Log: zerolog.Nop(), Metrics: prometheus.NewRegistry(), Wanted: func() (map[string]Grant, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return maps.Clone(p.wanted), p.known
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.Manager = m
	return p
}

func grant(node string, more ...string) Grant {
	return Grant{Node: node, IDs: append([]string{"/" + node}, more...)}
}

// start runs p until the returned function is called.
func (p *plane) start() (stop func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			p.t.Error(err)
		}
	}()
	synctest.Wait()
	return func() { cancel(); <-done }
}

func (p *plane) want(change func(map[string]Grant)) {
	p.mu.Lock()
	change(p.wanted)
	p.mu.Unlock()
	p.Changed()
	synctest.Wait()
}

func (p *plane) join(node string) Invitation {
	p.t.Helper()
	inv, err := p.Join(p.t.Context(), grant(node))
	if err != nil {
		p.t.Fatal(err)
	}
	return inv
}

func (p *plane) report(inv Invitation, node string, enrolled bool) error {
	return p.Report(p.t.Context(), "192.0.2.1:1000", node, proofOf(inv.Token), enrolled)
}

func (p *plane) alarms(reason string) float64 {
	return testutil.ToFloat64(p.metrics.alarms.WithLabelValues(reason))
}

func TestVaultFollowsTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault()
		v.nodes["orphan"] = grant("orphan")
		p := newPlane(t, v, "edge7", "edge8")
		stop := p.start()
		defer stop()
		check := func(when string, want ...string) {
			t.Helper()
			if got := v.has(); !slices.Equal(got, want) {
				t.Errorf("%s: Vault has %q, want %q", when, got, want)
			}
		}
		check("at the start", "edge7=/edge7", "edge8=/edge8")
		p.want(func(w map[string]Grant) { w["edge7"] = grant("edge7", "/more"); delete(w, "edge8") })
		check("after a change and a deletion", "edge7=/edge7,/more")
		puts := v.count()
		time.Sleep(putAgain - time.Minute)
		if n := v.count(); n != puts {
			t.Errorf("%d puts of what was there", n-puts)
		}
		if err := v.do(func() { v.nodes["edge7"] = Grant{} }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		check("an hour after somebody changed Vault", "edge7=/edge7,/more")

		v.leave(mesh.Errorf("x", "", mesh.Unavailable, "sealed"))
		p.want(func(w map[string]Grant) { w["edge9"] = grant("edge9"); delete(w, "edge7") })
		if s := p.State("edge9"); s.Err == nil || testutil.ToFloat64(p.metrics.waiting) != 2 {
			t.Errorf("while Vault is away: %v, %v nodes wait", s.Err, testutil.ToFloat64(p.metrics.waiting))
		}
		if testutil.ToFloat64(p.metrics.failures.WithLabelValues("put", "unavailable")) == 0 || testutil.ToFloat64(p.metrics.failures.WithLabelValues("withdraw", "unavailable")) == 0 {
			t.Error("the failures are not counted")
		}
		time.Sleep(time.Hour)
		v.leave(nil)
		time.Sleep(retryMost + lookEvery)
		check("when it is back", "edge9=/edge9")
		if s := p.State("edge9"); s.Err != nil || testutil.ToFloat64(p.metrics.waiting) != 0 {
			t.Errorf("it is still shown: %v", s.Err)
		}
	})
}

// An empty log may be one that was lost: it takes nothing away.
func TestNothingIsWithdrawnBeforeAnythingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault()
		v.nodes["edge7"] = grant("edge7")
		p := newPlane(t, v)
		p.known = false
		defer p.start()()
		time.Sleep(time.Hour)
		if got := v.has(); len(got) != 1 {
			t.Errorf("Vault has %q", got)
		}
		p.mu.Lock()
		p.known = true
		p.mu.Unlock()
		time.Sleep(2 * lookEvery)
		if got := v.has(); len(got) != 0 {
			t.Errorf("and once something is known: %q", got)
		}
	})
}

func TestTokens(t *testing.T) {
	for _, tt := range []struct {
		name  string
		play  func(p *plane, inv Invitation)
		state State // but for Alarm
	}{
		{"is out", func(*plane, Invitation) {}, State{Joining: true}},
		{"ended unused", func(p *plane, _ Invitation) { p.pass(16 * time.Minute) }, State{}},
		{"was used, and the host enrolled", func(p *plane, inv Invitation) {
			p.vault.use(inv.Accessor)
			p.pass(time.Minute)
			if err := p.report(inv, "edge7", true); err != nil {
				p.t.Error(err)
			}
			p.pass(time.Hour)
		}, State{Enrolled: true}},
		{"was used, and no host enrolled", func(p *plane, inv Invitation) {
			p.vault.use(inv.Accessor)
			p.pass(enrolWithin + 2*lookEvery)
		}, State{Joining: true, Reason: NotEnrolled}},
		{"was used just now", func(p *plane, inv Invitation) {
			p.vault.use(inv.Accessor)
			p.pass(enrolWithin - 2*lookEvery)
		}, State{Joining: true}},
		{"was used at the last moment, and no host enrolled", func(p *plane, inv Invitation) {
			p.pass(15*time.Minute - 5*time.Second)
			p.vault.use(inv.Accessor)
			p.pass(enrolWithin + 10*time.Second)
		}, State{Reason: NotEnrolled}},
		{"was used, and the host enrolled late", func(p *plane, inv Invitation) {
			p.vault.use(inv.Accessor)
			p.pass(enrolWithin * 2)
			if err := p.report(inv, "edge7", true); err != nil {
				p.t.Error(err)
			}
		}, State{Enrolled: true}},
		{"was refused to a host", func(p *plane, inv Invitation) {
			if err := p.report(inv, "edge7", false); err != nil {
				p.t.Error(err)
			}
		}, State{Joining: true, Reason: Refused}},
		{"was refused to a host after another enrolled", func(p *plane, inv Invitation) {
			if err := errors.Join(p.report(inv, "edge7", true), p.report(inv, "edge7", false)); err != nil {
				p.t.Error(err)
			}
		}, State{Enrolled: true, Reason: Refused}},
		{"was refused to a host because it had ended", func(p *plane, inv Invitation) {
			p.pass(16 * time.Minute)
			if err := p.report(inv, "edge7", false); err != nil {
				p.t.Error(err)
			}
		}, State{}},
		{"is replaced after an alarm", func(p *plane, inv Invitation) {
			if err := p.report(inv, "edge7", false); err != nil {
				p.t.Error(err)
			}
			p.join("edge7")
			if unused, _ := p.vault.Unused(p.t.Context(), inv.Accessor); unused {
				p.t.Error("the token of before is good yet")
			}
			if err := p.report(inv, "edge7", true); mesh.KindOf(err) != mesh.Unauthentic {
				p.t.Errorf("a report about the token of before: %v", err)
			}
		}, State{Joining: true}},
		{"is another one of a node that has enrolled", func(p *plane, inv Invitation) {
			if err := p.report(inv, "edge7", true); err != nil {
				p.t.Error(err)
			}
			p.join("edge7")
		}, State{Enrolled: true, Joining: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlane(t, newVault(), "edge7")
				p.pass = func(d time.Duration) { time.Sleep(d) }
				defer p.start()()
				tt.play(p, p.join("edge7"))
				s := p.State("edge7")
				if s.Alarm.IsZero() != (s.Reason == "") {
					t.Errorf("an alarm of %v", s.Alarm)
				}
				if s.Alarm = (time.Time{}); s != tt.state {
					t.Errorf("%+v, want %+v", s, tt.state)
				}
				if want := map[bool]float64{true: 1}[s.Reason != ""]; s.Reason != "" && p.alarms(s.Reason) != want {
					t.Errorf("%v alarms are counted", p.alarms(s.Reason))
				}
			})
		})
	}
}

// What was out when a control plane ended is watched by the next.
func TestTokensOutliveTheControlPlane(t *testing.T) {
	for _, tt := range []struct {
		name string
		away time.Duration
		use  bool
		want State
	}{
		{"a short time", time.Minute, false, State{Joining: true}},
		{"a short time, and it was used meanwhile", time.Minute, true, State{Joining: true, Reason: NotEnrolled}},
		{"until it had ended", time.Hour, false, State{Reason: Unwatched}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVault()
				before := newPlane(t, v, "edge7")
				stop := before.start()
				inv := before.join("edge7")
				time.Sleep(time.Minute)
				stop()
				if strings.Contains(fmt.Sprintf("%+v", v.joins), inv.Token) {
					t.Error("the token itself is kept")
				}
				if tt.use {
					v.use(inv.Accessor)
				}
				time.Sleep(tt.away)
				after := newPlane(t, v, "edge7")
				defer after.start()()
				time.Sleep(enrolWithin + 2*lookEvery)
				s := after.State("edge7")
				if s.Alarm = (time.Time{}); s != tt.want {
					t.Errorf("%+v, want %+v", s, tt.want)
				}
				if err := after.report(inv, "edge7", true); err != nil {
					t.Errorf("and a report: %v", err)
				}
			})
		})
	}
}

func TestReportsNeedTheProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, newVault(), "edge7", "edge8")
		defer p.start()()
		inv := p.join("edge7")
		p.join("edge8")
		var said []string
		for _, tt := range []struct{ node, proof string }{
			{"edge7", proofOf("guess")}, {"edge7", ""}, {"edge8", proofOf(inv.Token)}, {"nobody", proofOf(inv.Token)}, {"nobody", ""},
		} {
			err := p.Report(t.Context(), "192.0.2.2:1", tt.node, tt.proof, false)
			if mesh.KindOf(err) != mesh.Unauthentic {
				t.Fatalf("%+v: %v", tt, err)
			}
			said = append(said, err.Error())
		}
		if len(slices.Compact(said)) != 1 {
			t.Errorf("the answers differ: %q", said)
		}
		if p.State("edge7").Reason != "" || p.State("edge8").Reason != "" || p.alarms(Refused) != 0 {
			t.Error("an alarm without proof")
		}
	})
}

func TestReportsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, newVault(), "edge7")
		defer p.start()()
		inv := p.join("edge7")
		limited := 0
		for port := range 3 * reportBurst {
			err := p.Report(t.Context(), fmt.Sprintf("192.0.2.9:%d", port+1), "edge7", proofOf("guess"), false)
			if mesh.KindOf(err) == mesh.Unavailable {
				limited++
			}
		}
		if limited != 2*reportBurst {
			t.Errorf("%d of %d reports were refused unread", limited, 3*reportBurst)
		}
		if err := p.report(inv, "edge7", false); err != nil || p.alarms(Refused) != 1 {
			t.Errorf("a report from elsewhere: %v, %v alarms", err, p.alarms(Refused))
		}
		for range 3 * reportBurst { // who has the proof is no guest either
			_ = p.report(inv, "edge7", false) // some are refused
		}
		if n := p.alarms(Refused); n != reportBurst {
			t.Errorf("%v alarms by one token", n)
		}
		time.Sleep(time.Minute)
		if err := p.Report(t.Context(), "192.0.2.9:1", "edge7", proofOf(inv.Token), true); err != nil {
			t.Errorf("a minute later: %v", err)
		}
	})
}

// A fleet that enrols from behind one address is not in its own way.
func TestProvenReportsOfManyNodesAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlane(t, newVault())
		defer p.start()()
		for n := range 5 * reportBurst {
			node := fmt.Sprintf("edge%d", n)
			p.want(func(w map[string]Grant) { w[node] = grant(node) })
			if err := p.report(p.join(node), node, true); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestTheLimiterIsBounded(t *testing.T) {
	l := newLimiter()
	for i := range 2 * maxRemotes {
		l.allow(fmt.Sprintf("192.0.%d.%d:1", i/256, i%256))
	}
	if n := len(l.remotes); n > maxRemotes+1 {
		t.Errorf("%d addresses are kept", n)
	}
}

// A token that nobody could watch is not given out.
func TestATokenIsKeptBeforeItIsGivenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault()
		p := newPlane(t, v, "edge7")
		p.opt.Store = &deaf{v}
		defer p.start()()
		if inv, err := p.Join(t.Context(), grant("edge7")); mesh.KindOf(err) != mesh.Unavailable || inv.Token != "" {
			t.Errorf("%+v, %v", inv, err)
		}
	})
}

// deaf saves nothing.
type deaf struct{ *vault }

func (*deaf) SaveJoin(context.Context, Join) error { return errors.New("no space") }

// late is a Vault in which a node is shut out while another is put.
type late struct {
	*vault
	during func(node string)
}

func (l *late) Put(ctx context.Context, g Grant) error {
	l.during(g.Node)
	return l.vault.Put(ctx, g)
}

// What was wanted when the round began is not put after a node was shut out.
func TestANodeThatIsShutOutDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault()
		p := newPlane(t, v, "edge1", "edge7")
		p.opt.Trust = &late{v, func(string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.wanted, "edge7")
		}}
		p.reconcile(t.Context())
		if got := v.has(); !slices.Equal(got, []string{"edge1=/edge1"}) {
			t.Errorf("Vault has %q", got)
		}
		if _, err := p.Join(t.Context(), grant("edge7")); err == nil || len(v.tokens) != 0 || slices.Contains(v.has(), "edge7=/edge7") {
			t.Errorf("and it gets a token: %v; Vault has %q", err, v.has())
		}
	})
}
