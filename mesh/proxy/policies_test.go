package proxy

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// balanced returns the endpoints of a service with n instances of weight 1, or of
// weights.
func balanced(l *mesh.LoadBalancing, n int, weights ...uint32) *EndpointSet {
	return balancedAfter(nil, l, n, weights...).Of("orders")
}

func balancedAfter(prev *Endpoints, l *mesh.LoadBalancing, n int, weights ...uint32) *Endpoints {
	cfg := configOf()
	service := *cfg.Services["orders"]
	service.LoadBalancing = l
	cfg.Services["orders"] = &service
	var instances []*mesh.Instance
	for i := range n {
		weight := uint32(1)
		if i < len(weights) {
			weight = weights[i]
		}
		instances = append(instances, instanceOf(i, "v1", weight, mesh.Healthy))
	}
	return NewEndpoints(prev, &mesh.Snapshot{Config: cfg, Instances: map[string][]*mesh.Instance{"orders": instances}}, "")
}

func hashing(policy string) *mesh.LoadBalancing {
	return &mesh.LoadBalancing{Policy: policy, Hash: &mesh.HashKey{Header: "x-user"}}
}

func pick(t *testing.T, set *EndpointSet, lot Lot, exclude ...*Endpoint) *Endpoint {
	t.Helper()
	e, err := Pick(set, "", exclude, lot)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestPoliciesFollowWeights(t *testing.T) {
	const picks = 40_000
	weights := []uint32{1, 2, 5, 2}
	for _, tt := range []struct {
		l     *mesh.LoadBalancing
		keyed bool
		least float64 // of the share that is due
	}{
		{&mesh.LoadBalancing{Policy: mesh.Random}, false, 0.95},
		{&mesh.LoadBalancing{Policy: mesh.RoundRobin}, false, 0.999},
		{hashing(mesh.RingHash), true, 0.75}, // 1,024 points
		{hashing(mesh.Maglev), true, 0.95},
		{hashing(mesh.RingHash), false, 0.95}, // without a key by chance
	} {
		t.Run(fmt.Sprintf("%s keyed %v", tt.l.Policy, tt.keyed), func(t *testing.T) {
			set := balanced(tt.l, len(weights), weights...)
			rnd := rand.New(rand.NewPCG(1, 2))
			got := map[string]float64{}
			for i := range picks {
				got[pick(t, set, Lot{Draw: rnd.Uint64(), Key: hashOf(fmt.Sprint("user-", i)), Keyed: tt.keyed}).Instance]++
			}
			for i, w := range weights {
				due := picks * float64(w) / 10
				if n := got[fmt.Sprintf("instances/orders-%d", i)]; n < due*tt.least || n > due/tt.least {
					t.Errorf("weight %d of 10 got %v of %d", w, n, picks)
				}
			}
		})
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	set := balanced(&mesh.LoadBalancing{Policy: mesh.RoundRobin}, 3, 5, 1, 1)
	turns := ""
	for range 14 {
		turns += pick(t, set, Lot{}).Instance[len("instances/orders-"):]
	}
	if turns != "00102000010200" { // nginx's example
		t.Errorf("turns %s", turns)
	}
}

// A key stays where it is when others come and go, but for those that have to move.
func TestHashingDisruptsLittle(t *testing.T) {
	const keys = 20_000
	for _, policy := range []string{mesh.RingHash, mesh.Maglev} {
		t.Run(policy, func(t *testing.T) {
			where := func(set *EndpointSet, exclude ...*Endpoint) []string {
				out := make([]string, keys)
				for i := range out {
					out[i] = pick(t, set, Lot{Key: hashOf(fmt.Sprint(i)), Keyed: true}, exclude...).Instance
				}
				return out
			}
			moved := func(a, b []string) (n int) {
				for i := range a {
					if a[i] != b[i] {
						n++
					}
				}
				return n
			}
			ten := balanced(hashing(policy), 10)
			before := where(ten)
			if n := moved(before, where(balanced(hashing(policy), 10))); n != 0 {
				t.Errorf("%d keys are elsewhere in another proxy", n)
			}
			if n := moved(before, where(balanced(hashing(policy), 11))); n < keys/11*7/10 || n > keys/11*14/10 {
				t.Errorf("%d of %d keys moved to the eleventh, want about %d", n, keys, keys/11)
			}
			without := where(ten, ten.All()[3])
			for i := range before {
				if before[i] != without[i] && before[i] != ten.All()[3].Instance {
					t.Fatalf("key %d moved from %s, which is there", i, before[i])
				}
			}
		})
	}
}

func TestHashingHasABoundOnLoad(t *testing.T) {
	for _, policy := range []string{mesh.RingHash, mesh.Maglev} {
		set := balanced(hashing(policy), 4)
		for range 400 { // of one key, and none ends
			pick(t, set, Lot{Key: 7, Keyed: true}).Acquire()
		}
		for _, e := range set.All() {
			if n := e.InFlight(); n > 151 {
				t.Errorf("%s: %d of 400 requests are at one of four endpoints, want at most half as much again as its share", policy, n)
			}
		}
	}
}

func TestHashIndexIsKeptWhileTheEndpointsAreTheSame(t *testing.T) {
	first := balancedAfter(nil, hashing(mesh.Maglev), 5)
	same := balancedAfter(first, hashing(mesh.Maglev), 5)
	if first.Of("orders").all.hash != same.Of("orders").all.hash {
		t.Error("it was made again for the same endpoints")
	}
	if other := balancedAfter(first, hashing(mesh.Maglev), 6); first.Of("orders").all.hash == other.Of("orders").all.hash {
		t.Error("it was kept for other endpoints")
	}
}

func TestPeakEWMAPrefersWhoAnswersSoon(t *testing.T) {
	set := balanced(&mesh.LoadBalancing{Policy: mesh.PeakEWMA}, 2)
	fast, slow := set.All()[0], set.All()[1]
	now := time.Now().UnixNano()
	fast.latency.observe(2*time.Millisecond, now)
	slow.latency.observe(20*time.Millisecond, now)
	for i := range 100 {
		if e := pick(t, set, Lot{Draw: mix(uint64(i))}); e != fast {
			t.Fatal("the slow one was picked while the fast one is idle")
		}
	}
	for range 10 {
		fast.Acquire()
	}
	if e := pick(t, set, Lot{}); e != slow {
		t.Error("the fast one was picked though 10 requests wait there")
	}
}

func TestPeakEWMA(t *testing.T) {
	var p peakEWMA
	now := int64(time.Hour)
	if v := p.at(now); v != ewmaStart.Seconds() {
		t.Errorf("nothing measured is %v", v)
	}
	p.observe(10*time.Millisecond, now)
	p.observe(100*time.Millisecond, now)
	if v := p.at(now); v != 0.1 {
		t.Errorf("a peak counts as %v, want it at once", v)
	}
	p.observe(10*time.Millisecond, now+int64(ewmaDecay))
	want := 0.1/math.E + 0.01*(1-1/math.E)
	if v := p.at(now + int64(ewmaDecay)); math.Abs(v-want) > 1e-9 {
		t.Errorf("after a fast one it is %v, want %v", v, want)
	}
	if v := p.at(now + 2*int64(ewmaDecay)); math.Abs(v-want/math.E) > 1e-9 {
		t.Errorf("after as long again it is %v, want %v", v, want/math.E)
	}
}

func TestEndpointsThatAskForNoMoreAreAvoided(t *testing.T) {
	set := balanced(nil, 2)
	set.avoid(set.All()[0], time.Now().Add(time.Second/2).UnixNano())
	for i := range 50 {
		if e := pick(t, set, Lot{Draw: mix(uint64(i))}); e != set.All()[1] {
			t.Fatal("it was picked")
		}
	}
	set.All()[0].endpointState.avoid.Store(time.Now().Add(-time.Second).UnixNano())
	if got := shares(t, set, "", nil, 1000)["instances/orders-0"]; got < 400 {
		t.Errorf("it got %d of 1000 when the time was over", got)
	}
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &mesh.LoadBalancing{Policy: mesh.Random, SlowStart: mesh.Seconds(100)}
		endpoints := balancedAfter(nil, l, 2)
		if got := shares(t, endpoints.Of("orders"), "", nil, 1000)["instances/orders-1"]; got < 400 {
			t.Errorf("one of those that were there from the start got %d of 1000", got)
		}
		time.Sleep(time.Hour)
		endpoints = balancedAfter(endpoints, l, 3)
		for _, tt := range []struct {
			after     time.Duration
			low, high int // of 10,000
		}{{0, 380, 580}, {50 * time.Second, 1850, 2150}, {100 * time.Second, 3150, 3520}} {
			time.Sleep(tt.after)
			if got := shares(t, endpoints.Of("orders"), "", nil, 10_000)["instances/orders-2"]; got < tt.low || got > tt.high {
				t.Errorf("after %v more the new one got %d of 10,000, want %d to %d", tt.after, got, tt.low, tt.high)
			}
		}
	})
}

func TestLocality(t *testing.T) {
	cfg := configOf()
	cfg.Nodes = map[string]*mesh.Node{"here": {Locality: "eu/a"}}
	place := []string{"eu/a", "eu/a", "eu/b", "us/a", ""}
	for i, locality := range place {
		cfg.Nodes[fmt.Sprintf("node-%d", i)] = &mesh.Node{Locality: locality}
	}
	set := func(prefs *mesh.LocalityPrefs, here string, ill ...int) *EndpointSet {
		service := *cfg.Services["orders"]
		service.LoadBalancing = &mesh.LoadBalancing{Locality: prefs}
		cfg.Services["orders"] = &service
		var instances []*mesh.Instance
		for i := range place {
			health := mesh.Healthy
			for _, n := range ill {
				if n == i {
					health = mesh.Unhealthy
				}
			}
			instances = append(instances, instanceOf(i, "v1", 1, health))
		}
		return NewEndpoints(nil, &mesh.Snapshot{Config: cfg, Instances: map[string][]*mesh.Instance{"orders": instances}}, here).Of("orders")
	}
	for _, tt := range []struct {
		name  string
		prefs *mesh.LocalityPrefs
		here  string
		ill   []int
		want  [5]int // percent
	}{
		{"the same zone", nil, "here", nil, [5]int{50, 50, 0, 0, 0}},
		{"anywhere, where our own is not known", nil, "", nil, [5]int{20, 20, 20, 20, 20}},
		{"anywhere, if told so", &mesh.LocalityPrefs{Mode: mesh.LocalityAny}, "here", nil, [5]int{20, 20, 20, 20, 20}},
		{"a part goes further while one is ill", nil, "here", []int{0}, [5]int{0, 69, 31, 0, 0}},
		{"less of it, if that is enough", &mesh.LocalityPrefs{OverflowPercent: 50}, "here", []int{0}, [5]int{0, 100, 0, 0, 0}},
		{"the region, when the zone is gone", nil, "here", []int{0, 1}, [5]int{0, 0, 100, 0, 0}},
		{"the rest, when the region is gone", nil, "here", []int{0, 1, 2}, [5]int{0, 0, 0, 50, 50}},
		{"the zone alone, if told so", &mesh.LocalityPrefs{Mode: mesh.LocalityStrict}, "here", []int{0}, [5]int{0, 100, 0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 10_000
			got := shares(t, set(tt.prefs, tt.here, tt.ill...), "", nil, n)
			for i, want := range tt.want {
				if share := got[fmt.Sprintf("instances/orders-%d", i)] * 100 / n; share < want-3 || share > want+3 {
					t.Errorf("in %q: %d %%, want %d", place[i], share, want)
				}
			}
		})
	}
	strict := set(&mesh.LocalityPrefs{Mode: mesh.LocalityStrict}, "here")
	if e, err := Pick(strict, "", strict.All()[:2], Lot{}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("STRICT picked %v when the zone was tried", e)
	}
}

func TestOutliersAreEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := balanced(nil, 4)
		all := set.All()
		share := func(e *Endpoint) int { return shares(t, set, "", nil, 1000)[e.Instance] }

		set.ejections.connectFailure(all[0], time.Now())
		set.ejections.connectFailure(all[0], time.Now())
		set.ejections.good(all[0])
		set.ejections.connectFailure(all[0], time.Now())
		if share(all[0]) == 0 {
			t.Fatal("failures that are not in a row eject")
		}
		set.ejections.connectFailure(all[0], time.Now())
		if !set.ejections.connectFailure(all[0], time.Now()) || share(all[0]) != 0 {
			t.Fatal("three connect failures in a row do not eject")
		}
		for i := range 5 {
			if set.ejections.serverError(all[1], time.Now()) != (i == 4) {
				t.Fatalf("server error %d", i)
			}
		}
		for range 10 {
			set.ejections.serverError(all[2], time.Now())
		}
		if share(all[1]) != 0 || share(all[2]) == 0 {
			t.Error("want half of them ejected and no more")
		}
		time.Sleep(31 * time.Second)
		if share(all[0]) < 150 || share(all[1]) < 150 {
			t.Error("they do not come back after 30 s")
		}
		for range 3 {
			set.ejections.connectFailure(all[0], time.Now())
		}
		time.Sleep(31 * time.Second)
		if share(all[0]) != 0 {
			t.Error("the second time they come back as soon")
		}
		time.Sleep(30 * time.Second)
		if share(all[0]) < 150 {
			t.Error("the second time they do not come back after 60 s")
		}
		time.Sleep(time.Hour)
		for range 3 {
			set.ejections.connectFailure(all[0], time.Now())
		}
		time.Sleep(31 * time.Second)
		if share(all[0]) < 150 {
			t.Error("after an hour the times before still count")
		}
	})
}

func TestTheOnlyEndpointIsUsedThoughItFails(t *testing.T) {
	set := balanced(nil, 1)
	for range 10 {
		set.ejections.serverError(set.All()[0], time.Now())
	}
	pick(t, set, Lot{})
}

func TestEjectionOutlivesASnapshot(t *testing.T) {
	first := balancedAfter(nil, nil, 3)
	for range 3 {
		first.Of("orders").ejections.connectFailure(first.Of("orders").All()[0], time.Now())
	}
	second := balancedAfter(first, nil, 4).Of("orders")
	if got := shares(t, second, "", nil, 1000)["instances/orders-0"]; got != 0 {
		t.Errorf("it got %d of 1000", got)
	}
	third := balancedAfter(&Endpoints{map[string]*EndpointSet{"orders": second}}, nil, 0).Of("orders")
	if third.ejections.any() {
		t.Error("an endpoint that left is still counted as ejected")
	}
}

func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retryBudget
		granted := func(requests, retries int) (n int) {
			for range requests {
				b.request(time.Now())
			}
			for range retries {
				if b.retry(time.Now(), 20) {
					n++
				}
			}
			return n
		}
		if n := granted(10, 100); n != 30 {
			t.Errorf("%d retries for 10 requests, want the floor: 3 a second for 10 s", n)
		}
		time.Sleep(20 * time.Second)
		if n := granted(1000, 1000); n != 200 {
			t.Errorf("%d retries for 1,000 requests, want a fifth", n)
		}
		time.Sleep(5 * time.Second)
		if n := granted(1000, 1000); n != 200 {
			t.Errorf("%d retries for 1,000 more, want a fifth", n)
		}
		time.Sleep(6 * time.Second)
		if n := granted(0, 1000); n != 0 {
			t.Errorf("%d retries when the first are forgotten and all is used", n)
		}
	})
}

func TestBreaker(t *testing.T) {
	var b breaker
	b.configure(&mesh.CircuitBreaker{MaxRequests: 2})
	for i, want := range []bool{true, true, false} {
		if b.request() != want {
			t.Errorf("request %d: want %v", i, want)
		}
	}
	b.requests.Add(-1)
	if !b.request() {
		t.Error("want another when one has ended")
	}
	b.configure(nil)
	if !b.request() {
		t.Error("want the default's when the bound is gone")
	}
	for range 1000 {
		if !b.retry() {
			t.Fatal("retries have a bound that nobody set")
		}
	}
}

// A process that starts again at the same address is not the one that failed.
func TestEjectionEndsWithTheProcess(t *testing.T) {
	started := time.Now()
	build := func(prev *Endpoints, at time.Time) *Endpoints {
		first, second := instanceOf(0, "v1", 1, mesh.Healthy), instanceOf(1, "v1", 1, mesh.Healthy)
		first.CreateTime = &at
		return NewEndpoints(prev, &mesh.Snapshot{Config: configOf(), Instances: map[string][]*mesh.Instance{"orders": {first, second}}}, "")
	}
	before := build(nil, started)
	for range 3 {
		before.Of("orders").ejections.connectFailure(before.Of("orders").All()[0], time.Now())
	}
	same := build(before, started)
	if got := shares(t, same.Of("orders"), "", nil, 1000)["instances/orders-0"]; got != 0 {
		t.Errorf("it got %d of 1000 while it is the same", got)
	}
	again := build(same, started.Add(time.Minute))
	if got := shares(t, again.Of("orders"), "", nil, 1000)["instances/orders-0"]; got < 400 {
		t.Errorf("it got %d of 1000 when it had started again", got)
	}
}
