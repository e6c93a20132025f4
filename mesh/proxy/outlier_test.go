package proxy

import (
	"sync"
	"testing"
	"time"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

var everyPolicy = []string{mesh.LeastRequest, mesh.PeakEWMA, mesh.RoundRobin, mesh.Random, mesh.RingHash, mesh.Maglev}

// balancedSet returns the endpoints of orders, n of them, by a policy.
func balancedSet(policy string, n int) *EndpointSet {
	config := configOf()
	config.Services["orders"].LoadBalancing = &mesh.LoadBalancing{Policy: policy}
	config.Services["orders"].OutlierDetection = &mesh.OutlierDetection{ConsecutiveServerErrors: 1, MaxEjectionPercent: 100}
	var instances []*mesh.Instance
	for i := range n {
		instances = append(instances, instanceOf(i, "v1", 1, mesh.Healthy))
	}
	snap := &mesh.Snapshot{Config: config, Instances: map[string][]*mesh.Instance{"orders": instances}}
	return NewEndpoints(nil, snap, "").Of("orders")
}

// Endpoints are ejected by other requests in the middle of a pick.
func TestPickWhileOthersAreEjected(t *testing.T) {
	for _, policy := range everyPolicy {
		for range 50 {
			set := balancedSet(policy, 4)
			var ejecting sync.WaitGroup
			ejecting.Go(func() {
				for _, e := range set.All() {
					set.ejections.serverError(e, time.Now())
				}
			})
			for i := range uint64(100) {
				if e, err := Pick(set, "", nil, Lot{Draw: mix(i), Key: mix(i), Keyed: true}); err != nil || e == nil {
					t.Errorf("%s: Pick = %v, %v", policy, e, err)
				}
			}
			ejecting.Wait()
		}
	}
}

// What the race of the test above comes to, for certain.
func TestFewerAreUsableThanWereCounted(t *testing.T) {
	set := balancedSet(mesh.LeastRequest, 3)
	now := time.Now()
	c := chooser{set: set, pool: &set.all, now: now.UnixNano(), ejections: true}
	set.ejections.serverError(set.All()[2], now)
	if e := c.nth(set.all.healthy, 2); e != set.All()[1] {
		t.Errorf("the third of two is %+v", e)
	}
	for _, e := range set.All()[:2] {
		set.ejections.serverError(e, now)
	}
	if e := c.nth(set.all.healthy, 1); e != nil {
		t.Errorf("one of none is %+v", e)
	}
	if e := c.better(nil, set.All()[0]); e != set.All()[0] {
		t.Errorf("the better one of one is %+v", e)
	}
	if e := set.robin("").next(&c, set.all.healthy); e != nil {
		t.Errorf("the turn of none is that of %+v", e)
	}
}

// One that asked for no more requests gets none, by whichever policy, unless all did.
func TestEveryPolicyAvoids(t *testing.T) {
	for _, policy := range everyPolicy {
		set := balancedSet(policy, 3)
		shares := func() map[*Endpoint]int {
			out := map[*Endpoint]int{}
			for i := range uint64(300) {
				e, err := Pick(set, "", nil, Lot{Draw: mix(i), Key: mix(i), Keyed: true})
				if err != nil {
					t.Fatal(err)
				}
				out[e]++
			}
			return out
		}
		until := time.Now().Add(time.Minute).UnixNano()
		a, b, c := set.All()[0], set.All()[1], set.All()[2]
		set.avoid(a, until)
		set.avoid(b, time.Now().Add(time.Second).UnixNano()) // for less long
		if got := shares(); got[a] != 0 || got[b] != 0 || got[c] != 300 {
			t.Errorf("%s: shares %d, %d, %d of 300, want all for the third", policy, got[a], got[b], got[c])
		}
		set.avoid(c, until)
		if got := shares(); len(got) != 3 {
			t.Errorf("%s: all asked for no more, and %d of three get requests", policy, len(got))
		}
	}
}

// Requests to an endpoint that has left may still fail: they eject nobody.
func TestWhatHasLeftIsNotEjected(t *testing.T) {
	config := configOf()
	config.Services["orders"].OutlierDetection = &mesh.OutlierDetection{ConsecutiveServerErrors: 1}
	first := NewEndpoints(nil, &mesh.Snapshot{Config: config, Instances: map[string][]*mesh.Instance{"orders": {instanceOf(1, "v1", 1, ""), instanceOf(2, "v1", 1, "")}}}, "")
	left := first.Of("orders").All()[0]
	second := NewEndpoints(first, &mesh.Snapshot{Config: config, Instances: map[string][]*mesh.Instance{"orders": {instanceOf(2, "v1", 1, ""), instanceOf(3, "v1", 1, "")}}}, "").Of("orders")
	if first.Of("orders").ejections.serverError(left, time.Now()) {
		t.Error("it was ejected, which takes the one place of two")
	}
	if !second.ejections.serverError(second.All()[0], time.Now()) {
		t.Error("one that is there was not")
	}
}
