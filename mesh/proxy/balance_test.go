package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

func instanceOf(i int, version string, weight uint32, health string) *mesh.Instance {
	return &mesh.Instance{
		Meta:    mesh.Meta{Name: fmt.Sprintf("instances/orders-%d", i), Labels: mesh.Labels{"version": version, "zone": "a"}},
		Service: "orders", Node: fmt.Sprintf("node-%d", i), Address: fmt.Sprintf("10.0.0.%d:15006", i), Weight: weight, Health: health,
	}
}

// ordersSet returns the endpoints of orders for the instances.
func ordersSet(instances ...*mesh.Instance) *EndpointSet {
	snap := &mesh.Snapshot{Config: configOf(), Instances: map[string][]*mesh.Instance{"orders": instances}}
	return NewEndpoints(nil, snap, "").Of("orders")
}

// shares returns how many of n picks each instance got, none of them in flight.
func shares(t *testing.T, set *EndpointSet, subset string, exclude []*Endpoint, n int) map[string]int {
	t.Helper()
	rnd := rand.New(rand.NewPCG(5, 6))
	out := map[string]int{}
	for range n {
		e, err := Pick(set, subset, exclude, Lot{Draw: rnd.Uint64()})
		if err != nil {
			t.Fatal(err)
		}
		out[e.Instance]++
	}
	return out
}

func TestPickChoosesAmong(t *testing.T) {
	healthy := func(i int, version string) *mesh.Instance { return instanceOf(i, version, 1, mesh.Healthy) }
	ill := func(i int, version string) *mesh.Instance { return instanceOf(i, version, 1, mesh.Unhealthy) }
	for _, tt := range []struct {
		name      string
		instances []*mesh.Instance
		subset    string
		exclude   []int // indices
		want      []int // instance numbers; none is ErrNoEndpoint
	}{
		{"all instances of the service", []*mesh.Instance{healthy(1, "v1"), healthy(2, "v2")}, "", nil, []int{1, 2}},
		{"those of the subset", []*mesh.Instance{healthy(1, "v1"), healthy(2, "v2"), healthy(3, "v2")}, "v2", nil, []int{2, 3}},
		{"none of a subset without instances", []*mesh.Instance{healthy(1, "v1")}, "v2", nil, nil},
		{"none of a subset that does not exist", []*mesh.Instance{healthy(1, "v1")}, "v9", nil, nil},
		{"none of no instances", nil, "", nil, nil},
		{"not the unhealthy", []*mesh.Instance{healthy(1, "v1"), ill(2, "v1"), healthy(3, "v1")}, "", nil, []int{1, 3}},
		{"the unhealthy if all are", []*mesh.Instance{ill(1, "v1"), ill(2, "v1")}, "", nil, []int{1, 2}},
		{"the unhealthy if all of the subset are", []*mesh.Instance{ill(1, "v1"), healthy(2, "v2")}, "v1", nil, []int{1}},
		{"those of unknown health", []*mesh.Instance{instanceOf(1, "v1", 1, "")}, "", nil, []int{1}},
		{"not the excluded", []*mesh.Instance{healthy(1, "v1"), healthy(2, "v1"), healthy(3, "v1")}, "", []int{1}, []int{1, 3}},
		{"not several excluded", []*mesh.Instance{healthy(1, "v1"), healthy(2, "v1"), healthy(3, "v1")}, "", []int{0, 2}, []int{2}},
		{"none if all are excluded", []*mesh.Instance{healthy(1, "v1")}, "", []int{0}, nil},
		{"none if all healthy ones are excluded", []*mesh.Instance{healthy(1, "v1"), ill(2, "v1")}, "", []int{0}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := ordersSet(tt.instances...)
			var exclude []*Endpoint
			for _, i := range tt.exclude {
				exclude = append(exclude, set.All()[i])
			}
			if len(tt.want) == 0 {
				if e, err := Pick(set, tt.subset, exclude, Lot{Draw: 7}); !errors.Is(err, ErrNoEndpoint) || e != nil {
					t.Errorf("Pick = %v, %v, want ErrNoEndpoint", e, err)
				}
				return
			}
			got := shares(t, set, tt.subset, exclude, 1000)
			for _, i := range tt.want {
				if got[fmt.Sprintf("instances/orders-%d", i)] < 1000/len(tt.want)*8/10 {
					t.Errorf("shares %v, want about as many for each of %v", got, tt.want)
				}
			}
			if len(got) != len(tt.want) {
				t.Errorf("shares %v, want only %v", got, tt.want)
			}
		})
	}
}

func TestPickOfNoSet(t *testing.T) {
	var none *Endpoints
	if e, err := Pick(none.Of("orders"), "", nil, Lot{Draw: 1}); !errors.Is(err, ErrNoEndpoint) || e != nil {
		t.Errorf("Pick = %v, %v, want ErrNoEndpoint", e, err)
	}
	if none.Of("orders").All() != nil {
		t.Error("no set has endpoints")
	}
}

func TestPickIsEvenOverEqualEndpoints(t *testing.T) {
	for _, n := range []int{2, 3, 7} {
		var instances []*mesh.Instance
		for i := range n {
			instances = append(instances, instanceOf(i, "v1", 1, mesh.Healthy))
		}
		const picks = 10_000
		for name, got := range shares(t, ordersSet(instances...), "", nil, picks) {
			if low, high := picks/n*90/100, picks/n*110/100; got < low || got > high {
				t.Errorf("%d endpoints: %s got %d of %d, want %d to %d", n, name, got, picks, low, high)
			}
		}
	}
	got := shares(t, ordersSet(instanceOf(1, "v1", 1, mesh.Healthy), instanceOf(2, "v1", 1, mesh.Healthy)), "", nil, 1000)["instances/orders-1"]
	if got < 450 || got > 550 {
		t.Errorf("one of two got %d of 1,000, want 450 to 550", got)
	}
}

func TestPickDrawsTwoDistinctCandidates(t *testing.T) {
	set := ordersSet(instanceOf(1, "v1", 1, ""), instanceOf(2, "v1", 1, ""), instanceOf(3, "v1", 1, ""))
	busiest := set.All()[1]
	busiest.Acquire()
	// The busiest of three is in every pair with a less busy one, so it never wins.
	if got := shares(t, set, "", nil, 3000); got[busiest.Instance] != 0 || len(got) != 2 {
		t.Errorf("shares %v, want none for the busiest", got)
	}
	busiest.Release()
	if got := shares(t, set, "", nil, 3000); got[busiest.Instance] < 900 {
		t.Errorf("shares %v after its request ended", got)
	}
}

func TestPickFollowsWeights(t *testing.T) {
	t.Run("idle endpoints in proportion", func(t *testing.T) {
		set := ordersSet(instanceOf(1, "v1", 1, ""), instanceOf(2, "v1", 3, ""))
		if got := shares(t, set, "", nil, 10_000)["instances/orders-2"]; got < 7200 || got > 7800 {
			t.Errorf("weight 3 of 4 got %d of 10,000", got)
		}
	})
	t.Run("busy endpoints by requests for weight", func(t *testing.T) {
		set := ordersSet(instanceOf(1, "v1", 1, ""), instanceOf(2, "v1", 3, ""))
		light, heavy := set.All()[0], set.All()[1]
		rnd := rand.New(rand.NewPCG(7, 8))
		for range 400 { // none ends
			e, err := Pick(set, "", nil, Lot{Draw: rnd.Uint64()})
			if err != nil {
				t.Fatal(err)
			}
			e.Acquire()
		}
		if light.InFlight() < 98 || light.InFlight() > 102 || light.InFlight()+heavy.InFlight() != 400 {
			t.Errorf("in flight %d and %d, want about 100 and 300", light.InFlight(), heavy.InFlight())
		}
	})
	t.Run("absent is 1", func(t *testing.T) {
		if w := ordersSet(instanceOf(1, "v1", 0, "")).All()[0].Weight; w != 1 {
			t.Errorf("weight %d", w)
		}
	})
}

func TestRequestsInFlightOutliveASnapshot(t *testing.T) {
	snapshot := func(instances ...*mesh.Instance) *mesh.Snapshot {
		return &mesh.Snapshot{Config: configOf(), Instances: map[string][]*mesh.Instance{"orders": instances}}
	}
	first := NewEndpoints(nil, snapshot(instanceOf(1, "v1", 1, mesh.Healthy), instanceOf(2, "v1", 1, mesh.Healthy)), "")
	held := first.Of("orders").All()[0]
	held.Acquire()

	changed := instanceOf(1, "v2", 5, mesh.Unhealthy) // the same endpoint, described anew
	moved := instanceOf(2, "v1", 1, mesh.Healthy)
	first.Of("orders").All()[1].Acquire()
	moved.Address = "10.0.0.99:15006"
	second := NewEndpoints(first, snapshot(changed, moved), "").Of("orders").All()

	if second[0].InFlight() != 1 || second[0].Weight != 5 || second[0].Healthy {
		t.Errorf("the endpoint is %+v with %d in flight, want the new description and 1", second[0], second[0].InFlight())
	}
	held.Release()
	if second[0].InFlight() != 0 {
		t.Errorf("%d in flight after the release of the old snapshot's", second[0].InFlight())
	}
	fresh := NewEndpoints(first, snapshot(instanceOf(1, "v1", 1, mesh.Healthy)), "").Of("orders")
	if _, err := Pick(fresh, "", []*Endpoint{held}, Lot{Draw: 1}); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("Pick = %v, want the endpoint excluded though it is of another snapshot", err)
	}
	if second[1].InFlight() != 0 {
		t.Error("an instance at another address counts the old one's requests")
	}
}

func TestEndpointsLeaveOutWhatIsNotTheirs(t *testing.T) {
	stranger := instanceOf(2, "v1", 1, "")
	stranger.Service = "web"
	snap := &mesh.Snapshot{Config: configOf(), Instances: map[string][]*mesh.Instance{
		"orders":  {instanceOf(1, "v1", 1, ""), stranger, instanceOf(1, "v1", 1, "")},
		"unknown": {instanceOf(3, "v1", 1, "")},
	}}
	endpoints := NewEndpoints(nil, snap, "")
	if all := endpoints.Of("orders").All(); len(all) != 1 || all[0].Instance != "instances/orders-1" || all[0].Node != "node-1" {
		t.Errorf("endpoints %+v, want only instance 1, once", all)
	}
	if endpoints.Of("unknown") != nil {
		t.Error("a service that the configuration does not have has endpoints")
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	set := ordersSet(instanceOf(1, "v1", 1, ""), instanceOf(2, "v1", 3, ""), instanceOf(3, "v1", 3, ""))
	draw := uint64(0)
	for name, exclude := range map[string][]*Endpoint{"first try": nil, "retry": set.All()[:1]} {
		if n := testing.AllocsPerRun(100, func() { draw++; _, _ = Pick(set, "v1", exclude, Lot{Draw: draw}) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	var instances []*mesh.Instance
	for i := range 100 {
		instances = append(instances, instanceOf(i, "v1", 1, mesh.Healthy))
	}
	set := ordersSet(instances...)
	b.ReportAllocs()
	draw := uint64(0)
	for b.Loop() {
		draw++
		e, err := Pick(set, "v1", nil, Lot{Draw: draw})
		if err != nil {
			b.Fatal(err)
		}
		e.Acquire()
		e.Release()
	}
}
