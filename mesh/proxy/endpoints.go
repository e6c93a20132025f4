package proxy

import (
	"sync/atomic"

	"github.com/hedgerow-mesh/hedgerow/mesh"
)

// EndpointKey names one endpoint by everything that makes it differ. An
// instance that comes back at another address is another endpoint.
type EndpointKey struct {
	Service  string // id of the service
	Instance string // name of the instance, "instances/orders-v1-1"
	Address  string // host:port of the sidecar's inbound
}

// Endpoint is one instance as a target of requests. All but its count of
// requests in flight is immutable.
type Endpoint struct {
	EndpointKey
	Node    string // names, with Service, the identity to expect: /svc/<service>/n/<node>
	Weight  uint32 // at least 1
	Healthy bool

	inFlight *atomic.Int64 // shared with the endpoints of the same key in other snapshots
}

// Acquire counts a request that goes to e. Each has one Release.
func (e *Endpoint) Acquire() { e.inFlight.Add(1) }

// Release ends what Acquire began.
func (e *Endpoint) Release() { e.inFlight.Add(-1) }

// InFlight returns the number of requests that e has now.
func (e *Endpoint) InFlight() int64 { return e.inFlight.Load() }

// EndpointSet is the endpoints of one service, all and by subset. It is
// immutable; a nil set has none.
type EndpointSet struct {
	all     pool
	subsets map[string]pool
}

// Endpoints is every endpoint of one snapshot. It is immutable; nil has none.
type Endpoints struct {
	sets map[string]*EndpointSet
}

// NewEndpoints builds the endpoints of snap. Those that prev has too, by
// EndpointKey, keep counting in the same place, so a new snapshot forgets no
// request in flight. prev may be nil. Instances of services that the
// configuration does not have, and ones filed under a service that is not
// theirs, are left out.
func NewEndpoints(prev *Endpoints, snap *mesh.Snapshot) *Endpoints {
	counters := prev.counters()
	out := &Endpoints{sets: make(map[string]*EndpointSet, len(snap.Instances))}
	for id, instances := range snap.Instances {
		if service := snap.Config.Services[id]; service != nil {
			out.sets[id] = newEndpointSet(id, service.Subsets, instances, counters)
		}
	}
	return out
}

func newEndpointSet(id string, subsets []mesh.Subset, instances []*mesh.Instance, counters map[EndpointKey]*atomic.Int64) *EndpointSet {
	set := &EndpointSet{subsets: make(map[string]pool, len(subsets))}
	seen := make(map[EndpointKey]bool, len(instances))
	for _, instance := range instances {
		key := EndpointKey{Service: id, Instance: instance.Name, Address: instance.Address}
		if instance.Service != id || seen[key] {
			continue
		}
		seen[key] = true
		e := &Endpoint{
			EndpointKey: key,
			Node:        instance.Node,
			Weight:      max(instance.Weight, 1), // absent is 1
			Healthy:     instance.Health != mesh.Unhealthy,
			inFlight:    counters[key],
		}
		if e.inFlight == nil {
			e.inFlight = new(atomic.Int64)
		}
		set.all = set.all.with(e)
		for _, subset := range subsets {
			if hasLabels(instance.Labels, subset.Labels) {
				set.subsets[subset.Name] = set.subsets[subset.Name].with(e)
			}
		}
	}
	return set
}

// hasLabels reports whether have carries every label of want.
func hasLabels(have, want mesh.Labels) bool {
	for key, value := range want {
		if got, ok := have[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Of returns the endpoints of a service, or nil.
func (e *Endpoints) Of(service string) *EndpointSet {
	if e == nil {
		return nil
	}
	return e.sets[service]
}

// counters returns the counts of requests in flight of every endpoint.
func (e *Endpoints) counters() map[EndpointKey]*atomic.Int64 {
	out := map[EndpointKey]*atomic.Int64{}
	if e == nil {
		return out
	}
	for _, set := range e.sets {
		for _, endpoint := range set.all.all {
			out[endpoint.EndpointKey] = endpoint.inFlight
		}
	}
	return out
}

// All returns every endpoint of the set, in the order of the snapshot. The
// caller must not change it.
func (s *EndpointSet) All() []*Endpoint {
	if s == nil {
		return nil
	}
	return s.all.all
}

// pool is endpoints to choose from.
type pool struct {
	all     []*Endpoint
	healthy []*Endpoint
}

func (p pool) with(e *Endpoint) pool {
	p.all = append(p.all, e)
	if e.Healthy {
		p.healthy = append(p.healthy, e)
	}
	return p
}

// usable returns the healthy endpoints, or all if none is: when every one looks
// ill, the check is likelier to be wrong than all of them (Envoy's panic).
func (p pool) usable() []*Endpoint {
	if len(p.healthy) > 0 {
		return p.healthy
	}
	return p.all
}

// pool returns the endpoints of a subset; "" is all of the service. A subset
// that the service does not define has none.
func (s *EndpointSet) pool(subset string) pool {
	switch {
	case s == nil:
		return pool{}
	case subset == "":
		return s.all
	}
	return s.subsets[subset]
}
